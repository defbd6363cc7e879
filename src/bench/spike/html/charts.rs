//! The charts of a scenario: how long answers took, what became of the requests, what the origin had to bear, what came from where.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::figures::Come;
use super::super::groups::Group;
use super::super::report::{Run, Slice};
use super::super::sentence::is_valid;
use super::super::words::{list, name, percent, plain};
use super::axis::{self, Axis};
use super::chart::{self, Chart, Line};
use super::escape::Text;
use super::plot::{Mark, Plot};
use super::series::Series;
use super::{look, stack};

/// How many times the least of the largest values is drawn evenly; beyond that small ones would lie on the ground.
const EVEN: f64 = 12.0;

/// The size of a drawing, about that of a phone, and of one that stands beside three others.
const WIDE: f64 = 360.0;
const HIGH: f64 = 230.0;
const SMALL: (f64, f64) = (300.0, 200.0);

pub fn put(out: &mut String, group: &Group, targets: &[String]) {
    let drawn: Vec<Drawn> = group
        .runs
        .iter()
        .filter_map(|run| Drawn::of(run, targets))
        .collect();
    let happened = happened(&drawn);
    let marks: Vec<Mark> = happened
        .iter()
        .enumerate()
        .map(|(at, happened)| Mark {
            at: happened.at,
            number: at + 1,
        })
        .collect();
    told(out, &happened, drawn.len());
    out.push_str("<h3>How long answers took</h3><div class=\"charts\">\n");
    percentiles(out, group, targets);
    if !drawn.is_empty() {
        let sheet = Sheet {
            x: Axis::time(
                drawn
                    .iter()
                    .map(|drawn| drawn.series.seconds())
                    .fold(0.0, f64::max),
            ),
            drawn,
            marks,
        };
        sheet.latency(out);
        out.push_str("</div>\n<h3>What became of the requests</h3><p class=\"soft\">Requests a second, by what became of those that were due then.</p>\n");
        sheet.outcomes(out);
        out.push_str("<h3>What the origin had to bear, and what the cache spared it</h3><div class=\"charts\">\n");
        sheet.origin(out);
        sheet.memory(out);
    }
    come_by(out, group, targets);
    out.push_str("</div>\n");
}

/// A run that has something over time.
struct Drawn<'a> {
    run: &'a Run,
    name: String,
    look: usize,
    series: Series,
}

impl<'a> Drawn<'a> {
    fn of(run: &'a Run, targets: &[String]) -> Option<Drawn<'a>> {
        let name = name(run);
        Some(Drawn {
            run,
            look: look(targets, &name),
            series: Series::of(run)?,
            name,
        })
    }

    fn line(&self, of: impl Fn(&Slice) -> Option<f64>) -> Line {
        Line {
            look: self.look,
            name: self.name.clone(),
            invalid: !is_valid(self.run),
            points: self.series.points(of),
            missing: Vec::new(),
        }
    }
}

struct Sheet<'a> {
    x: Axis,
    drawn: Vec<Drawn<'a>>,
    marks: Vec<Mark>,
}

impl Sheet<'_> {
    fn plot(&self, y: Axis) -> Plot {
        Plot {
            wide: WIDE,
            high: HIGH,
            x: self.x.clone(),
            y,
        }
    }

    fn latency(&self, out: &mut String) {
        let each = self.drawn.first().map_or(0.0, |drawn| drawn.series.each);
        let some = |slice: &Slice, value: f64| (slice.good > 0).then_some(value);
        let lines = |of: fn(&Slice) -> f64| -> Vec<Line> {
            let line = |drawn: &Drawn| Line {
                missing: empty(&drawn.series),
                ..drawn.line(|slice| some(slice, of(slice)))
            };
            self.drawn.iter().map(line).collect()
        };
        let (worst, half) = (lines(|slice| slice.p99), lines(|slice| slice.p50));
        // On one scale, so that they compare.
        let y = log(worst.iter().chain(&half));
        for (title, what, lines) in [
            (
                "p99 over time",
                "99 of 100 answers took at most this",
                worst,
            ),
            (
                "p50 over time",
                "half of the answers took at most this",
                half,
            ),
        ] {
            let missing = lines.iter().any(|line| !line.missing.is_empty());
            let cross = if missing {
                "; × is a slice without a good answer"
            } else {
                ""
            };
            Chart {
                title,
                note: format!(
                    "{what}, in slices of {}; logarithmic{cross}",
                    super::show(super::Unit::Seconds, each)
                ),
                plot: self.plot(y.clone()),
                lines,
                marks: &self.marks,
                limits: Vec::new(),
            }
            .put(out);
        }
    }

    fn outcomes(&self, out: &mut String) {
        let all = |slice: &Slice| {
            let parts = stack::PARTS.iter().map(|(_, _, of)| of(slice));
            parts.fold(0, u64::saturating_add).max(slice.due)
        };
        let most = self.drawn.iter().flat_map(|drawn| {
            let of = move |slice: &Slice| drawn.series.rate(all(slice));
            drawn.series.slices.iter().map(of)
        });
        let y = Axis::even(most.fold(0.0, f64::max).min(1e12), axis::number, 5);
        let plot = Plot {
            wide: SMALL.0,
            high: SMALL.1,
            x: self.x.clone(),
            y,
        };
        stack::legend(out);
        out.push_str("<div class=\"charts small\">\n");
        for drawn in &self.drawn {
            let invalid = if is_valid(drawn.run) {
                ""
            } else {
                " (invalid)"
            };
            let name = format!("{}{invalid}", drawn.name);
            stack::put(out, &name, drawn.look, &drawn.series, &plot, &self.marks);
        }
        out.push_str("</div>\n");
    }

    fn origin(&self, out: &mut String) {
        let known = || self.drawn.iter().filter(|drawn| drawn.run.origin.is_some());
        let flying: Vec<Line> = known()
            .map(|drawn| drawn.line(|slice| Some(slice.origin_in_flight)))
            .collect();
        let fetched: Vec<Line> = known()
            .map(|drawn| drawn.line(|slice| Some(drawn.series.rate(slice.origin_fetches))))
            .collect();
        let mut capacities: Vec<usize> = known()
            .filter_map(|drawn| drawn.run.origin.as_ref())
            .map(|origin| origin.capacity)
            .collect();
        capacities.sort_unstable();
        capacities.dedup();
        let limits: Vec<(f64, String)> = capacities
            .into_iter()
            .filter(|capacity| *capacity > 0)
            .map(|capacity| (capacity as f64, format!("bears {capacity}")))
            .collect();
        for (title, what, lines, limits) in [
            (
                "In flight at the origin",
                "requests it works on at once, the average of each slice",
                flying,
                limits,
            ),
            (
                "Asked of the origin",
                "requests a second",
                fetched,
                Vec::new(),
            ),
        ] {
            let y = from_none(&lines, limits.iter().map(|(value, _)| *value));
            let logarithmic = if y.is_log() { "; logarithmic" } else { "" };
            Chart {
                title,
                note: format!("{what}{logarithmic}"),
                plot: self.plot(y),
                lines,
                marks: &self.marks,
                limits,
            }
            .put(out);
        }
    }

    fn memory(&self, out: &mut String) {
        // One that never has any doesn't tell.
        let tells = |drawn: &&Drawn| drawn.series.slices.iter().any(|slice| slice.hits > 0);
        let lines = self.drawn.iter().filter(tells).map(|drawn| {
            drawn.line(|slice| (slice.good > 0).then(|| slice.hits as f64 / slice.good as f64))
        });
        Chart {
            title: "From the target's memory",
            note: "share of good answers that were there already".to_owned(),
            plot: self.plot(Axis::even(1.0, axis::share, 5)),
            lines: lines.collect(),
            marks: &self.marks,
            limits: Vec::new(),
        }
        .put(out);
    }
}

/// The whole run in one chart: who is quick for most and slow for some crosses who is not.
fn percentiles(out: &mut String, group: &Group, targets: &[String]) {
    let runs = group.runs.iter().filter(|run| run.latency.count > 0);
    let line = |run: &&Run| {
        let name = name(run);
        let q = &run.latency;
        let values = [q.p50, q.p90, q.p99, q.p999, q.max]
            .map(|value| value.is_finite().then_some(value.clamp(0.0, 1e12)));
        Line {
            look: look(targets, &name),
            name,
            invalid: !is_valid(run),
            points: (0..5).map(f64::from).zip(values).collect(),
            missing: Vec::new(),
        }
    };
    let lines: Vec<Line> = runs.map(line).collect();
    Chart {
        title: "By percentile",
        note: "so many of 100 good answers took at most this, over the whole run; logarithmic"
            .to_owned(),
        plot: Plot {
            wide: WIDE,
            high: HIGH,
            x: Axis::words(&["50", "90", "99", "99.9", "all"]),
            y: log(lines.iter()),
        },
        lines,
        marks: &[],
        limits: Vec::new(),
    }
    .put(out);
}

/// How good answers were come by, a bar for each target.
fn come_by(out: &mut String, group: &Group, targets: &[String]) {
    let known = || {
        group
            .runs
            .iter()
            .filter(|run| run.answers.cache.values().any(|count| *count > 0))
    };
    if known().next().is_none() {
        return;
    }
    out.push_str("<figure class=\"bars\"><figcaption><b>How good answers were come by</b> <span class=\"soft\">share of each target's, by what it says of them itself</span></figcaption>\n<ul class=\"legend\">");
    let kinds = [
        Come::Memory,
        Come::Stale,
        Come::Joined,
        Come::Fetched,
        Come::Other,
    ];
    for come in kinds {
        let _ = write!(
            out,
            "<li><svg class=\"key\" viewBox=\"0 0 34 12\" aria-hidden=\"true\"><rect class=\"{}\" x=\"4\" width=\"26\" height=\"12\"/></svg>{}</li>",
            class(come),
            come.title()
        );
    }
    out.push_str("</ul>\n");
    for run in known() {
        let mut by: BTreeMap<Come, f64> = BTreeMap::new();
        for (word, count) in &run.answers.cache {
            *by.entry(Come::by(word)).or_default() += *count as f64;
        }
        let all: f64 = by.values().sum();
        let told: Vec<String> = by
            .iter()
            .map(|(come, count)| format!("{} {}", percent(count / all), come.title()))
            .collect();
        let name = name(run);
        let invalid = if is_valid(run) { "" } else { " (invalid)" };
        let _ = write!(
            out,
            "<p>{}<b>{name}</b>{invalid} <span class=\"soft\">{told}</span></p>\n<svg class=\"bar\" viewBox=\"0 0 100 16\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Good answers of {name}: {told}.\">",
            chart::key(look(targets, &name)),
            name = Text(&name),
            told = list(&told),
        );
        let mut from = 0.0;
        for (come, count) in by {
            let wide = count / all * 100.0;
            let _ = write!(
                out,
                "<rect class=\"{}\" x=\"{from:.2}\" width=\"{wide:.2}\" height=\"16\"/>",
                class(come)
            );
            from += wide;
        }
        out.push_str("</svg>\n");
    }
    out.push_str("</figure>\n");
}

fn class(come: Come) -> &'static str {
    match come {
        Come::Memory => "fresh",
        Come::Stale => "stale",
        Come::Joined => "joined",
        Come::Fetched => "fetched",
        Come::Other => "other",
    }
}

/// Slices in which something was due and nothing good came.
fn empty(series: &Series) -> Vec<f64> {
    let slices = series.slices.iter().enumerate();
    let lost = slices.filter(|(_, slice)| slice.due > 0 && slice.good == 0);
    lost.map(|(at, _)| (at as f64 + 0.5) * series.each)
        .collect()
}

fn log<'a>(lines: impl Iterator<Item = &'a Line>) -> Axis {
    let values = lines.flat_map(|line| line.points.iter().filter_map(|(_, value)| *value));
    let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    match least.is_finite() {
        true => Axis::log(least, most, axis::time),
        false => Axis::log(1.0, 100.0, axis::time),
    }
}

fn from_none(lines: &[Line], others: impl Iterator<Item = f64>) -> Axis {
    let most = |line: &Line| {
        line.points
            .iter()
            .filter_map(|(_, value)| *value)
            .fold(0.0, f64::max)
    };
    let mosts: Vec<f64> = lines.iter().map(most).chain(others).collect();
    let most = mosts.iter().copied().fold(0.0, f64::max);
    let least = mosts
        .iter()
        .copied()
        .filter(|most| *most > 0.0)
        .fold(f64::INFINITY, f64::min);
    match most > EVEN * least {
        true => Axis::log_from_none(most, axis::number),
        false => Axis::even(most, axis::number, 5),
    }
}

/// Something that happened, at some targets or at all of them.
struct Happened {
    at: f64,
    what: String,
    whom: Vec<String>,
}

/// In the order of time. What happened at several targets within a slice is one.
fn happened(drawn: &[Drawn]) -> Vec<Happened> {
    let mut all: Vec<Happened> = Vec::new();
    for one in drawn {
        for event in one.run.events.iter().filter(|event| event.at_s.is_finite()) {
            let what = plain(&event.what);
            let same = |there: &&mut Happened| {
                let near = (there.at - event.at_s).abs() <= one.series.each;
                near && there.what == what && !there.whom.contains(&one.name)
            };
            match all.iter_mut().find(same) {
                Some(there) => there.whom.push(one.name.clone()),
                None => all.push(Happened {
                    at: event.at_s,
                    what,
                    whom: vec![one.name.clone()],
                }),
            }
        }
    }
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    all
}

fn told(out: &mut String, happened: &[Happened], targets: usize) {
    if happened.is_empty() {
        return;
    }
    out.push_str(
        "<ol class=\"happened\" aria-label=\"What happened; the charts have the numbers\">",
    );
    for (number, one) in happened.iter().enumerate() {
        let whom = match one.whom.len() == targets {
            true => String::new(),
            false => format!(" ({})", list(&one.whom)),
        };
        let _ = write!(
            out,
            "<li><span class=\"number\">{}</span> {} s: {}{}</li>",
            number + 1,
            axis::number(one.at),
            Text(&one.what),
            Text(&whom)
        );
    }
    out.push_str("</ol>\n");
}

#[cfg(test)]
mod tests {
    use super::super::super::groups::{groups, targets};
    use super::super::super::report::Event;
    use super::super::super::sample;
    use super::*;

    #[test]
    fn what_happened_at_all_targets_is_told_once() {
        let mut report = sample::report(3);
        report.runs[1].events[0].at_s += 0.4;
        report.runs[2].events.push(Event {
            at_s: 9.0,
            what: "<restart>".to_owned(),
        });
        let targets = targets(&report);
        let group = &groups(&report, &targets)[0];
        let mut out = String::new();
        put(&mut out, group, &targets);
        let told: Vec<&str> = out
            .split("</span> ")
            .skip(1)
            .filter_map(|rest| rest.split("</li>").next())
            .take(3)
            .collect();
        assert_eq!(
            told,
            [
                "4 s: the crowd comes",
                "9 s: &lt;restart&gt; (varnish)",
                "16 s: the crowd leaves"
            ]
        );
    }

    #[test]
    fn the_scale_is_even_as_long_as_all_can_be_seen() {
        let line = |most: f64| Line {
            look: 0,
            name: String::new(),
            invalid: false,
            points: vec![(0.0, Some(0.0)), (1.0, Some(most))],
            missing: Vec::new(),
        };
        assert!(!from_none(&[line(8.0), line(90.0)], [8.0].into_iter()).is_log());
        assert!(from_none(&[line(8.0), line(600.0)], [8.0].into_iter()).is_log());
        assert!(!from_none(&[], [].into_iter()).is_log());
    }

    #[test]
    fn who_is_not_asked_what_it_has_in_memory_has_no_line() {
        let mut report = sample::report(3);
        for slice in &mut report.runs[1].slices {
            slice.hits = 0;
        }
        let targets = targets(&report);
        let group = &groups(&report, &targets)[0];
        let mut out = String::new();
        put(&mut out, group, &targets);
        let chart = out
            .split("</figure>")
            .find(|chart| chart.contains("<b>From the target's memory"))
            .expect("a chart");
        assert!(
            chart.contains("tidegate") && !chart.contains("nginx"),
            "{chart}"
        );
    }
}

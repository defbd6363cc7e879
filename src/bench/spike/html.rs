//! A measurement as one page that needs nothing else: inline SVG, its own style, no script. Light and dark, wide and on a phone.
//!
//! In reading order: [`page`] is the whole, [`charts`] says which charts a scenario has, [`chart`] draws lines, [`stack`] what
//! became of the requests, both on a [`plot`]; [`series`] is a run in few points, [`axis`] where a value stands, [`escape`] what keeps names from being markup.

mod axis;
mod chart;
mod charts;
mod escape;
mod plot;
mod series;
mod stack;

use std::fmt::Write as _;

use self::escape::Text;
use super::figures::{failed, known};
use super::groups::{Group, groups, targets};
use super::report::{Report, Run};
use super::sentence::{headline, is_valid, reasons, sentence};
use super::table::rows;
use super::words::{Unit, list, many, name, percent, plain, show, when, whole};

/// The whole page.
pub fn page(report: &Report) -> String {
    let targets = targets(report);
    let groups = groups(report, &targets);
    let mut body = String::new();
    head(&mut body, report, &targets, &groups);
    for (number, group) in groups.iter().enumerate() {
        scenario(&mut body, number, group, &targets);
    }
    // What comes from outside is put in last, so that nothing is looked for in it.
    let page = include_str!("html/page.html").replacen("{style}", include_str!("html/page.css"), 1);
    let (before, after) = page.split_once("{body}").expect("the page has a body");
    format!("{before}{body}{after}")
}

/// How many targets look different from each other.
const LOOKS: usize = 8;

/// The class that gives a target its colour and dashes, the same in all scenarios.
fn look(targets: &[String], of: &str) -> usize {
    targets.iter().position(|name| name == of).unwrap_or(0) % LOOKS
}

fn head(out: &mut String, report: &Report, targets: &[String], groups: &[Group]) {
    let machine = &report.machine;
    let _ = write!(
        out,
        "<header><h1>What happens when the crowd comes</h1>\n<p class=\"soft\">Measured {} with Tidegate {} on {}, {}, {}, {}.</p></header>\n",
        Text(&when(&report.made)),
        Text(&report.version),
        Text(&machine.cpu),
        many(machine.cores as u64, "core"),
        show(Unit::Bytes, machine.memory_bytes as f64),
        Text(&machine.system),
    );
    out.push_str("<section aria-labelledby=\"glance\"><h2 id=\"glance\">At a glance</h2>\n");
    if groups.is_empty() {
        out.push_str("<p>Nothing was measured.</p>\n");
    }
    out.push_str("<ul class=\"targets\">");
    for name in targets {
        let of = |run: &&Run| super::words::name(run) == *name;
        let target = report.runs.iter().find(of).map(|run| &run.target);
        let (version, url) = target.map_or(("", ""), |target| (&target.version, &target.url));
        let _ = write!(
            out,
            "<li>{}<b>{}</b> <span class=\"soft\">{} {}</span></li>",
            chart::key(look(targets, name)),
            Text(name),
            Text(version),
            Text(url)
        );
    }
    out.push_str("</ul>\n");
    glance(out, targets, groups);
    out.push_str(include_str!("html/reading.html"));
    out.push_str("</section>\n");
}

/// Scenarios down, targets across: the share that was served, and p99.
fn glance(out: &mut String, targets: &[String], groups: &[Group]) {
    out.push_str("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All scenarios and targets\"><table class=\"glance\">\n<thead><tr><th scope=\"col\">Served, and p99</th>");
    for name in targets {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", broken(name), Text(name));
    }
    out.push_str("</tr></thead>\n<tbody>");
    for (number, group) in groups.iter().enumerate() {
        let _ = write!(
            out,
            "<tr><th scope=\"row\"><a href=\"#s{number}\">{}</a></th>",
            Text(&group.scenario.name)
        );
        for target in targets {
            match group.runs.iter().find(|run| name(run) == *target) {
                None => out.push_str("<td>–</td>"),
                Some(run) => outcome(out, run),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

/// A long name may be broken anywhere, a short one nowhere.
fn broken(name: &str) -> &'static str {
    match name.chars().count() {
        0..=16 => "",
        _ => " class=\"long\"",
    }
}

fn outcome(out: &mut String, run: &Run) {
    if !is_valid(run) {
        out.push_str("<td class=\"void\">invalid</td>");
        return;
    }
    let share = (known("served").of)(run).unwrap_or(0.0);
    // A word or sign beside each colour.
    let (class, sign) = match share {
        _ if run.wrong.sum() > 0 => ("bad", "wrong pages"),
        _ if failed(run) == 0 => ("well", "✓"),
        share if share >= 0.99 => ("fair", "~"),
        _ => ("bad", "✕"),
    };
    let p99 = known("p99").shown(run).unwrap_or_default();
    let _ = write!(
        out,
        "<td class=\"{class}\"><span class=\"sign\">{sign}</span> {}<br><span class=\"soft\">{p99}</span></td>",
        percent(share)
    );
}

fn scenario(out: &mut String, number: usize, group: &Group, targets: &[String]) {
    let _ = write!(
        out,
        "<section id=\"s{number}\" aria-labelledby=\"s{number}-name\"><h2 id=\"s{number}-name\">{}</h2>\n<p class=\"soft\">{}</p>\n<p class=\"lead\">{}</p>\n",
        Text(&group.scenario.name),
        Text(&group.scenario.about),
        Text(&headline(group))
    );
    for run in group.runs.iter().filter(|run| !is_valid(run)) {
        let _ = writeln!(
            out,
            "<p class=\"invalid\"><b>Not valid: {}.</b> Its figures mean nothing: {}.</p>",
            Text(&name(run)),
            Text(&reasons(run))
        );
    }
    out.push_str("<ul class=\"told\">");
    for run in group.runs.iter().filter(|run| is_valid(run)) {
        let _ = write!(out, "<li>{}</li>", Text(&sentence(run)));
    }
    out.push_str("</ul>\n");
    table(out, group, targets);
    charts::put(out, group, targets);
    measured(out, group);
    out.push_str("</section>\n");
}

fn table(out: &mut String, group: &Group, targets: &[String]) {
    let _ = write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Figures of {}\"><table>\n<thead><tr><th scope=\"col\"></th>",
        Text(&group.scenario.name)
    );
    for run in &group.runs {
        let name = name(run);
        let mark = if is_valid(run) {
            ""
        } else {
            "<br><span class=\"void\">invalid</span>"
        };
        let _ = write!(
            out,
            "<th scope=\"col\"{}>{}<br>{}{mark}</th>",
            broken(&name),
            chart::key(look(targets, &name)),
            Text(&name)
        );
    }
    out.push_str("</tr></thead>\n");
    let rows = rows(&group.runs);
    for part in rows.chunk_by(|a, b| a.part == b.part) {
        let _ = writeln!(
            out,
            "<tbody><tr class=\"part\"><th scope=\"rowgroup\" colspan=\"{}\"><span>{}</span></th></tr>",
            group.runs.len() + 1,
            part[0].part
        );
        for row in part {
            let within = if row.within { " class=\"within\"" } else { "" };
            let _ = write!(
                out,
                "<tr{within}><th scope=\"row\">{}</th>",
                Text(&row.title)
            );
            for (cell, run) in row.cells.iter().zip(&group.runs) {
                let class = match (is_valid(run), cell.best) {
                    (false, _) => " class=\"void\"",
                    (true, true) => " class=\"best\"",
                    (true, false) => "",
                };
                let _ = write!(out, "<td{class}>{}</td>", Text(&cell.text));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n");
    }
    out.push_str("</table></div>\n");
}

/// What an engineer asks before he believes it.
fn measured(out: &mut String, group: &Group) {
    out.push_str("<details><summary>How it was measured</summary><ul>");
    for run in &group.runs {
        let load = &run.load;
        let _ = write!(
            out,
            "<li><b>{}</b>: {} s, seed {}; {} requests due, {} sent, {} of them again, over {} connections. Half were sent within {} of when \
             they were due, 99 of 100 within {}; the generator took {} of a core.",
            Text(&name(run)),
            super::words::count(run.seconds),
            run.seed,
            whole(load.due),
            whole(load.sent),
            whole(load.retries),
            whole(load.connections),
            show(Unit::Millis, load.lag.p50),
            show(Unit::Millis, load.lag.p99),
            percent(load.busy),
        );
        let told: Vec<String> = run
            .answers
            .cache
            .iter()
            .map(|(word, count)| {
                let word = if word.is_empty() { "nothing" } else { word };
                format!("{} {}", plain(word), whole(*count))
            })
            .collect();
        if !told.is_empty() {
            let _ = write!(
                out,
                " What it says itself of its good answers: {}.",
                Text(&list(&told))
            );
        }
        out.push_str("</li>");
    }
    out.push_str("</ul></details>\n");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::report::Event;
    use super::super::sample;
    use super::*;

    /// Tags that are open in the order they should be closed; panics at what is not.
    fn balanced(page: &str) -> usize {
        let mut open: Vec<&str> = Vec::new();
        let mut seen = 0;
        let from = page.find("<main>").expect("a main part");
        let to = page.find("</body>").expect("an end");
        for piece in page[from..to].split('<').skip(1) {
            let (tag, _) = piece
                .split_once('>')
                .unwrap_or_else(|| panic!("an open tag: {piece}"));
            seen += 1;
            let tag_name = tag
                .split([' ', '/', '\n'])
                .find(|part| !part.is_empty())
                .expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(tag_name), "closed: {tag}");
            } else if !tag.ends_with('/') && tag_name != "br" {
                open.push(tag_name);
            }
        }
        assert_eq!(open, [""; 0], "open at the end");
        seen
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = page(&sample::report(28));
        assert!(balanced(&page) > 500);
        for outside in [
            "<script",
            "src=",
            "@import",
            "url(",
            "http-equiv=\"refresh\"",
        ] {
            let at = page.find(outside);
            assert!(
                at.is_none() || outside == "url(" && !page.contains("url(h"),
                "{outside}"
            );
        }
        assert!(page.contains("default-src 'none'"));
        assert!(page.len() < 400_000, "{}", page.len());
        // A chart of lines for each thing told, and one of outcomes for each target, in each scenario.
        assert_eq!(page.matches("<svg class=\"plot\"").count(), 3 * (6 + 4));
        assert_eq!(
            page.matches("role=\"img\"").count(),
            page.matches("<svg class=\"plot\"").count() + 3 * 4
        );
        for word in ["NaN", "inf", "{style}", "{body}"] {
            assert!(
                !page[page.find("</style>").unwrap_or(0)..].contains(word),
                "{word}"
            );
        }
    }

    #[test]
    fn the_same_report_is_the_same_page() {
        assert!(page(&sample::report(4)) == page(&sample::report(4)));
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        let bad = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{body}\u{202e}\x1b";
        let mut report = sample::report(28);
        let renamed = |map: &BTreeMap<String, u64>, by: &str| -> BTreeMap<String, u64> {
            let names = map
                .iter()
                .map(|(word, count)| (format!("{word}{by}"), *count));
            names.collect()
        };
        // Another word is another way to come by an answer; what must not change is what it is made of.
        for run in &mut report.runs {
            run.answers.cache = renamed(&run.answers.cache, "x");
        }
        let tags = balanced(&page(&report));
        report.made = bad.to_owned();
        report.version = bad.to_owned();
        report.machine.cpu = bad.to_owned();
        report.machine.system = bad.to_owned();
        for run in &mut report.runs {
            run.scenario.name += bad;
            run.scenario.about += bad;
            run.target.name += bad;
            run.target.version = bad.to_owned();
            run.target.url = format!("javascript:{bad}");
            for reason in &mut run.invalid {
                *reason += bad;
            }
            run.answers.errors = renamed(&run.answers.errors, bad);
            run.answers.cache = renamed(&run.answers.cache, bad);
            for event in &mut run.events {
                event.what += bad;
            }
        }
        let page = page(&report);
        assert_eq!(balanced(&page), tags, "as many tags as before");
        assert!(
            !page.contains("<script")
                && !page.contains("<img")
                && !page.contains('\x1b')
                && !page.contains('\u{202e}')
        );
        // Attributes end where they should: no tag has a name of an attribute that is not ours.
        let tags = page.split('<').filter_map(|piece| piece.split('>').next());
        for tag in tags {
            let outside_quotes: String = tag.split('"').step_by(2).collect();
            assert!(
                !outside_quotes.contains("onerror") && !outside_quotes.contains("src="),
                "{tag}"
            );
        }
    }

    #[test]
    fn what_is_odd_is_drawn_all_the_same() {
        let empty = Report {
            runs: Vec::new(),
            ..sample::report(1)
        };
        balanced(&page(&empty));
        let mut bare = Report {
            runs: vec![Run::default()],
            ..sample::report(1)
        };
        balanced(&page(&bare));
        bare.runs[0].slice_s = 1.0;
        bare.runs[0].slices = vec![super::super::report::Slice::default()];
        balanced(&page(&bare));
        let slice = &mut bare.runs[0].slices[0];
        (slice.due, slice.good, slice.p50, slice.p99) = (u64::MAX, u64::MAX, 1e300, f64::MAX);
        slice.origin_in_flight = -1e300;
        bare.runs[0].events = (0..500)
            .map(|at| Event {
                at_s: f64::from(at) * 1e300,
                what: at.to_string(),
            })
            .collect();
        let page = page(&bare);
        balanced(&page);
        assert!(
            !page.contains("NaN") && !page.contains("inf\"") && !page.contains("inf "),
            "coordinates"
        );
    }

    #[test]
    fn a_long_run_makes_no_long_page() {
        let mut report = sample::report(28);
        for run in &mut report.runs {
            run.slices = std::iter::repeat_n(run.slices.clone(), 250)
                .flatten()
                .collect();
        }
        assert!(page(&report).len() < 900_000);
    }

    #[test]
    fn an_invalid_run_is_marked_in_words_table_and_charts() {
        let page = page(&sample::report(28));
        assert_eq!(
            page.matches("<p class=\"invalid\"><b>Not valid: nginx.</b>")
                .count(),
            1
        );
        assert_eq!(
            page.matches("<span class=\"void\">invalid</span>").count(),
            1
        );
        assert!(page.contains("<td class=\"void\">invalid</td>"));
        assert!(page.contains("nginx (invalid)"));
    }
}

//! The highest rate at which all goes well, found by doubling until it doesn't and then by halving the gap; and what that means in plain words.

use std::time::Duration;

use super::report::Run;
use super::scenario::{Point, Scenario};

/// The gap is small enough at this ratio.
const CLOSE: f64 = 1.05;
/// No more runs than these.
const MOST: usize = 14;
/// How often somebody who reads opens a page.
const READS_EVERY: Duration = Duration::from_secs(15);

/// A run at some rate.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Requests a second.
    pub rate: f64,
    pub run: Run,
    /// What was not as well as it should have been, in words; empty: all was.
    pub broke: Vec<String>,
}

impl Probe {
    fn is_well(&self) -> bool {
        self.broke.is_empty()
    }
}

/// Finds the highest rate at which a probe is well, from `first` up to `most`. All probes, in the order in which they were made.
///
/// # Errors
/// A probe's.
pub fn search(
    first: f64,
    most: f64,
    mut probe: impl FnMut(f64) -> Result<Probe, String>,
) -> Result<Vec<Probe>, String> {
    let mut all = Vec::new();
    let (mut well, mut broke) = (0.0, None::<f64>);
    let mut rate = first.clamp(1.0, most);
    while all.len() < MOST {
        let made = probe(rate)?;
        let is_well = made.is_well();
        all.push(made);
        match is_well {
            true => well = rate,
            false => broke = Some(rate),
        }
        rate = match broke {
            None if rate >= most => break,
            None => (rate * 2.0).min(most),
            // Not even the first: lower, until something is well.
            Some(broke) if well == 0.0 && broke <= 1.0 => break,
            Some(broke) if well == 0.0 => (broke / 4.0).max(1.0),
            Some(broke) if broke / well <= CLOSE => break,
            Some(broke) => (broke * well).sqrt(),
        };
    }
    Ok(all)
}

/// The scenario at an even `rate`, for so long, with everything stored that may be: what can be borne for ever.
pub fn at_rate(scenario: &Scenario, rate: f64, lasts: Duration) -> Scenario {
    let peak = |points: &[Point]| points.iter().map(|point| point.rate).fold(0.0, f64::max);
    let all: f64 = scenario.crowd.iter().map(|crowd| peak(&crowd.rate)).sum();
    let crowd = scenario
        .crowd
        .iter()
        .filter(|crowd| !crowd.unwanted && crowd.log.is_none());
    let crowd = crowd.map(|crowd| super::scenario::Crowd {
        rate: vec![Point {
            at: Duration::ZERO,
            rate: rate * peak(&crowd.rate) / all.max(1e-9),
        }],
        ..crowd.clone()
    });
    Scenario {
        crowd: crowd.collect(),
        lasts,
        spike_at: Duration::ZERO,
        warm: true,
        event: Vec::new(),
        ..scenario.clone()
    }
}

/// The answer, in plain words.
pub fn words(probes: &[Probe], most: f64) -> String {
    let well = probes.iter().filter(|probe| probe.is_well());
    let best = well.max_by(|one, other| one.rate.total_cmp(&other.rate));
    let broken = probes.iter().filter(|probe| !probe.is_well());
    let first = broken.min_by(|one, other| one.rate.total_cmp(&other.rate));
    let mut out = String::new();
    match best {
        None => out += "Not even the lowest rate that was tried went well.\n",
        Some(best) => {
            let rate = best.rate.round();
            let readers = rate * READS_EVERY.as_secs_f64();
            out += &format!(
                "It bears {} requests a second: {} readers at once, if each opens a page every {} seconds.\n",
                count(rate),
                count(readers),
                READS_EVERY.as_secs()
            );
            let mean = best.run.latency.mean / 1000.0;
            out += &format!(
                "In hand at once, on average: {} a second x {:.4} s = {:.1} (concurrency = rate x latency).\n",
                count(rate),
                mean,
                rate * mean
            );
        }
    }
    match first {
        Some(first) => {
            out += &format!(
                "What breaks first, at {} a second: {}.\n",
                count(first.rate.round()),
                first.broke.join("; ")
            );
            out += &why(&first.run);
        }
        None => {
            out += &format!(
                "Nothing broke up to {} a second, where the search ends.\n",
                count(most)
            );
        }
    }
    out
}

/// What it most likely was.
fn why(run: &Run) -> String {
    let seconds = run.seconds.max(1e-9);
    let mut out = String::new();
    if !run.invalid.is_empty() {
        out += "The generator was at its end before the target was: the true figure is higher.\n";
    }
    if let Some(process) = &run.process {
        out += &format!(
            "The target used {:.2} of a core then.\n",
            process.cpu_s / seconds
        );
    }
    if let Some(origin) = &run.origin {
        let says = match origin.peak >= origin.capacity {
            true => "it was at its end",
            false => "it had places left",
        };
        out += &format!(
            "The app had up to {} requests in hand of the {} that it can work on at once: {says}.\n",
            origin.peak, origin.capacity
        );
    }
    out
}

/// With commas.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(first: f64, most: f64, bears: f64) -> (Vec<Probe>, f64) {
        let probes = search(first, most, |rate| {
            Ok(Probe {
                rate,
                broke: match rate > bears {
                    true => vec!["p99 is 300 ms".to_owned()],
                    false => Vec::new(),
                },
                ..Probe::default()
            })
        })
        .unwrap();
        let well = probes.iter().filter(|probe| probe.is_well());
        let best = well.map(|probe| probe.rate).fold(0.0, f64::max);
        (probes, best)
    }

    #[test]
    fn the_highest_rate_is_found_from_either_side() {
        for bears in [3.0, 90.0, 1_000.0, 7_777.0, 49_000.0] {
            for first in [10.0, 500.0, 20_000.0] {
                let (probes, best) = found(first, 50_000.0, bears);
                assert!(probes.len() <= MOST, "{}", probes.len());
                assert!(
                    best <= bears && best * 1.3 >= bears,
                    "{first} {bears}: {best}"
                );
            }
        }
        assert_eq!(found(10.0, 80.0, 1e9).1, 80.0);
        assert_eq!(found(10.0, 80.0, 0.5).1, 0.0);
    }

    #[test]
    fn it_is_told_in_plain_words() {
        let (probes, _) = found(1000.0, 50_000.0, 7_777.0);
        let words = words(&probes, 50_000.0);
        assert!(words.starts_with("It bears 7,"), "{words}");
        assert!(words.contains("readers at once"), "{words}");
        assert!(words.contains("p99 is 300 ms"), "{words}");
        let (probes, _) = found(10.0, 80.0, 1e9);
        assert!(super::words(&probes, 80.0).contains("Nothing broke up to 80"));
    }

    #[test]
    fn a_scenario_keeps_its_mixture() {
        let scenario = Scenario::find("flash-sale").unwrap();
        let even = at_rate(&scenario, 324.0, Duration::from_secs(4));
        let rates: Vec<f64> = even.crowd.iter().map(|crowd| crowd.rate[0].rate).collect();
        assert_eq!(rates.len(), 2);
        assert!(
            (rates[0] - 300.0).abs() < 1e-6 && (rates[1] - 24.0).abs() < 1e-6,
            "{rates:?}"
        );
        let bots = at_rate(
            &Scenario::find("bot-flood").unwrap(),
            10.0,
            Duration::from_secs(4),
        );
        assert_eq!(bots.crowd.len(), 1);
    }
}

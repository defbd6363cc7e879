//! A report's runs by scenario and target, in an order that doesn't depend on who was measured first.

use super::report::{Report, Run, Told};
use super::words;

/// The runs of one scenario, by target.
pub struct Group<'a> {
    pub scenario: &'a Told,
    pub runs: Vec<&'a Run>,
}

/// Ours first, the others as they come.
pub fn targets(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in &report.runs {
        let name = words::name(run);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| name != "tidegate");
    names
}

/// Scenarios as they come, the runs of each in the order of `targets`.
pub fn groups<'a>(report: &'a Report, targets: &[String]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for run in &report.runs {
        match groups
            .iter_mut()
            .find(|group| group.scenario.name == run.scenario.name)
        {
            Some(group) => group.runs.push(run),
            None => groups.push(Group {
                scenario: &run.scenario,
                runs: vec![run],
            }),
        }
    }
    let place = |run: &&Run| targets.iter().position(|name| *name == words::name(run));
    for group in &mut groups {
        group.runs.sort_by_key(place);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_order_is_not_that_of_the_measurements() {
        let mut report = sample::report(1);
        let sorted = |report: &Report| -> Vec<(String, Vec<String>)> {
            let targets = targets(report);
            let of = |group: Group| {
                let runs = group.runs.iter().map(|run| words::name(run)).collect();
                (group.scenario.name.clone(), runs)
            };
            groups(report, &targets).into_iter().map(of).collect()
        };
        let first = sorted(&report);
        assert_eq!(first[0].1, ["tidegate", "nginx", "varnish", "haproxy"]);
        // Within a scenario, another is measured first.
        report.runs[..4].rotate_left(1);
        report.runs[4..8].rotate_left(2);
        let mut again = sorted(&report);
        for (_, runs) in &mut again {
            assert_eq!(runs.remove(0), "tidegate");
            runs.sort();
            assert_eq!(*runs, ["haproxy", "nginx", "varnish"]);
        }
        assert_eq!(again.len(), first.len());
    }
}

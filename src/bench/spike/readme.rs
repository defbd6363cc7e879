//! A report as a Markdown table, for a README: who compares himself with others says when, on what, and with which versions.

use std::fmt::Write as _;

use super::figures::known;
use super::groups::{groups, targets};
use super::report::{Report, Run};
use super::sentence::{is_valid, reasons};
use super::table::NONE;
use super::words::{Unit, list, many, name, plain, show, whole};

/// Columns, and the figures in them.
const COLUMNS: [(&str, &str); 9] = [
    ("served", "served"),
    ("p50", "p50"),
    ("p99", "p99"),
    ("first byte p99", "ttfb_p99"),
    ("oldest page", "oldest"),
    ("fetches a page", "fetches_per_page"),
    ("at the origin", "origin_peak"),
    ("CPU an answer", "cpu"),
    ("memory", "memory"),
];

/// The same for the same report.
pub fn table(report: &Report) -> String {
    let targets = targets(report);
    let mut out = caption(report, &targets);
    out.push_str("\n\n| scenario | |");
    for (title, _) in COLUMNS {
        let _ = write!(out, " {title} |");
    }
    out.push_str("\n|---|---|");
    out.push_str(&"---:|".repeat(COLUMNS.len()));
    out.push('\n');
    for group in groups(report, &targets) {
        for (number, run) in group.runs.iter().enumerate() {
            let scenario = if number == 0 {
                text(&group.scenario.name)
            } else {
                String::new()
            };
            let _ = write!(out, "| {scenario} | {} |", text(&name(run)));
            if is_valid(run) {
                for (_, figure) in COLUMNS {
                    let _ = write!(out, " {} |", cell(run, figure));
                }
            } else {
                let _ = write!(
                    out,
                    " not valid: {} |{}",
                    text(&reasons(run)),
                    " |".repeat(COLUMNS.len() - 1)
                );
            }
            out.push('\n');
        }
    }
    out
}

fn cell(run: &Run, figure: &str) -> String {
    let figure = known(figure);
    let Some(value) = (figure.of)(run) else {
        return NONE.to_owned();
    };
    let shown = show(figure.unit, value);
    match (figure.name, &run.origin) {
        ("origin_peak", Some(origin)) => format!("{shown} of {}", whole(origin.capacity as u64)),
        // What is worse than to fail is told where it can't be overlooked.
        ("served", _) if run.wrong.sum() > 0 => {
            format!("{shown}, **{} wrong**", whole(run.wrong.sum()))
        }
        _ => shown,
    }
}

fn caption(report: &Report, targets: &[String]) -> String {
    let version = |target: &String| {
        let run = report.runs.iter().find(|run| name(run) == *target);
        let version = run.map_or("", |run| &run.target.version);
        // Many say their own name in it.
        match version.to_lowercase().contains(&target.to_lowercase()) {
            true => text(version),
            false => text(format!("{target} {version}").trim()),
        }
    };
    let versions: Vec<String> = targets.iter().map(version).collect();
    let machine = &report.machine;
    format!(
        "Measured on {} by Tidegate {} with `tidegate bench spike`: {}; {}, {}, {} of memory, {}.",
        text(report.made.split('T').next().unwrap_or_default()),
        text(&report.version),
        list(&versions),
        text(&machine.cpu),
        many(machine.cores as u64, "core"),
        show(Unit::Bytes, machine.memory_bytes as f64),
        text(&machine.system)
    )
}

/// What others wrote, so that it ends no cell and is no markup.
fn text(of: &str) -> String {
    let mut out = String::new();
    for c in plain(of).chars() {
        if matches!(
            c,
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '!' | '~' | '&'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_caption_has_date_versions_and_machine() {
        let table = table(&sample::report(28));
        assert_eq!(
            table.lines().next(),
            Some(
                "Measured on 2026-11-28 by Tidegate 0.1.0 with `tidegate bench spike`: tidegate 0.1.0, nginx/1.22.1, varnish-7.1.1 and \
                 HAProxy 2.6.12; A processor of two cores, 2 cores, 8.00 GiB of memory, Linux 6.1."
            )
        );
    }

    #[test]
    fn each_run_is_a_row_of_as_many_cells() {
        let report = sample::report(28);
        let made = table(&report);
        let rows: Vec<&str> = made.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 12);
        for row in &rows {
            assert_eq!(row.matches('|').count(), COLUMNS.len() + 3, "{row}");
        }
        assert!(
            rows[2].starts_with("| viral-post | tidegate | 100 % | "),
            "{}",
            rows[2]
        );
        assert!(rows[3].starts_with("|  | nginx | 9"), "{}", rows[3]);
        let invalid = rows
            .iter()
            .filter(|row| row.contains("not valid: the generator"));
        assert_eq!(invalid.count(), 1);
        assert_eq!(made, table(&report), "the same again");
    }

    #[test]
    fn the_order_of_measuring_changes_nothing_within_a_scenario() {
        let report = sample::report(28);
        let mut other = report.clone();
        other.runs[..4].swap(0, 3);
        let first = |report: &Report| table(report).lines().nth(4).map(str::to_owned);
        assert_eq!(first(&report), first(&other));
    }

    #[test]
    fn names_end_no_cell_and_wrong_pages_are_told() {
        let mut report = sample::report(28);
        report.runs.truncate(1);
        report.runs[0].scenario.name = "a | <b>\n`c`".to_owned();
        report.runs[0].wrong.user = 2;
        let made = table(&report);
        let row = made.lines().last().unwrap_or_default();
        assert!(
            row.starts_with("| a \\| \\<b\\>\u{fffd}\\`c\\` | tidegate | 100 %, **2 wrong** | "),
            "{row}"
        );
    }
}

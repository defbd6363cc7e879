//! The end of a measurement in a terminal: a sentence for each run, then the table, targets side by side. No colours: what is best
//! has a star.

use super::groups::{Group, groups, targets};
use super::report::Report;
use super::sentence::{headline, is_valid, sentence};
use super::table::{Row, rows};
use super::words::{cut, name, plain, wrap};

/// The width of the figures' names, and of a column at least.
const TITLES: usize = 20;
const COLUMN: usize = 12;

/// Lines of at most `width` columns, or of 40 where there are fewer.
pub fn page(report: &Report, width: usize) -> String {
    let width = width.max(40);
    let targets = targets(report);
    let mut out = String::new();
    for group in groups(report, &targets) {
        if !out.is_empty() {
            out.push('\n');
        }
        scenario(&mut out, &group, width);
    }
    out
}

fn scenario(out: &mut String, group: &Group, width: usize) {
    let title = format!(
        "{}: {}",
        plain(&group.scenario.name),
        plain(&group.scenario.about)
    );
    push(out, &wrap(&title, width, 2));
    push(out, &wrap(&headline(group), width, 2));
    out.push('\n');
    for run in &group.runs {
        push(out, &wrap(&format!("- {}", sentence(run)), width, 2));
    }
    let rows = rows(&group.runs);
    let names: Vec<String> = group.runs.iter().map(|run| name(run)).collect();
    // Where not all have room, the others follow below.
    let at_once = ((width - TITLES) / (COLUMN + 1)).max(1);
    let column = ((width - TITLES) / group.runs.len().clamp(1, at_once)).min(17) - 1;
    for first in (0..names.len()).step_by(at_once) {
        let those = first..names.len().min(first + at_once);
        out.push('\n');
        line(
            out,
            "",
            names[those.clone()].iter().map(|name| cut(name, column)),
            column,
        );
        if group.runs[those.clone()].iter().any(|run| !is_valid(run)) {
            let marks = group.runs[those.clone()].iter();
            line(
                out,
                "",
                marks.map(|run| if is_valid(run) { "" } else { "INVALID" }.to_owned()),
                column,
            );
        }
        table(out, &rows, those, column, width);
    }
}

fn table(
    out: &mut String,
    rows: &[Row],
    those: std::ops::Range<usize>,
    column: usize,
    width: usize,
) {
    let mut part = "";
    for row in rows {
        if row.part != part {
            part = row.part;
            push(out, &cut(part, width));
        }
        let title = format!("{}{}", if row.within { "    " } else { "  " }, row.title);
        let cells = row.cells[those.clone()].iter();
        let marked =
            cells.map(|cell| format!("{}{}", cell.text, if cell.best { "*" } else { " " }));
        line(out, &title, marked, column);
    }
}

fn line(out: &mut String, title: &str, cells: impl Iterator<Item = String>, column: usize) {
    let mut line = format!("{:TITLES$}", cut(title, TITLES - 1));
    for cell in cells {
        line += &format!(" {:>column$}", cut(&cell, column));
    }
    push(out, line.trim_end());
}

fn push(out: &mut String, line: &str) {
    *out += line;
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn it_fits_whatever_the_width_is() {
        let mut report = sample::report(5);
        report.runs[1].target.name =
            "http://a-rather-long-name.example.test:8080/with/a/path".to_owned();
        for width in [10, 40, 60, 80, 100, 200] {
            let page = page(&report, width);
            for line in page.lines().filter(|line| !line.contains("http://")) {
                assert!(line.chars().count() <= width.max(40), "{width}: {line}");
            }
            for row in [
                "error answers",
                "p99.9",
                "peak memory",
                "wrong pages",
                "recovery",
            ] {
                assert!(page.contains(row), "{width}: {row}");
            }
        }
    }

    #[test]
    fn four_targets_stand_side_by_side_in_80_columns() {
        let report = sample::report(5);
        let page = page(&report, 80);
        let heads = page.lines().filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words == ["tidegate", "nginx", "varnish", "haproxy"]
        });
        assert_eq!(heads.count(), 3, "{page}");
        let served: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("  share served"))
            .collect();
        assert!(
            served[0].contains("100 %*") && served[0].chars().count() <= 80,
            "{}",
            served[0]
        );
    }

    #[test]
    fn an_invalid_run_is_marked_over_its_figures_and_in_words() {
        let report = sample::report(5);
        let page = page(&report, 80);
        let heads: Vec<&str> = page
            .lines()
            .filter(|line| line.contains("INVALID"))
            .collect();
        assert_eq!(heads.len(), 1, "{page}");
        assert!(page.contains("- nginx: not a valid measurement"), "{page}");
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        let mut report = sample::report(5);
        let bad = "\x1b[2J\r\n\u{9b}";
        let run = &mut report.runs[0];
        run.target.name = bad.to_owned();
        run.scenario.name = bad.to_owned();
        run.scenario.about = bad.to_owned();
        run.answers.errors.insert(bad.to_owned(), 3);
        run.invalid = vec![bad.to_owned()];
        let page = page(&report, 80);
        assert!(
            page.chars().all(|c| c == '\n' || !c.is_control()),
            "{page:?}"
        );
    }
}

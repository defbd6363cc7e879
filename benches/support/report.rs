//! Figures for people: numbers, tables, and lines that pass or fail.

use std::process::ExitCode;

/// The lines of one program and whether all of them passed.
#[derive(Default)]
pub struct Checks {
    pub lines: Vec<(bool, String, String)>,
}

impl Checks {
    pub fn check(&mut self, passed: bool, what: impl Into<String>, figures: impl Into<String>) {
        let (what, figures) = (what.into(), figures.into());
        println!(
            "{}  {what}: {figures}",
            if passed { "PASS" } else { "FAIL" }
        );
        self.lines.push((passed, what, figures));
    }

    /// 0 when something was checked and all of it passed, else 1.
    pub fn exit(&self) -> ExitCode {
        let failed = self.lines.iter().filter(|line| !line.0).count();
        println!("{} checks, {failed} failed", self.lines.len());
        if failed == 0 && !self.lines.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// The value below which `share` (0 to 1) of the values lie, by nearest rank; 0 of none.
pub fn quantile(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// What the middle half of the values spans, over their median.
pub fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: usize| sorted.get(sorted.len() * share / 4).copied();
    match (at(1), at(3)) {
        (Some(low), Some(high)) => (high - low) / median(values),
        _ => f64::NAN,
    }
}

/// Nanoseconds as milliseconds.
pub fn ms(nanoseconds: u64) -> String {
    format!("{:.1} ms", nanoseconds as f64 / 1e6)
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A count with thousands set apart: 12,345.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A Markdown table: first column to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("|");
        for (column, cell) in cells.enumerate() {
            let gap = " ".repeat(widths[column] - cell.chars().count());
            line += &if column == 0 {
                format!(" {cell}{gap} |")
            } else {
                format!(" {gap}{cell} |")
            };
        }
        line + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    text += "|";
    for (column, width) in widths.iter().enumerate() {
        let dashes = "-".repeat(width + 1);
        text += &if column == 0 {
            format!("{dashes}-|")
        } else {
            format!("{dashes}:|")
        };
    }
    text += "\n";
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

//! Figures as people read them. A share that is not all is never shown as all of it, and one that is not nothing never as nothing.

use super::report::Run;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Count,
    Millis,
    Micros,
    Seconds,
    Bytes,
    /// Of 1.
    Share,
    /// A second.
    Rate,
    /// So many times.
    Times,
}

/// `1,250 ms` is `1.25 s`; what is infinite never came.
pub fn show(unit: Unit, value: f64) -> String {
    if !value.is_finite() {
        return "never".to_owned();
    }
    match unit {
        Unit::Count => count(value),
        Unit::Millis if value >= 1000.0 => format!("{} s", digits(value / 1000.0)),
        Unit::Millis => format!("{} ms", digits(value)),
        Unit::Micros => format!("{} µs", digits(value)),
        Unit::Seconds if value > 0.0 && value < 1.0 => format!("{} ms", count(value * 1000.0)),
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::Bytes => bytes(value),
        Unit::Share => percent(value),
        Unit::Rate => format!("{}/s", digits(value)),
        Unit::Times => digits(value),
    }
}

/// `12,345`.
pub fn count(value: f64) -> String {
    let plain = format!("{:.0}", value.abs());
    let mut out = String::new();
    if value <= -0.5 {
        out.push('-');
    }
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub fn whole(value: u64) -> String {
    count(value as f64)
}

/// `1 page`, `3 pages`.
pub fn many(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {what}{s}", whole(count))
}

/// A time of RFC 3339 to the minute, for reading; what is none stays as it is.
pub fn when(made: &str) -> String {
    let parts = made.strip_suffix('Z').and_then(|made| made.split_once('T'));
    match parts.and_then(|(day, time)| Some((day, time.get(..5)?))) {
        Some((day, minute)) => format!("{day} at {minute} UTC"),
        None => made.to_owned(),
    }
}

/// Three digits, or all that stand before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => count(value),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.005 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut left = value;
    let mut at = 0;
    while left.abs() >= 1024.0 && at + 1 < units.len() {
        left /= 1024.0;
        at += 1;
    }
    match at {
        0 => format!("{} B", count(left)),
        _ => format!("{} {}", digits(left), units[at]),
    }
}

/// `99.6 %`; near an end with more digits, so that a few of many are seen.
pub fn percent(share: f64) -> String {
    let of = share * 100.0;
    if (of - of.round()).abs() < 1e-9 {
        return format!("{of:.0} %");
    }
    if !(1.0..=99.0).contains(&of) && of > 0.0 && of < 100.0 {
        return format!("{:.2} %", of.clamp(0.01, 99.99));
    }
    format!("{of:.1} %")
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// On one line, without characters that move a cursor or turn text around: for what others have written.
pub fn plain(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars()
        .map(|c| if odd(c) { '\u{fffd}' } else { c })
        .collect()
}

/// At most so many characters, the last one `…` where there were more.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        out.push('…');
    }
    out
}

/// Lines of at most `width` characters, all but the first indented; a word that is longer stands alone.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if used == 0 {
        } else if used + 1 + long > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            used = indent;
        } else {
            out.push(' ');
            used += 1;
        }
        out += word;
        used += long;
    }
    out
}

/// Of one run, for what can't be told by figures: what it is called everywhere.
pub fn name(run: &Run) -> String {
    plain(&run.target.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_do_not_flatter() {
        for (unit, value, shown) in [
            (Unit::Count, 0.0, "0"),
            (Unit::Count, 999.0, "999"),
            (Unit::Count, 1_234_567.0, "1,234,567"),
            (Unit::Millis, 0.042, "0.04 ms"),
            (Unit::Millis, 0.0012, "0.0012 ms"),
            (Unit::Millis, 4.2, "4.20 ms"),
            (Unit::Millis, 99.96, "100 ms"),
            (Unit::Millis, 84.31, "84.3 ms"),
            (Unit::Millis, 1250.0, "1.25 s"),
            (Unit::Millis, 12_000.0, "12.0 s"),
            (Unit::Micros, 21.04, "21.0 µs"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 0.25, "250 ms"),
            (Unit::Seconds, 61.0, "61.0 s"),
            (Unit::Seconds, f64::INFINITY, "never"),
            (Unit::Bytes, 512.0, "512 B"),
            (Unit::Bytes, 88_080_384.0, "84.0 MiB"),
            (Unit::Bytes, 1e30, "909,494,701,772,928,256 TiB"),
            (Unit::Share, 1.0, "100 %"),
            (Unit::Share, 0.999_999, "99.99 %"),
            (Unit::Share, 0.996, "99.60 %"),
            (Unit::Share, 0.9374, "93.7 %"),
            (Unit::Share, 0.000_001, "0.01 %"),
            (Unit::Share, 0.0, "0 %"),
            (Unit::Share, 1.004, "100.4 %"),
            (Unit::Rate, 1500.0, "1,500/s"),
            (Unit::Times, 1.25, "1.25"),
        ] {
            assert_eq!(show(unit, value), shown, "{unit:?} {value}");
        }
    }

    #[test]
    fn words_are_listed_cut_and_wrapped() {
        let words: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(list(&words), "a, b and c");
        assert_eq!(list(&words[..2]), "a and b");
        assert_eq!(list(&words[..1]), "a");
        assert_eq!(list(&[]), "");
        assert_eq!(
            (many(1, "page"), many(1200, "page")),
            ("1 page".into(), "1,200 pages".into())
        );
        assert_eq!(when("2026-11-28T17:10:13.555Z"), "2026-11-28 at 17:10 UTC");
        for odd in ["", "Z", "TZ", "yesterday", "2026T1234éZ"] {
            assert_eq!(when(odd), odd);
        }
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(
            wrap("one two  three four", 9, 2),
            "one two\n  three\n  four"
        );
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        assert_eq!(
            plain("a\x1b[2J\nb\u{202e}c é"),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}c é"
        );
    }
}

//! Durations (`300ms`, `1h30m`), sizes (`256MiB`) and rates (`1KiB/s`) as people write them.
//!
//! A bare number never is a duration: `10` seconds or milliseconds is a guess, and a wrong guess is an outage. Every
//! refusal says what was meant, if that can be told.

use std::time::Duration;

/// Units of time with their milliseconds, largest first.
const TIMES: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size with their bytes, largest first; `MB` is a million as in SI, `MiB` 2²⁰.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// What people write for a unit elsewhere, for suggestions only.
const LOOSE_TIMES: [(&str, &str); 17] = [
    ("msec", "ms"),
    ("millis", "ms"),
    ("millisecond", "ms"),
    ("milliseconds", "ms"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("day", "d"),
    ("days", "d"),
];

const LOOSE_SIZES: [(&str, &str); 8] = [
    ("k", "KiB"),
    ("kb", "kB"),
    ("m", "MiB"),
    ("mb", "MB"),
    ("g", "GiB"),
    ("gb", "GB"),
    ("t", "TiB"),
    ("tb", "TB"),
];

/// The JSON Schema pattern of a duration.
pub const DURATION_PATTERN: &str = r"^(0|([0-9]+(ms|[smhdw]))+)$";
/// The JSON Schema pattern of a size.
pub const SIZE_PATTERN: &str = r"^[0-9]+([KMGT]iB|kB|[MGT]B|B)?$";
/// The JSON Schema pattern of a rate.
pub const RATE_PATTERN: &str = r"^(0|[0-9]+([KMGT]iB|kB|[MGT]B|B)/s)$";

/// Why a text is no quantity, and what its writer probably meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoQuantity {
    pub meant: Option<String>,
}

/// `300ms`, `10s`, `1h30m`, `0`: whole numbers, each with its unit, the larger unit first.
pub fn duration(text: &str) -> Result<Duration, NoQuantity> {
    match strict_duration(text) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(NoQuantity {
            meant: meant_duration(text),
        }),
    }
}

/// `256MiB`, `64kB`, `512`: bytes.
pub fn size(text: &str) -> Result<u64, NoQuantity> {
    strict_size(text).ok_or_else(|| NoQuantity {
        meant: meant_size(text),
    })
}

/// `1KiB/s`, `0`: bytes a second.
pub fn rate(text: &str) -> Result<u64, NoQuantity> {
    let of = text.strip_suffix("/s");
    match of.and_then(strict_size) {
        Some(bytes) => Ok(bytes),
        None if text == "0" => Ok(0),
        None => {
            let of = of.unwrap_or(text).trim_end_matches("ps");
            let meant = match strict_size(of) {
                Some(_) => Some(of.to_owned()),
                None => meant_size(of),
            };
            Err(NoQuantity {
                meant: meant.map(|size| format!("{size}/s")),
            })
        }
    }
}

/// The shortest way to write a duration, to the millisecond: `1m30s`.
pub fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0".to_owned();
    }
    let mut out = String::new();
    for (unit, millis) in TIMES {
        if left >= millis {
            out += &format!("{}{unit}", left / millis);
            left %= millis;
        }
    }
    out
}

/// The shortest exact way to write a size: `16MiB`.
pub fn show_size(bytes: u64) -> String {
    let (unit, of) = SIZES
        .into_iter()
        .find(|(_, of)| bytes >= *of && bytes.is_multiple_of(*of))
        .unwrap_or(("B", 1));
    match bytes {
        0 => "0".to_owned(),
        _ => format!("{}{unit}", bytes / of),
    }
}

fn strict_duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut sum = 0_u64;
    let mut below = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = digits(rest)?;
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let (_, millis) = TIMES.into_iter().find(|(name, _)| *name == unit)?;
        if millis >= below {
            return None;
        }
        below = millis;
        sum = sum.checked_add(number.checked_mul(millis)?)?;
        rest = next;
    }
    (below != u64::MAX).then_some(sum)
}

fn strict_size(text: &str) -> Option<u64> {
    let (number, unit) = digits(text)?;
    let (_, of) = SIZES
        .into_iter()
        .find(|(name, _)| *name == unit || (unit.is_empty() && *name == "B"))?;
    number.checked_mul(of)
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn meant_duration(text: &str) -> Option<String> {
    let (number, unit) = loose(text)?;
    let unit = match unit.as_str() {
        "" => "s",
        unit => named(unit, &LOOSE_TIMES).unwrap_or(unit),
    };
    let (_, millis) = TIMES.into_iter().find(|(name, _)| *name == unit)?;
    let millis = (number * millis as f64).round();
    (millis < 1e15).then(|| show_duration(Duration::from_millis(millis as u64)))
}

fn meant_size(text: &str) -> Option<String> {
    let (number, unit) = loose(text)?;
    let unit = named(&unit, &LOOSE_SIZES).unwrap_or(&unit);
    let (_, of) = SIZES
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let bytes = (number * of as f64).round();
    (bytes < 1e15).then(|| show_size(bytes as u64))
}

/// A number, fractions too, and a unit in lower case, blanks and `_` left out.
fn loose(text: &str) -> Option<(f64, String)> {
    let text: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '_')
        .collect();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].to_ascii_lowercase()))
}

fn named<'a>(unit: &str, names: &[(&str, &'a str)]) -> Option<&'a str> {
    names
        .iter()
        .find(|(loose, _)| *loose == unit)
        .map(|(_, strict)| *strict)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meant_by(text: &str) -> Option<String> {
        duration(text).unwrap_err().meant
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("1s500ms", 1_500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_and_what_was_meant() {
        for (text, meant) in [
            ("10", Some("10s")),
            ("10 s", Some("10s")),
            ("1.5s", Some("1s500ms")),
            ("10S", Some("10s")),
            ("5 minutes", Some("5m")),
            ("1_000ms", Some("1s")),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("soon", None),
            ("1s1s", None),
            ("1s1m", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(meant_by(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("256MiB", 268_435_456),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_and_what_was_meant() {
        for (text, meant) in [
            ("64m", Some("64MiB")),
            ("64M", Some("64MiB")),
            ("64 MiB", Some("64MiB")),
            ("64mib", Some("64MiB")),
            ("0.5MiB", Some("512KiB")),
            ("big", None),
            ("", None),
            ("99999999999TiB", None),
        ] {
            let no = size(text).unwrap_err();
            assert_eq!(no.meant.as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("1KiB/s"), Ok(1_024));
        assert_eq!(rate("0"), Ok(0));
        for (text, meant) in [("1KiB", "1KiB/s"), ("1k/s", "1KiB/s"), ("5 kbps", "5kB/s")] {
            assert_eq!(rate(text).unwrap_err().meant.as_deref(), Some(meant));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0..1_u64 << 50, bytes in 0..1_u64 << 50) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn what_is_meant_is_valid(text in "[0-9.]{1,6} ?[a-zA-Z/]{0,6}") {
            if let Err(NoQuantity { meant: Some(meant) }) = duration(&text) {
                prop_assert!(duration(&meant).is_ok(), "{}", meant);
            }
            if let Err(NoQuantity { meant: Some(meant) }) = size(&text) {
                prop_assert!(size(&meant).is_ok(), "{}", meant);
            }
            if let Err(NoQuantity { meant: Some(meant) }) = rate(&text) {
                prop_assert!(rate(&meant).is_ok(), "{}", meant);
            }
        }
    }
}

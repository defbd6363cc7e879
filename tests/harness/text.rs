//! What a script writes for bytes: escapes, holes, generated bodies, and patterns that answers are held against.

use std::time::Duration;

use regex::bytes::Regex;

use super::clock;

/// Names that holes may use: `{listen}`, `{origin}`, `{dir}` …, and the hour as the proxy sees it.
pub struct Scope<'a> {
    pub names: &'a dyn Fn(&str) -> Option<String>,
    pub advanced: Duration,
    /// What `{name=}` in a pattern caught.
    pub keep: &'a dyn Fn(&str, &[u8]),
}

impl Scope<'_> {
    fn hole(&self, name: &str) -> Result<String, String> {
        if let Some(date) = self.date(name)? {
            return Ok(date);
        }
        (self.names)(name).ok_or_else(|| format!("nobody knows the hole {{{name}}}"))
    }

    /// `now`, `now+10s`, `now-1h`, each also as `rfc850 now…` and `asctime now…`.
    fn date(&self, name: &str) -> Result<Option<String>, String> {
        let (form, when) = match name.split_once(' ') {
            Some((form @ ("rfc850" | "asctime"), when)) => (form, when),
            _ => ("imf", name),
        };
        let Some(shift) = when.strip_prefix("now") else {
            return Ok(None);
        };
        let wall = clock::wall() + self.advanced;
        let wall = match shift.split_at_checked(1) {
            Some(("+", by)) => wall + duration(by)?,
            Some(("-", by)) => wall.saturating_sub(duration(by)?),
            _ if shift.is_empty() => wall,
            _ => return Ok(None),
        };
        Ok(Some(format_date(form, wall.as_secs())))
    }
}

/// Escapes (`\r \n \t \0 \\ \" \{ \xNN`) and holes made bytes.
pub fn bytes(text: &str, scope: &Scope) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '\\' => rest = escape(rest, &mut out)?,
            '{' => {
                let end = rest.find('}').ok_or("a hole without its end")?;
                let name = &rest[1..end];
                match name
                    .rsplit_once('*')
                    .map(|(what, times)| (what, times.parse()))
                {
                    Some((what, Ok(times))) => out.extend(bytes(what, scope)?.repeat(times)),
                    _ => out.extend_from_slice(scope.hole(name)?.as_bytes()),
                }
                rest = &rest[end + 1..];
            }
            _ => {
                let (c, after) = rest.split_at(c.len_utf8());
                out.extend_from_slice(c.as_bytes());
                rest = after;
            }
        }
    }
    Ok(out)
}

/// One escape at the start of `text`; what follows it.
fn escape<'t>(text: &'t str, out: &mut Vec<u8>) -> Result<&'t str, String> {
    let mut chars = text.chars();
    chars.next();
    let byte = match chars.next() {
        Some('r') => b'\r',
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('0') => 0,
        Some('x') => {
            let hex = text.get(2..4).ok_or("\\x wants two digits")?;
            out.push(u8::from_str_radix(hex, 16).map_err(|_| format!("\\x{hex}"))?);
            return Ok(&text[4..]);
        }
        Some(c @ ('\\' | '"' | '{' | '}' | '#')) => c as u8,
        other => return Err(format!("unknown escape \\{}", other.unwrap_or(' '))),
    };
    out.push(byte);
    Ok(chars.as_str())
}

/// Bytes that may be long: strings, repeated strings, generated bodies and slices of them, one after the other.
#[derive(Clone, Debug)]
pub struct Expr(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String, usize),
    Generated { from: usize, to: usize, seed: u64 },
}

impl Expr {
    /// `"abc" "d"*1000 8MiB seed 3 slice 10..20 of 1KiB seed 3`
    pub fn parse(text: &str) -> Result<Expr, String> {
        let mut pieces = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            rest = if rest.starts_with('"') {
                let (text, after) = quoted(rest)?;
                let (times, after) = match after.strip_prefix('*') {
                    Some(after) => {
                        let (count, after) = word(after);
                        (count.parse().map_err(|_| format!("*{count}"))?, after)
                    }
                    None => (1, after),
                };
                pieces.push(Piece::Text(text.to_owned(), times));
                after
            } else if let Some(after) = rest.strip_prefix("slice ") {
                let (range, after) = word(after);
                let (from, to) = range
                    .split_once("..")
                    .ok_or("slice FROM..TO of SIZE seed N")?;
                let after = after
                    .strip_prefix("of ")
                    .ok_or("slice FROM..TO of SIZE seed N")?;
                let (_, seed, after) = generated(after)?;
                pieces.push(Piece::Generated {
                    from: size(from)?,
                    to: size(to)?,
                    seed,
                });
                after
            } else {
                let (to, seed, after) = generated(rest)?;
                pieces.push(Piece::Generated { from: 0, to, seed });
                after
            };
            rest = rest.trim_start();
        }
        Ok(Expr(pieces))
    }

    /// Each piece by itself: one chunk each.
    pub fn pieces(self) -> Vec<Expr> {
        self.0.into_iter().map(|piece| Expr(vec![piece])).collect()
    }

    pub fn render(&self, scope: &Scope) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text, times) => out.extend(bytes(text, scope)?.repeat(*times)),
                Piece::Generated { from, to, seed } => {
                    let mut body = generate(*to, *seed);
                    out.extend(body.drain(*from.min(to)..));
                }
            }
        }
        Ok(out)
    }
}

fn generated(text: &str) -> Result<(usize, u64, &str), String> {
    let (length, after) = word(text);
    let after = after
        .strip_prefix("seed ")
        .ok_or_else(|| format!("SIZE seed N, not {text}"))?;
    let (seed, after) = word(after);
    Ok((
        size(length)?,
        seed.parse().map_err(|_| format!("seed {seed}"))?,
        after,
    ))
}

/// Bytes that look like nothing else, the same for the same seed.
pub fn generate(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn word(text: &str) -> (&str, &str) {
    match text.split_once(' ') {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

/// A string in quotes, still escaped, and what follows it.
pub fn quoted(text: &str) -> Result<(&str, &str), String> {
    let inner = text.strip_prefix('"').ok_or("a string in quotes")?;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    Err("a string without its end".into())
}

/// `250ms`, `10s`, `2m`, `1h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let count: u64 = text[..digits]
        .parse()
        .map_err(|_| format!("not a duration: {text}"))?;
    let unit = match &text[digits..] {
        "ms" => return Ok(Duration::from_millis(count)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("not a duration: {text}")),
    };
    Ok(Duration::from_secs(count * unit))
}

/// `12`, `4KiB`, `8MiB`.
pub fn size(text: &str) -> Result<usize, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let count: usize = text[..digits]
        .parse()
        .map_err(|_| format!("not a size: {text}"))?;
    match &text[digits..] {
        "" | "B" => Ok(count),
        "KiB" => Ok(count << 10),
        "MiB" => Ok(count << 20),
        _ => Err(format!("not a size: {text}")),
    }
}

/// A whole value: `text {*} text` (anything), `{3..5}` (a number in that range), `{/regex/}`,
/// `{name=}` (anything, kept as `{name}`), other holes filled first.
pub fn matches(pattern: &str, value: &[u8], scope: &Scope) -> Result<bool, String> {
    let mut regex = String::from("(?s-u)^");
    let mut ranges = Vec::new();
    let mut caught = Vec::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '\\']) {
        literal(&rest.as_bytes()[..at], &mut regex);
        if rest[at..].starts_with('\\') {
            let mut out = Vec::new();
            rest = escape(&rest[at..], &mut out)?;
            literal(&out, &mut regex);
            continue;
        }
        let hole = &rest[at + 1..];
        let end = if hole.starts_with('/') {
            hole.find("/}").map(|end| end + 1)
        } else {
            hole.find('}')
        };
        let end = end.ok_or("a hole without its end")?;
        let name = &hole[..end];
        if name == "*" {
            regex.push_str(".*");
        } else if let Some(name) = name.strip_suffix('=') {
            regex.push_str(&format!("(?P<k{}>.*)", caught.len()));
            caught.push(name);
        } else if let Some(inner) = name
            .strip_prefix('/')
            .and_then(|name| name.strip_suffix('/'))
        {
            regex.push_str(&format!("(?:{inner})"));
        } else if let Some(range) = number_range(name) {
            ranges.push(range);
            regex.push_str(&format!("(?P<r{}>-?[0-9]+)", ranges.len() - 1));
        } else {
            literal(&bytes(&format!("{{{name}}}"), scope)?, &mut regex);
        }
        rest = &hole[end + 1..];
    }
    literal(rest.as_bytes(), &mut regex);
    regex.push('$');
    let regex = self::regex(&regex)?;
    let Some(found) = regex.captures(value) else {
        return Ok(false);
    };
    for (index, name) in caught.iter().enumerate() {
        if let Some(value) = found.name(&format!("k{index}")) {
            (scope.keep)(name, value.as_bytes());
        }
    }
    Ok(ranges.iter().enumerate().all(|(index, range)| {
        found
            .name(&format!("r{index}"))
            .and_then(|digits| {
                std::str::from_utf8(digits.as_bytes())
                    .ok()?
                    .parse::<i64>()
                    .ok()
            })
            .is_some_and(|number| range.contains(&number))
    }))
}

fn literal(text: &[u8], regex: &mut String) {
    for byte in text {
        if byte.is_ascii_alphanumeric() || *byte == b' ' {
            regex.push(char::from(*byte));
        } else {
            regex.push_str(&format!("\\x{byte:02x}"));
        }
    }
}

fn number_range(text: &str) -> Option<std::ops::RangeInclusive<i64>> {
    let (low, high) = text.split_once("..")?;
    Some(low.parse().ok()?..=high.parse().ok()?)
}

pub fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

/// Bytes as a script would write them, cut at a length that a failure message can bear.
pub fn show(bytes: &[u8]) -> String {
    const MOST: usize = 1500;
    let mut out: String = bytes
        .iter()
        .take(MOST)
        .map(|byte| match byte {
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            0x20..=0x7e => char::from(*byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect();
    if bytes.len() > MOST {
        out.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    out
}

/// The three forms of RFC 9110 §5.6.7.
fn format_date(form: &str, unix: u64) -> String {
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = unix / 86_400;
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    let weekday = DAYS[(days % 7) as usize];
    // Days since 0000-03-01, by eras of 400 years.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let name = MONTHS[(month - 1) as usize];
    match form {
        "rfc850" => format!(
            "{weekday}, {day:02}-{name}-{:02} {hour:02}:{minute:02}:{second:02} GMT",
            year % 100
        ),
        "asctime" => format!(
            "{} {name} {day:>2} {hour:02}:{minute:02}:{second:02} {year}",
            &weekday[..3]
        ),
        _ => format!(
            "{}, {day:02} {name} {year} {hour:02}:{minute:02}:{second:02} GMT",
            &weekday[..3]
        ),
    }
}

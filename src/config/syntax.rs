//! What is TOML in a file and what is not.
//!
//! The parser goes on after an error, as well as it can. What it makes of the broken part is a guess, so mistakes found
//! there are [`Hidden`]: one slip of the writer should read as one mistake.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Error};

use super::hide;
use super::report::{At, Mistake, place};

/// The file's tables, as far as it is TOML, and every syntax error.
pub fn parse<'t>(text: &'t str, mistakes: &mut Vec<Mistake>) -> (DeTable<'t>, Hidden) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let root = root.into_inner();
    let hidden = Hidden::behind(text, &root, &errors);
    let mut last_line = 0;
    let mut errors: Vec<_> = errors
        .into_iter()
        .map(|error| (error.span().unwrap_or(0..0), error))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, error) in errors {
        let (line, ..) = place(text, span.start);
        if line == last_line || hidden.unclosed.iter().any(|un| un.contains(&span.start)) {
            continue;
        }
        last_line = line;
        mistakes.push(syntax(text, span, error.message()));
    }
    for open in &hidden.unclosed {
        let at = At::File(open.start..open.start + 1);
        mistakes.push(Mistake::new(&at, "this is opened but never closed"));
    }
    (root, hidden)
}

/// A syntax error; the commonest, a text without quotes, in words of ours.
fn syntax(text: &str, span: Range<usize>, message: &str) -> Mistake {
    let (_, _, line) = place(text, span.start);
    let value = line.split_once('=').map_or("", |(_, value)| value);
    let value = value.split(" #").next().unwrap_or_default().trim();
    let is_bare = value.starts_with(|c: char| c.is_alphanumeric() || "./:$*-".contains(c));
    if !is_bare || value.contains(['"', '\'']) {
        return Mistake::new(&At::File(span), message);
    }
    let start = text[..span.start]
        .rfind('\n')
        .map_or(0, |newline| newline + 1);
    let from = start + line.find(value).unwrap_or_default();
    let at = At::File(from..from + value.len());
    let mistake = Mistake::new(&at, "a text without quotes");
    if hide::hides(text, span.start) {
        return mistake.help("put it in quotes");
    }
    let help = match value.to_ascii_lowercase().as_str() {
        word @ ("true" | "false") => format!("did you mean `{word}`?"),
        _ => format!("did you mean `\"{}\"`?", value.escape_debug()),
    };
    mistake.help(help)
}

/// Where the recovered table can't be trusted: lines with a syntax error, and whatever an unclosed bracket swallowed.
/// A mistake found there would be the parser's, not the writer's.
pub struct Hidden {
    lines: Vec<usize>,
    /// Values.
    unclosed: Vec<Range<usize>>,
    /// What stands below a header that was not understood, up to the next one.
    headless: Vec<Range<usize>>,
}

impl Hidden {
    fn behind(text: &str, root: &DeTable<'_>, errors: &[Error]) -> Self {
        let mut lines = Vec::new();
        let mut unclosed = Vec::new();
        let mut headless = Vec::new();
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            lines.push(place(text, at).0);
            if place(text, at).2.trim_start().starts_with('[') {
                let next = text[at..].find("\n[").map_or(text.len(), |next| at + next);
                headless.push(at..next);
            } else if error.message().starts_with("unclosed")
                && let Some(span) = opening(text, root, at)
            {
                unclosed.push(span);
            }
        }
        unclosed.dedup();
        Hidden {
            lines,
            unclosed,
            headless,
        }
    }

    pub fn covers(&self, text: &str, at: &At) -> bool {
        let At::File(span) = at else { return false };
        self.lines.contains(&place(text, span.start).0)
            || self.unclosed.iter().any(|open| open.contains(&span.start))
            || self.headless.iter().any(|lost| lost.contains(&span.start))
    }
}

/// The outermost bracketed value that reaches to `end`.
fn opening(text: &str, table: &DeTable<'_>, end: usize) -> Option<Range<usize>> {
    table.values().find_map(|value| {
        let span = value.span();
        match value.get_ref() {
            DeValue::Array(array) if is_header_list(array) && !is_inline(text, array) => {
                array.iter().find_map(|element| match element.get_ref() {
                    DeValue::Table(table) => opening(text, table, end),
                    _ => None,
                })
            }
            DeValue::Array(_) | DeValue::Table(_) if span.start < end && end <= span.end => {
                Some(span.start..end.max(span.end) + 1)
            }
            DeValue::Table(table) => opening(text, table, end),
            _ => None,
        }
    })
}

/// Whether an array stands between brackets, its tables between braces.
fn is_inline(text: &str, array: &DeArray<'_>) -> bool {
    let begins = |element: &Spanned<DeValue<'_>>| {
        let rest = text.get(element.span().start..);
        rest.is_some_and(|rest| rest.starts_with('{'))
    };
    array.iter().any(begins)
}

/// Whether an array is made of tables, as `[[name]]` makes them.
pub fn is_header_list(array: &DeArray<'_>) -> bool {
    array.iter().any(|element| element.get_ref().is_table())
}

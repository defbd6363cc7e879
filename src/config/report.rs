//! Mistakes, told the way rustc tells them: where, what, and what to write instead.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::hide;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum At {
    /// Nobody wrote it: the declared default.
    Default,
    /// Bytes of the config file.
    File(Range<usize>),
    /// A flag of the command line.
    Flag(&'static str),
    /// It was written wrongly and has been told; what stands in for it deserves no further word.
    Told,
}

impl At {
    /// Whether somebody wrote it, and rightly.
    pub fn is_written(&self) -> bool {
        matches!(self, At::File(_) | At::Flag(_))
    }
}

/// One thing to put right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    pub at: At,
    pub what: String,
    pub help: Option<String>,
}

impl Mistake {
    pub fn new(at: &At, what: impl Into<String>) -> Self {
        Mistake {
            at: at.clone(),
            what: what.into(),
            help: None,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Every mistake of one configuration, in the order of the file, those of flags first.
#[derive(Clone, Debug)]
pub struct Report {
    file: Option<String>,
    text: String,
    mistakes: Vec<Mistake>,
}

impl Report {
    /// `file` is the name to print, `text` what it holds.
    pub fn new(file: Option<String>, text: String, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| match &mistake.at {
            At::Flag(_) => (0, 0),
            At::File(span) => (1, span.start),
            At::Default | At::Told => (2, 0),
        });
        mistakes.dedup();
        Report {
            file,
            text,
            mistakes,
        }
    }

    /// With terminal colours or without.
    pub fn render(&self, colour: bool) -> String {
        let ink = if colour { Ink::COLOUR } else { Ink::PLAIN };
        let mut out = String::new();
        for mistake in &self.mistakes {
            self.one(mistake, &ink, &mut out);
        }
        out
    }

    /// `2 mistakes in tidegate.toml`, for the last line.
    pub fn count(&self) -> String {
        let many = match self.mistakes.len() {
            1 => "1 mistake".to_owned(),
            n => format!("{n} mistakes"),
        };
        match &self.file {
            Some(file) => format!("{many} in {file}"),
            None => many,
        }
    }

    /// For programs: where, what, and help of each mistake.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        self.mistakes
            .iter()
            .map(|mistake| {
                let (file, line, column, flag) = match &mistake.at {
                    At::File(span) => {
                        let (line, column, _) = place(&self.text, span.start);
                        (self.file.as_deref(), Some(line), Some(column), None)
                    }
                    At::Flag(flag) => (None, None, None, Some(*flag)),
                    At::Default | At::Told => (self.file.as_deref(), None, None, None),
                };
                Entry {
                    file,
                    line,
                    column,
                    flag,
                    what: &mistake.what,
                    help: mistake.help.as_deref(),
                }
            })
            .collect()
    }

    fn one(&self, mistake: &Mistake, ink: &Ink, out: &mut String) {
        let Ink {
            red,
            blue,
            bold,
            end,
        } = ink;
        *out += &format!("{red}error{end}{bold}: {}{end}\n", mistake.what);
        match (&mistake.at, &self.file) {
            (At::File(span), file) => {
                let (line, column, _) = place(&self.text, span.start);
                let file = file.as_deref().unwrap_or("config");
                let margin = " ".repeat(line.to_string().len());
                let shown = visible(&hide::shown(&self.text, span.start));
                let wide = self.text.get(span.clone()).unwrap_or_default();
                let wide = wide.lines().next().unwrap_or_default().chars().count();
                let carets = "^".repeat(
                    wide.clamp(1, (shown.chars().count() + 2).saturating_sub(column).max(1)),
                );
                let blank = " ".repeat(column - 1);
                *out += &format!("{margin}{blue}-->{end} {file}:{line}:{column}\n");
                *out += &format!("{margin} {blue}|{end}\n");
                *out += &format!("{blue}{line} |{end} {shown}\n");
                *out += &format!("{margin} {blue}|{end} {blank}{red}{carets}{end}\n");
                if let Some(help) = &mistake.help {
                    *out += &format!("{margin} {blue}={end} {bold}help{end}: {help}\n");
                }
            }
            (at, file) => {
                match (at, file) {
                    (At::Flag(flag), _) => *out += &format!(" {blue}-->{end} {flag}\n"),
                    (_, Some(file)) => *out += &format!(" {blue}-->{end} {file}\n"),
                    (_, None) => {}
                }
                if let Some(help) = &mistake.help {
                    *out += &format!("  {blue}={end} {bold}help{end}: {help}\n");
                }
            }
        }
        out.push('\n');
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// A mistake as `tidegate check --json` prints it.
#[derive(Serialize)]
pub struct Entry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'a str>,
    pub what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'a str>,
}

/// Line and column from 1 (columns in characters), and the line's text.
pub fn place(text: &str, offset: usize) -> (usize, usize, &str) {
    let offset = (0..=offset.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |end| start + end);
    let line = before.matches('\n').count() + 1;
    let column = text[start..offset].chars().count() + 1;
    (line, column, text[start..end].trim_end_matches('\r'))
}

/// A line of the file fit for a terminal: no control character gets there, and each keeps its column.
fn visible(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

struct Ink {
    red: &'static str,
    blue: &'static str,
    bold: &'static str,
    end: &'static str,
}

impl Ink {
    const PLAIN: Ink = Ink {
        red: "",
        blue: "",
        bold: "",
        end: "",
    };
    const COLOUR: Ink = Ink {
        red: "\x1b[1;31m",
        blue: "\x1b[1;34m",
        bold: "\x1b[1m",
        end: "\x1b[0m",
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[listen]\nadress = \"é\" # x\n\tb = 1\n";

    fn report(mistakes: Vec<Mistake>) -> Report {
        Report::new(Some("t.toml".to_owned()), TEXT.to_owned(), mistakes)
    }

    #[test]
    fn looks_like_rustc() {
        let mistake = Mistake::new(&At::File(9..15), "unknown key `adress` in [listen]")
            .help("did you mean `address`?");
        assert_eq!(
            report(vec![mistake]).to_string(),
            r#"error: unknown key `adress` in [listen]
 --> t.toml:2:1
  |
2 | adress = ***
  | ^^^^^^
  = help: did you mean `address`?

"#
        );
    }

    #[test]
    fn columns_count_characters_and_carets_stay_in_the_line() {
        let shown = report(vec![Mistake::new(&At::File(23..99), "x")]).to_string();
        assert!(shown.contains("t.toml:2:14"), "{shown}");
        assert_eq!(place(TEXT, 28), (3, 2, "\tb = 1"));
        assert_eq!(place(TEXT, 999).0, 4);
        assert_eq!(place("", 0), (1, 1, ""));
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let report = Report::new(
            None,
            "a = \"\x1b[31m\"".to_owned(),
            vec![Mistake::new(&At::File(0..1), "x")],
        );
        assert!(!report.to_string().contains('\x1b'));
    }

    #[test]
    fn flags_first_then_the_order_of_the_file() {
        let report = report(vec![
            Mistake::new(&At::Default, "whole"),
            Mistake::new(&At::File(20..21), "later"),
            Mistake::new(&At::File(9..10), "earlier"),
            Mistake::new(&At::Flag("--listen"), "flag"),
        ]);
        let order: Vec<_> = report.entries().iter().map(|entry| entry.what).collect();
        assert_eq!(order, ["flag", "earlier", "later", "whole"]);
        assert_eq!(report.count(), "4 mistakes in t.toml");
    }
}

//! Expressions over a request, in the Common Expression Language: read once, into a typed tree of ours that is asked of each
//! request without any allocation.
//!
//! | | |
//! |---|---|
//! | texts | `method`, `scheme`, `host`, `path`, `query`, `country`, `headers["name"]` (absent: `""`; several lines: joined by `", "`) |
//! | numbers | `asn` (unknown: 0), `size(text)` in bytes |
//! | the client's address | `client == "192.0.2.1"`, `client in ["10.0.0.0/8"]`, `listed("name of a list")` |
//! | of texts | `==`, `!=`, `in ["a", "b"]`, `startsWith`, `endsWith`, `contains`, `matches` (a pattern, found anywhere) |
//! | of numbers | `==`, `!=`, `<`, `<=`, `>`, `>=`, `in [1, 2]` |
//! | of all | `&&`, `\|\|`, `!`, `? :`, `"name" in headers` |
//!
//! What is not here is a mistake when it is read: other functions, arithmetic, and the macros that go through lists. So an
//! expression takes time by its length alone, and by that of the texts it looks at.

mod bounds;
mod check;
mod tree;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::ops::Range;

use cel::parser::Parser;
use httparse::Header;

use tree::Test;

/// What is true of some requests.
#[derive(Clone, Debug)]
pub struct Expression {
    test: Test,
    reads: Reads,
}

/// What of the databases an expression asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    pub country: bool,
    pub asn: bool,
}

/// What is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// Bytes of its text.
    pub at: Range<usize>,
    pub what: String,
    pub help: Option<String>,
}

/// Where a client is, as far as the databases know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Whereabouts {
    /// Two letters (ISO 3166-1).
    pub country: Option<[u8; 2]>,
    /// The number of the network's operator; 0 if unknown.
    pub asn: u32,
}

/// A request, as expressions see it.
pub struct View<'a> {
    pub method: &'a str,
    pub scheme: &'a str,
    /// In lower case, without a port.
    pub host: &'a str,
    /// As the cache knows it: percent codes of unreserved characters decoded.
    pub path: &'a str,
    /// As it came, without the `?`.
    pub query: &'a str,
    pub lines: &'a [Header<'a>],
    pub client: IpAddr,
    /// A bit for each list that holds the client.
    pub lists: u64,
    /// Says where the client is; asked once at most.
    pub locate: &'a dyn Fn() -> Whereabouts,
    pub located: OnceCell<Whereabouts>,
}

impl View<'_> {
    fn whereabouts(&self) -> &Whereabouts {
        self.located.get_or_init(self.locate)
    }
}

impl Expression {
    /// Reads an expression. `lists`: the names that `listed` knows, in the order of their bits.
    ///
    /// # Errors
    /// What is wrong with it, and where: at least one flaw.
    pub fn read(text: &str, lists: &[&str]) -> Result<Expression, Vec<Flaw>> {
        bounds::check(text).map_err(|flaw| vec![flaw])?;
        let parser = Parser::new().max_recursion_depth(bounds::DEEPEST);
        let parsed = parser.parse_with_source_info(text);
        let (tree, places) = parsed.map_err(|wrong| {
            let flaws = wrong.errors.iter().map(|error| Flaw {
                at: place(text, error.pos),
                what: told(&error.msg),
                help: None,
            });
            // One thing amiss has the parser complain several times.
            flaws.take(1).collect::<Vec<_>>()
        })?;
        let mut check = check::Check {
            text,
            lists,
            places: &places,
            reads: Reads::default(),
        };
        let test = check.whole(&tree).map_err(|flaw| vec![flaw])?;
        let reads = check.reads;
        Ok(Expression { test, reads })
    }

    /// Whether it is true of a request.
    pub fn holds(&self, view: &View<'_>) -> bool {
        self.test.holds(view)
    }

    pub fn reads(&self) -> Reads {
        self.reads
    }
}

/// The word at a line and column, each from 1 and in characters.
fn place(text: &str, (line, column): (isize, isize)) -> Range<usize> {
    let line = usize::try_from(line - 1).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let column = usize::try_from(column - 1).unwrap_or(0);
    let within = rest
        .char_indices()
        .nth(column)
        .map_or(rest.len(), |(at, _)| at);
    word(text, before + within)
}

/// The word, or the mark, that begins at `start`.
fn word(text: &str, start: usize) -> Range<usize> {
    let start = (0..=start.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let rest = &text[start..];
    let end = match rest.chars().next() {
        None => 0,
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(1, |at| at + 2),
        Some(c) if c == '_' || c.is_alphanumeric() => {
            let ends = |c: char| c != '_' && !c.is_alphanumeric();
            rest.find(ends).unwrap_or(rest.len())
        }
        Some(c) => match rest.get(..2) {
            Some(two @ ("==" | "!=" | "<=" | ">=" | "&&" | "||")) => two.len(),
            _ => c.len_utf8(),
        },
    };
    start..start + end
}

/// The parser's words, in one line.
fn told(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let short = message.split(" expecting ").next().unwrap_or(message);
    let short: String = short.chars().take(200).collect();
    format!("not an expression: {}", short.escape_debug())
}

#[cfg(test)]
mod tests;

//! Whether an expression is small enough for the parser, whose stack grows with what stands in each other or behind each
//! other, and which bounds only some of that.

use super::{Flaw, word};

/// The longest expression, in bytes.
pub const LONGEST: usize = 4096;
/// How deep brackets and conditions may stand in each other.
pub const DEEPEST: u16 = 32;
/// How many calls, indexes and operators may follow each other without `&&`, `||` or a comma between them, in bytes.
const CHAINED: usize = 24;

/// # Errors
/// What is too much, and where.
pub fn check(text: &str) -> Result<(), Flaw> {
    let flaw = |at, what: String, help: &str| {
        Err(Flaw {
            at,
            what,
            help: Some(help.to_owned()),
        })
    };
    if text.len() > LONGEST {
        let what = format!("an expression of {} bytes", text.len());
        let help = format!("{LONGEST} at most; make it several rules, or a list");
        return flaw(0..text.len(), what, &help);
    }
    // For each bracket that is open, the chain in it.
    let mut chains = vec![0usize];
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        let rest = &text.as_bytes()[at..];
        let (len, links) = match byte {
            b'\'' | b'"' => (quoted(rest, is_raw(&text.as_bytes()[..at])), 0),
            b'/' if rest.starts_with(b"//") => {
                let end = memchr::memchr2(b'\n', b'\r', rest);
                (end.unwrap_or(rest.len()), 0)
            }
            b'(' | b'[' | b'{' => {
                if let Some(chain) = chains.last_mut() {
                    *chain += 1;
                }
                chains.push(0);
                (1, 0)
            }
            b')' | b']' | b'}' => {
                if chains.len() > 1 {
                    chains.pop();
                }
                (1, 0)
            }
            b',' => {
                chains.last_mut().into_iter().for_each(|chain| *chain = 0);
                (1, 0)
            }
            b'&' | b'|' if rest.get(1) == Some(byte) => {
                chains.last_mut().into_iter().for_each(|chain| *chain = 0);
                (2, 0)
            }
            // Many of these are one.
            b'!' if rest.get(1) != Some(&b'=') => (1, 0),
            byte if byte.is_ascii_alphanumeric() || *byte == b'_' => {
                let ends = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'_';
                let len = rest.iter().position(ends).unwrap_or(rest.len());
                (len, usize::from(&rest[..len] == b"in"))
            }
            byte if byte.is_ascii_punctuation() => (1, 1),
            _ => (1, 0),
        };
        if let Some(chain) = chains.last_mut() {
            *chain += links;
            if *chain > CHAINED {
                let help = "join what is compared with `&&` or `||`";
                return flaw(word(text, at), "too much in a row".to_owned(), help);
            }
        }
        if chains.len() > usize::from(DEEPEST) {
            let what = "brackets that stand too deep in each other".to_owned();
            return flaw(word(text, at), what, "make it several rules");
        }
        at += len;
    }
    Ok(())
}

/// Whether what stands before a quote makes its text a raw one.
fn is_raw(before: &[u8]) -> bool {
    let word = before
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
    let word: Vec<u8> = word.take(3).map(u8::to_ascii_lowercase).collect();
    matches!(&word[..], b"r" | b"rb" | b"br")
}

/// How long the text is that begins here with its quote.
fn quoted(rest: &[u8], is_raw: bool) -> usize {
    let triple = [rest[0]; 3];
    let end: &[u8] = if rest.starts_with(&triple) {
        &triple
    } else {
        &triple[..1]
    };
    let mut at = end.len();
    while at < rest.len() {
        match rest[at] {
            b'\\' if !is_raw => at += 2,
            _ if rest[at..].starts_with(end) => return at + end.len(),
            // It ends without its quote, and that is a flaw of its own.
            b'\n' | b'\r' if end.len() == 1 => return at,
            _ => at += 1,
        }
    }
    rest.len()
}

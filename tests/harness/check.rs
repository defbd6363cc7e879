//! What is held against an answer, or against a request at the origin.

use super::script::Check;
use super::text::{Scope, matches, regex, show};
use super::wire::{Framing, Head};

/// A message with its body, as far as a check may ask.
pub struct Message<'a> {
    pub head: &'a Head,
    pub framing: Framing,
    pub body: &'a [u8],
}

pub fn check(check: &Check, message: &Message, scope: &Scope) -> Result<(), String> {
    let head = message.head;
    match check {
        Check::Field(name, patterns) => {
            let values = head.all(name);
            let mut fits = values.len() == patterns.len();
            for (pattern, value) in patterns.iter().zip(&values) {
                fits &= matches(pattern, value, scope)?;
            }
            require(fits, || {
                format!("{name}: wanted {patterns:?}, got {}", listed(&values))
            })
        }
        Check::Like(name, like) => {
            let values = head.all(name);
            let fits = match values.as_slice() {
                [] => false,
                values => regex(like)?.is_match(&values.join(&b", "[..])),
            };
            require(fits, || {
                format!("{name}: wanted like {like}, got {}", listed(&values))
            })
        }
        Check::Absent(name) => {
            let values = head.all(name);
            require(values.is_empty(), || {
                format!("{name}: wanted none, got {}", listed(&values))
            })
        }
        Check::Body(expr) => {
            let wanted = expr.render(scope)?;
            require(wanted == message.body, || differ(&wanted, message.body))
        }
        Check::BodyLike(like) => require(regex(like)?.is_match(message.body), || {
            format!("a body like {like}, got {}", show(message.body))
        }),
        Check::Framing(wanted) => {
            let framing = match message.framing {
                Framing::None => "none",
                Framing::Length(_) => "length",
                Framing::Chunked => "chunked",
                Framing::Close => "close",
            };
            require(framing == wanted, || {
                format!("framing {wanted}, got {framing}")
            })
        }
        Check::Cache(wanted) => told(wanted, head, scope),
    }
}

/// Our member of Cache-Status: the last one, and the only one of that name.
fn told(wanted: &str, head: &Head, scope: &Scope) -> Result<(), String> {
    let joined = head.all("cache-status").join(&b", "[..]);
    let joined = String::from_utf8_lossy(&joined).into_owned();
    let member = joined.rsplit(", ").next().unwrap_or_default();
    let ours = joined
        .split(", ")
        .filter(|member| member.starts_with("Tidegate"))
        .count();
    require(ours == 1, || {
        format!("one member of ours in Cache-Status: {joined}")
    })?;
    let has = |word: &str| {
        member
            .split("; ")
            .any(|held| held == word || held.starts_with(&format!("{word}=")))
    };
    let fits = match wanted {
        "hit" => matches(
            "Tidegate; hit; ttl={0..4000000000}",
            member.as_bytes(),
            scope,
        )?,
        "stored" => has("fwd") && has("stored") && !has("hit"),
        "unstored" => has("fwd") && !has("stored") && !has("hit"),
        "forwarded" => has("fwd") && !has("hit"),
        _ => matches(&format!("Tidegate; {wanted}"), member.as_bytes(), scope)?,
    };
    require(fits, || {
        format!("Cache-Status: wanted {wanted}, got {joined}")
    })
}

fn require(fits: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if fits { Ok(()) } else { Err(why()) }
}

fn listed(values: &[&[u8]]) -> String {
    match values {
        [] => "none".into(),
        _ => values
            .iter()
            .map(|value| show(value))
            .collect::<Vec<_>>()
            .join(" / "),
    }
}

pub fn differ(wanted: &[u8], got: &[u8]) -> String {
    let at = wanted.iter().zip(got).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(20);
    format!(
        "the body differs at byte {at} ({} wanted, {} got): wanted …{}, got …{}",
        wanted.len(),
        got.len(),
        show(&wanted[from..wanted.len().min(at + 60)]),
        show(&got[from..got.len().min(at + 60)]),
    )
}

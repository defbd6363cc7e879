//! What of a page a client gets: the whole of it, a range, or word that it has it already.

use std::ops::Range;

use crate::cache::entry::Head;
use crate::rules::conditional::{self, Outcome};
use crate::rules::range::{self, Ranges};
use crate::rules::request::{Method, Request};

/// A part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// For HEAD.
    HeadOnly,
    NotModified,
    Range(Range<u64>),
    Ranges(Vec<Range<u64>>),
    Unsatisfiable,
}

impl Part {
    /// What `request` asks for of a page with this head and, if it is known, this size. `wall` in Unix seconds.
    pub fn of(request: &Request, head: &Head, size: Option<u64>, wall: u64) -> Part {
        let validators = head.validators();
        let known = &request.known;
        let conditional = known.if_none_match.is_some() || known.if_modified_since.is_some();
        if conditional
            && conditional::evaluate(request, head.status, &validators, wall)
                == Outcome::NotModified
        {
            return Part::NotModified;
        }
        if request.method == Method::Head {
            return Part::HeadOnly;
        }
        match (known.range, size) {
            (Some(range), Some(size))
                if head.status == 200 && range_stands(request, head, wall) =>
            {
                match range::resolve(range, size) {
                    Ranges::Whole => Part::Whole,
                    Ranges::Single(range) => Part::Range(range),
                    Ranges::Multi(ranges) => Part::Ranges(ranges),
                    Ranges::Unsatisfiable => Part::Unsatisfiable,
                }
            }
            _ => Part::Whole,
        }
    }
}

/// A date is no validator where the page goes out in several codings: it is the same for all of them, and their bytes aren't
/// (RFC 9110 §8.8.2.2).
fn range_stands(request: &Request, head: &Head, wall: u64) -> bool {
    let mut validators = head.validators();
    validators.last_modified = validators.last_modified.filter(|_| !head.may_encode);
    request
        .known
        .if_range
        .is_none_or(|value| range::if_range(value, &validators, wall))
}

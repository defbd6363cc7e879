//! An answer's head has come: what is it to us?

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Errand;
use crate::cache::entry::Head;
use crate::config::policy::Route;
use crate::origin::OriginHead;
use crate::rules::date;
use crate::rules::encoding;
use crate::rules::host::Scheme;
use crate::rules::response::BodyFraming;
use crate::rules::reuse::is_origin_error;
use crate::rules::storing::{self, Refusal, StoreTerms, Terms, Verdict};
use crate::rules::tags;
use crate::rules::time::Now;
use crate::rules::validate;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// What to do with an answer.
#[derive(Debug)]
pub enum Arrived {
    /// The stored page is still true: with these fields.
    NotModified(HeaderMap, Box<Terms>),
    /// It is true, for this request alone. `outdated`: the origin wants it stored no longer.
    NotModifiedOnce { fields: HeaderMap, outdated: bool },
    /// It validates nothing we have: ask again without validators.
    AskAgain,
    /// For everyone whose request selects it; stored when whole.
    Share(Box<Terms>),
    /// For the leader alone.
    LeaderOnly(Alone),
    /// An error that the stored page, or a shared failure, stands in for.
    Failed(u16),
    /// Not an answer to what was asked.
    Nonsense(&'static str),
}

/// Why an answer is its leader's alone, and what follows.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    pub why: &'static str,
    /// It was for the request's Authorization: those who followed without one may try together.
    pub oddity: bool,
    /// The page's next requests need not wait for each other.
    pub mark: bool,
    /// What is stored of the page is not to be served any longer.
    pub outdates: bool,
}

impl Alone {
    /// Nothing follows for others.
    pub fn just(why: &'static str) -> Alone {
        Alone {
            why,
            oddity: false,
            mark: false,
            outdates: false,
        }
    }

    fn refused(refusal: Refusal, status: u16) -> Alone {
        let own_doing = refusal.is_the_requests();
        Alone {
            why: refusal.why(),
            oddity: refusal == Refusal::Authorization,
            // Who is refused for being somebody has company: all of its class are.
            mark: (!own_doing || refusal == Refusal::Identified) && !is_origin_error(status),
            outdates: !own_doing && status < 400,
        }
    }
}

/// Judges the head of an answer to `errand`.
pub fn arrived(
    errand: &Errand,
    head: &OriginHead,
    validating: bool,
    now: Now,
    max_object: u64,
    delay: Duration,
) -> Arrived {
    let own_terms = &errand.route.store;
    match head.status {
        304 if validating => return not_modified(errand, head, own_terms, now, delay),
        304 if !errand.partial_or_conditional => {
            return Arrived::Nonsense("304 to an unconditional request");
        }
        206 if !errand.partial_or_conditional => {
            return Arrived::Nonsense("206 to a request without Range");
        }
        status if is_origin_error(status) && errand.has_stand_in(now) => {
            return Arrived::Failed(status);
        }
        _ => {}
    }
    if errand.single_reader {
        // It was asked for with what only this client sends.
        return Arrived::LeaderOnly(Alone::just("asked for one reader"));
    }
    if is_event_stream(&head.fields) {
        return Arrived::LeaderOnly(Alone {
            mark: true,
            ..Alone::just("event stream")
        });
    }
    if matches!(head.framing, BodyFraming::Length(length) if length > max_object) {
        return Arrived::LeaderOnly(Alone {
            mark: true,
            ..Alone::just("larger than max_object_size")
        });
    }
    match judge(errand, head.status, &head.fields, own_terms, now, delay) {
        Verdict::Refuse(refusal) => Arrived::LeaderOnly(Alone::refused(refusal, head.status)),
        Verdict::Store(terms) => Arrived::Share(Box::new(terms)),
    }
}

/// What of an answer's fields clients don't see.
fn hidden(route: &Route) -> Vec<HeaderName> {
    let mut hidden = Vec::new();
    // Ours to read, not the client's, unless its route says otherwise.
    if !route.show_tags {
        hidden.extend(tags::FIELDS);
    }
    if route.x_cache {
        hidden.push(X_CACHE);
    }
    hidden
}

/// An answer's head as clients get it: what they don't see left out, and what its route adds where the origin was silent.
/// `shared`: the terms on which others may get it too, and how long its body is.
pub fn render(
    status: u16,
    fields: &HeaderMap,
    route: &Route,
    scheme: Scheme,
    shared: Option<(&Terms, Option<u64>)>,
) -> Head {
    let hsts = route.hsts.clone().filter(|_| scheme == Scheme::Https);
    let hsts = hsts.map(|value| (header::STRICT_TRANSPORT_SECURITY, value));
    let added = route.added.iter().cloned().chain(hsts);
    let mut own: Vec<_> = added
        .filter(|(name, _)| !fields.contains_key(name))
        .collect();
    let may_encode = !route.compress.is_empty()
        && shared.is_some_and(|(terms, length)| {
            !terms.no_transform && length.is_none_or(|length| encoding::SIZES.contains(&length))
        })
        && encoding::may_encode(fields);
    if may_encode {
        own.extend(encoding::vary_line(fields));
    }
    let mut head = Head::render(status, fields, &hidden(route), &own);
    head.may_encode = may_encode;
    head
}

/// An event stream never ends by itself and is never whole.
pub fn is_event_stream(fields: &HeaderMap) -> bool {
    let kind = fields
        .get(header::CONTENT_TYPE)
        .map_or(&[][..], |value| value.as_bytes());
    kind.get(..EVENT_STREAM.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The fields that go to clients, with what this proxy owes them.
pub fn dressed(head: &OriginHead, terms: Option<&Terms>, now: Now) -> HeaderMap {
    let mut fields = head.fields.clone();
    match terms {
        Some(terms) => storing::dress(&mut fields, terms, now.wall),
        None => with_date(&mut fields, now),
    }
    let via = match head.version {
        "2" => "2 tidegate",
        "1.0" => "1.0 tidegate",
        _ => "1.1 tidegate",
    };
    fields.append(header::VIA, HeaderValue::from_static(via));
    fields
}

/// A missing Date is the time it was received (RFC 9110 §6.6.1).
fn with_date(fields: &mut HeaderMap, now: Now) {
    if !fields.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_bytes(&date::format(now.wall))
    {
        fields.insert(header::DATE, date);
    }
}

fn not_modified(
    errand: &Errand,
    head: &OriginHead,
    own: &StoreTerms,
    now: Now,
    delay: Duration,
) -> Arrived {
    let Some(stored) = errand.stored.as_ref() else {
        return Arrived::AskAgain;
    };
    let before = stored.head.to_map();
    if !validate::matches(&before, &head.fields) {
        return Arrived::AskAgain;
    }
    let mut brought = head.fields.clone();
    with_date(&mut brought, now);
    let merged = validate::merge(&before, &brought);
    match judge(errand, stored.head.status, &merged, own, now, delay) {
        Verdict::Store(_) if errand.single_reader => Arrived::NotModifiedOnce {
            fields: merged,
            outdated: false,
        },
        Verdict::Store(terms) => Arrived::NotModified(merged, Box::new(terms)),
        Verdict::Refuse(refusal) => Arrived::NotModifiedOnce {
            fields: merged,
            outdated: !refusal.is_the_requests(),
        },
    }
}

fn judge(
    errand: &Errand,
    status: u16,
    fields: &HeaderMap,
    own: &StoreTerms,
    now: Now,
    delay: Duration,
) -> Verdict {
    storing::judge(&errand.asked, status, fields, own, now, delay)
}

//! What a fetch is to bring, and why.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora::http::RequestHeader;

use super::{Bill, Trip};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::config::policy::Route;
use crate::origin::{Ask, Permit, Steer, Upstream, Wanted};
use crate::rules::client::Client;
use crate::rules::host::Scheme;
use crate::rules::identity::Class;
use crate::rules::reuse::{Demand, Reuse};
use crate::rules::storing::Asked;
use crate::rules::time::Now;
use crate::rules::validate;
use crate::rules::vary::AsSent;

/// Why the origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A client waits for it.
    Miss,
    /// A client waits for it, or gets the stored page if it takes too long or fails.
    Revalidate,
    /// Nobody waits: the stored page was served and is to be renewed.
    Refresh,
}

/// One thing to ask an origin for. Owns everything: it outlives the request that caused it.
#[derive(Debug, Clone)]
pub struct Errand {
    pub route: Arc<Route>,
    /// As its client speaks it.
    pub scheme: Scheme,
    pub key: Key,
    /// Path and query, exactly as the key has them.
    pub target: Box<str>,
    pub class: Class,
    /// Whose request caused it.
    pub client: Client,
    /// Which server that would have.
    pub steer: Steer,
    pub reason: Reason,
    /// The fields the origin gets, with Host, without validators of ours.
    pub fields: HeaderMap,
    /// What Vary selects by, beside the fields.
    pub sent: AsSent,
    /// Ask with HEAD: only ever for one reader.
    pub head_only: bool,
    /// The answer is for one reader, whatever it says.
    pub single_reader: bool,
    /// What the rules must know of the request before they let its answer be stored.
    pub asked: Asked,
    /// It carries `Range` or `If-*` of the client's: what comes back is for it alone.
    pub partial_or_conditional: bool,
    /// The stored page to validate.
    pub stored: Option<Arc<Entry>>,
    pub bill: Option<Bill>,
}

impl Errand {
    /// What the origin's queue is to know of it. `trip`: on which its answer comes.
    pub fn ask(&self, trip: &Arc<Trip>) -> Ask {
        let shared = || Arc::clone(trip) as Arc<dyn Wanted>;
        Ask {
            priority: self.route.priority,
            // A refresh is nobody's.
            client: (self.reason != Reason::Refresh).then_some(self.client),
            wanted: (!self.single_reader).then(shared),
            avoid: None,
            bulkhead: self.route.bulkhead,
            steer: Steer {
                bound: self.steer.bound.filter(|_| self.reason != Reason::Refresh),
                ..self.steer
            },
        }
    }

    /// What would bind the client to the server of `permit`, unless it is bound to that already.
    pub fn binds(&self, upstream: &Upstream, permit: &Permit) -> Option<HeaderValue> {
        let (brought, secure) = (self.steer.bound, self.scheme == Scheme::Https);
        let binds = || upstream.binds(permit.server(), brought, secure);
        (self.reason != Reason::Refresh).then(binds).flatten()
    }

    /// The request head for the origin. `validating`: with the stored page's validators.
    pub fn to_head(&self, validating: bool) -> Option<Box<RequestHeader>> {
        let method = if self.head_only {
            Method::HEAD
        } else {
            Method::GET
        };
        let mut head =
            RequestHeader::build(method, self.target.as_bytes(), Some(self.fields.len() + 2))
                .ok()?;
        for (name, value) in &self.fields {
            head.append_header(name.clone(), value.clone()).ok()?;
        }
        if let Some(stored) = self.stored.as_ref().filter(|_| validating) {
            let conditions = validate::conditions(&stored.head.to_map());
            if let Some(etag) = conditions.if_none_match {
                head.insert_header(header::IF_NONE_MATCH, etag).ok()?;
            }
            if let Some(modified) = conditions.if_modified_since {
                head.insert_header(header::IF_MODIFIED_SINCE, modified)
                    .ok()?;
            }
        }
        Some(Box::new(head))
    }

    /// Whether there is something to validate with.
    pub fn can_validate(&self) -> bool {
        !self.partial_or_conditional
            && self
                .stored
                .as_ref()
                .is_some_and(|stored| !validate::conditions(&stored.head.to_map()).is_empty())
    }

    /// Whether `entry` answers this errand's request without asking the origin.
    pub fn would_serve(&self, entry: &Entry, now: Now) -> bool {
        let demand = Demand {
            class: self.class,
            directives: None,
            only_if_cached: false,
            pulled: self.route.pulled.pages,
        };
        matches!(
            entry.reuse(now.mono, &demand),
            Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate { .. }
        )
    }

    /// Whether the stored page may stand in for an origin that fails.
    pub fn has_stand_in(&self, now: Now) -> bool {
        let demand = Demand {
            class: self.class,
            directives: None,
            only_if_cached: false,
            pulled: self.route.pulled.pages,
        };
        self.stored
            .as_ref()
            .is_some_and(|entry| match entry.reuse(now.mono, &demand) {
                Reuse::Fresh { .. }
                | Reuse::StaleWhileRevalidate { .. }
                | Reuse::MaxStale { .. } => true,
                Reuse::Forward { fallback, .. } => fallback.is_some(),
                Reuse::OnlyIfCached | Reuse::NotForYou => false,
            })
    }
}

/// Seconds of life an entry has left, negative when stale.
pub fn ttl(entry: &Entry, now: Now) -> i64 {
    entry.ttl(now.mono)
}

/// A body piece is never larger than this, in bytes, whatever the origin's reader gives.
pub fn cut(piece: Bytes, most: usize) -> impl Iterator<Item = Bytes> {
    let mut rest = piece;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.len().min(most);
        Some(rest.split_to(at))
    })
}

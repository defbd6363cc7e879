//! May an answer be stored, for whom and for how long (RFC 9111 §3, §4.2; RFC 5861).
//!
//! The origin's word comes first: a targeted field, else Cache-Control, Expires and Pragma. Where
//! it gives no lifetime, a heuristic or the route's own figure may, and such a lifetime is *ours*:
//! neither filled by nor served to an identified request.

use std::time::Duration;

use http::HeaderMap;
use http::header::{
    AGE, CONTENT_TYPE, DATE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, SET_COOKIE,
};

use super::cache_control::ResponseDirectives;
use super::date;
use super::fresh;
use super::hop::{Nominated, is_hop_by_hop};
use super::identity::Class;
use super::targeted;
use super::time::{Moment, Now};
use super::vary::{self, Vary};

/// A request head longer than this, in bytes, leaves nothing stored: what it provoked may be its
/// own doing.
pub const LARGEST_ORDINARY_HEAD: usize = 8 * 1024;

/// What a route grants stale-while-revalidate where the lifetime is ours and it sets nothing.
pub const OWN_STALE_WHILE_REVALIDATE: Duration = Duration::from_secs(60);

/// Stale-if-error where neither origin nor route say.
pub const DEFAULT_STALE_IF_ERROR: Duration = Duration::from_secs(86_400);

/// What a route says about storing.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreTerms {
    /// Lifetime of answers that say nothing of caching; none: they are not stored.
    pub default_ttl: Option<Duration>,
    /// Lifetime of 404, 405, 410, 414 and 501 that say nothing; zero: not stored.
    pub error_ttl: Duration,
    /// The part of the time since Last-Modified that counts as lifetime (RFC 9111 §4.2.2).
    pub heuristic_fraction: f64,
    /// The longest such lifetime; zero: no heuristic.
    pub heuristic_cap: Duration,
    /// Where the origin says nothing; none: 60 s where the lifetime is ours, else zero.
    pub stale_while_revalidate: Option<Duration>,
    /// Where the origin says nothing; none: a day.
    pub stale_if_error: Option<Duration>,
    /// What becomes of answers with Set-Cookie.
    pub set_cookie: SetCookie,
}

impl Default for StoreTerms {
    fn default() -> Self {
        StoreTerms {
            default_ttl: None,
            error_ttl: Duration::ZERO,
            heuristic_fraction: 0.1,
            heuristic_cap: Duration::from_secs(86_400),
            stale_while_revalidate: None,
            stale_if_error: None,
            set_cookie: SetCookie::Refuse,
        }
    }
}

/// What becomes of an answer with Set-Cookie. The last two hold only where the answer is explicitly
/// shared-cacheable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCookie {
    /// It is not stored.
    #[default]
    Refuse,
    /// It is stored without the field.
    Strip,
    /// It is stored as it is.
    Share,
}

/// The method a fetch goes to the origin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET, also on behalf of a HEAD.
    Get,
    /// HEAD itself: its answer has no body to store.
    Head,
    /// Any other.
    Other,
}

/// What bears on storing in the request that an answer is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// As sent to the origin.
    pub method: Method,
    /// Whether it had a body that is not empty.
    pub body: bool,
    /// Whether it was somebody's.
    pub class: Class,
    /// Whether it carried Authorization.
    pub authorization: bool,
    /// The length of its head in bytes.
    pub head_bytes: usize,
    /// Whether it carried X-HTTP-Method-Override or one of its kin.
    pub method_override: bool,
    /// Whether it said no-store and its route honours that.
    pub no_store: bool,
}

/// Whether an answer is stored.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// On these terms.
    Store(Terms),
    /// For this reason not.
    Refuse(Refusal),
}

/// Why an answer is not stored, or not shared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The method is not GET.
    Method,
    /// The request had a body.
    Body,
    /// The request's head was longer than [`LARGEST_ORDINARY_HEAD`].
    LargeHead,
    /// The request tried to override its method.
    MethodOverride,
    /// The request said no-store.
    RequestNoStore,
    /// 1xx, 206, 304, or no status at all.
    Status,
    /// §5.2.2.3: must-understand on a status that is not.
    NotUnderstood,
    /// §5.2.2.5
    NoStore,
    /// §5.2.2.7
    Private,
    /// §3.5: to a request with Authorization, without leave.
    Authorization,
    /// §4.1
    VaryStar,
    /// §7.3
    SetCookie,
    /// The origin gave no lifetime and the status has none by itself.
    NoLifetime,
    /// The lifetime would be ours and the request is somebody's.
    Identified,
    /// The lifetime would be ours and Vary names Cookie or Authorization.
    VaryCredentials,
    /// The lifetime would be ours and the answer is an event stream.
    EventStream,
    /// Stale on arrival, without a stale window, and nothing to validate it by.
    NeverReusable,
}

impl Refusal {
    /// Whether it is the request that was odd, so that another's answer may well be stored.
    pub fn is_the_requests(self) -> bool {
        matches!(
            self,
            Refusal::Method
                | Refusal::Body
                | Refusal::LargeHead
                | Refusal::MethodOverride
                | Refusal::RequestNoStore
                | Refusal::Authorization
                | Refusal::Identified
        )
    }

    /// In a few words, for logs.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::Method => "method",
            Refusal::Body => "request body",
            Refusal::LargeHead => "request head over 8 KiB",
            Refusal::MethodOverride => "method override",
            Refusal::RequestNoStore => "request no-store",
            Refusal::Status => "status",
            Refusal::NotUnderstood => "must-understand",
            Refusal::NoStore => "no-store",
            Refusal::Private => "private",
            Refusal::Authorization => "authorization",
            Refusal::VaryStar => "vary *",
            Refusal::SetCookie => "set-cookie",
            Refusal::NoLifetime => "no lifetime",
            Refusal::Identified => "identified request",
            Refusal::VaryCredentials => "vary on credentials",
            Refusal::EventStream => "event stream",
            Refusal::NeverReusable => "never reusable",
        }
    }
}

/// Where a lifetime comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// s-maxage, max-age or Expires.
    Explicit,
    /// no-cache without a figure: kept to be validated only.
    NoCache,
    /// Last-Modified.
    Heuristic,
    /// The route's `default_ttl`.
    Default,
    /// The route's `error_ttl`.
    ErrorTtl,
}

/// Who may be served an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Both classes: the origin gave the lifetime.
    Everyone,
    /// The lifetime is ours.
    AnonymousOnly,
}

/// The terms an answer is stored on.
#[derive(Clone, PartialEq, Debug)]
pub struct Terms {
    /// Whose word the lifetime is.
    pub source: Source,
    /// How old it may get, counted as `Age` is.
    pub lifetime: Duration,
    /// How old it was when its head came (§4.2.3). To the millisecond: it is rounded once, with the
    /// time it stays here.
    pub initial_age: Duration,
    /// Stale-while-revalidate: how long past its lifetime.
    pub swr: Duration,
    /// Stale-if-error: how long past its lifetime.
    pub sie: Duration,
    /// no-cache: never reused without the origin's word.
    pub always_revalidate: bool,
    /// Whether the origin forbids stale use; windows it set itself beside s-maxage stand in `swr`
    /// and `sie` all the same.
    pub forbids_stale: bool,
    /// Whether it may be used at once by those who waited for it: the time the origin took to
    /// answer does not count.
    pub fresh_on_arrival: bool,
    /// Who may be served it.
    pub audience: Audience,
    /// `public`, `s-maxage` or a targeted field.
    pub explicitly_shared: bool,
    /// §3.5: may answer requests with Authorization though it was asked for with one.
    pub permits_authorization: bool,
    /// No own content coding.
    pub no_transform: bool,
    /// RFC 8246: a client's max-age is no reason to ask for it again while it is fresh.
    pub immutable: bool,
    /// Set-Cookie is dropped before it is stored.
    pub strip_set_cookie: bool,
    /// What chooses between the variants of its key.
    pub vary: Vary,
}

/// Decides about the answer `status`, `fields` (end-to-end fields only) to `asked`, whose head came
/// at `now`, `response_delay` after the request was sent. After a 304, these are the stored status and
/// the merged fields ([`super::validate::merge`]).
pub fn judge(
    asked: &Asked,
    status: u16,
    fields: &HeaderMap,
    route: &StoreTerms,
    now: Now,
    response_delay: Duration,
) -> Verdict {
    match weigh(asked, status, fields, route, now, response_delay) {
        Ok(terms) => Verdict::Store(terms),
        Err(refusal) => Verdict::Refuse(refusal),
    }
}

/// Whether one that waited for an answer with these terms may take it: as if it had been stored and
/// reused for its own request. Its variant is the caller's to compare.
///
/// # Errors
/// The reason it has to ask for itself.
pub fn follower(terms: &Terms, asked: &Asked) -> Result<(), Refusal> {
    if asked.body {
        return Err(Refusal::Body);
    }
    if asked.no_store {
        return Err(Refusal::RequestNoStore);
    }
    if terms.always_revalidate || !terms.fresh_on_arrival {
        return Err(Refusal::NeverReusable);
    }
    if asked.class == Class::Identified && terms.audience == Audience::AnonymousOnly {
        return Err(Refusal::Identified);
    }
    if asked.authorization && !terms.permits_authorization {
        return Err(Refusal::Authorization);
    }
    Ok(())
}

/// Whether an answer of `new_status` may take the place of a stored one: an error (from 400 up)
/// never replaces what stale-if-error could still use.
pub fn may_replace(
    new_status: u16,
    old_status: u16,
    old: &Terms,
    stored: Moment,
    now: Moment,
) -> bool {
    let error = new_status >= 400;
    let over_good = old_status < 400;
    let usable = !old.always_revalidate
        && fresh::remaining(old, stored, now) > -fresh::signed_millis(old.sie);
    !(error && over_good && usable)
}

/// Makes an answer's fields those to store: what is for one hop goes (§3.1), Age goes (it is
/// counted from here), a Date that is missing or invalid becomes now (RFC 9110 §6.6.1), Set-Cookie
/// goes where the terms say so.
pub fn dress(fields: &mut HeaderMap, terms: &Terms, wall: u64) {
    let nominated = Nominated::of(fields);
    let one_hop =
        |name: &HeaderName| is_hop_by_hop(name.as_str()) || nominated.removes(name.as_str());
    let gone: Vec<HeaderName> = fields
        .keys()
        .filter(|name| one_hop(name))
        .cloned()
        .collect();
    for name in gone {
        fields.remove(name);
    }
    fields.remove(AGE);
    if terms.strip_set_cookie {
        fields.remove(SET_COOKIE);
    }
    let dated = fresh::date_of(fields, DATE, wall).is_some();
    if !dated && let Ok(now) = HeaderValue::from_bytes(&date::format(wall)) {
        fields.insert(DATE, now);
    }
}

fn weigh(
    asked: &Asked,
    status: u16,
    fields: &HeaderMap,
    route: &StoreTerms,
    now: Now,
    response_delay: Duration,
) -> Result<Terms, Refusal> {
    let policy = targeted::policy(fields);
    let directives = &policy.directives;
    let explicitly_shared =
        directives.public || directives.s_maxage.is_some() || policy.is_targeted();
    let permits_authorization =
        directives.public || directives.s_maxage.is_some() || directives.must_revalidate;
    let vary = vary::of(fields);

    ordinary(asked)?;
    allowed(status, directives)?;
    if asked.authorization && !permits_authorization {
        return Err(Refusal::Authorization);
    }
    if vary == Vary::Star {
        return Err(Refusal::VaryStar);
    }
    let sets_cookie = fields.contains_key(SET_COOKIE);
    if sets_cookie && (route.set_cookie == SetCookie::Refuse || !explicitly_shared) {
        return Err(Refusal::SetCookie);
    }

    let arrival = fresh::arrival(fields, now, response_delay);
    let explicit = fresh::explicit(&policy, fields, arrival.served, now.wall);
    let (source, figure) = match explicit {
        Some(lifetime) => (Source::Explicit, lifetime),
        None => {
            unasked(asked, directives)?;
            if directives.no_cache {
                (Source::NoCache, Duration::ZERO)
            } else {
                let own = fresh::own(status, fields, route, &policy, arrival.served, now.wall);
                let (source, ttl) = own.ok_or(Refusal::NoLifetime)?;
                harmless(source, fields, &vary)?;
                (source, ttl)
            }
        }
    };
    // the route's figures count from arrival: they are not the origin's to use up
    let lifetime = match source {
        Source::Default | Source::ErrorTtl => figure.saturating_add(arrival.initial_age),
        Source::Explicit | Source::NoCache | Source::Heuristic => figure,
    };
    let fresh_on_arrival = !directives.no_cache && lifetime > arrival.age;
    let audience = match source {
        Source::Explicit => Audience::Everyone,
        _ => Audience::AnonymousOnly,
    };

    let windows = Windows {
        directives,
        source,
        unasked: fresh_on_arrival && (asked.class == Class::Anonymous || explicitly_shared),
    };
    let swr = windows.swr(route.stale_while_revalidate);
    let sie = windows.sie(route.stale_if_error);
    let validator = fields.contains_key(ETAG) || fields.contains_key(LAST_MODIFIED);
    if !fresh_on_arrival && swr.is_zero() && sie.is_zero() && !validator {
        return Err(Refusal::NeverReusable);
    }
    Ok(Terms {
        source,
        lifetime,
        initial_age: arrival.initial_age,
        swr,
        sie,
        always_revalidate: directives.no_cache,
        forbids_stale: windows.forbidden() || directives.s_maxage.is_some(),
        fresh_on_arrival,
        audience,
        explicitly_shared,
        permits_authorization,
        no_transform: directives.no_transform,
        immutable: directives.immutable,
        strip_set_cookie: sets_cookie && route.set_cookie == SetCookie::Strip,
        vary,
    })
}

/// What a request must be for its answer to be anyone else's.
fn ordinary(asked: &Asked) -> Result<(), Refusal> {
    if asked.method != Method::Get {
        return Err(Refusal::Method);
    }
    if asked.body {
        return Err(Refusal::Body);
    }
    if asked.head_bytes > LARGEST_ORDINARY_HEAD {
        return Err(Refusal::LargeHead);
    }
    if asked.method_override {
        return Err(Refusal::MethodOverride);
    }
    if asked.no_store {
        return Err(Refusal::RequestNoStore);
    }
    Ok(())
}

/// What the status and the origin's word allow (§3).
fn allowed(status: u16, directives: &ResponseDirectives) -> Result<(), Refusal> {
    if !(200..600).contains(&status) || matches!(status, 206 | 304) {
        return Err(Refusal::Status);
    }
    if directives.must_understand && !understood(status) {
        return Err(Refusal::NotUnderstood);
    }
    // §5.2.2.3: no-store beside it is for caches that do not know the status
    if directives.no_store && !directives.must_understand {
        return Err(Refusal::NoStore);
    }
    if directives.private {
        return Err(Refusal::Private);
    }
    Ok(())
}

/// The statuses whose meaning for a cache is known and kept here: those of RFC 9110, 6585, 7725 and
/// 8470.
fn understood(status: u16) -> bool {
    let good = matches!(status, 200..=205 | 300..=303 | 305 | 307 | 308);
    let refused = matches!(
        status,
        400..=417 | 421 | 422 | 425 | 426 | 428 | 429 | 431 | 451
    );
    good || refused || matches!(status, 500..=505 | 511)
}

/// What a request and the origin's word must be for an answer to be kept although nothing gives it
/// a lifetime.
fn unasked(asked: &Asked, directives: &ResponseDirectives) -> Result<(), Refusal> {
    if asked.class == Class::Identified {
        return Err(Refusal::Identified);
    }
    // lifted by must-understand, but not that far
    if directives.no_store {
        return Err(Refusal::NoStore);
    }
    Ok(())
}

/// What an answer must be to live by a lifetime of ours.
fn harmless(source: Source, fields: &HeaderMap, vary: &Vary) -> Result<(), Refusal> {
    if is_event_stream(fields) {
        return Err(Refusal::EventStream);
    }
    // Last-Modified is a word of the origin's, if not on caching
    if source == Source::Heuristic {
        return Ok(());
    }
    if vary.names_credentials() {
        return Err(Refusal::VaryCredentials);
    }
    if fields.contains_key(SET_COOKIE) {
        return Err(Refusal::SetCookie);
    }
    Ok(())
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    fields.get_all(CONTENT_TYPE).iter().any(|value| {
        let essence = value
            .as_bytes()
            .split(|&b| b == b';')
            .next()
            .unwrap_or_default();
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// How stale an answer may be served, past its lifetime (RFC 5861).
struct Windows<'a> {
    directives: &'a ResponseDirectives,
    source: Source,
    /// Whether windows the origin did not set apply to this answer at all.
    unasked: bool,
}

impl Windows<'_> {
    /// What no window of the origin's own lifts (§5.2.2.2, §5.2.2.4, §5.2.2.8).
    fn forbidden(&self) -> bool {
        self.directives.must_revalidate
            || self.directives.proxy_revalidate
            || self.directives.no_cache
    }

    fn swr(&self, route: Option<Duration>) -> Duration {
        let ours = matches!(self.source, Source::Heuristic | Source::Default);
        let unset = if ours {
            OWN_STALE_WHILE_REVALIDATE
        } else {
            Duration::ZERO
        };
        self.window(
            self.directives.stale_while_revalidate,
            route.unwrap_or(unset),
        )
    }

    fn sie(&self, route: Option<Duration>) -> Duration {
        self.window(
            self.directives.stale_if_error,
            route.unwrap_or(DEFAULT_STALE_IF_ERROR),
        )
    }

    fn window(&self, origin: Option<u64>, unset: Duration) -> Duration {
        if self.forbidden() {
            return Duration::ZERO;
        }
        if let Some(seconds) = origin {
            return Duration::from_secs(seconds);
        }
        // §5.2.2.10: s-maxage forbids as proxy-revalidate does; `error_ttl` promises to be short
        let barred = self.directives.s_maxage.is_some() || self.source == Source::ErrorTtl;
        if barred || !self.unasked {
            Duration::ZERO
        } else {
            unset
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

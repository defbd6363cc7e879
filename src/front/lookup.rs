//! The one lookup: what is to be done with a request, decided over one borrowed view of it.
//!
//! Nothing here waits and nothing here writes. What comes out owns all it needs, so that the view, and the head's bytes
//! it borrows, need not live while a client is served.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::Site;
use super::asking::{Asking, Noted, Whence, with_route};
use super::challenge::{self, Challenge};
use super::down::Down;
use super::fallback::{self, Instead};
use super::liked::in_liked_coding;
use super::limited::{self, Gate, Refused, Who};
use super::part::Part;
use super::problem::Problem;
use super::purging::{self, Order};
use super::thaw::{self, Cold};
use crate::cache::entry::Entry;
use crate::cache::store::Slot;
use crate::clock::{self, Tick};
use crate::config::policy::{Policy, Route};
use crate::fetch::{Bill, Lane, Reason, Seen};
use crate::guard::Verdict;
use crate::origin::{Steer, Upstream};
use crate::rules::cache_status::{Detail, Fwd};
use crate::rules::client::Client;
use crate::rules::expression::View;
use crate::rules::host::{self, KnownHost, Scheme};
use crate::rules::networks::Listed;
use crate::rules::refresh;
use crate::rules::request::{self, Method, Parsed, Request, RequestBody};
use crate::rules::reuse::{Demand, Reuse};
use crate::rules::storing::LARGEST_ORDINARY_HEAD;
use crate::rules::target::Target;
use crate::rules::time::Now;
use crate::rules::vary;
use crate::telemetry::{CacheResult, ids};

/// What to do with the bytes at hand.
pub enum Decision {
    /// The head isn't whole yet.
    More,
    /// No request: what it was can't be told, nor where the next one begins.
    Refuse(Problem),
    /// Answered here.
    Here(Problem),
    /// A pass has to be shown first.
    Challenge(Box<Challenge>),
    /// Turned away by a list or a rule; of that route, if it came so far.
    Block(Option<Arc<Route>>),
    /// From memory.
    Hit(Hit),
    /// By a flight.
    Miss(Box<Miss>),
    /// Past the cache.
    Pass(Box<Pass>),
    /// Its upstream is down: answered at once.
    Down(Box<Down>),
    /// Refused for what a limit says.
    Limited(Refused),
    /// It is its turn so much later.
    Later(Duration),
    /// By what there is without the app.
    Instead(Box<Instead>),
    /// Once it is known what other proxies have purged.
    CatchUp,
    /// Something is to be taken out of the cache.
    Purge(Box<Order>),
    /// The page lies on the disk, and is to be brought back first.
    Cold(Box<Cold>),
}

/// An answer from memory.
pub struct Hit {
    pub route: Arc<Route>,
    pub entry: Arc<Entry>,
    pub part: Part,
    pub ttl: i64,
    /// Why it is served stale, if it is.
    pub detail: Option<Detail>,
    pub result: CacheResult,
    /// Where the route wants the key told.
    pub key: Option<Box<[u8]>>,
}

/// A request that waits for an origin.
pub struct Miss {
    pub route: Arc<Route>,
    pub lane: Lane,
    pub head_only: bool,
    /// Where the route wants it told.
    pub status_key: Option<Box<[u8]>>,
    pub why: Fwd,
    pub seen: Seen,
    /// The stored page may be served if the origin fails or is slow.
    pub stand_in: bool,
    pub reason: Reason,
    /// It is to go to the origin by itself.
    pub alone: bool,
}

/// A request that goes past the cache.
pub struct Pass {
    pub route: Arc<Route>,
    pub client: Client,
    pub body: RequestBody,
    pub expect_continue: bool,
    pub upgrade: bool,
    pub safe: bool,
    pub head_only: bool,
    pub steer: Steer,
    pub head: Box<pingora::http::RequestHeader>,
    pub method: Box<str>,
    pub scheme: Scheme,
    pub host: Box<str>,
    pub path: Box<str>,
    pub query: Option<Box<str>>,
    pub bill: Option<Bill>,
}

/// Decides on the request at the start of `buf`. What outlives its head's bytes is left in `noted`, of any request that
/// could be read; `known` is the host of the connection's last one.
pub fn decide(
    site: &Site,
    buf: &[u8],
    from: Whence,
    began: Tick,
    known: &mut KnownHost,
    noted: &mut Noted,
) -> Decision {
    let policy = &*site.policy;
    let mut lines = request::lines();
    let mut another_host = None;
    // Looked at where it lies: it is large.
    let decision = match &request::parse_for(known, buf, &mut lines, &policy.listen.head) {
        Ok(Parsed::Partial) => Decision::More,
        Err(reject) => {
            limited::unread(site, from, began);
            Decision::Refuse(Problem::reject(*reject))
        }
        Ok(Parsed::Complete { request, head_len }) => {
            let came = from;
            let from = from.of(policy, request);
            let head = buf.get(..*head_len).unwrap_or_default();
            site.recent.hear(head, came, from.client, began);
            *noted = Noted::of(buf, request, *head_len, from, began);
            another_host = (!known.lent(request.host, from.scheme)).then_some(from.scheme);
            let listed = site.guard.find(from.client);
            let now = began.now();
            if site.guard.denies(listed, &mut noted.marks) {
                return learned(known, noted, buf, another_host, Decision::Block(None));
            }
            let on_route = |asking: &Asking| {
                if judge(site, asking, listed, noted) == Verdict::Block {
                    return Decision::Block(Some(Arc::clone(asking.route)));
                }
                let limited = limited::at_the_door(site, &asking.who(), noted);
                limited.unwrap_or_else(|| on_route(site, asking, noted, now, &Turn::First))
            };
            let decision = match challenge::is_ours(request) {
                false => with_route(policy, request, *head_len, from, known, on_route),
                true => None,
            };
            match decision {
                Some(decision) => decision,
                None => {
                    let who = Who {
                        client: from.whose(policy),
                        route: None,
                        host: request.host,
                        request,
                        asking: None,
                    };
                    let limited = limited::at_the_door(site, &who, noted);
                    limited.unwrap_or_else(|| off_route(site, request, from, known, noted))
                }
            }
        }
    };
    learned(known, noted, buf, another_host, decision)
}

/// Where the host is another than the connection's last one, it is the last one now.
fn learned(
    known: &mut KnownHost,
    noted: &Noted,
    buf: &[u8],
    another: Option<Scheme>,
    decision: Decision,
) -> Decision {
    if let Some(scheme) = another {
        known.learn(noted.host.text(buf), scheme);
    }
    decision
}

/// What a request has waited for.
pub enum Turn {
    First,
    /// Its turn.
    Waited,
    /// Its page, which was looked for on the disk. Memory may have no room to keep it.
    Thawed(Option<Arc<Slot>>),
}

/// Decides on the request at the start of `buf`, whose turn it is now.
pub fn after_wait(site: &Site, buf: &[u8], from: Whence, noted: &Noted) -> Decision {
    decide_again(site, buf, from, noted, &Turn::Waited)
}

/// Decides on the request at the start of `buf` once more.
pub fn decide_again(site: &Site, buf: &[u8], from: Whence, noted: &Noted, turn: &Turn) -> Decision {
    let policy = &*site.policy;
    let mut lines = request::lines();
    let now = clock::now();
    match &request::parse(buf, &mut lines, &policy.listen.head) {
        Ok(Parsed::Complete { request, head_len }) => {
            let from = from.of(policy, request);
            let on_route = |asking: &Asking| on_route(site, asking, noted, now, turn);
            let known = KnownHost::NONE;
            let decision = match challenge::is_ours(request) {
                false => with_route(policy, request, *head_len, from, known, on_route),
                true => None,
            };
            decision.unwrap_or_else(|| off_route(site, request, from, known, noted))
        }
        _ => Decision::More,
    }
}

/// Builds something of the request at the start of `buf` again, which was decided on before.
pub fn again<T>(
    policy: &Policy,
    buf: &[u8],
    from: Whence,
    then: impl FnOnce(&Asking) -> T,
) -> Option<T> {
    let mut lines = request::lines();
    match request::parse(buf, &mut lines, &policy.listen.head) {
        Ok(Parsed::Complete { request, head_len }) => {
            let from = from.of(policy, &request);
            with_route(policy, &request, head_len, from, KnownHost::NONE, then)
        }
        _ => None,
    }
}

/// What the rules say. It is decided for each request once, before anything is looked up.
pub fn judge(site: &Site, asking: &Asking, listed: Listed, noted: &mut Noted) -> Verdict {
    if !site.guard.has_rules() {
        return Verdict::Through;
    }
    let request = asking.request;
    let query = match request.target {
        Target::Origin { query, .. } => query.unwrap_or_default(),
        Target::Asterisk => "",
    };
    let view = View {
        method: request.method.as_str(),
        scheme: asking.scheme.as_str(),
        host: host::without_port(asking.host),
        path: asking.path,
        query,
        lines: request.lines,
        client: asking.client,
        lists: listed.lists,
        locate: &|| site.guard.locate(asking.client),
        located: OnceCell::new(),
    };
    let route = asking.route.id;
    site.guard.judge(route, &view, &mut noted.marks)
}

fn off_route(
    site: &Site,
    request: &Request,
    from: Whence,
    known: &KnownHost,
    noted: &Noted,
) -> Decision {
    Decision::Here(match from.redirect {
        Some(port) => Problem::to_https(request, port),
        None => challenge::at_our_path(site, request, from, known, noted)
            .unwrap_or_else(Problem::no_route),
    })
}

fn on_route(site: &Site, asking: &Asking, noted: &Noted, now: Now, turn: &Turn) -> Decision {
    let request = asking.request;
    if let Some(port) = asking.redirect {
        return Decision::Here(Problem::to_https(request, port));
    }
    if let Some(problem) = answered_here(asking) {
        return Decision::Here(problem);
    }
    if let Some(purges) = purging::decide(site, asking) {
        return purges;
    }
    if (noted.marks.needs_pass() || asking.policy.challenge.is_on(asking.route))
        && let challenge::Demand::Challenge(challenge) = challenge::demand(site, asking, noted)
    {
        return Decision::Challenge(challenge);
    }
    if matches!(turn, Turn::First) && !site.fleet.is_current(noted.began) && is_cacheable(asking) {
        return Decision::CatchUp;
    }
    if site.reserve.is_on(asking.route) {
        return fallback::decide(site, asking, noted, now);
    }
    match fallback::drill(site, asking, now) {
        Some(instead) => instead.or_else(site, || live(site, asking, noted, now, turn)),
        None => live(site, asking, noted, now, turn),
    }
}

/// With the app behind it.
fn live(site: &Site, asking: &Asking, noted: &Noted, now: Now, turn: &Turn) -> Decision {
    let request = asking.request;
    if asking.route.pulled.readonly && !request.method.is_safe() {
        return Decision::Here(Problem::readonly());
    }
    if noted.marks.bypasses() {
        return match asking.only_if_cached {
            true => Decision::Here(Problem::only_if_cached()),
            false => pass(site, asking, noted),
        };
    }
    if !is_cacheable(asking) {
        return pass(site, asking, noted);
    }
    if request.known.cdn_loop
        && asking
            .forwarded(
                noted,
                crate::rules::forward::Kind::Shared,
                &asking.as_sent(),
            )
            .is_err()
    {
        return Decision::Here(Problem::looped());
    }
    let slot = site.fetcher.find(asking.key, now.mono);
    let slot = slot.or_else(|| match turn {
        Turn::Thawed(page) => page.clone(),
        Turn::First | Turn::Waited => None,
    });
    let sent = OnceCell::new();
    let select = |names: &[HeaderName]| -> Box<[u8]> {
        let sent = sent.get_or_init(|| asking.as_sent());
        let mut values = Vec::with_capacity(64);
        vary::select(names, &asking.selecting(), sent, &mut values);
        values.into()
    };
    let entry = slot.as_ref().and_then(|slot| slot.find(select));
    let (Some(slot), Some(entry)) = (&slot, entry) else {
        if let Some(cold) = thaw::decide(site, asking, turn, select) {
            return cold;
        }
        let why = if slot.is_some() {
            Fwd::VaryMiss
        } else {
            Fwd::UriMiss
        };
        let presumed = slot.and_then(|slot| slot.varies_on());
        return miss(
            site,
            asking,
            noted,
            why,
            Seen {
                now,
                entry: None,
                presumed,
                since: site.fetcher.store.current(),
                at_least: 0,
            },
            false,
        );
    };
    let demand = Demand {
        class: asking.class,
        directives: asking.directives,
        only_if_cached: asking.only_if_cached,
        pulled: asking.route.pulled.pages,
    };
    let seen = || Seen {
        now,
        entry: Some(Arc::clone(entry)),
        presumed: slot.varies_on(),
        since: site.fetcher.store.current(),
        at_least: 0,
    };
    let reuse = match asking.route.pulled.bypass {
        true => entry.bypassed(now.mono, &demand),
        false => entry.reuse(now.mono, &demand),
    };
    if !matches!(reuse, Reuse::Fresh { .. }) {
        entry.rest.asked_for();
    }
    let returned = || upstream(site, asking).open_since(now.mono);
    match reuse {
        Reuse::Fresh { ttl } => {
            let eager = asking.route.eager
                && refresh::eager(
                    &entry.terms,
                    &demand.pulled,
                    entry.stored,
                    now.mono,
                    entry.cost,
                    chance,
                    refresh::BETA,
                );
            if eager {
                renew(site, asking, noted, entry, now);
            }
            hit(site, asking, entry, now, ttl, None)
        }
        Reuse::StaleWhileRevalidate { ttl } => {
            let detail = match renew(site, asking, noted, entry, now) {
                true => Detail::Swr,
                false => Detail::Breaker,
            };
            hit(site, asking, entry, now, ttl, Some(detail))
        }
        Reuse::MaxStale { ttl } => hit(site, asking, entry, now, ttl, Some(Detail::Swr)),
        Reuse::Forward {
            why,
            fallback: Some(ttl),
        } => match returned() {
            _ if noted.admission.only_stored().is_some() => {
                hit(site, asking, entry, now, ttl, Some(Detail::Limited))
            }
            None => {
                let _counted = site.fetcher.down(asking.route, now.mono);
                hit(site, asking, entry, now, ttl, Some(Detail::Breaker))
            }
            // After a failure the page rests, and goes out at once meanwhile.
            Some(returned) if entry.rest.holds(now.mono, returned) => {
                hit(site, asking, entry, now, ttl, Some(Detail::Sie))
            }
            Some(_) => miss(site, asking, noted, why, seen(), true),
        },
        Reuse::Forward {
            why,
            fallback: None,
        } => miss(site, asking, noted, why, seen(), false),
        Reuse::OnlyIfCached => Decision::Here(Problem::only_if_cached()),
        Reuse::NotForYou => miss(
            site,
            asking,
            noted,
            Fwd::Request,
            Seen {
                entry: None,
                ..seen()
            },
            false,
        ),
    }
}

/// Whether a request may be answered with what is stored.
pub fn is_cacheable(asking: &Asking) -> bool {
    let request = asking.request;
    matches!(request.method, Method::Get | Method::Head)
        && request.body == RequestBody::None
        && !asking.upgrades()
}

/// What needs neither page nor origin.
fn answered_here(asking: &Asking) -> Option<Problem> {
    let request = asking.request;
    if let RequestBody::Length(length) = request.body
        && asking.policy.listen.max_body > 0
        && length > asking.policy.listen.max_body
    {
        return Some(Problem::body_too_large());
    }
    if request.method == Method::Options
        && (request.target == Target::Asterisk || request.known.max_forwards == Some(&b"0"[..]))
    {
        return Some(Problem::options());
    }
    None
}

fn upstream<'a>(site: &'a Site, asking: &Asking) -> &'a Upstream {
    site.fetcher.upstream(asking.route.upstream)
}

/// Refreshes a page in the background: nobody waits for it. Whether its upstream is there to be asked.
fn renew(site: &Site, asking: &Asking, noted: &Noted, entry: &Arc<Entry>, now: Now) -> bool {
    let Some(returned) = upstream(site, asking).open_since(now.mono) else {
        return false;
    };
    if !entry.rest.claim(now.mono, returned) {
        return true;
    }
    let lane = (asking.key.to_key(), asking.class);
    // A request that has been through here was turned away before.
    if let Ok(errand) = asking.errand(noted, Reason::Refresh, false, Some(Arc::clone(entry))) {
        site.fetcher.refresh(entry, &lane, now, errand);
    }
    true
}

fn hit(
    site: &Site,
    asking: &Asking,
    entry: &Arc<Entry>,
    now: Now,
    ttl: i64,
    detail: Option<Detail>,
) -> Decision {
    let entry = in_liked_coding(site, asking, entry);
    let part = Part::of(
        asking.request,
        &entry.head,
        Some(entry.body.len()),
        now.wall,
    );
    let result = match detail {
        None => CacheResult::Hit,
        Some(Detail::Sie | Detail::Breaker) => CacheResult::StaleError,
        Some(_) => CacheResult::Stale,
    };
    let key = asking.route.status_key.then(|| asking.key.bytes().into());
    let (route, entry) = (Arc::clone(asking.route), Arc::clone(entry));
    Decision::Hit(Hit {
        route,
        entry,
        part,
        ttl,
        detail,
        result,
        key,
    })
}

fn miss(
    site: &Site,
    asking: &Asking,
    noted: &Noted,
    why: Fwd,
    seen: Seen,
    stand_in: bool,
) -> Decision {
    if asking.only_if_cached {
        return Decision::Here(Problem::only_if_cached());
    }
    if let Some(refused) = limited::past_the_stored(site, &asking.who(), noted) {
        return Decision::Limited(refused);
    }
    if !stand_in && let Some(down) = Down::at_once(site, asking, why, seen.now.mono) {
        return Decision::Down(Box::new(down));
    }
    let reason = if seen.entry.is_some() {
        Reason::Revalidate
    } else {
        Reason::Miss
    };
    Decision::Miss(Box::new(Miss {
        route: Arc::clone(asking.route),
        lane: (asking.key.to_key(), asking.class),
        head_only: asking.is_head(),
        status_key: asking.route.status_key.then(|| asking.key.bytes().into()),
        why,
        seen,
        stand_in,
        reason,
        alone: goes_alone(asking),
    }))
}

/// Whether a request leads nobody: its route isn't cached, it says no-store where that is honoured, or it is so odd that
/// its answer may be one that an ordinary request wouldn't get.
fn goes_alone(asking: &Asking) -> bool {
    !asking.route.cache
        || asking.route.pulled.bypass
        || asking
            .directives
            .is_some_and(|directives| directives.no_store)
        || asking.head_len > LARGEST_ORDINARY_HEAD
        || asking.request.known.method_override
}

fn pass(site: &Site, asking: &Asking, noted: &Noted) -> Decision {
    let request = asking.request;
    if let Some(refused) = limited::past_the_stored(site, &asking.who(), noted) {
        return Decision::Limited(refused);
    }
    match limited::at_the_origin(site, &asking.who(), noted) {
        Gate::Open => {}
        Gate::Later(wait) => return Decision::Later(wait),
        Gate::OnlyStored(refused) | Gate::Shut(refused) => {
            limited::give_back(site, &asking.who(), noted);
            return Decision::Limited(refused);
        }
        Gate::Challenge(challenge) => {
            limited::give_back(site, &asking.who(), noted);
            return Decision::Challenge(challenge);
        }
    }
    let (path, query) = match request.target {
        Target::Origin { path, query } => (path, query),
        Target::Asterisk => ("*", None),
    };
    let Some(head) = super::pass::head(asking, noted) else {
        return Decision::Here(Problem::looped());
    };
    Decision::Pass(Box::new(Pass {
        route: Arc::clone(asking.route),
        client: asking.whose(),
        body: request.body,
        expect_continue: request.expect_continue,
        upgrade: asking.upgrades(),
        safe: request.method.is_safe(),
        head_only: asking.is_head(),
        steer: asking.steer(),
        head,
        scheme: asking.scheme,
        method: request.method.as_str().into(),
        host: asking.host.into(),
        path: path.into(),
        query: query.map(Into::into),
        bill: limited::bill(site, &asking.who(), noted),
    }))
}

/// A random number in `0..1`.
fn chance() -> f64 {
    (ids::random() >> 11) as f64 / (1u64 << 53) as f64
}

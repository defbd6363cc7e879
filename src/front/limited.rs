//! What limits say to a request: who its client is, whether it is let in, and the answer to one that is not.

use std::cell::RefCell;
use std::hash::Hasher;
use std::io::{self, IoSlice};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header;

use super::Site;
use super::asking::{Asking, Noted, Verb, Whence};
use super::challenge::{self, Challenge};
use super::h1::{Conn, Next};
use super::lines::id_lines;
use super::lookup::{self, Decision};
use super::miss::PIPELINED;
use super::problem::{self, Problem};
use super::record::Outcome;
use crate::clock::{self, Tick};
use crate::config::policy::Route;
use crate::fetch::Bill;
use crate::limits::spec::{Action, Part};
use crate::limits::{self, Asked, Granted, Id, Limit, Numbers, Refusal, Standing};
use crate::rules::claims;
use crate::rules::client::Client;
use crate::rules::decimal;
use crate::rules::identity;
use crate::rules::request::Request;
use crate::rules::retry_after::after_wait;
use crate::telemetry::{CacheResult, ids};

/// A request, as far as limits look at it.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub client: Client,
    pub route: Option<&'a Arc<Route>>,
    /// As the key has it, where there is a route.
    pub host: &'a str,
    pub request: &'a Request<'a>,
    /// All of it, where there is a route.
    pub asking: Option<&'a Asking<'a>>,
}

/// Whose request it is, by what a limit goes by: a hash that nobody outside can foretell. The one place where identities
/// come from.
///
/// `member`: who it is, where a tier of those who are known has the limit. That takes the place of the address.
fn identity(site: &Site, limit: &Limit, who: &Who, known: &Standing, member: Option<Id>) -> u64 {
    let mut hasher = site.limits.numbers(limit);
    let whose = |hasher: &mut Numbers| match member {
        Some(id) => person(id, hasher),
        None => address(who.client, hasher),
    };
    // Who says nothing is told apart by that, and nobody is mistaken for who says as much.
    let one = |id: Option<Id>, hasher: &mut Numbers| {
        hasher.write_u8(u8::from(id.is_some()));
        match id {
            Some(id) => person(id, hasher),
            None => whose(hasher),
        }
    };
    let word = |said: Option<&[u8]>, hasher: &mut Numbers| {
        hasher.write_u8(u8::from(said.is_some()));
        match said {
            Some(value) => text(value, hasher),
            None => whose(hasher),
        }
    };
    for part in &limit.spec.key.0 {
        match part {
            Part::Address => whose(&mut hasher),
            Part::ApiKey => one(known.key.map(|key| key.id), &mut hasher),
            Part::Jwt(claim) => {
                let identities = site.identities.as_ref();
                let named = identities.and_then(|identities| identities.claim(known, claim));
                one(named, &mut hasher);
            }
            // By its name: another proxy may have others before it.
            Part::Route => text(
                who.route.map_or(b"", |route| route.name.as_bytes()),
                &mut hasher,
            ),
            Part::Host => text(who.host.as_bytes(), &mut hasher),
            Part::Header(name) => {
                let lines = who.request.lines.iter();
                let called = lines.filter(|line| line.name.eq_ignore_ascii_case(name.as_str()));
                let said = one_word(called.map(|line| line.value));
                match said.filter(|_| *name == header::AUTHORIZATION) {
                    Some(value) => credentials(value, &mut hasher),
                    None => word(said, &mut hasher),
                }
            }
            Part::Cookie(name) => {
                let lines = who.request.lines.iter();
                let cookies = lines.filter(|line| line.name.eq_ignore_ascii_case("cookie"));
                let pairs = cookies.flat_map(|line| identity::pairs(line.value));
                let said = one_word(pairs.filter_map(|pair| pair.value_of(name.as_bytes())));
                word(said, &mut hasher);
            }
        }
    }
    hasher.finish()
}

/// A limit, or what those of a request's tier have instead, and for whom it is asked.
fn asked<'a>(site: &Site, limit: &'a Arc<Limit>, who: &Who, noted: &Noted) -> Asked<'a> {
    let known = match limit.goes_by_standing() {
        true => standing(site, who, noted),
        false => &Standing::NOBODY,
    };
    let (limit, member) = limit.of(known);
    Asked {
        limit,
        client: identity(site, limit, who, known, member),
    }
}

/// Who asks, as far as the request shows it: looked at once.
fn standing<'a>(site: &Site, who: &Who, noted: &'a Noted) -> &'a Standing {
    let Some(identities) = &site.identities else {
        return &Standing::NOBODY;
    };
    let look = || identities.standing(who.request, who.client, noted.began.now());
    noted.admission.standing.get_or_init(look)
}

fn text(bytes: &[u8], hasher: &mut impl Hasher) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

fn address(client: Client, hasher: &mut impl Hasher) {
    match client {
        Client::V4(octets) => hasher.write(&octets),
        Client::V6(octets) => {
            hasher.write(&octets);
            hasher.write_u8(6);
        }
    }
}

/// What a request says under a name. Who says several things says nothing: which of them the app would hear is not known
/// here, and beside one that holds any others could be said, each a client of its own.
fn one_word<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

fn person(id: Id, hasher: &mut impl Hasher) {
    hasher.write(&id.0.get().to_le_bytes());
}

/// Authorization says one thing however its scheme is written, and with however many blanks behind it (RFC 9110 §11.4).
fn credentials(value: &[u8], hasher: &mut impl Hasher) {
    let end = value.iter().position(u8::is_ascii_whitespace);
    let (scheme, rest) = value.split_at(end.unwrap_or(value.len()));
    hasher.write_u8(1);
    hasher.write_usize(scheme.len());
    for byte in scheme {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    text(rest.trim_ascii(), hasher);
}

/// What limits granted a request. Dropping it ends its being in hand.
#[derive(Default)]
pub struct Admission {
    /// Who asks, once a limit goes by that.
    standing: OnceLock<Standing>,
    door: OnceLock<Granted>,
    origin: OnceLock<Box<Granted>>,
    refused: OnceLock<Arc<Limit>>,
}

impl Admission {
    /// What it was beyond, and what came of that: for the log.
    pub fn note(&self) -> Option<(&str, &str)> {
        if let Some(limit) = self.refused.get() {
            return Some((&limit.spec.name, limit.refused_as().label()));
        }
        let granted = [self.origin.get().map(|granted| &**granted), self.door.get()];
        let mut notes = granted.into_iter().flatten();
        let (limit, what) = notes.find_map(|granted| granted.note.as_ref())?;
        Some((&limit.spec.name, what.label()))
    }

    /// Whether its answer says what is left of a limit.
    pub fn is_told(&self) -> bool {
        self.door
            .get()
            .is_some_and(|granted| granted.quota.is_some())
    }

    /// Appends the lines that say so.
    pub fn lines(&self, out: &mut Vec<u8>) {
        if let Some(quota) = self.door.get().and_then(|granted| granted.quota.as_ref()) {
            quota.limit.lines.write(quota.remaining, quota.reset, out);
        }
    }

    /// Set, if it is to be served with what is stored or be refused so.
    pub fn only_stored(&self) -> Option<&Refusal> {
        self.door.get()?.only_stored.as_ref()
    }
}

/// Asks the limits that every request meets. None: it goes on.
pub fn at_the_door(site: &Site, who: &Who, noted: &Noted) -> Option<Decision> {
    let door = &site.limits.of(who.route.map(|route| route.id)).door;
    if door.is_empty() {
        return None;
    }
    match ask(site, door, who, noted, noted.began) {
        None => None,
        Some(Ok(granted)) => {
            let wait = granted.wait;
            let _ = noted.admission.door.set(granted);
            wait.map(Decision::Later)
        }
        Some(Err(refusal)) => Some(match challenge(site, &refusal, who, noted) {
            Some(challenge) => Decision::Challenge(challenge),
            None => Decision::Limited(Refused::of(refusal, who, noted)),
        }),
    }
}

/// Refuses a request that may have what is stored, where nothing is. None: it may have more.
pub fn past_the_stored(site: &Site, who: &Who, noted: &Noted) -> Option<Refused> {
    let refusal = noted.admission.only_stored()?.clone();
    give_back(site, who, noted);
    Some(Refused::of(refusal, who, noted))
}

/// What a browser gets that is beyond a limit and may go on with a pass.
fn challenge(site: &Site, refusal: &Refusal, who: &Who, noted: &Noted) -> Option<Box<Challenge>> {
    if refusal.limit.spec.action != Action::Challenge {
        return None;
    }
    let challenge = challenge::puzzle(site, who.asking?, noted)?;
    let _ = noted.admission.refused.set(Arc::clone(&refusal.limit));
    Some(challenge)
}

/// Finds out who asks, if it is about to matter whether an origin is asked: verifying takes too long for under a lock.
pub fn know(site: &Site, who: &Who, noted: &Noted) {
    let limits = &site.limits.of(who.route.map(|route| route.id)).origin;
    if limits.iter().any(|limit| limit.goes_by_standing()) {
        standing(site, who, noted);
    }
}

/// Whether a request may cause an origin to be asked.
pub enum Gate {
    Open,
    /// So much later.
    Later(Duration),
    /// No, but it may have what is stored.
    OnlyStored(Refused),
    Shut(Refused),
    /// Not without a pass.
    Challenge(Box<Challenge>),
}

/// Asks the limits of what an origin is asked for, once a request.
pub fn at_the_origin(site: &Site, who: &Who, noted: &Noted) -> Gate {
    let limits = &site.limits.of(who.route.map(|route| route.id)).origin;
    if limits.is_empty() || noted.admission.origin.get().is_some() {
        return Gate::Open;
    }
    match ask(site, limits, who, noted, clock::tick()) {
        None => Gate::Open,
        Some(Ok(mut granted)) => {
            if let Some(refusal) = granted.only_stored.take() {
                let _ = noted.admission.origin.set(Box::new(granted));
                return Gate::OnlyStored(Refused::of(refusal, who, noted));
            }
            let wait = granted.wait;
            let _ = noted.admission.origin.set(Box::new(granted));
            wait.map_or(Gate::Open, Gate::Later)
        }
        Some(Err(refusal)) => match challenge(site, &refusal, who, noted) {
            Some(challenge) => Gate::Challenge(challenge),
            None => Gate::Shut(Refused::of(refusal, who, noted)),
        },
    }
}

/// What could not be read as a request counts for the address of its peer; not for a trusted proxy's, through which all
/// may come.
pub fn unread(site: &Site, from: Whence, at: Tick) {
    let policy = &*site.policy;
    if from.claims && claims::trusts(&policy.listen.trusted_proxies, from.peer) {
        return;
    }
    let is_by_address =
        |limit: &&Arc<Limit>| limit.spec.key.0 == [Part::Address] && limit.spec.methods.is_empty();
    let door = &site.limits.of(None).door;
    for limit in door.iter().filter(is_by_address) {
        let mut hasher = site.limits.numbers(limit);
        address(from.whose(policy), &mut hasher);
        limit.count_unread(hasher.finish(), at.nanos());
    }
}

/// Who is told how long the origin took, if a limit goes by that.
pub fn bill(site: &Site, who: &Who, noted: &Noted) -> Option<Bill> {
    let billed = &site.limits.of(who.route.map(|route| route.id)).billed;
    if billed.is_empty() {
        return None;
    }
    let its = billed.iter().filter(|limit| is_its(limit, who, noted));
    let debtors: Vec<_> = its
        .map(|limit| {
            let Asked { limit, client } = asked(site, limit, who, noted);
            (Arc::clone(limit), client)
        })
        .collect();
    Some(Bill(Arc::new(move |took: Duration| {
        let now = clock::tick().nanos();
        let millis = u64::try_from(took.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        for (limit, client) in &debtors {
            limit.charge(*client, now, millis);
        }
    })))
}

/// None: there is nothing to ask.
fn ask(
    site: &Site,
    limits: &[Arc<Limit>],
    who: &Who,
    noted: &Noted,
    at: Tick,
) -> Option<Result<Granted, Refusal>> {
    // What no route takes is answered here, and no puzzle is shown for it.
    let passes = || {
        who.asking
            .is_none_or(|asking| challenge::passes(site, asking, noted))
    };
    let ask = |asked: &[Asked<'_>]| limits::ask(asked, at.nanos(), passes);
    with_asked(site, limits, who, noted, ask)
}

/// A request that limits let in is refused after all: it counts for none of them.
pub fn give_back(site: &Site, who: &Who, noted: &Noted) {
    let of = site.limits.of(who.route.map(|route| route.id));
    let admission = &noted.admission;
    let of_origin = admission.origin.get().map(|granted| &**granted);
    for (limits, granted) in [(&of.door, admission.door.get()), (&of.origin, of_origin)] {
        if let Some(granted) = granted {
            with_asked(site, limits, who, noted, |asked| granted.refund(asked));
        }
    }
}

/// Those of `limits` that are for this request, and its client. None: there are none.
fn with_asked<T>(
    site: &Site,
    limits: &[Arc<Limit>],
    who: &Who,
    noted: &Noted,
    then: impl FnOnce(&[Asked<'_>]) -> T,
) -> Option<T> {
    let nobody = Asked {
        limit: limits.first()?,
        client: 0,
    };
    let mut all = [nobody; limits::MOST];
    let mut len = 0;
    for limit in limits.iter().filter(|limit| is_its(limit, who, noted)) {
        all[len] = asked(site, limit, who, noted);
        len += 1;
    }
    (len > 0).then(|| then(&all[..len]))
}

/// Whether a limit of its route is for a request like this. One that is for GET is for HEAD too: a page is fetched whole
/// for either.
fn is_its(limit: &Limit, who: &Who, noted: &Noted) -> bool {
    let (methods, asked) = (&limit.spec.methods, who.request.method.as_str());
    let is_its = |name: &String| name == asked || (name == "GET" && asked == "HEAD");
    let by_rules = limit.spec.by_rules;
    by_rules.is_none_or(|place| noted.marks.meets(place))
        && (methods.is_empty() || methods.iter().any(is_its))
}

/// Waits for a request's turn and carries on.
///
/// # Errors
/// The client's connection failed.
pub async fn wait(conn: &mut Conn, noted: &Noted, wait: Duration) -> io::Result<Outcome> {
    if !sleep(conn, noted, wait).await {
        return Ok(Outcome::aborted());
    }
    if !conn.site.fleet.is_current(clock::tick()) {
        conn.site.fleet.catch_up().await;
    }
    its_turn(conn, noted).await
}

/// Waits until it is known what other proxies have purged; half a second at most.
pub async fn catch_up(conn: &mut Conn, noted: &Noted) -> io::Result<Outcome> {
    tokio::select! {
        () = conn.site.fleet.catch_up() => {}
        true = conn.wire.gone(&mut conn.inbox, noted.head_len + PIPELINED) => {
            return Ok(Outcome::aborted());
        }
    }
    its_turn(conn, noted).await
}

async fn its_turn(conn: &mut Conn, noted: &Noted) -> io::Result<Outcome> {
    let (site, from) = (&conn.site, conn.whence());
    let decision = lookup::after_wait(site, conn.inbox.bytes(), from, noted);
    Box::pin(conn.carry_out(noted, decision)).await
}

/// False: the client has gone meanwhile.
pub async fn sleep(conn: &mut Conn, noted: &Noted, wait: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        true = conn.wire.gone(&mut conn.inbox, noted.head_len + PIPELINED) => false,
    }
}

/// A request that is refused, with what its answer depends on.
pub struct Refused {
    refusal: Refusal,
    route: Option<Arc<Route>>,
    html: bool,
    head_only: bool,
    /// Its body is left unread.
    close: bool,
}

/// The answer, as far as it is always the same: the start of its head, and its body.
struct Face {
    start: Box<[u8]>,
    body: Bytes,
}

static FACES: LazyLock<[Face; 2]> = LazyLock::new(|| {
    [false, true].map(|html| {
        let problem = Problem::limited();
        let (mut start, mut body) = (Vec::new(), Vec::new());
        problem.render_undated(html, &mut start, &mut body);
        Face {
            start: start.into(),
            body: body.into(),
        }
    })
});

impl Refused {
    pub fn of(refusal: Refusal, who: &Who, noted: &Noted) -> Refused {
        let accept = who.request.known.accept;
        Refused {
            refusal,
            route: who.route.map(Arc::clone),
            html: accept.is_some_and(problem::prefers_html),
            head_only: matches!(noted.method, Verb::Known("HEAD")),
            close: noted.has_body,
        }
    }

    fn face(&self) -> &'static Face {
        &FACES[usize::from(self.html)]
    }

    pub fn body(&self) -> Bytes {
        match self.head_only {
            true => Bytes::new(),
            false => self.face().body.clone(),
        }
    }

    /// Appends the head. From here on the request is noted as refused.
    pub fn head(&self, noted: &Noted, close: bool, out: &mut Vec<u8>) {
        let _ = noted.admission.refused.set(Arc::clone(&self.refusal.limit));
        let wait = self.refusal.wait.unwrap_or(Duration::ZERO);
        out.extend_from_slice(&self.face().start);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(&crate::rules::date::format(noted.began.now().wall));
        out.extend_from_slice(b"\r\nRetry-After: ");
        decimal::write(after_wait(wait, ids::random()), out);
        out.extend_from_slice(b"\r\n");
        // Of a limit by concurrency nobody knows when there is more.
        let more = wait.max(Duration::from_secs(1));
        self.refusal.limit.lines.write(0, more, out);
        id_lines(noted, close, out);
        out.extend_from_slice(b"\r\n");
    }

    pub fn outcome(self, close: bool) -> Outcome {
        let bytes = match self.head_only {
            true => 0,
            false => self.face().body.len() as u64,
        };
        Outcome {
            status: 429,
            bytes,
            result: CacheResult::Limited,
            route: self.route,
            asked: 0,
            next: if close { Next::Close } else { Next::Keep },
        }
    }
}

thread_local! {
    static ANSWER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Tells a client so, in one write like a hit.
///
/// # Errors
/// The client's connection failed.
pub async fn refuse(conn: &mut Conn, noted: &Noted, refused: Refused) -> io::Result<Outcome> {
    let close = refused.close || conn.closes(noted);
    let body = refused.body();
    let rest = ANSWER.with_borrow_mut(|answer| {
        answer.clear();
        refused.head(noted, close, answer);
        let head_len = answer.len();
        answer.extend_from_slice(&body);
        let written = conn.wire.send_now(&[IoSlice::new(answer)])?;
        let rest = (written < answer.len()).then(|| {
            let of_body = written.saturating_sub(head_len);
            (
                answer[written.min(head_len)..head_len].to_vec(),
                body.slice(of_body..),
            )
        });
        io::Result::Ok(rest)
    })?;
    if let Some((head, body)) = rest {
        Box::pin(async move { conn.wire.send_body(&head, &[body], false).await }).await?;
    }
    Ok(refused.outcome(close))
}

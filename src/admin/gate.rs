//! Who may ask the admin API for what, and that every change is written down.
//!
//! All that is below `/v1/` comes by here. Over TCP it takes a host that is this machine's (a page that has rebound a name to it
//! names another; but for `PURGE`, which names the page's), no `Origin` (a browser's request from another site has one), and the token. Over the socket it takes
//! the owner. A change is carried out to its end, whether its client waits or not, and written into the audit log before it is
//! answered; so are changes that are refused.

use std::borrow::Cow;
use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Admin;
use super::problem::{Problem, Why};
use super::purge;
use super::token::Guesses;
use crate::clock;
use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::state::audit::Entry;
use crate::telemetry::{AdminRefused, Counter, Metrics, names};

/// The largest body of a request.
const BODY_MOST: usize = 1 << 20;
/// How long a body may take as a whole.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// What an asker may say to be called.
const ACTOR: &str = "x-tidegate-actor";
const ACTOR_MOST: usize = 64;
/// Tells whoever has changed something that the audit log doesn't know of it.
const UNWRITTEN: &str = "x-tidegate-audit";

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// `at`: the address of this machine that was asked.
    Tcp { from: IpAddr, at: IpAddr },
    /// `owner`: this process's own user, or root.
    Unix { uid: u32, owner: bool },
}

impl Peer {
    /// All of this machine's users have one.
    fn address(self) -> IpAddr {
        match self {
            Peer::Tcp { from, .. } => from,
            Peer::Unix { .. } => IpAddr::from([0; 4]),
        }
    }
}

/// Who asks, for whoever keeps that.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `token`, or `unix:uid=0`.
    pub who: String,
    /// What the asker says to be called.
    pub actor: Option<String>,
}

/// What the gate remembers.
pub struct Gate {
    guesses: Guesses,
    /// Strangers' changes that are written down: a few, and then one now and then, since a disk is finite.
    strangers: Mutex<Cell>,
    law: Gcra,
    refused: [Arc<Counter>; AdminRefused::ALL.len()],
}

impl Gate {
    pub fn new(metrics: &Metrics) -> Gate {
        let count = |at: usize| {
            let label = [AdminRefused::ALL[at].label()];
            metrics.counter(&names::ADMIN_REFUSED, &label)
        };
        Gate {
            guesses: Guesses::new(),
            strangers: Mutex::default(),
            law: Gcra::new(1, Duration::from_secs(6), 10).expect("a rate within bounds"),
            refused: std::array::from_fn(count),
        }
    }

    fn is_written(&self) -> bool {
        let mut cell = self.strangers.lock();
        match self.law.decide(*cell, clock::tick().nanos(), 1) {
            Verdict::Admit { cell: after, .. } => {
                *cell = after;
                true
            }
            Verdict::Wait { .. } | Verdict::Refuse { .. } => false,
        }
    }
}

/// Before every route.
pub(super) async fn gate(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if !is_guarded(&request) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let actor = actor(&parts.headers);
    let what = format!("{} {}", parts.method, parts.uri.path());
    let is_change = !parts.method.is_safe();
    let caller = match admit(&admin, peer, &parts) {
        Ok(who) => Caller { who, actor },
        Err((reason, problem)) => {
            admin.gate.refused[reason as usize].add(1);
            let response = problem.into_response();
            if !is_change || !admin.gate.is_written() {
                return response;
            }
            let who = format!("nobody at {}", peer.address());
            let entry = Entry::new(&who, &what, Value::Null, "").by(actor.as_deref());
            return written(&admin, entry, response).await;
        }
    };
    parts.extensions.insert(caller.clone());
    if !is_change {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let entry =
        |parameters| Entry::new(&caller.who, &what, parameters, "").by(caller.actor.as_deref());
    let body = match read(&parts, body).await {
        Ok(body) => body,
        Err(problem) => {
            return written(&admin, entry(Value::Null), problem.into_response()).await;
        }
    };
    let entry = entry(match is_purge(&parts.method) {
        true => purge::parameters(&parts),
        false => parameters(&body),
    });
    // Clients may leave; what was begun is done and written down.
    let change = tokio::spawn(async move {
        let at_desk = Arc::clone(&admin);
        let done = tokio::spawn(async move {
            match is_purge(&parts.method) {
                true => purge::method(&at_desk, &parts).await,
                false => next.run(Request::from_parts(parts, Body::from(body))).await,
            }
        });
        let done = done.await;
        written(&admin, entry, done.unwrap_or_else(|_| broken())).await
    });
    change.await.unwrap_or_else(|_| broken())
}

fn is_guarded(request: &Request) -> bool {
    let path = request.uri().path();
    path == "/v1" || path.starts_with("/v1/") || is_purge(request.method())
}

fn is_purge(method: &Method) -> bool {
    method.as_str() == purge::METHOD
}

/// Who asks; or why nobody is let in.
fn admit(admin: &Admin, peer: Peer, parts: &Parts) -> Result<String, (AdminRefused, Problem)> {
    let forbidden = |detail: &str| Problem::new(StatusCode::FORBIDDEN, detail);
    if let Peer::Tcp { at, .. } = peer
        && !is_purge(&parts.method)
        && !is_host_ours(parts, at)
    {
        let detail =
            "the Host asked for is not this machine's; use localhost or the address itself";
        return Err((AdminRefused::Host, forbidden(detail)));
    }
    if parts.headers.contains_key(header::ORIGIN) {
        let detail = "no request of a browser's from another site is taken";
        return Err((AdminRefused::Origin, forbidden(detail)));
    }
    match peer {
        Peer::Unix { uid, owner: true } => Ok(format!("unix:uid={uid}")),
        _ => with_token(admin, peer.address(), &parts.headers),
    }
}

fn with_token(
    admin: &Admin,
    from: IpAddr,
    headers: &HeaderMap,
) -> Result<String, (AdminRefused, Problem)> {
    let unauthorized = |detail: &str, challenge: &'static str| {
        let challenge = HeaderValue::from_static(challenge);
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail)
            .with(header::WWW_AUTHENTICATE, challenge);
        Err((AdminRefused::Token, problem))
    };
    const ASK: &str = "Bearer realm=\"tidegate\"";
    let Some(token) = &admin.token else {
        let detail = "this proxy has no token, for want of a state directory: use its socket, or set `token` in `[admin]`";
        return unauthorized(detail, ASK);
    };
    let Some(offered) = bearer(headers) else {
        return unauthorized("no token: it goes into `Authorization: Bearer …`", ASK);
    };
    let now = clock::tick().nanos();
    if let Some(wait) = admin.gate.guesses.shut(from, now) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = "too many wrong tokens from this address";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .with(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        return Err((AdminRefused::Pace, problem));
    }
    if token.is(offered) {
        return Ok("token".to_owned());
    }
    admin.gate.guesses.wrong(from, now);
    let challenge = "Bearer realm=\"tidegate\", error=\"invalid_token\"";
    unauthorized("not the token", challenge)
}

/// What stands alone in `Authorization: Bearer` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = alone(headers, &header::AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// A field that is there once.
fn alone<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// Whether all that the request says of its host (RFC 9112 §3.2) is this machine. `at`: the address it came to.
fn is_host_ours(parts: &Parts, at: IpAddr) -> bool {
    let field = alone(&parts.headers, &header::HOST).and_then(|host| host.to_str().ok());
    let target = parts.uri.authority().map(|authority| authority.as_str());
    field.is_some_and(|host| is_ours(host, at)) && target.is_none_or(|host| is_ours(host, at))
}

fn is_ours(host: &str, at: IpAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let inside = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inside.unwrap_or(name).parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address == at.to_canonical()
        }
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

fn actor(headers: &HeaderMap) -> Option<String> {
    let said = String::from_utf8_lossy(headers.get(ACTOR)?.as_bytes());
    let said: String = said.trim().chars().take(ACTOR_MOST).collect();
    (!said.is_empty()).then_some(said)
}

/// The whole body, in time.
async fn read(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let is_json = alone(&parts.headers, &header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    // A form of another site can send none of that kind.
    if (parts.method == Method::POST || !body.is_end_stream()) && !is_json {
        let detail = "a body is JSON, and says so: `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a body has 1 MiB at most");
    if body.size_hint().lower() > BODY_MOST as u64 {
        return Err(large());
    }
    match timeout(BODY_DEADLINE, to_bytes(body, BODY_MOST)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(large()),
        Ok(Err(_)) => Err(Problem::bad("the body breaks off")),
        Err(_) => {
            let detail = "no whole body in time";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    error
        .source()
        .is_some_and(|why| why.is::<LengthLimitError>())
}

fn parameters(body: &[u8]) -> Value {
    match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).unwrap_or_else(|_| json!({ "bytes": body.len() })),
    }
}

/// Writes down what was asked for and what came of it. The answer tells if that could not be.
async fn written(admin: &Arc<Admin>, mut entry: Entry, mut response: Response) -> Response {
    let status = response.status();
    entry.result = match response.extensions().get::<Why>() {
        Some(why) if status.is_success() => format!("done: {}", why.0),
        None if status.is_success() => "done".to_owned(),
        Some(why) => format!("{}: {}", status.as_u16(), why.0),
        None => status.as_u16().to_string(),
    };
    tracing::info!(entry = entry.line().trim_end(), "a change was asked for");
    let failed: Option<Cow<'static, str>> = match &admin.audit {
        None => Some("there is no state directory".into()),
        Some(audit) => {
            let audit = Arc::clone(audit);
            let wrote = tokio::task::spawn_blocking(move || audit.write(&entry)).await;
            match wrote {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string().into()),
                Err(_) => Some("the writer broke off".into()),
            }
        }
    };
    if let Some(why) = failed {
        if admin.audit.is_some() {
            tracing::error!(%why, "the audit log can't be written");
        }
        let value = HeaderValue::try_from(format!("not written: {why}"));
        let value = value.unwrap_or(HeaderValue::from_static("not written"));
        response.headers_mut().insert(UNWRITTEN, value);
    }
    response
}

fn broken() -> Response {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "it broke off; the log may say why",
    )
    .into_response()
}

/// What a change was asked for with: a JSON object of `T`. Nothing counts as `{}`.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        // It is in memory already, and within bounds.
        let body = to_bytes(request.into_body(), BODY_MOST).await;
        let body = body.map_err(|_| Problem::bad("no body"))?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text)
            .map(Asked)
            .map_err(|error| Problem::bad(error.to_string()))
    }
}

/// What a question is asked with: the query, as `T`.
pub struct Asking<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asking<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Asking(query))
            .map_err(|rejection| Problem::bad(rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c53_hosts_that_are_this_machine() {
        let at = |at: &str, host: &str| is_ours(host, at.parse().unwrap());
        for host in [
            "localhost",
            "LocalHost:9901",
            "127.0.0.1:9901",
            "127.1.2.3",
            "[::1]:9901",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
            "10.0.0.1:9901",
        ] {
            assert!(at("10.0.0.1", host), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "localhost.evil.test",
            "localhost:9901:1",
            "localhost:a",
            "127.0.0.1.evil.test:9901",
            "10.0.0.2",
            "0.0.0.0",
            "a@localhost",
            "2130706433",
        ] {
            assert!(!at("10.0.0.1", host), "{host}");
        }
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Stretch {
        #[serde(default)]
        times: u32,
    }

    #[tokio::test]
    async fn c54_a_body_that_is_not_what_is_asked_for() {
        let asked = async |body: &str| {
            let request = Request::new(Body::from(body.to_owned()));
            let asked = Asked::<Stretch>::from_request(request, &()).await;
            asked
                .map(|Asked(stretch)| stretch.times)
                .map_err(|problem| {
                    let response = problem.into_response();
                    assert_eq!(response.status(), 400);
                    response.extensions().get::<Why>().unwrap().0.clone()
                })
        };
        assert_eq!(asked("").await, Ok(0));
        assert_eq!(asked("{\"times\": 3}").await, Ok(3));
        for (body, says) in [
            ("{\"times\": 3", "EOF"),
            ("{\"time\": 3}", "unknown field `time`"),
            ("{\"times\": -3}", "invalid value"),
            ("{\"times\": 3, \"times\": 4}", "duplicate field"),
            ("[]] ", "line 1"),
            (&"[".repeat(1 << 20), "invalid type"),
        ] {
            let why = asked(body).await.unwrap_err();
            assert!(why.contains(says), "{body:.40}: {why}");
        }
    }

    #[test]
    fn c52_one_token_alone() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(with(&["Bearer abc"]), Some(b"abc".to_vec()));
        assert_eq!(with(&["bearer  abc"]), Some(b"abc".to_vec()));
        for none in [
            &[][..],
            &["Basic abc"],
            &["Bearer"],
            &["Bearer a", "Bearer a"],
        ] {
            assert_eq!(with(none), None, "{none:?}");
        }
    }
}

//! Past the cache, client side: the request's body goes up, the answer comes down.
//!
//! A small body is read before the origin is asked for a permit, so that a slow client holds none. A larger one is read
//! while the permit is held, and must keep the minimum rate. `Expect: 100-continue` is answered when the body is to be
//! read, and not before.

use std::io;
use std::sync::Arc;

use pingora::http::RequestHeader;
use tokio::sync::mpsc;

use super::asking::{self, Asking, Noted};
use super::body::{BadBody, Source};
use super::follow;
use super::h1::{Conn, Next};
use super::lines::{self, Between, Framing};
use super::lookup::Pass;
use super::miss::PIPELINED;
use super::problem::Problem;
use super::record::Outcome;
use super::wire::SLICE;
use crate::cache::flight::{Answer, Failure, News, Reader};
use crate::clock;
use crate::config::policy::{Policy, Route};
use crate::fetch::{Invalidates, Passage, Underway, Upload};
use crate::origin::Outgoing;
use crate::rules::cache_status::{Fwd, Told, Way};
use crate::rules::forward::Kind;
use crate::rules::invalidate::{self, Place};
use crate::rules::request::{Method, RequestBody};
use crate::telemetry::CacheResult;

/// The head that goes to the origin. `None`: the request has been through here already.
pub fn head(asking: &Asking, noted: &Noted) -> Option<Box<RequestHeader>> {
    let fields = asking
        .forwarded(noted, Kind::Pass, &asking.as_sent())
        .ok()?;
    let method = http::Method::from_bytes(asking.request.method.as_str().as_bytes()).ok()?;
    let mut head =
        RequestHeader::build(method, asking.target.as_bytes(), Some(fields.len() + 2)).ok()?;
    for (name, value) in &fields {
        head.append_header(name.clone(), value.clone()).ok()?;
    }
    Some(Box::new(head))
}

/// Serves a request past the cache.
///
/// # Errors
/// The client's connection failed.
pub async fn serve(conn: &mut Conn, noted: &Noted, pass: Pass) -> io::Result<Outcome> {
    let listen = &conn.policy().listen;
    let buffer = listen.request_buffer;
    let mut source = Source::new(
        pass.body,
        noted.head_len,
        listen.max_body,
        conn.wire.frames_itself(),
    );
    let small = matches!(pass.body, RequestBody::Length(length) if length <= buffer as u64);
    let mut owes_continue = pass.expect_continue && source.is_owed();
    if small && owes_continue {
        conn.wire.send_interim(CONTINUE).await?;
        owes_continue = false;
    }
    if !owes_continue && let Err(bad) = source.read_ahead(conn, buffer).await {
        return refuse(conn, noted, &pass.route, bad).await;
    }
    let outgoing = match pass.body {
        RequestBody::None => Outgoing::None,
        RequestBody::Length(length) => Outgoing::Length(length),
        // It came whole meanwhile: then it has a length.
        RequestBody::Chunked if !source.is_owed() => Outgoing::Length(source.read),
        RequestBody::Chunked => Outgoing::Chunked,
    };
    let facts = Facts {
        route: Arc::clone(&pass.route),
        head_only: pass.head_only,
        told: Told::forwarded(if pass.safe { Fwd::Bypass } else { Fwd::Method }, 0),
    };
    if let Some(failure) = conn.site.fetcher.down(&pass.route, clock::moment()) {
        return fail(conn, noted, &facts, &source, &Failure::Refused(failure)).await;
    }
    let invalidates = (!pass.safe).then(|| invalidates(conn.policy(), &pass));
    let passage = Passage {
        route: pass.route,
        client: pass.client,
        scheme: pass.scheme,
        steer: pass.steer,
        head: pass.head,
        outgoing,
        invalidates,
        bill: pass.bill,
    };
    let mut underway = conn.site.fetcher.pass(passage);
    if owes_continue {
        match admitted(conn, &mut underway, noted).await {
            Admitted::Yes => conn.wire.send_interim(CONTINUE).await?,
            Admitted::No => {}
            Admitted::Gone => return Ok(facts.aborted()),
        }
    }
    let Underway {
        mut reader, upload, ..
    } = underway;
    let tunnel = pass.upgrade.then(|| upload.clone());
    let mut upload = Some(upload).filter(|_| outgoing != Outgoing::None);
    let answer = loop {
        let news = tokio::select! {
            biased;
            news = reader.news() => news,
            step = step(conn, &mut source, upload.as_ref()) => match step {
                Ok(Step::More) => continue,
                Ok(Step::Over) => {
                    upload = None;
                    continue;
                }
                Ok(Step::Gone) => return Ok(facts.aborted()),
                Err(bad) => return refuse(conn, noted, &facts.route, bad).await,
            },
        };
        match news {
            News::Interim { status, fields, .. } if !noted.http10 => {
                follow::interim(conn, status, &fields).await?
            }
            News::Interim { .. } => {}
            News::Head(answer) => break answer,
            News::Failed(failure) => return fail(conn, noted, &facts, &source, &failure).await,
            // Nothing of a passage lands in the store.
            News::Landed { .. } => return Ok(facts.aborted()),
        }
    };
    if answer.head.status == 101 {
        upload = tunnel;
    }
    respond(
        conn,
        noted,
        &facts,
        &answer,
        &mut reader,
        &mut source,
        upload,
    )
    .await
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What stays the same over a passage.
struct Facts {
    route: Arc<Route>,
    head_only: bool,
    told: Told<'static>,
}

impl Facts {
    fn aborted(&self) -> Outcome {
        Outcome {
            route: Some(Arc::clone(&self.route)),
            asked: 1,
            ..Outcome::aborted()
        }
    }
}

enum Admitted {
    Yes,
    /// The news will say why.
    No,
    Gone,
}

/// Waits until the origin is there to be asked.
async fn admitted(conn: &mut Conn, underway: &mut Underway, noted: &Noted) -> Admitted {
    tokio::select! {
        told = &mut underway.admitted => if told.is_ok() { Admitted::Yes } else { Admitted::No },
        true = conn.wire.gone(&mut conn.inbox, noted.head_len + PIPELINED) => Admitted::Gone,
    }
}

/// One step of the upload.
enum Step {
    More,
    /// There is nothing more to send, or nobody who takes it.
    Over,
    Gone,
}

/// Moves one piece up; when there is nothing to move, waits for the client to leave. Cancel-safe.
async fn step(
    conn: &mut Conn,
    source: &mut Source,
    upload: Option<&mpsc::Sender<Upload>>,
) -> Result<Step, BadBody> {
    let Some(upload) = upload else {
        let most = source.head_len + PIPELINED;
        conn.wire.gone(&mut conn.inbox, most).await;
        return Ok(Step::Gone);
    };
    let place = tokio::select! {
        biased;
        place = upload.reserve() => place,
        () = conn.wire.stream_gone() => return Ok(Step::Gone),
    };
    let Ok(place) = place else {
        return Ok(Step::Over);
    };
    let piece = source.next(conn).await?;
    let over = matches!(piece, Upload::End);
    place.send(piece);
    Ok(if over { Step::Over } else { Step::More })
}

/// Sends the answer while the rest of the body, or the tunnel's other direction, goes up.
async fn respond(
    conn: &mut Conn,
    noted: &Noted,
    facts: &Facts,
    answer: &Answer,
    reader: &mut Reader,
    source: &mut Source,
    mut upload: Option<mpsc::Sender<Upload>>,
) -> io::Result<Outcome> {
    let status = answer.head.status;
    let framing = Framing::of(status, answer.length, facts.head_only, noted.http10);
    let unread = source.is_owed();
    let close = unread || conn.closes(noted) || framing == Framing::Close;
    let told = match facts.told.way {
        Way::Forwarded { why, .. } => Told::forwarded(why, status),
        Way::Hit => facts.told,
    };
    let x_cache = facts.route.x_cache;
    let between = Between {
        age: answer.age,
        told: &told,
        x_cache,
        close,
        framing,
        range: None,
    };
    let opening = lines::head(noted, answer.head.bytes(), &between);
    conn.wire.send_head(opening.bytes()).await?;
    if framing == Framing::Upgrade {
        source.tunnel();
    }
    let outcome = |bytes, next| Outcome {
        status,
        bytes,
        result: CacheResult::Pass,
        route: Some(Arc::clone(&facts.route)),
        asked: 1,
        next,
    };
    let bodiless = facts.head_only || matches!(framing, Framing::None | Framing::Length(0));
    let mut sent = 0;
    if !bodiless {
        match down(conn, reader, source, &mut upload, framing, &mut sent).await? {
            Down::Whole => {}
            Down::Gone => return Ok(facts.aborted()),
            Down::Broken(failure) => {
                tracing::info!(
                    ?failure,
                    request_id = noted.id.as_str(),
                    "answer broken off"
                );
                return Ok(outcome(sent, Next::Break));
            }
        }
    }
    if framing == Framing::Chunked && !facts.head_only {
        conn.wire.send_last_chunk().await?;
    }
    if framing == Framing::Upgrade || close || source.is_owed() {
        return Ok(outcome(sent, Next::Close));
    }
    Ok(outcome(sent, Next::Keep))
}

/// How the way down ended.
enum Down {
    Whole,
    Gone,
    Broken(Failure),
}

/// The answer's body goes down, and what is left of the request's goes up.
async fn down(
    conn: &mut Conn,
    reader: &mut Reader,
    source: &mut Source,
    upload: &mut Option<mpsc::Sender<Upload>>,
    framing: Framing,
    sent: &mut u64,
) -> io::Result<Down> {
    let mut pieces = Vec::new();
    loop {
        pieces.clear();
        // A tunnel's client that has ended its side may still listen.
        let listens = framing == Framing::Upgrade && upload.is_none();
        let taken = tokio::select! {
            biased;
            taken = reader.body(SLICE, &mut pieces) => taken,
            step = step(conn, source, upload.as_ref()), if !listens => match step {
                Ok(Step::More) => continue,
                Ok(Step::Over) => {
                    *upload = None;
                    continue;
                }
                Ok(Step::Gone) | Err(_) => return Ok(Down::Gone),
            },
        };
        match taken {
            Ok(0) => return Ok(Down::Whole),
            Ok(n) => *sent += n as u64,
            Err(failure) => return Ok(Down::Broken(failure)),
        }
        conn.wire
            .send_body(&[], &pieces, framing == Framing::Chunked)
            .await?;
    }
}

async fn fail(
    conn: &mut Conn,
    noted: &Noted,
    facts: &Facts,
    source: &Source,
    failure: &Failure,
) -> io::Result<Outcome> {
    let mut problem = Problem::failure(failure);
    problem.close |= source.is_owed();
    let is_down = matches!(failure, Failure::Refused(refusal) if refusal.is_down);
    let told = match facts.told.way {
        Way::Forwarded { why, .. } if is_down => Some(Told::refused(why)),
        _ => None,
    };
    let outcome = conn.answer(&problem, noted, told.as_ref()).await?;
    Ok(Outcome {
        route: Some(Arc::clone(&facts.route)),
        asked: 1,
        ..outcome
    })
}

async fn refuse(
    conn: &mut Conn,
    noted: &Noted,
    route: &Arc<Route>,
    bad: BadBody,
) -> io::Result<Outcome> {
    let problem = match bad {
        BadBody::Malformed => Problem::bad_body(),
        BadBody::TooLarge => Problem::body_too_large(),
        BadBody::Slow => Problem::slow_body(),
        BadBody::Gone => {
            return Ok(Outcome {
                route: Some(Arc::clone(route)),
                ..Outcome::aborted()
            });
        }
    };
    let outcome = conn.answer(&problem, noted, None).await?;
    Ok(Outcome {
        route: Some(Arc::clone(route)),
        ..outcome
    })
}

/// What an unsafe request makes untrue (RFC 9111 §4.4).
fn invalidates(policy: &Arc<Policy>, pass: &Pass) -> Invalidates {
    let policy = Arc::clone(policy);
    let (method, scheme, host) = (pass.method.clone(), pass.scheme, pass.host.clone());
    let (path, query) = (pass.path.clone(), pass.query.clone());
    Box::new(move |status, fields| {
        let place = Place {
            scheme,
            host: &host,
            path: &path,
            query: query.as_deref(),
        };
        invalidate::targets(Method::new(&method), status, fields, &place)
            .into_iter()
            .map(|page| asking::key_of(&policy, scheme, &host, &page.path, page.query.as_deref()))
            .collect()
    })
}

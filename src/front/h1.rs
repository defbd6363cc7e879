//! The HTTP/1 lane: one connection, its requests in order.
//!
//! ```text
//!   arrive ─► decide ─┬─ from memory: one write
//!      ▲              ├─ a flight:    wait, then follow it
//!      │              ├─ past the cache
//!      │              └─ an answer of our own
//!      └── next ◄─────────────┘
//! ```
//!
//! Between requests a connection holds no buffer and no timer.

use std::io;
use std::sync::Arc;

use super::asking::{Noted, Verb, Whence};
use super::lookup::{self, Decision};
use super::problem::Problem;
use super::record::{self, Outcome};
use super::stream::Stream;
use super::watch::Post;
use super::wire::{Inbox, Pace, Wire};
use super::{
    InForce, Site, blocked, challenge, deliver, down, fallback, h2, limited, lines, miss, pass,
    purging, thaw,
};
use crate::clock::{self, Tick};
use crate::config::policy::Policy;
use crate::rules::cache_status::Told;
use crate::rules::host::{KnownHost, Scheme};
use crate::telemetry::Client;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use bytes::Bytes;

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next request.
    Keep,
    /// An orderly end.
    Close,
    /// Nothing was asked for in time. What was answered may still be on its way.
    Leave,
    /// Nothing more can be said: what was sent is not whole.
    Break,
}

type Latest<'a> = Cache<&'a ArcSwap<Site>, Arc<Site>>;

/// One client's connection and what it has sent.
pub struct Conn {
    pub site: Arc<Site>,
    pub wire: Wire,
    pub inbox: Inbox,
    whence: Whence,
    client: Client,
    /// The host of the last request.
    site_host: KnownHost,
    /// The deadline for the head under way is running.
    head_armed: bool,
    /// When the last answer ended.
    last: Tick,
}

/// Serves a connection until it ends.
pub async fn serve(in_force: &InForce, stream: Stream, post: Arc<Post>, whence: Whence) {
    let site = in_force.load_full();
    let wire = Wire::new(stream, post, Pace::of(&site.policy));
    let h2c = site.policy.listen.h2c && whence.scheme == Scheme::Http && whence.redirect.is_none();
    let mut conn = Conn::new(site, wire, whence);
    if h2c && conn.opens_http2().await {
        // Apart, here as in `enter`: an idle connection has the room of all it may come to.
        return Box::pin(conn.into_http2(in_force)).await;
    }
    // Where the next request's site comes from, at the price of a comparison.
    let mut latest = Latest::new(in_force);
    let next = loop {
        let next = conn.one(&mut latest).await;
        if next != Next::Keep {
            break next;
        }
        conn.await_next();
        if !conn.inbox.is_empty() {
            // What was tried without waiting took nothing of its turn, which has to end.
            tokio::task::coop::consume_budget().await;
        }
    };
    match next {
        Next::Keep => {}
        Next::Leave => conn.wire.leave().await,
        Next::Close => conn.wire.close_gently().await,
        Next::Break => conn.wire.reset(),
    }
}

impl Conn {
    pub fn new(site: Arc<Site>, wire: Wire, whence: Whence) -> Conn {
        Conn {
            site,
            wire,
            inbox: Inbox::default(),
            whence,
            client: whence.client.into(),
            site_host: KnownHost::default(),
            head_armed: true,
            last: clock::tick(),
        }
    }

    /// Whether the connection's first bytes are HTTP/2's (RFC 9113 §3.3), as far as need be read to tell.
    async fn opens_http2(&mut self) -> bool {
        loop {
            let held = self.inbox.bytes();
            let common = held.len().min(h2::PREFACE.len());
            if held[..common] != h2::PREFACE[..common] {
                return false;
            }
            if common == h2::PREFACE.len() {
                return true;
            }
            // What comes of an end or a deadline is the same for any head that is not whole.
            if !matches!(self.wire.fill(&mut self.inbox).await, Ok(1..)) {
                return false;
            }
            self.wire.post().has_spoken();
            self.head_armed = false;
        }
    }

    async fn into_http2(mut self, in_force: &InForce) {
        let ahead = Bytes::copy_from_slice(self.inbox.bytes());
        self.inbox.clear();
        if let Some((stream, post)) = self.wire.into_stream() {
            h2::serve(in_force, stream, post, ahead, self.whence).await;
        }
    }

    /// One request, from its first byte to the last of its answer.
    async fn one(&mut self, latest: &mut Latest<'_>) -> Next {
        loop {
            if !self.inbox.is_empty() {
                let now = clock::tick();
                let latest = latest.load();
                if !Arc::ptr_eq(latest, &self.site) {
                    self.site = Arc::clone(latest);
                }
                let from = self.whence();
                let mut noted = Noted::blank(now);
                let decision = lookup::decide(
                    &self.site,
                    self.inbox.bytes(),
                    from,
                    now,
                    &mut self.site_host,
                    &mut noted,
                );
                let sent = match decision {
                    Decision::More => None,
                    Decision::Refuse(problem) => {
                        return Box::pin(self.refuse(&problem)).await;
                    }
                    Decision::Hit(hit) => {
                        self.wire.post().set_idle(false);
                        Some(deliver::hit(self, &noted, hit).await)
                    }
                    Decision::Limited(refused) => {
                        self.wire.post().set_idle(false);
                        Some(limited::refuse(self, &noted, refused).await)
                    }
                    Decision::Down(down) => {
                        self.wire.post().set_idle(false);
                        Some(Box::pin(down::refuse(self, &noted, &down)).await)
                    }
                    decision => {
                        self.wire.post().set_idle(false);
                        Some(Box::pin(self.carry_out(&noted, decision)).await)
                    }
                };
                if let Some(sent) = sent {
                    return self.done(&noted, sent);
                }
            }
            match self.more().await {
                Ok(0) => return Next::Keep.or_end(self.inbox.is_empty()),
                Ok(_) => {}
                // A stray empty line is no request that could have an answer.
                Err(e)
                    if e.kind() == io::ErrorKind::TimedOut
                        && !self.inbox.bytes().trim_ascii().is_empty() =>
                {
                    limited::unread(&self.site, self.whence(), clock::tick());
                    return Box::pin(self.refuse(&Problem::slow_head())).await;
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Next::Leave,
                Err(_) => return Next::Break,
            }
        }
    }

    /// Does what was decided on.
    ///
    /// # Errors
    /// The client's connection failed.
    pub async fn carry_out(&mut self, noted: &Noted, decision: Decision) -> io::Result<Outcome> {
        match decision {
            Decision::Hit(hit) => deliver::hit(self, noted, hit).await,
            Decision::Miss(what) => miss::serve(self, noted, *what).await,
            Decision::Pass(what) => pass::serve(self, noted, *what).await,
            Decision::Down(what) => down::refuse(self, noted, &what).await,
            Decision::Instead(what) => fallback::serve(self, noted, *what).await,
            Decision::Challenge(what) => challenge::answer(self, noted, *what).await,
            Decision::Block(route) => blocked::refuse(self, noted, route).await,
            Decision::Limited(refused) => limited::refuse(self, noted, refused).await,
            Decision::Later(wait) => limited::wait(self, noted, wait).await,
            Decision::CatchUp => limited::catch_up(self, noted).await,
            Decision::Purge(order) => purging::carry_out(self, noted, *order).await,
            Decision::Cold(what) => thaw::serve(self, noted, *what).await,
            Decision::Here(mut problem) => {
                // Its body must never be taken for the next request.
                problem.close |= noted.has_body;
                self.answer(&problem, noted, None).await
            }
            Decision::Refuse(problem) => self.answer(&problem, noted, None).await,
            // Whoever has this carried out has a whole head.
            Decision::More => Ok(Outcome::aborted()),
        }
    }

    /// Waits for bytes: between requests as long as an idle connection may, within a head until its one deadline.
    async fn more(&mut self) -> io::Result<usize> {
        if !self.inbox.is_empty() && !self.head_armed {
            self.wire.post().arm(self.site.policy.listen.head_deadline);
            self.head_armed = true;
        }
        let was_empty = self.inbox.is_empty();
        let read = self.wire.fill(&mut self.inbox).await?;
        if was_empty && read > 0 {
            self.wire.post().has_spoken();
            self.wire.post().set_idle(false);
            self.head_armed = false;
        }
        Ok(read)
    }

    fn await_next(&mut self) {
        self.head_armed = false;
        if self.inbox.is_empty() {
            let idle = self.site.policy.listen.idle_timeout.as_millis() as u64;
            self.wire.post().arm_at(self.last.uptime_millis() + idle);
            self.wire.post().set_idle(true);
        }
    }

    pub fn whence(&self) -> Whence {
        self.whence
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.site.policy
    }

    /// Whether the client will be told that this is the last answer.
    pub fn closes(&self, noted: &Noted) -> bool {
        !noted.keep_alive || self.site.watch.is_draining()
    }

    /// Sends an answer of our own to a request that could be read. Its body, if any, is left unread: then we close.
    pub async fn answer(
        &mut self,
        problem: &Problem,
        noted: &Noted,
        told: Option<&Told<'_>>,
    ) -> io::Result<Outcome> {
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let head_only = matches!(noted.method, Verb::Known("HEAD"));
        let wants_html = noted.wants_html(self.inbox.bytes());
        problem.render(wants_html, head_only, told, &mut head, &mut body);
        let close = problem.close || self.closes(noted);
        lines::common_lines(noted, close, &mut head);
        head.extend_from_slice(b"\r\n");
        let bytes = body.len() as u64;
        self.wire.send_body(&head, &[body.into()], false).await?;
        let next = if close { Next::Close } else { Next::Keep };
        Ok(Outcome {
            status: problem.status,
            bytes,
            result: problem.result,
            route: None,
            asked: 0,
            next,
        })
    }

    /// Refuses what could not be read as a request, and ends the connection.
    async fn refuse(&mut self, problem: &Problem) -> Next {
        let (mut head, mut body) = (Vec::new(), Vec::new());
        // RFC 9110 §9.3.2: whatever else is wrong with it.
        let head_only = self.inbox.bytes().trim_ascii_start().starts_with(b"HEAD ");
        problem.render(false, head_only, None, &mut head, &mut body);
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        let bytes = body.len() as u64;
        let sent = self.wire.send_body(&head, &[body.into()], false).await;
        record::unread(&self.site, &self.client, problem, bytes);
        self.inbox.clear();
        if sent.is_ok() {
            Next::Close
        } else {
            Next::Break
        }
    }

    /// Records an answer and drops its request's bytes.
    pub fn done(&mut self, noted: &Noted, sent: io::Result<Outcome>) -> Next {
        let outcome = sent.unwrap_or_else(|_| Outcome::aborted());
        self.last = record::answered(
            &self.site,
            &self.client,
            self.inbox.bytes(),
            noted,
            &outcome,
        );
        if outcome.next == Next::Keep {
            self.inbox.consume(noted.head_len);
        }
        outcome.next
    }
}

impl Next {
    /// The client ended its side: in the middle of a head that is an error, between requests it is how it goes.
    fn or_end(self, between_requests: bool) -> Next {
        if between_requests {
            Next::Close
        } else {
            Next::Break
        }
    }
}

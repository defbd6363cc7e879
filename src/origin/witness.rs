//! What one request tells of its server: that it answered and how soon, that it failed, or how long nobody got a word.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::circuit::Trying;
use super::error::OriginErrorKind;
use super::room::Fate;
use super::server::Server;
use super::upstream::{Permit, Upstream};
use crate::clock;

/// One request's. Dropped before it has told anything, it tells how long its answer has been due.
pub(super) struct Witness {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Server>,
    /// Whose it is, if its route has a bulkhead.
    route: Option<usize>,
    began: Instant,
    /// Its server has been told on, and praised.
    is_blamed: bool,
    is_praised: bool,
    /// Since when its answer has been due: then all was sent. A client that sends slowly is not its server's fault.
    due_since: Option<Instant>,
    /// It goes to see whether the upstream is back.
    trial: Option<Arc<Trying>>,
    /// What the budget learns from, but for a probe.
    fate: Option<Fate>,
}

impl Witness {
    /// Of a request at one server, from now on.
    pub(super) fn new(upstream: &Arc<Upstream>, server: &Arc<Server>) -> Witness {
        Witness {
            upstream: Arc::clone(upstream),
            server: Arc::clone(server),
            route: None,
            began: clock::timer(),
            is_blamed: false,
            is_praised: false,
            due_since: None,
            trial: None,
            fate: None,
        }
    }

    /// The same with a permit, whose upstream learns of it.
    pub(super) fn with(upstream: &Arc<Upstream>, permit: &Permit) -> Witness {
        let mut witness = Witness::new(upstream, permit.server());
        witness.route = permit.route();
        witness.trial = permit.trial();
        // What a server can take at once, a single request of an outage doesn't tell.
        witness.fate = witness.trial.is_none().then(|| permit.fate());
        witness
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How long its answer's head is waited for once all was sent.
    pub(super) fn patience(&self) -> Duration {
        let most = self.upstream.spec.first_byte_timeout;
        let places = || self.upstream.budget.places(self.route);
        let hurry = self.trial.as_ref().and_then(|trial| trial.hurry(places()));
        hurry.map_or(most, |hurry| hurry.min(most))
    }

    /// Its request was all sent at that moment, or is not yet.
    pub(super) fn sent(&mut self, at: Option<Instant>) {
        self.due_since = at;
    }

    /// There is no connection.
    pub(super) fn not_connected(&mut self) {
        self.is_blamed = true;
        let trial = self.trial.as_deref();
        self.upstream.failed(&self.server, trial, false);
    }

    /// A head came.
    pub(super) fn head(&mut self, status: u16) {
        if let (429 | 503 | 504, Some(fate)) = (status, &self.fate) {
            fate.failed();
        }
        let trial = self.trial.as_deref();
        match status {
            502..=504 => {
                self.is_blamed = true;
                self.upstream.failed(&self.server, trial, false);
            }
            _ => {
                self.is_praised = true;
                self.upstream
                    .answered(&self.server, self.route, self.took(), trial);
            }
        }
    }

    /// None came, or the answer broke off, unless that may be its client's fault, who sends and takes at a pace of its own.
    pub(super) fn failed(&mut self, kind: OriginErrorKind) {
        if let (OriginErrorKind::FirstByteTimeout, Some(fate)) = (kind, &self.fate) {
            fate.failed();
        }
        let is_servers = !matches!(kind, OriginErrorKind::Write | OriginErrorKind::Total);
        if is_servers && !std::mem::replace(&mut self.is_blamed, true) {
            let trial = self.trial.as_deref();
            self.upstream.failed(&self.server, trial, self.is_praised);
        }
    }

    /// An answer has come whole. How long it took tells what its server can do, unless a client's pace is in it: `away`, how
    /// long its caller did something else, and until when it was `sent`.
    pub(super) fn ended(&self, away: Duration, sent: Option<Instant>) {
        if self.is_blamed {
            return;
        }
        self.upstream.budget.ended(self.server.id);
        let took = self.took();
        let sending = sent.map_or(took, |sent| sent.saturating_duration_since(self.began));
        if let Some(fate) = &self.fate
            && (away + sending) * 4 <= took
        {
            fate.answered();
        }
    }

    fn took(&self) -> Duration {
        clock::timer().saturating_duration_since(self.began)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(due) = self
            .due_since
            .filter(|_| !self.is_praised && !self.is_blamed)
        {
            let time = clock::timer().saturating_duration_since(due);
            self.upstream.budget.waited(self.server.id, time);
        }
    }
}

//! What operators ask: the state directory, the token, the socket, and what they are told of.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::Start;
use crate::admin::{self, Admin, Beside, Facts, Gate, Health, Listeners, Listening, Token};
use crate::config::Policy;
use crate::config::live::Live;
use crate::config::policy::{SocketPlace, StateDir};
use crate::fallback::{Rehearsal, Reserve};
use crate::fetch::Fetcher;
use crate::fleet::Fleet;
use crate::front::{self, Site};
use crate::levers::board::Board;
use crate::limits::Limit;
use crate::rules::replay::Replay;
use crate::state::{self, Dir, audit::Audit};
use crate::telemetry::Metrics;

/// What outlives the process, as far as it can be had.
pub struct Operators {
    dir: Option<Dir>,
    token: Option<Token>,
    audit: Option<Arc<Audit>>,
    socket: Option<Beside>,
}

impl Operators {
    /// Opens the state directory. One that can't be had is told, and whatever needs it is not there.
    ///
    /// # Errors
    /// A token that is none; for people.
    pub fn prepare(policy: &Policy, metrics: &Metrics) -> Result<Operators, String> {
        let dir = dir(policy);
        let token = match (&policy.admin.token, &dir) {
            (Some(token), _) => {
                Some(Token::new(&token.0).map_err(|why| format!("`token`: {why}"))?)
            }
            (None, Some(dir)) => Token::of(dir)?,
            (None, None) => None,
        };
        Ok(Operators {
            audit: dir.as_ref().map(|dir| Arc::new(Audit::new(dir, metrics))),
            dir,
            token,
            socket: None,
        })
    }

    /// The audit log, if there is one.
    pub fn audit(&self) -> Option<Arc<Audit>> {
        self.audit.clone()
    }

    /// The state directory, if there is one.
    pub fn state(&self) -> Option<&Path> {
        self.dir.as_ref().map(Dir::path)
    }

    /// Where what is called so is kept, if anything is.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.file(name))
    }

    /// Binds the socket beside its place.
    ///
    /// # Errors
    /// It can't be had where the config wants it; for people.
    pub fn bind(self, policy: &Policy, start: Start) -> Result<Operators, String> {
        let taking_over = start == Start::Upgrade;
        let socket = match &policy.admin.socket {
            SocketPlace::Off => None,
            SocketPlace::At(path) => {
                let bound = Beside::bind(path, taking_over);
                Some(bound.map_err(|e| format!("cannot listen on {}: {e}", path.display()))?)
            }
            SocketPlace::Usual => self.dir.as_ref().and_then(|dir| {
                let path = dir.file(state::SOCKET);
                Beside::bind(&path, taking_over)
                    .inspect_err(|error| {
                        tracing::warn!(path = %path.display(), %error, "no admin socket");
                    })
                    .ok()
            }),
        };
        Ok(Operators { socket, ..self })
    }

    /// Lets operators in: none where there is no way.
    ///
    /// # Errors
    /// A thread that can't be had; for people.
    pub fn start(
        self,
        tcp: Option<TcpListener>,
        (metrics, health): (Arc<Metrics>, Arc<Health>),
        facts: Arc<dyn Facts>,
        (live, board): (Arc<Live>, Arc<Board>),
    ) -> Result<Option<Listening>, String> {
        let listeners = Listeners {
            tcp,
            socket: self.socket,
        };
        if listeners.tcp.is_none() && listeners.socket.is_none() {
            return Ok(None);
        }
        let admin = Admin {
            gate: Gate::new(&metrics),
            metrics,
            health,
            facts,
            live,
            board,
            token: self.token,
            state: self.dir,
            audit: self.audit,
            socket: OnceLock::new(),
        };
        let listening = admin::start(listeners, admin);
        listening
            .map(Some)
            .map_err(|e| format!("admin listener: {e}"))
    }
}

fn dir(policy: &Policy) -> Option<Dir> {
    let places: Vec<PathBuf> = match &policy.state {
        StateDir::Off => return None,
        StateDir::At(path) => vec![path.clone()],
        StateDir::Usual => {
            let env = |name: &str| std::env::var(name).ok();
            state::places(policy.listen.address.port(), env)
        }
    };
    match Dir::first(&places) {
        Ok(dir) => Some(dir),
        Err(why) => {
            tracing::warn!(
                %why,
                "no state directory: no token is made, changes are not written down"
            );
            None
        }
    }
}

impl Facts for ArcSwap<Site> {
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.load().policy)
    }

    fn fetcher(&self) -> Arc<Fetcher> {
        Arc::clone(&self.load().fetcher)
    }

    fn limits(&self) -> Vec<Arc<Limit>> {
        self.load().limits.all().to_vec()
    }

    fn connections(&self) -> (usize, usize) {
        let site = self.load();
        (site.guests.open(), site.guests.most(&site.policy.listen))
    }

    fn reserve(&self) -> (Arc<Policy>, Arc<Reserve>) {
        let site = self.load();
        (Arc::clone(&site.policy), Arc::clone(&site.reserve))
    }

    fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.load().fleet)
    }

    fn rehearse(&self) -> Rehearsal {
        front::rehearse(&self.load_full())
    }

    fn waiters(&self) -> usize {
        self.load().waiters.load(Ordering::Relaxed)
    }

    fn replay(&self, policy: Policy) -> Result<Replay, String> {
        front::replay::replay(&self.load_full(), policy)
    }
}

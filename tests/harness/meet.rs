//! Where the parties of a script meet: barriers, signals, and the first fault, which ends everybody's waiting.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Fault;
use super::clock;
use super::wire::PATIENCE;

#[derive(Default)]
pub struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many parties name each barrier, and how many stand before it.
    barriers: HashMap<String, (usize, usize)>,
    signals: HashMap<String, bool>,
    fault: Option<Fault>,
    over: bool,
    streams: Vec<Weak<TcpStream>>,
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more party will come to this barrier.
    pub fn invite(&self, barrier: &str) {
        self.state()
            .barriers
            .entry(barrier.to_owned())
            .or_default()
            .0 += 1;
    }

    /// Waits until every invited party is here.
    pub fn sync(&self, name: &str) -> Result<(), String> {
        let mut state = self.state();
        let (expected, here) = state.barriers.entry(name.to_owned()).or_default();
        *here += 1;
        let (expected, here) = (*expected, *here);
        if here == expected {
            self.changed.notify_all();
        }
        drop(state);
        self.until(&format!("sync {name}"), |state| {
            state
                .barriers
                .get(name)
                .is_some_and(|(expected, here)| here >= expected)
        })
        .map_err(|error| format!("{error} ({here} of {expected} had come when this one did)"))
    }

    pub fn signal(&self, name: &str) {
        self.state().signals.insert(name.to_owned(), true);
        self.changed.notify_all();
    }

    pub fn wait(&self, name: &str) -> Result<(), String> {
        self.until(&format!("wait {name}"), |state| {
            state.signals.contains_key(name)
        })
    }

    fn until(&self, what: &str, met: impl Fn(&State) -> bool) -> Result<(), String> {
        let deadline = clock::now() + PATIENCE;
        let mut state = self.state();
        while !met(&state) {
            if state.over {
                return Err(format!("{what}: the script ended"));
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left == Duration::ZERO {
                return Err(format!("{what}: nobody came"));
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Holds its caller until the script is over.
    pub fn hold(&self) {
        let mut state = self.state();
        while !state.over {
            (state, _) = self
                .changed
                .wait_timeout(state, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A connection that is to be cut when the script is over. Its owner may close it before.
    pub fn keep(&self, stream: &Arc<TcpStream>) {
        let mut state = self.state();
        if state.over {
            let _ = stream.shutdown(Shutdown::Both);
        }
        state.streams.push(Arc::downgrade(stream));
    }

    /// The first fault is the one that is told; what breaks after it breaks because of it.
    pub fn fail(&self, fault: Fault) {
        self.state().fault.get_or_insert(fault);
        self.finish();
    }

    pub fn finish(&self) {
        let mut state = self.state();
        state.over = true;
        for stream in state
            .streams
            .drain(..)
            .filter_map(|stream| stream.upgrade())
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    pub fn over(&self) -> bool {
        self.state().over
    }

    pub fn fault(&self) -> Option<Fault> {
        self.state().fault.clone()
    }
}

//! The scripted origin: accepts, records what it was asked, checks that it was asked properly, answers as told.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Fault;
use super::actor::{Actor, Asked};
use super::proxy::free_port;
use super::script::{Answer, Door, Seen};
use super::stage::Stage;
use super::wire::{Body, Conn, Framing, Head, PATIENCE, Piece};

pub struct Origin {
    pub name: String,
    pub address: SocketAddr,
    answers: Vec<Answer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often each answer was given.
    given: Vec<usize>,
    /// (method, target) of each request, in order.
    asked: Vec<(String, String)>,
    connections: u64,
    now: u64,
    peak: u64,
    /// Bumped whenever the door changes; an acceptor of an older turn stops.
    turn: u64,
    streams: Vec<Weak<TcpStream>>,
    /// What keeps a deaf door deaf.
    deaf: Option<(Socket, Vec<TcpStream>)>,
}

impl Origin {
    pub fn new(name: String, answers: Vec<Answer>) -> Origin {
        let state = State {
            given: vec![0; answers.len()],
            ..State::default()
        };
        Origin {
            name,
            address: free_port(),
            answers,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens or shuts the door. Shutting it cuts whoever is inside.
    pub fn door(self: &Arc<Origin>, stage: &Arc<Stage>, door: Door) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.address);
        let turn = {
            let mut state = self.state();
            state.turn += 1;
            state.deaf = None;
            for stream in state
                .streams
                .drain(..)
                .filter_map(|stream| stream.upgrade())
            {
                let _ = stream.shutdown(Shutdown::Both);
            }
            state.turn
        };
        self.wake();
        match door {
            Door::Down => {}
            Door::Deaf => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
                socket.set_reuse_address(true).map_err(told)?;
                socket.bind(&self.address.into()).map_err(told)?;
                socket.listen(0).map_err(told)?;
                let mut callers = Vec::new();
                while let Ok(caller) =
                    TcpStream::connect_timeout(&self.address, Duration::from_millis(50))
                {
                    callers.push(caller);
                }
                self.state().deaf = Some((socket, callers));
            }
            Door::Open => {
                let listener = TcpListener::bind(self.address).map_err(told)?;
                let (origin, stage) = (Arc::clone(self), Arc::clone(stage));
                thread::spawn(move || origin.accept(&listener, turn, &stage));
            }
        }
        Ok(())
    }

    /// Lets an acceptor see that its turn is over, and waits until its port is free.
    pub fn wake(&self) {
        while TcpStream::connect_timeout(&self.address, Duration::from_millis(20)).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn retire(&self) {
        self.state().turn += 1;
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(20));
    }

    fn accept(self: &Arc<Origin>, listener: &TcpListener, turn: u64, stage: &Arc<Stage>) {
        while let Ok((stream, _)) = listener.accept() {
            if self.state().turn != turn {
                return;
            }
            self.state().connections += 1;
            let (origin, stage) = (Arc::clone(self), Arc::clone(stage));
            thread::spawn(move || origin.serve(stream, &stage));
        }
    }

    fn serve(&self, stream: TcpStream, stage: &Arc<Stage>) {
        let fail = |fault| {
            if !stage.meeting.over() {
                stage.meeting.fail(fault);
            }
        };
        let conn = Conn::new(stream, |stream| {
            stage.meeting.keep(stream);
            self.state().streams.push(Arc::downgrade(stream));
        });
        let Ok(mut conn) = conn else { return };
        loop {
            // An idle connection may wait for as long as the script runs.
            let _ = conn.patience(Duration::from_secs(60));
            let head = match conn.head() {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(why) => return fail(Fault::at(0, format!("the origin was sent {why}"))),
            };
            let _busy = Busy::new(self);
            // Faults are told before the connection closes, or its peer would be blamed.
            let (answer, asked) = match self.receive(stage, &mut conn, head) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(fault) => return fail(fault),
            };
            let mut actor = Actor::origin(stage, &self.name, conn, asked);
            for step in &answer.steps {
                match actor.step(step) {
                    Err(_) if actor.cut => return,
                    Err(fault) => return fail(fault),
                    Ok(()) => {}
                }
            }
            match actor.conn {
                Some(open) if !answer.early => conn = open,
                _ => return,
            }
        }
    }

    /// Checks and records a request, and finds its answer. None where the request's body does not come whole.
    fn receive(
        &self,
        stage: &Stage,
        conn: &mut Conn,
        head: Head,
    ) -> Result<Option<(&Answer, Asked)>, Fault> {
        let told = |why: String| {
            Fault::at(
                0,
                format!("{why}, in what the origin was sent:\n{}", head.shown()),
            )
        };
        conn.patience(PATIENCE).map_err(told)?;
        stage.note(&format!("origin {} ← {}", self.name, head.shown()));
        let (method, target) = start_line(&head).map_err(told)?;
        if !stage.script.direct {
            proper(&head, &method).map_err(told)?;
        }
        let framing = Framing::of_request(&head).map_err(told)?;
        self.state().asked.push((method.clone(), target.clone()));
        let Some(answer) = self.answer(&method, &target) else {
            let why = format!(
                "the origin {} has no answer left for {method} {target}",
                self.name
            );
            return Err(Fault::at(0, why));
        };
        let mut body = Vec::new();
        if !answer.early && !read_body(conn, framing, &mut body).map_err(told)? {
            return Ok(None);
        }
        Ok(Some((
            answer,
            Asked {
                method,
                target,
                head,
                body,
            },
        )))
    }

    fn answer(&self, method: &str, target: &str) -> Option<&Answer> {
        let mut state = self.state();
        let index = self
            .answers
            .iter()
            .enumerate()
            .position(|(index, answer)| {
                answer.times.is_none_or(|times| state.given[index] < times)
                    && answer.method.as_ref().is_none_or(|wanted| wanted == method)
                    && answer.target.as_ref().is_none_or(|wanted| wanted == target)
            })?;
        state.given[index] += 1;
        Some(&self.answers[index])
    }

    pub fn seen(&self, what: Seen, method: Option<&str>, target: Option<&str>) -> u64 {
        let state = self.state();
        match what {
            Seen::Connections => state.connections,
            Seen::Peak => state.peak,
            Seen::Requests => {
                let fits = |(held, at): &&(String, String)| {
                    method.is_none_or(|method| method == held)
                        && target.is_none_or(|target| target == at)
                };
                state.asked.iter().filter(fits).count() as u64
            }
        }
    }

    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    pub fn asked(&self) -> String {
        let lines: Vec<_> = self
            .state()
            .asked
            .iter()
            .map(|(method, target)| format!("{method} {target}"))
            .collect();
        lines.join(", ")
    }
}

/// Counts a request as being answered for as long as it lives.
struct Busy<'a>(&'a Origin);

impl<'a> Busy<'a> {
    fn new(origin: &'a Origin) -> Busy<'a> {
        let mut state = origin.state();
        state.now += 1;
        state.peak = state.peak.max(state.now);
        Busy(origin)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().now -= 1;
    }
}

/// Whether the body came whole.
fn read_body(conn: &mut Conn, framing: Framing, body: &mut Vec<u8>) -> Result<bool, String> {
    let mut left = Body::new(framing);
    loop {
        match conn.piece(&mut left, usize::MAX)? {
            Piece::Data(data) => body.extend(data),
            Piece::Whole => return Ok(true),
            Piece::Broken(_) => return Ok(false),
        }
    }
}

fn start_line(head: &Head) -> Result<(String, String), String> {
    match head.start.split(' ').collect::<Vec<_>>()[..] {
        [method, target, "HTTP/1.1"] => Ok((method.to_owned(), target.to_owned())),
        _ => Err(format!(
            "the origin was sent the request line {:?}",
            head.start
        )),
    }
}

/// What holds of every request that reaches an origin, whatever a client sent: origin-form target, one Host, one
/// framing, nothing that belonged to the client's hop.
fn proper(head: &Head, method: &str) -> Result<(), String> {
    let target = head.start.split(' ').nth(1).unwrap_or_default();
    if !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
        return Err("a target that is not in origin-form".into());
    }
    if let Some(byte) = target
        .bytes()
        .find(|byte| !byte.is_ascii_graphic() || b"\"<>\\^`{|}#".contains(byte))
    {
        return Err(format!("the byte {byte:#x} in a target"));
    }
    if head.all("host").len() != 1 {
        return Err("not one Host".into());
    }
    Framing::of_request(head)?;
    let upgrade = head.one("upgrade").is_some();
    for (name, value) in &head.fields {
        let name = name.to_ascii_lowercase();
        let ours = match name.as_str() {
            "connection" => {
                let value = value.to_ascii_lowercase();
                value == b"keep-alive" || value == b"close" || (upgrade && value == b"upgrade")
            }
            "keep-alive" | "te" | "trailer" | "expect" => false,
            _ => !name.starts_with("proxy-"),
        };
        if !ours {
            return Err(format!("the hop-by-hop field {name}"));
        }
    }
    Ok(())
}

//! Whoever carries out steps: a client on its connections, or the origin answering one request.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Fault;
use super::check::{Message, check, differ};
use super::proxy::free_port;
use super::script::{Act, Check, Expect, Request, Respond, Rest, Seen, Step, holds};
use super::stage::Stage;
use super::text::{Scope, bytes, matches, regex, show};
use super::wire::{Body, Conn, End, Framing, Head, PATIENCE, Piece};

pub struct Actor<'a> {
    stage: &'a Arc<Stage>,
    who: String,
    pub conn: Option<Conn>,
    /// Methods of requests whose answers are still to come: HEAD has no body.
    methods: VecDeque<String>,
    body: Option<Body>,
    sent: Instant,
    /// The request that an origin is answering.
    asked: Option<Asked>,
    command: Option<Finished>,
}

pub struct Asked {
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
}

struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl<'a> Actor<'a> {
    pub fn client(stage: &'a Arc<Stage>, who: &str) -> Actor<'a> {
        Actor {
            stage,
            who: who.to_owned(),
            conn: None,
            methods: VecDeque::new(),
            body: None,
            sent: Instant::now(),
            asked: None,
            command: None,
        }
    }

    pub fn origin(stage: &'a Arc<Stage>, name: &str, conn: Conn, asked: Asked) -> Actor<'a> {
        let mut actor = Actor::client(stage, &format!("origin {name}"));
        actor.conn = Some(conn);
        actor.asked = Some(asked);
        actor
    }

    pub fn step(&mut self, step: &Step) -> Result<(), Fault> {
        self.act(&step.act)
            .map_err(|why| Fault::at(step.line, format!("{}: {}: {why}", self.who, step.text)))
    }

    fn act(&mut self, act: &Act) -> Result<(), String> {
        let stage = Arc::clone(self.stage);
        match act {
            Act::Connect { admin, window } => {
                self.connect(if *admin { stage.admin } else { stage.listen }, *window)
            }
            Act::Request(request) => self.request(request),
            Act::Respond(respond) => self.respond(respond),
            Act::Send(expr) => {
                let bytes = stage.scoped(|scope| expr.render(scope))?;
                self.open()?;
                self.methods.extend(method_of(&bytes));
                self.write(&bytes)
            }
            Act::SendHead(lines) => {
                let mut head = Vec::new();
                for line in lines {
                    head.extend(stage.scoped(|scope| bytes(line, scope))?);
                    head.extend(b"\r\n");
                }
                head.extend(b"\r\n");
                self.open()?;
                self.methods.extend(method_of(&head));
                self.write(&head)
            }
            Act::Chunk(expr) => {
                let data = stage.scoped(|scope| expr.render(scope))?;
                self.write(&chunk(&data))
            }
            Act::LastChunk => self.write(b"0\r\n\r\n"),
            Act::Close => {
                self.conn = None;
                Ok(())
            }
            Act::Reset => self.conn.take().map_or(Ok(()), Conn::reset),
            Act::Shutdown => self.open()?.shutdown(),
            Act::Expect(expect) => self.expect(expect).map(drop),
            Act::Asked {
                method,
                target,
                checks,
            } => self.was_asked(method.as_deref(), target.as_deref(), checks),
            Act::ExpectEnd { reset } => {
                let end = self.open()?.end()?;
                self.conn = None;
                if *reset && end != End::Reset {
                    Err("a close, not a reset".into())
                } else {
                    Ok(())
                }
            }
            Act::ExpectBroken => self.expect_broken(),
            Act::Drain => {
                let drained = self.open()?.drain();
                self.conn = None;
                drained
            }
            Act::Raw(expr) => {
                let wanted = stage.scoped(|scope| expr.render(scope))?;
                let got = self.open()?.exactly(wanted.len())?;
                if got == wanted {
                    Ok(())
                } else {
                    Err(differ(&wanted, &got))
                }
            }
            Act::Silence(time) => self.open()?.silent(*time),
            Act::More(expr) => {
                let wanted = stage.scoped(|scope| expr.render(scope))?;
                let mut got = Vec::new();
                while got.len() < wanted.len() {
                    match self.piece(wanted.len() - got.len())? {
                        Piece::Data(data) => got.extend(data),
                        _ => return Err(format!("the body ended after {}", show(&got))),
                    }
                }
                if got == wanted {
                    Ok(())
                } else {
                    Err(differ(&wanted, &got))
                }
            }
            Act::Rest(rest) => self.rest(rest),
            Act::Sync(name) => stage.meeting.sync(name),
            Act::Signal(name) => {
                stage.meeting.signal(name);
                Ok(())
            }
            Act::Wait(name) => stage.meeting.wait(name),
            Act::Pause(time) => {
                thread::sleep(*time);
                Ok(())
            }
            Act::Hang => {
                stage.meeting.hold();
                Ok(())
            }
            Act::Advance(by) => stage.advance(*by),
            Act::Table {
                statuses,
                closes,
                rows,
            } => rows
                .iter()
                .try_for_each(|row| self.row(row, statuses, *closes)),
            Act::Saw {
                origin,
                op,
                count,
                what,
                method,
                target,
            } => {
                let origin = stage.origin(origin.as_deref())?;
                let seen = origin.seen(*what, method.as_deref(), target.as_deref());
                let what = match what {
                    Seen::Requests => "requests",
                    Seen::Connections => "connections",
                    Seen::Peak => "at once",
                };
                if holds(seen, op, *count) {
                    Ok(())
                } else {
                    Err(format!("it saw {seen} {what}: {}", origin.asked()))
                }
            }
            Act::Open { origin, door } => stage.origin(origin.as_deref())?.door(&stage, *door),
            Act::Metric {
                name,
                labels,
                op,
                value,
            } => {
                let held = stage
                    .proxy()?
                    .metric(name, labels)?
                    .ok_or("there is no such sample")?;
                if holds(held, op, *value) {
                    Ok(())
                } else {
                    Err(format!("it is {held}"))
                }
            }
            Act::Log { count, checks } => self.log(*count, checks),
            Act::Memory { most } => {
                let held = stage.proxy()?.memory()?;
                if held <= *most {
                    Ok(())
                } else {
                    Err(format!("{} KiB are resident", held >> 10))
                }
            }
            Act::Series(name) => {
                let count = stage.proxy()?.series()?.to_string();
                let before = stage.recall(name, &count);
                if before == count {
                    Ok(())
                } else {
                    Err(format!("there were {before}, now {count}"))
                }
            }
            Act::Eventually(steps) => self.eventually(steps),
            Act::Command { args } => self.run(args),
            Act::Exit(code) => {
                let done = self.command.as_ref().ok_or("no command ran")?;
                let said = || format!("exit {:?}\n{}{}", done.code, done.stdout, done.stderr);
                if done.code == Some(*code) {
                    Ok(())
                } else {
                    Err(said())
                }
            }
            Act::Output {
                stream,
                like,
                negated,
            } => {
                let done = self.command.as_ref().ok_or("no command ran")?;
                let said = match stream.as_str() {
                    "stdout" => done.stdout.clone(),
                    "stderr" => done.stderr.clone(),
                    _ => format!("{}{}", done.stdout, done.stderr),
                };
                let found = regex(&stage.filled(like)?)?.is_match(said.as_bytes());
                if found != *negated {
                    Ok(())
                } else {
                    Err(format!("it said:\n{said}"))
                }
            }
        }
    }

    fn connect(&mut self, to: SocketAddr, window: Option<usize>) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{to}: {error}");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
        if let Some(window) = window {
            socket.set_recv_buffer_size(window).map_err(told)?;
        }
        socket.connect_timeout(&to.into(), PATIENCE).map_err(told)?;
        socket.set_nonblocking(false).map_err(told)?;
        self.conn = Some(Conn::new(TcpStream::from(socket), |stream| {
            self.stage.meeting.keep(stream)
        })?);
        self.methods.clear();
        self.body = None;
        Ok(())
    }

    /// The connection, made where there is none.
    fn open(&mut self) -> Result<&mut Conn, String> {
        if self.conn.is_none() {
            if self.asked.is_some() {
                return Err("the origin has closed this connection".into());
            }
            self.connect(self.stage.listen, None)?;
        }
        self.conn.as_mut().ok_or_else(|| "no connection".into())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stage.note(&format!(
            "{} → {}",
            self.who,
            show(&bytes[..bytes.len().min(600)])
        ));
        let written = self.open()?.write(bytes);
        self.sent = Instant::now();
        written
    }

    fn request(&mut self, request: &Request) -> Result<(), String> {
        let message = &request.message;
        let stage = Arc::clone(self.stage);
        let bytes = stage.scoped(|scope| {
            let mut head = bytes(
                &format!(
                    "{} {} {}\r\n",
                    request.method, request.target, request.version
                ),
                scope,
            )?;
            let without = message
                .without
                .iter()
                .any(|name| name.eq_ignore_ascii_case("host"));
            if !message.has("host") && !without {
                head.extend(b"Host: site.test\r\n");
            }
            write_message(head, message, true, scope)
        })?;
        self.open()?;
        self.methods.push_back(request.method.clone());
        self.write(&bytes)
    }

    fn respond(&mut self, respond: &Respond) -> Result<(), String> {
        let stage = Arc::clone(self.stage);
        let message = &respond.message;
        let to_head = self
            .asked
            .as_ref()
            .is_some_and(|asked| asked.method == "HEAD");
        let bytes = stage.scoped(|scope| {
            let mut head = bytes(
                &format!("HTTP/1.1 {} {}\r\n", respond.status, respond.reason),
                scope,
            )?;
            let no_body = respond.status < 200 || matches!(respond.status, 204 | 304);
            let given = message.body.is_some() || message.chunks.is_some();
            if !given && !no_body && !respond.head && !framed(message) {
                head.extend(b"Content-Length: 0\r\n");
            }
            write_message(head, message, !to_head, scope)
        })?;
        self.write(&bytes)?;
        if message.until_close {
            self.conn = None;
        }
        Ok(())
    }

    fn expect(&mut self, expect: &Expect) -> Result<u16, String> {
        let stage = Arc::clone(self.stage);
        let head = loop {
            let head = self
                .open()?
                .head()?
                .ok_or("the connection ended without an answer")?;
            if !(expect.last && status_of(&head)? < 200) {
                break head;
            }
        };
        let took = self.sent.elapsed();
        stage.note(&format!("{} ← {}", self.who, head.shown()));
        let status = status_of(&head)?;
        if !expect.statuses.contains(&status) {
            return Err(format!("got {status}\n{}", head.shown()));
        }
        if let Some(within) = expect.within
            && took > within
        {
            return Err(format!("it took {took:?}"));
        }
        let interim = status < 200 && status != 101;
        let method = if interim {
            String::new()
        } else {
            self.methods.pop_front().unwrap_or_default()
        };
        let framing = Framing::of_response(&head, status, &method)?;
        let mut whole = Vec::new();
        let mut body = Body::new(framing);
        if expect.head {
            self.body = Some(body);
        } else if status != 101 {
            loop {
                match self.open()?.piece(&mut body, usize::MAX)? {
                    Piece::Data(data) => whole.extend(data),
                    Piece::Whole => break,
                    Piece::Broken(end) => {
                        return Err(format!(
                            "the answer broke off ({end:?}) after {}",
                            show(&whole)
                        ));
                    }
                }
            }
            if framing == Framing::Close {
                self.conn = None;
            }
        }
        let message = Message {
            head: &head,
            framing,
            body: &whole,
        };
        expect.checks.iter().try_for_each(|held| {
            if expect.head && matches!(held, Check::Body(_) | Check::BodyLike(_)) {
                return Err("after `head` the body comes by `more` and `rest`".into());
            }
            stage
                .scoped(|scope| check(held, &message, scope))
                .map_err(|why| format!("{why}\n{}", head.shown()))
        })?;
        Ok(status)
    }

    fn was_asked(
        &mut self,
        method: Option<&str>,
        target: Option<&str>,
        checks: &[Check],
    ) -> Result<(), String> {
        let asked = self.asked.as_ref().ok_or("a client expects a status")?;
        if method.is_some_and(|method| method != asked.method)
            || target.is_some_and(|target| target != asked.target)
        {
            return Err(format!("asked {} {}", asked.method, asked.target));
        }
        let message = Message {
            head: &asked.head,
            framing: Framing::of_request(&asked.head)?,
            body: &asked.body,
        };
        checks
            .iter()
            .try_for_each(|held| self.stage.scoped(|scope| check(held, &message, scope)))
    }

    fn piece(&mut self, at_most: usize) -> Result<Piece, String> {
        let mut body = self
            .body
            .take()
            .ok_or("no answer was begun with `expect … head`")?;
        let piece = self.open()?.piece(&mut body, at_most);
        self.body = Some(body);
        piece
    }

    fn rest(&mut self, rest: &Rest) -> Result<(), String> {
        let mut got = Vec::new();
        let broken = loop {
            match self.piece(usize::MAX)? {
                Piece::Data(data) => got.extend(data),
                Piece::Whole => break None,
                Piece::Broken(end) => break Some(end),
            }
        };
        if broken.is_some() {
            self.conn = None;
        }
        match (rest, broken) {
            (Rest::Is(expr), None) => {
                let wanted = self.stage.scoped(|scope| expr.render(scope))?;
                if got == wanted {
                    Ok(())
                } else {
                    Err(differ(&wanted, &got))
                }
            }
            (Rest::Is(_), Some(end)) => Err(format!(
                "the answer broke off ({end:?}) after {}",
                show(&got)
            )),
            (Rest::Broken, Some(_)) | (Rest::Reset, Some(End::Reset)) => Ok(()),
            (Rest::Reset, Some(End::Closed)) => Err("a close, not a reset".into()),
            (_, None) => Err(format!(
                "the answer ended as if it were whole, with {}",
                show(&got)
            )),
        }
    }

    fn expect_broken(&mut self) -> Result<(), String> {
        let expect = Expect {
            statuses: vec![200, 502, 504],
            head: true,
            last: true,
            within: None,
            checks: Vec::new(),
        };
        let status = self.expect(&expect)?;
        if status == 200 {
            return self.rest(&Rest::Broken);
        }
        while let Piece::Data(_) = self.piece(usize::MAX)? {}
        Ok(())
    }

    /// One row of `refuse` or `allow`, on its own connection.
    fn row(&mut self, row: &str, statuses: &[u16], closes: bool) -> Result<(), String> {
        let told = |why: String| format!("{why}\n  for {row}");
        let stage = Arc::clone(self.stage);
        self.connect(stage.listen, None)?;
        let bytes = stage.scoped(|scope| bytes(row, scope)).map_err(told)?;
        self.methods.extend(method_of(&bytes));
        // A server that refuses early may close while this is still being sent.
        let _ = self.write(&bytes);
        let expect = Expect {
            statuses: statuses.to_vec(),
            head: false,
            last: false,
            within: None,
            checks: Vec::new(),
        };
        self.expect(&expect).map_err(told)?;
        if closes && self.conn.is_some() {
            self.act(&Act::ExpectEnd { reset: false }).map_err(told)?;
        }
        self.conn = None;
        Ok(())
    }

    fn log(&self, count: Option<usize>, checks: &[(String, String)]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.stage.access_log()?;
            let mut fitting = 0;
            for line in &lines {
                let mut fits = true;
                for (key, pattern) in checks {
                    let value = match &line[key.as_str()] {
                        serde_json::Value::String(text) => text.clone(),
                        serde_json::Value::Null => String::new(),
                        other => other.to_string(),
                    };
                    fits &= self
                        .stage
                        .scoped(|scope| matches(pattern, value.as_bytes(), scope))?;
                }
                fitting += usize::from(fits);
            }
            if count.map_or(fitting > 0, |count| fitting == count) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
                return Err(format!("{fitting} lines fit, of:\n{}", lines.join("\n")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn eventually(&mut self, steps: &[Step]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match steps.iter().try_for_each(|step| self.act(&step.act)) {
                Err(why) if Instant::now() > deadline || self.stage.meeting.over() => {
                    return Err(why);
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn run(&mut self, args: &str) -> Result<(), String> {
        let (code, stdout, stderr) = self.stage.command(args)?;
        self.command = Some(Finished {
            code,
            stdout,
            stderr,
        });
        Ok(())
    }
}

/// The method that bytes begin with, if they begin a request.
fn method_of(bytes: &[u8]) -> Option<String> {
    let word = bytes
        .trim_ascii_start()
        .split(|byte| *byte == b' ')
        .next()?;
    let request = !word.is_empty() && word.len() < 20 && word.iter().all(u8::is_ascii_uppercase);
    request.then(|| String::from_utf8_lossy(word).into_owned())
}

fn status_of(head: &Head) -> Result<u16, String> {
    match head.start.splitn(3, ' ').collect::<Vec<_>>()[..] {
        ["HTTP/1.1", status, _] if status.len() == 3 => {
            status.parse().map_err(|_| head.start.clone())
        }
        _ => Err(format!("not a status line: {:?}", head.start)),
    }
}

fn framed(message: &super::script::Message) -> bool {
    message.until_close || message.has("content-length") || message.has("transfer-encoding")
}

/// Fields, the framing that the body asks for where the script sets none, and the body.
fn write_message(
    mut head: Vec<u8>,
    message: &super::script::Message,
    with_body: bool,
    scope: &Scope,
) -> Result<Vec<u8>, String> {
    for (name, value) in &message.fields {
        head.extend(bytes(name, scope)?);
        head.extend(b": ");
        head.extend(bytes(value, scope)?);
        head.extend(b"\r\n");
    }
    let mut body = Vec::new();
    if let Some(expr) = &message.body {
        body = expr.render(scope)?;
        if !framed(message) {
            head.extend(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
    }
    if let Some(pieces) = &message.chunks {
        if !framed(message) {
            head.extend(b"Transfer-Encoding: chunked\r\n");
        }
        for piece in pieces {
            body.extend(chunk(&piece.render(scope)?));
        }
        body.extend(b"0\r\n\r\n");
    }
    head.extend(b"\r\n");
    if with_body {
        head.extend(body);
    }
    Ok(head)
}

fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend(b"\r\n");
    out
}

/// A port where nobody listens, for scripts without an origin.
pub fn nowhere() -> SocketAddr {
    free_port()
}

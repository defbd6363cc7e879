//! Whoever carries out steps: a client on its connections, or the origin answering one request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Fault;
use super::check::differ;
use super::clock;
use super::script::{Act, Seen, Step, holds};
use super::speak::{chunk, method_of};
use super::stage::Stage;
use super::text::{bytes, matches, regex, show};
use super::wire::{Body, Conn, End, Head, PATIENCE, Piece};

pub struct Actor<'a> {
    pub stage: &'a Arc<Stage>,
    pub who: String,
    pub conn: Option<Conn>,
    /// Methods of requests whose answers are still to come: HEAD has no body.
    pub methods: VecDeque<String>,
    pub body: Option<Body>,
    pub sent: Instant,
    /// The request that an origin is answering.
    pub asked: Option<Asked>,
    /// The proxy has hung up on an origin that was still sending: its right, so the answer ends there.
    pub cut: bool,
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
            sent: clock::now(),
            asked: None,
            cut: false,
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

    pub fn act(&mut self, act: &Act) -> Result<(), String> {
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
            Act::Flood(expr) => {
                let bytes = stage.scoped(|scope| expr.render(scope))?;
                match self.write(&bytes) {
                    Ok(()) => self.act(&Act::Drain),
                    Err(_) => {
                        self.conn = None;
                        Ok(())
                    }
                }
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

    fn log(&self, count: Option<usize>, checks: &[(String, String)]) -> Result<(), String> {
        let deadline = clock::now() + PATIENCE;
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
            if clock::now() > deadline {
                let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
                return Err(format!("{fitting} lines fit, of:\n{}", lines.join("\n")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn eventually(&mut self, steps: &[Step]) -> Result<(), String> {
        let deadline = clock::now() + PATIENCE;
        loop {
            match steps.iter().try_for_each(|step| self.act(&step.act)) {
                Err(why) if clock::now() > deadline || self.stage.meeting.over() => {
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

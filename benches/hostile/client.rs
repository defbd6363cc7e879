//! A script's clients, one after the other, against any server: they send what is written, and hold what comes back
//! against the rules instead of the script's own words.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::conn::{Conn, Got};
use super::harness::clock;
use super::harness::script::{Act, Expect, Rest, Script, Seen, Step};
use super::harness::speak::{method_of, request_bytes};
use super::harness::text::{self, Scope};
use super::judge::{Finding, Kind};
use super::origin::{Origin, Scene};
use super::vectors::{Rule, Vector};
use super::verdict::{FRAMING, Row};
use super::{CLOSING, LIMIT, on_stage};

/// How long what is on its way to the origin may take.
const SETTLING: Duration = Duration::from_millis(10);

/// What came of one script.
#[derive(Default)]
pub struct Report {
    pub requests: usize,
    pub findings: Vec<Finding>,
}

/// Runs a script against the server on `port`. `serial` grows with each name that a client calls a site by.
pub fn perform(
    script: Script,
    vector: &Vector,
    port: u16,
    origin: &Origin,
    serial: &mut usize,
) -> Report {
    let answers = script.origins.into_iter().flat_map(|o| o.answers).collect();
    let scene = Arc::new(Scene::new(answers));
    origin.play(&scene);
    let mut client = Client {
        port,
        vector,
        scene: &scene,
        serial,
        site: String::new(),
        conn: None,
        asked: VecDeque::new(),
        begun: None,
        again: Vec::new(),
        cached: false,
        line: 0,
        report: Report::default(),
    };
    client.rename();
    for party in script.phases.iter().flatten() {
        for step in &party.steps {
            client.step(step);
        }
        client.leave();
    }
    client.ask_again();
    thread::sleep(SETTLING);
    client.gather("");
    scene.meeting.finish();
    client.report
}

pub struct Client<'a> {
    pub port: u16,
    pub vector: &'a Vector,
    pub scene: &'a Scene,
    pub serial: &'a mut usize,
    /// What stands for `site.test` now, so that no page is met again that another script or row left behind.
    pub site: String,
    pub conn: Option<Conn>,
    pub asked: VecDeque<Asked>,
    /// The answer whose head is expected, and whose body comes by later steps.
    pub begun: Option<(Asked, Expect)>,
    /// Targets whose answers nobody may have kept.
    pub again: Vec<String>,
    /// An answer came from the store since the origin was counted last.
    pub cached: bool,
    pub line: usize,
    pub report: Report,
}

/// A request that was sent. Of several sent together only the first is remembered.
pub struct Asked {
    pub method: String,
    pub target: String,
    /// It may ask for what others should not get.
    pub evil: bool,
    /// It has a body.
    pub fat: bool,
    /// How many requests the origin had seen before.
    pub before: usize,
}

impl Client<'_> {
    fn step(&mut self, step: &Step) {
        self.line = step.line;
        match &step.act {
            Act::Connect { .. } => self.leave(),
            Act::Request(request) => {
                let bytes = scoped(|scope| request_bytes(request, scope));
                self.send(&bytes.unwrap_or_default(), true);
            }
            Act::Send(expr) => {
                let bytes = scoped(|scope| expr.render(scope));
                self.send(&bytes.unwrap_or_default(), false);
            }
            Act::Table { closes, rows, .. } => {
                for row in rows {
                    self.row(row, *closes);
                }
            }
            Act::Expect(expect) if expect.head => {
                if let Some(asked) = self.asked.pop_front() {
                    self.begun = Some((asked, copy(expect)));
                }
            }
            Act::Expect(expect) => {
                let asked = self.asked.pop_front();
                self.answered(asked, expect);
            }
            Act::ExpectBroken => {
                let asked = self.asked.pop_front();
                self.breaks_off(asked);
            }
            Act::More(expr) => {
                let wanted = scoped(|scope| expr.render(scope)).unwrap_or_default();
                self.await_bytes(&wanted);
            }
            Act::Rest(rest) => {
                let asked = self.begun.take().map(|(asked, _)| asked);
                match rest {
                    Rest::Broken | Rest::Reset => self.breaks_off(asked),
                    Rest::Is(_) => drop(self.read(asked.as_ref())),
                }
            }
            Act::Close => self.leave(),
            Act::ExpectEnd { .. } => self.conn = None,
            Act::Signal(name) => self.scene.meeting.signal(name),
            Act::Wait(name) => drop(self.scene.meeting.wait(name)),
            Act::Pause(time) => thread::sleep(*time),
            Act::Saw {
                op,
                count,
                what: Seen::Requests,
                method,
                target,
                ..
            } => self.saw(op, *count, method.as_deref(), target.as_deref()),
            _ => {}
        }
        // What comes of a request is told with its answer.
        if !matches!(step.act, Act::Send(_) | Act::Request(_)) {
            self.gather(&step.text);
        }
    }

    fn rename(&mut self) {
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let digit = |by: usize| char::from(digits[*self.serial / by % 36]);
        self.site = format!("z{}{}{}", digit(36 * 36), digit(36), digit(1));
        *self.serial += 1;
    }

    pub fn find(&mut self, kind: Kind, why: impl Into<String>) {
        self.cached |= kind == Kind::Caches;
        self.report.findings.push(Finding {
            kind,
            line: self.line,
            why: why.into(),
        });
    }

    /// Takes over what the origin found wrong: once, for a server may try again.
    pub fn gather(&mut self, context: &str) -> bool {
        let fault = std::mem::take(&mut self.scene.state().faults)
            .into_iter()
            .next();
        let found = fault.is_some();
        if let Some((kind, why)) = fault {
            self.find(kind, format!("{why} ({context})"));
        }
        found
    }

    pub fn seen(&self) -> usize {
        self.scene.state().seen.len()
    }

    /// Sends bytes, on a new connection where the old one has ended; `whole`: they are one request.
    fn send(&mut self, bytes: &[u8], whole: bool) {
        if self.conn.as_mut().is_none_or(Conn::has_ended) {
            let Ok(conn) = Conn::new(self.port) else {
                return self.find(Kind::Hangs, "no connection");
            };
            self.conn = Some(conn);
            self.asked.clear();
        }
        if let Some(method) = method_of(bytes) {
            self.report.requests += 1;
            let evil = bytes.to_ascii_lowercase();
            self.asked.push_back(Asked {
                method,
                target: word(bytes, 1),
                evil: !whole || contains(&evil, b"evil"),
                fat: whole && contains(&bytes[..bytes.len() - 1], b"\r\n\r\n"),
                before: self.seen(),
            });
        }
        let bytes = on_stage(bytes, &self.site);
        if let Some(conn) = &mut self.conn {
            let _ = conn.stream.write_all(&bytes);
        }
    }

    /// Ends a connection, after what has begun on it.
    fn leave(&mut self) {
        if let Some((asked, expect)) = self.begun.take() {
            self.again.push(asked.target.clone());
            if let Got::Whole(status, _) = self.judged(Some(&asked), &expect)
                && status < 400
                && self.vector.rule == Rule::Answer
            {
                self.find(Kind::Accepts, format!("{status} for {}", asked.target));
            }
        }
        let behind = self.conn.take().map(|conn| conn.held).unwrap_or_default();
        if self.vector.rule == Rule::Answer && !behind.is_empty() {
            let why = format!("bytes behind an answer: {}", text::show(&behind));
            self.find(Kind::Relays, why);
        }
    }

    /// One line of a table, on a connection of its own and for a site of its own.
    fn row(&mut self, row: &str, hostile: bool) {
        self.leave();
        self.rename();
        let bytes = scoped(|scope| text::bytes(row, scope)).unwrap_or_default();
        let before = self.seen();
        let sent = self.report.requests;
        self.send(&bytes, false);
        self.report.requests = sent + 1;
        let asked = self.asked.pop_front();
        let got = self.read(asked.as_ref());
        let closed = self.closes(hostile && FRAMING.contains(&self.vector.class));
        self.conn = None;
        // A refusal may overtake what went to the origin all the same.
        thread::sleep(SETTLING);
        let forwarded = self.gather(&shortened(row));
        let seen = self.scene.state().seen[before..].to_vec();
        self.row_answered(&Row {
            text: row,
            hostile,
            got,
            closed,
            forwarded,
            seen,
        });
    }

    /// Whether the connection ends, or nothing said that it had to.
    fn closes(&mut self, must: bool) -> bool {
        let Some(conn) = self.conn.as_mut().filter(|_| must) else {
            return true;
        };
        let deadline = clock::now() + CLOSING;
        while !conn.ended && conn.fill(deadline) {
            conn.held.clear();
        }
        conn.ended
    }

    /// Another client asks for what nobody may have kept.
    fn ask_again(&mut self) {
        if self.vector.rule != Rule::Answer {
            return;
        }
        self.again.sort();
        self.again.dedup();
        for target in std::mem::take(&mut self.again) {
            if !self.scene.state().broken.contains(&target) {
                continue;
            }
            self.conn = None;
            let request = format!("GET {target} HTTP/1.1\r\nHost: site.test\r\n\r\n");
            self.send(request.as_bytes(), true);
            let asked = self.asked.pop_front();
            let before = self.seen();
            if let Got::Whole(..) = self.read(asked.as_ref())
                && before == self.seen()
                && asked.is_some_and(|asked| asked.before == before)
            {
                self.find(Kind::Caches, format!("the broken answer at {target}"));
            }
        }
        self.conn = None;
    }

    /// The answer to this request, or whatever comes.
    pub fn read(&mut self, asked: Option<&Asked>) -> Got {
        let method = asked.map_or("GET", |asked| &asked.method);
        match &mut self.conn {
            Some(conn) => conn.answer(method),
            None => Got::Cut,
        }
    }

    fn await_bytes(&mut self, wanted: &[u8]) {
        let Some(conn) = &mut self.conn else { return };
        let deadline = clock::now() + LIMIT;
        while !contains(&conn.held, wanted) && conn.fill(deadline) {}
    }
}

/// With nothing to fill holes but dates and repetitions.
pub fn scoped<T>(call: impl FnOnce(&Scope) -> T) -> T {
    call(&Scope {
        names: &|_| None,
        advanced: Duration::ZERO,
        keep: &|_, _| {},
    })
}

fn copy(expect: &Expect) -> Expect {
    Expect {
        statuses: expect.statuses.clone(),
        head: true,
        last: expect.last,
        within: None,
        checks: Vec::new(),
    }
}

pub fn contains(bytes: &[u8], what: &[u8]) -> bool {
    what.is_empty() || bytes.windows(what.len()).any(|held| held == what)
}

fn word(bytes: &[u8], index: usize) -> String {
    let word = bytes.split(|byte| *byte == b' ').nth(index);
    String::from_utf8_lossy(word.unwrap_or_default()).into_owned()
}

pub fn shortened(row: &str) -> String {
    let most = row.char_indices().nth(160);
    most.map_or(row.to_owned(), |(at, _)| format!("{}…", &row[..at]))
}

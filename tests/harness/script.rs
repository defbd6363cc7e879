//! The script language: what a script is, and how its sections are read ([`super::steps`] reads the steps).
//! `tests/wire/README.md` is its manual.

use std::time::Duration;

use super::Fault;
use super::steps::{respond, steps_of};
use super::text::Expr;
use super::tree::{self, Node};

pub struct Script {
    pub covers: Vec<String>,
    /// The script must end in a fault like this (the harness tested by itself).
    pub fails: Option<String>,
    /// No proxy between: clients talk to the first origin.
    pub direct: bool,
    pub config: Config,
    pub flags: String,
    pub origins: Vec<Origin>,
    /// What runs at the same time, then what runs after it, and so on.
    pub phases: Vec<Vec<Party>>,
}

#[derive(Default)]
pub struct Config {
    /// As it stands, not merged onto the base.
    pub raw: bool,
    pub text: String,
}

pub struct Origin {
    pub name: String,
    pub door: Door,
    pub answers: Vec<Answer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    Open,
    /// Nobody listens.
    Down,
    /// Connections are begun and never accepted.
    Deaf,
}

pub struct Answer {
    pub method: Option<String>,
    pub target: Option<String>,
    /// None: always.
    pub times: Option<usize>,
    /// Begins before the request's body has been read, which then nobody reads.
    pub early: bool,
    pub steps: Vec<Step>,
}

pub struct Party {
    pub name: String,
    pub steps: Vec<Step>,
}

pub struct Step {
    pub line: usize,
    pub text: String,
    pub act: Act,
}

pub enum Act {
    Connect {
        admin: bool,
        window: Option<usize>,
    },
    Request(Request),
    Respond(Respond),
    Send(Expr),
    /// Sends what it can until the peer ends, as it must.
    Flood(Expr),
    SendHead(Vec<String>),
    Chunk(Expr),
    LastChunk,
    Close,
    Reset,
    Shutdown,
    Expect(Expect),
    Asked {
        method: Option<String>,
        target: Option<String>,
        checks: Vec<Check>,
    },
    ExpectEnd {
        reset: bool,
    },
    Raw(Expr),
    /// Either an error of the proxy's, or an answer that breaks off.
    ExpectBroken,
    /// Reads until the peer ends, whatever comes.
    Drain,
    Silence(Duration),
    More(Expr),
    Rest(Rest),
    Sync(String),
    Signal(String),
    Wait(String),
    Pause(Duration),
    Hang,
    Advance(Duration),
    Table {
        statuses: Vec<u16>,
        closes: bool,
        rows: Vec<String>,
    },
    Saw {
        origin: Option<String>,
        op: String,
        count: u64,
        what: Seen,
        method: Option<String>,
        target: Option<String>,
    },
    Open {
        origin: Option<String>,
        door: Door,
    },
    Metric {
        name: String,
        labels: Vec<(String, String)>,
        op: String,
        value: f64,
    },
    Log {
        count: Option<usize>,
        checks: Vec<(String, String)>,
    },
    Memory {
        most: usize,
    },
    /// How many series there are: kept under a name the first time, the same from then on.
    Series(String),
    Eventually(Vec<Step>),
    Command {
        args: String,
    },
    Exit(i32),
    Output {
        stream: String,
        like: String,
        negated: bool,
    },
}

#[derive(Clone, Copy)]
pub enum Seen {
    Requests,
    Connections,
    /// The most requests that were being answered at once.
    Peak,
}

pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub message: Message,
}

pub struct Respond {
    pub status: u16,
    pub reason: String,
    /// The head as it stands, nothing added and no body.
    pub head: bool,
    pub message: Message,
}

#[derive(Default)]
pub struct Message {
    pub fields: Vec<(String, String)>,
    pub without: Vec<String>,
    pub body: Option<Expr>,
    pub chunks: Option<Vec<Expr>>,
    pub until_close: bool,
}

impl Message {
    pub fn has(&self, name: &str) -> bool {
        self.fields
            .iter()
            .any(|(held, _)| held.eq_ignore_ascii_case(name))
    }
}

pub struct Expect {
    pub statuses: Vec<u16>,
    /// Reads no body yet.
    pub head: bool,
    /// Passes over interim answers.
    pub last: bool,
    pub within: Option<Duration>,
    pub checks: Vec<Check>,
}

pub enum Check {
    /// All lines of this name, in order.
    Field(String, Vec<String>),
    Like(String, String),
    Absent(String),
    Body(Expr),
    BodyLike(String),
    Framing(String),
    Cache(String),
}

pub enum Rest {
    Is(Expr),
    /// The body ends before it is whole; RST or not.
    Broken,
    Reset,
}

impl Script {
    pub fn parse(text: &str) -> Result<Script, Fault> {
        if !text.starts_with("# ") {
            return Err(Fault::at(
                1,
                "a script begins with a comment: what it promises, in its own words",
            ));
        }
        let mut script = Script {
            covers: Vec::new(),
            fails: None,
            direct: false,
            config: Config::default(),
            flags: String::new(),
            origins: Vec::new(),
            phases: vec![Vec::new()],
        };
        for node in tree::read(text)? {
            script.section(&node)?;
        }
        if script.covers.is_empty() {
            return Err(Fault::at(1, "covers: nothing?"));
        }
        if script
            .phases
            .iter()
            .flatten()
            .all(|party| party.steps.is_empty())
        {
            return Err(Fault::at(1, "nobody does anything"));
        }
        Ok(script)
    }

    fn section(&mut self, node: &Node) -> Result<(), Fault> {
        let (word, rest) = node.split();
        match word {
            "covers:" => self
                .covers
                .extend(rest.split(',').map(|id| id.trim().to_owned())),
            "fails:" => self.fails = Some(rest.to_owned()),
            "direct" => self.direct = true,
            "flags" => self.flags = rest.to_owned(),
            "config" => {
                self.config.raw = rest == "raw";
                Node::flatten(&node.below, &mut self.config.text);
            }
            "origin" => self.origins.push(origin(node, rest)?),
            "then" => self.phases.push(Vec::new()),
            "client" | "command" => {
                let mut steps = Vec::new();
                if word == "command" {
                    steps.push(Step::of(
                        node,
                        Act::Command {
                            args: rest.to_owned(),
                        },
                    ));
                }
                steps.extend(steps_of(&node.below)?);
                let party = Party {
                    name: format!("{word} {rest}"),
                    steps,
                };
                self.phases
                    .last_mut()
                    .ok_or_else(|| node.fault("no phase"))?
                    .push(party);
            }
            _ => return Err(node.fault("no such section")),
        }
        Ok(())
    }
}

fn origin(node: &Node, rest: &str) -> Result<Origin, Fault> {
    let mut origin = Origin {
        name: String::new(),
        door: Door::Open,
        answers: Vec::new(),
    };
    for word in rest.split_whitespace() {
        match door(word) {
            Some(door) => origin.door = door,
            None => origin.name = word.to_owned(),
        }
    }
    for answer in &node.below {
        if answer.split().0 != "answer" {
            return Err(answer.fault("an origin has answers"));
        }
        origin.answers.push(Answer::parse(answer)?);
    }
    Ok(origin)
}

pub fn door(word: &str) -> Option<Door> {
    match word {
        "up" => Some(Door::Open),
        "down" => Some(Door::Down),
        "deaf" => Some(Door::Deaf),
        _ => None,
    }
}

impl Answer {
    /// `answer [METHOD] [/target] [times N | always] [early] [-> STATUS]`; after an arrow the block is the answer's
    /// message, without one it is steps.
    fn parse(node: &Node) -> Result<Answer, Fault> {
        let (head, arrow) = match node.split().1.split_once("->") {
            Some((head, status)) => (head.trim(), Some(status.trim())),
            None => (node.split().1, None),
        };
        let mut answer = Answer {
            method: None,
            target: None,
            times: Some(1),
            early: false,
            steps: Vec::new(),
        };
        let mut words = head.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "always" => answer.times = None,
                "early" => answer.early = true,
                "times" => {
                    let times = words.next().and_then(|word| word.parse().ok());
                    answer.times = Some(times.ok_or_else(|| node.fault("times N"))?);
                }
                _ if word.starts_with('/') || word == "*" => answer.target = Some(word.to_owned()),
                _ if word.chars().all(|c| c.is_ascii_uppercase()) => {
                    answer.method = Some(word.to_owned())
                }
                _ => return Err(node.fault(format!("what is {word}?"))),
            }
        }
        match arrow {
            Some(status) => {
                let (before, message): (Vec<Node>, Vec<Node>) =
                    node.below.iter().cloned().partition(|node| {
                        matches!(
                            node.split().0,
                            "expect" | "wait" | "sync" | "pause" | "signal"
                        )
                    });
                answer.steps = steps_of(&before)?;
                answer
                    .steps
                    .push(Step::of(node, respond(node, status, &message)?));
            }
            None => answer.steps = steps_of(&node.below)?,
        }
        // A request is described beside an answer: there `expect` asks about it.
        for step in &mut answer.steps {
            if let Act::Expect(_) = step.act {
                return Err(Fault::at(
                    step.line,
                    "an origin expects a method, a target or fields, not a status",
                ));
            }
        }
        Ok(answer)
    }
}

impl Step {
    pub fn of(node: &Node, act: Act) -> Step {
        Step {
            line: node.line,
            text: node.text.clone(),
            act,
        }
    }
}

/// `left OP right`.
pub fn holds<N: PartialOrd>(left: N, op: &str, right: N) -> bool {
    match op {
        "==" => left == right,
        "<=" => left <= right,
        ">=" => left >= right,
        "<" => left < right,
        ">" => left > right,
        _ => false,
    }
}

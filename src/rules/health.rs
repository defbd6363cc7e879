//! Health checks of servers: what an answer has to be, and from when on a server counts as ill, or as well again.
//!
//! What this does not know: how an answer was asked for, and what is done about an ill server.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// How much of an answer's body is looked at.
pub const MOST: usize = 64 * 1024;

/// What an answer in HTTP has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expects {
    /// One of these.
    pub statuses: Vec<Statuses>,
    /// A text that the body holds.
    pub body: Option<String>,
    /// What the body says, as JSON.
    pub json: Option<Member>,
}

/// A status, or all from one to another, both counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    from: u16,
    to: u16,
}

/// A member of a JSON object, and the value it has to have: `status=ok`, or `checks.db.up=true` within others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    path: String,
    value: String,
}

/// Why an answer does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    Status(u16),
    /// The text that should be in it.
    Lacks(String),
    TooLong,
    NotJson,
    /// The member that should be in it.
    NoMember(String),
    /// The member, and what it is instead.
    Differs(String, String),
    /// RFC 9110 has no such status: it is gRPC's own, 0 is well.
    GrpcStatus(String),
    NoGrpcStatus,
    /// It is no `HealthCheckResponse` of grpc.health.v1.
    NoGrpcAnswer,
    /// Its `ServingStatus`.
    NotServing(u64),
}

impl Expects {
    /// Whether more than the end of a body matters.
    pub fn reads_body(&self) -> bool {
        self.body.is_some() || self.json.is_some()
    }

    pub fn judge_status(&self, status: u16) -> Result<(), Unfit> {
        match self.statuses.iter().any(|some| some.hold(status)) {
            true => Ok(()),
            false => Err(Unfit::Status(status)),
        }
    }

    /// `whole`: there was no more of it than this. A text may be found without the rest, JSON can't be read so.
    pub fn judge_body(&self, body: &[u8], whole: bool) -> Result<(), Unfit> {
        if let Some(text) = &self.body
            && memchr::memmem::find(body, text.as_bytes()).is_none()
        {
            return Err(match whole {
                true => Unfit::Lacks(text.clone()),
                false => Unfit::TooLong,
            });
        }
        match &self.json {
            Some(_) if !whole => Err(Unfit::TooLong),
            Some(member) => member.judge(body),
            None => Ok(()),
        }
    }
}

impl Statuses {
    /// `200` or `200-399`, of those that end an exchange (RFC 9110 §15).
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let status = text.parse().ok().filter(|_| digits)?;
            (200..600).contains(&status).then_some(status)
        };
        let (from, to) = (status(from)?, status(to)?);
        (from <= to).then_some(Self { from, to })
    }

    fn hold(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl Member {
    pub fn parse(text: &str) -> Option<Self> {
        let (path, value) = text.split_once('=')?;
        let (path, value) = (path.trim(), value.trim());
        let named = path.split('.').all(|name| !name.is_empty());
        (named && !value.is_empty()).then(|| Self {
            path: path.to_owned(),
            value: value.to_owned(),
        })
    }

    fn judge(&self, body: &[u8]) -> Result<(), Unfit> {
        let whole: Value = serde_json::from_slice(body).map_err(|_| Unfit::NotJson)?;
        let within = |outer, name| Value::get(outer, name);
        let found = self.path.split('.').try_fold(&whole, within);
        let Some(found) = found else {
            return Err(Unfit::NoMember(self.path.clone()));
        };
        // A text is compared as it is, all else as JSON writes it.
        let found = match found {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match found == self.value {
            true => Ok(()),
            false => Err(Unfit::Differs(self.path.clone(), found)),
        }
    }
}

impl fmt::Display for Unfit {
    /// One line. What a server wrote is cut short.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().take(64).collect::<String>();
        match self {
            Unfit::Status(status) => write!(out, "status {status}"),
            Unfit::Lacks(text) => write!(out, "body lacks {:?}", short(text)),
            Unfit::TooLong => write!(out, "body over {} KiB", MOST / 1024),
            Unfit::NotJson => out.write_str("body is not JSON"),
            Unfit::NoMember(path) => write!(out, "body has no {path:?}"),
            Unfit::Differs(path, found) => write!(out, "{path:?} is {:?}", short(found)),
            Unfit::GrpcStatus(status) => {
                write!(out, "grpc-status {}", short(status).escape_debug())
            }
            Unfit::NoGrpcStatus => out.write_str("no grpc-status"),
            Unfit::NoGrpcAnswer => out.write_str("not an answer of grpc.health.v1"),
            Unfit::NotServing(status) => out.write_str(match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "not SERVING",
            }),
        }
    }
}

/// The body of `grpc.health.v1.Health/Check`: a message in a frame of gRPC (not compressed, its length), with the
/// service's name as its field 1. The empty name is the server as a whole.
pub fn grpc_question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        write_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    // A name is shorter than a config file.
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.append(&mut message);
    frame
}

/// Judges its answer. `status`: `grpc-status`, from the trailers or, where there is nothing else, the head.
pub fn judge_grpc(status: Option<&[u8]>, body: &[u8]) -> Result<(), Unfit> {
    match status {
        Some(b"0") => {}
        Some(other) => {
            return Err(Unfit::GrpcStatus(String::from_utf8_lossy(other).into()));
        }
        None => return Err(Unfit::NoGrpcStatus),
    }
    match serving_status(body).ok_or(Unfit::NoGrpcAnswer)? {
        1 => Ok(()),
        other => Err(Unfit::NotServing(other)),
    }
}

/// Field 1 of the message in the only frame; 0 where it is left out, as protobuf has it.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (head, mut message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = read_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(read_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// How many answers in a row it takes for a server to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    /// Good ones, until an ill server counts as well.
    pub rise: usize,
    /// Bad ones, until a well server counts as ill.
    pub fall: usize,
}

/// What the answers of one server have come to. It counts as well until the first, which decides alone: nobody knows
/// better yet, and visitors wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    is_well: bool,
    is_new: bool,
    /// Answers in a row that say otherwise.
    against: usize,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            is_well: true,
            is_new: true,
            against: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ill,
    Well,
}

impl Course {
    /// Of a server that is known already: no answer decides alone.
    pub fn going_on(is_well: bool) -> Self {
        Self {
            is_well,
            is_new: false,
            against: 0,
        }
    }

    /// What the server counts as.
    pub fn is_well(&self) -> bool {
        self.is_well
    }

    /// Counts an answer; tells if it changes what the server counts as.
    pub fn after(&mut self, passed: bool, hysteresis: Hysteresis) -> Option<Change> {
        let is_first = std::mem::take(&mut self.is_new);
        if passed == self.is_well {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.is_well {
            true => hysteresis.fall,
            false => hysteresis.rise,
        };
        if self.against < enough && !is_first {
            return None;
        }
        self.is_well = passed;
        self.against = 0;
        Some(match passed {
            true => Change::Well,
            false => Change::Ill,
        })
    }
}

/// From one probe to the next: the interval and up to a tenth more or less, so that the probes of many proxies, and of
/// many servers, spread.
pub fn spread(interval: Duration, random: u64) -> Duration {
    let tenth = interval / 10;
    interval - tenth + (tenth * 2).mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statuses(texts: &[&str]) -> Expects {
        Expects {
            statuses: texts
                .iter()
                .map(|text| Statuses::parse(text).unwrap())
                .collect(),
            body: None,
            json: None,
        }
    }

    #[test]
    fn a_status_or_a_range() {
        let some = statuses(&["200-299", "404"]);
        for status in [200, 250, 299, 404] {
            assert_eq!(some.judge_status(status), Ok(()));
        }
        for status in [199, 300, 403, 405, 503] {
            assert_eq!(some.judge_status(status), Err(Unfit::Status(status)));
        }
        for none in [
            "",
            "-",
            "2xx",
            "200-",
            "-299",
            "299-200",
            "199",
            "600",
            "+20",
            "0200",
            "200-299-399",
        ] {
            assert_eq!(Statuses::parse(none), None, "{none}");
        }
    }

    fn told(expects: &Expects, body: &str, whole: bool) -> String {
        match expects.judge_body(body.as_bytes(), whole) {
            Ok(()) => "ok".to_owned(),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn a_body_that_holds_a_text() {
        let expects = Expects {
            body: Some("pong".to_owned()),
            ..statuses(&["200"])
        };
        assert_eq!(told(&expects, "ping pong", true), "ok");
        // It has been seen, whatever follows.
        assert_eq!(told(&expects, "ping pong", false), "ok");
        assert_eq!(told(&expects, "ping", true), "body lacks \"pong\"");
        assert_eq!(told(&expects, "ping", false), "body over 64 KiB");
    }

    #[test]
    fn a_body_that_says_so_in_json() {
        let long = format!("{{\"status\": \"{}\\n\"}}", "x".repeat(1000));
        let short = format!("\"status\" is \"{}\"", "x".repeat(64));
        for (member, body, says) in [
            ("status=ok", r#"{"status":"ok"}"#, "ok"),
            (
                "status=ok",
                r#"{"status":"degraded"}"#,
                "\"status\" is \"degraded\"",
            ),
            ("status=ok", r#"{"state":"ok"}"#, "body has no \"status\""),
            ("status=ok", r#"["status"]"#, "body has no \"status\""),
            ("status=ok", r#""status""#, "body has no \"status\""),
            ("status=ok", "status=ok", "body is not JSON"),
            ("status=ok", "", "body is not JSON"),
            ("status=ok", r#"{"status":"ok"} {}"#, "body is not JSON"),
            ("status=ok", &long, &short),
            (
                "checks.db.up = true",
                r#"{"checks":{"db":{"up":true}}}"#,
                "ok",
            ),
            (
                "checks.db.up=true",
                r#"{"checks":{"db":{"up":null}}}"#,
                "\"checks.db.up\" is \"null\"",
            ),
            (
                "checks.db.up=true",
                r#"{"checks":{"db":"up"}}"#,
                "body has no \"checks.db.up\"",
            ),
            ("lag=0", r#"{"lag":0}"#, "ok"),
            ("a=b=c", r#"{"a":"b=c"}"#, "ok"),
        ] {
            let expects = Expects {
                json: Member::parse(member),
                ..statuses(&["200"])
            };
            assert!(expects.reads_body());
            assert_eq!(told(&expects, body, true), says, "{member} in {body}");
            assert_eq!(told(&expects, body, false), "body over 64 KiB");
        }
        for none in ["", "status", "=ok", "status=", ".status=ok", "a..b=ok"] {
            assert_eq!(Member::parse(none), None, "{none}");
        }
    }

    #[test]
    fn a_question_in_grpc() {
        assert_eq!(grpc_question(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_question("a.B"), *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(300);
        assert_eq!(grpc_question(&long)[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn an_answer_in_grpc() {
        let serving = b"\0\0\0\0\x02\x08\x01";
        for (status, body, says) in [
            (Some("0"), &serving[..], Ok(())),
            // Other fields, of any type, are skipped.
            (
                Some("0"),
                b"\0\0\0\0\x17\x12\x02hi\x08\x01\x19abcdefgh\x25abcd\x28\x80\x01",
                Ok(()),
            ),
            (
                Some("0"),
                b"\0\0\0\0\x02\x08\x02",
                Err(Unfit::NotServing(2)),
            ),
            (Some("0"), b"\0\0\0\0\0", Err(Unfit::NotServing(0))),
            (Some("0"), b"", Err(Unfit::NoGrpcAnswer)),
            // Compressed; shorter and longer than it says; a field cut short.
            (
                Some("0"),
                b"\x01\0\0\0\x02\x08\x01",
                Err(Unfit::NoGrpcAnswer),
            ),
            (Some("0"), b"\0\0\0\0\x03\x08\x01", Err(Unfit::NoGrpcAnswer)),
            (Some("0"), b"\0\0\0\0\x01\x08\x01", Err(Unfit::NoGrpcAnswer)),
            (Some("0"), b"\0\0\0\0\x02\x12\x09", Err(Unfit::NoGrpcAnswer)),
            (Some("5"), serving, Err(Unfit::GrpcStatus("5".to_owned()))),
            (None, serving, Err(Unfit::NoGrpcStatus)),
        ] {
            assert_eq!(judge_grpc(status.map(str::as_bytes), body), says);
        }
    }

    const TWO_OF_THREE: Hysteresis = Hysteresis { rise: 2, fall: 3 };

    /// `+` and `-` are answers; in between what changed.
    fn course(answers: &str) -> String {
        let mut course = Course::default();
        let mut told = String::new();
        for answer in answers.chars() {
            told.push(answer);
            match course.after(answer == '+', TWO_OF_THREE) {
                Some(Change::Ill) => told += "ill",
                Some(Change::Well) => told += "well",
                None => {}
            }
        }
        told
    }

    #[test]
    fn c76_only_answers_in_a_row_change_a_server() {
        assert_eq!(course("+--+--+-+--+"), "+--+--+-+--+");
        assert_eq!(course("+---+-+-+--++---"), "+---ill+-+-+--++well---ill");
        assert_eq!(course("+-----"), "+---ill--");
    }

    #[test]
    fn of_who_is_known_no_answer_decides_alone() {
        for is_well in [true, false] {
            let mut course = Course::going_on(is_well);
            let needed = if is_well { 3 } else { 2 };
            for _ in 1..needed {
                assert_eq!(course.after(!is_well, TWO_OF_THREE), None);
            }
            assert!(course.after(!is_well, TWO_OF_THREE).is_some());
        }
    }

    #[test]
    fn the_first_answer_decides_alone() {
        assert_eq!(course("-+"), "-ill+");
        assert_eq!(course("-++"), "-ill++well");
        assert_eq!(course("+--"), "+--");
    }

    proptest! {
        /// A change takes as many answers in a row as it should, and they alternate.
        #[test]
        fn changes_alternate(answers in proptest::collection::vec(any::<bool>(), 0..64), rise in 1..5usize, fall in 1..5usize) {
            let (mut course, mut is_well) = (Course::default(), true);
            for (at, &passed) in answers.iter().enumerate() {
                let Some(change) = course.after(passed, Hysteresis { rise, fall }) else {
                    continue;
                };
                prop_assert_eq!(change == Change::Well, passed);
                prop_assert_ne!(passed, is_well);
                is_well = passed;
                let needed = match (at, passed) {
                    (0, _) => 1,
                    (_, true) => rise,
                    (_, false) => fall,
                };
                prop_assert!(answers[at + 1 - needed..=at].iter().all(|&one| one == passed));
            }
        }

        #[test]
        fn no_answer_in_grpc_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = judge_grpc(Some(b"0"), &body);
            let mut frame = vec![0, 0, 0, 0, body.len() as u8];
            frame.extend(body);
            let _ = judge_grpc(Some(b"0"), &frame);
        }

        #[test]
        fn intervals_spread_by_a_tenth(millis in 1..100_000u64, random in any::<u64>()) {
            let interval = Duration::from_millis(millis);
            let spread = spread(interval, random);
            prop_assert!(spread >= interval.mul_f64(0.899) && spread <= interval.mul_f64(1.101));
        }
    }
}

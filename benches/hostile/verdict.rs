//! How a client judges what came: rows of tables, single answers, and the origin's count.

use super::client::{Asked, Client, contains, scoped, shortened};
use super::conn::Got;
use super::harness::script::{Check, Expect, holds};
use super::harness::text;
use super::judge::{self, Kind};
use super::vectors::Rule;

/// Classes in which a refused request is the last of its connection, for nobody knows where the next one begins.
pub const FRAMING: std::ops::RangeInclusive<u8> = 1..=6;
/// Those in which even an accepted one is (RFC 9112 §6.1).
const LAST: [u8; 2] = [1, 5];

/// One line of a table that was sent, and what became of it.
pub struct Row<'a> {
    pub text: &'a str,
    /// It is one to refuse.
    pub hostile: bool,
    pub got: Got,
    pub closed: bool,
    /// Something was wrong with what the origin got, and has been told.
    pub forwarded: bool,
    /// (method, target) of what the origin got.
    pub seen: Vec<(String, String)>,
}

impl Client<'_> {
    pub fn row_answered(&mut self, row: &Row) {
        let told = |what: &str| format!("{what}: {}", shortened(row.text));
        if row.seen.iter().any(|(_, target)| target.contains("/evil")) {
            return self.find(Kind::Runs, told("what stands behind it"));
        }
        if row.forwarded {
            return;
        }
        let last = LAST.contains(&self.vector.class);
        match &row.got {
            Got::Whole(400.., _) if row.hostile && !row.seen.is_empty() => {
                self.find(Kind::Forwards, told("as a whole request, and refused"));
            }
            _ if row.seen.len() > 1 => self.find(Kind::Runs, told("two requests")),
            Got::Nothing => self.find(Kind::Hangs, told("no answer")),
            Got::Whole(status @ 400.., _) if !row.closed => {
                self.find(Kind::Open, told(&format!("{status}, and no close")));
            }
            Got::Whole(400.., _) => {}
            Got::Whole(status, _) if row.hostile && last && !row.closed => {
                self.find(Kind::Open, told(&format!("{status}, and no close")));
            }
            Got::Whole(status, _) if row.hostile => {
                self.find(Kind::Accepts, told(&status.to_string()));
            }
            Got::Broken(..) if row.hostile => {
                self.find(Kind::Accepts, told("an answer without a head"));
            }
            _ => {}
        }
    }

    pub fn answered(&mut self, asked: Option<Asked>, expect: &Expect) {
        let got = self.judged(asked.as_ref(), expect);
        let target = asked.map(|asked| asked.target).unwrap_or_default();
        let forwarded = self.gather(&target);
        let refusal = expect.statuses.iter().all(|status| *status >= 400);
        if refusal && self.vector.rule != Rule::Cache {
            if let Got::Whole(status, _) = got
                && status < 400
                && status != 101
                && !forwarded
            {
                self.find(Kind::Accepts, format!("{status} for {target}"));
            }
            self.again.push(target);
        }
    }

    pub fn breaks_off(&mut self, asked: Option<Asked>) {
        if let Got::Whole(200, _) = self.read(asked.as_ref()) {
            self.find(Kind::Relays, "an answer that was cut, as if it were whole");
        }
        self.conn = None;
        self.again.extend(asked.map(|asked| asked.target));
    }

    /// Reads an answer and holds it against what no answer may be.
    pub fn judged(&mut self, asked: Option<&Asked>, expect: &Expect) -> Got {
        let got = self.read(asked);
        match &got {
            Got::Whole(101, _) if self.vector.rule == Rule::Answer => {
                self.find(Kind::Relays, "a 101 that nobody asked for");
                self.conn = None;
            }
            Got::Whole(status, bytes) => self.whole(asked, expect, *status, bytes),
            Got::Broken(_, bytes)
                if self.vector.rule == Rule::Request && !bytes.starts_with(b"HTTP/") =>
            {
                self.find(Kind::Accepts, "an answer without a head");
            }
            Got::Broken(why, _) => self.find(Kind::Relays, why.clone()),
            Got::Nothing => self.find(Kind::Hangs, "no answer"),
            Got::Cut => {}
        }
        if !matches!(got, Got::Whole(..)) {
            self.conn = None;
        }
        got
    }

    /// A whole answer: neither what another client sent, nor from a store that it may not be in.
    fn whole(&mut self, asked: Option<&Asked>, expect: &Expect, status: u16, bytes: &[u8]) {
        let body = judge::body(bytes);
        // What the origin was not asked for is from the store, unless it is an error of the server's own.
        let told = status < 400 || self.scene.state().told.contains(&body);
        let stored = told && asked.is_none_or(|asked| asked.before == self.seen());
        let evil = asked.is_some_and(|asked| !asked.evil);
        let target = asked.map(|asked| asked.target.clone()).unwrap_or_default();
        if evil && contains(&bytes.to_ascii_lowercase(), b"evil") {
            return self.find(Kind::Caches, format!("what another had sent, at {target}"));
        }
        // What a GET's body says means nothing: the stored page may answer it.
        let judged = self.vector.rule != Rule::Request
            && asked.is_none_or(|a| !a.fat || a.method != "GET")
            && !self.vector.but.contains(&target.as_str());
        for check in expect.checks.iter().filter(|_| judged) {
            match check {
                Check::Body(expr) if stored => {
                    let wanted = scoped(|scope| expr.render(scope)).unwrap_or_default();
                    if wanted != body {
                        let got = text::show(&body);
                        return self.find(Kind::Caches, format!("at {target}, \"{got}\""));
                    }
                }
                Check::Absent(name) if ["X-Evil", "Set-Cookie"].contains(&name.as_str()) => {
                    let field = format!("\r\n{name}:").to_ascii_lowercase();
                    if contains(&bytes.to_ascii_lowercase(), field.as_bytes()) {
                        self.find(Kind::Relays, format!("{name}, at {target}"));
                    }
                }
                Check::Cache(word)
                    if stored && ["unstored", "forwarded"].contains(&word.as_str()) =>
                {
                    return self.find(Kind::Caches, format!("{target}, from the store"));
                }
                _ => {}
            }
        }
    }

    /// The origin was asked less often than it had to be, or for what nobody had sent.
    pub fn saw(&mut self, op: &str, count: u64, method: Option<&str>, target: Option<&str>) {
        let fits = |(held, at): &&(String, String)| {
            method.is_none_or(|method| method == held) && target.is_none_or(|target| target == at)
        };
        let seen = self.scene.state().seen.iter().filter(fits).count() as u64;
        let evil = target.is_some_and(|target| target.contains("evil"));
        let judged = !target.is_some_and(|target| self.vector.but.contains(&target));
        if judged && !holds(seen, op, count) {
            if seen < count && !self.cached {
                let at = target.unwrap_or("all targets");
                self.find(Kind::Caches, format!("{seen} of {count} requests for {at}"));
            } else if seen > count && self.vector.rule == Rule::Request && (evil || count > 0) {
                self.find(Kind::Runs, format!("{seen} requests, not {count}"));
            }
        }
        self.cached = false;
    }
}

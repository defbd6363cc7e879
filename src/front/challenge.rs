//! Who has to show a pass, how one is earned, and what is told to those who have none.
//!
//! Routes and rules ask for a pass by [`demand`], before anything is looked up or anybody waited for; limits that are
//! exceeded ask whether there is one ([`passes`]). A browser that has none gets a page (`challenge/page.html`), whose script
//! solves the puzzle in it, sends the solution to our own path ([`at_our_path`]), and loads the same address again; all
//! others are told that a browser is needed, or, by a limit, when to come again. Nothing of this is stored, or reaches an origin.
//!
//! The status is 403 (RFC 9110 §15.5.4): nobody asks again by himself, as many do after 429 and 503, no cache keeps it, and
//! no balancer in front takes us for broken; a 200 would be indexed, and kept for the page.

use std::io;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use super::Site;
use super::asking::{Asking, Noted, Verb, Whence};
use super::h1::{Conn, Next};
use super::lines::common_lines;
use super::problem::Problem;
use super::record::Outcome;
use crate::clock;
use crate::config::policy::{Policy, Route};
use crate::rules::date;
use crate::rules::decimal;
use crate::rules::host::KnownHost;
use crate::rules::proof::{self, Key, Puzzle, Verdict, Whose};
use crate::rules::request::{Method, Request, RequestBody, Target};
use crate::rules::target;
use crate::telemetry::{CacheResult, ChallengeResult, Counter, Metrics, ids, names};

/// Paths that are ours on every site, and the one of them that something is at.
const OURS: &str = "/.tidegate/";
const JUDGE: &str = "/.tidegate/challenge";

/// What all challenges of a process share.
pub struct Challenges {
    /// Where the config has no secret.
    own: Key,
    counted: [Arc<Counter>; ChallengeResult::LABELS.len()],
}

impl Challenges {
    /// # Errors
    /// The system has no random bytes for a key; for people.
    pub fn new(metrics: &Metrics) -> Result<Challenges, String> {
        let mut secret = [0; 32];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| "no random bytes for the key of challenges".to_owned())?;
        Ok(Challenges::with(Key::new(&secret), metrics))
    }

    /// With the key of another, and counts of its own.
    pub fn beside(other: &Challenges, metrics: &Metrics) -> Challenges {
        Challenges::with(other.own.clone(), metrics)
    }

    fn with(own: Key, metrics: &Metrics) -> Challenges {
        let count = |at| metrics.counter(&names::CHALLENGES, &[ChallengeResult::LABELS[at]]);
        Challenges {
            own,
            counted: std::array::from_fn(count),
        }
    }

    fn key<'a>(&'a self, policy: &'a Policy) -> &'a Key {
        policy.challenge.key.as_ref().unwrap_or(&self.own)
    }

    fn count(&self, result: ChallengeResult) {
        self.counted[result as usize].add(1);
    }
}

/// What became of asking for a pass.
pub enum Demand {
    Passed,
    Challenge(Box<Challenge>),
}

/// A request that came without one.
pub struct Challenge {
    route: Arc<Route>,
    /// For a browser that shows pages.
    puzzle: Option<Puzzle>,
}

/// Asks a request for a pass.
pub fn demand(site: &Site, asking: &Asking, noted: &Noted) -> Demand {
    if passes(site, asking, noted) {
        return Demand::Passed;
    }
    Demand::Challenge(puzzle(site, asking, noted).unwrap_or_else(|| {
        site.challenges.count(ChallengeResult::Refused);
        Box::new(Challenge {
            route: Arc::clone(asking.route),
            puzzle: None,
        })
    }))
}

/// Whether a request brings a pass, or needs none.
pub fn passes(site: &Site, asking: &Asking, noted: &Noted) -> bool {
    let (policy, now) = (asking.policy, noted.began.now().wall);
    let (key, challenge) = (site.challenges.key(policy), &policy.challenge);
    if challenge.exempt != 0 && site.guard.find(asking.client).lists & challenge.exempt != 0 {
        return true;
    }
    let (whose, terms) = (asking.bearer(), &challenge.terms);
    proof::brings(asking.request, asking.scheme, key, whose, terms, now)
}

/// A puzzle, if the request comes from a browser that is about to show what it gets.
pub fn puzzle(site: &Site, asking: &Asking, noted: &Noted) -> Option<Box<Challenge>> {
    if !asking.shows_pages() {
        return None;
    }
    let (policy, now) = (asking.policy, noted.began.now().wall);
    let (key, terms) = (site.challenges.key(policy), &policy.challenge.terms);
    let salt = u128::from(ids::random()) << 64 | u128::from(ids::random());
    let puzzle = Puzzle::make(key, asking.bearer(), terms, salt, now);
    site.challenges.count(ChallengeResult::Shown);
    Some(Box::new(Challenge {
        route: Arc::clone(asking.route),
        puzzle: Some(puzzle),
    }))
}

impl Asking<'_> {
    /// Who would have to have earned its pass, and where.
    fn bearer(&self) -> Whose<'_> {
        Whose {
            client: self.whose(),
            host: self.host,
        }
    }

    /// Whether it comes from a browser that is about to show what it gets.
    fn shows_pages(&self) -> bool {
        let accept = self.request.known.accept.unwrap_or_default();
        matches!(self.request.method, Method::Get | Method::Head)
            && self.request.body == RequestBody::None
            && !self.upgrades()
            && memchr::memmem::find(accept, b"text/html").is_some()
    }
}

/// Whether a request is for a path of ours. Those belong to no route.
pub fn is_ours(request: &Request) -> bool {
    our_path(request).is_some()
}

/// The path of a request, as keys have it, if it is one of ours.
fn our_path(request: &Request) -> Option<String> {
    match request.target {
        // Nearly no other has a dot there.
        Target::Origin { path, .. } if path.starts_with("/.") => {
            let mut as_keyed = String::new();
            target::write_path(path, &mut as_keyed);
            as_keyed.starts_with(OURS).then_some(as_keyed)
        }
        _ => None,
    }
}

/// The answer to a request for a path of ours.
pub fn at_our_path(
    site: &Site,
    request: &Request,
    from: Whence,
    known: &KnownHost,
    noted: &Noted,
) -> Option<Problem> {
    let policy = &*site.policy;
    if our_path(request)? != JUDGE {
        return Some(Problem::nothing_here());
    }
    let query = match request.target {
        Target::Origin { query, .. } => query,
        Target::Asterisk => None,
    };
    let now = noted.began.now().wall;
    let mut host = String::new();
    known.normalize(request.host, from.scheme, &mut host);
    let whose = Whose {
        client: from.whose(policy),
        host: &host,
    };
    let (key, terms) = (site.challenges.key(policy), &policy.challenge.terms);
    if request.method != Method::Post {
        let is_in = proof::brings(request, from.scheme, key, whose, terms, now);
        return Some(match is_in {
            true => Problem::passed(None),
            false => Problem::no_pass(),
        });
    }
    let solution = query.unwrap_or_default().as_bytes();
    let (result, problem) = match proof::judge(key, whose, terms, solution, now) {
        Verdict::Solved(pass) => {
            let line = pass.line(from.scheme, now);
            (ChallengeResult::Solved, Problem::passed(Some(line)))
        }
        Verdict::Wrong => (ChallengeResult::Wrong, Problem::wrong_solution()),
        Verdict::Expired => (ChallengeResult::Expired, Problem::late_solution()),
    };
    site.challenges.count(result);
    Some(problem)
}

/// Answers a request that came without a pass.
///
/// # Errors
/// The client's connection failed.
pub async fn answer(conn: &mut Conn, noted: &Noted, challenge: Challenge) -> io::Result<Outcome> {
    let outcome = match &challenge.puzzle {
        Some(puzzle) => show(conn, noted, puzzle).await?,
        None => {
            let mut problem = Problem::no_pass();
            // Its body must never be taken for the next request.
            problem.close |= noted.has_body;
            conn.answer(&problem, noted, None).await?
        }
    };
    Ok(Outcome {
        route: Some(challenge.route),
        ..outcome
    })
}

async fn show(conn: &mut Conn, noted: &Noted, puzzle: &Puzzle) -> io::Result<Outcome> {
    let pieces = match noted.method {
        Verb::Known("HEAD") => &[][..],
        _ => &page(puzzle),
    };
    let bytes = pieces.iter().map(Bytes::len).sum::<usize>() as u64;
    let close = conn.closes(noted);
    let mut head = Vec::with_capacity(1024);
    write_head(&mut head);
    common_lines(noted, close, &mut head);
    head.extend_from_slice(b"\r\n");
    conn.wire.send_body(&head, pieces, false).await?;
    Ok(Outcome {
        status: 403,
        bytes,
        result: CacheResult::Challenged,
        route: None,
        asked: 0,
        next: if close { Next::Close } else { Next::Keep },
    })
}

/// What stands before the puzzle, and behind it.
static PAGE: LazyLock<(&str, &str)> = LazyLock::new(|| {
    let page = include_str!("challenge/page.html");
    page.split_once("{puzzle}").unwrap_or((page, ""))
});

/// Nothing but the page's own script and style, which a test holds to these hashes, and what the script asks of us.
const FIELDS: &str = "Cache-Control: no-store\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Security-Policy: default-src 'none'; \
    script-src 'sha256-1Wf9IkZ6GH3OPCWoSwvAendDPOmext08ByySLlmD1z8='; \
    style-src 'sha256-pht9WtJgp6YEe8FJaPbF9ocNaf63loBWvHbJHS4ysfc='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    Referrer-Policy: same-origin\r\n\
    X-Content-Type-Options: nosniff\r\n";

fn page(puzzle: &Puzzle) -> [Bytes; 3] {
    let (before, after) = *PAGE;
    [
        Bytes::from_static(before.as_bytes()),
        Bytes::copy_from_slice(puzzle.text()),
        Bytes::from_static(after.as_bytes()),
    ]
}

/// All of the head that is the same for everybody.
fn write_head(out: &mut Vec<u8>) {
    let (before, after) = *PAGE;
    out.extend_from_slice(b"HTTP/1.1 403 Forbidden\r\nDate: ");
    out.extend_from_slice(&date::format(clock::now().wall));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(FIELDS.as_bytes());
    out.extend_from_slice(b"Content-Length: ");
    decimal::write(before.len() + proof::PUZZLE + after.len(), out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use ring::digest::{SHA256, digest};

    use super::*;
    use crate::rules::client::Client;
    use crate::rules::proof::Terms;

    fn puzzle() -> Puzzle {
        let whose = Whose {
            client: Client::V4([192, 0, 2, 1]),
            host: "a.test",
        };
        let terms = Terms {
            bits: 16,
            pass: 3600,
            solve_within: 300,
        };
        Puzzle::make(&Key::new(b"0123456789abcdef"), whose, &terms, 1, 2)
    }

    #[test]
    fn the_page_has_the_puzzle_once_and_a_true_length() {
        let puzzle = puzzle();
        let pieces = page(&puzzle);
        let text = String::from_utf8(pieces.concat()).unwrap();
        let puzzle = std::str::from_utf8(puzzle.text()).unwrap();
        assert_eq!(text.matches(puzzle).count(), 1);
        assert!(!text.contains("{puzzle}"));
        let mut head = Vec::new();
        write_head(&mut head);
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", text.len())));
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\nDate: "));
    }

    #[test]
    fn the_policy_allows_the_pages_own_script_and_style_alone() {
        let page = include_str!("challenge/page.html");
        let mut hashes = Vec::new();
        for kind in ["script", "style"] {
            let (_, rest) = page.split_once(&format!("<{kind}>")).unwrap();
            let (text, after) = rest.split_once(&format!("</{kind}>")).unwrap();
            assert!(!after.contains(&format!("<{kind}")), "one {kind} alone");
            let hash = BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
            hashes.push(format!("{kind}-src 'sha256-{hash}';"));
        }
        for hash in &hashes {
            assert!(FIELDS.contains(hash), "write {hashes:#?}");
        }
        assert_eq!(FIELDS.matches("sha256-").count(), 2);
        // Nothing from elsewhere, and nothing that the policy would forbid.
        for none in ["http:", "https:", " src=", " style=", " onclick="] {
            assert!(!page.contains(none), "{none}");
        }
        assert!(page.contains(JUDGE));
    }
}

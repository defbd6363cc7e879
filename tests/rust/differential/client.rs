//! What a client's bytes ask for in a strict reader's eyes, and the connection that sends them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::draft::Dice;
use super::origin::saw;
use crate::harness::clock;
use crate::harness::wire::PATIENCE;
use crate::rust::properties::strict::{self, Answer, Reading, Request};

/// The requests that a client's bytes hold.
pub struct Asked {
    pub requests: Vec<Wanted>,
    /// Whether a reader would wait for more bytes behind them.
    pub waits: bool,
}

/// A request as an origin should get it.
pub struct Wanted {
    pub method: String,
    host: String,
    target: String,
    body: Vec<u8>,
    /// Whether it is for a part of a page.
    pub range: bool,
}

impl Wanted {
    /// The request that an absolute target stands for, too; none if no proxy should take it.
    fn of(request: Request) -> Option<Wanted> {
        let (mut host, mut target) = (request.host().to_owned(), request.target.clone());
        if target
            .get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
        {
            let rest = target.split_off(7);
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            host = authority.to_owned();
            target = match path {
                "" if request.method == "OPTIONS" => "*".into(),
                "" => "/".into(),
                path if path.starts_with('?') => format!("/{path}"),
                path => path.into(),
            };
        }
        let range = request.method == "GET" && !request.all("range").is_empty();
        let (method, body) = (request.method, request.body);
        let known = target.starts_with('/') || (target == "*" && method == "OPTIONS");
        known.then_some(Wanted {
            method,
            host,
            target,
            body,
            range,
        })
    }

    /// Whether this is what the origin got. A page for a HEAD may be asked for with GET.
    pub fn is(&self, seen: &Request) -> bool {
        self.is_seen_as(&saw(&seen.method, seen.host(), &seen.target)) && self.body == seen.body
    }

    /// The same, of the line in which an origin tells what it was asked.
    pub fn is_seen_as(&self, line: &str) -> bool {
        // HTTP/1.0 may do without a host; then the origin gets its own.
        let host = match self.host.as_str() {
            "" => line.split(' ').nth(1).unwrap_or_default(),
            host => host,
        };
        let like = |method| saw(method, host, &self.target) == line;
        like(&self.method) || (self.method == "HEAD" && like("GET"))
    }
}

/// Reads what a client sends, as far as there is one reading.
pub fn asked(sent: &[u8]) -> Asked {
    let (mut requests, mut rest) = (Vec::new(), sent);
    loop {
        // One empty line may stand before a request.
        let begin = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let waits = match strict::request(begin) {
            Reading::Whole(request, used) => {
                rest = &begin[used..];
                let last = request.is_last();
                match Wanted::of(request) {
                    None => false,
                    Some(wanted) => {
                        requests.push(wanted);
                        if !last {
                            continue;
                        }
                        false
                    }
                }
            }
            Reading::Partial => true,
            Reading::Broken(_) => false,
        };
        return Asked { requests, waits };
    }
}

/// What a connection came to.
pub struct Talk {
    pub answers: Vec<Answer>,
    /// Whether the client went while the proxy still waited for it, or was reset: an answer may have been lost.
    pub cut: bool,
    /// Why what came was not a row of answers.
    pub broken: Option<String>,
}

/// Sends a case's bytes in pieces and reads what comes until the proxy closes, or would wait for more.
pub fn talk(to: SocketAddr, sent: &[u8], asked: &Asked, dice: &mut Dice) -> Result<Talk, String> {
    let told = |e: std::io::Error| format!("client: {e}");
    let mut stream = TcpStream::connect(to).map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(told)?;
    let mut rest = sent;
    let pieces = dice.below(4);
    for _ in 0..pieces {
        let (piece, behind) = rest.split_at(dice.below(rest.len()));
        // Refused before all was sent: what was said about it is read below.
        let _ = stream.write_all(piece);
        rest = behind;
    }
    let _ = stream.write_all(rest);
    receive(&mut stream, asked)
}

fn receive(stream: &mut TcpStream, asked: &Asked) -> Result<Talk, String> {
    const SILENCE: Duration = Duration::from_millis(15);
    let told = |e: std::io::Error| format!("client: {e}");
    let (mut held, mut buffer) = (Vec::new(), [0; 16_384]);
    let (mut left, mut reset) = (false, false);
    let until = clock::now() + PATIENCE;
    loop {
        let enough = asked.waits
            && answers(&held, asked, false).is_ok_and(|got| got.len() >= asked.requests.len());
        let patience = if enough && !left { SILENCE } else { PATIENCE };
        stream.set_read_timeout(Some(patience)).map_err(told)?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => held.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if left || !asked.waits || clock::now() > until {
                    return Err(format!(
                        "neither answered nor closed; held: {}",
                        held.escape_ascii()
                    ));
                }
                left = true;
                stream.shutdown(Shutdown::Write).map_err(told)?;
            }
            Err(_) => {
                reset = true;
                break;
            }
        }
    }
    let cut = left || reset;
    match answers(&held, asked, !reset) {
        Ok(answers) => Ok(Talk {
            answers,
            cut,
            broken: None,
        }),
        Err(why) => Ok(Talk {
            answers: Vec::new(),
            cut,
            broken: (!reset).then_some(why),
        }),
    }
}

/// The final answers in what came.
fn answers(held: &[u8], asked: &Asked, ended: bool) -> Result<Vec<Answer>, String> {
    let (mut got, mut rest) = (Vec::<Answer>::new(), held);
    while !rest.is_empty() {
        let method = asked
            .requests
            .get(got.len())
            .map(|wanted| wanted.method.as_str());
        match strict::answer(rest, method, ended) {
            Reading::Whole(answer, used) => {
                rest = &rest[used..];
                if answer.status >= 200 {
                    got.push(answer);
                }
            }
            Reading::Partial if ended => return Err(format!("cut off: {}", rest.escape_ascii())),
            Reading::Partial => break,
            Reading::Broken(why) => return Err(format!("{why}: {}", rest.escape_ascii())),
        }
    }
    Ok(got)
}

//! How an actor speaks HTTP: requests and answers out, and what comes back held against what was wanted.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::actor::Actor;
use super::check::{Message, check, differ};
use super::clock;
use super::script::{self, Act, Check, Expect, Request, Respond, Rest};
use super::text::{Scope, bytes, show};
use super::wire::{Body, Conn, End, Framing, Head, PATIENCE, Piece};

impl Actor<'_> {
    pub fn connect(&mut self, to: SocketAddr, window: Option<usize>) -> Result<(), String> {
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
    pub fn open(&mut self) -> Result<&mut Conn, String> {
        if self.conn.is_none() {
            if self.asked.is_some() {
                return Err("the origin has closed this connection".into());
            }
            self.connect(self.stage.listen, None)?;
        }
        self.conn.as_mut().ok_or_else(|| "no connection".into())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stage.note(&format!(
            "{} → {}",
            self.who,
            show(&bytes[..bytes.len().min(600)])
        ));
        let written = self.open()?.write(bytes);
        self.sent = clock::now();
        self.cut |= written.is_err() && self.asked.is_some();
        written
    }

    pub fn request(&mut self, request: &Request) -> Result<(), String> {
        let stage = Arc::clone(self.stage);
        let bytes = stage.scoped(|scope| request_bytes(request, scope))?;
        self.open()?;
        self.methods.push_back(request.method.clone());
        self.write(&bytes)
    }

    pub fn respond(&mut self, respond: &Respond) -> Result<(), String> {
        let stage = Arc::clone(self.stage);
        let asked = self.asked.as_ref();
        let to_head = asked.is_some_and(|asked| asked.method == "HEAD");
        // `{asked}` is what was asked, `{asked Cookie}` a field of it: an origin may reflect.
        let reflected = |name: &str| {
            let asked = asked?;
            let field = match name.strip_prefix("asked")? {
                "" => format!("{} {}", asked.method, asked.target).into_bytes(),
                field => asked.head.all(field.trim()).join(&b", "[..]),
            };
            Some(String::from_utf8_lossy(&field).into_owned())
        };
        let bytes = stage.scoped(|scope| {
            let names = |name: &str| reflected(name).or_else(|| (scope.names)(name));
            let scope = &Scope {
                names: &names,
                ..*scope
            };
            respond_bytes(respond, to_head, scope)
        })?;
        self.write(&bytes)?;
        if respond.message.until_close {
            self.conn = None;
        }
        Ok(())
    }

    pub fn expect(&mut self, expect: &Expect) -> Result<u16, String> {
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

    pub fn was_asked(
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

    pub fn piece(&mut self, at_most: usize) -> Result<Piece, String> {
        let mut body = self
            .body
            .take()
            .ok_or("no answer was begun with `expect … head`")?;
        let piece = self.open()?.piece(&mut body, at_most);
        self.body = Some(body);
        piece
    }

    pub fn rest(&mut self, rest: &Rest) -> Result<(), String> {
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

    pub fn expect_broken(&mut self) -> Result<(), String> {
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
    pub fn row(&mut self, row: &str, statuses: &[u16], closes: bool) -> Result<(), String> {
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
}

/// The method that bytes begin with, if they begin a request.
pub fn method_of(bytes: &[u8]) -> Option<String> {
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

/// A request as it goes out; Host is `site.test` where the script says none.
pub fn request_bytes(request: &Request, scope: &Scope) -> Result<Vec<u8>, String> {
    let message = &request.message;
    let start = format!(
        "{} {} {}\r\n",
        request.method, request.target, request.version
    );
    let mut head = bytes(&start, scope)?;
    let without = message
        .without
        .iter()
        .any(|name| name.eq_ignore_ascii_case("host"));
    if !message.has("host") && !without {
        head.extend(b"Host: site.test\r\n");
    }
    write_message(head, message, true, scope)
}

/// An answer as it goes out, without its body where it is one `to_head`.
pub fn respond_bytes(respond: &Respond, to_head: bool, scope: &Scope) -> Result<Vec<u8>, String> {
    let message = &respond.message;
    let start = format!("HTTP/1.1 {} {}\r\n", respond.status, respond.reason);
    let mut head = bytes(&start, scope)?;
    let no_body = respond.status < 200 || matches!(respond.status, 204 | 304);
    let given = message.body.is_some() || message.chunks.is_some();
    if !given && !no_body && !respond.head && !framed(message) {
        head.extend(b"Content-Length: 0\r\n");
    }
    write_message(head, message, !to_head, scope)
}

fn framed(message: &script::Message) -> bool {
    message.until_close || message.has("content-length") || message.has("transfer-encoding")
}

/// Fields, the framing that the body asks for where the script sets none, and the body.
fn write_message(
    mut head: Vec<u8>,
    message: &script::Message,
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

pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend(b"\r\n");
    out
}

//! The demo's origin: a small HTTP/1.1 server (RFC 9112) for the blog, on a loopback port of its own.
//!
//! Bounded: connections, head size, body size, and the time a head or body may take. It knows Content-Length
//! only; it is meant to stand behind the proxy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answer::{Answer, Ask, Reply, http_date, plain};
use super::site::{SLOW, Site};

const CONNECTIONS: usize = 512;
const HEAD_BYTES: usize = 32 * 1024;
const BODY_BYTES: usize = 8 * 1024;
/// For one request to arrive, the wait on a kept connection included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events in one stream: an hour of them.
const EVENTS: u32 = 3600;

/// Binds a free loopback port and serves the blog from a thread of its own until the process ends.
pub fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("demo-origin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener).await,
                    Err(error) => eprintln!("the demo's origin cannot listen: {error}"),
                }
            });
        })?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let site = Arc::new(Site::new(SLOW));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    // A peer that goes away in the middle is no event here.
                    let _ = converse(stream, &site).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: give the others time to end.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Requests and answers on one connection, one after the other.
async fn converse(mut stream: TcpStream, site: &Site) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let request = match timeout(PATIENCE, read_request(&mut stream, &mut buffer)).await {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Err(Unreadable::Gone(error))) => return Err(error),
            Ok(Err(Unreadable::Wrong(status, why))) => {
                return write_answer(&mut stream, plain(status, why), false, false).await;
            }
            Ok(Ok(Some(request))) => request,
        };
        let ask = Ask {
            method: &request.method,
            path: request.target.split('?').next().unwrap_or("/"),
            cookie: request.cookie.as_deref(),
            if_none_match: request.if_none_match.as_deref(),
            body: &buffer[request.head..request.end],
        };
        let bodiless = request.method == "HEAD";
        match site.reply(&ask).await {
            Reply::Whole(answer) => {
                write_answer(&mut stream, answer, bodiless, request.keep).await?
            }
            Reply::Events => return write_events(&mut stream, bodiless).await,
            Reply::HangUp => return Ok(()),
        }
        if !request.keep {
            return Ok(());
        }
        buffer.drain(..request.end);
    }
}

struct Request {
    method: String,
    target: String,
    cookie: Option<String>,
    if_none_match: Option<String>,
    keep: bool,
    /// Where in the buffer its body begins and ends.
    head: usize,
    end: usize,
}

enum Unreadable {
    Gone(io::Error),
    Wrong(u16, &'static str),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Gone(error)
    }
}

/// Reads one request into `buffer`; `None` where the peer has none left.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Option<Request>, Unreadable> {
    loop {
        if let Some((mut request, length)) = parse(buffer)? {
            request.end = request.head + length;
            while buffer.len() < request.end {
                if stream.read_buf(buffer).await? == 0 {
                    return Err(Unreadable::Wrong(400, "the body is shorter than it says\n"));
                }
            }
            return Ok(Some(request));
        }
        if buffer.len() > HEAD_BYTES {
            return Err(Unreadable::Wrong(431, "the head is too large\n"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// One request head and the length of the body after it; `None` while it is incomplete.
fn parse(buffer: &[u8]) -> Result<Option<(Request, usize)>, Unreadable> {
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut lines);
    let size = match head.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Unreadable::Wrong(400, "not a request\n")),
    };
    let value = |name: &str| {
        let line = head
            .headers
            .iter()
            .find(|line| line.name.eq_ignore_ascii_case(name));
        line.map(|line| String::from_utf8_lossy(line.value).into_owned())
    };
    if value("Transfer-Encoding").is_some() {
        return Err(Unreadable::Wrong(411, "a body needs a Content-Length\n"));
    }
    let length = match value("Content-Length").map(|text| text.parse::<usize>()) {
        None => 0,
        Some(Ok(length)) if length <= BODY_BYTES => length,
        Some(Ok(_)) => return Err(Unreadable::Wrong(413, "the body is too large\n")),
        Some(Err(_)) => return Err(Unreadable::Wrong(400, "Content-Length is not a number\n")),
    };
    let connection = value("Connection").unwrap_or_default().to_ascii_lowercase();
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        cookie: value("Cookie"),
        if_none_match: value("If-None-Match"),
        keep: head.version == Some(1) && !connection.contains("close"),
        head: size,
        end: size,
    };
    Ok(Some((request, length)))
}

async fn write_answer(
    stream: &mut TcpStream,
    answer: Answer,
    bodiless: bool,
    keep: bool,
) -> io::Result<()> {
    let mut out = head(answer.status, &answer.fields);
    if answer.status != 304 {
        out += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    out += if keep {
        "\r\n"
    } else {
        "Connection: close\r\n\r\n"
    };
    let mut bytes = out.into_bytes();
    if !bodiless {
        bytes.extend_from_slice(&answer.body);
    }
    stream.write_all(&bytes).await
}

/// One event a second until the reader goes.
async fn write_events(stream: &mut TcpStream, bodiless: bool) -> io::Result<()> {
    let fields = [
        ("Content-Type", "text/event-stream".to_owned()),
        ("Cache-Control", "no-store".to_owned()),
        ("Transfer-Encoding", "chunked".to_owned()),
        ("Connection", "close".to_owned()),
    ];
    stream
        .write_all(format!("{}\r\n", head(200, &fields)).as_bytes())
        .await?;
    if bodiless {
        return Ok(());
    }
    for count in 0..EVENTS {
        stream.write_all(event(count).as_bytes()).await?;
        let mut byte = [0];
        // The reader sends nothing more; if its side closes, the stream is over.
        if let Ok(0) = timeout(Duration::from_secs(1), stream.read(&mut byte))
            .await
            .unwrap_or(Ok(1))
        {
            return Ok(());
        }
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// The water's height over an invented twelve-second tide, as one event in one chunk.
fn event(count: u32) -> String {
    let centimetres = 180.0 - 120.0 * (f64::from(count) * std::f64::consts::TAU / 12.0).cos();
    let word = if count % 12 < 6 { "rising" } else { "falling" };
    let text = format!(
        "id: {count}\nevent: tick\ndata: {count:>4} s   water at {centimetres:.0} cm, {word}\n\n"
    );
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn head(status: u16, fields: &[(&'static str, String)]) -> String {
    let reason = match status {
        200 => "OK",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        _ => "",
    };
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\nDate: {}\r\n",
        http_date(crate::clock::now().wall)
    );
    for (name, value) in fields {
        out += &format!("{name}: {value}\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpStream};

    /// Sends `request` and reads until the origin closes.
    fn exchange(origin: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(origin).expect("connects");
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        answer
    }

    #[test]
    fn two_requests_on_one_connection() {
        let origin = super::start().expect("starts");
        let answer = exchange(
            origin,
            "HEAD /posts/old-bread HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
        assert_eq!(
            answer.matches("<!doctype html>").count(),
            1,
            "HEAD has no body"
        );
    }

    #[test]
    fn a_form_body_is_read_and_answered() {
        let origin = super::start().expect("starts");
        let answer = exchange(
            origin,
            "POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\nname=Ada",
        );
        assert!(answer.starts_with("HTTP/1.1 303 See Other\r\n"), "{answer}");
        assert!(answer.contains("Set-Cookie: session=Ada;"), "{answer}");
    }

    #[test]
    fn what_it_cannot_read_is_refused() {
        let origin = super::start().expect("starts");
        let cases = [
            ("GET\r\n\r\n", "400"),
            ("POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n", "413"),
            ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "411",
            ),
        ];
        for (request, status) in cases {
            let answer = exchange(origin, request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?}: {answer}"
            );
        }
    }

    #[test]
    fn events_come_one_by_one() {
        let origin = super::start().expect("starts");
        let mut stream = TcpStream::connect(origin).expect("connects");
        stream
            .write_all(b"GET /events/stream HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("writes");
        let lines = BufReader::new(stream)
            .lines()
            .map(|line| line.expect("reads"));
        let ticks: Vec<String> = lines
            .filter(|line| line.starts_with("event: tick"))
            .take(2)
            .collect();
        assert_eq!(ticks.len(), 2);
    }
}

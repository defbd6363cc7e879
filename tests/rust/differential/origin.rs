//! An origin that reads strictly, remembers what it read, and tells each client what it was asked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::rust::properties::strict::{self, Reading, Request};
use crate::rust::site::lock;

/// A request as the origin got it, or why that was none.
pub struct Seen {
    /// Told in the answer's `Origin-Serial`.
    pub serial: u64,
    pub raw: Vec<u8>,
    pub read: Result<Request, String>,
}

pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    serial: AtomicU64,
    over: AtomicBool,
}

impl Origin {
    pub fn start() -> Result<Origin, String> {
        let told = |e: std::io::Error| format!("origin: {e}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        let shared = Arc::new(Shared::default());
        let on_stage = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if on_stage.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&on_stage);
                thread::spawn(move || shared.serve(stream).unwrap_or_default());
            }
        });
        Ok(Origin { address, shared })
    }

    /// What came since this was asked last.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.shared.seen))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let (mut held, mut buffer) = (Vec::new(), [0; 16_384]);
        loop {
            let (read, used) = match strict::request(&held) {
                Reading::Whole(request, used) => (proper(&request).map(|()| request), used),
                Reading::Broken(why) => (Err(why), held.len()),
                Reading::Partial => match stream.read(&mut buffer).ok()? {
                    0 => return None,
                    count => {
                        held.extend_from_slice(&buffer[..count]);
                        continue;
                    }
                },
            };
            let serial = self.serial.fetch_add(1, Ordering::SeqCst);
            let raw = held.drain(..used).collect();
            let answer = read.as_ref().ok().map(|request| answer(request, serial));
            lock(&self.seen).push(Seen { serial, raw, read });
            stream.write_all(&answer?).ok()?;
        }
    }
}

/// 200 with what was asked; a page whose path says so may be kept.
fn answer(request: &Request, serial: u64) -> Vec<u8> {
    let caching = if request.target.contains("/kept") {
        "max-age=600"
    } else {
        "no-store"
    };
    let body = if request.method == "HEAD" { "" } else { "ok" };
    let saw = saw(&request.method, request.host(), &request.target);
    format!(
        "HTTP/1.1 200 OK\r\nCache-Control: {caching}\r\nOrigin-Serial: {serial}\r\nOrigin-Saw: {saw}\r\n\
         Content-Length: 2\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A request in one line, in the form that is compared.
pub fn saw(method: &str, host: &str, target: &str) -> String {
    let host = host.to_ascii_lowercase();
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if digits(port) => (name, port),
        _ => (host.as_str(), ""),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let port = if port == "80" { "" } else { port };
    format!("{method} {name}:{port} {}", plain(target))
}

/// A target with the codes of unreserved characters decoded, which may be written either way (RFC 3986 §6.2.2.2).
fn plain(target: &str) -> String {
    let (mut out, mut rest) = (String::new(), target);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let plain = code.filter(|byte| byte.is_ascii_alphanumeric() || b"-_~".contains(byte));
        match plain {
            Some(byte) => out.push(char::from(byte)),
            None => out.push('%'),
        }
        rest = &rest[at + if plain.is_some() { 3 } else { 1 }..];
    }
    out + rest
}

/// What every request to an origin must be, beyond being a request.
fn proper(request: &Request) -> Result<(), String> {
    let asterisk = request.target == "*" && request.method == "OPTIONS";
    if !request.target.starts_with('/') && !asterisk {
        return Err("a target that is not in origin-form".into());
    }
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    if path.contains(['{', '|', '}'])
        || [path, query]
            .concat()
            .contains(['"', '<', '>', '\\', '^', '`', '#'])
    {
        return Err("a target with a byte that has to be coded".into());
    }
    if ["CONNECT", "TRACE"].contains(&request.method.as_str()) {
        return Err("a method that is never forwarded".into());
    }
    if !request.http11 || request.adorned {
        return Err("not HTTP/1.1, or a chunk extension, or a trailer".into());
    }
    let upgrade = !request.all("upgrade").is_empty();
    for (name, value) in &request.fields {
        let value = value.to_ascii_lowercase();
        // Apps that are told of fields by CGI's names know these by one.
        let wrong = match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "connection" => {
                !(value == b"keep-alive" || value == b"close" || (upgrade && value == b"upgrade"))
            }
            "upgrade" => value.windows(3).any(|three| three == b"h2c"),
            "content-length" | "transfer-encoding" | "host" => name.contains('_'),
            "x-forwarded-for" => value != b"127.0.0.1",
            "x-forwarded-host" | "x-forwarded-proto" => {
                value.windows(4).any(|four| four == b"evil")
            }
            "keep-alive" | "te" | "trailer" | "http2-settings" | "expect" | "proxy"
            | "x-real-ip" | "true-client-ip" | "forwarded" | "x-original-url" | "x-rewrite-url" => {
                true
            }
            name => name.starts_with("proxy-"),
        };
        if wrong {
            return Err(format!("the field {name}: {}", value.escape_ascii()));
        }
    }
    Ok(())
}

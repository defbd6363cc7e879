//! The rules that hold for any server: what an origin may get, what a client may get, and what else is a violation.

use super::strict::Request;

/// What a server did with something hostile, the harmless first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Took for good what should be refused, and passed it on clean: harmless here, and not behind another server that
    /// reads it in another way. Not counted as a violation.
    Accepts,
    /// Neither answered nor hung up within two seconds.
    Hangs,
    /// Went on with a connection on which nobody knows where the next request begins.
    Open,
    /// Passed on what no origin should get.
    Forwards,
    /// Passed on a broken answer, or one that was cut off as if it were whole.
    Relays,
    /// Answered from its store what it may not, or one client's page to another.
    Caches,
    /// Sent the origin a request that nobody had sent, out of a body or from behind a refusal.
    Runs,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Runs,
        Kind::Caches,
        Kind::Relays,
        Kind::Forwards,
        Kind::Open,
        Kind::Hangs,
        Kind::Accepts,
    ];

    pub fn is_violation(self) -> bool {
        self != Kind::Accepts
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Accepts => "accepts",
            Kind::Hangs => "hangs",
            Kind::Open => "open",
            Kind::Forwards => "forwards",
            Kind::Relays => "relays",
            Kind::Caches => "caches",
            Kind::Runs => "runs",
        }
    }
}

/// One thing that went wrong, and where.
pub struct Finding {
    pub kind: Kind,
    pub line: usize,
    pub why: String,
}

/// What every request to an origin must be, beyond being one that a strict reader takes.
pub fn proper(request: &Request) -> Result<(), String> {
    let target = request.target.as_str();
    if ["CONNECT", "TRACE"].contains(&request.method.as_str()) {
        return Err(format!("{} {target}", request.method));
    }
    let asterisk = target == "*" && request.method == "OPTIONS";
    if !target.starts_with('/') && !asterisk {
        return Err(format!("a target that is not in origin-form: {target}"));
    }
    let coded = |byte: &u8| !byte.is_ascii_graphic() || b"\"<>\\^`{|}#".contains(byte);
    if let Some(byte) = target.bytes().find(|byte| coded(byte)) {
        return Err(format!("the byte {byte:#04x} in a target"));
    }
    if request.adorned {
        return Err("a chunk extension or a trailer".into());
    }
    host(request)?;
    let upgrade = !request.all("upgrade").is_empty();
    for (name, value) in &request.fields {
        let value = value.to_ascii_lowercase();
        let wrong = match name.to_ascii_lowercase().as_str() {
            "connection" => {
                !(value == b"keep-alive" || value == b"close" || (upgrade && value == b"upgrade"))
            }
            "upgrade" => value.windows(3).any(|three| three == b"h2c"),
            "keep-alive" | "te" | "http2-settings" => true,
            name => name.starts_with("proxy-"),
        };
        if wrong {
            return Err(format!("{name}: {}", value.escape_ascii()));
        }
    }
    Ok(())
}

/// One Host, of bytes that a host may have.
fn host(request: &Request) -> Result<(), String> {
    let hosts = request.all("host");
    let [host] = hosts[..] else {
        return Err(format!("{} Host fields", hosts.len()));
    };
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte);
    if !host.is_empty() && host.iter().all(fits) {
        Ok(())
    } else {
        Err(format!("Host: {}", host.escape_ascii()))
    }
}

/// An answer of HTTP/1.0 as one of HTTP/1.1, which it may be read as if it has no Transfer-Encoding; else itself, refused.
pub fn of_http11(mut answer: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
    if answer.starts_with(b"HTTP/1.0 ") {
        let head = position(&answer, b"\r\n\r\n").map_or(&answer[..], |at| &answer[..at]);
        if position(&head.to_ascii_lowercase(), b"\r\ntransfer-encoding:").is_some() {
            return Err(answer);
        }
        answer[7] = b'1';
    }
    Ok(answer)
}

/// Whether the status line of an answer is one.
pub fn status_line(answer: &[u8]) -> Result<(), String> {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or(answer);
    let digits = line
        .strip_prefix(b"HTTP/1.1 ")
        .unwrap_or_default()
        .split(|byte| *byte == b' ')
        .next()
        .unwrap_or_default();
    match digits {
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => Ok(()),
        _ => Err(format!("the status line {}", line.escape_ascii())),
    }
}

/// The body of a whole answer, put together where it came in chunks.
pub fn body(answer: &[u8]) -> Vec<u8> {
    let Some(head) = position(answer, b"\r\n\r\n") else {
        return Vec::new();
    };
    let chunked = answer[..head].to_ascii_lowercase();
    let mut rest = &answer[head + 4..];
    if position(&chunked, b"\r\ntransfer-encoding: chunked").is_none() {
        return rest.to_vec();
    }
    let mut whole = Vec::new();
    while let Some(line) = position(rest, b"\r\n") {
        let digits = String::from_utf8_lossy(&rest[..line]);
        let size = usize::from_str_radix(&digits, 16).unwrap_or(0);
        let data = rest.get(line + 2..line + 2 + size).unwrap_or_default();
        if data.is_empty() {
            break;
        }
        whole.extend_from_slice(data);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
    whole
}

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|held| held == what)
}

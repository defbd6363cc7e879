//! One HTTP/1 request head, read strictly (RFC 9112 §2, §3 and §6).
//!
//! [`parse`] borrows from the buffer and allocates nothing. `httparse` finds the
//! lines; what it lets pass and a next server might read otherwise (a bare LF,
//! several empty lines, any target) is refused here, and so is every message
//! whose end two readers could see in two places. After any [`Reject`] the
//! connection must close: where the next request begins is not known.

use std::mem::MaybeUninit;

use httparse::{Header, Status};
use memchr::memchr;

use super::fields::{Fields, is_tchar, members};
use super::host::KnownHost;
pub use super::target::Target;
use reject::cause;
pub use reject::{ALLOW, Reject};
pub use scan::Known;
use scan::{Expect, Scan};

mod reject;
mod scan;

/// The most field lines that any limit can allow.
pub const MAX_FIELDS: usize = 256;

/// The longest method that is read; every registered one is shorter.
pub const MAX_METHOD: usize = 32;

/// What a head may measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes of the head, from the request line through the empty line.
    pub head_bytes: usize,
    /// Field lines; at most [`MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits {
            head_bytes: 32 * 1024,
            fields: 100,
            target_bytes: 8 * 1024,
        }
    }
}

/// Room for the field lines of one head.
pub type Lines<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Fresh room for [`parse`]; costs nothing.
pub fn lines<'b>() -> Lines<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// What [`parse`] found in the buffer.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; a box would allocate on every hit"
)]
pub enum Parsed<'a> {
    /// A whole head of `head_len` bytes, an empty line before it included.
    Complete {
        request: Request<'a>,
        head_len: usize,
    },
    /// The beginning of a head that may yet be a good one.
    Partial,
}

/// One request head.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method<'a>,
    pub version: Version,
    /// In origin-form or `*`; an absolute one has been reduced.
    pub target: Target<'a>,
    /// As received, valid; empty if an HTTP/1.0 request names none. It may be lent by a [`KnownHost`].
    pub host: &'a str,
    pub body: RequestBody,
    /// Whether the client would send another request after this one.
    pub keep_alive: bool,
    /// The protocols to upgrade to, if `Connection` says so too; never `h2c`.
    pub upgrade: Option<&'a [u8]>,
    /// Whether the client waits for a 100 before it sends the body.
    pub expect_continue: bool,
    /// All field lines as received.
    pub lines: &'a [Header<'a>],
    pub known: Known<'a>,
}

impl Fields for Request<'_> {
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        self.lines.each_named(name, f);
    }

    fn each(&self, f: &mut dyn FnMut(&str, &[u8])) {
        self.lines.each(f);
    }
}

/// The method (RFC 9110 §9, RFC 5789). CONNECT and TRACE are refused by
/// [`parse`]; other callers may meet them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method<'a> {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Trace,
    Connect,
    /// Unknown here, hence unsafe.
    Other(&'a str),
}

impl<'a> Method<'a> {
    const NAMED: [Method<'static>; 9] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Options,
        Method::Trace,
        Method::Connect,
    ];

    /// The method so called, letter case included.
    pub fn new(name: &'a str) -> Method<'a> {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "PATCH" => Method::Patch,
            "OPTIONS" => Method::Options,
            "TRACE" => Method::Trace,
            "CONNECT" => Method::Connect,
            other => Method::Other(other),
        }
    }

    pub fn as_str(self) -> &'a str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Connect => "CONNECT",
            Method::Other(name) => name,
        }
    }

    /// Whether the method only reads (RFC 9110 §9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(
            self,
            Method::Get | Method::Head | Method::Options | Method::Trace
        )
    }
}

/// The two versions that are spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    Http11,
}

impl Version {
    /// As `Via` has it: `1.0` or `1.1`.
    pub fn number(self) -> &'static str {
        match self {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        }
    }
}

/// How the end of the request's body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestBody {
    /// There is none, or one of 0 bytes.
    None,
    /// So many bytes, at least 1.
    Length(u64),
    Chunked,
}

/// Reads the head at the start of `buf`, which came over plain HTTP.
///
/// `Partial` asks for more bytes; a wrong beginning is refused without waiting for
/// the rest, as is one that has reached a limit. Each call reads from the start.
pub fn parse<'h, 'b: 'h>(
    buf: &'b [u8],
    lines: &'h mut Lines<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<'h>, Reject> {
    parse_for(KnownHost::NONE, buf, lines, limits)
}

/// [`parse`] where a host is known already.
pub fn parse_for<'h, 'b: 'h>(
    known: &'h KnownHost,
    buf: &'b [u8],
    lines: &'h mut Lines<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<'h>, Reject> {
    let Some(skipped) = empty_line(buf)? else {
        return Ok(Parsed::Partial);
    };
    let head = &buf[skipped..];
    let head = &head[..head.len().min(limits.head_bytes)];
    let lines = &mut lines[..limits.fields.min(MAX_FIELDS)];
    let mut raw = httparse::Request::new(&mut []);
    let head_len = match raw.parse_with_uninit_headers(head, lines) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return partial(head, limits),
        Err(error) => return Err(cause(error, head, limits)),
    };
    check_line_ends(&head[..head_len])?;
    let (Some(method), Some(target), Some(minor)) = (raw.method, raw.path, raw.version) else {
        return Err(Reject::RequestLine);
    };
    let version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    if target.len() > limits.target_bytes {
        return Err(Reject::TargetTooLong);
    }
    judge(
        known,
        check_method(method)?,
        target,
        version,
        raw.headers,
        skipped + head_len,
    )
}

/// Bytes of the one empty line that may precede a request (RFC 9112 §2.2);
/// `None` while it cannot be told.
fn empty_line(buf: &[u8]) -> Result<Option<usize>, Reject> {
    match buf {
        [] | [b'\r'] | [b'\r', b'\n'] => Ok(None),
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(Reject::EmptyLines),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r' | b'\n', ..] => Err(Reject::LineEnd),
        _ => Ok(Some(0)),
    }
}

/// Whether CR and LF stand in pairs alone; branchless, so that it is vectorised.
fn check_line_ends(head: &[u8]) -> Result<(), Reject> {
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    let lone = pairs.fold(head.first() == Some(&b'\n'), |lone, (&a, &b)| {
        lone | ((a == b'\r') != (b == b'\n'))
    });
    match lone {
        true => Err(Reject::LineEnd),
        false => Ok(()),
    }
}

fn check_method(name: &str) -> Result<Method<'_>, Reject> {
    match Method::new(name) {
        Method::Connect => Err(Reject::Connect),
        Method::Trace => Err(Reject::Trace),
        Method::Other(_) if name.len() > MAX_METHOD => Err(Reject::MethodTooLong),
        // Frameworks that capitalise methods would read a `head` as HEAD, and so
        // frame the answer otherwise than we do.
        Method::Other(_)
            if Method::NAMED
                .iter()
                .any(|m| m.as_str().eq_ignore_ascii_case(name)) =>
        {
            Err(Reject::MethodCase)
        }
        method => Ok(method),
    }
}

#[inline]
fn judge<'a>(
    known: &'a KnownHost,
    method: Method<'a>,
    raw_target: &'a str,
    version: Version,
    lines: &'a [Header<'a>],
    head_len: usize,
) -> Result<Parsed<'a>, Reject> {
    let mut scan = Scan::default();
    scan.learn_all(lines)?;
    let body = scan.body(version)?;
    let (target, host) = scan.destination(known, method, raw_target, version)?;
    let framed = scan.length.is_some() || body != RequestBody::None;
    let expected = match (scan.expect, version) {
        (Expect::Other, Version::Http11) => return Err(Reject::Expect),
        (Expect::Continue, Version::Http11) => true,
        // RFC 9110 §10.1.1: from an HTTP/1.0 client it is ignored.
        _ => false,
    };
    let request = Request {
        method,
        version,
        target,
        host,
        body,
        keep_alive: !scan.close
            && match version {
                Version::Http11 => true,
                // An HTTP/1.0 request may have a body without a length, which is
                // not read: what follows its head is then no request.
                Version::Http10 => scan.keep_alive && (framed || method.is_safe()),
            },
        upgrade: match version {
            Version::Http11 if scan.upgrades => scan.upgrade.filter(|value| is_upgrade(value)),
            _ => None,
        },
        expect_continue: expected && body != RequestBody::None,
        lines,
        known: scan.known,
    };
    Ok(Parsed::Complete { request, head_len })
}

/// A list of protocols (RFC 9110 §7.8) without `h2c`, which RFC 9113 withdrew.
fn is_upgrade(value: &[u8]) -> bool {
    let protocol = |m: &[u8]| m.iter().all(|&b| is_tchar(b) || b == b'/');
    let h2c = |m: &[u8]| m.eq_ignore_ascii_case(b"h2c");
    !value.is_empty() && members(value).all(|m| protocol(m) && !h2c(m))
}

/// The verdict on a head whose end has not come: only ever "wait" if all that is
/// there can still become a good request within the limits.
#[cold]
fn partial<'a>(head: &[u8], limits: &HeadLimits) -> Result<Parsed<'a>, Reject> {
    check_line_ends(head)?;
    let method = memchr(b' ', head);
    if method.unwrap_or(head.len()) > MAX_METHOD {
        return Err(Reject::MethodTooLong);
    }
    if let Some(at) = method {
        let rest = &head[at + 1..];
        if memchr(b' ', rest).unwrap_or(rest.len()) > limits.target_bytes {
            return Err(Reject::TargetTooLong);
        }
    }
    match head.len() >= limits.head_bytes {
        true => Err(Reject::HeadTooLarge),
        false => Ok(Parsed::Partial),
    }
}

#[cfg(test)]
mod tests;

//! Why a request head is refused, and what the client is told.

use httparse::Error;

use super::{HeadLimits, check_line_ends};
use crate::rules::fields::is_tchar;
use crate::rules::{host, target};

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    HeadTooLarge,
    TooManyFields,
    TargetTooLong,
    EmptyLines,
    LineEnd,
    RequestLine,
    Method,
    MethodCase,
    MethodTooLong,
    Connect,
    Trace,
    Version,
    Target(target::Flaw),
    Asterisk,
    Fold,
    FieldName,
    FieldValue,
    NoHost,
    ManyHosts,
    Host(host::Flaw),
    HostsDisagree,
    ContentLength,
    ContentLengthRepeated,
    TransferEncoding,
    TransferEncodingRepeated,
    TransferEncodingUnknown,
    TransferEncodingOn10,
    LengthAndTransferEncoding,
    Expect,
}

impl Reject {
    /// The status to answer with; 405 goes with [`ALLOW`].
    pub fn status(self) -> u16 {
        match self {
            Reject::Connect | Reject::Trace => 405,
            Reject::TargetTooLong => 414,
            Reject::Expect => 417,
            Reject::HeadTooLarge | Reject::TooManyFields => 431,
            Reject::MethodTooLong | Reject::TransferEncodingUnknown => 501,
            _ => 400,
        }
    }

    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            Reject::HeadTooLarge => "the request's head is too large",
            Reject::TooManyFields => "the request has too many fields",
            Reject::TargetTooLong => "the request target is too long",
            Reject::EmptyLines => "more than one empty line precedes the request",
            Reject::LineEnd => "a line of the head does not end in CRLF",
            Reject::RequestLine => {
                "the request line is not a method, a target and a version, one space between"
            }
            Reject::Method => "the method is not a token",
            Reject::MethodCase => "the method is not in capitals",
            Reject::MethodTooLong => "the method is longer than any known one",
            Reject::Connect => "this is not a forward proxy: CONNECT is not served",
            Reject::Trace => "TRACE is not served",
            Reject::Version => "the version is neither HTTP/1.0 nor HTTP/1.1",
            Reject::Target(flaw) => flaw.why(),
            Reject::Asterisk => "the target \"*\" is for OPTIONS only",
            Reject::Fold => "a field is folded over lines",
            Reject::FieldName => "a field name is malformed",
            Reject::FieldValue => "a field value has a control character",
            Reject::NoHost => "the Host field is missing",
            Reject::ManyHosts => "the Host field is repeated",
            Reject::Host(flaw) => flaw.why(),
            Reject::HostsDisagree => "the target and the Host field name different hosts",
            Reject::ContentLength => "Content-Length is not a number",
            Reject::ContentLengthRepeated => "Content-Length is repeated",
            Reject::TransferEncoding => "Transfer-Encoding does not end in chunked, once",
            Reject::TransferEncodingRepeated => "Transfer-Encoding is repeated",
            Reject::TransferEncodingUnknown => "no transfer coding but chunked is understood",
            Reject::TransferEncodingOn10 => "HTTP/1.0 has no Transfer-Encoding",
            Reject::LengthAndTransferEncoding => {
                "Content-Length and Transfer-Encoding exclude each other"
            }
            Reject::Expect => "no expectation but 100-continue is understood",
        }
    }
}

/// The `Allow` value of every 405 to a [`Reject`].
pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What was wrong with a head that could not be read.
#[cold]
pub(super) fn cause(error: Error, head: &[u8], limits: &HeadLimits) -> Reject {
    if check_line_ends(head).is_err() {
        return Reject::LineEnd;
    }
    let mut lines = head.split(|&b| b == b'\n');
    let first = lines.next().unwrap_or_default();
    let first = first.strip_suffix(b"\r").unwrap_or(first);
    match error {
        Error::TooManyHeaders => Reject::TooManyFields,
        Error::NewLine | Error::Status => Reject::LineEnd,
        Error::HeaderName if lines.any(|line| matches!(line.first(), Some(b' ' | b'\t'))) => {
            Reject::Fold
        }
        Error::HeaderName => Reject::FieldName,
        Error::HeaderValue => Reject::FieldValue,
        Error::Version | Error::Token => {
            let mut parts = first.split(|&b| b == b' ');
            let method = parts.next().unwrap_or_default();
            let target = parts.next();
            let version = parts.next();
            match (target, version) {
                _ if method.is_empty() || !method.iter().all(|&b| is_tchar(b)) => Reject::Method,
                (Some(target), _) if target.len() > limits.target_bytes => Reject::TargetTooLong,
                (Some(b""), _) | (_, None) => Reject::RequestLine,
                (Some(target), _) if !target.iter().all(u8::is_ascii_graphic) => {
                    Reject::Target(target::Flaw::Byte)
                }
                (_, Some(version)) if version.starts_with(b"HTTP/") && parts.next().is_none() => {
                    Reject::Version
                }
                _ => Reject::RequestLine,
            }
        }
    }
}

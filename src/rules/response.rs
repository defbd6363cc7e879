//! An origin's HTTP/1 head, judged on its own bytes before any of it is
//! believed (RFC 9112 §4 to §6). Whatever two readers might frame in two ways is
//! refused, so it is neither cached nor passed on.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use super::chunked::{Coding, coding};
use super::fields::{digits, is_tchar, is_value_byte, trim};

/// Bytes of a head, its final empty line included.
pub const MAX_HEAD: usize = 64 * 1024;
/// Field lines of a head.
pub const MAX_FIELDS: usize = 128;

/// Why an origin's head is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    TooLarge,
    TooManyFields,
    Unfinished,
    StatusLine,
    Status,
    LineEnd,
    Fold,
    FieldName,
    FieldValue,
    ContentLength,
    ContentLengthRepeated,
    TransferEncoding,
    TransferEncodingRepeated,
    TransferEncodingOn10,
    LengthAndTransferEncoding,
    BodyForbidden,
}

impl Malformed {
    /// One line for people and the log.
    pub fn why(self) -> &'static str {
        match self {
            Malformed::TooLarge => "the origin's head is over 64 KiB",
            Malformed::TooManyFields => "the origin's head has more than 128 fields",
            Malformed::Unfinished => "the origin's head does not end in an empty line",
            Malformed::StatusLine => "the origin's status line is not HTTP/1",
            Malformed::Status => "the origin's status is not a number from 100 to 599",
            Malformed::LineEnd => "a line of the origin's head does not end in CRLF",
            Malformed::Fold => "a field of the origin's head is folded over lines",
            Malformed::FieldName => "a field name of the origin's head is malformed",
            Malformed::FieldValue => "a field value of the origin's head has a control character",
            Malformed::ContentLength => "the origin's Content-Length is not a number",
            Malformed::ContentLengthRepeated => "the origin's Content-Length is repeated",
            Malformed::TransferEncoding => "the origin's Transfer-Encoding is not chunked",
            Malformed::TransferEncodingRepeated => "the origin's Transfer-Encoding is repeated",
            Malformed::TransferEncodingOn10 => "the origin sends Transfer-Encoding with HTTP/1.0",
            Malformed::LengthAndTransferEncoding => {
                "the origin sends both Content-Length and Transfer-Encoding"
            }
            Malformed::BodyForbidden => "the origin announces a body where the status allows none",
        }
    }
}

/// Judges the bytes of one head, from the status line through the empty line.
pub fn check_head(raw: &[u8]) -> Result<(), Malformed> {
    if raw.len() > MAX_HEAD {
        return Err(Malformed::TooLarge);
    }
    if !raw.ends_with(b"\r\n\r\n") {
        return Err(Malformed::Unfinished);
    }
    let mut lines = raw[..raw.len() - 2]
        .split_inclusive(|&b| b == b'\n')
        .map(|line| {
            let line = line.strip_suffix(b"\r\n").ok_or(Malformed::LineEnd)?;
            match line.contains(&b'\r') {
                true => Err(Malformed::LineEnd),
                false => Ok(line),
            }
        });
    let first = lines.next().unwrap_or(Err(Malformed::Unfinished))?;
    let (version, status) = status_line(first)?;
    let mut framing = Framing::default();
    for (count, line) in lines.enumerate() {
        if count == MAX_FIELDS {
            return Err(Malformed::TooManyFields);
        }
        let (name, value) = field_line(line?)?;
        framing.learn(name, value)?;
    }
    framing.judge(version, status)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn status_line(line: &[u8]) -> Result<(Version, u16), Malformed> {
    let (version, rest) = match line.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => (Version::Http11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::Http10, rest),
        _ => return Err(Malformed::StatusLine),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(Malformed::Status)?;
    let status = digits(code)
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (100..=599).contains(code))
        .ok_or(Malformed::Status)?;
    match reason {
        [] => Ok((version, status)),
        [b' ', reason @ ..] if reason.iter().all(|&b| is_value_byte(b)) => Ok((version, status)),
        [b' ', ..] => Err(Malformed::StatusLine),
        _ => Err(Malformed::Status),
    }
}

fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Malformed::Fold);
    }
    let colon = memchr::memchr(b':', line).ok_or(Malformed::FieldName)?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    if name.is_empty() || !name.iter().all(|&b| is_tchar(b)) {
        return Err(Malformed::FieldName);
    }
    if !value.iter().all(|&b| is_value_byte(b)) {
        return Err(Malformed::FieldValue);
    }
    Ok((name, value))
}

#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn learn(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = digits(value).ok_or(Malformed::ContentLength)?;
            if self.length.replace(length).is_some() {
                return Err(Malformed::ContentLengthRepeated);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if coding(value) != Coding::Chunked {
                return Err(Malformed::TransferEncoding);
            }
            if std::mem::replace(&mut self.chunked, true) {
                return Err(Malformed::TransferEncodingRepeated);
            }
        }
        Ok(())
    }

    fn judge(self, version: Version, status: u16) -> Result<(), Malformed> {
        let bodiless = status < 200 || status == 204;
        match self {
            Framing { chunked: true, .. } if version == Version::Http10 => {
                Err(Malformed::TransferEncodingOn10)
            }
            Framing {
                chunked: true,
                length: Some(_),
            } => Err(Malformed::LengthAndTransferEncoding),
            Framing { chunked, length } if bodiless && (chunked || length.unwrap_or(0) > 0) => {
                Err(Malformed::BodyForbidden)
            }
            _ => Ok(()),
        }
    }
}

/// How the end of an answer's body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFraming {
    /// The request or the status forbids a body.
    None,
    /// So many bytes, 0 among them.
    Length(u64),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection, or of the stream on HTTP/2.
    Close,
}

/// The framing of an answer whose head passed [`check_head`], or came by HTTP/2.
/// `head_request`: whether the request was HEAD.
pub fn framing(status: u16, head_request: bool, fields: &HeaderMap) -> BodyFraming {
    if head_request || status < 200 || matches!(status, 204 | 304) {
        return BodyFraming::None;
    }
    if fields.contains_key(TRANSFER_ENCODING) {
        return BodyFraming::Chunked;
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    match (
        lengths.next().and_then(|value| digits(value.as_bytes())),
        lengths.next(),
    ) {
        (Some(length), None) => BodyFraming::Length(length),
        _ => BodyFraming::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn fields(lines: &str) -> Result<(), Malformed> {
        check_head(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes())
    }

    #[test]
    fn c22_heads_that_stand() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.0 599 \r\n\r\n",
            "HTTP/1.1 404 Nicht gefunden \u{fc}\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA:b\r\nC: \t d \r\nE:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            assert_eq!(check_head(head.as_bytes()), Ok(()), "{head:?}");
        }
    }

    #[test]
    fn c22_status_lines() {
        use Malformed::{LineEnd, Status, StatusLine, Unfinished};
        for (head, cause) in [
            ("", Unfinished),
            ("\r\n", Unfinished),
            ("HTTP/1.1 200 OK\r\n", Unfinished),
            ("HTTP/1.1 200 OK\n\n", Unfinished),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", StatusLine),
            ("hello\r\n\r\n", StatusLine),
            ("HTTP/0.9 200 OK\r\n\r\n", StatusLine),
            ("HTTP/2 200 OK\r\n\r\n", StatusLine),
            ("HTTP/1.2 200 OK\r\n\r\n", StatusLine),
            ("http/1.1 200 OK\r\n\r\n", StatusLine),
            ("HTTP/1.1\t200 OK\r\n\r\n", StatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Status),
            ("HTTP/1.1 099 Low\r\n\r\n", Status),
            ("HTTP/1.1 000 Low\r\n\r\n", Status),
            ("HTTP/1.1 600 High\r\n\r\n", Status),
            ("HTTP/1.1 abc OK\r\n\r\n", Status),
            ("HTTP/1.1 20 OK\r\n\r\n", Status),
            ("HTTP/1.1 2000 OK\r\n\r\n", Status),
            ("HTTP/1.1 200OK\r\n\r\n", Status),
            ("HTTP/1.1 +20 OK\r\n\r\n", Status),
            ("HTTP/1.1 \r\n\r\n", Status),
            ("HTTP/1.1 200 O\0K\r\n\r\n", StatusLine),
            ("HTTP/1.1 200 O\rK\r\n\r\n", LineEnd),
            ("HTTP/1.1 200 OK\nA: b\r\n\r\n", LineEnd),
        ] {
            assert_eq!(check_head(head.as_bytes()), Err(cause), "{head:?}");
        }
    }

    #[test]
    fn c22_field_lines() {
        use Malformed::{FieldName, FieldValue, Fold, LineEnd};
        for (lines, cause) in [
            ("A: b\nC: d\r\n", LineEnd),
            ("A: b\r\n\nC: d\r\n", LineEnd),
            ("A: b\rC: d\r\n", LineEnd),
            ("A: b\r\r\n", LineEnd),
            ("A: b\r\n c\r\n", Fold),
            ("A: b\r\n\tc\r\n", Fold),
            (" A: b\r\n", Fold),
            ("A : b\r\n", FieldName),
            ("Content-Length : 5\r\n", FieldName),
            (": b\r\n", FieldName),
            ("Ab\r\n", FieldName),
            ("A\u{e9}: b\r\n", FieldName),
            ("A\0: b\r\n", FieldName),
            ("\r\n", FieldName),
            ("A: b\r\n\r\nB: c\r\n", FieldName),
            ("A: \0\r\n", FieldValue),
            ("A: b\u{1b}c\r\n", FieldValue),
            ("A: \u{b}\r\n", FieldValue),
            ("A: \u{7f}\r\n", FieldValue),
        ] {
            assert_eq!(fields(lines), Err(cause), "{lines:?}");
        }
    }

    #[test]
    fn c22_lengths_and_codings() {
        use Malformed as M;
        for (lines, cause) in [
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                M::ContentLengthRepeated,
            ),
            (
                "Content-Length: 5\r\ncontent-length: 6\r\n",
                M::ContentLengthRepeated,
            ),
            ("Content-Length: 5, 5\r\n", M::ContentLength),
            ("Content-Length: -1\r\n", M::ContentLength),
            ("Content-Length: +1\r\n", M::ContentLength),
            ("Content-Length: 0x1\r\n", M::ContentLength),
            ("Content-Length: 1 2\r\n", M::ContentLength),
            ("Content-Length:\r\n", M::ContentLength),
            (
                "Content-Length: 100000000000000000000000\r\n",
                M::ContentLength,
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", M::TransferEncoding),
            ("Transfer-Encoding: identity\r\n", M::TransferEncoding),
            (
                "Transfer-Encoding: chunked, chunked\r\n",
                M::TransferEncoding,
            ),
            ("Transfer-Encoding:\r\n", M::TransferEncoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                M::TransferEncodingRepeated,
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                M::LengthAndTransferEncoding,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                M::LengthAndTransferEncoding,
            ),
        ] {
            assert_eq!(fields(lines), Err(cause), "{lines:?}");
        }
        for (head, cause) in [
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                M::TransferEncodingOn10,
            ),
            (
                "HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n",
                M::BodyForbidden,
            ),
            (
                "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
                M::BodyForbidden,
            ),
            (
                "HTTP/1.1 103 Hints\r\nContent-Length: 1\r\n\r\n",
                M::BodyForbidden,
            ),
            (
                "HTTP/1.1 101 Go\r\nTransfer-Encoding: chunked\r\n\r\n",
                M::BodyForbidden,
            ),
        ] {
            assert_eq!(check_head(head.as_bytes()), Err(cause), "{head:?}");
        }
    }

    #[test]
    fn c79_sizes() {
        assert_eq!(fields(&"A: b\r\n".repeat(MAX_FIELDS)), Ok(()));
        assert_eq!(
            fields(&"A: b\r\n".repeat(MAX_FIELDS + 1)),
            Err(Malformed::TooManyFields)
        );
        let long = |n: usize| format!("A: {}\r\n", "b".repeat(n - 24));
        assert_eq!(fields(&long(MAX_HEAD)), Ok(()));
        assert_eq!(fields(&long(MAX_HEAD + 1)), Err(Malformed::TooLarge));
    }

    #[test]
    fn rfc9112_6_3_framing() {
        let of = |status, head, lines: &[(&'static str, &'static str)]| {
            let mut fields = HeaderMap::new();
            for (name, value) in lines {
                fields.append(*name, HeaderValue::from_static(value));
            }
            framing(status, head, &fields)
        };
        let length = &[("content-length", "5")];
        let chunked = &[("transfer-encoding", "chunked")];
        assert_eq!(of(200, false, length), BodyFraming::Length(5));
        assert_eq!(
            of(200, false, &[("content-length", "0")]),
            BodyFraming::Length(0)
        );
        assert_eq!(of(200, false, chunked), BodyFraming::Chunked);
        assert_eq!(of(200, false, &[]), BodyFraming::Close);
        assert_eq!(of(200, true, length), BodyFraming::None);
        assert_eq!(of(304, false, length), BodyFraming::None);
        assert_eq!(of(204, false, &[]), BodyFraming::None);
        assert_eq!(of(103, false, &[]), BodyFraming::None);
        assert_eq!(of(200, false, &[length[0], length[0]]), BodyFraming::Close);
    }

    proptest! {
        #[test]
        fn checking_never_panics(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_head(&raw);
        }

        #[test]
        fn no_single_byte_makes_a_second_line(byte: u8, at in 0usize..37) {
            let mut head = *b"HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n";
            head[at] = byte;
            if check_head(&head).is_ok() {
                prop_assert!(!head[..head.len() - 4].split(|&b| b == b'\n').any(|l| l.is_empty()));
                prop_assert_eq!(head.iter().filter(|&&b| b == b'\n').count(), 3);
                prop_assert_eq!(head.iter().filter(|&&b| b == b'\r').count(), 3);
            }
        }
    }
}

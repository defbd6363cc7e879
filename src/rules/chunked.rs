//! Chunked bodies (RFC 9112 §7.1), read strictly and in any pieces.
//!
//! What has had two readings in the field has none here: a bare LF, a sign or
//! `0x` before a size, blanks after it, a line end in a quoted extension. Sizes,
//! extensions and trailers are bounded; the last two are dropped.

use std::ops::Range;

use super::fields::{is_tchar, is_value_byte, members};

/// What the value of the one `Transfer-Encoding` line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// `chunked`, alone and once.
    Chunked,
    /// Codings of which the last is `chunked`, and others that are not known here.
    Unknown,
    /// Anything else: the message has no certain end.
    Malformed,
}

/// Judges a `Transfer-Encoding` value (RFC 9112 §6.1).
pub fn coding(value: &[u8]) -> Coding {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Coding::Chunked;
    }
    let listed = members(value).count() == value.split(|&b| b == b',').count();
    let tokens = members(value).all(|m| m.iter().all(|&b| is_tchar(b)));
    let chunked = members(value)
        .filter(|m| m.eq_ignore_ascii_case(b"chunked"))
        .count();
    let last = members(value)
        .last()
        .is_some_and(|m| m.eq_ignore_ascii_case(b"chunked"));
    if listed && tokens && last && chunked == 1 {
        Coding::Unknown
    } else {
        Coding::Malformed
    }
}

/// Why a chunked body is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkError {
    Size,
    SizeTooLong,
    Extension,
    ExtensionsTooLong,
    LineEnd,
    DataEnd,
    Trailer,
    TrailersTooLong,
}

impl ChunkError {
    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            ChunkError::Size => "a chunk's size is not hexadecimal",
            ChunkError::SizeTooLong => "a chunk's size has more than 16 digits",
            ChunkError::Extension => "a chunk extension is malformed",
            ChunkError::ExtensionsTooLong => "chunk extensions exceed 4 KiB",
            ChunkError::LineEnd => "a line of the chunked body does not end in CRLF",
            ChunkError::DataEnd => "a chunk is longer than its size",
            ChunkError::Trailer => "a trailer field is malformed",
            ChunkError::TrailersTooLong => "trailer fields exceed 8 KiB",
        }
    }
}

/// Bytes of extensions that one body may carry.
pub const MAX_EXTENSIONS: usize = 4 * 1024;
/// Bytes of trailers, line ends included, that one body may carry.
pub const MAX_TRAILERS: usize = 8 * 1024;
const MAX_DIGITS: u8 = 16;

/// What one call of [`Decoder::decode`] came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Where in the input body bytes lie; may be empty.
    pub data: Range<usize>,
    /// Whether the body has ended; what follows `consumed` is not part of it.
    pub done: bool,
}

/// Reads one chunked body. After an error the message's end is unknown: the
/// connection must close.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
    trailers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Size { digits: u8, size: u64 },
    Extension { size: u64, quote: Quote },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quote {
    Outside,
    Inside,
    Escaped,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            state: START,
            extensions: 0,
            trailers: 0,
        }
    }
}

const START: State = State::Size { digits: 0, size: 0 };

impl Decoder {
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on to the next body bytes, the end of the body or of the input. Call
    /// again with what is left until `consumed` is the whole input or `done`.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Done => break,
                State::Data { left } => {
                    let here = input.len() - at;
                    let take = usize::try_from(left).map_or(here, |left| left.min(here));
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataCr
                    } else {
                        State::Data { left }
                    };
                    return Ok(Step {
                        consumed: at + take,
                        data: at..at + take,
                        done: false,
                    });
                }
                _ => self.state = self.frame(byte)?,
            }
            at += 1;
        }
        Ok(Step {
            consumed: at,
            data: at..at,
            done: self.is_done(),
        })
    }

    /// The state after one byte that is not body.
    fn frame(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size { digits, size } => match char::from(byte).to_digit(16) {
                Some(_) if digits == MAX_DIGITS => Err(ChunkError::SizeTooLong),
                Some(digit) => Ok(State::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                }),
                None if digits == 0 => Err(ChunkError::Size),
                None => match byte {
                    b'\r' => Ok(State::SizeLf { size }),
                    b'\n' => Err(ChunkError::LineEnd),
                    b';' => self.extension(size, Quote::Outside),
                    _ => Err(ChunkError::Size),
                },
            },
            State::Extension { size, quote } => match (quote, byte) {
                (Quote::Outside, b'\r') => Ok(State::SizeLf { size }),
                (_, b'\n') => Err(ChunkError::LineEnd),
                (Quote::Outside, b'"') => self.extension(size, Quote::Inside),
                (Quote::Outside, b';' | b'=' | b' ' | b'\t') => self.extension(size, quote),
                (Quote::Outside, _) if is_tchar(byte) => self.extension(size, quote),
                (Quote::Inside, b'"') => self.extension(size, Quote::Outside),
                (Quote::Inside, b'\\') => self.extension(size, Quote::Escaped),
                (Quote::Inside | Quote::Escaped, _) if is_value_byte(byte) => {
                    self.extension(size, Quote::Inside)
                }
                _ => Err(ChunkError::Extension),
            },
            State::SizeLf { size } => match byte {
                b'\n' if size == 0 => Ok(State::TrailerStart),
                b'\n' => Ok(State::Data { left: size }),
                _ => Err(ChunkError::LineEnd),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(START),
            State::DataCr | State::DataLf => Err(ChunkError::DataEnd),
            State::TrailerStart if byte == b'\r' => Ok(State::LastLf),
            State::TrailerStart if is_tchar(byte) => self.trailer(State::TrailerName),
            State::TrailerName if byte == b':' => self.trailer(State::TrailerValue),
            State::TrailerName if is_tchar(byte) => self.trailer(State::TrailerName),
            State::TrailerValue if byte == b'\r' => self.trailer(State::TrailerLf),
            State::TrailerValue if is_value_byte(byte) => self.trailer(State::TrailerValue),
            State::TrailerLf if byte == b'\n' => self.trailer(State::TrailerStart),
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::TrailerLf | State::LastLf => Err(ChunkError::LineEnd),
            _ if byte == b'\n' => Err(ChunkError::LineEnd),
            _ => Err(ChunkError::Trailer),
        }
    }

    fn extension(&mut self, size: u64, quote: Quote) -> Result<State, ChunkError> {
        self.extensions += 1;
        match self.extensions > MAX_EXTENSIONS {
            true => Err(ChunkError::ExtensionsTooLong),
            false => Ok(State::Extension { size, quote }),
        }
    }

    fn trailer(&mut self, next: State) -> Result<State, ChunkError> {
        self.trailers += 1;
        match self.trailers > MAX_TRAILERS {
            true => Err(ChunkError::TrailersTooLong),
            false => Ok(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body and the bytes used, or the error; `None` if it is not whole.
    type Outcome = Result<Option<(Vec<u8>, usize)>, ChunkError>;

    fn decode<'i>(pieces: impl Iterator<Item = &'i [u8]>) -> Outcome {
        let (mut decoder, mut body, mut used) = (Decoder::new(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() && !decoder.is_done() {
                let step = decoder.decode(rest)?;
                assert!(step.consumed > 0 && step.data.end <= step.consumed);
                body.extend_from_slice(&rest[step.data.clone()]);
                used += step.consumed;
                rest = &rest[step.consumed..];
                assert_eq!(step.done, decoder.is_done());
            }
        }
        Ok(decoder.is_done().then_some((body, used)))
    }

    fn whole(input: &[u8]) -> Outcome {
        decode(std::iter::once(input))
    }

    #[test]
    fn c04_transfer_codings() {
        for (value, verdict) in [
            ("chunked", Coding::Chunked),
            ("Chunked", Coding::Chunked),
            ("gzip, chunked", Coding::Unknown),
            ("x,chunked", Coding::Unknown),
            ("identity, chunked", Coding::Unknown),
            ("", Coding::Malformed),
            ("identity", Coding::Malformed),
            ("gzip", Coding::Malformed),
            ("chunked, gzip", Coding::Malformed),
            ("chunked, chunked", Coding::Malformed),
            ("chunked,gzip,chunked", Coding::Malformed),
            (",chunked", Coding::Malformed),
            ("chunked,", Coding::Malformed),
            ("gzip,,chunked", Coding::Malformed),
            ("\"chunked\"", Coding::Malformed),
            ("chunked;q=1", Coding::Malformed),
            ("gzip;q=1, chunked", Coding::Malformed),
            ("chunked\u{b}", Coding::Malformed),
            ("chunke", Coding::Malformed),
            ("chunked chunked", Coding::Malformed),
        ] {
            assert_eq!(coding(value.as_bytes()), verdict, "{value:?}");
        }
    }

    #[test]
    fn c06_bodies_that_are_whole() {
        for (input, body) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("005\r\nhello\r\n000\r\n\r\n", "hello"),
            ("A\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n", "0123456789\n"),
            ("1;a=b;c=\"d\\\";e\" \t;f\r\nx\r\n0;z\r\n\r\n", "x"),
            ("0\r\nX-A: b\r\nX-C:\r\n\r\n", ""),
            ("0000000000000001\r\nx\r\n0\r\n\r\n", "x"),
        ] {
            let outcome = whole(input.as_bytes());
            assert_eq!(outcome, Ok(Some((body.into(), input.len()))), "{input:?}");
            let more = format!("{input}GET / HTTP/1.1\r\n");
            assert_eq!(whole(more.as_bytes()), outcome);
            assert_eq!(whole(&input.as_bytes()[..input.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn c06_bodies_that_have_two_readings() {
        use ChunkError as E;
        for (input, error) in [
            ("5\nhello\r\n0\r\n\r\n", E::LineEnd),
            ("5\r\nhello\n0\r\n\r\n", E::DataEnd),
            ("5\r\nhello\r\n0\n\r\n", E::LineEnd),
            ("5\r\nhello\r\n0\r\n\n", E::LineEnd),
            ("5\rhello", E::LineEnd),
            ("5\r\rhello", E::LineEnd),
            ("0x5\r\nhello", E::Size),
            ("+5\r\nhello", E::Size),
            ("-5\r\nhello", E::Size),
            (" 5\r\nhello", E::Size),
            ("5 \r\nhello", E::Size),
            ("5 ;a\r\nhello", E::Size),
            ("5\t\r\nhello", E::Size),
            ("5_0\r\nhello", E::Size),
            ("\r\nhello", E::Size),
            (";a\r\nhello", E::Size),
            ("g\r\n", E::Size),
            ("5\r\nhello0\r\n\r\n", E::DataEnd),
            ("5\r\nhello!\r\n0\r\n\r\n", E::DataEnd),
            ("5\r\nhello\r0\r\n\r\n", E::DataEnd),
            ("5\r\nhello\r\n\r\n0\r\n\r\n", E::Size),
            ("10000000000000005\r\nhello", E::SizeTooLong),
            ("00000000000000005\r\nhello", E::SizeTooLong),
            ("5;a\nhello", E::LineEnd),
            ("5;a=\"\r\nhello", E::Extension),
            ("5;a=\"\n\"\r\nhello", E::LineEnd),
            ("5;a=\"\\\r\n\"\r\nhello", E::Extension),
            ("5;a\0\r\nhello", E::Extension),
            ("5;a\rb\r\nhello", E::LineEnd),
            ("5;a\u{7f}\r\nhello", E::Extension),
            ("5;\u{e9}\r\nhello", E::Extension),
            ("0\r\nX\r\n\r\n", E::Trailer),
            ("0\r\n: x\r\n\r\n", E::Trailer),
            ("0\r\nX : y\r\n\r\n", E::Trailer),
            ("0\r\nX: y\n\r\n", E::LineEnd),
            ("0\r\nX: \0\r\n\r\n", E::Trailer),
            ("0\r\nX: y\r\n z\r\n\r\n", E::Trailer),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", E::Trailer),
            ("0\r\n\rX", E::LineEnd),
        ] {
            assert_eq!(whole(input.as_bytes()), Err(error), "{input:?}");
        }
    }

    #[test]
    fn c06_sizes_are_never_cut_to_32_bits() {
        for size in ["100000005", "ffffffffffffffff"] {
            let mut decoder = Decoder::new();
            let input = format!("{size}\r\nhello\r\n0\r\n\r\n");
            let step = decoder.decode(input.as_bytes()).unwrap();
            assert_eq!(step.consumed, input.len(), "all of it is the chunk's");
            assert_eq!(step.data, size.len() + 2..input.len());
        }
    }

    #[test]
    fn c06_extensions_are_bounded_over_the_whole_body() {
        let long = |n: usize| format!("1;{}\r\nx\r\n", "a".repeat(n - 1));
        let fits = long(MAX_EXTENSIONS / 2).repeat(2) + "0\r\n\r\n";
        assert_eq!(
            whole(fits.as_bytes()),
            Ok(Some((b"xx".to_vec(), fits.len())))
        );
        let over = long(MAX_EXTENSIONS / 2).repeat(2) + "0;\r\n\r\n";
        assert_eq!(whole(over.as_bytes()), Err(ChunkError::ExtensionsTooLong));
    }

    #[test]
    fn c07_trailers_are_bounded() {
        let trailer = |n: usize| format!("0\r\nX:{}\r\n\r\n", "a".repeat(n - 4));
        let fits = trailer(MAX_TRAILERS);
        assert_eq!(whole(fits.as_bytes()), Ok(Some((vec![], fits.len()))));
        let over = trailer(MAX_TRAILERS + 1);
        assert_eq!(whole(over.as_bytes()), Err(ChunkError::TrailersTooLong));
    }

    /// The grammar once more, over a whole input and by lines.
    fn reference(mut input: &[u8]) -> Option<(Vec<u8>, usize)> {
        let length = input.len();
        let mut line = || -> Option<Vec<u8>> {
            let end = input.windows(2).position(|pair| pair == b"\r\n")?;
            let (line, rest) = (input[..end].to_vec(), &input[end + 2..]);
            input = rest;
            Some(line)
        };
        let mut body = Vec::new();
        loop {
            let head = String::from_utf8(line()?).ok()?;
            let digits = head.split(';').next()?;
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let size = u64::from_str_radix(digits, 16).ok()?;
            if size == 0 {
                break;
            }
            let mut left = size;
            while left > 0 {
                // A chunk may hold line ends: take whole lines until it is full.
                let part = line()?;
                body.extend_from_slice(&part);
                left = left.checked_sub(part.len() as u64)?;
                if left > 0 {
                    body.extend_from_slice(b"\r\n");
                    left = left.checked_sub(2)?;
                    if left == 0 && !line()?.is_empty() {
                        return None;
                    }
                }
            }
        }
        while !line()?.is_empty() {}
        Some((body, length - input.len()))
    }

    fn encoded() -> impl Strategy<Value = Vec<u8>> {
        let chunk = (
            prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n')], 1..20),
            "(;[a-z]{1,3}(=[a-z]{1,3})?)?",
        );
        (
            prop::collection::vec(chunk, 0..5),
            "(X-[a-z]: [a-z]{0,5}\r\n){0,2}",
        )
            .prop_map(|(chunks, trailers)| {
                let mut out = Vec::new();
                for (data, extension) in chunks {
                    out.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
                    out.extend_from_slice(&data);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(format!("0\r\n{trailers}\r\nrest").as_bytes());
                out
            })
    }

    proptest! {
        #[test]
        fn any_split_reads_as_the_whole_and_as_the_reference(input in encoded(), size in 1usize..9) {
            let outcome = whole(&input).unwrap();
            prop_assert!(outcome.is_some());
            prop_assert_eq!(&outcome, &reference(&input));
            prop_assert_eq!(decode(input.chunks(size)), Ok(outcome));
        }

        #[test]
        fn damage_is_seen_alike_in_any_split(input in encoded(), at: prop::sample::Index, byte: u8, size in 1usize..9) {
            let mut input = input;
            let at = at.index(input.len());
            input[at] = byte;
            prop_assert_eq!(decode(input.chunks(size)), whole(&input));
        }

        #[test]
        fn decoding_never_panics(input in "[0-9a-f;=\"\\\\\r\n:x ]{0,40}") {
            let _ = whole(input.as_bytes());
        }
    }
}

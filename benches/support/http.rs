//! An HTTP/1.1 answer as the programs' clients read it: fed as it arrives, checked byte by byte.

use super::noise::Body;

/// How an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Complete, and every byte the expected one.
    Whole,
    /// Complete by its framing, but other bytes or another length than expected.
    Wrong,
    /// The connection ended first.
    Broken,
}

enum Framing {
    Length(u64),
    Chunked(Chunk),
    Close,
}

#[derive(Clone, Copy)]
enum Chunk {
    Size(u64),
    Data(u64),
    AfterData,
    Trailer { line_is_empty: bool },
}

/// One answer, being read.
pub struct Response {
    /// The head as received, with its empty line once complete.
    pub head: Vec<u8>,
    pub status: u16,
    pub body_bytes: u64,
    expected: Option<Body>,
    framing: Option<Framing>,
    right: bool,
    end: Option<End>,
}

impl Response {
    /// `expected` is compared when the status is 200; without it any body is right.
    pub fn new(expected: Option<Body>) -> Response {
        Response {
            head: Vec::new(),
            status: 0,
            body_bytes: 0,
            expected,
            framing: None,
            right: true,
            end: None,
        }
    }

    /// Takes what arrived; the end, once there is one.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Option<End> {
        if self.framing.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let from = before.saturating_sub(3);
            let found = self.head[from..]
                .windows(4)
                .position(|w| w == b"\r\n\r\n")?;
            let head_len = from + found + 4;
            bytes = &bytes[head_len - before..];
            self.head.truncate(head_len);
            self.read_head();
        }
        self.body(bytes);
        self.end
    }

    /// The connection ended.
    pub fn closed(&mut self) -> End {
        let done = self.end.unwrap_or(match self.framing {
            Some(Framing::Close) => self.verdict(),
            _ => End::Broken,
        });
        self.end = Some(done);
        done
    }

    /// The value of a field, the first line of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    fn read_head(&mut self) {
        let digits = self.head.get(9..12).unwrap_or_default();
        self.status = str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok())
            .unwrap_or(0);
        if self.status != 200 {
            self.expected = None;
        }
        let chunked = self
            .field("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = self.field("content-length").and_then(|v| v.parse().ok());
        self.framing = Some(match length {
            _ if self.status == 304 || self.status == 204 => Framing::Length(0),
            _ if chunked => Framing::Chunked(Chunk::Size(0)),
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        });
    }

    fn body(&mut self, mut bytes: &[u8]) {
        loop {
            match &mut self.framing {
                Some(Framing::Length(left)) => {
                    let take = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= take as u64;
                    let done = *left == 0;
                    self.content(&bytes[..take]);
                    if done {
                        self.right &= take == bytes.len();
                        self.end = Some(self.verdict());
                    }
                    return;
                }
                Some(Framing::Chunked(chunk)) => {
                    let Some(&byte) = bytes.first() else { return };
                    let state = *chunk;
                    if let Chunk::Data(left) = state {
                        let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        *chunk = match left - take as u64 {
                            0 => Chunk::AfterData,
                            left => Chunk::Data(left),
                        };
                        self.content(&bytes[..take]);
                        bytes = &bytes[take..];
                        continue;
                    }
                    bytes = &bytes[1..];
                    match after(state, byte) {
                        Some(next) => *chunk = next,
                        None => {
                            self.end = Some(self.verdict());
                            return;
                        }
                    }
                }
                Some(Framing::Close) | None => {
                    self.content(bytes);
                    return;
                }
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) {
        if let Some(body) = &self.expected {
            self.right &= body.agrees(self.body_bytes as usize, bytes);
        }
        self.body_bytes += bytes.len() as u64;
    }

    /// Whether all bytes so far were the expected ones.
    pub fn right_so_far(&self) -> bool {
        self.right
    }

    fn verdict(&self) -> End {
        let length_is_right = self
            .expected
            .is_none_or(|body| body.len as u64 == self.body_bytes);
        if self.right && length_is_right {
            End::Whole
        } else {
            End::Wrong
        }
    }
}

/// One byte of chunk framing; `None` is the end of the message.
fn after(state: Chunk, byte: u8) -> Option<Chunk> {
    Some(match (state, byte) {
        (Chunk::Size(0), b'\n') => Chunk::Trailer {
            line_is_empty: true,
        },
        (Chunk::Size(size), b'\n') => Chunk::Data(size),
        (Chunk::Size(size), digit) => match char::from(digit).to_digit(16) {
            Some(value) => Chunk::Size(size << 4 | u64::from(value)),
            None => Chunk::Size(size),
        },
        (Chunk::AfterData, b'\n') => Chunk::Size(0),
        (
            Chunk::Trailer {
                line_is_empty: true,
            },
            b'\n',
        ) => return None,
        (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer {
            line_is_empty: true,
        },
        (Chunk::Trailer { line_is_empty }, b'\r') => Chunk::Trailer { line_is_empty },
        (Chunk::Trailer { .. }, _) => Chunk::Trailer {
            line_is_empty: false,
        },
        (state, _) => state,
    })
}

/// The value of the first line called `name` in a head.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&b| b == b'\n').find_map(|line| {
        let (own, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        own.eq_ignore_ascii_case(name.as_bytes())
            .then(|| str::from_utf8(value).ok().map(str::trim))?
    })
}

/// A GET as the programs send it.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// Seconds since 1970 as an IMF-fixdate (RFC 9110 §5.6.7).
pub fn date(unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

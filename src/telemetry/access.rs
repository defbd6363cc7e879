//! The access log: a JSON object a line, for every request answered.
//!
//! Whatever a client sent is escaped to printable ASCII and cut at 2 KiB a field (class C60).
//! Authorization and Cookie are never given to it; values of query parameters that the config hides
//! are not written.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use super::ids::RequestId;
use super::labels::CacheResult;
use super::ring::{Line, Ring};
use crate::clock;
use crate::rules::time::Moment;

/// A request that has been answered.
pub struct Access<'a> {
    /// When the answer ended.
    pub at: Moment,
    pub request_id: &'a RequestId,
    /// 32 hex digits, if the request has a trace.
    pub trace_id: Option<&'a str>,
    pub client: &'a Client,
    pub method: &'a str,
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a str>,
    /// Left out of the line when `None`.
    pub user_agent: Option<&'a [u8]>,
    /// The status sent; 0 if none was.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    /// From the whole request head to the last byte sent.
    pub micros: u64,
    pub cache: CacheResult,
    /// A limit that the request was beyond, and what it did. Left out of the line when `None`.
    pub limit: Option<(&'a str, &'a str)>,
    /// The upstream asked for this answer, if one was.
    pub upstream: Option<&'a str>,
    /// Requests made to it.
    pub attempts: u32,
    pub marked: Marked<'a>,
}

/// What lists and rules made of a request; all names are fit for the inside of a JSON string.
#[derive(Clone, Copy, Default)]
pub struct Marked<'a> {
    /// The list that kept its client out.
    pub list: Option<&'a str>,
    /// The rule that decided what was done.
    pub rule: Option<&'a str>,
    /// A bit for each of `names` that it was tagged with.
    pub tags: u32,
    pub names: &'a [Box<str>],
}

/// A client's address, and how the log writes it: rendered once a connection.
#[derive(Clone, Copy)]
pub struct Client {
    pub ip: IpAddr,
    /// Its address in the line, from the quote before it to that of the field behind it.
    text: [u8; Client::LONGEST],
    len: u8,
}

impl Client {
    const BEFORE: &str = "\",\"client\":\"";
    const AFTER: &str = "\",\"method\":\"";
    /// Eight groups of four digits, and the colons between them.
    const LONGEST: usize = 39 + Client::BEFORE.len() + Client::AFTER.len();

    fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl From<IpAddr> for Client {
    fn from(ip: IpAddr) -> Client {
        let mut text = [0; Client::LONGEST];
        let mut room = &mut text[..];
        // Every address but one of IPv4 written as one of IPv6, which is made IPv4 first, has room.
        let (before, after) = (Client::BEFORE, Client::AFTER);
        let _ = write!(room, "{before}{}{after}", ip.to_canonical());
        let len = (Client::LONGEST - room.len()) as u8;
        Client { ip, text, len }
    }
}

/// Writes [`Access`] lines, or nothing.
pub struct AccessLog {
    ring: Option<Arc<Ring>>,
    hidden: Box<[Box<[u8]>]>,
}

impl AccessLog {
    pub fn off() -> AccessLog {
        AccessLog {
            ring: None,
            hidden: Box::default(),
        }
    }

    /// A log to `ring` that hides the values of the query parameters named.
    pub fn new(ring: Arc<Ring>, hide_query: &[String]) -> AccessLog {
        AccessLog {
            ring: Some(ring),
            hidden: hide_query
                .iter()
                .map(|name| name.as_bytes().into())
                .collect(),
        }
    }

    /// Writes one line. It waits for nothing: a line there is no room for is dropped and counted.
    pub fn write(&self, access: &Access) {
        if let Some(ring) = &self.ring {
            ring.push(LINE_MOST, |out| format(access, &self.hidden, out));
        }
    }
}

/// What one field from a client may take in a line.
const FIELD_MOST: usize = 2048;
const SHORT_FIELD_MOST: usize = 64;
/// Path, host and user agent; upstream, method, list, rule, limit and as many tags as there are bits; the rest, with room.
const LINE_MOST: usize = 3 * FIELD_MOST + (5 + 32) * (SHORT_FIELD_MOST + 3) + 1024;
const CUT: &[u8] = b"\\u2026";

fn format(access: &Access, hidden: &[Box<[u8]>], out: &mut Line<'_>) {
    let millis = clock::wall_millis(access.at);
    let mut start = *b"{\"time\":\"0000-00-00T00:00:00.000Z\",\"request_id\":\"0000000000000000";
    start[9..28].copy_from_slice(&second(millis / 1000));
    start[29..32].copy_from_slice(&three_digits(millis % 1000));
    start[49..65].copy_from_slice(access.request_id.as_bytes());
    out.put(&start);
    if let Some(trace) = access.trace_id {
        out.put(b"\",\"trace_id\":\"");
        escape(trace.as_bytes(), SHORT_FIELD_MOST, out);
    }
    out.put(access.client.text());
    escape(access.method.as_bytes(), SHORT_FIELD_MOST, out);
    out.put(b"\",\"host\":\"");
    escape(access.host, FIELD_MOST, out);
    out.put(b"\",\"path\":\"");
    target(access.path, access.query, hidden, out);
    if let Some(agent) = access.user_agent {
        out.put(b"\",\"user_agent\":\"");
        escape(agent, FIELD_MOST, out);
    }
    let mut status = *b"\",\"status\":000,\"bytes\":";
    match access.status {
        100..=999 => {
            status[11..14].copy_from_slice(&three_digits(access.status.into()));
            out.put(&status);
        }
        other => {
            out.put(&status[..11]);
            number(other.into(), out);
            out.put(&status[14..]);
        }
    }
    number(access.bytes, out);
    let mut ms = *b",\"ms\":0.000";
    ms[8..11].copy_from_slice(&three_digits(access.micros % 1000));
    match access.micros / 1000 {
        few @ 0..=9 => {
            ms[6] = b'0' + few as u8;
            out.put(&ms);
        }
        many => {
            out.put(&ms[..6]);
            number(many, out);
            out.put(&ms[7..]);
        }
    }
    if access.marked.tags != 0 {
        tags(&access.marked, out);
    }
    out.put(b",\"cache\":\"");
    out.put(access.cache.label().as_bytes());
    if let Some(list) = access.marked.list {
        out.put(b"\",\"list\":\"");
        out.put(list.as_bytes());
    }
    if let Some(rule) = access.marked.rule {
        out.put(b"\",\"rule\":\"");
        out.put(rule.as_bytes());
    }
    if let Some((limit, action)) = access.limit {
        out.put(b"\",\"limit\":\"");
        escape(limit.as_bytes(), SHORT_FIELD_MOST, out);
        out.put(b"\",\"limit_action\":\"");
        out.put(action.as_bytes());
    }
    if let Some(upstream) = access.upstream {
        out.put(b"\",\"upstream\":\"");
        escape(upstream.as_bytes(), SHORT_FIELD_MOST, out);
    }
    if access.attempts == 0 {
        return out.put(b"\",\"attempts\":0}\n");
    }
    out.put(b"\",\"attempts\":");
    number(access.attempts.into(), out);
    out.put(b"}\n");
}

#[cold]
fn tags(marked: &Marked<'_>, out: &mut Line<'_>) {
    out.put(b",\"tags\":");
    let named = (0..).zip(marked.names);
    let set = named.filter(|(bit, _)| marked.tags & 1u32.checked_shl(*bit).unwrap_or(0) != 0);
    let mut before: &[u8] = b"[\"";
    for (_, name) in set {
        out.put(before);
        out.put(name.as_bytes());
        before = b"\",\"";
    }
    out.put(b"\"]");
}

/// RFC 3339 to the millisecond: `2026-11-21T02:46:15.042Z`.
pub fn stamp(unix_millis: u64) -> String {
    let millis = [
        &second(unix_millis / 1000)[..],
        b".",
        &three_digits(unix_millis % 1000),
        b"Z",
    ];
    String::from_utf8_lossy(&millis.concat()).into_owned()
}

/// A query without the values of `hidden` parameters.
pub fn hide(query: &str, hidden: &[String]) -> String {
    // Some applications split at `;` too, so a secret may stand after one.
    let parts = query.split_inclusive(['&', ';']);
    let shown = parts.map(|part| match part.split_once('=') {
        Some((name, value)) if hidden.iter().any(|hidden| names(name, hidden.as_bytes())) => {
            let end = value.matches(['&', ';']).next().unwrap_or_default();
            format!("{name}=***{end}")
        }
        _ => part.to_owned(),
    });
    shown.collect()
}

/// RFC 3339 up to the second: `2026-11-21T02:46:15`. Made once a second and thread.
fn second(unix: u64) -> [u8; 19] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
    }
    match LAST.get() {
        (at, text) if at == unix => text,
        _ => {
            let text = rfc3339(unix);
            LAST.set((unix, text));
            text
        }
    }
}

fn rfc3339(unix: u64) -> [u8; 19] {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days to a date, by the 400-year cycle that starts on 1 March 0000 (Hinnant,
    // "chrono-compatible low-level date algorithms"). Years past 9999 do not come.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };

    let mut text = *b"0000-00-00T00:00:00";
    for (at, value) in [
        (0, year / 100 % 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, second / 3600),
        (14, second / 60 % 60),
        (17, second % 60),
    ] {
        text[at] += (value / 10) as u8;
        text[at + 1] += (value % 10) as u8;
    }
    text
}

/// Path and query as they came, but for the values of hidden parameters; both together are cut as
/// one field.
fn target(path: &[u8], query: Option<&str>, hidden: &[Box<[u8]>], out: &mut Line<'_>) {
    let mut room = FIELD_MOST;
    let mut put = |bytes: &[u8], out: &mut Line<'_>| {
        let before = out.written();
        let fits = room > 0 && escape(bytes, room, out);
        room = if fits {
            room.saturating_sub(out.written() - before)
        } else {
            0
        };
    };
    put(path, out);
    let Some(query) = query else { return };
    put(b"?", out);
    if hidden.is_empty() {
        return put(query.as_bytes(), out);
    }
    // Some applications split at `;` too, so a secret may stand after one.
    for part in query.split_inclusive(['&', ';']) {
        match part.split_once('=') {
            Some((name, value)) if hidden.iter().any(|hidden| names(name, hidden)) => {
                put(name.as_bytes(), out);
                put(b"=***", out);
                if let Some(end) = value.bytes().last().filter(|end| b"&;".contains(end)) {
                    put(&[end], out);
                }
            }
            _ => put(part.as_bytes(), out),
        }
    }
}

/// Whether a parameter's name as sent, percent-encoded or not, is `hidden`.
fn names(sent: &str, hidden: &[u8]) -> bool {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    let mut rest = sent.as_bytes();
    let decoded = std::iter::from_fn(|| match *rest {
        [b'%', high, low, ref after @ ..] if hex(high).is_some() && hex(low).is_some() => {
            rest = after;
            Some((hex(high)? * 16 + hex(low)?) as u8)
        }
        [b'+', ref after @ ..] => {
            rest = after;
            Some(b' ')
        }
        [byte, ref after @ ..] => {
            rest = after;
            Some(byte)
        }
        [] => None,
    });
    decoded
        .map(|byte| byte.to_ascii_lowercase())
        .eq(hidden.iter().map(u8::to_ascii_lowercase))
}

/// Appends `bytes` as the inside of a JSON string in printable ASCII, at most `room` bytes and the
/// mark of a cut; false if it was cut. Bytes that are no UTF-8 become U+FFFD.
fn escape(bytes: &[u8], room: usize, out: &mut Line<'_>) -> bool {
    if bytes.len() <= room && bytes.iter().all(|&byte| PLAIN[usize::from(byte)]) {
        out.put(bytes);
        return true;
    }
    escape_slowly(bytes, out.written() + room, out)
}

/// What stands for itself in a JSON string: printable ASCII but `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

#[cold]
fn escape_slowly(bytes: &[u8], end: usize, out: &mut Line<'_>) -> bool {
    for chunk in bytes.utf8_chunks() {
        let broken = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for char in chunk.valid().chars().chain(broken) {
            let before = out.written();
            match u8::try_from(char) {
                Ok(byte) if PLAIN[usize::from(byte)] => out.put(&[byte]),
                Ok(byte @ (b'"' | b'\\')) => out.put(&[b'\\', byte]),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.put(format!("\\u{unit:04x}").as_bytes());
                    }
                }
            }
            if out.written() > end {
                out.truncate(before);
                out.put(CUT);
                return false;
            }
        }
    }
    true
}

fn three_digits(value: u64) -> [u8; 3] {
    [value / 100, value / 10, value].map(|digits| b'0' + (digits % 10) as u8)
}

fn number(number: u64, out: &mut Line<'_>) {
    out.put(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::sync::LazyLock;

    static CLIENT: LazyLock<Client> = LazyLock::new(|| client("192.0.2.1"));

    fn client(address: &str) -> Client {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn example(id: &RequestId) -> Access<'_> {
        Access {
            at: clock::moment(),
            request_id: id,
            trace_id: None,
            client: &CLIENT,
            method: "GET",
            host: b"example.com",
            path: b"/p",
            query: Some("a=1"),
            user_agent: None,
            status: 200,
            bytes: 10_240,
            micros: 1_042,
            cache: CacheResult::Hit,
            limit: None,
            upstream: None,
            attempts: 0,
            marked: Marked::default(),
        }
    }

    /// Whether all of it fitted, and what was written.
    fn escaped(bytes: &[u8], most: usize) -> (bool, String) {
        let mut room = vec![0; 200_000];
        let mut out = Line::new(&mut room);
        let whole = escape(bytes, most, &mut out);
        let len = out.written();
        room.truncate(len);
        (whole, String::from_utf8(room).unwrap())
    }

    fn line(access: &Access, hidden: &[&str]) -> String {
        let hidden: Vec<Box<[u8]>> = hidden.iter().map(|name| name.as_bytes().into()).collect();
        let mut room = vec![0; LINE_MOST + 1];
        let mut out = Line::new(&mut room);
        format(access, &hidden, &mut out);
        let len = out.written();
        room.truncate(len);
        String::from_utf8(room).unwrap()
    }

    #[test]
    fn a_hit_is_this_line() {
        let id = RequestId::fresh();
        let access = example(&id);
        let told = line(&access, &[]);
        let time =
            String::from_utf8(rfc3339(clock::wall_millis(access.at) / 1000).to_vec()).unwrap();
        assert!(told.starts_with(&format!("{{\"time\":\"{time}.")), "{told}");
        let (_, rest) = told.split_once("Z\"").unwrap();
        assert_eq!(
            rest,
            format!(
                ",\"request_id\":\"{id:?}\",\"client\":\"192.0.2.1\",\"method\":\"GET\",\"host\":\"example.com\",\
                 \"path\":\"/p?a=1\",\"status\":200,\"bytes\":10240,\"ms\":1.042,\"cache\":\"hit\",\"attempts\":0}}\n"
            )
        );
    }

    #[test]
    fn a_fetched_answer_tells_its_upstream_and_trace() {
        let id = RequestId::fresh();
        let told = line(
            &Access {
                client: &client("2001:db8::1"),
                trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
                user_agent: Some(b"curl/8"),
                cache: CacheResult::HitForMiss,
                upstream: Some("app"),
                attempts: 2,
                ..example(&id)
            },
            &[],
        );
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["client"], "2001:db8::1");
        assert_eq!(told["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(told["user_agent"], "curl/8");
        assert_eq!(told["cache"], "hit_for_miss");
        assert_eq!(
            (&told["upstream"], &told["attempts"]),
            (&"app".into(), &2.into())
        );
    }

    #[test]
    fn what_lists_and_rules_made_of_it_is_told() {
        let id = RequestId::fresh();
        let names = ["bots", "odd", "late"].map(Box::from);
        let marked = Marked {
            list: Some("bad"),
            rule: Some("no-scanners"),
            tags: 0b101,
            names: &names,
        };
        let told = line(
            &Access {
                marked,
                ..example(&id)
            },
            &[],
        );
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["list"], "bad");
        assert_eq!(told["rule"], "no-scanners");
        assert_eq!(told["tags"], serde_json::json!(["bots", "late"]));
        assert_eq!(told["cache"], "hit");
    }

    #[test]
    fn a_v4_client_on_a_v6_socket_is_told_as_v4() {
        let id = RequestId::fresh();
        let told = line(
            &Access {
                client: &client("::ffff:203.0.113.7"),
                ..example(&id)
            },
            &[],
        );
        assert!(told.contains("\"client\":\"203.0.113.7\""), "{told}");
    }

    #[test]
    fn c60_whatever_a_client_sends_stays_in_one_capped_printable_line() {
        let id = RequestId::fresh();
        let nasty = "\r\n{\"forged\":1}\u{1b}[31m\u{0}\u{7f}\u{85}\u{202e}é😀\\\"";
        let long = nasty.repeat(500);
        for text in [nasty, &long] {
            let told = line(
                &Access {
                    method: text,
                    host: text.as_bytes(),
                    path: text.as_bytes(),
                    query: Some(text),
                    user_agent: Some(&[text.as_bytes(), b"\xff\xfe"].concat()),
                    trace_id: Some(text),
                    upstream: Some(text),
                    bytes: u64::MAX,
                    micros: u64::MAX,
                    attempts: u32::MAX,
                    client: &client("2001:db8:1111:2222:3333:4444:5555:6666"),
                    ..example(&id)
                },
                &[],
            );
            assert!(told.len() <= LINE_MOST, "{}", told.len());
            assert_eq!(
                told.bytes().position(|byte| byte == b'\n'),
                Some(told.len() - 1)
            );
            assert!(
                told.trim_end()
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte))
            );
            let told: Value = serde_json::from_str(&told).unwrap();
            if text == nasty {
                assert_eq!(told["host"], nasty);
                assert_eq!(told["path"], format!("{nasty}?{nasty}"));
                assert_eq!(told["user_agent"], format!("{nasty}\u{fffd}\u{fffd}"));
            } else {
                assert!(told["host"].as_str().unwrap().ends_with('…'));
                assert!(told.get("forged").is_none());
            }
        }
    }

    #[test]
    fn c59_hidden_parameters_are_not_written() {
        let id = RequestId::fresh();
        let told = |query| {
            let access = Access {
                query: Some(query),
                ..example(&id)
            };
            let told: Value = serde_json::from_str(&line(&access, &["token", "key[]"])).unwrap();
            told["path"].as_str().unwrap().to_owned()
        };
        for (query, path) in [
            ("a=1&token=secret&b=2", "/p?a=1&token=***&b=2"),
            ("token=secret", "/p?token=***"),
            ("a=1;token=secret;b", "/p?a=1;token=***;b"),
            ("%74oken=secret&TOKEN=secret", "/p?%74oken=***&TOKEN=***"),
            ("key%5B%5d=a=b&token", "/p?key%5B%5d=***&token"),
            ("tokens=1&=2&&xtoken=3", "/p?tokens=1&=2&&xtoken=3"),
            ("", "/p?"),
        ] {
            assert_eq!(told(query), path);
        }
    }

    #[test]
    fn rfc3339_edges() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_827_696, "2000-02-29T12:34:56"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(std::str::from_utf8(&rfc3339(unix)).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn dates_agree_with_httpdate(unix in 0u64..253_402_300_800) {
            let http = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix));
            let text = String::from_utf8(rfc3339(unix).to_vec()).unwrap();
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            let month = 1 + "JanFebMarAprMayJunJulAugSepOctNovDec".find(&http[8..11]).unwrap() / 3;
            prop_assert_eq!(text, format!("{}-{month:02}-{}T{}", &http[12..16], &http[5..7], &http[17..25]));
        }

        #[test]
        fn what_is_escaped_reads_back(bytes: Vec<u8>) {
            let (whole, out) = escaped(&bytes, 100_000);
            prop_assert!(whole);
            let read: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn what_is_cut_is_a_start_of_it_and_fits(bytes in prop::collection::vec(any::<u8>(), 0..64), room in 0usize..64) {
            let (whole, out) = escaped(&bytes, room);
            prop_assert!(out.len() <= room + CUT.len());
            let read: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
            let lossy = String::from_utf8_lossy(&bytes);
            let start = if whole { &read } else { read.strip_suffix('…').unwrap() };
            prop_assert!(lossy.starts_with(start));
            prop_assert_eq!(whole, lossy == start);
        }
    }
}

//! The one pass over a request's field lines, and what it means.

use httparse::Header;

use super::{Method, Reject, RequestBody, Target, Version};
use crate::rules::chunked::{Coding, coding};
use crate::rules::fields::{Folded, digits, fold, members};
use crate::rules::host::{self, KnownHost, Scheme};
use crate::rules::target;

/// The fields that are asked about on every request, gathered in the one scan.
/// A value is the first line's; where a field may be repeated, `…_many` says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known<'a> {
    /// As it stands in the head.
    pub host: Option<&'a [u8]>,
    pub authorization: bool,
    pub cookie: Option<&'a [u8]>,
    pub cookies_many: bool,
    /// `None` also if repeated: a Range that is no Range is ignored.
    pub range: Option<&'a [u8]>,
    /// Empty, so matching nothing, if repeated.
    pub if_range: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
    pub if_none_match_many: bool,
    /// `None` also if repeated (RFC 9110 §13.1.3: then it is ignored).
    pub if_modified_since: Option<&'a [u8]>,
    pub if_match: bool,
    pub if_unmodified_since: bool,
    pub cache_control: bool,
    pub pragma: bool,
    pub accept_encoding: Option<&'a [u8]>,
    pub accept_encoding_many: bool,
    pub accept: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub traceparent: Option<&'a [u8]>,
    pub x_request_id: Option<&'a [u8]>,
    pub cdn_loop: bool,
    pub max_forwards: Option<&'a [u8]>,
    /// X-HTTP-Method-Override, X-HTTP-Method or X-Method-Override, however spelled
    /// (see [`fold`]).
    pub method_override: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Expect {
    #[default]
    Nothing,
    Continue,
    Other,
}

/// What one pass over the lines gathers.
#[derive(Default)]
pub(super) struct Scan<'a> {
    pub length: Option<u64>,
    coding: Option<Coding>,
    /// Options of `Connection` that are obeyed here.
    pub close: bool,
    pub keep_alive: bool,
    pub upgrades: bool,
    pub upgrade: Option<&'a [u8]>,
    pub expect: Expect,
    pub known: Known<'a>,
}

impl<'a> Scan<'a> {
    /// Takes in all lines, or the first reason to refuse them.
    pub fn learn_all(&mut self, lines: &'a [Header<'a>]) -> Result<(), Reject> {
        let mut repeated = Repeated::default();
        for line in lines {
            self.learn(line.name.as_bytes(), line.value, &mut repeated)?;
        }
        if repeated.upgrade {
            self.upgrade = None;
        }
        let known = &mut self.known;
        known.cookies_many = repeated.cookie;
        known.if_none_match_many = repeated.if_none_match;
        known.accept_encoding_many = repeated.accept_encoding;
        if repeated.range {
            known.range = None;
        }
        if repeated.if_range {
            known.if_range = Some(b"");
        }
        if repeated.if_modified_since {
            known.if_modified_since = None;
        }
        Ok(())
    }

    /// Length and first letter tell most names apart before any comparison.
    fn learn(
        &mut self,
        name: &[u8],
        value: &'a [u8],
        repeated: &mut Repeated,
    ) -> Result<(), Reject> {
        let is = |lower: &[u8]| name.eq_ignore_ascii_case(lower);
        let known = &mut self.known;
        let initial = name.first().ok_or(Reject::FieldName)? | 0x20;
        match (name.len(), initial) {
            (4, b'h') if is(b"host") => once(&mut known.host, value, Reject::ManyHosts)?,
            (5, b'r') if is(b"range") => first(&mut known.range, value, &mut repeated.range),
            (6, b'a') if is(b"accept") => first(&mut known.accept, value, &mut false),
            (6, b'c') if is(b"cookie") => first(&mut known.cookie, value, &mut repeated.cookie),
            (6, b'e') if is(b"expect") => self.expect(value),
            (6, b'p') if is(b"pragma") => known.pragma = true,
            (7, b'u') if is(b"upgrade") => first(&mut self.upgrade, value, &mut repeated.upgrade),
            (8, b'c') if is(b"cdn-loop") => known.cdn_loop = true,
            (8, b'i') if is(b"if-match") => known.if_match = true,
            (8, b'i') if is(b"if-range") => {
                first(&mut known.if_range, value, &mut repeated.if_range);
            }
            (10, b'c') if is(b"connection") => self.connection(value),
            (10, b'u') if is(b"user-agent") => first(&mut known.user_agent, value, &mut false),
            (11, b't') if is(b"traceparent") => first(&mut known.traceparent, value, &mut false),
            (12, b'm') if is(b"max-forwards") => first(&mut known.max_forwards, value, &mut false),
            (12, b'x') if is(b"x-request-id") => first(&mut known.x_request_id, value, &mut false),
            (13, b'a') if is(b"authorization") => known.authorization = true,
            (13, b'c') if is(b"cache-control") => known.cache_control = true,
            (13, b'i') if is(b"if-none-match") => {
                first(&mut known.if_none_match, value, &mut repeated.if_none_match);
            }
            (14, b'c') if is(b"content-length") => {
                let length = digits(value).ok_or(Reject::ContentLength)?;
                once(&mut self.length, length, Reject::ContentLengthRepeated)?;
            }
            (15, b'a') if is(b"accept-encoding") => {
                first(
                    &mut known.accept_encoding,
                    value,
                    &mut repeated.accept_encoding,
                );
            }
            (17, b'i') if is(b"if-modified-since") => {
                first(
                    &mut known.if_modified_since,
                    value,
                    &mut repeated.if_modified_since,
                );
            }
            (17, b't') if is(b"transfer-encoding") => {
                let coding = coding(value);
                once(&mut self.coding, coding, Reject::TransferEncodingRepeated)?;
            }
            (19, b'i') if is(b"if-unmodified-since") => known.if_unmodified_since = true,
            (13 | 17 | 22, b'x') if is_method_override(name) => known.method_override = true,
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in members(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrades = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => {}
            }
        }
    }

    fn expect(&mut self, value: &[u8]) {
        self.expect = match self.expect {
            Expect::Other => Expect::Other,
            _ if value.eq_ignore_ascii_case(b"100-continue") => Expect::Continue,
            _ => Expect::Other,
        };
    }

    /// RFC 9112 §6.3, with every doubtful case refused.
    pub fn body(&self, version: Version) -> Result<RequestBody, Reject> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(RequestBody::None),
            (None, Some(length)) => Ok(RequestBody::Length(length)),
            (Some(_), Some(_)) => Err(Reject::LengthAndTransferEncoding),
            (Some(_), None) if version == Version::Http10 => Err(Reject::TransferEncodingOn10),
            (Some(Coding::Chunked), None) => Ok(RequestBody::Chunked),
            (Some(Coding::Unknown), None) => Err(Reject::TransferEncodingUnknown),
            (Some(Coding::Malformed), None) => Err(Reject::TransferEncoding),
        }
    }

    /// RFC 9112 §3.2 and §3.3: what is asked for, and of whom.
    pub fn destination(
        &self,
        known: &'a KnownHost,
        method: Method<'_>,
        raw: &'a str,
        version: Version,
    ) -> Result<(Target<'a>, &'a str), Reject> {
        let (target, authority) = target::read(raw).map_err(Reject::Target)?;
        let host = match (self.known.host, version) {
            (Some(host), _) => Some(known.check(host).map_err(Reject::Host)?),
            (None, Version::Http11) => return Err(Reject::NoHost),
            (None, Version::Http10) => None,
        };
        let authority = match authority {
            Some(named) => Some(host::check(named.as_bytes()).map_err(Reject::Host)?),
            None => None,
        };
        if let (Some(host), Some(authority)) = (host, authority)
            && !host::same(host, authority, Scheme::Http)
        {
            return Err(Reject::HostsDisagree);
        }
        let target = match (method, authority) {
            // RFC 9112 §3.2.4: an absolute target without a path is the server.
            (Method::Options, Some(named)) if raw.len() == "http://".len() + named.len() => {
                Target::Asterisk
            }
            (Method::Options, _) => target,
            _ if target == Target::Asterisk => return Err(Reject::Asterisk),
            _ => target,
        };
        Ok((target, host.or(authority).unwrap_or("")))
    }
}

/// Fields of which a second line changes what the first one means.
#[derive(Default)]
struct Repeated {
    cookie: bool,
    range: bool,
    if_range: bool,
    if_none_match: bool,
    if_modified_since: bool,
    accept_encoding: bool,
    upgrade: bool,
}

fn once<T>(slot: &mut Option<T>, value: T, again: Reject) -> Result<(), Reject> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(again),
    }
}

fn first<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8], again: &mut bool) {
    match slot {
        None => *slot = Some(value),
        Some(_) => *again = true,
    }
}

fn is_method_override(name: &[u8]) -> bool {
    let mut room: Folded = [0; 40];
    matches!(
        fold(name, &mut room),
        b"x-http-method" | b"x-method-override" | b"x-http-method-override"
    )
}

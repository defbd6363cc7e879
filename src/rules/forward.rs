//! The fields that go to an origin with a request: what the client sent, less
//! what is not the origin's business, plus what a proxy owes it.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{ACCEPT_ENCODING, CONNECTION, COOKIE, FORWARDED, HOST, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::fields::{Fields, Folded, fold, members, trim};
use super::hop::{Nominated, is_hop_by_hop};
use super::identity::Class;

/// Whose answer the request is to fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One that may be stored and given to others.
    Shared,
    /// One client's alone, by a flight.
    SingleReader,
    /// One client's alone, past the flights: unsafe methods, bodies, upgrades.
    Pass,
}

/// What a fetch says about content codings; Pass keeps the client's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptEncoding<'a> {
    Identity,
    Gzip,
    /// The value, or none at all if empty.
    Client(&'a [u8]),
}

/// How a request is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    pub class: Class,
    pub kind: Kind,
    /// The scheme of the key: `http` or `https`.
    pub scheme: &'a str,
    /// The host of the key; empty if the request has none.
    pub host_as_keyed: &'a str,
    /// The host to send instead, if the upstream sets one.
    pub upstream_host: Option<&'a str>,
    pub accept_encoding: AcceptEncoding<'a>,
    /// The client's address, if the origin is to know it.
    pub client: Option<IpAddr>,
    /// Then also the proxies that it came through to us, the client's own first.
    pub proxies: &'a [IpAddr],
    /// The version that the client spoke: `1.0`, `1.1` or `2`.
    pub via_version: &'a str,
    /// Our token in `CDN-Loop`.
    pub cdn_id: &'a str,
    pub request_id: &'a str,
    /// Sent unless the client brings a valid one.
    pub traceparent: &'a str,
    /// Whether the request's `Upgrade` goes along.
    pub upgrade: bool,
    /// Names of cookies of ours, which no origin sees; `name*` is a prefix.
    pub own_cookies: &'a [String],
    /// Whether to send `Forwarded` (RFC 7239) too.
    pub forwarded: bool,
}

/// The request has been through here already (RFC 8586): answer 508.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loop;

/// The fields for the origin. Framing (`Content-Length`, `Transfer-Encoding`) is
/// left to whoever sends the body, and so is `Host` where neither key nor upstream
/// has one.
pub fn fields(from: &dyn Fields, how: &Forward<'_>) -> Result<HeaderMap, Loop> {
    if names_us(from, how.cdn_id) {
        return Err(Loop);
    }
    let nominated = Nominated::of(from);
    let trace = client_trace(from);
    let mut to = HeaderMap::with_capacity(32);
    from.each(&mut |name, value| {
        if !nominated.removes(name) && passes(name, how, trace.is_some()) {
            append(&mut to, name, value);
        }
    });
    add_cookies(&mut to, from, how);
    add_encoding(&mut to, how);
    add_forwards(&mut to, from);
    add_origin_facts(&mut to, how);
    add_trail(&mut to, from, how);
    set(&mut to, "x-request-id", how.request_id.as_bytes());
    set(
        &mut to,
        "traceparent",
        trace.as_deref().unwrap_or(how.traceparent.as_bytes()),
    );
    if how.upgrade {
        add_upgrade(&mut to, from);
    }
    Ok(to)
}

/// What a request field is to us. Names are folded (see [`fold`]), so that no other
/// spelling reaches a CGI-like app under a name that is stripped or set here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Written by us, from the client's word or without it.
    Ours,
    /// Answered or used up on this hop.
    Spent,
    /// A claim about the client or the target that only a trusted proxy may make.
    Claim,
    /// Another method than the request's.
    MethodOverride,
    /// Of one client's own copy.
    Conditional,
    /// Of one client's patience with caches.
    CacheWish,
    Encoding,
    TraceState,
    EndToEnd,
}

fn role(name: &str) -> Role {
    let mut room: Folded = [0; 40];
    let name = fold(name.as_bytes(), &mut room);
    if name.starts_with(b"x-forwarded-") || name.starts_with(b"x-original-") {
        return Role::Claim;
    }
    match name {
        b"cdn-loop" | b"cookie" | b"host" | b"max-forwards" | b"traceparent" | b"via"
        | b"x-request-id" => Role::Ours,
        // `Proxy` would be taken for the environment's HTTP_PROXY (CVE-2016-5385).
        b"content-length" | b"expect" | b"proxy" => Role::Spent,
        b"cf-connecting-ip"
        | b"cf-connecting-ipv6"
        | b"cf-visitor"
        | b"client-ip"
        | b"fastly-client-ip"
        | b"fly-client-ip"
        | b"forwarded"
        | b"front-end-https"
        | b"forwarded-for"
        | b"forwarded-proto"
        | b"forwarded-host"
        | b"true-client-ip"
        | b"wl-proxy-client-ip"
        | b"x-azure-clientip"
        | b"x-client-ip"
        | b"x-cluster-client-ip"
        | b"x-envoy-external-address"
        | b"x-forwarded"
        | b"x-forwarder-for"
        | b"x-host"
        | b"x-http-host-override"
        | b"x-host-override"
        | b"x-originating-ip"
        | b"x-proxyuser-ip"
        | b"x-real-ip"
        | b"x-remote-addr"
        | b"x-remote-ip"
        | b"x-rewrite-uri"
        | b"x-rewrite-url"
        | b"x-scheme"
        | b"x-url-scheme" => Role::Claim,
        b"x-http-method" | b"x-http-method-override" | b"x-method-override" => Role::MethodOverride,
        b"if-match"
        | b"if-modified-since"
        | b"if-none-match"
        | b"if-range"
        | b"if-unmodified-since"
        | b"range" => Role::Conditional,
        b"cache-control" | b"pragma" => Role::CacheWish,
        b"accept-encoding" => Role::Encoding,
        b"tracestate" => Role::TraceState,
        _ => Role::EndToEnd,
    }
}

fn passes(name: &str, how: &Forward<'_>, traced: bool) -> bool {
    if is_hop_by_hop(name) {
        return false;
    }
    // `Accept_Language` may be `Accept-Language` to the app, but not to its `Vary`:
    // what it changes would be stored for those who did not send it.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if how.kind == Kind::Shared && !name.bytes().all(plain) {
        return false;
    }
    match role(name) {
        Role::Ours | Role::Spent | Role::Claim => false,
        Role::MethodOverride | Role::Encoding => how.kind == Kind::Pass,
        Role::Conditional | Role::CacheWish => how.kind != Kind::Shared,
        Role::TraceState => traced,
        Role::EndToEnd => true,
    }
}

/// Whether a `CDN-Loop` line names us. Quotes do not shield a member: whoever
/// sends an open quote could otherwise hide what is appended after it.
fn names_us(from: &dyn Fields, cdn_id: &str) -> bool {
    let mut found = false;
    from.each_named("cdn-loop", &mut |value| {
        found |= value
            .split(|b| b",;".contains(b))
            .any(|part| trim(part).eq_ignore_ascii_case(cdn_id.as_bytes()));
    });
    found
}

/// The client's `traceparent`, if it sends exactly one and that is valid.
fn client_trace(from: &dyn Fields) -> Option<Vec<u8>> {
    let (mut count, mut trace) = (0, None);
    from.each_named("traceparent", &mut |value| {
        count += 1;
        trace = is_traceparent(value).then(|| value.to_vec());
    });
    trace.filter(|_| count == 1)
}

/// Whether `value` is a version 00 `traceparent` (W3C Trace Context §3.2).
pub fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|&b| b == b'0');
    let mut parts = value.split(|&b| b == b'-');
    let mut next = |len: usize| parts.next().filter(|part| part.len() == len && hex(part));
    let version = next(2) == Some(b"00");
    let (trace, parent, flags) = (next(32), next(16), next(2));
    version
        && trace.is_some_and(|id| !zero(id))
        && parent.is_some_and(|id| !zero(id))
        && flags.is_some()
        && parts.next().is_none()
}

/// One `Cookie` line for all (an HTTP/1 request has at most one, RFC 6265 §5.4).
fn add_cookies(to: &mut HeaderMap, from: &dyn Fields, how: &Forward<'_>) {
    if how.class == Class::Anonymous && how.kind != Kind::Pass {
        return;
    }
    let mut kept = Vec::new();
    from.each_named("cookie", &mut |line| {
        for pair in line.split(|&b| b == b';').map(trim) {
            if !pair.is_empty() && !is_own(pair, how.own_cookies) {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(pair);
            }
        }
    });
    if !kept.is_empty() {
        set(to, COOKIE, &kept);
    }
}

fn is_own(pair: &[u8], own: &[String]) -> bool {
    let name = trim(pair.split(|&b| b == b'=').next().unwrap_or_default());
    own.iter().any(|own| match own.as_bytes() {
        [prefix @ .., b'*'] => name.starts_with(prefix),
        exact => name == exact,
    })
}

fn add_encoding(to: &mut HeaderMap, how: &Forward<'_>) {
    let value = match how.accept_encoding {
        _ if how.kind == Kind::Pass => return,
        AcceptEncoding::Identity => &b"identity"[..],
        AcceptEncoding::Gzip => b"gzip",
        AcceptEncoding::Client(b"") => return,
        AcceptEncoding::Client(value) => value,
    };
    set(to, ACCEPT_ENCODING, value);
}

/// `Max-Forwards`, less this hop (RFC 9110 §7.6.2). 0 is to be answered before.
fn add_forwards(to: &mut HeaderMap, from: &dyn Fields) {
    let mut left = None;
    from.each_named("max-forwards", &mut |value| {
        left = left.or(super::fields::digits(value));
    });
    if let Some(left) = left {
        set(
            to,
            "max-forwards",
            left.saturating_sub(1).to_string().as_bytes(),
        );
    }
}

/// Where the client came in, and who it is.
fn add_origin_facts(to: &mut HeaderMap, how: &Forward<'_>) {
    let host = how.upstream_host.unwrap_or(how.host_as_keyed);
    if !host.is_empty() {
        set(to, HOST, host.as_bytes());
    }
    set(to, "x-forwarded-proto", how.scheme.as_bytes());
    if !how.host_as_keyed.is_empty() {
        set(to, "x-forwarded-host", how.host_as_keyed.as_bytes());
    }
    if let Some(client) = how.client {
        let mut way = client.to_canonical().to_string();
        for proxy in how.proxies {
            // Writing to a String does not fail.
            let _ = write!(way, ", {proxy}");
        }
        set(to, "x-forwarded-for", way.as_bytes());
    }
    if how.forwarded {
        set(to, FORWARDED, forwarded(how).as_bytes());
    }
}

fn forwarded(how: &Forward<'_>) -> String {
    let mut value = match how.client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(client)) => format!("for={client};"),
        Some(IpAddr::V6(client)) => format!("for=\"[{client}]\";"),
        None => String::new(),
    };
    if !how.host_as_keyed.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(value, "host=\"{}\";", how.host_as_keyed);
    }
    value + "proto=" + how.scheme
}

/// `Via` and `CDN-Loop`: what they held, then us.
fn add_trail(to: &mut HeaderMap, from: &dyn Fields, how: &Forward<'_>) {
    let us = format!("{} tidegate", how.via_version);
    for (name, us) in [
        (VIA, us.as_str()),
        (HeaderName::from_static("cdn-loop"), how.cdn_id),
    ] {
        let mut value = Vec::new();
        from.joined(name.as_str(), &mut value);
        if members(&value).next().is_some() {
            value.extend_from_slice(b", ");
        } else {
            value.clear();
        }
        value.extend_from_slice(us.as_bytes());
        set(to, name, &value);
    }
}

fn add_upgrade(to: &mut HeaderMap, from: &dyn Fields) {
    let mut protocols = Vec::new();
    from.joined("upgrade", &mut protocols);
    if !protocols.is_empty() {
        set(to, UPGRADE, &protocols);
        to.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Names and values come from a checked head or our own config; what is no field
/// all the same is left out.
fn append(to: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
        to.append(name, value);
    }
}

fn set(to: &mut HeaderMap, name: impl TryInto<HeaderName>, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::from_bytes(value)) {
        to.insert(name, value);
    }
}

#[cfg(test)]
mod tests;

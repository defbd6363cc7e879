//! The words of the config file: hosts, paths, servers, patterns, names, choices.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Method, header};
use ipnet::{IpNet, Ipv4Net};

use super::value::{Kind, Word, Wrong, choice, is_not};
pub use crate::origin::{Balance, Priority, Protocol};
pub use crate::rules::claims::ClaimedBy;
pub use crate::rules::encoding::Coding;
use crate::rules::health;
use crate::rules::hop::is_hop_by_hop;
use crate::rules::host::{self, Scheme};
pub use crate::rules::networks::Action as ListAction;
pub use crate::rules::resolve::Family;
pub use crate::rules::storing::SetCookie;
use crate::rules::target::write_path;
pub use crate::telemetry::Output;

/// What an upstream or route is called, fit for a metric's label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(pub String);

impl Word for Name {
    const WORD: Kind = Kind::Text {
        noun: "a name",
        pattern: Some(r"^[A-Za-z0-9._:/*-]{1,64}$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._:/*-".contains(c);
        match (1..=64).contains(&text.len()) && text.chars().all(fits) {
            true => Ok(Name(text.to_owned())),
            false => Err(Wrong::new(
                is_not(text, Self::WORD),
                "up to 64 of letters, digits, `.`, `_`, `:`, `/`, `*` and `-`",
            )),
        }
    }
}

/// A host without its port, lower case; `*.` before it means every name below.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host(pub String);

impl Word for Host {
    const WORD: Kind = Kind::Text {
        noun: "a host",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Wrong::new(is_not(text, Self::WORD), help);
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return Err(wrong(format!("did you mean `\"{host}\"`?")));
        }
        if !text.is_ascii() {
            return Err(wrong("write it in its ASCII form (`xn--…`)".to_owned()));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.contains('*') {
            let help = "a wildcard stands for whole names at the front, as in `\"*.example.com\"`";
            return Err(wrong(help.to_owned()));
        }
        if name.parse::<Ipv6Addr>().is_ok() {
            return Err(wrong(format!("did you mean `\"[{name}]\"`?")));
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && port.parse::<u16>().is_ok()
        {
            return Err(wrong(format!("leave the port out: `\"{host}\"`")));
        }
        let name = host::check(name.as_bytes()).map_err(|flaw| wrong(flaw.why().to_owned()))?;
        let star = if text.starts_with("*.") { "*." } else { "" };
        Ok(Host(format!("{star}{}", normal(name))))
    }
}

/// A host, with a port or without, as a request may name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority(pub String);

impl Word for Authority {
    const WORD: Kind = Kind::Text {
        noun: "a host",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match host::check(text.as_bytes()) {
            Ok(host) => Ok(Authority(normal(host))),
            Err(flaw) => Err(Wrong::new(is_not(text, Self::WORD), flaw.why())),
        }
    }
}

fn normal(host: &str) -> String {
    let mut out = String::new();
    host::normalize(host, Scheme::Http, &mut out);
    out
}

/// Where the paths of a route begin, percent codes normalised as in requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPrefix(pub String);

impl Word for PathPrefix {
    const WORD: Kind = Kind::Text {
        noun: "a path",
        pattern: Some("^/"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Err(Wrong::new(is_not(text, Self::WORD), help));
        if !text.starts_with('/') {
            return wrong(format!("did you mean `\"/{}\"`?", text.escape_debug()));
        }
        if let Some(stem) = text.strip_suffix('*') {
            return wrong(format!(
                "a path takes all that lies below it: `\"{}\"`",
                stem.escape_debug()
            ));
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) || text.contains(['?', '#', '*']) {
            return wrong("visible ASCII, no query, other characters as `%XX`".to_owned());
        }
        let mut path = String::new();
        write_path(text, &mut path);
        Ok(PathPrefix(path))
    }
}

/// A name, or the names that begin so, as in `utm_*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(pub String);

impl Word for Pattern {
    const WORD: Kind = Kind::Text {
        noun: "a name or the beginning of names",
        pattern: Some(r"^[^*]*\*?$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        match text.is_empty() || stem.contains('*') {
            true => Err(Wrong::new(
                is_not(text, Self::WORD),
                "one `*`, and that at the end, as in `\"utm_*\"`",
            )),
            false => Ok(Pattern(text.to_owned())),
        }
    }
}

/// One server of an upstream, by address or by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub tls: bool,
    /// A name or an address, the latter without brackets.
    pub host: String,
    pub port: u16,
}

impl Server {
    /// Host and port as a Host field has them, the default port left out.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl Word for Server {
    const WORD: Kind = Kind::Text {
        noun: "a server's URL",
        pattern: Some("^https?://[^/@?#]+/?$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(is_not(text, Self::WORD), help);
        let (tls, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            let help = match text.contains("://") || text.is_empty() {
                true => "it begins with `http://` or `https://`".to_owned(),
                false => format!("did you mean `\"http://{}\"`?", text.escape_debug()),
            };
            return Err(wrong(&help));
        };
        if rest.contains('@') {
            return Err(wrong("a server takes no user name"));
        }
        let authority = match rest.split_once(['/', '?', '#']) {
            Some((authority, "")) => authority,
            Some((authority, _)) => {
                let scheme = if tls { "https" } else { "http" };
                let help = format!("paths are the visitor's: `\"{scheme}://{authority}\"`");
                return Err(wrong(&help));
            }
            None => rest,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (
                    host,
                    port.ok_or_else(|| wrong("a port is from 1 to 65535"))?,
                )
            }
            _ => (authority, if tls { 443 } else { 80 }),
        };
        match Host::parse(host) {
            Ok(Host(host)) if !host.starts_with('*') => Ok(Server {
                tls,
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
            }),
            _ => Err(wrong(
                "a host and a port, as in `\"http://127.0.0.1:8000\"`",
            )),
        }
    }
}

/// A server of DNS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolver(pub SocketAddr);

impl Word for Resolver {
    const WORD: Kind = Kind::Text {
        noun: "the address of a DNS server",
        pattern: Some(r"^[0-9A-Fa-f.:\[\]]+$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let alone = text.trim_start_matches('[').trim_end_matches(']');
        let address = match (text.parse::<SocketAddr>(), alone.parse::<IpAddr>()) {
            (Ok(address), _) => Some(address),
            (_, Ok(ip)) => Some(SocketAddr::new(ip, 53)),
            _ => None,
        };
        let fits = |address: &SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
        let help = "an address, with a port or without: `\"10.0.0.2\"`, `\"127.0.0.1:5353\"`, `\"[::1]:53\"`";
        let address = address.filter(fits);
        address
            .map(Resolver)
            .ok_or_else(|| Wrong::new(is_not(text, Self::WORD), help))
    }
}

/// Addresses that begin alike, or a single one. Of IPv4 where IPv6 only stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(pub IpNet);

impl Word for Network {
    const WORD: Kind = Kind::Text {
        noun: "an address or a network",
        pattern: Some(r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Wrong::new(is_not(text, Self::WORD), help);
        let network = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
            (Ok(network), _) => network,
            (_, Ok(ip)) => IpNet::from(ip),
            _ => {
                let help = "an address, or one and how many bits of it count: `\"192.0.2.1\"`, `\"10.0.0.0/8\"`, `\"2001:db8::/32\"`";
                return Err(wrong(help.to_owned()));
            }
        };
        if network != network.trunc() {
            return Err(wrong(format!(
                "did you mean `\"{}\"`, or the address `\"{}\"`?",
                network.trunc(),
                network.addr()
            )));
        }
        Ok(Network(folded(network)))
    }
}

/// Who may purge: those of a network, or those in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purger {
    Network(IpNet),
    List(String),
}

impl Word for Purger {
    const WORD: Kind = Kind::Text {
        noun: "an address, a network or a list",
        pattern: Some(r"^([0-9A-Fa-f.:]+(/[0-9]{1,3})?|list:[A-Za-z0-9._:/*-]{1,64})$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("list:") {
            Some(name) => Name::parse(name).map(|name| Purger::List(name.0)),
            None if text
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b".:/".contains(&b)) =>
            {
                Network::parse(text).map(|network| Purger::Network(network.0))
            }
            None => Err(Wrong::new(
                is_not(text, Self::WORD),
                "as in `\"10.0.0.0/8\"`, or `\"list:NAME\"` for a list",
            )),
        }
    }
}

/// What is IPv4 but for how it is written (RFC 4291 §2.5.5.2).
fn folded(network: IpNet) -> IpNet {
    let ipv4 = |prefix: u8| match network.addr().to_canonical() {
        IpAddr::V4(ip) => Ipv4Net::new(ip, prefix).ok(),
        IpAddr::V6(_) => None,
    };
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(six) => {
            let prefix = six.prefix_len().checked_sub(96);
            prefix.and_then(ipv4).map_or(network, IpNet::V4)
        }
    }
}

/// What is asked for: a path, with a query or without.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target(pub String);

impl Word for Target {
    const WORD: Kind = Kind::Text {
        noun: "a path",
        pattern: Some("^/"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Err(Wrong::new(is_not(text, Self::WORD), help));
        if !text.starts_with('/') {
            return wrong(format!("did you mean `\"/{}\"`?", text.escape_debug()));
        }
        match text.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            true => Ok(Target(text.to_owned())),
            false => wrong("visible ASCII, other characters as `%XX`".to_owned()),
        }
    }
}

/// A field of a request, as its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field(pub HeaderName, pub HeaderValue);

impl Word for Field {
    const WORD: Kind = Kind::Text {
        noun: "a field",
        pattern: Some("^[^:]+:"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(is_not(text, Self::WORD), help);
        let like = "a name, a colon and a value, as in `\"Accept: application/json\"`";
        let (name, value) = text.split_once(':').ok_or_else(|| wrong(like))?;
        let name = HeaderName::try_from(name).map_err(|_| wrong(like))?;
        let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong(like))?;
        // It may be a secret, and is not to be shown.
        value.set_sensitive(true);
        if name == header::HOST {
            return Err(wrong("the Host is `health_host`"));
        }
        match is_hop_by_hop(name.as_str()) || name == header::CONTENT_LENGTH {
            true => Err(wrong("it is the connection's own, and not to be chosen")),
            false => Ok(Field(name, value)),
        }
    }
}

/// A status, or a range of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statuses(pub health::Statuses);

impl Word for Statuses {
    const WORD: Kind = Kind::Text {
        noun: "a status",
        pattern: Some("^[2-5][0-9]{2}(-[2-5][0-9]{2})?$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let statuses = health::Statuses::parse(text).map(Statuses);
        let help = "from 200 to 599, alone or as a range: `\"204\"`, `\"200-399\"`";
        statuses.ok_or_else(|| Wrong::new(is_not(text, Self::WORD), help))
    }
}

/// A field of JSON, and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member(pub health::Member);

impl Word for Member {
    const WORD: Kind = Kind::Text {
        noun: "a field and its value",
        pattern: Some("^[^=]+=.+$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let member = health::Member::parse(text).map(Member);
        let help = "a name, `=` and a value, as in `\"status=ok\"`";
        member.ok_or_else(|| Wrong::new(is_not(text, Self::WORD), help))
    }
}

/// This proxy in `CDN-Loop` (RFC 8586 §2): a token, or a host with a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CdnId(pub String);

impl Word for CdnId {
    const WORD: Kind = Kind::Text {
        noun: "a cdn-id",
        pattern: Some(r"^[A-Za-z0-9._~:-]{1,128}$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._~:-".contains(c);
        match (1..=128).contains(&text.len()) && text.chars().all(fits) {
            true => Ok(CdnId(text.to_owned())),
            false => Err(Wrong::new(
                is_not(text, Self::WORD),
                "letters, digits, `.`, `_`, `~`, `:` and `-`, as in `\"tidegate-eu1\"`",
            )),
        }
    }
}

impl Word for Output {
    const WORD: Kind = Kind::Text {
        noun: "a place for a log",
        pattern: Some("^(stdout|off|.*[/.].*)$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "stdout" => Ok(Output::Stdout),
            "off" => Ok(Output::Off),
            path if path.contains(['/', '.']) => Ok(Output::File(PathBuf::from(path))),
            _ => Err(Wrong::new(
                is_not(text, Self::WORD),
                format!(
                    "write `\"stdout\"`, `\"off\"`, or a file as in `\"./{}\"`",
                    text.escape_debug()
                ),
            )),
        }
    }
}

/// What a rule does with the requests that meet it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleAction {
    /// Answered 403.
    Block,
    /// Neither served from memory nor stored.
    Bypass,
    /// Marked in the access log.
    Tag,
    /// A pass has to be shown.
    Challenge,
    /// It counts for a limit.
    Limit,
    /// Nothing.
    Count,
}

impl RuleAction {
    /// Its word, and its label in metrics.
    pub fn word(self) -> &'static str {
        match self {
            RuleAction::Block => "block",
            RuleAction::Bypass => "bypass",
            RuleAction::Tag => "tag",
            RuleAction::Challenge => "challenge",
            RuleAction::Limit => "limit",
            RuleAction::Count => "count",
        }
    }
}

/// What a route lets its origin encode answers with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptEncoding {
    Identity,
    Gzip,
    Client,
}

/// How servers are asked whether they are well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    Off,
    Http,
    Tcp,
    Grpc,
}

impl Health {
    pub fn word(self) -> &'static str {
        match self {
            Health::Off => "off",
            Health::Http => "http",
            Health::Tcp => "tcp",
            Health::Grpc => "grpc",
        }
    }
}

/// The method of a health check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthMethod(pub Method);

/// The least weighty message that is printed, as its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(pub &'static str);

/// Which requests need a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    Off,
    /// Those that a rule or a limit asks for one.
    Asked,
    Always,
}

choice!(When:
    "off" => When::Off,
    "asked" => When::Asked,
    "always" => When::Always,
);

choice!(AcceptEncoding:
    "identity" => AcceptEncoding::Identity,
    "gzip" => AcceptEncoding::Gzip,
    "client" => AcceptEncoding::Client,
);

choice!(ClaimedBy:
    "x-forwarded-for" => ClaimedBy::XForwardedFor,
    "forwarded" => ClaimedBy::Forwarded,
);

choice!(Coding:
    "br" => Coding::Br,
    "zstd" => Coding::Zstd,
    "gzip" => Coding::Gzip,
);

choice!(Health:
    "off" => Health::Off,
    "http" => Health::Http,
    "tcp" => Health::Tcp,
    "grpc" => Health::Grpc,
);

choice!(HealthMethod:
    "GET" => HealthMethod(Method::GET),
    "HEAD" => HealthMethod(Method::HEAD),
);

choice!(Level:
    "off" => Level("off"),
    "error" => Level("error"),
    "warn" => Level("warn"),
    "info" => Level("info"),
    "debug" => Level("debug"),
    "trace" => Level("trace"),
);

choice!(ListAction:
    "deny" => ListAction::Deny,
    "allow" => ListAction::Allow,
);

choice!(RuleAction:
    "block" => RuleAction::Block,
    "bypass" => RuleAction::Bypass,
    "tag" => RuleAction::Tag,
    "challenge" => RuleAction::Challenge,
    "limit" => RuleAction::Limit,
    "count" => RuleAction::Count,
);

choice!(Balance:
    "p2c" => Balance::P2c,
    "round_robin" => Balance::RoundRobin,
    "least_in_flight" => Balance::LeastInFlight,
    // Its bound is an option of its own.
    "consistent_hash" => Balance::ConsistentHash { most: 100 },
);

choice!(Family:
    "ipv4_first" => Family::Ipv4First,
    "ipv6_first" => Family::Ipv6First,
    "ipv4" => Family::Ipv4,
    "ipv6" => Family::Ipv6,
    "all" => Family::All,
);

choice!(Priority:
    "high" => Priority::High,
    "normal" => Priority::Normal,
    "low" => Priority::Low,
);

choice!(Protocol:
    "auto" => Protocol::Auto,
    "http1" => Protocol::Http1,
    "http2" => Protocol::Http2,
);

choice!(SetCookie:
    "refuse" => SetCookie::Refuse,
    "strip" => SetCookie::Strip,
    "share" => SetCookie::Share,
);

#[cfg(test)]
mod tests {
    use super::*;

    fn help<W: Word + std::fmt::Debug>(text: &str) -> String {
        W::parse(text).unwrap_err().help.unwrap_or_default()
    }

    #[test]
    fn servers() {
        for (text, tls, host, port, authority) in [
            (
                "http://127.0.0.1:8000",
                false,
                "127.0.0.1",
                8000,
                "127.0.0.1:8000",
            ),
            (
                "http://App.Internal/",
                false,
                "app.internal",
                80,
                "app.internal",
            ),
            ("https://app", true, "app", 443, "app"),
            ("https://[::1]:8443", true, "::1", 8443, "[::1]:8443"),
            ("http://[::1]", false, "::1", 80, "[::1]"),
        ] {
            let server = Server::parse(text).unwrap();
            assert_eq!(server.authority(), authority);
            let host = host.to_owned();
            assert_eq!(server, Server { tls, host, port });
        }
    }

    #[test]
    fn what_is_no_server() {
        for (text, part) in [
            (
                "127.0.0.1:8000",
                "did you mean `\"http://127.0.0.1:8000\"`?",
            ),
            ("ftp://x", "begins with"),
            ("", "begins with"),
            ("http://", "a host and a port"),
            ("http://x:0", "from 1 to 65535"),
            ("http://x:99999", "from 1 to 65535"),
            ("http://u:p@x", "no user name"),
            ("http://x/app", "`\"http://x\"`"),
            ("http://*.x", "a host and a port"),
            ("http://a b", "a host and a port"),
            ("http://::1:80", "a host and a port"),
        ] {
            assert!(
                help::<Server>(text).contains(part),
                "{text}: {}",
                help::<Server>(text)
            );
        }
    }

    #[test]
    fn hosts() {
        for (text, host) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host(host.to_owned())), "{text}");
        }
        for (text, part) in [
            ("example.com:80", "leave the port out: `\"example.com\"`"),
            ("https://example.com/x", "`\"example.com\"`"),
            ("*example.com", "wildcard"),
            ("*", "wildcard"),
            ("*.", "empty"),
            ("::1", "`\"[::1]\"`"),
            ("bücher.example", "xn--"),
            ("a b", "character"),
            ("", "empty"),
        ] {
            assert!(
                help::<Host>(text).contains(part),
                "{text}: {}",
                help::<Host>(text)
            );
        }
    }

    #[test]
    fn paths() {
        assert_eq!(PathPrefix::parse("/a/"), Ok(PathPrefix("/a/".to_owned())));
        for (text, part) in [
            ("blog", "`\"/blog\"`"),
            ("/blog/*", "`\"/blog/\"`"),
            ("/a?b", "no query"),
            ("/ä", "no query"),
        ] {
            assert!(help::<PathPrefix>(text).contains(part), "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let read = Network::parse(text).map(|network| network.0.to_string());
            assert_eq!(read, Ok(network.to_owned()), "{text}");
        }
        for (text, part) in [
            (
                "10.0.0.1/8",
                "`\"10.0.0.0/8\"`, or the address `\"10.0.0.1\"`",
            ),
            ("2001:db8::1/32", "`\"2001:db8::/32\"`"),
            ("10.0.0.0/33", "how many bits"),
            ("10.0.0", "how many bits"),
            ("10.0.0.0/255.0.0.0", "how many bits"),
            ("[::1]", "how many bits"),
            ("fe80::1%eth0", "how many bits"),
            ("localhost", "how many bits"),
            ("", "how many bits"),
        ] {
            assert!(
                help::<Network>(text).contains(part),
                "{text}: {}",
                help::<Network>(text)
            );
        }
    }

    #[test]
    fn what_a_health_check_asks_and_expects() {
        assert_eq!(
            Target::parse("/up?full=1"),
            Ok(Target("/up?full=1".to_owned()))
        );
        let field = Field::parse("X-Token:  a b: c ").unwrap();
        assert_eq!(
            (field.0.as_str(), field.1.as_bytes()),
            ("x-token", &b"a b: c"[..])
        );
        for (help, part) in [
            (help::<Target>("up"), "`\"/up\"`"),
            (help::<Target>("/a b"), "%XX"),
            (help::<Field>("X-Token"), "a colon"),
            (help::<Field>("X Token: 1"), "a colon"),
            (help::<Field>("X: a\nb"), "a colon"),
            (help::<Field>("host: a"), "`health_host`"),
            (help::<Field>("Content-Length: 1"), "not to be chosen"),
            (help::<Field>("Connection: x"), "not to be chosen"),
            (help::<Statuses>("2xx"), "`\"200-399\"`"),
            (help::<Statuses>("100"), "from 200 to 599"),
            (help::<Member>("status"), "`\"status=ok\"`"),
        ] {
            assert!(help.contains(part), "{help}");
        }
    }

    #[test]
    fn a_mistyped_choice_finds_its_neighbour() {
        assert_eq!(help::<SetCookie>("striped"), "did you mean `\"strip\"`?");
        assert_eq!(
            help::<AcceptEncoding>("br"),
            "write \"identity\" or \"gzip\" or \"client\""
        );
    }

    #[test]
    fn a_misspelt_output_makes_no_file() {
        assert_eq!(Output::parse("stdout"), Ok(Output::Stdout));
        assert_eq!(Output::parse("a.log"), Ok(Output::File("a.log".into())));
        assert!(help::<Output>("stdotu").contains("`\"stdout\"`"));
    }
}

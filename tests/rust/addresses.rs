//! Whom a request is from: what trusted proxies say of it, what others claim, and what the PROXY protocol says of a
//! connection; over HTTP/1.1 and HTTP/2, in clear and over TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use http::Request;
use rustls::ClientConfig;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::http2;
use super::site::{Asked, Client, Origin, Site, answer, equal, eventually};
use super::tls::{self, Folder};
use super::{Outcome, Test};
use crate::harness::wire::{Conn, PATIENCE};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("addresses::c43_strangers_claim_in_vain", c43_strangers),
        ("addresses::c44_a_proxy_names_its_client", c44_proxies),
        ("addresses::rfc7239_a_proxy_says_forwarded", rfc7239),
        (
            "addresses::the_proxy_protocol_names_the_client",
            proxy_protocol,
        ),
        ("addresses::claims_behind_the_proxy_protocol", claims_behind),
        (
            "addresses::c43_nobody_else_speaks_the_proxy_protocol",
            c43_nobody_else,
        ),
        (
            "addresses::c65_half_a_header_has_the_time_of_a_head",
            c65_half_a_header,
        ),
        ("addresses::no_byte_of_a_request_is_the_headers", in_pieces),
        ("addresses::c45_a_network_is_one_client", c45_connections),
        ("addresses::c45_a_network_has_one_server", c45_requests),
        (
            "addresses::c67_all_may_come_through_a_trusted_proxy",
            c67_proxies,
        ),
        ("addresses::a_scheme_is_believed_and_keyed", schemes),
        (
            "addresses::the_log_names_the_client_of_each_request",
            logged,
        ),
    ]
}

/// Where the trusted proxy is, and a stranger.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Beside it others are trusted, that are never there but may be named.
const TRUSTED: &str = "trusted_proxies = [\"127.0.0.9\", \"10.0.0.0/8\", \"2001:db8:aaaa::/48\"]\n";

/// Fields that an app may take for a client's address or its way here.
const CLAIMS: [&str; 12] = [
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "fastly-client-ip",
    "client-ip",
    "forwarded",
    "x-forwarded",
    "forwarded-for",
    "x-forwarded-port",
    "x_forwarded_for",
];

/// An app that tells what it was told: the way here, the scheme, the host, and any claim that came through.
fn app() -> Result<Origin, String> {
    Origin::start(|asked: &Asked, conn: &mut Conn| {
        let told = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        let claims: String = CLAIMS.iter().map(|name| asked.field(name)).collect();
        let body = format!(
            "{} {claims}",
            told.map(|name| asked.field(name)).join(" | ")
        );
        answer(
            conn,
            200,
            "Cache-Control: no-store\r\n",
            body.trim().as_bytes(),
        )
    })
}

/// The ways to ask.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Http1,
    Http2,
}

/// A site with one of the two listeners.
struct Listener {
    site: Site,
    /// For those who speak TLS to it.
    tls: Option<ClientConfig>,
    _folder: Folder,
}

impl Listener {
    fn start(origin: &Origin, tls: bool, listen: &str) -> Result<Listener, String> {
        let folder = Folder::new()?;
        if !tls {
            let config = format!("[listen]\nh2c = true\n{listen}");
            let site = Site::start(origin.address, &config)?;
            return Ok(Listener {
                site,
                tls: None,
                _folder: folder,
            });
        }
        let shown = folder.write("cert", &["a.test"])?;
        let config = tls::config(&[folder.path("cert")], listen);
        let site = Site::start(origin.address, &config)?;
        let tls = Some(tls::trusting(&shown, None)?);
        Ok(Listener {
            site,
            tls,
            _folder: folder,
        })
    }

    fn both(origin: &Origin, listen: &str) -> Result<Vec<Listener>, String> {
        [false, true]
            .iter()
            .map(|tls| Listener::start(origin, *tls, listen))
            .collect()
    }

    /// What the app was told with a POST, from `source`, behind the bytes `ahead`.
    fn told(
        &self,
        source: Ipv4Addr,
        ahead: &[u8],
        speaks: Speaks,
        fields: &[(&str, &str)],
    ) -> Result<String, String> {
        let mut stream = connect(source, self.site.address)?;
        stream.write_all(ahead).map_err(|e| e.to_string())?;
        let body = match (speaks, &self.tls) {
            (Speaks::Http1, None) => post(&mut stream, fields)?,
            (Speaks::Http1, Some(config)) => {
                post(&mut tls::over(stream, "a.test", config.clone())?, fields)?
            }
            (Speaks::Http2, config) => {
                let scheme = if config.is_some() { "https" } else { "http" };
                let mut request = Request::post(format!("{scheme}://a.test/"));
                for (name, value) in fields {
                    request = request.header(*name, *value);
                }
                let request = request.body(()).map_err(|e| e.to_string())?;
                let client = http2::Client::over(stream, config.clone())?;
                let reply = client.ask(request, Some(b"x"))?;
                equal("status", reply.status, 200)?;
                reply.body
            }
        };
        String::from_utf8(body).map_err(|e| e.to_string())
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A connection from an address of its own.
fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream, String> {
    let told = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .map_err(told)?;
    socket.connect(&to.into()).map_err(told)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    Ok(stream)
}

fn post(stream: &mut (impl Read + Write), fields: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let mut head = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n".to_owned();
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    let request = head + "Content-Length: 1\r\n\r\nx";
    stream
        .write_all(request.as_bytes())
        .map_err(|e| e.to_string())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).map_err(|e| e.to_string())?;
    if !reply.starts_with(b"HTTP/1.1 200") {
        return Err(format!("\"{}\"", reply.escape_ascii()));
    }
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n");
    Ok(reply[end.ok_or("no head")? + 4..].to_vec())
}

/// What the app is to be told: the way here by that scheme, and nothing else.
fn way(way: &str, scheme: &str) -> String {
    format!("{way} | {scheme} | a.test")
}

fn c43_strangers() -> Outcome {
    let origin = app()?;
    for listen in [
        "",
        TRUSTED,
        "trusted_proxies = [\"127.0.0.9\"]\nclient_ip_header = \"forwarded\"\n",
    ] {
        for listener in Listener::both(&origin, listen)? {
            for speaks in [Speaks::Http1, Speaks::Http2] {
                for value in ["6.6.6.6", "for=6.6.6.6;proto=https", "6.6.6.6, 127.0.0.9"] {
                    let mut fields: Vec<_> = CLAIMS.iter().map(|name| (*name, value)).collect();
                    fields.extend([
                        ("x-forwarded-for", value),
                        ("x-forwarded-for", "7.7.7.7"),
                        ("x-forwarded-proto", "gopher"),
                        ("x-forwarded-host", "evil.test"),
                    ]);
                    let told = listener.told(STRANGER, b"", speaks, &fields)?;
                    equal(value, told, way("127.0.0.1", listener.scheme()))?;
                }
            }
        }
    }
    Ok(())
}

fn c44_proxies() -> Outcome {
    let origin = app()?;
    let hops = vec!["10.0.0.2"; 1000].join(",");
    let thousand = format!("203.0.113.9, {hops}");
    let sixty_four = format!("{}, 127.0.0.9", vec!["10.0.0.2"; 64].join(", "));
    for listener in Listener::both(&origin, TRUSTED)? {
        let scheme = listener.scheme();
        for (claims, expected) in [
            (&["203.0.113.9"][..], "203.0.113.9, 127.0.0.9"),
            (&["6.6.6.6, 203.0.113.9"], "203.0.113.9, 127.0.0.9"),
            (&["6.6.6.6", "203.0.113.9"], "203.0.113.9, 127.0.0.9"),
            (
                &["6.6.6.6, 203.0.113.9, 10.1.1.1"],
                "203.0.113.9, 10.1.1.1, 127.0.0.9",
            ),
            (
                &["203.0.113.9", "10.1.1.1", "2001:db8:aaaa::1"],
                "203.0.113.9, 10.1.1.1, 2001:db8:aaaa::1, 127.0.0.9",
            ),
            // Ports, brackets, zones, IPv4 as IPv6.
            (&["203.0.113.9:4711"], "203.0.113.9, 127.0.0.9"),
            (&["::ffff:203.0.113.9"], "203.0.113.9, 127.0.0.9"),
            (&["[2001:db8::9]:4711"], "2001:db8::9, 127.0.0.9"),
            (&["2001:DB8:0::9%eth0"], "2001:db8::9, 127.0.0.9"),
            // What names nobody.
            (&["garbage"], "127.0.0.9"),
            (&["203.0.113.9, unknown"], "127.0.0.9"),
            (&["203.0.113.9, unknown, 10.1.1.1"], "10.1.1.1, 127.0.0.9"),
            (&[""], "127.0.0.9"),
            (&[], "127.0.0.9"),
            (&[thousand.as_str()], sixty_four.as_str()),
        ] {
            let mut fields: Vec<_> = claims
                .iter()
                .map(|claim| ("X-Forwarded-For", *claim))
                .collect();
            fields.extend([
                ("X-Forwarded-Host", "evil.test"),
                ("Forwarded", "for=6.6.6.6;proto=http"),
                ("X-Real-IP", "6.6.6.6"),
                ("True-Client-IP", "6.6.6.6"),
            ]);
            for speaks in [Speaks::Http1, Speaks::Http2] {
                let told = listener.told(PROXY, b"", speaks, &fields)?;
                equal(
                    &format!("{claims:?} by {speaks:?}"),
                    told,
                    way(expected, scheme),
                )?;
            }
        }
    }
    Ok(())
}

fn rfc7239() -> Outcome {
    let origin = app()?;
    let listen = format!("{TRUSTED}client_ip_header = \"forwarded\"\n");
    for listener in Listener::both(&origin, &listen)? {
        let own = listener.scheme();
        for (claims, expected, scheme) in [
            ("for=203.0.113.9", "203.0.113.9, 127.0.0.9", own),
            (
                "for=203.0.113.9;proto=https",
                "203.0.113.9, 127.0.0.9",
                "https",
            ),
            (
                "for=203.0.113.9;proto=http;host=evil.test",
                "203.0.113.9, 127.0.0.9",
                "http",
            ),
            (
                "for=\"[2001:db8::9%1]:4711\"",
                "2001:db8::9, 127.0.0.9",
                own,
            ),
            (
                "for=\"6.6.6.6, for=203.0.113.9, for=10.1.1.1",
                "203.0.113.9, 10.1.1.1, 127.0.0.9",
                own,
            ),
            ("for=6.6.6.6, for=_hidden;proto=https", "127.0.0.9", "https"),
            ("for=unknown", "127.0.0.9", own),
        ] {
            let fields = [
                ("forwarded", claims),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "gopher"),
            ];
            for speaks in [Speaks::Http1, Speaks::Http2] {
                let told = listener.told(PROXY, b"", speaks, &fields)?;
                equal(
                    &format!("{claims} by {speaks:?}"),
                    told,
                    way(expected, scheme),
                )?;
            }
        }
    }
    Ok(())
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        rest,
    ]
    .concat()
}

fn v2_from_ipv4(source: [u8; 4]) -> Vec<u8> {
    let addresses = [source, [127, 0, 0, 1]].concat();
    v2(0x21, 0x11, &[&addresses[..], &[0x11, 0x5c, 0, 80]].concat())
}

fn v2_from_ipv6(source: Ipv6Addr) -> Vec<u8> {
    let addresses = [source.octets(), Ipv6Addr::LOCALHOST.octets()].concat();
    v2(0x21, 0x21, &[&addresses[..], &[0x11, 0x5c, 0, 80]].concat())
}

const PROXIED: &str = "proxy_protocol = true\n";

fn proxy_protocol() -> Outcome {
    let origin = app()?;
    let tlvs = [
        &[203, 0, 113, 9, 127, 0, 0, 1, 0, 1, 0, 2][..],
        &[4, 0, 200],
        &[0; 200],
    ]
    .concat();
    let six: Ipv6Addr = "2001:db8::9".parse().map_err(|_| "an address")?;
    let mapped: Ipv6Addr = "::ffff:203.0.113.9".parse().map_err(|_| "an address")?;
    for listener in Listener::both(&origin, &format!("{TRUSTED}{PROXIED}"))? {
        for (header, client) in [
            (
                b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n".to_vec(),
                "203.0.113.9",
            ),
            (
                b"PROXY TCP6 2001:db8::9 ::1 4711 80\r\n".to_vec(),
                "2001:db8::9",
            ),
            (
                b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4711 80\r\n".to_vec(),
                "203.0.113.9",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.9"),
            (
                b"PROXY UNKNOWN 6.6.6.6 6.6.6.6 1 1\r\n".to_vec(),
                "127.0.0.9",
            ),
            (v2_from_ipv4([203, 0, 113, 9]), "203.0.113.9"),
            (v2_from_ipv6(six), "2001:db8::9"),
            (v2_from_ipv6(mapped), "203.0.113.9"),
            (v2(0x21, 0x11, &tlvs), "203.0.113.9"),
            (v2(0x20, 0x00, &[]), "127.0.0.9"),
            (
                v2(0x20, 0x11, &[6, 6, 6, 6, 6, 6, 6, 6, 0, 1, 0, 1]),
                "127.0.0.9",
            ),
            (v2(0x21, 0x00, &[]), "127.0.0.9"),
        ] {
            for speaks in [Speaks::Http1, Speaks::Http2] {
                // The client's own claims are nobody's word.
                let fields = [
                    ("x-forwarded-for", "6.6.6.6"),
                    ("x-forwarded-proto", "gopher"),
                ];
                let told = listener.told(PROXY, &header, speaks, &fields)?;
                let what = format!("\"{}\" by {speaks:?}", header.escape_ascii());
                equal(&what, told, way(client, listener.scheme()))?;
            }
        }
    }
    Ok(())
}

/// A balancer of TCP in front of a proxy of HTTP that is trusted.
fn claims_behind() -> Outcome {
    let origin = app()?;
    for listener in Listener::both(&origin, &format!("{TRUSTED}{PROXIED}"))? {
        let own = listener.scheme();
        for (header, way_told, expected, scheme) in [
            (
                v2_from_ipv4([10, 0, 0, 1]),
                "6.6.6.6, 203.0.113.9",
                "203.0.113.9, 10.0.0.1",
                "https",
            ),
            (
                b"PROXY TCP4 10.0.0.1 127.0.0.1 1 1\r\n".to_vec(),
                "203.0.113.9",
                "203.0.113.9, 10.0.0.1",
                "https",
            ),
            (
                v2_from_ipv4([203, 0, 113, 9]),
                "6.6.6.6",
                "203.0.113.9",
                own,
            ),
            // It passes on what it has not looked at, and says of nobody that it is theirs.
            (v2(0x20, 0, &[]), "6.6.6.6", "127.0.0.9", own),
            (b"PROXY UNKNOWN\r\n".to_vec(), "6.6.6.6", "127.0.0.9", own),
        ] {
            for speaks in [Speaks::Http1, Speaks::Http2] {
                let fields = [
                    ("x-forwarded-for", way_told),
                    ("x-forwarded-proto", "https"),
                ];
                let told = listener.told(PROXY, &header, speaks, &fields)?;
                equal(
                    &format!("{way_told} by {speaks:?}"),
                    told,
                    way(expected, scheme),
                )?;
            }
        }
    }
    Ok(())
}

const REFUSED: &str = "tidegate_connections_refused_total";

fn refused_by_proxies(site: &Site) -> Result<f64, String> {
    let labels = [("result".to_owned(), "proxy".to_owned())];
    Ok(site.proxy.metric(REFUSED, &labels)?.unwrap_or(0.0))
}

/// The other side ends it, and says nothing before.
fn ends(mut stream: TcpStream) -> Outcome {
    match stream.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("an answer".into()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

fn c43_nobody_else() -> Outcome {
    let request = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx";
    let header = v2_from_ipv4([203, 0, 113, 9]);
    for tls in [false, true] {
        let origin = app()?;
        let listener = Listener::start(&origin, tls, &format!("{TRUSTED}{PROXIED}"))?;
        let site = &listener.site;
        for (source, ahead) in [
            // A stranger, whatever it begins with.
            (STRANGER, &header[..]),
            (STRANGER, b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n"),
            (STRANGER, b""),
            // The proxy, without a header, or with one that is none.
            (PROXY, b""),
            (
                PROXY,
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
            ),
            (PROXY, b"PROXY TCP4 203.0.113.9\r\n"),
            (PROXY, b"PROXY TCP4 203.0.113.999 127.0.0.1 4711 80\r\n"),
            (PROXY, &[b'P'; 200]),
            (PROXY, &v2(0x21, 0x11, &[1; 11])),
            (PROXY, &v2(0x21, 0x11, &[1; 5000])[..64]),
        ] {
            let shown = ahead.escape_ascii();
            let before = refused_by_proxies(site)?;
            let mut stream = connect(source, site.address)?;
            // It may be closed already.
            let _ = stream.write_all(&[ahead, request].concat());
            ends(stream).map_err(|why| format!("{source}: {shown}: {why}"))?;
            eventually(&format!("{source} was refused: {shown}"), || {
                Ok((refused_by_proxies(site)? > before).then_some(()))
            })?;
        }
        equal("asked", origin.asked(""), 0)?;
        // And the next is served.
        let told = listener.told(PROXY, &header, Speaks::Http1, &[])?;
        equal("the next", told, way("203.0.113.9", listener.scheme()))?;
    }
    Ok(())
}

fn c65_half_a_header() -> Outcome {
    let origin = app()?;
    let listen = format!("{TRUSTED}{PROXIED}head_deadline = \"500ms\"\n");
    let header = v2_from_ipv4([203, 0, 113, 9]);
    for listener in Listener::both(&origin, &listen)? {
        // Half of one, a whole one with nothing behind it, nothing at all.
        for bytes in [
            &header[..20],
            b"PROXY TCP4 203.0.113.9 ",
            &header,
            b"PROXY UNKNOWN\r\n",
            b"",
        ] {
            let mut stream = connect(PROXY, listener.site.address)?;
            stream.write_all(bytes).map_err(|e| e.to_string())?;
            ends(stream).map_err(|why| format!("{}: {why}", bytes.escape_ascii()))?;
        }
    }
    equal("asked", origin.asked(""), 0)
}

/// However header and request come, each byte is of one of them.
fn in_pieces() -> Outcome {
    let origin = app()?;
    let listener = Listener::start(&origin, false, &format!("{TRUSTED}{PROXIED}"))?;
    let request =
        b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    for header in [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n".to_vec(),
        v2_from_ipv4([203, 0, 113, 9]),
    ] {
        let bytes = [&header[..], request].concat();
        for size in [
            1,
            2,
            15,
            16,
            17,
            header.len() - 1,
            header.len(),
            header.len() + 1,
            bytes.len(),
        ] {
            let mut stream = connect(PROXY, listener.site.address)?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            for piece in bytes.chunks(size) {
                stream.write_all(piece).map_err(|e| e.to_string())?;
            }
            let mut reply = String::new();
            stream
                .read_to_string(&mut reply)
                .map_err(|e| e.to_string())?;
            if !reply.ends_with(&way("203.0.113.9", "http")) {
                return Err(format!("in pieces of {size}: {reply}"));
            }
        }
    }
    Ok(())
}

fn page() -> Result<Origin, String> {
    Origin::start(|_, conn: &mut Conn| answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"))
}

/// A connection that is answered, of a client that the proxy names.
fn named(site: &Site, client: Ipv6Addr) -> Result<Option<Client>, String> {
    let mut stream = connect(PROXY, site.address)?;
    stream
        .write_all(&v2_from_ipv6(client))
        .map_err(|e| e.to_string())?;
    let mut client = Client::over(stream)?;
    Ok(client.get("/", "").is_ok().then_some(client))
}

fn c45_connections() -> Outcome {
    let origin = page()?;
    let network = |n: u128| Ipv6Addr::from_bits(0x2001_0db8_0000_0001 << 64 | n << 56 | n);
    for (prefix, neighbour_counts) in [(64, false), (48, true)] {
        let listen = format!(
            "[listen]\n{TRUSTED}{PROXIED}max_connections = 100\nclient_ipv6_prefix = {prefix}\n"
        );
        let site = Site::start(origin.address, &listen)?;
        let all = (0..60)
            .map(|n| named(&site, network(n)))
            .collect::<Result<Vec<_>, _>>()?;
        // A quarter of all, though none has come twice.
        equal("let in", all.iter().flatten().count(), 25)?;
        let neighbour: Ipv6Addr = "2001:db8:0:2::1".parse().map_err(|_| "an address")?;
        equal(
            "of the same /48",
            named(&site, neighbour)?.is_none(),
            neighbour_counts,
        )?;
        let other: Ipv6Addr = "2001:db8:1:1::1".parse().map_err(|_| "an address")?;
        equal("of another", named(&site, other)?.is_some(), true)?;
        // What it lets go of it may have again.
        drop(all);
        eventually(
            "a place for it",
            || Ok(named(&site, network(99))?.map(drop)),
        )?;
    }
    Ok(())
}

/// `consistent_hash` by address tells who counts as one client.
fn c45_requests() -> Outcome {
    let servers = [page()?, page()?];
    let [one, two] = servers.each_ref().map(|server| server.address);
    let config = format!(
        "[listen]\n{TRUSTED}[[upstream]]\nservers = [\"http://{one}\", \"http://{two}\"]\n\
         balance = \"consistent_hash\"\nhash_by = \"address\"\n"
    );
    let site = Site::start(one, &config)?;
    let mut client = Client::over(connect(PROXY, site.address)?)?;
    let mut ask = |address: String| {
        let fields = format!("X-Forwarded-For: 6.6.6.6, {address}\r\n");
        client.ask("POST", "/", &fields, b"x")?.is(200).map(drop)
    };
    let asked = || servers.each_ref().map(|server| server.asked("POST"));
    for n in 0..256 {
        ask(format!("2001:db8:1:2:{n:x}:{n:x}::{n:x}"))?;
    }
    let mut first = asked();
    first.sort_unstable();
    equal("one network", first, [0, 256])?;
    let before = asked();
    for n in 0..64 {
        ask(format!("2001:db8:1:{n:x}::1"))?;
    }
    let after = asked();
    let more = [after[0] - before[0], after[1] - before[1]];
    if more.iter().any(|more| *more < 8) {
        return Err(format!("64 networks: {more:?}"));
    }
    // An address is the same however it is written.
    let before = asked();
    for n in 0..32 {
        let other = [
            "198.51.100.7",
            "198.51.100.7:80",
            "::ffff:198.51.100.7",
            "[::ffff:c633:6407]:1",
        ];
        ask(other[n % other.len()].to_owned())?;
    }
    let after = asked();
    let more = [after[0] - before[0], after[1] - before[1]];
    equal("one address", more.contains(&32), true)
}

fn c67_proxies() -> Outcome {
    let origin = page()?;
    let config = format!("[listen]\n{TRUSTED}max_connections = 100\n");
    let site = Site::start(origin.address, &config)?;
    let served = |source| {
        let mut all = Vec::new();
        for _ in 0..60 {
            let mut client = Client::over(connect(source, site.address)?)?;
            all.push(client.get("/", "").is_ok().then_some(client));
        }
        Ok::<_, String>(all.into_iter().flatten().collect::<Vec<_>>())
    };
    let proxied = served(PROXY)?;
    equal("through the proxy", proxied.len(), 60)?;
    let strangers = served(Ipv4Addr::new(127, 0, 0, 2))?;
    equal("of a stranger", strangers.len(), 25)
}

fn schemes() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| {
        let body = asked.field("x-forwarded-proto") + "://" + &asked.field("x-forwarded-host");
        answer(conn, 200, "Cache-Control: max-age=60\r\n", body.as_bytes())
    })?;
    let site = Site::start(origin.address, &format!("[listen]\nh2c = true\n{TRUSTED}"))?;
    // On one connection, as a proxy uses it for many visitors.
    let mut proxy = Client::over(connect(PROXY, site.address)?)?;
    let mut stranger = Client::over(connect(STRANGER, site.address)?)?;
    let https = "X-Forwarded-Proto: https\r\n";
    for told in ["fwd=uri-miss", "hit", "hit"] {
        for (fields, body) in [("", "http://a.test"), (https, "https://a.test")] {
            let reply = proxy.get("/p", fields)?.is(200)?;
            equal(
                "page",
                (reply.text(), reply.told(told)),
                (body.to_owned(), true),
            )?;
        }
        let reply = stranger.get("/p", https)?.is(200)?;
        equal(
            "a stranger's",
            (reply.text(), reply.told("hit")),
            ("http://a.test".into(), true),
        )?;
    }
    equal("asked", origin.asked("GET"), 2)?;
    // A proxy that speaks HTTP/2 may pass on its client's scheme, but is to say so in the field.
    for (source, named, fields, status, body) in [
        (PROXY, "https", Some("https"), 200, "https://a.test"),
        (PROXY, "https", None, 200, "http://a.test"),
        (PROXY, "http", Some("https"), 200, "https://a.test"),
        (PROXY, "ftp", Some("https"), 400, ""),
        (STRANGER, "https", Some("https"), 400, ""),
        (STRANGER, "http", Some("https"), 200, "http://a.test"),
    ] {
        let http2 = http2::Client::over(connect(source, site.address)?, None)?;
        let mut request = Request::get(format!("{named}://a.test/p"));
        if let Some(scheme) = fields {
            request = request.header("x-forwarded-proto", scheme);
        }
        let request = request.body(()).map_err(|e| e.to_string())?;
        let reply = http2.ask(request, None)?;
        equal(&format!("{source} by {named}"), reply.status, status)?;
        if status == 200 {
            equal(
                "page",
                String::from_utf8_lossy(&reply.body).into_owned(),
                body.to_owned(),
            )?;
        }
    }
    // The default port is another one under each, and the host is known from before.
    for (fields, port, body) in [
        ("", 443, "http://b.test:443"),
        (https, 443, "https://b.test"),
        (https, 80, "https://b.test:80"),
        ("", 80, "http://b.test"),
        (https, 80, "https://b.test:80"),
        ("", 443, "http://b.test:443"),
    ] {
        proxy.raw(format!("GET /p HTTP/1.1\r\nHost: b.test:{port}\r\n{fields}\r\n").as_bytes())?;
        equal("host", proxy.reply("GET")?.is(200)?.text(), body.to_owned())?;
    }
    equal("asked", origin.asked("GET"), 6)
}

/// Each request says as its agent whom the log should name as its client.
fn logged() -> Outcome {
    let origin = page()?;
    let site = Site::start(origin.address, &format!("[listen]\nh2c = true\n{TRUSTED}"))?;
    let clients = [
        "203.0.113.1",
        "203.0.113.2",
        "2001:db8::3",
        "127.0.0.9",
        "203.0.113.1",
    ];
    let mut proxy = Client::over(connect(PROXY, site.address)?)?;
    for client in clients {
        let mut fields = format!("User-Agent: {client}\r\n");
        if client != "127.0.0.9" {
            fields += &format!("X-Forwarded-For: 6.6.6.6, {client}\r\n");
        }
        // Fetched first, from memory then, past the cache at last.
        proxy.get("/p", &fields)?.is(200)?;
        proxy.ask("POST", "/p", &fields, b"x")?.is(200)?;
    }
    let http2 = http2::Client::over(connect(PROXY, site.address)?, None)?;
    for client in clients {
        let mut request = Request::get("http://a.test/p").header("user-agent", client);
        if client != "127.0.0.9" {
            request = request.header("x-forwarded-for", client);
        }
        let request = request.body(()).map_err(|e| e.to_string())?;
        equal("status", http2.ask(request, None)?.status, 200)?;
    }
    // What can't be read is its connection's.
    proxy.raw(b"GET  / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")?;
    proxy.reply("GET")?.is(400)?;
    let log = site.dir.path().join("access.log");
    let lines = eventually("all lines", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>().unwrap_or_default();
        Ok((lines.len() == 3 * clients.len() + 1).then_some(lines))
    })?;
    for line in lines {
        let agent = line["user_agent"].as_str().unwrap_or("127.0.0.9");
        equal(&line.to_string(), line["client"].as_str(), Some(agent))?;
    }
    Ok(())
}

//! The whole way, from a text to a policy or a report, in a world made for it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::options::{Shown, TABLES};
use super::policy::AcceptEncoding;
use super::*;
use crate::limits::spec::{Action, Counts, Rate};
use crate::origin::{Balance, Bulkhead, Check, HashBy, Place};
use crate::rules::claims::ClaimedBy;
use crate::rules::geo::mmdb::{Record, database};
use crate::rules::networks::Listed;
use crate::rules::purge::What;
use crate::rules::rendezvous;
use crate::rules::resolve::Family;
use crate::rules::storing::SetCookie;
use crate::rules::token::Algorithm;
use crate::telemetry::Output;

mod guarding;
mod operating;
mod tiers;

/// The public key of RFC 8037 §A.2.
const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

const UPSTREAM: &str = "[[upstream]]\nservers = [\"http://127.0.0.1:8000\"]\n";

fn with(text: &str, flags: &Flags) -> Result<Policy, Report> {
    let world = World {
        env: &|name| match name {
            "PORT" => Some("8000".to_owned()),
            "THREADS" => Some("3".to_owned()),
            "EMPTY" => Some(String::new()),
            "SECRET" => Some("a secret from outside".to_owned()),
            _ => None,
        },
        readable: &|path| match path.to_str() {
            Some("/ca.pem") => Ok(()),
            Some("/static") => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
        read: &|path| match path.to_str() {
            Some("/secret") => Ok(b"0123456789abcdef\n".to_vec()),
            Some("/list") => Ok(b"192.0.2.1\n".to_vec()),
            Some("/slip") => Ok(b"192.0.2.1\n192.0.2.256\n".to_vec()),
            Some("/country") => Ok(database(&[("10.0.0.0/8", Record::Country("DE"))])),
            Some("/asn") => Ok(database(&[("10.0.0.0/8", Record::Asn(64_500))])),
            Some("/keys") => Ok(b"0123456789abcdef app gold\n".to_vec()),
            Some("/short-keys") => Ok(b"0123456789abcdef app\nhunter2\n".to_vec()),
            Some("/pem") => Ok(b"-----BEGIN PUBLIC KEY-----\n".to_vec()),
            Some("/jwks") => Ok(JWKS.into()),
            Some("/page") => Ok(b"<p>Later".to_vec()),
            Some("/nothing") => Ok(Vec::new()),
            Some("/latin1") => Ok(b"\xe9".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
        certificate: &|path| match path == Path::new("/cert") {
            true => Ok(()),
            false => Err("no such file".to_owned()),
        },
        unique: &|| "unique".to_owned(),
        cores: 2,
    };
    believe(Some("t.toml".to_owned()), text.to_owned(), flags, &world)
}

fn policy(text: &str) -> Policy {
    match with(text, &Flags::default()) {
        Ok(policy) => policy,
        Err(report) => panic!("{report}"),
    }
}

/// Line, what, and help of each mistake.
fn mistakes(text: &str) -> Vec<(usize, String, String)> {
    let report = with(text, &Flags::default()).expect_err("a mistake");
    let entries = report.entries();
    let told = entries.iter().map(|entry| {
        let help = entry.help.unwrap_or_default().to_owned();
        (entry.line.unwrap_or_default(), entry.what.to_owned(), help)
    });
    told.collect()
}

#[track_caller]
fn one_mistake(text: &str) -> (usize, String, String) {
    let mut all = mistakes(text);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn the_default_file_is_rendered_from_the_declarations() {
    let written = include_str!("../../config/tidegate.toml");
    assert!(
        written == render::default_file(),
        "run `tidegate check --print default > config/tidegate.toml`"
    );
}

#[test]
fn the_schema_is_rendered_from_the_declarations() {
    let written = include_str!("../../config/tidegate.schema.json");
    assert!(
        written == schema::schema(),
        "run `tidegate check --print schema > config/tidegate.schema.json`"
    );
    let schema: serde_json::Value = serde_json::from_str(written).unwrap();
    let ttl = &schema["properties"]["route"]["items"]["properties"]["default_ttl"];
    assert_eq!(ttl["type"], serde_json::json!(["string", "integer"]));
    let statuses = &schema["properties"]["upstream"]["items"]["properties"]["health_status"];
    assert_eq!(statuses["default"], serde_json::json!(["200-399"]));
}

#[test]
fn the_default_file_says_nothing_that_an_empty_one_does_not() {
    let empty = format!("{:?}", policy(UPSTREAM));
    assert_eq!(format!("{:?}", policy(&render::default_file())), empty);
}

#[test]
fn every_default_written_out_is_the_default() {
    let mut text = String::new();
    for table in TABLES.iter().filter(|table| !table.optional) {
        text += &format!("{}\n", table.header());
        for option in table.options {
            if !matches!(option.shown, Shown::Unset(_)) {
                text += &format!("{} = {}\n", option.name, option.toml());
            }
        }
    }
    assert_eq!(
        format!("{:?}", policy(&text)),
        format!("{:?}", policy(UPSTREAM))
    );
}

#[test]
fn every_example_is_valid() {
    let mut text = String::new();
    for table in TABLES {
        text += &format!("{}\n", table.header());
        for option in table.options {
            text += &format!("{} = {}\n", option.name, option.toml());
        }
    }
    let text = text
        .replace("/etc/ssl/certs/internal-ca.pem", "/ca.pem")
        .replace("/etc/tidegate/clients-ca.pem", "/ca.pem")
        .replace("/run/secrets/sticky", "/secret")
        .replace("/run/secrets/identity", "/secret")
        .replace("/run/secrets/jwt", "/secret")
        .replace("/run/secrets/api-keys", "/keys")
        .replace("/etc/tidegate/jwks.json", "/jwks")
        .replace("/run/secrets/redis", "/secret")
        .replace("/run/secrets/admin", "/secret")
        .replace("/etc/tidegate/redis-ca.pem", "/ca.pem")
        .replace("redis://redis", "rediss://redis")
        .replace("/etc/letsencrypt/live/example.com", "/cert")
        .replace("/etc/tidegate/office.txt", "/list")
        .replace("/var/lib/GeoIP/GeoLite2-Country.mmdb", "/country")
        .replace("/var/lib/GeoIP/GeoLite2-ASN.mmdb", "/asn")
        .replace("/run/secrets/challenge", "/secret")
        .replace("/srv/blog/static", "/static")
        .replace("/etc/tidegate/maintenance.html", "/page");
    policy(&text);
}

#[test]
fn left_out_is_good() {
    let policy = policy(UPSTREAM);
    assert_eq!(policy.listen.address.to_string(), "127.0.0.1:8080");
    assert_eq!(policy.listen.threads, 2);
    assert_eq!(policy.listen.head.head_bytes, 32 << 10);
    assert_eq!(policy.cache.max_memory, 256 << 20);
    assert_eq!(policy.cache.max_object_size, 16 << 20);
    assert_eq!(policy.cache.cdn_id, "unique");
    assert_eq!(policy.upstreams[0].name, "127.0.0.1:8000");
    assert_eq!(policy.upstreams[0].max_in_flight, None);
    let route = policy.route("any.example", "/x").unwrap();
    assert_eq!((route.id, route.name.as_str(), route.upstream), (0, "/", 0));
    assert_eq!(route.store.default_ttl, None);
    assert_eq!(
        route.store.stale_if_error,
        Some(Duration::from_secs(86_400))
    );
    assert_eq!(route.store.set_cookie, SetCookie::Refuse);
    assert_eq!(route.accept_encoding, AcceptEncoding::Identity);
    assert!(route.cache && route.eager && route.query.is_identity());
    assert_eq!(policy.log.access, Output::Stdout);
    assert_eq!(policy.route("", "*").map(|route| route.id), Some(0));
}

#[test]
fn a_health_check_is_what_was_written() {
    let text = format!(
        "{UPSTREAM}host = \"app\"\nhealth = \"http\"\nhealth_path = \"/up?x\"\nhealth_headers = [\"A: b\"]\nhealth_status = [\"204\"]\n"
    );
    let health = policy(&text).upstreams[0].health.clone().unwrap();
    assert_eq!(health.interval, Duration::from_secs(5));
    assert_eq!(health.timeout, Duration::from_secs(2));
    assert_eq!((health.hysteresis.rise, health.hysteresis.fall), (2, 3));
    let Check::Http {
        method,
        asking,
        expects,
    } = health.check
    else {
        panic!("{:?}", health.check);
    };
    assert_eq!(method, "GET");
    assert_eq!(asking.target, "/up?x");
    assert_eq!(asking.host.as_deref(), Some("app"));
    assert_eq!(asking.fields.len(), 1);
    assert!(expects.judge_status(204).is_ok() && expects.judge_status(200).is_err());
    assert_eq!(policy(UPSTREAM).upstreams[0].health, None);
    // Switched off, with all it will need again.
    let off = format!("{UPSTREAM}health = \"off\"\nhealth_path = \"/up\"\n");
    assert_eq!(policy(&off).upstreams[0].health, None);
}

#[test]
fn what_a_health_check_has_no_use_for_is_told() {
    for (options, what, help) in [
        (
            "health_path = \"/up\"",
            "`health_path` without a health check",
            "add `health = \"http\"`, or leave it out",
        ),
        (
            "health = \"tcp\"\nhealth_path = \"/up\"",
            "`tcp` has no use for `health_path`",
            "leave it out, or make `health` `http`",
        ),
        (
            "health = \"http\"\nhealth_service = \"a.B\"",
            "`http` has no use for `health_service`",
            "leave it out, or make `health` `grpc`",
        ),
        (
            "health = \"grpc\"\nhealth_status = [\"200\"]",
            "`grpc` has no use for `health_status`",
            "leave it out, or make `health` `http`",
        ),
        (
            "health = \"grpc\"\nprotocol = \"http1\"",
            "`grpc` needs HTTP/2, and `protocol` is `http1`",
            "leave `protocol` out, or make it `http2`",
        ),
        (
            "health = \"http\"\nhealth_method = \"HEAD\"\nhealth_json = \"status=ok\"",
            "the answer to a HEAD has no body to look into",
            "leave it out, or make `health_method` `GET`",
        ),
        (
            "health = \"http\"\nhealth_status = []",
            "without any status no answer would do",
            "leave it out, or name some: `[\"200-399\"]`",
        ),
        (
            "health = \"htpp\"\nhealth_path = \"/up\"",
            "`health`: `htpp` is not one of",
            "did you mean `\"http\"`?",
        ),
    ] {
        let (_, told, helps) = one_mistake(&format!("{UPSTREAM}{options}\n"));
        assert!(told.starts_with(what), "{told}");
        assert_eq!(helps, help, "{options}");
    }
}

#[test]
fn proxies_are_trusted_by_name_alone() {
    let listen = policy(UPSTREAM).listen;
    assert_eq!(listen.trusted_proxies, []);
    assert_eq!(
        (listen.claimed_by, listen.proxy_protocol),
        (ClaimedBy::XForwardedFor, false)
    );
    assert_eq!(listen.client_ipv6_prefix, 64);
    let listen = policy(&format!(
        "{UPSTREAM}[listen]\ntrusted_proxies = [\"10.0.0.0/8\", \"::ffff:192.0.2.1\"]\n\
         client_ip_header = \"forwarded\"\nproxy_protocol = true\nclient_ipv6_prefix = 48\n"
    ));
    let listen = listen.listen;
    let networks = ["10.0.0.0/8", "192.0.2.1/32"].map(|network| network.parse().unwrap());
    assert_eq!(listen.trusted_proxies, networks);
    assert_eq!(
        (listen.claimed_by, listen.proxy_protocol),
        (ClaimedBy::Forwarded, true)
    );
    assert_eq!(listen.client_ipv6_prefix, 48);
    for (options, line, what, help) in [
        (
            "proxy_protocol = true",
            4,
            "with `proxy_protocol` only trusted proxies are let in, and there are none",
            "add `trusted_proxies` with their addresses or networks",
        ),
        (
            "client_ip_header = \"forwarded\"",
            4,
            "nobody is trusted to say who clients are",
            "add `trusted_proxies`, or leave it out",
        ),
        (
            "client_ip_header = \"x-real-ip\"",
            4,
            "`client_ip_header`: `x-real-ip` is not one of \"x-forwarded-for\", \"forwarded\"",
            "write \"x-forwarded-for\" or \"forwarded\"",
        ),
        (
            "client_ipv6_prefix = 65",
            4,
            "`client_ipv6_prefix`: `65` is more than 64",
            "anything from 32 to 64 will do",
        ),
        (
            "proxy_protocol = true\ntrusted_proxies = [\"10.0.0.1/8\"]",
            5,
            "`trusted_proxies`: `10.0.0.1/8` is not an address or a network",
            "did you mean `\"10.0.0.0/8\"`, or the address `\"10.0.0.1\"`?",
        ),
    ] {
        let told = one_mistake(&format!("{UPSTREAM}[listen]\n{options}\n"));
        assert_eq!(told, (line, what.to_owned(), help.to_owned()));
    }
}

#[test]
fn who_may_purge_is_named_by_network_or_list() {
    let lists = "[[list]]\nname = \"pests\"\nnetworks = [\"192.0.2.66\"]\n\
        [[list]]\nname = \"office\"\nnetworks = [\"192.0.2.0/24\"]\n";
    let route = |from: &str| format!("{UPSTREAM}{lists}[[route]]\npurge_from = [{from}]\n");
    let policy = policy(&route(
        "\"10.0.0.0/8\", \"::ffff:192.0.2.1\", \"list:office\"",
    ));
    let from = &policy.routes[0].purge_from;
    let listed = |lists| Listed {
        lists,
        denied: None,
    };
    let holds = |ip: &str, lists| from.holds(ip.parse().unwrap(), listed(lists));
    assert!(holds("10.1.2.3", 0) && holds("::ffff:10.1.2.3", 0) && holds("192.0.2.1", 0));
    assert!(holds("2001:db8::1", 0b10) && !holds("2001:db8::1", 0b01));
    assert!(!holds("11.0.0.1", 0));
    for (from, what, help) in [
        (
            "\"list:ofice\"",
            "no list is called `ofice`",
            "did you mean `\"list:office\"`?",
        ),
        (
            "\"list:\"",
            "`purge_from`: `` is not a name",
            "up to 64 of letters, digits, `.`, `_`, `:`, `/`, `*` and `-`",
        ),
        (
            "\"office\"",
            "`purge_from`: `office` is not an address, a network or a list",
            "as in `\"10.0.0.0/8\"`, or `\"list:NAME\"` for a list",
        ),
    ] {
        let told = one_mistake(&route(from));
        assert_eq!(told, (10, what.to_owned(), help.to_owned()));
    }
}

#[test]
fn a_page_is_purged_as_it_is_keyed() {
    let policy = policy(&format!(
        "{UPSTREAM}[[route]]\nquery_drop = [\"utm_*\"]\n[[route]]\nhosts = [\"b.example\"]\nquery_sort = true\n"
    ));
    for (url, host, target) in [
        ("https://A.example/%7e?utm_x=1&b&a", "a.example", "/~?b&a"),
        ("http://b.example:81?b&a", "b.example:81", "/?a&b"),
        ("http://a.example", "a.example", "/"),
    ] {
        let page = What::Page {
            host: host.to_owned(),
            target: target.to_owned(),
        };
        assert_eq!(policy.page(url), Ok(page), "{url}");
    }
    assert!(policy.page("/p").is_err());
}

#[test]
fn a_server_is_an_url_or_a_table() {
    let policy = policy(
        r#"
[[upstream]]
max_in_flight = 10
servers = [
  "http://127.0.0.1:8000",
  { address = "http://app.internal:8001", weight = 0, backup = true, max_in_flight = 8 },
  { address = "http://127.0.0.1:${PORT}", weight = "${THREADS}" },
]
"#,
    );
    let upstream = &policy.upstreams[0];
    let told = upstream.servers.iter().map(|server| {
        let most = upstream.max_in_flight_at(server);
        let most = most.unwrap_or_default();
        (server.authority.clone(), server.weight, server.backup, most)
    });
    let told: Vec<_> = told.collect();
    let told: Vec<_> = told
        .iter()
        .map(|(addr, weight, backup, most)| (addr.as_str(), *weight, *backup, *most))
        .collect();
    let wanted = [
        ("127.0.0.1:8000", 1, false, 10),
        ("app.internal:8001", 0, true, 8),
        ("127.0.0.1:8000", 3, false, 10),
    ];
    assert_eq!(told, wanted);
    // A name may stand for several.
    assert_eq!(upstream.most_in_flight(), 10 + 8 * 8 + 10);
}

#[test]
fn a_route_may_have_less_than_its_upstream() {
    let of = |upstream: &str, route: &str| {
        let text =
            format!("[[upstream]]\n{upstream}\n[[route]]\n[[route]]\npath = \"/x\"\n{route}\n");
        policy(&text).routes[1].bulkhead
    };
    let eight = "servers = [\"http://127.0.0.1:8000\"]\nmax_in_flight = 8";
    assert_eq!(of(eight, ""), None);
    let route = rendezvous::hash([b"/x".as_slice()]) as usize;
    let has = |most| Some(Bulkhead { route, most });
    assert_eq!(of(eight, "max_in_flight = 8"), has(8));
    // What is learned, or may be several, may come to be more.
    let learned = "servers = [\"http://127.0.0.1:8000\"]";
    assert_eq!(of(learned, "max_in_flight = 100"), has(100));
    let name = "servers = [\"http://app:8000\"]\nmax_in_flight = 8";
    assert_eq!(of(name, "max_in_flight = 100"), has(100));
    let two = "servers = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]\nmax_in_flight = 8";
    assert_eq!(of(two, "max_in_flight = 16"), has(16));
}

#[test]
fn what_is_wrong_with_a_server_is_told_where_it_stands() {
    for (server, line_and_column, what, help) in [
        (
            "{ address = \"http://a b\" }",
            (3, 13),
            "`servers`: `address`: `http://a b` is not a server's URL",
            "a host and a port, as in `\"http://127.0.0.1:8000\"`",
        ),
        (
            "{ address = \"http://[::1]\", weight = 1001 }",
            (3, 38),
            "`servers`: `weight`: `1001` is more than 1000",
            "anything from 0 to 1000 will do",
        ),
        (
            "{ address = \"http://[::1]\", weight = -1 }",
            (3, 38),
            "`servers`: `weight`: `-1` is not a whole number",
            "write digits only, as in `64`",
        ),
        (
            "{ address = \"http://[::1]\", weight = 0.5 }",
            (3, 38),
            "`servers`: `weight`: expected a whole number, found a fraction",
            "",
        ),
        (
            "{ address = \"http://[::1]\", backup = \"yes\" }",
            (3, 38),
            "`servers`: `backup`: expected true or false, found a text",
            "write it without quotes: `yes`",
        ),
        (
            "{ address = \"http://[::1]\", max_in_flight = 0 }",
            (3, 45),
            "`servers`: `max_in_flight`: `0` is less than 1",
            "anything from 1 to 65536 will do",
        ),
        (
            "{ address = \"http://[::1]\", wieght = 2 }",
            (3, 29),
            "`servers`: unknown key `wieght`",
            "did you mean `weight`?",
        ),
        (
            "{ weight = 2 }",
            (3, 1),
            "`servers`: `address` is missing",
            "write it: `address = \"http://127.0.0.1:8000\"`",
        ),
        (
            "8000",
            (3, 1),
            "`servers`: expected a server's URL, found a number",
            "put it in quotes: `\"8000\"`",
        ),
    ] {
        let text = format!("[[upstream]]\nservers = [\n{server},\n\"http://127.0.0.1:1\"]\n");
        let report = with(&text, &Flags::default()).expect_err(server);
        let told = report.entries();
        assert_eq!(told.len(), 1, "{report}");
        let at = told[0].line.zip(told[0].column);
        assert_eq!(at, Some(line_and_column), "{report}");
        assert_eq!(told[0].what, what);
        assert_eq!(told[0].help.unwrap_or_default(), help);
    }
    let two = "[[upstream]]\nservers = [{ address = 1, weight = true }]\n";
    assert_eq!(mistakes(two).len(), 2);
    let open =
        "[[upstream]]\nservers = [\n{ address = \"http://[::1]\" },\n[[route]]\npath = \"/x\"\n";
    assert_eq!(one_mistake(open).0, 2);
}

#[test]
fn how_requests_are_spread_is_what_was_written() {
    let text = format!(
        "{UPSTREAM}balance = \"consistent_hash\"\nhash_by = \"header:X-Tenant\"\nhash_bound = 150\n\
         sticky = \"srv\"\nsticky_key = \"file:/secret\"\n"
    );
    let policy = policy(&text);
    let upstream = &policy.upstreams[0];
    assert_eq!(upstream.balance, Balance::ConsistentHash { most: 150 });
    let tenant = HashBy::Header(http::HeaderName::from_static("x-tenant"));
    assert_eq!(upstream.hashes(), Some(&tenant));
    let sticky = upstream.sticky.as_ref().unwrap();
    // Without the line's end of its file.
    assert_eq!(sticky.key.as_ref().unwrap().0, b"0123456789abcdef");
    let route = policy.route("any.example", "/").unwrap();
    assert_eq!(
        route.own_cookies,
        ["tidegate_*", "__Host-tidegate-*", "srv"]
    );
    assert!(route.harmless.covers(b"srv") && !route.harmless.covers(b"srvs"));
    let shown = format!("{policy:?}");
    assert!(!shown.contains("0123456789"), "{shown}");
}

#[test]
fn a_limit_is_what_was_written() {
    let text = format!(
        "{UPSTREAM}[[route]]\nname = 'all'\n[[route]]\nname = 'login'\npath = '/login'\n\
         [[limit]]\nrate = '100/min'\n\
         [[limit]]\nname = 'in'\npreset = 'login'\nroutes = ['login']\nburst = 3\npenalty = '0'\n\
         [[limit]]\nkey = 'header:x-api-key+route'\nconcurrency = 8\ncounts = 'origin'\naction = 'stale'\n"
    );
    let limits = policy(&text).limits;
    let names: Vec<_> = limits.iter().map(|limit| limit.name.as_str()).collect();
    assert_eq!(names, ["limit-1", "in", "limit-3"]);
    let rate = |count, burst| {
        let per = Duration::from_secs(60);
        Some(Rate { count, per, burst })
    };
    assert_eq!(limits[0].rate, rate(100, 100));
    assert_eq!(limits[0].action, Action::Refuse);
    assert_eq!(limits[1].rate, rate(5, 3));
    assert_eq!(limits[1].penalty, Duration::ZERO);
    assert_eq!(limits[1].routes, [1]);
    assert_eq!(limits[1].methods, ["POST"]);
    assert_eq!((limits[2].rate, limits[2].concurrency), (None, Some(8)));
    assert_eq!(
        (limits[2].counts, limits[2].key.0.len()),
        (Counts::Origin, 2)
    );
    assert!(policy(UPSTREAM).limits.is_empty());
}

#[test]
fn a_fleet_is_what_was_written() {
    let text = format!(
        "{UPSTREAM}[redis]\nservers = ['redis://a', 'rediss://b:7000/2']\nusername = 'me'\n\
         password = 'file:/secret'\nca = '/ca.pem'\ntimeout = '20ms'\nprefix = 'shop'\nproxies = 4\n\
         [[limit]]\nrate = '5/s'\n[[limit]]\nrate = '5/s'\nshared = false\n"
    );
    let policy = policy(&text);
    let shared: Vec<_> = policy.limits.iter().map(|limit| limit.shared).collect();
    assert_eq!(shared, [true, false]);
    let shown = format!("{policy:?}");
    assert!(!shown.contains("0123456789"), "{shown}");
    let fleet = policy.fleet.unwrap();
    assert_eq!(fleet.proxies, 4);
    let redis = fleet.redis;
    let places: Vec<_> = redis
        .servers
        .iter()
        .map(|s| (&*s.host, s.port, s.tls, s.database))
        .collect();
    assert_eq!(places, [("a", 6379, false, 0), ("b", 7000, true, 2)]);
    assert_eq!(redis.username.as_deref(), Some("me"));
    assert_eq!(redis.password.as_deref(), Some("0123456789abcdef"));
    assert_eq!(
        (redis.timeout, &*redis.prefix),
        (Duration::from_millis(20), "shop")
    );
    assert!(self::policy(UPSTREAM).fleet.is_none());
}

#[test]
fn what_is_wrong_with_a_fleet_is_told_where_it_stands() {
    for (redis, line, what, help) in [
        (
            "servers = ['redis:6379']",
            4,
            "is not a Redis server",
            "redis://",
        ),
        (
            "servers = ['redis://:hush@redis']",
            4,
            "is not a Redis server",
            "password",
        ),
        ("password = 'x'", 4, "without `servers`", "servers ="),
        (
            "proxies = 4\nservers = ['redis://a']\nusername = 'me'",
            6,
            "without `password`",
            "add it",
        ),
        (
            "proxies = 4\nservers = ['redis://a']\nca = '/ca.pem'",
            6,
            "without TLS",
            "rediss",
        ),
        (
            "proxies = 4\nservers = ['rediss://a']\nca = '/none'",
            6,
            "/none",
            "PEM",
        ),
        (
            "proxies = 4\nservers = ['redis://a']\npassword = 'file:/none'",
            6,
            "/none",
            "a file",
        ),
        (
            "proxies = 4\nservers = ['redis://a']\nprefix = '{a}'",
            6,
            "is not a prefix",
            "letters",
        ),
        (
            "servers = ['redis://a']",
            4,
            "without `proxies`",
            "proxies = 4",
        ),
        ("proxies = 4", 4, "without `servers`", "servers ="),
        (
            "servers = ['redis://a']\nproxies = 0",
            5,
            "less than 1",
            "256",
        ),
        (
            "[[limit]]\nrate = '1/s'\nshared = true",
            6,
            "nobody to share it with",
            "[redis]",
        ),
        (
            "proxies = 4\nservers = ['redis://a']\n[[limit]]\nconcurrency = 3\nshared = true",
            8,
            "`shared` without",
            "rate",
        ),
    ] {
        let told = mistakes(&format!("{UPSTREAM}[redis]\n{redis}\n"));
        let [(at, is, helps)] = &told[..] else {
            panic!("{redis}: {told:?}");
        };
        assert_eq!(*at, line, "{redis}");
        assert!(is.contains(what), "{redis}: {is}");
        assert!(helps.contains(help), "{redis}: {helps}");
        assert!(!format!("{told:?}").contains("hush"), "{told:?}");
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    for text in [
        "[redis]\npassword = 'hush'",
        "[redis]\npassword = hush",
        "[redis]\npassword = 'hush",
        "[redis]\npassword = ['hush']",
        "[redis]\nproxies = 4\nservers = ['redis://:hush@redis']",
        "[redis]\nproxies = 4\nservers = 'redis://:hush@redis'",
        "[redis]\nproxies = 4\nservers = [\n'redis://:hush@redis',\n]",
        "[redis]\npasword = \"hush\"",
        "[reddis]\npassword = \"hush\"",
        "password = \"hush\"",
        "[[upstream]]\nsticky = 'a'\nsticky_key = 'hush'",
        "[[upstream]]\nservers = ['http://me:hush@a']",
    ] {
        let report = with(&format!("{text}\n"), &Flags::default()).expect_err(text);
        let shown = report.render(false);
        assert!(!shown.contains("hush"), "{shown}");
        let entries = serde_json::to_string(&report.entries()).unwrap();
        assert!(!entries.contains("hush"), "{entries}");
    }
}

#[test]
fn clients_of_all_limits_have_room_together() {
    let clients = |text: &str| -> Vec<usize> {
        let limits = policy(&format!("{UPSTREAM}{text}")).limits;
        limits.iter().map(|limit| limit.max_clients).collect()
    };
    let limit = "[[limit]]\nrate = '5/s'\n";
    assert_eq!(clients(limit), [1_000_000]);
    let two = clients(&limit.repeat(2));
    assert!(
        two[0] == two[1] && (600_000..670_000).contains(&two[0]),
        "{two:?}"
    );
    assert_eq!(
        clients(&format!(
            "[cache]\nmax_memory = '1GiB'\n{}",
            limit.repeat(3)
        )),
        [1_000_000; 3]
    );
    let written = clients(&format!("{limit}max_clients = 1000000\n{limit}"));
    assert!(
        written[0] == 1_000_000 && (300_000..360_000).contains(&written[1]),
        "{written:?}"
    );
    // 16 of them at the least there is.
    let few = clients(&format!(
        "[cache]\nmax_memory = '8MiB'\n{}",
        limit.repeat(16)
    ));
    assert!(few.iter().all(|few| *few >= 1_000), "{few:?}");
    for (text, line, what, help) in [
        (
            "max_clients = 2000000\n",
            5,
            "no room for 2000000",
            "would fit",
        ),
        (
            "max_clients = 1000000\n[[limit]]\nrate = '5/s'\nmax_clients = 1000000\n",
            8,
            "no room for",
            "would fit",
        ),
        (
            "max_clients = 39321\n[[limit]]\nrate = '5/s'\n[cache]\nmax_memory = '8MiB'\n",
            6,
            "no room for clients is left",
            "less",
        ),
    ] {
        let (at, is, helps) = one_mistake(&format!("{UPSTREAM}{limit}{text}"));
        assert_eq!(at, line, "{is}");
        assert!(is.contains(what) && helps.contains(help), "{is}: {helps}");
    }
}

#[test]
fn what_is_wrong_with_a_limit_is_told_where_it_stands() {
    for (limit, line, what, help) in [
        ("", 3, "limits nothing", "rate = "),
        ("rate = '100'", 4, "is not a rate", "100/min"),
        ("rate = '100/minute'", 4, "is not a rate", "\"100/min\""),
        ("rate = '2000000/s'", 4, "a million", "between"),
        (
            "rate = '1/d'\nburst = 1000",
            5,
            "longer than a year",
            "less",
        ),
        ("rate = '1/600d'", 4, "less than one a year", "between"),
        ("rate = '5/min'\ncost = '6'", 5, "no more than 5", "burst"),
        ("concurrency = 3\nburst = 5", 5, "without `rate`", "rate"),
        (
            "concurrency = 3\npenalty = '1m'",
            5,
            "`penalty` without",
            "rate",
        ),
        (
            "concurrency = 3\naction = 'delay'",
            5,
            "doesn't wait",
            "rate",
        ),
        ("concurrency = 0", 4, "less than 1", "10000"),
        (
            "rate = '5/min'\nmax_delay = '2s'",
            5,
            "without `delay`",
            "action",
        ),
        (
            "rate = '5/min'\nroutes = ['blgo']",
            5,
            "no route is called",
            "\"blog\"",
        ),
        (
            "rate = '5/min'\nkey = 'address'",
            5,
            "tells clients apart",
            "\"ip\"",
        ),
        (
            "rate = '5/min'\nmethods = ['post']",
            5,
            "is not a method",
            "capitals",
        ),
        (
            "rate = '5/min'\naction = 'drop'",
            5,
            "is not one of",
            "refuse",
        ),
        ("preset = 'signin'", 4, "is not one of", "login"),
        (
            "rate = '5/min'\nrates = '5/min'",
            5,
            "unknown key `rates`",
            "`rate`",
        ),
    ] {
        let text = format!("{UPSTREAM}[[limit]]\n{limit}\n[[route]]\nname = 'blog'\n");
        let told = one_mistake(&text);
        assert_eq!(told.0, line, "{limit}: {told:?}");
        assert!(told.1.contains(what), "{limit}: {told:?}");
        assert!(told.2.contains(help), "{limit}: {told:?}");
    }
    let two = "[[limit]]\nname = 'a'\nrate = '1/s'\n".repeat(2);
    let told = one_mistake(&format!("{UPSTREAM}{two}"));
    assert!(told.1.contains("another limit is called `a`"), "{told:?}");
    let many = "[[limit]]\nrate = '1/s'\n".repeat(17);
    let told = one_mistake(&format!("{UPSTREAM}{many}"));
    assert_eq!(told.0, 3 + 2 * 16);
    assert!(told.1.contains("more than 16"), "{told:?}");
}

#[test]
fn who_is_challenged_is_what_was_written() {
    const ROUTES: &str =
        "[[route]]\nname = \"shop\"\n[[route]]\nname = \"feed\"\npath = \"/feed\"\n";
    let read = |text: &str| policy(&format!("{UPSTREAM}{ROUTES}[challenge]\n{text}"));
    for (text, on) in [
        ("", [false, false]),
        ("when = \"off\"\nroutes = [\"shop\"]", [false, false]),
        ("when = \"asked\"", [false, false]),
        ("when = \"always\"", [true, true]),
        ("when = \"always\"\nroutes = [\"feed\"]", [false, true]),
    ] {
        let policy = read(text);
        let is_on = policy
            .routes
            .iter()
            .map(|route| policy.challenge.is_on(route));
        assert_eq!(is_on.collect::<Vec<_>>(), on, "{text}");
    }
    let lists =
        ["a", "b", "c"].map(|name| format!("[[list]]\nname = \"{name}\"\nnetworks = [\"::1\"]\n"));
    let policy = read(&format!(
        "when = \"asked\"\nexempt = [\"c\", \"a\"]\n{}",
        lists.concat()
    ));
    assert_eq!(policy.challenge.exempt, 0b101);
    let policy = read("difficulty = 20\npass = \"2h\"\nsecret = \"file:/secret\"");
    let terms = &policy.challenge.terms;
    assert_eq!(
        (terms.bits, terms.pass, terms.solve_within),
        (20, 7200, 300)
    );
    assert!(policy.challenge.key.is_some() && read("").challenge.key.is_none());
    let shown = format!("{policy:?}");
    assert!(!shown.contains("0123456789"), "{shown}");
}

#[test]
fn what_contradicts_itself_about_challenges_is_told() {
    const ROUTE: &str = "[[route]]\nname = \"shop\"\n";
    for (text, line, what, help) in [
        (
            "routes = [\"shop\"]",
            6,
            "`routes` without a challenge",
            "add `when = \"always\"`, or leave it out",
        ),
        (
            "when = \"always\"\nroutes = [\n\"shop\",\n\"shops\",\n]",
            9,
            "no route is called `shops`",
            "did you mean `\"shop\"`?",
        ),
        (
            "when = \"off\"\nroutes = [\"elsewhere\"]",
            7,
            "no route is called `elsewhere`",
            "give the route that is meant a `name`, and write that",
        ),
        (
            "when = \"asked\"\nroutes = [\"shop\"]",
            7,
            "`routes` where only rules and limits ask for a pass",
            "make `when` `\"always\"`, or leave them out",
        ),
        (
            "exempt = [\"bots\"]\n[[list]]\nname = \"bots\"\nnetworks = [\"::1\"]",
            6,
            "`exempt` without a challenge",
            "add `when = \"always\"`, or leave it out",
        ),
        (
            "when = \"asked\"\nexempt = [\"bots\",\n\"bot\"]\n[[list]]\nname = \"bots\"\nnetworks = [\"::1\"]",
            8,
            "no list is called `bot`",
            "did you mean `\"bots\"`?",
        ),
        (
            "when = \"always\"\nexempt = [\"bots\"]",
            7,
            "no list is called `bots`",
            "add a `[[list]]` with `name = \"bots\"`",
        ),
        (
            "when = \"off\"\n[[limit]]\nrate = \"1/s\"\naction = \"challenge\"",
            9,
            "`challenge` while `[challenge]` is off",
            "write `when = \"asked\"` there, or `\"always\"`",
        ),
        (
            "when = \"sometimes\"\n[[limit]]\nrate = \"1/s\"\naction = \"challenge\"",
            6,
            "`when`: `sometimes` is not one of \"off\", \"asked\", \"always\"",
            "write \"off\" or \"asked\" or \"always\"",
        ),
        (
            "solve_within = \"1h\"",
            6,
            "`solve_within`: a pass lasts from its puzzle on, and would end unused",
            "make `pass` longer than `solve_within`",
        ),
        (
            "pass = \"5m\"",
            6,
            "`pass`: a pass lasts from its puzzle on, and would end unused",
            "make `pass` longer than `solve_within`",
        ),
        (
            "difficulty = 25",
            6,
            "`difficulty`: `25` is more than 24",
            "anything from 1 to 24 will do",
        ),
        (
            "secret = \"file:/gone\"",
            6,
            "`secret`: /gone: entity not found",
            "a file that this user can read",
        ),
    ] {
        let told = one_mistake(&format!("{UPSTREAM}{ROUTE}[challenge]\n{text}\n"));
        assert_eq!(told, (line, what.to_owned(), help.to_owned()), "{text}");
    }
    // What is wrong with a name is told once.
    let text = format!(
        "{UPSTREAM}[[route]]\nname = \"a b\"\n[challenge]\nroutes = [\"a\"]\nwhen = \"always\"\n"
    );
    assert_eq!(mistakes(&text).len(), 1);
}

#[test]
fn what_contradicts_itself_about_spreading_is_told() {
    const SERVERS: &str = "[[upstream]]\nservers = [{ address = \"http://[::1]\"";
    let servers = |rest: &str| format!("{SERVERS}{rest} }}]\n");
    for (text, what, help) in [
        (
            servers(", weight = 0"),
            "every server has weight 0, so nobody is asked",
            "leave one of them at 1 or more",
        ),
        (
            servers(", backup = true"),
            "every server is a backup, and of none",
            "make those that are to be asked no backups",
        ),
        (
            format!("{UPSTREAM}hash_by = \"address\"\n"),
            "`hash_by` without `consistent_hash`",
            "make `balance` `consistent_hash`, or leave it out",
        ),
        (
            format!("{UPSTREAM}balance = \"round_robin\"\nhash_bound = 200\n"),
            "`hash_bound` without `consistent_hash`",
            "make `balance` `consistent_hash`, or leave it out",
        ),
        (
            format!("{UPSTREAM}balance = \"consistent_hash\"\nhash_bound = 99\n"),
            "`hash_bound`: `99` is less than 100",
            "anything from 100 to 10000 will do",
        ),
        (
            format!("{UPSTREAM}sticky_key = \"0123456789abcdef\"\n"),
            "`sticky_key` without sticky sessions",
            "add `sticky = \"app_server\"`, or leave it out",
        ),
        (
            format!("{UPSTREAM}sticky = \"a b\"\nsticky_key = \"0123456789abcdef\"\n"),
            "`sticky`: `a b` is not a cookie's name",
            "up to 64 letters, digits, `_`, `-` and `.`, as in `\"app_server\"`",
        ),
        (
            format!("{UPSTREAM}sticky = \"srv\"\nsticky_key = \"hunter2\"\n"),
            "`sticky_key`: a secret of less than 16 bytes",
            "make one with `openssl rand -hex 32`",
        ),
        (
            format!("{UPSTREAM}sticky = \"srv\"\nsticky_key = \"file:/gone\"\n"),
            "`sticky_key`: /gone: entity not found",
            "a file that this user can read",
        ),
        (
            format!(
                "{UPSTREAM}name = \"a\"\nsticky = \"srv\"\n{UPSTREAM}name = \"b\"\nsticky = \"srv\"\n[[route]]\nupstream = \"a\"\n"
            ),
            "another upstream's cookie is called `srv` as well",
            "give each a `name` of its own",
        ),
    ] {
        let (_, told, helps) = one_mistake(&text);
        assert_eq!(told, what);
        assert_eq!(helps, help, "{text}");
    }
    // Switched off by a word, with all it will need again.
    policy(&format!(
        "{UPSTREAM}balance = \"p2c\"\nhash_by = \"address\"\n"
    ));
    policy(&servers(
        ", weight = 0 }, { address = \"http://[::1]:1\", backup = true",
    ));
}

#[test]
fn c58_every_mistake_at_once_each_with_its_line() {
    let text = r#"
max_memory = "1GiB"
[listen]
adress = "127.0.0.1:80"
address = 127.0.0.1:80
threads = "4"
head_deadline = 10
max_fields = 251
[lisen]
[[upstream]]
servers = ["127.0.0.1:8000", "http://a b"]
[[route]]
set_cookie = "striped"
upstream = "127.0.0.1:800"
hosts = "example.com"
[cache]
default_ttl = "1s"
zzz = 1
"#;
    let told = mistakes(text);
    let lines: Vec<_> = told.iter().map(|(line, ..)| *line).collect();
    assert_eq!(
        lines,
        [2, 4, 5, 6, 7, 8, 9, 11, 11, 13, 15, 17, 18],
        "{told:#?}"
    );
    let helps: Vec<_> = told.iter().map(|(_, _, help)| help.as_str()).collect();
    for (at, help) in [
        (0, "put it below `[cache]`"),
        (1, "did you mean `address`?"),
        (2, "did you mean `\"127.0.0.1:80\"`?"),
        (3, "write it without quotes: `4`"),
        (4, "did you mean `\"10s\"`?"),
        (5, "anything from 1 to 250 will do"),
        (6, "did you mean `[listen]`?"),
        (7, "did you mean `\"http://127.0.0.1:8000\"`?"),
        (9, "did you mean `\"strip\"`?"),
        (10, "put it in brackets: `[\"example.com\"]`"),
        (11, "`default_ttl` belongs to `[[route]]`"),
    ] {
        assert_eq!(helps[at], help);
    }
    assert!(helps[12].starts_with("[cache] has max_memory, "));
}

#[test]
fn the_nearest_key() {
    for (key, help) in [
        ("max-memory", "did you mean `max_memory`?"),
        ("Max_Memory", "did you mean `max_memory`?"),
        ("max_memroy", "did you mean `max_memory`?"),
        ("memory", "did you mean `max_memory`?"),
        ("stale_if_error", "`stale_if_error` belongs to `[[route]]`"),
        ("ttl", "did you mean `default_ttl` of `[[route]]`?"),
        (
            "name",
            "`name` belongs to `[[upstream]] or [[route]] or [[list]] or [[rule]] or [[limit]]`",
        ),
    ] {
        let (line, what, told) = one_mistake(&format!("{UPSTREAM}[cache]\n{key} = 1\n"));
        assert_eq!((line, told.as_str()), (4, help), "{what}");
    }
}

#[test]
fn one_syntax_error_is_one_mistake() {
    for (text, line) in [
        ("[listen]\naddress = \"127.0.0.1:80\n", 2),
        (
            "[[upstream]]\nservers = [\n\"http://127.0.0.1:1\",\n[[route]]\npath = \"/x\"\n",
            2,
        ),
        ("[listen\naddress = \"127.0.0.1:80\"\n", 1),
        ("[listen]\nthreads = \n", 2),
        ("[listen]\nthreads = 1\nthreads = 2\n", 3),
        ("[listen]\n= 1\n", 2),
        ("[log]\nlevel = \"\\z\"\n", 2),
    ] {
        let (at, what, _) = one_mistake(text);
        assert_eq!(at, line, "{text}: {what}");
    }
}

#[test]
fn wrong_shapes_of_tables() {
    let (line, what, help) = one_mistake("[upstream]\nservers = [\"http://127.0.0.1:1\"]\n");
    assert_eq!((line, help.as_str()), (1, "write `[[upstream]]`"), "{what}");
    let (line, _, help) = one_mistake(&format!("{UPSTREAM}[[cache]]\n"));
    assert_eq!((line, help.as_str()), (3, "write `[cache]`"));
    let (_, what, _) = one_mistake(&format!("cache = 3\n{UPSTREAM}"));
    assert_eq!(what, "`cache` is a table");
    let inline = "upstream = [{ servers = [\"http://127.0.0.1:1\"], quue = 3 }]\n";
    let (_, _, help) = one_mistake(inline);
    assert_eq!(help, "did you mean `queue`?");
}

#[test]
fn the_environment_fills_texts() {
    let policy = policy(
        "[[upstream]]\nservers = [\"http://127.0.0.1:${PORT}\"]\nname = \"app\"\n\
         [listen]\nthreads = \"${THREADS}\"\n[log]\nhide_query = [\"$${PORT}\"]\n",
    );
    let place = Place::Address(SocketAddr::from(([127, 0, 0, 1], 8000)));
    assert_eq!(policy.upstreams[0].servers[0].place, place);
    assert_eq!(policy.listen.threads, 3);
    assert_eq!(policy.log.hide_query, ["${PORT}"]);

    let (line, what, _) = one_mistake("[[upstream]]\nservers = [\"${NOPE}\"]\n");
    assert_eq!(
        (line, what.as_str()),
        (2, "`NOPE` is not in the environment")
    );
    let (_, what, _) = one_mistake(&format!("{UPSTREAM}[log]\naccess = \"${{PORT\"\n"));
    assert_eq!(what, "`${` without its `}`");
    let (_, what, _) = one_mistake(&format!("{UPSTREAM}host = \"${{EMPTY}}\"\n"));
    assert_eq!(what, "`host`: `` is not a host");
}

#[test]
fn servers_are_addresses_or_names() {
    let policy = policy(
        "[[upstream]]\nservers = [\"http://app.internal\", \"https://six.internal\", \"https://[::1]:8443\"]\n\
         resolver = [\"192.0.2.53\", \"127.0.0.1:5353\", \"[::1]\"]\nresolve_family = \"all\"\nresolve_max = \"5s\"\n",
    );
    let upstream = &policy.upstreams[0];
    let [plain, tls, literal] = upstream.servers.as_slice() else {
        panic!("three servers");
    };
    let name = |host: &str, port| Place::Name {
        host: host.to_owned(),
        port,
    };
    assert_eq!(plain.place, name("app.internal", 80));
    assert_eq!(
        (plain.tls, plain.authority.as_str()),
        (false, "app.internal")
    );
    assert_eq!(tls.place, name("six.internal", 443));
    assert_eq!((tls.tls, tls.sni.as_str()), (true, "six.internal"));
    let address = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 8443));
    assert_eq!(literal.place, Place::Address(address));
    assert_eq!(
        (literal.sni.as_str(), literal.authority.as_str()),
        ("", "[::1]:8443")
    );
    let resolvers: Vec<_> = upstream
        .resolve
        .servers
        .iter()
        .map(SocketAddr::to_string)
        .collect();
    assert_eq!(resolvers, ["192.0.2.53:53", "127.0.0.1:5353", "[::1]:53"]);
    assert_eq!(upstream.resolve.family, Family::All);
    let bounds = upstream.resolve.bounds;
    assert_eq!(
        (bounds.min, bounds.max),
        (Duration::from_secs(1), Duration::from_secs(5))
    );

    let named = "[[upstream]]\nservers = [\"http://app.internal\"]\n";
    for (text, line, part) in [
        (
            format!("{named}resolve_min = \"1m\"\n"),
            3,
            "longer than `resolve_max`",
        ),
        (
            format!("{named}resolver = [\"dns.internal\"]\n"),
            3,
            "not the address of a DNS server",
        ),
        (
            format!("{named}resolver = [\"0.0.0.0\"]\n"),
            3,
            "not the address of a DNS server",
        ),
        (format!("{named}resolve_family = \"ipv5\"\n"), 3, "`ipv5`"),
    ] {
        let (at, what, _) = one_mistake(&text);
        assert!(at == line && what.contains(part), "{at}: {what}");
    }
}

#[test]
fn what_contradicts_itself_is_told_where_it_stands() {
    let two = "[[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]\n\
               [[upstream]]\nname = \"b\"\nservers = [\"http://127.0.0.1:2\"]\n";
    for (text, line, part) in [
        (format!("{two}[[route]]\n"), 7, "names no upstream"),
        (two.to_owned(), 0, "names no upstream"),
        (
            format!("{two}[[route]]\nupstream = \"c\"\n"),
            8,
            "no upstream is called `c`",
        ),
        (
            two.replace("\"b\"", "\"a\"") + "[[route]]\nupstream = \"a\"\n",
            5,
            "another upstream is called `a`",
        ),
        (
            format!("{UPSTREAM}[[route]]\n[[route]]\n"),
            4,
            "has `/` already",
        ),
        (
            format!("{UPSTREAM}[[route]]\nhosts = [\"a.example\", \"A.EXAMPLE\"]\n"),
            4,
            "twice in one route",
        ),
        (
            format!("{UPSTREAM}[[route]]\nname = \"x\"\n[[route]]\nname = \"x\"\npath = \"/y\"\n"),
            6,
            "another route is called `x`",
        ),
        (
            format!("{UPSTREAM}[[route]]\nname = \"/y\"\n[[route]]\npath = \"/y\"\n"),
            4,
            "another route is called `/y`",
        ),
        (
            format!("{UPSTREAM}[listen]\ncertificates = [\"/cert\", \"/no\"]\n"),
            4,
            "the certificate /no can't be used: no such file",
        ),
        (
            format!("{UPSTREAM}[listen]\nclient_ca = \"/ca.pem\"\n"),
            4,
            "needs TLS",
        ),
        (
            format!("{UPSTREAM}[listen]\nredirect_port = 443\n"),
            4,
            "nobody is sent to this port",
        ),
        (
            format!("{UPSTREAM}[listen]\nh2c = true\ncertificates = [\"/cert\"]\n"),
            4,
            "HTTP/2 without TLS",
        ),
        (
            format!("{UPSTREAM}[listen]\nmax_target = \"64KiB\"\n"),
            4,
            "larger than `max_head`",
        ),
        (
            format!("{UPSTREAM}[cache]\nmax_object_size = \"1GiB\"\n"),
            4,
            "larger than `max_memory`",
        ),
        (
            format!("{UPSTREAM}[admin]\naddress = \"127.0.0.1:8080\"\n"),
            4,
            "can't both have",
        ),
        (format!("{UPSTREAM}ca = \"/nope.pem\"\n"), 3, "/nope.pem"),
        (
            format!("{UPSTREAM}max_in_flight = 8\n[[route]]\nmax_in_flight = 9\n"),
            5,
            "together have no more than 8",
        ),
        (
            format!("{UPSTREAM}[[route]]\nharmless_cookies = [\"a b\"]\n"),
            4,
            "harmless_cookies",
        ),
        (
            "[[upstream]]\nname = \"a\"\n".to_owned(),
            1,
            "an upstream without servers",
        ),
        (
            "[[upstream]]\nservers = []\n".to_owned(),
            2,
            "an upstream without servers",
        ),
        (String::new(), 0, "no upstream"),
    ] {
        let (at, what, _) = one_mistake(&text);
        assert!(at == line && what.contains(part), "{text}\n{at}: {what}");
    }
}

#[test]
fn a_small_memory_takes_small_objects_by_itself() {
    let small = policy(&format!("{UPSTREAM}[cache]\nmax_memory = \"8MiB\"\n"));
    assert_eq!(small.cache.max_object_size, 2 << 20);
}

#[test]
fn errors_are_kept_a_second_where_pages_are_kept_by_us() {
    for (options, ttl) in [
        ("", 0),
        ("default_ttl = \"10s\"\n", 1),
        ("default_ttl = \"10s\"\nerror_ttl = 0\n", 0),
        ("error_ttl = \"5s\"\n", 5),
        ("default_ttl = 0\n", 0),
    ] {
        let policy = policy(&format!("{UPSTREAM}[[route]]\n{options}"));
        assert_eq!(
            policy.routes[0].store.error_ttl,
            Duration::from_secs(ttl),
            "{options}"
        );
    }
}

#[test]
fn routes_are_tried_by_host_then_path() {
    let policy = policy(
        "[[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]\n\
         [[upstream]]\nname = \"b\"\nhost = \"B.internal:81\"\nservers = [\"http://127.0.0.1:2\"]\n\
         [[route]]\nupstream = \"a\"\n\
         [[route]]\nupstream = \"b\"\npath = \"/api\"\n\
         [[route]]\nupstream = \"a\"\nhosts = [\"Www.Example.com.\", \"*.example.org\"]\nname = \"www\"\n",
    );
    let order: Vec<_> = policy
        .order()
        .map(|(host, path, route)| format!("{host}{path}={}", route.id))
        .collect();
    assert_eq!(
        order,
        ["www.example.com/=2", "*.example.org/=2", "/api=1", "/=0"]
    );
    let id = |host, path| policy.route(host, path).map(|route| route.id);
    assert_eq!(id("www.example.com", "/api/x"), Some(2));
    assert_eq!(id("other.example", "/api/x"), Some(1));
    let api = policy.route("", "/api").unwrap();
    assert_eq!((api.upstream, api.name.as_str()), (1, "/api"));
    assert_eq!(policy.authority(api), "b.internal:81");
    assert_eq!(policy.authority(&policy.routes[0]), "127.0.0.1:1");
    assert_eq!(policy.routes[2].name, "www");
}

#[test]
fn a_request_without_a_route_has_none() {
    let policy = policy(&format!("{UPSTREAM}[[route]]\npath = \"/api\"\n"));
    assert!(policy.route("x", "/").is_none());
}

#[test]
fn flags_override_the_file() {
    let flags = Flags {
        origins: vec![
            "http://127.0.0.1:1".to_owned(),
            "http://127.0.0.1:2".to_owned(),
        ],
        listen: Some("127.0.0.1:1234".to_owned()),
        admin: Some("off".to_owned()),
        default_ttl: Some("10s".to_owned()),
    };
    let file =
        format!("{UPSTREAM}queue = 7\n[[route]]\ndefault_ttl = \"1s\"\n[[route]]\npath = \"/x\"\n");
    for (text, queue, routes) in [("", 1024, 1), (&file, 7, 2)] {
        let policy = with(text, &flags).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(policy.listen.address.port(), 1234);
        assert_eq!(policy.admin.address, None);
        assert_eq!(
            (policy.upstreams[0].servers.len(), policy.upstreams[0].queue),
            (2, queue)
        );
        assert_eq!(policy.routes.len(), routes);
        for route in &policy.routes {
            assert_eq!(route.store.default_ttl, Some(Duration::from_secs(10)));
        }
    }
}

#[test]
fn mistakes_of_flags_come_with_those_of_the_file() {
    let flags = Flags {
        origins: vec!["127.0.0.1:1".to_owned()],
        listen: Some(":80".to_owned()),
        admin: None,
        default_ttl: Some("5".to_owned()),
    };
    let report = with("[listen]\nx = 1\n", &flags).unwrap_err();
    let flags: Vec<_> = report
        .entries()
        .iter()
        .map(|entry| (entry.flag, entry.line))
        .collect();
    assert_eq!(
        flags,
        [
            (Some("--listen"), None),
            (Some("--default-ttl"), None),
            (Some("--origin"), None),
            (None, Some(2))
        ],
        "{report}"
    );
}

#[test]
fn one_origin_flag_for_two_upstreams_is_a_mistake() {
    let flags = Flags {
        origins: vec!["http://127.0.0.1:1".to_owned()],
        ..Flags::default()
    };
    let two = UPSTREAM
        .repeat(2)
        .replacen("[[upstream]]", "[[upstream]]\nname = \"a\"", 1);
    let report = with(&format!("{two}[[route]]\nupstream = \"a\"\n"), &flags).unwrap_err();
    assert!(report.to_string().contains("2 upstreams"), "{report}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    let report = |path: &Path| load(Some(path), &Flags::default()).unwrap_err().to_string();
    assert!(report(&path).contains("can't read the config file"));
    assert!(report(dir.path()).contains("can't read the config file"));
    std::fs::write(&path, b"[listen]\naddress = \"\xff\"\n").unwrap();
    let told = report(&path);
    assert!(
        told.contains("not UTF-8") && told.contains("t.toml:2:12"),
        "{told}"
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([\\[\\]a-z_.=\"'{},0-9\n#$é-]|\\[\\[route\\]\\]\n|servers = |upstream|= \"\\$\\{|path = \"/)*") {
        if let Err(report) = with(&text, &Flags::default()) {
            proptest::prop_assert!(report.to_string().contains("error: "));
        }
    }
}

#[test]
fn identities() {
    let written = "[identity]\nsecret = \"file:/secret\"\napi_keys = \"file:/keys\"\napi_key_header = \"X-Partner\"\n\
                   jwt_secret = \"${SECRET}\"\njwks_file = \"/jwks\"\njwt_cookie = \"session\"\njwt_issuer = [\"a\"]\n\
                   tier_claim = \"plan\"\n";
    let policy = policy(&format!("{UPSTREAM}{written}"));
    let identity = &policy.identity;
    assert_eq!(identity.secret.as_ref().unwrap().0, b"0123456789abcdef");
    let keys = identity.keys.as_ref().unwrap();
    assert_eq!(
        (keys.file.to_str(), keys.header.as_str()),
        (Some("/keys"), "x-partner")
    );
    let jwt = identity.jwt.as_ref().unwrap();
    assert_eq!(
        jwt.algorithms,
        Algorithm::ALL,
        "all that there are keys for"
    );
    assert_eq!(jwt.secret.as_ref().unwrap().0, b"a secret from outside");
    assert_eq!(
        (jwt.header.as_str(), jwt.cookie.as_deref()),
        ("authorization", Some("session"))
    );
    assert_eq!(
        (jwt.claim.as_str(), jwt.tier_claim.as_deref()),
        ("sub", Some("plan"))
    );
    assert_eq!((jwt.max_bytes, jwt.remembered), (8192, 16384));
    assert_eq!(
        (jwt.terms.issuers.as_slice(), jwt.terms.audiences.len()),
        (&["a".to_owned()][..], 0)
    );
    // Who is asked for with a field that nobody else knows is somebody all the same.
    assert_eq!(policy.credentials, ["x-partner"]);
    let shown = format!("{policy:?}");
    assert!(
        !shown.contains("from outside") && !shown.contains("0123456789abcdef"),
        "{shown}"
    );

    let by = |written: &str| {
        let policy = self::policy(&format!("{UPSTREAM}[identity]\n{written}"));
        policy.identity.jwt.unwrap().algorithms
    };
    assert_eq!(
        by("jwt_secret = \"0123456789abcdef\"\n"),
        [Algorithm::Hs256]
    );
    assert_eq!(by("jwks_file = \"/jwks\"\n"), Algorithm::ALL[1..]);
    assert_eq!(
        by("jwks_file = \"/jwks\"\njwt_algorithms = [\"EdDSA\"]\n"),
        [Algorithm::EdDsa]
    );
    assert!(self::policy(UPSTREAM).identity == crate::limits::IdentitySpec::default());
}

#[test]
fn what_contradicts_itself_about_identities_is_told() {
    let jwt = "jwt_secret = \"0123456789abcdef\"\n";
    for (text, what) in [
        (
            "secret = \"0123456789abcdef\"\n".to_owned(),
            "`secret` without anything that people are known by",
        ),
        (
            "api_keys = \"file:/gone\"\n".into(),
            "`api_keys`: /gone: entity not found",
        ),
        (
            "api_keys = \"/short-keys\"\n".into(),
            "`api_keys`: /short-keys: line 2: a key of less than 16 bytes; make one with `openssl rand -hex 32`",
        ),
        (
            "api_keys = \"/latin1\"\n".into(),
            "`api_keys`: /latin1: this is not UTF-8",
        ),
        (
            "api_key_header = \"X-Key\"\n".into(),
            "`api_key_header` without a list of keys",
        ),
        (
            "jwks_file = \"/keys\"\n".into(),
            "`jwks_file`: /keys: no JSON: invalid number at line 1 column 2",
        ),
        (
            "jwks_file = \"/gone\"\n".into(),
            "`jwks_file`: /gone: entity not found",
        ),
        (
            "jwt_secret = \"hunter2\"\n".into(),
            "`jwt_secret`: a secret of less than 16 bytes",
        ),
        (
            "jwt_secret = \"file:/pem\"\n".into(),
            "`jwt_secret` is a key in PEM, which others may know",
        ),
        (
            "jwt_issuer = [\"a\"]\n".into(),
            "`jwt_issuer` without a key that verifies tokens",
        ),
        (
            "tier_claim = \"plan\"\n".into(),
            "`tier_claim` without a key that verifies tokens",
        ),
        (
            format!("{jwt}jwt_algorithms = [\"RS256\", \"HS256\"]\n"),
            "RS256 verifies by `jwks_file`, and there is none",
        ),
        (
            format!("{jwt}jwks_file = \"/jwks\"\njwt_algorithms = [\"RS256\"]\n"),
            "`jwt_algorithms` has none that verifies by `jwt_secret`",
        ),
        (
            format!("{jwt}jwt_algorithms = [\"none\"]\n"),
            "`jwt_algorithms`: `none` is not one of \"HS256\", \"RS256\", \"ES256\", \"EdDSA\"",
        ),
        (
            format!("{jwt}jwt_max_life = \"1s\"\n"),
            "`jwt_max_life`: `1s` is less than 1m",
        ),
        (
            format!("{jwt}jwt_header = \"Cookie\"\n"),
            "`jwt_header`: `Cookie` is not a field's name",
        ),
        (
            format!("{jwt}api_keys = \"/keys\"\napi_key_header = \"Authorization\"\n"),
            "keys and tokens can't both be in `authorization`",
        ),
    ] {
        let told = mistakes(&format!("{UPSTREAM}[identity]\n{text}"));
        let whats: Vec<_> = told.iter().map(|(_, what, _)| what.as_str()).collect();
        assert_eq!(whats, [what], "{text}");
        assert!(told[0].0 > 3, "it stands on a line: {text}");
    }
}

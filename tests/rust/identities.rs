//! Limits by who somebody is: tokens that are verified, keys of a list, and everybody else by the address.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::http2;
use super::reloads::{change, with};
use super::site::{Client, Origin, Reply, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("identities::two_tiers_as_the_readme_has_them", readme),
        ("identities::bad_tokens_are_the_addresss_own", c43_bad),
        ("identities::who_is_known_is_so_anywhere", anywhere),
        ("identities::tiers_with_presets_and_other_keys", tiers),
        ("identities::limits_by_key_and_by_claim", by_key),
        ("identities::requests_at_once_of_a_tier", at_once),
        (
            "identities::what_the_origin_does_is_the_persons",
            origin_only,
        ),
        (
            "identities::c47_clients_of_tiers_are_bounded_too",
            c47_bounded,
        ),
        ("identities::c59_nothing_of_it_is_shown", c59_secrets),
        ("identities::files_of_keys_may_change", files),
        ("identities::another_config_gives_nobody_more", reloaded),
    ]
}

pub const SECRET: &str = "a secret of the app and of nobody else";

/// A token that ends in ten minutes, signed with a secret.
pub fn token(secret: &str, claims: Value) -> String {
    let mut claims = claims;
    if claims.get("exp").is_none() {
        claims["exp"] = json!(clock::wall().as_secs() + 600);
    }
    signed(json!({"alg": "HS256"}), &claims, |signed| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::sign(&key, signed).as_ref().to_vec()
    })
}

fn signed(header: Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = format!("{}.{}", part(&header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(head.as_bytes()));
    format!("{head}.{signature}")
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The token of a person.
fn of(sub: &str) -> String {
    bearer(&token(SECRET, json!({"sub": sub})))
}

/// What visitors are known by in most tests here.
fn identity() -> String {
    format!("[identity]\njwt_secret = '{SECRET}'\njwt_cookie = 'session'\ntier_claim = 'plan'\n")
}

fn pages() -> Result<Origin, String> {
    Origin::start(|_, conn: &mut Conn| answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"))
}

fn site(origin: &Origin, limits: &str) -> Result<Site, String> {
    Site::start(origin.address, &format!("{}{limits}", identity()))
}

/// How many of so many requests are let in.
fn admitted(client: &mut Client, fields: &str, many: usize) -> Result<usize, String> {
    let mut admitted = 0;
    for _ in 0..many {
        match client.get("/page", fields)?.status {
            200 => admitted += 1,
            429 => {}
            other => return Err(format!("status {other}")),
        }
    }
    Ok(admitted)
}

fn from(address: Ipv4Addr, to: SocketAddr) -> Result<Client, String> {
    let told = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    let address = SocketAddr::from((address, 0));
    socket.bind(&address.into()).map_err(told)?;
    socket.connect(&to.into()).map_err(told)?;
    Client::over(socket.into())
}

fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn limited(site: &Site, action: &str) -> Result<f64, String> {
    let labels = labels(&[("limit", "visitors"), ("action", action)]);
    let metric = site.proxy.metric("tidegate_limited_total", &labels)?;
    metric.ok_or("no such series".to_owned())
}

/// The example of the README, word for word but for where the secret is; first as the trial that it begins with.
fn readme() -> Outcome {
    let readme = include_str!("../../README.md");
    let (_, section) = readme
        .split_once("\n### Who is signed in\n")
        .ok_or("the README has no such section")?;
    let section = section.split("\n##").next().unwrap_or_default();
    let blocks = |kind: &str| {
        let start = format!("```{kind}\n");
        let blocks = section.split(start.as_str()).skip(1);
        let blocks = blocks.filter_map(|rest| rest.split("```").next());
        blocks.map(str::to_owned).collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let secret = folder.path().join("jwt");
    fs::write(&secret, format!("{SECRET}\n")).map_err(|e| e.to_string())?;
    let here = |text: String| text.replace("/run/secrets/jwt", &secret.to_string_lossy());
    let config = here(blocks("toml").concat());
    let script = format!("{}\nprintf %s \"$TOKEN\"", here(blocks("sh").concat()));
    let made = Command::new("sh").args(["-euc", &script]).output();
    let made = made.map_err(|e| e.to_string())?;
    let ada = bearer(&String::from_utf8_lossy(&made.stdout));
    let enforced = config.lines().filter(|line| !line.contains("\"log\""));
    let enforced = enforced.collect::<Vec<_>>().join("\n");
    if enforced.lines().count() + 1 != config.lines().count() {
        return Err("no trial in the README's example".into());
    }
    let origin = pages()?;
    let trial = Site::start(origin.address, &config)?;
    let mut client = trial.client()?;
    equal("nobody is refused", admitted(&mut client, "", 130)?, 130)?;
    equal("nor is she", admitted(&mut client, &ada, 130)?, 130)?;
    let verified = labels(&[("result", "verified")]);
    let verified = trial.proxy.metric("tidegate_tokens_total", &verified)?;
    equal("verified", verified, Some(130.0))?;
    let logged = limited(&trial, "logged")?;
    if !(1.0..=30.0).contains(&logged) || limited(&trial, "refused")? != 0.0 {
        return Err(format!("{logged} of 130 would have been refused"));
    }

    let site = Site::start(origin.address, &enforced)?;
    // What curl shows, line by line.
    let mut asked = 0;
    for block in blocks("console") {
        let commands = block.split("$ curl ").skip(1);
        for command in commands.filter(|command| command.contains(":8080/ ")) {
            let fields = match command.contains("Authorization: Bearer $TOKEN") {
                true => ada.as_str(),
                false => "",
            };
            let reply = site.get("/", fields)?.is(200)?;
            for line in command.lines().skip(1).filter(|line| !line.is_empty()) {
                let (name, value) = line.split_once(": ").ok_or(line)?;
                equal(command, reply.field(name), value)?;
                asked += 1;
            }
        }
    }
    equal("lines that were checked", asked, 4)?;
    let mut client = site.client()?;
    let few = admitted(&mut client, "", 130)?;
    if !(99..=129).contains(&few) {
        return Err(format!("{few} of 130 anonymous ones"));
    }
    equal("signed in", admitted(&mut client, &ada, 130)?, 130)
}

/// Nobody gets another allowance, nor anybody else's, by what was not verified.
fn c43_bad() -> Outcome {
    let origin = pages()?;
    let jwks = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .ok()
        .and_then(|pkcs8| Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).ok())
        .ok_or("no key")?;
    let public = URL_SAFE_NO_PAD.encode(pair.public_key());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public}]});
    fs::write(jwks.path(), set.to_string()).map_err(|e| e.to_string())?;
    let limits = format!(
        "jwks_file = '{}'\n[[limit]]\nname = 'visitors'\nrate = '10/h'\ntiers = {{ signed_in = '1000/h' }}\n\
         [[limit]]\nname = 'people'\nkey = 'jwt:sub'\nrate = '40/h'\n",
        jwks.path().display()
    );
    let site = site(&origin, &limits)?;
    let mut client = site.client()?;
    let good = |sub: &str| {
        let claims = json!({"sub": sub, "exp": clock::wall().as_secs() + 600});
        signed(json!({"alg": "EdDSA"}), &claims, |signed| {
            pair.sign(signed).as_ref().to_vec()
        })
    };
    client.get("/page", &bearer(&good("ada")))?.is(200)?;
    let reply = client.get("/page", "")?.is(200)?;
    equal("told", reply.field("ratelimit"), "")?;

    let now = clock::wall().as_secs();
    let mut bad = Vec::new();
    for n in 0..20 {
        let sub = format!("somebody-{n}");
        let claims = json!({"sub": sub, "plan": "gold", "exp": now + 600});
        let none = |alg: &str| signed(json!({"alg": alg}), &claims, |_| Vec::new());
        let honest = good(&sub);
        let (head, _) = honest.rsplit_once('.').ok_or("no token")?;
        bad.extend([
            none("none"),
            none("None"),
            token("a secret that is another one", claims.clone()),
            // A public key is no secret.
            token(&public, claims.clone()),
            token(SECRET, json!({"sub": sub, "exp": now - 3600})),
            token(
                SECRET,
                json!({"sub": sub, "exp": now + 600, "nbf": now + 300}),
            ),
            token(SECRET, json!({"sub": sub, "exp": null})),
            token(SECRET, json!({"name": sub})),
            format!("{head}.{}", URL_SAFE_NO_PAD.encode([n as u8; 64])),
            signed(json!({"alg": "RS256"}), &claims, |signed| signed.to_vec()),
            head.to_owned(),
            format!("{honest}.x"),
            sub,
        ]);
    }
    let mut let_in = 0;
    for (nth, token) in bad.iter().enumerate() {
        let fields = match nth % 3 {
            0 => format!("Cookie: session={token}\r\n"),
            _ => bearer(token),
        };
        let status = client.get("/page", &fields)?.status;
        let_in += usize::from(status == 200);
    }
    // One was asked for without any.
    equal("all together", let_in, 9)?;
    // A good one twice is as good as none: an app may go by the other.
    let twice = bearer(&good("ada")).repeat(2);
    client.get("/page", &twice)?.is(429)?;
    // And nothing of it was taken from those whose names they bore.
    for n in 0..3 {
        let own = bearer(&token(SECRET, json!({"sub": format!("somebody-{n}")})));
        equal("a person's own", admitted(&mut client, &own, 45)?, 40)?;
    }
    Ok(())
}

fn anywhere() -> Outcome {
    let origin = pages()?;
    let limits = format!(
        "{}trusted_proxies = ['127.0.0.1']\n\
         [[limit]]\nname = 'visitors'\nrate = '3/h'\ntiers = {{ signed_in = '12/h', gold = '20/h' }}\n",
        http2::H2C
    );
    let site = site(&origin, &limits)?;
    let mut client = site.client()?;
    let ada = |plan: &str| token(SECRET, json!({"sub": "ada", "plan": plan}));
    // By other addresses, with another token of hers, in a cookie, over HTTP/2: it is she.
    let via = |address: &str, line: &str| format!("X-Forwarded-For: {address}\r\n{line}");
    for n in 0..4 {
        let line = via(&format!("203.0.113.{n}"), &bearer(&ada("")));
        client.get("/page", &line)?.is(200)?;
    }
    let cookie = format!("Cookie: a=b; session={}\r\n", ada("bronze"));
    equal("by cookie", admitted(&mut client, &cookie, 4)?, 4)?;
    let h2 = http2::Client::connect(site.address)?;
    let value = format!("Bearer {}", ada(""));
    for _ in 0..4 {
        let request = http2::request("GET", "/page", &[("authorization", &value)]);
        equal("over HTTP/2", h2.ask(request, None)?.status, 200)?;
    }
    let request = http2::request("GET", "/page", &[("authorization", &value)]);
    let reply = h2.ask(request, None)?;
    equal("beyond", reply.status, 429)?;
    let policy = "\"visitors\";q=12;w=3600";
    equal("told", reply.field("ratelimit-policy"), policy)?;
    let mut other = from(Ipv4Addr::new(127, 8, 8, 8), site.address)?;
    other.get("/page", &bearer(&ada("")))?.is(429)?;
    // She has another allowance as gold, once; so has everybody at her address who is somebody else, or nobody.
    equal(
        "gold",
        admitted(&mut client, &bearer(&ada("gold")), 30)?,
        20,
    )?;
    equal("bob", admitted(&mut client, &of("bob"), 30)?, 12)?;
    equal("nobody", admitted(&mut client, "", 30)?, 3)?;
    // Once a minute has passed for the hour's share of each.
    site.proxy.advance(Duration::from_secs(300))?;
    equal("later", admitted(&mut client, &bearer(&ada("")), 30)?, 1)
}

fn tiers() -> Outcome {
    let origin = pages()?;
    let limits = "[[route]]\nname = 'all'\n[[route]]\nname = 'blog'\npath = '/blog'\n\
         [[limit]]\nname = 'login'\npreset = 'login'\ntiers = { signed_in = '10/min' }\n\
         [[limit]]\nname = 'search'\npreset = 'search'\nkey = 'ip+route'\nmethods = ['DELETE']\ncounts = 'all'\n\
         rate = '30/h'\nburst = 10\n\
         tiers = { gold = '60/h' }\n";
    let site = site(&origin, limits)?;
    let mut client = site.client()?;
    let mut ask = |method: &str, path: &str, fields: &str, many: usize| {
        let mut admitted = 0;
        let mut last = None;
        for _ in 0..many {
            let reply = client.ask(method, path, fields, b"")?;
            admitted += usize::from(reply.status == 200);
            last = Some(reply);
        }
        Ok::<_, String>((admitted, last.ok_or("nothing asked")?))
    };
    let wait = |reply: &Reply| {
        let retry = reply.field("retry-after");
        retry.parse::<u64>().map_err(|e| e.to_string())
    };
    // The preset's burst and its penalty, for tiers in proportion.
    equal("anonymous", ask("POST", "/page", "", 7)?.0, 5)?;
    let (let_in, reply) = ask("POST", "/page", &of("ada"), 300)?;
    equal("signed in", let_in, 10)?;
    if wait(&reply)? < 600 {
        return Err(format!("no quarter of an hour for who went on: {reply:?}"));
    }
    equal("another", ask("POST", "/page", &of("bob"), 11)?.0, 10)?;
    // Where the key has more than the address, the rest stays.
    let gold = bearer(&token(SECRET, json!({"sub": "ada", "plan": "gold"})));
    for path in ["/page", "/blog"] {
        equal("gold", ask("DELETE", path, &gold, 30)?.0, 20)?;
        // Who has no rate of the limit's counts like the unknown.
        equal("one address", ask("DELETE", path, &of("ada"), 6)?.0, 6)?;
        equal("the same", ask("DELETE", path, &of("bob"), 6)?.0, 4)?;
        equal("the same", ask("DELETE", path, "", 3)?.0, 0)?;
    }
    Ok(())
}

fn by_key() -> Outcome {
    let origin = pages()?;
    let keys = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let (one, two, other) = (
        "0123456789abcdef",
        "fedcba9876543210",
        "a-key-of-another-partner",
    );
    let text = format!("# partners\n{one} partner gold\n{two} partner gold\n{other} other\n");
    fs::write(keys.path(), text).map_err(|e| e.to_string())?;
    let limits = format!(
        "api_keys = '{}'\n\
         [[limit]]\nname = 'keys'\nkey = 'api_key'\nrate = '3/h'\nmethods = ['GET']\ntiers = {{ gold = '9/h' }}\n\
         [[limit]]\nname = 'tenants'\nkey = 'jwt:tenant'\nrate = '4/h'\nmethods = ['DELETE']\n",
        keys.path().display()
    );
    let site = site(&origin, &limits)?;
    let mut client = site.client()?;
    let key = |key: &str| format!("X-Api-Key: {key}\r\n");
    // Two keys of one name are one client.
    equal("gold", admitted(&mut client, &key(one), 5)?, 5)?;
    equal("gold", admitted(&mut client, &key(two), 9)?, 4)?;
    equal("no tier", admitted(&mut client, &key(other), 9)?, 3)?;
    // Keys that nobody has are all the address's.
    for n in 0..9 {
        let made_up = key(&format!("a-key-that-nobody-has-{n}"));
        equal(
            "made up",
            admitted(&mut client, &made_up, 1)?,
            usize::from(n < 3),
        )?;
    }
    equal("none", admitted(&mut client, "", 1)?, 0)?;
    let mut other = from(Ipv4Addr::new(127, 8, 8, 9), site.address)?;
    equal("elsewhere", admitted(&mut other, "", 9)?, 3)?;

    let mut delete = |fields: &str, many: usize| {
        let mut admitted = 0;
        for _ in 0..many {
            admitted += usize::from(client.ask("DELETE", "/page", fields, b"")?.status == 200);
        }
        Ok::<_, String>(admitted)
    };
    let of =
        |sub: &str, tenant: Value| bearer(&token(SECRET, json!({"sub": sub, "tenant": tenant})));
    equal("acme", delete(&of("ada", json!("acme")), 3)?, 3)?;
    equal("acme", delete(&of("bob", json!("acme")), 3)?, 1)?;
    equal("ajax", delete(&of("ada", json!("ajax")), 9)?, 4)?;
    equal("no tenant", delete(&of("ada", json!(["acme"])), 2)?, 2)?;
    equal("no token", delete("", 9)?, 2)
}

fn at_once() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| match asked.target.as_str() {
        "/broken" => Err("broken".into()),
        _ => answer(conn, 200, "Cache-Control: no-store\r\n", b"page"),
    })?;
    let site = site(
        &origin,
        "[[upstream]]\nretries = 0\nbreaker_after = 0\neject_after = 0\n\
         [[limit]]\nname = 'visitors'\nrate = '1000/s'\nconcurrency = 1\ntiers = { signed_in = '2000/s' }\n",
    )?;
    // Each gives its place back, whoever's it is.
    let mut client = site.client()?;
    for fields in ["", &of("ada"), &of("bob")] {
        for _ in 0..4 {
            client.get("/page", fields)?.is(200)?;
            client.get("/broken", fields)?.is(502)?;
        }
    }
    equal("refused", limited(&site, "refused")?, 0.0)
}

fn origin_only() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        std::thread::sleep(Duration::from_millis(30));
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let site = site(
        &origin,
        "[[limit]]\nname = 'visitors'\nrate = '3/h'\ncounts = 'origin'\nmethods = ['GET']\ntiers = { signed_in = '6/h' }\n\
         [[limit]]\nname = 'time'\nrate = '10/h'\ncost = 'origin_ms'\nmethods = ['DELETE']\ntiers = { signed_in = '100/h' }\n",
    )?;
    let mut client = site.client()?;
    let mut statuses = |method: &str, fields: &str, targets: &[&str]| {
        let ask = |target: &&str| Ok(client.ask(method, target, fields, b"")?.status);
        targets.iter().map(ask).collect::<Result<Vec<_>, String>>()
    };
    // What is stored is free.
    let all = statuses("GET", "", &["/1", "/1", "/1", "/2", "/3", "/4", "/1"])?;
    equal("anonymous", all, vec![200, 200, 200, 200, 200, 429, 200])?;
    let more = ["/1", "/5", "/6", "/7", "/8", "/9", "/10", "/11"];
    let all = statuses("GET", &of("ada"), &more)?;
    equal(
        "signed in",
        all,
        vec![200, 200, 200, 200, 200, 200, 200, 429],
    )?;
    // The debt is hers, and hers alone.
    for fields in ["", &of("bob")] {
        let all = statuses("DELETE", fields, &["/"; 9])?;
        if all[0] != 200 || !all.contains(&429) {
            return Err(format!("{all:?}"));
        }
    }
    let all = statuses("DELETE", &of("ada"), &["/"])?;
    equal("another", all, vec![200])
}

fn c47_bounded() -> Outcome {
    let origin = pages()?;
    let site = site(
        &origin,
        "[[limit]]\nname = 'visitors'\nrate = '50/h'\nmax_clients = 100\ntiers = { signed_in = '2/h' }\n",
    )?;
    let mut client = site.client()?;
    equal("ada", admitted(&mut client, &of("ada"), 5)?, 2)?;
    let before = site.proxy.series()?;
    for n in 0..1000 {
        client.get("/page", &of(&format!("person-{n}")))?.is(200)?;
    }
    let remembered = site.metric("tidegate_limit_clients")?;
    if remembered > 300.0 {
        return Err(format!("{remembered} remembered of 100"));
    }
    // She is not forgotten for them, and they leave no series behind.
    equal("ada", admitted(&mut client, &of("ada"), 5)?, 0)?;
    equal("series", site.proxy.series()?, before)
}

fn c59_secrets() -> Outcome {
    let origin = pages()?;
    let keys = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let key = "a-key-that-is-a-secret";
    fs::write(keys.path(), format!("{key} name-of-partner gold\n")).map_err(|e| e.to_string())?;
    let limits = format!(
        "api_keys = '{}'\n[[limit]]\nname = 'visitors'\nrate = '1/h'\ntiers = {{ signed_in = '2/h' }}\n",
        keys.path().display()
    );
    let everybody = fs::Permissions::from_mode(0o644);
    fs::set_permissions(keys.path(), everybody).map_err(|e| e.to_string())?;
    let site = site(&origin, &limits)?;
    let events = || fs::read_to_string(site.dir.path().join("stdout")).unwrap_or_default();
    eventually("a warning", || {
        let is_told = events().contains("everybody on this machine can read this secret");
        Ok(is_told.then_some(()))
    })?;
    let mut client = site.client()?;
    let forged = token("a secret of others", json!({"sub": "name-of-forger"}));
    let token = token(
        SECRET,
        json!({"sub": "name-of-person", "plan": "name-of-plan"}),
    );
    for fields in [
        bearer(&token),
        bearer(&forged),
        format!("X-Api-Key: {key}\r\n"),
        format!("Cookie: session={token}\r\n"),
        "X-Api-Key: a-key-that-is-none\r\n".to_owned(),
    ] {
        for _ in 0..3 {
            client.get("/page", &fields)?;
        }
    }
    let log = site.dir.path().join("access.log");
    let log = eventually("all of it in the log", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        Ok((log.lines().count() == 15).then_some(log))
    })?;
    let metrics = Client::connect(site.proxy.admin())?
        .get("/metrics", "")?
        .text();
    for (result, many) in [("verified", 6.0), ("signature", 3.0)] {
        let labels = labels(&[("result", result)]);
        let counted = site.proxy.metric("tidegate_tokens_total", &labels)?;
        equal(result, counted, Some(many))?;
    }
    for (what, text) in [
        ("log", log),
        ("metrics", metrics),
        ("events", events()),
        ("errors", site.proxy.said()),
    ] {
        for secret in [
            &*token,
            &*forged,
            key,
            SECRET,
            "name-of-",
            "a-key-that-",
            "eyJ",
        ] {
            if text.contains(secret) {
                return Err(format!("{secret} in the {what}"));
            }
        }
    }
    Ok(())
}

fn files() -> Outcome {
    let origin = pages()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("keys");
    let write = |text: &str| fs::write(&path, text).map_err(|e| e.to_string());
    write("the-first-of-all-keys\n")?;
    let limits = format!(
        "api_keys = '{}'\n[[limit]]\nname = 'visitors'\nrate = '1/d'\ntiers = {{ signed_in = '1000/d' }}\n",
        path.display()
    );
    let site = site(&origin, &limits)?;
    let mut client = site.client()?;
    let key = |key: &str| format!("X-Api-Key: {key}\r\n");
    equal("none", admitted(&mut client, "", 3)?, 1)?;
    equal(
        "a key",
        admitted(&mut client, &key("the-first-of-all-keys"), 3)?,
        3,
    )?;
    equal(
        "another",
        admitted(&mut client, &key("the-second-of-all-keys"), 3)?,
        0,
    )?;
    write("the-second-of-all-keys\n")?;
    eventually("the other key", || {
        let known = admitted(&mut client, &key("the-second-of-all-keys"), 1)?;
        Ok((known == 1).then_some(()))
    })?;
    equal(
        "the first",
        admitted(&mut client, &key("the-first-of-all-keys"), 3)?,
        0,
    )?;
    // What will not do changes nothing.
    write("short\n")?;
    let refused = labels(&[("result", "refused")]);
    eventually("the refusal", || {
        let reloads = site.proxy.metric("tidegate_key_reloads_total", &refused)?;
        Ok((reloads == Some(1.0)).then_some(()))
    })?;
    equal(
        "still",
        admitted(&mut client, &key("the-second-of-all-keys"), 3)?,
        3,
    )
}

fn reloaded() -> Outcome {
    let origin = pages()?;
    let limits = "[[limit]]\nname = 'visitors'\nrate = '2/h'\ntiers = { signed_in = '3/h' }\n";
    let site = site(&origin, limits)?;
    let mut client = site.client()?;
    equal("ada", admitted(&mut client, &of("ada"), 2)?, 2)?;
    equal("nobody", admitted(&mut client, "", 1)?, 1)?;
    // Another tier beside, by another claim; nobody has said what identities are hashed with.
    let more = "[identity]\ntier_claim = 'rank'\n\
         [[limit]]\ntiers = { gold = '9/h', signed_in = '3/h' }\n";
    change(&site, &with(&site, more)?)?;
    let gold = bearer(&token(SECRET, json!({"sub": "ada", "rank": "gold"})));
    equal("ada", admitted(&mut client, &of("ada"), 5)?, 1)?;
    equal("nobody", admitted(&mut client, "", 5)?, 1)?;
    equal("gold", admitted(&mut client, &gold, 5)?, 5)?;
    // And back again, with what tokens have to say besides.
    let other = "[identity]\njwt_issuer = ['https://id.example']\n";
    change(&site, &with(&site, other)?)?;
    equal("gold", admitted(&mut client, &gold, 5)?, 0)?;
    let issued = json!({"iss": "https://id.example", "sub": "ada", "rank": "gold"});
    let issued = bearer(&token(SECRET, issued));
    equal("issued", admitted(&mut client, &issued, 10)?, 9)
}

//! What knowing who asks costs: nanoseconds a request, by what it brings.

use super::support::report::{median, table};
use super::support::sys;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tidegate::limits::{Identities, IdentitySpec, JwtSpec, KeySpec};
use tidegate::rules::client::Client;
use tidegate::rules::secret::Secret;
use tidegate::rules::time::{Moment, Now};
use tidegate::rules::token::{Algorithm, Terms};
use tidegate::telemetry::Metrics;

const SECRET: &str = "a secret of these measurements";
const KEY: &str = "0123456789abcdef";
const WALL: u64 = 1_700_000_000;
/// Tokens that are not seen twice, and requests that bring the same.
const NEW: usize = 2_000;
const SAME: usize = 100_000;

fn part(json: &str) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

/// The token of a person, like those of apps: some 250 bytes.
fn token(algorithm: &str, person: usize, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = format!(
        r#"{{"iss":"https://id.example","sub":"person-{person}","plan":"gold","iat":{WALL},"exp":{}}}"#,
        WALL + 600
    );
    let head = format!(
        "{}.{}",
        part(&format!(r#"{{"alg":"{algorithm}"}}"#)),
        part(&claims)
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(head.as_bytes()));
    format!("{head}.{signature}")
}

/// What a browser sends, and a line more.
fn request(line: Option<(HeaderName, String)>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("host", "example.com"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "_ga=GA1.2.3.4; theme=dark"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    if let Some((name, value)) = line {
        fields.insert(name, HeaderValue::try_from(value).expect("a field's value"));
    }
    fields
}

/// The median of several rounds, in nanoseconds of this thread for each of `requests`.
fn nanoseconds(
    rounds: usize,
    requests: &[HeaderMap],
    each: usize,
    mut fresh: impl FnMut() -> Identities,
) -> f64 {
    let client = Client::of(IpAddr::V4(Ipv4Addr::LOCALHOST), 64);
    let now = Now {
        mono: Moment(0),
        wall: WALL,
    };
    let round = |_| {
        let identities = fresh();
        let began = sys::thread_cpu();
        for at in 0..each {
            black_box(identities.standing(&requests[at % requests.len()], client, now));
        }
        (sys::thread_cpu() - began) as f64 / each as f64
    };
    median(&(0..rounds).map(round).collect::<Vec<_>>())
}

pub fn measure(quick: bool) {
    let rounds = if quick { 3 } else { 9 };
    let random = SystemRandom::new();
    let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let made = EcdsaKeyPair::generate_pkcs8(how, &random);
    let ec = made.and_then(|pkcs8| {
        EcdsaKeyPair::from_pkcs8(how, pkcs8.as_ref(), &random).map_err(|_| ring::error::Unspecified)
    });
    let made = Ed25519KeyPair::generate_pkcs8(&random);
    let ed = made.and_then(|pkcs8| {
        Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| ring::error::Unspecified)
    });
    let (Ok(ec), Ok(ed)) = (ec, ed) else { return };
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let [x, y, public] =
        [x, y, ed.public_key().as_ref()].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    let jwks = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}},{{"kty":"OKP","crv":"Ed25519","x":"{public}"}}]}}"#
    );
    let spec = IdentitySpec {
        secret: None,
        keys: Some(KeySpec {
            file: "keys".into(),
            header: HeaderName::from_static("x-api-key"),
        }),
        jwt: Some(JwtSpec {
            algorithms: Algorithm::ALL.to_vec(),
            secret: Some(Secret(SECRET.into())),
            jwks: Some("jwks".into()),
            header: AUTHORIZATION,
            cookie: Some("session".to_owned()),
            terms: Terms {
                issuers: Vec::new(),
                audiences: Vec::new(),
                leeway: Duration::from_secs(60),
                max_life: Duration::from_secs(3600),
            },
            claim: "sub".to_owned(),
            tier_claim: Some("plan".to_owned()),
            max_bytes: 8192,
            remembered: 16_384,
        }),
        tiers: vec!["signed_in".to_owned(), "gold".to_owned()],
        claims: Vec::new(),
    };
    let fresh =
        || Identities::of(&spec, Some(KEY), Some(&jwks), &Metrics::new()).expect("it is right");
    let secret = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let by_secret = |signed: &[u8]| hmac::sign(&secret, signed).as_ref().to_vec();
    let by_ec = |signed: &[u8]| {
        let signature = ec.sign(&random, signed);
        signature.map_or_else(|_| Vec::new(), |signature| signature.as_ref().to_vec())
    };
    let by_ed = |signed: &[u8]| ed.sign(signed).as_ref().to_vec();
    let bearer = |token: String| request(Some((AUTHORIZATION, format!("Bearer {token}"))));
    let all = |algorithm: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let people = 0..NEW;
        let tokens = people.map(|person| bearer(token(algorithm, person, sign)));
        tokens.collect::<Vec<_>>()
    };
    let key = (HeaderName::from_static("x-api-key"), KEY.to_owned());
    let rows = [
        ("nothing", vec![request(None)], SAME),
        ("an API key", vec![request(Some(key))], SAME),
        (
            "a token, seen before",
            vec![bearer(token("HS256", 0, by_secret))],
            SAME,
        ),
        ("a new token, HS256", all("HS256", &by_secret), NEW),
        ("a new token, ES256", all("ES256", &by_ec), NEW),
        ("a new token, EdDSA", all("EdDSA", &by_ed), NEW),
        (
            "a forged one, EdDSA",
            all("EdDSA", &|_: &[u8]| vec![7; 64]),
            NEW,
        ),
    ];
    let rows = rows.map(|(what, requests, each)| {
        let nanoseconds = nanoseconds(rounds, &requests, each, fresh);
        vec![what.to_owned(), format!("{nanoseconds:.0}")]
    });
    println!("{}", table(&["a request with", "ns to know whose"], &rows));
}

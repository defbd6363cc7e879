//! Nobody is known by what was not verified. The input is a request's fields, `$T` a good token in them and `$K` a good key; behind
//! an empty line follows a file of keys or of a key set.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tidegate::limits::identities::{check_jwks, check_keys};
use tidegate::limits::{Identities, IdentitySpec, JwtSpec, KeySpec};
use tidegate::rules::client::Client;
use tidegate::rules::secret::Secret;
use tidegate::rules::time::{Moment, Now};
use tidegate::rules::token::{Algorithm, Terms, Token};
use tidegate::telemetry::Metrics;

const SECRET: &str = "a secret of the fuzzers own";
const KEY: &str = "0123456789abcdef";
/// Signed with the secret, for `ada`, until ten minutes from now.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEiLCJleHAiOjE3MDAwMDA2MDB9.-vxYw_nqgQMhs3quArkWreZLaUY3PS-UhaYPKyyPWOI";
/// Of RFC 8037 §A.2, whose private part signs nothing here.
const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const NOW: Now = Now {
    mono: Moment(0),
    wall: 1_700_000_000,
};

thread_local! {
    static KNOWS: Identities = identities();
}

pub fn run(data: &[u8]) {
    let (fields, file) = super::halves(data);
    let fields = replaced(&replaced(fields, b"$T", TOKEN), b"$K", KEY);
    let fields = super::header_map(&fields);
    let client = Client::of(IpAddr::V4(Ipv4Addr::LOCALHOST), 64);
    KNOWS.with(|knows| {
        let standing = knows.standing(&fields, client, NOW);
        assert_eq!(
            knows.standing(&fields, client, NOW),
            standing,
            "asked again"
        );
        if standing.key.is_some() {
            let only = only(&fields, "x-api-key").expect("one line");
            assert!(only.ends_with(KEY.as_bytes()), "{fields:?}");
        }
        if standing.token.is_some() {
            let lines = fields.get_all(AUTHORIZATION).iter().count();
            let by_bearer = only(&fields, AUTHORIZATION.as_str()).is_some_and(|line| {
                line[..line.len().min(7)].eq_ignore_ascii_case(b"bearer ")
                    && line[7..].trim_ascii() == TOKEN.as_bytes()
            });
            let mut cookies = fields.get_all("cookie").iter();
            let by_cookie = cookies.any(|line| {
                let mut parts = line.as_bytes().windows(TOKEN.len());
                parts.any(|part| part == TOKEN.as_bytes())
            });
            assert!(by_bearer || (by_cookie && lines < 2), "{fields:?}");
        }
    });
    let _ = Token::read(data);
    if let Ok(text) = std::str::from_utf8(file) {
        let _ = check_jwks(text);
        if let Err(why) = check_keys(text) {
            let shown = text
                .split_ascii_whitespace()
                .any(|word| word.len() > 15 && why.contains(word));
            assert!(!shown, "a mistake shows a key: {why}");
        }
    }
}

/// The value of the only line of this name.
fn only<'f>(fields: &'f HeaderMap, name: &str) -> Option<&'f [u8]> {
    let mut lines = fields.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(line.as_bytes()),
        _ => None,
    }
}

fn replaced(text: &[u8], what: &[u8], by: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|some| some == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by.as_bytes());
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn identities() -> Identities {
    let spec = IdentitySpec {
        secret: Some(Secret(SECRET.into())),
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
            remembered: 256,
        }),
        tiers: vec!["gold".to_owned()],
        claims: vec!["tenant".to_owned()],
    };
    Identities::of(&spec, Some(KEY), Some(JWKS), &Metrics::new()).expect("it is right")
}

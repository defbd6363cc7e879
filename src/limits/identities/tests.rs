//! Tokens and keys as people and attackers bring them, signed by keys made here.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
};
use serde_json::{Value, json};

use super::*;
use crate::limits::{Kind, Tier};
use crate::rules::time::Moment;
use crate::rules::token::{Algorithm, Terms};

const WALL: u64 = 1_700_000_000;
const SECRET: &[u8] = b"a secret of the app and of nobody else";
/// Made for these tests by `openssl genrsa 2048`, since ring makes none.
const RSA: &[u8] = include_bytes!("test-rsa.pk8");

fn now() -> Now {
    at(0)
}

fn at(seconds: u64) -> Now {
    Now {
        mono: Moment(seconds * 1000),
        wall: WALL + seconds,
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Who can sign.
enum Signer {
    Secret(Vec<u8>),
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn secret() -> Signer {
        Signer::Secret(SECRET.to_vec())
    }

    fn rsa() -> Signer {
        Signer::Rsa(rsa::KeyPair::from_pkcs8(RSA).unwrap())
    }

    fn ec() -> Signer {
        let (how, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        Signer::Ec(EcdsaKeyPair::from_pkcs8(how, pkcs8.as_ref(), &random).unwrap())
    }

    fn ed() -> Signer {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Signer::Secret(_) => "HS256",
            Signer::Rsa(_) => "RS256",
            Signer::Ec(_) => "ES256",
            Signer::Ed(_) => "EdDSA",
        }
    }

    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, signed).as_ref().to_vec()
            }
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature)
                    .unwrap();
                signature
            }
            Signer::Ec(pair) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
        }
    }

    /// Its public key, as a key set has it.
    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Signer::Secret(secret) => json!({"kty": "oct", "k": b64(secret)}),
            Signer::Rsa(pair) => {
                let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)})
            }
            Signer::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)})
            }
            Signer::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())})
            }
        };
        if !kid.is_empty() {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    fn token(&self, claims: Value) -> String {
        self.token_with(json!({"alg": self.algorithm(), "typ": "JWT"}), claims)
    }

    fn token_with(&self, header: Value, claims: Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

fn ada() -> Value {
    json!({"sub": "ada", "exp": WALL + 600})
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn spec() -> JwtSpec {
    JwtSpec {
        algorithms: Algorithm::ALL.to_vec(),
        secret: Some(Secret(SECRET.to_vec())),
        jwks: Some("jwks.json".into()),
        header: http::header::AUTHORIZATION,
        cookie: Some("session".to_owned()),
        terms: Terms {
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(60),
            max_life: Duration::from_secs(86_400),
        },
        claim: "sub".to_owned(),
        tier_claim: Some("plan".to_owned()),
        max_bytes: 8192,
        remembered: 1024,
    }
}

fn whole(jwt: JwtSpec) -> IdentitySpec {
    IdentitySpec {
        secret: Some(Secret(b"what identities are hashed by".to_vec())),
        keys: Some(KeySpec {
            file: "keys".into(),
            header: HeaderName::from_static("x-api-key"),
        }),
        jwt: Some(jwt),
        tiers: vec!["silver".to_owned(), "gold".to_owned()],
        claims: vec!["sub".to_owned(), "tenant".to_owned()],
    }
}

const KEYS: &str = "0123456789abcdef app gold\nfedcba9876543210 app\nthe-key-of-another\n";

struct Stand {
    identities: Identities,
    metrics: Arc<Metrics>,
}

impl Stand {
    fn new(jwt: JwtSpec, jwks: &str) -> Stand {
        let metrics = Arc::new(Metrics::new());
        let identities = Identities::of(&whole(jwt), Some(KEYS), Some(jwks), &metrics);
        Stand {
            identities: identities.unwrap(),
            metrics,
        }
    }

    fn of(signers: &[&Signer]) -> Stand {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk("")).collect();
        Stand::new(spec(), &set(&keys))
    }

    fn secret() -> Stand {
        Stand::of(&[&Signer::ed()])
    }

    fn ask(&self, lines: &[(&str, &str)], client: Client, now: Now) -> Standing {
        self.identities.standing(&fields(lines), client, now)
    }

    fn bearer(&self, token: &str) -> Standing {
        self.bearer_at(token, now())
    }

    fn bearer_at(&self, token: &str, now: Now) -> Standing {
        let value = format!("Bearer {token}");
        self.ask(&[("authorization", &value)], client(1), now)
    }

    /// Nobody, for this reason.
    fn refuses(&self, token: &str, flaw: Flaw) {
        let before = self.count(flaw.label());
        assert_eq!(self.bearer(token), Standing::default(), "{token}");
        assert_eq!(self.count(flaw.label()), before + 1, "{flaw:?}: {token}");
    }

    fn count(&self, result: &str) -> u64 {
        value(
            &self.metrics,
            &format!("tidegate_tokens_total{{result=\"{result}\"}}"),
        )
    }
}

fn value(metrics: &Metrics, series: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

fn client(n: u32) -> Client {
    Client::of(IpAddr::from(Ipv4Addr::from_bits(n)), 64)
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::try_from(*name).unwrap();
        fields.append(name, HeaderValue::try_from(*value).unwrap());
    }
    fields
}

/// Who `ada` is, by the issuer that is none.
fn ada_is(stand: &Stand) -> Known {
    let standing = stand.bearer(&Signer::secret().token(ada()));
    assert_eq!(standing.kind(), Kind::Jwt);
    standing.known().unwrap()
}

#[test]
fn each_algorithm_verifies_by_its_key() {
    let (rsa, ec, ed) = (Signer::rsa(), Signer::ec(), Signer::ed());
    let stand = Stand::of(&[&rsa, &ec, &ed]);
    let is = ada_is(&stand);
    for signer in [&rsa, &ec, &ed] {
        let standing = stand.bearer(&signer.token(ada()));
        assert_eq!(standing.known(), Some(is), "{}", signer.algorithm());
        assert_eq!(standing.claim(0), Some(is.id));
        assert_eq!(standing.claim(1), None);
    }
    assert_eq!(stand.count("verified"), 4);
    for signer in [Signer::ec(), Signer::ed(), Signer::Secret(vec![7; 32])] {
        stand.refuses(&signer.token(ada()), Flaw::Signature);
    }
}

/// The examples of RFC 7515 §A.1 to §A.3 and RFC 8037 §A.4: signatures that others have made.
#[test]
fn the_examples_of_the_standards() {
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let then = Now {
        mono: Moment(0),
        wall: 1_300_819_000,
    };
    let jwks = set(&[
        json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
    ]);
    let key =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let stand = Stand::new(
        JwtSpec {
            secret: Some(Secret(URL_SAFE_NO_PAD.decode(key).unwrap())),
            claim: "iss".to_owned(),
            ..spec()
        },
        &jwks,
    );
    for (header, signature) in [
        (
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ] {
        let token = format!("{header}.{CLAIMS}.{signature}");
        assert_eq!(stand.bearer_at(&token, then).kind(), Kind::Jwt, "{header}");
    }
    let ed = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let jwks = Jwks::read(ed).unwrap();
    let key = jwks.find(Algorithm::EdDsa, None).unwrap();
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    assert!(key.verifies(signed, &URL_SAFE_NO_PAD.decode(signature).unwrap()));
}

/// A public key is known to everybody, so it must never be what an HMAC is checked by; nor may a token choose its way.
#[test]
fn an_algorithm_is_the_keys_own() {
    let (rsa, ed) = (Signer::rsa(), Signer::ed());
    let Signer::Rsa(pair) = &rsa else { panic!() };
    let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
    let only = |algorithms: &[Algorithm], secret: bool| {
        let spec = JwtSpec {
            algorithms: algorithms.to_vec(),
            secret: secret.then(|| Secret(SECRET.to_vec())),
            ..spec()
        };
        Stand::new(spec, &set(&[rsa.jwk("r"), ed.jwk("e")]))
    };
    let all = only(&Algorithm::ALL, true);
    for public in [
        pair.public().as_ref().to_vec(),
        public.n.clone(),
        rsa.jwk("r").to_string().into_bytes(),
        set(&[rsa.jwk("r")]).into_bytes(),
        b64(&public.n).into_bytes(),
        Vec::new(),
    ] {
        let forger = Signer::Secret(public);
        for kid in ["r", "e", "x"] {
            let header = json!({"alg": "HS256", "kid": kid});
            all.refuses(&forger.token_with(header, ada()), Flaw::Signature);
        }
        only(&Algorithm::ALL, false).refuses(&forger.token(ada()), Flaw::NoKey);
        only(&[Algorithm::Rs256], true).refuses(&forger.token(ada()), Flaw::Algorithm);
    }
    // Signed in one way, and said to be in another.
    for (signer, alg, kid, flaw) in [
        (&rsa, "EdDSA", "r", Flaw::NoKey),
        (&rsa, "ES256", "r", Flaw::NoKey),
        (&rsa, "HS256", "r", Flaw::Signature),
        (&rsa, "EdDSA", "e", Flaw::Signature),
        (&ed, "RS256", "r", Flaw::Signature),
        (&ed, "RS256", "e", Flaw::NoKey),
        (&rsa, "none", "r", Flaw::Algorithm),
        (&rsa, "PS256", "r", Flaw::Algorithm),
    ] {
        let header = json!({"alg": alg, "kid": kid});
        all.refuses(&signer.token_with(header, ada()), flaw);
    }
    // Where only one way is allowed, all others are not, whatever there is a key for.
    let pinned = only(&[Algorithm::EdDsa], true);
    pinned.refuses(&rsa.token(ada()), Flaw::Algorithm);
    pinned.refuses(&Signer::secret().token(ada()), Flaw::Algorithm);
    assert_eq!(pinned.bearer(&ed.token(ada())).kind(), Kind::Jwt);
    // `none`, with and without what would be a signature.
    let claims = b64(ada().to_string());
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = b64(json!({"alg": alg}).to_string());
        for signature in ["", "AAAA"] {
            all.refuses(&format!("{header}.{claims}.{signature}"), Flaw::Algorithm);
        }
    }
    // A key that comes along is nobody's.
    let header =
        json!({"alg": "EdDSA", "jwk": Signer::ed().jwk(""), "jku": "https://evil.example/"});
    all.refuses(&Signer::ed().token_with(header, ada()), Flaw::Signature);
}

#[test]
fn what_it_says_is_judged() {
    let stand = Stand::new(
        JwtSpec {
            terms: Terms {
                issuers: vec!["https://id.example".to_owned()],
                audiences: vec!["shop".to_owned()],
                ..spec().terms
            },
            ..spec()
        },
        &set(&[Signer::ed().jwk("")]),
    );
    let good =
        json!({"iss": "https://id.example", "aud": ["shop"], "sub": "ada", "exp": WALL + 600});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        Signer::secret().token(claims)
    };
    assert_eq!(
        stand.bearer(&Signer::secret().token(good.clone())).kind(),
        Kind::Jwt
    );
    assert_eq!(stand.bearer(&with("sub", json!(7))).kind(), Kind::Jwt);
    for (name, value, flaw) in [
        ("iss", json!("https://other.example"), Flaw::Issuer),
        ("aud", json!("other"), Flaw::Audience),
        ("exp", json!(WALL - 60), Flaw::Expired),
        ("exp", json!(WALL + 86_401), Flaw::Lifetime),
        ("nbf", json!(WALL + 61), Flaw::TooEarly),
        ("sub", json!(""), Flaw::Nobody),
        ("sub", json!(1.5), Flaw::Nobody),
        ("sub", json!({"id": "ada"}), Flaw::Nobody),
        ("exp", json!("soon"), Flaw::Malformed),
    ] {
        stand.refuses(&with(name, value), flaw);
    }
    let mut endless = good.clone();
    endless.as_object_mut().unwrap().remove("exp");
    stand.refuses(&Signer::secret().token(endless), Flaw::Lifetime);
}

#[test]
fn what_is_no_token_is_nobodys() {
    let stand = Stand::secret();
    let token = Signer::secret().token(ada());
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = head.split_once('.').unwrap();
    for (token, flaw) in [
        ("..".to_owned(), Flaw::Malformed),
        ("null".to_owned(), Flaw::Malformed),
        (head.to_owned(), Flaw::Malformed),
        (format!("{token}.x"), Flaw::Malformed),
        (format!("{token}="), Flaw::Malformed),
        (format!("{token}, Bearer {token}"), Flaw::Malformed),
        (format!("!{header}.{claims}.{signature}"), Flaw::Malformed),
        (
            format!("{header}.{}.{signature}", &claims[1..]),
            Flaw::Malformed,
        ),
        (format!("{header}.{claims}."), Flaw::Signature),
        (
            format!("{header}.{claims}.{}", &signature[..40]),
            Flaw::Signature,
        ),
        (
            format!("{header}.{claims}.{}", b64([0; 32])),
            Flaw::Signature,
        ),
        (
            format!(
                "{header}.{}.{signature}",
                b64(json!({"sub": "root", "exp": WALL + 600}).to_string())
            ),
            Flaw::Signature,
        ),
    ] {
        stand.refuses(&token, flaw);
    }
    let mut large = ada();
    large["filler"] = json!("x".repeat(6000));
    let large = Signer::secret().token(large);
    assert!(large.len() < 8192 && stand.bearer(&large).kind() == Kind::Jwt);
    stand.refuses(
        &format!("{large}{}", "A".repeat(8193 - large.len())),
        Flaw::TooLong,
    );
    stand.refuses(&"A".repeat(1 << 20), Flaw::TooLong);
}

#[test]
fn keys_change_and_are_told_apart_by_their_names() {
    let [old, new] = [Signer::ed(), Signer::ed()];
    let header = |kid: &str| json!({"alg": "EdDSA", "kid": kid});
    let token = |signer: &Signer, kid: &str| signer.token_with(header(kid), ada());
    let stand = Stand::new(spec(), &set(&[old.jwk("1"), new.jwk("2")]));
    for (signer, kid) in [(&old, "1"), (&new, "2")] {
        assert_eq!(stand.bearer(&token(signer, kid)).kind(), Kind::Jwt, "{kid}");
    }
    stand.refuses(&token(&old, "2"), Flaw::Signature);
    stand.refuses(&token(&old, "3"), Flaw::NoKey);
    // Which of two is meant can't be known.
    stand.refuses(&old.token(ada()), Flaw::NoKey);

    // What an old key has signed is good no longer, though it was seen; what was bad may be good now.
    let only = Jwks::read(&set(&[new.jwk("3")])).unwrap();
    stand.identities.tokens.as_ref().unwrap().renew(only);
    stand.refuses(&token(&old, "1"), Flaw::NoKey);
    stand.refuses(&token(&old, "3"), Flaw::Signature);
    assert_eq!(stand.bearer(&token(&new, "3")).kind(), Kind::Jwt);
    assert_eq!(
        stand.bearer(&new.token(ada())).kind(),
        Kind::Jwt,
        "the only one"
    );
}

#[test]
fn a_token_is_believed_again_until_its_end() {
    let stand = Stand::secret();
    let token = Signer::secret().token(json!({"sub": "ada", "nbf": WALL, "exp": WALL + 100}));
    for seconds in [0, 1, 100, 159] {
        assert_eq!(
            stand.bearer_at(&token, at(seconds)).kind(),
            Kind::Jwt,
            "{seconds}"
        );
    }
    for seconds in [160, 161, 1000] {
        assert_eq!(stand.bearer_at(&token, at(seconds)).kind(), Kind::Anonymous);
    }
    // The wall clock may step.
    assert_eq!(
        stand
            .bearer_at(
                &token,
                Now {
                    wall: WALL - 61,
                    ..at(2000)
                }
            )
            .kind(),
        Kind::Anonymous
    );
    assert_eq!(
        (
            stand.count("verified"),
            stand.count("expired"),
            stand.count("too_early")
        ),
        (4, 3, 1)
    );
    // Bad tokens are called so for ten seconds without another look.
    let soon = Signer::secret().token(json!({"sub": "ada", "nbf": WALL + 65, "exp": WALL + 100}));
    for (seconds, kind) in [(0, Kind::Anonymous), (9, Kind::Anonymous), (10, Kind::Jwt)] {
        assert_eq!(
            stand.bearer_at(&soon, at(seconds)).kind(),
            kind,
            "{seconds}"
        );
    }
}

/// However many tokens come, forged ones cost no more signatures than their sender's allowance; others lose nothing by it.
#[test]
fn forged_tokens_are_put_off() {
    let ed = Signer::ed();
    let stand = Stand::of(&[&ed]);
    let token = ed.token(ada());
    let (head, _) = token.rsplit_once('.').unwrap();
    let forged = |n: u64| format!("Bearer {head}.{}", b64([n.to_be_bytes(); 8].concat()));
    let honest = format!("Bearer {token}");
    let other = format!(
        "Bearer {}",
        ed.token(json!({"sub": "bob", "exp": WALL + 600}))
    );
    let ask = |value: &str, by: u32| {
        stand
            .ask(&[("authorization", value)], client(by), now())
            .kind()
    };
    assert_eq!(ask(&honest, 1), Kind::Jwt);
    for n in 0..1000 {
        assert_eq!(ask(&forged(n), 1), Kind::Anonymous);
    }
    assert_eq!(
        (stand.count("signature"), stand.count("put_off")),
        (10, 990)
    );
    // The same one again is known to be bad, and not verified.
    for _ in 0..100 {
        assert_eq!(ask(&forged(0), 1), Kind::Anonymous);
    }
    assert_eq!(
        (stand.count("signature"), stand.count("put_off")),
        (110, 990)
    );
    // Who was seen goes on being known at the same address; who was not is so elsewhere, and there after a second.
    assert_eq!(
        (ask(&honest, 1), ask(&other, 1)),
        (Kind::Jwt, Kind::Anonymous)
    );
    assert_eq!(ask(&other, 2), Kind::Jwt);
    let third = ed.token(json!({"sub": "eve", "exp": WALL + 600}));
    assert_eq!(stand.bearer_at(&third, at(0)).kind(), Kind::Anonymous);
    assert_eq!(stand.bearer_at(&third, at(1)).kind(), Kind::Jwt);
}

#[test]
fn where_a_token_is_looked_for() {
    let stand = Stand::secret();
    let token = Signer::secret().token(ada());
    let other = Signer::secret().token(json!({"sub": "bob", "exp": WALL + 600}));
    let bearer = format!("Bearer {token}");
    let (cookie, many) = (
        format!("a=b; session={token}"),
        format!("session={token}; session={other}"),
    );
    let is = Some(ada_is(&stand));
    let other_bearer = format!("Bearer {other}");
    let bob = stand.bearer(&other).known();
    for (lines, who) in [
        (vec![("authorization", bearer.as_str())], is),
        (vec![("Authorization", &format!("bearer  {token} "))], is),
        (vec![("authorization", &bearer), ("cookie", &many)], is),
        (vec![("cookie", &cookie)], is),
        (
            vec![("authorization", "Basic YTpi"), ("cookie", &cookie)],
            is,
        ),
        (
            vec![("authorization", &other_bearer), ("cookie", &cookie)],
            bob,
        ),
        // A bad one stands for nobody, whatever else is there.
        (
            vec![("authorization", "Bearer x"), ("cookie", &cookie)],
            None,
        ),
        (vec![("authorization", token.as_str())], None),
        (vec![("authorization", &format!("Bearer{token}"))], None),
        (vec![("authorization", &format!("Token {token}"))], None),
        (vec![("authorization", "")], None),
        (vec![("x-authorization", &bearer)], None),
        (vec![("cookie", &format!("sessions={token}"))], None),
        (vec![("cookie", &format!("session=\"{token}\""))], None),
        // Which of two an app goes by can't be known.
        (
            vec![("authorization", &bearer), ("authorization", &bearer)],
            None,
        ),
        (
            vec![("authorization", &bearer), ("authorization", "Basic YTpi")],
            None,
        ),
        (
            vec![
                ("authorization", "Basic YTpi"),
                ("authorization", &bearer),
                ("cookie", &cookie),
            ],
            None,
        ),
        (vec![("cookie", &many)], None),
        (vec![("cookie", &cookie), ("cookie", &cookie)], None),
    ] {
        assert_eq!(
            stand.ask(&lines, client(1), now()).known(),
            who,
            "{lines:?}"
        );
    }
    let elsewhere = Stand::new(
        JwtSpec {
            header: HeaderName::from_static("x-token"),
            cookie: None,
            ..spec()
        },
        &set(&[Signer::ed().jwk("")]),
    );
    for (name, value, kind) in [
        ("x-token", &token, Kind::Jwt),
        ("x-token", &bearer, Kind::Jwt),
        ("authorization", &bearer, Kind::Anonymous),
        ("cookie", &cookie, Kind::Anonymous),
    ] {
        let standing = elsewhere.ask(&[(name, value)], client(1), now());
        assert_eq!(standing.kind(), kind, "{name}");
    }
}

#[test]
fn whose_tier_and_tenant() {
    let stand = Stand::secret();
    let who = |claims: Value| {
        let mut claims = claims;
        claims["exp"] = json!(WALL + 600);
        stand.bearer(&Signer::secret().token(claims))
    };
    let tier = |standing: Standing| standing.known().unwrap().tier;
    let ada = who(json!({"sub": "ada", "plan": "gold", "tenant": "acme"}));
    assert_eq!(tier(ada), Some(Tier(1)));
    let bob = who(json!({"sub": "bob", "plan": "platinum", "tenant": "acme"}));
    assert_eq!(tier(bob), None, "no limit knows it");
    assert_eq!(tier(who(json!({"sub": "ada", "plan": ["gold"]}))), None);
    assert!(ada.claim(1).is_some() && ada.claim(1) == bob.claim(1));
    assert_ne!(ada.known().unwrap().id, bob.known().unwrap().id);
    // By one name two issuers may mean two people; a number is its digits.
    let of = |issuer: &str| who(json!({"iss": issuer, "sub": "ada"})).known();
    assert_ne!(of("https://a.example"), of("https://b.example"));
    assert_eq!(
        who(json!({"sub": 42})).known(),
        who(json!({"sub": "42"})).known()
    );
    assert_ne!(
        who(json!({"sub": "acme"})).known().unwrap().id,
        ada.claim(1).unwrap()
    );
}

#[test]
fn api_keys() {
    let stand = Stand::secret();
    let ask = |lines: &[(&str, &str)]| stand.ask(lines, client(1), now());
    let gold = ask(&[("X-Api-Key", "0123456789abcdef")]);
    assert_eq!(
        (gold.kind(), gold.known().unwrap().tier),
        (Kind::ApiKey, Some(Tier(1)))
    );
    let same = ask(&[("x-api-key", "fedcba9876543210")]);
    assert_eq!(same.known().unwrap().id, gold.known().unwrap().id);
    assert_eq!(same.known().unwrap().tier, None);
    assert_eq!(ask(&[("x-api-key", "Bearer 0123456789abcdef")]), gold);
    for lines in [
        &[("x-api-key", "0123456789abcdeF")][..],
        &[("x-api-key", "app")],
        &[("x-api-key", "")],
        &[
            ("x-api-key", "0123456789abcdef"),
            ("x-api-key", "0123456789abcdef"),
        ],
        &[("authorization", "Bearer 0123456789abcdef")],
        &[("cookie", "x-api-key=0123456789abcdef")],
    ] {
        assert_eq!(ask(lines), Standing::default(), "{lines:?}");
    }
    let keys = |result: &str| {
        value(
            &stand.metrics,
            &format!("tidegate_api_keys_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!((keys("known"), keys("unknown")), (3, 3));
    // With a token as well, the person counts.
    let bearer = format!("Bearer {}", Signer::secret().token(ada()));
    let both = ask(&[
        ("x-api-key", "0123456789abcdef"),
        ("authorization", &bearer),
    ]);
    assert_eq!((both.kind(), both.key), (Kind::Jwt, gold.key));
    assert_eq!(both.known(), Some(ada_is(&stand)));
}

#[test]
fn files_are_read_anew_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, jwks) = (folder.path().join("keys"), folder.path().join("jwks.json"));
    let [old, new] = [Signer::ed(), Signer::ed()];
    // As editors and mounted volumes do, another file in its place.
    let write = |path: &Path, text: &str| {
        let beside = folder.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    };
    write(&keys, "0123456789abcdef\n");
    write(&jwks, &set(&[old.jwk("")]));
    let mut spec = whole(JwtSpec {
        jwks: Some(jwks.clone()),
        ..spec()
    });
    spec.keys.as_mut().unwrap().file = keys.clone();
    let metrics = Metrics::new();
    let identities = Identities::new(&spec, None, &metrics).unwrap();
    let known = |key: &str, signer: &Signer| {
        let bearer = format!("Bearer {}", signer.token(ada()));
        let lines = fields(&[("x-api-key", key), ("authorization", &bearer)]);
        let standing = identities.standing(&lines, client(1), now());
        (standing.key.is_some(), standing.token.is_some())
    };
    let looks = |n: usize| (0..n).for_each(|_| identities.look());
    let reloads = |result: &str| {
        value(
            &metrics,
            &format!("tidegate_key_reloads_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!(known("0123456789abcdef", &old), (true, true));
    looks(3);
    assert_eq!((reloads("done"), reloads("refused")), (0, 0));

    write(&keys, "fedcba9876543210\n");
    write(&jwks, &set(&[new.jwk("")]));
    looks(1);
    assert_eq!(
        known("0123456789abcdef", &old),
        (true, true),
        "it may still be written"
    );
    looks(1);
    assert_eq!(known("0123456789abcdef", &old), (false, false));
    assert_eq!(known("fedcba9876543210", &new), (true, true));
    assert_eq!((reloads("done"), reloads("refused")), (2, 0));

    for (text, refused) in [("hunter2\n", 2), ("", 4)] {
        write(&keys, text);
        write(&jwks, text);
        looks(3);
        assert_eq!(known("fedcba9876543210", &new), (true, true));
        assert_eq!((reloads("done"), reloads("refused")), (2, refused));
    }
    fs::remove_file(&keys).unwrap();
    fs::remove_file(&jwks).unwrap();
    looks(3);
    assert_eq!(known("fedcba9876543210", &new), (true, true));
    assert_eq!(reloads("refused"), 6);
    write(&keys, "0123456789abcdef\n");
    looks(2);
    assert_eq!(known("0123456789abcdef", &new), (true, true));

    let error = |spec: &IdentitySpec| Identities::new(spec, None, &Metrics::new()).err().unwrap();
    assert!(
        error(&spec).contains("jwks.json: No such file"),
        "{}",
        error(&spec)
    );
    spec.jwt = None;
    write(&keys, "hunter2\n");
    let told = error(&spec);
    assert!(told.contains("keys: line 1: a key of less than"), "{told}");
}

#[test]
fn key_sets_that_will_not_do() {
    let (rsa, ec, ed) = (Signer::rsa(), Signer::ec(), Signer::ed());
    let with = |signer: &Signer, name: &str, value: Value| {
        let mut jwk = signer.jwk("");
        jwk[name] = value;
        jwk
    };
    let (weak, even) = (b64([0xff; 128]), b64([vec![0xff; 255], vec![2]].concat()));
    for (keys, why) in [
        (vec![], "no key in it"),
        (vec![with(&ed, "use", json!("enc"))], "no key in it"),
        (vec![with(&ed, "key_ops", json!(["sign"]))], "no key in it"),
        (vec![with(&ed, "crv", json!("X25519"))], "no key in it"),
        (vec![with(&ec, "crv", json!("P-521"))], "no key in it"),
        (vec![with(&rsa, "alg", json!("RSA-OAEP"))], "no key in it"),
        (vec![with(&rsa, "alg", json!("HS256"))], "no key in it"),
        (vec![ed.jwk(""), json!("x")], "key 2: no object"),
        (
            vec![Signer::secret().jwk("")],
            "key 1: a secret has no place",
        ),
        (vec![with(&ed, "d", json!("AA"))], "key 1: its private part"),
        (vec![with(&ed, "x", json!("AA"))], "key 1: `x` has 1 bytes"),
        (
            vec![with(&ed, "x", json!("A+"))],
            "key 1: `x` is no base64url",
        ),
        (
            vec![with(&ec, "y", Value::Null)],
            "key 1: `y` is no base64url",
        ),
        (
            vec![with(&rsa, "n", json!(weak))],
            "key 1: an RSA key of 1024 bits",
        ),
        (
            vec![with(&rsa, "n", json!(even))],
            "key 1: `n` and `e` are no RSA key",
        ),
        (
            vec![with(&rsa, "e", json!("AQ"))],
            "key 1: `n` and `e` are no RSA key",
        ),
        (
            vec![with(&rsa, "e", json!("Ag"))],
            "key 1: `n` and `e` are no RSA key",
        ),
        (vec![with(&rsa, "kid", json!(7))], "key 1: `kid` is no text"),
        (
            vec![ed.jwk("1"), Signer::ed().jwk("1")],
            "key 2: another has its `kid`",
        ),
    ] {
        let told = Jwks::read(&set(&keys)).err().unwrap_or_default();
        assert!(told.starts_with(why), "{told} instead of {why}");
    }
    for text in ["", "{}", "[]", r#"{"keys":{}}"#, "nonsense"] {
        assert!(Jwks::read(text).is_err(), "{text}");
    }
    let mixed = [
        with(&ed, "alg", json!("Ed25519")),
        with(&ec, "use", json!("sig")),
        rsa.jwk("1"),
        json!({"kty": "post-quantum", "kid": "1"}),
        ec.jwk("1"),
    ];
    assert_eq!(
        Jwks::read(&set(&mixed)).ok().map(|jwks| jwks.len()),
        Some(4)
    );
}

#[test]
fn nothing_of_it_is_shown() {
    let shown = format!("{:?}", whole(spec()));
    let secret = std::str::from_utf8(SECRET).unwrap();
    assert!(
        !shown.contains(secret) && !shown.contains("hashed by"),
        "{shown}"
    );
}

proptest! {
    /// Whatever is changed in a token, it is nobody's: what is not verified is never an identity.
    #[test]
    fn what_is_not_verified_is_nobody(
        at in any::<prop::sample::Index>(),
        byte in "[A-Za-z0-9._-]",
        cut in any::<prop::sample::Index>(),
        which in 0..4usize,
    ) {
        thread_local! {
            static MADE: (Stand, [String; 4], Cell<u64>) = {
                let signers = [Signer::rsa(), Signer::ec(), Signer::ed(), Signer::secret()];
                let stand = Stand::of(&[&signers[0], &signers[1], &signers[2]]);
                (stand, signers.map(|signer| signer.token(ada())), Cell::new(0))
            };
        }
        MADE.with(|(stand, tokens, clock)| {
            let kind = |token: &str| {
                // A second for each, so that none is put off unseen.
                clock.set(clock.get() + 1000);
                stand.bearer_at(token, Now { mono: Moment(clock.get()), ..now() }).kind()
            };
            let token = &tokens[which];
            assert_eq!(kind(token), Kind::Jwt);
            let at = at.index(token.len());
            let changed = format!("{}{byte}{}", &token[..at], &token[at + 1..]);
            let longer = format!("{}{byte}{}", &token[..at], &token[at..]);
            let shorter = &token[..cut.index(token.len())];
            for other in [changed.as_str(), &longer, shorter] {
                assert!(other == token || kind(other) == Kind::Anonymous, "{other}");
            }
            assert_eq!(stand.count("put_off"), 0);
        });
    }
}

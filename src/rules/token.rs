//! JSON Web Tokens (RFC 7519): what one says of itself, and whether that will do.
//!
//! Its signature is not looked at here, only who has the keys can do that; until then nothing that was read may be
//! believed. What it says is judged first all the same: that costs less, and most tokens that are no good are old ones.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1). `none` is not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 4] = [
        Algorithm::Hs256,
        Algorithm::Rs256,
        Algorithm::Es256,
        Algorithm::EdDsa,
    ];

    /// By its name in `alg`, with regard to case.
    pub fn named(name: &str) -> Option<Algorithm> {
        match name {
            "HS256" => Some(Algorithm::Hs256),
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            // The newer name of the only curve that is spoken (RFC 9864 §2.2).
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// Whether the same key signs and verifies, so that it is a secret.
    pub fn is_symmetric(self) -> bool {
        self == Algorithm::Hs256
    }
}

/// Why a token is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Longer than may be.
    TooLong,
    /// Not a signed token, or one with an extension that has to be understood (`crit`, RFC 7515 §4.1.11).
    Malformed,
    /// Signed in no way that is allowed.
    Algorithm,
    /// No key by which it could have been signed.
    NoKey,
    /// Of another issuer.
    Issuer,
    /// Meant for somebody else.
    Audience,
    /// Without an end, or with one that is too far off.
    Lifetime,
    /// Past its end.
    Expired,
    /// Before its beginning.
    TooEarly,
    /// It doesn't say whose it is.
    Nobody,
    Signature,
    /// Not looked at: too many of its sender's were forged.
    PutOff,
}

impl Flaw {
    pub const ALL: [Flaw; 12] = [
        Flaw::TooLong,
        Flaw::Malformed,
        Flaw::Algorithm,
        Flaw::NoKey,
        Flaw::Issuer,
        Flaw::Audience,
        Flaw::Lifetime,
        Flaw::Expired,
        Flaw::TooEarly,
        Flaw::Nobody,
        Flaw::Signature,
        Flaw::PutOff,
    ];

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Flaw::TooLong => "too_long",
            Flaw::Malformed => "malformed",
            Flaw::Algorithm => "algorithm",
            Flaw::NoKey => "no_key",
            Flaw::Issuer => "issuer",
            Flaw::Audience => "audience",
            Flaw::Lifetime => "lifetime",
            Flaw::Expired => "expired",
            Flaw::TooEarly => "too_early",
            Flaw::Nobody => "nobody",
            Flaw::Signature => "signature",
            Flaw::PutOff => "put_off",
        }
    }
}

/// What a token has to say to be believed, beside its signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// None is any.
    pub issuers: Vec<String>,
    /// Names of ours. Without any, a token may not name an audience (RFC 7519 §4.1.3).
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How far off its end may be.
    pub max_life: Duration,
}

/// When a token may be believed, in Unix seconds: from the first on, before the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub from: u64,
    pub until: u64,
}

impl Window {
    pub fn holds(self, wall: u64) -> bool {
        (self.from..self.until).contains(&wall)
    }
}

/// A signed token, taken apart (RFC 7515 §3.1). Nothing of it is proven.
pub struct Token<'t> {
    pub algorithm: Algorithm,
    /// Which key it claims to be signed by.
    pub kid: Option<String>,
    pub claims: Claims,
    /// What is signed.
    pub signed: &'t [u8],
    pub signature: Vec<u8>,
}

impl Token<'_> {
    /// # Errors
    /// It is none, or signed in no way that is spoken.
    pub fn read(token: &[u8]) -> Result<Token<'_>, Flaw> {
        let mut parts = token.split(|&b| b == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Malformed);
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(Flaw::Malformed);
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::named(name).ok_or(Flaw::Algorithm)?,
            _ => return Err(Flaw::Malformed),
        };
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Flaw::Malformed),
        };
        Ok(Token {
            algorithm,
            kid,
            claims: Claims(object(claims)?),
            signed,
            signature: decode(signature).ok_or(Flaw::Malformed)?,
        })
    }
}

/// What a token says.
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Whether it is as it has to be at `wall` (Unix seconds), and when it is.
    ///
    /// # Errors
    /// It is not, or not now.
    pub fn judge(&self, terms: &Terms, wall: u64) -> Result<Window, Flaw> {
        if !terms.issuers.is_empty() {
            let issuer = self.0.get("iss").and_then(Value::as_str);
            if !issuer.is_some_and(|issuer| terms.issuers.iter().any(|known| known == issuer)) {
                return Err(Flaw::Issuer);
            }
        }
        if !self.is_for(&terms.audiences) {
            return Err(Flaw::Audience);
        }
        let leeway = terms.leeway.as_secs();
        let ends = match self.0.get("exp") {
            Some(exp) => date(exp, f64::floor).ok_or(Flaw::Malformed)?,
            None => return Err(Flaw::Lifetime),
        };
        let begins = match self.0.get("nbf") {
            Some(nbf) => date(nbf, f64::ceil).ok_or(Flaw::Malformed)?,
            None => 0,
        };
        let window = Window {
            from: begins.saturating_sub(leeway),
            until: ends.saturating_add(leeway),
        };
        let furthest = wall.saturating_add(terms.max_life.as_secs());
        if window.until > furthest.saturating_add(leeway) {
            Err(Flaw::Lifetime)
        } else if wall >= window.until {
            Err(Flaw::Expired)
        } else if wall < window.from {
            Err(Flaw::TooEarly)
        } else {
            Ok(window)
        }
    }

    /// RFC 7519 §4.1.3: one name, or a list of them.
    fn is_for(&self, audiences: &[String]) -> bool {
        let is_ours = |named: &Value| match named {
            Value::String(named) => audiences.contains(named),
            _ => false,
        };
        match self.0.get("aud") {
            None => audiences.is_empty(),
            Some(Value::Array(many)) => many.iter().any(is_ours),
            Some(one) => is_ours(one),
        }
    }

    /// A claim that is a text, not the empty one, or an integer, as its digits.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) if !number.is_f64() => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A JSON object in base64url.
fn object(part: &[u8]) -> Result<Map<String, Value>, Flaw> {
    let bytes = decode(part).ok_or(Flaw::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Flaw::Malformed)
}

/// base64url without padding (RFC 7515 §2), in the one way in which it can be written.
pub fn decode(part: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// A NumericDate (RFC 7519 §2) in whole Unix seconds; one before 1970 is 1970.
fn date(value: &Value, round: fn(f64) -> f64) -> Option<u64> {
    match value {
        // A number too large for one is cut to what fits.
        Value::Number(number) => number
            .as_u64()
            .or_else(|| number.as_f64().map(|seconds| round(seconds) as u64)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn terms() -> Terms {
        Terms {
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(60),
            max_life: Duration::from_secs(86_400),
        }
    }

    fn judge(claims: Value, terms: &Terms) -> Result<Window, Flaw> {
        let Value::Object(claims) = claims else {
            panic!("{claims}")
        };
        Claims(claims).judge(terms, NOW)
    }

    fn token(header: &str, claims: &str) -> Vec<u8> {
        let parts = [header, claims, "signature"].map(|part| URL_SAFE_NO_PAD.encode(part));
        parts.join(".").into_bytes()
    }

    fn flaw(token: &[u8]) -> Option<Flaw> {
        Token::read(token).err()
    }

    /// The example of RFC 7515 §A.1, taken apart.
    #[test]
    fn parts() {
        let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let read = Token::read(text.as_bytes()).ok().unwrap();
        assert_eq!((read.algorithm, read.kid), (Algorithm::Hs256, None));
        assert_eq!(read.signature.len(), 32);
        assert_eq!(read.signed, text.rsplit_once('.').unwrap().0.as_bytes());
        assert_eq!(read.claims.text("iss").as_deref(), Some("joe"));
        assert_eq!(read.claims.text("exp").as_deref(), Some("1300819380"));
        assert_eq!(read.claims.text("http://example.com/is_root"), None);
        assert_eq!(
            read.claims.judge(&terms(), 1_300_819_000),
            Ok(Window {
                from: 0,
                until: 1_300_819_440
            })
        );
    }

    #[test]
    fn what_is_no_token() {
        for (header, flawed) in [
            (r#"{"alg":"HS256"}"#, None),
            (r#"{"alg":"RS256","kid":"a","typ":"JWT"}"#, None),
            (r#"{"alg":"Ed25519"}"#, None),
            (r#"{"alg":"none"}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":"None"}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":""}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":"hs256"}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":"HS384"}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":"RSA-OAEP"}"#, Some(Flaw::Algorithm)),
            (r#"{"alg":["HS256"]}"#, Some(Flaw::Malformed)),
            (r#"{"alg":null}"#, Some(Flaw::Malformed)),
            (r#"{"ALG":"HS256"}"#, Some(Flaw::Malformed)),
            (r#"{"alg":"HS256","kid":7}"#, Some(Flaw::Malformed)),
            (
                r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
                Some(Flaw::Malformed),
            ),
            (r#"{"alg":"HS256","crit":[]}"#, Some(Flaw::Malformed)),
            (r#"["alg","HS256"]"#, Some(Flaw::Malformed)),
            (r#"{"alg":"HS256"} x"#, Some(Flaw::Malformed)),
            ("", Some(Flaw::Malformed)),
        ] {
            assert_eq!(flaw(&token(header, "{}")), flawed, "{header}");
        }
        let whole = token(r#"{"alg":"HS256"}"#, "{}");
        for (change, what) in [
            (b"." as &[u8], "a part more"),
            (b".x.y", "five parts, as of an encrypted one"),
            (b"=", "padding"),
            (b"+", "of the other base64"),
            (b" ", "a blank"),
            (b"\n", "a line's end"),
            (b"\xff", "not ASCII"),
        ] {
            let longer = [&whole, change].concat();
            assert_eq!(flaw(&longer), Some(Flaw::Malformed), "{what}");
        }
        for text in ["", ".", "..", "...", "a.b", "a.b.c", "null", "Bearer x"] {
            assert_eq!(flaw(text.as_bytes()), Some(Flaw::Malformed), "{text}");
        }
        let deep = "[".repeat(4000);
        assert_eq!(flaw(&token(&deep, "{}")), Some(Flaw::Malformed));
        let claims = format!("{{\"sub\":{deep}");
        assert_eq!(
            flaw(&token(r#"{"alg":"HS256"}"#, &claims)),
            Some(Flaw::Malformed)
        );
    }

    #[test]
    fn one_text_one_token() {
        // Bits behind the last byte that are not zero would spell the same bytes anew.
        assert_eq!(decode(b"AA"), Some(vec![0]));
        assert_eq!(decode(b"AB"), None);
    }

    #[test]
    fn when_it_may_be_believed() {
        let until = |exp: u64| {
            Ok(Window {
                from: 0,
                until: exp + 60,
            })
        };
        for (claims, verdict) in [
            (json!({"exp": NOW + 1}), until(NOW + 1)),
            (json!({"exp": NOW - 59}), until(NOW - 59)),
            (json!({"exp": NOW - 60}), Err(Flaw::Expired)),
            (json!({"exp": 0}), Err(Flaw::Expired)),
            (json!({"exp": -5}), Err(Flaw::Expired)),
            (json!({"exp": NOW as f64 + 1.5}), until(NOW + 1)),
            (json!({"exp": NOW + 86_400}), until(NOW + 86_400)),
            (json!({"exp": NOW + 86_401}), Err(Flaw::Lifetime)),
            (json!({"exp": u64::MAX}), Err(Flaw::Lifetime)),
            (json!({"exp": 1e300}), Err(Flaw::Lifetime)),
            (json!({}), Err(Flaw::Lifetime)),
            (json!({"exp": null}), Err(Flaw::Malformed)),
            (json!({"exp": (NOW + 1).to_string()}), Err(Flaw::Malformed)),
            (json!({"exp": [NOW + 1]}), Err(Flaw::Malformed)),
            (
                json!({"exp": NOW + 1, "nbf": NOW + 60}),
                Ok(Window {
                    from: NOW,
                    until: NOW + 61,
                }),
            ),
            (
                json!({"exp": NOW + 99, "nbf": NOW + 61}),
                Err(Flaw::TooEarly),
            ),
            (
                json!({"exp": NOW + 99, "nbf": NOW as f64 + 60.5}),
                Err(Flaw::TooEarly),
            ),
            (json!({"exp": NOW + 99, "nbf": "0"}), Err(Flaw::Malformed)),
        ] {
            assert_eq!(judge(claims.clone(), &terms()), verdict, "{claims}");
        }
    }

    #[test]
    fn whose_and_for_whom() {
        let ours = Terms {
            issuers: vec!["https://a.example".into(), "https://b.example".into()],
            audiences: vec!["shop".into()],
            ..terms()
        };
        let none = terms();
        let exp = NOW + 9;
        for (claims, terms, flawed) in [
            (
                json!({"iss": "https://b.example", "aud": "shop"}),
                &ours,
                None,
            ),
            (
                json!({"iss": "https://a.example", "aud": ["x", "shop"]}),
                &ours,
                None,
            ),
            (
                json!({"iss": "https://a.example/", "aud": "shop"}),
                &ours,
                Some(Flaw::Issuer),
            ),
            (
                json!({"iss": ["https://a.example"], "aud": "shop"}),
                &ours,
                Some(Flaw::Issuer),
            ),
            (json!({"aud": "shop"}), &ours, Some(Flaw::Issuer)),
            (
                json!({"iss": "https://a.example"}),
                &ours,
                Some(Flaw::Audience),
            ),
            (
                json!({"iss": "https://a.example", "aud": "Shop"}),
                &ours,
                Some(Flaw::Audience),
            ),
            (
                json!({"iss": "https://a.example", "aud": []}),
                &ours,
                Some(Flaw::Audience),
            ),
            (
                json!({"iss": "https://a.example", "aud": {"shop": 1}}),
                &ours,
                Some(Flaw::Audience),
            ),
            (json!({"iss": "anybody"}), &none, None),
            (json!({"aud": "shop"}), &none, Some(Flaw::Audience)),
        ] {
            let mut timed = claims.clone();
            timed["exp"] = json!(exp);
            assert_eq!(judge(timed, terms).err(), flawed, "{claims}");
        }
    }

    #[test]
    fn claims_are_texts_or_integers() {
        let Value::Object(claims) = json!({
            "text": "a", "whole": 42, "less": -1, "empty": "", "part": 1.5, "is": true, "list": ["a"], "null": null,
        }) else {
            panic!()
        };
        let claims = Claims(claims);
        for (name, text) in [("text", "a"), ("whole", "42"), ("less", "-1")] {
            assert_eq!(claims.text(name).as_deref(), Some(text));
        }
        for name in ["empty", "part", "is", "list", "null", "none"] {
            assert_eq!(claims.text(name), None, "{name}");
        }
    }

    #[test]
    fn flaws_have_names_of_their_own() {
        let mut labels: Vec<_> = Flaw::ALL.iter().map(|flaw| flaw.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Flaw::ALL.len());
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
        }
    }

    proptest! {
        /// Whoever is believed is so within the window, and never a second outside of it.
        #[test]
        fn believed_within_the_window_alone(exp in 0..2 * NOW, nbf in 0..2 * NOW, wall in 0..2 * NOW, leeway in 0..600u64) {
            let terms = Terms { leeway: Duration::from_secs(leeway), max_life: Duration::from_secs(NOW / 2), ..terms() };
            let Value::Object(claims) = json!({"exp": exp, "nbf": nbf}) else { panic!() };
            let is_now = wall < exp + leeway && wall + leeway >= nbf && exp <= wall + NOW / 2;
            match Claims(claims).judge(&terms, wall) {
                Ok(window) => prop_assert!(is_now && window.holds(wall)),
                Err(_) => prop_assert!(!is_now),
            }
        }

        #[test]
        fn any_bytes_are_read(token in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Token::read(&token);
        }
    }
}

//! Public keys that verify tokens, as a JSON Web Key Set has them (RFC 7517 §5, RFC 7518 §6, RFC 8037 §2).
//!
//! A key is of one algorithm, by its kind: there is no way to verify by one with another.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::{Map, Value};

use crate::rules::token::{Algorithm, decode};

/// Keys of one issuer or several.
#[derive(Default)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

struct Jwk {
    kid: Option<String>,
    key: PublicKey,
}

/// A key, by the algorithm that it is for.
pub enum PublicKey {
    Rs256(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point (SEC 1 §2.3.3).
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

impl PublicKey {
    pub fn algorithm(&self) -> Algorithm {
        match self {
            PublicKey::Rs256(_) => Algorithm::Rs256,
            PublicKey::Es256(_) => Algorithm::Es256,
            PublicKey::EdDsa(_) => Algorithm::EdDsa,
        }
    }

    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::Rs256(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature),
            PublicKey::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            PublicKey::EdDsa(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(signed, signature)
            }
        }
        .is_ok()
    }
}

impl Jwks {
    /// Keys that are for something else, or of a kind that isn't spoken, are passed over (RFC 7517 §5).
    ///
    /// # Errors
    /// It is no key set, a key of it can't be used as it says, or none can.
    pub fn read(text: &str) -> Result<Jwks, String> {
        let set: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let Some(Value::Array(written)) = set.get("keys") else {
            return Err("no key set: an object with a list `keys` (RFC 7517)".to_owned());
        };
        let mut jwks = Jwks::default();
        for (at, written) in written.iter().enumerate() {
            let told = |why: &str| format!("key {}: {why}", at + 1);
            let written = written.as_object().ok_or_else(|| told("no object"))?;
            let Some(jwk) = Jwk::read(written).map_err(|why| told(&why))? else {
                continue;
            };
            if jwks.keys.iter().any(|other| other.is_like(&jwk)) {
                return Err(told("another has its `kid` and its algorithm"));
            }
            jwks.keys.push(jwk);
        }
        match jwks.keys.is_empty() {
            true => Err("no key in it that RS256, ES256 or EdDSA verify by".to_owned()),
            false => Ok(jwks),
        }
    }

    /// The key that a token names. One that names none has the only one of its algorithm.
    pub fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Option<&PublicKey> {
        let fits = |jwk: &&Jwk| jwk.key.algorithm() == algorithm;
        let mut fitting = self.keys.iter().filter(fits);
        match kid {
            Some(_) => fitting
                .find(|jwk| jwk.kid.as_deref() == kid)
                .map(|jwk| &jwk.key),
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Some(&only.key),
                _ => None,
            },
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

impl Jwk {
    fn is_like(&self, other: &Jwk) -> bool {
        self.kid == other.kid && self.key.algorithm() == other.key.algorithm()
    }

    /// None: not for us.
    fn read(written: &Map<String, Value>) -> Result<Option<Jwk>, String> {
        let text = |name: &str| written.get(name).and_then(Value::as_str);
        if text("kty") == Some("oct") {
            return Err("a secret has no place among public keys; write it as `jwt_secret`".into());
        }
        if written.contains_key("d") {
            return Err("its private part is there (`d`); leave that with the issuer".to_owned());
        }
        let is_for_signing = match (text("use"), written.get("key_ops")) {
            (Some(used), _) if used != "sig" => false,
            (_, Some(Value::Array(ops))) => ops.iter().any(|op| op == "verify"),
            _ => true,
        };
        if !is_for_signing {
            return Ok(None);
        }
        let bytes = |name: &str| {
            let decoded = text(name).and_then(|text| decode(text.as_bytes()));
            decoded.ok_or_else(|| format!("`{name}` is no base64url"))
        };
        let key = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => rsa(bytes("n")?, bytes("e")?)?,
            (Some("EC"), Some("P-256")) => {
                let (x, y) = (coordinate("x", bytes("x")?)?, coordinate("y", bytes("y")?)?);
                PublicKey::Es256([&[4][..], &x, &y].concat())
            }
            (Some("OKP"), Some("Ed25519")) => PublicKey::EdDsa(coordinate("x", bytes("x")?)?),
            _ => return Ok(None),
        };
        if text("alg").is_some_and(|name| Algorithm::named(name) != Some(key.algorithm())) {
            return Ok(None);
        }
        let kid = match written.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err("`kid` is no text".to_owned()),
        };
        Ok(Some(Jwk { kid, key }))
    }
}

fn coordinate(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match bytes.len() {
        32 => Ok(bytes),
        long => Err(format!("`{name}` has {long} bytes, not 32")),
    }
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<PublicKey, String> {
    // Some write a zero before a number whose first bit is set.
    let number = |bytes: Vec<u8>| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let (n, e) = (number(n), number(e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("an RSA key of {bits} bits; 2048 to 8192 will do"));
    }
    // What the library demands of an exponent (below 2^33, at least 3), so that a key that was taken can verify.
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    let is_small = e.len() < 5 || (e.len() == 5 && e[0] == 1);
    if !is_odd(&n) || !is_odd(&e) || e == [1] || !is_small {
        return Err("`n` and `e` are no RSA key".to_owned());
    }
    Ok(PublicKey::Rs256(RsaPublicKeyComponents { n, e }))
}

//! Whose token it is: read, judged, verified, and remembered.

use std::path::PathBuf;

use arc_swap::ArcSwap;
use http::HeaderName;
use ring::hmac::{self, HMAC_SHA256};

use super::jwks::{Jwks, PublicKey};
use super::pace::Pace;
use super::seen::Seen;
use super::standing::{CLAIMS, Hashing, Id, Known, Of, Tier, Vouched};
use crate::rules::client::Client;
use crate::rules::secret::Secret;
use crate::rules::time::Now;
use crate::rules::token::{Algorithm, Claims, Flaw, Terms, Token, Window};

/// Bad tokens that are remembered.
const BAD: usize = 4096;
/// How long one is called bad without another look, in seconds: clocks and claims may come to fit.
const BAD_FOR: u64 = 10;

/// What a config says of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSpec {
    /// Those that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// What HS256 verifies by.
    pub secret: Option<Secret>,
    /// The file of public keys that all others verify by.
    pub jwks: Option<PathBuf>,
    /// Where a token stands, behind `Bearer`;
    pub header: HeaderName,
    /// and where, if not there.
    pub cookie: Option<String>,
    pub terms: Terms,
    /// The claim that says whose it is.
    pub claim: String,
    pub tier_claim: Option<String>,
    /// The longest there may be.
    pub max_bytes: usize,
    /// How many are remembered.
    pub remembered: usize,
}

/// Tokens that are accepted.
pub struct Tokens {
    pub spec: JwtSpec,
    secret: Option<hmac::Key>,
    tiers: Vec<String>,
    /// Claims that limits count by.
    claims: Vec<String>,
    live: ArcSwap<Live>,
    pace: Pace,
}

/// Keys, and what was verified by them: other keys, another memory.
struct Live {
    keys: Jwks,
    good: Seen<Good>,
    bad: Seen<Bad>,
}

#[derive(Clone, Copy)]
struct Good {
    vouched: Vouched,
    window: Window,
}

#[derive(Clone, Copy)]
struct Bad {
    flaw: Flaw,
    /// In monotonic seconds.
    until: u64,
}

/// What verifies a token. Only the secret is for HMAC, and the secret for nothing else.
enum Key<'k> {
    Secret(&'k hmac::Key),
    Public(&'k PublicKey),
}

impl Tokens {
    pub fn new(spec: &JwtSpec, tiers: &[String], claims: &[String], keys: Jwks) -> Tokens {
        let secret = spec.secret.as_ref();
        Tokens {
            secret: secret.map(|secret| hmac::Key::new(HMAC_SHA256, &secret.0)),
            tiers: tiers.to_vec(),
            claims: claims.to_vec(),
            live: ArcSwap::from_pointee(Live::new(keys, spec.remembered)),
            pace: Pace::default(),
            spec: spec.clone(),
        }
    }

    /// Verifies by other public keys from now on, and by nothing that was verified before.
    pub fn renew(&self, keys: Jwks) {
        let live = Live::new(keys, self.spec.remembered);
        self.live.store(live.into());
    }

    /// Who a token vouches for.
    ///
    /// # Errors
    /// Nobody, and why.
    pub fn vouched(
        &self,
        token: &[u8],
        client: Client,
        now: Now,
        hashing: &Hashing,
    ) -> Result<Vouched, Flaw> {
        if token.len() > self.spec.max_bytes {
            return Err(Flaw::TooLong);
        }
        let live = self.live.load();
        let second = now.mono.0 / 1000;
        let print = hashing.print(Of::Token, &[token]);
        if let Some(good) = live.good.get(print, second)
            && good.window.holds(now.wall)
        {
            return Ok(good.vouched);
        }
        if let Some(bad) = live.bad.get(print, second)
            && second < bad.until
        {
            return Err(bad.flaw);
        }
        match self.verify(&live.keys, token, client, now, hashing) {
            Ok(good) => {
                live.good.put(print, good, second);
                Ok(good.vouched)
            }
            // Nobody has looked at it.
            Err(Flaw::PutOff) => Err(Flaw::PutOff),
            Err(flaw) => {
                let until = second + BAD_FOR;
                live.bad.put(print, Bad { flaw, until }, second);
                Err(flaw)
            }
        }
    }

    /// The signature last: all else costs less.
    fn verify(
        &self,
        keys: &Jwks,
        token: &[u8],
        client: Client,
        now: Now,
        hashing: &Hashing,
    ) -> Result<Good, Flaw> {
        let token = Token::read(token)?;
        if !self.spec.algorithms.contains(&token.algorithm) {
            return Err(Flaw::Algorithm);
        }
        let key = match token.algorithm.is_symmetric() {
            true => self.secret.as_ref().map(Key::Secret),
            false => keys
                .find(token.algorithm, token.kid.as_deref())
                .map(Key::Public),
        };
        let key = key.ok_or(Flaw::NoKey)?;
        let window = token.claims.judge(&self.spec.terms, now.wall)?;
        let whose = self.id(&token.claims, &self.spec.claim, hashing);
        let whose = whose.ok_or(Flaw::Nobody)?;
        match key {
            Key::Secret(key) => {
                hmac::verify(key, token.signed, &token.signature).map_err(|_| Flaw::Signature)?
            }
            Key::Public(key) => {
                if !self.pace.allows(client, now.mono) {
                    return Err(Flaw::PutOff);
                }
                if !key.verifies(token.signed, &token.signature) {
                    self.pace.forged(client, now.mono);
                    return Err(Flaw::Signature);
                }
            }
        }
        let mut claims = [None; CLAIMS];
        for (claim, name) in claims.iter_mut().zip(&self.claims) {
            *claim = self.id(&token.claims, name, hashing);
        }
        let tier = self.spec.tier_claim.as_ref();
        let tier = tier.and_then(|name| token.claims.text(name));
        let tier = tier.and_then(|tier| Tier::named(&tier, &self.tiers));
        let known = Known { id: whose, tier };
        Ok(Good {
            vouched: Vouched { known, claims },
            window,
        })
    }

    /// Whom a claim names; two issuers may mean two people by one name.
    fn id(&self, claims: &Claims, name: &str, hashing: &Hashing) -> Option<Id> {
        let value = claims.text(name)?;
        let issuer = claims.text("iss").unwrap_or_default();
        let parts = [issuer.as_bytes(), name.as_bytes(), value.as_bytes()];
        Some(hashing.id(Of::Claim, &parts))
    }
}

impl Live {
    fn new(keys: Jwks, remembered: usize) -> Live {
        Live {
            keys,
            good: Seen::new(remembered),
            bad: Seen::new(BAD),
        }
    }
}

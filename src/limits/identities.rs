//! The identities of a site: what they are known by, and what a request brings of that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;

use super::jwks::Jwks;
pub use super::jwt::JwtSpec;
use super::jwt::Tokens;
use super::keys::ApiKeys;
use super::standing::{Hashing, Id, Known, Standing, Vouched};
use crate::files::Watched;
use crate::rules::client::Client;
use crate::rules::fields::Fields;
use crate::rules::identity;
use crate::rules::secret::Secret;
use crate::rules::time::Now;
use crate::rules::token::Flaw;
use crate::telemetry::sharded::Counter;
use crate::telemetry::{Metrics, names};

/// What a config says of identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySpec {
    /// What they are hashed by; none: a key of this process's own.
    pub secret: Option<Secret>,
    pub keys: Option<KeySpec>,
    pub jwt: Option<JwtSpec>,
    /// Names of tiers that limits know.
    pub tiers: Vec<String>,
    /// Claims that limits count by, each once, [`CLAIMS`](super::standing::CLAIMS) at most.
    pub claims: Vec<String>,
}

/// What a config says of API keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    pub file: PathBuf,
    pub header: HeaderName,
}

/// Knows who asks.
pub struct Identities {
    spec: IdentitySpec,
    hashing: Arc<Hashing>,
    keys: Option<(HeaderName, ArcSwap<ApiKeys>)>,
    tokens: Option<Tokens>,
    told: Told,
    keys_file: Option<Watched>,
    jwks_file: Option<Watched>,
}

/// What is counted.
struct Told {
    known: Arc<Counter>,
    unknown: Arc<Counter>,
    verified: Arc<Counter>,
    flaws: Vec<Arc<Counter>>,
    renewed: Arc<Counter>,
    refused: Arc<Counter>,
}

impl Told {
    fn new(metrics: &Metrics) -> Told {
        let token = |result| metrics.counter(&names::TOKENS, &[result]);
        Told {
            known: metrics.counter(&names::API_KEYS, &["known"]),
            unknown: metrics.counter(&names::API_KEYS, &["unknown"]),
            verified: token("verified"),
            flaws: Flaw::ALL.iter().map(|flaw| token(flaw.label())).collect(),
            renewed: metrics.counter(&names::KEY_RELOADS, &["done"]),
            refused: metrics.counter(&names::KEY_RELOADS, &["refused"]),
        }
    }
}

/// Whether a file of API keys will do, for people.
///
/// # Errors
/// Why not.
pub fn check_keys(text: &str) -> Result<(), String> {
    ApiKeys::read(text, &Hashing::new(None)?, &[]).map(drop)
}

/// Whether a file of public keys will do, for people.
///
/// # Errors
/// Why not.
pub fn check_jwks(text: &str) -> Result<(), String> {
    Jwks::read(text).map(drop)
}

impl Identities {
    /// What visitors are known by: what was `before`, if it is the same; none, if by nothing.
    ///
    /// # Errors
    /// Keys that can't be read; for people.
    pub fn by(
        spec: &IdentitySpec,
        before: Option<&Arc<Identities>>,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Identities>>, String> {
        if spec.keys.is_none() && spec.jwt.is_none() {
            return Ok(None);
        }
        if let Some(before) = before.filter(|before| before.is_by(spec)) {
            return Ok(Some(Arc::clone(before)));
        }
        Identities::new(spec, before.map(|before| &**before), metrics).map(Some)
    }

    /// Reads the files that `spec` names. `before`: who knew it until now, and by which hashes.
    ///
    /// # Errors
    /// One can't be used; for people.
    pub fn new(
        spec: &IdentitySpec,
        before: Option<&Identities>,
        metrics: &Metrics,
    ) -> Result<Arc<Identities>, String> {
        let (keys_at, jwks_at) = (
            spec.keys.as_ref().map(|keys| keys.file.as_path()),
            spec.jwt.as_ref().and_then(|jwt| jwt.jwks.as_deref()),
        );
        // Before they are read, so that no change goes unseen.
        let (keys_file, jwks_file) = (keys_at.map(Watched::new), jwks_at.map(Watched::new));
        let text = |path: Option<&Path>| {
            path.map(|path| read(path).map_err(|why| format!("{}: {why}", path.display())))
                .transpose()
        };
        let (keys, jwks) = (text(keys_at)?, text(jwks_at)?);
        let before = before.filter(|before| before.spec.secret == spec.secret);
        let hashing = match before {
            Some(before) => Arc::clone(&before.hashing),
            None => Arc::new(Hashing::new(spec.secret.as_ref())?),
        };
        let (keys, jwks) = (keys.as_deref(), jwks.as_deref());
        let identities = Identities::hashed(spec, keys, jwks, hashing, metrics)?;
        Ok(Arc::new(Identities {
            keys_file,
            jwks_file,
            ..identities
        }))
    }

    /// The same with what the files hold.
    ///
    /// # Errors
    /// One can't be used; for people.
    pub fn of(
        spec: &IdentitySpec,
        keys: Option<&str>,
        jwks: Option<&str>,
        metrics: &Metrics,
    ) -> Result<Identities, String> {
        let hashing = Hashing::new(spec.secret.as_ref())?;
        Identities::hashed(spec, keys, jwks, Arc::new(hashing), metrics)
    }

    fn hashed(
        spec: &IdentitySpec,
        keys: Option<&str>,
        jwks: Option<&str>,
        hashing: Arc<Hashing>,
        metrics: &Metrics,
    ) -> Result<Identities, String> {
        let told = |path: &Path, why: String| format!("{}: {why}", path.display());
        let keys = match (&spec.keys, keys) {
            (Some(spec_of), Some(text)) => {
                let keys = api_keys(text, &hashing, &spec.tiers);
                let keys = keys.map_err(|why| told(&spec_of.file, why))?;
                Some((spec_of.header.clone(), ArcSwap::from_pointee(keys)))
            }
            _ => None,
        };
        let tokens = match &spec.jwt {
            Some(jwt) => {
                let jwks = match (&jwt.jwks, jwks) {
                    (Some(path), Some(text)) => Jwks::read(text).map_err(|why| told(path, why))?,
                    _ => Jwks::default(),
                };
                Some(Tokens::new(jwt, &spec.tiers, &spec.claims, jwks))
            }
            None => None,
        };
        Ok(Identities {
            spec: spec.clone(),
            hashing,
            keys,
            tokens,
            told: Told::new(metrics),
            keys_file: None,
            jwks_file: None,
        })
    }

    /// Whether it is what a config says.
    pub fn is_by(&self, spec: &IdentitySpec) -> bool {
        self.spec == *spec
    }

    /// Whom a token names by a claim that limits count by.
    pub fn claim(&self, standing: &Standing, name: &str) -> Option<Id> {
        let mut claims = self.spec.claims.iter();
        standing.claim(claims.position(|claim| claim == name)?)
    }

    /// Who a request is from, by what it brings.
    ///
    /// `client`: whose connection it came by. Nobody is known by what is not verified, nor by what is there twice: an app may
    /// go by the other one.
    pub fn standing(&self, request: &dyn Fields, client: Client, now: Now) -> Standing {
        Standing {
            key: self.key(request),
            token: self.token(request, client, now),
        }
    }

    fn key(&self, request: &dyn Fields) -> Option<Known> {
        let (header, keys) = self.keys.as_ref()?;
        let mut known = None;
        let mut look = |value: &[u8]| {
            let key = bearer(value).unwrap_or(value);
            known = keys.load().find(key, &self.hashing);
            match known {
                Some(_) => self.told.known.add(1),
                None => self.told.unknown.add(1),
            }
        };
        only_line(request, header.as_str(), &mut look);
        known
    }

    fn token(&self, request: &dyn Fields, client: Client, now: Now) -> Option<Vouched> {
        let tokens = self.tokens.as_ref()?;
        let spec = &tokens.spec;
        let mut vouched = None;
        let mut look = |token: &[u8]| match tokens.vouched(token, client, now, &self.hashing) {
            Ok(who) => {
                self.told.verified.add(1);
                vouched = Some(who);
            }
            Err(flaw) => self.told.flaws[flaw as usize].add(1),
        };
        let is_authorization = spec.header == http::header::AUTHORIZATION;
        let mut is_there = false;
        let lines = only_line(request, spec.header.as_str(), &mut |value| {
            // Elsewhere than in Authorization it often stands alone; there it may be something else.
            let token = bearer(value).or((!is_authorization).then_some(value));
            if let Some(token) = token {
                is_there = true;
                look(token);
            }
        });
        if let Some(cookie) = &spec.cookie
            && lines < 2
            && !is_there
        {
            only_cookie(request, cookie, &mut look);
        }
        vouched
    }
}

/// What stands behind `Bearer` (RFC 6750 §2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.trim_ascii().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii_start())
}

/// Calls `f` with the value of the line called `name`, if there is one alone; how many there are.
fn only_line(request: &dyn Fields, name: &str, f: &mut dyn FnMut(&[u8])) -> usize {
    let mut lines = 0;
    request.each_named(name, &mut |_| lines += 1);
    if lines == 1 {
        request.each_named(name, f);
    }
    lines
}

/// Calls `f` with the value of the cookie called `name`, if there is one alone.
fn only_cookie(request: &dyn Fields, name: &str, f: &mut dyn FnMut(&[u8])) {
    let each = |f: &mut dyn FnMut(&[u8])| {
        request.each_named("cookie", &mut |line| {
            identity::pairs(line)
                .filter_map(|pair| pair.value_of(name.as_bytes()))
                .for_each(&mut *f);
        });
    };
    let mut cookies = 0;
    each(&mut |_| cookies += 1);
    if cookies == 1 {
        each(f);
    }
}

fn read(path: &Path) -> Result<String, String> {
    super::read(path).map_err(|error| error.to_string())
}

fn api_keys(text: &str, hashing: &Hashing, tiers: &[String]) -> Result<ApiKeys, String> {
    let keys = ApiKeys::read(text, hashing, tiers)?;
    if !keys.strange.is_empty() {
        let tiers = keys.strange.iter().take(10).cloned().collect::<Vec<_>>();
        tracing::warn!(tiers = %tiers.join(", "), "API keys of tiers that no limit knows");
    }
    Ok(keys)
}

impl Identities {
    /// Takes what has changed of the files and can be used.
    pub fn look(&self) {
        let (hashing, tiers) = (&self.hashing, &self.spec.tiers);
        if let (Some(file), Some((_, keys))) = (&self.keys_file, &self.keys)
            && file.has_changed()
        {
            let read = read(file.path()).and_then(|text| api_keys(&text, hashing, tiers));
            let many = read.as_ref().map(ApiKeys::len);
            self.told.of(file.path(), "API keys", many);
            if let Ok(read) = read {
                keys.store(Arc::new(read));
            }
        }
        if let (Some(file), Some(tokens)) = (&self.jwks_file, &self.tokens)
            && file.has_changed()
        {
            let read = read(file.path()).and_then(|text| Jwks::read(&text));
            let many = read.as_ref().map(Jwks::len);
            self.told.of(file.path(), "keys of tokens", many);
            if let Ok(read) = read {
                tokens.renew(read);
            }
        }
    }
}

impl Told {
    /// Tells what came of a change.
    fn of(&self, file: &Path, what: &str, many: Result<usize, &String>) {
        let file = file.display();
        match many {
            Ok(many) => {
                self.renewed.add(1);
                tracing::info!(%file, keys = many, "{what} were read anew");
            }
            Err(why) => {
                self.refused.add(1);
                tracing::error!(%file, why, "{what} have changed and can't be used; the old ones stay");
            }
        }
    }
}

#[cfg(test)]
mod tests;

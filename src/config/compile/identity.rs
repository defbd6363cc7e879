//! Who is asking, as believed.

use std::path::Path;

use http::header;

use super::limiting::tiers;
use super::{At, Compile, pick, to_usize};
use crate::config::limiting::{Part, Tiers};
use crate::config::options;
use crate::config::value::Value;
use crate::config::walk::Given;
use crate::limits::fleet::FleetSpec;
use crate::limits::identities::{check_jwks, check_keys};
use crate::limits::standing::{CLAIMS, SIGNED_IN};
use crate::limits::{IdentitySpec, JwtSpec, KeySpec};
use crate::rules::secret::Secret;
use crate::rules::token::{Algorithm, Terms};

impl Compile<'_, '_> {
    /// `limits`: what is counted by. `fleet`: whom it is counted with.
    pub(super) fn identity(
        &mut self,
        identity: &options::Identity,
        limits: &[options::Limit],
        fleet: Option<&FleetSpec>,
    ) -> IdentitySpec {
        let keys = self.api_keys(identity);
        let jwt = self.jwt(identity);
        let by_nothing = [
            &identity.api_keys.at,
            &identity.jwt_secret.at,
            &identity.jwks_file.at,
        ]
        .iter()
        .all(|at| **at == At::Default);
        if identity.secret.at.is_written() && by_nothing {
            let what = "`secret` without anything that people are known by";
            let help = "add `api_keys`, `jwt_secret` or `jwks_file`, or leave it out";
            self.tell(&identity.secret.at, what, help);
        }
        if let (Some(keys), Some(jwt)) = (&keys, &jwt)
            && keys.header == jwt.header
        {
            let at = pick(&identity.api_key_header.at, &identity.jwt_header.at);
            let what = format!("keys and tokens can't both be in `{}`", keys.header);
            self.tell(at, what, "give one of them another field");
        }
        self.nobody(identity, limits);
        let secret = self.secret("secret", &identity.secret);
        IdentitySpec {
            secret: secret.or_else(|| fleet.map(shared)),
            keys,
            jwt,
            tiers: tiers(limits),
            claims: self.claims(limits),
        }
    }

    /// The claims that limits count by.
    fn claims(&mut self, limits: &[options::Limit]) -> Vec<String> {
        let mut claims: Vec<String> = Vec::new();
        for limit in limits {
            for part in &limit.key.value.0 {
                let Part::Jwt(claim) = part else { continue };
                if claims.contains(claim) {
                    continue;
                }
                if claims.len() == CLAIMS {
                    let what = format!("limits by more than {CLAIMS} claims of tokens");
                    self.tell(&limit.key.at, what, "let some of them go by the same one");
                    return claims;
                }
                claims.push(claim.clone());
            }
        }
        claims
    }

    /// Tells limits that go by what nobody can show.
    fn nobody(&mut self, identity: &options::Identity, limits: &[options::Limit]) {
        let keys = &identity.api_keys;
        let tokens = [&identity.jwt_secret.at, &identity.jwks_file.at];
        let has_keys = keys.at != At::Default;
        let has_tokens = tokens.iter().any(|at| **at != At::Default);
        let has_tiers = has_keys || identity.tier_claim.at != At::Default;
        for limit in limits {
            let (key, tiers) = (&limit.key, &limit.tiers);
            for part in &key.value.0 {
                let (what, help) = match part {
                    Part::ApiKey if !has_keys => (
                        "`api_key`, and no list of keys".to_owned(),
                        "add `api_keys` to `[identity]`",
                    ),
                    Part::Jwt(claim) if !has_tokens => (
                        format!("`jwt:{claim}`, and no key that verifies tokens"),
                        "add `jwt_secret` or `jwks_file` to `[identity]`",
                    ),
                    _ => continue,
                };
                self.tell(&key.at, what, help);
            }
            let Some(Tiers(rates)) = &tiers.value else {
                continue;
            };
            if !has_keys && !has_tokens {
                let what = "tiers, and nothing that anybody could be known by";
                let help = "add `api_keys`, `jwt_secret` or `jwks_file` to `[identity]`";
                self.tell(&tiers.at, what, help);
            } else if let Some((name, _)) = rates.iter().find(|(name, _)| name != SIGNED_IN)
                && !has_tiers
            {
                let what = format!("`{name}`, and nothing that says who has that tier");
                let help = "add `tier_claim` or `api_keys` to `[identity]`";
                self.tell(&tiers.at, what, help);
            }
        }
    }

    fn api_keys(&mut self, identity: &options::Identity) -> Option<KeySpec> {
        let (keys, field) = (&identity.api_keys, &identity.api_key_header);
        let Some(file) = &keys.value else {
            if is_chosen("api_key_header", field) && keys.at != At::Told {
                let what = "`api_key_header` without a list of keys";
                self.tell(&field.at, what, "add `api_keys`, or leave it out");
            }
            return None;
        };
        let help = "a line a key: `key`, `key name` or `key name tier`";
        self.file("api_keys", &keys.at, &file.0, check_keys, help);
        self.secrets.push(file.0.clone());
        Some(KeySpec {
            file: file.0.clone(),
            header: field.value.0.clone(),
        })
    }

    fn jwt(&mut self, identity: &options::Identity) -> Option<JwtSpec> {
        let (secret, jwks) = (&identity.jwt_secret, &identity.jwks_file);
        if secret.value.is_none() && jwks.value.is_none() {
            self.idle_jwt(identity);
            return None;
        }
        if let Some(path) = &jwks.value {
            let help = "a JSON Web Key Set of public keys (RFC 7517)";
            self.file("jwks_file", &jwks.at, path, check_jwks, help);
        }
        let algorithms = self.algorithms(identity);
        let secret = self.secret("jwt_secret", secret);
        if secret
            .as_ref()
            .is_some_and(|s| s.0.starts_with(b"-----BEGIN"))
        {
            let what = "`jwt_secret` is a key in PEM, which others may know";
            let help = "public keys belong into `jwks_file`; HS256 is for a secret";
            self.tell(&identity.jwt_secret.at, what, help);
        }
        Some(JwtSpec {
            algorithms,
            secret,
            jwks: jwks.value.clone(),
            header: identity.jwt_header.value.0.clone(),
            cookie: identity
                .jwt_cookie
                .value
                .as_ref()
                .map(|name| name.0.clone()),
            terms: Terms {
                issuers: identity.jwt_issuer.value.clone(),
                audiences: identity.jwt_audience.value.clone(),
                leeway: identity.jwt_leeway.value,
                max_life: identity.jwt_max_life.value,
            },
            claim: identity.jwt_claim.value.clone(),
            tier_claim: identity.tier_claim.value.clone(),
            max_bytes: to_usize(identity.jwt_max_size.value.0),
            remembered: identity.jwt_cache.value,
        })
    }

    /// Those that were chosen, else all that there are keys for. Tells those without, and keys without any.
    fn algorithms(&mut self, identity: &options::Identity) -> Vec<Algorithm> {
        let (secret, jwks) = (&identity.jwt_secret, &identity.jwks_file);
        let (has_secret, has_jwks) = (secret.value.is_some(), jwks.value.is_some());
        let has_key = |algorithm: &Algorithm| match algorithm.is_symmetric() {
            true => has_secret,
            false => has_jwks,
        };
        let chosen = &identity.jwt_algorithms;
        let Some(algorithms) = chosen.value.clone() else {
            return Algorithm::ALL.into_iter().filter(has_key).collect();
        };
        for (name, other, at, is_given, is_symmetric) in [
            ("jwt_secret", "HS256", &secret.at, has_secret, true),
            ("jwks_file", "RS256", &jwks.at, has_jwks, false),
        ] {
            let is_one = |algorithm: &&Algorithm| algorithm.is_symmetric() == is_symmetric;
            match (algorithms.iter().find(is_one), is_given) {
                (Some(algorithm), false) if *at != At::Told => {
                    let what = format!(
                        "{} verifies by `{name}`, and there is none",
                        algorithm.name()
                    );
                    self.tell(&chosen.at, what, format!("add `{name}`, or leave it out"));
                }
                (None, true) => {
                    let what = format!("`jwt_algorithms` has none that verifies by `{name}`");
                    self.tell(
                        at,
                        what,
                        format!("leave it out, or add `\"{other}\"` there"),
                    );
                }
                _ => {}
            }
        }
        algorithms
    }

    /// Tells options about tokens where none could be verified.
    fn idle_jwt(&mut self, identity: &options::Identity) {
        if [&identity.jwt_secret.at, &identity.jwks_file.at].contains(&&At::Told) {
            return;
        }
        self.idle_token("jwt_algorithms", &identity.jwt_algorithms);
        self.idle_token("jwt_header", &identity.jwt_header);
        self.idle_token("jwt_cookie", &identity.jwt_cookie);
        self.idle_token("jwt_issuer", &identity.jwt_issuer);
        self.idle_token("jwt_audience", &identity.jwt_audience);
        self.idle_token("jwt_claim", &identity.jwt_claim);
        self.idle_token("tier_claim", &identity.tier_claim);
        self.idle_token("jwt_leeway", &identity.jwt_leeway);
        self.idle_token("jwt_max_life", &identity.jwt_max_life);
        self.idle_token("jwt_max_size", &identity.jwt_max_size);
        self.idle_token("jwt_cache", &identity.jwt_cache);
    }

    fn idle_token<T: Value + PartialEq>(&mut self, name: &str, given: &Given<T>) {
        if is_chosen(name, given) {
            let what = format!("`{name}` without a key that verifies tokens");
            let help = "add `jwt_secret` or `jwks_file`, or leave it out";
            self.tell(&given.at, what, help);
        }
    }

    /// Tells a file that can't be read, or will not do.
    fn file(
        &mut self,
        name: &str,
        at: &At,
        path: &Path,
        check: fn(&str) -> Result<(), String>,
        help: &str,
    ) {
        let told = match (self.world.read)(path) {
            Err(error) => Err(error.to_string()),
            Ok(bytes) => match String::from_utf8(bytes) {
                Err(_) => Err("this is not UTF-8".to_owned()),
                Ok(text) => check(&text),
            },
        };
        if let Err(why) = told {
            let what = format!("`{name}`: {}: {why}", path.display());
            self.tell(at, what, help);
        }
    }
}

/// Whether something was written that is not the default.
fn is_chosen<T: Value + PartialEq>(name: &str, given: &Given<T>) -> bool {
    let option = options::Identity::TABLE.option(name);
    let is_default = option.is_some_and(|option| given.value == option.default::<T>());
    given.at.is_written() && !is_default
}

/// What all proxies of a fleet know, and nobody else if there is a password.
fn shared(fleet: &FleetSpec) -> Secret {
    let password = fleet.redis.password.as_deref().unwrap_or_default();
    let all = ["tidegate identities", password, &fleet.redis.prefix];
    Secret(all.join("\n").into_bytes())
}

/// Fields that say who asks and are not known for it: what was asked with one is nobody else's (`is_credential`).
pub(super) fn credentials(identity: &IdentitySpec) -> Vec<header::HeaderName> {
    let key = identity.keys.as_ref().map(|keys| &keys.header);
    let token = identity.jwt.as_ref().map(|jwt| &jwt.header);
    let unknown =
        |name: &&header::HeaderName| !crate::rules::identity::is_credential(name.as_str());
    key.into_iter()
        .chain(token)
        .filter(unknown)
        .cloned()
        .collect()
}

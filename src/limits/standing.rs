//! What is known of who asks, in a form that can be counted and tells nobody who it is.

use std::num::NonZeroU64;

use ring::hmac::{Context, HMAC_SHA256, Key};
use ring::rand::SystemRandom;

use crate::rules::secret::Secret;

/// The most claims, by name, that can be counted by.
pub const CLAIMS: usize = 4;

/// Somebody: 64 bits of an HMAC of what names them.
///
/// The same for the same somebody under one key, so that proxies with the same secret count together. Of ten million people
/// two share theirs with a chance of 1 in 370,000.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id(pub NonZeroU64);

/// A class of people: its place in the list of names that limits know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tier(pub u16);

/// What everybody is who is known, and not of another tier.
pub const SIGNED_IN: &str = "signed_in";

impl Tier {
    /// [`SIGNED_IN`], the first of all.
    pub const SIGNED_IN: Tier = Tier(0);

    /// The tier of this name, if a limit knows it.
    pub fn named(name: &str, tiers: &[String]) -> Option<Tier> {
        let place = tiers.iter().position(|known| known == name)?;
        u16::try_from(place).ok().map(Tier)
    }
}

/// Somebody who has shown who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    pub id: Id,
    pub tier: Option<Tier>,
}

/// Somebody whose token was verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vouched {
    pub known: Known,
    /// What limits count by beside: claims, in the order in which they were configured.
    pub claims: [Option<Id>; CLAIMS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Anonymous,
    ApiKey,
    Jwt,
}

/// Who asks, as far as it was shown. A request may bring a key and a token.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Standing {
    pub key: Option<Known>,
    pub token: Option<Vouched>,
}

impl Standing {
    pub const NOBODY: Standing = Standing {
        key: None,
        token: None,
    };

    pub fn kind(&self) -> Kind {
        match (self.token, self.key) {
            (Some(_), _) => Kind::Jwt,
            (None, Some(_)) => Kind::ApiKey,
            (None, None) => Kind::Anonymous,
        }
    }

    /// Who is signed in: the person whose token it is before the app whose key it is.
    pub fn known(&self) -> Option<Known> {
        self.token.map(|token| token.known).or(self.key)
    }

    /// What their token says under one of the names that limits count by.
    pub fn claim(&self, place: usize) -> Option<Id> {
        self.token.and_then(|token| *token.claims.get(place)?)
    }
}

/// What identities and credentials are hashed by.
pub struct Hashing {
    key: Key,
}

/// What a hash is of: the same text is another as a key than as a claim.
#[derive(Clone, Copy)]
pub enum Of {
    ApiKey,
    Name,
    Token,
    Claim,
}

impl Hashing {
    /// # Errors
    /// No secret is given, and the system has no random bytes for one; for people.
    pub fn new(secret: Option<&Secret>) -> Result<Hashing, String> {
        let key = match secret {
            Some(secret) => Key::new(HMAC_SHA256, &secret.0),
            None => Key::generate(HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| "no random bytes to hash identities with".to_owned())?,
        };
        Ok(Hashing { key })
    }

    /// To count by.
    pub fn id(&self, of: Of, parts: &[&[u8]]) -> Id {
        let [first, _] = self.print(of, parts);
        Id(NonZeroU64::new(first).unwrap_or(NonZeroU64::MIN))
    }

    /// To find again: 128 bits, so that nobody finds another text with the same.
    pub fn print(&self, of: Of, parts: &[&[u8]]) -> [u64; 2] {
        let mut context = Context::with_key(&self.key);
        context.update(match of {
            Of::ApiKey => b"tidegate api key 1",
            Of::Name => b"tidegate name 1",
            Of::Token => b"tidegate token 1",
            Of::Claim => b"tidegate claim 1",
        });
        for part in parts {
            // Where one ends and the next begins is part of it.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        let half = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let tag = tag.as_ref();
        [half(&tag[..8]), half(&tag[8..16])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashing(secret: &str) -> Hashing {
        Hashing::new(Some(&Secret(secret.as_bytes().to_vec()))).unwrap()
    }

    #[test]
    fn the_same_under_the_same_secret_only() {
        let id = |hashing: &Hashing| hashing.id(Of::Claim, &[b"sub", b"ada"]);
        assert_eq!(id(&hashing("one secret")), id(&hashing("one secret")));
        assert_ne!(id(&hashing("one secret")), id(&hashing("another")));
        let own = || id(&Hashing::new(None).unwrap());
        assert_ne!(own(), own(), "a key of its own each time");
    }

    #[test]
    fn what_it_is_of_and_where_its_parts_end_is_part_of_it() {
        let hashing = hashing("one secret");
        let all = [
            hashing.id(Of::Claim, &[b"sub", b"ada"]),
            hashing.id(Of::Claim, &[b"su", b"bada"]),
            hashing.id(Of::Claim, &[b"subada"]),
            hashing.id(Of::Claim, &[b"sub", b"ada", b""]),
            hashing.id(Of::Name, &[b"sub", b"ada"]),
            hashing.id(Of::ApiKey, &[b"sub", b"ada"]),
            hashing.id(Of::Token, &[b"sub", b"ada"]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }

    #[test]
    fn the_person_comes_before_the_app() {
        let known = |n| Known {
            id: Id(NonZeroU64::new(n).unwrap()),
            tier: Some(Tier(n as u16)),
        };
        let (key, token) = (
            Some(known(1)),
            Some(Vouched {
                known: known(2),
                claims: [None, Some(known(3).id), None, None],
            }),
        );
        let nobody = Standing::default();
        assert_eq!((nobody.kind(), nobody.known()), (Kind::Anonymous, None));
        assert_eq!(nobody.claim(1), None);
        let app = Standing { key, token: None };
        assert_eq!((app.kind(), app.known()), (Kind::ApiKey, key));
        let both = Standing { key, token };
        assert_eq!((both.kind(), both.known()), (Kind::Jwt, Some(known(2))));
        assert_eq!(both.claim(1), Some(known(3).id));
        assert_eq!((both.claim(0), both.claim(9)), (None, None));
    }

    #[test]
    fn tiers_are_those_that_limits_know() {
        let tiers = ["gold".to_owned(), "silver".to_owned()];
        assert_eq!(Tier::named("silver", &tiers), Some(Tier(1)));
        assert_eq!(Tier::named("Gold", &tiers), None);
    }
}

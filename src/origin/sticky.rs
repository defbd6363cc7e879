//! The key that makes the names of servers in visitors' cookies; what the cookies are for, [`rules`](crate::rules::sticky)
//! say.

use std::net::SocketAddr;

use ring::hmac::{HMAC_SHA256, Key, sign};
use ring::rand::SystemRandom;

pub use crate::rules::secret::Secret;
use crate::rules::sticky::Token;

/// What a config says of sticky sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickySpec {
    /// The cookie's name.
    pub cookie: String,
    /// None: one of this process's own.
    pub key: Option<Secret>,
}

/// Makes tokens.
pub struct Signer(Key);

impl Signer {
    /// # Errors
    /// The system has no random bytes for a key; for people.
    pub fn new(spec: &StickySpec) -> Result<Signer, String> {
        if let Some(key) = &spec.key {
            return Ok(Signer(Key::new(HMAC_SHA256, &key.0)));
        }
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new());
        key.map(Signer)
            .map_err(|_| "no random bytes for the key of sticky sessions".to_owned())
    }

    /// A server's, of an upstream. Nobody without the key can tell from it which server that is, nor make one.
    pub fn token(&self, upstream: &str, authority: &str, addr: SocketAddr) -> Token {
        let what = format!("tidegate sticky 1\n{upstream}\n{authority}\n{addr}");
        let tag = sign(&self.0, what.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&tag.as_ref()[..16]);
        Token::of(&half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(key: Option<&str>) -> StickySpec {
        StickySpec {
            cookie: "srv".to_owned(),
            key: key.map(|key| Secret(key.as_bytes().to_vec())),
        }
    }

    #[test]
    fn a_token_is_one_servers_under_one_key() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let signer = Signer::new(&spec(Some("a key"))).unwrap();
        let token = signer.token("app", "a:1", at(1));
        assert_eq!(
            Signer::new(&spec(Some("a key")))
                .unwrap()
                .token("app", "a:1", at(1)),
            token
        );
        for other in [
            signer.token("api", "a:1", at(1)),
            signer.token("app", "b:1", at(1)),
            signer.token("app", "a:1", at(2)),
            Signer::new(&spec(Some("another")))
                .unwrap()
                .token("app", "a:1", at(1)),
        ] {
            assert!(other != token);
        }
        let own = || Signer::new(&spec(None)).unwrap().token("app", "a:1", at(1));
        assert!(own() != own(), "a key of its own each time");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", spec(Some("hidden")));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}

//! The words that say which server a request goes to: what to hash, a cookie's name, the secret that signs it.

use std::fmt;
use std::path::PathBuf;

use http::HeaderName;

use super::value::{Kind, Word, Wrong, is_not};
pub use crate::origin::HashBy;
use crate::rules::fields::is_tchar;

impl Word for HashBy {
    const WORD: Kind = Kind::Text {
        noun: "a part of a request",
        pattern: Some("^(path|address|header:.+|cookie:.+)$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(is_not(text, Self::WORD), help);
        match text.split_once(':').unwrap_or((text, "")) {
            ("path", "") => Ok(HashBy::Path),
            ("address", "") => Ok(HashBy::Address),
            ("header", name) => HeaderName::try_from(name)
                .map(HashBy::Header)
                .map_err(|_| wrong("a field's name, as in `\"header:X-Tenant\"`")),
            ("cookie", name) if is_token(name) => Ok(HashBy::Cookie(name.to_owned())),
            ("cookie", _) => Err(wrong("a cookie's name, as in `\"cookie:cart\"`")),
            _ => Err(wrong(
                "write `\"path\"`, `\"address\"`, `\"header:NAME\"` or `\"cookie:NAME\"`",
            )),
        }
    }
}

/// The name of a cookie of ours (RFC 6265 §4.1.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CookieName(pub String);

impl Word for CookieName {
    const WORD: Kind = Kind::Text {
        noun: "a cookie's name",
        pattern: Some(r"^[A-Za-z0-9!#$%&'+.^_`|~-]{1,64}$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        // In lists of cookies a star stands for more.
        match text.len() <= 64 && is_token(text) && !text.contains('*') {
            true => Ok(CookieName(text.to_owned())),
            false => Err(Wrong::new(
                is_not(text, Self::WORD),
                "up to 64 letters, digits, `_`, `-` and `.`, as in `\"app_server\"`",
            )),
        }
    }
}

pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// A secret, or the file that has it. Never shown, in mistakes neither.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Text(String),
    File(PathBuf),
}

/// Fewer bytes than this could be guessed.
pub const LEAST_SECRET: usize = 16;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Secret"),
            Secret::File(path) => write!(f, "Secret in {}", path.display()),
        }
    }
}

impl Word for Secret {
    const WORD: Kind = Kind::Secret {
        noun: "a secret",
        pattern: Some("^(file:.+|.{16,})$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("file:") {
            Some("") => Err(Wrong::new(
                "`file:` without a path",
                "as in `\"file:/run/secrets/sticky\"`",
            )),
            Some(path) => Ok(Secret::File(path.into())),
            None if text.len() < LEAST_SECRET => Err(short()),
            None => Ok(Secret::Text(text.to_owned())),
        }
    }
}

/// A secret that is no secret.
pub fn short() -> Wrong {
    Wrong::new(
        format!("a secret of less than {LEAST_SECRET} bytes"),
        "make one with `openssl rand -hex 32`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_hash() {
        let tenant = HashBy::Header(HeaderName::from_static("x-tenant"));
        for (text, by) in [
            ("path", HashBy::Path),
            ("address", HashBy::Address),
            ("header:X-Tenant", tenant),
            ("cookie:cart", HashBy::Cookie("cart".to_owned())),
        ] {
            assert_eq!(HashBy::parse(text), Ok(by), "{text}");
        }
        for (text, part) in [
            ("paths", "`\"path\"`"),
            ("path:x", "`\"path\"`"),
            ("header:", "header:X-Tenant"),
            ("header:a b", "header:X-Tenant"),
            ("cookie:", "cookie:cart"),
            ("cookie:a=b", "cookie:cart"),
            ("", "`\"path\"`"),
        ] {
            let help = HashBy::parse(text).unwrap_err().help.unwrap();
            assert!(help.contains(part), "{text}: {help}");
        }
    }

    #[test]
    fn names_of_cookies() {
        assert!(CookieName::parse("__Host-srv.1").is_ok());
        for text in ["", "a b", "a=b", "a;b", "srv*", "ä", &"x".repeat(65)] {
            assert!(CookieName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_long_and_not_told() {
        let secret = Secret::parse("0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
        let wrong = Secret::parse("hunter2").unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"));
        assert_eq!(
            Secret::parse("file:/run/x"),
            Ok(Secret::File("/run/x".into()))
        );
        assert!(Secret::parse("file:").is_err());
    }
}

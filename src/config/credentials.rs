//! The words about what people show to be known by: fields, files of keys, algorithms of tokens.

use std::path::PathBuf;

use http::{HeaderName, header};

use super::value::{Kind, Word, Wrong, choice, is_not};
use crate::rules::hop::is_hop_by_hop;
use crate::rules::token::Algorithm;

/// The name of a field that a client may send as it likes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldName(pub HeaderName);

impl Word for FieldName {
    const WORD: Kind = Kind::Text {
        noun: "a field's name",
        pattern: Some(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: &str| Wrong::new(is_not(text, Self::WORD), help);
        let name = HeaderName::try_from(text).map_err(|_| {
            let colon = text.split_once(':').map(|(name, _)| name);
            match colon {
                Some(name) => wrong(&format!("leave out what follows: `\"{name}\"`")),
                None => wrong("as in `\"X-Api-Key\"`"),
            }
        })?;
        if name == header::COOKIE {
            return Err(wrong("a cookie is named by an option of its own"));
        }
        match is_hop_by_hop(name.as_str()) || [header::HOST, header::CONTENT_LENGTH].contains(&name)
        {
            true => Err(wrong(
                "it says something else already, as in `\"X-Api-Key\"`",
            )),
            false => Ok(FieldName(name)),
        }
    }
}

/// A file that holds secrets, each on a line; `file:` before it, as for a secret alone, changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretFile(pub PathBuf);

impl Word for SecretFile {
    const WORD: Kind = Kind::Text {
        noun: "a file of secrets",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("file:").unwrap_or(text) {
            "" => Err(Wrong::new(
                is_not(text, Self::WORD),
                "as in `\"file:/run/secrets/api-keys\"`",
            )),
            path => Ok(SecretFile(path.into())),
        }
    }
}

choice!(Algorithm:
    "HS256" => Algorithm::Hs256,
    "RS256" => Algorithm::Rs256,
    "ES256" => Algorithm::Es256,
    "EdDSA" => Algorithm::EdDsa,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields() {
        let parse = |text| FieldName::parse(text).map(|name| name.0.to_string());
        assert_eq!(parse("X-Api-Key").as_deref(), Ok("x-api-key"));
        for (text, part) in [
            ("", "X-Api-Key"),
            ("a b", "X-Api-Key"),
            ("X-Api-Key: secret", "`\"X-Api-Key\"`"),
            ("Cookie", "an option of its own"),
            ("Connection", "something else"),
            ("host", "something else"),
        ] {
            let help = FieldName::parse(text).unwrap_err().help.unwrap();
            assert!(help.contains(part), "{text}: {help}");
        }
    }

    #[test]
    fn files_of_secrets() {
        let file = Ok(SecretFile("/run/keys".into()));
        assert_eq!(SecretFile::parse("file:/run/keys"), file);
        assert_eq!(SecretFile::parse("/run/keys"), file);
        assert!(SecretFile::parse("file:").is_err() && SecretFile::parse("").is_err());
    }
}

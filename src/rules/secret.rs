//! What is known and must not be shown.

use std::fmt;

/// Bytes that no log, mistake or dump shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Secret(b"hidden".to_vec()));
        assert_eq!(shown, "Secret");
    }
}

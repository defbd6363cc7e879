//! What a lever is known by to all proxies of a fleet.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::telemetry::ids;

/// A random number, written as sixteen digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Uid(pub u64);

impl Uid {
    pub fn fresh() -> Uid {
        Uid(ids::random())
    }

    /// None: it is none.
    pub fn parse(text: &str) -> Option<Uid> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Uid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// Numbers of JSON have 53 bits.
impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Uid, D::Error> {
        let text = String::deserialize(from)?;
        Uid::parse(&text).ok_or_else(|| de::Error::custom("sixteen digits, as in 00c0ffee00c0ffee"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let uid = Uid(0xc0ff_ee00);
        assert_eq!(uid.to_string(), "00000000c0ffee00");
        assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        for wrong in [
            "",
            "c0ffee",
            "00000000C0FFEE00",
            "+0000000c0ffee00",
            "00000000c0ffee000",
        ] {
            assert_eq!(Uid::parse(wrong), None, "{wrong:?}");
        }
    }
}

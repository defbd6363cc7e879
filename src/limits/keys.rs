//! API keys: a list of them in a file, and in memory only what they hash to.

use std::collections::HashMap;

use super::standing::{Hashing, Known, Of, Tier};

/// Fewer bytes than this could be guessed.
const LEAST: usize = 16;
/// And more are no key.
const MOST: usize = 256;

/// Those who have a key.
pub struct ApiKeys {
    /// By the print of the key, which says nothing about it: so it does not matter that finding one takes as long as it takes.
    known: HashMap<[u64; 2], Known, foldhash::fast::RandomState>,
    /// Tiers that no limit knows, each once.
    pub strange: Vec<String>,
}

impl ApiKeys {
    /// Reads `key`, `key name` or `key name tier` from each line; empty ones and those that begin with `#` say nothing.
    ///
    /// Keys of one name are one client, so that a key can be replaced by another without a second allowance.
    ///
    /// # Errors
    /// The first line that is none of that, without what it says.
    pub fn read(text: &str, hashing: &Hashing, tiers: &[String]) -> Result<ApiKeys, String> {
        let mut keys = ApiKeys {
            known: HashMap::default(),
            strange: Vec::new(),
        };
        for (at, line) in text.lines().enumerate() {
            if line.trim_ascii().is_empty() || line.starts_with('#') {
                continue;
            }
            keys.line(line, hashing, tiers)
                .map_err(|why| format!("line {}: {why}", at + 1))?;
        }
        match keys.known.is_empty() {
            true => Err("no key in it".to_owned()),
            false => Ok(keys),
        }
    }

    fn line(&mut self, line: &str, hashing: &Hashing, tiers: &[String]) -> Result<(), String> {
        let mut words = line.split_ascii_whitespace();
        let (key, name, tier) = (words.next().unwrap_or(""), words.next(), words.next());
        if words.next().is_some() {
            return Err("more than a key, a name and a tier".to_owned());
        }
        if key.len() < LEAST {
            return Err(format!(
                "a key of less than {LEAST} bytes; make one with `openssl rand -hex 32`"
            ));
        }
        if key.len() > MOST || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("a key is up to {MOST} visible ASCII characters"));
        }
        let tier = tier.and_then(|name| {
            let tier = Tier::named(name, tiers);
            if tier.is_none() && !self.strange.iter().any(|known| known == name) {
                self.strange.push(name.to_owned());
            }
            tier
        });
        let print = hashing.print(Of::ApiKey, &[key.as_bytes()]);
        let id = match name {
            Some(name) => hashing.id(Of::Name, &[name.as_bytes()]),
            None => hashing.id(Of::ApiKey, &[key.as_bytes()]),
        };
        match self.known.insert(print, Known { id, tier }) {
            Some(_) => Err("a key that stands there already".to_owned()),
            None => Ok(()),
        }
    }

    /// Whose key this is.
    pub fn find(&self, key: &[u8], hashing: &Hashing) -> Option<Known> {
        if !(LEAST..=MOST).contains(&key.len()) {
            return None;
        }
        self.known.get(&hashing.print(Of::ApiKey, &[key])).copied()
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccc";

    fn read(text: &str) -> (Result<ApiKeys, String>, Hashing) {
        let hashing = Hashing::new(None).unwrap();
        let tiers = ["gold".to_owned()];
        (ApiKeys::read(text, &hashing, &tiers), hashing)
    }

    #[test]
    fn a_line_a_key() {
        let text = format!("# ours\n\n{A}\r\n  {B}\tapp gold\n{C} app silver\n");
        let (keys, hashing) = read(&text);
        let keys = keys.ok().unwrap();
        let find = |key: &str| keys.find(key.as_bytes(), &hashing);
        let [a, b, c] = [A, B, C].map(|key| find(key).unwrap());
        assert_eq!((a.tier, b.tier, c.tier), (None, Some(Tier(0)), None));
        assert_eq!(b.id, c.id, "one client with two keys");
        assert_ne!(a.id, b.id);
        assert_eq!(keys.strange, ["silver"]);
        assert_eq!(keys.len(), 3);
        for none in [
            "",
            "app",
            "# ours",
            "aaaaaaaaaaaaaaab",
            &A.repeat(2),
            &A[1..],
            &A.to_uppercase(),
        ] {
            assert_eq!(find(none), None, "{none}");
        }
        assert_eq!(find(&"a".repeat(100_000)), None);
    }

    #[test]
    fn mistakes_tell_the_line_and_never_the_key() {
        for (text, why) in [
            ("", "no key in it"),
            ("# nothing\n", "no key in it"),
            (
                &format!("{A}\nhunter2\n"),
                "line 2: a key of less than 16 bytes",
            ),
            (&format!("{A} a b c\n"), "line 1: more than a key"),
            (&format!("{A}é\n"), "line 1: a key is up to 256"),
            (&format!("{}\n", A.repeat(17)), "line 1: a key is up to 256"),
            (
                &format!("{A}\n{B}\n{A} twice\n"),
                "line 3: a key that stands there already",
            ),
        ] {
            let told = read(text).0.err().unwrap();
            assert!(told.starts_with(why), "{told}");
            assert!(!told.contains("hunter2") && !told.contains(A), "{told}");
        }
    }
}

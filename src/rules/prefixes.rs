//! Values filed under beginnings of byte strings, and which of them a string begins with.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Prefixes<T>(BTreeMap<Box<[u8]>, T>);

impl<T> Prefixes<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is filed under `prefix`, made if nothing is.
    pub fn entry(&mut self, prefix: &[u8]) -> &mut T
    where
        T: Default,
    {
        if !self.0.contains_key(prefix) {
            self.0.insert(prefix.into(), T::default());
        }
        self.0.get_mut(prefix).expect("it has just been looked for")
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.0.retain(|_, value| keep(value));
    }

    /// What is filed under any beginning of `text`, the longest first. A few steps for each of them, however many others
    /// there are; no allocation.
    pub fn of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            loop {
                let (prefix, value) = self
                    .0
                    .range::<[u8], _>((Unbounded, Included(rest.take()?)))
                    .next_back()?;
                let common = common(prefix, text);
                if common == prefix.len() {
                    rest = common.checked_sub(1).map(|shorter| &text[..shorter]);
                    return Some(value);
                }
                // Of all that are not greater this is the greatest, so none shares more with the text.
                rest = Some(&text[..common]);
            }
        })
    }
}

fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_beginning_is_found_and_nothing_beside() {
        let mut filed = Prefixes::<&str>::default();
        for prefix in ["", "a", "a/b", "a/b/c", "a/bc", "b", "a0", "z"] {
            *filed.entry(prefix.as_bytes()) = prefix;
        }
        let of = |text: &str| filed.of(text.as_bytes()).copied().collect::<Vec<_>>();
        assert_eq!(of("a/b/c/d"), ["a/b/c", "a/b", "a", ""]);
        assert_eq!(of("a/bc"), ["a/bc", "a/b", "a", ""]);
        assert_eq!(of("y"), [""]);
        assert_eq!(of(""), [""]);
        filed.retain(|prefix| !prefix.is_empty());
        assert!(filed.of(b"y").next().is_none());
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_of_all_finds(
            prefixes in proptest::collection::hash_set("[ab]{0,5}", 0..20),
            text in "[abc]{0,8}",
        ) {
            let mut filed = Prefixes::<String>::default();
            for prefix in &prefixes {
                filed.entry(prefix.as_bytes()).clone_from(prefix);
            }
            let mut all: Vec<_> = prefixes.iter().filter(|prefix| text.starts_with(prefix.as_str())).collect();
            all.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            prop_assert_eq!(filed.of(text.as_bytes()).collect::<Vec<_>>(), all);
        }
    }
}

//! What two configs would do with the same requests, and where they differ.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// So many kinds of difference are told, those first that are the most.
const MOST: usize = 20;

/// What is done with a request at the door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fate {
    /// None: no route takes it.
    pub route: Option<Arc<str>>,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It is looked for in the cache, under this key.
    Cache(Box<[u8]>),
    Past,
    Blocked,
    Challenged,
    Limited,
    Delayed,
    /// It gets one of our own answers: a redirect, a refusal of what would change something.
    Here,
}

impl What {
    fn words(&self) -> &'static str {
        match self {
            What::Cache(_) => "by the cache",
            What::Past => "past the cache",
            What::Blocked => "blocked",
            What::Challenged => "challenged",
            What::Limited => "refused by a limit",
            What::Delayed => "delayed by a limit",
            What::Here => "answered by the proxy",
        }
    }
}

/// What would be otherwise, in numbers of requests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    pub requests: u64,
    /// From the first of them to now.
    pub seconds: u64,
    /// Of how many of a thousand clients they are.
    pub per_mille: u32,
    /// Another route takes them, or none does.
    pub routed: u64,
    /// They go past the cache instead, or are looked for there instead, or under another key.
    pub cached: u64,
    /// Limits refuse or delay them, or do so no longer.
    pub limited: u64,
    /// They are turned away or asked for a pass, or are so no longer.
    pub blocked: u64,
    pub differences: Vec<Difference>,
    /// Limits by which all clients count together, so that some clients' requests say nothing of them.
    pub left_out: Vec<String>,
}

/// Requests of which the same would be otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    pub before: String,
    pub after: String,
    pub requests: u64,
    /// One of them.
    pub example: String,
}

/// Counts differences.
#[derive(Default)]
pub struct Tally {
    replay: Replay,
    kinds: HashMap<(String, String), (u64, String)>,
}

impl Tally {
    /// A request that `was` to be treated so, and now `is`.
    pub fn add(&mut self, was: &Fate, is: &Fate, example: impl FnOnce() -> String) {
        self.replay.requests += 1;
        if was == is {
            return;
        }
        let either = |is_it: fn(&What) -> bool| u64::from(is_it(&was.what) != is_it(&is.what));
        let replay = &mut self.replay;
        replay.routed += u64::from(was.route != is.route);
        replay.blocked += either(|what| matches!(what, What::Blocked | What::Challenged));
        replay.limited += either(|what| matches!(what, What::Limited | What::Delayed));
        let looked = |what: &What| matches!(what, What::Cache(_) | What::Past);
        let both = looked(&was.what) && looked(&is.what);
        replay.cached += u64::from(both && was.what != is.what);
        let kind = self.kinds.entry(words(was, is));
        kind.or_insert_with(|| (0, example())).0 += 1;
    }

    pub fn done(self) -> Replay {
        let kinds = self.kinds.into_iter();
        let mut differences: Vec<_> = kinds
            .map(|((before, after), (requests, example))| Difference {
                before,
                after,
                requests,
                example,
            })
            .collect();
        differences.sort_by_cached_key(|one| {
            (Reverse(one.requests), one.before.clone(), one.after.clone())
        });
        differences.truncate(MOST);
        Replay {
            differences,
            ..self.replay
        }
    }
}

fn words(was: &Fate, is: &Fate) -> (String, String) {
    let words = |fate: &Fate| match &fate.route {
        Some(route) => format!("{route}, {}", fate.what.words()),
        None => format!("no route, {}", fate.what.words()),
    };
    let (before, mut after) = (words(was), words(is));
    if before == after {
        after.push_str(" under another key");
    }
    (before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(route: &str, what: What) -> Fate {
        Fate {
            route: (!route.is_empty()).then(|| route.into()),
            what,
        }
    }

    fn cache(key: &str) -> What {
        What::Cache(key.as_bytes().into())
    }

    #[test]
    fn what_differs_is_counted_by_kind() {
        let mut tally = Tally::default();
        let mut add = |was: Fate, is: Fate| tally.add(&was, &is, || "GET /".to_owned());
        add(fate("a", cache("1")), fate("a", cache("1")));
        add(fate("a", cache("1")), fate("b", cache("1")));
        add(fate("a", cache("1")), fate("b", cache("1")));
        add(fate("a", cache("1")), fate("a", cache("2")));
        add(fate("a", cache("1")), fate("a", What::Past));
        add(fate("a", What::Past), fate("a", What::Limited));
        add(fate("a", What::Blocked), fate("a", What::Challenged));
        add(fate("a", What::Blocked), fate("", What::Here));
        let replay = tally.done();
        let counts = (replay.routed, replay.cached, replay.limited, replay.blocked);
        assert_eq!((replay.requests, counts), (8, (3, 2, 1, 1)));
        let told: Vec<_> = replay
            .differences
            .iter()
            .map(|one| format!("{} {} -> {}", one.requests, one.before, one.after))
            .collect();
        assert_eq!(
            told,
            [
                "2 a, by the cache -> b, by the cache",
                "1 a, blocked -> a, challenged",
                "1 a, blocked -> no route, answered by the proxy",
                "1 a, by the cache -> a, by the cache under another key",
                "1 a, by the cache -> a, past the cache",
                "1 a, past the cache -> a, refused by a limit",
            ]
        );
    }
}

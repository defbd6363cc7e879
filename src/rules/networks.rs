//! Which named lists hold an address, and whether it is kept out: networks of many lists as one sorted table of ranges, so
//! that a look costs about the same whether there are ten or a hundred thousand.
//!
//! An address of IPv4 written as one of IPv6 (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2) is the former, in lists as in requests;
//! `::/0` and its like therefore hold none of IPv4.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// The most lists of one table: a bit each.
pub const MOST_LISTS: usize = 64;

/// What a list does to those it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Deny,
    /// They are let in, though a wider network is denied.
    Allow,
}

/// What the lists say of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Listed {
    /// A bit for each list that holds it.
    pub lists: u64,
    /// The list that keeps it out.
    pub denied: Option<u8>,
}

impl Listed {
    pub const NOWHERE: Listed = Listed {
        lists: 0,
        denied: None,
    };

    pub fn is_in(self, list: u8) -> bool {
        self.lists & (1 << list) != 0
    }
}

/// Networks of lists, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Networks {
    /// `lists`: each list's networks and what it does; those past [`MOST_LISTS`] are left out. Of the networks that hold an
    /// address the longest prefix among lists with an action decides; of two as long, the one that allows.
    pub fn new<'n>(
        lists: impl IntoIterator<Item = (impl IntoIterator<Item = &'n IpNet>, Option<Action>)>,
    ) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (list, (networks, action)) in (0..MOST_LISTS as u8).zip(lists) {
            for network in networks {
                let (part, first, last, prefix) = match folded(*network) {
                    IpNet::V4(net) => (
                        &mut v4,
                        u32::from(net.network()).into(),
                        u32::from(net.broadcast()).into(),
                        net.prefix_len(),
                    ),
                    IpNet::V6(net) => (
                        &mut v6,
                        u128::from(net.network()),
                        u128::from(net.broadcast()),
                        net.prefix_len(),
                    ),
                };
                part.push(Span {
                    first,
                    last,
                    prefix,
                    list,
                    action,
                });
            }
        }
        Networks {
            v4: Ranges::of(v4, |start| start as u32),
            v6: Ranges::of(v6, |start| start),
        }
    }

    /// What the lists say of an address; in some 17 steps where there are 100,000 networks.
    pub fn find(&self, address: IpAddr) -> Listed {
        match address.to_canonical() {
            IpAddr::V4(ip) => self.v4.find(u32::from(ip)),
            IpAddr::V6(ip) => self.v6.find(u128::from(ip)),
        }
    }
}

/// A network of IPv4 that was written as one of IPv6 is the former.
fn folded(network: IpNet) -> IpNet {
    let IpNet::V6(net) = network else {
        return network;
    };
    let v4 = net.network().to_ipv4_mapped();
    let prefix = net.prefix_len().checked_sub(96);
    match v4.zip(prefix).map(|(ip, prefix)| Ipv4Net::new(ip, prefix)) {
        Some(Ok(net)) => IpNet::V4(net),
        _ => network,
    }
}

/// Whether a network holds an address, each of them folded.
pub fn holds(network: &IpNet, address: IpAddr) -> bool {
    folded(*network).contains(&address.to_canonical())
}

/// A network of a list, first and last address included.
#[derive(Clone, Copy)]
struct Span {
    first: u128,
    last: u128,
    prefix: u8,
    list: u8,
    action: Option<Action>,
}

/// Where what is said changes, and into what.
#[derive(Clone, Debug)]
struct Ranges<T> {
    /// In order; each range goes on to the next one's start.
    starts: Box<[T]>,
    /// For each start a place in `kinds`.
    says: Box<[u32]>,
    kinds: Box<[Listed]>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Ranges {
            starts: Box::default(),
            says: Box::default(),
            kinds: Box::default(),
        }
    }
}

impl<T: Ord + Copy> Ranges<T> {
    fn of(mut spans: Vec<Span>, narrow: impl Fn(u128) -> T) -> Ranges<T> {
        spans.sort_unstable_by_key(|span| (span.first, span.prefix, span.list));
        let mut edges = Edges::default();
        // Networks lie in each other or apart. Those that the sweep is in, the widest first.
        let mut open: Vec<(u128, Standing)> = Vec::new();
        let around = |open: &[(u128, Standing)]| open.last().map_or(Standing::NONE, |top| top.1);
        for span in &spans {
            while let Some((last, _)) = open.pop_if(|(last, _)| *last < span.first) {
                edges.from(last + 1, around(&open).listed());
            }
            let inside = around(&open).within(span);
            edges.from(span.first, inside.listed());
            open.push((span.last, inside));
        }
        while let Some((last, _)) = open.pop() {
            if let Some(next) = last.checked_add(1) {
                edges.from(next, around(&open).listed());
            }
        }
        // Past the last address of IPv4 nothing begins, though a number may.
        edges.finish(narrow)
    }

    fn find(&self, address: T) -> Listed {
        let after = self.starts.partition_point(|start| *start <= address);
        let at = after.checked_sub(1).and_then(|at| self.says.get(at));
        at.and_then(|kind| self.kinds.get(*kind as usize))
            .copied()
            .unwrap_or(Listed::NOWHERE)
    }
}

/// What holds within the networks that are open.
#[derive(Clone, Copy)]
struct Standing {
    lists: u64,
    decided: Option<(u8, u8, Action)>,
}

impl Standing {
    const NONE: Standing = Standing {
        lists: 0,
        decided: None,
    };

    /// And within `span`, which is no wider than they are.
    fn within(self, span: &Span) -> Standing {
        let mine = span.action.map(|action| (span.prefix, span.list, action));
        let decided = match (self.decided, mine) {
            (before, None) => before,
            (Some((prefix, _, Action::Allow)), Some(_)) if prefix == span.prefix => self.decided,
            (Some((prefix, _, Action::Deny)), Some((_, _, Action::Deny)))
                if prefix == span.prefix =>
            {
                self.decided
            }
            (_, mine) => mine,
        };
        Standing {
            lists: self.lists | 1 << span.list,
            decided,
        }
    }

    fn listed(self) -> Listed {
        Listed {
            lists: self.lists,
            denied: match self.decided {
                Some((_, list, Action::Deny)) => Some(list),
                _ => None,
            },
        }
    }
}

#[derive(Default)]
struct Edges {
    edges: Vec<(u128, u32)>,
    kinds: Vec<Listed>,
    known: HashMap<Listed, u32>,
}

impl Edges {
    /// From `start` on, this is said.
    fn from(&mut self, start: u128, says: Listed) {
        let kinds = &mut self.kinds;
        let kind = *self.known.entry(says).or_insert_with(|| {
            kinds.push(says);
            (kinds.len() - 1) as u32
        });
        match self.edges.last_mut() {
            Some((last, said)) if *last == start => *said = kind,
            _ => self.edges.push((start, kind)),
        }
    }

    fn finish<T>(self, narrow: impl Fn(u128) -> T) -> Ranges<T> {
        let bits = 8 * size_of::<T>() as u32;
        let mut edges = self.edges;
        edges.retain(|(start, _)| bits == u128::BITS || start >> bits == 0);
        edges.dedup_by_key(|(_, kind)| *kind);
        Ranges {
            starts: edges.iter().map(|(start, _)| narrow(*start)).collect(),
            says: edges.iter().map(|(_, kind)| *kind).collect(),
            kinds: self.kinds.into(),
        }
    }
}

#[cfg(test)]
mod tests;

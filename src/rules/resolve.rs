//! What the addresses of a server's name are, given what DNS said, and when it is asked again.
//!
//! A name that has had addresses keeps them whatever DNS says, until it names others: an app is seldom gone because its
//! name is, and a proxy that forgets where its app is makes a short outage of DNS one of the site.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The most servers that a name stands for.
pub const MOST: usize = 128;

/// How soon a name is asked for again that had no answer; doubled each time.
const SOON: Duration = Duration::from_millis(500);
const LATER: Duration = Duration::from_secs(5);

/// Which kinds of address are used. One server often has one of each, and would count as two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// IPv6's only where there is no other.
    #[default]
    Ipv4First,
    Ipv6First,
    Ipv4,
    Ipv6,
    All,
}

impl Family {
    /// Whether IPv4's (A) and IPv6's (AAAA) are to be asked for.
    pub fn asks(self) -> (bool, bool) {
        (self != Family::Ipv6, self != Family::Ipv4)
    }
}

/// How often a name is asked for, whatever its TTL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    pub min: Duration,
    pub max: Duration,
}

/// What DNS said of one kind of address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    Addresses(Vec<IpAddr>, Duration),
    Nothing(Fault),
}

/// Why there is no address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// NXDOMAIN.
    NoSuchName,
    /// The name is there, and has none (RFC 2308 §2.2); also where it was not asked for.
    NoAddress,
    /// No answer in time.
    Timeout,
    /// SERVFAIL, REFUSED, nobody there; for people.
    Failed(String),
}

impl Fault {
    /// Whether that is an answer.
    fn is_certain(&self) -> bool {
        matches!(self, Fault::NoSuchName | Fault::NoAddress)
    }

    /// For people.
    pub fn why(&self) -> &str {
        match self {
            Fault::NoSuchName => "no such name (NXDOMAIN)",
            Fault::NoAddress => "the name has no address",
            Fault::Timeout => "no answer in time",
            Fault::Failed(why) => why,
        }
    }
}

/// The addresses that a name has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// In order, each once; at least one, at most [`MOST`].
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
    /// Addresses there were more.
    pub left_out: usize,
    /// A part of the answer failed, and what was known of it is kept.
    pub fault: Option<Fault>,
}

/// The addresses of a name whose `last` ones were these.
///
/// # Errors
/// None are to be had: the last good ones stay.
pub fn settle(family: Family, a: Said, aaaa: Said, last: &[IpAddr]) -> Result<Settled, Fault> {
    let (first, second) = match family {
        Family::Ipv6First | Family::Ipv6 => (aaaa, a),
        _ => (a, aaaa),
    };
    match (first, second) {
        (Said::Addresses(mut some, ttl), Said::Addresses(others, ttl_of_others))
            if family == Family::All =>
        {
            some.extend(others);
            taken(some, ttl.min(ttl_of_others), None)
        }
        (Said::Addresses(mut some, ttl), Said::Nothing(fault))
        | (Said::Nothing(fault), Said::Addresses(mut some, ttl))
            if family == Family::All =>
        {
            if fault.is_certain() {
                return taken(some, ttl, None);
            }
            let was_v4 = some.first().is_some_and(IpAddr::is_ipv4);
            some.extend(last.iter().filter(|ip| ip.is_ipv4() != was_v4));
            taken(some, ttl, Some(fault))
        }
        (Said::Addresses(some, ttl), _) => taken(some, ttl, None),
        (Said::Nothing(fault), Said::Addresses(some, ttl)) => {
            // Those that come first may be there still.
            match fault.is_certain() || last.is_empty() {
                true => taken(some, ttl, None),
                false => Err(fault),
            }
        }
        // What failed says more than what is known not to be.
        (Said::Nothing(one), Said::Nothing(other)) => Err(match (&one, &other) {
            (one, other) if one.is_certain() && !other.is_certain() => other.clone(),
            (Fault::NoAddress, Fault::NoSuchName) => other,
            _ => one,
        }),
    }
}

fn taken(mut some: Vec<IpAddr>, ttl: Duration, fault: Option<Fault>) -> Result<Settled, Fault> {
    some.retain(is_somebody);
    some.sort_unstable();
    some.dedup();
    let left_out = some.len().saturating_sub(MOST);
    // The same of them each time, in whatever order they come.
    some.truncate(MOST);
    match some.is_empty() {
        true => Err(Fault::NoAddress),
        false => Ok(Settled {
            addresses: some,
            ttl,
            left_out,
            fault,
        }),
    }
}

/// Whether it can be one server's. To connect to 0.0.0.0, which blocking resolvers say for "none", is to connect to oneself.
fn is_somebody(address: &IpAddr) -> bool {
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    let mapped = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
    !address.is_unspecified()
        && !address.is_multicast()
        && *address != broadcast
        && *address != mapped
        // Without its interface it says nothing (RFC 4007 §6).
        && !matches!(address, IpAddr::V6(v6) if is_link_local(v6))
}

fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// From an answer to the next question: its TTL within bounds, and up to a tenth more, so that many proxies spread.
pub fn next(ttl: Duration, bounds: Bounds, random: u64) -> Duration {
    let time = ttl.max(bounds.min).min(bounds.max);
    time + jitter(time, random)
}

/// From the `failed`th failure in a row to the next question.
pub fn retry(failed: u32, random: u64) -> Duration {
    let doubled = SOON.saturating_mul(
        1u32.checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let time = doubled.min(LATER);
    time + jitter(time, random)
}

fn jitter(time: Duration, random: u64) -> Duration {
    (time / 10).mul_f64(random as f64 / u64::MAX as f64)
}

/// What becomes of a set of servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<T> {
    pub stay: Vec<T>,
    pub come: Vec<T>,
    pub go: Vec<T>,
}

/// From the `old` to the `new` ones, each of them once.
pub fn change<T: Copy + PartialEq>(old: &[T], new: &[T]) -> Change<T> {
    let both = |one: &[T], other: &[T], has: bool| {
        let one = one.iter().copied();
        one.filter(|item| other.contains(item) == has).collect()
    };
    Change {
        stay: both(old, new, true),
        come: both(new, old, false),
        go: both(old, new, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn some(texts: &[&str]) -> Said {
        Said::Addresses(ips(texts), TTL)
    }

    fn none() -> Said {
        Said::Nothing(Fault::NoAddress)
    }

    fn broken() -> Said {
        Said::Nothing(Fault::Failed("SERVFAIL".into()))
    }

    fn settled(family: Family, a: Said, aaaa: Said, last: &[&str]) -> Result<Vec<IpAddr>, Fault> {
        settle(family, a, aaaa, &ips(last)).map(|settled| settled.addresses)
    }

    #[test]
    fn one_kind_of_address_is_used_unless_all_are_asked_for() {
        let both = || (some(&["192.0.2.2", "192.0.2.1"]), some(&["2001:db8::1"]));
        for (family, expected) in [
            (Family::Ipv4First, &["192.0.2.1", "192.0.2.2"][..]),
            (Family::Ipv6First, &["2001:db8::1"]),
            (Family::All, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        ] {
            let (a, aaaa) = both();
            assert_eq!(
                settled(family, a, aaaa, &[]),
                Ok(ips(expected)),
                "{family:?}"
            );
        }
        let six = settled(Family::Ipv4First, none(), some(&["2001:db8::1"]), &[]);
        assert_eq!(six, Ok(ips(&["2001:db8::1"])));
        let four = settled(Family::Ipv6First, some(&["192.0.2.1"]), none(), &[]);
        assert_eq!(four, Ok(ips(&["192.0.2.1"])));
        assert_eq!(Family::Ipv4.asks(), (true, false));
        assert_eq!(Family::Ipv6.asks(), (false, true));
    }

    #[test]
    fn c78_what_failed_keeps_what_is_known() {
        let six = || some(&["2001:db8::1"]);
        // The other kind stands in only where nothing is known, or where it is certain.
        assert!(settled(Family::Ipv4First, broken(), six(), &["192.0.2.1"]).is_err());
        assert!(settled(Family::Ipv4First, broken(), six(), &[]).is_ok());
        let kept = settle(
            Family::All,
            broken(),
            six(),
            &ips(&["192.0.2.1", "2001:db8::9"]),
        );
        let kept = kept.unwrap();
        assert_eq!(kept.addresses, ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(kept.fault, Some(Fault::Failed("SERVFAIL".into())));
        let gone = settled(Family::All, none(), six(), &["192.0.2.1"]);
        assert_eq!(gone, Ok(ips(&["2001:db8::1"])));
        for (a, aaaa, fault) in [
            (none(), none(), Fault::NoAddress),
            (none(), broken(), Fault::Failed("SERVFAIL".into())),
            (Said::Nothing(Fault::Timeout), none(), Fault::Timeout),
            (Said::Nothing(Fault::NoSuchName), none(), Fault::NoSuchName),
            (none(), Said::Nothing(Fault::NoSuchName), Fault::NoSuchName),
        ] {
            assert_eq!(settled(Family::Ipv4First, a, aaaa, &[]), Err(fault));
        }
    }

    #[test]
    fn what_is_nobodys_address_is_none() {
        let odd = ["0.0.0.0", "255.255.255.255", "224.0.0.1"];
        assert_eq!(
            settled(Family::Ipv4First, some(&odd), none(), &[]),
            Err(Fault::NoAddress)
        );
        let odd = ["::", "ff02::1", "fe80::1", "::ffff:0.0.0.0"];
        assert_eq!(
            settled(Family::All, none(), some(&odd), &[]),
            Err(Fault::NoAddress)
        );
        let twice = settled(
            Family::All,
            some(&["192.0.2.1", "0.0.0.0", "192.0.2.1"]),
            none(),
            &[],
        );
        assert_eq!(twice, Ok(ips(&["192.0.2.1"])));
    }

    #[test]
    fn c78_of_too_many_the_same_are_taken_in_whatever_order() {
        let mut many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let one = settle(Family::All, Said::Addresses(many.clone(), TTL), none(), &[]).unwrap();
        assert_eq!((one.addresses.len(), one.left_out), (MOST, 200 - MOST));
        many.rotate_left(77);
        let other = settle(Family::All, Said::Addresses(many, TTL), none(), &[]).unwrap();
        assert_eq!(one, other);
    }

    #[test]
    fn the_ttl_is_kept_within_bounds() {
        let seconds = Duration::from_secs;
        let bounds = Bounds {
            min: seconds(1),
            max: seconds(30),
        };
        for (ttl, from, to) in [(0, 1.0, 1.1), (5, 5.0, 5.5), (86_400, 30.0, 33.0)] {
            let of = |random| next(seconds(ttl), bounds, random).as_secs_f64();
            assert!((of(0) - from).abs() < 1e-6 && (of(u64::MAX) - to).abs() < 1e-6);
        }
        let waits: Vec<_> = (1..=6).map(|failed| retry(failed, 0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(retry(u32::MAX, 0), LATER);
    }

    proptest! {
        #[test]
        fn old_and_new_are_accounted_for(
            old in proptest::collection::btree_set(0..20u8, 0..20),
            new in proptest::collection::btree_set(0..20u8, 0..20),
        ) {
            let list = |set: &std::collections::BTreeSet<u8>| set.iter().copied().collect::<Vec<_>>();
            let made = change(&list(&old), &list(&new));
            prop_assert_eq!(made.stay, list(&(&old & &new)));
            prop_assert_eq!(made.come, list(&(&new - &old)));
            prop_assert_eq!(made.go, list(&(&old - &new)));
        }
    }
}

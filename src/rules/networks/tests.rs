use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn table(lists: &[(&[&str], Option<Action>)]) -> Networks {
    let lists: Vec<_> = lists
        .iter()
        .map(|(texts, action)| (nets(texts), *action))
        .collect();
    Networks::new(lists.iter().map(|(nets, action)| (nets, *action)))
}

#[track_caller]
fn says(networks: &Networks, cases: &[(&str, u64, Option<u8>)]) {
    for (address, lists, denied) in cases {
        let listed = networks.find(address.parse().unwrap());
        let expected = Listed {
            lists: *lists,
            denied: *denied,
        };
        assert_eq!(listed, expected, "{address}");
    }
}

#[test]
fn the_longest_prefix_decides_and_then_what_allows() {
    use Action::{Allow, Deny};
    let networks = table(&[
        (
            &["10.0.0.0/8", "192.0.2.7/32", "198.51.100.0/24"],
            Some(Deny),
        ),
        (&["10.1.0.0/16", "198.51.100.0/24"], Some(Allow)),
        (&["10.1.2.0/24"], Some(Deny)),
        (&["10.1.2.3/32", "203.0.113.0/24"], None),
    ]);
    says(
        &networks,
        &[
            ("10.0.0.0", 0b0001, Some(0)),
            ("10.255.255.255", 0b0001, Some(0)),
            ("11.0.0.0", 0, None),
            ("9.255.255.255", 0, None),
            ("10.1.0.0", 0b0011, None),
            ("10.1.2.2", 0b0111, Some(2)),
            // A list that does nothing decides nothing.
            ("10.1.2.3", 0b1111, Some(2)),
            ("10.1.3.0", 0b0011, None),
            ("192.0.2.7", 0b0001, Some(0)),
            ("192.0.2.8", 0, None),
            ("198.51.100.9", 0b0011, None),
            ("203.0.113.1", 0b1000, None),
        ],
    );
}

#[test]
fn the_ends_of_all_addresses_are_addresses() {
    let networks = table(&[
        (&["0.0.0.0/0", "::/0"], Some(Action::Deny)),
        (&["255.255.255.255/32", "ffff::/16"], None),
    ]);
    says(
        &networks,
        &[
            ("0.0.0.0", 0b01, Some(0)),
            ("255.255.255.254", 0b01, Some(0)),
            ("255.255.255.255", 0b11, Some(0)),
            ("::", 0b01, Some(0)),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0b11, Some(0)),
        ],
    );
}

#[test]
fn c44_an_address_of_ipv4_is_one_however_it_is_written() {
    let networks = table(&[
        (&["::ffff:192.0.2.0/120"], Some(Action::Deny)),
        (&["198.51.100.0/24"], Some(Action::Deny)),
        (&["::/0"], None),
    ]);
    says(
        &networks,
        &[
            ("192.0.2.9", 0b001, Some(0)),
            ("::ffff:192.0.2.9", 0b001, Some(0)),
            ("::ffff:198.51.100.1", 0b010, Some(1)),
            ("2001:db8::1", 0b100, None),
        ],
    );
}

#[test]
fn nothing_is_nowhere() {
    let networks = Networks::default();
    says(&networks, &[("192.0.2.1", 0, None), ("::1", 0, None)]);
}

/// What the table must say, looked for the slow way.
fn naive(lists: &[(Vec<IpNet>, Option<Action>)], address: IpAddr) -> Listed {
    let mut found = Listed::NOWHERE;
    let mut best: Option<(u8, bool, u8)> = None;
    for (at, (networks, action)) in lists.iter().enumerate() {
        for network in networks.iter().filter(|net| holds(net, address)) {
            found.lists |= 1 << at;
            let prefix = folded(*network).prefix_len();
            if let Some(action) = action {
                let mine = (prefix, *action == Action::Allow, at as u8);
                let is_better = |(prefix, allows, _)| (mine.0, mine.1) > (prefix, allows);
                if best.is_none_or(is_better) {
                    best = Some(mine);
                }
            }
        }
    }
    found.denied = best.filter(|(_, allows, _)| !allows).map(|(.., list)| list);
    found
}

/// Few enough bits vary that networks lie in each other.
fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(ip, prefix)| {
        let ip = Ipv4Addr::from(ip & 0xC000_0303);
        IpNet::new(ip.into(), prefix).unwrap().trunc()
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(ip, prefix)| {
        let ip = Ipv6Addr::from(ip & (0x8001 << 112 | 0x3));
        IpNet::new(ip.into(), prefix).unwrap().trunc()
    });
    let mapped = (any::<u32>(), 90..=128u8).prop_map(|(ip, prefix)| {
        let ip = Ipv4Addr::from(ip & 0xC000_0303).to_ipv6_mapped();
        IpNet::new(ip.into(), prefix).unwrap().trunc()
    });
    prop_oneof![v4, v6, mapped]
}

fn action() -> impl Strategy<Value = Option<Action>> {
    prop_oneof![
        Just(None),
        Just(Some(Action::Deny)),
        Just(Some(Action::Allow))
    ]
}

proptest! {
    #[test]
    fn a_look_finds_what_a_scan_finds(
        lists in prop::collection::vec((prop::collection::vec(network(), 0..12), action()), 0..6),
        others in prop::collection::vec(any::<u32>(), 8),
    ) {
        let networks = Networks::new(lists.iter().map(|(nets, action)| (nets, *action)));
        // Where something could go wrong: at the edges, and one beside them.
        let edges = lists.iter().flat_map(|(nets, _)| nets).flat_map(|net| {
            let (first, last) = (net.network(), net.broadcast());
            [first, last, before(first), after(last)]
        });
        let others = others.into_iter().map(|ip| IpAddr::from(Ipv4Addr::from(ip & 0xC000_0303)));
        for address in edges.chain(others) {
            prop_assert_eq!(networks.find(address), naive(&lists, address), "{}", address);
        }
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_sub(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_sub(1)).into(),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(1)).into(),
    }
}

//! Whom a request is from: whatever stands left of what a proxy adds, its word is the same; no more is read than may be; and
//! whoever is not trusted names nobody. The input is `Name: value` lines.

use std::net::{IpAddr, Ipv4Addr};

use httparse::Header;
use tidegate::rules::claims::{Believed, ClaimedBy, MAX_HOPS, believed, trusts};
use tidegate::rules::client::{Client, IPV6_PREFIX};
use tidegate::rules::host::Scheme;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

pub fn run(data: &[u8]) {
    let fields = super::header_map(data);
    let lines: Vec<Header<'_>> = fields
        .iter()
        .map(|(name, value)| Header {
            name: name.as_str(),
            value: value.as_bytes(),
        })
        .collect();
    // With everybody trusted, with few, and with nobody.
    for networks in [
        &["0.0.0.0/0", "::/0"][..],
        &["10.0.0.0/8", "2001:db8::/32"],
        &[],
    ] {
        let trusted: Vec<_> = networks
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect();
        for by in [ClaimedBy::XForwardedFor, ClaimedBy::Forwarded] {
            let ask = |peer, lines: &[Header<'_>]| {
                let mut passed = Vec::new();
                let found = believed(peer, lines, by, &trusted, &mut |ip| passed.push(ip));
                (found, passed)
            };
            let (found, passed) = ask(PEER, &lines);
            assert!(passed.len() <= MAX_HOPS);
            assert!(passed.iter().all(|ip| trusts(&trusted, *ip)));
            assert!(passed.first().is_none_or(|first| *first == PEER));
            assert_eq!(found.client, found.client.to_canonical());
            let shown = found.client.to_string();
            assert_eq!(shown.parse(), Ok(found.client));
            assert_eq!(
                Client::of(found.client, IPV6_PREFIX),
                Client::of(shown.parse().expect("an address"), IPV6_PREFIX)
            );
            if !trusts(&trusted, STRANGER) {
                let nobody = Believed {
                    client: STRANGER,
                    scheme: None,
                };
                assert_eq!(ask(STRANGER, &lines), (nobody, Vec::new()));
            }
            if !trusts(&trusted, PEER) || trusts(&trusted, CLIENT) {
                continue;
            }
            added(by, &lines, &ask);
        }
    }
}

/// What is believed of a peer's lines, and the proxies on the way.
type Ask<'a> = dyn Fn(IpAddr, &[Header<'_>]) -> (Believed, Vec<IpAddr>) + 'a;

/// What a proxy adds, on a line of its own or behind the last, is what is believed.
fn added(by: ClaimedBy, lines: &[Header<'_>], ask: &Ask<'_>) {
    let (name, entry) = match by {
        ClaimedBy::XForwardedFor => ("x-forwarded-for", &b"203.0.113.9"[..]),
        ClaimedBy::Forwarded => ("forwarded", &b"for=\"203.0.113.9:1\";proto=https"[..]),
    };
    let mut more = lines.to_vec();
    let proto = (by == ClaimedBy::XForwardedFor).then_some(Header {
        name: "X-Forwarded-Proto",
        value: b"https",
    });
    more.extend(proto);
    more.push(Header { name, value: entry });
    let expected = Believed {
        client: CLIENT,
        scheme: Some(Scheme::Https),
    };
    assert_eq!(ask(PEER, &more), (expected, vec![PEER]));
    let Some(at) = lines.iter().rposition(|line| line.name == name) else {
        return;
    };
    let joined = [lines[at].value, b", ", entry].concat();
    let mut more = lines.to_vec();
    more[at].value = &joined;
    more.extend(proto);
    assert_eq!(ask(PEER, &more), (expected, vec![PEER]));
}

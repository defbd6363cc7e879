//! Who counts as one client: an address; of IPv6 its network, since whoever has one address there has them all (C45).

use std::net::IpAddr;

/// The longest prefix of IPv6 that tells clients apart: what a line is given is never less than a /64 (RFC 6177).
pub const IPV6_PREFIX: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    V4([u8; 4]),
    /// The first 64 bits, those behind the prefix zero.
    V6([u8; 8]),
}

impl Client {
    /// Whose address `ip` is, where IPv6 is told apart by so many bits ([`IPV6_PREFIX`] at most).
    pub fn of(ip: IpAddr, ipv6_prefix: u8) -> Client {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Client::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let host = u32::from(IPV6_PREFIX.saturating_sub(ipv6_prefix));
                let network = (ip.to_bits() >> 64) as u64;
                let kept = u64::MAX.checked_shl(host).unwrap_or(0);
                Client::V6((network & kept).to_be_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv6Addr;

    use super::*;

    fn client(text: &str, ipv6_prefix: u8) -> Client {
        Client::of(text.parse().unwrap(), ipv6_prefix)
    }

    #[test]
    fn c45_a_network_of_ipv6_is_one_client() {
        let network = "2001:db8:1:2::".parse::<Ipv6Addr>().unwrap().to_bits();
        // Spread over the network, not only at its beginning.
        let addresses = (0..65_536_u128).map(|n| network | n << 48 | n);
        let clients: HashSet<Client> = addresses
            .map(|bits| Client::of(Ipv6Addr::from_bits(bits).into(), IPV6_PREFIX))
            .collect();
        assert_eq!(clients.len(), 1);
        assert_ne!(client("2001:db8:1:2::1", 64), client("2001:db8:1:3::1", 64));
    }

    #[test]
    fn c45_a_shorter_prefix_is_a_larger_client() {
        for (prefix, apart) in [(64, true), (63, false), (48, false), (32, false)] {
            let (a, b) = (
                client("2001:db8:0:2::1", prefix),
                client("2001:db8:0:3::1", prefix),
            );
            assert_eq!(a != b, apart, "/{prefix}");
        }
        assert_ne!(client("2001:db8::1", 32), client("2001:db9::1", 32));
        assert_eq!(client("2001:db8::1", 32), client("2001:db8:ffff::1", 32));
    }

    #[test]
    fn addresses_of_ipv4_are_told_apart_however_written() {
        assert_eq!(client("::ffff:192.0.2.1", 64), client("192.0.2.1", 32));
        assert_ne!(client("192.0.2.1", 32), client("192.0.2.2", 32));
    }
}

//! Which server a key belongs to: rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6, 1998).
//!
//! Every server scores every key, and the highest score has it. When a server leaves, its own keys move, each to the next
//! score, and come back with it; no other key moves. Weights by the logarithmic method (Schindelhauer and Schomaker,
//! SPAA 2005): a server has as much of all keys as it has of all weight.

/// 64 bits of some parts that are the same in every process on every machine, so that several proxies agree: FNV-1a, each
/// part followed by a byte that no text has.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    mix(hash)
}

/// How much a server of this weight, above zero, wants a key.
pub fn score(key: u64, server: u64, weight: f64) -> f64 {
    // Above zero and below one.
    let chance = ((mix(key ^ mix(server)) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -weight / chance.ln()
}

/// SplitMix64's last steps: what differs by a bit differs by half of them.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn key(number: u64) -> u64 {
        hash([format!("/page/{number}").as_bytes()])
    }

    fn server(number: usize) -> u64 {
        hash([format!("10.0.0.{number}:8000").as_bytes()])
    }

    /// Who has each key, of servers with these weights; zero is absent.
    fn owners(weights: &[f64]) -> Vec<usize> {
        let present = || (0..weights.len()).filter(|at| weights[*at] > 0.0);
        let of = |key: u64| {
            let score = |at: &usize| score(key, server(*at), weights[*at]);
            present().max_by(|one, other| score(one).total_cmp(&score(other)))
        };
        (0..KEYS).filter_map(|number| of(key(number))).collect()
    }

    fn had(owners: &[usize], server: usize) -> f64 {
        owners.iter().filter(|owner| **owner == server).count() as f64
    }

    #[test]
    fn the_same_everywhere_and_for_ever() {
        assert_eq!(hash([&b"a.test"[..], b"/"]), 0x39a8_3cd5_5d2e_04f5);
        assert_ne!(hash([&b"ab"[..], b"c"]), hash([&b"a"[..], b"bc"]));
    }

    #[test]
    fn shares_follow_weights() {
        let weights = [1.0, 2.0, 3.0, 4.0];
        let owners = owners(&weights);
        for (at, weight) in weights.iter().enumerate() {
            let share = had(&owners, at) / KEYS as f64;
            assert!((share - weight / 10.0).abs() < 0.015, "{at}: {share}");
        }
    }

    #[test]
    fn only_the_keys_of_who_leaves_move_and_to_all_others() {
        let mut weights = [1.0; 10];
        let before = owners(&weights);
        weights[3] = 0.0;
        let after = owners(&weights);
        let pairs = || before.iter().zip(&after);
        assert!(pairs().all(|(was, is)| was == is || *was == 3));
        let moved = pairs().filter(|(was, is)| was != is).count() as f64;
        assert!((moved / KEYS as f64 - 0.1).abs() < 0.015, "{moved}");
        for other in (0..10).filter(|at| *at != 3) {
            let more = had(&after, other) - had(&before, other);
            assert!(
                (more / moved - 1.0 / 9.0).abs() < 0.04,
                "{other}: {more} of {moved}"
            );
        }
        weights[3] = 1.0;
        assert_eq!(owners(&weights), before, "they come back");
    }

    #[test]
    fn who_gains_weight_only_gains_keys() {
        let before = owners(&[1.0, 1.0, 1.0]);
        let after = owners(&[1.0, 1.0, 2.0]);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(was, is)| was == is || *is == 2)
        );
    }
}

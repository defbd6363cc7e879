//! A 304 brings what it has, keeps what describes the stored body, and brings it once. The input is two heads with an empty
//! line between: the stored one and the 304's.

use http::HeaderMap;
use tidegate::rules::hop::{Nominated, is_hop_by_hop};
use tidegate::rules::validate::{conditions, matches, merge};

pub fn run(data: &[u8]) {
    let (stored, from304) = super::halves(data);
    let (stored, from304) = (super::header_map(stored), super::header_map(from304));
    let merged = merge(&stored, &from304);
    assert_eq!(
        merge(&merged, &from304),
        merged,
        "the second time changes something"
    );
    assert!(matches(&stored, &stored));
    assert!(matches(&stored, &HeaderMap::new()));
    assert!(
        matches(&merged, &from304),
        "the merged answer is not the one that was spoken of"
    );
    let nominated = Nominated::of(&from304);
    for name in stored.keys().chain(from304.keys()) {
        let name = name.as_str();
        let values = |of: &HeaderMap| of.get_all(name).iter().cloned().collect::<Vec<_>>();
        let body = ["content-length", "content-encoding", "content-range"].contains(&name);
        let stays =
            body || is_hop_by_hop(name) || nominated.removes(name) || !from304.contains_key(name);
        match stays {
            _ if ["age", "date"].contains(&name) => assert_eq!(values(&merged), values(&from304)),
            true => assert_eq!(values(&merged), values(&stored), "{name}"),
            false => assert_eq!(values(&merged), values(&from304), "{name}"),
        }
    }
    let asks = conditions(&stored);
    let held = |name: &str| stored.get(name).cloned();
    assert!(asks.if_none_match.is_none() || asks.if_none_match == held("etag"));
    assert!(asks.if_modified_since.is_none() || asks.if_modified_since == held("last-modified"));
    assert_eq!(
        asks.is_empty(),
        asks.if_none_match.is_none() && asks.if_modified_since.is_none()
    );
}

//! Fields meant for the next hop alone (RFC 9110 §7.6.1).

use super::fields::{Fields, Folded, fold, members};

/// Whether a field never passes a proxy, whatever `Connection` says.
///
/// Names are folded, see [`fold`]; all of `Proxy-*` is included.
pub fn is_hop_by_hop(name: &str) -> bool {
    let mut room: Folded = [0; 40];
    let name = fold(name.as_bytes(), &mut room);
    name.starts_with(b"proxy-")
        || matches!(
            name,
            b"connection"
                | b"http2-settings"
                | b"keep-alive"
                | b"te"
                | b"trailer"
                | b"transfer-encoding"
                | b"upgrade"
        )
}

/// The fields that a message's `Connection` lines name for removal.
///
/// A peer may withdraw its own extensions so, but not what decides who asks, for
/// what, how long a message is, or who may keep it: naming such a field is
/// without effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nominated {
    /// Lower case, sorted, each once.
    names: Vec<Box<[u8]>>,
}

impl Nominated {
    pub fn of(message: &dyn Fields) -> Nominated {
        let mut names = Vec::new();
        message.each_named("connection", &mut |value| {
            for name in members(value) {
                let name = name.to_ascii_lowercase();
                if !is_protected(&name) {
                    names.push(name.into_boxed_slice());
                }
            }
        });
        names.sort_unstable();
        names.dedup();
        Nominated { names }
    }

    /// Whether the field called `name` is to be left out.
    pub fn removes(&self, name: &str) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let lower = || name.bytes().map(|b| b.to_ascii_lowercase());
        self.names
            .binary_search_by(|held| held.iter().copied().cmp(lower()))
            .is_ok()
    }
}

fn is_protected(name: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 6] = [
        b"access-control-",
        b"content-",
        b"if-",
        b"sec-",
        b"surrogate-",
        b"x-forwarded-",
    ];
    const NAMES: [&[u8]; 31] = [
        b"accept-encoding",
        b"age",
        b"authorization",
        b"cache-control",
        b"cache-groups",
        b"cache-status",
        b"cache-tag",
        b"cdn-cache-control",
        b"cdn-loop",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"last-modified",
        b"location",
        b"max-forwards",
        b"origin",
        b"pragma",
        b"range",
        b"set-cookie",
        b"strict-transport-security",
        b"traceparent",
        b"vary",
        b"via",
        b"www-authenticate",
        b"x-csrf-token",
        b"x-real-ip",
        b"x-request-id",
    ];
    FAMILIES.iter().any(|family| name.starts_with(family)) || NAMES.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use httparse::Header;

    fn connection(values: &[&'static str]) -> Nominated {
        let lines: Vec<_> = values
            .iter()
            .map(|value| Header {
                name: "Connection",
                value: value.as_bytes(),
            })
            .collect();
        Nominated::of(&lines.as_slice())
    }

    #[test]
    fn c17_hop_by_hop_fields_are_known() {
        for name in [
            "Connection",
            "KEEP-ALIVE",
            "te",
            "Trailer",
            "Transfer-Encoding",
            "Transfer_Encoding",
            "Upgrade",
            "HTTP2-Settings",
            "Proxy-Connection",
            "proxy-authorization",
            "Proxy_X",
        ] {
            assert!(is_hop_by_hop(name), "{name}");
        }
        for name in [
            "Host",
            "Content-Length",
            "Upgrade-Insecure-Requests",
            "Ter",
            "X-TE",
            "",
        ] {
            assert!(!is_hop_by_hop(name), "{name}");
        }
    }

    #[test]
    fn c17_connection_removes_extensions_alone() {
        let named = connection(&[
            "close, X-Forwarded-For, X-Real-IP, Authorization, Cookie, Content-Length, Host",
            "X-One ,, x-TWO,Sec-WebSocket-Key, If-None-Match, CACHE-CONTROL, Vary, Set-Cookie",
        ]);
        for name in ["X-One", "x-one", "X-Two", "Close"] {
            assert!(named.removes(name), "{name}");
        }
        for name in [
            "X-Forwarded-For",
            "X-Real-IP",
            "Authorization",
            "Cookie",
            "Content-Length",
            "Host",
            "Sec-WebSocket-Key",
            "If-None-Match",
            "Cache-Control",
            "Vary",
            "Set-Cookie",
            "X-Three",
            "",
        ] {
            assert!(!named.removes(name), "{name}");
        }
        assert!(!connection(&[]).removes("X-One"));
    }

    #[test]
    fn a_broken_list_names_nothing_by_accident() {
        let named = connection(&["X One, \"X-Two, X-Three\""]);
        for name in ["X", "One", "X-One", "X-Two", "X-Three"] {
            assert!(!named.removes(name), "{name}");
        }
    }

    #[test]
    fn the_protected_are_sorted() {
        for name in [
            "accept-encoding",
            "expires",
            "set-cookie",
            "x-request-id",
            "vary",
            "host",
        ] {
            assert!(is_protected(name.as_bytes()), "{name}");
        }
    }
}

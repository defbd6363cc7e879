//! A file of addresses: one address or network a line, or the JSON in which the owners of crawlers publish theirs.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// The most entries of a file.
pub const MOST_ENTRIES: usize = 1_000_000;

/// What is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// From 1; none where it is not one line's.
    pub line: Option<usize>,
    pub what: String,
}

impl Flaw {
    fn of(line: usize, what: impl Into<String>) -> Flaw {
        let (line, what) = (Some(line), what.into());
        Flaw { line, what }
    }
}

/// An address, or a network with all its addresses (RFC 4632 §3.1): bits below its prefix are left out.
pub fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

/// The networks of a file. `#` and `;` begin a comment; what begins with `{` is JSON.
///
/// # Errors
/// The first thing that is neither, or more than [`MOST_ENTRIES`].
pub fn read(file: &[u8]) -> Result<Vec<IpNet>, Flaw> {
    let networks = match file.trim_ascii_start().starts_with(b"{") {
        true => prefixes(file)?,
        false => lines(file)?,
    };
    match networks.len() <= MOST_ENTRIES {
        true => Ok(networks),
        false => Err(Flaw {
            line: None,
            what: format!("more than {MOST_ENTRIES} entries"),
        }),
    }
}

fn lines(file: &[u8]) -> Result<Vec<IpNet>, Flaw> {
    let mut networks = Vec::new();
    for (at, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let entry = line.split(|byte| b"#;".contains(byte)).next();
        let entry = entry.unwrap_or_default().trim_ascii();
        if entry.is_empty() {
            continue;
        }
        let network = std::str::from_utf8(entry).ok().and_then(network);
        networks.push(network.ok_or_else(|| no_network(at + 1, entry))?);
    }
    Ok(networks)
}

fn no_network(line: usize, entry: &[u8]) -> Flaw {
    let shown = entry[..entry.len().min(64)].escape_ascii();
    Flaw::of(
        line,
        format!("`{shown}` is neither an address nor a network"),
    )
}

/// `{"prefixes": [{"ipv4Prefix": "192.0.2.0/24"}, {"ipv6Prefix": "2001:db8::/32"}]}`, whatever else stands beside it.
fn prefixes(file: &[u8]) -> Result<Vec<IpNet>, Flaw> {
    let whole = |what: String| Flaw { line: None, what };
    let json: Value = serde_json::from_slice(file)
        .map_err(|error| Flaw::of(error.line(), format!("not JSON: {error}")))?;
    let Some(Value::Array(prefixes)) = json.get("prefixes") else {
        return Err(whole("JSON without a list of `prefixes`".to_owned()));
    };
    let read = |(at, prefix): (usize, &Value)| {
        let named = ["ipv4Prefix", "ipv6Prefix"].map(|name| prefix.get(name)?.as_str());
        let text = named.into_iter().flatten().next();
        text.and_then(network).ok_or_else(|| {
            let shown = prefix.to_string();
            let shown: String = shown.chars().take(64).collect();
            let shown = shown.escape_debug();
            whole(format!(
                "`prefixes`, number {}: {shown} has neither an `ipv4Prefix` nor an `ipv6Prefix` that is a network",
                at + 1
            ))
        })
    };
    prefixes.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        let networks = read(file.as_bytes()).unwrap();
        networks.iter().map(IpNet::to_string).collect()
    }

    fn flaw(file: &[u8]) -> (Option<usize>, String) {
        let flaw = read(file).expect_err("a flaw");
        (flaw.line, flaw.what)
    }

    #[test]
    fn a_line_is_an_address_or_a_network() {
        let file = "# ours\r\n192.0.2.1\r\n\n  198.51.100.7/24 ; their 24\n2001:db8::1 # one\n2001:DB8::/32\n";
        let expected = [
            "192.0.2.1/32",
            "198.51.100.0/24",
            "2001:db8::1/128",
            "2001:db8::/32",
        ];
        assert_eq!(texts(file), expected);
        assert!(texts("").is_empty());
        assert!(texts("# nobody yet").is_empty());
    }

    #[test]
    fn json_is_what_crawlers_publish() {
        let file = r#"
            {"creationTime": "2026-11-01T00:00:00", "prefixes": [
                {"ipv6Prefix": "2001:db8:1::/48"}, {"ipv4Prefix": "192.0.2.0/27", "service": "x"}
            ]}"#;
        assert_eq!(texts(file), ["2001:db8:1::/48", "192.0.2.0/27"]);
        assert!(texts(r#"{"prefixes": []}"#).is_empty());
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (file, line, what) in [
            (&b"192.0.2.1\n\nexample.com\n"[..], Some(3), "`example.com`"),
            (b"192.0.2.0/33", Some(1), "`192.0.2.0/33`"),
            (b"192.0.2.1 192.0.2.2", Some(1), "neither"),
            (b"fe80::1%eth0", Some(1), "neither"),
            (b"\xff\x1b[31m", Some(1), r"\xff\x1b[31m"),
            (b"{\"prefixes\": [\n{]}", Some(2), "not JSON"),
            (b"{}", None, "`prefixes`"),
            (b"{\"prefixes\": {}}", None, "`prefixes`"),
            (
                b"{\"prefixes\": [{\"ipv4Prefix\": \"10.0.0.0/8\"}, {\"ip\": \"::\"}]}",
                None,
                "number 2",
            ),
            (b"{\"prefixes\": [{\"ipv4Prefix\": 7}]}", None, "number 1"),
        ] {
            let (at, told) = flaw(file);
            assert_eq!(at, line, "{told}");
            assert!(told.contains(what), "{told}");
        }
    }

    #[test]
    fn a_file_has_its_most() {
        let file = "::1\n".repeat(MOST_ENTRIES + 1);
        assert_eq!(
            flaw(file.as_bytes()),
            (None, "more than 1000000 entries".to_owned())
        );
    }
}

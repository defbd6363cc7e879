//! Small databases in the MaxMind DB format (version 2.0), for tests: a tree of address bits, and a record for each network.

use ipnet::IpNet;

/// What a database knows of a network.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    Country(&'a str),
    Asn(u32),
    /// Something else.
    Nothing,
}

/// Where a side of a node leads.
#[derive(Clone, Copy)]
enum Side {
    Nowhere,
    Node(usize),
    Record(usize),
}

/// The bytes of a database. Networks may lie in each other.
pub fn database(entries: &[(&str, Record<'_>)]) -> Vec<u8> {
    let mut entries: Vec<(IpNet, Record<'_>)> = entries
        .iter()
        .map(|(network, record)| (network.parse().expect("a network"), *record))
        .collect();
    entries.sort_by_key(|(network, _)| network.prefix_len());
    let mut nodes = vec![[Side::Nowhere; 2]];
    let mut data = Vec::new();
    for (network, record) in entries {
        let at = Side::Record(data.len());
        write_record(record, &mut data);
        // IPv4 lies in ::/96.
        let (bits, len) = match network {
            IpNet::V4(net) => (u128::from(u32::from(net.network())), 96 + net.prefix_len()),
            IpNet::V6(net) => (u128::from(net.network()), net.prefix_len()),
        };
        let mut node = 0;
        for depth in 0..len {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == len {
                nodes[node][side] = at;
                break;
            }
            node = match nodes[node][side] {
                Side::Node(next) => next,
                above => {
                    nodes.push([above; 2]);
                    nodes[node][side] = Side::Node(nodes.len() - 1);
                    nodes.len() - 1
                }
            };
        }
    }
    let mut file = Vec::new();
    let count = nodes.len();
    for side in nodes.into_iter().flatten() {
        let value = match side {
            Side::Nowhere => count,
            Side::Node(node) => node,
            Side::Record(at) => count + 16 + at,
        };
        file.extend_from_slice(&(value as u32).to_be_bytes());
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    write_metadata(count as u32, &mut file);
    file
}

fn write_record(record: Record<'_>, out: &mut Vec<u8>) {
    out.push(MAP | 1);
    match record {
        Record::Country(code) => {
            text("country", out);
            out.push(MAP | 2);
            text("geoname_id", out);
            number(1, out);
            text("iso_code", out);
            text(code, out);
        }
        Record::Asn(asn) => {
            text("autonomous_system_number", out);
            number(asn, out);
        }
        Record::Nothing => {
            text("nothing", out);
            number(0, out);
        }
    }
}

fn write_metadata(nodes: u32, out: &mut Vec<u8>) {
    out.push(MAP | 9);
    for (name, value) in [
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
        ("ip_version", 6),
        ("record_size", 32),
    ] {
        text(name, out);
        out.extend_from_slice(&[UINT16 | 2, 0, value]);
    }
    text("build_epoch", out);
    out.extend_from_slice(&[1, UINT64, 1]);
    text("database_type", out);
    text("Test", out);
    text("description", out);
    out.push(MAP);
    text("languages", out);
    out.extend_from_slice(&[0, ARRAY]);
    text("node_count", out);
    number(nodes, out);
}

/// Types, in the three upper bits of a control byte; or in the byte behind one that has none, less 7.
const TEXT: u8 = 2 << 5;
const UINT16: u8 = 5 << 5;
const UINT32: u8 = 6 << 5;
const MAP: u8 = 7 << 5;
const UINT64: u8 = 9 - 7;
const ARRAY: u8 = 11 - 7;

fn text(text: &str, out: &mut Vec<u8>) {
    match text.len() {
        short @ 0..29 => out.push(TEXT | short as u8),
        long => out.extend_from_slice(&[TEXT | 29, (long - 29) as u8]),
    }
    out.extend_from_slice(text.as_bytes());
}

fn number(number: u32, out: &mut Vec<u8>) {
    out.push(UINT32 | 4);
    out.extend_from_slice(&number.to_be_bytes());
}

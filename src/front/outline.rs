//! The outlines of HTTP/2's frames, read from the bytes a client sends: is it in the middle of a request's head?

/// Where in the frames the client's bytes are (RFC 9113 §4.1).
#[derive(Debug)]
pub struct Outline {
    part: Part,
    /// What is left of the part.
    left: usize,
    /// Nothing but the preface came yet.
    first: bool,
    head: Head,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Preface,
    /// What came of a frame's header.
    Header([u8; HEADER]),
    Payload,
}

/// A request's head: a HEADERS frame and its continuations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    None,
    /// More frames of it have to come.
    Open,
    /// It ends with the frame under way.
    Ending,
}

const PREFACE: usize = 24;
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Default for Outline {
    fn default() -> Outline {
        Outline {
            part: Part::Preface,
            left: PREFACE,
            first: true,
            head: Head::None,
        }
    }
}

impl Outline {
    /// Goes on over `bytes`; says whether a head, or what comes before the first one, is under way.
    pub fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let take = self.left.min(bytes.len());
            let (taken, rest) = bytes.split_at(take);
            if let Part::Header(header) = &mut self.part {
                let at = HEADER - self.left;
                header[at..at + take].copy_from_slice(taken);
            }
            self.left -= take;
            bytes = rest;
            if self.left == 0 {
                self.ended();
            }
        }
        self.first || self.head != Head::None
    }

    /// A part has ended.
    fn ended(&mut self) {
        match self.part {
            Part::Preface => {}
            Part::Header([a, b, c, kind, flags, ..]) => {
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.head = match flags & END_HEADERS {
                        0 => Head::Open,
                        _ => Head::Ending,
                    };
                }
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                if len > 0 {
                    (self.part, self.left) = (Part::Payload, len);
                    return;
                }
                self.frame_ended();
            }
            Part::Payload => self.frame_ended(),
        }
        (self.part, self.left) = (Part::Header([0; HEADER]), HEADER);
    }

    fn frame_ended(&mut self) {
        self.first = false;
        if self.head == Head::Ending {
            self.head = Head::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, len as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + len, 7);
        frame
    }

    #[test]
    fn c62_a_head_is_under_way_until_its_last_frame_has_come() {
        let mut bytes = vec![0; PREFACE];
        // Settings, a ping; a head in three frames; data; a head in one; a head of nothing.
        let frames = [
            (4, 0, 6, true),
            (6, 0, 8, false),
            (HEADERS, 0, 20, true),
            (CONTINUATION, 0, 5, true),
            (CONTINUATION, END_HEADERS, 0, false),
            (0, 0, 100, false),
            (HEADERS, END_HEADERS, 30, false),
            (HEADERS, END_HEADERS, 0, false),
        ];
        let mut ends = Vec::new();
        for (kind, flags, len, _) in frames {
            bytes.extend(frame(kind, flags, len));
            ends.push(bytes.len());
        }
        for step in [1, 2, 3, 7, 64, 1000] {
            let mut outline = Outline::default();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                let under_way = outline.read(piece);
                at += piece.len();
                if let Some(frame) = ends.iter().position(|end| *end == at) {
                    let after = matches!(frame, 2 | 3);
                    assert_eq!(under_way, after, "after frame {frame}, by {step}");
                }
            }
            assert_eq!(at, bytes.len());
        }
        let mut outline = Outline::default();
        assert!(
            outline.read(&bytes[..PREFACE]),
            "the first settings are due"
        );
        assert!(!outline.read(&bytes[PREFACE..ends[1]]));
        assert!(
            outline.read(&bytes[ends[1]..ends[1] + HEADER + 3]),
            "half a head"
        );
    }
}

//! A chunked body is the same body however it comes in pieces, to another reader, and after it has been sent on.

use super::strict::{self, Reading};
use tidegate::rules::chunked::{ChunkError, Decoder};

/// The body's bytes so far, how much of the input they took, and whether it ended or broke.
#[derive(PartialEq, Eq, Debug)]
struct Read {
    body: Vec<u8>,
    used: usize,
    end: Result<bool, ChunkError>,
}

pub fn run(data: &[u8]) {
    let whole = read(data, data.len());
    for size in [1, 2, 3, 7, 1 + data.len() / 2] {
        let pieces = read(data, size);
        assert_eq!(pieces.body, whole.body, "in pieces of {size}");
        assert_eq!(pieces.end, whole.end, "in pieces of {size}");
    }
    assert!(whole.used <= data.len());
    if whole.end != Ok(true) {
        return;
    }
    // What stands behind the body is not looked at.
    assert_eq!(read(&data[..whole.used], data.len()), whole);
    assert!(data[..whole.used].ends_with(b"\r\n"));
    for cut in (0..whole.used).rev().take(64) {
        assert_eq!(read(&data[..cut], cut).end, Ok(false), "cut at {cut}");
    }
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    match strict::request(&[head, data].concat()) {
        Reading::Whole(request, used) => {
            assert_eq!(request.body, whole.body);
            assert_eq!(used, head.len() + whole.used);
        }
        Reading::Partial => panic!("a strict reader waits for more"),
        Reading::Broken(why) => panic!("a strict reader refuses it: {why}"),
    }
    let mut again = Vec::new();
    for chunk in whole.body.chunks(1000) {
        again.extend(format!("{:x}\r\n", chunk.len()).bytes());
        again.extend_from_slice(chunk);
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"0\r\n\r\n");
    let read = read(&again, again.len());
    assert_eq!(
        (read.body, read.used, read.end),
        (whole.body, again.len(), Ok(true))
    );
}

/// Reads as from a socket that gives so many bytes at once.
fn read(data: &[u8], size: usize) -> Read {
    let mut decoder = Decoder::new();
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in data.chunks(size.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = match decoder.decode(rest) {
                Ok(step) => step,
                Err(why) => {
                    return Read {
                        body,
                        used,
                        end: Err(why),
                    };
                }
            };
            assert!(step.data.end <= step.consumed && step.consumed <= rest.len());
            assert!(step.consumed > 0 || step.done, "no way on");
            assert_eq!(step.done, decoder.is_done());
            body.extend_from_slice(&rest[step.data]);
            used += step.consumed;
            rest = &rest[step.consumed..];
            if step.done {
                return Read {
                    body,
                    used,
                    end: Ok(true),
                };
            }
        }
    }
    Read {
        body,
        used,
        end: Ok(decoder.is_done()),
    }
}

//! What becomes of a proper request in the hands of an attacker: the classes C1 to C18, and noise.

use super::attacks::{
    BODIES, CODINGS, ENDS, FRAMINGS, GAPS, HOPS, HOSTS, LENGTHS, LINES, METHODS, TARGETS, VERSIONS,
};
use super::draft::{Dice, Draft};

/// Does one thing to a request that a proxy has to refuse, or to understand as every other reader would.
pub fn mutate(draft: &mut Draft, dice: &mut Dice) {
    match dice.below(12) {
        0 => add(draft, dice, FRAMINGS),
        1 => replace(draft, dice, b"content-length:", LENGTHS),
        2 => replace(draft, dice, b"transfer-encoding:", CODINGS),
        3 => replace(draft, dice, b"host:", HOSTS),
        4 => add(draft, dice, HOPS),
        5 => add(draft, dice, LINES),
        6 => start_line(draft, dice),
        7 => chunks(draft, dice),
        8 => sizes(draft, dice),
        9 => line_ends(draft, dice),
        10 => shuffle(draft, dice),
        _ => body_length(draft, dice),
    }
}

/// C9, C14, C15.
fn start_line(draft: &mut Draft, dice: &mut Dice) {
    match dice.below(7) {
        0 => draft.method = dice.one_of(METHODS).to_vec(),
        1 | 2 => draft.target = dice.one_of(TARGETS).to_vec(),
        3 => draft.target.extend_from_slice(dice.one_of(TARGETS)),
        4 | 5 => draft.version = dice.one_of(VERSIONS).to_vec(),
        _ => draft.gap = dice.one_of(GAPS).to_vec(),
    }
}

/// C6, C7: a chunked body, wrong somewhere.
fn chunks(draft: &mut Draft, dice: &mut Dice) {
    draft
        .fields
        .retain(|line| !is(line, b"content-length:") && !is(line, b"transfer-encoding:"));
    draft.put(dice, b"Transfer-Encoding: chunked");
    draft.body = dice.one_of(BODIES).to_vec();
    if dice.one_in(12) {
        let long = [
            b"5;a=",
            vec![b'x'; 5_000].as_slice(),
            b"\r\nhello\r\n0\r\n\r\n",
        ]
        .concat();
        draft.body = long;
    }
}

/// C18: about the bounds, below them and above.
fn sizes(draft: &mut Draft, dice: &mut Dice) {
    match dice.below(4) {
        0 => {
            let length = 8 * 1024 - 40 + dice.below(80);
            draft.target.resize(length.max(draft.target.len()), b'a');
        }
        1 => {
            let count = 95 + dice.below(10);
            while draft.fields.len() < count {
                draft.fields.push(b"X-Many: 1".to_vec());
            }
        }
        2 => {
            let length = 32 * 1024 - 400 + dice.below(500);
            draft
                .fields
                .push([b"X-Long: ", vec![b'a'; length].as_slice()].concat());
        }
        _ => {
            let length = 30 + dice.below(6);
            draft.method = vec![b'M'; length];
        }
    }
}

/// C15, C16: one line, or all, with another end.
fn line_ends(draft: &mut Draft, dice: &mut Dice) {
    let end = dice.one_of(ENDS).to_vec();
    if dice.one_in(4) {
        draft.line_end = end;
    } else {
        draft.odd = Some((dice.below(draft.fields.len() + 2), end));
    }
}

/// Lines that stand twice, elsewhere, or not at all.
fn shuffle(draft: &mut Draft, dice: &mut Dice) {
    let (from, to) = (
        dice.below(draft.fields.len()),
        dice.below(draft.fields.len()),
    );
    if draft.fields.is_empty() {
        return;
    }
    match dice.below(4) {
        0 => drop(draft.fields.remove(from)),
        1 => draft.fields.swap(from, to),
        2 => draft.fields.insert(to, draft.fields[from].clone()),
        _ => draft.fields[from].make_ascii_uppercase(),
    }
}

/// C5, C10, C11: more of a body than was said, or less.
fn body_length(draft: &mut Draft, dice: &mut Dice) {
    match dice.below(4) {
        0 => draft.body.truncate(dice.below(draft.body.len())),
        1 => draft
            .body
            .extend_from_slice(b"GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        2 => {
            draft.version = b"HTTP/1.0".to_vec();
            draft.fields.retain(|line| !is(line, b"content-length:"));
            draft.body = b"GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec();
        }
        _ => draft.body.extend_from_slice(b"\r\n"),
    }
}

fn add(draft: &mut Draft, dice: &mut Dice, lines: &[&[u8]]) {
    let line = dice.one_of(lines);
    draft.put(dice, line);
}

/// Puts one of `lines` in the place of those that begin with `name`, or beside all others.
fn replace(draft: &mut Draft, dice: &mut Dice, name: &[u8], lines: &[&[u8]]) {
    if !dice.one_in(8) {
        draft.fields.retain(|line| !is(line, name));
    }
    add(draft, dice, lines);
}

fn is(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// Some bytes of a request changed, left out, put in or said again, whatever they were.
pub fn noise(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const AWKWARD: &[u8] = b"\r\n\0\t :,;\"\\\x7f\x80\xff\x0b%?#@/0";
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let awkward = AWKWARD[dice.below(AWKWARD.len())];
        match dice.below(6) {
            0 => bytes.insert(at, awkward),
            1 | 2 if at < bytes.len() => bytes[at] = awkward,
            3 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let end = (at + dice.below(20)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

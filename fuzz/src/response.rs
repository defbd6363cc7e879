//! An answer's head that passes has one reading: the same fields to another parser, and one framing.

use super::strict::{self, Reading};
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate::rules::response::{BodyFraming, MAX_FIELDS, MAX_HEAD, check_head, framing};

pub fn run(data: &[u8]) {
    let end = data.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end.map(|at| at + 4) else {
        assert!(check_head(data).is_err(), "a head without an end");
        return;
    };
    let head = &data[..end];
    if end < data.len() {
        // Two heads in one: what stands behind an empty line is no field.
        assert!(check_head(data).is_err());
    }
    match check_head(head) {
        Err(why) => assert!(!why.why().is_empty()),
        Ok(()) => passed(head),
    }
}

fn passed(head: &[u8]) {
    assert!(head.len() <= MAX_HEAD);
    let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut lines);
    let read = parsed.parse(head);
    assert_eq!(
        read,
        Ok(httparse::Status::Complete(head.len())),
        "{}",
        head.escape_ascii()
    );
    let status = parsed.code.unwrap_or_default();
    assert!((100..=599).contains(&status));
    let mut fields = HeaderMap::new();
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).expect("a name that passed");
        let value = HeaderValue::from_bytes(line.value).expect("a value that passed");
        fields.append(name, value);
    }
    let (lengths, codings) = (
        fields.get_all("content-length").iter().count(),
        fields.get_all("transfer-encoding").iter().count(),
    );
    assert!(lengths + codings <= 1, "two framings");
    assert!(codings == 0 || parsed.version == Some(1));
    assert_eq!(framing(status, true, &fields), BodyFraming::None);
    let bodiless = status < 200 || matches!(status, 204 | 304);
    match framing(status, false, &fields) {
        BodyFraming::None => assert!(bodiless),
        BodyFraming::Chunked => assert!(codings == 1 && !bodiless),
        BodyFraming::Length(length) => {
            let said = fields["content-length"].to_str().expect("digits");
            assert_eq!(said.parse(), Ok(length));
            assert!(!bodiless);
        }
        BodyFraming::Close => assert!(lengths + codings == 0 && !bodiless),
    }
    // A strict reader that knows HTTP/1.1 alone sees the same.
    if parsed.version == Some(1) {
        match strict::answer(head, Some("HEAD"), false) {
            Reading::Whole(answer, used) => {
                assert_eq!((answer.status, used), (status, head.len()));
                assert_eq!(answer.fields.len(), fields.len());
            }
            Reading::Partial => panic!("a strict reader waits for more"),
            Reading::Broken(why) => panic!("a strict reader refuses it: {why}"),
        }
    }
    // Any byte of another kind in it, and it does not pass.
    for (awkward, at) in [
        (0, head.len() / 2),
        (b'\n', head.len() / 3),
        (b'\r', head.len() / 4),
    ] {
        let mut spoiled = head.to_vec();
        if !b"\r\n".contains(&head[at]) {
            spoiled[at] = awkward;
            assert!(check_head(&spoiled).is_err(), "{}", spoiled.escape_ascii());
        }
    }
}

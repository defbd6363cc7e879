//! The header of the PROXY protocol: read in the pieces that it asks for or at once, it is the same, ends at the same byte, and
//! asks for no byte behind it.

use tidegate::rules::proxy_protocol::{Flaw, Parsed, parse};

/// The longest there is: 16 bytes, and 4 KiB.
const MOST: usize = 16 + 4096;

pub fn run(data: &[u8]) {
    let mut held = 0;
    let by_steps = loop {
        match parse(&data[..held]) {
            Ok(Parsed::More(more)) => {
                assert!(more > 0 && held + more <= MOST);
                if held + more > data.len() {
                    break None;
                }
                held += more;
            }
            done => break Some(done),
        }
    };
    let at_once = parse(data);
    match (by_steps, at_once) {
        // Its end has not come.
        (None, Ok(Parsed::More(_)) | Err(_)) => {}
        (Some(Ok(Parsed::Whole { client, len })), at_once) => {
            assert_eq!(len, held, "it was read too far");
            assert_eq!(at_once, Ok(Parsed::Whole { client, len }));
            assert!(client.is_none_or(|client| client == client.to_canonical()));
            // Whatever follows changes nothing, and each beginning wants more.
            let more = [&data[..len], b"\nGET"].concat();
            assert_eq!(parse(&more), Ok(Parsed::Whole { client, len }));
            for cut in 0..len {
                match parse(&data[..cut]) {
                    Ok(Parsed::More(more)) => assert!(cut + more <= len),
                    other => panic!("{other:?} of the first {cut} bytes"),
                }
            }
        }
        (Some(Err(flaw)), at_once) => {
            assert_eq!(at_once, Err(flaw));
            assert!(!flaw.why().is_empty());
            // What is none does not become one.
            let more = [data, b"\r\n"].concat();
            assert!(matches!(
                parse(&more),
                Err(Flaw::None | Flaw::TooLong | Flaw::Malformed)
            ));
        }
        (by_steps, at_once) => panic!("{by_steps:?} by steps, {at_once:?} at once"),
    }
}

//! Any text is an expression or flaws, each at its place; an expression says the same each time it is asked, and its
//! negation the opposite.

use std::cell::OnceCell;

use httparse::Header;
use tidegate::rules::expression::{Expression, View, Whereabouts};

const LISTS: [&str; 2] = ["office", "google"];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Expression::read(text, &LISTS) {
        Ok(expression) => good(text, &expression),
        Err(flaws) => {
            assert!(!flaws.is_empty(), "no expression, and no flaw");
            for flaw in flaws {
                assert!(text.get(flaw.at.clone()).is_some(), "{:?}", flaw.at);
                assert!(!flaw.what.is_empty());
                assert!(!flaw.what.contains(char::is_control), "{}", flaw.what);
            }
        }
    }
}

fn good(text: &str, expression: &Expression) {
    // Behind a comment the line has to end; and what is close to its most may be past it then.
    let negated = Expression::read(&format!("!({text}\n)"), &LISTS);
    for (client, lists) in [("192.0.2.7", 0b10), ("2001:db8::1", 0)] {
        let holds = |expression: &Expression| {
            let lines = [
                ("Host", "a.test"),
                ("User-Agent", "curl/8"),
                ("X", "1"),
                ("x", "2"),
            ];
            let lines = lines.map(|(name, value)| Header {
                name,
                value: value.as_bytes(),
            });
            let view = View {
                method: "GET",
                scheme: "https",
                host: "a.test",
                path: "/wp-admin/setup.php",
                query: "a=1",
                lines: &lines,
                client: client.parse().expect("an address"),
                lists,
                locate: &|| Whereabouts {
                    country: Some(*b"DE"),
                    asn: 64_500,
                },
                located: OnceCell::new(),
            };
            expression.holds(&view)
        };
        let held = holds(expression);
        assert_eq!(holds(expression), held, "{text}");
        if let Ok(negated) = &negated {
            assert_eq!(holds(negated), !held, "not {text}");
        }
    }
}

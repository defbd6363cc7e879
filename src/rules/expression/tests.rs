use std::cell::Cell;

use super::*;

const LINES: [Header<'static>; 5] = [
    Header {
        name: "Host",
        value: b"shop.example",
    },
    Header {
        name: "User-Agent",
        value: b"BadBot/1.0 (\xff)",
    },
    Header {
        name: "X-Twice",
        value: b"one",
    },
    Header {
        name: "x-twice",
        value: b"two",
    },
    Header {
        name: "X-Empty",
        value: b"",
    },
];

const LISTS: [&str; 2] = ["office", "google"];

/// A POST of somebody in the list "google", in `DE` by the operator 64500.
fn holds(text: &str) -> bool {
    let expression = match Expression::read(text, &LISTS) {
        Ok(expression) => expression,
        Err(flaws) => panic!("{text}: {flaws:?}"),
    };
    let asked = Cell::new(0);
    let locate = || {
        asked.set(asked.get() + 1);
        Whereabouts {
            country: Some(*b"DE"),
            asn: 64_500,
        }
    };
    let view = View {
        method: "POST",
        scheme: "https",
        host: "shop.example",
        path: "/wp-admin/setup.php",
        query: "a=1&b=%20",
        lines: &LINES,
        client: "192.0.2.7".parse().unwrap(),
        lists: 0b10,
        locate: &locate,
        located: OnceCell::new(),
    };
    let held = expression.holds(&view);
    let reads = expression.reads();
    let most = usize::from(reads.country || reads.asn);
    assert!(asked.get() <= most, "{text}: asked {} times", asked.get());
    held
}

#[test]
fn what_is_true_and_what_is_not() {
    for (text, expected) in [
        ("true", true),
        ("!true", false),
        ("method == 'POST'", true),
        ("method == 'post'", false),
        ("'POST' == method", true),
        ("method != \"GET\" && scheme == \"https\"", true),
        ("method == 'GET' || scheme == 'http'", false),
        (
            "method == 'GET' || scheme == 'http' || host == 'shop.example'",
            true,
        ),
        ("method == 'POST' && scheme == 'http' && true", false),
        ("!(method == 'GET') && !(method == 'HEAD')", true),
        ("method in ['GET', 'HEAD']", false),
        ("method in ['PUT', 'POST']", true),
        ("method in []", false),
        ("!(method in ['GET'])", true),
        ("path.startsWith('/wp-')", true),
        ("path.startsWith('wp-')", false),
        ("path.endsWith('.php')", true),
        ("path.contains('admin')", true),
        ("path.contains('Admin')", false),
        ("path.contains(query)", false),
        ("path.matches('^/wp-[a-z]+/')", true),
        ("path.matches('^/wp-$')", false),
        ("path.matches('(?i)SETUP')", true),
        ("matches(path, 'setup')", true),
        ("path.size() == 19 && size(path) == 19", true),
        ("size(query) > 100", false),
        ("query.contains('b=')", true),
        ("headers['user-agent'].contains('BadBot')", true),
        ("headers['USER-AGENT'].startsWith('BadBot')", true),
        ("headers['user-agent'].matches('badbot')", false),
        ("headers['user-agent'].matches('(?i)badbot.*\\\\(')", true),
        ("headers['x-twice'] == 'one, two'", true),
        ("headers['x-empty'] == ''", true),
        ("headers['x-none'] == ''", true),
        ("size(headers['x-none']) == 0", true),
        ("'X-Empty' in headers", true),
        ("'x-none' in headers", false),
        ("!('x-none' in headers)", true),
        ("headers['host'] == host", true),
        ("country == 'DE'", true),
        ("country in ['AT', 'CH']", false),
        ("country == 'DE' && country != 'AT' && asn == 64500", true),
        ("asn in [64499, 64500]", true),
        ("asn < 64500", false),
        ("asn <= 64500 && asn >= 64500", true),
        ("asn > -1", true),
        ("asn != 0", true),
        ("client == '192.0.2.7'", true),
        ("client == '::ffff:192.0.2.7'", true),
        ("client != '192.0.2.8'", true),
        ("'192.0.2.7' == client", true),
        ("client in ['10.0.0.0/8', '192.0.2.0/24']", true),
        ("client in ['2001:db8::/32']", false),
        ("client in ['::/0']", false),
        ("listed('google')", true),
        ("listed('office')", false),
        ("!listed('office') && listed(\"google\")", true),
        ("listed('google') == (method == 'POST')", true),
        ("listed('google') != true", false),
        ("listed('office') ? method == 'GET' : path != '/'", true),
        // Parentheses and precedence: `&&` binds closer than `||`.
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("path ==\n  '/x' // a comment\n || true", true),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn a_client_nobody_knows_is_nowhere() {
    let view = View {
        method: "GET",
        scheme: "http",
        host: "",
        path: "*",
        query: "",
        lines: &[],
        client: "2001:db8::1".parse().unwrap(),
        lists: 0,
        locate: &Whereabouts::default,
        located: OnceCell::new(),
    };
    for text in ["country == ''", "asn == 0", "size(country) == 0"] {
        assert!(Expression::read(text, &[]).unwrap().holds(&view), "{text}");
    }
}

/// What the first flaw points at, what it is and what to do.
fn flaw(text: &str) -> (String, String, String) {
    let flaws = match Expression::read(text, &LISTS) {
        Err(flaws) => flaws,
        Ok(_) => panic!("{text} is taken"),
    };
    let flaw = flaws.into_iter().next().expect("at least one flaw");
    let at = text[flaw.at].to_owned();
    (at, flaw.what, flaw.help.unwrap_or_default())
}

#[test]
fn what_is_wrong_is_told_where_it_stands() {
    for (text, at, what, help) in [
        ("path = '/x'", "=", "not an expression", ""),
        ("path == ", "", "not an expression", ""),
        ("(path == '/x'", "", "not an expression", ""),
        ("", "", "not an expression", ""),
        ("path == '/x", "'", "not an expression", ""),
        (
            "true && pth == '/x'",
            "pth",
            "`pth` is not known",
            "method, scheme",
        ),
        (
            "path",
            "path",
            "expected true or false, found a text",
            "compare it",
        ),
        ("asn", "asn", "expected true or false, found a number", ""),
        (
            "client",
            "client",
            "expected true or false, found an address",
            "",
        ),
        ("true && path", "path", "expected true or false", ""),
        ("!path", "path", "expected true or false", ""),
        (
            "path == 3",
            "==",
            "a text can't be compared with a number",
            "",
        ),
        (
            "asn == '3'",
            "==",
            "a number can't be compared with a text",
            "",
        ),
        (
            "true == 'x'",
            "==",
            "true or false can't be compared with a text",
            "",
        ),
        ("path < 'x'", "<", "a text has no order", "numbers"),
        ("path + 'x' == 'y'", "+", "`+` is not known", "operators"),
        ("asn == 3u", "3u", "a kind that is not known", ""),
        ("asn == 1.5", "1", "a kind that is not known", ""),
        (
            "path.lower() == 'x'",
            "(",
            "the function `lower`",
            "startsWith",
        ),
        ("path.startsWith()", "(", "called in another way", ""),
        ("startsWith(path, 'x')", "(", "called in another way", ""),
        (
            "path.startsWith(3)",
            "3",
            "expected a text, found a number",
            "",
        ),
        ("['a'].exists(x, x == path)", "", "macros", "`in`"),
        ("['a'].all(x, x == path)", "", "macros", ""),
        (
            "has(headers.cookie)",
            "",
            "`.cookie`",
            "`\"cookie\" in headers`",
        ),
        (
            "headers.user_agent == ''",
            ".",
            "`.user_agent`",
            "headers[\"user-agent\"]",
        ),
        ("headers == ''", "==", "can't be compared", ""),
        ("headers[path] == ''", "path", "a header's name", ""),
        ("headers['a b'] == ''", "'a b'", "a header's name", ""),
        ("path['x'] == ''", "path", "a text has no parts", ""),
        ("path in host", "host", "a list that is written out", ""),
        ("path in ['a', 3]", "3", "a text in quotes", ""),
        ("asn in [1, 'x']", "'x'", "a whole number", ""),
        (
            "client == 'x'",
            "'x'",
            "neither an address nor a network",
            "",
        ),
        (
            "client == '10.0.0.0/8'",
            "'10.0.0.0/8'",
            "is a network",
            "client in",
        ),
        ("client == host", "host", "written out", ""),
        (
            "client in ['10.0.0.0/8', '10.0.0.0/33']",
            "'10.0.0.0/33'",
            "neither",
            "",
        ),
        (
            "listed('gogle')",
            "'gogle'",
            "no list is called `gogle`",
            "office, google",
        ),
        ("listed(path)", "path", "a list's name", ""),
        (
            "path.matches('(')",
            "'('",
            "not a pattern: unclosed group",
            "",
        ),
        (
            "path.matches('(a{1000}){1000}')",
            "'(a{1000}){1000}'",
            "too large",
            "",
        ),
        ("path.matches(host)", "host", "a pattern in quotes", ""),
        ("{'a': 1} == path", "{", "maps", ""),
        ("['a']", "[", "a list alone", ""),
        ("b'x' == path", "b", "a kind that is not known", ""),
        ("null == path", "null", "a kind that is not known", ""),
    ] {
        let (found, told, helped) = flaw(text);
        assert!(told.contains(what), "{text}: {told}");
        assert!(helped.contains(help), "{text}: {helped}");
        if !at.is_empty() {
            assert_eq!(found, at, "{text}: {told}");
        }
        assert!(!told.contains('\n'), "{text}: {told}");
    }
}

#[test]
fn places_are_counted_in_characters_of_any_size() {
    let (at, ..) = flaw("path == 'é→' && pth == '/x'");
    assert_eq!(at, "pth");
    let (at, ..) = flaw("path == 'é→' && 'ü' = '/x'");
    assert_eq!(at, "=");
    let (at, ..) = flaw("path == 'é'\n  && host == 'ö' && pth");
    assert_eq!(at, "pth");
}

#[test]
fn length_and_depth_are_bounded() {
    let long = format!("path == '{}'", "a".repeat(bounds::LONGEST));
    assert!(flaw(&long).1.contains("bytes"));
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("listed(", ")"),
        ("a[", "]"),
        ("a.f(", ")"),
        ("true ? true : ", ""),
    ] {
        for depth in [40, 200, 250] {
            let deep = format!("{}true{}", open.repeat(depth), close.repeat(depth));
            assert!(Expression::read(&deep, &[]).is_err(), "{deep}");
        }
    }
    for step in [
        ".b",
        "[0]",
        "[0,0]",
        "-1",
        "- 1",
        "+b",
        "*2",
        "/2",
        "%2",
        ".b()",
        ".b(0,0)",
        ".b('\\'')",
        ".b(r'\\')",
        "==1",
        "!=1",
        "<1",
        " in a",
        "\nin\na",
        "{}",
        "?.b",
        "[?0]",
        ".`b`",
        ".b{}",
        " //\n.b",
        "['''\n''']",
        "(x)",
    ] {
        for many in [40, bounds::LONGEST / step.len() - 1] {
            let chain = format!("a{}", step.repeat(many));
            assert!(Expression::read(&chain, &[]).is_err(), "{chain}");
        }
    }
    let wide = vec!["path == '/x'"; 250].join(" || ");
    assert!(!holds(&wide));
    assert!(holds(&format!("{wide} || true")));
    let all = vec!["path.size() != 3"; 200].join(" && ");
    assert!(holds(&all));
    let some = vec!["'/x'"; 600].join(", ");
    assert!(!holds(&format!("path in [{some}]")));
    let nots = format!("{}true", "!".repeat(1000));
    assert!(holds(&nots));
    // What stands in quotes or behind a slash is no operator.
    let text = "(.+[".repeat(300);
    assert!(holds(&format!("path == '{text}' || true // {text}")));
}

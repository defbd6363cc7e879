//! What operators ask by, and where what outlives the process lies.

use super::*;
use crate::config::policy::{SocketPlace, StateDir};

#[test]
fn places_are_usual_unless_written() {
    let usual = policy(UPSTREAM);
    assert_eq!(usual.state, StateDir::Usual);
    assert_eq!(usual.admin.socket, SocketPlace::Usual);
    assert!(usual.admin.token.is_none());
    assert_eq!(usual.file.as_deref(), Some("t.toml"));
    let off = policy(&format!(
        "{UPSTREAM}[state]\ndir = \"off\"\n[admin]\nsocket = \"off\"\n"
    ));
    assert_eq!(off.state, StateDir::Off);
    assert_eq!(off.admin.socket, SocketPlace::Off);
    let own = policy(&format!(
        "{UPSTREAM}[state]\ndir = \"/s\"\n[admin]\nsocket = \"/a.sock\"\n"
    ));
    assert_eq!(own.state, StateDir::At("/s".into()));
    assert_eq!(own.admin.socket, SocketPlace::At("/a.sock".into()));
}

#[test]
fn the_token_is_read_and_not_shown() {
    let text = "${PORT}-8000-8000-8000";
    for (token, is) in [
        (text, "8000-8000-8000-8000"),
        ("file:/secret", "0123456789abcdef"),
    ] {
        let policy = policy(&format!("{UPSTREAM}[admin]\ntoken = \"{token}\"\n"));
        let token = policy.admin.token.as_ref().map(|token| token.0.as_slice());
        assert_eq!(token, Some(is.as_bytes()));
        assert!(!format!("{policy:?}").contains(is));
    }
    let secrets = policy(&format!("{UPSTREAM}[admin]\ntoken = \"file:/secret\"\n")).secrets;
    assert_eq!(secrets, [Path::new("/secret")]);
}

#[test]
fn c52_what_is_no_token_is_told() {
    for (token, says) in [
        ("", "less than 16 bytes"),
        ("hunter2", "less than 16 bytes"),
        ("file:", "without a path"),
        ("file:/gone", "/gone: entity not found"),
        ("file:/slip", "visible ASCII"),
        ("0123456789 abcdef", "visible ASCII"),
        ("0123456789abcdefä", "visible ASCII"),
    ] {
        let (line, what, _) = one_mistake(&format!("{UPSTREAM}[admin]\ntoken = \"{token}\"\n"));
        assert_eq!(line, 4, "{token}");
        assert!(what.contains(says), "{token}: {what}");
        assert!(!what.contains("hunter2"), "{what}");
    }
}

#[test]
fn what_stands_in_for_an_app_is_there() {
    let usual = policy(UPSTREAM).fallback;
    assert_eq!((usual.dir, usual.page), (None, None));
    let text = format!("{UPSTREAM}[fallback]\ndir = \"/static\"\npage = \"/page\"\n");
    let own = policy(&text).fallback;
    assert_eq!(own.dir.as_deref(), Some(Path::new("/static")));
    assert_eq!(own.page.as_deref(), Some(&b"<p>Later"[..]));
    // Where something was prepared it goes on by itself.
    assert_eq!(usual.auto, None);
    assert_eq!(own.auto.unwrap().after, Duration::from_secs(5));
    let auto = |lines: &str| {
        policy(&format!("{UPSTREAM}[fallback]\n{lines}\n"))
            .fallback
            .auto
    };
    assert_eq!(auto("page = \"/page\"\nauto = false"), None);
    let terms = auto("auto = true\nauto_hold = \"1m\"").unwrap();
    assert_eq!(terms.hold, Duration::from_secs(60));
    for (line, says) in [
        ("dir = \"/ca.pem\"", "/ca.pem is no folder"),
        ("dir = \"/gone\"", "/gone: entity not found"),
        ("page = \"/gone\"", "/gone: entity not found"),
        ("page = \"/nothing\"", "has 0 bytes"),
    ] {
        let (at, what, _) = one_mistake(&format!("{UPSTREAM}[fallback]\n{line}\n"));
        assert_eq!(at, 4, "{line}");
        assert!(what.contains(says), "{line}: {what}");
    }
}

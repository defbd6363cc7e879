//! Lists, databases and rules.

use super::*;
use crate::config::policy::{ListAction, RuleAction};

#[test]
fn lists_and_rules_are_what_was_written() {
    let policy = policy(&format!(
        "{UPSTREAM}[[route]]\nname = \"all\"\n[[route]]\nname = \"blog\"\npath = \"/blog\"\n\
         [[list]]\nname = \"a\"\nnetworks = [\"10.0.0.0/8\", \"::1\"]\naction = \"deny\"\n\
         [[list]]\nname = \"b\"\nfile = \"/list\"\n\
         [geo]\ncountry = \"/country\"\n\
         [[rule]]\nname = \"r\"\nwhen = \"country == 'DE' && listed('b')\"\naction = \"tag\"\nroutes = [\"blog\"]\n"
    ));
    let [a, b] = &policy.lists[..] else {
        panic!("{:?}", policy.lists)
    };
    assert_eq!((a.name.as_str(), a.action), ("a", Some(ListAction::Deny)));
    let networks = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
    assert_eq!(a.networks, networks);
    assert_eq!(
        (b.action, b.file.as_deref()),
        (None, Some(Path::new("/list")))
    );
    let rule = &policy.rules[0];
    assert_eq!((rule.name.as_str(), rule.action), ("r", RuleAction::Tag));
    assert_eq!(rule.routes, Some(vec![1]));
    assert!(rule.when.reads().country && !rule.when.reads().asn);
}

#[test]
fn what_is_wrong_with_lists_is_told_where_it_stands() {
    for (text, line, what, help) in [
        ("networks = [\"::1\"]", 3, "a list without `name`", "office"),
        ("name = \"a\"", 3, "a list of nobody", "networks"),
        (
            "name = \"a\"\nnetworks = [\"::1\",\n\"10.1.0.0/8\"]",
            6,
            "`10.1.0.0/8` is not",
            "10.0.0.0/8",
        ),
        ("name = \"a\"\nfile = \"/none\"", 5, "/none: ", "readable"),
        (
            "name = \"a\"\nfile = \"/slip\"",
            5,
            "/slip:2: `192.0.2.256`",
            "JSON",
        ),
        (
            "name = \"a\"\nfile = \"/list\"\naction = \"block\"",
            6,
            "`block` is not",
            "\"deny\"",
        ),
        (
            "name = \"a\"\nfile = \"/list\"\n[[list]]\nname = \"a\"\nfile = \"/list\"",
            7,
            "another list",
            "name",
        ),
    ] {
        told(&format!("[[list]]\n{text}"), line, what, help);
    }
    told(
        "[list]\nname = \"a\"\nfile = \"/list\"",
        3,
        "several times",
        "[[list]]",
    );
    let list = |n| format!("[[list]]\nname = \"{n}\"\nnetworks = [\"::1\"]\n");
    let lists: String = (0..65).map(list).collect();
    told(&lists, 3 + 64 * 3, "65 lists", "64 at most");
}

#[test]
fn what_is_wrong_with_databases_is_told_where_it_stands() {
    for (text, what) in [
        ("country = \"/none\"", "/none: "),
        (
            "country = \"/asn\"",
            "/asn: a database that knows no countries",
        ),
        (
            "asn = \"/country\"",
            "/country: a database that knows no operators",
        ),
        ("asn = \"/secret\"", "/secret: "),
    ] {
        told(&format!("[geo]\n{text}"), 4, what, "MaxMind");
    }
}

#[test]
fn what_is_wrong_with_rules_is_told_where_it_stands() {
    for (text, line, what, help) in [
        (
            "when = \"true\"\naction = \"tag\"",
            3,
            "a rule without `name`",
            "",
        ),
        (
            "name = \"a\"\naction = \"tag\"",
            3,
            "a rule without `when`",
            "add `when",
        ),
        (
            "name = \"a\"\nwhen = \"true\"",
            3,
            "a rule without `action`",
            "\"block\"",
        ),
        (
            "name = \"a\"\nwhen = \"true\"\naction = \"deny\"",
            6,
            "`deny` is not",
            "",
        ),
        (
            "name = \"a\"\nwhen = 7\naction = \"tag\"",
            5,
            "expected a text",
            "",
        ),
        (
            "name = \"a\"\nwhen = \"country == 'DE'\"\naction = \"tag\"",
            5,
            "`country` without a database",
            "[geo]",
        ),
        (
            "name = \"a\"\nwhen = \"asn == 1\"\naction = \"tag\"\n[geo]\ncountry = \"/country\"",
            5,
            "`asn` without a database",
            "asn =",
        ),
        (
            "name = \"a\"\nwhen = \"listed('b')\"\naction = \"tag\"",
            5,
            "no list is called `b`",
            "[[list]]",
        ),
        (
            "name = \"a\"\nwhen = \"true\"\naction = \"tag\"\nroutes = [\"/\",\n\"blog\"]",
            8,
            "no route is called `blog`",
            "/",
        ),
        (
            "name = \"a\"\nwhen = \"true\"\naction = \"tag\"\n[[rule]]\nname = \"a\"\nwhen = \"true\"\naction = \"tag\"",
            8,
            "another rule",
            "",
        ),
    ] {
        told(&format!("[[rule]]\n{text}"), line, what, help);
    }
    // Nobody could show a pass where there is none to be had.
    let rule = "[[rule]]\nname = 'a'\nwhen = 'true'\naction = 'challenge'\n";
    for off in ["", "[challenge]\n", "[challenge]\nwhen = 'off'\n"] {
        let what = "`challenge` while `[challenge]` is off";
        told(&format!("{rule}{off}"), 6, what, "\"asked\"");
    }
    let rule = |n| format!("[[rule]]\nname = \"{n}\"\nwhen = \"true\"\naction = \"tag\"\n");
    let rules: String = (0..33).map(rule).collect();
    told(&rules, 3 + 32 * 4 + 3, "32 rules that tag", "`||`");
}

#[test]
fn a_limit_that_a_rule_names_holds_there_alone() {
    let limit = |name: &str| format!("[[limit]]\nname = '{name}'\nrate = '5/s'\n");
    let rule = |name: &str, more: &str| {
        format!("[[rule]]\nname = '{name}'\nwhen = 'true'\naction = 'limit'\n{more}\n")
    };
    let policy = policy(&format!(
        "{UPSTREAM}{}{}{}{}{}{}",
        limit("all"),
        rule("r", "limit = 'second'"),
        limit("first"),
        limit("second"),
        rule("s", "limit = 'first'"),
        rule("t", "limit = 'second'"),
    ));
    let places: Vec<_> = policy.limits.iter().map(|limit| limit.by_rules).collect();
    assert_eq!(places, [None, Some(0), Some(1)]);
    let limits: Vec<_> = policy.rules.iter().map(|rule| rule.limit).collect();
    assert_eq!(limits, [Some(1), Some(0), Some(1)]);
    for (text, line, what, help) in [
        (rule("a", ""), 6, "no limit named", "add `limit"),
        (
            rule("a", "limit = 'searches'"),
            7,
            "no limit is called `searches`",
            "[[limit]]",
        ),
        (
            format!("{}{}", rule("a", "limit = 'serches'"), limit("searches")),
            7,
            "no limit is called `serches`",
            "did you mean `\"searches\"`?",
        ),
        (
            format!("{}{}", rule("a", "limit = 'xyz'"), limit("searches")),
            7,
            "no limit is called `xyz`",
            "the limits are searches",
        ),
        // An action that is tried out may keep its limit, if there is one.
        (
            rule("a", "limit = 'gone'").replace("'limit'", "'count'"),
            7,
            "no limit is called `gone`",
            "",
        ),
        (
            format!("{}routes = ['/']\n{}", limit("a"), rule("r", "limit = 'a'")),
            6,
            "`routes` of a limit that holds where a rule says so",
            "that rule",
        ),
    ] {
        told(&text, line, what, help);
    }
    // What is wrong with a name is told once.
    let text = format!("{}{}", limit("a b"), rule("r", "limit = 'a'"));
    assert_eq!(mistakes(&format!("{UPSTREAM}{text}")).len(), 1);
    // All of them may meet one request.
    let named = |n| {
        format!(
            "{}{}",
            limit(&format!("l{n}")),
            rule(&format!("r{n}"), &format!("limit = 'l{n}'"))
        )
    };
    let many: String = (10..27).map(named).collect();
    told(&many, 3 + 16 * 8, "more than 16 limits", "");
    let most: String = (10..26).map(named).collect();
    assert_eq!(
        self::policy(&format!("{UPSTREAM}{most}")).limits[15].by_rules,
        Some(15)
    );
}

/// The one mistake of a text below an upstream.
#[track_caller]
fn told(text: &str, line: usize, what: &str, help: &str) {
    let (at, told, helped) = one_mistake(&format!("{UPSTREAM}{text}\n"));
    assert_eq!(at, line, "{text}\n{told}");
    assert!(told.contains(what), "{text}\n{told}");
    assert!(helped.contains(help), "{text}\n{helped}");
}

#[test]
fn a_flaw_of_an_expression_has_its_column() {
    for (when, line, column) in [
        (r#""path == '/x' && pth == '/x'""#, 5, 25),
        (r#"'path == "/x" && pth == 1'"#, 5, 25),
        ("\"\"\"\npath == '/x' &&\npth == '/x'\"\"\"", 7, 1),
        // With escapes it stands elsewhere: then the whole is shown.
        (r#""path == \"/x\" && pth == 1""#, 5, 8),
    ] {
        let text = format!("{UPSTREAM}[[rule]]\nname = \"a\"\nwhen = {when}\naction = \"tag\"\n");
        let report = with(&text, &Flags::default()).expect_err("a mistake");
        let entry = &report.entries()[0];
        assert!(entry.what.contains("`pth` is not known"), "{}", entry.what);
        assert_eq!(
            (entry.line, entry.column),
            (Some(line), Some(column)),
            "{when}"
        );
    }
}

use std::cell::OnceCell;
use std::fs;

use httparse::Header;

use super::*;
use crate::config;

const UPSTREAM: &str = "[[upstream]]\nservers = ['http://127.0.0.1:1']\n\
    [[route]]\nname = 'all'\n[[route]]\nname = 'blog'\npath = '/blog'\n";

fn guard(text: &str) -> (Arc<Guard>, Metrics) {
    let policy = match config::compile("t.toml", &format!("{UPSTREAM}{text}")) {
        Ok(policy) => policy,
        Err(told) => panic!("{told}"),
    };
    let metrics = Metrics::new();
    let guard = Guard::new(&policy, None, &metrics).unwrap();
    (guard, metrics)
}

/// What is said of a GET for `path` on a route, by a curl at 192.0.2.7.
fn judged(guard: &Guard, route: usize, path: &str) -> (Verdict, Marks) {
    let client = "192.0.2.7".parse().unwrap();
    let lines = [Header {
        name: "User-Agent",
        value: b"curl/8",
    }];
    let view = View {
        method: "GET",
        scheme: "http",
        host: "a.test",
        path,
        query: "",
        lines: &lines,
        client,
        lists: guard.find(client).lists,
        locate: &|| guard.locate(client),
        located: OnceCell::new(),
    };
    let mut marks = Marks::default();
    let verdict = guard.judge(route, &view, &mut marks);
    (verdict, marks)
}

/// The sum of a metric's samples that hold these labels.
fn count(metrics: &Metrics, series: &str) -> u64 {
    let page = metrics.render();
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(u64::MAX, |value| value.trim().parse().unwrap())
}

#[test]
fn the_first_that_blocks_ends_it_and_tags_collect() {
    let (guard, metrics) = guard(
        "[[rule]]\nname = 'seen'\nwhen = 'true'\naction = 'count'\n\
         [[rule]]\nname = 'curl'\nwhen = \"headers['user-agent'].startsWith('curl')\"\naction = 'tag'\n\
         [[rule]]\nname = 'x'\nwhen = \"path == '/x'\"\naction = 'bypass'\n\
         [[rule]]\nname = 'also'\nwhen = \"path == '/x'\"\naction = 'bypass'\n\
         [[rule]]\nname = 'wp'\nwhen = \"path.startsWith('/wp-')\"\naction = 'block'\n\
         [[rule]]\nname = 'late'\nwhen = 'true'\naction = 'tag'\n",
    );
    let (verdict, marks) = judged(&guard, 0, "/wp-login.php");
    assert_eq!(verdict, Verdict::Block);
    let marked = guard.marked(marks);
    assert_eq!(
        (marked.list, marked.rule, marked.tags),
        (None, Some("wp"), 0b01)
    );
    let (verdict, marks) = judged(&guard, 0, "/x");
    assert!(verdict == Verdict::Through && marks.bypasses());
    let marked = guard.marked(marks);
    assert_eq!((marked.rule, marked.tags), (Some("x"), 0b11));
    assert_eq!(marked.names, ["curl", "late"].map(Box::from));
    let (verdict, marks) = judged(&guard, 0, "/");
    assert_eq!(
        (verdict, guard.marked(marks).rule, marks.bypasses()),
        (Verdict::Through, None, false)
    );
    for (rule, action, expected) in [
        ("seen", "count", 3),
        ("curl", "tag", 3),
        ("x", "bypass", 1),
        ("also", "bypass", 1),
        ("wp", "block", 1),
        ("late", "tag", 2),
    ] {
        let series = format!("tidegate_rule_matches_total{{action=\"{action}\",rule=\"{rule}\"}}");
        let other = format!("tidegate_rule_matches_total{{rule=\"{rule}\",action=\"{action}\"}}");
        let seen = count(&metrics, &series).min(count(&metrics, &other));
        assert_eq!(seen, expected, "{rule}");
    }
}

#[test]
fn a_rule_of_a_route_is_for_no_other() {
    let (guard, _) =
        guard("[[rule]]\nname = 'a'\nwhen = 'true'\naction = 'block'\nroutes = ['blog']\n");
    assert_eq!(judged(&guard, 0, "/").0, Verdict::Through);
    assert_eq!(judged(&guard, 1, "/blog").0, Verdict::Block);
}

#[test]
fn a_file_that_changes_is_taken_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.txt");
    fs::write(&file, "192.0.2.7\n").unwrap();
    let (guard, metrics) = guard(&format!(
        "[[list]]\nname = 'bad'\nfile = '{}'\nnetworks = ['10.0.0.0/8']\naction = 'deny'\n\
         [[rule]]\nname = 'listed'\nwhen = \"listed('bad')\"\naction = 'bypass'\n",
        file.display()
    ));
    let denied = |ip: &str| {
        let mut marks = Marks::default();
        let denied = guard.denies(guard.find(ip.parse().unwrap()), &mut marks);
        assert_eq!(guard.marked(marks).list, denied.then_some("bad"));
        denied
    };
    let look = || (0..2).for_each(|_| guard.lists.look());
    assert!(denied("192.0.2.7") && denied("10.1.2.3") && !denied("192.0.2.8"));
    assert!(judged(&guard, 0, "/").1.bypasses());
    fs::write(&file, "192.0.2.8\n192.0.2.9\n").unwrap();
    look();
    assert!(!denied("192.0.2.7") && denied("10.1.2.3") && denied("192.0.2.8"));
    assert!(!judged(&guard, 0, "/").1.bypasses());
    fs::write(&file, "192.0.2.7\nnobody\n").unwrap();
    look();
    assert!(denied("192.0.2.8") && !denied("192.0.2.7"));
    fs::remove_file(&file).unwrap();
    look();
    assert!(denied("192.0.2.8"));
    fs::write(&file, "").unwrap();
    look();
    assert!(!denied("192.0.2.8") && denied("10.1.2.3"));
    assert!(guard.entries().any(|entries| entries == ("bad", 1)));
    for (series, expected) in [
        ("tidegate_list_denied_total{list=\"bad\"}", 7),
        (
            "tidegate_list_reloads_total{list=\"bad\",result=\"done\"}",
            2,
        ),
        (
            "tidegate_list_reloads_total{list=\"bad\",result=\"refused\"}",
            2,
        ),
    ] {
        assert_eq!(
            count(&metrics, series),
            expected,
            "{series}\n{}",
            metrics.render()
        );
    }
}

#[test]
fn rules_ask_for_passes_and_limits() {
    let (guard, metrics) = guard(
        "[challenge]\nwhen = 'asked'\n\
         [[limit]]\nname = 'all'\nrate = '9/s'\n\
         [[limit]]\nname = 'a'\nrate = '9/s'\n\
         [[limit]]\nname = 'b'\nrate = '9/s'\n\
         [[rule]]\nname = 'pass'\nwhen = \"path.contains('p')\"\naction = 'challenge'\n\
         [[rule]]\nname = 'two'\nwhen = \"path.contains('b')\"\naction = 'limit'\nlimit = 'b'\n\
         [[rule]]\nname = 'one'\nwhen = \"path.contains('a')\"\naction = 'limit'\nlimit = 'a'\n\
         [[rule]]\nname = 'again'\nwhen = \"path.contains('aa')\"\naction = 'limit'\nlimit = 'a'\n\
         [[rule]]\nname = 'trial'\nwhen = \"path.contains('t')\"\naction = 'count'\nlimit = 'a'\n\
         [[rule]]\nname = 'wall'\nwhen = \"path.contains('w')\"\naction = 'block'\n",
    );
    for (path, needs_pass, a, b, rule) in [
        ("/", false, false, false, None),
        ("/t", false, false, false, None),
        ("/p", true, false, false, Some("pass")),
        ("/aa", false, true, false, Some("one")),
        ("/ab", false, true, true, Some("two")),
        ("/pab", true, true, true, Some("pass")),
    ] {
        let (verdict, marks) = judged(&guard, 0, path);
        assert_eq!(verdict, Verdict::Through, "{path}");
        let told = (marks.needs_pass(), marks.meets(0), marks.meets(1));
        assert_eq!(told, (needs_pass, a, b), "{path}");
        assert_eq!(guard.marked(marks).rule, rule, "{path}");
        assert!(!(2..=u8::MAX).any(|place| marks.meets(place)), "{path}");
    }
    // A block further down comes before a pass.
    let (verdict, marks) = judged(&guard, 0, "/pw");
    assert_eq!(
        (verdict, guard.marked(marks).rule),
        (Verdict::Block, Some("wall"))
    );
    let series = "tidegate_rule_matches_total{rule=\"one\",action=\"limit\"}";
    assert_eq!(count(&metrics, series), 3);
}

#[test]
fn what_is_configured_alike_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad");
    fs::write(&path, "192.0.2.0/24\n").unwrap();
    let list = |action: &str| {
        format!(
            "[[list]]\nname = 'bad'\nfile = '{}'\naction = '{action}'\n",
            path.display()
        )
    };
    let (before, metrics) = guard(&list("deny"));
    let renewed = |text: &str| {
        let policy = config::compile("t.toml", &format!("{UPSTREAM}{text}")).unwrap();
        Guard::new(&policy, Some(&before), &metrics).unwrap()
    };
    let rules = "[[rule]]\nname = 'all'\nwhen = 'true'\naction = 'count'\n";
    let same = renewed(&format!("{}{rules}", list("deny")));
    assert!(same.has_rules() && !before.has_rules());
    assert!(Arc::ptr_eq(&same.lists, &before.lists) && Arc::ptr_eq(&same.geo, &before.geo));
    let other = renewed(&list("allow"));
    assert!(!Arc::ptr_eq(&other.lists, &before.lists) && Arc::ptr_eq(&other.geo, &before.geo));
}

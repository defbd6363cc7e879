//! Any text is a policy or a list of mistakes, each with its place; and a policy does not depend on how its text is laid
//! out.

use tidegate::config::{Flags, Policy, Report, World, believe};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match read(text) {
        Ok(policy) => good(text, &policy),
        Err(report) => bad(text, &report),
    }
}

/// In a world where every file can be read.
fn read(text: &str) -> Result<Policy, Report> {
    let world = World {
        env: &|name| name.starts_with('T').then(|| "10s".to_owned()),
        readable: &|_| Ok(()),
        read: &|_| Ok(vec![b'x'; 32]),
        certificate: &|_| Ok(()),
        unique: &|| "tidegate-test".to_owned(),
        cores: 2,
    };
    believe(
        Some("test.toml".to_owned()),
        text.to_owned(),
        &Flags::default(),
        &world,
    )
}

fn good(text: &str, policy: &Policy) {
    let table: toml::Table = toml::from_str(text).expect("a good config is TOML");
    let again = toml::to_string(&table).expect("and can be written");
    match read(&again) {
        Ok(again) => assert_eq!(format!("{again:?}"), format!("{policy:?}")),
        Err(report) => panic!("good as\n{text}\nbut as\n{again}\n{report}"),
    }
    assert!(!policy.upstreams.is_empty() && policy.listen.threads > 0);
    for (host, path, route) in policy.order() {
        assert!(path.starts_with('/'), "{path}");
        assert!(route.upstream < policy.upstreams.len());
        // A name that the route is meant for finds it, or one that is closer.
        let host = host.replacen('*', "a", 1);
        assert!(
            policy.route(&host, path).is_some(),
            "nobody serves {host}{path}"
        );
    }
}

fn bad(text: &str, report: &Report) {
    let entries = report.entries();
    assert!(!entries.is_empty(), "no policy, and no mistake");
    let (plain, colour) = (report.render(false), report.render(true));
    assert!(colour.len() > plain.len() && !report.count().is_empty());
    for entry in entries {
        assert!(plain.contains(entry.what), "{}", entry.what);
        if let Some(line) = entry.line {
            assert!(
                (1..=text.split('\n').count()).contains(&line),
                "line {line}"
            );
            assert!(entry.column.is_some_and(|column| column > 0));
        }
    }
}

use std::time::Duration;

use super::*;
use crate::config;

const TEXT: &str = "
[[upstream]]
name = 'app'
servers = ['http://127.0.0.1:8000', { address = 'http://127.0.0.1:8001', max_in_flight = 3 }]

[[route]]
name = 'blog'

[[route]]
name = 'shop'
path = '/shop'

[[rule]]
name = 'odd'
when = 'path.contains(\"odd\")'
action = 'tag'

[[limit]]
name = 'visitors'
rate = '100/min'
concurrency = 8
";

fn policy() -> Policy {
    config::compile("levers", TEXT).unwrap()
}

fn pulled(pulls: &[Pull]) -> Policy {
    let mut policy = policy();
    for one in pulls {
        check(&policy, &[], one, false).unwrap();
        pull(&mut policy, one).unwrap();
    }
    policy
}

fn refused(wants: &Pull) -> String {
    check(&policy(), &[], wants, false).unwrap_err()
}

#[test]
fn a_lever_is_for_one_route_or_for_all() {
    let one = pulled(&[
        Pull::Ttl {
            route: Some("shop".into()),
            stretch: 10.0,
            least: 0,
        },
        Pull::Readonly { route: None },
        Pull::Bypass {
            route: "blog".into(),
        },
    ]);
    let pages = |at: usize| one.routes[at].pulled.pages;
    assert_eq!((pages(0).stretch, pages(1).stretch), (0, 900));
    assert!(one.routes.iter().all(|route| route.pulled.readonly));
    assert!(one.routes[0].pulled.bypass && !one.routes[1].pulled.bypass);
    let stale = pulled(&[Pull::Stale {
        route: None,
        window: 3_600,
    }]);
    let hour = Duration::from_secs(3_600);
    assert!(
        stale
            .routes
            .iter()
            .all(|route| route.pulled.pages.stale == hour)
    );
    let why = refused(&Pull::Readonly {
        route: Some("shpo".into()),
    });
    assert_eq!(why, "no route is called \"shpo\"; is it \"shop\"?");
}

#[test]
fn limits_are_tightened_and_relaxed() {
    let limit = |times| pulled(&[Pull::Limit { limit: None, times }]).limits[0].clone();
    let per = |times| limit(times).rate.unwrap().per;
    assert_eq!(per(1.0), Duration::from_secs(60));
    assert_eq!(per(0.1), Duration::from_secs(600));
    assert_eq!(per(4.0), Duration::from_secs(15));
    assert_eq!(
        (limit(0.1).rate.unwrap().burst, limit(0.1).concurrency),
        (10, Some(1))
    );
    assert_eq!(
        (limit(4.0).rate.unwrap().burst, limit(4.0).concurrency),
        (400, Some(32))
    );
    assert!(
        refused(&Pull::Limit {
            limit: None,
            times: 0.0
        })
        .contains("from 0.001")
    );
}

#[test]
fn servers_and_budgets() {
    let drain = |server: &str| Pull::Drain {
        upstream: "app".into(),
        server: server.into(),
    };
    let one = pulled(&[drain("127.0.0.1:8001")]);
    assert_eq!(one.upstreams[0].servers[1].weight, 0);
    let first = lever(drain("127.0.0.1:8001"));
    let last = drain("127.0.0.1:8000");
    let why = check(&policy(), std::slice::from_ref(&first), &last, false).unwrap_err();
    assert!(
        why.contains("last server") && why.contains("--force"),
        "{why}"
    );
    check(&policy(), &[first], &last, true).unwrap();
    let budget = pulled(&[Pull::Budget {
        upstream: "app".into(),
        most: 2,
    }]);
    assert_eq!(budget.upstreams[0].most_in_flight(), 4);
    assert!(refused(&drain("127.0.0.1:9")).contains("there are"));
}

#[test]
fn who_is_kept_out() {
    let block = |network: &str| Pull::Block {
        network: network.parse().unwrap(),
    };
    let two = pulled(&[block("192.0.2.0/24"), block("2001:db8::/32")]);
    assert_eq!(two.lists.len(), 1);
    assert_eq!(two.lists[0].networks.len(), 2);
    for all in ["0.0.0.0/0", "::/0", "128.0.0.0/1"] {
        assert!(refused(&block(all)).contains("--force"), "{all}");
        check(&policy(), &[], &block(all), true).unwrap();
    }
    let rule = pulled(&[Pull::BlockRule { rule: "odd".into() }]);
    assert_eq!(rule.rules[0].action, RuleAction::Block);
}

fn lever(pull: Pull) -> Lever {
    Lever {
        id: 1,
        uid: crate::levers::Uid(1),
        shared: false,
        pull,
        who: String::new(),
        reason: String::new(),
        since: 0,
        until: None,
        force: false,
    }
}

#[test]
fn what_is_gone_from_the_config_does_nothing() {
    let gone = lever(Pull::Bypass {
        route: "gone".into(),
    });
    let over = over(&policy(), &[gone]);
    assert!(over.routes.iter().all(|route| !route.pulled.bypass));
}

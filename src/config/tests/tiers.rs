//! Limits by who somebody is, beside `[identity]`.

use super::*;
use crate::limits::spec::{LimitSpec, Part};

const JWT: &str = "[identity]\njwt_secret = \"0123456789abcdef\"\n";

fn limits(identity: &str, limit: &str) -> Policy {
    policy(&format!("{UPSTREAM}{identity}[[limit]]\n{limit}"))
}

/// The tiers of a limit: name, count, seconds, burst.
fn rates(limit: &LimitSpec) -> Vec<(&str, u64, u64, u64)> {
    let rates = limit.tiers.iter().map(|tier| {
        let rate = tier.rate;
        (
            tier.name.as_str(),
            rate.count,
            rate.per.as_secs(),
            rate.burst,
        )
    });
    let mut rates: Vec<_> = rates.collect();
    rates.sort_unstable();
    rates
}

#[test]
fn tiers_have_rates_of_their_own() {
    let two_lines = limits(
        JWT,
        "rate = \"100/min\"\ntiers = { signed_in = \"1000/min\" }\n",
    );
    assert_eq!(two_lines.limits[0].rate.unwrap().burst, 100);
    assert_eq!(rates(&two_lines.limits[0]), [("signed_in", 1000, 60, 1000)]);
    assert_eq!(two_lines.identity.tiers, ["signed_in"]);

    let policy = limits(
        &format!("{JWT}tier_claim = \"plan\"\n"),
        "rate = \"100/min\"\nburst = 20\n[limit.tiers]\nsigned_in = \"1000/min\"\ngold = \"2/s\"\n\
         [[limit]]\npreset = \"search\"\nkey = \"jwt:org+route\"\ntiers = { silver = \"60/min\", gold = \"1/d\" }\n\
         [[limit]]\nkey = \"jwt:sub\"\nrate = \"5/s\"\n[[limit]]\nkey = \"jwt:org\"\nrate = \"6/s\"\n",
    );
    // At once as many as come while the others' burst comes again, and never none.
    assert_eq!(
        rates(&policy.limits[0]),
        [("gold", 2, 1, 24), ("signed_in", 1000, 60, 200)]
    );
    assert_eq!(
        rates(&policy.limits[1]),
        [("gold", 1, 86_400, 1), ("silver", 60, 60, 20)]
    );
    assert_eq!(policy.identity.tiers, ["signed_in", "gold", "silver"]);
    assert_eq!(policy.identity.claims, ["org", "sub"]);
    let same = |limit: usize, name: &str| {
        let mut tiers = policy.limits[limit].tiers.iter();
        tiers.find(|tier| tier.name == name).map(|tier| tier.tier)
    };
    assert_eq!(same(0, "gold"), same(1, "gold"));
    assert_eq!(policy.limits[2].key.0, [Part::Jwt("sub".to_owned())]);
}

#[test]
fn a_fleet_hashes_people_by_what_it_shares() {
    let secret = |more: &str| {
        let text = format!("{UPSTREAM}{JWT}{more}");
        let secret = policy(&text).identity.secret;
        secret.map(|secret| secret.0)
    };
    let redis = "[redis]\nservers = [\"redis://a\"]\nproxies = 2\n";
    assert_eq!(secret(""), None);
    let one = secret(&format!("{redis}password = \"one\"\n"));
    assert!(one.is_some());
    assert_eq!(one, secret(&format!("{redis}password = \"one\"\n")));
    assert_ne!(one, secret(&format!("{redis}password = \"two\"\n")));
    assert_ne!(
        one,
        secret(&format!("{redis}password = \"one\"\nprefix = \"b\"\n"))
    );
    let own = secret(&format!("secret = \"0123456789abcdef\"\n{redis}"));
    assert_eq!(own.as_deref(), Some(&b"0123456789abcdef"[..]));
}

#[test]
fn what_nobody_can_show_is_told() {
    for (identity, limit, what, help) in [
        (
            "",
            "rate = \"1/s\"\ntiers = { signed_in = \"2/s\" }\n",
            "tiers, and nothing that anybody could be known by",
            "`jwt_secret`",
        ),
        (
            JWT,
            "rate = \"1/s\"\ntiers = { signed_in = \"2/s\", gold = \"3/s\" }\n",
            "`gold`, and nothing that says who has that tier",
            "`tier_claim`",
        ),
        (
            "",
            "rate = \"1/s\"\nkey = \"jwt:sub\"\n",
            "`jwt:sub`, and no key that verifies tokens",
            "`jwks_file`",
        ),
        (
            JWT,
            "rate = \"1/s\"\nkey = \"api_key\"\n",
            "`api_key`, and no list of keys",
            "`api_keys`",
        ),
        (
            JWT,
            "rate = \"1/s\"\nkey = \"jwt:a+jwt:b+jwt:c+jwt:d+jwt:e\"\n",
            "limits by more than 4 claims of tokens",
            "the same one",
        ),
        (
            JWT,
            "concurrency = 2\ntiers = { signed_in = \"2/s\" }\n",
            "`tiers` without `rate`",
            "`rate = \"100/min\"`",
        ),
        (
            JWT,
            "rate = \"10/s\"\ncost = \"10\"\ntiers = { signed_in = \"9/s\" }\n",
            "`signed_in`: no more than 9 at once, and a cost of 10",
            "lower `cost`",
        ),
        (
            JWT,
            "rate = \"1/s\"\ntiers = { signed_in = \"2000000/s\" }\n",
            "`signed_in`: more than a million requests a second",
            "anything between",
        ),
        (
            JWT,
            "rate = \"1/s\"\ntiers = { signed_in = \"2/second\" }\n",
            "`tiers`: `signed_in`: `2/second` is not a rate of requests",
            "\"2/s\"",
        ),
        (
            JWT,
            "rate = \"1/s\"\ntiers = \"2/s\"\n",
            "`tiers`: expected a table, found a text",
            "signed_in",
        ),
    ] {
        let (line, told, helps) = one_mistake(&format!("{UPSTREAM}{identity}[[limit]]\n{limit}"));
        assert!(told.starts_with(what), "{told}");
        assert!(helps.contains(help), "{helps}");
        assert!(line > 3, "it stands on a line: {limit}");
    }
    // A file of keys may have any tier.
    limits(
        "[identity]\napi_keys = \"/keys\"\n",
        "rate = \"1/s\"\nkey = \"api_key\"\ntiers = { gold = \"3/s\" }\n",
    );
}

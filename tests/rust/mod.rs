//! What wire scripts cannot say: whom a request is from, behind proxies, the flight table under a model checker, the arrows between rooms, the invariants of the
//! architecture, the admin API and `tidegate ctl`, a browser at the demo site and at what a spike came to, hot pages and compressed ones, origins and clients that speak TLS and HTTP/2,
//! servers that fail, fall ill and get well, those that come and go with DNS, origins that are down as a whole, how requests
//! are spread over servers, who is kept out, who is known and counted for himself, purges and levers of a fleet, browsers that have to solve a puzzle first, purges, more requests than an origin can bear, routes that may have some of its places only, what
//! `tidegate health` makes of odd answers, clocks that jump, configs that change, pages that outlive their process, processes that are killed, what happens when files, memory or disk run out, that the
//! container's files say what is true, what visitors get while an app is gone, mutated requests at a strict origin, the corpora of what is fuzzed,
//! and that what measures crowds measures what is.

mod addresses;
mod admin;
mod arrows;
mod blocks;
mod breaker;
mod browser;
mod bulkheads;
mod challenge;
mod clocks;
mod compression;
mod consistency;
mod container;
mod corpus;
mod differential;
mod everywhere;
mod fallback;
mod farm;
mod fleet;
mod flight_table;
mod floods;
mod frames;
mod guests;
mod health;
mod hot;
mod http2;
mod identities;
mod invariants;
mod kills;
mod levers;
mod lifecycle;
mod limits;
mod manners;
mod names;
mod origins;
mod overload;
mod probes;
#[path = "../../fuzz/src/lib.rs"]
mod properties;
mod purging;
mod reloads;
mod scarce;
#[path = "../../src/redis/server.rs"]
#[expect(dead_code, reason = "the crate's own tests use the rest")]
mod server;
mod site;
mod snapshot;
mod spike;
mod spike_report;
mod spread;
mod tls;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    [
        addresses::tests(),
        admin::tests(),
        arrows::tests(),
        blocks::tests(),
        breaker::tests(),
        browser::tests(),
        bulkheads::tests(),
        challenge::tests(),
        clocks::tests(),
        compression::tests(),
        consistency::tests(),
        container::tests(),
        corpus::tests(),
        differential::tests(),
        everywhere::tests(),
        fallback::tests(),
        farm::tests(),
        fleet::tests(),
        flight_table::tests(),
        guests::tests(),
        health::tests(),
        hot::tests(),
        http2::tests(),
        identities::tests(),
        invariants::tests(),
        kills::tests(),
        levers::tests(),
        lifecycle::tests(),
        limits::tests(),
        names::tests(),
        origins::tests(),
        overload::tests(),
        probes::tests(),
        purging::tests(),
        reloads::tests(),
        scarce::tests(),
        snapshot::tests(),
        spike::tests(),
        spike_report::tests(),
        spread::tests(),
        tls::tests(),
    ]
    .concat()
}

type Outcome = Result<(), String>;
pub type Test = (&'static str, fn() -> Outcome);

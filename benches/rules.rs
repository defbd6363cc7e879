//! What the rules on a hit's way cost, each alone: the head, the key, whose request it is, whether it brings a pass, who is kept out, the lookup, whether the page
//! may be reused, and what is told of it.

use std::cell::OnceCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use tidegate::cache::entry::{Body, Entry, EntryParts, Head};
use tidegate::cache::key::{Key, KeyRef};
use tidegate::cache::memory::Memory;
use tidegate::cache::store::Store;
use tidegate::cache::table::Variant;
use tidegate::rules::cache_status::Told;
use tidegate::rules::client::Client;
use tidegate::rules::expression::{Expression, View, Whereabouts};
use tidegate::rules::host::{self, Scheme};
use tidegate::rules::identity::{self, Class, Harmless};
use tidegate::rules::networks::{Action, Networks};
use tidegate::rules::proof::{self, Puzzle, Whose};
use tidegate::rules::pulled::Pulled;
use tidegate::rules::purge::{Purge, What};
use tidegate::rules::request::{self, HeadLimits, Parsed, Target};
use tidegate::rules::reuse::{Demand, reuse};
use tidegate::rules::storing::{Asked, Method, StoreTerms, Terms, Verdict, judge};
use tidegate::rules::target::{QueryRules, write_path, write_query};
use tidegate::rules::time::{Moment, Now};

const CURL: &str =
    "GET /posts/42 HTTP/1.1\r\nHost: blog.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

const BROWSER: &str = "GET /posts/42?page=2&utm_source=feed HTTP/1.1\r\n\
    Host: blog.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://blog.example/posts\r\n\
    Connection: keep-alive\r\n\
    Cookie: _ga=GA1.2.1234567890.1700000000; _gid=GA1.2.987654321.1700000000; _fbp=fb.1.1700000000000.1234567890\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\r\n";

const NOW: Now = Now {
    mono: Moment(100_000),
    wall: 1_700_000_000,
};

fn parse(c: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut group = c.benchmark_group("parse");
    for (name, head) in [("curl", CURL), ("browser", BROWSER)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut lines = request::lines();
                let parsed = request::parse(black_box(head.as_bytes()), &mut lines, &limits);
                matches!(parsed, Ok(Parsed::Complete { .. }))
            });
        });
    }
    group.finish();
}

fn key(c: &mut Criterion) {
    let mut lines = request::lines();
    let parsed = request::parse(BROWSER.as_bytes(), &mut lines, &HeadLimits::default());
    let Ok(Parsed::Complete { request, .. }) = parsed else {
        panic!("the head is whole")
    };
    let Target::Origin { path, query } = request.target else {
        panic!("its target is a path")
    };
    let as_sent = QueryRules::default();
    let mut out = String::with_capacity(256);
    c.bench_function("key", |b| {
        b.iter(|| {
            out.clear();
            host::normalize(black_box(request.host), Scheme::Http, &mut out);
            write_path(black_box(path), &mut out);
            write_query(black_box(query), &as_sent, &mut out);
            KeyRef::new(out.as_bytes()).hash()
        });
    });
}

fn class(c: &mut Criterion) {
    let harmless = Harmless::default();
    let cookies: &[u8] = b"_ga=GA1.2.1234567890.1700000000; _gid=GA1.2.987654321.1700000000; _fbp=fb.1.1700000000000.1";
    c.bench_function("class of three analytics cookies", |b| {
        b.iter(|| identity::class(false, [black_box(cookies)], &harmless));
    });
}

/// One HMAC, and the search for its cookie among a browser's fields.
fn pass(c: &mut Criterion) {
    let key = proof::Key::new(b"0123456789abcdef");
    let whose = Whose {
        client: Client::V4([192, 0, 2, 1]),
        host: "blog.example",
    };
    let terms = proof::Terms {
        bits: 1,
        pass: 3600,
        solve_within: 300,
    };
    let puzzle = Puzzle::make(&key, whose, &terms, 1, NOW.wall);
    let pass = (0..u32::MAX).find_map(|nonce| {
        let solution = [puzzle.text(), format!("{nonce:08x}").as_bytes()].concat();
        match proof::judge(&key, whose, &terms, &solution, NOW.wall) {
            proof::Verdict::Solved(pass) => Some(pass.line(Scheme::Http, NOW.wall)),
            _ => None,
        }
    });
    let pass = pass.expect("a pass");
    let pair = pass.split(';').next().unwrap_or_default();
    let head = BROWSER.replace("Cookie: ", &format!("Cookie: {pair}; "));
    let mut lines = request::lines();
    let parsed = request::parse(head.as_bytes(), &mut lines, &HeadLimits::default());
    let Ok(Parsed::Complete { request, .. }) = parsed else {
        panic!("the head is whole")
    };
    let brings = |request: &request::Request| {
        proof::brings(request, Scheme::Http, &key, whose, &terms, NOW.wall)
    };
    assert!(brings(&request));
    c.bench_function("pass", |b| b.iter(|| brings(black_box(&request))));
    c.bench_function("puzzle", |b| {
        b.iter(|| Puzzle::make(&key, black_box(whose), &terms, 1, NOW.wall))
    });
}

/// Of 10,000 pages: one that every thread keeps at hand, all of them by turns, and one that is not there.
fn lookup(c: &mut Criterion) {
    const PAGES: usize = 10_000;
    let memory = Memory::new(1 << 30);
    let store = Store::new(Arc::clone(&memory), 32);
    let keys: Vec<Key> = (0..PAGES).map(page_key).collect();
    for key in &keys {
        store.put(key, entry(&memory), 0, NOW.mono);
    }
    let absent = page_key(PAGES);
    let mut group = c.benchmark_group("lookup");
    group.bench_function("hot", |b| {
        b.iter(|| store.get(black_box(keys[0].as_ref()), NOW.mono).is_some())
    });
    let mut next = 0;
    group.bench_function("all by turns", |b| {
        b.iter(|| {
            next = (next + 7919) % PAGES;
            store
                .get(black_box(keys[next].as_ref()), NOW.mono)
                .is_some()
        });
    });
    group.bench_function("absent", |b| {
        b.iter(|| store.get(black_box(absent.as_ref()), NOW.mono).is_none())
    });
    group.finish();
}

/// Purges of what 100,000 pages have in common, of what nobody has, and a lookup after each.
fn purge(c: &mut Criterion) {
    const PAGES: usize = 100_000;
    let memory = Memory::new(1 << 30);
    let store = Store::new(Arc::clone(&memory), 32);
    let mut tagged = fields();
    tagged.insert("surrogate-key", HeaderValue::from_static("all page"));
    let keys: Vec<Key> = (0..PAGES).map(page_key).collect();
    for key in &keys {
        let parts = EntryParts {
            tags: store.tags().of(&tagged, None).expect("memory for tags"),
            ..parts(&memory)
        };
        let entry = Entry::new(parts, &memory).expect("memory for its head");
        store.put(key, Arc::new(entry), 0, NOW.mono);
    }
    let soft = |tag: &str| Purge::soft(What::Tag(tag.to_owned()));
    let (all, nobody) = (soft("all"), soft("nobody"));
    let absent = What::below("http://other.example/posts/").expect("a URL");
    let mut group = c.benchmark_group("purge");
    group.bench_function("a tag of 100,000 pages", |b| {
        b.iter(|| store.purge(black_box(&all), NOW.mono).objects)
    });
    group.bench_function("a tag of none", |b| {
        b.iter(|| store.purge(black_box(&nobody), NOW.mono).objects)
    });
    group.bench_function("a tag of none, and a lookup", |b| {
        b.iter(|| {
            store.purge(black_box(&nobody), NOW.mono);
            store.get(black_box(keys[0].as_ref()), NOW.mono).is_some()
        })
    });
    store.purge(&Purge::hard(absent), NOW.mono);
    group.bench_function("a tag of none, and a lookup beside a purged prefix", |b| {
        b.iter(|| {
            store.purge(black_box(&nobody), NOW.mono);
            store.get(black_box(keys[0].as_ref()), NOW.mono).is_some()
        })
    });
    group.sample_size(10);
    group.bench_function("a pass over 100,000 pages", |b| {
        b.iter(|| {
            store.purge(black_box(&nobody), NOW.mono);
            store.sweep(NOW.mono);
        })
    });
    group.finish();
}

fn reuse_and_tell(c: &mut Criterion) {
    let terms = terms();
    let demand = Demand {
        class: Class::Anonymous,
        directives: None,
        only_if_cached: false,
        pulled: Pulled::default(),
    };
    let later = NOW.mono.after(Duration::from_secs(10));
    c.bench_function("reuse", |b| {
        b.iter(|| reuse(black_box(&terms), NOW.mono, None, later, &demand))
    });
    let mut out = Vec::with_capacity(64);
    c.bench_function("cache-status of a hit", |b| {
        b.iter(|| {
            out.clear();
            Told::hit(black_box(42)).write(&mut out);
        });
    });
}

fn storing(c: &mut Criterion) {
    let (asked, fields, route) = (asked(), fields(), StoreTerms::default());
    c.bench_function("judge", |b| {
        b.iter(|| {
            judge(
                &asked,
                200,
                black_box(&fields),
                &route,
                NOW,
                Duration::from_millis(50),
            )
        });
    });
}

/// Who is in a list of so many networks: addresses by turns, half of them in it.
fn networks(c: &mut Criterion) {
    // Spread over all that there is, and always the same.
    let spread = |n: u32| n.wrapping_mul(2_654_435_761);
    let v4 = |n: u32| IpAddr::V4(Ipv4Addr::from(spread(n)));
    let v6 = |n: u32| {
        let high = u128::from(spread(n)) << 64 | 0x2001_0db8 << 96;
        IpAddr::V6(Ipv6Addr::from(high | 1))
    };
    let mut group = c.benchmark_group("networks");
    for many in [10, 1_000, 100_000] {
        for (kind, address, prefix) in [("v4", &v4 as &dyn Fn(u32) -> IpAddr, 24), ("v6", &v6, 64)]
        {
            let network = |n| {
                IpNet::new(address(2 * n), prefix)
                    .expect("a network")
                    .trunc()
            };
            let listed: Vec<IpNet> = (0..many).map(network).collect();
            let table = Networks::new([(&listed, Some(Action::Deny))]);
            let mut next = 0;
            group.bench_function(format!("{kind} of {many}"), |b| {
                b.iter(|| {
                    next = (next + 7919) % (2 * many);
                    table.find(black_box(address(next)))
                });
            });
        }
    }
    group.finish();
}

/// A rule each, of a browser's request.
fn expressions(c: &mut Criterion) {
    let mut lines = request::lines();
    let parsed = request::parse(BROWSER.as_bytes(), &mut lines, &HeadLimits::default());
    let Ok(Parsed::Complete { request, .. }) = parsed else {
        panic!("the head is whole")
    };
    let mut group = c.benchmark_group("rule");
    for (name, text) in [
        ("method", "method in ['POST', 'PUT', 'DELETE']"),
        (
            "path",
            "path.startsWith('/wp-admin') || path.endsWith('.php')",
        ),
        ("listed", "listed('google') && !listed('office')"),
        (
            "client",
            "client in ['10.0.0.0/8', '192.168.0.0/16', '2001:db8::/32']",
        ),
        ("header", "headers['user-agent'].contains('BadBot')"),
        (
            "absent header",
            "!('accept-language' in headers) || headers['x-api-key'] != ''",
        ),
        ("country", "country in ['AT', 'CH'] && asn != 64500"),
        (
            "all of them",
            "method == 'GET' && host == 'blog.example' && path.contains('post') && size(query) < 100 \
             && headers['user-agent'].startsWith('Mozilla/') && !listed('google') && country == 'DE'",
        ),
        (
            "pattern",
            "headers['user-agent'].matches('(?i)bot|crawl|spider')",
        ),
    ] {
        let expression = Expression::read(text, &["office", "google"]).expect("an expression");
        group.bench_function(name, |b| {
            b.iter(|| {
                let view = View {
                    method: "GET",
                    scheme: "https",
                    host: "blog.example",
                    path: "/posts/42",
                    query: "page=2&utm_source=feed",
                    lines: request.lines,
                    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
                    lists: 0,
                    locate: &|| Whereabouts {
                        country: Some(*b"DE"),
                        asn: 64_500,
                    },
                    located: OnceCell::new(),
                };
                black_box(&expression).holds(black_box(&view))
            });
        });
    }
    group.finish();
}

fn page_key(number: usize) -> Key {
    KeyRef::new(format!("http://blog.example/posts/{number}").as_bytes()).to_key()
}

fn asked() -> Asked {
    Asked {
        method: Method::Get,
        body: false,
        class: Class::Anonymous,
        authorization: false,
        head_bytes: BROWSER.len(),
        method_override: false,
        no_store: false,
    }
}

fn fields() -> HeaderMap {
    let lines = [
        (header::DATE, "Tue, 14 Nov 2023 22:13:20 GMT"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CACHE_CONTROL,
            "public, max-age=60, stale-while-revalidate=30",
        ),
        (header::ETAG, "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
        (header::VARY, "Accept-Encoding"),
    ];
    lines
        .into_iter()
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

fn terms() -> Terms {
    match judge(
        &asked(),
        200,
        &fields(),
        &StoreTerms::default(),
        NOW,
        Duration::ZERO,
    ) {
        Verdict::Store(terms) => terms,
        Verdict::Refuse(why) => panic!("the page is storable: {why:?}"),
    }
}

fn entry(memory: &Arc<Memory>) -> Arc<Entry> {
    Arc::new(Entry::new(parts(memory), memory).expect("memory for its head"))
}

fn parts(memory: &Arc<Memory>) -> EntryParts {
    let piece = memory
        .hold(Bytes::from_static(&[b'x'; 1024]))
        .expect("memory for the page");
    EntryParts {
        head: Head::render(200, &fields(), &[], &[]),
        body: Body::gather(&[piece], memory),
        terms: terms(),
        stored: NOW.mono,
        variant: Variant::default(),
        cost: Duration::from_millis(50),
        generation: 0,
        tags: Default::default(),
    }
}

criterion_group!(
    benches,
    parse,
    key,
    class,
    pass,
    networks,
    expressions,
    lookup,
    purge,
    reuse_and_tell,
    storing
);
criterion_main!(benches);

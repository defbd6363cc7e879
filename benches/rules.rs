//! What the rules on a hit's way cost, each alone: the head, the key, whose request it is, whether it brings a pass, the lookup, whether the page
//! may be reused, and what is told of it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, header};
use tidegate::cache::entry::{Body, Entry, EntryParts, Head};
use tidegate::cache::key::{Key, KeyRef};
use tidegate::cache::memory::Memory;
use tidegate::cache::store::Store;
use tidegate::cache::table::Variant;
use tidegate::rules::cache_status::Told;
use tidegate::rules::client::Client;
use tidegate::rules::host::{self, Scheme};
use tidegate::rules::identity::{self, Class, Harmless};
use tidegate::rules::proof::{self, Puzzle, Whose};
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
        let entry = entry(&memory);
        store.put(key, entry, store.generation(key.hash()), NOW.mono);
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

fn reuse_and_tell(c: &mut Criterion) {
    let terms = terms();
    let demand = Demand {
        class: Class::Anonymous,
        directives: None,
        only_if_cached: false,
    };
    let later = NOW.mono.after(Duration::from_secs(10));
    c.bench_function("reuse", |b| {
        b.iter(|| reuse(black_box(&terms), NOW.mono, later, &demand))
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
    let piece = memory
        .hold(Bytes::from_static(&[b'x'; 1024]))
        .expect("memory for the page");
    let parts = EntryParts {
        head: Head::render(200, &fields(), &[], &[]),
        body: Body::gather(&[piece], memory),
        terms: terms(),
        stored: NOW.mono,
        variant: Variant::default(),
        cost: Duration::from_millis(50),
    };
    Arc::new(Entry::new(parts, memory).expect("memory for its head"))
}

criterion_group!(
    benches,
    parse,
    key,
    class,
    pass,
    lookup,
    reuse_and_tell,
    storing
);
criterion_main!(benches);

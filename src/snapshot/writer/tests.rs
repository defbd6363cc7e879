//! Pages that outlive their process, purges that do, and what is torn.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG};
use http::{HeaderMap, HeaderValue};
use tempfile::TempDir;

use super::super::*;
use super::Writer;
use crate::cache::entry::{Body, EntryParts, Head};
use crate::cache::store::Kept;
use crate::rules::purge::What;
use crate::rules::storing::Terms;
use crate::rules::storing::tests::terms;
use crate::rules::time::Moment;

const ORIGIN: u64 = 7;
const BOUNDS: Bounds = Bounds {
    size: 64 << 20,
    rate: 1 << 40,
};

/// A process, as far as pages are concerned. It ends as by a kill.
struct Process {
    snapshot: Arc<Snapshot>,
    store: Arc<Store>,
    memory: Arc<Memory>,
    writer: Writer,
}

impl Process {
    fn start(dir: &Path) -> Process {
        Process::with(dir, BOUNDS)
    }

    fn with(dir: &Path, bounds: Bounds) -> Process {
        let memory = Memory::new(256 << 20);
        let tags = tags_key(Some(dir)).unwrap();
        let store = Arc::new(Store::keyed(Arc::clone(&memory), 32, Some(tags)));
        let snapshot = Snapshot::new(Some(dir), tags, bounds, &store, &memory);
        let writer = Writer::open(&snapshot).expect("a directory that can be had");
        Process {
            snapshot,
            store,
            memory,
            writer,
        }
    }

    fn entry(&self, body: &[u8], tags: &str, accept: &str) -> Arc<Entry> {
        let mut fields = HeaderMap::new();
        fields.insert(ETAG, HeaderValue::from_static("\"1\""));
        let mut named = HeaderMap::new();
        if !tags.is_empty() {
            named.insert("surrogate-key", HeaderValue::from_str(tags).unwrap());
        }
        let now = clock::moment();
        let parts = EntryParts {
            head: Head::render(
                200,
                &fields,
                &[],
                &[(ACCEPT, HeaderValue::from_static("x"))],
            ),
            body: Body::of(Bytes::copy_from_slice(body), &self.memory).unwrap(),
            terms: Terms {
                immutable: true,
                ..terms(600)
            },
            stored: now,
            variant: Variant {
                names: if accept.is_empty() {
                    [].into()
                } else {
                    [ACCEPT].into()
                },
                values: accept.as_bytes().into(),
            },
            cost: Duration::from_millis(30),
            generation: self.store.current(),
            tags: self.store.tags().of(&named, None).unwrap(),
        };
        let entry = Arc::new(Entry::new(parts, &self.memory).unwrap());
        entry.make_public();
        entry
    }

    /// Stores a page, and has it noted.
    fn put(&self, path: &str, body: &str, tags: &str) {
        self.put_variant(path, body, tags, "");
    }

    fn put_variant(&self, path: &str, body: &str, tags: &str, accept: &str) {
        let entry = self.entry(body.as_bytes(), tags, accept);
        let kept = self.store.put(&key(path), entry, 0, clock::moment());
        assert_eq!(kept, Kept::Yes);
        self.snapshot.note(&key(path), ORIGIN);
    }

    fn purge(&self, what: What, soft: bool) {
        let purge = Purge {
            what,
            soft,
            dry_run: false,
        };
        let store = || self.store.purge(&purge, clock::moment());
        self.snapshot.purge(&purge, store);
    }

    fn found(&self, path: &str, accept: &str) -> Option<Arc<Entry>> {
        let select = |_: &[HeaderName]| accept.as_bytes().into();
        self.snapshot.find(key(path).as_ref(), select)
    }

    fn is_cold(&self, path: &str, origin: u64, accept: &str) -> bool {
        let select = |_: &[HeaderName]| accept.as_bytes().into();
        let key = key(path);
        self.snapshot.is_cold(key.as_ref(), || origin, select)
    }

    fn text(&self, path: &str) -> Option<String> {
        self.found(path, "").map(|entry| text(&entry))
    }

    /// All of these are there, and no others.
    fn has(&self, paths: &[&str]) {
        let mut there: Vec<_> = self
            .snapshot
            .pages()
            .iter()
            .map(|page| path_of(&page.key))
            .collect();
        there.sort();
        assert_eq!(there, paths);
    }
}

fn key(path: &str) -> Key {
    KeyRef::new(format!("http\0a\0{path}").as_bytes()).to_key()
}

fn path_of(key: &Key) -> String {
    let key = String::from_utf8_lossy(key.as_ref().bytes()).into_owned();
    key.rsplit('\0').next().unwrap().to_owned()
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.body.pieces().concat()).unwrap()
}

fn page(path: &str) -> What {
    What::Page {
        host: "a".into(),
        target: path.into(),
    }
}

fn below(path: &str) -> What {
    What::below(&format!("http://a{path}")).unwrap()
}

fn tag(tag: &str) -> What {
    What::Tag(tag.into())
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_next_process_has_what_was_stored() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    first.put("/a", "one", "t u");
    first.put_variant("/v", "json", "", "json");
    first.put_variant("/v", "html", "", "html");
    let before = first.entry(b"one", "t u", "");
    first.writer.turn();
    assert!(first.snapshot.covered(key("/a").as_ref()));
    assert!(!first.is_cold("/a", ORIGIN, ""), "it is in memory");
    drop(first);
    let next = Process::start(dir.path());
    next.has(&["/a", "/v", "/v"]);
    let found = next.found("/a", "").unwrap();
    assert_eq!(
        (text(&found), found.head.bytes()),
        ("one".into(), before.head.bytes())
    );
    assert_eq!(found.head.own_at(), before.head.own_at());
    assert_eq!(
        (found.cost, found.tags.said()),
        (before.cost, before.tags.said())
    );
    let bare = |terms: &Terms| Terms {
        initial_age: Duration::ZERO,
        ..terms.clone()
    };
    assert_eq!(bare(&found.terms), bare(&before.terms));
    assert_eq!(
        next.found("/v", "html").map(|entry| text(&entry)),
        Some("html".into())
    );
    assert_eq!(
        next.found("/v", "json").map(|entry| text(&entry)),
        Some("json".into())
    );
    assert!(next.found("/v", "xml").is_none() && next.found("/b", "").is_none());
    // Back in memory, as any other.
    let now = clock::moment();
    assert!(next.is_cold("/v", ORIGIN, "html") && !next.is_cold("/v", ORIGIN, "xml"));
    assert!(!next.is_cold("/v", ORIGIN + 1, "html"));
    let thawed = next.snapshot.thaw(&key("/v"), ORIGIN, 0);
    assert!(matches!(thawed, Thawed::Done(Some(_))));
    assert_eq!(
        next.store
            .get(key("/v").as_ref(), now)
            .unwrap()
            .variants()
            .len(),
        2
    );
    assert!(next.store.get(key("/a").as_ref(), now).is_none());
    assert_eq!(next.snapshot.candidates().len(), 2);
    // Until it is fetched anew the disk has it for those whom memory fails.
    let mut next = next;
    next.put("/a", "one", "t u");
    next.writer.turn();
    assert!(!next.is_cold("/a", ORIGIN, "") && next.is_cold("/v", ORIGIN, "html"));
}

#[test]
fn what_is_stored_already_is_newer() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    first.put("/a", "old", "");
    first.writer.turn();
    drop(first);
    let next = Process::start(dir.path());
    next.put("/a", "new", "");
    next.snapshot.thaw(&key("/a"), ORIGIN, 0);
    let slot = next.store.get(key("/a").as_ref(), clock::moment()).unwrap();
    assert_eq!(text(&slot.variants()[0]), "new");
}

#[test]
fn only_public_pages_are_written() {
    let dir = folder();
    let mut process = Process::start(dir.path());
    process.put("/a", "public", "");
    let parts = process.entry(b"x", "", "");
    let private = Entry::new(
        EntryParts {
            head: parts.head.clone(),
            body: parts.body.clone(),
            terms: parts.terms.clone(),
            stored: parts.stored,
            variant: parts.variant.clone(),
            cost: parts.cost,
            generation: parts.generation,
            tags: parts.tags.clone(),
        },
        &process.memory,
    );
    let private = Arc::new(private.unwrap());
    process.store.put(&key("/b"), private, 0, clock::moment());
    process.snapshot.note(&key("/b"), ORIGIN);
    process.writer.turn();
    process.has(&["/a"]);
}

#[test]
fn a_purge_means_the_disk_whatever_follows() {
    for (what, left) in [
        (page("/b/1"), &["/b/2", "/c"][..]),
        (tag("t"), &["/b/2", "/c"]),
        (below("/b/"), &["/c"]),
        (What::host("a").unwrap(), &[]),
        (What::host("b").unwrap(), &["/b/1", "/b/2", "/c"]),
        (What::All, &[]),
    ] {
        for sweeps in [false, true] {
            let dir = folder();
            let mut first = Process::start(dir.path());
            for (path, tags) in [("/b/1", "t u"), ("/b/2", "u"), ("/c", "")] {
                first.put(path, path, tags);
            }
            first.writer.turn();
            first.purge(what.clone(), false);
            first.has(left);
            let all = ["/b/1", "/b/2", "/c"];
            let of = |process: &Process| -> Vec<_> {
                let there = |path: &&str| process.found(path, "").is_some();
                all.into_iter().filter(there).collect()
            };
            assert_eq!(of(&first), left, "{what:?}");
            if sweeps {
                first.writer.sweep();
            }
            // Killed at once.
            drop(first);
            let next = Process::start(dir.path());
            next.has(left);
            assert_eq!(of(&next), left, "{what:?}");
            drop(next);
            Process::start(dir.path()).has(left);
        }
    }
}

#[test]
fn a_page_that_is_fetched_after_the_purge_is_another() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    for round in 0..3 {
        first.put("/a", "same", "t");
        first.writer.turn();
        first.has(&["/a"]);
        first.purge(tag("t"), false);
        first.has(&[]);
        if round == 1 {
            first.writer.sweep();
        }
    }
    first.put("/a", "same", "t");
    first.writer.turn();
    drop(first);
    Process::start(dir.path()).has(&["/a"]);
}

#[test]
fn a_soft_purge_leaves_the_copy_and_makes_it_stale() {
    for what in [page("/a"), tag("t"), below("/")] {
        let dir = folder();
        let mut first = Process::start(dir.path());
        first.put("/a", "one", "t");
        first.writer.turn();
        first.purge(what.clone(), true);
        assert!(first.found("/a", "").unwrap().is_marked(), "{what:?}");
        drop(first);
        let next = Process::start(dir.path());
        assert!(next.found("/a", "").unwrap().is_marked(), "{what:?}");
        next.snapshot.thaw(&key("/a"), ORIGIN, 0);
        let now = clock::moment();
        let slot = next.store.get(key("/a").as_ref(), now).unwrap();
        assert!(slot.variants()[0].ttl(now) <= 0);
    }
}

#[test]
fn what_is_purged_while_it_waits_or_is_read_is_neither_written_nor_kept() {
    let dir = folder();
    let mut process = Process::start(dir.path());
    process.put("/a", "one", "");
    process.purge(page("/a"), false);
    process.writer.turn();
    process.has(&[]);
    process.put("/b", "two", "t");
    process.writer.turn();
    drop(process);
    let next = Process::start(dir.path());
    let now = clock::moment();
    // Read before a purge, stored after it.
    let (read, _begun) = next.snapshot.to_read(&key("/b"), |_| true).unwrap();
    let entry = Arc::new(next.snapshot.read(&key("/b"), read).unwrap());
    next.purge(tag("t"), false);
    assert!(next.store.restore(&key("/b"), &entry, 0, now).is_none());
    next.snapshot.thaw(&key("/b"), ORIGIN, 0);
    assert!(next.store.get(key("/b").as_ref(), now).is_none());
}

/// The page is found in the store and being written while it is purged there and noted here.
#[test]
fn what_is_purged_while_it_is_written_does_not_come_to_life() {
    for what in [page("/a"), tag("t"), below("/a")] {
        let dir = folder();
        let mut process = Process::start(dir.path());
        process.put("/a", "one", "t");
        let snapshot = Arc::clone(&process.snapshot);
        let (store, writer) = (Arc::clone(&process.store), &mut process.writer);
        let purge = Purge::hard(what.clone());
        // Between what is noted and what the store does, the writer has its turn.
        snapshot.purge(&purge, || {
            writer.turn();
            writer.sweep();
            store.purge(&purge, clock::moment())
        });
        process.has(&[]);
        drop(process);
        Process::start(dir.path()).has(&[]);
    }
}

#[test]
fn what_is_the_same_is_not_written_again_but_is_young() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    let body = "x".repeat(100_000);
    first.put("/a", &body, "t");
    first.writer.turn();
    let written = first.snapshot.written();
    assert!(written > 100_000);
    let stored = |process: &Process| process.snapshot.log.lock().of(&key("/a"))[0].stamp.stored;
    let before = stored(&first);
    std::thread::sleep(Duration::from_millis(5));
    for _ in 0..10 {
        first.put("/a", &body, "t");
    }
    first.writer.turn();
    assert!(first.snapshot.written() < written + 1_000);
    let after = stored(&first);
    assert!(after > before, "{after} {before}");
    first.put("/a", &body, "u");
    first.writer.turn();
    assert!(first.snapshot.written() > written + 100_000, "other tags");
    first.put("/a", "y", "u");
    first.writer.turn();
    assert_eq!(first.text("/a").unwrap(), "y");
    drop(first);
    let next = Process::start(dir.path());
    assert_eq!(next.text("/a").unwrap(), "y");
    assert!(stored(&next) >= after);
}

#[test]
fn what_is_not_for_others_any_more_goes() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    first.put_variant("/a", "1", "", "1");
    first.put_variant("/a", "2", "", "2");
    first.writer.turn();
    let variant = Variant {
        names: [ACCEPT].into(),
        values: (*b"1").into(),
    };
    first.snapshot.forget(&key("/a"), &variant);
    drop(first);
    let next = Process::start(dir.path());
    assert!(next.found("/a", "1").is_none() && next.found("/a", "2").is_some());
    // One that varies no more stands for all variants.
    let mut next = next;
    next.put("/a", "3", "");
    next.writer.turn();
    next.has(&["/a"]);
    assert_eq!(
        next.found("/a", "2").map(|entry| text(&entry)),
        Some("3".into())
    );
}

/// A few pages that replaced each other, and what the file looked like.
fn written(dir: &Path) -> (Vec<u8>, String) {
    let mut process = Process::start(dir);
    for (path, body) in [("/a", "a1"), ("/b", "b1"), ("/a", "a2"), ("/c", "c1")] {
        process.put(path, body, "t");
        process.writer.turn();
    }
    drop(process);
    let place = Place::look(&dir.join(DIR)).unwrap();
    let names = place.names().unwrap();
    let name = names
        .into_iter()
        .find(|name| name.ends_with(".pages"))
        .unwrap();
    (place.read(&name, 1 << 20).unwrap(), name)
}

/// What the next process has where the file is `bytes`.
fn after(dir: &Path, name: &str, bytes: &[u8]) -> (Vec<(String, String)>, u64) {
    fs::write(dir.join(DIR).join(name), bytes).unwrap();
    let process = Process::start(dir);
    let pages = process.snapshot.pages();
    let mut there: Vec<_> = pages
        .iter()
        .filter_map(|page| {
            let path = path_of(&page.key);
            Some((path.clone(), process.text(&path)?))
        })
        .collect();
    there.sort();
    (there, process.snapshot.skips(Skipped::Torn))
}

#[test]
fn killed_at_any_byte_the_next_has_whole_pages() {
    let dir = folder();
    let (bytes, name) = written(dir.path());
    let possible = [("/a", "a2"), ("/b", "b1"), ("/c", "c1")];
    let possible = possible.map(|(path, body)| (path.to_owned(), body.to_owned()));
    let mut counts = Vec::new();
    for len in 0..=bytes.len() {
        let (there, torn) = after(dir.path(), &name, &bytes[..len]);
        assert!(
            there.iter().all(|page| possible.contains(page)),
            "{len}: {there:?}"
        );
        assert!(torn <= 1, "{len}: {torn}");
        counts.push(there.len());
    }
    assert!(counts.is_sorted(), "more bytes are more pages: {counts:?}");
    assert_eq!(counts.last(), Some(&3));
    assert!([0, 1, 2].iter().all(|count| counts.contains(count)));
}

#[test]
fn a_byte_that_is_another_loses_its_page_and_no_other() {
    let dir = folder();
    let (bytes, name) = written(dir.path());
    let possible = [("/a", "a2"), ("/b", "b1"), ("/c", "c1")];
    let possible = possible.map(|(path, body)| (path.to_owned(), body.to_owned()));
    let mut lost = 0;
    for at in 64..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let (there, torn) = after(dir.path(), &name, &flipped);
        // What was replaced may come to life, if the byte says so, but stays replaced.
        assert!(
            there.iter().all(|page| possible.contains(page)),
            "{at}: {there:?}"
        );
        assert!(there.len() >= 2, "{at}: {there:?}");
        assert!(
            there.len() == 3 || torn >= 1 || bytes[at] <= 3,
            "{at}: {torn}"
        );
        lost += usize::from(there.len() == 2);
    }
    assert!(lost > 500, "{lost}");
}

#[test]
fn no_page_can_pass_for_another() {
    // A body that holds the whole file of another process.
    let dir = folder();
    let (bytes, name) = written(dir.path());
    let other = folder();
    let mut process = Process::start(other.path());
    let entry = process.entry(&bytes[64..], "", "");
    process.store.put(&key("/x"), entry, 0, clock::moment());
    process.snapshot.note(&key("/x"), ORIGIN);
    process.writer.turn();
    drop(process);
    let path = other.path().join(DIR).join(&name);
    let mut torn = fs::read(&path).unwrap();
    torn[64] ^= 1;
    let (there, lost) = after(other.path(), &name, &torn);
    assert_eq!((there, lost), (Vec::new(), 1));
}

#[test]
fn it_keeps_to_its_size_and_to_those_that_are_asked_for() {
    let dir = folder();
    let size = 1 << 20;
    let mut process = Process::with(dir.path(), Bounds { size, ..BOUNDS });
    let on_disk = || -> u64 {
        let files = fs::read_dir(dir.path().join(DIR)).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    };
    let body = "x".repeat(10_000);
    let hot: Vec<_> = (0..20).map(|n| format!("/hot/{n}")).collect();
    for path in &hot {
        process.put(path, &format!("{path}{body}"), "");
    }
    process.writer.turn();
    for n in 0..400 {
        clock::advance(Duration::from_secs(1));
        for path in &hot {
            process
                .store
                .get(key(path).as_ref(), clock::moment())
                .unwrap();
        }
        process.put(&format!("/{n}"), &format!("{n}{body}"), "");
        process.writer.turn();
        assert!(on_disk() <= size, "{n}: {}", on_disk());
    }
    let (pages, live) = process.snapshot.log.lock().size();
    assert!(live > size / 2 && pages > 50, "{pages} pages, {live} bytes");
    drop(process);
    let next = Process::with(dir.path(), Bounds { size, ..BOUNDS });
    for path in &hot {
        assert!(next.text(path).unwrap().starts_with(path), "{path}");
    }
    assert!(next.text("/399").is_some());
    assert!(next.text("/0").is_none());
    assert_eq!(next.snapshot.skips(Skipped::Torn), 0);
}

#[test]
fn what_was_carried_on_can_be_purged() {
    let dir = folder();
    let bounds = Bounds {
        size: 1 << 20,
        ..BOUNDS
    };
    let mut process = Process::with(dir.path(), bounds);
    let body = "x".repeat(10_000);
    process.put("/a", "kept", "t");
    process.put("/b", "kept", "");
    process.writer.turn();
    let place = |process: &Process| process.snapshot.log.lock().of(&key("/a"))[0].place();
    let before = place(&process);
    for n in 0..300 {
        process.put("/churn", &format!("{n}{body}"), "");
        process.writer.turn();
    }
    assert_ne!(place(&process), before);
    process.purge(tag("t"), false);
    drop(process);
    Process::with(dir.path(), bounds).has(&["/b", "/churn"]);
}

#[test]
fn other_bounds_are_kept_to_and_off_leaves_nothing() {
    let dir = folder();
    let mut process = Process::start(dir.path());
    let body = "x".repeat(10_000);
    for n in 0..100 {
        process.put(&format!("/{n}"), &body, "");
    }
    process.writer.turn();
    assert!(process.snapshot.told().bytes > 1_000_000);
    process.snapshot.obey(Bounds {
        size: 500_000,
        ..BOUNDS
    });
    process.writer.turn();
    let told = process.snapshot.told();
    assert!((100_000..=500_000).contains(&told.bytes), "{told:?}");
    process.snapshot.obey(Bounds { size: 0, ..BOUNDS });
    process.put("/x", "x", "");
    process.writer.turn();
    let told = process.snapshot.told();
    assert_eq!(
        (told.pages, told.bytes, told.queued, told.is_on),
        (0, 0, 0, false)
    );
    let files = fs::read_dir(dir.path().join(DIR)).unwrap();
    let pages = files.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_str().unwrap().ends_with(".pages")
    });
    assert_eq!(pages.count(), 0);
    process.snapshot.obey(BOUNDS);
    process.put("/y", "y", "");
    process.writer.turn();
    process.has(&["/y"]);
}

#[test]
fn it_keeps_to_its_rate() {
    let dir = folder();
    let rate = 100_000;
    let process = Process::with(dir.path(), Bounds { rate, ..BOUNDS });
    let body = "x".repeat(20_000);
    for n in 0..200 {
        process.put(&format!("/{n}"), &body, "");
    }
    let (snapshot, writer) = (process.snapshot, process.writer);
    let began = clock::instant();
    let works = std::thread::spawn(move || writer.work());
    let mut last = 0;
    while snapshot.written() < 60_000 {
        // Read first: who is late has had more time.
        let written = snapshot.written();
        let most = rate as u128 * (began.elapsed().as_millis() + 1_000) / 1_000;
        assert!(u128::from(written) <= most, "{written} of {most}");
        last = last.max(written);
        std::thread::yield_now();
    }
    assert!(last > 0);
    // What is left goes as fast as it can when it ends.
    snapshot.leave();
    works.join().unwrap();
    assert_eq!(snapshot.told().pages, 200);
}

#[test]
fn what_is_too_large_is_skipped_and_told() {
    let dir = folder();
    let mut process = Process::with(
        dir.path(),
        Bounds {
            size: 100_000,
            ..BOUNDS
        },
    );
    process.put("/a", &"x".repeat(90_000), "");
    process.put("/b", "x", "");
    process.writer.turn();
    process.has(&["/b"]);
    assert_eq!(process.snapshot.skips(Skipped::Large), 1);
}

#[test]
fn another_process_reads_and_takes_over() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    first.put("/a", "one", "t");
    first.put("/b", "two", "");
    first.writer.turn();
    let mut next = Process::start(dir.path());
    next.has(&["/a", "/b"]);
    next.put("/c", "three", "");
    next.writer.turn();
    assert!(
        !next.snapshot.covered(key("/c").as_ref()),
        "it may not write yet"
    );
    // What it purges stays purged, what the other writes meanwhile is there.
    next.purge(tag("t"), false);
    next.purge(page("/b"), false);
    first.put("/d", "four", "");
    first.writer.turn();
    drop(first);
    next.writer.turn();
    next.has(&["/c", "/d"]);
    drop(next);
    Process::start(dir.path()).has(&["/c", "/d"]);
}

#[test]
fn it_leaves_with_all_that_was_stored() {
    let dir = folder();
    let process = Process::start(dir.path());
    process.put("/a", "one", "");
    let (snapshot, writer) = (process.snapshot, process.writer);
    let works = std::thread::spawn(move || writer.work());
    snapshot.leave();
    works.join().unwrap();
    Process::start(dir.path()).has(&["/a"]);
}

#[test]
fn pages_come_back_in_the_order_in_which_they_were_asked_for() {
    let dir = folder();
    let mut first = Process::start(dir.path());
    for path in ["/a", "/b", "/c"] {
        first.put(path, path, "");
    }
    first.writer.turn();
    for path in ["/b", "/c", "/a"] {
        clock::advance(Duration::from_secs(2));
        first
            .store
            .get(key(path).as_ref(), clock::moment())
            .unwrap();
    }
    first.writer.harvest();
    drop(first);
    let next = Process::start(dir.path());
    let order: Vec<_> = next
        .snapshot
        .candidates()
        .iter()
        .map(|one| path_of(&one.key))
        .collect();
    assert_eq!(order, ["/a", "/c", "/b"]);
}

/// Whatever is stored, purged, written, gone through and killed in whatever order: what was purged stays so, and nobody has
/// another page's body.
#[test]
fn random_lives_never_show_what_was_purged() {
    let seed = crate::telemetry::ids::random();
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |most: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % most
    };
    let dir = folder();
    let size = 300_000;
    let bounds = Bounds { size, ..BOUNDS };
    // What a page may be, by its path: what it was when it was stored last and not purged since.
    let mut truth: HashMap<String, String> = HashMap::new();
    let mut process = Process::with(dir.path(), bounds);
    let check = |process: &Process, truth: &HashMap<String, String>| {
        for page in process.snapshot.pages() {
            let path = path_of(&page.key);
            let text = process.text(&path).unwrap();
            assert!(text.starts_with(&format!("{path} ")), "{path} is {text}");
            assert!(truth.contains_key(&path), "{path} was purged");
        }
    };
    for n in 0..3_000 {
        let path = format!("/{}/{}", random(3), random(8));
        match random(20) {
            0..10 => {
                let body = format!("{path} {n} {}", "x".repeat(random(4_000) as usize));
                process.put(&path, &body, &format!("t{} t{}", random(4), path.len()));
                truth.insert(path, body);
            }
            10..14 => process.writer.turn(),
            14 => process.writer.sweep(),
            15 | 16 => {
                process.purge(page(&path), false);
                truth.remove(&path);
            }
            17 => {
                let start = format!("/{}/", random(3));
                process.purge(below(&start), false);
                truth.retain(|path, _| !path.starts_with(&start));
            }
            18 if random(8) == 0 => {
                process.purge(What::All, false);
                truth.clear();
            }
            19 if random(4) == 0 => {
                drop(process);
                process = Process::with(dir.path(), bounds);
                let candidates = process.snapshot.candidates();
                for one in candidates.iter().filter(|_| random(2) == 0) {
                    process.snapshot.thaw(&one.key, ORIGIN, 0);
                }
            }
            _ => {}
        }
        check(&process, &truth);
        let now: Moment = clock::moment();
        for path in truth.keys() {
            // In memory, too, a page is its own.
            if let Some(slot) = process.store.get(key(path).as_ref(), now) {
                assert!(text(&slot.variants()[0]).starts_with(&format!("{path} ")));
            }
        }
    }
}

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};

use super::*;
use crate::cache::entry::{Body, EntryParts, Head};
use crate::cache::table::Variant;
use crate::rules::identity::Class;
use crate::rules::purge::{Kind, Purge, What};
use crate::rules::reuse::{Demand, Reuse};
use crate::rules::storing::tests::terms;

const NOW: Moment = Moment(1_000);

struct Shop {
    store: Store,
    memory: Arc<Memory>,
}

impl Shop {
    fn new() -> Shop {
        let memory = Memory::new(64 << 20);
        let store = Store::new(Arc::clone(&memory), 32);
        Shop { store, memory }
    }

    /// An answer whose fetch began in `generation`, in one of two variants.
    fn entry(&self, generation: u64, tags: &str, variant: &str) -> Arc<Entry> {
        let mut fields = HeaderMap::new();
        if !tags.is_empty() {
            fields.insert("surrogate-key", HeaderValue::from_str(tags).unwrap());
        }
        let names: &[HeaderName] = if variant.is_empty() { &[] } else { &[ACCEPT] };
        let parts = EntryParts {
            head: Head::render(200, &HeaderMap::new(), &[], &[]),
            body: Body::of(Bytes::from_static(b"page"), &self.memory).unwrap(),
            terms: terms(600),
            stored: NOW,
            variant: Variant {
                names: names.into(),
                values: variant.as_bytes().into(),
            },
            cost: Duration::ZERO,
            generation,
            tags: self.store.tags().of(&fields, None).unwrap(),
        };
        Arc::new(Entry::new(parts, &self.memory).unwrap())
    }

    fn put(&self, page: &str, tags: &str) -> Kept {
        self.put_variant(page, tags, "")
    }

    fn put_variant(&self, page: &str, tags: &str, variant: &str) -> Kept {
        let entry = self.entry(self.store.current(), tags, variant);
        self.store.put(&key(page), entry, 0, NOW)
    }

    /// How many variants of a page there are.
    fn count(&self, page: &str) -> usize {
        let slot = self.store.get(key(page).as_ref(), NOW);
        slot.map_or(0, |slot| slot.variants().len())
    }

    fn reuse(&self, page: &str) -> Option<Reuse> {
        let demand = Demand {
            class: Class::Anonymous,
            directives: None,
            only_if_cached: false,
            pulled: Default::default(),
        };
        let slot = self.store.get(key(page).as_ref(), NOW)?;
        Some(slot.variants()[0].reuse(NOW, &demand))
    }

    fn purge(&self, what: What) -> u64 {
        self.store.purge(&Purge::hard(what), NOW).objects
    }
}

fn key(page: &str) -> Key {
    KeyRef::new(format!("http\0a\0{page}").as_bytes()).to_key()
}

fn below(path: &str) -> What {
    What::below(&format!("http://a{path}")).unwrap()
}

fn page(path: &str) -> What {
    What::Page {
        host: "a".into(),
        target: path.into(),
    }
}

fn tag(tag: &str) -> What {
    What::Tag(tag.into())
}

#[test]
fn each_kind_takes_what_it_means_and_counts_it() {
    for (what, objects, left) in [
        (page("/b/1"), 2, [0, 1, 1]),
        (tag("t"), 2, [1, 0, 1]),
        (below("/b/"), 3, [0, 0, 1]),
        (What::host("a").unwrap(), 4, [0, 0, 0]),
        (What::host("b").unwrap(), 0, [2, 1, 1]),
        (What::All, 4, [0, 0, 0]),
    ] {
        let shop = Shop::new();
        assert_eq!(shop.put_variant("/b/1", "t u", "1"), Kept::Yes);
        shop.put_variant("/b/1", "u", "2");
        shop.put("/b/2", "t");
        shop.put("/c", "");
        let told = shop.store.purge(&Purge::hard(what.clone()), NOW);
        assert_eq!((told.objects, told.at_least), (objects, false), "{what:?}");
        let counts = ["/b/1", "/b/2", "/c"].map(|page| shop.count(page));
        assert_eq!(counts, left, "{what:?}");
        assert_eq!(shop.store.purged_entries(), objects, "{what:?}");
        assert_eq!(shop.store.purges_of(what.kind(), false), 1);
        assert_eq!(shop.purge(what), 0, "twice");
        shop.put("/b/2", "t");
        assert_eq!(shop.count("/b/2"), 1, "what comes after is not meant");
    }
}

#[test]
fn what_is_marked_is_stale_and_stays() {
    for what in [page("/p"), tag("t"), below("/"), What::All] {
        let shop = Shop::new();
        shop.put("/p", "t");
        assert_eq!(shop.reuse("/p"), Some(Reuse::Fresh { ttl: 600 }));
        let told = shop.store.purge(&Purge::soft(what.clone()), NOW);
        assert_eq!(told.objects, 1, "{what:?}");
        assert_eq!(
            shop.reuse("/p"),
            Some(Reuse::StaleWhileRevalidate { ttl: 0 })
        );
        assert_eq!(shop.store.purged_entries(), 1);
        shop.put("/p", "t");
        assert_eq!(
            shop.reuse("/p"),
            Some(Reuse::Fresh { ttl: 600 }),
            "{what:?}"
        );
        assert_eq!(shop.purge(what), 1);
        assert_eq!(shop.count("/p"), 0);
    }
}

#[test]
fn what_began_before_is_not_kept() {
    for what in [page("/p"), tag("t"), below("/"), What::All] {
        let shop = Shop::new();
        let begun = shop.store.begin();
        let late = shop.entry(begun.generation(), "t", "");
        shop.purge(what.clone());
        assert_eq!(
            shop.store.put(&key("/p"), late, 0, NOW),
            Kept::Outdated,
            "{what:?}"
        );
        assert_eq!(shop.count("/p"), 0);
        let is_known_beforehand = !matches!(what, What::Tag(_));
        let generation = shop.store.generation(key("/p").as_ref());
        assert_eq!(
            generation > begun.generation(),
            is_known_beforehand,
            "{what:?}"
        );
        assert!(generation <= shop.store.current());
        let other = shop.entry(begun.generation(), "", "");
        let host = KeyRef::new(b"http\0b\0/p").to_key();
        let is_all = what == What::All;
        // Two pages may share a stripe.
        if !matches!(what, What::Page { .. }) {
            let kept = shop.store.put(&host, other, 0, NOW);
            assert_eq!(kept == Kept::Outdated, is_all, "{what:?}");
        }
    }
}

#[test]
fn what_began_before_it_was_marked_is_kept_as_stale() {
    for what in [tag("t"), below("/")] {
        let shop = Shop::new();
        let late = shop.entry(shop.store.begin().generation(), "t", "");
        shop.store.purge(&Purge::soft(what), NOW);
        assert_eq!(shop.store.put(&key("/p"), late, 0, NOW), Kept::Yes);
        assert_eq!(
            shop.reuse("/p"),
            Some(Reuse::StaleWhileRevalidate { ttl: 0 })
        );
    }
}

#[test]
fn what_began_later_is_not_replaced_by_what_began_before() {
    let shop = Shop::new();
    let early = shop.entry(shop.store.current(), "t", "");
    shop.store.purge(&Purge::soft(tag("t")), NOW);
    shop.put("/p", "t");
    assert_eq!(shop.store.put(&key("/p"), early, 0, NOW), Kept::Outdated);
    assert_eq!(shop.reuse("/p"), Some(Reuse::Fresh { ttl: 600 }));
}

#[test]
fn tags_count_what_is_stored() {
    let shop = Shop::new();
    let answers = |tag| shop.store.tags().answers(tag);
    for _ in 0..3 {
        shop.put("/p", "t");
        assert_eq!(answers("t"), 1, "one after the other");
    }
    let reader = shop.store.get(key("/p").as_ref(), NOW);
    shop.put("/p", "u");
    assert_eq!((answers("t"), answers("u")), (0, 1), "whoever reads it");
    drop(reader);
    shop.put_variant("/v", "t", "1");
    shop.put_variant("/v", "t", "2");
    assert_eq!(answers("t"), 2);
    shop.store.invalidate(key("/v").as_ref());
    assert_eq!(answers("t"), 0);
    shop.put("/p", "t");
    let slot = shop.store.get(key("/p").as_ref(), NOW).unwrap();
    shop.store.forget(&key("/p"), &slot.variants()[0], NOW);
    assert_eq!(answers("t"), 0);
}

#[test]
fn a_dry_run_tells_and_purges_nothing() {
    let shop = Shop::new();
    shop.put("/p", "t");
    shop.put("/q", "t");
    let later = NOW.after(Duration::from_secs(61));
    shop.store.get(key("/p").as_ref(), later);
    for (what, objects, hot) in [
        (page("/p"), 1, 1),
        (page("/q"), 1, 0),
        (page("/r"), 0, 0),
        (tag("t"), 2, 1),
        (below("/"), 2, 1),
        (What::All, 2, 1),
    ] {
        let purge = Purge {
            dry_run: true,
            ..Purge::hard(what)
        };
        let told = shop.store.purge(&purge, later);
        let expected = Purged {
            objects,
            hot: Some(hot),
            hits: Some(hot),
            at_least: false,
        };
        assert_eq!(told, expected, "{purge:?}");
    }
    assert_eq!((shop.count("/p"), shop.count("/q")), (1, 1));
    assert_eq!(shop.store.current(), 0);
    assert!(
        Kind::ALL
            .iter()
            .all(|kind| shop.store.purges_of(*kind, false) == 0)
    );
}

#[test]
fn a_pass_frees_what_nobody_asks_for_and_forgets_why() {
    let shop = Shop::new();
    for n in 0..100 {
        shop.put(&format!("/{n}"), if n < 50 { "t" } else { "" });
    }
    shop.purge(tag("t"));
    shop.store.purge(&Purge::soft(below("/9")), NOW);
    assert_eq!((shop.store.size().0, shop.store.purges.notes()), (100, 1));
    shop.store.sweep(NOW);
    shop.store.pages.run_pending_tasks();
    assert_eq!((shop.store.size().0, shop.store.purges.notes()), (50, 0));
    assert_eq!(shop.store.purged_entries(), 50 + 10);
    assert_eq!(
        shop.reuse("/90"),
        Some(Reuse::StaleWhileRevalidate { ttl: 0 })
    );
    assert_eq!(shop.reuse("/60"), Some(Reuse::Fresh { ttl: 600 }));
    // What is judged is judged once.
    let latest = shop.store.purges.latest();
    let judged = |page| {
        let slot = shop.store.get(key(page).as_ref(), NOW).unwrap();
        slot.judged.load(Ordering::Relaxed) == latest
    };
    assert!(judged("/90") && judged("/60"));
}

#[test]
fn what_was_purged_is_remembered_as_long_as_something_is_under_way() {
    let shop = Shop::new();
    let begun = shop.store.begin();
    let late = |tags| shop.entry(begun.generation(), tags, "");
    shop.purge(below("/"));
    shop.purge(tag("t"));
    shop.store.sweep(NOW);
    assert_eq!(shop.store.purges.notes(), 1);
    assert_eq!(shop.store.put(&key("/p"), late(""), 0, NOW), Kept::Outdated);
    let host = KeyRef::new(b"http\0b\0/p").to_key();
    assert_eq!(shop.store.put(&host, late("t"), 0, NOW), Kept::Outdated);
    assert_eq!(shop.store.put(&host, late("u"), 0, NOW), Kept::Yes);
    drop(begun);
    shop.store.sweep(NOW);
    assert_eq!(
        (shop.store.purges.notes(), shop.store.tags().len()),
        (0, (1, 0))
    );
}

#[test]
fn notes_never_pile_up() {
    let shop = Shop::new();
    shop.put("/kept", "");
    let begun = shop.store.begin();
    for n in 0..10_000 {
        shop.purge(below(&format!("/b/{n}")));
        assert!(shop.store.purges.notes() <= 4096);
    }
    // Which pages it must not bring is not known any more.
    let late = shop.entry(begun.generation(), "", "");
    assert_eq!(shop.store.put(&key("/c"), late, 0, NOW), Kept::Outdated);
    assert_eq!(shop.put("/c", ""), Kept::Yes);
    assert_eq!((shop.count("/kept"), shop.count("/c")), (1, 1));
}

#[test]
fn what_has_been_taken_is_not_validated() {
    let shop = Shop::new();
    shop.put("/p", "t");
    let held = || {
        let slot = shop.store.get(key("/p").as_ref(), NOW).unwrap();
        Arc::clone(&slot.variants()[0])
    };
    let is_there = |entry: &Arc<Entry>| shop.store.is_there(&key("/p"), entry);
    let entry = held();
    shop.store.purge(&Purge::soft(page("/p")), NOW);
    shop.store.purge(&Purge::soft(tag("t")), NOW);
    assert!(is_there(&entry));
    shop.purge(tag("t"));
    assert!(!is_there(&entry));
    shop.put("/p", "t");
    let entry = held();
    assert!(is_there(&entry));
    shop.purge(page("/p"));
    assert!(!is_there(&entry));
}

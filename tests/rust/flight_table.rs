//! The flight table under a model checker: `src/cache/table.rs` as it stands, on locks whose every interleaving shuttle
//! may choose. A failing schedule is printed; `shuttle::replay` takes it.
//!
//! Requests here do what those of the proxy do: look, join, lead or follow, look again. What they fetch is the number
//! of the fetch. Beside the table stands a [`Watch`] that knows which flights are open and objects to a second one; it
//! is no part of the interleaving. A request that is lost is a deadlock, which shuttle reports.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex as Plain, MutexGuard, PoisonError};

use http::HeaderName;
use http::header::{ACCEPT, ACCEPT_LANGUAGE};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Condvar;
use shuttle::{Config, Runner, thread};

use super::{Outcome, Test};
use sync::{Arc, AtomicU64, Mutex, Ordering};
use table::{Ask, Joined, Settled, Table, Ticket, Variant};

#[path = "../../src/cache/table.rs"]
mod table;

/// What `src/cache/sync.rs` has, of shuttle's.
mod sync {
    pub use shuttle::sync::Arc;
    use shuttle::sync::MutexGuard;
    pub use shuttle::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            // A scenario that has panicked is over.
            self.0.lock().expect("nobody panics with the lock")
        }
    }
}

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "flight_table::a_crowd_is_one_flight_and_nobody_is_lost",
            a_crowd_is_one_flight,
        ),
        (
            "flight_table::two_requests_in_every_order_are_one_flight",
            two_requests_in_every_order,
        ),
        (
            "flight_table::one_flight_a_variant_when_the_head_tells_it",
            one_flight_a_variant,
        ),
        (
            "flight_table::variants_that_turn_out_the_same_are_joined_in_one",
            variants_that_turn_out_the_same,
        ),
        (
            "flight_table::a_dropped_ticket_leaves_nothing_behind",
            a_dropped_ticket_leaves_nothing,
        ),
        (
            "flight_table::nobody_boards_a_flight_that_was_given_up",
            nobody_boards_what_was_given_up,
        ),
        (
            "flight_table::a_flight_that_is_out_of_date_is_not_joined_and_doubles_none",
            out_of_date,
        ),
        (
            "flight_table::under_a_mark_everybody_goes_alone",
            under_a_mark_alone,
        ),
        (
            "flight_table::one_probe_after_a_mark_ends",
            one_probe_after_a_mark,
        ),
        (
            "flight_table::a_mark_that_nobody_met_is_forgotten",
            an_old_mark_is_forgotten,
        ),
        (
            "flight_table::a_probe_that_fails_makes_room_for_the_next",
            a_failed_probe_makes_room,
        ),
        (
            "flight_table::a_page_found_again_needs_no_probe",
            a_found_page_needs_no_probe,
        ),
        ("flight_table::marks_are_bounded", marks_are_bounded),
        (
            "flight_table::what_another_reign_came_to_is_nobodys_else",
            another_reign,
        ),
        (
            "flight_table::an_invalidated_generation_is_never_joined",
            an_invalidated_generation_is_never_joined,
        ),
        (
            "flight_table::nobody_follows_what_was_purged_before_he_came",
            nobody_follows_what_was_purged,
        ),
        (
            "flight_table::a_newer_flight_takes_the_place_of_an_older_one",
            a_newer_flight_takes_the_place,
        ),
        (
            "flight_table::a_purged_page_has_no_marks",
            a_purged_page_has_no_marks,
        ),
    ]
}

/// Runs a scenario under random schedules, then under those that switch rarely and at the worst moments.
fn explore(schedules: usize, scenario: fn()) -> Outcome {
    run(RandomScheduler::new(schedules), scenario)?;
    run(PctScheduler::new(3, schedules), scenario)
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn()) -> Outcome {
    let mut config = Config::new();
    // The table's one relaxed atomic is a counter.
    config.silence_warnings = true;
    catch_unwind(AssertUnwindSafe(|| {
        Runner::new(scheduler, config).run(scenario);
    }))
    .map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a scenario failed".to_owned())
    })
}

/// One page: where its answers are kept, the table, and what is watched.
struct Page {
    table: Arc<Table<u8, Flight>>,
    answers: Answers,
    /// The clock, turned by hand.
    now: u64,
    stored: Mutex<Stored>,
    watch: Plain<Watch>,
    fetches: AtomicU64,
}

/// What the origin answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answers {
    /// A page that may be shared, and varies on this.
    Shared(&'static [HeaderName]),
    /// One for each reader; it varies on this, or on everything.
    Private(Option<&'static [HeaderName]>),
    /// Nothing: the flight breaks before its head.
    Broken,
    /// A page that may be shared, if anybody still waits for it: who asked first has left.
    Wanted,
    /// Nothing, and its readers hear of it before the table does.
    Dies,
}

/// The store, as far as the table has to do with it. All pages here carry one tag.
#[derive(Default)]
struct Stored {
    /// The one that is now.
    current: u64,
    /// When the page was invalidated last, and its tag purged.
    generation: u64,
    tag: u64,
    entries: Vec<(Variant, Fetched)>,
}

/// An answer: which fetch it came from, begun under which generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fetched {
    fetch: u64,
    generation: u64,
}

/// A request's values of the two fields that pages here vary on.
#[derive(Clone, Copy)]
struct Reads {
    language: &'static [u8],
    accept: &'static [u8],
}

const ENGLISH: Reads = Reads {
    language: b"en",
    accept: b"*",
};
const FRENCH: Reads = Reads {
    language: b"fr",
    accept: b"*",
};

impl Reads {
    fn select(self, names: &[HeaderName]) -> Box<[u8]> {
        let mut values = Vec::new();
        for name in names {
            let value = if *name == ACCEPT_LANGUAGE {
                self.language
            } else {
                self.accept
            };
            values.extend_from_slice(value);
            values.push(0);
        }
        values.into()
    }

    fn variant(self, names: &[HeaderName]) -> Variant {
        Variant {
            names: names.into(),
            values: self.select(names),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Served {
    Led(Fetched),
    Followed(Fetched),
    Found(Fetched),
    Alone,
    Failed,
}

/// The answer under way, and how it ended.
struct Flight {
    id: u64,
    generation: u64,
    end: Mutex<Option<End>>,
    told: Condvar,
    readers: AtomicU64,
}

/// A place on a flight, until it is dropped.
struct Reader(Arc<Flight>);

#[derive(Clone)]
enum End {
    Whole(Variant, Fetched),
    LeadersOnly,
    Failed,
}

impl Flight {
    fn new(id: u64, generation: u64) -> Arc<Flight> {
        Arc::new(Flight {
            id,
            generation,
            end: Mutex::default(),
            told: Condvar::new(),
            readers: AtomicU64::new(0),
        })
    }

    fn board(self: &Arc<Flight>) -> Option<Reader> {
        self.readers.fetch_add(1, Ordering::SeqCst);
        Some(Reader(Arc::clone(self)))
    }

    fn is_empty(&self) -> bool {
        self.readers.load(Ordering::SeqCst) == 0
    }

    fn tell(&self, end: End) {
        self.end.lock().get_or_insert(end);
        self.told.notify_all();
    }

    fn wait(&self) -> End {
        let mut end = self.end.lock();
        loop {
            if let Some(end) = &*end {
                return end.clone();
            }
            end = self.told.wait(end).expect("nobody panics with the lock");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tells of the end when the flight's task is gone, like the proxy's `Filler`.
struct Filler<'a>(&'a Flight);

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        self.0.tell(End::Failed);
    }
}

/// The flights that were made and may be joined now.
#[derive(Default)]
struct Watch {
    open: Vec<Open>,
    /// Taken out of the table, and the call has returned.
    gone: HashSet<u64>,
    fault: Option<String>,
}

struct Open {
    id: u64,
    generation: u64,
    variant: Option<Variant>,
    /// Its ticket is being settled, closed or dropped: it may be in the table or not.
    moving: bool,
}

impl Watch {
    /// A flight is being made for this request: none that is open may suit it.
    fn made(&mut self, id: u64, reads: Reads, ask: &Ask, generation: u64) {
        let suits = |open: &&Open| {
            let variant = open.variant.as_ref();
            open.generation >= ask.generation
                && !open.moving
                && variant.is_none_or(|variant| reads.select(&variant.names) == variant.values)
        };
        if let Some(open) = self.open.iter().find(suits) {
            let beside = open.id;
            self.object(format!(
                "flight {id} was made beside {beside}, which it could have joined"
            ));
        }
        self.open.push(Open {
            id,
            generation,
            variant: ask.presumed.as_ref().map(|names| reads.variant(names)),
            moving: false,
        });
    }

    fn moves(&mut self, id: u64) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.moving = true;
        }
    }

    fn settled(&mut self, id: u64, variant: &Variant, settled: Settled) {
        let Some(at) = self.open.iter().position(|open| open.id == id) else {
            assert_eq!(settled, Settled::Closed, "a newer one has its place");
            return;
        };
        let generation = self.open[at].generation;
        let is_same = |other: &Open| {
            other.id != id && !other.moving && other.variant.as_ref() == Some(variant)
        };
        let others = self.open.iter().filter(|other| is_same(other));
        let others: Vec<_> = others.map(|other| (other.id, other.generation)).collect();
        match settled {
            Settled::Joinable => {
                self.open[at].variant = Some(variant.clone());
                self.open[at].moving = false;
                for (other, its) in others {
                    match its.cmp(&generation) {
                        // It has made room for this one.
                        Less => self.left(other),
                        Equal => self.object(format!(
                            "flights {id} and {other} of one variant, both joinable"
                        )),
                        // It settled after this one, and is noted before it.
                        Greater => self.left(id),
                    }
                }
            }
            Settled::Doubled | Settled::Closed => self.left(id),
        }
    }

    /// A number that no flight has had.
    fn number(&self) -> u64 {
        (self.open.len() + self.gone.len()) as u64
    }

    /// Said at the end: a panic while a ticket is held would be another in its drop.
    fn object(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    fn left(&mut self, id: u64) {
        self.open.retain(|open| open.id != id);
        self.gone.insert(id);
    }
}

impl Page {
    fn new(answers: Answers) -> Arc<Page> {
        Page::with(answers, Table::new(1 << 20), 0)
    }

    fn with(answers: Answers, table: Arc<Table<u8, Flight>>, now: u64) -> Arc<Page> {
        Arc::new(Page {
            table,
            answers,
            now,
            stored: Mutex::default(),
            watch: Plain::default(),
            fetches: AtomicU64::new(0),
        })
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// One request, from its look at the store to its answer.
    fn request(&self, reads: Reads, mut presumed: Option<Arc<[HeaderName]>>) -> Served {
        let since = self.stored.lock().current;
        let mut at_least = None;
        loop {
            let gone = self.watch().gone.clone();
            let generation = self.stored.lock().generation.max(at_least.unwrap_or(0));
            let ask = Ask {
                now: self.now,
                generation,
                reign: 0,
                purged: 0,
                presumed: presumed.clone(),
                select: &|names| reads.select(names),
            };
            let joined = self.table.join(
                &0,
                &ask,
                Flight::board,
                || self.stored.lock().find(reads),
                || {
                    let begun = self.stored.lock().current;
                    let id = self.fetches.fetch_add(1, Ordering::SeqCst);
                    self.watch().made(id, reads, &ask, begun);
                    (Flight::new(id, begun), begun)
                },
            );
            match joined {
                Joined::Found(page) => return Served::Found(page),
                Joined::Alone => return Served::Alone,
                Joined::Lead(flight, ticket) => return self.lead(reads, &flight, ticket),
                Joined::Follow(flight, _reader) => {
                    assert!(
                        flight.generation >= generation,
                        "joined a flight of generation {}, asking under {generation}",
                        flight.generation
                    );
                    assert!(
                        !gone.contains(&flight.id),
                        "joined a flight that had left before"
                    );
                    match flight.wait() {
                        End::Whole(_, page) if self.is_outdated(page, since) => {
                            assert_eq!(at_least, None, "once is enough");
                            at_least = Some(since);
                        }
                        End::Whole(variant, page)
                            if reads.select(&variant.names) == variant.values =>
                        {
                            return Served::Followed(page);
                        }
                        End::Whole(variant, _) => presumed = Some(variant.names),
                        End::LeadersOnly => return Served::Alone,
                        End::Failed => return Served::Failed,
                    }
                }
            }
        }
    }

    /// Whether a flight's answer was purged by its tag, perhaps before a request came: by the proxy's own rule.
    fn is_outdated(&self, page: Fetched, since: u64) -> bool {
        tidegate::rules::purge::is_outdated(page.generation, self.stored.lock().tag, since)
    }

    /// At the table alone: whether it led.
    fn bare_request(&self) -> bool {
        let ask = Ask {
            now: 0,
            generation: 0,
            reign: 0,
            purged: 0,
            presumed: None,
            select: &|names| ENGLISH.select(names),
        };
        let make = || {
            let id = self.watch().number();
            self.watch().made(id, ENGLISH, &ask, 0);
            (Flight::new(id, 0), 0)
        };
        let Joined::Lead(flight, ticket) =
            self.table
                .join(&0, &ask, Flight::board, || None::<()>, make)
        else {
            return false;
        };
        let variant = ENGLISH.variant(&[]);
        self.watch().moves(flight.id);
        let settled = ticket.settle(variant.clone(), FRESH_UNTIL);
        self.watch().settled(flight.id, &variant, settled);
        self.watch().moves(flight.id);
        drop(ticket);
        self.watch().left(flight.id);
        true
    }

    fn lead(&self, reads: Reads, flight: &Flight, ticket: Ticket<u8, Flight>) -> Served {
        let filler = Filler(flight);
        thread::yield_now();
        let page = Fetched {
            fetch: flight.id,
            generation: flight.generation,
        };
        let served = match self.answers {
            Answers::Shared(names) => {
                let variant = reads.variant(names);
                self.watch().moves(flight.id);
                let settled = ticket.settle(variant.clone(), FRESH_UNTIL);
                self.watch().settled(flight.id, &variant, settled);
                thread::yield_now();
                self.stored.lock().put(variant.clone(), page);
                flight.tell(End::Whole(variant, page));
                Served::Led(page)
            }
            Answers::Private(names) => {
                self.watch().moves(flight.id);
                let variant = names.map(|names| reads.variant(names));
                ticket.mark(variant, self.now, self.now + HOLDS, MARK);
                self.watch().left(flight.id);
                // The answer streams to its leader while others come.
                (0..3).for_each(|_| thread::yield_now());
                flight.tell(End::LeadersOnly);
                Served::Led(page)
            }
            Answers::Wanted => {
                self.watch().moves(flight.id);
                if ticket.close_if(|| flight.is_empty()) {
                    // Nobody is on it, so nobody is told: one who boards now is lost.
                    std::mem::forget(filler);
                    drop(ticket);
                    self.watch().left(flight.id);
                    return Served::Failed;
                }
                flight.tell(End::Whole(reads.variant(&[]), page));
                Served::Led(page)
            }
            Answers::Broken => Served::Failed,
            Answers::Dies => {
                drop(filler);
                self.watch().moves(flight.id);
                drop(ticket);
                self.watch().left(flight.id);
                return Served::Failed;
            }
        };
        self.watch().moves(flight.id);
        drop(ticket);
        self.watch().left(flight.id);
        drop(filler);
        served
    }

    /// All at once; how each was served.
    fn crowd(self: &Arc<Self>, readers: &[(Reads, Option<&[HeaderName]>)]) -> Vec<Served> {
        let threads: Vec<_> = readers
            .iter()
            .map(|(reads, presumed)| {
                let (page, reads, presumed) = (
                    Arc::clone(self),
                    *reads,
                    presumed.map(Arc::<[HeaderName]>::from),
                );
                thread::spawn(move || page.request(reads, presumed))
            })
            .collect();
        let served = threads
            .into_iter()
            .map(|thread| thread.join().expect("a request that panicked"))
            .collect();
        assert_eq!(self.watch().fault, None);
        served
    }

    /// Flights, lanes and marks in the table.
    fn left_behind(&self) -> (usize, usize, usize) {
        let (flights, lanes) = self.table.len();
        (flights, lanes, self.table.marks())
    }
}

impl Stored {
    fn find(&self, reads: Reads) -> Option<Fetched> {
        let suits = |(variant, page): &&(Variant, Fetched)| {
            page.generation >= self.tag && reads.select(&variant.names) == variant.values
        };
        self.entries.iter().find(suits).map(|(_, page)| *page)
    }

    fn put(&mut self, variant: Variant, page: Fetched) {
        if page.generation >= self.generation.max(self.tag) {
            self.entries.retain(|(other, _)| *other != variant);
            self.entries.push((variant, page));
        }
    }

    fn invalidate(&mut self) -> u64 {
        self.current += 1;
        self.generation = self.current;
        self.entries.clear();
        self.generation
    }

    /// What is stored is found out when it is looked for.
    fn purge_tag(&mut self) -> u64 {
        self.current += 1;
        self.tag = self.current;
        self.tag
    }
}

fn count(served: &[Served], which: impl Fn(&Served) -> bool) -> usize {
    served.iter().filter(|one| which(one)).count()
}

fn led(served: &[Served]) -> usize {
    count(served, |one| matches!(one, Served::Led(_)))
}

/// No page here outlives its freshness, but for one that does.
const FRESH_UNTIL: u64 = 1_000;
/// How long marks hold.
const HOLDS: u64 = 10;
/// What a mark weighs at least, in bytes.
const MARK: usize = 1_000;

const NOTHING: (usize, usize, usize) = (0, 0, 0);

fn one_page_for(requests: usize) {
    let page = Page::new(Answers::Shared(&[]));
    let served = page.crowd(&vec![(ENGLISH, None); requests]);
    assert_eq!(page.fetches(), 1, "{served:?}");
    let got = |one: &Served| matches!(one, Served::Led(page) | Served::Followed(page) | Served::Found(page) if page.fetch == 0);
    assert_eq!(count(&served, got), requests, "{served:?}");
    assert_eq!(page.left_behind(), NOTHING);
}

fn a_crowd_is_one_flight() -> Outcome {
    explore(400, || one_page_for(5))
}

/// So little that all its interleavings can be gone through: two requests at the table, and nothing around it.
fn two_requests_in_every_order() -> Outcome {
    run(DfsScheduler::new(None, false), || {
        let page = Page::new(Answers::Shared(&[]));
        let other = thread::spawn({
            let page = Arc::clone(&page);
            move || page.bare_request()
        });
        let one = page.bare_request();
        let other = other.join().expect("a request that panicked");
        assert_eq!(page.watch().fault, None);
        assert!(one || other, "somebody fetches it");
    })
}

fn one_flight_a_variant() -> Outcome {
    explore(300, || {
        const NAMES: &[HeaderName] = &[ACCEPT_LANGUAGE];
        let page = Page::new(Answers::Shared(NAMES));
        // One request has seen an earlier answer, and knows that the page varies.
        let served = page.crowd(&[
            (ENGLISH, None),
            (FRENCH, None),
            (ENGLISH, None),
            (FRENCH, Some(NAMES)),
        ]);
        assert_eq!(page.fetches(), 2, "{served:?}");
        let fetch = |one: &Served| match one {
            Served::Led(page) | Served::Followed(page) | Served::Found(page) => page.fetch,
            other => panic!("{other:?}"),
        };
        let of: Vec<u64> = served.iter().map(fetch).collect();
        assert_eq!((of[0], of[1]), (of[2], of[3]), "one fetch a language");
        assert_ne!(of[0], of[1], "an answer in the other language");
        assert_eq!(page.left_behind(), NOTHING);
    })
}

fn variants_that_turn_out_the_same() -> Outcome {
    explore(300, || {
        // They presume that the page varies on Accept, as it once did, and it has come to vary on the language alone.
        const BEFORE: &[HeaderName] = &[ACCEPT];
        let html = Reads {
            accept: b"html",
            ..ENGLISH
        };
        let json = Reads {
            accept: b"json",
            ..ENGLISH
        };
        let page = Page::new(Answers::Shared(&[ACCEPT_LANGUAGE]));
        let served = page.crowd(&[
            (html, Some(BEFORE)),
            (json, Some(BEFORE)),
            (html, Some(BEFORE)),
            (json, None),
        ]);
        assert!(page.fetches() <= 2, "{served:?}");
        assert_eq!(count(&served, |one| *one == Served::Failed), 0);
        assert_eq!(page.left_behind(), NOTHING);
    })
}

fn a_dropped_ticket_leaves_nothing() -> Outcome {
    fn crowd(answers: Answers) {
        let page = Page::new(answers);
        let served = page.crowd(&[(ENGLISH, None); 4]);
        assert_eq!(served, [Served::Failed; 4], "everybody is told");
        assert_eq!(page.left_behind(), NOTHING);
    }
    explore(300, || crowd(Answers::Broken))?;
    explore(300, || crowd(Answers::Dies))
}

fn nobody_boards_what_was_given_up() -> Outcome {
    explore(400, || {
        let page = Page::new(Answers::Wanted);
        let served = page.crowd(&[(ENGLISH, None); 4]);
        let given_up = count(&served, |one| *one == Served::Failed);
        let followed = count(&served, |one| matches!(one, Served::Followed(_)));
        assert_eq!(given_up + followed + led(&served), 4, "{served:?}");
        assert!(
            led(&served) <= followed,
            "each flight that goes on has a reader"
        );
        assert_eq!(page.left_behind(), NOTHING);
    })
}

fn out_of_date() -> Outcome {
    fn seat(table: &Arc<Table<u8, Flight>>, now: u64, id: u64) -> Option<Ticket<u8, Flight>> {
        let ask = Ask {
            now,
            generation: 0,
            reign: 0,
            purged: 0,
            presumed: None,
            select: &|_| Box::default(),
        };
        let make = || (Flight::new(id, 0), 0);
        match table.join(&0, &ask, Flight::board, || None::<()>, make) {
            Joined::Lead(_, ticket) => Some(ticket),
            Joined::Follow(flight, _) => {
                assert_eq!(flight.id, id, "joined another flight");
                None
            }
            Joined::Alone | Joined::Found(()) => panic!("neither marks nor pages"),
        }
    }
    run(RandomScheduler::new(1), || {
        let table = Table::new(1 << 20);
        let settle = |ticket: &Option<Ticket<u8, Flight>>, until| {
            let ticket = ticket.as_ref().expect("this request leads");
            ticket.settle(Variant::default(), until)
        };
        // A download that takes longer than its page is fresh.
        let long = seat(&table, 0, 1);
        assert_eq!(settle(&long, 10), Settled::Joinable);
        assert!(seat(&table, 9, 1).is_none(), "fresh: joined");
        let next = seat(&table, 10, 2);
        assert_eq!(
            settle(&next, 20),
            Settled::Joinable,
            "the only one that can be joined"
        );
        assert!(seat(&table, 11, 2).is_none(), "a crowd would be one flight");
        drop((long, next));
        assert_eq!(table.len(), (0, 0));
    })
}

/// A flight of an earlier reign turns out private while one of the next is under way.
fn another_reign() -> Outcome {
    fn come(table: &Arc<Table<u8, Flight>>, reign: u64, id: u64) -> Joined<u8, Flight, (), Reader> {
        let ask = Ask {
            now: 0,
            generation: 0,
            reign,
            purged: 0,
            presumed: None,
            select: &|_| Box::default(),
        };
        let make = || (Flight::new(id, 0), 0);
        table.join(&0, &ask, Flight::board, || None::<()>, make)
    }
    run(RandomScheduler::new(1), || {
        let table = Table::new(1 << 20);
        let Joined::Lead(_, before) = come(&table, 0, 1) else {
            panic!("nobody else asks");
        };
        let Joined::Lead(_, after) = come(&table, 1, 2) else {
            panic!("boarded a flight of before");
        };
        before.mark(None, 0, 10, 1);
        match come(&table, 1, 3) {
            Joined::Follow(flight, _) => assert_eq!(flight.id, 2),
            _ => panic!("what was private before says nothing of now"),
        }
        after.mark(None, 0, 10, 1);
        assert!(matches!(come(&table, 0, 4), Joined::Alone));
        assert!(matches!(come(&table, 1, 4), Joined::Alone));
        drop((before, after));
        assert_eq!((table.len(), table.marks()), ((0, 1), 2));
    })
}

fn under_a_mark_alone() -> Outcome {
    explore(300, || {
        let page = Page::new(Answers::Private(None));
        let served = page.crowd(&[(ENGLISH, None); 4]);
        assert_eq!((led(&served), page.fetches()), (1, 1), "{served:?}");
        assert_eq!(count(&served, |one| *one == Served::Alone), 3, "{served:?}");
        assert_eq!(page.left_behind(), (0, 1, 1), "its mark, and no more");
    })?;
    // A mark is its variant's. Who comes in the other language is none of those who joined a flight that has left.
    explore(300, || {
        let page = Page::new(Answers::Private(Some(&[ACCEPT_LANGUAGE])));
        let served = page.crowd(&[
            (ENGLISH, None),
            (FRENCH, None),
            (ENGLISH, None),
            (FRENCH, None),
        ]);
        assert!((1..=2).contains(&led(&served)), "{served:?}");
        assert_eq!(
            led(&served) + count(&served, |one| *one == Served::Alone),
            4
        );
        let marks = led(&served);
        assert_eq!(page.left_behind(), (0, 1, marks), "a mark a variant");
    })
}

/// A page that was marked at the beginning, and what is answered now.
fn after_a_mark(answers: Answers, now: u64) -> Arc<Page> {
    let table = Table::new(1 << 20);
    let before = Page::with(Answers::Private(None), Arc::clone(&table), 0);
    assert_eq!(led(&[before.request(ENGLISH, None)]), 1);
    assert_eq!(before.request(ENGLISH, None), Served::Alone);
    Page::with(answers, table, now)
}

fn one_probe_after_a_mark() -> Outcome {
    explore(300, || {
        let page = after_a_mark(Answers::Private(None), HOLDS);
        let served = page.crowd(&[(ENGLISH, None); 4]);
        assert_eq!((led(&served), page.fetches()), (1, 1), "{served:?}");
        assert_eq!(count(&served, |one| *one == Served::Alone), 3, "{served:?}");
        assert_eq!(
            page.left_behind(),
            (0, 1, 1),
            "the new mark in place of the old"
        );
    })?;
    explore(300, || {
        let page = after_a_mark(Answers::Shared(&[]), HOLDS);
        let served = page.crowd(&[(ENGLISH, None); 4]);
        assert_eq!((led(&served), page.fetches()), (1, 1), "{served:?}");
        assert_eq!(count(&served, |one| *one == Served::Failed), 0);
        assert_eq!(page.left_behind(), NOTHING, "the mark is lifted");
    })
}

fn an_old_mark_is_forgotten() -> Outcome {
    explore(200, || {
        // Nobody came while it could have been probed for.
        let page = after_a_mark(Answers::Shared(&[]), 2 * HOLDS);
        let served = page.crowd(&[(ENGLISH, None); 4]);
        assert_eq!((led(&served), page.fetches()), (1, 1), "{served:?}");
        assert_eq!(
            count(&served, |one| *one == Served::Alone),
            0,
            "they wait for one answer"
        );
        assert_eq!(page.left_behind(), NOTHING);
    })
}

fn a_failed_probe_makes_room() -> Outcome {
    explore(300, || {
        let page = after_a_mark(Answers::Broken, HOLDS);
        let served = page.crowd(&[(ENGLISH, None); 3]);
        let probes = count(&served, |one| *one == Served::Failed);
        assert_eq!(
            page.fetches(),
            probes as u64,
            "each probe has its own failure"
        );
        assert_eq!(count(&served, |one| *one == Served::Alone), 3 - probes);
        assert_eq!(page.left_behind(), (0, 1, 1), "the mark stays");
        assert_eq!(
            page.request(ENGLISH, None),
            Served::Failed,
            "the next one probes"
        );
    })
}

fn a_found_page_needs_no_probe() -> Outcome {
    explore(100, || {
        let page = after_a_mark(Answers::Broken, HOLDS);
        let stored = Fetched {
            fetch: 7,
            generation: 0,
        };
        page.stored
            .lock()
            .put(FRENCH.variant(&[ACCEPT_LANGUAGE]), stored);
        let served = page.crowd(&[(FRENCH, None); 3]);
        assert!(
            led(&served) == 0 && served.contains(&Served::Found(stored)),
            "{served:?}"
        );
        assert_eq!(
            page.request(ENGLISH, None),
            Served::Failed,
            "a place to probe is left"
        );
    })
}

fn marks_are_bounded() -> Outcome {
    // Room for two in each of the table's parts, as their keys are not weighed here.
    const MOST: usize = 16 * 3 * MARK;
    fn mark(table: &Arc<Table<u8, Flight>>, key: u8, variant: Option<Variant>) {
        let ask = Ask {
            now: 0,
            generation: 0,
            reign: 0,
            purged: 0,
            presumed: variant.as_ref().map(|variant| Arc::clone(&variant.names)),
            select: &|_| {
                variant
                    .as_ref()
                    .map_or(Box::default(), |v| v.values.clone())
            },
        };
        let flight = || (Flight::new(0, 0), 0);
        if let Joined::Lead(_, ticket) =
            table.join(&key, &ask, Flight::board, || None::<()>, flight)
        {
            ticket.mark(variant, 0, HOLDS, MARK);
            ticket.close();
        }
    }
    explore(30, || {
        let table: Arc<Table<u8, Flight>> = Table::new(MOST);
        let threads = [0, 40, 80].map(|first| {
            let table = Arc::clone(&table);
            thread::spawn(move || (first..first + 40).for_each(|key| mark(&table, key, None)))
        });
        for thread in threads {
            thread.join().expect("a request that panicked");
        }
        let ((flights, lanes), marks) = (table.len(), table.marks());
        assert!(marks > 0, "none is remembered");
        assert!(marks * MARK <= MOST, "{marks} marks in {MOST} bytes");
        assert_eq!((flights, lanes), (0, marks), "no lane without a mark");
    })?;
    // One page cannot take them all: 32 variants of it are remembered.
    run(RandomScheduler::new(1), || {
        let table: Arc<Table<u8, Flight>> = Table::new(1 << 30);
        for value in 0..100 {
            let variant = Variant {
                names: [ACCEPT].into(),
                values: [value].into(),
            };
            mark(&table, 0, Some(variant));
        }
        assert_eq!(table.marks(), 32);
    })
}

fn an_invalidated_generation_is_never_joined() -> Outcome {
    explore(400, || {
        let page = Page::new(Answers::Shared(&[]));
        // The generation of every invalidation that has returned.
        let returned = Arc::new(AtomicU64::new(0));
        let invalidation = thread::spawn({
            let (page, returned) = (Arc::clone(&page), Arc::clone(&returned));
            move || {
                for _ in 0..2 {
                    let generation = page.stored.lock().invalidate();
                    returned.store(generation, Ordering::SeqCst);
                }
            }
        });
        let requests = [(); 3].map(|()| {
            let (page, returned) = (Arc::clone(&page), Arc::clone(&returned));
            thread::spawn(move || {
                let began_after = returned.load(Ordering::SeqCst);
                match page.request(ENGLISH, None) {
                    Served::Led(got) | Served::Followed(got) | Served::Found(got) => assert!(
                        got.generation >= began_after,
                        "asked after invalidation {began_after}, got a page of {}",
                        got.generation
                    ),
                    other => panic!("{other:?}"),
                }
            })
        });
        for thread in requests.into_iter().chain([invalidation]) {
            thread.join().expect("a request that panicked");
        }
        assert_eq!(page.watch().fault, None);
        assert_eq!(page.left_behind(), NOTHING);
    })
}

/// Purges by tag are known of an answer when its head is there; invalidations of the page are known beforehand.
fn nobody_follows_what_was_purged() -> Outcome {
    explore(600, || {
        let page = Page::new(Answers::Shared(&[]));
        let returned = Arc::new(AtomicU64::new(0));
        let purges = thread::spawn({
            let (page, returned) = (Arc::clone(&page), Arc::clone(&returned));
            move || {
                for purge in [Stored::purge_tag, Stored::invalidate, Stored::purge_tag] {
                    let generation = purge(&mut page.stored.lock());
                    returned.store(generation, Ordering::SeqCst);
                }
            }
        });
        let requests = [(); 4].map(|()| {
            let (page, returned) = (Arc::clone(&page), Arc::clone(&returned));
            thread::spawn(move || {
                let began_after = returned.load(Ordering::SeqCst);
                match page.request(ENGLISH, None) {
                    Served::Led(got) | Served::Followed(got) | Served::Found(got) => assert!(
                        got.generation >= began_after,
                        "asked after purge {began_after}, got a page of {}",
                        got.generation
                    ),
                    other => panic!("{other:?}"),
                }
            })
        });
        for thread in requests.into_iter().chain([purges]) {
            thread.join().expect("a request that panicked");
        }
        assert_eq!(page.watch().fault, None);
        assert_eq!(page.left_behind(), NOTHING);
    })
}

/// One request at the table, for what began in `at_least` or later, whose flight would be of `generation`.
fn seat(
    table: &Arc<Table<u8, Flight>>,
    at_least: u64,
    purged: u64,
    generation: u64,
) -> Joined<u8, Flight, (), Reader> {
    let ask = Ask {
        now: 0,
        generation: at_least,
        reign: 0,
        purged,
        presumed: None,
        select: &|_| Box::default(),
    };
    let make = || (Flight::new(generation, generation), generation);
    table.join(&0, &ask, Flight::board, || None::<()>, make)
}

fn a_newer_flight_takes_the_place() -> Outcome {
    run(RandomScheduler::new(1), || {
        let table = Table::new(1 << 20);
        let lead = |at_least, generation| match seat(&table, at_least, 0, generation) {
            Joined::Lead(_, ticket) => ticket,
            _ => panic!("there is a flight of {at_least}"),
        };
        let joins = |at_least| match seat(&table, at_least, 0, 99) {
            Joined::Follow(flight, _) => flight.id,
            _ => panic!("there is no flight of {at_least}"),
        };
        let settle = |ticket: &Ticket<u8, Flight>| ticket.settle(Variant::default(), FRESH_UNTIL);
        let old = lead(0, 1);
        assert_eq!(settle(&old), Settled::Joinable);
        let new = lead(2, 2);
        assert_eq!((joins(0), joins(2)), (1, 2), "before its head nobody knows");
        assert_eq!(settle(&new), Settled::Joinable);
        assert_eq!((joins(0), joins(2)), (2, 2));
        assert_eq!(settle(&old), Settled::Closed);
        drop((old, new));
        assert_eq!(table.len(), (0, 0));
    })
}

fn a_purged_page_has_no_marks() -> Outcome {
    run(RandomScheduler::new(1), || {
        let table = Table::new(1 << 20);
        let mark = |generation| match seat(&table, 0, 0, generation) {
            Joined::Lead(_, ticket) => ticket.mark(None, 0, HOLDS, MARK),
            _ => panic!("it was to lead"),
        };
        let is_alone = |purged| matches!(seat(&table, 0, purged, 9), Joined::Alone);
        mark(3);
        assert!(is_alone(0) && is_alone(3), "purged before it was made");
        assert!(!is_alone(4));
        assert!(!is_alone(0), "it is gone for good");
        mark(5);
        assert!(is_alone(0));
        table.forget_marks(&0);
        assert!(!is_alone(0));
        assert_eq!((table.len(), table.marks()), ((0, 0), 0));
    })
}

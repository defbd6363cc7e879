//! Lists of addresses: one table of all of them, made anew when the file of one changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::config::policy::{List, ListAction};
use crate::files::Watched;
use crate::rules::listing;
use crate::rules::networks::{Listed, Networks};
use crate::telemetry::{Counter, Metrics, names};

pub struct Lists {
    lists: Vec<Kept>,
    table: ArcSwap<Networks>,
}

/// A list, and what is in its file.
struct Kept {
    list: List,
    file: Option<Watched>,
    from_file: Mutex<Vec<IpNet>>,
    entries: AtomicUsize,
    denied: Arc<Counter>,
    reloaded: Arc<Counter>,
    refused: Arc<Counter>,
}

impl Lists {
    /// Reads all of them.
    ///
    /// # Errors
    /// A file can't be read, or something in it is no network; for people.
    pub fn read(lists: &[List], metrics: &Metrics) -> Result<Arc<Lists>, String> {
        let lists = lists.iter().map(|list| Kept::read(list, metrics));
        let lists = lists.collect::<Result<Vec<_>, _>>()?;
        let table = ArcSwap::from_pointee(table(&lists));
        Ok(Arc::new(Lists { lists, table }))
    }

    /// Whether they are what a config says.
    pub fn are_by(&self, lists: &[List]) -> bool {
        self.lists.iter().map(|kept| &kept.list).eq(lists)
    }

    pub fn find(&self, client: IpAddr) -> Listed {
        match self.lists.is_empty() {
            true => Listed::NOWHERE,
            false => self.table.load().find(client),
        }
    }

    pub fn name(&self, list: u8) -> Option<&str> {
        let kept = self.lists.get(usize::from(list))?;
        Some(&kept.list.name)
    }

    /// Their names, and how many networks are in each.
    pub fn entries(&self) -> impl Iterator<Item = (&str, usize)> {
        let all = self.lists.iter();
        all.map(|kept| (kept.list.name.as_str(), kept.entries.load(Relaxed)))
    }

    /// Counts a client that a list has kept out.
    pub fn denied(&self, list: u8) {
        if let Some(kept) = self.lists.get(usize::from(list)) {
            kept.denied.add(1);
        }
    }

    /// Takes what has changed; what can't be used changes nothing.
    pub fn look(&self) {
        let taken = self.lists.iter().filter(|kept| kept.takes_anew()).count();
        if taken > 0 {
            self.table.store(Arc::new(table(&self.lists)));
        }
    }
}

fn table(lists: &[Kept]) -> Networks {
    let files: Vec<_> = lists.iter().map(|kept| kept.from_file.lock()).collect();
    let all = lists.iter().zip(&files);
    Networks::new(all.map(|(kept, file)| {
        let networks = kept.list.networks.iter().chain(file.iter());
        (networks, kept.list.action)
    }))
}

impl Kept {
    fn read(list: &List, metrics: &Metrics) -> Result<Kept, String> {
        let file = list.file.as_deref().map(Watched::new);
        let from_file = file.as_ref().map(networks).transpose()?;
        let from_file = from_file.unwrap_or_default();
        let entries = AtomicUsize::new(list.networks.len() + from_file.len());
        let name = list.name.as_str();
        // Without a file nothing is ever read anew, and where nobody is denied nobody is counted: such series are not shown.
        let counter = |family, labels: &[&str], is_shown: bool| match is_shown {
            true => metrics.counter(family, labels),
            false => Arc::default(),
        };
        let reloads = |result| counter(&names::LIST_RELOADS, &[name, result], file.is_some());
        Ok(Kept {
            denied: counter(
                &names::LIST_DENIED,
                &[name],
                list.action == Some(ListAction::Deny),
            ),
            reloaded: reloads("done"),
            refused: reloads("refused"),
            list: list.clone(),
            file,
            from_file: Mutex::new(from_file),
            entries,
        })
    }

    /// Whether its file has changed and was taken.
    fn takes_anew(&self) -> bool {
        let Some(file) = self.file.as_ref().filter(|file| file.has_changed()) else {
            return false;
        };
        let list = self.list.name.as_str();
        match networks(file) {
            Ok(networks) => {
                let entries = self.list.networks.len() + networks.len();
                *self.from_file.lock() = networks;
                self.entries.store(entries, Relaxed);
                self.reloaded.add(1);
                tracing::info!(list, entries, "a list was read anew");
                true
            }
            Err(why) => {
                self.refused.add(1);
                tracing::error!(
                    list,
                    why,
                    "a list has changed and can't be used; what was read last stays"
                );
                false
            }
        }
    }
}

fn networks(file: &Watched) -> Result<Vec<IpNet>, String> {
    listing::read(&file.read()?).map_err(|flaw| {
        let line = flaw.line.map_or(String::new(), |line| format!(":{line}"));
        format!("{}{line}: {}", file.path().display(), flaw.what)
    })
}

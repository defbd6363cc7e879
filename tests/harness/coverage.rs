//! Promises against what carries them: wire scripts by their `covers:` line, Rust tests by their names
//! (`rfc9111_5_2_2_5_no_store`, `c29_set_cookie`, `inv_…`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::script::Script;

/// One line of `promises.txt`.
struct Promise {
    id: String,
    /// As a test's name would have it: `rfc9111_5_2_2_5`. Classes of attacks and faults are their own: `c29`.
    section: Option<String>,
    heading: String,
    says: String,
}

pub struct Table {
    promises: Vec<Promise>,
    carried: BTreeMap<String, BTreeSet<String>>,
    strangers: Vec<String>,
}

impl Table {
    /// Reads `tests/wire/promises.txt`, the scripts, and the names of all Rust tests below `root`.
    pub fn read(root: &Path, scripts: &[(String, String)]) -> Result<Table, String> {
        let path = root.join("tests/wire/promises.txt");
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let promises = promises(&text)?;
        let mut carried: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut strangers = Vec::new();
        for (name, text) in scripts {
            let script = Script::parse(text).map_err(|fault| format!("{name}: {fault}"))?;
            for id in script.covers {
                if promises.iter().any(|promise| promise.id == id) {
                    carried.entry(id).or_default().insert(name.clone());
                } else if !script.direct {
                    strangers.push(format!("{name} covers {id}, which nobody promised"));
                }
            }
        }
        let mut tests = Vec::new();
        for room in ["src", "tests"] {
            rust_tests(&root.join(room), root, &mut tests);
        }
        for promise in &promises {
            let class = promise
                .id
                .strip_prefix('C')
                .map(|number| format!("c{number:0>2}"));
            for key in class.iter().chain(&promise.section) {
                for (test, place) in tests.iter().filter(|(test, _)| belongs(test, key)) {
                    carried
                        .entry(promise.id.clone())
                        .or_default()
                        .insert(format!("{place}::{test}"));
                }
            }
        }
        Ok(Table {
            promises,
            carried,
            strangers,
        })
    }

    /// What is missing; empty when every promise is carried and every script carries a promise.
    pub fn gaps(&self) -> Vec<String> {
        let bare = self
            .promises
            .iter()
            .filter(|promise| !self.carried.contains_key(&promise.id));
        let bare = bare.map(|promise| format!("{} has no test: {}", promise.id, promise.says));
        bare.chain(self.strangers.iter().cloned()).collect()
    }

    pub fn print(&self) {
        let mut heading = "";
        for promise in &self.promises {
            if promise.heading != heading {
                heading = &promise.heading;
                println!("\n{heading}");
            }
            println!("  {:<28} {}", promise.id, promise.says);
            match self.carried.get(&promise.id) {
                Some(tests) => tests
                    .iter()
                    .for_each(|test| println!("  {:<28}   {test}", "")),
                None => println!("  {:<28}   NOTHING", ""),
            }
        }
        let carried = self
            .promises
            .iter()
            .filter(|promise| self.carried.contains_key(&promise.id))
            .count();
        println!("\n{carried} of {} promises carried", self.promises.len());
    }
}

/// `== heading`, then lines of `id  [section]  what it says`; a section is `rfc9111-5.2.2.5` or `-`.
fn promises(text: &str) -> Result<Vec<Promise>, String> {
    let mut heading = String::new();
    let mut promises: Vec<Promise> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(title) = line.strip_prefix("== ") {
            title.clone_into(&mut heading);
        } else if !line.is_empty() && !line.starts_with('#') {
            let parts = line.split_once(char::is_whitespace).and_then(|(id, rest)| {
                Some((id, rest.trim_start().split_once(char::is_whitespace)?))
            });
            let Some((id, (section, says))) = parts else {
                return Err(format!("promises.txt:{}: ID SECTION TEXT", index + 1));
            };
            if promises.iter().any(|promise| promise.id == id) {
                return Err(format!("promises.txt:{}: {id} stands twice", index + 1));
            }
            let section = (section != "-").then(|| section.replace(['-', '.'], "_"));
            promises.push(Promise {
                id: id.to_owned(),
                section,
                heading: heading.clone(),
                says: says.trim().to_owned(),
            });
        }
    }
    Ok(promises)
}

/// Whether a test's name begins with the key and does not go on into a deeper section.
fn belongs(test: &str, key: &str) -> bool {
    match test.strip_prefix(key) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('_')
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit())),
        None => false,
    }
}

fn rust_tests(folder: &Path, root: &Path, out: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            rust_tests(&path, root, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let place = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            for line in fs::read_to_string(&path).unwrap_or_default().lines() {
                let line = line.trim_start().trim_start_matches("async ");
                if let Some(name) = line
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split('(').next())
                {
                    out.push((name.to_owned(), place.clone()));
                }
            }
        }
    }
}

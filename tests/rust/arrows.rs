//! The rooms of `src/` and the arrows between them, read off the source: who names whom.
//!
//! ```text
//! main → cli → server → {front, admin} → {fetch, snapshot, cache, origin, guard, limits, config} → rules      leaves: state, telemetry, clock
//! ```
//!
//! Words in comments and strings name nobody.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Outcome, Test};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("arrows::point_down", arrows_point_down),
        (
            "arrows::only_front_fetch_origin_and_server_name_pingora",
            only_four_name_pingora,
        ),
        ("arrows::rules_are_pure", rules_are_pure),
        (
            "arrows::only_clock_reads_the_time",
            only_clock_reads_the_time,
        ),
        ("arrows::the_reader_reads", the_reader_reads),
    ]
}

/// A room, and the rooms it may name beside itself. What is not here has to be drawn before it is built.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &[
            "fallback",
            "server",
            "front",
            "admin",
            "cache",
            "fetch",
            "origin",
            "limits",
            "levers",
            "guard",
            "config",
            "bench",
            "rules",
            "state",
            "telemetry",
            "clock",
            "files",
        ],
    ),
    (
        "bench",
        &["server", "config", "rules", "telemetry", "clock"],
    ),
    (
        "server",
        &[
            "fallback",
            "fleet",
            "front",
            "admin",
            "cache",
            "snapshot",
            "fetch",
            "origin",
            "limits",
            "levers",
            "guard",
            "config",
            "rules",
            "state",
            "telemetry",
            "clock",
            "files",
        ],
    ),
    (
        "front",
        &[
            "snapshot",
            "fallback",
            "fleet",
            "guard",
            "cache",
            "fetch",
            "origin",
            "limits",
            "levers",
            "config",
            "rules",
            "telemetry",
            "clock",
            "files",
        ],
    ),
    (
        "admin",
        &[
            "fallback",
            "fleet",
            "cache",
            "snapshot",
            "fetch",
            "origin",
            "limits",
            "levers",
            "config",
            "rules",
            "state",
            "telemetry",
            "clock",
            "files",
        ],
    ),
    // A fetch is what joins its neighbours: it asks an origin and fills the cache, as a route of the config says.
    (
        "fetch",
        &[
            "cache",
            "snapshot",
            "origin",
            "config",
            "rules",
            "telemetry",
            "clock",
        ],
    ),
    // What it keeps, it takes from the cache and gives back to it.
    ("snapshot", &["cache", "rules", "telemetry", "clock"]),
    ("cache", &["rules", "telemetry", "clock"]),
    ("origin", &["rules", "telemetry", "clock"]),
    ("limits", &["redis", "rules", "telemetry", "clock", "files"]),
    (
        "levers",
        &["config", "rules", "state", "telemetry", "clock"],
    ),
    (
        "fallback",
        &["cache", "config", "origin", "rules", "telemetry"],
    ),
    (
        "fleet",
        &["levers", "config", "redis", "rules", "telemetry", "clock"],
    ),
    ("guard", &["config", "rules", "telemetry", "clock", "files"]),
    // What an upstream is, is the origin's to say, and what a limit or an identity is, the limits'.
    (
        "config",
        &[
            "origin",
            "limits",
            "redis",
            "rules",
            "state",
            "telemetry",
            "clock",
        ],
    ),
    ("redis", &["telemetry"]),
    ("rules", &[]),
    ("state", &["telemetry", "clock"]),
    ("telemetry", &["rules", "clock"]),
    ("clock", &["rules"]),
    ("files", &[]),
];

/// Single things that may be named where their room may not: the workers' heartbeat.
const THINGS: &[(&str, &str, &str)] = &[("front", "admin", "Health")];

fn arrows_point_down() -> Outcome {
    let mut faults = Vec::new();
    for source in sources()? {
        let room = source.room();
        let allowed = ARROWS.iter().find(|(from, _)| *from == room);
        let Some((_, allowed)) = allowed else {
            faults.push(format!("{}: the room {room} is on no map", source.path));
            continue;
        };
        for arrow in source.arrows() {
            let thing = THINGS.iter().any(|(from, to, thing)| {
                (*from, *to) == (room, &*arrow.room) && arrow.thing.as_deref() == Some(thing)
            });
            if arrow.room != room && !allowed.contains(&&*arrow.room) && !thing {
                faults.push(format!(
                    "{}:{}: {room} → {}",
                    source.path, arrow.line, arrow.room
                ));
            }
        }
    }
    none("arrows that point up or sideways", faults)
}

fn only_four_name_pingora() -> Outcome {
    let may = ["front", "fetch", "origin", "server"];
    let mut faults = Vec::new();
    for source in sources()? {
        if !may.contains(&source.room()) {
            faults.extend(source.naming(|word| word.starts_with("pingora"), Whole::All));
        }
    }
    none("names of the engine", faults)
}

fn rules_are_pure() -> Outcome {
    let impure = [
        "tokio",
        "async",
        "await",
        "SystemTime",
        "Instant",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "fs",
        "env",
        "prometheus",
        "tracing",
        "arc_swap",
        "moka",
    ];
    let mut faults = Vec::new();
    for source in sources()? {
        if source.room() == "rules" {
            faults.extend(source.naming(|word| impure.contains(&word), Whole::WithoutTests));
            let others = source.arrows().filter(|arrow| arrow.room != "rules");
            faults.extend(
                others.map(|arrow| format!("{}:{}: {}", source.path, arrow.line, arrow.room)),
            );
        }
    }
    none("rules that know more than their arguments", faults)
}

fn only_clock_reads_the_time() -> Outcome {
    let mut faults = Vec::new();
    for source in sources()?.iter().filter(|source| source.room() != "clock") {
        let words: Vec<&Word> = source.words(Whole::WithoutTests).collect();
        for three in words.windows(3) {
            let [clock, colons, now] = three else {
                continue;
            };
            let clocks = ["Instant", "SystemTime", "OffsetDateTime", "Utc"];
            if clocks.contains(&&*clock.text) && colons.text == "::" && now.text == "now" {
                faults.push(format!(
                    "{}:{}: {}::now",
                    source.path, clock.line, clock.text
                ));
            }
        }
    }
    none("clocks read outside clock.rs", faults)
}

fn none(what: &str, faults: Vec<String>) -> Outcome {
    if faults.is_empty() {
        return Ok(());
    }
    let mut text = format!("{what}:");
    for fault in faults {
        let _ = write!(text, "\n  {fault}");
    }
    Err(text)
}

/// A file of `src/`.
struct Source {
    /// Below the project's root.
    path: String,
    /// Modules from the crate's root to the file.
    module: Vec<String>,
    words: Vec<Word>,
}

/// An identifier, a path's `::`, or a mark.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    line: usize,
    text: String,
    /// Modules that stand open within the file.
    depth: usize,
    test: bool,
}

struct Arrow {
    line: usize,
    room: String,
    thing: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    All,
    WithoutTests,
}

impl Source {
    fn new(path: String, text: &str) -> Source {
        let mut module: Vec<String> = Path::new(&path)
            .with_extension("")
            .iter()
            .skip(1)
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if module.len() > 1 && module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let test = module.iter().any(|part| part == "tests");
        let words = read(text, test);
        Source {
            path,
            module,
            words,
        }
    }

    fn room(&self) -> &str {
        &self.module[0]
    }

    fn words(&self, whole: Whole) -> impl Iterator<Item = &Word> {
        let all = whole == Whole::All;
        self.words.iter().filter(move |word| all || !word.test)
    }

    fn naming(&self, is: impl Fn(&str) -> bool, whole: Whole) -> Vec<String> {
        self.words(whole)
            .filter(|word| is(&word.text))
            .map(|word| format!("{}:{}: {}", self.path, word.line, word.text))
            .collect()
    }

    /// Every path that starts at the crate's root, however it is written.
    fn arrows(&self) -> impl Iterator<Item = Arrow> {
        let mut arrows = Vec::new();
        let text = |at: usize| self.words.get(at).map_or("", |word| &*word.text);
        let mut at = 0;
        while at < self.words.len() {
            let word = &self.words[at];
            let after_path = at > 0 && text(at - 1) == "::";
            let mut next = at + 1;
            let rooted = match &*word.text {
                "crate" => true,
                "super" if !after_path => {
                    let mut up = 1;
                    while text(next) == "::" && text(next + 1) == "super" {
                        next += 2;
                        up += 1;
                    }
                    // The crate's root is one above the outermost module.
                    let depth = self.module.len() + word.depth;
                    up == depth && !matches!(self.room(), "lib" | "main")
                }
                _ => false,
            };
            if rooted && text(next) == "::" {
                self.targets(next + 1, &mut arrows);
            }
            at = next;
        }
        arrows.into_iter()
    }

    /// The rooms named at a path's second place: one, or several in braces.
    fn targets(&self, at: usize, arrows: &mut Vec<Arrow>) {
        let text = |at: usize| self.words.get(at).map_or("", |word| &*word.text);
        let mut name = |at: usize| {
            let thing = (text(at + 1) == "::").then(|| text(at + 2).to_owned());
            arrows.push(Arrow {
                line: self.words[at].line,
                room: text(at).to_owned(),
                thing,
            });
        };
        if text(at) != "{" {
            if at < self.words.len() {
                name(at);
            }
            return;
        }
        let mut open = 0;
        for next in at..self.words.len() {
            match text(next) {
                "{" => open += 1,
                "}" if open == 1 => return,
                "}" => open -= 1,
                _ if open == 1 && matches!(text(next - 1), "{" | ",") => name(next),
                _ => {}
            }
        }
    }
}

fn sources() -> Result<Vec<Source>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&root.join("src"), &mut files)?;
    files.sort();
    if files.len() < 10 {
        return Err("where is the source?".into());
    }
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file);
        Ok(Source::new(path.display().to_string(), &text))
    };
    files.iter().map(read).collect()
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(&path, out)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// The words of a source, without comments, strings and characters. What stands in a module under `#[cfg(test)]`, or
/// below a function that is a test, is the tests'.
fn read(text: &str, tests: bool) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    // For each open brace: whether it is a module's, and whether what is in it is the tests'.
    let mut braces: Vec<(bool, bool)> = Vec::new();
    let mut marked = false;
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let skip = skipped(rest);
        if skip > 0 {
            line += rest[..skip].matches('\n').count();
            rest = &rest[skip..];
            continue;
        }
        let len = if first == '_' || first.is_alphanumeric() {
            let ends = |c: char| c != '_' && !c.is_alphanumeric();
            rest.find(ends).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let word = &rest[..len];
        rest = &rest[len..];
        let before = |back: usize| {
            let at = words.len().checked_sub(back);
            at.map_or("", |at| &*words[at].text)
        };
        match word {
            // `#[cfg(test)]` and `#[test]` belong to the item that follows.
            "test"
                if matches!(
                    (before(1), before(2)),
                    ("(", "cfg") | ("[", "#") | ("::", "tokio")
                ) =>
            {
                marked = true;
            }
            "{" => {
                let inside = braces.last().is_some_and(|(_, test)| *test);
                braces.push((before(2) == "mod", inside || marked));
                marked = false;
            }
            ";" if !braces.last().is_some_and(|(_, test)| *test) => marked = false,
            _ => {}
        }
        let test = tests || marked || braces.last().is_some_and(|(_, test)| *test);
        let depth = braces.iter().filter(|(module, _)| *module).count();
        words.push(Word {
            line,
            text: word.to_owned(),
            depth,
            test,
        });
        if word == "}" {
            braces.pop();
        }
    }
    words
}

/// How many bytes at the start are white, a comment, a string, a character or a lifetime.
fn skipped(rest: &str) -> usize {
    let to = |end: &str, from: usize| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    let bytes = rest.as_bytes();
    match bytes {
        [b, ..] if b.is_ascii_whitespace() => 1,
        [b'/', b'/', ..] => to("\n", 2),
        [b'/', b'*', ..] => to("*/", 2),
        [b'"', ..] => quoted(bytes, 1),
        [b'b', b'"', ..] => quoted(bytes, 2),
        [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] => {
            let start = 1 + usize::from(bytes[0] == b'b');
            let hashes = bytes[start..].iter().take_while(|b| **b == b'#').count();
            if bytes.get(start + hashes) != Some(&b'"') {
                return 0;
            }
            to(&format!("\"{}", "#".repeat(hashes)), start + hashes + 1)
        }
        [b'\'', b'\\', ..] => to("'", 3),
        [b'b', b'\'', b'\\', ..] => to("'", 4),
        [b'b', b'\'', _, b'\'', ..] => 4,
        [b'\'', ..] => {
            let mut chars = rest.char_indices().skip(2);
            match chars.next() {
                Some((at, '\'')) => at + 1,
                _ => 1,
            }
        }
        _ => 0,
    }
}

/// The end of a string that began before `at`.
fn quoted(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

/// What would be overlooked must not be.
fn the_reader_reads() -> Outcome {
    let text = r##"
        //! crate::server, pingora
        use crate::{admin::Health, rules::{time, fresh}, front};
        const A: &str = "crate::cli \" "; const B: char = '"'; const C: u8 = b'\''; const D: &str = r#"crate::main""#;
        fn a<'b>(x: &'b str) -> crate::cache::Key { super::super::fetch::go(x); super::sibling() }
        #[cfg(test)]
        use std::time::Instant as Other;
        fn late() { Instant::now(); }
        #[cfg(test)]
        mod tests { use super::super::super::origin; use super::super::nobody; fn t() { SystemTime::now(); } }
        fn last() { SystemTime::now(); }
    "##;
    let source = Source::new("src/telemetry/sample.rs".into(), text);
    let rooms: Vec<String> = source.arrows().map(|arrow| arrow.room).collect();
    let expected = ["admin", "rules", "front", "cache", "fetch", "origin"];
    if rooms != expected {
        return Err(format!("arrows read as {rooms:?}, should be {expected:?}"));
    }
    let thing = source.arrows().next().and_then(|arrow| arrow.thing);
    if thing.as_deref() != Some("Health") {
        return Err(format!("the thing was read as {thing:?}"));
    }
    let now = |whole| {
        source
            .words(whole)
            .filter(|word| word.text == "now")
            .count()
    };
    if (now(Whole::All), now(Whole::WithoutTests)) != (3, 2) {
        return Err("tests are not told apart".into());
    }
    if !source
        .naming(|word| word == "pingora", Whole::All)
        .is_empty()
    {
        return Err("a comment was read".into());
    }
    Ok(())
}

//! A scenario: who comes, for what, what the origin behind it can bear, and what happens meanwhile. A TOML file that people can copy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::report::Told;
use crate::config::units;

/// Those that come with the program.
pub const OWN: [(&str, &str); 8] = [
    (
        "viral-post",
        include_str!("../../../config/scenarios/viral-post.toml"),
    ),
    (
        "flash-sale",
        include_str!("../../../config/scenarios/flash-sale.toml"),
    ),
    (
        "api-stampede",
        include_str!("../../../config/scenarios/api-stampede.toml"),
    ),
    (
        "origin-brownout",
        include_str!("../../../config/scenarios/origin-brownout.toml"),
    ),
    (
        "origin-death",
        include_str!("../../../config/scenarios/origin-death.toml"),
    ),
    (
        "bot-flood",
        include_str!("../../../config/scenarios/bot-flood.toml"),
    ),
    (
        "purge-all",
        include_str!("../../../config/scenarios/purge-all.toml"),
    ),
    (
        "restart",
        include_str!("../../../config/scenarios/restart.toml"),
    ),
];

/// The longest run.
const LONGEST: Duration = Duration::from_secs(600);
/// The most requests of a run.
const MOST: f64 = 5_000_000.0;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// A sentence.
    pub about: String,
    /// How long requests come.
    #[serde(deserialize_with = "duration")]
    pub lasts: Duration,
    /// From here on it is the spike: goodput and the first second count from then.
    #[serde(default, deserialize_with = "duration")]
    pub spike_at: Duration,
    /// Asks for every page that may be stored once, before anything is measured.
    #[serde(default)]
    pub warm: bool,
    pub crowd: Vec<Crowd>,
    pub pages: Vec<Pages>,
    #[serde(default)]
    pub origin: Origin,
    #[serde(default)]
    pub event: Vec<Event>,
    /// What a target that can limit clients is told to let each have, in requests a second.
    #[serde(default)]
    pub limit_per_client: Option<u32>,
}

/// Some who come.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    /// How many requests a second, and from when on. Between two points it rises or falls evenly; two points at one moment are a step.
    #[serde(default)]
    pub rate: Vec<Point>,
    /// Instead of `rate`: an access log, replayed so many times as fast as it was written.
    #[serde(default)]
    pub log: Option<Replay>,
    #[serde(default = "random")]
    pub spacing: Spacing,
    /// From so many addresses; 0: one.
    #[serde(default)]
    pub clients: u32,
    /// How long one waits for the end of an answer.
    #[serde(default = "five_seconds", deserialize_with = "duration")]
    pub patience: Duration,
    /// How often a browser tries again that could not connect or was cut off before an answer had begun.
    #[serde(default)]
    pub retries: u32,
    /// The share of requests that come on a connection of their own.
    #[serde(default)]
    pub new_connections: f64,
    /// The share that press reload, `Cache-Control: no-cache`.
    #[serde(default)]
    pub reload: f64,
    /// The share of those who are signed in: a cookie of their own.
    #[serde(default)]
    pub signed_in: f64,
    /// The share of clients that speak HTTP/2.
    #[serde(default)]
    pub http2: f64,
    /// Only these groups of pages, by name; none: all, by their weights.
    #[serde(default)]
    pub wants: Vec<String>,
    /// They are not who the site is for: their answers are counted apart.
    #[serde(default)]
    pub unwanted: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    pub rate: f64,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    pub file: PathBuf,
    #[serde(default = "one")]
    pub times: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    Even,
    Random,
}

/// Pages that are alike.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    pub name: String,
    #[serde(default = "one_page")]
    pub count: u32,
    /// How much of the crowd is for them, beside the other groups.
    #[serde(default = "one")]
    pub weight: f64,
    /// The n-th is asked for in proportion to n^-zipf.
    #[serde(default)]
    pub zipf: f64,
    #[serde(default = "twenty_kib", deserialize_with = "size")]
    pub size: u64,
    #[serde(default)]
    pub kind: Kind,
    /// `max-age`.
    #[serde(default = "a_minute", deserialize_with = "duration")]
    pub ttl: Duration,
    /// `stale-while-revalidate`.
    #[serde(default, deserialize_with = "duration")]
    pub swr: Duration,
    /// `stale-if-error`.
    #[serde(default, deserialize_with = "duration")]
    pub sie: Duration,
    /// So many times as long as the origin takes for others.
    #[serde(default = "one")]
    pub takes: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Public,
    /// Everybody's own: `private`, and by the cookie.
    Private,
    /// `no-store`.
    Uncacheable,
}

/// An app, as it is: so many workers, and what becomes of it when more comes.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Origin {
    /// Requests it works on at once at its usual pace.
    pub at_once: usize,
    #[serde(deserialize_with = "duration")]
    pub takes: Duration,
    pub spread: Spread,
    /// For each further `at_once` that it has in hand everything takes so much longer, as a share: caches, locks, memory.
    pub degrades: f64,
    /// More than this in hand and it answers 503.
    pub most: usize,
    /// After it has started or come back it takes so many times as long, ...
    pub cold_times: f64,
    /// ... less and less, for so long.
    #[serde(deserialize_with = "duration")]
    pub cold_for: Duration,
}

impl Default for Origin {
    fn default() -> Origin {
        Origin {
            at_once: 8,
            takes: Duration::from_millis(50),
            spread: Spread::Lognormal,
            degrades: 0.0,
            most: 1024,
            cold_times: 1.0,
            cold_for: Duration::ZERO,
        }
    }
}

/// How the times of its work differ, about their mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    Fixed,
    /// With a standard deviation of a third of the mean or so: as apps have it.
    Lognormal,
    Exponential,
}

#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Event {
    pub at: Duration,
    pub what: What,
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "duration")]
    at: Duration,
    what: String,
    #[serde(default)]
    times: Option<f64>,
    #[serde(default)]
    share: Option<f64>,
}

impl TryFrom<Written> for Event {
    type Error = String;

    fn try_from(written: Written) -> Result<Event, String> {
        let Written {
            at,
            what,
            times,
            share,
        } = written;
        let what = match (what.as_str(), times, share) {
            ("slow", Some(times), None) if times > 0.0 && times.is_finite() => What::Slow { times },
            ("slow", ..) => return Err("`slow` takes `times`, more than 0".to_owned()),
            ("errors", None, share) => What::Errors {
                share: share.unwrap_or(1.0).clamp(0.0, 1.0),
            },
            ("reset", None, None) => What::Reset,
            ("hang", None, None) => What::Hang,
            ("dead", None, None) => What::Dead,
            ("back", None, None) => What::Back,
            ("purge", None, None) => What::Purge,
            ("restart", None, None) => What::Restart,
            ("errors" | "reset" | "hang" | "dead" | "back" | "purge" | "restart", ..) => {
                return Err(format!("`{what}` takes no such thing"));
            }
            _ => {
                return Err(format!(
                    "{what:?} is none of slow, errors, reset, hang, dead, back, purge, restart"
                ));
            }
        };
        Ok(Event { at, what })
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum What {
    /// The origin takes so many times as long.
    Slow { times: f64 },
    /// It answers 500, this share of the time.
    Errors { share: f64 },
    /// It resets connections.
    Reset,
    /// It takes requests and never answers.
    Hang,
    /// Nobody listens.
    Dead,
    /// It is as it was.
    Back,
    /// All pages are others now, and all caches are told.
    Purge,
    /// The target is killed and started again.
    Restart,
}

impl What {
    /// For people, in a word or two.
    pub fn words(self) -> String {
        match self {
            What::Slow { times } => format!("origin {times} times slower"),
            What::Errors { share } => format!("origin fails {:.0} %", share * 100.0),
            What::Reset => "origin resets connections".to_owned(),
            What::Hang => "origin hangs".to_owned(),
            What::Dead => "origin dead".to_owned(),
            What::Back => "origin back".to_owned(),
            What::Purge => "everything purged".to_owned(),
            What::Restart => "killed and started again".to_owned(),
        }
    }
}

impl Scenario {
    /// A scenario of ours by its name, or a file.
    ///
    /// # Errors
    /// There is none such, or what is wrong with it; for people.
    pub fn find(name: &str) -> Result<Scenario, String> {
        if let Some((_, text)) = OWN.iter().find(|(own, _)| *own == name) {
            return Scenario::read(text).map_err(|why| format!("{name}: {why}"));
        }
        let path = Path::new(name);
        if !path.exists() {
            let names: Vec<_> = OWN.iter().map(|(own, _)| *own).collect();
            return Err(format!(
                "there is no scenario {name:?}, nor a file of that name; ours are {}",
                names.join(", ")
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
        Scenario::read(&text).map_err(|why| format!("{name}: {why}"))
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it; for people.
    pub fn read(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|e| e.to_string())?;
        match scenario.fault() {
            Some(why) => Err(why),
            None => Ok(scenario),
        }
    }

    pub fn told(&self) -> Told {
        Told {
            name: self.name.clone(),
            about: self.about.clone(),
        }
    }

    /// When it is all as it was again after the last that happens, if it is so before the end.
    pub fn over_at(&self) -> Option<Duration> {
        let last = self.event.last()?;
        let ends = matches!(last.what, What::Back | What::Purge | What::Restart);
        ends.then_some(last.at)
    }

    fn fault(&self) -> Option<String> {
        let told = |why: &str| Some(why.to_owned());
        if self.lasts.is_zero() || self.lasts > LONGEST {
            return told("`lasts` is up to 10m");
        }
        if self.spike_at >= self.lasts {
            return told("`spike_at` is before the end");
        }
        if self.crowd.is_empty() || self.pages.is_empty() {
            return told("it takes a [[crowd]] and [[pages]]");
        }
        for pages in &self.pages {
            if pages.count == 0 || pages.weight <= 0.0 || pages.takes < 0.0 || pages.zipf < 0.0 {
                return Some(format!(
                    "pages {:?}: `count` and `weight` are more than 0, `takes` and `zipf` not less",
                    pages.name
                ));
            }
            if pages.size > 64 << 20 {
                return Some(format!("pages {:?}: `size` is up to 64MiB", pages.name));
            }
        }
        let mut total = 0.0;
        for crowd in &self.crowd {
            if crowd.rate.is_empty() == crowd.log.is_none() {
                return told("a [[crowd]] has either `rate` or `log`");
            }
            if !crowd.rate.is_sorted_by_key(|point| point.at) {
                return told("the points of `rate` are in the order of their `at`");
            }
            if crowd
                .rate
                .iter()
                .any(|point| !(0.0..=1e6).contains(&point.rate))
            {
                return told("`rate` is from 0 to 1000000");
            }
            let shares = [
                ("new_connections", crowd.new_connections),
                ("reload", crowd.reload),
                ("signed_in", crowd.signed_in),
                ("http2", crowd.http2),
            ];
            if let Some((name, _)) = shares
                .iter()
                .find(|(_, share)| !(0.0..=1.0).contains(share))
            {
                return Some(format!("`{name}` is a share, from 0 to 1"));
            }
            if let Some(unknown) = (crowd.wants.iter())
                .find(|name| self.pages.iter().all(|pages| pages.name != **name))
            {
                return Some(format!("there are no pages {unknown:?}"));
            }
            if let Some(log) = &crowd.log
                && !(log.times > 0.0 && log.times.is_finite())
            {
                return told("`times` is more than 0");
            }
            total += super::visits::total(&crowd.rate, self.lasts);
        }
        if total > MOST {
            return Some(format!("that is {total:.0} requests: 5 million at most"));
        }
        if self.origin.at_once == 0 || self.origin.most < self.origin.at_once {
            return told("`at_once` is at least 1, and `most` not less");
        }
        let events = &self.event;
        if !events.is_sorted_by_key(|event| event.at)
            || events.iter().any(|event| event.at >= self.lasts)
        {
            return told("events are in the order of their `at`, and before the end");
        }
        None
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    units::duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration, as in 300ms or 10s")))
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    units::size(&text).map_err(|_| D::Error::custom(format!("{text:?} is no size, as in 20KiB")))
}

fn random() -> Spacing {
    Spacing::Random
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

fn twenty_kib() -> u64 {
    20 << 10
}

fn one() -> f64 {
    1.0
}

fn one_page() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_can_be_read_and_tell_of_themselves() {
        for (name, _) in OWN {
            let scenario = Scenario::find(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(scenario.about.ends_with('.'), "{name}");
            // With a start before it and a report behind it, a run takes 20 s at most.
            assert!(scenario.lasts <= Duration::from_secs(15), "{name}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        const GOOD: &str = "name = 'a'\nabout = 'b'\nlasts = '9s'\n[[crowd]]\nrate = [{ at = '0s', rate = 5 }]\n[[pages]]\nname = 'c'\n";
        Scenario::read(GOOD).unwrap();
        for (from, to, why) in [
            ("lasts = '9s'", "lasts = '9'", "no duration"),
            ("lasts = '9s'", "lasts = '9h'", "up to 10m"),
            (
                "lasts = '9s'",
                "lasts = '9s'\nspike_at = '9s'",
                "before the end",
            ),
            ("rate = 5 }", "rate = -5 }", "from 0"),
            (
                "rate = 5 }",
                "rate = 5 }, { at = '1s', rate = 1000000 }",
                "requests",
            ),
            ("rate = [{ at = '0s', rate = 5 }]", "", "either"),
            ("[[pages]]", "reload = 2.0\n[[pages]]", "a share"),
            ("[[pages]]", "wants = ['x']\n[[pages]]", "no pages \"x\""),
            ("name = 'c'", "name = 'c'\ncount = 0", "more than 0"),
            ("name = 'c'", "name = 'c'\nsiez = '1KiB'", "siez"),
            (
                "name = 'c'",
                "name = 'c'\n[[event]]\nat = '9s'\nwhat = 'dead'",
                "before the end",
            ),
            (
                "name = 'c'",
                "name = 'c'\n[[event]]\nat = '1s'\nwhat = 'dad'",
                "dad",
            ),
        ] {
            let text = GOOD.replace(from, to);
            let told = Scenario::read(&text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        assert!(
            Scenario::find("nowhere")
                .unwrap_err()
                .contains("viral-post")
        );
    }
}

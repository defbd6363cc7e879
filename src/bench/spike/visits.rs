//! Who asks for what, and when: written down before anything is sent, from a seed, so that every target meets the same crowd.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::scenario::{Crowd, Kind, Point, Scenario, Spacing};
use crate::bench::schedule::{Random, Zipf};

/// One request to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visit {
    /// When it is due, from the start.
    pub at: Duration,
    /// Its place in [`Site::pages`].
    pub page: u32,
    /// Whose it is: an address of its own, but for client 0.
    pub client: u32,
    /// Whose cookie it brings.
    pub user: Option<u32>,
    /// Its place in the scenario's crowds.
    pub crowd: u16,
    pub reload: bool,
    pub new_connection: bool,
    pub http2: bool,
}

/// A page of the origin's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    pub path: String,
    /// Its place in the scenario's groups of pages.
    pub group: usize,
    pub kind: Kind,
}

/// All pages there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Site {
    pub pages: Vec<Page>,
    /// The first page of each group.
    firsts: Vec<u32>,
    by_path: HashMap<String, u32>,
}

impl Site {
    pub fn of(scenario: &Scenario) -> Site {
        let mut site = Site::default();
        for (group, pages) in scenario.pages.iter().enumerate() {
            site.firsts.push(site.pages.len() as u32);
            for n in 0..pages.count {
                let path = match pages.count {
                    1 => format!("/{}", pages.name),
                    _ => format!("/{}/{n}", pages.name),
                };
                site.add(path, group, pages.kind);
            }
        }
        site
    }

    /// Pages at these paths, of one group.
    pub fn at(paths: &[String]) -> Site {
        let mut site = Site {
            firsts: vec![0],
            ..Site::default()
        };
        for path in paths {
            site.add(path.clone(), 0, Kind::Public);
        }
        site
    }

    fn add(&mut self, path: String, group: usize, kind: Kind) -> u32 {
        let page = self.pages.len() as u32;
        self.by_path.insert(path.clone(), page);
        self.pages.push(Page { path, group, kind });
        page
    }

    /// The page at a path.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).map(|page| *page as usize)
    }
}

/// All of a scenario's visits in the order they are due, and whatever pages a log of its asks for beside its own.
///
/// # Errors
/// A log that can't be read; for people.
pub fn visits(scenario: &Scenario, site: &mut Site, seed: u64) -> Result<Arc<[Visit]>, String> {
    let mut all = Vec::new();
    for (number, crowd) in scenario.crowd.iter().enumerate() {
        let mut random = Random::new(seed ^ ((number as u64 + 1) << 48));
        let groups = groups(scenario, crowd);
        let zipfs: Vec<_> = scenario
            .pages
            .iter()
            .map(|pages| Zipf::new(pages.count, pages.zipf))
            .collect();
        let mut push = |site: &Site, at: Duration, page: Option<u32>, random: &mut Random| {
            let page = page.unwrap_or_else(|| {
                let group = pick(&groups, random);
                site.firsts[group] + zipfs[group].page(random)
            });
            let client = match crowd.clients {
                0 => 0,
                some => 1 + number as u32 * 100_000 + random.below(some),
            };
            // Who is signed in is so always, and who speaks HTTP/2 too: it goes by the client.
            let mut own = Random::new(seed ^ u64::from(client) << 20 ^ 0x5eed);
            let mut trait_of = |share: f64, random: &mut Random| match client {
                0 => random.share() < share,
                _ => own.share() < share,
            };
            let signed_in = trait_of(crowd.signed_in, random);
            let http2 = trait_of(crowd.http2, random);
            let private = site
                .pages
                .get(page as usize)
                .is_some_and(|page| page.kind == Kind::Private);
            let user = (signed_in || private).then(|| match client {
                0 => random.below(1000),
                client => client,
            });
            all.push(Visit {
                at,
                page,
                client,
                user,
                crowd: number as u16,
                reload: random.share() < crowd.reload,
                new_connection: random.share() < crowd.new_connections,
                http2,
            });
        };
        match &crowd.log {
            None => times(&crowd.rate, scenario.lasts, crowd.spacing, &mut random)
                .into_iter()
                .for_each(|at| push(site, at, None, &mut random)),
            Some(replay) => {
                let name = replay.file.display();
                let text = fs::read_to_string(&replay.file).map_err(|e| format!("{name}: {e}"))?;
                let lines = logged(&text);
                if lines.is_empty() {
                    return Err(format!("{name}: no line of it is an access log's"));
                }
                for (at, path) in lines {
                    let at = at.div_f64(replay.times);
                    if at >= scenario.lasts {
                        break;
                    }
                    let page = match site.find(&path) {
                        Some(page) => page as u32,
                        None => site.add(path, 0, scenario.pages[0].kind),
                    };
                    push(site, at, Some(page), &mut random);
                }
            }
        }
    }
    all.sort_by_key(|visit| visit.at);
    Ok(all.into())
}

/// The groups that a crowd wants, with the chance of each or one before it.
fn groups(scenario: &Scenario, crowd: &Crowd) -> Vec<(usize, f64)> {
    let wants = |name: &String| crowd.wants.is_empty() || crowd.wants.contains(name);
    let mut sum = 0.0;
    let all = scenario.pages.iter().enumerate();
    let mut groups: Vec<_> = all
        .filter(|(_, pages)| wants(&pages.name))
        .map(|(group, pages)| {
            sum += pages.weight;
            (group, sum)
        })
        .collect();
    groups.iter_mut().for_each(|(_, up_to)| *up_to /= sum);
    groups
}

fn pick(groups: &[(usize, f64)], random: &mut Random) -> usize {
    let drawn = random.share();
    let at = groups.partition_point(|(_, up_to)| *up_to <= drawn);
    groups[at.min(groups.len() - 1)].0
}

/// How many requests a rate comes to.
pub fn total(rate: &[Point], lasts: Duration) -> f64 {
    stretches(rate, lasts).map(|one| one.count()).sum()
}

/// A time in which the rate rises, falls or stays.
struct Stretch {
    from: f64,
    to: f64,
    first: f64,
    last: f64,
}

impl Stretch {
    fn count(&self) -> f64 {
        (self.to - self.from) * (self.first + self.last) / 2.0
    }

    /// When the `n`-th of it comes, 0 being its beginning: where the area below the rate is `n`.
    fn when(&self, n: f64) -> f64 {
        let slope = (self.last - self.first) / (self.to - self.from);
        // first·x + slope·x²/2 = n, so written that a slope of next to nothing does no harm.
        let root = (self.first * self.first + 2.0 * slope * n).max(0.0).sqrt();
        let sum = self.first + root;
        let after = if sum > 0.0 { 2.0 * n / sum } else { 0.0 };
        self.from + after
    }
}

fn stretches(rate: &[Point], lasts: Duration) -> impl Iterator<Item = Stretch> + '_ {
    let end = lasts.as_secs_f64();
    let last = rate
        .last()
        .map(|point| (point.at.as_secs_f64(), point.rate));
    let tail = last.filter(|(at, _)| *at < end).map(|(at, rate)| Stretch {
        from: at,
        to: end,
        first: rate,
        last: rate,
    });
    let pairs = rate.windows(2).filter_map(move |pair| {
        let (from, to) = (pair[0].at.as_secs_f64(), pair[1].at.as_secs_f64());
        if to <= from || from >= end {
            return None;
        }
        let slope = (pair[1].rate - pair[0].rate) / (to - from);
        let to = to.min(end);
        Some(Stretch {
            from,
            to,
            first: pair[0].rate,
            last: pair[0].rate + slope * (to - from),
        })
    });
    pairs.chain(tail)
}

/// When requests come: by the area below the rate, evenly spaced in it or as a Poisson process.
fn times(rate: &[Point], lasts: Duration, spacing: Spacing, random: &mut Random) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut next = 0.0;
    let mut before = 0.0;
    for stretch in stretches(rate, lasts) {
        let count = stretch.count();
        while next < before + count {
            times.push(Duration::from_secs_f64(stretch.when(next - before)));
            next += match spacing {
                Spacing::Even => 1.0,
                Spacing::Random => -(1.0 - random.share()).ln(),
            };
        }
        before += count;
    }
    times
}

/// What an access log asks for, and when after its first line: lines of ours (JSON), or in the common or combined format of Apache and
/// nginx. Only GET is replayed.
fn logged(text: &str) -> Vec<(Duration, String)> {
    let mut lines: Vec<(u64, String)> = text.lines().filter_map(line).collect();
    lines.sort_by_key(|(at, _)| *at);
    let first = lines.first().map_or(0, |(at, _)| *at);
    // Within a second of the common format they come evenly.
    let mut out = Vec::with_capacity(lines.len());
    let mut from = 0;
    while from < lines.len() {
        let at = lines[from].0;
        let same = lines[from..].partition_point(|(other, _)| *other == at);
        for (n, (_, path)) in lines[from..from + same].iter().enumerate() {
            let within = match at % 1000 {
                0 if same > 1 => Duration::from_secs(1).mul_f64(n as f64 / same as f64),
                _ => Duration::ZERO,
            };
            out.push((Duration::from_millis(at - first) + within, path.clone()));
        }
        from += same;
    }
    out
}

/// Unix milliseconds, and the target.
fn line(text: &str) -> Option<(u64, String)> {
    if text.starts_with('{') {
        let told: serde_json::Value = serde_json::from_str(text).ok()?;
        if told["method"] != "GET" {
            return None;
        }
        let path = told["path"].as_str()?;
        let query = told["query"].as_str().filter(|query| !query.is_empty());
        let target = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
        return Some((rfc3339(told["time"].as_str()?)?, target));
    }
    let (_, rest) = text.split_once('[')?;
    let (time, rest) = rest.split_once(']')?;
    let mut words = rest.split('"').nth(1)?.split(' ');
    let target = words
        .next()
        .filter(|method| *method == "GET")
        .and(words.next())?;
    Some((common(time)?, target.to_owned()))
}

/// `2026-11-21T02:46:15.123Z`
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.trim_end_matches('Z').split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let days = days(date.next()??, date.next()??, date.next()??)?;
    Some(days * 86_400_000 + day_millis(time)?)
}

/// `21/Nov/2026:02:46:15 +0000`
fn common(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = text.split(' ').next()?;
    let (date, time) = text.split_once(':')?;
    let mut date = date.split('/');
    let day = date.next()?.parse().ok()?;
    let month = date.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let days = days(date.next()?.parse().ok()?, month, day)?;
    Some(days * 86_400_000 + day_millis(time)?)
}

fn day_millis(text: &str) -> Option<u64> {
    let (text, millis) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
    let seconds = parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??;
    let millis: u64 = format!("{millis:0<3}").get(..3)?.parse().ok()?;
    Some(seconds * 1000 + millis)
}

/// Days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(points: &[(f64, f64)]) -> Vec<Point> {
        let point = |&(at, rate): &(f64, f64)| Point {
            at: Duration::from_secs_f64(at),
            rate,
        };
        points.iter().map(point).collect()
    }

    fn even(rate: &[(f64, f64)], lasts: f64) -> Vec<f64> {
        let lasts = Duration::from_secs_f64(lasts);
        let mut random = Random::new(1);
        let times = times(&points(rate), lasts, Spacing::Even, &mut random);
        times.iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn they_come_at_the_rate() {
        assert_eq!(even(&[(0.0, 2.0)], 2.0), [0.0, 0.5, 1.0, 1.5]);
        // A step.
        let step = even(&[(0.0, 10.0), (1.0, 10.0), (1.0, 1000.0)], 2.0);
        assert_eq!(step.len(), 1010);
        assert_eq!(step.iter().filter(|at| **at < 1.0).count(), 10);
        // A ramp from nothing: half of what comes at its end, a quarter of it in the first half.
        let ramp = even(&[(0.0, 0.0), (10.0, 200.0)], 10.0);
        assert_eq!(ramp.len(), 1000);
        assert_eq!(ramp.iter().filter(|at| **at < 5.0).count(), 250);
        assert!(ramp.is_sorted());
        // A sawtooth, cut off in the middle of a tooth.
        let saw = even(&[(0.0, 0.0), (1.0, 100.0), (1.0, 0.0), (2.0, 100.0)], 1.5);
        assert_eq!(saw.len(), 63);
        assert!(even(&[(1.0, 10.0)], 2.0).iter().all(|at| *at >= 1.0));
    }

    #[test]
    fn by_chance_they_come_at_the_rate_too() {
        let lasts = Duration::from_secs(10);
        let rate = points(&[(0.0, 0.0), (10.0, 2000.0)]);
        let times = times(&rate, lasts, Spacing::Random, &mut Random::new(3));
        assert!((total(&rate, lasts) - 10_000.0).abs() < 1e-6);
        // Four standard deviations.
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        let first = times.iter().filter(|at| at.as_secs() < 5).count();
        assert!((2_300..2_700).contains(&first), "{first}");
    }

    const TEXT: &str = "
        name = 'a'
        about = 'b.'
        lasts = '2s'
        [[crowd]]
        rate = [{ at = '0s', rate = 1000 }]
        clients = 50
        signed_in = 0.5
        reload = 0.1
        [[crowd]]
        rate = [{ at = '0s', rate = 100 }]
        wants = ['cart']
        [[pages]]
        name = 'post'
        count = 10
        weight = 3
        [[pages]]
        name = 'cart'
        kind = 'private'
    ";

    #[test]
    fn a_crowd_is_as_the_scenario_says_and_the_same_for_the_same_seed() {
        let scenario = Scenario::read(TEXT).unwrap();
        let mut site = Site::of(&scenario);
        assert_eq!(site.pages[10].path, "/cart");
        let all = visits(&scenario, &mut site, 1).unwrap();
        assert_eq!(all, visits(&scenario, &mut site, 1).unwrap());
        assert_ne!(all, visits(&scenario, &mut site, 2).unwrap());
        assert!(all.is_sorted_by_key(|visit| visit.at));
        let of = |crowd| all.iter().filter(move |visit| visit.crowd == crowd);
        assert!(of(1).all(|visit| visit.page == 10 && visit.client == 0));
        let posts = of(0).filter(|visit| visit.page < 10).count() as f64 / of(0).count() as f64;
        assert!((0.70..0.80).contains(&posts), "{posts}");
        // Nobody is without a name where pages are everybody's own, and who has one always has it.
        assert!(
            all.iter()
                .all(|visit| visit.page != 10 || visit.user.is_some())
        );
        for client in 1..=50 {
            let mut posts = of(0).filter(|visit| visit.client == client && visit.page < 10);
            let first = posts.next().map(|visit| visit.user);
            assert!(posts.all(|visit| Some(visit.user) == first));
        }
        assert!(of(0).filter(|visit| visit.reload).count() > 100);
    }

    #[test]
    fn logs_are_replayed() {
        let ours = "{\"time\":\"2026-11-21T02:46:15.250Z\",\"method\":\"GET\",\"path\":\"/a\",\"query\":\"x=1\"}\n\
                    {\"time\":\"2026-11-21T02:46:16.000Z\",\"method\":\"POST\",\"path\":\"/b\"}\n\
                    no log\n\
                    {\"time\":\"2026-11-21T02:46:15.750Z\",\"method\":\"GET\",\"path\":\"/c\"}\n";
        let at = Duration::from_millis;
        assert_eq!(
            logged(ours),
            [(at(0), "/a?x=1".into()), (at(500), "/c".into())]
        );
        let common = "192.0.2.1 - - [21/Nov/2026:02:46:15 +0000] \"GET /a HTTP/1.1\" 200 5\n\
                      192.0.2.1 - - [21/Nov/2026:02:46:15 +0000] \"GET /b HTTP/1.1\" 200 5 \"-\" \"curl\"\n\
                      192.0.2.1 - - [21/Nov/2026:02:46:17 +0000] \"GET /c HTTP/1.1\" 200 5\n";
        let paths = [
            (at(0), "/a".into()),
            (at(500), "/b".into()),
            (at(2000), "/c".into()),
        ];
        assert_eq!(logged(common), paths);
        assert_eq!(rfc3339("1970-01-02T00:00:01.5Z"), Some(86_401_500));
        assert_eq!(
            rfc3339("2026-11-21T02:46:15Z").map(|ms| ms / 1000),
            Some(1_795_229_175)
        );
    }
}

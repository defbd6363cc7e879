//! CPU time per cached page: Tidegate beside nginx, HAProxy, Varnish and a ceiling, in one run on one machine.
//!
//! Each server has one core, the load generator the other; the order rotates from round to round. Rounds are short and
//! many, so that a machine whose speed changes is the same to all of them: times are medians of the rounds, and a ratio is
//! the median of the rounds' own ratios. Times mean nothing from one machine to another, ratios within one run do.
//!
//! `TIDEGATE_BEFORE` names another build of Tidegate, which is measured beside this one.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

mod ceiling;
mod load;
mod servers;
#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use load::Sample;
use servers::{Contender, Place};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use support::args::{self, Args};
use support::noise::Body;
use support::origin::{Origin, Plan};
use support::process::Server;
use support::report::{Checks, count, median, spread, table};
use support::svg::{self, Bar, Kind, Panel};
use support::sys;
use support::tidegate::{Folder, target};

const SIZES: [(&str, usize); 3] = [("/1k", 1 << 10), ("/10k", 10 << 10), ("/100k", 100 << 10)];
const CEILING: &str = "ceiling";
const OURS: &str = "tidegate";
const BEFORE: &str = "before";
/// In a closed loop one of the two is always busy; below this share of the time, others took its core.
const SATURATED: f64 = 0.95;
const UNDISTURBED: f64 = 0.9;
/// The least eff, and the least ratio of a peer's CPU per request to ours, at 1 and 10 KB.
const EFF: f64 = 0.80;
const AHEAD: [(&str, f64); 3] = [("nginx", 1.3), ("haproxy", 1.3), ("varnish", 2.4)];

/// One server's rounds at one size.
struct Row {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Row {
    fn cpu(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.cpu_us).collect()
    }

    fn cpu_us(&self) -> f64 {
        median(&self.cpu())
    }

    fn per_second(&self) -> f64 {
        median(
            &self
                .samples
                .iter()
                .map(|s| s.per_second)
                .collect::<Vec<_>>(),
        )
    }

    fn share(&self, pick: fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(pick).collect::<Vec<_>>())
    }

    /// Whether the generator, not the server, set the rate.
    fn generator_bound(&self) -> bool {
        self.share(|s| s.server_share) < SATURATED
    }

    /// Whether neither had its core to itself: then something else ran, and the caches were not theirs either.
    fn disturbed(&self) -> bool {
        self.share(|s| s.generator_share.max(s.server_share)) < UNDISTURBED
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, role, port, folder] = &words[..]
        && role == ceiling::ROLE
    {
        ceiling::serve(port.parse().unwrap_or(0), Path::new(folder));
        return ExitCode::SUCCESS;
    }
    args::run(
        "peers",
        "CPU time per cached page: Tidegate, nginx, HAProxy, Varnish and a ceiling in one run.",
        &[
            ("--rounds", "rounds, 60"),
            ("--millis", "length of one measurement, 250"),
            ("--peers", "0: without nginx, HAProxy and Varnish"),
        ],
        compare,
    )
}

fn compare(args: &Args) -> Result<Checks, String> {
    let rounds = args.number("--rounds", if args.quick { 2 } else { 60 }) as usize;
    let nanoseconds = args.number("--millis", if args.quick { 700 } else { 250 }) * 1_000_000;
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    let dir = Folder::temporary("peers");
    let shm = Folder::below(Path::new("/dev/shm"), "peers");

    let origin = Origin::start(client_core, false, |path| Plan::Page {
        delay: Duration::ZERO,
        len: SIZES
            .iter()
            .find(|(p, _)| *p == path)
            .map_or(0, |(_, len)| *len),
        cache_control: "public, max-age=36000",
    });
    let place = Place {
        dir: dir.path(),
        shm: shm.path(),
        origin: origin.port,
        core: server_core,
        configs: [
            include_str!("nginx.conf"),
            include_str!("haproxy.cfg"),
            include_str!("varnish.vcl"),
        ],
    };
    let mut contenders = vec![servers::start_tidegate(OURS, None, &place)?];
    if let Some(build) = std::env::var_os("TIDEGATE_BEFORE") {
        contenders.push(servers::start_tidegate(BEFORE, Some(build.into()), &place)?);
    }
    if args.number("--peers", 1) != 0 {
        contenders.extend(servers::start_peers(&place));
    }
    let first = contenders.first().ok_or("no server to measure")?;
    warm(&contenders)?;
    let model = first.name;
    let ceiling = start_ceiling(&place, first)?;
    contenders.push(ceiling);

    let names: Vec<String> = contenders
        .iter()
        .map(|c| format!("{} {}", c.name, c.version))
        .collect();
    println!("{}", names.join(", "));
    println!(
        "{rounds} rounds of {:.1} s each, 64 keep-alive connections, server on core {server_core}, generator on core \
         {client_core}, {}",
        nanoseconds as f64 / 1e9,
        sys::processor()
    );
    println!(
        "access logs to a file: tidegate, nginx; none written: haproxy, varnish (shared memory only). Metrics on: tidegate."
    );
    println!("the ceiling repeats {model}'s answers, byte for byte\n");

    let mut results = Vec::new();
    for (path, len) in SIZES {
        let rows = measure(&contenders, path, len, rounds, nanoseconds, &origin)?;
        println!("{}", text_table(len, &rows));
        results.push((len, rows));
    }
    let mut checks = Checks::default();
    judge(&results, &mut checks);
    write_results(&results, &contenders, &checks, nanoseconds)?;
    Ok(checks)
}

/// Each page once from the origin, then from the cache.
fn warm(contenders: &[Contender]) -> Result<(), String> {
    for contender in contenders {
        for (path, len) in SIZES {
            for _ in 0..3 {
                let answer = load::one_answer(contender.port, path, Body::of(path, len));
                answer.map_err(|why| format!("{}: {why}", contender.name))?;
            }
        }
    }
    Ok(())
}

/// The ceiling, answering what `model` answers.
fn start_ceiling(place: &Place, model: &Contender) -> Result<Contender, String> {
    for (number, (path, len)) in SIZES.into_iter().enumerate() {
        let answer = load::one_answer(model.port, path, Body::of(path, len))?;
        fs::write(place.dir.join(format!("answer-{number}")), answer).map_err(|e| e.to_string())?;
    }
    let port = sys::free_port();
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(own);
    command
        .arg(ceiling::ROLE)
        .arg(port.to_string())
        .arg(place.dir);
    let server = Server::start(
        &mut command,
        place.core,
        port,
        &place.dir.join("ceiling.out"),
    )?;
    Ok(Contender {
        name: CEILING,
        version: "(constant)".into(),
        port,
        server,
        log: None,
    })
}

/// All rounds at one size. A request that reaches the origin is an error: every answer has to be a hit.
fn measure(
    contenders: &[Contender],
    path: &str,
    len: usize,
    rounds: usize,
    nanoseconds: u64,
    origin: &Origin,
) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = contenders
        .iter()
        .map(|c| Row {
            name: c.name,
            samples: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let number = (turn + round) % contenders.len();
            let contender = &contenders[number];
            let before = origin.seen.requests.load(Relaxed);
            let sample = load::run(
                &contender.server,
                contender.port,
                path,
                Body::of(path, len),
                nanoseconds,
            )
            .map_err(|why| format!("{} {path}: {why}", contender.name))?;
            let missed = origin.seen.requests.load(Relaxed) - before;
            if missed > 0 {
                return Err(format!(
                    "{} {path}: {missed} requests went to the origin",
                    contender.name
                ));
            }
            rows[number].samples.push(sample);
            if let Some(log) = &contender.log {
                let _ = fs::OpenOptions::new()
                    .write(true)
                    .open(log)
                    .and_then(|file| file.set_len(0));
            }
        }
    }
    Ok(rows)
}

/// The CPU a request of one row, over that of another: the median of the rounds' own ratios, in which a machine that is
/// slower for a while weighs on both sides.
fn ratio(over: &Row, under: &Row) -> f64 {
    let rounds = over.samples.iter().zip(&under.samples);
    median(
        &rounds
            .map(|(over, under)| over.cpu_us / under.cpu_us)
            .collect::<Vec<_>>(),
    )
}

/// [`ratio`] by names; NaN where one was not measured.
fn ratio_of(rows: &[Row], over: &str, under: &str) -> f64 {
    let row = |name: &str| rows.iter().find(|row| row.name == name);
    match (row(over), row(under)) {
        (Some(over), Some(under)) => ratio(over, under),
        _ => f64::NAN,
    }
}

fn text_table(len: usize, rows: &[Row]) -> String {
    let size = format!("{} KB", len >> 10);
    let cells = |row: &Row| {
        let bound = if row.generator_bound() { "*" } else { "" };
        let disturbed = if row.disturbed() { "!" } else { "" };
        vec![
            row.name.to_owned(),
            format!("{:.2}", row.cpu_us()),
            format!("{:.0} %{disturbed}", spread(&row.cpu()) * 100.0),
            format!("{}{bound}", count(row.per_second() as u64)),
            format!("{:.2}", ratio_of(rows, CEILING, row.name)),
            format!("{:.2}", ratio_of(rows, row.name, OURS)),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let head = [
        size.as_str(),
        "CPU µs/request",
        "spread",
        "requests/s",
        "eff",
        "to ours",
    ];
    table(&head, &rows)
        + "* the generator set the rate; ! something else ran on these cores, measure again\n"
}

fn judge(results: &[(usize, Vec<Row>)], checks: &mut Checks) {
    for (len, rows) in results.iter().take(2) {
        let size = format!("{} KB", len >> 10);
        let eff = ratio_of(rows, CEILING, OURS);
        checks.check(
            eff >= EFF,
            format!("{size}: eff at least {EFF:.2}"),
            format!("{eff:.2}"),
        );
        for (peer, least) in AHEAD {
            let ratio = ratio_of(rows, peer, OURS);
            if !ratio.is_nan() {
                checks.check(
                    ratio >= least,
                    format!("{size}: {peer}'s CPU at least {least} times ours"),
                    format!("{ratio:.2}"),
                );
            }
        }
    }
}

/// peers.json and peers.svg in target/bench, and the configs they were measured with.
fn write_results(
    results: &[(usize, Vec<Row>)],
    contenders: &[Contender],
    checks: &Checks,
    nanoseconds: u64,
) -> Result<(), String> {
    let folder = target().join("bench");
    let write = |name: &str, what: String| {
        let file = folder.join(name);
        fs::write(&file, what).map_err(|e| format!("{}: {e}", file.display()))?;
        println!("written: {}", file.display());
        Ok::<(), String>(())
    };
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let json = json(results, contenders, checks, nanoseconds);
    write("peers.json", format!("{json:#}\n"))?;
    write("peers.svg", chart(results))
}

fn json(
    results: &[(usize, Vec<Row>)],
    contenders: &[Contender],
    checks: &Checks,
    nanoseconds: u64,
) -> serde_json::Value {
    let servers = |rows: &[Row]| -> Vec<serde_json::Value> {
        rows.iter()
            .map(|row| {
                let each: Vec<_> = row
                    .samples
                    .iter()
                    .map(|s| {
                        serde_json::json!({
                            "requests": s.requests, "cpu_us": s.cpu_us, "per_second": s.per_second,
                            "server_share": s.server_share, "generator_share": s.generator_share,
                        })
                    })
                    .collect();
                serde_json::json!({
                    "name": row.name, "cpu_us": row.cpu_us(), "spread": spread(&row.cpu()),
                    "per_second": row.per_second(), "eff": ratio_of(rows, CEILING, row.name),
                    "to_ours": ratio_of(rows, row.name, OURS),
                    "generator_bound": row.generator_bound(), "disturbed": row.disturbed(), "rounds": each,
                })
            })
            .collect()
    };
    let sizes: Vec<_> = results
        .iter()
        .map(|(len, rows)| serde_json::json!({ "bytes": len, "servers": servers(rows) }))
        .collect();
    let versions: serde_json::Map<String, serde_json::Value> = contenders
        .iter()
        .map(|c| (c.name.to_owned(), c.version.clone().into()))
        .collect();
    let judged: Vec<_> = checks
        .lines
        .iter()
        .map(|(passed, what, figures)| serde_json::json!({ "passed": passed, "what": what, "figures": figures }))
        .collect();
    serde_json::json!({
        "unix_time": sys::wall(), "processor": sys::processor(), "seconds_a_round": nanoseconds as f64 / 1e9,
        "connections": 64, "versions": versions, "sizes": sizes, "checks": judged,
    })
}

fn chart(results: &[(usize, Vec<Row>)]) -> String {
    let panel = |(len, rows): &(usize, Vec<Row>)| {
        let bar = |row: &Row| {
            let cpu = row.cpu();
            Bar {
                name: row.name.to_owned(),
                value: row.cpu_us(),
                range: (
                    cpu.iter().copied().fold(f64::INFINITY, f64::min),
                    cpu.iter().copied().fold(0.0, f64::max),
                ),
                note: format!(
                    "{:.1} µs, {:.2} of the ceiling",
                    row.cpu_us(),
                    ratio_of(rows, CEILING, row.name)
                ),
                kind: match row.name {
                    OURS => Kind::Ours,
                    CEILING => Kind::Reference,
                    _ => Kind::Peer,
                },
            }
        };
        let mut bars: Vec<Bar> = rows.iter().map(bar).collect();
        bars.sort_by(|a, b| a.value.total_cmp(&b.value));
        Panel {
            title: format!("{} KB page", len >> 10),
            bars,
        }
    };
    let panels: Vec<Panel> = results.iter().map(panel).collect();
    let subtitle =
        "CPU microseconds of the server per cached page, one core, 64 connections; less is better";
    svg::bars("What a hit costs", subtitle, &panels)
}

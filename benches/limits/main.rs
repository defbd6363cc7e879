//! What limits cost: a decision and a client, by how many there are; to know who asks; a hit with and without limits; and a refusal beside a
//! hit. Each server has one core, the load the other; a ceiling repeats a hit's bytes, and one a refusal's. Times mean
//! nothing from one machine to another, ratios within one run do.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

#[path = "../peers/ceiling.rs"]
mod ceiling;
mod load;
mod people;
#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;
mod table;

use load::Sample;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use support::args::{self, Args};
use support::origin::{Origin, Plan};
use support::process::Server;
use support::report::{Checks, median, spread, table as text_table};
use support::sys;
use support::tidegate::{Folder, Setup, Tidegate};

const PAGE: &str = "/1k";
/// What a hit with a limit may cost of one without, and a refusal of a hit.
const WITH_A_LIMIT: f64 = 1.05;
const REFUSAL: f64 = 1.05;

/// The proxies: a name, what is written below its route, and what it answers.
const PROXIES: [(&str, &str, u16); 6] = [
    ("a hit, no limit", "", 200),
    ("a hit, one limit", "[[limit]]\nrate = '1000000/s'\n", 200),
    (
        "a hit, three limits",
        "[[limit]]\nrate = '1000000/s'\n\
         [[limit]]\nrate = '1000000/s'\nkey = 'ip+route'\n\
         [[limit]]\nrate = '1000000/s'\nkey = 'header:user-agent'\nconcurrency = 10000\n",
        200,
    ),
    (
        "a hit, two tiers",
        "[[limit]]\nrate = '1000000/s'\ntiers = { signed_in = '900000/s' }\n\
         [identity]\njwt_secret = 'a secret of these measurements'\njwt_cookie = 'session'\n",
        200,
    ),
    (
        "a hit, told what is left",
        "[[limit]]\nrate = '1000000/s'\ntell = 'always'\n",
        200,
    ),
    ("a refusal", "[[limit]]\nrate = '1/d'\n", 429),
];

struct Contender {
    name: &'static str,
    port: u16,
    server: Server,
    log: Option<PathBuf>,
    status: u16,
    samples: Vec<Sample>,
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
        "limits",
        "What limits cost: a decision, a client, a hit, a refusal.",
        &[
            ("--rounds", "rounds, 40"),
            ("--millis", "length of one measurement, 250"),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    println!("{}\n", sys::processor());
    let mut checks = Checks::default();
    table::measure(args.quick, &mut checks);
    people::measure(args.quick);
    let rounds = args.number("--rounds", if args.quick { 2 } else { 40 }) as usize;
    let nanoseconds = args.number("--millis", if args.quick { 700 } else { 250 }) * 1_000_000;
    let dir = Folder::temporary("limits");
    let origin = Origin::start(client_core, false, |_| Plan::Page {
        delay: Duration::ZERO,
        len: 1 << 10,
        cache_control: "public, max-age=36000",
    });
    let mut contenders = Vec::new();
    for (name, route, status) in PROXIES {
        contenders.push(proxy(
            name,
            route,
            status,
            origin.port,
            server_core,
            dir.path(),
        )?);
    }
    for (name, of, status) in [
        ("ceiling of a hit", 0, 200),
        ("ceiling of a refusal", PROXIES.len() - 1, 429),
    ] {
        let port = contenders[of].port;
        contenders.push(start_ceiling(name, port, status, server_core, dir.path())?);
    }
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let number = (turn + round) % contenders.len();
            let contender = &mut contenders[number];
            let (port, status) = (contender.port, contender.status);
            let sample = load::run(&contender.server, port, PAGE, status, nanoseconds)
                .map_err(|why| format!("{}: {why}", contender.name))?;
            contender.samples.push(sample);
            if let Some(log) = &contender.log {
                let file = fs::OpenOptions::new().write(true).open(log);
                let _ = file.and_then(|file| file.set_len(0));
            }
        }
    }
    report(&contenders, &mut checks);
    Ok(checks)
}

fn proxy(
    name: &'static str,
    route: &str,
    status: u16,
    origin: u16,
    core: usize,
    dir: &Path,
) -> Result<Contender, String> {
    let setup = Setup {
        origin,
        core,
        cache: "",
        upstream: "",
        route,
        build: None,
    };
    let tidegate = Tidegate::start(dir, &setup)?;
    // The first is the one of a day.
    load::one_answer(tidegate.port, PAGE, 200)?;
    load::one_answer(tidegate.port, PAGE, status)?;
    Ok(Contender {
        name,
        port: tidegate.port,
        server: tidegate.server,
        log: Some(tidegate.log),
        status,
        samples: Vec::new(),
    })
}

/// A ceiling that answers what the proxy on `port` does.
fn start_ceiling(
    name: &'static str,
    port: u16,
    status: u16,
    core: usize,
    dir: &Path,
) -> Result<Contender, String> {
    let answer = load::one_answer(port, PAGE, status)?;
    let folder = dir.join(name.replace(' ', "-"));
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    for number in 0..3 {
        let file = folder.join(format!("answer-{number}"));
        fs::write(file, &answer).map_err(|e| e.to_string())?;
    }
    let port = sys::free_port();
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(own);
    command
        .arg(ceiling::ROLE)
        .arg(port.to_string())
        .arg(&folder);
    Ok(Contender {
        name,
        port,
        server: Server::start(&mut command, core, port, &folder.join("out"))?,
        log: None,
        status,
        samples: Vec::new(),
    })
}

/// The median of the rounds' own ratios, in which a machine that is slower for a while weighs on both sides.
fn ratio(over: &Contender, under: &Contender) -> f64 {
    let rounds = over.samples.iter().zip(&under.samples);
    let ratios: Vec<f64> = rounds
        .map(|(over, under)| over.cpu_us / under.cpu_us)
        .collect();
    median(&ratios)
}

fn report(contenders: &[Contender], checks: &mut Checks) {
    let named = |name: &str| contenders.iter().find(|contender| contender.name == name);
    let (Some(plain), Some(hits), Some(refusals)) = (
        named("a hit, no limit"),
        named("ceiling of a hit"),
        named("ceiling of a refusal"),
    ) else {
        return;
    };
    let row = |contender: &Contender| {
        let cpu: Vec<f64> = contender
            .samples
            .iter()
            .map(|sample| sample.cpu_us)
            .collect();
        let share: Vec<f64> = contender
            .samples
            .iter()
            .map(|sample| sample.share)
            .collect();
        let ceiling = if contender.status == 429 {
            refusals
        } else {
            hits
        };
        vec![
            contender.name.to_owned(),
            format!("{:.2}", median(&cpu)),
            format!("{:.0} %", spread(&cpu) * 100.0),
            format!("{:.0} %", median(&share) * 100.0),
            format!("{:.2}", ratio(ceiling, contender)),
            format!("{:.3}", ratio(contender, plain)),
        ]
    };
    let rows: Vec<_> = contenders.iter().map(row).collect();
    let head = [
        "1 KB",
        "CPU µs/request",
        "spread",
        "on its core",
        "eff",
        "to a hit, no limit",
    ];
    println!("{}", text_table(&head, &rows));
    for (name, most) in [("a hit, one limit", WITH_A_LIMIT), ("a refusal", REFUSAL)] {
        if let Some(contender) = named(name) {
            let ratio = ratio(contender, plain);
            checks.check(
                ratio <= most,
                format!("{name}: at most {most} of a hit without limits"),
                format!("{ratio:.3}"),
            );
        }
    }
}

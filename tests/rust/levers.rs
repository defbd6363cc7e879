//! What a person pulls during an incident, by `tidegate ctl`: what it does, that it undoes itself, that it outlives a restart;
//! and configs by command: tried, confirmed, taken back.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::lifecycle::signal;
use super::site::{Origin, Reply, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::lay_over;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("levers::stored_pages_live_longer_for_a_while", ttl),
        ("levers::stale_windows_widen", stale),
        ("levers::limits_tighten_and_relax", limits),
        ("levers::who_is_blocked_and_let_in", block),
        ("levers::nobody_is_turned_away_without_force", force),
        ("levers::a_route_is_read_only", readonly),
        ("levers::a_route_goes_past_the_cache", bypass),
        ("levers::servers_drain_and_budgets_hold", drain),
        ("levers::they_outlive_restarts_and_configs", outlive),
        ("levers::a_mistake_is_told_and_changes_nothing", mistakes),
        ("levers::a_config_is_planned_tried_and_taken_back", configs),
        ("levers::a_plan_is_tried_on_the_last_requests", replay),
        ("levers::the_ten_commands_of_the_readme", ten_commands),
    ]
}

fn origin() -> Result<Origin, String> {
    Origin::start(|asked, conn: &mut Conn| {
        let keep = match asked.target.starts_with("/kept") {
            true => "Cache-Control: max-age=10, stale-while-revalidate=0, stale-if-error=0\r\n",
            false => "Cache-Control: no-store\r\n",
        };
        answer(conn, 200, keep, b"page")
    })
}

fn site(config: &str) -> Result<(Origin, Site), String> {
    let origin = origin()?;
    let site = Site::start(origin.address, config)?;
    site.proxy.healthy()?;
    Ok((origin, site))
}

/// `tidegate ctl ARGS` for a site: exit code, standard output, standard error.
pub fn ctl(site: &Site, args: &str) -> Result<(i32, String, String), String> {
    let ran = Command::new(binary())
        .arg("ctl")
        .arg("--socket")
        .arg(site.proxy.state("admin.sock"))
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = ran.status.code().unwrap_or(-1);
    Ok((code, text(ran.stdout), text(ran.stderr)))
}

/// One that is done, and what it says.
pub fn done(site: &Site, args: &str) -> Result<String, String> {
    let (code, out, err) = ctl(site, args)?;
    match code {
        0 => Ok(out),
        code => Err(format!("ctl {args}: {code}\n{out}{err}")),
    }
}

/// One that is not, and why.
pub fn refused(site: &Site, args: &str) -> Result<String, String> {
    let (code, out, err) = ctl(site, args)?;
    match code {
        1 => Ok(err),
        code => Err(format!("ctl {args}: {code}\n{out}{err}")),
    }
}

pub fn has(what: &str, text: &str, part: &str) -> Outcome {
    match text.contains(part) {
        true => Ok(()),
        false => Err(format!("{what}: no {part:?} in\n{text}")),
    }
}

fn active(site: &Site, lever: &str) -> Result<f64, String> {
    let labels = [("lever".to_owned(), lever.to_owned())];
    Ok(site
        .proxy
        .metric("tidegate_lever_active", &labels)?
        .unwrap_or(0.0))
}

fn ttl_of(reply: &Reply) -> String {
    let status = reply.field("cache-status");
    let ttl = status.split("ttl=").nth(1).unwrap_or_default();
    ttl.split(';').next().unwrap_or_default().to_owned()
}

/// What is stored already stays fresh longer, and is as it was when the lever is over.
fn ttl() -> Outcome {
    let (origin, site) = site("")?;
    site.get("/kept", "")?.is(200)?;
    let told = done(&site, "ttl stretch 10x --for 1h --reason crowd")?;
    has("told", &told, "ttl stretch=10.0")?;
    equal("active", active(&site, "ttl")?, 1.0)?;
    let reply = site.get("/kept", "")?.is(200)?;
    equal("ttl", ttl_of(&reply), "100".to_owned())?;
    site.proxy.advance(Duration::from_secs(60))?;
    let reply = site.get("/kept", "")?.is(200)?;
    has("fresh", reply.field("cache-status"), "hit; ttl=40")?;
    equal("fetched", origin.asked("GET /kept"), 1)?;
    // The clock of levers is the wall's, which goes on over restarts.
    done(&site, "ttl stretch 10x --for 1s")?;
    eventually("it is over", || {
        Ok((active(&site, "ttl")? == 0.0).then_some(()))
    })?;
    equal(
        "pulled",
        done(&site, "levers")?,
        "nothing is pulled\n".to_owned(),
    )?;
    // Its sixty seconds are too many again.
    site.get("/kept", "")?.is(200)?;
    equal("fetched", origin.asked("GET /kept"), 2)
}

fn stale() -> Outcome {
    let (_origin, site) = site("")?;
    site.get("/kept", "")?.is(200)?;
    done(&site, "stale 1h")?;
    site.proxy.advance(Duration::from_secs(100))?;
    let reply = site.get("/kept", "")?.is(200)?;
    has("stale", reply.field("cache-status"), "ttl=-90; detail=swr")
}

fn limits() -> Outcome {
    let limit = "[[limit]]\nname = \"visitors\"\nrate = \"4/h\"\nburst = 4\n";
    let (_origin, site) = site(limit)?;
    let statuses = |times: usize| -> Result<Vec<u16>, String> {
        let ask = |_| Ok(site.get("/kept", "")?.status);
        (0..times).map(ask).collect()
    };
    equal("within", statuses(2)?, vec![200, 200])?;
    has("told", &done(&site, "limit 0.5x")?, "limit times=0.5")?;
    // What was used is half an hour's, which is one of two by now.
    equal("tighter", statuses(2)?, vec![200, 429])?;
    done(&site, "limit 10x")?;
    equal("one lever", done(&site, "levers")?.lines().count(), 1)?;
    // What was used takes as long to come again as one of so many takes by then: 90 seconds.
    site.proxy.advance(Duration::from_secs(91))?;
    equal("wider", statuses(2)?, vec![200, 429])?;
    has(
        "another",
        &refused(&site, "limit 2x --name visitor")?,
        "is it \"visitors\"?",
    )
}

fn block() -> Outcome {
    let (_origin, site) = site("")?;
    site.get("/kept", "")?.is(200)?;
    done(&site, "block 127.0.0.0/8")?;
    site.get("/kept", "")?.is(403)?;
    done(&site, "allow 127.0.0.1")?;
    site.get("/kept", "")?.is(200)?;
    done(&site, "undo 2")?;
    site.get("/kept", "")?.is(403)?;
    done(&site, "undo 1")?;
    site.get("/kept", "")?.is(200).map(drop)
}

fn force() -> Outcome {
    let (_origin, site) = site("")?;
    for all in ["0.0.0.0/0", "::/0"] {
        has("why", &refused(&site, &format!("block {all}"))?, "--force")?;
    }
    site.get("/kept", "")?.is(200)?;
    done(&site, "block 0.0.0.0/0 --force")?;
    site.get("/kept", "")?.is(403).map(drop)
}

fn readonly() -> Outcome {
    let (origin, site) = site("[[route]]\nname = \"blog\"\n")?;
    done(&site, "readonly --route blog")?;
    let mut client = site.client()?;
    client.send("POST", "/passed", "", b"x")?;
    let reply = client.reply("POST")?.is(503)?;
    equal("told when", reply.field("retry-after").is_empty(), false)?;
    equal("asked", origin.asked("POST"), 0)?;
    site.get("/passed", "")?.is(200)?;
    done(&site, "undo 1")?;
    let mut client = site.client()?;
    client.send("POST", "/passed", "", b"x")?;
    client.reply("POST")?.is(200).map(drop)
}

fn bypass() -> Outcome {
    let (origin, site) = site("[[route]]\nname = \"blog\"\n")?;
    site.get("/kept", "")?.is(200)?;
    done(&site, "bypass blog")?;
    for _ in 0..2 {
        let reply = site.get("/kept", "")?.is(200)?;
        has("bypassed", reply.field("cache-status"), "fwd=bypass")?;
    }
    equal("fetched", origin.asked("GET /kept"), 3)?;
    done(&site, "undo 1")?;
    // It is what was stored before.
    has("hit", site.get("/kept", "")?.field("cache-status"), "hit")?;
    equal("fetched", origin.asked("GET /kept"), 3)
}

fn drain() -> Outcome {
    let (one, two) = (origin()?, origin()?);
    let config = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"http://{}\", \"http://{}\"]\nbalance = \"round_robin\"\n",
        one.address, two.address
    );
    let site = Site::start(one.address, &config)?;
    site.proxy.healthy()?;
    done(&site, &format!("drain app {}", two.address))?;
    for _ in 0..6 {
        site.get("/passed", "")?.is(200)?;
    }
    equal(
        "drained",
        (one.asked("GET /passed"), two.asked("GET /passed")),
        (6, 0),
    )?;
    let why = refused(&site, &format!("drain app {}", one.address))?;
    has("the last one", &why, "last server")?;
    done(&site, "budget app 3")?;
    equal("budget", site.metric("tidegate_origin_budget")?, 3.0)?;
    done(&site, "undo 1")?;
    equal("budget", site.metric("tidegate_origin_budget")?, 6.0)
}

fn outlive() -> Outcome {
    let (_origin, site) = site("[[route]]\nname = \"blog\"\n")?;
    done(&site, "readonly --reason night")?;
    done(&site, "block 192.0.2.0/24")?;
    // Another config.
    let path = site.dir.path().join("tidegate.toml");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let more = lay_over(&text, "[[route]]\nx_cache = true\n")?;
    fs::write(&path, more).map_err(|e| e.to_string())?;
    done(&site, "reload")?;
    let post = |site: &Site| -> Outcome {
        let mut client = site.client()?;
        client.send("POST", "/passed", "", b"x")?;
        client.reply("POST")?.is(503).map(drop)
    };
    post(&site)?;
    // Another process.
    signal(&site, "-KILL")?;
    eventually("its end", || Ok(site.proxy.alive().is_err().then_some(())))?;
    let again = site.again()?;
    post(&again)?;
    let levers = done(&again, "levers")?;
    equal("both", levers.lines().count(), 2)?;
    has("why", &levers, ": night")?;
    done(&again, "undo 1")?;
    let mut client = again.client()?;
    client.send("POST", "/passed", "", b"x")?;
    client.reply("POST")?.is(200).map(drop)
}

fn mistakes() -> Outcome {
    let (_origin, site) = site("[[route]]\nname = \"blog\"\n")?;
    has("route", &refused(&site, "bypass blgo")?, "is it \"blog\"?")?;
    has("undo", &refused(&site, "undo 7")?, "no lever 7")?;
    has("rule", &refused(&site, "block rule:odd")?, "there is none")?;
    let (code, _, why) = ctl(&site, "block everybody")?;
    equal("misused", code, 2)?;
    has("network", &why, "no address")?;
    let body = "{\"pull\": {\"lever\": \"ttl\", \"strech\": 2}}";
    let told = site.proxy.api("POST", "/v1/levers", body)?.is(400)?;
    has("field", &told.body, "strech")?;
    equal(
        "pulled",
        done(&site, "levers")?,
        "nothing is pulled\n".to_owned(),
    )?;
    // Refused ones are written down, too.
    let audit = done(&site, "audit")?;
    has("audit", &audit, "/v1/levers")
}

fn configs() -> Outcome {
    let (_origin, site) = site("[[route]]\nname = \"blog\"\n")?;
    let path = site.dir.path().join("tidegate.toml");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let other = site.dir.path().join("other.toml");
    let more = lay_over(&text, "[[route]]\nx_cache = true\n[listen]\nthreads = 3\n")?;
    fs::write(&other, more).map_err(|e| e.to_string())?;
    let file = other.display();
    let plan = done(&site, &format!("plan {file}"))?;
    has("plan", &plan, "route \"blog\": x_cache its default -> true")?;
    has("plan", &plan, "waiting for a restart")?;
    let marked = |marked: bool| -> Outcome {
        let reply = site.get("/kept", "")?.is(200)?;
        equal("marked", !reply.field("x-cache").is_empty(), marked)
    };
    marked(false)?;
    has(
        "told",
        &done(&site, &format!("apply {file} --confirm 1s"))?,
        "ctl confirm",
    )?;
    marked(true)?;
    site.proxy.advance(Duration::from_secs(2))?;
    site.until("tidegate_config_version", |version| version == 3.0)?;
    marked(false)?;
    has("late", &refused(&site, "confirm")?, "nothing is on trial")?;

    done(&site, &format!("apply {file} --confirm 1h --reason crowd"))?;
    has("stays", &done(&site, "confirm")?, "version 4 stays")?;
    site.proxy.advance(Duration::from_secs(7_200))?;
    marked(true)?;
    has("history", &done(&site, "config")?, "crowd")?;
    done(&site, "rollback")?;
    marked(false)?;
    done(&site, "rollback 4")?;
    marked(true)?;
    // The file says what it said.
    has("reloaded", &done(&site, "reload")?, "version 7")?;
    marked(false)?;
    fs::write(&other, "[[rout").map_err(|e| e.to_string())?;
    let why = refused(&site, &format!("apply {file}"))?;
    has("why", &why, "error: unclosed array table")?;
    marked(false)?;
    // Versions outlive the process: with the file's, which is in force again, they are the same.
    let site = site.again()?;
    // Operators come in when visitors do, and a moment later.
    site.proxy.healthy()?;
    has("history", &done(&site, "config")?, "crowd")?;
    done(&site, "rollback 4")?;
    let reply = site.get("/kept", "")?.is(200)?;
    equal("marked", reply.field("x-cache").is_empty(), false)
}

fn replay() -> Outcome {
    const CONFIG: &str = "
        [[route]]
        name = 'all'
        [[rule]]
        name = 'odd'
        when = 'path == \"/odd\"'
        action = 'count'
        [[limit]]
        name = 'pace'
        rate = '100/s'
        [log]
        hide_query = ['token']
    ";
    let (origin, site) = site(CONFIG)?;
    let path = site.dir.path().join("tidegate.toml");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let other = site.dir.path().join("other.toml");
    let plan = |with: &str| -> Result<String, String> {
        let text = lay_over(&text, with)?;
        fs::write(&other, text).map_err(|e| e.to_string())?;
        done(&site, &format!("plan {}", other.display()))
    };
    has("none yet", &plan("")?, "no requests of late")?;
    let mut client = site.client()?;
    for path in [
        "/kept?utm_source=a",
        "/kept?utm_source=b",
        "/shop/1?token=hush",
        "/odd",
    ] {
        client.get(path, "Cookie: secret=1\r\n")?.is(200)?;
    }
    client.ask("POST", "/shop/2", "", b"order")?.is(200)?;
    let asked = origin.asked("");
    let told = plan("")?;
    has("the same", &told, "nothing would change\n")?;
    has("the same", &told, "tried on 5 requests of the last ")?;
    has("the same", &told, " all as before\n")?;
    let told = plan("[[route]]\nquery_drop = ['utm_*']")?;
    has("keys", &told, " 2 cached otherwise")?;
    has(
        "keys",
        &told,
        "2  all, by the cache -> all, by the cache under another key, as GET /kept?utm_source=a",
    )?;
    let shop = "[[route]]\n[[route]]\nname = 'shop'\npath = '/shop'\ncache = false";
    let told = plan(shop)?;
    has("routes", &told, " 2 routed otherwise, 1 cached otherwise")?;
    has(
        "routes",
        &told,
        "1  all, by the cache -> shop, past the cache, as GET /shop/1?token=",
    )?;
    equal(
        &told,
        told.contains("hush") || told.contains("secret"),
        false,
    )?;
    let told = plan("[[rule]]\naction = 'block'")?;
    has("rules", &told, " 1 blocked or challenged otherwise")?;
    has(
        "rules",
        &told,
        "1  all, by the cache -> all, blocked, as GET /odd",
    )?;
    let told = plan("[[limit]]\nrate = '2/h'\nburst = 2")?;
    has("limits", &told, " 3 limited otherwise")?;
    has(
        "limits",
        &told,
        "all, past the cache -> all, refused by a limit, as POST /shop/2",
    )?;
    // It was a thought.
    for metric in ["tidegate_rule_matches_total", "tidegate_limited_total"] {
        let page = site.proxy.api("GET", "/metrics", "")?.is(200)?.body;
        let others = page
            .lines()
            .filter(|line| line.starts_with(metric) && line.contains("block"));
        equal(metric, others.count(), 0)?;
    }
    equal(
        "rules counted",
        site.metric("tidegate_rule_matches_total")?,
        1.0,
    )?;
    equal("the origin was not asked", origin.asked(""), asked)
}

/// Word for word, one after the other, by a shell.
fn ten_commands() -> Outcome {
    let readme = include_str!("../../README.md");
    let (_, section) = readme
        .split_once("\n## When the crowd comes\n")
        .ok_or("the README has no such section")?;
    let block = section.split("```").nth(1).ok_or("it has no commands")?;
    let commands: Vec<&str> = block.lines().skip(1).collect();
    equal("commands", commands.len(), 10)?;
    let config = "[[route]]\nname = 'blog'\n[[route]]\nname = 'search'\npath = '/search'\n[[limit]]\nrate = '100/s'\n";
    let (origin, site) = site(config)?;
    let folder = binary().parent().map(std::path::Path::to_path_buf);
    let path = format!(
        "{}:{}",
        folder.unwrap_or_default().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    for command in &commands {
        let found = command.replace(
            "tidegate ctl ",
            &format!(
                "tidegate ctl --socket '{}' ",
                site.proxy.state("admin.sock").display()
            ),
        );
        let ran = Command::new("sh")
            .args(["-c", &found])
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        if !ran.status.success() || ran.stdout.is_empty() {
            return Err(format!("{command}: {ran:?}"));
        }
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        if command.contains("fallback on") {
            // It is in force when it is answered.
            let before = origin.asked("");
            let page = site.get("/kept", "")?.is(503)?;
            equal("says so", page.told("detail=fallback"), true)?;
            equal("the origin was not asked", origin.asked(""), before)?;
        }
        if command.contains("ctl levers") {
            for lever in ["ttl", "stale", "limit", "block", "challenge", "fallback"] {
                has("levers", &said, lever)?;
            }
            has("levers", &said, "front page of the news")?;
        }
    }
    // All of it can be taken back.
    for id in 1..=6 {
        done(&site, &format!("undo {id}"))?;
    }
    site.get("/kept", "")?.is(200)?;
    equal("pulled", active(&site, "fallback")?, 0.0)
}

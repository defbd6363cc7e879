//! Answers of the admin API, for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::admin::{
    Audit, Changed, ConfigVersion, Configs, Everywhere, Levers, Plan, Pulled, PulledLever, Purged,
    Replayed, Status, Top,
};

pub fn status(status: &Status) -> String {
    let mut out = format!(
        "tidegate {}, up {}",
        status.version,
        time(status.uptime_seconds)
    );
    let _ = write!(out, ", process {}", status.pid);
    if let Some(config) = &status.config {
        let _ = write!(out, ", {}", plain(config));
    }
    let listeners = &status.listeners;
    row(&mut out, "visitors");
    out += &listeners.public;
    if let Some(redirect) = &listeners.redirect {
        let _ = write!(out, ", from {redirect}");
    }
    let connections = &status.connections;
    let _ = write!(
        out,
        "; {} of {} connections",
        connections.open, connections.most
    );
    row(&mut out, "operators");
    let doors = [&listeners.admin, &listeners.socket];
    let doors: Vec<_> = doors
        .into_iter()
        .flatten()
        .map(|door| plain(door))
        .collect();
    out += &doors.join(", ");
    row(&mut out, "state");
    out += &status.state.as_deref().map_or("none".to_owned(), plain);
    row(&mut out, "ready");
    out += if status.ready { "yes" } else { "no" };
    for (name, part) in status.readiness.iter().filter(|(_, part)| !part.ok) {
        let _ = write!(out, "; {}: {}", plain(name), plain(&part.detail));
    }
    let cache = &status.cache;
    row(&mut out, "cache");
    let _ = write!(
        out,
        "{} pages, {} of {}; {} being fetched, {} waiting",
        cache.entries,
        size(cache.bytes as u64),
        size(cache.bytes_max as u64),
        cache.flights,
        cache.waiters
    );
    let snapshot = &status.snapshot;
    row(&mut out, "snapshot");
    out += &match snapshot.on {
        true => format!(
            "{} pages on the disk, {} of {}; {} to be written",
            snapshot.pages,
            size(snapshot.bytes),
            size(snapshot.bytes_max),
            snapshot.queued
        ),
        false => "off".to_owned(),
    };
    if let Some(error) = &snapshot.error {
        let _ = write!(out, "; {}", plain(error));
    }
    for upstream in &status.upstreams {
        row(&mut out, "upstream");
        let (name, in_flight, budget) =
            (plain(&upstream.name), upstream.in_flight, upstream.budget);
        let _ = write!(
            out,
            "{name}: {in_flight} of {budget} in flight, {} waiting",
            upstream.queued
        );
        if upstream.streams > 0 {
            let _ = write!(out, ", {} streams", upstream.streams);
        }
        if upstream.breaker != "closed" {
            let _ = write!(out, ", breaker {}", plain(&upstream.breaker));
        }
        for server in &upstream.servers {
            row(&mut out, "");
            let well = match (server.well, server.ejected) {
                (_, true) => ", left alone",
                (Some(false), _) => ", ill",
                (Some(true), _) => ", well",
                (None, _) => "",
            };
            let _ = write!(
                out,
                "{}: {} in flight{well}",
                plain(&server.name),
                server.in_flight
            );
        }
    }
    for limit in &status.limits {
        row(&mut out, "limit");
        let _ = write!(
            out,
            "{}: {} refused, {} delayed, {} stale, {} logged; {} clients",
            plain(&limit.name),
            limit.refused,
            limit.delayed,
            limit.stale,
            limit.logged,
            limit.clients
        );
    }
    if let Some(fleet) = &status.fleet {
        row(&mut out, "fleet");
        out += match fleet.behind {
            true => "behind: what others have purged is not known",
            false => "all is read that others have done",
        };
        if fleet.queued > 0 {
            let _ = write!(out, "; {} to be told", fleet.queued);
        }
        if let Some(why) = &fleet.unwritable {
            let _ = write!(out, "; redis: {}", plain(why));
        }
        for proxy in &fleet.proxies {
            row(&mut out, "");
            out += &plain(&proxy.name);
            out += &match proxy.lag {
                Some(0) => ": nothing to do".to_owned(),
                Some(lag) => format!(": {lag} to do"),
                None => ": has read nothing of it".to_owned(),
            };
            match proxy.heard_seconds {
                Some(seconds) => {
                    let _ = write!(out, ", heard {seconds:.1} s ago");
                }
                None => out += ", this one",
            }
            if proxy.refused > 0 {
                let _ = write!(out, ", {} levers not in force", proxy.refused);
            }
        }
    }
    out + "\n"
}

/// Which proxies have done it.
fn everywhere(fleet: Option<&Everywhere>) -> String {
    let Some(fleet) = fleet else {
        return String::new();
    };
    let (confirmed, proxies) = (fleet.confirmed, fleet.proxies);
    let mut out = format!("{confirmed} of {proxies} proxies confirmed");
    match &fleet.waits {
        Some(why) => {
            let _ = write!(
                out,
                ", redis is down: the others will hear of it when it is back ({})",
                plain(why)
            );
        }
        None if fleet.missing.is_empty() => {}
        None => {
            let missing: Vec<_> = fleet.missing.iter().map(|name| plain(name)).collect();
            let _ = write!(out, "; not yet: {}", missing.join(", "));
        }
    }
    for refused in &fleet.refused {
        let (proxy, why) = (plain(&refused.proxy), plain(&refused.why));
        let _ = write!(out, "\nnot in force at {proxy}: {why}");
    }
    out + "\n"
}

pub fn purged(purged: &Purged) -> String {
    let what = match (purged.dry_run, purged.soft) {
        (false, false) => "purged",
        (false, true) => "marked stale",
        (true, false) => "would be purged",
        (true, true) => "would be marked stale",
    };
    let counted = |objects: u64| match (objects, purged.at_least) {
        (objects, true) => format!("{objects} pages and more"),
        (1, false) => "1 page".to_owned(),
        (objects, false) => format!("{objects} pages"),
    };
    let mut out = format!("{what}: {}", counted(purged.objects));
    if let Some(hot) = purged.hot {
        let _ = write!(out, ", {hot} of them asked for in the last minute");
    }
    if let Some(hits) = purged.hits {
        let _ = write!(out, ", found {hits} times since they were stored");
    }
    if purged.names.len() > 1 {
        for name in &purged.names {
            let _ = write!(out, "\n{:>9}  {}", name.objects, plain(&name.name));
        }
    }
    out + "\n" + &everywhere(purged.fleet.as_ref())
}

pub fn top(top: &Top) -> String {
    let mut out = format!("requests/s   from memory   route ({:.1} s)\n", top.seconds);
    for route in &top.routes {
        let (rate, hits, name) = (route.rate, route.hits, plain(&route.name));
        let _ = writeln!(out, "{rate:>10.1}   {hits:>9.0} %   {name}");
    }
    out += "\n     found          size   page\n";
    for page in &top.pages {
        let (found, bytes, url) = (page.found, size(page.bytes), plain(&page.url));
        let _ = writeln!(out, "{found:>10}   {bytes:>11}   {url}");
    }
    out
}

pub fn audit(audit: &Audit) -> String {
    let mut out = String::new();
    for entry in &audit.entries {
        let who = match &entry.actor {
            Some(actor) => format!("{} ({})", entry.who, actor),
            None => entry.who.clone(),
        };
        let _ = write!(
            out,
            "{}  {}  {}",
            plain(&entry.time),
            plain(&who),
            plain(&entry.what)
        );
        if !entry.parameters.is_null() {
            let _ = write!(out, " {}", plain(&entry.parameters.to_string()));
        }
        let _ = write!(out, "  {}", plain(&entry.result));
        if let Some(reason) = &entry.reason {
            let _ = write!(out, "  \"{}\"", plain(reason));
        }
        out.push('\n');
    }
    if audit.unreadable > 0 {
        let _ = writeln!(out, "({} lines can't be read)", audit.unreadable);
    }
    if out.is_empty() {
        out += "nothing was changed yet\n";
    }
    out
}

/// JSON for a script or a terminal, in ASCII.
pub fn json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    // What is no ASCII stands within texts only.
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | ' '..='~' => out.push(char),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

/// A text that a terminal takes for nothing but a text.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            ' '..='~' => out.push(char),
            letter if letter.is_alphanumeric() => out.push(letter),
            other => out.extend(other.escape_default()),
        }
    }
    out
}

fn row(out: &mut String, head: &str) {
    let _ = write!(out, "\n{head:<9}  ");
}

fn time(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        _ if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ if bytes < 1 << 30 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

pub fn changed(changed: &Changed) -> String {
    let mut out = format!("version {} is in force\n", changed.version.number);
    if !changed.waits.is_empty() {
        let waits: Vec<_> = changed.waits.iter().map(|name| plain(name)).collect();
        let _ = writeln!(out, "waiting for a restart: {}", waits.join(", "));
    }
    if let Some(seconds) = changed.trial_seconds {
        let _ = writeln!(
            out,
            "undone in {}, unless `tidegate ctl confirm` comes before",
            time(seconds)
        );
    }
    if changed.differs_from_file {
        out += "a restart or a reload takes what the file says instead\n";
    }
    out
}

pub fn confirmed(version: &ConfigVersion) -> String {
    format!("version {} stays\n", version.number)
}

pub fn plan(plan: &Plan) -> String {
    let mut out = match plan.changes.is_empty() {
        true => "nothing would change\n".to_owned(),
        false => plan
            .changes
            .iter()
            .map(|one| format!("{}\n", plain(one)))
            .collect(),
    };
    if !plan.waits.is_empty() {
        let waits: Vec<_> = plan.waits.iter().map(|name| plain(name)).collect();
        let _ = writeln!(
            out,
            "waiting for a restart (`tidegate run --upgrade` drops nobody): {}",
            waits.join(", ")
        );
    }
    out + &replayed(&plan.replay)
}

fn replayed(replay: &Replayed) -> String {
    if replay.requests == 0 {
        return "no requests of late to try it on\n".to_owned();
    }
    let mut out = format!(
        "tried on {} requests of the last {}",
        replay.requests,
        time(replay.seconds)
    );
    if replay.per_mille < 1000 {
        let percent = f64::from(replay.per_mille) / 10.0;
        let _ = write!(out, ", of {percent} % of the clients");
    }
    out += ":";
    let kinds = [
        (replay.routed, "routed"),
        (replay.cached, "cached"),
        (replay.limited, "limited"),
        (replay.blocked, "blocked or challenged"),
    ];
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, how)| format!(" {count} {how} otherwise"))
        .collect();
    out += match kinds.is_empty() {
        true => " all as before",
        false => "",
    };
    out += &kinds.join(",");
    for one in &replay.differences {
        let _ = write!(
            out,
            "\n{:>8}  {} -> {}, as {}",
            one.requests,
            plain(&one.before),
            plain(&one.after),
            plain(&one.example)
        );
    }
    if !replay.left_out.is_empty() {
        let names: Vec<_> = replay.left_out.iter().map(|name| plain(name)).collect();
        let _ = write!(
            out,
            "\nnot tried, as all clients count together: {}",
            names.join(", ")
        );
    }
    out + "\n"
}

pub fn configs(configs: &Configs) -> String {
    let mut out = String::new();
    for (at, version) in configs.versions.iter().enumerate() {
        let mark = if at == 0 { "in force" } else { "" };
        let _ = write!(
            out,
            "{:>6}  {:<8}  {}  {}",
            version.number,
            mark,
            plain(&version.since),
            plain(&version.who)
        );
        if !version.reason.is_empty() {
            let _ = write!(out, ": {}", plain(&version.reason));
        }
        out += "\n";
    }
    if let Some(seconds) = configs.trial_seconds {
        let _ = writeln!(
            out,
            "on trial: undone in {}, unless confirmed",
            time(seconds)
        );
    }
    if let Some(why) = &configs.refused {
        let _ = writeln!(out, "the last change was refused:");
        out.extend(why.lines().map(|line| format!("  {}\n", plain(line))));
    }
    out
}

pub fn levers(levers: &Levers) -> String {
    match levers.levers.is_empty() {
        true => "nothing is pulled\n".to_owned(),
        false => levers.levers.iter().map(lever).collect(),
    }
}

pub fn pulled(pulled: &Pulled) -> String {
    let mut out = format!("pulled: {}", lever(&pulled.lever));
    for instead in &pulled.instead {
        let _ = writeln!(out, "instead of lever {}", instead.id);
    }
    if let Some(why) = &pulled.unkept {
        let _ = writeln!(out, "a restart undoes it: {}", plain(why));
    }
    out + &everywhere(pulled.fleet.as_ref())
}

pub fn undone(pulled: &Pulled) -> String {
    let mut out = format!("undone: {}", lever(&pulled.lever));
    if let Some(why) = &pulled.unkept {
        let _ = writeln!(out, "a restart brings it back: {}", plain(why));
    }
    out + &everywhere(pulled.fleet.as_ref())
}

pub fn lever(lever: &PulledLever) -> String {
    let mut out = format!("{:>4}", lever.id);
    if let Value::Object(words) = &lever.pull {
        let word = |value: &Value| match value {
            Value::String(text) => plain(text),
            other => other.to_string(),
        };
        let name = words.get("lever").map(word).unwrap_or_default();
        let _ = write!(out, "  {name}");
        for (key, value) in words {
            if key != "lever" && !value.is_null() {
                let _ = write!(out, " {}={}", plain(key), word(value));
            }
        }
    }
    match lever.left_seconds {
        Some(seconds) => {
            let _ = write!(out, ", for another {}", time(seconds));
        }
        None => out += ", until it is undone",
    }
    let _ = write!(out, "; {} {}", plain(&lever.since), plain(&lever.who));
    if !lever.reason.is_empty() {
        let _ = write!(out, ": {}", plain(&lever.reason));
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn c60_a_terminal_is_told_nothing_but_text() {
        let evil = "a\u{1b}[2J\r\n\u{9b}\u{202e}ä";
        assert_eq!(plain(evil), "a\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}ä");
        let text = json(&json!({ evil: evil }));
        assert!(text.is_ascii() && !text.contains('\u{1b}'), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back[evil], evil);
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(time(59), "59 s");
        assert_eq!(time(3_700), "1 h 1 min");
        assert_eq!(time(200_000), "2 d 7 h");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(240 << 20), "240.0 MiB");
    }
}

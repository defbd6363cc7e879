//! The admin API and `tidegate ctl` from outside: who is let in (C51 to C54), what is written down (C60), what is told to nobody
//! (C59), what outlives the process, and that answers are what the API's document says.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::lifecycle::successor;
use super::site::{Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::proxy::{Proxy, Told, free_port};
use crate::harness::wire::PATIENCE;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("admin::c51_nothing_of_it_is_public", c51_public),
        ("admin::c52_no_token_or_a_wrong_one", c52_wrong),
        ("admin::c52_a_guesser_is_not_heard", c52_guesser),
        ("admin::c52_a_token_that_is_none_does_not_start", c52_none),
        ("admin::c53_what_a_browser_could_send", c53_browser),
        ("admin::c53_questions_change_nothing", c53_questions),
        ("admin::c54_bodies_have_bounds", c54_bodies),
        ("admin::c59_the_token_is_told_to_nobody", c59_token),
        ("admin::c59_a_secret_that_others_can_read", c59_others),
        ("admin::c60_changes_are_lines", c60_lines),
        ("admin::it_serves_without_a_state_directory", stateless),
        ("admin::what_is_kept_outlives_the_process", outlives),
        ("admin::the_socket_goes_to_the_successor", succeeded),
        ("admin::answers_are_as_the_document_says", document),
        ("admin::ctl_tells_what_runs", ctl_tells),
        ("admin::ctl_finds_its_proxy", ctl_finds),
        ("admin::ctl_says_what_to_do", ctl_says),
        ("admin::ctl_of_another_user", ctl_other_user),
    ]
}

fn page() -> Result<Origin, String> {
    Origin::start(|_, conn| answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"))
}

fn site(config: &str) -> Result<(Origin, Site), String> {
    let origin = page()?;
    let site = Site::start(origin.address, config)?;
    // Whoever listens may not answer yet, and the socket come a moment after the address.
    site.proxy.healthy()?;
    Ok((origin, site))
}

const JSON: &str = "Content-Type: application/json\r\n";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The audit log's entries.
fn audit(proxy: &Proxy) -> Result<Vec<Value>, String> {
    let log = fs::read_to_string(proxy.state("audit.jsonl")).unwrap_or_default();
    let read = |line| serde_json::from_str(line).map_err(|e| format!("{e}: {line}"));
    log.lines().map(read).collect()
}

/// An answer over the socket.
fn over_socket(proxy: &Proxy, request: &str) -> Result<Told, String> {
    let told = |e: std::io::Error| e.to_string();
    let mut stream = UnixStream::connect(proxy.state("admin.sock")).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(told)?;
    Told::read(&answer)
}

/// Exit code, standard output and standard error of `tidegate ctl ARGS`.
fn ctl(args: &[&str]) -> Result<(Option<i32>, String, String), String> {
    let mut command = Command::new(binary());
    command.arg("ctl").args(args);
    ran(&mut command)
}

fn ran(command: &mut Command) -> Result<(Option<i32>, String, String), String> {
    let ran = command.stdin(Stdio::null()).output();
    let ran = ran.map_err(|e| e.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((ran.status.code(), text(ran.stdout), text(ran.stderr)))
}

fn holds(what: &str, text: &str, parts: &[&str]) -> Outcome {
    for part in parts {
        if !text.contains(part) {
            return Err(format!("{what}: no {part:?} in\n{text}"));
        }
    }
    Ok(())
}

/// With the right token, too, the public port knows nothing of it: it is the app's.
fn c51_public() -> Outcome {
    let origin = Origin::start(|_, conn| answer(conn, 404, "", b"the app's"))?;
    let site = Site::start(origin.address, "")?;
    let fields = bearer(&site.proxy.token()?);
    for path in ["/v1/status", "/v1/openapi.json", "/v1/audit"] {
        let reply = site.get(path, &fields)?.is(404)?;
        equal(path, reply.text(), "the app's".to_owned())?;
    }
    let mut client = site.client()?;
    client.send("POST", "/v1/purge", &(fields + JSON), b"{}")?;
    equal("post", client.reply("POST")?.text(), "the app's".to_owned())?;
    equal("written down", audit(&site.proxy)?.len(), 0)
}

fn c52_wrong() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    let token = proxy.token()?;
    equal("length", token.len(), 43)?;
    let mode = |name: &str| {
        fs::metadata(proxy.state(name)).map(|about| about.permissions().mode() & 0o777)
    };
    equal("mode of the token", mode("token").ok(), Some(0o600))?;
    equal("mode of the directory", mode("").ok(), Some(0o700))?;
    proxy.api("GET", "/v1/status", "")?.is(200)?;
    let longer = format!("{token}x");
    let other = token.replace(|c: char| c.is_ascii_lowercase(), "A");
    for (fields, challenge) in [
        (String::new(), "Bearer realm=\"tidegate\""),
        (
            "Authorization: Basic YTpi\r\n".to_owned(),
            "Bearer realm=\"tidegate\"",
        ),
        (
            bearer(&token) + &bearer(&token),
            "Bearer realm=\"tidegate\"",
        ),
        (bearer(""), "Bearer realm=\"tidegate\""),
        (
            bearer(&token[1..]),
            "Bearer realm=\"tidegate\", error=\"invalid_token\"",
        ),
        (
            bearer(&longer),
            "Bearer realm=\"tidegate\", error=\"invalid_token\"",
        ),
        (
            bearer(&other),
            "Bearer realm=\"tidegate\", error=\"invalid_token\"",
        ),
    ] {
        for method in ["GET", "POST"] {
            let told = proxy.api_with(method, "/v1/status", &(fields.clone() + JSON), "")?;
            let told = told.is(401)?;
            let kind = told.field("content-type");
            equal("kind", kind, "application/problem+json")?;
            equal(
                &fields,
                told.field("www-authenticate").starts_with("Bearer "),
                true,
            )?;
            if method == "GET" {
                equal(&fields, told.field("www-authenticate"), challenge)?;
            }
        }
    }
    // What is asked for all the time needs none.
    for path in ["/metrics", "/healthz", "/readyz"] {
        proxy
            .api_with("GET", path, "Host: any.test\r\n", "")?
            .is(200)?;
    }
    Ok(())
}

fn c52_guesser() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    for guess in 0..10 {
        let fields = bearer(&format!("0123456789abcdef{guess}"));
        proxy.api_with("GET", "/v1/status", &fields, "")?.is(401)?;
    }
    // Not even the right one.
    let told = proxy.api("GET", "/v1/status", "")?.is(429)?;
    let wait: u64 = told
        .field("retry-after")
        .parse()
        .map_err(|_| told.head.clone())?;
    equal("wait", (1..=6).contains(&wait), true)?;
    let refused = |reason: &str| {
        proxy.metric(
            "tidegate_admin_refused_total",
            &[("reason".into(), reason.into())],
        )
    };
    equal("wrong", refused("token")?, Some(10.0))?;
    equal("unheard", refused("pace")?, Some(1.0))?;
    // The owner's socket is not shut.
    over_socket(proxy, "GET /v1/status HTTP/1.1\r\n\r\n")?.is(200)?;
    proxy.advance(Duration::from_secs(wait))?;
    proxy.api("GET", "/v1/status", "")?.is(200).map(drop)
}

fn c52_none() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).map_err(|e| e.to_string());
    fs::create_dir(path("state")).map_err(|e| e.to_string())?;
    write("state/token", "\n")?;
    write("empty", "\n")?;
    let start = |admin: &str| {
        let (listen, address) = (free_port(), free_port());
        let config = format!(
            "[listen]\naddress = \"{listen}\"\n[state]\ndir = \"{}\"\n[[upstream]]\nservers = [\"http://127.0.0.1:1\"]\n\
             [admin]\naddress = \"{address}\"\n{admin}",
            path("state").display()
        );
        write("tidegate.toml", &config)?;
        let mut command = Command::new(binary());
        ran(command.args(["run", "-c"]).arg(path("tidegate.toml")))
    };
    let file = format!("token = \"file:{}\"\n", path("empty").display());
    for (admin, code, says) in [
        ("token = \"\"\n", 2, "tidegate.toml:9"),
        ("token = \"short\"\n", 2, "less than 16"),
        (&file, 2, "tidegate.toml:9"),
        ("token = \"0123456789 abcdef\"\n", 2, "visible ASCII"),
        // Of the state directory.
        ("", 1, "an empty token"),
    ] {
        let (ended, said, errors) = start(admin)?;
        equal(admin, ended, Some(code))?;
        holds(admin, &(said + &errors), &[says])?;
    }
    Ok(())
}

fn c53_browser() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    let right = bearer(&proxy.token()?);
    for (method, fields, status) in [
        ("GET", "Origin: https://evil.test\r\n", 403),
        ("GET", "Origin: null\r\n", 403),
        ("GET", "Host: evil.test\r\n", 403),
        ("GET", "Host: evil.test:9901\r\n", 403),
        ("GET", "Host: localhost.evil.test\r\n", 403),
        ("GET", "Host: localhost\r\nHost: evil.test\r\n", 403),
        ("GET", "Host: localhost\r\n", 200),
        ("POST", "Content-Type: text/plain\r\n", 415),
        (
            "POST",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            415,
        ),
        ("POST", "", 415),
        (
            "OPTIONS",
            "Origin: https://evil.test\r\nAccess-Control-Request-Method: POST\r\n",
            403,
        ),
        ("OPTIONS", "", 405),
    ] {
        let fields = right.clone() + fields;
        let told = proxy
            .api_with(method, "/v1/status", &fields, "")?
            .is(status)?;
        if told.head.to_ascii_lowercase().contains("access-control") {
            return Err(format!("open to other sites: {told:?}"));
        }
    }
    let port = proxy.admin().port();
    let absolute =
        format!("GET http://evil.test:{port}/v1/status HTTP/1.1\r\nHost: localhost\r\n{right}\r\n");
    Told::read(&proxy.sent(absolute.as_bytes())?)?.is(403)?;
    // A browser's page that has no token is told no more.
    let told = proxy.api_with("GET", "/v1/status", "Origin: https://evil.test\r\n", "")?;
    told.is(403).map(drop)
}

/// No change can be asked for by a link.
fn c53_questions() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    let api: Value = proxy.api("GET", "/v1/openapi.json", "")?.is(200)?.json()?;
    let paths = api["paths"].as_object().ok_or("no paths")?;
    site.get("/p", "")?.is(200)?;
    for (path, item) in paths.iter().filter(|(path, _)| path.starts_with("/v1/")) {
        let status = proxy.api("GET", path, "")?.status;
        let asks = item.get("get").is_some();
        equal(path, status == 405, !asks)?;
    }
    equal("written down", audit(proxy)?.len(), 0)?;
    let reply = site.get("/p", "")?.is(200)?;
    equal("stored", reply.field("cache-status").contains("hit"), true)
}

fn c54_bodies() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    let head = |framing: &str| {
        let fields = bearer(&proxy.token()?) + JSON;
        Ok::<_, String>(format!(
            "POST /v1/status HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}\r\n"
        ))
    };
    let connect = || {
        let stream = TcpStream::connect(proxy.admin()).map_err(|e| e.to_string())?;
        stream
            .set_read_timeout(Some(PATIENCE * 4))
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(stream)
    };
    let rest = |mut stream: TcpStream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
        Told::read(&answer)
    };
    // Two that begin and then say no more, meanwhile.
    let slow = |framing: &str, first: &str| {
        let mut stream = connect()?;
        let bytes = head(framing)? + first;
        stream
            .write_all(bytes.as_bytes())
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(stream)
    };
    let late = [
        slow("Content-Length: 100\r\n", "{")?,
        slow("Transfer-Encoding: chunked\r\n", "5\r\n{\"a\":")?,
    ];
    let start = clock::now();
    // Ten gigabytes are refused by what they say of themselves, before any of them.
    let told = Told::read(&proxy.sent(head("Content-Length: 10737418240\r\n")?.as_bytes())?)?;
    told.is(413)?;
    // And without a word of their length once they have come too far.
    let before = proxy.memory()?;
    let mut stream = connect()?;
    stream
        .write_all(head("Transfer-Encoding: chunked\r\n")?.as_bytes())
        .map_err(|e| e.to_string())?;
    let chunk = [
        format!("{:x}\r\n", 64 << 10).as_bytes(),
        &[b' '; 64 << 10],
        b"\r\n",
    ]
    .concat();
    let mut sent = 0_usize;
    while sent < 1 << 30 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    equal("cut", sent < 64 << 20, true)?;
    equal("memory", proxy.memory()? < before + (16 << 20), true)?;
    equal("soon", clock::now() - start < Duration::from_secs(8), true)?;
    for stream in late {
        rest(stream)?.is(408)?;
    }
    // One that breaks off is nobody's loss.
    drop(slow("Content-Length: 100\r\n", "{")?);
    proxy.healthy()?;
    let what = |entry: &Value| entry["result"].as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = audit(proxy)?.iter().map(what).collect();
    let late = told
        .iter()
        .filter(|result| result.starts_with("408: "))
        .count();
    equal("late ones are written down", late, 2)
}

fn c59_token() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("secret");
    let (right, wrong) = (
        "correct-horse-battery-staple",
        "correct-horse-battery-stable",
    );
    fs::write(&file, format!("{right}\n")).map_err(|e| e.to_string())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())?;
    let config = format!(
        "[admin]\ntoken = \"file:{}\"\n[log]\nlevel = \"trace\"",
        file.display()
    );
    let (_origin, site) = site(&config)?;
    let proxy = &site.proxy;
    equal("made", proxy.state("token").exists(), false)?;
    let mut told = String::new();
    for (method, token) in [
        ("GET", right),
        ("POST", right),
        ("GET", wrong),
        ("POST", wrong),
    ] {
        let body = format!("{{\"token\":\"{token}\",\"deep\":{{\"password\":\"{token}\"}}}}");
        let fields = bearer(token) + JSON;
        told += &proxy.api_with(method, "/v1/status", &fields, &body)?.body;
        told += &proxy.api_with(method, "/v1/audit", &fields, &body)?.body;
    }
    let ctl = ctl(&[
        "status",
        "-c",
        &site.dir.path().join("tidegate.toml").to_string_lossy(),
    ])?;
    equal("ctl", ctl.0, Some(0))?;
    told += &(ctl.1 + &ctl.2);
    told += &proxy.api_with("GET", "/metrics", "", "")?.body;
    let entries = audit(proxy)?;
    equal("written down", entries.len() >= 4, true)?;
    for name in ["stdout", "stderr", "access.log", "state/audit.jsonl"] {
        told += &fs::read_to_string(site.dir.path().join(name)).unwrap_or_default();
    }
    let pid = site.pid()?;
    for name in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).map_err(|e| e.to_string())?;
        told += &String::from_utf8_lossy(&bytes);
    }
    for secret in [right, wrong] {
        if let Some(at) = told.find(secret) {
            let around = told.get(at.saturating_sub(200)..at).unwrap_or_default();
            return Err(format!("told after …{around}"));
        }
    }
    Ok(())
}

fn c59_others() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("secret");
    fs::write(&file, "correct-horse-battery-staple").map_err(|e| e.to_string())?;
    let config = format!("[admin]\ntoken = \"file:{}\"", file.display());
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).map_err(|e| e.to_string())?;
        let (_origin, site) = site(&config)?;
        let log = site.dir.path().join("stdout");
        let said = eventually("it has begun", || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            Ok(said.contains("\"listening\"").then_some(said))
        })?;
        equal(
            "the log warns",
            said.contains("everybody on this machine can read this secret"),
            warned,
        )?;
        let mut check = Command::new(binary());
        check
            .args(["check", "-c"])
            .arg(site.dir.path().join("tidegate.toml"));
        let (code, _, errors) = ran(&mut check)?;
        equal("check", code, Some(0))?;
        equal(
            &errors,
            errors.contains("everybody on this machine can read this secret"),
            warned,
        )?;
    }
    Ok(())
}

fn c60_lines() -> Outcome {
    let (_origin, site) = site("")?;
    let proxy = &site.proxy;
    let actor = "X-Tidegate-Actor: \u{9b}31m\u{202e}anna\r\n";
    let fields = bearer(&proxy.token()?) + JSON + actor;
    let body = r#"{"reason":"\r\n{\"who\":\"root\"}\u001b[2J","n":["\u0000"]}"#;
    proxy
        .api_with("POST", "/v1/status", &fields, body)?
        .is(405)?;
    proxy
        .api_with("POST", "/v1/%0d%0a%1b", &fields, body)?
        .is(404)?;
    let log = fs::read(proxy.state("audit.jsonl")).map_err(|e| e.to_string())?;
    let plain = log.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~'));
    equal("plain", plain, true)?;
    let entries = audit(proxy)?;
    equal("lines", entries.len(), 2)?;
    let entry = &entries[0];
    equal("who", &entry["who"], &"token".into())?;
    equal("what", &entry["what"], &"POST /v1/status".into())?;
    let time = entry["time"].as_str().unwrap_or_default();
    equal("time", time.len() == 24 && time.ends_with('Z'), true)?;
    holds(
        "reason",
        entry["reason"].as_str().unwrap_or_default(),
        &["\r\n{\"who\"", "\u{1b}[2J"],
    )?;
    // They come back, the newest last.
    let told = proxy.api("GET", "/v1/audit?last=1", "")?.is(200)?.json()?;
    equal("one", told["entries"].as_array().map(Vec::len), Some(1))?;
    equal(
        "newest",
        &told["entries"][0]["what"],
        &"POST /v1/%0d%0a%1b".into(),
    )?;
    for query in ["last=1001", "last=-1", "last=x", "first=1"] {
        proxy
            .api("GET", &format!("/v1/audit?{query}"), "")?
            .is(400)?;
    }
    // A terminal sees no more than text.
    let config = site.dir.path().join("tidegate.toml");
    for json in [&[][..], &["--json"]] {
        let args = ["audit", "-c", &config.to_string_lossy()];
        let (code, said, _) = ctl(&[&args, json].concat())?;
        equal("ctl", code, Some(0))?;
        equal(
            "plain",
            said.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')),
            true,
        )?;
        holds("ctl", &said, &["POST /v1/status", "anna"])?;
    }
    Ok(())
}

/// As on a read-only disk: it serves, and what needs the directory says so.
fn stateless() -> Outcome {
    let (_origin, site) = site("[state]\ndir = \"/dev/null/state\"")?;
    let proxy = &site.proxy;
    site.get("/p", "")?.is(200)?;
    proxy.healthy()?;
    let told = proxy
        .api_with("GET", "/v1/status", &bearer("0123456789abcdef"), "")?
        .is(401)?;
    holds("why", &told.body, &["state directory"])?;
    let log = site.dir.path().join("stdout");
    eventually("it warns", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        Ok(said.contains("no state directory").then_some(()))
    })?;
    // With a token and a socket of the config's own it can be changed, and nothing is written down.
    let config = |dir: &Path| {
        let socket = dir.join("own.sock");
        format!(
            "[state]\ndir = \"off\"\n[admin]\ntoken = \"correct-horse-battery-staple\"\nsocket = \"{}\"",
            socket.display()
        )
    };
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let origin = page()?;
    let site = Site::start(origin.address, &config(folder.path()))?;
    let fields = bearer("correct-horse-battery-staple") + JSON;
    let told = site
        .proxy
        .api_with("GET", "/v1/status", &fields, "")?
        .is(200)?
        .json()?;
    equal("state", &told["state"], &Value::Null)?;
    site.proxy
        .api_with("GET", "/v1/audit", &fields, "")?
        .is(503)?;
    let told = site
        .proxy
        .api_with("POST", "/v1/nothing", &fields, "{}")?
        .is(404)?;
    holds(
        "the answer",
        told.field("x-tidegate-audit"),
        &["not written"],
    )?;
    let socket = folder.path().join("own.sock");
    equal(
        "the socket",
        ctl(&["status", "--socket", &socket.to_string_lossy()])?.0,
        Some(0),
    )
}

/// A process that was killed leaves its socket behind; the next one has it, the token, and the log.
fn outlives() -> Outcome {
    let (origin, site) = site("")?;
    let token = site.proxy.token()?;
    site.proxy.api("POST", "/v1/first", "{}")?.is(404)?;
    site.proxy.stop();
    equal("left behind", site.proxy.state("admin.sock").exists(), true)?;
    let config = site.dir.path().join("tidegate.toml");
    let again = Proxy::start(&binary(), &config, &[], site.address, site.proxy.admin())?;
    again.healthy()?;
    equal("the token", again.token()?, token)?;
    over_socket(&again, "GET /v1/status HTTP/1.1\r\n\r\n")?.is(200)?;
    again.api("POST", "/v1/second", "{}")?.is(404)?;
    let told = again.api("GET", "/v1/audit", "")?.is(200)?.json()?;
    let what = |at: usize| told["entries"][at]["what"].clone();
    equal(
        "both",
        [what(0), what(1)],
        ["POST /v1/first".into(), "POST /v1/second".into()],
    )?;
    // Who goes by himself takes it along.
    let term = Command::new("kill").arg(again.pid()?.to_string()).status();
    equal("kill", term.is_ok_and(|status| status.success()), true)?;
    eventually("the socket is gone", || {
        Ok((!again.state("admin.sock").exists()).then_some(()))
    })?;
    drop(origin);
    Ok(())
}

fn succeeded() -> Outcome {
    let (_origin, site) = site("")?;
    let status = || {
        let told = over_socket(&site.proxy, "GET /v1/status HTTP/1.1\r\n\r\n")?.is(200)?;
        Ok::<_, String>(told.json()?["pid"].clone())
    };
    let first = site.proxy.pid()?;
    equal("at first", status()?, first.into())?;
    let config = site.dir.path().join("tidegate.toml");
    let next = successor(&site, &config, "successor")?;
    equal("while the next one waits", status()?, first.into())?;
    // What is done meanwhile, the next one has as well.
    let lever = "{\"pull\":{\"lever\":\"readonly\"},\"reason\":\"late\"}";
    site.proxy.api("POST", "/v1/levers", lever)?.is(200)?;
    let text = fs::read_to_string(&config).map_err(|e| e.to_string())?;
    let other = serde_json::json!({ "text": text + "\n# another\n", "reason": "late" });
    site.proxy
        .api("POST", "/v1/config", &other.to_string())?
        .is(200)?;
    let quit = Command::new("kill")
        .args(["-QUIT", &first.to_string()])
        .status();
    equal("kill", quit.is_ok_and(|status| status.success()), true)?;
    eventually("the old one is gone", || {
        Ok(site.proxy.alive().is_err().then_some(()))
    })?;
    // It clears its place a moment before the next one has it.
    let next_pid = eventually("the next one answers", || Ok(status().ok()))?;
    equal("then", next_pid.as_u64() == Some(first.into()), false)?;
    // And over TCP, by the same token.
    let levers = site.proxy.api("GET", "/v1/levers", "")?.is(200)?;
    holds("levers", &levers.body, &["readonly", "late"])?;
    site.client()?.ask("POST", "/", "", b"order")?.is(503)?;
    let configs = site.proxy.api("GET", "/v1/config", "")?.is(200)?.json()?;
    let versions = configs["versions"].as_array().cloned().unwrap_or_default();
    let told = |at: usize| {
        (
            versions[at]["number"].as_u64(),
            versions[at]["reason"].clone(),
        )
    };
    equal(
        "versions",
        (versions.len(), told(1)),
        (3, (Some(2), "late".into())),
    )?;
    drop(next);
    Ok(())
}

/// Every question of the document, to a proxy that has something to tell.
fn document() -> Outcome {
    let config = "[[limit]]\nname = \"all\"\nrate = \"1000/s\"\n[[upstream]]\nhealth = \"tcp\"";
    let (_origin, site) = site(config)?;
    let proxy = &site.proxy;
    site.get("/p?q=1", "")?.is(200)?;
    site.get("/p?q=1", "")?.is(200)?;
    proxy
        .api("POST", "/v1/nothing", "{\"reason\":\"to have one\"}")?
        .is(404)?;
    let api: Value = proxy.api("GET", "/v1/openapi.json", "")?.is(200)?.json()?;
    holds(
        "version",
        api["openapi"].as_str().unwrap_or_default(),
        &["3."],
    )?;
    let paths = api["paths"].as_object().ok_or("no paths")?;
    let mut asked = 0;
    for (path, item) in paths {
        let Some(operation) = item.get("get") else {
            continue;
        };
        let told = proxy.api("GET", path, "")?;
        let status = told.status.to_string();
        let response = &operation["responses"][&status];
        if response.is_null() {
            return Err(format!("{path}: a {status} that is not in the document"));
        }
        let kind = told
            .field("content-type")
            .split(';')
            .next()
            .unwrap_or_default();
        let media = &response["content"][kind];
        if media.is_null() {
            return Err(format!("{path}: {kind} is not in the document: {response}"));
        }
        if kind == "application/json" {
            conforms(&api, &media["schema"], &told.json()?, path)?;
        }
        asked += 1;
    }
    equal("asked", asked >= 7, true)?;
    // Refusals, too.
    let problem = proxy.api("GET", "/v1/audit?last=x", "")?.is(400)?;
    let response = &api["paths"]["/v1/audit"]["get"]["responses"]["default"];
    let schema = &response["content"]["application/problem+json"]["schema"];
    conforms(&api, schema, &problem.json()?, "a refusal")
}

/// Holds a value against a schema, as far as ours go. What a schema doesn't name must not be there.
fn conforms(api: &Value, schema: &Value, value: &Value, at: &str) -> Outcome {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = api.pointer(&name[1..]);
        return conforms(api, schema.ok_or(format!("{at}: no {name}"))?, value, at);
    }
    for way in ["oneOf", "anyOf"] {
        if let Some(ways) = schema[way].as_array() {
            let fits = ways
                .iter()
                .any(|schema| conforms(api, schema, value, at).is_ok());
            return equal(&format!("{at}: {value} is one of {schema}"), fits, true);
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        // Anything goes.
        _ => return Ok(()),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
    };
    let fits = types.contains(&is) || is == "integer" && types.contains(&"number");
    if !fits {
        return Err(format!("{at}: {value} is {is}, should be {types:?}"));
    }
    match value {
        Value::Array(elements) => elements
            .iter()
            .try_for_each(|element| conforms(api, &schema["items"], element, &format!("{at}[]"))),
        Value::Object(members) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                if !members.contains_key(name) {
                    return Err(format!("{at}: no {name}"));
                }
            }
            members.iter().try_for_each(|(name, member)| {
                let at = format!("{at}.{name}");
                let (own, others) = (&schema["properties"][name], &schema["additionalProperties"]);
                match (
                    own.is_null(),
                    others.is_null(),
                    schema["properties"].is_null(),
                ) {
                    (false, ..) => conforms(api, own, member, &at),
                    (true, false, _) => conforms(api, others, member, &at),
                    // An object of no known shape.
                    (true, true, true) => Ok(()),
                    (true, true, false) => Err(format!("{at} is not in the document")),
                }
            })
        }
        _ => Ok(()),
    }
}

fn ctl_tells() -> Outcome {
    let config = "[[limit]]\nname = \"all\"\nrate = \"100000/s\"\n[[upstream]]\nname = \"app\"\n\
                  [[route]]\nname = \"blog\"\n[log]\nhide_query = [\"token\"]";
    let (origin, site) = site(config)?;
    let path = site.dir.path().join("tidegate.toml");
    let file = path.to_string_lossy();
    let told = |args: &[&str]| {
        let (code, said, errors) = ctl(&[args, &["-c", &file]].concat())?;
        equal(&errors, code, Some(0))?;
        Ok::<_, String>(said)
    };
    site.get("/p?token=hunter2&q=1", "")?.is(200)?;
    let said = told(&["status"])?;
    let listen = site.address.to_string();
    let (origin, socket) = (origin.address.to_string(), site.proxy.state("admin.sock"));
    let parts = [
        "tidegate 0.1.0, up ",
        &file,
        &listen,
        &origin,
        &socket.to_string_lossy(),
        "ready      yes",
        "upstream   app: 0 of 16 in flight",
        "limit      all: 0 refused",
        "1 pages",
    ];
    holds("status", &said, &parts)?;
    let json: Value =
        serde_json::from_str(&told(&["status", "--json"])?).map_err(|e| e.to_string())?;
    equal("pid", &json["pid"], &site.proxy.pid()?.into())?;
    equal(
        "breaker",
        &json["upstreams"][0]["breaker"],
        &"closed".into(),
    )?;

    let json = std::thread::scope(|scope| {
        let top = scope.spawn(|| told(&["top", "--json", "--seconds", "2"]));
        // Somebody asks all the while.
        while !top.is_finished() {
            site.get("/p?token=hunter2&q=1", "")?.is(200)?;
        }
        top.join().map_err(|_| "ctl panicked")?
    })?;
    let top: Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    equal("route", &top["routes"][0]["name"], &"blog".into())?;
    let (rate, hits) = (&top["routes"][0]["rate"], &top["routes"][0]["hits"]);
    equal("rate", rate.as_f64().is_some_and(|rate| rate > 1.0), true)?;
    equal(
        "from memory",
        hits.as_f64().is_some_and(|hits| hits > 50.0),
        true,
    )?;
    equal(
        "page",
        &top["pages"][0]["url"],
        &"http://a.test/p?token=***&q=1".into(),
    )?;
    equal(
        "found",
        top["pages"][0]["found"]
            .as_u64()
            .is_some_and(|found| found > 0),
        true,
    )?;
    let said = told(&["top"])?;
    holds(
        "top",
        &said,
        &["http://a.test/p?token=***&q=1", "from memory"],
    )?;

    holds("audit", &told(&["audit"])?, &["nothing was changed"])?;
    Ok(())
}

/// By what it is given, and else by what the config says: the socket first, and TCP where there is none.
fn ctl_finds() -> Outcome {
    let (_origin, site) = site("")?;
    let path = site.dir.path().join("tidegate.toml");
    let file = path.to_string_lossy();
    let (socket, token) = (site.proxy.state("admin.sock"), site.proxy.state("token"));
    let (socket, token) = (socket.to_string_lossy(), token.to_string_lossy());
    let admin = format!("http://{}", site.proxy.admin());
    for args in [
        &["status", "--socket", &socket][..],
        &["--socket", &socket, "status"],
        &["status", "--admin", &admin, "--token-file", &token],
        &["status", "--admin", &admin, "-c", &file],
        &["status", "-c", &file],
    ] {
        let (code, _, errors) = ctl(args)?;
        equal(&format!("{args:?}: {errors}"), code, Some(0))?;
    }
    // Of systemd's directory, for a config that names none.
    let mut command = Command::new(binary());
    command.args(["ctl", "status", "--json"]);
    let state = site.proxy.state("");
    let (code, said, _) = ran(command.env("STATE_DIRECTORY", &state))?;
    equal("by the environment", code, Some(0))?;
    let told: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    equal("that one", &told["pid"], &site.proxy.pid()?.into())?;
    // The socket is gone, the listener is not.
    fs::remove_file(site.proxy.state("admin.sock")).map_err(|e| e.to_string())?;
    equal("over TCP", ctl(&["status", "-c", &file])?.0, Some(0))?;
    // Who says to be called something is called so.
    let (_, _, errors) = ctl(&["status", "-c", &file, "--as", "a\nb"])?;
    holds("a name", &errors, &["--as"])
}

fn ctl_says() -> Outcome {
    let (_origin, site) = site("")?;
    let path = site.dir.path().join("tidegate.toml");
    let file = path.to_string_lossy();
    let admin = format!("http://{}", site.proxy.admin());
    let nowhere = format!("http://{}", free_port());
    let wrong = site.dir.path().join("wrong");
    fs::write(&wrong, "0123456789abcdef").map_err(|e| e.to_string())?;
    let wrong = wrong.to_string_lossy();
    let other = site.dir.path().join("other.toml");
    let write = |text: &str| fs::write(&other, text).map_err(|e| e.to_string());
    let other_file = other.to_string_lossy();
    for (config, args, code, says) in [
        (
            "",
            &["status", "--admin", &nowhere][..],
            1,
            "nobody listens",
        ),
        (
            "",
            &["status", "--socket", "/nowhere/admin.sock"],
            1,
            "not there",
        ),
        (
            "",
            &["status", "--admin", &admin, "--token-file", &wrong],
            1,
            "not the token",
        ),
        (
            "",
            &["status", "--admin", &admin, "--token-file", "/nowhere"],
            2,
            "--token-file",
        ),
        ("", &["status", "--admin", "https://127.0.0.1:1"], 2, "http"),
        ("", &["status", "--admin", "127.0.0.1"], 2, "a port"),
        (
            "",
            &["audit", "-c", &file, "--last", "1001"],
            1,
            "1000 at most",
        ),
        (
            "",
            &["top", "-c", &file, "--seconds", "11"],
            1,
            "from 1 to 10",
        ),
        ("", &["status", "-c", "/nowhere.toml"], 2, "nowhere.toml"),
        ("", &["statsu"], 2, "status"),
        (
            "[admin]\nadress = \"off\"\n",
            &["status", "-c", &other_file],
            2,
            "other.toml:2",
        ),
        (
            "[state]\ndir = \"off\"\n[admin]\naddress = \"off\"\n",
            &["status", "-c", &other_file],
            2,
            "nobody to ask",
        ),
        (
            "[state]\ndir = \"off\"\n",
            &["status", "-c", &other_file, "--admin", &admin],
            1,
            "--token-file",
        ),
        // What else is wrong in the file doesn't matter.
        (
            "[[upstream]]\nservers = 1\n",
            &["status", "-c", &other_file, "--admin", &nowhere],
            1,
            "nobody listens",
        ),
    ] {
        write(config)?;
        let (ended, said, errors) = ctl(args)?;
        equal(&format!("{args:?}\n{errors}"), ended, Some(code))?;
        holds(&format!("{args:?}"), &errors, &[says])?;
        equal(&format!("{args:?}"), said, String::new())?;
    }
    // A script is told by JSON, too, and by the exit code.
    let (code, said, _) = ctl(&["audit", "-c", &file, "--last", "1001", "--json"])?;
    let told: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    equal("code", code, Some(1))?;
    equal("status", &told["status"], &400.into())
}

/// Another user can't open the socket, and is told whose it is.
fn ctl_other_user() -> Outcome {
    let (_origin, site) = site("")?;
    let told = |e: std::io::Error| e.to_string();
    let socket = site.proxy.state("admin.sock");
    let open =
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(told);
    let folder = tempfile::tempdir().map_err(told)?;
    let mut command = if nobody_can_be() {
        // The binary may lie where that user can't go.
        let own = folder.path().join("tidegate");
        fs::copy(binary(), &own).map_err(told)?;
        for path in [folder.path(), site.dir.path(), &site.proxy.state("")] {
            open(path)?;
        }
        let mut command = Command::new(own);
        command.uid(65_534).gid(65_534);
        command
    } else {
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).map_err(told)?;
        Command::new(binary())
    };
    command.args(["ctl", "status", "--socket"]).arg(&socket);
    let (code, _, errors) = ran(command.env("HOME", "/nowhere"))?;
    equal(&errors, code, Some(1))?;
    holds("why", &errors, &["permission denied: it is for ", "sudo"])
}

fn nobody_can_be() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}

//! `tidegate health` against a proxy that drains, against listeners that never answer whole, and with files of which only
//! `[admin]` matters.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::site::{Gate, Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("health::a_draining_proxy_is_alive_but_not_ready", draining),
        ("health::an_answer_that_never_ends_is_none", never_ends),
        ("health::only_admin_of_the_file_counts", only_admin),
    ]
}

/// Exit code and standard error of `tidegate health ARGS`.
fn health(args: &[&str]) -> Result<(Option<i32>, String), String> {
    let run = Command::new(binary())
        .arg("health")
        .args(args)
        .stdin(Stdio::null())
        .output();
    let run = run.map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    Ok((run.status.code(), said))
}

fn draining() -> Outcome {
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn| {
        at_gate.wait();
        answer(conn, 200, "", b"page")
    })?;
    let site = Site::start(origin.address, "")?;
    let config = site.dir.path().join("tidegate.toml");
    let config = config.to_string_lossy();
    equal("before", health(&["-c", &config])?.0, Some(0))?;
    let mut client = site.client()?;
    client.send("GET", "/", "", b"")?;
    eventually("the request is with the origin", || {
        Ok((origin.asked("GET /") == 1).then_some(()))
    })?;
    let term = Command::new("kill").arg(site.pid()?.to_string()).status();
    equal("kill", term.map_err(|e| e.to_string())?.success(), true)?;
    let said = eventually("it is not ready", || {
        let (code, said) = health(&["-c", &config])?;
        Ok((code == Some(1)).then_some(said))
    })?;
    equal("why", said.trim(), "error: not ready: draining: yes")?;
    equal("alive", health(&["-c", &config, "--live"])?.0, Some(0))?;
    gate.open();
    client.reply("GET")?.is(200).map(drop)
}

/// The whole exchange has one deadline, however its bytes come.
fn never_ends() -> Outcome {
    for bytes in ["", "HTTP/1.1 200 OK\r\nA: "] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        let address: SocketAddr = listener.local_addr().map_err(|e| e.to_string())?;
        let dripping = thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let mut next = bytes;
            // Until the client has left.
            while stream.write_all(next.as_bytes()).is_ok() && !next.is_empty() {
                thread::sleep(Duration::from_millis(20));
                next = "a";
            }
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let start = clock::now();
        let (code, said) = health(&["--admin", &address.to_string(), "--timeout", "300ms"])?;
        equal("exit code", code, Some(1))?;
        equal("one line", said.lines().count(), 1)?;
        if !said.contains("no answer within 300ms") {
            return Err(said);
        }
        if clock::now() - start > Duration::from_secs(10) {
            return Err("it waited for the last byte".into());
        }
        dripping.join().map_err(|_| "the listener panicked")?;
    }
    Ok(())
}

/// A running proxy has read its file: a mistake made since, or a name that is gone, doesn't make it ill.
fn only_admin() -> Outcome {
    let origin = Origin::start(|_, conn| answer(conn, 200, "", b"page"))?;
    let site = Site::start(origin.address, "")?;
    let good = fs::read_to_string(site.dir.path().join("tidegate.toml"));
    let good = good.map_err(|e| e.to_string())?;
    let at = |config: &str| {
        let file = site.dir.path().join("other.toml");
        fs::write(&file, config).map_err(|e| e.to_string())?;
        health(&["-c", &file.to_string_lossy()])
    };
    let gone = "[[upstream]]\nservers = [\"${NOT_IN_THE_ENVIRONMENT}\"]\nmistaken = 1\n";
    equal(
        "mistakes elsewhere",
        at(&format!("{good}{gone}"))?.0,
        Some(0),
    )?;
    for (config, says) in [
        ("[admin]\naddress = \"off\"\n", "the admin listener is off"),
        ("[admin]\nadress = \"127.0.0.1:1\"\n", "other.toml:2"),
        ("[admin]\naddress = 127.0.0.1:1\n", "other.toml:2"),
    ] {
        let (code, said) = at(config)?;
        equal(config, code, Some(2))?;
        if !said.contains(says) {
            return Err(format!("{config}{said}"));
        }
    }
    Ok(())
}

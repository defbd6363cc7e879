//! A browser looks at the demo site, and at the page that has it solve a puzzle: headless Chromium, driven by the DevTools protocol over a pipe.
//!
//! Whatever a page says to its console, throws, or fails to load is a fault, and so is a page wider than its window.
//! What it looked like lies in `target/browser`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{env, fs, thread};

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{PublicKeyData, generate_simple_self_signed};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::challenge::challenged;
use super::site::{Asked, Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::{NO_STATE, free_port};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("browser::the_demo_over_https_and_http2", secure),
        ("browser::the_demo_over_plain_http", plain),
        ("browser::a_challenge_is_solved", challenge),
        ("browser::a_challenge_that_lasts", long_challenge),
        ("browser::a_fault_is_found", found),
    ]
}

/// A browser starts slowly where others build.
const PATIENCE: Duration = Duration::from_secs(60);
/// A page's address, and what stands on it.
const PAGES: [(&str, &str); 6] = [
    ("/", "A small blog that stands behind a caching proxy"),
    ("/posts/slack-water", "Slack water"),
    ("/slow", "Two seconds"),
    ("/private", "Hello, stranger"),
    ("/events", "water at 180 cm, rising"),
    ("/errors", "Now: the origin answers as it should."),
];

fn secure() -> Outcome {
    let told = |e: std::io::Error| e.to_string();
    let certificate = generate_simple_self_signed(vec!["demo.test".to_owned()]);
    let certificate = certificate.map_err(|e| e.to_string())?;
    let folder = tempfile::tempdir().map_err(told)?;
    for (name, text) in [
        ("fullchain.pem", certificate.cert.pem()),
        ("privkey.pem", certificate.signing_key.serialize_pem()),
    ] {
        fs::write(folder.path().join(name), text).map_err(told)?;
    }
    let demo = Demo::start(Some(folder.path()))?;
    // This key and no other may be nobody's the browser knows; all else about TLS is as strict as ever.
    let key = sha256(&certificate.signing_key.subject_public_key_info())?;
    let flag = format!(
        "--ignore-certificate-errors-spki-list={}",
        BASE64_STANDARD.encode(key)
    );
    let mut browser = Browser::start(&[&flag])?;
    let site = format!("https://demo.test:{}", demo.address.port());
    for (path, says) in PAGES {
        browser
            .visit(&format!("{site}{path}"), "h2", says)
            .map_err(|why| format!("{path}: {why}"))?;
    }
    let connection = &browser.seen("Network.responseReceived")[0]["response"]["securityDetails"];
    equal("TLS", connection["protocol"].as_str(), Some("TLS 1.3"))?;

    // What a visitor does: logs in, and asks for a page again past the browser's own cache.
    browser.visit(&format!("{site}/private"), "h2", "Hello, stranger")?;
    browser.run(
        "document.querySelector('input[name=name]').value = 'Ada';
         document.querySelector('form').requestSubmit()",
    )?;
    browser.until("document.body.innerText.includes('Hello, Ada')")?;
    browser.run("document.querySelector('form').requestSubmit()")?;
    browser.until("document.body.innerText.includes('Hello, stranger')")?;
    browser.visit(&format!("{site}/"), "h2", "small blog")?;
    browser.run("document.querySelector('[data-ask]').click()")?;
    browser.until("/^200 in \\d+ ms. Cache-Status: Tidegate; hit/.test(document.querySelector('.asked').innerText)")?;
    browser.nothing_is_wrong()?;

    browser.picture("demo-https")?;
    browser.window(390, 844)?;
    for (path, says) in PAGES {
        browser
            .visit(&format!("{site}{path}"), "h2", says)
            .map_err(|why| format!("{path} in a narrow window: {why}"))?;
    }
    browser.visit(&format!("{site}/"), "h2", "small blog")?;
    browser.picture("demo-https-narrow")
}

fn plain() -> Outcome {
    let demo = Demo::start(None)?;
    let mut browser = Browser::start(&[])?;
    let site = format!("http://demo.test:{}", demo.address.port());
    let (path, says) = PAGES[1];
    browser.visit(&format!("{site}{path}"), "http/1.1", says)?;
    browser.picture("demo-http")
}

/// An app that says what cookies it was shown.
fn shop() -> Result<Origin, String> {
    Origin::start(|asked: &Asked, conn: &mut Conn| {
        let page = format!(
            "<!doctype html><title>The shop</title><link rel=icon href='data:,'><p>Cookies: [{}]",
            asked.field("cookie")
        );
        let fields = "Content-Type: text/html\r\nCache-Control: private\r\n";
        answer(conn, 200, fields, page.as_bytes())
    })
}

/// Without TLS there is no hash function of the browser's own.
fn challenge() -> Outcome {
    let origin = shop()?;
    let site = Site::start(origin.address, &challenged(14, ""))?;
    let mut browser = Browser::start(&[])?;
    browser.window(390, 844)?;
    let url = format!(
        "http://shop.test:{}/shelf/3?sort=new#half-way",
        site.address.port()
    );
    browser.load(&url)?;
    browser.until("document.title === 'The shop'")?;
    equal("address", browser.value("location.href")?, json!(url))?;
    for what in [
        "document.body.innerText.includes('Cookies: []')",
        "document.cookie === ''",
    ] {
        equal(what, browser.value(what)?, json!(true))?;
    }
    let documents = browser.seen("Network.responseReceived");
    let documents = documents.iter().filter(|seen| seen["type"] == "Document");
    let statuses: Vec<_> = documents
        .map(|seen| seen["response"]["status"].as_u64())
        .collect();
    equal("pages", statuses, vec![Some(403), Some(200)])?;
    browser.nothing_is_wrong_but(Some("status of 403"))?;
    // The pass holds for the next page.
    browser.load(&url.replace("/3", "/4"))?;
    browser.nothing_is_wrong()?;
    equal("asked", origin.asked("GET /shelf/"), 2)?;
    let labels = [("result".to_owned(), "shown".to_owned())];
    let shown = site.proxy.metric("tidegate_challenges_total", &labels)?;
    equal("shown", shown, Some(1.0))
}

/// What a visitor sees meanwhile, and when it fails.
fn long_challenge() -> Outcome {
    let origin = shop()?;
    let site = Site::start(origin.address, &challenged(24, ""))?;
    let mut browser = Browser::start(&[])?;
    // A browser that tries some hundred a second does not come to an end while it is looked at.
    let slow = "performance.now = () => Infinity;
        const post = MessagePort.prototype.postMessage;
        MessagePort.prototype.postMessage = function (m) { setTimeout(() => post.call(this, m), 1000) }";
    let slow = json!({ "source": slow });
    browser.call("Page.addScriptToEvaluateOnNewDocument", slow)?;
    let url = format!("http://shop.test:{}/", site.address.port());
    browser.load(&url)?;
    browser.until("document.querySelector('progress').value > 0")?;
    for (width, name) in [(390, "challenge-narrow"), (1280, "challenge")] {
        browser.window(width, 844)?;
        for what in [
            "document.title === 'One moment'",
            "document.documentElement.scrollWidth <= innerWidth",
            "document.querySelector('[role=status]').textContent === 'Your browser is solving it.'",
            "getComputedStyle(document.querySelector('button')).display === 'none'",
            "getComputedStyle(document.querySelector('progress')).display !== 'none'",
        ] {
            equal(what, browser.value(what)?, json!(true))?;
        }
        browser.picture(name)?;
    }
    browser.nothing_is_wrong_but(Some("status of 403"))?;
    let easy = Site::start(origin.address, &challenged(8, ""))?;
    let blocked = json!({ "urls": ["*/.tidegate/*"] });
    browser.open()?;
    browser.call("Network.setBlockedURLs", blocked)?;
    let url = format!("http://shop.test:{}/", easy.address.port());
    browser.load(&url)?;
    browser.until("document.body.innerText.includes('did not get through')")?;
    browser.call("Network.setBlockedURLs", json!({ "urls": [] }))?;
    browser.run("document.querySelector('button').click()")?;
    browser.until("document.title === 'The shop'")
}

/// The test tests: another protocol, a status, a word on the console and a missing file are seen.
fn found() -> Outcome {
    let demo = Demo::start(None)?;
    let site = format!("http://demo.test:{}", demo.address.port());
    let mut browser = Browser::start(&[])?;
    for (path, protocol, script, why) in [
        ("/", "h2", "", "http/1.1"),
        ("/nowhere", "http/1.1", "", "404"),
        ("/", "http/1.1", "console.error('oh')", "oh"),
        (
            "/",
            "http/1.1",
            "setTimeout(() => { throw 'thrown' })",
            "thrown",
        ),
        ("/", "http/1.1", "new Image().src = '/none.png'", "none.png"),
        (
            "/",
            "http/1.1",
            "document.body.append(Object.assign(document.createElement('script'), { textContent: '1' }))",
            "Content Security Policy",
        ),
    ] {
        browser.open()?;
        let mut seen = browser.visit(&format!("{site}{path}"), protocol, "");
        if !script.is_empty() {
            seen?;
            browser.run(script)?;
            seen = eventually_wrong(&mut browser);
        }
        match seen {
            Err(said) if said.contains(why) => {}
            other => return Err(format!("{path} {script}: {other:?}")),
        }
    }
    Ok(())
}

fn eventually_wrong(browser: &mut Browser) -> Outcome {
    let mut wrong = String::new();
    eventually("a fault", || {
        // Any question takes in what was said before its answer.
        browser.value("1")?;
        wrong = browser.nothing_is_wrong().err().unwrap_or_default();
        Ok((!wrong.is_empty()).then_some(()))
    })?;
    Err(wrong)
}

fn sha256(bytes: &[u8]) -> Result<Vec<u8>, String> {
    use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = TLS13_AES_128_GCM_SHA256.tls13().ok_or("no TLS 1.3")?;
    Ok(suite.common.hash_provider.hash(bytes).as_ref().to_vec())
}

/// `tidegate demo`.
struct Demo {
    child: Child,
    address: SocketAddr,
}

impl Demo {
    fn start(certificate: Option<&Path>) -> Result<Demo, String> {
        let (address, admin) = (free_port(), free_port());
        let mut command = Command::new(binary());
        command.arg("demo").env(NO_STATE.0, NO_STATE.1);
        command.args(["--listen", &address.to_string()]);
        command.args(["--admin", &admin.to_string()]);
        if let Some(folder) = certificate {
            command.arg("--certificate").arg(folder);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|e| e.to_string())?;
        let demo = Demo { child, address };
        eventually("the demo listens", || Ok(TcpStream::connect(address).ok()))?;
        Ok(demo)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser with one tab.
pub struct Browser {
    child: Child,
    says: ChildStdin,
    hears: Receiver<Value>,
    calls: u64,
    tab: Option<String>,
    /// What has happened in the tab, oldest first.
    events: Vec<Value>,
    profile: TempDir,
}

impl Browser {
    pub fn start(flags: &[&str]) -> Result<Browser, String> {
        let told = |e: std::io::Error| e.to_string();
        let profile = tempfile::tempdir().map_err(told)?;
        // It reads commands from the file of number 3 and writes answers to number 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec chromium \"$@\" 3<&0 4>&1 >\"$HOME/said\" 2>&1",
                "sh",
            ])
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--no-first-run",
                "--no-proxy-server",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--hide-scrollbars",
                // Every name is this machine, also those that the browser asks for by itself.
                "--host-resolver-rules=MAP * 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(flags)
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(told)?;
        let (Some(says), Some(heard)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        let (tells, hears) = channel();
        thread::spawn(move || {
            let mut heard = BufReader::new(heard);
            let mut message = Vec::new();
            while heard.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if tells.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            child,
            says,
            hears,
            calls: 0,
            tab: None,
            events: Vec::new(),
            profile,
        };
        browser.open()?;
        Ok(browser)
    }

    /// A new tab, of which nothing has been heard.
    fn open(&mut self) -> Outcome {
        self.tab = None;
        let tab = self.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let tab = self.call("Target.attachToTarget", attach)?;
        self.tab = tab["sessionId"].as_str().map(str::to_owned);
        self.events.clear();
        for domain in ["Network", "Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        // What comes, comes from the proxy.
        let off = json!({ "cacheDisabled": true });
        self.call("Network.setCacheDisabled", off)?;
        self.window(1280, 900)
    }

    /// Loads a page, whatever it is.
    pub fn load(&mut self, url: &str) -> Outcome {
        self.events.clear();
        let went = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = went["errorText"].as_str() {
            return Err(error.to_owned());
        }
        while self.seen("Page.loadEventFired").is_empty() {
            self.hear()?;
        }
        Ok(())
    }

    /// Loads a page; all of it must come by this protocol, with a 200, and nothing may be wrong with it.
    fn visit(&mut self, url: &str, protocol: &str, says: &str) -> Outcome {
        self.load(url)?;
        let responses = self.seen("Network.responseReceived");
        for response in responses.iter().map(|event| &event["response"]) {
            let by = (response["status"].as_u64(), response["protocol"].as_str());
            let url = response["url"].as_str().unwrap_or_default();
            equal(url, by, (Some(200), Some(protocol)))?;
        }
        // What the page itself knows of: the document, its style, its script, its picture.
        let hops = self.value(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
             .filter(e => e.initiatorType !== 'fetch' && e.nextHopProtocol !== '').map(e => e.nextHopProtocol)",
        )?;
        let hops = hops.as_array().cloned().unwrap_or_default();
        if hops.is_empty() || hops.iter().any(|hop| hop != protocol) {
            return Err(format!("next hops: {hops:?}"));
        }
        let says = format!("document.body.innerText.includes({})", json!(says));
        self.until(&says)?;
        // A picture may be drawn after the page is there.
        self.until(
            "[...document.images].every(image => image.complete && image.naturalWidth > 0)",
        )?;
        for what in [
            "document.title.length > 0",
            "[...document.styleSheets].some(sheet => sheet.cssRules.length > 10)",
            "document.documentElement.scrollWidth <= innerWidth",
        ] {
            equal(what, self.value(what)?, json!(true))?;
        }
        self.nothing_is_wrong()
    }

    /// Since the page was asked for.
    pub fn nothing_is_wrong(&self) -> Outcome {
        self.nothing_is_wrong_but(None)
    }

    /// The same, where the browser may say this one thing of what it loaded.
    fn nothing_is_wrong_but(&self, expected: Option<&str>) -> Outcome {
        let wrong = |event: &&Value| {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" | "Network.loadingFailed" => {
                    // Leaving a page ends its event stream.
                    params["canceled"] != true
                }
                "Runtime.consoleAPICalled" => {
                    matches!(
                        params["type"].as_str(),
                        Some("error" | "warning" | "assert")
                    )
                }
                "Log.entryAdded" => {
                    let entry = &params["entry"];
                    let text = entry["text"].as_str().unwrap_or_default();
                    let is_expected = entry["source"] == "network"
                        && expected.is_some_and(|expected| text.contains(expected));
                    !is_expected && matches!(entry["level"].as_str(), Some("error" | "warning"))
                }
                _ => false,
            }
        };
        let wrong: Vec<String> = self
            .events
            .iter()
            .filter(wrong)
            .map(Value::to_string)
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }

    fn run(&mut self, script: &str) -> Outcome {
        self.value(script).map(drop)
    }

    /// What an expression is, in the page.
    pub fn value(&mut self, script: &str) -> Result<Value, String> {
        let asks = json!({ "expression": script, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asks)?;
        match answer.get("exceptionDetails") {
            Some(thrown) => Err(format!("{script}: {thrown}")),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    pub fn until(&mut self, holds: &str) -> Outcome {
        // Between two pages there is none to ask.
        eventually(holds, || {
            Ok((self.value(holds) == Ok(json!(true))).then_some(()))
        })
    }

    pub fn window(&mut self, width: u32, height: u32) -> Outcome {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size)
            .map(drop)
    }

    fn picture(&mut self, name: &str) -> Outcome {
        self.take(name, json!({ "format": "png" }))
    }

    /// Of one part of the page, also where it is higher than the window.
    pub fn picture_of(&mut self, what: &str, name: &str) -> Outcome {
        let clip = self.value(&format!(
            "(() => {{
                const box = document.querySelector({}).getBoundingClientRect();
                return {{ x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1 }};
            }})()",
            json!(what)
        ))?;
        self.take(
            name,
            json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }),
        )
    }

    fn take(&mut self, name: &str, how: Value) -> Outcome {
        let taken = self.call("Page.captureScreenshot", how)?;
        let png = BASE64_STANDARD.decode(taken["data"].as_str().unwrap_or_default());
        let png = png.map_err(|e| e.to_string())?;
        let folder = pictures();
        fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let file = folder.join(format!("{name}.png"));
        fs::write(&file, &png).map_err(|e| e.to_string())?;
        println!("{}", file.display());
        // An empty page of this size takes less than a tenth of this.
        equal("a picture of something", png.len() > 20_000, true)
    }

    fn seen(&self, method: &str) -> Vec<Value> {
        let named = self.events.iter().filter(|event| event["method"] == method);
        named.map(|event| event["params"].clone()).collect()
    }

    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(tab) = &self.tab {
            call["sessionId"] = json!(tab);
        }
        let mut message = call.to_string().into_bytes();
        message.push(0);
        self.says
            .write_all(&message)
            .map_err(|e| format!("chromium: {e}; {}", self.said()))?;
        loop {
            if let Some(mut answer) = self.hear()?
                && answer["id"] == self.calls
            {
                return match answer.get("error") {
                    Some(error) => Err(format!("{method}: {error}")),
                    None => Ok(answer["result"].take()),
                };
            }
        }
    }

    /// Takes in what comes next; gives it back if it is an answer.
    fn hear(&mut self) -> Result<Option<Value>, String> {
        let heard = self.hears.recv_timeout(PATIENCE);
        let heard = heard.map_err(|_| format!("chromium says nothing; {}", self.said()))?;
        if heard.get("id").is_some() {
            return Ok(Some(heard));
        }
        if heard["sessionId"].as_str() == self.tab.as_deref() {
            self.events.push(heard);
        }
        Ok(None)
    }

    fn said(&self) -> String {
        let said = fs::read(self.profile.path().join("said")).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.tab = None;
        // It takes its children with it.
        if self.call("Browser.close", json!({})).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn pictures() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"));
    target.join("browser")
}

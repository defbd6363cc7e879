//! TLS to clients: certificates by name, taken anew when they change, and what happens to those who don't speak it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::challenge::{JUDGE, challenged, cookie, solution};
use super::site::{Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::free_port;
use crate::harness::wire::{Conn, PATIENCE};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("tls::a_certificate_for_every_name", by_name),
        ("tls::certificates_are_taken_anew_when_they_change", anew),
        ("tls::a_bad_pair_is_refused_and_the_old_one_kept", bad_pair),
        ("tls::visitors_of_plain_http_are_sent_to_https", redirect),
        ("tls::hsts_is_told_over_tls_alone", hsts),
        ("tls::who_shows_no_certificate_is_turned_away", mutual),
        (
            "tls::c65_a_handshake_has_the_time_of_a_head",
            c65_slow_handshake,
        ),
        ("tls::a_large_page_is_whole", large_page),
        ("tls::a_sticky_cookie_stays_on_tls", sticky),
        ("tls::a_pass_stays_on_tls", pass),
    ]
}

/// Certificates in folders of their own.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Result<Folder, String> {
        tempfile::tempdir().map(Folder).map_err(|e| e.to_string())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a new certificate for `names`; gives it back.
    pub fn write(&self, name: &str, names: &[&str]) -> Result<CertificateDer<'static>, String> {
        let new = certificate(names)?;
        self.put(name, &new.cert.pem(), &new.signing_key.serialize_pem())?;
        Ok(new.cert.der().clone())
    }

    fn put(&self, name: &str, chain: &str, key: &str) -> Outcome {
        let told = |e: io::Error| e.to_string();
        let folder = self.path(name);
        fs::create_dir_all(&folder).map_err(told)?;
        // As they should be replaced: whole, in one step each.
        for (file, text) in [("fullchain.pem", chain), ("privkey.pem", key)] {
            let new = folder.join("new");
            fs::write(&new, text).map_err(told)?;
            fs::rename(&new, folder.join(file)).map_err(told)?;
        }
        Ok(())
    }
}

fn certificate(names: &[&str]) -> Result<CertifiedKey<rcgen::KeyPair>, String> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    generate_simple_self_signed(names).map_err(|e| e.to_string())
}

pub fn config(certificates: &[PathBuf], more: &str) -> String {
    let paths: Vec<String> = certificates.iter().map(|p| format!("{:?}", p)).collect();
    format!("[listen]\ncertificates = [{}]\n{more}", paths.join(", "))
}

/// A client that trusts whoever it meets: tests look at what it was shown.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(
    to: SocketAddr,
    name: &str,
    trusted: &CertificateDer<'static>,
    own: Option<CertifiedKey<rcgen::KeyPair>>,
) -> Result<Tls, String> {
    let stream = TcpStream::connect(to).map_err(|e| e.to_string())?;
    over(stream, name, trusting(trusted, own)?)
}

/// TLS on a connection that is there already.
pub fn over(stream: TcpStream, name: &str, config: ClientConfig) -> Result<Tls, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
    let client = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(|e| e.to_string())?;
    Ok(StreamOwned::new(client, stream))
}

/// A client that believes in one certificate, and may show its own.
pub fn trusting(
    trusted: &CertificateDer<'static>,
    own: Option<CertifiedKey<rcgen::KeyPair>>,
) -> Result<ClientConfig, String> {
    let told = |e: rustls::Error| e.to_string();
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).map_err(told)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(told)?
        .with_root_certificates(roots);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(own) => {
            let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
            let chain = vec![own.cert.der().clone()];
            builder.with_client_auth_cert(chain, key).map_err(told)
        }
    }
}

/// One GET; the whole answer, as text.
pub fn get(tls: &mut Tls, host: &str, path: &str) -> Result<String, String> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    tls.read_to_end(&mut text).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn ask(site: &Site, name: &str, trusted: &CertificateDer<'static>) -> Result<String, String> {
    get(&mut connect(site.address, name, trusted, None)?, name, "/")
}

fn origin() -> Result<Origin, String> {
    Origin::start(|_, conn: &mut Conn| answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"))
}

/// Who is bound to a server over TLS is so over TLS only.
fn sticky() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        answer(conn, 200, "Cache-Control: private\r\n", b"page")
    })?;
    let folder = Folder::new()?;
    let shown = folder.write("first", &["first.test"])?;
    let more = "[[upstream]]\nsticky = \"srv\"";
    let site = Site::start(origin.address, &config(&[folder.path("first")], more))?;
    let reply = ask(&site, "first.test", &shown)?;
    let line = reply
        .lines()
        .find(|line| line.starts_with("Set-Cookie: srv="));
    let secure = line.is_some_and(|line| line.ends_with("; SameSite=Lax; Secure"));
    equal(&reply, secure, true)
}

/// A pass that was earned over TLS has a name that nobody can give without, and counts by no other.
fn pass() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    let shown = folder.write("first", &["first.test"])?;
    let config = config(&[folder.path("first")], &challenged(8, ""));
    let site = Site::start(origin.address, &config)?;
    let ask = |start: &str, fields: &str| {
        let mut tls = connect(site.address, "first.test", &shown, None)?;
        let head =
            format!("{start} HTTP/1.1\r\nHost: first.test\r\nConnection: close\r\n{fields}\r\n");
        tls.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
        let mut text = Vec::new();
        tls.read_to_end(&mut text).map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&text).into_owned())
    };
    let page = ask("GET /", "Accept: text/html\r\n")?;
    let solved = ask(&format!("POST {JUDGE}?{}", solution(&page)?), "")?;
    let line = solved
        .lines()
        .find_map(|line| line.strip_prefix("Set-Cookie: "))
        .ok_or_else(|| solved.clone())?;
    equal(line, line.ends_with("; SameSite=Lax; Secure"), true)?;
    let pass = cookie(line)?;
    let value = pass.strip_prefix("__Host-tidegate-pass=").ok_or(line)?;
    for (cookie, status) in [
        (format!("tidegate_pass={value}"), "403"),
        (pass.clone(), "200"),
    ] {
        let text = ask("GET /", &format!("Cookie: {cookie}\r\n"))?;
        equal(&cookie, text.split(' ').nth(1), Some(status))?;
    }
    Ok(())
}

fn by_name() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    let first = folder.write("first", &["first.test"])?;
    let second = folder.write("second", &["second.test", "*.second.test"])?;
    let paths = [folder.path("first"), folder.path("second")];
    let site = Site::start(origin.address, &config(&paths, ""))?;
    for (name, shown) in [
        ("first.test", &first),
        ("second.test", &second),
        ("SECOND.test", &second),
        ("any.second.test", &second),
    ] {
        let text = ask(&site, name, shown).map_err(|e| format!("{name}: {e}"))?;
        if !text.starts_with("HTTP/1.1 200") || !text.ends_with("page") {
            return Err(format!("{name}: {text}"));
        }
    }
    // A wildcard stands for one label, and who names nobody meets the first.
    for name in ["a.b.second.test", "other.test"] {
        match ask(&site, name, &first) {
            Err(why) if why.contains("not valid for name") => {}
            other => return Err(format!("{name}: {other:?}")),
        }
    }
    Ok(())
}

fn anew() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    let old = folder.write("cert", &["a.test"])?;
    let site = Site::start(origin.address, &config(&[folder.path("cert")], ""))?;
    ask(&site, "a.test", &old)?;
    let new = folder.write("cert", &["a.test"])?;
    eventually("the new certificate", || {
        Ok(ask(&site, "a.test", &new).is_ok().then_some(()))
    })?;
    if ask(&site, "a.test", &old).is_ok() {
        return Err("the old certificate is still shown".into());
    }
    Ok(())
}

fn bad_pair() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    let old = folder.write("cert", &["a.test"])?;
    let site = Site::start(origin.address, &config(&[folder.path("cert")], ""))?;
    let (one, other) = (certificate(&["a.test"])?, certificate(&["a.test"])?);
    folder.put("cert", &one.cert.pem(), &other.signing_key.serialize_pem())?;
    let labels = [("result".to_owned(), "refused".to_owned())];
    let refused = || site.proxy.metric(RELOADS, &labels);
    eventually("a refusal", || Ok((refused()? == Some(1.0)).then_some(())))?;
    ask(&site, "a.test", &old)?;
    // What can be used again is taken.
    folder.put("cert", &one.cert.pem(), &one.signing_key.serialize_pem())?;
    let new = one.cert.der().clone();
    eventually("the mended certificate", || {
        Ok(ask(&site, "a.test", &new).is_ok().then_some(()))
    })
}

const FAILED: &str = "tidegate_tls_handshakes_failed_total";
/// Whoever starts a proxy here looks whether it listens, and says nothing.
const BEFORE: f64 = 1.0;
const RELOADS: &str = "tidegate_tls_certificate_reloads_total";

fn redirect() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    folder.write("cert", &["a.test"])?;
    let plain = free_port();
    let more = format!("redirect_from = \"{plain}\"");
    let site = Site::start(origin.address, &config(&[folder.path("cert")], &more))?;
    // The second listener may be there a moment after the first.
    let connected = || Ok(super::site::Client::connect(plain).ok());
    let mut client = eventually("the plain listener", connected)?;
    let reply = client.get("/p?q=1", "")?.is(308)?;
    let expected = format!("https://a.test:{}/p?q=1", site.address.port());
    equal("location", reply.field("location").to_owned(), expected)?;
    // It is an answer like any other: the connection goes on.
    client.ask("POST", "/p", "", b"")?.is(308)?;
    equal("requests to the origin", origin.asked(""), 0)?;
    // Plain HTTP where TLS is spoken is told so.
    let reply = site.get("/", "")?.is(400)?;
    if !reply.text().contains("this port speaks HTTPS") {
        return Err(reply.text());
    }
    Ok(())
}

fn hsts() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let own = match &*asked.target {
            "/own" => "Strict-Transport-Security: max-age=5\r\nX-Frame-Options: DENY\r\n",
            _ => "",
        };
        answer(
            conn,
            200,
            &format!("{own}Cache-Control: max-age=60\r\n"),
            b"page",
        )
    })?;
    let route = "[[route]]\nhsts = \"1d\"\nsecurity_headers = true\n";
    let folder = Folder::new()?;
    let trusted = folder.write("cert", &["a.test"])?;
    let secure = Site::start(origin.address, &config(&[folder.path("cert")], route))?;
    let lines = |path: &str| -> Result<Vec<String>, String> {
        let mut tls = connect(secure.address, "a.test", &trusted, None)?;
        let text = get(&mut tls, "a.test", path)?.to_ascii_lowercase();
        let ours = ["strict-transport", "x-frame", "x-content-type", "referrer"];
        let lines = text
            .lines()
            .filter(|l| ours.iter().any(|o| l.starts_with(o)));
        Ok(lines.map(str::to_owned).collect())
    };
    for _ in 0..2 {
        let all = [
            "x-content-type-options: nosniff",
            "x-frame-options: sameorigin",
            "referrer-policy: strict-origin-when-cross-origin",
            "strict-transport-security: max-age=86400",
        ];
        equal("added", lines("/")?, all.map(str::to_owned).to_vec())?;
        let own = lines("/own")?;
        let kept = |line: &str| own.iter().filter(|l| *l == line).count() == 1;
        if !kept("strict-transport-security: max-age=5")
            || !kept("x-frame-options: deny")
            || own.len() != 4
        {
            return Err(format!("{own:?}"));
        }
    }
    let plain = Site::start(origin.address, route)?;
    let reply = plain.get("/", "")?.is(200)?;
    equal(
        "hsts over http",
        reply.field("strict-transport-security").to_owned(),
        String::new(),
    )?;
    equal(
        "nosniff",
        reply.field("x-content-type-options").to_owned(),
        "nosniff".into(),
    )
}

fn mutual() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    let trusted = folder.write("cert", &["a.test"])?;
    let (known, stranger) = (certificate(&["visitor"])?, certificate(&["stranger"])?);
    let ca = folder.path("ca.pem");
    fs::write(&ca, known.cert.pem()).map_err(|e| e.to_string())?;
    let more = format!("client_ca = {ca:?}");
    let site = Site::start(origin.address, &config(&[folder.path("cert")], &more))?;
    let ask = |own| {
        let mut tls = connect(site.address, "a.test", &trusted, own)?;
        get(&mut tls, "a.test", "/")
    };
    if !ask(Some(known))?.starts_with("HTTP/1.1 200") {
        return Err("a visitor with a certificate was turned away".into());
    }
    for own in [None, Some(stranger)] {
        if let Ok(text) = ask(own) {
            return Err(format!("answered: {text}"));
        }
    }
    site.until(FAILED, |n| n == BEFORE + 2.0)
}

fn c65_slow_handshake() -> Outcome {
    let (origin, folder) = (origin()?, Folder::new()?);
    folder.write("cert", &["a.test"])?;
    let more = "head_deadline = \"500ms\"";
    let site = Site::start(origin.address, &config(&[folder.path("cert")], more))?;
    // Nothing at all, and half a record.
    for bytes in [&b""[..], &[22, 3, 1, 2]] {
        let mut stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
        stream.write_all(bytes).map_err(|e| e.to_string())?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|e| e.to_string())?;
        match stream.read(&mut [0; 64]) {
            Ok(0) | Err(_) => {}
            Ok(n) => return Err(format!("{n} bytes to a client that said nothing")),
        }
    }
    site.until(FAILED, |n| n == BEFORE + 2.0)
}

fn large_page() -> Outcome {
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8 + 1).collect();
    let served = body.clone();
    let origin = Origin::start(move |_, conn: &mut Conn| {
        answer(conn, 200, "Cache-Control: max-age=60\r\n", &served)
    })?;
    let folder = Folder::new()?;
    let trusted = folder.write("cert", &["a.test"])?;
    let site = Site::start(origin.address, &config(&[folder.path("cert")], ""))?;
    for _ in 0..3 {
        let mut tls = connect(site.address, "a.test", &trusted, None)?;
        let head = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        tls.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
        // A client that comes back later than the socket's buffers last.
        std::thread::sleep(Duration::from_millis(50));
        let mut text = Vec::new();
        tls.read_to_end(&mut text).map_err(|e| e.to_string())?;
        if !text.ends_with(&body) {
            return Err(format!("{} bytes of {}", text.len(), body.len()));
        }
    }
    equal("requests to the origin", origin.asked("GET"), 1)
}

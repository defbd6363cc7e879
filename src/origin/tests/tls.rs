//! TLS to the origin: what is agreed upon, what is believed, and how it ends.

use std::collections::HashMap;
use std::io::Write;

use pingora::tls::{CertificateDer, PrivateKeyDer, ServerConfig, TlsAcceptor};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::NamedTempFile;

use super::OriginErrorKind as Kind;
use super::http2::{hello, serve};
use super::*;
use crate::origin::Ask;

/// A TLS origin for `localhost`, with the protocols it offers and the file that vouches for it.
struct TlsOrigin {
    addr: SocketAddr,
    ca: NamedTempFile,
    /// Which protocols were agreed upon, and how often.
    agreed: Arc<Mutex<HashMap<String, usize>>>,
}

impl TlsOrigin {
    async fn start(protocols: &[&str], script: Vec<Do>) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut ca = NamedTempFile::new().unwrap();
        ca.write_all(cert.pem().as_bytes()).unwrap();
        pingora::tls::install_default_crypto_provider();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert.der().to_vec())], key)
            .unwrap();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            addr: listener.local_addr().unwrap(),
            ca,
            agreed: Arc::default(),
        };
        let agreed = origin.agreed.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
                let protocol = String::from_utf8_lossy(protocol).into_owned();
                *agreed.lock().entry(protocol.clone()).or_default() += 1;
                match protocol.as_str() {
                    "h2" => drop(tokio::spawn(serve(stream, hello))),
                    _ => drop(tokio::spawn(play(stream, script.clone(), Arc::default()))),
                }
            }
        });
        origin
    }

    fn spec(&self) -> UpstreamSpec {
        let mut spec = spec(self.addr);
        spec.servers[0].tls = true;
        spec.tls_ca = Some(self.ca.path().to_owned());
        spec
    }

    fn agreed(&self, protocol: &str) -> usize {
        self.agreed
            .lock()
            .get(protocol)
            .copied()
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn tls_decides_between_the_protocols() {
    let script = vec![Do::Read, say(HELLO), Do::Read, say(HELLO), Do::AwaitClose];
    for (offers, protocol, agreed) in [
        (&["h2", "http/1.1"][..], Protocol::Auto, "h2"),
        (&["h2", "http/1.1"], Protocol::Http2, "h2"),
        (&["h2", "http/1.1"], Protocol::Http1, "http/1.1"),
        (&["http/1.1"], Protocol::Auto, "http/1.1"),
        (&[], Protocol::Auto, ""),
    ] {
        let origin = TlsOrigin::start(offers, script.clone()).await;
        let upstream = Upstream::new(UpstreamSpec {
            protocol,
            ..origin.spec()
        })
        .unwrap();
        for _ in 0..2 {
            let answer = fetch(&upstream, "GET")
                .await
                .unwrap_or_else(|why| panic!("{offers:?} {protocol:?}: {why}"));
            assert_eq!(answer.body, b"hello");
        }
        assert_eq!(origin.agreed(agreed), 1, "{offers:?} {protocol:?}");
    }
    let origin = TlsOrigin::start(&[], script).await;
    let upstream = Upstream::new(UpstreamSpec {
        protocol: Protocol::Http2,
        ..origin.spec()
    })
    .unwrap();
    assert_eq!(
        fetch(&upstream, "GET").await.unwrap_err().kind,
        Kind::Connect
    );
}

#[tokio::test]
async fn an_upgrade_asks_for_http1() {
    let switch = "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = TlsOrigin::start(&["h2", "http/1.1"], vec![Do::Read, say(switch), Do::Echo]).await;
    let upstream = Upstream::new(origin.spec()).unwrap();
    fetch(&upstream, "GET").await.unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut head = request("GET");
    head.insert_header("Connection", "upgrade").unwrap();
    head.insert_header("Upgrade", "websocket").unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, head, Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Switched(_))));
    exchange
        .send_body(Bytes::from_static(b"ping"))
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Body(echo)) if echo == "ping"));
    assert_eq!((origin.agreed("h2"), origin.agreed("http/1.1")), (1, 1));
}

#[tokio::test]
async fn certificates_are_checked_unless_the_config_says_otherwise() {
    let origin = TlsOrigin::start(&[], vec![Do::Read, say(HELLO), Do::AwaitClose]).await;
    let other = TlsOrigin::start(&[], vec![]).await;
    let not_its_ca = UpstreamSpec {
        tls_ca: Some(other.ca.path().to_owned()),
        ..origin.spec()
    };
    let mut not_its_name = origin.spec();
    not_its_name.servers[0].sni = "elsewhere.test".into();
    let mut no_name = origin.spec();
    no_name.servers[0].sni = String::new();
    for refused in [not_its_ca.clone(), not_its_name, no_name] {
        let upstream = Upstream::new(refused).unwrap();
        assert_eq!(fetch(&upstream, "GET").await.unwrap_err().kind, Kind::Tls);
    }
    let upstream = Upstream::new(UpstreamSpec {
        tls_verify: false,
        ..not_its_ca
    })
    .unwrap();
    assert_eq!(fetch(&upstream, "GET").await.unwrap().body, b"hello");
}

#[tokio::test]
async fn c36_tls_that_ends_without_saying_so_ends_no_body() {
    let cut = vec![Do::Read, say("HTTP/1.1 200 OK\r\n\r\nhello")];
    let origin = TlsOrigin::start(&[], cut).await;
    let upstream = Upstream::new(origin.spec()).unwrap();
    let error = fetch(&upstream, "GET").await.unwrap_err();
    assert_eq!((error.kind, error.before_head), (Kind::Reset, false));
}

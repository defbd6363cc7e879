//! One connection to Redis, which is made anew after whatever went wrong with it.
//!
//! A server that is slow, or says more than it was asked for, costs its time and a megabyte; both have an end here. Keys have
//! one slot, so of a cluster the node is looked for that has it (MOVED), and no other connection is needed.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Failure, LONGEST_ANSWER, RedisSpec, Server, late, unreachable};
use crate::telemetry::RedisResult;

const LONGEST_CONNECTING: Duration = Duration::from_secs(1);
/// In place of the bytes that an answer may still have.
const OVERRUN: usize = usize::MAX;

/// What is said in one go.
pub enum Words<'a> {
    /// To the link's script, by what Redis calls it.
    Script(&'a (dyn Fn(&str) -> Cmd + Sync)),
    /// So many commands, which Redis may keep for `waits` before it answers.
    Plain {
        commands: &'a Pipeline,
        count: usize,
        waits: Duration,
    },
}

/// The way to Redis, for one script.
pub struct Link {
    spec: RedisSpec,
    script: &'static str,
    /// For whatever it takes to come to an answer: another connection, another node, the script anew.
    longest: Duration,
    tls: Option<TlsConnector>,
    /// Whose turn it is.
    at: usize,
    /// The node of a cluster that has our keys, and whose name it is to show.
    node: Option<(Server, String)>,
    connection: Option<Connection>,
}

struct Connection {
    redis: MultiplexedConnection,
    driver: AbortHandle,
    to: Server,
    /// Whose certificate it has shown, where it had to.
    name: String,
    /// What the script is called there.
    sha: String,
    /// Bytes that may still come.
    left: Arc<AtomicUsize>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// `longest`: for an answer, whatever it takes to come to one.
    ///
    /// # Errors
    /// Roots that can't be read; for people.
    pub fn new(spec: RedisSpec, script: &'static str, longest: Duration) -> Result<Link, String> {
        let tls = match spec.servers.iter().any(|server| server.tls) {
            true => Some(TlsConnector::from(Arc::new(roots(&spec)?))),
            false => None,
        };
        Ok(Link {
            spec,
            script,
            longest,
            tls,
            at: 0,
            node: None,
            connection: None,
        })
    }

    pub fn prefix(&self) -> &str {
        &self.spec.prefix
    }

    pub fn timeout(&self) -> Duration {
        self.spec.timeout
    }

    /// Says something and reads the answer. After a failure it is a new connection's turn, and another server's.
    ///
    /// # Errors
    /// Whatever comes to no answer in time, or to none that can be read.
    pub async fn say<T>(
        &mut self,
        words: &Words<'_>,
        read: impl FnOnce(Value) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let limit = self.longest;
        let said = timeout(limit, self.try_to_say(words)).await;
        let mut said = said.unwrap_or_else(|_| Err(late(limit))).and_then(read);
        if let Err(failure) = &mut said {
            if self.connection.take().is_some_and(|one| one.has_overrun()) {
                failure.result = RedisResult::Unbelievable;
            }
            self.node = None;
            self.at = (self.at + 1) % self.spec.servers.len();
        }
        said
    }

    async fn try_to_say(&mut self, words: &Words<'_>) -> Result<Value, Failure> {
        match self.ask(words).await {
            Err(error) if is(&error, ServerErrorKind::NoScript) => {
                let (limit, script) = (self.spec.timeout, self.script);
                self.connected().await?.load(script, limit).await?;
                Ok(self.ask(words).await?)
            }
            Err(error) if is(&error, ServerErrorKind::Moved) => {
                self.node = self.moved_to(&error);
                self.connection = None;
                Ok(self.ask(words).await?)
            }
            said => Ok(said?),
        }
    }

    async fn ask(&mut self, words: &Words<'_>) -> Result<Value, Wrong> {
        let limit = self.spec.timeout;
        let connection = self.connected().await?;
        match words {
            Words::Script(command) => {
                let command = command(&connection.sha);
                connection.call(&command, limit).await
            }
            Words::Plain {
                commands,
                count,
                waits,
            } => connection.call_all(commands, *count, limit + *waits).await,
        }
    }

    async fn connected(&mut self) -> Result<&mut Connection, Failure> {
        if self.connection.is_none() {
            let (to, name) = self.node.clone().unwrap_or_else(|| {
                let to = self.spec.servers[self.at].clone();
                let name = to.host.clone();
                (to, name)
            });
            let most = (self.spec.timeout * 10).min(LONGEST_CONNECTING);
            let made = timeout(most, self.connect(to, name)).await;
            let made = made.map_err(|_| Failure {
                result: RedisResult::Timeout,
                why: format!("no connection within {most:?}"),
            })?;
            self.connection = Some(made?);
        }
        Ok(self.connection.as_mut().expect("just made"))
    }

    async fn connect(&self, to: Server, name: String) -> Result<Connection, Failure> {
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
        let stream = stream.map_err(|e| unreachable(format!("{}:{}: {e}", to.host, to.port)))?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream: Box<dyn Stream> = match (&self.tls, to.tls) {
            (Some(tls), true) => {
                let shows = ServerName::try_from(name.clone()).map_err(unreachable)?;
                Box::new(tls.connect(shows, stream).await.map_err(unreachable)?)
            }
            _ => Box::new(stream),
        };
        let left = Arc::new(AtomicUsize::new(LONGEST_ANSWER));
        let stream = Bounded {
            stream,
            left: Arc::clone(&left),
        };
        let mut info = RedisConnectionInfo::default()
            .set_skip_set_lib_name()
            .set_db(to.database.into());
        if let Some(username) = &self.spec.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.spec.password {
            info = info.set_password(password);
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let mut connection = Connection {
            redis,
            driver: tokio::spawn(driver).abort_handle(),
            to,
            name,
            sha: String::new(),
            left,
        };
        connection.load(self.script, self.spec.timeout).await?;
        Ok(connection)
    }

    /// The node that a cluster names, and whose certificate it is to show: its own, or, where nodes are named by their
    /// addresses, that of the host which was asked.
    fn moved_to(&self, error: &Wrong) -> Option<(Server, String)> {
        let Wrong::Said(error) = error else {
            return None;
        };
        let (address, _) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let asked = self.connection.as_ref()?;
        let mut node = asked.to.clone();
        // One without a host is the one that was asked.
        if !host.is_empty() {
            node.host = host.trim_matches(['[', ']']).to_owned();
        }
        node.port = port.parse().ok()?;
        let name = match node.host.parse::<IpAddr>() {
            Ok(_) => asked.name.clone(),
            Err(_) => node.host.clone(),
        };
        Some((node, name))
    }
}

impl Connection {
    /// Whether an answer was too long.
    fn has_overrun(&self) -> bool {
        self.left.load(Relaxed) == OVERRUN
    }

    /// Gives the script to Redis, which may have lost it.
    async fn load(&mut self, script: &str, limit: Duration) -> Result<(), Failure> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script);
        match self.call(&load, limit).await? {
            Value::BulkString(sha) if sha.len() == 40 && sha.iter().all(u8::is_ascii_hexdigit) => {
                self.sha = String::from_utf8_lossy(&sha).into_owned();
                Ok(())
            }
            _ => Err(Failure {
                result: RedisResult::Unbelievable,
                why: "a script without a name".to_owned(),
            }),
        }
    }

    async fn call(&mut self, command: &Cmd, limit: Duration) -> Result<Value, Wrong> {
        self.left.store(LONGEST_ANSWER, Relaxed);
        let answer = timeout(limit, self.redis.send_packed_command(command)).await;
        let value = answer.map_err(|_| late(limit))??;
        Ok(value.extract_error()?)
    }

    async fn call_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
        limit: Duration,
    ) -> Result<Value, Wrong> {
        self.left.store(LONGEST_ANSWER, Relaxed);
        let answers = timeout(limit, self.redis.send_packed_commands(commands, 0, count)).await;
        let values = answers.map_err(|_| late(limit))??;
        Ok(Value::Array(values).extract_error()?)
    }
}

/// A failure, or what Redis says is wrong, which may be mended.
enum Wrong {
    Failed(Failure),
    Said(RedisError),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Wrong::Failed(failure)
    }
}

impl From<RedisError> for Wrong {
    fn from(error: RedisError) -> Self {
        Wrong::Said(error)
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Failed(failure) => failure,
            Wrong::Said(error) => error.into(),
        }
    }
}

fn is(wrong: &Wrong, kind: ServerErrorKind) -> bool {
    matches!(wrong, Wrong::Said(error) if error.kind() == ErrorKind::Server(kind))
}

/// Whom to believe that they are Redis.
fn roots(spec: &RedisSpec) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &spec.ca {
        Some(path) => {
            let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?;
            for certificate in read {
                let certificate = certificate.map_err(|e| wrong(&e))?;
                roots.add(certificate).map_err(|e| wrong(&e))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"no root certificate in it"));
            }
        }
        None => {
            let loaded = rustls_native_certs::load_native_certs();
            let loaded = loaded.map_err(|e| format!("the system's certificates: {e}"))?;
            roots.add_parsable_certificates(loaded);
            if roots.is_empty() {
                return Err("the system has no root certificates".to_owned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream that ends where an answer grows too long: what reads it would keep it all.
struct Bounded {
    stream: Box<dyn Stream>,
    left: Arc<AtomicUsize>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        let left = self.left.load(Relaxed);
        if came > left {
            self.left.store(OVERRUN, Relaxed);
            let too_long = "an answer that is too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, too_long)));
        }
        self.left.store(left - came, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

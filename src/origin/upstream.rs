//! An upstream: its servers, their budget, and the connector that opens connections to them and pools those of HTTP/2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v2::Connector;
use pingora::tls::{
    RootCertStore, load_ca_file_into_store, load_platform_certs_incl_env_into_store,
};

use tokio::sync::watch;

use super::balance::Balance;
use super::budget::{Budget, Refused, Slot, Stream, Terms};
use super::bulkhead::Bulkhead;
use super::circuit::{Circuit, Trying};
use super::probe::HealthSpec;
use super::queue::Ask;
use super::resolve::{Named, ResolveSpec, Told};
use super::retry::Retries;
use super::room::Fate;
use super::roster::{Changed, Roster, Servers};
use super::server::{Server, ServerSpec};
use super::standing::Rules;
use super::sticky::{Signer, StickySpec};
use crate::rules::breaker;
use crate::rules::concurrency::MOST;
use crate::rules::sticky::{self, Token};
use crate::telemetry::ResolveResult;

/// uvicorn and Node close an idle connection after 5 s; ours must be gone before.
const KEEPALIVE_MOST: Duration = Duration::from_secs(4);

/// What a config says about an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    pub name: String,
    pub servers: Vec<ServerSpec>,
    /// How the names among them are resolved.
    pub resolve: ResolveSpec,
    /// Requests in flight to one server, unless that has a number of its own; none: it is learned.
    pub max_in_flight: Option<usize>,
    /// Requests that wait for a permit of this upstream.
    pub queue: usize,
    /// The longest wait for a permit.
    pub queue_wait: Duration,
    pub balance: Balance,
    /// What a request's server is found by, where [`Balance::ConsistentHash`] is.
    pub hash_by: HashBy,
    /// Whether visitors are bound to servers, and how.
    pub sticky: Option<StickySpec>,
    /// When a server is left alone for what it did.
    pub rules: Rules,
    /// When it counts as down as a whole.
    pub breaker: breaker::Rules,
    /// Of a hundred requests, how many may be asked again at another server.
    pub retries: u64,
    /// Long-lived streams (tunnels, event streams) of the whole upstream.
    pub max_streams: usize,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the end of the request to the end of the head.
    pub first_byte_timeout: Duration,
    /// Between two bytes of a body, either way.
    pub between_bytes_timeout: Duration,
    /// The whole exchange, from connecting to the last byte.
    pub total_timeout: Duration,
    /// How long an idle connection is kept; more than 4 s counts as 4 s, zero keeps none.
    pub keepalive: Duration,
    pub protocol: Protocol,
    /// Whether a certificate must be valid and for this name.
    pub tls_verify: bool,
    /// PEM file with the only roots to believe; else the system's.
    pub tls_ca: Option<PathBuf>,
    /// How its servers are watched; else they all count as well.
    pub health: Option<HealthSpec>,
}

/// What a request's server is found by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashBy {
    /// What the cache knows its page by: host, path and query.
    #[default]
    Path,
    Header(HeaderName),
    Cookie(String),
    /// Its client's.
    Address,
}

impl UpstreamSpec {
    /// What its requests' servers are found by, if they are found by anything.
    pub fn hashes(&self) -> Option<&HashBy> {
        matches!(self.balance, Balance::ConsistentHash { .. }).then_some(&self.hash_by)
    }

    /// Requests in flight to one of its servers; none: it is learned.
    pub fn max_in_flight_at(&self, server: &ServerSpec) -> Option<usize> {
        server.max_in_flight.or(self.max_in_flight)
    }

    /// About how many servers it has.
    pub fn places(&self) -> usize {
        self.servers.iter().map(ServerSpec::places).sum()
    }

    /// About the most requests that may ever be in flight to all of them.
    pub fn most_in_flight(&self) -> usize {
        let most = |server: &ServerSpec| self.max_in_flight_at(server).unwrap_or(MOST);
        let servers = self.servers.iter();
        servers.map(|server| server.places() * most(server)).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, without TLS by prior knowledge.
    Http2,
    /// As TLS negotiates; HTTP/1.1 without TLS.
    #[default]
    Auto,
}

/// The servers of one name, with one budget and one pool.
pub struct Upstream {
    pub(super) spec: Arc<UpstreamSpec>,
    pub(super) connector: Arc<Connector>,
    pub(super) budget: Arc<Budget>,
    pub(super) circuit: Arc<Circuit>,
    retries: Arc<Retries>,
    /// Makes the names of its servers in cookies.
    signer: Option<Arc<Signer>>,
    roster: Arc<Roster>,
    named: Vec<Named>,
    pub(super) resolves: Arc<Told>,
    retired: watch::Sender<bool>,
}

impl Upstream {
    /// Reads the roots. Must run where a blocking read is fine.
    ///
    /// # Errors
    /// No server, or roots that can't be read; the text is for the config's author.
    pub fn new(spec: UpstreamSpec) -> Result<Arc<Self>, String> {
        if spec.servers.is_empty() {
            return Err(format!("upstream {:?} has no server", spec.name));
        }
        let spec = Arc::new(spec);
        let signer = spec.sticky.as_ref().map(Signer::new).transpose()?;
        let signer = signer.map(Arc::new);
        let roster = Roster::new(&spec, signer.clone());
        let roles = roster.here();
        let roles = roles.iter().map(|server| server.role());
        Ok(Arc::new(Self {
            connector: Arc::new(connector(&spec)?),
            circuit: Circuit::new(&spec.name, spec.breaker),
            retries: Arc::new(Retries::new(spec.retries)),
            budget: Budget::new(roles, terms(&spec)),
            named: Named::all(&spec.servers),
            resolves: Arc::default(),
            retired: watch::Sender::new(false),
            signer,
            roster: Arc::new(roster),
            spec,
        }))
    }

    /// The same under another spec, which is to [take over](Self::take_over): it has the budget of this one, so what is in
    /// flight, who waits, and what is known of servers that stay are its own.
    ///
    /// # Errors
    /// As with [`new`](Self::new).
    pub fn succeeded_by(&self, spec: UpstreamSpec) -> Result<Arc<Self>, String> {
        if spec.servers.is_empty() {
            return Err(format!("upstream {:?} has no server", spec.name));
        }
        let before = &self.spec;
        let signer = match spec.sticky == before.sticky {
            true => self.signer.clone(),
            false => {
                let signer = spec.sticky.as_ref().map(Signer::new).transpose()?;
                signer.map(Arc::new)
            }
        };
        let connector = match connects_like(&spec, before) {
            true => Arc::clone(&self.connector),
            false => Arc::new(connector(&spec)?),
        };
        let circuit = match spec.breaker == before.breaker {
            true => Arc::clone(&self.circuit),
            false => Circuit::new(&spec.name, spec.breaker),
        };
        let retries = match spec.retries == before.retries {
            true => Arc::clone(&self.retries),
            false => Arc::new(Retries::new(spec.retries)),
        };
        Ok(Arc::new(Self {
            connector,
            circuit,
            retries,
            budget: Arc::clone(&self.budget),
            named: Named::all(&spec.servers),
            resolves: Arc::clone(&self.resolves),
            retired: watch::Sender::new(false),
            signer,
            roster: Arc::clone(&self.roster),
            spec: Arc::new(spec),
        }))
    }

    /// From now on servers and budget go by its spec, and no longer by that of `before`, which it was made of.
    pub fn take_over(&self, before: &Upstream) {
        before.retire();
        self.roster.renew(
            &self.spec,
            self.signer.clone(),
            connects_like(&self.spec, &before.spec),
            terms(&self.spec),
            &self.budget,
        );
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// As it was configured.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// From now on nobody asks how its servers are, or where. What is under way, and who waits, goes on.
    pub fn retire(&self) {
        self.retired.send_replace(true);
    }

    pub(super) fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    pub(super) async fn retired(&self) {
        let mut retired = self.retired.subscribe();
        // The sender is here.
        let _ = retired.wait_for(|retired| *retired).await;
    }

    /// Leave to have one request in flight at one server, at once or after `patience` or `queue_wait`, whichever is
    /// shorter; who is next, the [`queue`](super::queue) says. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// There is no server, the queue is full, the wait was too long, or the upstream is down.
    pub async fn permit(&self, patience: Duration, ask: Ask) -> Result<Permit, Refused> {
        // Whoever would wait for others of its route is not the one that goes to see whether the upstream is back.
        if !self.circuit.is_closed() && self.budget.is_full(ask.route()) {
            return Err(Refused::Down);
        }
        let pass = self.circuit.enter()?;
        let patience = patience.min(self.spec.queue_wait);
        let slot = self.budget.slot(patience, ask);
        let slot = self.circuit.unless_opened(&pass, slot).await?;
        // One that has gone meanwhile is known for as long as a slot of it is out.
        let server = self.roster.find(slot.server()).ok_or(Refused::NoServer)?;
        Ok(Permit {
            slot,
            server,
            trial: pass.trial,
        })
    }

    /// How long it takes to work off what waits for a permit now, for a request of a route.
    pub fn backlog(&self, bulkhead: Option<Bulkhead>) -> Duration {
        self.budget.backlog(bulkhead.map(|bulkhead| bulkhead.route))
    }

    /// What binds a visitor to `server`, unless what it `brought` does already.
    pub fn binds(
        &self,
        server: &Server,
        brought: Option<Token>,
        secure: bool,
    ) -> Option<HeaderValue> {
        let (spec, token) = (self.spec.sticky.as_ref()?, server.token?);
        (brought != Some(token))
            .then(|| sticky::line(&spec.cookie, &token, secure))
            .flatten()
    }

    /// As they are now.
    pub fn servers(&self) -> Servers {
        self.roster.here()
    }

    /// The same server of a twin's, as this one reaches it; none of its own.
    pub(super) fn reach(&self, server: &Server) -> Arc<Server> {
        // No other is called so: what comes of it is nobody's.
        let (of, addr) = (server.of, server.addr());
        let signer = self.signer.as_deref();
        Arc::new(Server::new(usize::MAX, of, addr, &self.spec, signer))
    }

    /// A name has these addresses now.
    pub(super) fn set_addresses(&self, of: usize, addresses: &[SocketAddr]) -> Changed {
        self.roster.set(of, addresses, &self.spec, &self.budget)
    }

    /// Says when there are other servers. From now on those that come get requests only once they were let in.
    pub(super) fn watch_servers(&self) -> watch::Receiver<()> {
        self.roster.watch()
    }

    /// A server was asked how it is.
    pub(super) fn let_in(&self, server: &Server, well: bool) {
        self.roster.let_in(server, well, &self.spec, &self.budget);
    }

    /// The names among its servers.
    pub fn named(&self) -> &[Named] {
        &self.named
    }

    /// How often asking for them came to this.
    pub fn resolves(&self, result: ResolveResult) -> u64 {
        self.resolves.of(result)
    }

    /// No server is well, so all of them are used.
    pub fn is_all_ill(&self) -> bool {
        !self.servers().iter().any(|server| server.seen().is_well())
    }

    /// A request is asked for the first time, which pays for a part of a retry.
    pub fn asked(&self) {
        self.retries.asked();
    }

    /// Whether a request of a route that `failed` server has not answered may be asked again at another.
    pub fn may_retry(&self, failed: usize, bulkhead: Option<Bulkhead>) -> bool {
        let route = bulkhead.map(|bulkhead| bulkhead.route);
        self.circuit.is_closed() && self.budget.has_another(failed, route) && self.retries.may()
    }

    /// It was not asked again after all.
    pub fn did_not_retry(&self) {
        self.retries.give_back();
    }

    /// Requests that were asked again at another server.
    pub fn retries(&self) -> u64 {
        self.retries.spent()
    }

    /// Permits that are out.
    pub fn in_flight(&self) -> usize {
        self.budget.in_flight()
    }

    /// Permits of one server that are out.
    pub fn in_flight_at(&self, server: usize) -> usize {
        self.budget.in_flight_at(server)
    }

    /// Whether a server is left alone for what it did.
    pub fn is_ejected(&self, server: usize) -> bool {
        self.budget.is_ejected(server)
    }

    /// Requests that wait for a permit.
    pub fn queued(&self) -> usize {
        self.budget.queued()
    }

    /// Permits of a route with a bulkhead that are out, and its requests that wait for one.
    pub fn of_route(&self, bulkhead: Bulkhead) -> (usize, usize) {
        self.budget.of_route(bulkhead.route)
    }

    /// Long-lived streams that are open.
    pub fn streams(&self) -> usize {
        self.budget.streams()
    }

    /// Permits there are at the servers in use now, in and out.
    pub fn budget(&self) -> usize {
        self.budget.total()
    }

    /// How long an idle connection may be kept, given what the origin says of it in Keep-Alive.
    pub(super) fn keepalive(&self, origin: Option<Duration>) -> Duration {
        let ours = self.spec.keepalive.min(KEEPALIVE_MOST);
        // A second less than it says: the request that uses it is on the way for a while.
        origin.map_or(ours, |theirs| {
            ours.min(theirs.saturating_sub(Duration::from_secs(1)))
        })
    }
}

fn terms(spec: &UpstreamSpec) -> Terms {
    Terms {
        queue: spec.queue,
        max_streams: spec.max_streams,
        balance: spec.balance,
        rules: spec.rules,
    }
}

fn connector(spec: &UpstreamSpec) -> Result<Connector, String> {
    let pooled = |server: &ServerSpec| {
        let most = spec.max_in_flight_at(server).unwrap_or(MOST);
        server.places() * most.clamp(1, 1024)
    };
    let mut options = ConnectorOptions::new(spec.servers.iter().map(pooled).sum());
    options.ca_file = roots(spec)?;
    Ok(Connector::new(Some(options)))
}

/// Whether a connection made for one is as good for the other.
fn connects_like(one: &UpstreamSpec, other: &UpstreamSpec) -> bool {
    let speaks = |spec: &UpstreamSpec| (spec.protocol, spec.tls_verify, spec.tls_ca.clone());
    let tls = |spec: &UpstreamSpec| spec.servers.iter().any(|server| server.tls);
    speaks(one) == speaks(other) && tls(one) == tls(other)
}

/// The file of roots for pingora, checked here because pingora panics over one it can't read.
fn roots(spec: &UpstreamSpec) -> Result<Option<String>, String> {
    if !spec.servers.iter().any(|server| server.tls) {
        // No TLS, no roots: an empty file spares reading the system's.
        return Ok(cfg!(unix).then(|| "/dev/null".to_owned()));
    }
    let mut store = RootCertStore::empty();
    let (loaded, from) = match &spec.tls_ca {
        Some(path) => (
            load_ca_file_into_store(path, &mut store),
            path.display().to_string(),
        ),
        None => {
            let loaded = load_platform_certs_incl_env_into_store(&mut store);
            (loaded, "the system's certificates".to_owned())
        }
    };
    loaded.map_err(|why| format!("upstream {:?}: {from}: {why}", spec.name))?;
    if store.is_empty() {
        return Err(format!(
            "upstream {:?}: {from}: no root certificate in it",
            spec.name
        ));
    }
    match &spec.tls_ca {
        Some(path) => match path.to_str() {
            Some(path) => Ok(Some(path.to_owned())),
            None => Err(format!(
                "upstream {:?}: {from}: the path is not UTF-8",
                spec.name
            )),
        },
        None => Ok(None),
    }
}

/// One request in flight at one server. Dropping it is the release.
pub struct Permit {
    slot: Slot,
    server: Arc<Server>,
    trial: Option<Arc<Trying>>,
}

impl Permit {
    /// Where its exchange says what became of it.
    pub(super) fn fate(&self) -> Fate {
        self.slot.fate()
    }

    /// Whose it is, if its route has a bulkhead.
    pub(super) fn route(&self) -> Option<usize> {
        self.slot.route()
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Where it goes to see whether the upstream is back.
    pub(super) fn trial(&self) -> Option<Arc<Trying>> {
        self.trial.clone()
    }

    /// For a tunnel or an event stream: gives the permit back and takes one of the upstream's `max_streams`.
    ///
    /// # Errors
    /// There are as many as may be; the permit is released all the same, so the exchange has to be dropped.
    pub fn into_stream(self) -> Result<StreamPermit, Refused> {
        Ok(StreamPermit {
            _stream: self.slot.into_stream()?,
            server: self.server,
        })
    }
}

/// One long-lived stream at one server. Dropping it is the release.
pub struct StreamPermit {
    _stream: Stream,
    server: Arc<Server>,
}

impl StreamPermit {
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::server::Place;
    use super::*;

    pub fn spec(tls: bool, ca: Option<&str>) -> UpstreamSpec {
        UpstreamSpec {
            name: "app".into(),
            servers: vec![ServerSpec {
                place: Place::Address(([127, 0, 0, 1], 8000).into()),
                tls,
                sni: String::new(),
                authority: "127.0.0.1:8000".into(),
                weight: 1,
                backup: false,
                max_in_flight: None,
            }],
            resolve: ResolveSpec::default(),
            max_in_flight: Some(4),
            queue: 1,
            queue_wait: Duration::from_secs(1),
            max_streams: 1,
            balance: Balance::default(),
            hash_by: HashBy::default(),
            sticky: None,
            rules: super::super::standing::tests::RULES,
            breaker: breaker::Rules {
                after: 10,
                share: 80,
            },
            retries: 10,
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(1),
            between_bytes_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(1),
            keepalive: Duration::from_secs(60),
            protocol: Protocol::Auto,
            tls_verify: true,
            tls_ca: ca.map(PathBuf::from),
            health: None,
        }
    }

    #[test]
    fn idle_connections_are_gone_before_the_origin_closes_them() {
        let upstream = Upstream::new(spec(false, None)).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(upstream.keepalive(None), seconds(4));
        assert_eq!(upstream.keepalive(Some(seconds(3))), seconds(2));
        assert_eq!(upstream.keepalive(Some(seconds(1))), seconds(0));
        assert_eq!(upstream.keepalive(Some(seconds(600))), seconds(4));
    }

    #[tokio::test]
    async fn a_full_route_sends_no_trial() {
        let upstream = Upstream::new(spec(false, None)).unwrap();
        let slow = Ask {
            bulkhead: Some(Bulkhead { route: 0, most: 1 }),
            ..Ask::default()
        };
        let at_once = |ask: &Ask| upstream.permit(Duration::ZERO, ask.clone());
        let held = at_once(&slow).await.unwrap();
        assert_eq!(at_once(&slow).await.err(), Some(Refused::Waited));
        let circuit = &upstream.circuit;
        (0..10).for_each(|_| circuit.failed(None, false, false));
        circuit.hope();
        assert_eq!(at_once(&slow).await.err(), Some(Refused::Down));
        let trial = at_once(&Ask::default()).await.unwrap();
        assert!(trial.trial().is_some());
        drop((trial, held));
    }

    #[test]
    fn bad_roots_are_told_not_panicked_over() {
        for (path, says) in [
            ("/no/such/file", "/no/such/file"),
            ("/dev/null", "no root certificate"),
        ] {
            let why = Upstream::new(spec(true, Some(path))).err().unwrap();
            assert!(why.contains(says), "{why}");
        }
        let mut none = spec(false, None);
        none.servers.clear();
        assert!(Upstream::new(none).is_err());
    }

    #[test]
    fn an_empty_name_never_switches_verification_off() {
        let upstream = Upstream::new(spec(false, None)).unwrap();
        assert_eq!(upstream.servers()[0].peer.sni, "127.0.0.1");
    }
}

//! The servers that an upstream has now: those it was given, and those that its names stand for, which come and go.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::budget::{Budget, Terms};
use super::server::{Place, Server};
use super::sticky::Signer;
use super::upstream::UpstreamSpec;
use crate::rules::resolve;

/// Servers, those of one name together, otherwise in the order of the config.
pub type Servers = Arc<Vec<Arc<Server>>>;

pub(super) struct Roster {
    lists: ArcSwap<Lists>,
    /// For one change at a time.
    changing: Mutex<Changing>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Lists {
    here: Servers,
    gone: Vec<Left>,
}

/// A server that has gone and still has requests, or would go on as it stood.
#[derive(Clone)]
struct Left {
    server: Arc<Server>,
    /// Connections to it are as good as before: the spec they were made for is in force, or one that connects like it.
    connects: bool,
}

struct Changing {
    next_id: usize,
    /// Whose servers they are. What others have to say of them is out of date.
    spec: Arc<UpstreamSpec>,
    signer: Option<Arc<Signer>>,
    /// Somebody asks the servers how they are.
    is_watched: bool,
}

/// How many servers of a name came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) came: usize,
    pub(super) went: usize,
}

impl Roster {
    /// The servers that have an address from the start, called 0, 1, and so on.
    pub(super) fn new(spec: &Arc<UpstreamSpec>, signer: Option<Arc<Signer>>) -> Roster {
        let mut here = Vec::new();
        for (of, server) in spec.servers.iter().enumerate() {
            if let Place::Address(addr) = server.place {
                let server = Server::new(here.len(), of, addr, spec, signer.as_deref());
                here.push(Arc::new(server));
            }
        }
        Roster {
            changing: Mutex::new(Changing {
                next_id: here.len(),
                spec: Arc::clone(spec),
                signer,
                is_watched: false,
            }),
            lists: ArcSwap::from_pointee(Lists {
                here: Arc::new(here),
                gone: Vec::new(),
            }),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn here(&self) -> Servers {
        Arc::clone(&self.lists.load().here)
    }

    /// The server that is called so, also one that has gone, as long as a slot of it is out at least.
    pub(super) fn find(&self, id: usize) -> Option<Arc<Server>> {
        let lists = self.lists.load();
        let gone = lists.gone.iter().map(|left| &left.server);
        let mut all = lists.here.iter().chain(gone);
        all.find(|server| server.id == id).cloned()
    }

    /// For whoever watches the servers: from now on those that come get requests only once they were
    /// [let in](Self::let_in). Says when there are others.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changing.lock().is_watched = true;
        self.changed.subscribe()
    }

    /// A server was asked how it is; from now on it has requests, unless it has gone.
    pub(super) fn let_in(
        &self,
        server: &Server,
        well: bool,
        spec: &Arc<UpstreamSpec>,
        budget: &Arc<Budget>,
    ) {
        let changing = self.changing.lock();
        if !Arc::ptr_eq(&changing.spec, spec) {
            return;
        }
        server.seen().set_well(well);
        if self.here().iter().any(|one| one.id == server.id) {
            budget.join(&[(server.id, server.role())], well);
            budget.set_well(server.id, well);
        }
    }

    /// The spec's name has these addresses now, each of them once. Servers whose address stays are the same as before; one
    /// that comes back within minutes goes on as it stood, by what the spec says now.
    pub(super) fn set(
        &self,
        of: usize,
        addresses: &[SocketAddr],
        spec: &Arc<UpstreamSpec>,
        budget: &Arc<Budget>,
    ) -> Changed {
        let mut changing = self.changing.lock();
        if !Arc::ptr_eq(&changing.spec, spec) {
            return Changed { came: 0, went: 0 };
        }
        let Lists { here, mut gone } = Lists::clone(&self.lists.load());
        let had: Vec<SocketAddr> = here
            .iter()
            .filter(|server| server.of == of)
            .map(|server| server.addr())
            .collect();
        let change = resolve::change(&had, addresses);
        if change.come.is_empty() && change.go.is_empty() {
            return Changed { came: 0, went: 0 };
        }
        let leaves = |server: &Arc<Server>| server.of == of && change.go.contains(&server.addr());
        let (go, mut here): (Vec<_>, Vec<_>) = here.iter().cloned().partition(leaves);
        let mut come = Vec::new();
        let signer = changing.signer.clone();
        for addr in change.come {
            let make = |id| Server::new(id, of, addr, spec, signer.as_deref());
            let new = make(changing.next_id);
            let back = gone.iter().position(|left| left.server.is_same(&new));
            let server = match back.map(|at| gone.swap_remove(at)) {
                Some(left) => make(left.server.id).goes_on(&left.server, left.connects),
                None => {
                    changing.next_id += 1;
                    new
                }
            };
            let server = Arc::new(server);
            // Until it was asked.
            server.seen().presume_well(!changing.is_watched);
            come.push(server);
        }
        here.extend(come.iter().cloned());
        here.sort_by_key(|server| server.of);
        let leave: Vec<_> = go.iter().map(|one| one.id).collect();
        let changed = Changed {
            came: come.len(),
            went: go.len(),
        };
        // Known before they get requests, and as long as they have any.
        gone.extend(go.into_iter().map(|server| Left {
            server,
            connects: true,
        }));
        let here = Arc::new(here);
        self.lists.store(Arc::new(Lists {
            here: Arc::clone(&here),
            gone: gone.clone(),
        }));
        // Where no other would be left to be asked, nobody waits until they were.
        if !changing.is_watched || !budget.has_but(&leave) {
            let roles: Vec<_> = come.iter().map(|one| (one.id, one.role())).collect();
            budget.join(&roles, !changing.is_watched);
        }
        budget.leave(&leave);
        gone.retain(|left| budget.knows(left.server.id));
        self.lists.store(Arc::new(Lists { here, gone }));
        drop(changing);
        self.changed.send_replace(());
        changed
    }
}

impl Roster {
    /// Goes by another spec. Who is in both is called as before and goes on as it stood; a name that is in both has the
    /// addresses it had. `connects`: connections to who stays are as good as before. `terms` are what its budget goes by.
    pub(super) fn renew(
        &self,
        spec: &Arc<UpstreamSpec>,
        signer: Option<Arc<Signer>>,
        connects: bool,
        terms: Terms,
        budget: &Arc<Budget>,
    ) {
        let mut changing = self.changing.lock();
        let Lists { here, gone } = Lists::clone(&self.lists.load());
        let before = Arc::clone(&changing.spec);
        let mut next_id = changing.next_id;
        let stayed = here.iter().cloned().map(|server| Left {
            server,
            connects: true,
        });
        let mut known: Vec<_> = stayed.chain(gone.iter().cloned()).collect();
        let mut stay = Vec::new();
        for (of, server) in spec.servers.iter().enumerate() {
            let addresses = match &server.place {
                Place::Address(addr) => vec![*addr],
                place => {
                    let its = |one: &&Arc<Server>| before.servers[one.of].place == *place;
                    here.iter().filter(its).map(|one| one.addr()).collect()
                }
            };
            for addr in addresses {
                let new = Server::new(next_id, of, addr, spec, signer.as_deref());
                let at = known.iter().position(|one| one.server.is_same(&new));
                stay.push(Arc::new(match at.map(|at| known.swap_remove(at)) {
                    None => {
                        next_id += 1;
                        new
                    }
                    Some(Left {
                        server,
                        connects: connected,
                    }) => Server::new(server.id, of, addr, spec, signer.as_deref())
                        .goes_on(&server, connects && connected),
                }));
            }
        }
        let was_here = |one: &Arc<Server>| here.iter().any(|had| had.id == one.id);
        let is_here = |one: &Arc<Server>| stay.iter().any(|new| new.id == one.id);
        let go: Vec<_> = here.iter().filter(|one| !is_here(one)).cloned().collect();
        let roles = |ones: &[Arc<Server>]| {
            let role = |one: &Arc<Server>| (one.id, one.role());
            ones.iter().map(role).collect::<Vec<_>>()
        };
        let come: Vec<_> = stay.iter().filter(|one| !was_here(one)).cloned().collect();
        let is_watched = spec.health.is_some();
        // Until they were asked.
        let presume = |one: &Arc<Server>| one.seen().presume_well(!is_watched);
        come.iter().for_each(presume);
        let mut gone: Vec<_> = (gone.into_iter())
            .filter(|left| !is_here(&left.server))
            .map(|left| Left {
                connects: left.connects && connects,
                ..left
            })
            .collect();
        gone.extend(go.iter().cloned().map(|server| Left { server, connects }));
        *changing = Changing {
            next_id,
            spec: Arc::clone(spec),
            signer,
            is_watched,
        };
        let leave: Vec<_> = go.iter().map(|one| one.id).collect();
        let all = roles(&stay);
        let stay = Arc::new(stay);
        // Known before they get requests, and as long as they have any.
        self.lists.store(Arc::new(Lists {
            here: Arc::clone(&stay),
            gone: gone.clone(),
        }));
        budget.renew(terms, all);
        if !is_watched || !budget.has_but(&leave) {
            budget.join(&roles(&come), !is_watched);
        }
        budget.leave(&leave);
        if !is_watched {
            for one in stay.iter() {
                one.seen().presume_well(true);
                budget.set_well(one.id, true);
            }
        }
        gone.retain(|left| budget.knows(left.server.id));
        self.lists.store(Arc::new(Lists { here: stay, gone }));
        drop(changing);
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::queue::Ask;
    use super::super::server::ServerSpec;
    use super::super::standing::tests::RULES;
    use super::super::upstream::tests::spec;
    use super::super::upstream::{Permit, Upstream};
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 8000).into()
    }

    /// A name, beside a server that has an address.
    fn upstream(weight: u32) -> Arc<Upstream> {
        let mut spec = spec(false, None);
        spec.servers[0].weight = weight;
        let place = Place::Name {
            host: "app.internal".into(),
            port: 8000,
        };
        let named = ServerSpec {
            place,
            weight: 1,
            ..spec.servers[0].clone()
        };
        spec.servers.push(named);
        Upstream::new(spec).unwrap()
    }

    async fn permit(upstream: &Upstream) -> Permit {
        let permit = upstream.permit(Duration::ZERO, Ask::default()).await;
        permit.unwrap_or_else(|why| panic!("{why:?}"))
    }

    #[tokio::test]
    async fn where_only_drained_servers_stay_nobody_waits_for_a_probe() {
        let upstream = upstream(0);
        let _changes = upstream.watch_servers();
        for last in 2..5 {
            upstream.set_addresses(1, &[addr(last)]);
            assert_eq!(permit(&upstream).await.server().addr(), addr(last));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_returns_within_minutes_goes_on_as_it_was() {
        let upstream = upstream(1);
        upstream.set_addresses(1, &[addr(2), addr(3)]);
        let named = |last| {
            let servers = upstream.servers();
            let server = servers.iter().find(|one| one.addr() == addr(last));
            server.unwrap().id
        };
        let (bad, good) = (named(2), named(3));
        let mut times = (0..3).filter_map(|_| upstream.budget.failed(bad));
        assert_eq!(times.next(), Some(RULES.eject_for));
        // Its name's addresses take turns.
        upstream.set_addresses(1, &[addr(3)]);
        upstream.set_addresses(1, &[addr(2)]);
        assert_eq!(named(2), bad);
        assert!(upstream.is_ejected(bad));
        tokio::time::advance(RULES.eject_for).await;
        assert!(!upstream.is_ejected(bad));
        upstream.set_addresses(1, &[addr(3)]);
        upstream.set_addresses(1, &[addr(2), addr(3)]);
        assert_eq!((named(2), named(3)), (bad, good));
        let mut times = (0..3).filter_map(|_| upstream.budget.failed(bad));
        assert_eq!(times.next(), Some(RULES.eject_for * 2), "the second time");
        // After a long time nothing is known of it.
        upstream.set_addresses(1, &[addr(3)]);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        upstream.set_addresses(1, &[addr(2)]);
        assert!(!upstream.is_ejected(named(2)));
    }

    /// Of a name's two servers one leaves; another spec comes into force; it returns.
    #[tokio::test(start_paused = true)]
    async fn who_returns_goes_by_the_spec_that_is_in_force_by_then() {
        let upstream = upstream(1);
        upstream.set_addresses(1, &[addr(2), addr(3)]);
        let named = |upstream: &Upstream, last| {
            let servers = upstream.servers();
            let server = servers.iter().find(|one| one.addr() == addr(last));
            Arc::clone(server.unwrap())
        };
        let before = named(&upstream, 2);
        let mut times = (0..3).filter_map(|_| upstream.budget.failed(before.id));
        assert_eq!(times.next(), Some(RULES.eject_for));
        upstream.set_addresses(1, &[addr(3)]);
        let mut spec = upstream.spec().clone();
        spec.servers.swap(0, 1);
        spec.servers[0].max_in_flight = Some(1);
        spec.servers[0].sni = "app.internal".into();
        spec.tls_verify = false;
        let heir = upstream.succeeded_by(spec.clone()).unwrap();
        heir.take_over(&upstream);
        heir.set_addresses(0, &[addr(2), addr(3)]);
        let back = named(&heir, 2);
        assert_eq!(
            (back.id, back.of),
            (before.id, 0),
            "the same, and whose it is"
        );
        assert_eq!(back.peer.sni, "app.internal");
        assert!(!back.peer.options.verify_cert);
        assert!(
            !Arc::ptr_eq(&back.idle, &before.idle),
            "connections of before"
        );
        assert!(heir.is_ejected(back.id), "what it did is known");
        tokio::time::advance(RULES.eject_for).await;
        heir.set_addresses(0, &[addr(2)]);
        let mut held = Vec::new();
        while let Ok(permit) = heir.permit(Duration::ZERO, Ask::default()).await {
            held.push(permit);
        }
        let its = held.iter().filter(|one| one.server().id == back.id);
        assert_eq!(its.count(), 1, "as many as it may have now");
        drop(held);
        // And once more, drained meanwhile.
        heir.set_addresses(0, &[addr(3)]);
        spec.servers[0].weight = 0;
        let drained = heir.succeeded_by(spec).unwrap();
        drained.take_over(&heir);
        drained.set_addresses(0, &[addr(2)]);
        let mut held = Vec::new();
        while let Ok(permit) = drained.permit(Duration::ZERO, Ask::default()).await {
            held.push(permit);
        }
        assert!(!held.is_empty());
        assert!(held.iter().all(|one| one.server().addr() == addr(1)));
    }

    #[tokio::test]
    async fn where_another_stays_a_probe_is_waited_for() {
        let upstream = upstream(1);
        let _changes = upstream.watch_servers();
        upstream.set_addresses(1, &[addr(2)]);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(permit(&upstream).await);
        }
        assert!(held.iter().all(|one| one.server().addr() == addr(1)));
        let new = upstream.servers()[1].clone();
        upstream.let_in(&new, true);
        // The other is full.
        assert_eq!(permit(&upstream).await.server().addr(), addr(2));
    }
}

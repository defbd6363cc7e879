//! Listening sockets: bound here, or handed over by the process that had them before.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::policy::Policy;

/// Connections that wait to be accepted; the system's own bound (`net.core.somaxconn`) is mostly lower.
const BACKLOG: i32 = 65_535;

/// A process's listeners. None of them blocks.
pub struct Sockets {
    pub public: TcpListener,
    pub redirect: Option<TcpListener>,
    pub admin: Option<TcpListener>,
}

impl Sockets {
    /// The listeners that `policy` wants: those of `handed` that are at its addresses, the others bound anew.
    ///
    /// # Errors
    /// An address that cannot be had; for people.
    pub fn open(policy: &Policy, mut handed: Vec<TcpListener>) -> Result<Sockets, String> {
        let mut listener = |address: SocketAddr| {
            let at = |socket: &TcpListener| socket.local_addr().is_ok_and(|own| own == address);
            match handed.iter().position(at) {
                Some(place) => Ok(handed.swap_remove(place)),
                None => bind(address),
            }
            .map_err(|e| format!("cannot listen on {address}: {e}"))
        };
        Ok(Sockets {
            public: listener(policy.listen.address)?,
            redirect: policy.listen.redirect_from.map(&mut listener).transpose()?,
            admin: policy.admin.address.map(&mut listener).transpose()?,
        })
    }

    /// The same sockets once more.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn copies(&self) -> io::Result<Vec<TcpListener>> {
        let all = [
            Some(&self.public),
            self.redirect.as_ref(),
            self.admin.as_ref(),
        ];
        all.into_iter()
            .flatten()
            .map(TcpListener::try_clone)
            .collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a process before this one may linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_taken_by_its_address() {
        let handed = || bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (public, stranger) = (handed(), handed());
        let address = public.local_addr().unwrap();
        let config = format!(
            "[listen]\naddress = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [[upstream]]\nservers = [\"http://127.0.0.1:1\"]"
        );
        let policy = crate::config::compile("test", &config).unwrap();
        let sockets = Sockets::open(&policy, vec![stranger, public]).unwrap();
        assert_eq!(sockets.public.local_addr().unwrap(), address);
        assert_eq!(sockets.copies().unwrap().len(), 2);
        assert!(Sockets::open(&policy, Vec::new()).is_err_and(|e| e.contains("cannot listen")));
    }
}

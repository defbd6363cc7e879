//! The origin side: permits, connections, and one request with its answer.
//!
//! ```text
//! Upstream ── permit() ──► Permit ── Exchange::start() ──► Exchange ── next() ──► Interim* Head Body* End
//!  servers, budget, pool    one request at one server        one connection          or Switched Body* End
//! ```
//!
//! Connecting, TLS, ALPN and HTTP/2 are pingora's. HTTP/1 on a connected stream is spoken here, because an answer must
//! be judged on the bytes as they came, before anything believes them, and because both directions have to flow at
//! once: through a tunnel, and past an answer that comes before the request's body has ended. Connections that wait for
//! the next request are kept here as well, because the next request is there already when a crowd waits.
//!
//! Beside all this [`watch`] asks the servers whether they are well, and [`resolve`](fn@resolve) asks DNS where they are; both tell
//! the budget.
//!
//! What this does not know: what may be cached, who the client is, and when a stream is long-lived; its caller says
//! so with [`Permit::into_stream`] and [`Exchange::become_stream`].

mod aside;
mod balance;
mod body;
mod budget;
mod bulkhead;
mod circuit;
mod connect;
mod error;
mod exchange;
mod gone;
mod health;
mod http1;
mod http2;
mod idle;
mod probe;
mod queue;
mod resolve;
mod retry;
mod room;
mod roster;
mod server;
mod standing;
mod sticky;
#[cfg(test)]
mod tests;
mod upstream;
mod witness;

pub use aside::FirstRound;
pub use balance::{Balance, Steer};
pub use body::BodySender;
pub use budget::Refused;
pub use bulkhead::Bulkhead;
pub use circuit::Circuit;
pub use error::{OriginError, OriginErrorKind};
pub use exchange::{Event, Exchange, OriginHead, Outgoing};
pub use health::{Seen, watch, watching};
pub use probe::{Asking, Check, HealthSpec};
pub use queue::{Ask, Priority, Wanted};
pub use resolve::{Named, ResolveSpec, look_up, resolve, resolving};
pub use roster::Servers;
pub use server::{Place, Server, ServerSpec};
pub use standing::Rules;
pub use sticky::{Secret, StickySpec};
pub use upstream::{HashBy, Permit, Protocol, StreamPermit, Upstream, UpstreamSpec};

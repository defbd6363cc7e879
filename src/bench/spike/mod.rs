//! `tidegate bench spike`: what happens when the crowd comes, measured so that both an engineer and whoever pays him can tell.
//!
//! In reading order: a [`scenario`] says who comes, for what, and what happens meanwhile; [`visits`] writes each request down before any is
//! sent; [`conduct`] sends them over [`client`]'s connections and has things happen; [`app`] is the origin behind the target, whose
//! every body has a [`stamp`]; [`count`] makes figures of what came of it, which are a [`report`]. [`peers`] are proxies that can be
//! measured beside each other; what their processes take, [`procs`] says. [`capacity`] finds the highest rate that is borne.

pub mod app;
pub mod capacity;
pub mod client;
pub mod conduct;
pub mod count;
pub mod machine;
pub mod peers;
pub mod procs;
pub mod report;
pub mod scenario;
pub mod stamp;
pub mod visits;

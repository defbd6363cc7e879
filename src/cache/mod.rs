//! What both sides touch: stored pages and pages being filled.
//!
//! In reading order: [`memory`] counts every byte until its last holder drops it; [`key`] names a page; [`entry`] is a
//! stored answer, and [`encoded`] what of it was compressed; [`store`] keeps them; [`purges`] says which of them are purged,
//! by [`tags`] and [`generation`]s; [`flight`] is an answer on its way, which any number of readers follow;
//! [`table`] says who fetches and who follows.

pub mod encoded;
pub mod entry;
pub mod flight;
pub mod generation;
pub mod key;
pub mod memory;
pub mod purges;
pub mod store;
mod sync;
pub mod table;
pub mod tags;

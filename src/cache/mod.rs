//! What both sides touch: stored pages and pages being filled.
//!
//! In reading order: [`memory`] counts every byte until its last holder drops it; [`key`] names a page; [`entry`] is a
//! stored answer, and [`encoded`] what of it was compressed; [`store`] keeps them; [`flight`] is an answer on its way, which any number of readers follow;
//! [`table`] says who fetches and who follows.

pub mod encoded;
pub mod entry;
pub mod flight;
pub mod key;
pub mod memory;
pub mod store;
mod sync;
pub mod table;

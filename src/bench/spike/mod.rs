//! `tidegate bench spike`: what happens when the crowd comes, measured so that both an engineer and whoever pays him can tell.
//!
//! In reading order: a [`scenario`] says who comes, for what, and what happens meanwhile; [`visits`] writes each request down before any is
//! sent; [`conduct`] sends them over [`client`]'s connections and has things happen; [`app`] is the origin behind the target, whose
//! every body has a [`stamp`]; [`count`] makes figures of what came of it, which are a [`report`]. [`peers`] are proxies that can be
//! measured beside each other; what their processes take, [`procs`] says. [`capacity`] finds the highest rate that is borne.
//!
//! What is seen meanwhile, [`live`] shows. [`saved`] reads a report from a file. [`figures`] declares each figure once; of them are made the
//! [`table`], which [`terminal`] prints and [`html`] draws beside its charts, the thresholds that [`verdict`] judges by, and what
//! [`compare`] and [`readme`] tell. [`groups`] sorts runs, [`sentence`] puts them in words, [`words`] their numbers.

pub mod app;
pub mod capacity;
pub mod client;
pub mod compare;
pub mod conduct;
pub mod count;
pub mod figures;
mod groups;
pub mod html;
pub mod live;
pub mod machine;
pub mod peers;
pub mod procs;
pub mod readme;
pub mod report;
#[cfg(test)]
mod sample;
pub mod saved;
pub mod scenario;
mod sentence;
pub mod stamp;
mod table;
pub mod terminal;
pub mod verdict;
pub mod visits;
mod words;

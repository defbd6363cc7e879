//! Measuring a proxy in front of an origin: a crowd that comes on a schedule, an origin of known capacity, and what came of
//! it.
//!
//! In reading order: [`schedule`] writes down who asks for what and when, [`driver`] sends it over [`wire`] whatever becomes
//! of it, [`tally`] counts. [`origin`] is what stands behind, and its [`ledger`] is the truth of what reached it.
//! [`simulate`] says what would have been possible.

pub mod driver;
pub mod ledger;
pub mod origin;
pub mod schedule;
pub mod simulate;
pub mod spike;
pub mod tally;
mod timer;
pub mod wire;

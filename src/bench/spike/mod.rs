//! `tidegate bench spike`: what happens when the crowd comes, measured so that both an engineer and whoever pays him can tell.
//!
//! In reading order: [`report`] is what a measurement comes to.

pub mod report;

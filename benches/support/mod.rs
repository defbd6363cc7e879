//! What the measuring programs share: sockets and clocks, an origin, a client, child processes, and the report.

pub mod args;
pub mod client;
pub mod graph;
pub mod http;
pub mod noise;
pub mod origin;
pub mod process;
pub mod readers;
pub mod report;
pub mod svg;
pub mod sys;
pub mod tidegate;

//! Tidegate: a caching reverse proxy for traffic spikes.
//!
//! The map, in reading order. [`cli`] turns a command line into a command; [`config`] turns what was written into a
//! [`config::policy::Policy`]; [`server`] wires it all once. [`front`] is the road, client side; [`guard`] says who may
//! take it, [`limits`] how often; [`levers`] are what a person pulls over all that, [`fleet`] tells
//! other proxies of it; [`fallback`] is what there is while
//! an app is gone; [`cache`] is what both sides touch, and [`snapshot`] what of it lies on the disk;
//! [`fetch`] is the origin side, which asks [`origin`]. [`rules`] are pure decisions, a file per section of an RFC. [`admin`]
//! answers operators; [`state`] is what outlives the process; how Redis is spoken to, [`redis`](mod@redis) knows; [`telemetry`], [`clock`] and [`files`] are leaves. [`bench`]
//! measures: crowds and origins to order.

pub mod admin;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fallback;
pub mod fetch;
pub mod files;
pub mod fleet;
pub mod front;
pub mod guard;
pub mod levers;
pub mod limits;
pub mod origin;
pub mod redis;
pub mod rules;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod telemetry;

//! Pure decisions: values in, `now` among them, and enums with their reason out. No clock, socket, configuration file
//! or metric is reached from here, so a test turns time by hand and a fuzzer needs no server.
//!
//! In the order a request meets them:
//!
//! | file | decides | by |
//! |---|---|---|
//! | [`time`] | what a moment is | |
//! | [`fields`] | one view of field lines, whatever holds them | RFC 9110 §5 |
//! | [`request`] | is this a request, how long, and what does it ask | RFC 9112 §2, §3, §6 |
//! | [`host`] | which site is meant | RFC 9110 §7.2, RFC 3986 §3.2.2 |
//! | [`target`] | which page is meant: path and query of the key | RFC 3986 §6.2 |
//! | [`proxy_protocol`] | whom a connection is from, by the proxy it comes through | PROXY protocol 1 and 2 |
//! | [`claims`] | whom a request is from, by the proxies it came through | RFC 7239 |
//! | [`client`] | who counts as one client | |
//! | [`listing`], [`networks`] | which lists hold it | |
//! | [`geo`] | where it is | MaxMind DB 2.0 |
//! | [`expression`] | which rules of the config it meets | |
//! | [`gcra`] | has that client come too often | ITU-T I.371 |
//! | [`lease`] | and what part of it is for this proxy to say, where several share a limit | |
//! | [`identity`] | is it one of a crowd or somebody | |
//! | [`proof`] | does it come with a pass, and what earns one | Hashcash |
//! | [`token`] | what a signed token says of who that is | RFC 7519 |
//! | [`vary`] | which variant of the page | RFC 9111 §4.1 |
//! | [`reuse`] | may what is stored serve it: fresh, stale, or not before the origin was asked | RFC 9111 §4, RFC 5861 |
//! | [`pulled`] | how much longer operators want it to live | |
//! | [`fresh`] | how old is an answer, how long does it live | RFC 9111 §4.2 |
//! | [`refresh`] | is a hot page fetched anew before it expires, and when again after a failure | Vattani et al., VLDB 2015 |
//! | [`encoding`] | may it be given in a coding of ours | RFC 9110 §8.4 |
//! | [`conditional`] | has the client got it already | RFC 9110 §13 |
//! | [`range`] | which bytes of it | RFC 9110 §14 |
//! | [`forward`], [`hop`] | what the origin gets to see | RFC 9110 §7.6 |
//! | [`chunked`], [`response`] | is this an answer, and where does it end | RFC 9112 §4, §6, §7 |
//! | [`targeted`] | which of its fields speaks to this cache | RFC 9213 |
//! | [`cache_control`] | what that field says | RFC 9111 §5.2 |
//! | [`date`], [`decimal`] | when, and how many | RFC 9110 §5.6.7 |
//! | [`storing`] | may it be stored, for whom, how long | RFC 9111 §3 |
//! | [`validate`] | is what is stored still right | RFC 9111 §4.3 |
//! | [`invalidate`] | what an unsafe request makes wrong | RFC 9111 §4.4 |
//! | [`tags`], [`purge`], [`prefixes`] | what an answer calls itself, and whether a purge means it | RFC 9875 |
//! | [`fallback`] | which files stand in for it when its app is gone | |
//! | [`cache_status`] | what the client is told of all this | RFC 9211 |
//!
//! Towards the servers of an upstream: [`rendezvous`], which of them a key belongs to; [`sticky`], which a visitor does; and
//! beside all requests [`health`], which are well; [`concurrency`], how many at once one is good for; [`outlier`], which of them
//! fails more than the others ([`recent`] counts); [`breaker`], whether there is one at all; [`standby`], when to go on without; [`retry_after`], when those who were refused are to come back; [`resolve`], where servers are. [`secret`] is what none of them shows.

pub mod breaker;
pub mod cache_control;
pub mod cache_status;
pub mod chunked;
pub mod claims;
pub mod client;
pub mod concurrency;
pub mod conditional;
pub mod date;
pub mod decimal;
pub mod encoding;
pub mod expression;
pub mod fallback;
pub mod fields;
pub mod forward;
pub mod fresh;
pub mod gcra;
pub mod geo;
pub mod health;
pub mod hop;
pub mod host;
pub mod identity;
pub mod invalidate;
pub mod lease;
pub mod listing;
pub mod networks;
pub mod outlier;
pub mod prefixes;
pub mod proof;
pub mod proxy_protocol;
pub mod pulled;
pub mod purge;
pub mod range;
pub mod recent;
pub mod refresh;
pub mod rendezvous;
pub mod replay;
pub mod request;
pub mod resolve;
pub mod response;
pub mod retry_after;
pub mod reuse;
pub mod secret;
pub mod standby;
pub mod sticky;
pub mod storing;
pub mod tags;
pub mod target;
pub mod targeted;
pub mod time;
pub mod token;
pub mod validate;
pub mod vary;

//! What stays as it was when the process started, whatever a new config says: listeners, and what is divided up at the start.

use super::Policy;

/// Makes `after` keep of `before` what can't change while the process runs. Gives the options that are written otherwise: they
/// take effect when another process takes over (`tidegate run --upgrade`, which drops nobody).
pub fn keep(before: &Policy, after: &mut Policy) -> Vec<&'static str> {
    let mut waits = Vec::new();
    macro_rules! fixed {
        ($($name:literal: $($field:ident).+;)*) => {$(
            if before.$($field).+ != after.$($field).+ {
                waits.push($name);
                after.$($field).+ = before.$($field).+.clone();
            }
        )*};
    }
    fixed! {
        "listen.address": listen.address;
        "listen.tls": listen.tls;
        "listen.redirect_from": listen.redirect_from;
        "listen.redirect_port": listen.redirect_port;
        "listen.http2": listen.http2;
        "listen.threads": listen.threads;
        "listen.max_connections": listen.max_connections;
        "cache.max_memory": cache.max_memory;
        "cache.max_variants": cache.max_variants;
        "admin": admin;
        "state": state;
        "log": log;
    }
    waits
}

//! Which of the tests' wire scripts are run against every server: those whose rule is not ours alone. Left out are scripts
//! that need our own clock, metrics or options, and those about limits of size, which are each server's own choice.

use Rule::{Answer, Cache, Request};

/// What a script's clients and origin are held to, whatever answer a server gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// What a client sends is refused, or reaches the origin as one proper request.
    Request,
    /// What an origin answers is refused, or reaches the client proper and whole or visibly broken; nobody else gets it.
    Answer,
    /// What is one client's, or was made by one, is never answered to another.
    Cache,
}

pub struct Vector {
    pub class: u8,
    pub script: &'static str,
    pub rule: Rule,
    /// Targets that are not judged: what is done there is a choice that RFC 9110 and 9111 leave open, and ours.
    pub but: &'static [&'static str],
}

/// A class of attacks as `tests/wire/promises.txt` counts them, and what it is.
pub const CLASSES: &[(u8, &str)] = &[
    (1, "Content-Length beside Transfer-Encoding"),
    (2, "two Content-Lengths"),
    (3, "Content-Length that is no number"),
    (4, "Transfer-Encoding that is not `chunked`"),
    (5, "bodies of HTTP/1.0"),
    (6, "broken chunks"),
    (7, "trailers"),
    (8, "h2c upgrade"),
    (9, "CONNECT, TRACE"),
    (10, "a request in a body"),
    (12, "Host"),
    (13, "absolute-form"),
    (14, "targets"),
    (15, "request lines, line ends"),
    (16, "field lines"),
    (17, "names in Connection"),
    (22, "broken answers"),
    (23, "hosts apart"),
    (24, "reflected fields"),
    (25, "GET with a body"),
    (26, "parameter cloaking"),
    (27, "provoked errors"),
    (28, "encoded line ends"),
    (29, "Set-Cookie"),
    (30, "Authorization, Cookie"),
    (31, "not to be reused"),
    (32, "Age"),
    (33, "Vary"),
    (34, "cache deception"),
    (35, "206, 304 or 204 unasked"),
    (36, "half an answer"),
];

const fn vector(class: u8, script: &'static str, rule: Rule) -> Vector {
    Vector {
        class,
        script,
        rule,
        but: &[],
    }
}

impl Vector {
    const fn but(self, but: &'static [&'static str]) -> Vector {
        Vector { but, ..self }
    }
}

/// In the order in which they are run.
pub const VECTORS: &[Vector] = &[
    vector(1, "11-parsing/c01-length-and-coding", Request),
    vector(1, "01-front/pipelined-post", Request),
    vector(2, "11-parsing/c02-two-lengths", Request),
    vector(3, "11-parsing/c03-length-values", Request),
    vector(4, "11-parsing/c04-transfer-encoding", Request),
    vector(5, "11-parsing/c05-http10", Request),
    vector(6, "11-parsing/c06-chunks", Request),
    vector(7, "05-fetch/trailers-of-a-request", Request),
    vector(8, "01-front/upgrade-h2c-never", Request),
    vector(9, "11-parsing/c09-connect-and-trace", Request),
    vector(10, "11-parsing/a-hit-with-a-body", Request),
    vector(12, "11-parsing/c12-host", Request),
    vector(12, "11-parsing/c12-host-http10", Request),
    vector(13, "11-parsing/c13-absolute-form", Request),
    vector(14, "11-parsing/c14-targets", Request),
    vector(15, "11-parsing/c15-http09", Request),
    vector(15, "11-parsing/c15-line-ends", Request),
    vector(15, "11-parsing/c15-request-lines", Request),
    vector(16, "11-parsing/c16-fields", Request),
    vector(17, "11-parsing/c17-connection-names", Request),
    vector(22, "12-poisoning/c22-chunks", Answer),
    vector(22, "12-poisoning/c22-chunks-seen-broken", Answer),
    vector(22, "12-poisoning/c22-connection-closed", Answer),
    vector(22, "12-poisoning/c22-extra-bytes", Answer),
    vector(22, "12-poisoning/c22-heads", Answer),
    vector(22, "12-poisoning/c22-http09", Answer),
    vector(22, "12-poisoning/c22-on-pass", Answer),
    vector(22, "13-faults/c79-garbage", Answer),
    vector(22, "03-9111-3-storing/unasked-101", Answer),
    vector(23, "12-poisoning/c23-hosts-apart", Cache),
    vector(23, "01-front/pipelined-hosts", Cache),
    vector(24, "05-fetch/reflection", Cache),
    vector(24, "12-poisoning/c24-reflected-fields", Cache),
    vector(25, "12-poisoning/c25-fat-get", Cache),
    vector(25, "03-9111-3-storing/fat-get", Cache),
    vector(26, "12-poisoning/c26-what-is-keyed-is-sent", Cache),
    vector(26, "04-9111-4.1-key/query-as-sent", Cache),
    vector(27, "12-poisoning/c27-provoked-errors", Cache),
    vector(27, "12-poisoning/c27-unsaid-errors", Cache),
    vector(27, "03-9111-3-storing/method-override", Cache),
    vector(28, "12-poisoning/c28-encoded-line-ends", Cache),
    vector(29, "12-poisoning/c29-twenty-clients", Cache),
    vector(29, "03-9111-3-storing/set-cookie-refused", Cache),
    vector(30, "12-poisoning/c30-cookies", Cache),
    vector(30, "03-9111-3-storing/authorization", Cache),
    vector(30, "04-9111-4.1-key/vary-cookie-of-the-signed-in", Cache),
    vector(30, "04-9111-4.1-key/vary-authorization", Cache),
    vector(31, "12-poisoning/c31-never-without-the-origins-word", Cache).but(&["/7", "/9", "/14"]),
    vector(31, "03-9111-3-storing/no-store", Cache).but(&["/4"]),
    vector(31, "03-9111-3-storing/private", Cache).but(&["/3", "/4"]),
    vector(31, "03-9111-3-storing/s-maxage-zero", Cache),
    vector(31, "03-9111-3-storing/expires-before-cache-control", Cache),
    vector(31, "03-9111-3-storing/expires-invalid", Cache).but(&["/5"]),
    vector(31, "03-9111-3-storing/directive-case", Cache),
    vector(32, "03-9111-3-storing/age-above-max-age", Cache),
    vector(33, "04-9111-4.1-key/vary-two-lines", Cache),
    vector(33, "04-9111-4.1-key/vary-unknown-field", Cache),
    vector(33, "03-9111-3-storing/vary-star", Cache),
    vector(34, "12-poisoning/c34-deception", Cache),
    vector(34, "12-poisoning/c34-same-key-same-target", Cache),
    vector(34, "04-9111-4.1-key/path-apart", Cache),
    vector(35, "12-poisoning/c35-204-with-a-body", Answer),
    vector(35, "03-9111-3-storing/partial-unasked", Answer),
    vector(36, "12-poisoning/c36-half-a-page", Answer),
    vector(36, "03-9111-3-storing/unfinished", Answer),
    vector(36, "09-flights/broken-at-the-last-byte", Answer),
    vector(36, "09-flights/broken-chunked", Answer),
];

//! The values of the labels `result`, `reason` and `action`: what can come of a request, an origin's answer, a
//! health check, a refresh, why a request was not let through to an origin, and what a limit did.

/// Declares a label's values: an enum, its `LABELS` in order, and `label()`.
macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            pub const LABELS: &'static [&'static str] = &[$($label),*];

            pub const fn label(self) -> &'static str {
                Self::LABELS[self as usize]
            }
        }
    };
}

labelled! {
    /// What the cache did for a request: the label `result`, and the access log's `cache`.
    CacheResult {
        /// Answered from a fresh entry (also a 304 or a range of it).
        Hit "hit",
        /// Stale, under stale-while-revalidate.
        Stale "stale",
        /// Stale, because the origin failed, was down, or its budget was full.
        StaleError "stale_error",
        /// Stale, because the origin was slower than `serve_stale_after`.
        StaleSlow "stale_slow",
        /// Answered from an entry that the origin had just confirmed.
        Revalidated "revalidated",
        /// Fetched by this request.
        Miss "miss",
        /// Fetched by another request's flight.
        Collapsed "collapsed",
        /// Fetched for this request alone, its key being known as uncacheable.
        HitForMiss "hit_for_miss",
        /// Not for the cache: unsafe methods, bodies, upgrades, and what is answered here without
        /// it.
        Pass "pass",
        /// No answer to be had from the origin: 502, 504.
        Error "error",
        /// A queue, budget or memory was full, or the origin down: 503.
        Overload "overload",
        /// Refused before it was looked up: malformed, too large, no route, kept out.
        Refused "refused",
        /// Refused for what a limit says: 429.
        Limited "limited",
        /// Asked for a pass, or came for one.
        Challenged "challenged",
        /// Answered by what there is without the app: a page, or word that there is none.
        Fallback "fallback",
        /// Taken out of the cache, or marked stale, as it asked.
        Purge "purge",
        /// The client left before anything was sent.
        Aborted "aborted",
    }
}

labelled! {
    /// Where a visitor's answer is from whose app is gone: the label `source`.
    FallbackSource {
        /// A cached page, however stale.
        Cache "cache",
        /// The last good copy on the disk.
        Snapshot "snapshot",
        /// A file of the directory.
        File "file",
        /// The maintenance page.
        Maintenance "maintenance",
        /// Nowhere: what was asked for can't be had without the app.
        Refused "refused",
    }
}

labelled! {
    /// What came of asking for a pass: the label `result`.
    ChallengeResult {
        /// The page with a puzzle was.
        Shown "shown",
        /// Whoever shows no pages was told that a browser is needed.
        Refused "refused",
        Solved "solved",
        /// A solution of nothing.
        Wrong "wrong",
        /// A solution too late.
        Expired "expired",
    }
}

labelled! {
    /// What came of a request to an origin: the label `result`.
    OriginResult {
        /// A head below 500, and a body that came to its end.
        Ok "ok",
        /// A head of 500 or over.
        ServerError "server_error",
        /// No connection, or no TLS.
        Connect "connect",
        /// A deadline: connect, first byte, between bytes, total.
        Timeout "timeout",
        /// Broken off.
        Reset "reset",
        /// Not HTTP, or larger than allowed.
        Malformed "malformed",
        /// No permit: the queue was full, the wait too long, or the upstream down.
        Refused "refused",
        /// Nobody wanted it any more.
        Cancelled "cancelled",
    }
}

labelled! {
    /// Why a request was not let through to an origin: the label `reason`.
    RefusedReason {
        /// As many waited as may.
        QueueFull "queue_full",
        /// So many waited that its answer would have come too late.
        Late "late",
        /// It waited as long as may be.
        Waited "waited",
        /// It would have been a long-lived stream more than may be.
        Streams "streams",
        /// There was no server to be asked.
        NoServer "no_server",
        /// The upstream as a whole was down.
        Breaker "breaker",
    }
}

labelled! {
    /// What a limit made of a request that was beyond it: the label `action`.
    Limited {
        /// Answered 429.
        Refused "refused",
        /// It waited for its turn.
        Delayed "delayed",
        /// Served with what was stored, or refused.
        Stale "stale",
        /// Asked for a pass, and told when to come again without one.
        Challenged "challenged",
        /// It went on, by its pass.
        Passed "passed",
        /// Nothing: the limit is tried out.
        Logged "logged",
    }
}

labelled! {
    /// Why a request to the admin API was not let in: the label `reason`.
    AdminRefused {
        /// No token, or a wrong one.
        Token "token",
        /// Too many wrong ones came before.
        Pace "pace",
        /// It asked for another host.
        Host "host",
        /// A browser sent it from another site.
        Origin "origin",
    }
}

labelled! {
    /// What a message to Redis came to: the label `result`.
    RedisResult {
        Ok "ok",
        /// No answer in time.
        Timeout "timeout",
        /// No connection, or one that broke.
        Unreachable "unreachable",
        /// An error: no memory, a wrong password, a replica.
        Refused "refused",
        /// An answer that Redis can't have meant.
        Unbelievable "unbelievable",
    }
}

labelled! {
    /// What a background refresh came to: the label `result`.
    RefreshResult {
        Stored "stored",
        Unchanged "unchanged",
        Unstorable "unstorable",
        Failed "failed",
    }
}

labelled! {
    /// What came of asking DNS for a name: the label `result`.
    ResolveResult {
        Ok "ok",
        /// NXDOMAIN.
        NoSuchName "no_such_name",
        /// The name is there, and has none.
        NoAddress "no_address",
        Timeout "timeout",
        /// SERVFAIL, REFUSED, nobody to ask.
        Failed "failed",
    }
}

labelled! {
    /// What a health check came to: the label `result`.
    ProbeResult {
        Ok "ok",
        /// An answer, and not the one that is expected.
        Unfit "unfit",
        /// No connection, or no TLS.
        Connect "connect",
        /// Not done in time.
        Timeout "timeout",
        /// Broken off, or not HTTP.
        Broken "broken",
    }
}

//! Every metric's name, once. Labels come from the config and from enums, never from a client
//! (class C61).

/// A metric: what `# HELP` and `# TYPE` say, and its labels in order.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: Family = Family { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };
        )*
        /// All of them, in the order they are shown.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD_INFO: Gauge "tidegate_build_info" ["version"] "Always 1; the version is the label.";

    REQUESTS: Counter "tidegate_requests_total" ["route", "result"] "Requests answered, by what the cache did.";
    RESPONSES: Counter "tidegate_responses_total" ["route", "status"] "Answers sent, by class of status; none: the client left first.";
    RESPONSE_BYTES: Counter "tidegate_response_bytes_total" ["route"] "Body bytes sent to clients.";
    REQUEST_SECONDS: Histogram "tidegate_request_seconds" ["route"] "From a whole request head to the last byte of the answer.";
    CONNECTIONS: Counter "tidegate_connections_total" [] "Client connections accepted.";
    CONNECTIONS_OPEN: Gauge "tidegate_connections_open" [] "Client connections open.";

    CONNECTIONS_SHED: Counter "tidegate_connections_shed_total" [] "Idle client connections closed to make room for others.";
    CONNECTIONS_REFUSED: Counter "tidegate_connections_refused_total" ["result"] "Client connections closed as they came: client, that has too many; full; proxy, that is not trusted or does not say for whom it asks.";
    FAILED_HANDSHAKES: Counter "tidegate_tls_handshakes_failed_total" [] "Connections that did not come to speak TLS.";
    CERTIFICATE_EXPIRY: Gauge "tidegate_tls_certificate_expires" [] "When the first of the certificates ends, in Unix seconds.";
    CERTIFICATE_RELOADS: Counter "tidegate_tls_certificate_reloads_total" ["result"] "Changes of certificate files: done, or refused and the old ones kept.";

    CONFIG_VERSION: Gauge "tidegate_config_version" [] "Number of the config in force: 1 is what the process has started with.";
    CONFIG_CHANGES: Counter "tidegate_config_changes_total" ["result"] "Configs that were to come into force: done, or refused and the one before kept.";
    CONFIG_REFUSED: Gauge "tidegate_config_refused" [] "Whether the last config that was to come into force was refused: 1 or 0.";

    LEVER_ACTIVE: Gauge "tidegate_lever_active" ["lever"] "Levers of a kind that are pulled.";

    FALLBACK_ACTIVE: Gauge "tidegate_fallback_active" ["route"] "1 while a route's visitors get what there is without its app, else 0.";
    FALLBACK_TURNS: Counter "tidegate_fallback_turns_total" ["upstream"] "How often it has gone on or off by itself for the routes of an upstream.";
    FALLBACK_ANSWERS: Counter "tidegate_fallback_answers_total" ["route", "source"] "Answers without the app: from the cache, the snapshot, a file, the maintenance page; refused, what can't be had without it.";
    FALLBACK_DRILLED: Counter "tidegate_fallback_drilled_total" ["route", "source"] "Requests on which fallback was tried: answered from the cache, the snapshot or a file; maintenance: from nowhere, so by the app.";

    LIST_ENTRIES: Gauge "tidegate_list_entries" ["list"] "Addresses and networks in a list.";
    LIST_DENIED: Counter "tidegate_list_denied_total" ["list"] "Requests of clients that a list keeps out.";
    LIST_RELOADS: Counter "tidegate_list_reloads_total" ["list", "result"] "Changes of a list's file: done, or refused and what was read last kept.";
    GEO_RELOADS: Counter "tidegate_geo_reloads_total" ["database", "result"] "Changes of a database's file: done, or refused and the last one kept.";
    RULE_MATCHES: Counter "tidegate_rule_matches_total" ["rule", "action"] "Requests that a rule was true of.";
    LIMITED: Counter "tidegate_limited_total" ["limit", "action"] "Requests beyond a limit: refused, delayed, stale, that were served with what was stored if anything was; challenged, without a pass, and passed, with one; and logged, by one that is tried out.";
    LIMIT_CLIENTS: Gauge "tidegate_limit_clients" ["limit"] "Clients that the limit remembers.";
    LIMIT_UNREMEMBERED: Counter "tidegate_limit_unremembered_total" ["limit"] "Requests that were not counted, since there was no place for one client more.";
    REDIS_UP: Gauge "tidegate_redis_up" [] "Whether Redis answers: 1, or 0 and each proxy has its even part of the limits.";
    REDIS_OPERATIONS: Counter "tidegate_redis_operations_total" ["result"] "Messages to Redis: ok, timeout, unreachable, refused by it, unbelievable.";
    FLEET_PROXIES: Gauge "tidegate_fleet_proxies" [] "Proxies that share limits, as far as is known.";
    FLEET_HOT: Gauge "tidegate_fleet_hot_clients" [] "Clients whose shares the proxies keep in step.";
    FLEET_BEHIND: Gauge "tidegate_fleet_behind" [] "1 while pages are served without knowing whether another proxy has purged them, else 0.";
    FLEET_QUEUED: Gauge "tidegate_fleet_queued" [] "Purges and levers that the other proxies are to hear of when Redis is back.";
    FLEET_GAPS: Counter "tidegate_fleet_gaps_total" [] "Times that purges may have been missed, and all that is stored was taken for stale.";
    FLEET_LOG: Counter "tidegate_fleet_log_total" ["result"] "Messages to Redis about purges and levers: ok, timeout, unreachable, refused by it, unbelievable.";
    CHALLENGES: Counter "tidegate_challenges_total" ["result"] "Requests without a pass where one is needed: shown the puzzle, or refused, who shows no pages; and what came back: solved, wrong, expired.";

    CACHE_BYTES: Gauge "tidegate_cache_bytes" [] "Memory charged to the cache: entries, flights and spools.";
    CACHE_BYTES_MAX: Gauge "tidegate_cache_bytes_max" [] "What they may take: max_memory less a sixteenth.";
    CACHE_ENTRIES: Gauge "tidegate_cache_entries" [] "Entries stored, each variant one.";
    CACHE_STORED: Counter "tidegate_cache_stored_total" [] "Entries stored.";
    CACHE_EVICTED: Counter "tidegate_cache_evicted_total" [] "Entries that made room for others.";
    CACHE_INVALIDATED: Counter "tidegate_cache_invalidated_total" [] "Keys invalidated by unsafe methods.";
    PURGES: Counter "tidegate_purges_total" ["kind", "action"] "Purges, by what they name (url, prefix, tag, host, all), hard or soft.";
    PURGED_ENTRIES: Counter "tidegate_purged_entries_total" [] "Entries that were taken out or marked stale by purges, as they are found.";
    CACHE_ENCODED: Counter "tidegate_cache_encoded_total" ["result"] "Pages compressed, by coding, and those that were not: no_shorter; put_off, for want of time or memory.";
    SNAPSHOT_PAGES: Gauge "tidegate_snapshot_pages" [] "Pages on the disk, each variant one.";
    SNAPSHOT_BYTES: Gauge "tidegate_snapshot_bytes" [] "Bytes that they take there.";
    SNAPSHOT_WRITTEN: Counter "tidegate_snapshot_written_bytes_total" [] "Bytes written there.";
    SNAPSHOT_SKIPPED: Counter "tidegate_snapshot_skipped_total" ["reason"] "Pages that are not there though they should be: torn, on the disk; large; behind, too many waited; memory, to remember where they are; error, they could not be written.";
    HIT_FOR_MISS: Gauge "tidegate_cache_hit_for_miss" [] "Marks on keys known to be uncacheable.";
    FLIGHTS: Gauge "tidegate_flights" [] "Objects being fetched.";
    WAITERS: Gauge "tidegate_waiters" [] "Requests waiting for a flight's head or for a permit.";
    REFRESHES: Counter "tidegate_refreshes_total" ["upstream", "result"] "Background refreshes: stored, unchanged, refused to be stored, failed.";

    ORIGIN_REQUESTS: Counter "tidegate_origin_requests_total" ["upstream", "result"] "Requests to origins, by what came back.";
    ORIGIN_SECONDS: Histogram "tidegate_origin_seconds" ["upstream"] "From the permit to the origin's head.";
    ORIGIN_IN_FLIGHT: Gauge "tidegate_origin_in_flight" ["upstream"] "Permits held: requests an origin is working on.";
    ORIGIN_BUDGET: Gauge "tidegate_origin_budget" ["upstream"] "Permits there are at the servers in use: not those that are ill, ejected or out of reach, as long as others are left, nor backups that stand by.";
    ORIGIN_QUEUED: Gauge "tidegate_origin_queued" ["upstream"] "Requests waiting for a permit.";
    ORIGIN_STREAMS: Gauge "tidegate_origin_streams" ["upstream"] "Upgraded connections and event streams, held beside the budget.";

    ROUTE_IN_FLIGHT: Gauge "tidegate_route_in_flight" ["route"] "Permits held for a route that has a max_in_flight of its own.";
    ROUTE_QUEUED: Gauge "tidegate_route_queued" ["route"] "Requests of such a route waiting for a permit.";

    ORIGIN_REFUSED: Counter "tidegate_origin_refused_total" ["upstream", "reason"] "Requests not let through to an origin: queue_full; late and waited, for want of time; streams; no_server; breaker, that is open.";
    ORIGIN_BREAKER: Gauge "tidegate_origin_breaker_state" ["upstream"] "0 while the breaker is closed, 1 half-open, 2 open.";
    ORIGIN_BREAKER_OPENED: Counter "tidegate_origin_breaker_opened_total" ["upstream"] "How often the breaker has opened.";

    ORIGIN_SERVERS: Gauge "tidegate_origin_servers" ["upstream"] "Servers there are; a name counts as those it stands for.";
    ORIGIN_RESOLVES: Counter "tidegate_origin_resolves_total" ["upstream", "result"] "Questions to DNS for the servers' names, by what came of them.";
    ORIGIN_RETRIES: Counter "tidegate_origin_retries_total" ["upstream"] "Requests asked again at another server.";
    ORIGIN_SERVER_IN_FLIGHT: Gauge "tidegate_origin_server_in_flight" ["upstream", "server"] "Permits held at a server.";
    ORIGIN_SERVER_EJECTED: Gauge "tidegate_origin_server_ejected" ["upstream", "server"] "1 while the server is left alone for its failures, else 0.";
    ORIGIN_SERVER_UP: Gauge "tidegate_origin_server_up" ["upstream", "server"] "1 while the health check calls the server well, else 0.";
    ORIGIN_PROBES: Counter "tidegate_origin_probes_total" ["upstream", "server", "result"] "Health checks of servers, by what came of them.";
    ORIGIN_ALL_ILL: Gauge "tidegate_origin_all_ill" ["upstream"] "1 while no server is well, and all are used, else 0.";

    API_KEYS: Counter "tidegate_api_keys_total" ["result"] "API keys that requests brought: known, unknown.";
    TOKENS: Counter "tidegate_tokens_total" ["result"] "Tokens that requests brought: verified, or why not; put_off: too many of the sender's were forged.";
    KEY_RELOADS: Counter "tidegate_key_reloads_total" ["result"] "Changes of the files of API keys and of tokens' keys: done, or refused and the old ones kept.";
    ADMIN_REFUSED: Counter "tidegate_admin_refused_total" ["reason"] "Requests to the admin API that were not let in: token, wrong or none; pace, after too many wrong ones; host, another than this machine's; origin, a browser's from another site.";
    AUDIT_FAILED: Counter "tidegate_audit_failed_total" [] "Changes that the audit log could not be told.";

    LOG_DROPPED: Counter "tidegate_log_dropped_total" [] "Log lines dropped: the writer was behind, or the file could not be written.";

    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "CPU time of the process, user and system.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [] "Resident memory of the process.";
    PROCESS_FDS: Gauge "process_open_fds" [] "Open file descriptors of the process.";
    PROCESS_THREADS: Gauge "process_threads" [] "Threads of the process.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = HashSet::new();
        for family in ALL {
            let name = family.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(
                name.starts_with("tidegate_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(
                name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{name}"
            );
            assert_eq!(
                name.ends_with("_seconds"),
                family.kind == Kind::Histogram,
                "{name}"
            );
            assert!(family.help.ends_with('.'), "{name}");
            for label in family.labels {
                assert!(
                    [
                        "route", "upstream", "server", "result", "reason", "status", "version",
                        "list", "database", "rule", "limit", "action", "lever", "kind", "source"
                    ]
                    .contains(label),
                    "{name}: {label}"
                );
            }
        }
    }
}

vcl 4.1;

# Varnish's built-in rules, which pass what has a cookie; stale pages for ten seconds while they are fetched anew, and for an hour while the
# origin is ill; and a way to purge everything from this machine.
import std;

backend origin {
    .host = "127.0.0.1";
    .port = "{origin}";
    .probe = {
        .url = "/healthz";
        .interval = 500ms;
        .timeout = 1s;
        .window = 4;
        .threshold = 2;
        .initial = 2;
    }
}

acl here {
    "127.0.0.0"/8;
}

sub vcl_recv {
    if (req.method == "BAN") {
        if (client.ip !~ here) {
            return (synth(405));
        }
        ban("req.url ~ .");
        return (synth(200, "Banned"));
    }
    if (std.healthy(req.backend_hint)) {
        set req.grace = 10s;
    }
}

sub vcl_backend_response {
    set beresp.grace = 1h;
    # An error is not kept in place of a page.
    if (beresp.status >= 500 && bereq.is_bgfetch) {
        return (abandon);
    }
}

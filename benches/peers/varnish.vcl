vcl 4.1;

# The built-in rules. Its log goes to shared memory; varnishncsa, which would write it out, is not run.
backend default {
    .host = "127.0.0.1";
    .port = "{origin}";
}

vcl 4.1;

# The built-in rules beside what is filled in from one measurement to the next.
import directors;

{servers}

sub vcl_init {
    new origin = directors.round_robin();
{members}
}

sub vcl_recv {
    set req.backend_hint = origin.backend();
}

{rules}

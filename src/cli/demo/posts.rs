//! The demo blog's posts.

pub struct Post {
    pub slug: &'static str,
    pub title: &'static str,
    pub lead: &'static str,
    /// HTML, ours: it is not escaped.
    pub text: &'static str,
}

pub const POSTS: [Post; 4] = [
    Post {
        slug: "slack-water",
        title: "Slack water",
        lead: "Twice a day a tide mill does its best work by keeping a gate shut.",
        text: "\
<p>A tide mill fills its pond when the sea is high, shuts the gate, and grinds for hours after the water outside has gone. \
The miller does not ask the sea for every sack of flour. He asks twice a day.</p>
<p>A cache in front of a website is the same bargain. The app is asked once, and what it said is given to everybody \
until it is too old to be trusted. How old that is, the app decides: this page says <code>max-age=60</code>.</p>
<h2>What the visitor notices</h2>
<p>Nothing, which is the point. The second visitor gets the bytes the first one got, a little faster, and the \
<code>Age</code> header tells how many seconds ago they were made.</p>",
    },
    Post {
        slug: "one-at-a-time",
        title: "One at a time, please",
        lead: "A thousand people ask for the same page in the same second. How often must it be made?",
        text: "\
<p>Once. Yet a site without a cache makes it a thousand times, and a site with a careless cache makes it a thousand times \
too: each request finds nothing stored and goes to ask.</p>
<p>So the first request that finds nothing opens a flight, and all who come after it join. They do not wait for the end \
of it either: each byte is passed on as it arrives. Two visitors or two thousand, the app sees one request.</p>
<h2>And when the page expires?</h2>
<p>Then the old copy goes out for a moment longer while one request fetches the new one. This is called \
<em>stale-while-revalidate</em>, and it is the reason why a popular page has no slow moments.</p>",
    },
    Post {
        slug: "old-bread",
        title: "Yesterday's bread",
        lead: "A copy that is a little old is worth more than an apology that is fresh.",
        text: "\
<p>When the app falls over, a cache holds pages that were right a minute ago. It can answer with them, or with an error. \
For a blog the choice is easy, and the standard has a name for it: <em>stale-if-error</em>.</p>
<p>It is not for everything. A page that says <code>must-revalidate</code> asks never to be served old, and that wish \
is kept even when the app is down.</p>
<p>You can see it on <a href=\"/errors\">the page that breaks this blog</a>: break it, and come back here.</p>",
    },
    Post {
        slug: "whose-page",
        title: "Whose page is it?",
        lead: "The worst thing a shared cache can do is to show you somebody else's account.",
        text: "\
<p>Apps forget to mark their private pages. So the cache has to look at who is asking: a request with a session cookie or \
an <code>Authorization</code> header is somebody in particular, and what the app answers to somebody in particular \
is given to nobody else, unless the app said in so many words that everyone may have it.</p>
<p>Cookies that only count visits do not make you somebody. The cache knows the usual ones by name.</p>
<p>Try it on <a href=\"/private\">the page that knows your name</a>, in two browsers.</p>",
    },
];

pub fn find(slug: &str) -> Option<&'static Post> {
    POSTS.iter().find(|post| post.slug == slug)
}

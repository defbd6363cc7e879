//! The frame around every page of the demo blog.

/// What a page demonstrates. Texts are ours: they are not escaped.
pub struct Shows {
    pub what: &'static str,
    /// Its Cache-Control, if it has one.
    pub cache: Option<&'static str>,
}

pub struct Frame<'a> {
    pub title: &'a str,
    /// The page's path, to mark it in the navigation.
    pub here: &'a str,
    pub style: &'a str,
    pub script: &'a str,
    pub icon: &'a str,
    /// How often the origin made this page.
    pub count: u64,
    /// When it made this copy, in Unix seconds.
    pub wall: u64,
}

const PLACES: [(&str, &str); 5] = [
    ("/", "Posts"),
    ("/slow", "Slow"),
    ("/private", "Private"),
    ("/events", "Events"),
    ("/errors", "Errors"),
];

impl Frame<'_> {
    /// The whole page around `main`, which is HTML.
    pub fn render(&self, shows: &Shows, main: &str) -> String {
        let places: String = PLACES
            .iter()
            .map(|(path, name)| {
                let here = if *path == self.here {
                    " aria-current=\"page\""
                } else {
                    ""
                };
                format!("<li><a href=\"{path}\"{here}>{name}</a></li>")
            })
            .collect();
        let cache = match shows.cache {
            Some(cache) => format!("<pre>Cache-Control: {cache}</pre>"),
            None => "<p>It has no Cache-Control.</p>".to_owned(),
        };
        let Frame {
            title,
            style,
            script,
            icon,
            ..
        } = self;
        let what = shows.what;
        let made = self.made();
        format!(
            "<!doctype html>\n\
             <html lang=\"en\">\n\
             <head>\n\
             <meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n\
             <link rel=\"stylesheet\" href=\"{style}\">\n\
             <link rel=\"icon\" href=\"{icon}\" type=\"image/svg+xml\">\n\
             <script src=\"{script}\" defer></script>\n\
             </head>\n\
             <body>\n\
             <a class=\"skip\" href=\"#text\">Skip to the text</a>\n\
             <header>\n\
             <a class=\"name\" href=\"/\"><img src=\"{icon}\" alt=\"\" width=\"40\" height=\"40\">Tide Gate Notes</a>\n\
             <nav aria-label=\"Site\"><ul>{places}</ul></nav>\n\
             </header>\n\
             <main>\n\
             <article id=\"text\">\n{main}\n<p class=\"made\">{made}</p>\n</article>\n\
             <aside aria-label=\"What this page shows\">\n\
             <h2>What this page shows</h2>\n<p>{what}</p>\n\
             <h3>What the origin says</h3>\n{cache}\n\
             <h3>What the proxy says</h3>\n\
             <p><button type=\"button\" data-ask hidden>Ask again</button></p>\n\
             <noscript><p>The headers are in <code>curl -i</code>.</p></noscript>\n\
             <ol class=\"asked\" role=\"log\" aria-label=\"Answers, newest first\" reversed></ol>\n\
             </aside>\n\
             </main>\n\
             <footer>Served by the origin bundled with <code>tidegate demo</code>.</footer>\n\
             </body>\n\
             </html>\n"
        )
    }

    fn made(&self) -> String {
        let second = self.wall % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let times = if self.count == 1 {
            "once"
        } else {
            &format!("{} times", self.count)
        };
        format!(
            "This copy was made at {hour:02}:{minute:02}:{second:02} UTC. The origin has made this page {times}."
        )
    }
}

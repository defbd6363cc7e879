//! `tidegate demo`: a small blog made to show what the proxy does, and the proxy in front of it.

mod answer;
mod origin;
mod page;
mod posts;
mod site;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::live::Source;
use crate::server::{Start, reachable};

/// Try it: a bundled demo site with the proxy in front
#[derive(clap::Args, Clone, Debug)]
pub struct Demo {
    /// Where visitors connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
    /// Speak HTTPS, with the fullchain.pem and privkey.pem in FOLDER
    #[arg(long, value_name = "FOLDER")]
    pub certificate: Option<PathBuf>,
}

/// Starts the blog, says what to open, and serves until it is told to stop.
pub fn run(args: &Demo) -> Result<(), String> {
    let origin =
        origin::start().map_err(|error| format!("the demo's origin cannot start: {error}"))?;
    let text = config(args, origin);
    let policy = crate::config::compile("demo", &text)?;
    // Who can't be greeted can still be served.
    let _ = super::print(&greeting(args, origin));
    crate::server::run(policy, Start::Fresh, Source::default(), &text)
}

/// The whole configuration: everything left out is the default. The access log is off, so that the
/// greeting stays on the screen.
fn config(args: &Demo, origin: SocketAddr) -> String {
    let Demo { listen, admin, .. } = args;
    let tls = match &args.certificate {
        Some(folder) => {
            let folder = toml::Value::from(folder.to_string_lossy().into_owned());
            format!("certificates = [{folder}]\n")
        }
        None => String::new(),
    };
    format!(
        "[listen]\naddress = \"{listen}\"\n{tls}\n\
         [admin]\naddress = \"{admin}\"\n\n\
         [log]\naccess = \"off\"\n\n\
         [[upstream]]\nname = \"demo\"\nservers = [\"http://{origin}\"]\n"
    )
}

fn greeting(args: &Demo, origin: SocketAddr) -> String {
    // Who tries it with a certificate has most likely made it themselves: curl is told not to mind.
    let (scheme, curl) = match args.certificate {
        Some(_) => ("https", "curl -k "),
        None => ("http", "curl "),
    };
    let site = format!("{scheme}://{}", reachable(args.listen));
    let admin = reachable(args.admin);
    format!(
        "\n  Tidegate is in front of a small demo blog.\n\n  \
         Open     {site}/\n  \
         Try      {curl}-si {site}/posts/slack-water | grep -iE '^(HTTP|age|cache-status)'\n           \
         the same again: first a miss that is stored, then a hit with its Age\n  \
         Crowd    seq 50 | xargs -P 50 -I@ {curl}-s -o /dev/null -w '%{{time_total}}\\n' {site}/slow\n           \
         fifty visitors at once on a page that takes two seconds: one request for the blog\n  \
         Metrics  http://{admin}/metrics\n  \
         Origin   http://{origin}/ (the blog itself, without the proxy)\n\n  \
         Ctrl-C stops both.\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: &str) -> Demo {
        Demo {
            listen: listen.parse().expect("an address"),
            admin: SocketAddr::from(([127, 0, 0, 1], 9901)),
            certificate: None,
        }
    }

    #[test]
    fn the_configuration_is_good() {
        let text = config(
            &args("[::1]:8080"),
            SocketAddr::from(([127, 0, 0, 1], 4000)),
        );
        assert!(crate::config::compile("demo", &text).is_ok(), "{text}");
    }

    #[test]
    fn a_certificate_is_the_listeners() {
        let secure = Demo {
            certificate: Some("/a \"b\"".into()),
            ..args("127.0.0.1:8443")
        };
        let origin = SocketAddr::from(([127, 0, 0, 1], 4000));
        let text = config(&secure, origin);
        let table: toml::Table = text.parse().expect("TOML");
        assert_eq!(
            table["listen"]["certificates"][0].as_str(),
            Some("/a \"b\"")
        );
        let text = greeting(&secure, origin);
        assert!(
            text.contains("Open     https://127.0.0.1:8443/\n"),
            "{text}"
        );
        assert_eq!(text.matches("curl -k -").count(), 2, "{text}");
    }

    #[test]
    fn the_greeting_names_addresses_one_can_open() {
        let text = greeting(
            &args("0.0.0.0:81"),
            SocketAddr::from(([127, 0, 0, 1], 4000)),
        );
        assert!(text.contains("Open     http://127.0.0.1:81/\n"), "{text}");
        assert_eq!(text.matches("curl -").count(), 2, "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }
}

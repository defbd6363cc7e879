//! Lines of the config as they may be shown beside a mistake: without what is secret, or may be.
//!
//! A mistake may be that a secret stands where none belongs, so what nobody declared is hidden as well.

use super::options::{Opt, TABLES, Table};
use super::report::place;
use super::value::Kind;

/// Of the line at `offset` what may be shown. What stays keeps its column.
pub fn shown(text: &str, offset: usize) -> String {
    let (nth, _, line) = place(text, offset);
    let mut place = Place::default();
    for before in text.lines().take(nth - 1) {
        place.pass(before);
    }
    place.shown(line)
}

/// Whether some of it may not.
pub fn hides(text: &str, offset: usize) -> bool {
    shown(text, offset) != place(text, offset).2
}

/// Where in the file a line stands, as far as that can be told from the lines before it.
#[derive(Default)]
struct Place<'t> {
    table: Option<&'static Table>,
    /// The key whose value it may go on with.
    key: Option<&'t str>,
}

impl<'t> Place<'t> {
    fn pass(&mut self, line: &'t str) {
        if let Some(name) = header(line) {
            self.table = TABLES.iter().find(|table| table.name == name).copied();
            self.key = None;
        } else if let Some((key, _)) = first_key(line) {
            self.key = Some(key);
        }
    }

    fn shown(&self, line: &str) -> String {
        if header(line).is_some() || line.trim_start().starts_with('#') {
            return line.to_owned();
        }
        let (key, value) = match first_key(line) {
            Some((key, value)) => (Some(key), value),
            None => (self.key, line.len() - line.trim_start().len()),
        };
        let mut out = line[..value].to_owned();
        let mut rest = &line[value..];
        if !rest.trim().is_empty() && !key.is_some_and(|key| self.may_show(key)) {
            out += "***";
            return out;
        }
        let is_redis = self.table.is_some_and(|table| table.name == "redis");
        while let Some(at) = rest.find(['"', '\'']) {
            let (before, quoted) = rest.split_at(at);
            // Of a table within the line.
            if let Some(inner) = last_key(before)
                && !self.may_show(inner)
            {
                return out + before + "***";
            }
            let quote = &quoted[..1];
            let end = quoted[1..].find(quote).map_or(quoted.len(), |end| end + 1);
            let content = &quoted[1..end];
            out += before;
            out += quote;
            match is_redis || has_login(content) {
                true => out.extend(content.chars().map(|_| '*')),
                false => out += content,
            }
            out += quoted[end..].get(..1).unwrap_or_default();
            rest = quoted.get(end + 1..).unwrap_or_default();
        }
        out + rest
    }

    fn may_show(&self, key: &str) -> bool {
        let of_table = self.table.map_or(&[][..], |table| table.options);
        let option = of_table.iter().chain(of_table.iter().flat_map(inner));
        let mut its = option.filter(|option| option.name == key).peekable();
        its.peek().is_some() && its.all(|option| !is_secret(option.kind))
    }
}

/// Whether a key of a table is declared, and its value no secret.
pub fn may_show(table: &str, key: &str) -> bool {
    let place = Place {
        table: TABLES.iter().find(|one| one.name == table).copied(),
        key: None,
    };
    place.may_show(key)
}

/// The options of the tables that an option may hold.
fn inner(option: &'static Opt) -> &'static [Opt] {
    match option.kind {
        Kind::OrTable(_, options) => options,
        Kind::List(Kind::OrTable(_, options)) => options,
        _ => &[],
    }
}

fn is_secret(kind: Kind) -> bool {
    match kind {
        Kind::Secret { .. } => true,
        Kind::List(of) | Kind::OrTable(of, _) => is_secret(*of),
        _ => false,
    }
}

/// Whether a URL says who, and with what password.
pub fn has_login(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'))
}

/// The name in `[name]` or `[[name]]`.
fn header(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = line.strip_prefix("[[").or_else(|| line.strip_prefix('['))?;
    let (name, _) = rest.split_once(']')?;
    let name = name.trim();
    (!name.is_empty() && name.chars().all(is_bare)).then_some(name)
}

/// The key that a line begins with, and where its value does.
fn first_key(line: &str) -> Option<(&str, usize)> {
    let (before, value) = line.split_once('=')?;
    let key = before.trim().trim_matches(['"', '\'']);
    let is_key = !key.is_empty() && key.chars().all(is_bare);
    let blanks = value.len() - value.trim_start().len();
    is_key.then_some((key, before.len() + 1 + blanks))
}

/// The last key before a value within a line: `url` of `{ url = `.
fn last_key(before: &str) -> Option<&str> {
    let before = before.trim_end().strip_suffix('=')?.trim_end();
    let begin = before.rfind(|c| !is_bare(c)).map_or(0, |at| {
        at + before[at..].chars().next().map_or(1, char::len_utf8)
    });
    Some(&before[begin..])
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the last line of a text is shown.
    fn last(text: &str) -> String {
        shown(text, text.len())
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for (text, is) in [
            ("[redis]\npassword = 'hush'", "password = ***"),
            ("[redis]\npassword = hush", "password = ***"),
            ("[redis]\npassword = \"hush", "password = ***"),
            (
                "[redis]\n\"password\" = 'hush' # hush",
                "\"password\" = ***",
            ),
            ("[redis]\npassword=12345", "password=***"),
            ("[redis]\npassword = \"\"\"\nhush\"\"\"", "***"),
            ("[redis]\npasword = \"hush\"", "pasword = ***"),
            ("[reddis]\npassword = \"hush\"", "password = ***"),
            ("password = \"hush\"", "password = ***"),
            ("[redis]\n  'hush'", "  ***"),
            ("[[upstream]]\nsticky_key = 'hush'", "sticky_key = ***"),
            (
                "[redis]\nservers = ['redis://:hush@redis', 'x']",
                "servers = ['*******************', '*']",
            ),
            (
                "[redis]\nservers = [\n  'redis:hush@redis',",
                "  '****************',",
            ),
            ("[redis]\nusername = 'hush'", "username = '****'"),
            (
                "[[upstream]]\nservers = [{ address = 'http://me:hush@a' }]",
                "servers = [{ address = '****************' }]",
            ),
            (
                "[[upstream]]\nservers = [{ token = 'hush' }]",
                "servers = [{ token = ***",
            ),
        ] {
            assert_eq!(last(text), is, "{text}");
            assert!(hides(text, text.len()), "{text}");
        }
    }

    #[test]
    fn all_else_is_shown_as_it_is() {
        for text in [
            "[listen]",
            "[[route]]\npath = \"/a\" # a path",
            "[listen]\naddress = 'é', \"unclosed",
            "[[upstream]]\nservers = [\n  'http://a',  \"http://b\" ]",
            "[[upstream]]\nservers = [{ address = 'http://a', weight = 2 }]",
            "[redis]\n# password = ",
            "[redis]\nproxies = 0",
            "",
        ] {
            assert_eq!(last(text), text.lines().last().unwrap_or_default());
            assert!(!hides(text, text.len()), "{text}");
        }
    }
}

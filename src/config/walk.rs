//! One walk over the spanned table that collects every mistake instead of stopping at the first.
//!
//! Two kinds are found here: keys that nobody declared, and values that are not what their option takes. A wrong value
//! is told and its default stands in, so that the walk goes on.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::{all_headers, homes, meant, nearest};
use super::options::{Opt, TABLES, Table};
use super::report::{At, Mistake};
use super::syntax::{Hidden, is_header_list};
use super::value::{Bounds, Literal, Part, Value, Wrong};

/// A value with where it came from.
#[derive(Clone, Debug)]
pub struct Given<T> {
    pub value: T,
    pub at: At,
    /// Where each element of a list stands.
    pub elements: Vec<At>,
}

impl<T> Given<T> {
    pub fn new(value: T, at: At) -> Self {
        Given {
            value,
            at,
            elements: Vec::new(),
        }
    }

    /// Where an element of a list stands, or the list.
    pub fn element(&self, index: usize) -> &At {
        self.elements.get(index).unwrap_or(&self.at)
    }
}

/// The environment: a name to its value.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One table of the file, or its absence, about to be read.
pub struct Found<'t> {
    table: Option<&'t DeTable<'t>>,
    /// Its header, or the file's whole lack of one.
    pub at: At,
}

impl Found<'_> {
    /// A table that nobody wrote.
    pub fn nothing() -> Self {
        Found {
            table: None,
            at: At::Default,
        }
    }
}

/// The walk itself: the mistakes so far and what it needs to find more.
pub struct Walk<'t> {
    text: &'t str,
    hidden: Hidden,
    env: Env<'t>,
    mistakes: &'t mut Vec<Mistake>,
}

impl<'t> Walk<'t> {
    pub fn new(
        text: &'t str,
        hidden: Hidden,
        env: Env<'t>,
        mistakes: &'t mut Vec<Mistake>,
    ) -> Self {
        Walk {
            text,
            hidden,
            env,
            mistakes,
        }
    }

    /// Tells every top-level key that is no declared table.
    pub fn headers(&mut self, root: &DeTable<'_>) {
        for (key, value) in root {
            let name = key.get_ref().as_ref();
            if TABLES.iter().any(|table| table.name == name) {
                continue;
            }
            let shown = name.escape_debug();
            let (what, home) = match value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) => (format!("unknown table `{shown}`"), None),
                _ => {
                    let home = homes(name).into_iter().next();
                    (format!("`{shown}` stands outside any table"), home)
                }
            };
            let help = match (home, meant(name)) {
                (Some(home), _) => format!("put it below `{home}`"),
                (None, Some(header)) => format!("did you mean `{header}`?"),
                (None, None) => format!("the tables are {}", all_headers()),
            };
            let mistake = Mistake::new(&At::File(key.span()), what).help(help);
            self.tell(mistake);
        }
    }

    /// The one table of this name.
    pub fn one<'r>(&mut self, root: &'r DeTable<'r>, table: &Table) -> Found<'r> {
        match self.all(root, table).into_iter().next() {
            Some(found) => found,
            None => Found::nothing(),
        }
    }

    /// Every table of this name, in the order of the file, unknown keys told.
    pub fn all<'r>(&mut self, root: &'r DeTable<'r>, table: &Table) -> Vec<Found<'r>> {
        let Some(value) = root.get(table.name) else {
            return Vec::new();
        };
        let header = table.header();
        let mut founds = Vec::new();
        match value.get_ref() {
            DeValue::Table(found) => {
                if table.many {
                    self.shape(
                        value,
                        format!("[{}] can stand several times", table.name),
                        &header,
                    );
                }
                founds.push((found, value.span()));
            }
            DeValue::Array(array) if is_header_list(array) => {
                if !table.many {
                    self.shape(value, format!("{header} stands once"), &header);
                }
                for element in array.iter() {
                    match element.get_ref() {
                        DeValue::Table(found) => founds.push((found, element.span())),
                        _ => self.shape(
                            element,
                            format!("expected a table in `{}`", table.name),
                            &header,
                        ),
                    }
                }
            }
            _ => self.shape(value, format!("`{}` is a table", table.name), &header),
        }
        for (found, _) in &founds {
            self.unknown_keys(found, table);
        }
        founds
            .into_iter()
            .map(|(table, span)| Found {
                table: Some(table),
                at: At::File(span),
            })
            .collect()
    }

    /// The option's value: as written, or its default.
    pub fn value<T: Value>(&mut self, found: &Found<'_>, option: &Opt) -> Given<T> {
        let written = found.table.and_then(|table| table.get(option.name));
        let Some(written) = written else {
            return Given::new(option.default(), At::Default);
        };
        let given = self.literal(written).and_then(|literal| {
            T::read(&literal, option.bounds).map_err(|wrongs| {
                for wrong in wrongs {
                    self.tell(Mistake {
                        at: At::File(place_of(&wrong, written)),
                        what: format!("`{}`: {}", option.name, wrong.what),
                        help: wrong.help,
                    });
                }
            })
        });
        match given {
            Ok(value) => Given {
                value,
                at: At::File(written.span()),
                elements: match written.get_ref() {
                    DeValue::Array(array) => array.iter().map(|one| At::File(one.span())).collect(),
                    _ => Vec::new(),
                },
            },
            Err(()) => Given::new(option.default(), At::Told),
        }
    }

    /// What a flag gives to an option; none if it can't be read, which is told.
    pub fn flag<T: Value>(
        &mut self,
        flag: &'static str,
        text: &str,
        bounds: Option<Bounds>,
    ) -> Option<Given<T>> {
        let at = At::Flag(flag);
        let literal = Literal::Text {
            text: text.to_owned(),
            filled: true,
        };
        match T::read(&literal, bounds) {
            Ok(value) => Some(Given::new(value, at)),
            Err(wrongs) => {
                for wrong in wrongs {
                    let help = wrong.help.map(|help| help.replace('"', ""));
                    let what = wrong.what;
                    let at = at.clone();
                    self.tell(Mistake { at, what, help });
                }
                None
            }
        }
    }

    /// Collects a mistake, unless it stands where the parser itself was lost.
    pub fn tell(&mut self, mistake: Mistake) {
        if !self.hidden.covers(self.text, &mistake.at) {
            self.mistakes.push(mistake);
        }
    }

    fn shape(&mut self, value: &Spanned<DeValue<'_>>, what: String, header: &str) {
        let mistake = Mistake::new(&At::File(value.span()), what);
        self.tell(mistake.help(format!("write `{header}`")));
    }

    fn unknown_keys(&mut self, found: &DeTable<'_>, table: &Table) {
        for key in found.keys() {
            let name = key.get_ref().as_ref();
            if table.option(name).is_some() {
                continue;
            }
            let known = || table.options.iter().map(|option| option.name);
            let elsewhere = || {
                let all = TABLES.iter().flat_map(|table| table.options);
                nearest(name, all.map(|option| option.name))
            };
            let help = match (nearest(name, known()), elsewhere()) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, Some(other)) => {
                    let home = homes(other).join(" or ");
                    match other == name {
                        true => format!("`{other}` belongs to `{home}`"),
                        false => format!("did you mean `{other}` of `{home}`?"),
                    }
                }
                (None, None) => {
                    let known: Vec<_> = known().collect();
                    format!("{} has {}", table.header(), known.join(", "))
                }
            };
            let what = format!(
                "unknown key `{}` in `{}`",
                name.escape_debug(),
                table.header()
            );
            self.tell(Mistake::new(&At::File(key.span()), what).help(help));
        }
    }

    /// A value with `${…}` filled in. `Err`: a name is missing in the environment, and that has been told.
    fn literal(&mut self, value: &Spanned<DeValue<'_>>) -> Result<Literal, ()> {
        Ok(match value.get_ref() {
            DeValue::String(text) => match fill(text, self.env) {
                Ok((text, filled)) => Literal::Text { text, filled },
                Err(unfilled) => {
                    self.tell(unfilled.mistake(&At::File(value.span())));
                    return Err(());
                }
            },
            DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => Literal::Integer(n),
                Err(_) => Literal::Other("a number without measure"),
            },
            DeValue::Boolean(is) => Literal::Bool(*is),
            DeValue::Array(array) => {
                let all: Vec<_> = array.iter().map(|element| self.literal(element)).collect();
                Literal::List(all.into_iter().collect::<Result<_, _>>()?)
            }
            DeValue::Float(_) => Literal::Other("a fraction"),
            DeValue::Datetime(_) => Literal::Other("a date"),
            DeValue::Table(table) => {
                let entries = table.iter().map(|(key, value)| {
                    let key = key.get_ref().to_string();
                    self.literal(value).map(|literal| (key, literal))
                });
                let all: Vec<_> = entries.collect();
                Literal::Table(all.into_iter().collect::<Result<_, _>>()?)
            }
        })
    }
}

/// Where in what was written it stands.
fn place_of(wrong: &Wrong, written: &Spanned<DeValue<'_>>) -> Range<usize> {
    let element = match (wrong.element, written.get_ref()) {
        (Some(index), DeValue::Array(array)) => array.get(index),
        _ => None,
    };
    let place = element.unwrap_or(written);
    let (Some((name, part)), DeValue::Table(table)) = (&wrong.key, place.get_ref()) else {
        return place.span();
    };
    let entry = table.iter().find(|(key, _)| key.get_ref() == name);
    entry.map_or_else(
        || place.span(),
        |(key, value)| match part {
            Part::Key => key.span(),
            Part::Value => value.span(),
        },
    )
}

/// Why a text can't be filled from the environment.
enum Unfilled {
    Missing(String),
    Unclosed,
}

impl Unfilled {
    fn mistake(self, at: &At) -> Mistake {
        match self {
            Unfilled::Missing(name) => {
                let name = name.escape_debug();
                Mistake::new(at, format!("`{name}` is not in the environment")).help(format!(
                    "set it, or write `$${{{name}}}` for the text itself"
                ))
            }
            Unfilled::Unclosed => Mistake::new(at, "`${` without its `}`")
                .help("write `${NAME}`, or `$${` for the text itself"),
        }
    }
}

/// The text with each `${NAME}` replaced, and whether there was one; `$${` stands for `${`.
fn fill(text: &str, env: Env<'_>) -> Result<(String, bool), Unfilled> {
    let mut out = String::with_capacity(text.len());
    let mut filled = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out += before;
            out += "${";
            rest = &rest[at + 2..];
            continue;
        }
        out += &rest[..at];
        let (name, after) = rest[at + 2..].split_once('}').ok_or(Unfilled::Unclosed)?;
        out += &env(name).ok_or_else(|| Unfilled::Missing(name.to_owned()))?;
        filled = true;
        rest = after;
    }
    out += rest;
    Ok((out, filled))
}

//! How a value of the file becomes a value of ours, or a mistake that says what to write instead.
//!
//! A [`Word`] is one scalar, written as text; a [`Value`] is a word, a list of them, or one that may be left out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::hide;
use super::options::Opt;
use super::units::{self, NoQuantity};

/// What an option holds, for its reader, the comments of the default file and the JSON Schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Count,
    /// A number, or "auto".
    AutoOrCount,
    Duration,
    Size,
    Rate,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any other text: what it is, and the pattern that a JSON Schema can hold it to.
    Text {
        noun: &'static str,
        pattern: Option<&'static str>,
    },
    /// The same, but never shown.
    Secret {
        noun: &'static str,
        pattern: Option<&'static str>,
    },
    List(&'static Kind),
    /// A table of these, under names that nobody foresees.
    Map(&'static Kind),
    /// One of these, or a table of more to say about it.
    OrTable(&'static Kind, &'static [Opt]),
}

impl Kind {
    /// With its article, for "expected …" and "… is not …".
    pub fn noun(self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Count => "a whole number".to_owned(),
            Kind::AutoOrCount => "a whole number or `\"auto\"`".to_owned(),
            Kind::Duration => "a duration".to_owned(),
            Kind::Size => "a size".to_owned(),
            Kind::Rate => "a rate".to_owned(),
            Kind::Choice(words) => format!("one of {}", quoted(words, ", ")),
            Kind::Text { noun, .. } | Kind::Secret { noun, .. } => noun.to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a table".to_owned(),
            Kind::OrTable(kind, _) => kind.noun(),
        }
    }

    /// Whether TOML writes it with quotes.
    pub fn is_quoted(self) -> bool {
        match self {
            Kind::Bool | Kind::Count | Kind::List(_) | Kind::Map(_) => false,
            Kind::OrTable(kind, _) => kind.is_quoted(),
            _ => true,
        }
    }
}

/// The least and the most an option takes, as one would write them.
pub type Bounds = (&'static str, &'static str);

/// A value as the file has it, with `${…}` filled in.
#[derive(Clone, PartialEq, Debug)]
pub enum Literal {
    /// `filled`: some of it came from the environment, which knows texts only.
    Text {
        text: String,
        filled: bool,
    },
    Integer(i128),
    Bool(bool),
    List(Vec<Literal>),
    /// Each key once.
    Table(Vec<(String, Literal)>),
    /// Nothing was written and nothing is the default.
    Absent,
    /// Something that no option takes, named with its article.
    Other(&'static str),
}

/// Why a literal is not the value it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    pub what: String,
    pub help: Option<String>,
    /// Which element of a list.
    pub element: Option<usize>,
    /// Which key of a table, and of the key itself or of its value.
    pub key: Option<(String, Part)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Key,
    Value,
}

impl Wrong {
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Wrong {
            what: what.into(),
            help: Some(help.into()),
            element: None,
            key: None,
        }
    }

    /// The same about the value of a table's key.
    pub fn below(self, key: &str) -> Self {
        Wrong {
            what: format!("`{key}`: {}", self.what),
            key: Some((key.to_owned(), Part::Value)),
            ..self
        }
    }
}

/// What an option can hold.
pub trait Value: Sized {
    const KIND: Kind;
    /// Every reason why it can't be read, not the first only.
    fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>>;
}

/// A scalar. Whatever TOML writes it as, it is read from text, so that `${…}` and flags can give it as well.
pub trait Word: Sized {
    const WORD: Kind;
    fn parse(text: &str) -> Result<Self, Wrong>;
    /// What bounds are compared by.
    fn magnitude(&self) -> Option<u128> {
        None
    }
}

impl<W: Word> Value for W {
    const KIND: Kind = W::WORD;

    fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>> {
        let text = match (literal, W::WORD) {
            (Literal::Bool(is), Kind::Bool) => is.to_string(),
            (
                Literal::Integer(n),
                Kind::Count | Kind::AutoOrCount | Kind::Duration | Kind::Size | Kind::Rate,
            ) => n.to_string(),
            (Literal::Text { text, filled }, kind) if kind.is_quoted() || *filled => text.clone(),
            (other, kind) => return Err(vec![wrong_type(other, kind)]),
        };
        let word = W::parse(&text).map_err(|wrong| vec![wrong])?;
        match bounds.and_then(|bounds| beyond(&word, &text, bounds)) {
            Some(wrong) => Err(vec![wrong]),
            None => Ok(word),
        }
    }
}

impl<V: Value> Value for Vec<V> {
    const KIND: Kind = Kind::List(&V::KIND);

    fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>> {
        let elements = match literal {
            Literal::List(elements) => elements.as_slice(),
            Literal::Absent => &[],
            _ => return Err(vec![wrong_type(literal, Self::KIND)]),
        };
        let mut values = Vec::with_capacity(elements.len());
        let mut wrongs = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            match V::read(element, bounds) {
                Ok(value) => values.push(value),
                Err(all) => wrongs.extend(all.into_iter().map(|wrong| Wrong {
                    element: Some(index),
                    ..wrong
                })),
            }
        }
        if wrongs.is_empty() {
            Ok(values)
        } else {
            Err(wrongs)
        }
    }
}

/// An option without a default.
impl<V: Value> Value for Option<V> {
    const KIND: Kind = V::KIND;

    fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>> {
        match literal {
            Literal::Absent => Ok(None),
            literal => V::read(literal, bounds).map(Some),
        }
    }
}

impl Word for bool {
    const WORD: Kind = Kind::Bool;

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new(is_not(text, Self::WORD), "write `true` or `false`"))
    }
}

impl Word for usize {
    const WORD: Kind = Kind::Count;

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new(is_not(text, Self::WORD), "write digits only, as in `64`"))
    }

    fn magnitude(&self) -> Option<u128> {
        Some(*self as u128)
    }
}

impl Word for Duration {
    const WORD: Kind = Kind::Duration;

    fn parse(text: &str) -> Result<Self, Wrong> {
        units::duration(text).map_err(|no| {
            no_quantity(
                text,
                Self::WORD,
                no,
                "a number and a unit, as in `\"300ms\"`, `\"10s\"`, `\"5m\"`, `\"1h\"`, `\"1d\"`",
            )
        })
    }

    fn magnitude(&self) -> Option<u128> {
        Some(self.as_millis())
    }
}

/// Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl Word for Size {
    const WORD: Kind = Kind::Size;

    fn parse(text: &str) -> Result<Self, Wrong> {
        units::size(text).map(Size).map_err(|no| {
            no_quantity(
                text,
                Self::WORD,
                no,
                "a number and a unit, as in `\"64KiB\"`, `\"256MiB\"`, `\"1GiB\"`",
            )
        })
    }

    fn magnitude(&self) -> Option<u128> {
        Some(self.0.into())
    }
}

/// Bytes a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(pub u64);

impl Word for Rate {
    const WORD: Kind = Kind::Rate;

    fn parse(text: &str) -> Result<Self, Wrong> {
        units::rate(text).map(Rate).map_err(|no| {
            no_quantity(
                text,
                Self::WORD,
                no,
                "a size a second, as in `\"1KiB/s\"`; `0` is off",
            )
        })
    }

    fn magnitude(&self) -> Option<u128> {
        Some(self.0.into())
    }
}

impl Word for String {
    const WORD: Kind = Kind::Text {
        noun: "a text",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "" => Err(Wrong::new("an empty text", "leave the option out instead")),
            text => Ok(text.to_owned()),
        }
    }
}

impl Word for PathBuf {
    const WORD: Kind = Kind::Text {
        noun: "a file's path",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        String::parse(text).map(PathBuf::from)
    }
}

impl Word for SocketAddr {
    const WORD: Kind = Kind::Text {
        noun: "an address and port",
        pattern: None,
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            let help = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
                Ok(port) => format!("did you mean `\"127.0.0.1:{port}\"`?"),
                Err(_) => "an IP address and a port, as in `\"127.0.0.1:8080\"` or `\"[::]:80\"`"
                    .to_owned(),
            };
            Wrong::new(is_not(text, Self::WORD), help)
        })
    }
}

/// `"auto"`, or a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrAuto {
    Auto,
    Is(usize),
}

impl OrAuto {
    pub fn is(self) -> Option<usize> {
        match self {
            OrAuto::Auto => None,
            OrAuto::Is(number) => Some(number),
        }
    }
}

impl Word for OrAuto {
    const WORD: Kind = Kind::AutoOrCount;

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "auto" => Ok(OrAuto::Auto),
            text => text.parse().map(OrAuto::Is).map_err(|_| {
                let help = "write digits only, as in `64`, or `\"auto\"`";
                Wrong::new(is_not(text, Self::WORD), help)
            }),
        }
    }

    fn magnitude(&self) -> Option<u128> {
        self.is().map(|number| number as u128)
    }
}

/// `"off"`, or something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrOff<W> {
    Off,
    On(W),
}

impl<W> OrOff<W> {
    pub fn on(self) -> Option<W> {
        match self {
            OrOff::Off => None,
            OrOff::On(word) => Some(word),
        }
    }
}

impl<W: Word> Word for OrOff<W> {
    const WORD: Kind = W::WORD;

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "off" => Ok(OrOff::Off),
            text => W::parse(text).map(OrOff::On),
        }
    }
}

/// Implements [`Word`] for an enum whose variants have a word each.
macro_rules! choice {
    ($Type:ty: $($word:literal => $variant:expr),+ $(,)?) => {
        impl $crate::config::value::Word for $Type {
            const WORD: $crate::config::value::Kind = $crate::config::value::Kind::Choice(&[$($word),+]);

            fn parse(text: &str) -> Result<Self, $crate::config::value::Wrong> {
                match text {
                    $($word => Ok($variant),)+
                    _ => Err($crate::config::value::no_choice(text, &[$($word),+])),
                }
            }
        }
    };
}
pub(crate) use choice;

pub fn no_choice(text: &str, words: &'static [&'static str]) -> Wrong {
    let help = match super::nearest::nearest(text, words.iter().copied()) {
        Some(word) => format!("did you mean `\"{word}\"`?"),
        None => format!("write {}", quoted(words, " or ")),
    };
    Wrong::new(is_not(text, Kind::Choice(words)), help)
}

/// "`x` is not a duration".
pub fn is_not(text: &str, kind: Kind) -> String {
    match hide::has_login(text) {
        true => format!("this is not {}", kind.noun()),
        false => format!("`{}` is not {}", text.escape_debug(), kind.noun()),
    }
}

fn no_quantity(text: &str, kind: Kind, no: NoQuantity, otherwise: &str) -> Wrong {
    let help = match no.meant {
        Some(meant) => format!("did you mean `\"{meant}\"`?"),
        None => format!("write {otherwise}"),
    };
    Wrong::new(is_not(text, kind), help)
}

pub fn wrong_type(literal: &Literal, kind: Kind) -> Wrong {
    let found = match literal {
        Literal::Text { .. } => "a text",
        Literal::Integer(_) => "a number",
        Literal::Bool(_) => "true or false",
        Literal::List(_) => "a list",
        Literal::Table(_) => "a table",
        Literal::Absent => "nothing",
        Literal::Other(noun) => noun,
    };
    let help = match (literal, kind) {
        // It may have a password in it.
        (Literal::Text { text, .. }, Kind::List(_)) if text.contains('@') => {
            Some("put it in brackets".to_owned())
        }
        (Literal::Text { text, .. }, Kind::List(_)) => {
            Some(format!("put it in brackets: `[{text:?}]`"))
        }
        (Literal::Integer(_), Kind::Secret { .. }) => Some("put it in quotes".to_owned()),
        (Literal::Text { text, .. }, Kind::Bool | Kind::Count) => {
            Some(format!("write it without quotes: `{text}`"))
        }
        (Literal::Integer(n), _) if kind.is_quoted() => {
            Some(format!("put it in quotes: `\"{n}\"`"))
        }
        _ => None,
    };
    Wrong {
        what: format!("expected {}, found {found}", kind.noun()),
        help,
        element: None,
        key: None,
    }
}

fn beyond<W: Word>(word: &W, text: &str, (least, most): Bounds) -> Option<Wrong> {
    let size = word.magnitude()?;
    let bound = |text| W::parse(text).ok().and_then(|word| word.magnitude());
    let side = if size < bound(least)? {
        format!("less than {least}")
    } else if size > bound(most)? {
        format!("more than {most}")
    } else {
        return None;
    };
    Some(Wrong::new(
        format!("`{text}` is {side}"),
        format!("anything from {least} to {most} will do"),
    ))
}

fn quoted(words: &[&str], separator: &str) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Literal {
        Literal::Text {
            text: text.to_owned(),
            filled: false,
        }
    }

    fn first<V: Value + std::fmt::Debug>(
        literal: &Literal,
        bounds: Option<Bounds>,
    ) -> (String, String) {
        let wrong = V::read(literal, bounds).unwrap_err().remove(0);
        (wrong.what, wrong.help.unwrap_or_default())
    }

    #[test]
    fn a_number_is_a_size_but_no_duration() {
        assert_eq!(Size::read(&Literal::Integer(512), None), Ok(Size(512)));
        assert_eq!(
            Duration::read(&Literal::Integer(0), None),
            Ok(Duration::ZERO)
        );
        let (what, help) = first::<Duration>(&Literal::Integer(10), None);
        assert_eq!(what, "`10` is not a duration");
        assert_eq!(help, "did you mean `\"10s\"`?");
    }

    #[test]
    fn bounds_name_both_ends() {
        let bounds = Some(("100ms", "10m"));
        assert!(Duration::read(&text("100ms"), bounds).is_ok());
        let (what, help) = first::<Duration>(&text("1h"), bounds);
        assert_eq!(what, "`1h` is more than 10m");
        assert_eq!(help, "anything from 100ms to 10m will do");
    }

    #[test]
    fn a_quoted_number_is_a_count_only_from_the_environment() {
        let filled = Literal::Text {
            text: "4".to_owned(),
            filled: true,
        };
        assert_eq!(usize::read(&filled, None), Ok(4));
        let (what, help) = first::<usize>(&text("4"), None);
        assert_eq!(what, "expected a whole number, found a text");
        assert_eq!(help, "write it without quotes: `4`");
    }

    #[test]
    fn every_wrong_element_of_a_list_is_told() {
        let list = Literal::List(vec![text("1s"), text("x"), Literal::Bool(true)]);
        let wrongs = Vec::<Duration>::read(&list, None).unwrap_err();
        let elements: Vec<_> = wrongs.iter().map(|wrong| wrong.element).collect();
        assert_eq!(elements, [Some(1), Some(2)]);
    }

    #[test]
    fn a_port_alone_gets_an_address() {
        let (_, help) = first::<SocketAddr>(&text(":8080"), None);
        assert_eq!(help, "did you mean `\"127.0.0.1:8080\"`?");
    }
}

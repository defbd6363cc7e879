//! The typed tree of an expression, and what it says of a request.

use std::borrow::Cow;

use ipnet::IpNet;
use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::View;
use crate::rules::networks;

/// True or false.
#[derive(Clone, Debug)]
pub enum Test {
    Is(bool),
    All(Box<[Test]>),
    Any(Box<[Test]>),
    Not(Box<Test>),
    /// The first decides which of the others is asked.
    If(Box<[Test; 3]>),
    Alike(Box<[Test; 2]>),
    /// The client is in this list.
    Listed(u8),
    /// The client is in one of these.
    Within(Box<[IpNet]>),
    HasHeader(Box<str>),
    Equal(Text, Text),
    OneOf(Text, Box<[Box<[u8]>]>),
    StartsWith(Text, Text),
    EndsWith(Text, Text),
    Holds(Text, Text),
    Finds(Text, Box<Finder<'static>>),
    Matches(Text, Regex),
    Compare(Number, Order, Number),
    OneOfNumbers(Number, Box<[i64]>),
}

#[derive(Clone, Debug)]
pub enum Text {
    Literal(Box<[u8]>),
    Method,
    Scheme,
    Host,
    Path,
    Query,
    Country,
    /// Of this name, in lower case.
    Header(Box<str>),
}

#[derive(Clone, Debug)]
pub enum Number {
    Literal(i64),
    Asn,
    Size(Text),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Less,
    LessOrEqual,
    Equal,
    Unequal,
    GreaterOrEqual,
    Greater,
}

impl Test {
    pub fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Test::Is(is) => *is,
            Test::All(tests) => tests.iter().all(|test| test.holds(view)),
            Test::Any(tests) => tests.iter().any(|test| test.holds(view)),
            Test::Not(test) => !test.holds(view),
            Test::If(three) => {
                let [first, then, otherwise] = &**three;
                match first.holds(view) {
                    true => then.holds(view),
                    false => otherwise.holds(view),
                }
            }
            Test::Alike(two) => two[0].holds(view) == two[1].holds(view),
            Test::Listed(list) => view.lists & (1 << list) != 0,
            Test::Within(all) => all.iter().any(|net| networks::holds(net, view.client)),
            Test::HasHeader(name) => lines(view, name).next().is_some(),
            Test::Equal(one, other) => one.of(view) == other.of(view),
            Test::OneOf(text, all) => {
                let text = text.of(view);
                all.iter().any(|one| **one == *text)
            }
            Test::StartsWith(text, with) => text.of(view).starts_with(&with.of(view)),
            Test::EndsWith(text, with) => text.of(view).ends_with(&with.of(view)),
            Test::Holds(text, part) => {
                memchr::memmem::find(&text.of(view), &part.of(view)).is_some()
            }
            Test::Finds(text, part) => part.find(&text.of(view)).is_some(),
            Test::Matches(text, pattern) => pattern.is_match(&text.of(view)),
            Test::Compare(one, order, other) => order.holds(one.of(view), other.of(view)),
            Test::OneOfNumbers(number, all) => all.contains(&number.of(view)),
        }
    }
}

impl Text {
    /// It owns something only where a field has several lines.
    fn of<'a>(&'a self, view: &'a View<'_>) -> Cow<'a, [u8]> {
        Cow::Borrowed(match self {
            Text::Literal(text) => text,
            Text::Method => view.method.as_bytes(),
            Text::Scheme => view.scheme.as_bytes(),
            Text::Host => view.host.as_bytes(),
            Text::Path => view.path.as_bytes(),
            Text::Query => view.query.as_bytes(),
            Text::Country => match &view.whereabouts().country {
                Some(letters) => letters,
                None => b"",
            },
            Text::Header(name) => {
                let mut lines = lines(view, name);
                let first = lines.next().unwrap_or_default();
                let Some(second) = lines.next() else {
                    return Cow::Borrowed(first);
                };
                let mut joined = [first, b", ", second].concat();
                for more in lines {
                    joined.extend_from_slice(b", ");
                    joined.extend_from_slice(more);
                }
                return Cow::Owned(joined);
            }
        })
    }
}

fn lines<'a>(view: &'a View<'_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = move |line: &&httparse::Header<'a>| line.name.eq_ignore_ascii_case(name);
    view.lines.iter().filter(named).map(|line| line.value)
}

impl Number {
    fn of(&self, view: &View<'_>) -> i64 {
        match self {
            Number::Literal(number) => *number,
            Number::Asn => view.whereabouts().asn.into(),
            Number::Size(text) => i64::try_from(text.of(view).len()).unwrap_or(i64::MAX),
        }
    }
}

impl Order {
    fn holds(self, one: i64, other: i64) -> bool {
        match self {
            Order::Less => one < other,
            Order::LessOrEqual => one <= other,
            Order::Equal => one == other,
            Order::Unequal => one != other,
            Order::GreaterOrEqual => one >= other,
            Order::Greater => one > other,
        }
    }
}

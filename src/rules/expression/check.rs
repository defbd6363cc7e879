//! From the parser's tree to ours: what is known by its name, and whether each part is of the kind it has to be.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators};
use ipnet::IpNet;
use memchr::memmem::Finder;
use regex::bytes::RegexBuilder;

use super::tree::{Number, Order, Test, Text};
use super::{Flaw, Reads, word};
use crate::rules::fields::is_tchar;
use crate::rules::listing::network;

/// What a compiled pattern may take, in bytes; and the cache it is looked for with.
const PATTERN: usize = 256 * 1024;
/// How deep groups may stand in each other.
const NESTED: u32 = 32;

const NAMES: &str = "method, scheme, host, path, query, headers[\"…\"], client, country and asn";
const FUNCTIONS: &str =
    "startsWith, endsWith, contains and matches of a text, size(…) and listed(\"…\")";

pub struct Check<'a> {
    pub text: &'a str,
    pub lists: &'a [&'a str],
    pub places: &'a SourceInfo,
    pub reads: Reads,
}

/// A part of an expression, by its kind.
enum Part {
    Test(Test),
    Text(Text),
    Number(Number),
    Client,
    Headers,
}

impl Part {
    fn kind(&self) -> &'static str {
        match self {
            Part::Test(_) => "true or false",
            Part::Text(_) => "a text",
            Part::Number(_) => "a number",
            Part::Client => "an address",
            Part::Headers => "all headers",
        }
    }
}

type Checked<T> = Result<T, Flaw>;

impl Check<'_> {
    /// The whole expression.
    pub fn whole(&mut self, expr: &IdedExpr) -> Checked<Test> {
        self.test(expr)
    }

    fn flaw<T>(
        &self,
        expr: &IdedExpr,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Checked<T> {
        let start = self.places.offset_for(expr.id);
        let start = start.map_or(0, |(start, _)| start as usize);
        let help: String = help.into();
        Err(Flaw {
            at: word(self.text, start),
            what: what.into(),
            help: Some(help).filter(|help| !help.is_empty()),
        })
    }

    fn test(&mut self, expr: &IdedExpr) -> Checked<Test> {
        match self.part(expr)? {
            Part::Test(test) => Ok(test),
            other => {
                let what = format!("expected true or false, found {}", other.kind());
                self.flaw(expr, what, "compare it, as in `path == \"/login\"`")
            }
        }
    }

    fn text(&mut self, expr: &IdedExpr) -> Checked<Text> {
        match self.part(expr)? {
            Part::Text(text) => Ok(text),
            other => {
                let what = format!("expected a text, found {}", other.kind());
                self.flaw(expr, what, "")
            }
        }
    }

    fn part(&mut self, expr: &IdedExpr) -> Checked<Part> {
        match &expr.expr {
            Expr::Literal(LiteralValue::Boolean(is)) => Ok(Part::Test(Test::Is(*is.inner()))),
            Expr::Literal(LiteralValue::String(text)) => {
                Ok(Part::Text(Text::Literal(text.inner().as_bytes().into())))
            }
            Expr::Literal(LiteralValue::Int(number)) => {
                Ok(Part::Number(Number::Literal(*number.inner())))
            }
            Expr::Literal(_) => self.flaw(
                expr,
                "a value of a kind that is not known here",
                "texts, whole numbers, true and false are",
            ),
            Expr::Ident(name) => self.named(expr, name),
            Expr::Call(call) => self.call(expr, call),
            Expr::Select(select) => {
                let field = &select.field;
                let help = match (&select.operand.expr, select.test) {
                    (Expr::Ident(name), true) if name == "headers" => {
                        format!("write `\"{field}\" in headers`")
                    }
                    (Expr::Ident(name), false) if name == "headers" => {
                        format!("write `headers[\"{}\"]`", field.replace('_', "-"))
                    }
                    _ => format!("what is known is {NAMES}"),
                };
                self.flaw(expr, format!("`.{field}` is not known here"), help)
            }
            Expr::Comprehension(_) => self.flaw(
                expr,
                "macros that go through a list or map are not known here",
                "write out what is meant with `in`, `&&` and `||`",
            ),
            Expr::List(_) => self.flaw(expr, "a list alone", "write `… in [\"a\", \"b\"]`"),
            Expr::Map(_) | Expr::Struct(_) => self.flaw(expr, "maps are not known here", ""),
            Expr::Unspecified => self.flaw(expr, "not an expression", ""),
        }
    }

    fn named(&mut self, expr: &IdedExpr, name: &str) -> Checked<Part> {
        Ok(Part::Text(match name {
            "method" => Text::Method,
            "scheme" => Text::Scheme,
            "host" => Text::Host,
            "path" => Text::Path,
            "query" => Text::Query,
            "country" => {
                self.reads.country = true;
                Text::Country
            }
            "asn" => {
                self.reads.asn = true;
                return Ok(Part::Number(Number::Asn));
            }
            "client" => return Ok(Part::Client),
            "headers" => return Ok(Part::Headers),
            _ => {
                let what = format!("`{name}` is not known here");
                return self.flaw(expr, what, format!("what is known is {NAMES}"));
            }
        }))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Checked<Part> {
        let test = match (call.func_name.as_str(), &call.target, &call.args[..]) {
            (operators::LOGICAL_AND, None, [one, other]) => {
                let mut all = Vec::new();
                for side in [one, other] {
                    match self.test(side)? {
                        Test::All(tests) => all.extend(tests),
                        test => all.push(test),
                    }
                }
                Test::All(all.into())
            }
            (operators::LOGICAL_OR, None, [one, other]) => {
                let mut any = Vec::new();
                for side in [one, other] {
                    match self.test(side)? {
                        Test::Any(tests) => any.extend(tests),
                        test => any.push(test),
                    }
                }
                Test::Any(any.into())
            }
            (operators::LOGICAL_NOT, None, [one]) => Test::Not(Box::new(self.test(one)?)),
            (operators::CONDITIONAL, None, [first, then, otherwise]) => Test::If(Box::new([
                self.test(first)?,
                self.test(then)?,
                self.test(otherwise)?,
            ])),
            (operators::EQUALS, None, [one, other]) => {
                self.equal(expr, one, other, Order::Equal)?
            }
            (operators::NOT_EQUALS, None, [one, other]) => {
                self.equal(expr, one, other, Order::Unequal)?
            }
            (operators::LESS, None, [one, other]) => self.compare(expr, one, Order::Less, other)?,
            (operators::LESS_EQUALS, None, [one, other]) => {
                self.compare(expr, one, Order::LessOrEqual, other)?
            }
            (operators::GREATER, None, [one, other]) => {
                self.compare(expr, one, Order::Greater, other)?
            }
            (operators::GREATER_EQUALS, None, [one, other]) => {
                self.compare(expr, one, Order::GreaterOrEqual, other)?
            }
            (operators::IN, None, [one, all]) => self.one_of(one, all)?,
            (operators::INDEX, None, [map, key]) => return self.header(map, key),
            ("size", None, [text]) => {
                return Ok(Part::Number(Number::Size(self.text(text)?)));
            }
            ("size", Some(text), []) => {
                return Ok(Part::Number(Number::Size(self.text(text)?)));
            }
            ("listed", None, [name]) => self.listed(name)?,
            ("startsWith", Some(text), [with]) => {
                Test::StartsWith(self.text(text)?, self.text(with)?)
            }
            ("endsWith", Some(text), [with]) => Test::EndsWith(self.text(text)?, self.text(with)?),
            ("contains", Some(text), [part]) => {
                let text = self.text(text)?;
                match self.text(part)? {
                    Text::Literal(part) => {
                        Test::Finds(text, Box::new(Finder::new(&part).into_owned()))
                    }
                    part => Test::Holds(text, part),
                }
            }
            ("matches", Some(text), [pattern]) => self.matches(text, pattern)?,
            ("matches", None, [text, pattern]) => self.matches(text, pattern)?,
            (name, ..) => return self.unknown_call(expr, name),
        };
        Ok(Part::Test(test))
    }

    fn unknown_call<T>(&self, expr: &IdedExpr, name: &str) -> Checked<T> {
        let known = [
            "startsWith",
            "endsWith",
            "contains",
            "matches",
            "size",
            "listed",
        ];
        if known.contains(&name) {
            let what = format!("`{name}` is called in another way");
            return self.flaw(expr, what, format!("the functions are {FUNCTIONS}"));
        }
        match name.starts_with(|c: char| c.is_alphabetic()) {
            true => {
                let what = format!("the function `{name}` is not known here");
                self.flaw(expr, what, format!("the functions are {FUNCTIONS}"))
            }
            false => {
                let mark = name.trim_matches('_');
                let help = "the operators are &&, ||, !, ==, !=, <, <=, >, >=, in, and ? with :";
                self.flaw(expr, format!("`{mark}` is not known here"), help)
            }
        }
    }

    fn equal(
        &mut self,
        expr: &IdedExpr,
        one: &IdedExpr,
        other: &IdedExpr,
        order: Order,
    ) -> Checked<Test> {
        let test = match (self.part(one)?, self.part(other)?) {
            (Part::Text(one), Part::Text(other)) => Test::Equal(one, other),
            (Part::Number(one), Part::Number(other)) => {
                return Ok(Test::Compare(one, order, other));
            }
            (Part::Test(one), Part::Test(other)) => Test::Alike(Box::new([one, other])),
            (Part::Client, Part::Text(_)) => self.is_client(other)?,
            (Part::Text(_), Part::Client) => self.is_client(one)?,
            (one, other) => return self.unlike(expr, &one, &other),
        };
        Ok(match order {
            Order::Unequal => Test::Not(Box::new(test)),
            _ => test,
        })
    }

    fn unlike<T>(&self, expr: &IdedExpr, one: &Part, other: &Part) -> Checked<T> {
        let what = format!("{} can't be compared with {}", one.kind(), other.kind());
        self.flaw(expr, what, "compare texts with texts, numbers with numbers")
    }

    fn compare(
        &mut self,
        expr: &IdedExpr,
        one: &IdedExpr,
        order: Order,
        other: &IdedExpr,
    ) -> Checked<Test> {
        match (self.part(one)?, self.part(other)?) {
            (Part::Number(one), Part::Number(other)) => Ok(Test::Compare(one, order, other)),
            (one, other) if one.kind() == other.kind() => {
                let what = format!("{} has no order", one.kind());
                self.flaw(expr, what, "numbers have: `asn` and `size(…)`")
            }
            (one, other) => self.unlike(expr, &one, &other),
        }
    }

    /// One address, as a literal.
    fn is_client(&self, expr: &IdedExpr) -> Checked<Test> {
        let network = self.network(expr)?;
        if network.prefix_len() < network.max_prefix_len() {
            let what = format!("`{network}` is a network");
            let help = format!("write `client in [\"{network}\"]`");
            return self.flaw(expr, what, help);
        }
        Ok(Test::Within([network].into()))
    }

    fn network(&self, expr: &IdedExpr) -> Checked<IpNet> {
        let Some(text) = literal(expr) else {
            let what = "addresses are compared with addresses that are written out";
            return self.flaw(expr, what, "as in `client in [\"10.0.0.0/8\"]`");
        };
        match network(text) {
            Some(network) => Ok(network),
            None => {
                let what = format!(
                    "`{}` is neither an address nor a network",
                    text.escape_debug()
                );
                self.flaw(expr, what, "as in `\"192.0.2.1\"` or `\"2001:db8::/32\"`")
            }
        }
    }

    fn one_of(&mut self, one: &IdedExpr, all: &IdedExpr) -> Checked<Test> {
        if let Expr::List(list) = &all.expr {
            let elements = &list.elements;
            return match self.part(one)? {
                Part::Client => {
                    let networks = elements.iter().map(|element| self.network(element));
                    Ok(Test::Within(networks.collect::<Checked<_>>()?))
                }
                Part::Text(text) => {
                    let texts = elements.iter().map(|element| match literal(element) {
                        Some(text) => Ok(text.as_bytes().into()),
                        None => self.flaw(element, "expected a text in quotes", ""),
                    });
                    Ok(Test::OneOf(text, texts.collect::<Checked<_>>()?))
                }
                Part::Number(number) => {
                    let numbers = elements.iter().map(|element| match &element.expr {
                        Expr::Literal(LiteralValue::Int(number)) => Ok(*number.inner()),
                        _ => self.flaw(element, "expected a whole number", ""),
                    });
                    Ok(Test::OneOfNumbers(number, numbers.collect::<Checked<_>>()?))
                }
                other => {
                    let what = format!("{} is in no list", other.kind());
                    self.flaw(one, what, "texts, numbers and `client` may be")
                }
            };
        }
        match self.part(all)? {
            Part::Headers => Ok(Test::HasHeader(self.field_name(one)?)),
            _ => {
                let what = "what is behind `in` is a list that is written out, or `headers`";
                self.flaw(all, what, "as in `method in [\"GET\", \"HEAD\"]`")
            }
        }
    }

    fn header(&mut self, map: &IdedExpr, key: &IdedExpr) -> Checked<Part> {
        match self.part(map)? {
            Part::Headers => Ok(Part::Text(Text::Header(self.field_name(key)?))),
            other => {
                let what = format!("{} has no parts", other.kind());
                self.flaw(map, what, "`headers[\"…\"]` has")
            }
        }
    }

    /// A field's name in lower case.
    fn field_name(&self, expr: &IdedExpr) -> Checked<Box<str>> {
        match literal(expr) {
            Some(name) if !name.is_empty() && name.bytes().all(is_tchar) => {
                Ok(name.to_ascii_lowercase().into())
            }
            _ => self.flaw(
                expr,
                "expected a header's name in quotes",
                "as in `headers[\"user-agent\"]`",
            ),
        }
    }

    fn listed(&self, expr: &IdedExpr) -> Checked<Test> {
        let Some(name) = literal(expr) else {
            return self.flaw(expr, "expected a list's name in quotes", "");
        };
        if let Some(at) = self.lists.iter().position(|list| *list == name) {
            return Ok(Test::Listed(u8::try_from(at).unwrap_or(u8::MAX)));
        }
        let help = match self.lists {
            [] => "there is none; add a `[[list]]`".to_owned(),
            names => format!("the lists are {}", names.join(", ")),
        };
        let what = format!("no list is called `{}`", name.escape_debug());
        self.flaw(expr, what, help)
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr) -> Checked<Test> {
        let text = self.text(text)?;
        let Some(written) = literal(pattern) else {
            return self.flaw(pattern, "expected a pattern in quotes", "");
        };
        let compiled = RegexBuilder::new(written)
            .size_limit(PATTERN)
            .dfa_size_limit(PATTERN)
            .nest_limit(NESTED)
            .build();
        compiled
            .map(|regex| Test::Matches(text, regex))
            .or_else(|error| {
                let told = match error {
                    regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
                    error => {
                        let told = error.to_string();
                        let last = told.lines().last().unwrap_or_default();
                        last.strip_prefix("error: ").unwrap_or(last).to_owned()
                    }
                };
                self.flaw(pattern, format!("not a pattern: {told}"), "")
            })
    }
}

fn literal(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

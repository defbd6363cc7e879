//! The words of limits: rates, who counts as a client, what a request counts for.

use std::time::Duration;

use http::HeaderName;

use super::steering::is_token;
use super::units;
use super::value::{self, Bounds, Kind, Literal, Value, Word, Wrong, choice, is_not};
use crate::limits::spec::{self, Cost};
pub use crate::limits::spec::{Action, Counts, Key, Part, Tell};

/// So many requests every so often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frequency {
    pub count: u64,
    pub per: Duration,
}

/// The units that a rate has beside durations, and what people write for them.
const PERIODS: [(&str, u64, &[&str]); 4] = [
    ("s", 1, &["sec", "second", "seconds"]),
    ("min", 60, &["m", "mins", "minute", "minutes"]),
    ("h", 3_600, &["hr", "hour", "hours"]),
    ("d", 86_400, &["day", "days"]),
];

impl Word for Frequency {
    const WORD: Kind = Kind::Text {
        noun: "a rate of requests",
        pattern: Some(r"^[1-9][0-9]*/(s|min|h|d|([0-9]+(ms|[smhdw]))+)$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Wrong::new(is_not(text, Self::WORD), help);
        let like = || {
            wrong("a number and a period, as in `\"10/s\"`, `\"100/min\"`, `\"5/15m\"`".to_owned())
        };
        let (count, period) = text.split_once('/').ok_or_else(like)?;
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u64 = count.parse().ok().filter(|_| digits).ok_or_else(like)?;
        if count == 0 {
            let help = "to let nobody in is no limit's business; 1 is the least";
            return Err(wrong(help.to_owned()));
        }
        for (unit, seconds, meant) in PERIODS {
            if period == unit {
                let per = Duration::from_secs(seconds);
                return Ok(Frequency { count, per });
            }
            if meant.contains(&period) {
                return Err(wrong(format!("did you mean `\"{count}/{unit}\"`?")));
            }
        }
        match units::duration(period) {
            Ok(per) if !per.is_zero() => Ok(Frequency { count, per }),
            _ => Err(like()),
        }
    }
}

impl Word for Key {
    const WORD: Kind = Kind::Text {
        noun: "what tells clients apart",
        pattern: Some(
            r"^(ip|route|host|api_key|(header|cookie|jwt):[^+]+)(\+(ip|route|host|api_key|(header|cookie|jwt):[^+]+))*$",
        ),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |help: String| Wrong::new(is_not(text, Self::WORD), help);
        let part = |written: &str| {
            match written.split_once(':').unwrap_or((written, "")) {
            ("ip", "") => Ok(Part::Address),
            ("route", "") => Ok(Part::Route),
            ("host", "") => Ok(Part::Host),
            // A plus is what parts are joined by.
            ("header", name) => HeaderName::try_from(name)
                .map(Part::Header)
                .map_err(|_| wrong("a field's name, as in `\"header:X-Api-Key\"`".to_owned())),
            ("cookie", name) if is_token(name) => Ok(Part::Cookie(name.to_owned())),
            ("cookie", _) => Err(wrong(
                "a cookie's name, as in `\"cookie:session\"`".to_owned(),
            )),
            ("api_key", "") => Ok(Part::ApiKey),
            ("jwt", "") => Err(wrong(
                "a token's claim, as in `\"jwt:sub\"`".to_owned(),
            )),
            ("jwt", claim) => Ok(Part::Jwt(claim.to_owned())),
            ("address", "") => Err(wrong("did you mean `\"ip\"`?".to_owned())),
            _ => Err(wrong(
                "write `\"ip\"`, `\"route\"`, `\"host\"`, `\"header:NAME\"`, `\"cookie:NAME\"`, `\"api_key\"` or \
                 `\"jwt:CLAIM\"`, several with `+` between them"
                    .to_owned(),
            )),
        }
        };
        let mut parts = Vec::new();
        for written in text.split('+') {
            let part = part(written)?;
            if parts.contains(&part) {
                return Err(wrong(format!("`{written}` once will do")));
            }
            parts.push(part);
        }
        Ok(Key(parts))
    }
}

/// Rates, by the names of the tiers that have them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tiers(pub Vec<(String, Frequency)>);

/// The longest name of a tier.
const LONGEST_TIER: usize = 64;

impl Value for Tiers {
    const KIND: Kind = Kind::Map(&Frequency::WORD);

    fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>> {
        let Literal::Table(entries) = literal else {
            let help = "as in `{ signed_in = \"1000/min\" }`".to_owned();
            let wrong = value::wrong_type(literal, Self::KIND);
            return Err(vec![Wrong {
                help: Some(help),
                ..wrong
            }]);
        };
        if entries.is_empty() {
            let help = "as in `{ signed_in = \"1000/min\" }`, or leave it out";
            return Err(vec![Wrong::new("no tier in it", help)]);
        }
        let (mut rates, mut wrongs) = (Vec::new(), Vec::new());
        for (name, written) in entries {
            if name.is_empty() || name.len() > LONGEST_TIER || name.contains(char::is_whitespace) {
                let what = format!("`{}` is not a tier's name", name.escape_debug());
                let help = "as a token or the file of API keys has it: a word, as in `gold`";
                wrongs.push(Wrong {
                    key: Some((name.clone(), value::Part::Key)),
                    ..Wrong::new(what, help)
                });
                continue;
            }
            match Frequency::read(written, bounds) {
                Ok(rate) => rates.push((name.clone(), rate)),
                Err(all) => wrongs.extend(all.into_iter().map(|wrong| wrong.below(name))),
            }
        }
        match wrongs.is_empty() {
            true => Ok(Tiers(rates)),
            false => Err(wrongs),
        }
    }
}

/// What a request counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs(pub Cost);

impl Word for Costs {
    const WORD: Kind = Kind::Text {
        noun: "a cost",
        pattern: Some("^([1-9][0-9]{0,5}|1000000|origin_ms)$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let cost = match text {
            "origin_ms" => Some(Cost::OriginMillis),
            text => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|_| digits);
                number
                    .filter(|cost| (1..=1_000_000).contains(cost))
                    .map(Cost::Is)
            }
        };
        let help = "from `\"1\"` to `\"1000000\"`, or `\"origin_ms\"`";
        cost.map(Costs)
            .ok_or_else(|| Wrong::new(is_not(text, Self::WORD), help))
    }
}

/// A method, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MethodName(pub String);

impl Word for MethodName {
    const WORD: Kind = Kind::Text {
        noun: "a method",
        pattern: Some("^[A-Z][A-Z-]*$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        match !text.is_empty() && text.bytes().all(fits) {
            true => Ok(MethodName(text.to_owned())),
            false => Err(Wrong::new(
                is_not(text, Self::WORD),
                "a name in capitals, as in `\"POST\"`",
            )),
        }
    }
}

/// Limits for what is worth more than a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    Login,
    Search,
    Write,
}

/// What a preset says where nobody else does.
pub struct Said {
    pub rate: spec::Rate,
    pub methods: &'static [&'static str],
    pub penalty: Duration,
    pub counts: Counts,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Preset {
    pub fn says(self) -> Said {
        let unsafe_methods = &["POST", "PUT", "PATCH", "DELETE"];
        match self {
            Preset::Login => Said {
                rate: spec::Rate {
                    count: 5,
                    per: MINUTE,
                    burst: 5,
                },
                methods: &["POST"],
                penalty: 15 * MINUTE,
                counts: Counts::All,
            },
            Preset::Search => Said {
                rate: spec::Rate {
                    count: 30,
                    per: MINUTE,
                    burst: 10,
                },
                methods: &[],
                penalty: Duration::ZERO,
                counts: Counts::Origin,
            },
            Preset::Write => Said {
                rate: spec::Rate {
                    count: 20,
                    per: MINUTE,
                    burst: 10,
                },
                methods: unsafe_methods,
                penalty: MINUTE,
                counts: Counts::All,
            },
        }
    }
}

choice!(Preset:
    "login" => Preset::Login,
    "search" => Preset::Search,
    "write" => Preset::Write,
);

choice!(Counts:
    "all" => Counts::All,
    "origin" => Counts::Origin,
);

choice!(Action:
    "refuse" => Action::Refuse,
    "delay" => Action::Delay,
    "stale" => Action::Stale,
    "challenge" => Action::Challenge,
    "log" => Action::Log,
);

choice!(Tell:
    "always" => Tell::Always,
    "near" => Tell::Near,
    "refused" => Tell::Refused,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, count, seconds) in [
            ("10/s", 10, 1),
            ("100/min", 100, 60),
            ("1000/h", 1000, 3_600),
            ("1/d", 1, 86_400),
            ("5/15m", 5, 900),
            ("3/1h30m", 3, 5_400),
        ] {
            let per = Duration::from_secs(seconds);
            assert_eq!(
                Frequency::parse(text),
                Ok(Frequency { count, per }),
                "{text}"
            );
        }
        for (text, part) in [
            ("100/minute", "\"100/min\""),
            ("100/m", "\"100/min\""),
            ("7/hour", "\"7/h\""),
            ("0/s", "1 is the least"),
            ("100", "\"100/min\""),
            ("100/0s", "\"100/min\""),
            ("+1/s", "\"100/min\""),
            ("1.5/s", "\"100/min\""),
            ("/s", "\"100/min\""),
            ("10/10", "\"100/min\""),
            ("99999999999999999999/s", "\"100/min\""),
        ] {
            let help = Frequency::parse(text).unwrap_err().help.unwrap();
            assert!(help.contains(part), "{text}: {help}");
        }
    }

    #[test]
    fn who_a_client_is() {
        let key = HeaderName::from_static("x-api-key");
        for (text, parts) in [
            ("ip", vec![Part::Address]),
            ("ip+route", vec![Part::Address, Part::Route]),
            ("header:X-Api-Key+host", vec![Part::Header(key), Part::Host]),
            ("cookie:session", vec![Part::Cookie("session".to_owned())]),
            ("api_key+route", vec![Part::ApiKey, Part::Route]),
            ("jwt:sub", vec![Part::Jwt("sub".to_owned())]),
            (
                "jwt:https://a.example/org",
                vec![Part::Jwt("https://a.example/org".to_owned())],
            ),
        ] {
            assert_eq!(Key::parse(text), Ok(Key(parts)), "{text}");
        }
        for (text, part) in [
            ("", "`\"ip\"`"),
            ("address", "did you mean `\"ip\"`"),
            ("ip+", "`\"route\"`"),
            ("ip+ip", "once"),
            ("ip route", "`\"route\"`"),
            ("header:", "header:X-Api-Key"),
            ("cookie:a b", "cookie:session"),
            ("path", "`\"route\"`"),
            ("jwt", "jwt:sub"),
            ("jwt:", "jwt:sub"),
            ("api_key:x", "`\"api_key\"`"),
        ] {
            let help = Key::parse(text).unwrap_err().help.unwrap();
            assert!(help.contains(part), "{text}: {help}");
        }
    }

    #[test]
    fn rates_of_tiers() {
        let text = |text: &str| Literal::Text {
            text: text.to_owned(),
            filled: false,
        };
        let table = |entries: &[(&str, Literal)]| {
            let entries = entries.iter().cloned();
            Literal::Table(
                entries
                    .map(|(name, rate)| (name.to_owned(), rate))
                    .collect(),
            )
        };
        let read = |literal: &Literal| Tiers::read(literal, None);
        let rate = Frequency::parse("1000/min").unwrap();
        assert_eq!(
            read(&table(&[("gold", text("1000/min"))])),
            Ok(Tiers(vec![("gold".to_owned(), rate)]))
        );
        for (literal, what, help) in [
            (
                text("1000/min"),
                "expected a table, found a text",
                "signed_in =",
            ),
            (table(&[]), "no tier in it", "signed_in ="),
            (
                table(&[("a b", text("1/s"))]),
                "`a b` is not a tier's name",
                "`gold`",
            ),
            (
                table(&[("gold", text("1/minute"))]),
                "`gold`: `1/minute` is not a rate of requests",
                "\"1/min\"",
            ),
            (
                table(&[("gold", Literal::Integer(7))]),
                "`gold`: expected a rate of requests, found a number",
                "quotes",
            ),
        ] {
            let wrong = read(&literal).unwrap_err().remove(0);
            let told = wrong.help.unwrap();
            assert_eq!(wrong.what, what);
            assert!(told.contains(help), "{told}");
        }
    }

    #[test]
    fn costs_and_methods() {
        assert_eq!(Costs::parse("7"), Ok(Costs(Cost::Is(7))));
        assert_eq!(Costs::parse("origin_ms"), Ok(Costs(Cost::OriginMillis)));
        for text in ["0", "-1", "1000001", "ms", "+1", ""] {
            assert!(Costs::parse(text).is_err(), "{text}");
        }
        assert!(MethodName::parse("POST").is_ok());
        for text in ["post", "", "PO ST"] {
            assert!(MethodName::parse(text).is_err(), "{text}");
        }
    }
}

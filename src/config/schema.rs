//! The JSON Schema of the config file, for editors.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::options::{Opt, Shown, TABLES, Table, listed};
use super::render::{joined, prose};
use super::units::{DURATION_PATTERN, RATE_PATTERN, SIZE_PATTERN};
use super::value::Kind;

/// The text of `config/tidegate.schema.json`.
pub fn schema() -> String {
    let tables = TABLES.iter().map(|table| (table.name, self::table(table)));
    let root = Node::Object(vec![
        (
            "$schema",
            text("https://json-schema.org/draft/2020-12/schema"),
        ),
        ("title", text("Tidegate configuration")),
        ("type", text("object")),
        ("additionalProperties", Node::Bool(false)),
        ("properties", Node::Object(tables.collect())),
    ]);
    let mut out = serde_json::to_string_pretty(&root).unwrap_or_default();
    out.push('\n');
    out
}

fn table(table: &Table) -> Node {
    let mut object = object(table.options);
    let prose = text(joined(table.prose));
    match table.many {
        false => object.insert(0, ("description", prose)),
        true => {
            object = vec![
                ("description", prose),
                ("type", text("array")),
                ("items", Node::Object(object)),
            ];
        }
    }
    Node::Object(object)
}

/// Of these keys and no other.
fn object(options: &'static [Opt]) -> Vec<(&'static str, Node)> {
    let properties = options
        .iter()
        .map(|option| (option.name, self::option(option)));
    vec![
        ("type", text("object")),
        ("additionalProperties", Node::Bool(false)),
        ("properties", Node::Object(properties.collect())),
    ]
}

fn option(option: &Opt) -> Node {
    let mut object = vec![("description", text(prose(option)))];
    object.extend(kind(option.kind));
    if let (Kind::Count | Kind::AutoOrCount, Some((least, most))) = (option.kind, option.bounds) {
        object.push(("minimum", Node::Bare(least)));
        object.push(("maximum", Node::Bare(most)));
    }
    if let Shown::Default(default) = option.shown {
        let default = match (option.kind, default) {
            (Kind::List(_), list) => Node::List(listed(list).map(text).collect()),
            (Kind::Bool | Kind::Count, bare) => Node::Bare(bare),
            (_, quoted) => text(quoted),
        };
        object.push(("default", default));
    }
    Node::Object(object)
}

/// What a value looks like. Everything may be a text that `${NAME}` fills from the environment.
fn kind(kind: Kind) -> Vec<(&'static str, Node)> {
    match kind {
        Kind::Bool => filled(&["boolean", "string"], ""),
        Kind::Count => filled(&["integer", "string"], ""),
        Kind::AutoOrCount => filled(&["string", "integer"], "^auto$"),
        Kind::Duration => filled(&["string", "integer"], DURATION_PATTERN),
        Kind::Size => filled(&["string", "integer"], SIZE_PATTERN),
        Kind::Rate => filled(&["string", "integer"], RATE_PATTERN),
        Kind::Text { pattern, .. } | Kind::Secret { pattern, .. } => {
            filled(&["string"], pattern.unwrap_or("."))
        }
        Kind::Choice(words) => {
            let words = Node::List(words.iter().map(|word| text(*word)).collect());
            let either = [vec![("enum", words)], filled(&["string"], "")];
            vec![("anyOf", Node::List(either.map(Node::Object).into()))]
        }
        Kind::List(of) => vec![
            ("type", text("array")),
            ("items", Node::Object(self::kind(*of))),
        ],
        Kind::Map(of) => vec![
            ("type", text("object")),
            ("additionalProperties", Node::Object(self::kind(*of))),
        ],
        Kind::OrTable(alone, options) => {
            let mut table = object(options);
            let needed = options
                .iter()
                .filter(|option| matches!(option.shown, Shown::Example(_)));
            let needed = needed.map(|option| text(option.name));
            table.push(("required", Node::List(needed.collect())));
            let either = [self::kind(*alone), table].map(Node::Object);
            vec![("anyOf", Node::List(either.into()))]
        }
    }
}

fn filled(types: &[&'static str], pattern: &str) -> Vec<(&'static str, Node)> {
    let types = match types {
        [one] => text(*one),
        many => Node::List(many.iter().map(|one| text(*one)).collect()),
    };
    let pattern = match pattern {
        "" => r"\$\{".to_owned(),
        pattern => format!(r"{pattern}|\$\{{"),
    };
    vec![("type", types), ("pattern", text(pattern))]
}

/// JSON whose objects keep their order.
enum Node {
    Text(String),
    /// A number or a boolean as it is written.
    Bare(&'static str),
    Bool(bool),
    List(Vec<Node>),
    Object(Vec<(&'static str, Node)>),
}

fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Text(text) => serializer.serialize_str(text),
            Node::Bool(is) => serializer.serialize_bool(*is),
            Node::Bare(bare) => match (bare.parse::<u64>(), bare.parse::<bool>()) {
                (Ok(number), _) => serializer.serialize_u64(number),
                (_, Ok(is)) => serializer.serialize_bool(is),
                _ => serializer.serialize_str(bare),
            },
            Node::List(nodes) => serializer.collect_seq(nodes),
            Node::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

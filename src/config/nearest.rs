//! What was probably meant.

use super::options::TABLES;

/// What a table is called elsewhere.
const ELSEWHERE: [(&str, &str); 10] = [
    ("backend", "upstream"),
    ("origin", "upstream"),
    ("proxy", "upstream"),
    ("server", "upstream"),
    ("service", "upstream"),
    ("host", "route"),
    ("location", "route"),
    ("site", "route"),
    ("metrics", "admin"),
    ("data", "state"),
];

/// The header that a top-level name was most likely meant as.
pub fn meant(name: &str) -> Option<String> {
    let alias = |name: &str| {
        let stem = name.strip_suffix('s').unwrap_or(name);
        ELSEWHERE
            .iter()
            .find(|(alias, _)| *alias == stem)
            .map(|(_, table)| *table)
    };
    let near = nearest(name, TABLES.iter().map(|table| table.name)).or_else(|| alias(name))?;
    TABLES
        .iter()
        .find(|table| table.name == near)
        .map(|table| table.header())
}

/// The headers of the tables that have an option of this name.
pub fn homes(name: &str) -> Vec<String> {
    TABLES
        .iter()
        .filter(|table| table.option(name).is_some())
        .map(|table| table.header())
        .collect()
}

pub fn all_headers() -> String {
    let headers: Vec<_> = TABLES.iter().map(|table| table.header()).collect();
    headers.join(", ")
}

/// The known name that was most likely meant: few letters off, or one that the word is a part of.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let allowed = (word.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    let mut holding = None;
    for name in known {
        let off = strsim::osa_distance(&word, name);
        if off <= allowed && best.is_none_or(|(least, _)| off < least) {
            best = Some((off, name));
        }
        let is_part = word.len() > 2 && name.split('_').any(|part| part == word);
        if holding.is_none() && (is_part || (word.len() > 4 && name.contains(&word))) {
            holding = Some(name);
        }
    }
    best.map(|(_, name)| name).or(holding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_enough() {
        let known = [
            "address",
            "threads",
            "max_head",
            "max_fields",
            "default_ttl",
        ];
        for (word, near) in [
            ("adress", Some("address")),
            ("Thread", Some("threads")),
            ("max-head", Some("max_head")),
            ("maxhead", Some("max_head")),
            ("head", Some("max_head")),
            ("ttl", Some("default_ttl")),
            ("fields", Some("max_fields")),
            ("max", Some("max_head")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), near, "{word}");
        }
    }

    #[test]
    fn names_of_other_programs() {
        for (name, header) in [
            ("backends", Some("[[upstream]]")),
            ("server", Some("[[upstream]]")),
            ("location", Some("[[route]]")),
            ("lsiten", Some("[listen]")),
            ("nothing_like_it", None),
        ] {
            assert_eq!(meant(name).as_deref(), header, "{name}");
        }
    }
}

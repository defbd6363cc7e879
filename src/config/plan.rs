//! What another config would change, in words.

use toml::{Table, Value};

use super::hide;

/// The options that differ between two config texts, each as `route "blog": default_ttl "10s" -> "60s"`. What is secret is told
/// without its value. Texts that are no TOML differ in nothing: their mistakes say more.
pub fn changes(before: &str, after: &str) -> Vec<String> {
    let (Ok(before), Ok(after)) = (before.parse::<Table>(), after.parse::<Table>()) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for name in keys(&before, &after) {
        match (before.get(name), after.get(name)) {
            (Some(Value::Array(one)), Some(Value::Array(other))) => {
                several(name, one, other, &mut out);
            }
            (Some(Value::Array(one)), None) => several(name, one, &[], &mut out),
            (None, Some(Value::Array(other))) => several(name, &[], other, &mut out),
            (one, other) => {
                let empty = Table::new();
                let table = |value: Option<&Value>| match value {
                    Some(Value::Table(table)) => table.clone(),
                    _ => empty.clone(),
                };
                options(name, name, &table(one), &table(other), &mut out);
            }
        }
    }
    out
}

/// Tables of one name: those that are called the same are the same, and those that are called nothing by their order.
fn several(name: &str, before: &[Value], after: &[Value], out: &mut Vec<String>) {
    let tables = |values: &[Value]| -> Vec<(String, Table)> {
        let tables = values.iter().filter_map(Value::as_table).enumerate();
        tables
            .map(|(at, table)| (called(name, at, table), table.clone()))
            .collect()
    };
    let (before, after) = (tables(before), tables(after));
    let of = |all: &[(String, Table)], called: &str| {
        let mut all = all.iter();
        all.find(|(name, _)| name == called)
            .map(|(_, table)| table.clone())
    };
    for (called, table) in &before {
        match of(&after, called) {
            Some(other) => options(name, called, table, &other, out),
            None => out.push(format!("{called}: goes")),
        }
    }
    for (called, table) in &after {
        if of(&before, called).is_none() {
            out.push(format!("{called}: is new"));
            options(name, called, &Table::new(), table, out);
        }
    }
    let order = |all: &[(String, Table)], others: &[(String, Table)]| -> Vec<String> {
        let stays = |(called, _): &&(String, Table)| of(others, called).is_some();
        let all = all.iter().filter(stays);
        all.map(|(called, _)| called.clone()).collect()
    };
    if order(&before, &after) != order(&after, &before) {
        out.push(format!("[[{name}]]: they stand in another order"));
    }
}

fn called(name: &str, at: usize, table: &Table) -> String {
    match table.get("name").and_then(Value::as_str) {
        Some(own) => format!("{name} {own:?}"),
        None => format!("{name} {}", at + 1),
    }
}

fn options(table: &str, called: &str, before: &Table, after: &Table, out: &mut Vec<String>) {
    for key in keys(before, after) {
        let (one, other) = (before.get(key), after.get(key));
        if one == other || (key == "name" && one.is_none()) {
            continue;
        }
        if !hide::may_show(table, key) {
            out.push(format!("{called}: {key} is another"));
            continue;
        }
        let shown = |value: Option<&Value>| match value {
            Some(value) if hide::has_login(&value.to_string()) => "***".to_owned(),
            Some(value) => value.to_string(),
            None => "its default".to_owned(),
        };
        out.push(format!(
            "{called}: {key} {} -> {}",
            shown(one),
            shown(other)
        ));
    }
}

fn keys<'a>(one: &'a Table, other: &'a Table) -> Vec<&'a str> {
    let mut keys: Vec<_> = one.keys().chain(other.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_in_words() {
        let before = "
            [listen]
            address = '127.0.0.1:80'
            [redis]
            servers = ['redis://:hush@a']
            password = 'one'
            [[route]]
            name = 'blog'
            default_ttl = '10s'
            [[route]]
            name = 'shop'
            [[limit]]
            rate = '5/s'
        ";
        let after = "
            [listen]
            address = '127.0.0.1:80'
            max_body = '1MiB'
            [redis]
            servers = ['redis://:hush2@a']
            password = 'two'
            [[route]]
            name = 'shop'
            [[route]]
            name = 'blog'
            default_ttl = '60s'
            [[rule]]
            name = 'odd'
            when = 'true'
        ";
        let told = changes(before, after);
        assert_eq!(
            told,
            [
                "limit 1: goes",
                "listen: max_body its default -> \"1MiB\"",
                "redis: password is another",
                "redis: servers *** -> ***",
                "route \"blog\": default_ttl \"10s\" -> \"60s\"",
                "[[route]]: they stand in another order",
                "rule \"odd\": is new",
                "rule \"odd\": when its default -> \"true\"",
            ]
        );
        assert_eq!(changes(before, before), [""; 0]);
        assert_eq!(changes("[", before), [""; 0]);
    }
}

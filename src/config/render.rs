//! The default config file: every option with its prose, at its default.
//!
//! Options stand commented out, so that a copy of the file changes nothing by itself and new defaults reach old copies;
//! only what has to be written does not. Tables that there need not be are comments as a whole.

use super::options::{Opt, Shown, TABLES, Table};
use super::value::Kind;

const HEAD: &str = "\
# Tidegate's configuration: every option with its default.
# What is commented out shows the default, or an example where there is none; remove the `#` to change it.
# `tidegate check -c FILE` tells every mistake at once.
#
# Durations: \"300ms\", \"10s\", \"5m\", \"1h\", \"1d\". Sizes: \"64KiB\", \"256MiB\". ${NAME} takes a value from the environment.
";

/// Columns of a comment.
const WIDTH: usize = 100;

/// The text of `config/tidegate.toml`.
pub fn default_file() -> String {
    TABLES.iter().fold(HEAD.to_owned(), |mut out, table| {
        out.push('\n');
        self::table(table, &mut out);
        out
    })
}

fn table(table: &Table, out: &mut String) {
    comment(&joined(table.prose), out);
    let off = if table.optional { "#" } else { "" };
    *out += &format!("{off}{}\n", table.header());
    for option in table.options {
        out.push('\n');
        comment(&prose(option), out);
        if let Kind::List(Kind::OrTable(_, keys)) = option.kind {
            for key in *keys {
                let default = match key.shown {
                    Shown::Default(default) => format!(" (else {default})"),
                    Shown::Unset(_) | Shown::Example(_) => String::new(),
                };
                comment(&format!("- `{}`{default}: {}", key.name, prose(key)), out);
            }
        }
        let off = match option.shown {
            Shown::Example(_) if !table.optional => "",
            _ => "#",
        };
        let example = match option.shown {
            Shown::Unset(_) => "  # an example; not set",
            Shown::Default(_) | Shown::Example(_) => "",
        };
        *out += &format!("{off}{} = {}{example}\n", option.name, option.toml());
    }
}

/// What an option means and what it takes.
pub fn prose(option: &Opt) -> String {
    let mut prose = joined(option.prose);
    if let Kind::Choice(words) = option.kind {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        prose += &format!(" One of {}.", words.join(", "));
    }
    if let Some((least, most)) = option.bounds {
        prose += &format!(" From {least} to {most}.");
    }
    prose
}

/// Doc lines as one line of text.
pub fn joined(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

fn comment(text: &str, out: &mut String) {
    let mut column = 0;
    for word in text.split(' ') {
        let wide = word.chars().count() + 1;
        if column > 1 && column + wide > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push('#');
            column = 1;
        }
        out.push(' ');
        *out += word;
        column += wide;
    }
    out.push('\n');
}

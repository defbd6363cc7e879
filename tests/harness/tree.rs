//! A script as an outline: lines, and the deeper-indented lines below each. Comments (`#`) and blank lines carry nothing.
//! `table` rows and counted `clients` are written out here, so that what follows sees plain sections only.

use std::collections::BTreeMap;

use super::Fault;

/// One line and what stands below it.
#[derive(Clone, Debug)]
pub struct Node {
    pub line: usize,
    pub text: String,
    pub below: Vec<Node>,
}

impl Node {
    pub fn fault(&self, why: impl Into<String>) -> Fault {
        Fault::at(self.line, format!("{} (in: {})", why.into(), self.text))
    }

    /// The first word, and the rest without the spaces around it.
    pub fn split(&self) -> (&str, &str) {
        match self.text.split_once(char::is_whitespace) {
            Some((word, rest)) => (word, rest.trim()),
            None => (&self.text, ""),
        }
    }

    /// This line and all below it as text again (TOML does not mind the lost indentation).
    pub fn flatten(nodes: &[Node], out: &mut String) {
        for node in nodes {
            out.push_str(&node.text);
            out.push('\n');
            Node::flatten(&node.below, out);
        }
    }
}

/// Reads an outline and writes out its repetitions.
pub fn read(text: &str) -> Result<Vec<Node>, Fault> {
    let mut roots = outline(text)?;
    let mut tables = BTreeMap::new();
    for node in &roots {
        if let ("table", name) = node.split() {
            let rows = node
                .below
                .iter()
                .map(|row| row.text.clone())
                .collect::<Vec<_>>();
            if rows.is_empty() {
                return Err(node.fault("a table without rows"));
            }
            tables.insert(name.to_owned(), rows);
        }
    }
    roots.retain(|node| node.split().0 != "table");
    let mut written = Vec::new();
    for node in roots {
        if node.split().0 == "clients" {
            written.extend(crowd(&node)?);
        } else {
            written.push(node);
        }
    }
    expand(written, &tables)
}

fn outline(text: &str) -> Result<Vec<Node>, Fault> {
    // Open nodes from the outermost in, each with its indentation.
    let mut open: Vec<(usize, Node)> = Vec::new();
    let mut roots = Vec::new();
    fn shut(open: &mut Vec<(usize, Node)>, roots: &mut Vec<Node>, depth: usize) {
        while open.last().is_some_and(|(at, _)| *at >= depth) {
            if let Some((_, node)) = open.pop() {
                match open.last_mut() {
                    Some((_, parent)) => parent.below.push(node),
                    None => roots.push(node),
                }
            }
        }
    }
    for (index, raw) in text.lines().enumerate() {
        let body = raw.trim_start_matches(' ');
        if body.trim().is_empty() || body.starts_with('#') {
            continue;
        }
        if body.starts_with('\t') {
            return Err(Fault::at(index + 1, "indent with spaces"));
        }
        let depth = raw.len() - body.len();
        shut(&mut open, &mut roots, depth);
        if open.is_empty() && depth > 0 {
            return Err(Fault::at(
                index + 1,
                "indented, but nothing stands above it",
            ));
        }
        let node = Node {
            line: index + 1,
            text: body.trim_end().to_owned(),
            below: Vec::new(),
        };
        open.push((depth, node));
    }
    shut(&mut open, &mut roots, 0);
    Ok(roots)
}

/// `clients 50 crowd` → `client crowd-1` … `client crowd-50`, with `{i}` put in.
fn crowd(node: &Node) -> Result<Vec<Node>, Fault> {
    let (_, rest) = node.split();
    let (count, name) = rest
        .split_once(' ')
        .ok_or_else(|| node.fault("clients COUNT NAME"))?;
    let count: usize = count
        .parse()
        .map_err(|_| node.fault("clients COUNT NAME"))?;
    Ok((1..=count)
        .map(|i| {
            let mut copy = node.clone();
            copy.text = format!("client {name}-{i}");
            substitute(&mut copy, "{i}", &i.to_string());
            copy
        })
        .collect())
}

/// `each TABLE` → its block once per row, with `{TABLE}` the row, `{TABLE.1}` its first column (columns stand between
/// ` | `) and `{n}` the row's number; `repeat N` → its block N times with `{n}`.
fn expand(nodes: Vec<Node>, tables: &BTreeMap<String, Vec<String>>) -> Result<Vec<Node>, Fault> {
    let mut out = Vec::new();
    for mut node in nodes {
        let (word, rest) = node.split();
        let rows = match word {
            "each" => match tables.get(rest) {
                Some(rows) => rows.clone(),
                None => return Err(node.fault("no such table")),
            },
            "repeat" => {
                let times: usize = rest.parse().map_err(|_| node.fault("repeat COUNT"))?;
                vec![String::new(); times]
            }
            _ => {
                // Raw text of a config is nobody's steps.
                if word != "config" {
                    node.below = expand(node.below, tables)?;
                }
                out.push(node);
                continue;
            }
        };
        for (index, row) in rows.iter().enumerate() {
            let mut block = node.below.clone();
            for step in &mut block {
                if word == "each" {
                    for (column, cell) in row.split(" | ").enumerate() {
                        substitute(step, &format!("{{{rest}.{}}}", column + 1), cell.trim());
                    }
                    substitute(step, &format!("{{{rest}}}"), row);
                }
                substitute(step, "{n}", &(index + 1).to_string());
            }
            out.extend(expand(block, tables)?);
        }
    }
    Ok(out)
}

fn substitute(node: &mut Node, hole: &str, value: &str) {
    if node.text.contains(hole) {
        node.text = node.text.replace(hole, value);
    }
    for below in &mut node.below {
        substitute(below, hole, value);
    }
}

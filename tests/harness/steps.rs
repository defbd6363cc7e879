//! The steps of clients and origins, and the checks below them.

use super::Fault;
use super::script::{Act, Check, Expect, Message, Request, Respond, Rest, Seen, Step, door};
use super::text::{Expr, duration, quoted, regex, size};
use super::tree::Node;

pub fn steps_of(nodes: &[Node]) -> Result<Vec<Step>, Fault> {
    nodes
        .iter()
        .map(|node| Ok(Step::of(node, act(node)?)))
        .collect()
}

fn act(node: &Node) -> Result<Act, Fault> {
    let (word, rest) = node.split();
    let told = |why: String| node.fault(why);
    let expr = || Expr::parse(rest).map_err(told);
    let time = || duration(rest).map_err(told);
    Ok(match word {
        "connect" => {
            let (admin, rest) = match rest.strip_prefix("admin") {
                Some(rest) => (true, rest.trim()),
                None => (false, rest),
            };
            let window = rest
                .strip_prefix("window ")
                .map(size)
                .transpose()
                .map_err(told)?;
            Act::Connect { admin, window }
        }
        "get" => request(node, &format!("GET {rest}"))?,
        "head" => request(node, &format!("HEAD {rest}"))?,
        "request" => request(node, rest)?,
        "respond" => respond(node, rest, &node.below)?,
        "send" if rest.is_empty() => {
            Act::SendHead(node.below.iter().map(|line| line.text.clone()).collect())
        }
        "send" => Act::Send(expr()?),
        "flood" => Act::Flood(expr()?),
        "chunk" => Act::Chunk(expr()?),
        "last-chunk" => Act::LastChunk,
        "close" => Act::Close,
        "reset" => Act::Reset,
        "shutdown" => Act::Shutdown,
        "expect" => return expect(node, rest),
        "raw" => Act::Raw(expr()?),
        "silence" => Act::Silence(time()?),
        "more" => Act::More(expr()?),
        "rest" => Act::Rest(match rest {
            "broken" => Rest::Broken,
            "reset" => Rest::Reset,
            _ => Rest::Is(expr()?),
        }),
        "sync" => Act::Sync(rest.to_owned()),
        "signal" => Act::Signal(rest.to_owned()),
        "wait" => Act::Wait(rest.to_owned()),
        "pause" => Act::Pause(time()?),
        "hang" => Act::Hang,
        "drain" => Act::Drain,
        "advance" => Act::Advance(time()?),
        "refuse" | "allow" => byte_table(node, rest, word == "refuse")?,
        "origin" => seen(node, rest)?,
        "metric" => metric(node, rest)?,
        "log" => {
            let count = match rest {
                "" => None,
                _ => Some(rest.parse().map_err(|_| node.fault("log [COUNT]"))?),
            };
            Act::Log {
                count,
                checks: named(&node.below)?,
            }
        }
        "memory" => {
            let most = rest
                .strip_prefix("<= ")
                .ok_or_else(|| node.fault("memory <= SIZE"))?;
            Act::Memory {
                most: size(most).map_err(told)?,
            }
        }
        "series" => Act::Series(rest.to_owned()),
        "eventually" if rest.is_empty() => Act::Eventually(steps_of(&node.below)?),
        "eventually" => {
            let inner = Node {
                line: node.line,
                text: rest.to_owned(),
                below: node.below.clone(),
            };
            Act::Eventually(vec![Step::of(&inner, act(&inner)?)])
        }
        "exit" => Act::Exit(rest.parse().map_err(|_| node.fault("exit CODE"))?),
        "stdout" | "stderr" | "output" => {
            let (negated, like) = match (rest.strip_prefix("~ "), rest.strip_prefix("!~ ")) {
                (Some(like), _) => (false, like),
                (_, Some(like)) => (true, like),
                _ => return Err(node.fault("stdout ~ REGEX")),
            };
            regex(like).map_err(told)?;
            Act::Output {
                stream: word.to_owned(),
                like: like.to_owned(),
                negated,
            }
        }
        _ => return Err(node.fault("no such step")),
    })
}

fn request(node: &Node, rest: &str) -> Result<Act, Fault> {
    let words: Vec<_> = rest.split_whitespace().collect();
    let (method, target, version) = match words[..] {
        [method, target] => (method, target, "HTTP/1.1"),
        [method, target, version] => (method, target, version),
        _ => return Err(node.fault("METHOD TARGET [VERSION]")),
    };
    Ok(Act::Request(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        version: version.to_owned(),
        message: message(&node.below)?,
    }))
}

pub fn respond(node: &Node, rest: &str, below: &[Node]) -> Result<Act, Fault> {
    let (status, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = status
        .parse()
        .map_err(|_| node.fault("respond STATUS [head] [REASON]"))?;
    let (head, reason) = match rest.strip_prefix("head") {
        Some(reason) => (true, reason.trim()),
        None => (false, rest),
    };
    let reason = if reason.is_empty() { "Told" } else { reason };
    Ok(Act::Respond(Respond {
        status,
        reason: reason.to_owned(),
        head,
        message: message(below)?,
    }))
}

fn message(nodes: &[Node]) -> Result<Message, Fault> {
    let mut message = Message::default();
    for node in nodes {
        let (word, rest) = node.split();
        let expr = |text: &str| Expr::parse(text).map_err(|why| node.fault(why));
        match word {
            "body" => message.body = Some(expr(rest)?),
            "chunks" => message.chunks = Some(expr(rest)?.pieces()),
            "until" if rest == "close" => message.until_close = true,
            "no" => message.without.push(rest.to_owned()),
            _ => message.fields.push(field(node)?),
        }
    }
    Ok(message)
}

fn field(node: &Node) -> Result<(String, String), Fault> {
    let (name, value) = node
        .text
        .split_once(':')
        .ok_or_else(|| node.fault("Name: value"))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn named(nodes: &[Node]) -> Result<Vec<(String, String)>, Fault> {
    nodes.iter().map(field).collect()
}

/// `expect close`, `expect reset`, `expect 200|204 [head] [within 1s]` of an answer; `expect [METHOD] [/target]` of a
/// request.
fn expect(node: &Node, rest: &str) -> Result<Act, Fault> {
    match rest {
        "broken" => return Ok(Act::ExpectBroken),
        "close" => return Ok(Act::ExpectEnd { reset: false }),
        "reset" => return Ok(Act::ExpectEnd { reset: true }),
        _ => {}
    }
    let checks = checks(&node.below)?;
    if !rest.starts_with(|c: char| c.is_ascii_digit()) {
        let mut words: Vec<_> = rest.split_whitespace().map(str::to_owned).collect();
        let target = words.pop_if(|word| word.starts_with('/') || *word == "*");
        let method = words.pop();
        return Ok(Act::Asked {
            method,
            target,
            checks,
        });
    }
    let mut words = rest.split_whitespace();
    let statuses = statuses(node, words.next().unwrap_or_default())?;
    let mut expect = Expect {
        statuses,
        head: false,
        last: false,
        within: None,
        checks,
    };
    while let Some(word) = words.next() {
        match word {
            "head" => expect.head = true,
            "final" => expect.last = true,
            "within" => {
                let time = words.next().unwrap_or_default();
                expect.within = Some(duration(time).map_err(|why| node.fault(why))?);
            }
            _ => return Err(node.fault(format!("what is {word}?"))),
        }
    }
    Ok(Act::Expect(expect))
}

fn statuses(node: &Node, text: &str) -> Result<Vec<u16>, Fault> {
    text.split('|')
        .map(|status| status.parse().map_err(|_| node.fault("STATUS|STATUS…")))
        .collect()
}

fn checks(nodes: &[Node]) -> Result<Vec<Check>, Fault> {
    let mut checks: Vec<Check> = Vec::new();
    for node in nodes {
        let (word, rest) = node.split();
        let told = |why: String| node.fault(why);
        if let Some((name, like)) = node.text.split_once(" ~ ") {
            regex(like).map_err(told)?;
            checks.push(match name {
                "body" => Check::BodyLike(like.to_owned()),
                _ => Check::Like(name.to_owned(), like.to_owned()),
            });
            continue;
        }
        match word {
            "no" => checks.push(Check::Absent(rest.to_owned())),
            "body" => checks.push(Check::Body(Expr::parse(rest).map_err(told)?)),
            "framing" => checks.push(Check::Framing(rest.to_owned())),
            "cache" => checks.push(Check::Cache(rest.to_owned())),
            _ => {
                let (name, pattern) = field(node)?;
                let same = checks.iter_mut().find_map(|check| match check {
                    Check::Field(held, patterns) if held.eq_ignore_ascii_case(&name) => {
                        Some(patterns)
                    }
                    _ => None,
                });
                match same {
                    Some(patterns) => patterns.push(pattern),
                    None => checks.push(Check::Field(name, vec![pattern])),
                }
            }
        }
    }
    Ok(checks)
}

/// `refuse 400 ["template {}"]`: each line of the block on a connection of its own; `refuse` also wants the close.
fn byte_table(node: &Node, rest: &str, closes: bool) -> Result<Act, Fault> {
    let (codes, template) = rest.split_once(' ').unwrap_or((rest, ""));
    let template = match template {
        "" => "{}",
        _ => quoted(template).map_err(|why| node.fault(why))?.0,
    };
    let rows = node.below.iter().map(|row| {
        let row = quoted(&row.text).map_or(row.text.as_str(), |(text, _)| text);
        template.replace("{}", row)
    });
    let rows: Vec<_> = rows.collect();
    let rows = if rows.is_empty() {
        vec![template.to_owned()]
    } else {
        rows
    };
    Ok(Act::Table {
        statuses: statuses(node, codes)?,
        closes,
        rows,
    })
}

/// `origin [NAME] saw [OP] N requests|connections|at-once [METHOD] [/target]`, `origin [NAME] up|down|deaf`.
fn seen(node: &Node, rest: &str) -> Result<Act, Fault> {
    let mut words: Vec<_> = rest.split_whitespace().collect();
    let mut origin = None;
    if let Some(first) = words.first()
        && *first != "saw"
        && door(first).is_none()
    {
        origin = Some(words.remove(0).to_owned());
    }
    if let [word] = words[..]
        && let Some(door) = door(word)
    {
        return Ok(Act::Open { origin, door });
    }
    const USAGE: &str = "origin [NAME] saw [OP] N requests|connections|at-once [METHOD] [/target]";
    if words.first() != Some(&"saw") || words.len() < 3 {
        return Err(node.fault(USAGE));
    }
    words.remove(0);
    let op = if words[0].starts_with(['<', '>', '=']) {
        words.remove(0)
    } else {
        "=="
    };
    let count = words
        .first()
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| node.fault(USAGE))?;
    let what = match words.get(1) {
        Some(&("requests" | "request")) => Seen::Requests,
        Some(&("connections" | "connection")) => Seen::Connections,
        Some(&"at-once") => Seen::Peak,
        _ => return Err(node.fault(USAGE)),
    };
    let mut words: Vec<_> = words.drain(2..).map(str::to_owned).collect();
    let target = words.pop_if(|word| word.starts_with('/'));
    Ok(Act::Saw {
        origin,
        op: op.to_owned(),
        count,
        what,
        method: words.pop(),
        target,
    })
}

/// `metric NAME{label="value",…} OP N`: the sum of all samples that carry these labels.
fn metric(node: &Node, rest: &str) -> Result<Act, Fault> {
    let usage = || node.fault("metric NAME{label=\"value\"} OP N");
    let (sample, tail) = match rest.find('}') {
        Some(end) => rest.split_at(end + 1),
        None => rest.split_once(' ').ok_or_else(usage)?,
    };
    let (op, value) = tail.trim().split_once(' ').ok_or_else(usage)?;
    let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (name, value) = label.split_once('=').ok_or_else(usage)?;
            Ok((name.to_owned(), value.trim_matches('"').to_owned()))
        });
    Ok(Act::Metric {
        name: name.to_owned(),
        labels: labels.collect::<Result<_, Fault>>()?,
        op: op.to_owned(),
        value: value.parse().map_err(|_| usage())?,
    })
}

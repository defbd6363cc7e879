//! Lines over time, each told from the others by colour, dashes and the shape of its points.

use std::fmt::Write as _;

use super::escape::Text;
use super::plot::{Mark, Plot};

pub struct Chart<'a> {
    pub title: &'a str,
    /// What it shows, in which unit.
    pub note: String,
    pub plot: Plot,
    pub lines: Vec<Line>,
    pub marks: &'a [Mark],
    /// Values that lie across, with a word.
    pub limits: Vec<(f64, String)>,
}

pub struct Line {
    /// Which of the targets' looks it has.
    pub look: usize,
    pub name: String,
    /// Of a run whose figures mean nothing.
    pub invalid: bool,
    pub points: Vec<(f64, Option<f64>)>,
    /// Where there should have been a value and was none.
    pub missing: Vec<f64>,
}

impl Chart<'_> {
    /// Nothing if there is nothing to draw.
    pub fn put(&self, out: &mut String) {
        if self.lines.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<figure><figcaption><b>{}</b> <span class=\"soft\">{}</span></figcaption>\n<ul class=\"legend\">",
            self.title,
            Text(&self.note)
        );
        for line in &self.lines {
            let _ = write!(out, "<li>{}{}</li>", key(line.look), Text(&line.called()));
        }
        out.push_str("</ul>\n");
        self.plot.open(out, &self.in_words());
        self.plot.marks(out, self.marks);
        for (value, word) in &self.limits {
            self.plot.limit(out, *value, word);
        }
        // Ours is drawn last, over the others.
        for (place, line) in self.lines.iter().enumerate().rev() {
            self.line(out, place, line);
        }
        out.push_str("</svg></figure>\n");
    }

    fn line(&self, out: &mut String, place: usize, line: &Line) {
        let at = |(x, y): (f64, f64)| (self.plot.right(x), self.plot.down(y));
        let mut path = String::new();
        let mut dots = String::new();
        let known: Vec<Option<(f64, f64)>> = line
            .points
            .iter()
            .map(|(x, y)| y.map(|y| at((*x, y))))
            .collect();
        // A shape now and then, at other places for each line; all where there are few.
        let every = (known.len() / 6).max(1);
        let offset = if every > 2 {
            place * every / self.lines.len().max(1)
        } else {
            0
        };
        for (number, point) in known.iter().enumerate() {
            let Some((x, y)) = *point else { continue };
            let before = number > 0 && known[number - 1].is_some();
            let after = known.get(number + 1).is_some_and(Option::is_some);
            let _ = match (before, after) {
                (true, _) => write!(path, "L{x:.1} {y:.1}"),
                (false, true) => write!(path, "M{x:.1} {y:.1}"),
                // One alone has to be seen, too.
                (false, false) => write!(path, "M{:.1} {y:.1}h3", x - 1.5),
            };
            if number % every == offset {
                dots += &shape(line.look, x, y);
            }
        }
        let faint = if line.invalid { " faint" } else { "" };
        let _ = write!(out, "<g class=\"t{}{faint}\">", line.look);
        if !path.is_empty() {
            let _ = write!(out, "<path class=\"line\" d=\"{path}\"/>");
        }
        if !dots.is_empty() {
            let _ = write!(out, "<path class=\"dot\" d=\"{dots}\"/>");
        }
        let mut crosses = String::new();
        let y = self.plot.below_top(place);
        for x in &line.missing {
            let x = self.plot.right(*x);
            let _ = write!(crosses, "M{:.1} {:.1}l4 4m0-4l-4 4", x - 2.0, y - 2.0);
        }
        if !crosses.is_empty() {
            let _ = write!(out, "<path class=\"missing\" d=\"{crosses}\"/>");
        }
        out.push_str("</g>\n");
    }

    /// For who can't see it: the range of each line, and when it was highest.
    fn in_words(&self) -> String {
        let mut out = format!("{}, {}.", self.title, self.note);
        for line in &self.lines {
            let there = || line.points.iter().filter_map(|(x, y)| y.map(|y| (*x, y)));
            let most = there().max_by(|a, b| a.1.total_cmp(&b.1));
            let least = there().min_by(|a, b| a.1.total_cmp(&b.1));
            let _ = match (least, most) {
                (Some((_, least)), Some((when, most))) => write!(
                    out,
                    " {}: from {} to {}, highest at {}.",
                    line.called(),
                    (self.plot.y.say)(least),
                    (self.plot.y.say)(most),
                    self.when(when)
                ),
                _ => write!(out, " {}: nothing.", line.called()),
            };
            if !line.missing.is_empty() {
                let _ = write!(
                    out,
                    " It had no good answer in {} slices.",
                    line.missing.len()
                );
            }
        }
        out
    }

    fn when(&self, x: f64) -> String {
        let tick = self.plot.x.ticks.iter().find(|(at, _)| *at == x);
        match tick {
            Some((_, word)) if self.plot.x.least < 0.0 => word.clone(),
            _ => (self.plot.x.say)(x),
        }
    }
}

impl Line {
    fn called(&self) -> String {
        let invalid = if self.invalid { " (invalid)" } else { "" };
        format!("{}{invalid}", self.name)
    }
}

/// How a line looks, beside its name.
pub fn key(look: usize) -> String {
    format!(
        "<svg class=\"key t{look}\" viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"line\" d=\"M1 6H33\"/><path class=\"dot\" d=\"{}\"/></svg>",
        shape(look, 17.0, 6.0)
    )
}

/// Circle, square, triangle, diamond.
fn shape(look: usize, x: f64, y: f64) -> String {
    match look % 4 {
        0 => format!("M{:.1} {y:.1}a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", x - 3.0),
        1 => format!("M{:.1} {:.1}h5.4v5.4h-5.4z", x - 2.7, y - 2.7),
        2 => format!("M{x:.1} {:.1}l3.6 6.2h-7.2z", y - 3.8),
        _ => format!("M{x:.1} {:.1}l3.8 3.8l-3.8 3.8l-3.8-3.8z", y - 3.8),
    }
}

#[cfg(test)]
mod tests {
    use super::super::axis::{Axis, time};
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>, missing: Vec<f64>) -> String {
        let mut out = String::new();
        Chart {
            title: "p99",
            note: "in milliseconds".to_owned(),
            plot: Plot {
                wide: 400.0,
                high: 240.0,
                x: Axis::time(10.0),
                y: Axis::log(1.0, 100.0, time),
            },
            lines: vec![Line {
                look: 0,
                name: "a<b".to_owned(),
                invalid: false,
                points,
                missing,
            }],
            marks: &[],
            limits: vec![(10.0, "capacity".to_owned())],
        }
        .put(&mut out);
        out
    }

    #[test]
    fn a_line_breaks_where_there_is_nothing_and_one_alone_is_seen() {
        let out = chart(
            vec![
                (0.0, Some(1.0)),
                (1.0, Some(10.0)),
                (2.0, None),
                (3.0, Some(100.0)),
                (4.0, None),
            ],
            vec![2.0, 4.0],
        );
        // From 52 to 386, and from 214 up to 24.
        assert!(
            out.contains("d=\"M52.0 214.0L85.4 119.0M150.7 24.0h3\""),
            "{out}"
        );
        assert_eq!(out.matches("l4 4m0-4l-4 4").count(), 2);
        assert!(
            out.contains(
                "a&lt;b: from 1 ms to 100 ms, highest at 3 s. It had no good answer in 2 slices."
            ),
            "{out}"
        );
        assert!(
            out.contains("class=\"limit\" d=\"M52 119.0H386.0\""),
            "{out}"
        );
    }

    #[test]
    fn nothing_to_draw_is_said() {
        let out = chart(vec![(0.0, None)], vec![]);
        assert!(
            out.contains("a&lt;b: nothing.") && !out.contains("class=\"line\" d=\"\""),
            "{out}"
        );
    }
}

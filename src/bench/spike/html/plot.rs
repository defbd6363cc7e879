//! The ground of a drawing: two axes, a line at each tick, and numbers over what happened.

use std::fmt::Write as _;

use super::axis::Axis;
use super::escape::Text;

/// Room beside the plot, in the drawing's own units; on a phone they are about a pixel each.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 26.0;

/// A drawing's size and axes.
pub struct Plot {
    pub wide: f64,
    pub high: f64,
    pub x: Axis,
    pub y: Axis,
}

/// Something that happened, by its number in the list above the charts.
pub struct Mark {
    pub at: f64,
    pub number: usize,
}

impl Plot {
    /// Begins the drawing; `words` are for who can't see it.
    pub fn open(&self, out: &mut String, words: &str) {
        let _ = writeln!(
            out,
            "<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
            self.wide,
            self.high,
            Text(words)
        );
        self.frame(out);
    }

    /// Where a value stands from the left.
    pub fn right(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.wide - LEFT - RIGHT)
    }

    /// And from the top.
    pub fn down(&self, value: f64) -> f64 {
        self.high - BOTTOM - self.y.place(value) * (self.high - TOP - BOTTOM)
    }

    /// So far below the plot's upper end that lines of small signs have room.
    pub fn below_top(&self, line: usize) -> f64 {
        TOP + 5.0 + 7.0 * line as f64
    }

    /// A line all across, with its word.
    pub fn limit(&self, out: &mut String, value: f64, word: &str) {
        let y = self.down(value);
        let end = self.wide - RIGHT;
        let _ = writeln!(
            out,
            "<path class=\"limit\" d=\"M{LEFT} {y:.1}H{end:.1}\"/><text class=\"limit-word\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            end - 2.0,
            y - 4.0,
            Text(word)
        );
    }

    fn frame(&self, out: &mut String) {
        let (end, ground) = (self.wide - RIGHT, self.high - BOTTOM);
        let mut grid = String::new();
        let mut words = String::new();
        for (at, word) in &self.y.ticks {
            let y = self.down(*at);
            let _ = write!(grid, "M{LEFT} {y:.1}H{end:.1}");
            let _ = write!(
                words,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{word}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let last = self.x.ticks.len().saturating_sub(1);
        for (number, (at, word)) in self.x.ticks.iter().enumerate() {
            let at = self.right(*at);
            // The last one ends where the plot does.
            let (at, anchor) = match number == last && at > end - 12.0 {
                true => (end + 8.0, "end"),
                false => (at, "middle"),
            };
            let _ = write!(
                words,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{word}</text>",
                self.high - 8.0
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"{grid}\"/><path class=\"axis\" d=\"M{LEFT} {ground:.1}H{end:.1}\"/>\n<g class=\"ticks\">{words}</g>"
        );
    }

    /// Those that would lie on each other are one.
    pub fn marks(&self, out: &mut String, marks: &[Mark]) {
        let mut lines = String::new();
        let mut words: Vec<(f64, usize, usize)> = Vec::new();
        for mark in marks.iter().filter(|mark| mark.at <= self.x.most) {
            let at = self.right(mark.at);
            let _ = write!(lines, "M{at:.1} {:.1}V{:.1}", TOP - 4.0, self.high - BOTTOM);
            match words.last_mut() {
                Some((before, _, last)) if at - *before < 30.0 => *last = mark.number,
                _ => words.push((at, mark.number, mark.number)),
            }
        }
        if lines.is_empty() {
            return;
        }
        let _ = write!(out, "<g class=\"marks\"><path d=\"{lines}\"/>");
        for (at, first, last) in words {
            let word = match first == last {
                true => first.to_string(),
                false => format!("{first}–{last}"),
            };
            let wide = 9.0 + 6.5 * word.chars().count() as f64;
            let left = (at - wide / 2.0).min(self.wide - wide - 1.0);
            let _ = write!(
                out,
                "<rect x=\"{left:.1}\" y=\"3\" width=\"{wide:.1}\" height=\"16\" rx=\"8\"/><text x=\"{:.1}\" y=\"15\" text-anchor=\"middle\">{word}</text>",
                left + wide / 2.0
            );
        }
        out.push_str("</g>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::axis::number;
    use super::*;

    #[test]
    fn marks_that_lie_on_each_other_are_one() {
        let at = [0.0, 0.1, 5.0, 99.0].into_iter().zip(1..);
        let many: Vec<Mark> = at.map(|(at, number)| Mark { at, number }).collect();
        let plot = Plot {
            wide: 400.0,
            high: 240.0,
            x: Axis::even(10.0, number, 5),
            y: Axis::even(10.0, number, 5),
        };
        let mut out = String::new();
        plot.marks(&mut out, &many);
        let words = out.split("middle\">").skip(1);
        let words: Vec<&str> = words.filter_map(|rest| rest.split('<').next()).collect();
        assert_eq!(words, ["1–2", "3"]);
        assert_eq!(out.matches("V214.0").count(), 3);
    }
}

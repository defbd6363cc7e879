//! What became of what was due: parts that add up to it, slice by slice.

use std::fmt::Write as _;

use super::super::report::Slice;
use super::super::words::whole;
use super::chart;
use super::escape::Text;
use super::plot::{Mark, Plot};
use super::series::Series;

/// A part: its class, what it is called, how many of a slice.
type Part = (&'static str, &'static str, fn(&Slice) -> u64);

/// From the bottom up.
pub const PARTS: [Part; 4] = [
    ("fresh", "good", |slice| {
        slice.good.saturating_sub(slice.stale)
    }),
    ("stale", "good, but stale", |slice| {
        slice.stale.min(slice.good)
    }),
    ("refused", "error answer", |slice| slice.refused),
    ("errors", "no answer", |slice| slice.errors),
];

/// What all drawings of a scenario have in common.
pub fn legend(out: &mut String) {
    out.push_str("<ul class=\"legend\">");
    for (class, name, _) in PARTS {
        let _ = write!(
            out,
            "<li><svg class=\"key\" viewBox=\"0 0 34 12\" aria-hidden=\"true\"><rect class=\"{class}\" x=\"4\" width=\"26\" height=\"12\"/></svg>{name}</li>"
        );
    }
    out.push_str("<li><svg class=\"key\" viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"due\" d=\"M1 6H33\"/></svg>due</li></ul>\n");
}

/// One target's. The plots of all are alike, so that they compare.
pub fn put(
    out: &mut String,
    name: &str,
    look: usize,
    series: &Series,
    plot: &Plot,
    marks: &[Mark],
) {
    let sum = |of: fn(&Slice) -> u64| series.slices.iter().map(of).fold(0, u64::saturating_add);
    let mut words = format!(
        "Requests a second at {name}: {} due",
        whole(sum(|slice| slice.due))
    );
    for (_, part, of) in PARTS {
        let _ = write!(words, ", {} {part}", whole(sum(of)));
    }
    words.push('.');
    let _ = writeln!(
        out,
        "<figure><figcaption>{}<b>{}</b></figcaption>",
        chart::key(look),
        Text(name)
    );
    plot.open(out, &words);
    let mut below = vec![0_u64; series.slices.len()];
    for (class, _, of) in PARTS {
        let above: Vec<u64> = below
            .iter()
            .zip(&series.slices)
            .map(|(below, slice)| below.saturating_add(of(slice)))
            .collect();
        if above != below {
            let mut path = outline(&above, series, plot);
            // Back along what lies below.
            for (at, count) in below.iter().enumerate().rev() {
                let height = plot.down(series.rate(*count));
                let _ = write!(
                    path,
                    "V{height:.1}H{:.1}",
                    plot.right(at as f64 * series.each)
                );
            }
            let _ = writeln!(out, "<path class=\"{class}\" d=\"M{}z\"/>", &path[1..]);
        }
        below = above;
    }
    let due: Vec<u64> = series.slices.iter().map(|slice| slice.due).collect();
    let path = outline(&due, series, plot);
    let _ = writeln!(out, "<path class=\"due\" d=\"M{}\"/>", &path[1..]);
    plot.marks(out, marks);
    out.push_str("</svg></figure>\n");
}

/// Steps from left to right.
fn outline(counts: &[u64], series: &Series, plot: &Plot) -> String {
    let mut path = String::new();
    for (at, count) in counts.iter().enumerate() {
        let height = plot.down(series.rate(*count));
        let (from, to) = (
            plot.right(at as f64 * series.each),
            plot.right((at + 1) as f64 * series.each),
        );
        let _ = match at {
            0 => write!(path, "L{from:.1} {height:.1}H{to:.1}"),
            _ => write!(path, "V{height:.1}H{to:.1}"),
        };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::axis::{Axis, number};
    use super::*;

    #[test]
    fn parts_stand_on_each_other() {
        let slice = Slice {
            due: 100,
            good: 60,
            stale: 20,
            refused: 0,
            errors: 40,
            ..Slice::default()
        };
        let series = Series {
            slices: vec![slice, Slice::default()],
            each: 1.0,
        };
        let mut out = String::new();
        let plot = Plot {
            wide: 400.0,
            high: 240.0,
            x: Axis::time(2.0),
            y: Axis::even(100.0, number, 4),
        };
        put(&mut out, "a", 0, &series, &plot, &[]);
        // From 214 at nothing up to 24 at a hundred.
        for path in [
            "class=\"fresh\" d=\"M52.0 138.0H219.0V214.0H386.0V214.0H219.0V214.0H52.0z\"",
            "class=\"stale\" d=\"M52.0 100.0H219.0V214.0H386.0V214.0H219.0V138.0H52.0z\"",
            "class=\"errors\" d=\"M52.0 24.0H219.0V214.0H386.0V214.0H219.0V100.0H52.0z\"",
            "class=\"due\" d=\"M52.0 24.0H219.0V214.0H386.0\"",
        ] {
            assert!(out.contains(path), "{path}\n{out}");
        }
        assert!(!out.contains("class=\"refused\""));
        assert!(out.contains("aria-label=\"Requests a second at a: 100 due, 40 good, 20 good, but stale, 0 error answer, 40 no answer.\""), "{out}");
    }
}

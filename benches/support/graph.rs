//! Lines over time as plain SVG, readable on light and dark pages.

use std::fmt::Write;

/// One chart under a title of its own.
pub struct Graph {
    pub title: String,
    pub lines: Vec<Line>,
    /// Moments worth a mark: seconds, and what happened.
    pub marks: Vec<(f64, String)>,
}

pub struct Line {
    pub name: String,
    /// Seconds and values.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 120.0;
const HEIGHT: f64 = 120.0;
/// A graph with its title and its times.
const STEP: f64 = HEIGHT + 76.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}.graph{font-weight:600}\
.note{fill:#59636e;font-size:11px}.page{fill:#fff}path{fill:none;stroke-width:1.6}.axis{stroke:#d0d7de;stroke-width:1}\
.c0{stroke:#0969da}.c1{stroke:#cf222e}.c2{stroke:#9a6700}.c3{stroke:#1a7f37}.t0{fill:#0969da}.t1{fill:#cf222e}\
.t2{fill:#9a6700}.t3{fill:#1a7f37}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.page{fill:#0d1117}.axis{stroke:#3d444d}\
.c0{stroke:#4493f8}.c1{stroke:#f85149}.c2{stroke:#d29922}.c3{stroke:#3fb950}.t0{fill:#4493f8}.t1{fill:#f85149}\
.t2{fill:#d29922}.t3{fill:#3fb950}}";

/// Graphs below each other, seconds to the right, up to four lines each; `subtitle` says what is up.
pub fn graphs(title: &str, subtitle: &str, graphs: &[Graph]) -> String {
    let height = 64.0 + graphs.len() as f64 * STEP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
        escape(title)
    );
    text(&mut svg, "title", (16.0, 28.0), title);
    text(&mut svg, "note", (16.0, 48.0), subtitle);
    for (place, graph) in graphs.iter().enumerate() {
        draw(&mut svg, graph, 64.0 + place as f64 * STEP);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, graph: &Graph, top: f64) {
    text(svg, "graph", (16.0, top + 18.0), &graph.title);
    let points = || graph.lines.iter().flat_map(|line| line.points.iter());
    let most = points()
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let last = points()
        .map(|(at, _)| *at)
        .fold(f64::MIN_POSITIVE, f64::max);
    let (above, below) = (top + 44.0, top + 44.0 + HEIGHT);
    let x = |at: f64| LEFT + at / last * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| below - value / most * HEIGHT;
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {above:.1}V{below:.1}H{:.1}\"/>",
        x(last)
    );
    text(svg, "note", (16.0, above + 4.0), &format!("{most:.0}"));
    text(svg, "note", (16.0, below + 4.0), "0");
    text(
        svg,
        "note",
        (x(last) - 20.0, below + 16.0),
        &format!("{last:.0} s"),
    );
    for (at, what) in &graph.marks {
        let at = x(*at);
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{at:.1} {above:.1}V{below:.1}\"/>"
        );
        text(svg, "note", (at + 3.0, above - 6.0), what);
    }
    for (number, line) in graph.lines.iter().enumerate() {
        let mut path = String::new();
        for (step, (at, value)) in line.points.iter().enumerate() {
            let letter = if step == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x(*at), y(*value));
        }
        let _ = writeln!(svg, "<path class=\"c{}\" d=\"{path}\"/>", number % 4);
        let place = (x(last) + 8.0, above + 12.0 + 18.0 * number as f64);
        text(svg, &format!("t{}", number % 4), place, &line.name);
    }
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), what: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escape(what)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

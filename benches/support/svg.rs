//! Bar charts as plain SVG, readable on light and dark pages.

use std::fmt::Write;

/// One group of bars under a title of its own, sharing no scale with the others.
pub struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Lowest and highest round, drawn as a whisker.
    pub range: (f64, f64),
    pub note: String,
    pub kind: Kind,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Ours,
    Peer,
    Reference,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 210.0;
const ROW: f64 = 26.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}.panel{font-weight:600}\
.note{fill:#59636e}.page{fill:#fff}.ours{fill:#0969da}.peer{fill:#8c959f}.reference{fill:#d0d7de}.whisker{stroke:#1f2328}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.page{fill:#0d1117}.ours{fill:#4493f8}\
.peer{fill:#6e7681}.reference{fill:#3d444d}.whisker{stroke:#f0f6fc}}";

/// A chart of horizontal bars; shorter is better or not, as `subtitle` says.
pub fn bars(title: &str, subtitle: &str, panels: &[Panel]) -> String {
    let rows: usize = panels.iter().map(|p| p.bars.len()).sum();
    let height = 64.0 + rows as f64 * ROW + panels.len() as f64 * 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
        escape(title)
    );
    let mut put = |class: &str, x: f64, y: f64, what: &str| {
        let _ = writeln!(
            svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escape(what)
        );
    };
    put("title", 16.0, 28.0, title);
    put("note", 16.0, 48.0, subtitle);
    let mut y = 64.0;
    let mut shapes = String::new();
    for panel in panels {
        put("panel", 16.0, y + 22.0, &panel.title);
        y += 32.0;
        let most = panel
            .bars
            .iter()
            .map(|b| b.range.1.max(b.value))
            .fold(0.0, f64::max);
        let scale = (WIDTH - LEFT - RIGHT) / most.max(f64::MIN_POSITIVE);
        for bar in &panel.bars {
            let class = match bar.kind {
                Kind::Ours => "ours",
                Kind::Peer => "peer",
                Kind::Reference => "reference",
            };
            let (low, high) = (LEFT + bar.range.0 * scale, LEFT + bar.range.1 * scale);
            let middle = y + ROW / 2.0;
            put("name", 16.0, middle + 4.0, &bar.name);
            put(
                "note",
                high.max(LEFT + bar.value * scale) + 10.0,
                middle + 4.0,
                &bar.note,
            );
            let _ = writeln!(
                shapes,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"/>\
                 <path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}\"/>",
                y + 4.0,
                bar.value * scale,
                ROW - 8.0
            );
            y += ROW;
        }
        y += 8.0;
    }
    svg + &shapes + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

//! A browser looks at the page of a measured spike: on a desk and on a phone, light and dark.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use tidegate::bench::spike::report::Report;
use tidegate::bench::spike::{html, saved};

use super::browser::Browser;
use super::site::equal;
use super::{Outcome, Test};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("spike_report::is_read_everywhere", read_everywhere),
        ("spike_report::names_stay_names", names_stay_names),
        ("spike_report::what_is_wrong_is_found", found),
    ]
}

/// Each is what must be true of the page, whatever the window is.
const RIGHT: [(&str, &str); 9] = [
    (
        "no horizontal scroll",
        "document.documentElement.scrollWidth <= WIDTH && document.body.scrollWidth <= WIDTH",
    ),
    ("charts", "document.querySelectorAll('svg.plot').length === 30"),
    (
        "each chart has lines or areas",
        "[...document.querySelectorAll('svg.plot')].every(svg =>
            [...svg.querySelectorAll('.line, .fresh, .due')].some(path => path.getTotalLength() > 100))",
    ),
    (
        "each target in each chart of lines, told by colour and dashes",
        "[...document.querySelectorAll('svg.plot')].every(svg => {
            const looks = [...svg.querySelectorAll('.line')].map(getComputedStyle);
            return new Set(looks.map(look => look.stroke)).size === looks.length
                && new Set(looks.map(look => look.strokeDasharray)).size === looks.length;
        })",
    ),
    (
        "words in charts are readable and within",
        "[...document.querySelectorAll('svg.plot')].every(svg => {
            const size = svg.viewBox.baseVal, scale = svg.getBoundingClientRect().width / size.width;
            return [...svg.querySelectorAll('text')].every(text => {
                const box = text.getBBox();
                return parseFloat(getComputedStyle(text).fontSize) * scale >= 9
                    && box.x >= 0 && box.y >= 0 && box.x + box.width <= size.width && box.y + box.height <= size.height;
            });
        })",
    ),
    (
        "no word lies on another",
        "(() => {
            const lie = [];
            for (const svg of document.querySelectorAll('svg.plot')) {
                const words = [...svg.querySelectorAll('.ticks text, .marks text')].map(text => [text.textContent, text.getBBox()]);
                words.forEach(([first, a], at) => words.slice(at + 1).forEach(([second, b]) => {
                    // A line of text is higher than its letters.
                    if (a.x + a.width > b.x && b.x + b.width > a.x && a.y + a.height > b.y + 2 && b.y + b.height > a.y + 2)
                        lie.push(`${first} and ${second}`);
                }));
            }
            return lie.length === 0 || lie.join('; ');
        })()",
    ),
    (
        "each chart has a title, and words for who can't see it",
        "[...document.querySelectorAll('figure')].every(figure =>
            figure.querySelector('figcaption').innerText.length > 3
                && [...figure.querySelectorAll('[role=img]')].every(svg => svg.getAttribute('aria-label').length > 40))",
    ),
    (
        "tables scroll in their own box",
        "[...document.querySelectorAll('table')].every(table =>
            table.parentElement.getBoundingClientRect().right <= WIDTH
                && getComputedStyle(table.parentElement).overflowX === 'auto')",
    ),
    ("contrast", CONTRAST),
];

/// By the formula of WCAG 2: 4.5 for words, 3 for lines and areas. Tells what has too little.
const CONTRAST: &str = "(() => {
    const probe = document.body.appendChild(document.createElement('i'));
    const light = name => {
        probe.style.color = `var(--${name})`;
        const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
        const [r, g, b] = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const low = [];
    const check = (least, fronts, grounds) => {
        for (const front of fronts) for (const ground of grounds) {
            const [a, b] = [light(front), light(ground)];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (!(ratio >= least)) low.push(`${front} on ${ground}: ${ratio.toFixed(2)}`);
        }
    };
    check(4.5, ['ink', 'soft', 't0'], ['paper', 'card']);
    check(4.5, ['ink', 'soft'], ['good-ground', 'fair-ground', 'bad-ground']);
    check(3, ['t0', 't1', 't2', 't3', 't4', 't5', 't6', 't7'], ['card']);
    check(3, ['fresh', 'stale', 'refused', 'errors', 'joined', 'fetched', 'other'], ['card']);
    probe.remove();
    return low.length === 0 || low.join('; ');
})()";

fn read_everywhere() -> Outcome {
    let dir = written(&html::page(&report()?))?;
    let mut browser = Browser::start(&[])?;
    for (width, height, scheme) in [
        (1280, 900, "light"),
        (1280, 900, "dark"),
        (390, 844, "light"),
        (390, 844, "dark"),
    ] {
        look(&mut browser, &dir, width, height, scheme)?;
        for (what, part) in [
            ("header + section", "glance"),
            ("#s0", "viral-post"),
            ("#s2", "origin-death"),
        ] {
            browser.picture_of(what, &format!("spike-{part}-{width}-{scheme}"))?;
        }
        for (what, holds) in RIGHT {
            let told = browser.value(&within(holds, width))?;
            equal(
                &format!("{what} at {width} px, {scheme}"),
                told,
                json!(true),
            )?;
        }
        browser.nothing_is_wrong()?;
    }
    Ok(())
}

/// Whatever targets and scenarios are called: no markup comes of it, no script runs, and a phone has room for it.
fn names_stay_names() -> Outcome {
    let bad = "</title></svg></style><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">";
    let mut report = report()?;
    for run in &mut report.runs {
        run.target.name += bad;
        run.target.version += bad;
        run.scenario.name += bad;
        run.scenario.about = "long".repeat(200);
        for event in &mut run.events {
            event.what += bad;
        }
    }
    let dir = written(&html::page(&report))?;
    let mut browser = Browser::start(&[])?;
    look(&mut browser, &dir, 390, 844, "light")?;
    for (what, holds) in [
        (
            "the title is ours",
            "document.title === 'What happens when the crowd comes'",
        ),
        (
            "no element but ours",
            "document.querySelectorAll('script, img').length === 0",
        ),
        (
            "what is written is read",
            "document.querySelector('h2[id=s0-name]').innerText.includes('<script>document.title')",
        ),
        RIGHT[0],
    ] {
        equal(what, browser.value(&within(holds, 390))?, json!(true))?;
    }
    browser.nothing_is_wrong()
}

/// The test tests: a page with one fault of each kind does not pass.
fn found() -> Outcome {
    let page = html::page(&report()?);
    let mut browser = Browser::start(&[])?;
    for (what, from, to) in [
        (
            "no horizontal scroll",
            "<main>",
            "<main><div style=\"width:500px\">wide</div>",
        ),
        ("charts", "<svg class=\"plot\"", "<svg"),
        (
            "each target in each chart of lines, told by colour and dashes",
            "--t1: #",
            "--t1: var(--t0); --x: #",
        ),
        (
            "words in charts are readable and within",
            "font: 12px system",
            "font: 8px system",
        ),
        (
            "no word lies on another",
            "font: 12px system",
            "font: 40px system",
        ),
        (
            "tables scroll in their own box",
            "overflow-x: auto",
            "overflow-x: visible",
        ),
        ("contrast", "--soft: #", "--soft: #9aa; --x: #"),
    ] {
        let broken = page.replace(from, to);
        equal(
            &format!("{what}: something is broken"),
            broken != page,
            true,
        )?;
        let dir = written(&broken)?;
        look_at(&mut browser, &dir, 390, 844, "light")?;
        let holds = RIGHT
            .iter()
            .find(|(name, _)| *name == what)
            .ok_or("no such check")?;
        let told = browser.value(&within(holds.1, 390))?;
        equal(&format!("{what}, broken"), told == json!(true), false)?;
    }
    Ok(())
}

fn look(browser: &mut Browser, dir: &TempDir, width: u32, height: u32, scheme: &str) -> Outcome {
    look_at(browser, dir, width, height, scheme)?;
    equal(
        "the window's width",
        browser.value("innerWidth")?,
        json!(width),
    )
}

fn look_at(browser: &mut Browser, dir: &TempDir, width: u32, height: u32, scheme: &str) -> Outcome {
    browser.window(width, height)?;
    let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
    browser.call(
        "Emulation.setEmulatedMedia",
        json!({ "features": features }),
    )?;
    browser.load(&format!(
        "file://{}",
        dir.path().join("spike.html").display()
    ))?;
    let holds = format!("matchMedia('(prefers-color-scheme: {scheme})').matches");
    equal(scheme, browser.value(&holds)?, json!(true))
}

/// A page that is too wide makes a phone's window wider, so its width is no measure.
fn within(holds: &str, width: u32) -> String {
    holds.replace("WIDTH", &width.to_string())
}

fn written(page: &str) -> Result<TempDir, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    fs::write(dir.path().join("spike.html"), page).map_err(|e| e.to_string())?;
    Ok(dir)
}

/// What `src/bench/spike/sample.rs` makes.
fn report() -> Result<Report, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spike/report.json");
    let text = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    saved::read(&text, "report.json")
}

//! What is shown while it runs: a block of lines that is drawn anew in a terminal, and else a line now and then.

use std::io::{self, Write};
use std::time::Duration;

use super::words::{Unit, cut, plain, show};

/// How it stands.
#[derive(Clone, Debug, Default)]
pub struct Now {
    pub scenario: String,
    pub target: String,
    /// The how manyth run it is, from 1, of how many.
    pub run: usize,
    pub runs: usize,
    pub elapsed: Duration,
    pub total: Duration,
    /// A second, in the last slice: requests due, good answers, and all others.
    pub due: f64,
    pub good: f64,
    pub errors: f64,
    /// Of the last slice, in milliseconds; none: it has no good answer.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// p99 of each slice so far, oldest first.
    pub history: Vec<Option<f64>>,
    /// None: it is not ours.
    pub origin_in_flight: Option<f64>,
    pub origin_capacity: Option<usize>,
}

/// Where there is no terminal, a line comes this often.
const SELDOM: Duration = Duration::from_secs(5);

pub struct Live<W> {
    out: W,
    /// Columns of a terminal; none: it is a file or a pipe.
    width: Option<usize>,
    /// Lines that stand there, to be drawn over.
    drawn: usize,
    /// Which run was told of last, and when in it.
    told: Option<(usize, Duration)>,
}

impl<W: Write> Live<W> {
    /// `width` as [`width`] tells it.
    pub fn new(out: W, width: Option<usize>) -> Live<W> {
        Live {
            out,
            width,
            drawn: 0,
            told: None,
        }
    }

    pub fn show(&mut self, now: &Now) -> io::Result<()> {
        let Some(width) = self.width else {
            return self.tell(now);
        };
        let lines = block(now, width);
        // Up to the first line; then each is erased before it is written.
        let mut text = up(self.drawn);
        for line in &lines {
            text += &format!("\x1b[2K{line}\n");
        }
        if lines.len() < self.drawn {
            text += "\x1b[J";
        }
        self.drawn = lines.len();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Takes the block away, before something else is printed.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            let text = up(self.drawn) + "\x1b[J";
            self.drawn = 0;
            self.out.write_all(text.as_bytes())?;
        }
        self.out.flush()
    }

    fn tell(&mut self, now: &Now) -> io::Result<()> {
        let due = match self.told {
            Some((run, when)) => run != now.run || now.elapsed >= when + SELDOM,
            None => true,
        };
        if !due {
            return Ok(());
        }
        self.told = Some((now.run, now.elapsed));
        writeln!(
            self.out,
            "{}, {}; {}; {}",
            head(now),
            time(now),
            rates(now, ", "),
            times(now, ", ")
        )?;
        self.out.flush()
    }
}

/// The columns of the terminal that standard output is; none if it is none, or a dumb one.
pub fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    // Some terminals don't know how wide they are.
    let columns = match usize::from(size.ws_col) {
        0 => 80,
        columns => columns,
    };
    (!dumb).then_some(columns)
}

fn up(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\r"),
    }
}

/// Lines that leave the last column free: in it some terminals begin a new line.
fn block(now: &Now, width: usize) -> Vec<String> {
    let width = width.max(20) - 1;
    let (head, time) = (head(now), time(now));
    let left = width.saturating_sub(time.chars().count() + 1);
    let head = format!("{:left$} {time}", cut(&head, left));
    let mut lines = vec![
        head,
        bar(now, width),
        format!("  {}", rates(now, "   ")),
        format!("  {}", times(now, "   ")),
    ];
    lines.push(format!("  {}", sparkline(&now.history, width - 2)));
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

fn head(now: &Now) -> String {
    format!(
        "[{}/{}] {} at {}",
        now.run,
        now.runs,
        plain(&now.scenario),
        plain(&now.target)
    )
}

fn time(now: &Now) -> String {
    format!(
        "{:.0} of {:.0} s",
        now.elapsed.as_secs_f64(),
        now.total.as_secs_f64()
    )
}

fn bar(now: &Now, width: usize) -> String {
    let wide = width - 2;
    let part = now.elapsed.as_secs_f64() / now.total.as_secs_f64().max(f64::MIN_POSITIVE);
    let done = ((part * wide as f64) as usize).min(wide);
    format!("  {}{}", "━".repeat(done), "─".repeat(wide - done))
}

fn rates(now: &Now, between: &str) -> String {
    let rate = |value: f64| show(Unit::Rate, value);
    let mut parts = vec![
        format!("due {}", rate(now.due)),
        format!("good {}", rate(now.good)),
        format!("failing {}", rate(now.errors)),
    ];
    if let Some(flying) = now.origin_in_flight {
        let of = now
            .origin_capacity
            .map_or(String::new(), |capacity| format!(" of {capacity}"));
        parts.push(format!("origin {}{of}", show(Unit::Count, flying)));
    }
    parts.join(between)
}

fn times(now: &Now, between: &str) -> String {
    let time =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| show(Unit::Millis, value));
    format!("p50 {}{between}p99 {}", time(now.p50), time(now.p99))
}

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// p99 so far, as high as its logarithm; `×` where nobody was served. What has no room is drawn together, the worst of it.
fn sparkline(history: &[Option<f64>], width: usize) -> String {
    let known = || {
        history
            .iter()
            .flatten()
            .copied()
            .filter(|value| *value > 0.0)
    };
    let (least, most) = known().fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    if history.is_empty() || most == 0.0 {
        return history.iter().take(width).map(|_| '×').collect();
    }
    let range = format!(
        " {} to {}",
        show(Unit::Millis, least),
        show(Unit::Millis, most)
    );
    let room = width.saturating_sub(range.chars().count()).max(8);
    // Less than a factor of ten is no mountain.
    let (low, high) = (least.ln(), most.max(least * 10.0).ln());
    let level = |value: f64| {
        let place = (value.max(least).ln() - low) / (high - low);
        LEVELS[((place * 8.0) as usize).min(7)]
    };
    let mark = |slices: &[Option<f64>]| {
        let worst = slices
            .iter()
            .flatten()
            .copied()
            .fold(None, |worst: Option<f64>, value| {
                Some(worst.map_or(value, |worst| worst.max(value)))
            });
        // That nobody was served is worse than any time.
        match (slices.contains(&None), worst) {
            (false, Some(worst)) => level(worst),
            _ => '×',
        }
    };
    let line: String = history
        .chunks(history.len().div_ceil(room))
        .map(mark)
        .collect();
    line + &range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now {
            scenario: "viral-post".to_owned(),
            target: "nginx".to_owned(),
            run: 2,
            runs: 8,
            elapsed: Duration::from_secs(5),
            total: Duration::from_secs(20),
            due: 1500.0,
            good: 1480.0,
            errors: 20.0,
            p50: Some(0.42),
            p99: Some(312.0),
            history: vec![Some(0.5), Some(1.0), None, Some(512.0), Some(30.0)],
            origin_in_flight: Some(7.6),
            origin_capacity: Some(8),
        }
    }

    fn shown(width: Option<usize>, shows: &[Now]) -> String {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, width);
        for now in shows {
            live.show(now).expect("a vector takes all");
        }
        live.clear().expect("a vector takes all");
        String::from_utf8(out).expect("text")
    }

    /// What a terminal shows that knows these four sequences.
    fn screen(text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut at = 0;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut used = c.len_utf8();
            match c {
                '\n' => {
                    at += 1;
                    if at == lines.len() {
                        lines.push(String::new());
                    }
                }
                '\r' => {}
                '\x1b' => {
                    let end = rest
                        .find(|c: char| c.is_ascii_alphabetic())
                        .expect("a sequence ends");
                    match &rest[1..=end] {
                        "[2K" => lines[at].clear(),
                        "[J" => {
                            lines.truncate(at + 1);
                            lines[at].clear();
                        }
                        other => {
                            let count = other.trim_start_matches('[').trim_end_matches('A');
                            at -= count.parse::<usize>().expect("so many lines up");
                        }
                    }
                    used = end + 1;
                }
                c => lines[at].push(c),
            }
            rest = &rest[used..];
        }
        lines
    }

    #[test]
    fn one_block_is_drawn_over_and_taken_away() {
        let mut later = now();
        later.elapsed = Duration::from_secs(6);
        later.good = 3.0;
        let before = |text: &str| text[..text.rfind("\x1b[5A").expect("it goes up")].to_owned();
        let whole = shown(Some(80), &[now(), later]);
        let seen = screen(&before(&whole));
        assert_eq!(
            seen,
            [
                "[2/8] viral-post at nginx                                             6 of 20 s",
                "  ━━━━━━━━━━━━━━━━━━━━━━━──────────────────────────────────────────────────────",
                "  due 1,500/s   good 3.00/s   failing 20.0/s   origin 8 of 8",
                "  p50 0.42 ms   p99 312 ms",
                "  ▁▁×█▅ 0.50 ms to 512 ms",
                "",
            ]
        );
        assert_eq!(screen(&whole), [""], "nothing stays");
    }

    #[test]
    fn lines_are_shorter_than_the_terminal_is_wide() {
        let mut now = now();
        now.target = "x".repeat(300);
        now.history = vec![Some(3.0); 1000];
        for width in [1, 20, 40, 80, 200] {
            for line in block(&now, width) {
                assert!(line.chars().count() < width.max(20), "{width}: {line}");
            }
        }
    }

    #[test]
    fn what_has_no_room_is_drawn_by_its_worst() {
        let mut history = vec![Some(1.0); 80];
        history[41] = Some(1000.0);
        history[79] = None;
        let line = sparkline(&history, 30);
        let marks: Vec<char> = line.chars().take_while(|c| *c != ' ').collect();
        assert!(marks.len() <= 14 && marks.len() >= 8, "{line}");
        assert_eq!(marks.iter().filter(|c| **c == '█').count(), 1, "{line}");
        assert_eq!(marks.last(), Some(&'×'), "{line}");
        assert_eq!(sparkline(&[], 30), "");
        assert_eq!(sparkline(&[None, None], 30), "××");
        assert!(
            sparkline(&[Some(1.0), Some(1.1)], 30).starts_with("▁▁ "),
            "no mountain of noise"
        );
    }

    #[test]
    fn without_a_terminal_a_line_comes_now_and_then() {
        let at = |run: usize, seconds: f64| Now {
            run,
            elapsed: Duration::from_secs_f64(seconds),
            ..now()
        };
        let shows: Vec<Now> = (0..40)
            .map(|half| at(1, f64::from(half) / 2.0))
            .chain([at(2, 0.0), at(2, 1.0)])
            .collect();
        let told = shown(None, &shows);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 5, "{told}");
        assert_eq!(
            lines[1],
            "[1/8] viral-post at nginx, 5 of 20 s; due 1,500/s, good 1,480/s, failing 20.0/s, origin 8 of 8; p50 0.42 ms, p99 312 ms"
        );
        assert!(lines[4].starts_with("[2/8]") && !told.contains('\x1b'));
    }
}

//! Where a value stands between an axis' ends, and what is written at it.

#[derive(Clone, Debug)]
pub struct Axis {
    kind: Kind,
    pub least: f64,
    pub most: f64,
    /// What is written where.
    pub ticks: Vec<(f64, String)>,
    /// How a value is told in words.
    pub say: fn(f64) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Even,
    /// Each factor of ten as long.
    Log,
    /// The same, but for what is below one, so that nothing has a place, too.
    LogFromNone,
}

impl Axis {
    /// From 0, for seconds from the start.
    pub fn time(most: f64) -> Axis {
        let mut axis = Axis::even(most, |value| format!("{} s", number(value)), 6);
        axis.most = most.max(f64::MIN_POSITIVE);
        axis.ticks.retain(|(at, _)| *at <= axis.most * 1.001);
        let last = axis.ticks.len().saturating_sub(1);
        for (place, (at, text)) in axis.ticks.iter_mut().enumerate() {
            *text = if place == last {
                format!("{} s", number(*at))
            } else {
                number(*at)
            };
        }
        axis
    }

    /// From 0.
    pub fn even(most: f64, say: fn(f64) -> String, steps: usize) -> Axis {
        // Of nothing there is no scale.
        let most = if most > 0.0 { most } else { 1.0 };
        let step = step(most, steps);
        let most = ((most / step).ceil() * step).max(step);
        let count = (most / step).round() as usize;
        let ticks = (0..=count)
            .map(|at| at as f64 * step)
            .map(|at| (at, say(at)));
        Axis {
            kind: Kind::Even,
            least: 0.0,
            most,
            ticks: ticks.collect(),
            say,
        }
    }

    /// For values above 0, by powers of ten that hold them all.
    pub fn log(least: f64, most: f64, say: fn(f64) -> String) -> Axis {
        let first = least.max(0.01).log10().floor() as i32;
        let last = (most.max(0.01).log10().ceil() as i32).max(first + 1);
        let every = ((last - first) / 6).max(1);
        let mut ticks = Vec::new();
        for power in (first..=last).step_by(every as usize) {
            ticks.push((10_f64.powi(power), say(10_f64.powi(power))));
        }
        if last - first == 1 {
            for part in [2.0, 5.0] {
                let at = part * 10_f64.powi(first);
                ticks.push((at, say(at)));
            }
        }
        Axis {
            kind: Kind::Log,
            least: 10_f64.powi(first),
            most: 10_f64.powi(last),
            ticks,
            say,
        }
    }

    /// From 0, by powers of ten.
    pub fn log_from_none(most: f64, say: fn(f64) -> String) -> Axis {
        let last = (most.max(1.0).log10().ceil() as i32).max(1);
        let mut ticks = vec![(0.0, say(0.0))];
        // Where there are many, the first lies too near to nothing.
        let powers = i32::from(last > 3)..=last;
        ticks.extend(powers.map(|power| (10_f64.powi(power), say(10_f64.powi(power)))));
        Axis {
            kind: Kind::LogFromNone,
            least: 0.0,
            most: 10_f64.powi(last),
            ticks,
            say,
        }
    }

    /// With these words at these places.
    pub fn words(words: &[&str]) -> Axis {
        let last = (words.len().max(2) - 1) as f64;
        let ticks = words.iter().enumerate();
        Axis {
            kind: Kind::Even,
            // Room beside the first and the last.
            least: -0.25,
            most: last + 0.25,
            ticks: ticks
                .map(|(at, word)| (at as f64, (*word).to_owned()))
                .collect(),
            say: number,
        }
    }

    /// From 0 to 1; what lies beyond stands at the end.
    pub fn place(&self, value: f64) -> f64 {
        let scaled = |value: f64| match self.kind {
            Kind::Even => value,
            Kind::Log => value.max(f64::MIN_POSITIVE).log10(),
            Kind::LogFromNone => value.max(0.0).ln_1p(),
        };
        let (least, most) = (scaled(self.least), scaled(self.most));
        let place = (scaled(value) - least) / (most - least);
        if place.is_finite() {
            place.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    pub fn is_log(&self) -> bool {
        self.kind != Kind::Even
    }
}

/// A round step, of which there are at most `steps` up to `most`.
fn step(most: f64, steps: usize) -> f64 {
    let rough = (most / steps as f64).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let fits = |part: &&f64| **part * power >= rough * 0.999;
    let part = [1.0, 2.0, 5.0, 10.0].iter().find(fits).copied();
    part.unwrap_or(10.0) * power
}

/// Short: `1.5k`.
pub fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => return format!("{value:.0e}"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // As many digits as it takes to tell ticks apart, and no more.
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Of milliseconds.
pub fn time(millis: f64) -> String {
    match millis {
        millis if millis >= 1000.0 => format!("{} s", number(millis / 1000.0)),
        millis if millis < 1.0 && millis > 0.0 => format!("{} µs", number(millis * 1000.0)),
        millis => format!("{} ms", number(millis)),
    }
}

pub fn share(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, word)| &**word).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(words(&Axis::time(20.0)), ["0", "5", "10", "15", "20 s"]);
        assert_eq!(words(&Axis::time(13.0)), ["0", "5", "10 s"]);
        assert_eq!(words(&Axis::time(0.9)), ["0", "0.2", "0.4", "0.6", "0.8 s"]);
        assert_eq!(
            words(&Axis::even(1500.0, number, 4)),
            ["0", "500", "1k", "1.5k"]
        );
        assert_eq!(words(&Axis::even(0.0, number, 4)), ["0", "0.5", "1"]);
        assert_eq!(words(&Axis::even(1.0, share, 4)), ["0 %", "50 %", "100 %"]);
        assert_eq!(
            words(&Axis::log(0.3, 950.0, time)),
            ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
        );
        assert_eq!(
            words(&Axis::log(2.0, 9.0, time)),
            ["1 ms", "10 ms", "2 ms", "5 ms"]
        );
        assert_eq!(
            words(&Axis::log_from_none(430.0, number)),
            ["0", "1", "10", "100", "1k"]
        );
        assert_eq!(
            words(&Axis::log_from_none(4300.0, number)),
            ["0", "10", "100", "1k", "10k"]
        );
        for most in [1e-300, 1e-9, 1.0, 7.3, 1e12, 1e300] {
            for axis in [
                Axis::time(most),
                Axis::even(most, number, 5),
                Axis::log(most, most, time),
                Axis::log_from_none(most, number),
            ] {
                assert!(axis.ticks.len() <= 312, "{most}: {}", axis.ticks.len());
                assert!(axis.ticks.iter().all(|(at, _)| at.is_finite()), "{most}");
            }
        }
    }

    #[test]
    fn values_have_their_places() {
        for (axis, value, place) in [
            (Axis::even(100.0, number, 5), 25.0, 0.25),
            (Axis::even(100.0, number, 5), 500.0, 1.0),
            (Axis::even(100.0, number, 5), f64::NAN, 0.0),
            (Axis::log(1.0, 100.0, time), 10.0, 0.5),
            (Axis::log(1.0, 100.0, time), 0.0, 0.0),
            (Axis::log_from_none(10.0, number), 0.0, 0.0),
            (Axis::log_from_none(10.0, number), 10.0, 1.0),
            (Axis::words(&["a", "b", "c"]), 1.0, 0.5),
        ] {
            assert!(
                (axis.place(value) - place).abs() < 1e-9,
                "{axis:?} {value}: {}",
                axis.place(value)
            );
        }
    }
}

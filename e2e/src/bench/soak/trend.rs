//! What a process takes over time, and whether it grows.

/// Which quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Resident,
    Descriptors,
    Threads,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Resident => "resident memory",
            Self::Descriptors => "descriptors",
            Self::Threads => "threads",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        if self == Self::Resident { "MiB" } else { "" }
    }

    /// What is no growth, whatever the spread: pages of an allocator, connections that are about to close.
    fn least(self) -> f64 {
        if self == Self::Resident { 1.0 } else { 2.0 }
    }
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds since the beginning.
    pub(super) at: f64,
    /// The process.
    pub(super) of: &'static str,
    pub(super) kind: Kind,
    pub(super) value: f64,
}

/// One quantity of one process, in order.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) of: &'static str,
    pub(super) kind: Kind,
    pub(super) points: Vec<(f64, f64)>,
}

/// How a series ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trend {
    /// The last value.
    pub(super) last: f64,
    /// What the straight line through the second half rises by beyond three times the spread around it; zero if it does not.
    pub(super) growth: f64,
}

impl Series {
    /// All, by process and quantity.
    pub(super) fn all(samples: &[Sample]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for sample in samples {
            let point = (sample.at, sample.value);
            match all.iter_mut().find(|series| (series.of, series.kind) == (sample.of, sample.kind)) {
                Some(series) => series.points.push(point),
                None => all.push(Self { of: sample.of, kind: sample.kind, points: vec![point] }),
            }
        }
        all
    }

    /// The first half is for what fills once: caches, pools, tables.
    pub(super) fn trend(&self) -> Trend {
        let half = self.points.get(self.points.len() / 2..).unwrap_or_default();
        let last = self.points.last().map_or(0.0, |(_, value)| *value);
        let count = half.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| half.iter().map(of).sum::<f64>() / count.max(1.0);
        let (time, value) = (mean(|point| point.0), mean(|point| point.1));
        let square: f64 = half.iter().map(|point| (point.0 - time).powi(2)).sum();
        if square <= 0.0 {
            return Trend { last, growth: 0.0 };
        }
        let slope = half.iter().map(|point| (point.0 - time) * (point.1 - value)).sum::<f64>() / square;
        let off = |point: &(f64, f64)| (point.1 - value - slope * (point.0 - time)).powi(2);
        let spread = (half.iter().map(off).sum::<f64>() / count).sqrt();
        let length = half.last().zip(half.first()).map_or(0.0, |(last, first)| last.0 - first.0);
        let noise = (3.0 * spread).max(self.kind.least());
        Trend { last, growth: (slope * length - noise).max(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(kind: Kind, value: impl Fn(f64) -> f64) -> f64 {
        let points = (0..600).map(|n| (f64::from(n), value(f64::from(n)))).collect();
        Series { of: "speaker-1", kind, points }.trend().growth
    }

    #[test]
    fn what_leaks_grows_and_what_fills_or_swings_does_not() {
        let swing = |at: f64| (at / 7.0).sin();
        for (what, kind, value, grows) in [
            ("flat", Kind::Resident, &(|_: f64| 40.0) as &dyn Fn(f64) -> f64, false),
            ("fills in the first half", Kind::Resident, &|at: f64| 40.0 + at.min(200.0) / 10.0, false),
            ("swings", Kind::Resident, &|at: f64| 40.0 + 3.0 * swing(at), false),
            ("six MiB in the second half", Kind::Resident, &|at: f64| 40.0 + at / 50.0, true),
            ("leaks beneath its swings", Kind::Resident, &|at: f64| 40.0 + at / 50.0 + swing(at), true),
            ("a descriptor each ten seconds", Kind::Descriptors, &|at: f64| (20.0 + at / 10.0).floor(), true),
            (
                "one connection more",
                Kind::Descriptors,
                &|at: f64| if at > 500.0 { 21.0 } else { 20.0 },
                false,
            ),
        ] {
            assert_eq!(growth(kind, value) > 0.0, grows, "{what}: {}", growth(kind, value));
        }
    }

    #[test]
    fn a_series_of_one_or_none_has_no_trend() {
        let series = |points: &[(f64, f64)]| Series { of: "x", kind: Kind::Threads, points: points.to_vec() };
        assert_eq!(series(&[]).trend(), Trend { last: 0.0, growth: 0.0 });
        assert_eq!(series(&[(1.0, 7.0)]).trend(), Trend { last: 7.0, growth: 0.0 });
    }
}

//! What the numeric signals of each stage are like just now: values, missing, and a mean over the
//! last moments. For dashboards; drift is judged on profiles.

use std::time::{Duration, Instant};

/// Half of the time that a mean covers at most.
const HALF: Duration = Duration::from_secs(15);

/// One signal on one side of a stage.
#[derive(Clone, Debug, Default)]
pub(super) struct SignalMeter {
    /// Finite values since the process began.
    pub values: u64,
    /// Missing ones since the process began.
    pub missing: u64,
    /// Sums of this half and of the one before, and when this half began.
    halves: Option<(Instant, Sum, Sum)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    n: u64,
    total: f64,
}

impl SignalMeter {
    /// Adds `n` finite values that sum up to `total`, and `missing` ones.
    pub(super) fn add(&mut self, now: Instant, n: u64, total: f64, missing: u64) {
        self.values += n;
        self.missing += missing;
        let (start, current, before) = self.at(now);
        self.halves = Some((start, Sum { n: current.n + n, total: current.total + total }, before));
    }

    /// Returns the mean over the last 15 to 30 seconds; `None` without values.
    pub(super) fn mean(&self, now: Instant) -> Option<f64> {
        let (_, current, before) = self.at(now);
        let n = current.n + before.n;
        (n > 0).then(|| (current.total + before.total) / n as f64)
    }

    /// Returns the halves as they stand at `now`.
    fn at(&self, now: Instant) -> (Instant, Sum, Sum) {
        match self.halves {
            Some((start, current, before)) if now.saturating_duration_since(start) < HALF => (start, current, before),
            Some((start, current, _)) if now.saturating_duration_since(start) < 2 * HALF => {
                (start + HALF, Sum::default(), current)
            }
            _ => (now, Sum::default(), Sum::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_forgets_what_is_old() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = SignalMeter::default();
        assert_eq!(meter.mean(start), None);
        meter.add(at(0), 2, 10.0, 1);
        assert_eq!(meter.mean(at(14)), Some(5.0));
        meter.add(at(16), 2, 30.0, 0);
        assert_eq!(meter.mean(at(16)), Some(10.0), "both halves");
        assert_eq!(meter.mean(at(31)), Some(15.0), "the first half is forgotten");
        assert_eq!(meter.mean(at(61)), None);
        meter.add(at(100), 1, 7.0, 0);
        assert_eq!(meter.mean(at(100)), Some(7.0));
        assert_eq!((meter.values, meter.missing), (5, 1));
    }
}

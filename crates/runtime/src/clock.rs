//! Noticing that the wall clock was set back.

use std::time::{Duration, Instant, SystemTime};

/// Waits that are longer by this much do no harm: no session ends meanwhile.
const HARMLESS: Duration = Duration::from_secs(5);

/// The wall clock beside the one that only counts, as both stood at the last look.
pub(crate) struct WallClock {
    wall: SystemTime,
    counted: Instant,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        Self { wall: SystemTime::now(), counted: Instant::now() }
    }

    /// By how much the wall clock was set back since the last look, if it is more than [`HARMLESS`].
    pub(crate) fn set_back(&mut self) -> Option<Duration> {
        self.look(Self::new())
    }

    fn look(&mut self, now: Self) -> Option<Duration> {
        let last = std::mem::replace(self, now);
        let expected = last.wall + self.counted.duration_since(last.counted);
        expected.duration_since(self.wall).ok().filter(|back| *back > HARMLESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_set_back_is_noticed() {
        let seconds = Duration::from_secs;
        let (wall, counted) = (SystemTime::UNIX_EPOCH + seconds(100_000), Instant::now());
        let mut clock = WallClock { wall, counted };
        let at = |wall_ahead, passed| WallClock { wall: wall + wall_ahead, counted: counted + passed };
        assert_eq!(clock.look(at(seconds(1), seconds(1))), None);
        // Forward, as after a machine has slept.
        assert_eq!(clock.look(at(seconds(3_602), seconds(2))), None);
        // Back again, and then as ever.
        assert_eq!(clock.look(at(seconds(3), seconds(3))), Some(seconds(3_600)));
        assert_eq!(clock.look(at(seconds(4), seconds(4))), None);
        // By a little: clocks are set right all the time.
        assert_eq!(clock.look(at(seconds(3), seconds(5))), None);
    }
}

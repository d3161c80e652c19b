//! When things are sent: at the times at which they would happen, or as fast as they are taken.

use std::time::Duration;

use driftline_stage::{StageError, Timestamp};
use serde::Deserialize;

/// What the times of a config look like.
pub(crate) const A_TIME: &str = "a time such as \"2000-01-01T00:00:00Z\"";

/// Reads the event time at which a source starts.
pub(crate) fn start_of(start: &str) -> Result<Timestamp, StageError> {
    Timestamp::parse(start).ok_or_else(|| StageError::fatal(format!("start: found {start:?}, allowed is {A_TIME}")))
}

/// How fast things are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// As fast as they are taken.
    #[default]
    Fast,
    /// Each when its time has come.
    Realtime,
}

/// Says when the ticks of a source come.
#[derive(Debug)]
pub(crate) struct Pacing {
    pace: Pace,
    every: Duration,
    /// The time and the tick that are the same moment.
    anchor: Option<(Duration, u64)>,
}

impl Pacing {
    pub(crate) fn new(pace: Pace, every: Duration) -> Self {
        Self { pace, every, anchor: None }
    }

    /// Returns how long it is until a tick begins; `None` if it has begun.
    pub(crate) fn until_begin(&mut self, tick: u64, now: Duration) -> Option<Duration> {
        left(self.begin(tick, now)?, now)
    }

    /// Returns how long it is until a tick ends; `None` if it has ended.
    pub(crate) fn until_end(&mut self, tick: u64, now: Duration) -> Option<Duration> {
        left(self.begin(tick, now)? + self.every, now)
    }

    /// Forgets when ticks came: the next one comes when it is asked for.
    pub(crate) fn pause(&mut self) {
        self.anchor = None;
    }

    fn begin(&mut self, tick: u64, now: Duration) -> Option<Duration> {
        if self.pace == Pace::Fast {
            return None;
        }
        let (time, first) = *self.anchor.get_or_insert((now, tick));
        Some(time + self.every * u32::try_from(tick - first).unwrap_or(u32::MAX))
    }
}

fn left(due: Duration, now: Duration) -> Option<Duration> {
    due.checked_sub(now).filter(|wait| !wait.is_zero())
}

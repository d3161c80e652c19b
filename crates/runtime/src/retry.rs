//! Repeating what failed for a passing reason.

use std::time::Duration;

use driftline_broker::BrokerError;
use driftline_types::{ErrorClass, StageName};

use crate::{
    flow::{Flow, Stop},
    metrics::NodeMetrics,
};

/// Repeats a call while the broker is unavailable, and until the nodes are asked to stop at once. Meanwhile the node is
/// not ready.
///
/// # Errors
/// What the last call said.
pub(crate) fn until_available<T>(
    node: &StageName,
    flow: &Flow,
    metrics: &NodeMetrics,
    mut call: impl FnMut() -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let mut backoff = Backoff::new(u64::from(std::process::id()));
    loop {
        match call() {
            Err(error) if error.class() == ErrorClass::Transient && flow.stopping() != Some(Stop::Now) => {
                let wait = backoff.next_wait();
                tracing::warn!(%node, %error, ?wait, "the broker does not answer, trying again");
                metrics.set_ready(false);
                flow.pause(wait);
            }
            outcome => return outcome,
        }
    }
}

/// Exponential backoff with full jitter: the n-th wait is uniform in [0, min(5 s, 100 ms · 2ⁿ)].
///
/// Full jitter: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
#[derive(Debug)]
pub(crate) struct Backoff {
    attempt: u32,
    /// xorshift64 state: jitter needs to differ between processes, not to be good.
    random: u64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);

    pub(crate) fn new(seed: u64) -> Self {
        Self { attempt: 0, random: seed | 1 }
    }

    /// Returns how long to wait before the next attempt.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let ceiling = Self::FIRST.saturating_mul(1 << self.attempt.min(16)).min(Self::LAST);
        self.attempt += 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ceiling.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_the_ceiling() {
        let mut backoff = Backoff::new(7);
        for n in 0..40 {
            let ceiling = Duration::from_millis(100 << n.min(16)).min(Duration::from_secs(30));
            assert!(backoff.next_wait() <= ceiling, "attempt {n}");
        }
    }
}

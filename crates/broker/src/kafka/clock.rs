//! The cluster's clock against this machine's.
//!
//! Kafka tells its time in one place: the moment at which it appends a record to a topic that keeps that moment. So a topic is made
//! for the measurement, with a partition a broker, and deleted after it.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::Timestamp;

use super::{
    Kafka,
    cluster::{failed, refused},
    trial::Trial,
};
use crate::BrokerError;

/// Records sent to each broker: the one that came back fastest says most.
const TRIES: usize = 8;

/// How far the clock of a broker is from this machine's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockDifference {
    /// Milliseconds that the broker is ahead; negative if it is behind.
    pub ahead_ms: f64,
    /// Half of the way there and back, milliseconds: the difference is known that well.
    pub within_ms: f64,
}

impl Kafka {
    /// Measures the brokers' clocks; returns the difference that is certainly the largest. A topic is made for it and deleted.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if topics may not be made; [`BrokerError::Unavailable`] if there is no answer.
    pub fn clock(&self) -> Result<ClockDifference, BrokerError> {
        let name =
            format!("{}driftline-clock-{:016x}", self.0.config.prefix, RandomState::new().hash_one(std::process::id()));
        let brokers = self.0.brokers()?;
        self.0.make(&name, brokers, &[("message.timestamp.type", "LogAppendTime".to_owned())])?;
        let measured = self.measure(&name, brokers);
        self.0.delete(&name)?;
        measured
    }

    fn measure(&self, name: &str, partitions: u32) -> Result<ClockDifference, BrokerError> {
        let mut client = self.0.config.producer(None);
        client.set("linger.ms", "0");
        let trial = Trial::start(&self.0.config, &client)?;
        let mut worst: Option<ClockDifference> = None;
        for partition in 0..partitions {
            let mut best: Option<ClockDifference> = None;
            for _ in 0..TRIES {
                let found = once(&trial, name, partition)?;
                best = Some(best.filter(|best| best.within_ms <= found.within_ms).unwrap_or(found));
            }
            let certain = |difference: &ClockDifference| difference.ahead_ms.abs() - difference.within_ms;
            worst = match (worst, best) {
                (Some(worst), Some(best)) if certain(&best) <= certain(&worst) => Some(worst),
                (_, best) => best,
            };
        }
        worst.ok_or_else(|| refused("read the clock", "the cluster has no brokers"))
    }
}

/// Sends a record and compares the moment of its appending with the middle between sending and hearing of it.
fn once(trial: &Trial, name: &str, partition: u32) -> Result<ClockDifference, BrokerError> {
    let (sent_at, sent) = (SystemTime::now(), Instant::now());
    let outcome = trial.send("read the clock", name, partition)?;
    let within_ms = sent.elapsed().as_secs_f64() * 500.0;
    let Timestamp::LogAppendTime(appended) = outcome.map_err(|error| failed("read the clock", &error))? else {
        return Err(refused("read the clock", "the cluster did not say when it appended a record"));
    };
    let sent_ms = sent_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0;
    // Kafka tells whole milliseconds.
    Ok(ClockDifference { ahead_ms: appended as f64 + 0.5 - (sent_ms + within_ms), within_ms: within_ms + 0.5 })
}

//! Probes: fixed recordings that a source sends on a schedule, and what a stage answers to them.
//!
//! A probe is due at every multiple of the schedule's period in event time; it is sent before the first record of the source
//! that is not earlier. Without a period it is due once, with the first record of the source: enough for a log that is
//! made to be judged. Its records have keys of their own, so no session of a user is touched; and the next sending
//! begins when the one before has ended, since a source writes in order.

use bytes::Bytes;
use driftline_stats::{ProbePart, ValueHash};
use driftline_types::{Context, Message, Probe, Timestamp};

use crate::operator::Site;

/// What begins the key of every record of a probe.
const KEY: &str = "probe/";
/// When probes are due that were sent for the last time.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// The probes that a source sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Event time between two sendings, milliseconds, at least 1; `None` sends once, at the start.
    pub every_ms: Option<i64>,
    /// What is sent.
    pub recordings: Vec<Recording>,
}

/// The records of one key, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The probe's name.
    pub name: String,
    /// The values of its records, as on the wire.
    pub values: Vec<Bytes>,
}

impl Schedule {
    /// Returns when probes are due, given when they were due next and the time of the source's next record: the last due time
    /// not after the record, if there is one that was not sent, and the next one.
    pub(crate) fn due(&self, next: Option<Timestamp>, time: Timestamp) -> (Option<Timestamp>, Timestamp) {
        let Some(every_ms) = self.every_ms else { return (next.is_none().then_some(time), NEVER) };
        let last = time.window_start(every_ms);
        let after = last.plus_millis(every_ms.max(1));
        match next {
            Some(next) if next <= last => (Some(last), after),
            Some(next) => (None, next),
            None => (None, after),
        }
    }
}

/// Returns the key of a probe's records.
pub(crate) fn key(name: &str) -> Bytes {
    format!("{KEY}{name}").into()
}

/// Notes a record of a probe that a stage has read.
pub(crate) fn read(parts: &mut Vec<ProbePart>, site: &Site, context: &Context, message: &Message) {
    if let (Some(probe), Some(value)) = (&context.probe, &message.value) {
        part(parts, site, probe).inputs.insert(context.id.clone(), ValueHash::of(value));
    }
}

/// Returns the part of an answer that a batch gives to a probe.
pub(crate) fn part<'a>(parts: &'a mut Vec<ProbePart>, site: &Site, probe: &Probe) -> &'a mut ProbePart {
    let known = parts.iter().position(|part| part.round == probe.round && *part.probe == *probe.name);
    let at = known.unwrap_or_else(|| {
        parts.push(ProbePart {
            stage: site.stage.clone(),
            version: site.version.clone(),
            probe: probe.name.to_string(),
            round: probe.round,
            inputs: std::collections::BTreeMap::new(),
            outputs: std::collections::BTreeMap::new(),
        });
        parts.len() - 1
    });
    &mut parts[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_due_once_a_period_and_not_at_the_start() {
        let schedule = Schedule { every_ms: Some(60_000), recordings: Vec::new() };
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert_eq!(schedule.due(None, at(30)), (None, at(60)));
        assert_eq!(schedule.due(Some(at(60)), at(59)), (None, at(60)));
        assert_eq!(schedule.due(Some(at(60)), at(60)), (Some(at(60)), at(120)));
        // Of those that were missed the last one is sent.
        assert_eq!(schedule.due(Some(at(60)), at(250)), (Some(at(240)), at(300)));
        assert_eq!(schedule.due(None, at(120)), (None, at(180)));
    }

    #[test]
    fn without_a_period_probes_are_due_once_and_at_the_start() {
        let schedule = Schedule { every_ms: None, recordings: Vec::new() };
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert_eq!(schedule.due(None, at(30)), (Some(at(30)), NEVER));
        assert_eq!(schedule.due(Some(NEVER), at(90)), (None, NEVER));
    }
}

//! One source: read, write as one unit, repeat.
//!
//! A broker that goes away leaves it open whether the last unit was written. A new producer decides that, and shuts out
//! any other process that may have taken over; then the state in the log is that before the unit, or that after it, or
//! somebody else's.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, Producer, Unit};
use driftline_stage::{
    OpenSource, SourceStatus, StageError, StateChange,
    operator::{Counts, Site},
};
use driftline_types::{ErrorClass, Outgoing, Timestamp};

use crate::{
    RunError,
    failure::with_causes,
    flow::Flow,
    letters::make_room,
    metrics::NodeMetrics,
    retry::{Backoff, until_available},
    stage_task::into_unit,
    state::read_state,
    telemetry::Node,
};

pub(crate) struct SourceTask {
    pub site: Arc<Site>,
    pub source: Box<dyn OpenSource>,
    pub broker: Arc<dyn Broker>,
    pub flow: Arc<Flow>,
    pub metrics: Arc<NodeMetrics>,
    pub telemetry: Option<Node>,
    /// How many nodes read what it writes.
    pub readers: i64,
}

/// A source's end of the log.
struct Log {
    producer: Box<dyn Producer>,
    /// The source's state in the log.
    state: BTreeMap<Bytes, Bytes>,
}

impl SourceTask {
    pub(crate) fn run(mut self) -> Result<(), RunError> {
        let at = |error: StageError| RunError::stage(&self.site.stage, &error);
        let mut log = until_available(&self.site.stage, &self.flow, &self.metrics, || self.connect())
            .map_err(RunError::Broker)?;
        self.source.restore(log.state.clone().into_iter().collect()).map_err(at)?;
        self.metrics.set_ready(true);
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        loop {
            self.flow.wait_for_room();
            if self.flow.stopping().is_some() {
                break;
            }
            let (mut effects, status) = match self.source.read(Timestamp::now()) {
                Ok(read) => read,
                Err(error) if error.class() == ErrorClass::Transient => {
                    let wait = backoff.next_wait();
                    let error = with_causes(&error);
                    tracing::warn!(stage = %self.site.stage, %error, ?wait, "source failed, trying again");
                    self.flow.wait(wait);
                    continue;
                }
                Err(error) => return Err(at(error)),
            };
            let mut counts = effects.counts;
            let changes = effects.state.clone();
            let telling = self.telemetry.as_ref().map(|telemetry| {
                let spans = telemetry.begin(&mut effects.outputs);
                (telemetry, spans, std::mem::take(&mut effects.tallies), Instant::now())
            });
            let mut unit = Unit::default();
            into_unit(&self.site, 0, effects, &mut unit);
            if !unit.outputs.is_empty() {
                if self.write(&mut log, &mut unit.outputs, &mut counts, &changes)?.is_break() {
                    break;
                }
                self.flow.add_backlog((counts.written + counts.probes) as i64 * self.readers);
                self.metrics.count(&counts);
                self.metrics.bytes(0, bytes_of(&unit));
                if let Some((telemetry, spans, tallies, started)) = telling {
                    telemetry.sent(started, spans, &tallies);
                }
            }
            match status {
                SourceStatus::More => {}
                SourceStatus::Wait(time) => self.flow.wait(time.min(Duration::from_secs(1))),
                SourceStatus::End => break,
            }
        }
        self.flow.finish(&self.site.stage);
        Ok(())
    }

    /// Opens a producer, which ends what an earlier one has left open, and reads the state after that.
    fn connect(&self) -> Result<Log, BrokerError> {
        let name = self.site.pipeline.group(&self.site.stage);
        let producer = self.broker.producer(name.as_str())?;
        Ok(Log { producer, state: read_state(&*self.broker, &self.site, 0)? })
    }

    /// Writes a unit once, however long the broker is away. What is larger than its topic takes is written as a dead
    /// letter: the progress past it is in the same unit. Breaks where the run is to stop first: the next run reads the
    /// same again.
    fn write(
        &self,
        log: &mut Log,
        outputs: &mut Vec<Outgoing>,
        counts: &mut Counts,
        changes: &[StateChange],
    ) -> Result<ControlFlow<()>, RunError> {
        let mut outcome = log.producer.send(outputs.to_vec());
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        while let Err(error) = outcome {
            if make_room(&error, &self.site.pipeline, &self.site.stage, outputs, counts) {
                outcome = log.producer.send(outputs.to_vec());
                continue;
            }
            if error.class() != ErrorClass::Transient {
                return Err(refused(&self.site, error));
            }
            let wait = backoff.next_wait();
            tracing::warn!(stage = %self.site.stage, %error, ?wait, "unit not written, trying again");
            self.metrics.set_ready(false);
            self.flow.wait(wait);
            if self.flow.stopping().is_some() {
                return Ok(ControlFlow::Break(()));
            }
            outcome = match self.connect() {
                Ok(found) if found.state == log.state => {
                    *log = found;
                    log.producer.send(outputs.to_vec())
                }
                Ok(found) if found.state == with(log.state.clone(), changes) => {
                    log.producer = found.producer;
                    Ok(())
                }
                Ok(_) => {
                    let error = StageError::fatal("another process has taken this source's place");
                    return Err(RunError::stage(&self.site.stage, &error));
                }
                Err(error) => Err(error),
            };
        }
        log.state = with(std::mem::take(&mut log.state), changes);
        self.metrics.set_ready(true);
        Ok(ControlFlow::Continue(()))
    }
}

/// Applies changes to a state.
fn with(mut state: BTreeMap<Bytes, Bytes>, changes: &[StateChange]) -> BTreeMap<Bytes, Bytes> {
    changes.iter().cloned().for_each(|change| change.apply(&mut state));
    state
}

fn refused(site: &Site, error: BrokerError) -> RunError {
    match error {
        BrokerError::TooLarge { .. } => RunError::stage(
            &site.stage,
            &StageError::fatal("the source wrote what is too large and no record").caused_by(error),
        ),
        error => RunError::Broker(error),
    }
}

pub(crate) fn bytes_of(unit: &Unit) -> u64 {
    unit.outputs.iter().map(|message| message.payload_bytes() as u64).sum()
}

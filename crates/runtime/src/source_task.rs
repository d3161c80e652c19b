//! One source: read, write as one unit, repeat.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use driftline_broker::{Broker, BrokerError, Unit};
use driftline_stage::{OpenSource, SourceStatus, StageError, operator::Site};
use driftline_types::{ErrorClass, Timestamp};

use crate::{
    RunError,
    flow::Flow,
    metrics::NodeMetrics,
    retry::Backoff,
    stage_task::{into_unit, read_state, with_causes},
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

impl SourceTask {
    pub(crate) fn run(mut self) -> Result<(), RunError> {
        let at = |error: StageError| RunError::stage(&self.site.stage, &error);
        let entries = read_state(&*self.broker, &self.site, 0).map_err(RunError::Broker)?;
        self.source.restore(entries).map_err(at)?;
        let mut producer =
            self.broker.producer(self.site.pipeline.group(&self.site.stage).as_str()).map_err(RunError::Broker)?;
        self.metrics.set_ready();
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        loop {
            self.flow.wait_for_room();
            if self.flow.stopping().is_some() {
                break;
            }
            let (mut effects, status) = match self.source.read(now()) {
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
            let counts = effects.counts;
            let telling = self.telemetry.as_ref().map(|telemetry| {
                let spans = telemetry.begin(&mut effects.outputs);
                (telemetry, spans, std::mem::take(&mut effects.tallies), Instant::now())
            });
            let mut unit = Unit::default();
            into_unit(&self.site, 0, effects, &mut unit);
            if !unit.outputs.is_empty() {
                self.flow.add_backlog((counts.written + counts.probes) as i64 * self.readers);
                self.metrics.count(&counts);
                self.metrics.bytes(0, bytes_of(&unit));
                producer.send(unit.outputs).map_err(|error| refused(&self.site, error))?;
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
}

fn refused(site: &Site, error: BrokerError) -> RunError {
    match error {
        BrokerError::TooLarge { .. } => RunError::stage(
            &site.stage,
            &StageError::fatal("the source wrote a record that is too large").caused_by(error),
        ),
        error => RunError::Broker(error),
    }
}

pub(crate) fn bytes_of(unit: &Unit) -> u64 {
    unit.outputs.iter().map(|message| message.payload_bytes() as u64).sum()
}

/// Returns the wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since.as_millis() as i64)
}

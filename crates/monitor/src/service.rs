//! The monitor on a broker: profiles in, state and alarms out, as one unit with the offsets.
//!
//! **One at work.** The topic of profiles has one partition: whose doing a change is needs the profiles of all nodes in one
//! place, and a detector's windows must come in order. Several monitors of a pipeline are a consumer group: one has the partition,
//! the others stand by, and the next takes the state up where the last commit left it. Work is shared between monitors by
//! pipeline.
//!
//! Offsets are committed up to the first profile of a window that is still open, so half-filled windows need not be written down: they
//! are read again. `taken_to` in the state tells profiles that are read again from new ones.

use std::{
    collections::BTreeMap,
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, Committed, FetchLimit, Member, OffsetCommit, Poll, Unit, records};
use driftline_types::{
    Headers, Message, Offset, Outgoing, PipelineName, RecordId, StageName, Timestamp, Topic, TopicPartition, wire,
};
use serde::{Deserialize, Serialize};

use crate::{Alarm, Baseline, Monitor, ProfileMessage, Settings, StateError, Status};

/// How long a monitor waits for profiles before it looks around.
const IDLE: Duration = Duration::from_millis(20);
const FETCH: FetchLimit = FetchLimit { records: 4_096, bytes: 8 << 20 };
/// How many records of a partition are looked through for examples, and how many are named.
const LOOKED_AT: u64 = 512;
const EXAMPLES: usize = 3;
/// The schema of an alarm.
const SCHEMA: &str = "alarm.v1";

/// Why a monitor stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The broker failed for good.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// What was remembered cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Whether more profiles will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// They may.
    Open,
    /// Every node has written its last: once all are read, open windows are judged as they are.
    Finished,
    /// Every node was stopped and will go on later: open windows are left open.
    Paused,
    /// Now.
    CutOff,
}

impl Ending {
    /// Decides from whether the run is cut off, every node has finished, and a run that was stopped goes on later.
    #[must_use]
    pub fn of(cut_off: bool, finished: bool, resumes: bool) -> Self {
        match (cut_off, finished, resumes) {
            (true, _, _) => Self::CutOff,
            (false, true, true) => Self::Paused,
            (false, true, false) => Self::Finished,
            (false, false, _) => Self::Open,
        }
    }
}

/// Hears what a monitor finds.
pub trait Listener {
    /// An alarm was written.
    fn alarm(&self, alarm: &Alarm);
    /// Windows were judged: how things stand now.
    fn judged(&self, status: &Status);
    /// The work has come or gone. `status` is how things stood where it was taken up; `None` if another monitor has it. Heard first
    /// as soon as the group is joined.
    fn at_work(&self, _status: Option<&Status>) {}
}

/// A request to the monitor, on the topic of control.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Control {
    /// Somebody knows of the alarm of this id.
    Acknowledge(String),
}

/// A monitor of one pipeline on its broker.
pub struct Service {
    broker: Arc<dyn Broker>,
    settings: Settings,
    baseline: Arc<Baseline>,
    /// Whether it was told that examples cannot be read.
    without_examples: Once,
}

impl Service {
    /// Makes a service. Nothing is read before it [runs](Self::run).
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, settings: Settings, baseline: Arc<Baseline>) -> Self {
        Self { broker, settings, baseline, without_examples: Once::new() }
    }

    /// Watches until `ending` says that nothing more will come. `listener` hears what is found, and how things stood at
    /// the end is returned; `None` if another monitor had the work.
    ///
    /// # Errors
    /// If the broker fails for good, or what was remembered cannot be read.
    pub fn run(&self, ending: impl Fn() -> Ending, listener: &dyn Listener) -> Result<Option<Status>, ServiceError> {
        let profiles = self.settings.pipeline.profiles_topic();
        let group = self.settings.pipeline.monitor_group();
        let mut member = self.broker.join(&group, &[profiles.clone(), self.settings.pipeline.control_topic()])?;
        let mut monitor: Option<Monitor> = None;
        // Where the profiles stand in the log by the last commit.
        let mut taken_to = 0;
        let mut control = None;
        let mut probes_read = 0;
        loop {
            // Asked before the log is: what is written before a node says that it is finished is seen after.
            let end = ending();
            if end == Ending::CutOff {
                return Ok(monitor.map(|monitor| monitor.status()));
            }
            match member.poll(FETCH, IDLE)? {
                Poll::Messages(messages) => {
                    for message in messages {
                        if message.topic == profiles {
                            if let Some(monitor) = &mut monitor {
                                monitor.take(&profile_message(message));
                                if monitor.is_due() {
                                    self.read_probes(monitor, &mut probes_read)?;
                                    monitor.close_complete();
                                }
                            }
                        } else {
                            control = Some(message.offset + 1);
                            self.obey(&message, &mut monitor);
                        }
                    }
                    self.commit(&mut *member, &mut monitor, &mut taken_to, &mut control, listener)?;
                }
                Poll::Assigned(partitions) => {
                    if let Some((_, committed)) = partitions.iter().find(|(place, _)| place.topic == profiles) {
                        taken_to = committed.next;
                        monitor = Some(self.restored()?);
                        probes_read = 0;
                    }
                    listener.at_work(monitor.as_ref().map(Monitor::status).as_ref());
                }
                Poll::Revoking(partitions) | Poll::Lost(partitions) => {
                    if partitions.iter().any(|place| place.topic == profiles) {
                        monitor = None;
                        listener.at_work(None);
                    }
                }
                Poll::Idle if end == Ending::Open || member.lag()? > 0 => {}
                Poll::Idle => {
                    if let Some(monitor) = &mut monitor
                        && end == Ending::Finished
                    {
                        self.read_probes(monitor, &mut probes_read)?;
                        monitor.close_all();
                    }
                    self.commit(&mut *member, &mut monitor, &mut taken_to, &mut control, listener)?;
                    return Ok(monitor.map(|monitor| monitor.status()));
                }
            }
        }
    }

    /// Returns how things stand by what the last commit left, without taking part in the work.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn look(&self) -> Result<Monitor, ServiceError> {
        self.restored()
    }

    fn restored(&self) -> Result<Monitor, ServiceError> {
        let mut monitor = Monitor::new(self.settings.clone(), Arc::clone(&self.baseline));
        let mut entries: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        for message in records(&*self.broker, TopicPartition::new(self.settings.pipeline.monitor_state_topic(), 0))? {
            let message = message?;
            match (message.key, message.value) {
                (Some(key), Some(value)) => drop(entries.insert(key, value)),
                (Some(key), None) => drop(entries.remove(&key)),
                (None, _) => {}
            }
        }
        monitor.restore(&entries.into_iter().collect::<Vec<_>>())?;
        Ok(monitor)
    }

    /// Gives a monitor the answers to probes that have come since, if there are probes to ask.
    fn read_probes(&self, monitor: &mut Monitor, next: &mut Offset) -> Result<(), BrokerError> {
        let place = TopicPartition::new(self.settings.pipeline.probes_topic(), 0);
        if self.settings.answers.is_empty() {
            return Ok(());
        }
        let Some(topic) = self.broker.describe_topic(&place.topic)? else { return Ok(()) };
        *next = topic.partitions.first().map_or(*next, |ends| ends.low.max(*next));
        loop {
            let messages = self.broker.read(&place, *next, FETCH)?;
            let Some(last) = messages.last() else { return Ok(()) };
            *next = last.offset + 1;
            // What is no answer is left out.
            let parts = messages.iter().filter_map(|message| serde_json::from_slice(message.value.as_deref()?).ok());
            parts.for_each(|part| monitor.take_probe(part));
        }
    }

    fn obey(&self, message: &Message, monitor: &mut Option<Monitor>) {
        let request = message.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
        match (request, monitor) {
            (Some(Control::Acknowledge(id)), Some(monitor)) => {
                if !monitor.acknowledge(&id) {
                    tracing::warn!(alarm = id, "an alarm that is not firing was acknowledged");
                }
            }
            (Some(_), None) => {}
            (None, _) => tracing::warn!(offset = message.offset, "a request to the monitor cannot be read"),
        }
    }

    /// Writes what changed. Without a change nothing is committed: what was read is read again.
    fn commit(
        &self,
        member: &mut dyn Member,
        monitor: &mut Option<Monitor>,
        taken_to: &mut Offset,
        control: &mut Option<Offset>,
        listener: &dyn Listener,
    ) -> Result<(), ServiceError> {
        let Some(held) = monitor else { return Ok(()) };
        for (id, node, since) in held.wanted_examples() {
            held.set_examples(&id, &self.examples(&node, since));
        }
        let (changes, alarms) = held.take_changes();
        if changes.is_empty() && control.is_none() {
            return Ok(());
        }
        let now = alarms.last().map_or_else(Timestamp::default, |alarm| alarm.updated);
        let changed = changes.into_iter().map(|(key, value)| Outgoing {
            topic: self.settings.pipeline.monitor_state_topic(),
            partition: Some(0),
            key: Some(key),
            value,
            headers: Headers::default(),
            timestamp: now,
        });
        let mut outputs: Vec<Outgoing> = changed.collect();
        outputs.extend(alarms.iter().map(|alarm| self.message(alarm)));
        let mut offsets = Vec::new();
        let mut offset = |topic: &Topic, next| {
            let partition = TopicPartition::new(topic.clone(), 0);
            offsets.push(OffsetCommit { partition, committed: Committed { next, metadata: None } });
        };
        // Every unit names it: by its offsets the broker knows whether the work is still this monitor's.
        *taken_to = held.needed_from().unwrap_or(*taken_to);
        offset(&self.settings.pipeline.profiles_topic(), *taken_to);
        if let Some(next) = control.take() {
            offset(&self.settings.pipeline.control_topic(), next);
        }
        match member.commit(Unit { outputs, offsets }) {
            Ok(()) => {
                alarms.iter().for_each(|alarm| listener.alarm(alarm));
                listener.judged(&held.status());
            }
            // Another monitor has the work: it reads the same profiles and raises the same alarms.
            Err(BrokerError::Fenced { .. }) => {
                *monitor = None;
                listener.at_work(None);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn message(&self, alarm: &Alarm) -> Outgoing {
        let mut headers = Headers::default();
        headers.push(wire::CE_TYPE, SCHEMA);
        headers.push(wire::CONTENT_TYPE, "application/json");
        Outgoing {
            topic: self.settings.pipeline.alarms_topic(),
            partition: Some(0),
            key: Some(alarm.id.clone().into()),
            // A value of plain data always has JSON.
            value: Some(serde_json::to_vec(alarm).unwrap_or_default().into()),
            headers,
            timestamp: alarm.updated,
        }
    }

    /// Names some of the last outputs of a node since a moment. An alarm that cannot have them is raised without.
    fn examples(&self, node: &StageName, since: Timestamp) -> Vec<RecordId> {
        self.last_outputs(node, since).unwrap_or_else(|error| {
            self.without_examples.call_once(|| {
                tracing::warn!(%node, %error, "alarms name no examples where the outputs of a node cannot be read");
            });
            Vec::new()
        })
    }

    /// Names some of the last outputs of a node since a moment, by their places in the log.
    fn last_outputs(&self, node: &StageName, since: Timestamp) -> Result<Vec<RecordId>, BrokerError> {
        let topic = self.settings.pipeline.output_topic(node);
        let found = self.broker.describe_topic(&topic)?;
        let found = found.ok_or_else(|| BrokerError::UnknownTopic { topic: topic.clone() })?;
        let mut examples = Vec::new();
        for (partition, ends) in found.partitions.iter().enumerate() {
            let place = TopicPartition::new(topic.clone(), partition as u32);
            let from = ends.high.saturating_sub(LOOKED_AT).max(ends.low);
            let limit = FetchLimit { records: LOOKED_AT as usize, bytes: FETCH.bytes };
            let messages = self.broker.read(&place, from, limit)?;
            let outputs = messages.iter().filter(|message| message.timestamp >= since && wire::is_output(message));
            examples.extend(outputs.map(|message| RecordId {
                topic: topic.clone(),
                partition: message.partition,
                offset: message.offset,
                index: 0,
            }));
        }
        examples.truncate(EXAMPLES);
        Ok(examples)
    }
}

fn profile_message(message: Message) -> ProfileMessage {
    let node = message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    ProfileMessage {
        offset: message.offset,
        partition: message.headers.get_str(wire::PARTITION).and_then(|text| text.parse().ok()).unwrap_or_default(),
        node: node.and_then(|node| StageName::try_new(node).ok()),
        start: message.timestamp,
        value: message.value.unwrap_or_default(),
    }
}

/// Reads the alarms of a pipeline, each as it stands now, in the order in which they were raised. Records that are no alarms are
/// left out.
///
/// # Errors
/// If the log cannot be read.
pub fn alarms(broker: &dyn Broker, pipeline: &PipelineName) -> Result<Vec<Alarm>, BrokerError> {
    let place = TopicPartition::new(pipeline.alarms_topic(), 0);
    if broker.describe_topic(&place.topic)?.is_none() {
        return Ok(Vec::new());
    }
    let mut alarms: Vec<Alarm> = Vec::new();
    for message in records(broker, place)? {
        let Some(alarm) = message?.value.and_then(|value| serde_json::from_slice::<Alarm>(&value).ok()) else {
            continue;
        };
        match alarms.iter_mut().find(|known| known.id == alarm.id) {
            Some(known) => *known = alarm,
            None => alarms.push(alarm),
        }
    }
    Ok(alarms)
}

/// Asks the monitor of a pipeline to note that somebody knows of an alarm.
///
/// # Errors
/// If the broker cannot be reached or the topic of control does not exist.
pub fn acknowledge(broker: &dyn Broker, pipeline: &PipelineName, id: &str) -> Result<(), BrokerError> {
    let request = Control::Acknowledge(id.to_owned());
    let message = Outgoing {
        topic: pipeline.control_topic(),
        partition: Some(0),
        key: Some(Bytes::copy_from_slice(id.as_bytes())),
        value: Some(serde_json::to_vec(&request).unwrap_or_default().into()),
        headers: Headers::default(),
        timestamp: Timestamp::default(),
    };
    broker.producer(&format!("{pipeline}.control"))?.send(vec![message])
}

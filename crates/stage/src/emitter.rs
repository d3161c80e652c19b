//! The only way out of a stage.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use driftline_types::{Code, Context, Injections, Key, Parameter, Probe, Record, RecordId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Payload, operator::Emitted};

/// The first index in the id of an output that was flushed, see [`crate::Stage::flush`].
pub const FLUSHED: u32 = 1 << 31;

/// Takes what a stage makes of its input. It derives key, event time, trace and lineage of each
/// output from the parent record, and accounts for every input: one that was neither emitted from,
/// held nor rejected when `process` returns counts as *dropped*.
pub struct Emitter<'a, T> {
    inputs: &'a [Input],
    injections: &'a Injections,
    fates: Vec<Fate>,
    outputs: Vec<Output<T>>,
    rejected: Vec<(usize, String)>,
    dropped_held: Vec<Held>,
    state: Vec<StateChange>,
    hint: usize,
    first_index: u32,
}

/// A record kept by a stage for a later output. It goes into the stage's state and comes back with
/// the output it became part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its place in the log.
    pub id: RecordId,
    /// Its codebook cell.
    pub code: Option<Code>,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Sender::is_user")]
    pub sender: Sender,
}

/// Who sent a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// A user: it counts.
    #[default]
    User,
    /// A probe: it does not.
    Probe,
}

impl Sender {
    pub(crate) fn is_user(&self) -> bool {
        *self == Self::User
    }

    fn of(context: &Context) -> Self {
        if context.probe.is_some() { Self::Probe } else { Self::User }
    }
}

/// A change of a stage's keyed state, committed with the outputs of the same batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The key within the partition.
    pub key: Bytes,
    /// The new value; `None` removes the key.
    pub value: Option<Bytes>,
}

impl StateChange {
    /// Makes the change in a copy of the state.
    pub fn apply(self, state: &mut BTreeMap<Bytes, Bytes>) {
        match self.value {
            Some(value) => drop(state.insert(self.key, value)),
            None => drop(state.remove(&self.key)),
        }
    }
}

/// What is needed of an input to account for it.
pub(crate) struct Input {
    pub id: RecordId,
    pub event_time: Timestamp,
    pub code: Option<Code>,
    pub probe: Option<Probe>,
}

impl Input {
    pub(crate) fn of<T>(record: &Record<T>) -> Self {
        let Context { id, code, probe, .. } = &record.context;
        Self { id: id.clone(), event_time: record.event_time, code: *code, probe: probe.clone() }
    }
}

/// What became of an input of the current batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Dropped,
    Emitted,
    Held,
    Rejected,
}

pub(crate) struct Output<T> {
    pub key: Key,
    pub event_time: Timestamp,
    pub context: Context,
    pub value: T,
    /// The inputs it stands for: of this batch by index, or held ones.
    pub from: Origins,
}

pub(crate) enum Origins {
    Input(Option<Code>),
    Held(Vec<Held>),
}

impl<'a, T: Payload> Emitter<'a, T> {
    /// Makes an emitter for one batch; `inputs` are the batch's records in order.
    pub(crate) fn new(inputs: &'a [Input], injections: &'a Injections) -> Self {
        Self {
            inputs,
            injections,
            fates: vec![Fate::Dropped; inputs.len()],
            outputs: Vec::new(),
            rejected: Vec::new(),
            dropped_held: Vec::new(),
            state: Vec::new(),
            hint: 0,
            first_index: 0,
        }
    }

    /// Makes an emitter for [`crate::Stage::flush`]: there are no inputs, and the ids of its
    /// outputs cannot meet those of a trigger that has caused outputs before.
    pub(crate) fn for_flush(injections: &'a Injections) -> Self {
        Self { first_index: FLUSHED, ..Self::new(&[], injections) }
    }

    pub(crate) fn into_emitted(self) -> Emitted<T> {
        let Self { fates, outputs, rejected, dropped_held, state, .. } = self;
        Emitted { fates, outputs, rejected, dropped_held, state }
    }

    /// Returns the value of a parameter of this stage at the time of a record: what is injected, or its neutral value.
    #[must_use]
    pub fn parameter<I>(&self, parameter: &Parameter, record: &Record<I>) -> f64 {
        self.injections.value(parameter, record.event_time)
    }

    /// Emits a value made from one record of the batch.
    pub fn emit<I>(&mut self, parent: &Record<I>, value: T) {
        self.settle(parent, Fate::Emitted);
        let context = self.child(parent, vec![parent.context.id.clone()]);
        self.push(parent, context, value, Origins::Input(parent.context.code));
    }

    /// Emits a value made from held records. `trigger` is the record that completed it: the output
    /// takes its key, event time and trace, and its id names it. The trigger itself counts as a
    /// part only if it is among `parts`.
    pub fn emit_held<I>(&mut self, trigger: &Record<I>, parts: Vec<Held>, value: T) {
        let context = self.child(trigger, parts.iter().map(|held| held.id.clone()).collect());
        self.push(trigger, context, value, Origins::Held(parts));
    }

    /// Keeps a record of the batch for a later output.
    pub fn hold<I>(&mut self, record: &Record<I>) -> Held {
        self.settle(record, Fate::Held);
        Held { id: record.context.id.clone(), code: record.context.code, sender: Sender::of(&record.context) }
    }

    /// Drops held records after all; they count as dropped.
    pub fn drop_held(&mut self, held: impl IntoIterator<Item = Held>) {
        self.dropped_held.extend(held);
    }

    /// Sends a record of the batch to the dead-letter topic, byte for byte. The reason names what
    /// was found and what is allowed, and never the content.
    pub fn reject<I>(&mut self, record: &Record<I>, reason: impl Into<String>) {
        if let Some(index) = self.settle(record, Fate::Rejected) {
            self.rejected.push((index, reason.into()));
        }
    }

    /// Writes an entry of the stage's keyed state.
    pub fn put_state(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.state.push(StateChange { key: key.into(), value: Some(value.into()) });
    }

    /// Removes an entry of the stage's keyed state.
    pub fn delete_state(&mut self, key: impl Into<Bytes>) {
        self.state.push(StateChange { key: key.into(), value: None });
    }

    fn push<I>(&mut self, parent: &Record<I>, context: Context, value: T, from: Origins) {
        self.outputs.push(Output { key: parent.key.clone(), event_time: parent.event_time, context, value, from });
    }

    /// Makes the context of an output; its index counts the outputs with the same parent so far.
    fn child<I>(&self, parent: &Record<I>, parents: Vec<RecordId>) -> Context {
        let parent = &parent.context;
        let same_parent = |id: &RecordId| {
            id.offset == parent.id.offset && id.partition == parent.id.partition && id.topic == parent.id.topic
        };
        // Outputs of one parent are emitted together, so only the last one has to be looked at.
        let index = match self.outputs.last() {
            Some(last) if same_parent(&last.context.id) => last.context.id.index + 1,
            _ => self.first_index,
        };
        Context {
            id: RecordId { index, ..parent.id.clone() },
            trace: parent.trace.clone(),
            parents,
            versions: Arc::clone(&parent.versions),
            timings: Arc::clone(&parent.timings),
            ingested: parent.ingested,
            code: None,
            probe: parent.probe.clone(),
        }
    }

    /// Notes the fate of a record of this batch and returns its index; records come in order, so
    /// the search starts where the last one ended.
    fn settle<I>(&mut self, record: &Record<I>, fate: Fate) -> Option<usize> {
        let n = self.inputs.len();
        let index = (0..n).map(|i| (self.hint + i) % n).find(|&i| self.inputs[i].id == record.context.id)?;
        self.hint = index;
        // A record that was emitted from stays so, whatever else the stage does with it.
        if self.fates[index] != Fate::Emitted {
            self.fates[index] = fate;
        }
        Some(index)
    }
}

//! The only way out of a stage.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use driftline_stats::ReferenceId;
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
    /// The reference that the inputs' cells are of.
    counted_on: ReferenceId,
    fates: Vec<Fate>,
    /// How many outputs each input has caused.
    caused: Vec<u32>,
    /// The same for causes that are no inputs of the batch.
    caused_by_others: HashMap<RecordId, u32>,
    outputs: Vec<Output<T>>,
    rejected: Vec<(usize, String)>,
    dropped_held: Vec<(Held, Timestamp)>,
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
    /// The reference that the cell is of: it may have been changed since.
    #[serde(default)]
    pub counted_on: ReferenceId,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Sender::is_user")]
    pub sender: Sender,
}

impl Held {
    /// Returns its cell, if that is of this reference.
    pub(crate) fn code_on(&self, reference: ReferenceId) -> Option<Code> {
        self.code.filter(|_| self.counted_on == reference)
    }
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
    /// Makes an emitter for one batch; `inputs` are the batch's records in order, with cells of the reference `counted_on`.
    pub(crate) fn new(inputs: &'a [Input], injections: &'a Injections, counted_on: ReferenceId) -> Self {
        Self {
            inputs,
            injections,
            counted_on,
            fates: vec![Fate::Dropped; inputs.len()],
            caused: vec![0; inputs.len()],
            caused_by_others: HashMap::new(),
            outputs: Vec::with_capacity(inputs.len()),
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
        Self { first_index: FLUSHED, ..Self::new(&[], injections, ReferenceId::DECLARED) }
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
        let place = self.settle(parent, Fate::Emitted);
        let context = self.child(parent, place, vec![parent.context.id.clone()]);
        self.push(parent, context, value, Origins::Input(parent.context.code));
    }

    /// Emits a value made from held records. `trigger` is the record that completed it: the output
    /// takes its key, event time and trace, and its id names it. The trigger itself counts as a
    /// part only if it is among `parts`.
    pub fn emit_held<I>(&mut self, trigger: &Record<I>, parts: Vec<Held>, value: T) {
        let place = self.find(trigger);
        let context = self.child(trigger, place, parts.iter().map(|held| held.id.clone()).collect());
        self.push(trigger, context, value, Origins::Held(parts));
    }

    /// Keeps a record of the batch for a later output.
    pub fn hold<I>(&mut self, record: &Record<I>) -> Held {
        self.settle(record, Fate::Held);
        Held {
            id: record.context.id.clone(),
            code: record.context.code,
            counted_on: self.counted_on,
            sender: Sender::of(&record.context),
        }
    }

    /// Drops held records after all; they count as dropped. `at` is the event time of the record that decided it, in whose
    /// window they are described: it must not depend on which records share a batch.
    pub fn drop_held(&mut self, held: impl IntoIterator<Item = Held>, at: Timestamp) {
        self.dropped_held.extend(held.into_iter().map(|held| (held, at)));
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

    /// Makes the context of an output. Its index counts the outputs with the same parent so far, in whatever order the
    /// stage comes to them; `place` is the parent's among the inputs.
    fn child<I>(&mut self, parent: &Record<I>, place: Option<usize>, parents: Vec<RecordId>) -> Context {
        let parent = &parent.context;
        let caused = match place {
            Some(place) => &mut self.caused[place],
            None => self.caused_by_others.entry(parent.id.clone()).or_default(),
        };
        let index = self.first_index + *caused;
        *caused += 1;
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

    /// Returns the index of a record of this batch; records come in order, so the search starts where the last one ended.
    fn find<I>(&mut self, record: &Record<I>) -> Option<usize> {
        let n = self.inputs.len();
        let index = (0..n).map(|i| (self.hint + i) % n).find(|&i| self.inputs[i].id == record.context.id)?;
        self.hint = index;
        Some(index)
    }

    /// Notes the fate of a record of this batch and returns its index.
    fn settle<I>(&mut self, record: &Record<I>, fate: Fate) -> Option<usize> {
        let index = self.find(record)?;
        // A record that was emitted from stays so, whatever else the stage does with it.
        if self.fates[index] != Fate::Emitted {
            self.fates[index] = fate;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use driftline_stats::SignalVisitor;
    use driftline_types::{SchemaId, Topic};

    use super::*;
    use crate::CodecError;

    struct Nothing;

    impl Payload for Nothing {
        const SCHEMA: SchemaId = SchemaId::new("nothing.v1");
        const CONTENT_TYPE: &'static str = "application/octet-stream";

        fn encode(&self, _out: &mut BytesMut) -> Result<(), CodecError> {
            Ok(())
        }

        fn decode(_bytes: &Bytes) -> Result<Self, CodecError> {
            Ok(Self)
        }

        fn signals(&self, _visit: &mut dyn SignalVisitor) {}
    }

    fn record(offset: u64) -> Record<()> {
        let id = RecordId { topic: Topic::try_new("t").unwrap(), partition: 0, offset, index: 0 };
        let context = Context::at_source(id, Timestamp::default());
        Record { key: Key::new("k"), event_time: Timestamp::default(), context, value: () }
    }

    /// Offset and index of the id of each output.
    fn ids(out: Emitter<'_, Nothing>) -> Vec<(u64, u32)> {
        out.into_emitted().outputs.iter().map(|output| (output.context.id.offset, output.context.id.index)).collect()
    }

    #[test]
    fn what_was_held_keeps_the_reference_that_its_cell_is_of() {
        let other: ReferenceId = serde_json::from_str("[1, 2, 3, 4, 5, 6, 7, 8]").unwrap();
        let mut held = record(1);
        held.context.code = Some(17);
        let (inputs, injections) = ([Input::of(&held)], Injections::default());
        let mut out: Emitter<'_, Nothing> = Emitter::new(&inputs, &injections, other);
        let kept: Held = serde_json::from_slice(&serde_json::to_vec(&out.hold(&held)).unwrap()).unwrap();
        assert_eq!((kept.code_on(other), kept.code_on(ReferenceId::DECLARED)), (Some(17), None));
    }

    #[test]
    fn outputs_of_one_record_are_counted_on_in_whatever_order_they_come() {
        let (a, b, earlier) = (record(1), record(2), record(0));
        let inputs = [Input::of(&a), Input::of(&b)];
        let injections = Injections::default();
        let mut out = Emitter::new(&inputs, &injections, ReferenceId::DECLARED);
        for cause in [&a, &a, &b, &a] {
            out.emit(cause, Nothing);
        }
        for cause in [&b, &earlier, &a, &earlier] {
            out.emit_held(cause, Vec::new(), Nothing);
        }
        assert_eq!(ids(out), [(1, 0), (1, 1), (2, 0), (1, 2), (2, 1), (0, 0), (1, 3), (0, 1)]);
        let mut out = Emitter::for_flush(&injections);
        for cause in [&a, &b, &a] {
            out.emit_held(cause, Vec::new(), Nothing);
        }
        assert_eq!(ids(out), [(1, FLUSHED), (2, FLUSHED), (1, FLUSHED + 1)]);
    }
}

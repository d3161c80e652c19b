//! The typed stage, wrapped once: bytes in, bytes out, everything observed.
//!
//! decode (failure: dead letter) → observe the input → process → observe the output and the
//! input × output joint → encode. What comes back are the [`Effects`] of the batch, which the
//! runtime commits as one unit with the offsets of the batch. The profiles among them describe
//! exactly these records.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use driftline_stats::{
    DROPPED, Direction, JointProfile, NumberProfile, ProbePart, Profile, ProfileBody, ProfileKey, ProfileSet,
    Reference, Signal, UNKNOWN, ValueHash, Window,
};
use driftline_types::{
    Code, Injections, Key, Message, Outgoing, PipelineName, Record, RecordId, StageName, StageVersion, Timestamp,
    Timing, Topic,
    wire::{self, Origin, Reader},
};

use crate::{
    Emitter, Payload, Stage, StageError, StateChange,
    emitter::{Fate, Input, Origins, Output},
    probe,
};

pub use crate::probe::{Recording, Schedule};

/// Who a stage is and where it stands, shared by its instances.
#[derive(Clone, Debug)]
pub struct Site {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The source's or stage's name.
    pub stage: StageName,
    /// Its version.
    pub version: StageVersion,
    /// Width of a profile's window in event time, milliseconds.
    pub window_ms: i64,
    /// Whether batches tell the sums of their signals.
    pub tallies: Tallies,
    /// What is injected into it. Its version does not tell: a change in production would not either.
    pub injections: Injections,
    /// What its records are counted on.
    pub bins: Bins,
    /// Of a source: the probes that it sends.
    pub probes: Option<Arc<Schedule>>,
}

impl Site {
    /// Makes a site where nothing is injected, probed or told, and all is counted on declared scales.
    #[must_use]
    pub fn new(pipeline: PipelineName, stage: StageName, version: StageVersion, window_ms: i64) -> Self {
        Self {
            pipeline,
            stage,
            version,
            window_ms,
            tallies: Tallies::Off,
            injections: Injections::default(),
            bins: Bins::default(),
            probes: None,
        }
    }
}

/// What the records of a source or stage are counted on.
#[derive(Clone, Debug)]
pub struct Bins {
    /// What goes in; for a source nothing does.
    pub input: Arc<Reference>,
    /// What comes out.
    pub output: Arc<Reference>,
}

/// Every signal on its declared scale.
impl Default for Bins {
    fn default() -> Self {
        let declared = Arc::new(Reference::declared());
        Self { input: Arc::clone(&declared), output: declared }
    }
}

/// Whether the sums of the signals of a batch are told beside its profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tallies {
    /// [`Effects::tallies`] is empty.
    #[default]
    Off,
    /// [`Effects::tallies`] is filled.
    On,
}

/// A stage of one partition, its types erased.
pub trait Operator: Send {
    /// Takes back the committed state, before the first batch.
    ///
    /// # Errors
    /// If an entry cannot be read.
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError>;

    /// Processes messages of one partition, in offset order. `waited` is how long the oldest of
    /// them waited in this stage before.
    ///
    /// # Errors
    /// As [`Stage::process`]. The operator is not used again after an error.
    fn process(&mut self, batch: &[Message], waited: Duration) -> Result<Effects, StageError>;

    /// Emits what is buffered when the input has ended for good.
    ///
    /// # Errors
    /// As [`Stage::flush`].
    fn flush(&mut self) -> Result<Effects, StageError>;
}

/// What a batch led to, to be committed as one unit.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records for the stage's topic.
    pub outputs: Vec<Outgoing>,
    /// Records for its dead-letter topic.
    pub dead_letters: Vec<Outgoing>,
    /// Changes of its keyed state.
    pub state: Vec<StateChange>,
    /// What it saw, a profile a direction and window.
    pub profiles: Vec<EncodedProfile>,
    /// What it answered to probes.
    pub probes: Vec<ProbePart>,
    /// The sums of its numeric signals, if the site asks for them.
    pub tallies: Vec<Tally>,
    /// What became of the records.
    pub counts: Counts,
}

/// A delta of the profile of one side of the stage over one window.
#[derive(Debug)]
pub struct EncodedProfile {
    /// Start of the window, event time.
    pub window: Timestamp,
    /// The encoded [`Profile`].
    pub bytes: Vec<u8>,
}

/// A numeric signal of a batch, on one side of the stage.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Input or output.
    pub direction: Direction,
    /// The signal.
    pub signal: &'static Signal,
    /// The number of finite values.
    pub values: u64,
    /// Their sum.
    pub sum: f64,
    /// The number of missing values.
    pub missing: u64,
}

/// Numbers of records. Over a whole run `read = used + dropped + rejected + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Records written.
    pub written: u64,
    /// Records read that became part of an output.
    pub used: u64,
    /// Records read that produced nothing.
    pub dropped: u64,
    /// Records read that went to the dead-letter topic.
    pub rejected: u64,
    /// Change in the number of records kept for a later output.
    pub held: i64,
    /// Records of probes written; of these nothing else is counted.
    pub probes: u64,
}

/// Profiles being filled. What was counted since the last [`Observer::take`] is one delta; the
/// memory of the newest windows is kept for the next.
pub(crate) struct Observer {
    site: Arc<Site>,
    profiles: BTreeMap<(Timestamp, Direction), Profile>,
}

/// How many profiles keep their memory: both sides and the joint, of two windows.
const KEPT: usize = 6;

impl Observer {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site, profiles: BTreeMap::new() }
    }

    /// Counts a value and returns its code.
    pub(crate) fn observe(&mut self, direction: Direction, time: Timestamp, value: &impl Payload) -> Code {
        match self.body(direction, time) {
            ProfileBody::Input(set) | ProfileBody::Output(set) => set.observe(|visitor| value.signals(visitor)),
            ProfileBody::Joint(_) => UNKNOWN,
        }
    }

    /// Counts what a record became; a source's have no input.
    pub(crate) fn pair(&mut self, time: Timestamp, input: Option<Code>, output: Code) {
        if let ProfileBody::Joint(joint) = self.body(Direction::Joint, time) {
            joint.observe(input.unwrap_or(UNKNOWN), output);
        }
    }

    fn body(&mut self, direction: Direction, time: Timestamp) -> &mut ProfileBody {
        let start = time.window_start(self.site.window_ms);
        let Self { site, profiles } = self;
        let profile = profiles.entry((start, direction)).or_insert_with(|| Profile {
            key: ProfileKey {
                pipeline: site.pipeline.clone(),
                stage: site.stage.clone(),
                version: site.version.clone(),
                window: Window { start, millis: site.window_ms.unsigned_abs() },
            },
            body: match direction {
                Direction::Input => ProfileBody::Input(ProfileSet::new(Arc::clone(&site.bins.input))),
                Direction::Output => ProfileBody::Output(ProfileSet::new(Arc::clone(&site.bins.output))),
                Direction::Joint => ProfileBody::Joint(JointProfile::new(site.bins.input.id(), site.bins.output.id())),
            },
        });
        &mut profile.body
    }

    /// Moves what was counted since the last call to the effects of a batch; what went in comes last, so that a reader who
    /// has seen it has seen all that it led to.
    pub(crate) fn take(&mut self, effects: &mut Effects) {
        if self.site.tallies == Tallies::On {
            effects.tallies = self.tallies();
        }
        let mut inputs = Vec::new();
        for ((start, direction), profile) in &mut self.profiles {
            if !profile.body.is_empty() {
                let encoded = EncodedProfile { window: *start, bytes: profile.encode() };
                if *direction == Direction::Input { &mut inputs } else { &mut effects.profiles }.push(encoded);
            }
            match &mut profile.body {
                ProfileBody::Input(set) | ProfileBody::Output(set) => set.clear(),
                ProfileBody::Joint(joint) => joint.clear(),
            }
        }
        effects.profiles.extend(inputs);
        while self.profiles.len() > KEPT {
            self.profiles.pop_first();
        }
    }

    fn tallies(&self) -> Vec<Tally> {
        let sets = self.profiles.iter().filter_map(|((_, direction), profile)| match &profile.body {
            ProfileBody::Input(set) | ProfileBody::Output(set) => Some((*direction, set)),
            ProfileBody::Joint(_) => None,
        });
        let numbers = sets.flat_map(|(direction, set)| set.numbers().map(move |number| (direction, number)));
        let tally = |(direction, (signal, profile)): (Direction, (&'static Signal, &NumberProfile))| Tally {
            direction,
            signal,
            values: profile.finite(),
            sum: profile.mean().unwrap_or(0.0) * profile.finite() as f64,
            missing: profile.missing(),
        };
        numbers.map(tally).collect()
    }
}

/// An [`Operator`] around a [`Stage`].
pub(crate) struct StageOperator<S: Stage> {
    stage: S,
    site: Arc<Site>,
    origin: Origin,
    topic: Topic,
    observer: Observer,
    reader: Reader,
    version: (StageName, StageVersion),
    versions: Appended<(StageName, StageVersion)>,
    timings: Appended<Timing>,
}

impl<S: Stage> StageOperator<S> {
    pub(crate) fn new(stage: S, site: Arc<Site>) -> Self {
        Self {
            stage,
            origin: Origin::new(&site.pipeline, &site.stage, S::Output::SCHEMA),
            topic: site.pipeline.output_topic(&site.stage),
            observer: Observer::new(Arc::clone(&site)),
            reader: Reader::default(),
            version: (site.stage.clone(), site.version.clone()),
            versions: Appended::default(),
            timings: Appended::default(),
            site,
        }
    }

    /// Decodes a message, or says why it is none of the stage's records.
    fn decode(&mut self, message: &Message) -> Result<Record<S::Input>, String> {
        let schema = S::Input::SCHEMA.as_str();
        if let Some(found) = message.headers.get_str(wire::CE_TYPE)
            && found != schema
        {
            return Err(format!("{}: found {found:?}, allowed {schema:?}", wire::CE_TYPE));
        }
        let Some(value) = &message.value else {
            return Err(format!("value: found none, allowed a value of {schema}"));
        };
        let value = S::Input::decode(value).map_err(|error| format!("{schema}: {error}"))?;
        Ok(Record {
            key: Key::new(message.key.clone().unwrap_or_default()),
            event_time: message.timestamp,
            context: self.reader.context(message),
            value,
        })
    }

    /// Encodes the outputs of a batch and settles what became of its inputs.
    fn finish(
        &mut self,
        batch: &[Message],
        inputs: &[Input],
        emitted: Emitted<S::Output>,
        mut effects: Effects,
        took: Duration,
    ) -> Result<Effects, StageError> {
        let Emitted { fates, mut outputs, rejected, dropped_held, state } = emitted;
        // In the order of their causes, however the stage came to them: readers rely on it to recognise repeats.
        outputs.sort_by(|a, b| a.context.id.cmp(&b.context.id));
        for (input, fate) in inputs.iter().zip(&fates).filter(|(input, _)| input.probe.is_none()) {
            match fate {
                Fate::Dropped => {
                    effects.counts.dropped += 1;
                    self.observer.pair(input.event_time, input.code, DROPPED);
                }
                Fate::Emitted => effects.counts.used += 1,
                Fate::Held => effects.counts.held += 1,
                Fate::Rejected => effects.counts.rejected += 1,
            }
        }
        for (held, at) in dropped_held.into_iter().filter(|(held, _)| held.sender.is_user()) {
            effects.counts.dropped += 1;
            effects.counts.held -= 1;
            self.observer.pair(at, held.code_on(self.site.bins.input.id()), DROPPED);
        }
        let by_offset = |index: usize| {
            let RecordId { topic, offset, .. } = &inputs[index].id;
            batch.iter().find(|message| message.offset == *offset && message.topic == *topic)
        };
        for (index, reason) in rejected {
            if let Some(probe) = &inputs[index].probe {
                let refused = ValueHash::of(reason.as_bytes());
                probe::part(&mut effects.probes, &self.site, probe).outputs.insert(inputs[index].id.clone(), refused);
                continue;
            }
            if let Some(message) = by_offset(index) {
                effects.dead_letters.push(wire::dead_letter(&self.site.pipeline, &self.site.stage, message, reason));
            }
        }
        let timing = Timing { stage: self.site.stage.clone(), ms: took.as_secs_f64() * 1e3 };
        let mut buffer = wire::header_buffer(outputs.len());
        effects.outputs.reserve(outputs.len());
        for output in outputs {
            let (counts, probes) = (&mut effects.counts, &mut effects.probes);
            effects.outputs.push(self.encode(output, &timing, counts, probes, &mut buffer)?);
        }
        effects.state = state;
        self.observer.take(&mut effects);
        Ok(effects)
    }

    fn encode(
        &mut self,
        output: Output<S::Output>,
        timing: &Timing,
        counts: &mut Counts,
        probes: &mut Vec<ProbePart>,
        buffer: &mut BytesMut,
    ) -> Result<Outgoing, StageError> {
        let Output { key, event_time, mut context, value, from } = output;
        if context.probe.is_none() {
            self.count(event_time, &value, from, counts);
        }
        context.versions = self.versions.list(&context.versions, &self.version);
        context.timings = self.timings.list(&context.timings, timing);
        value
            .encode(buffer)
            .map_err(|error| StageError::record(format!("cannot encode {}: {error}", S::Output::SCHEMA)))?;
        let encoded = buffer.split().freeze();
        match &context.probe {
            None => counts.written += 1,
            Some(probe) => {
                counts.probes += 1;
                let hash = ValueHash::of(&encoded);
                probe::part(probes, &self.site, probe).outputs.insert(context.id.clone(), hash);
            }
        }
        Ok(Outgoing {
            topic: self.topic.clone(),
            partition: None,
            key: Some(key.as_bytes().clone()),
            value: Some(encoded),
            headers: self.origin.headers(&context, event_time, value.content_type(), buffer),
            timestamp: event_time,
        })
    }
}

impl<S: Stage> StageOperator<S> {
    /// Counts an output and what it was made from.
    fn count(&mut self, time: Timestamp, value: &S::Output, from: Origins, counts: &mut Counts) {
        let code = self.observer.observe(Direction::Output, time, value);
        match from {
            Origins::Input(input) => self.observer.pair(time, input, code),
            Origins::Held(parts) => {
                for part in parts.into_iter().filter(|part| part.sender.is_user()) {
                    counts.used += 1;
                    counts.held -= 1;
                    self.observer.pair(time, part.code_on(self.site.bins.input.id()), code);
                }
            }
        }
    }
}

impl<S: Stage> Operator for StageOperator<S> {
    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        self.stage.restore(entries)
    }

    fn process(&mut self, batch: &[Message], waited: Duration) -> Result<Effects, StageError> {
        let started = Instant::now();
        let mut effects = Effects::default();
        let mut records = Vec::with_capacity(batch.len());
        for message in batch {
            // What was sent again to another node is passed over.
            if !wire::is_for(message, self.site.stage.as_str()) {
                continue;
            }
            effects.counts.read += u64::from(!wire::is_probe(message));
            match self.decode(message) {
                Ok(record) if record.context.probe.is_some() => {
                    probe::read(&mut effects.probes, &self.site, &record.context, message);
                    records.push(record);
                }
                Ok(mut record) => {
                    let code = self.observer.observe(Direction::Input, record.event_time, &record.value);
                    record.context.code = Some(code);
                    records.push(record);
                }
                Err(reason) => {
                    effects.counts.rejected += 1;
                    effects.dead_letters.push(wire::dead_letter(
                        &self.site.pipeline,
                        &self.site.stage,
                        message,
                        reason,
                    ));
                }
            }
        }
        let inputs: Vec<Input> = records.iter().map(Input::of).collect();
        let mut out = Emitter::new(&inputs, &self.site.injections, self.site.bins.input.id());
        self.stage.process(&records, &mut out)?;
        let emitted = out.into_emitted();
        let took = waited + started.elapsed();
        self.finish(batch, &inputs, emitted, effects, took)
    }

    fn flush(&mut self) -> Result<Effects, StageError> {
        let started = Instant::now();
        let mut out = Emitter::for_flush(&self.site.injections);
        self.stage.flush(&mut out)?;
        let emitted = out.into_emitted();
        self.finish(&[], &[], emitted, Effects::default(), started.elapsed())
    }
}

/// What an emitter holds when the stage has returned.
pub(crate) struct Emitted<T> {
    pub fates: Vec<Fate>,
    pub outputs: Vec<Output<T>>,
    pub rejected: Vec<(usize, String)>,
    pub dropped_held: Vec<(crate::Held, Timestamp)>,
    pub state: Vec<StateChange>,
}

/// Lists with one more element. Most records of a batch have the same list, so the last answer is kept.
struct Appended<T> {
    list: Arc<[T]>,
    longer: Arc<[T]>,
}

impl<T> Default for Appended<T> {
    fn default() -> Self {
        Self { list: Arc::default(), longer: Arc::default() }
    }
}

impl<T: Clone + PartialEq> Appended<T> {
    fn list(&mut self, so_far: &Arc<[T]>, own: &T) -> Arc<[T]> {
        let known = (Arc::ptr_eq(&self.list, so_far) || self.list == *so_far) && self.longer.last() == Some(own);
        if !known {
            self.list = Arc::clone(so_far);
            self.longer = so_far.iter().chain([own]).cloned().collect();
        }
        Arc::clone(&self.longer)
    }
}

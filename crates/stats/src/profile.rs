//! Profiles: all signals of one payload, or one joint, of one stage version in one window.
//!
//! A [`ProfileSet`] counts payloads as they pass: it is the [`SignalVisitor`] that a payload is
//! shown to. Laws, which hold bit for bit in the encoded bytes:
//!
//! - merge is associative and commutative, and an empty profile is its identity;
//! - any split of the records over replicas, in any order, merges to the profile of one pass;
//! - `decode(encode(p)) == p`, and equal profiles are equal bytes.

use std::{fmt, sync::Arc};

use driftline_types::{Code, PipelineName, StageName, StageVersion, Timestamp};

use crate::{
    JointProfile, MergeError, NumberProfile, Reference, ReferenceId, Signal, SignalBins, SignalProfile, SignalVisitor,
    edges::MISSING, reference::CodeOfRecord, wire::Writer,
};

/// A span of event time, `start` included and the end not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// The first millisecond.
    pub start: Timestamp,
    /// The length in milliseconds.
    pub millis: u64,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} + {} ms", self.start, self.millis)
    }
}

/// What a profile describes, apart from its direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileKey {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The stage.
    pub stage: StageName,
    /// The version of the stage.
    pub version: StageVersion,
    /// The window of event time.
    pub window: Window,
}

/// Which side of a stage a profile describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What went in.
    Input,
    /// What came out.
    Output,
    /// Input code × output code.
    Joint,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Joint => "joint",
        })
    }
}

/// The counts of one stage version over one window, seen from one side.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What it describes.
    pub key: ProfileKey,
    /// The counts.
    pub body: ProfileBody,
}

/// The counts of a profile.
#[derive(Clone, Debug, PartialEq)]
pub enum ProfileBody {
    /// Signals of what went in.
    Input(ProfileSet),
    /// Signals of what came out.
    Output(ProfileSet),
    /// Input code × output code.
    Joint(JointProfile),
}

impl ProfileBody {
    /// Returns which side it describes.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::Input(_) => Direction::Input,
            Self::Output(_) => Direction::Output,
            Self::Joint(_) => Direction::Joint,
        }
    }

    /// Says whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Input(set) | Self::Output(set) => set.is_empty(),
            Self::Joint(joint) => joint.total() == 0,
        }
    }
}

impl Profile {
    /// Adds another profile.
    ///
    /// # Errors
    /// If they describe different things or were counted on different references, edges or
    /// dictionaries; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let (ours, theirs) = (&self.key, &other.key);
        same("pipeline", &ours.pipeline, &theirs.pipeline)?;
        same("stage", &ours.stage, &theirs.stage)?;
        same("stage version", &ours.version, &theirs.version)?;
        same("window", &ours.window, &theirs.window)?;
        match (&mut self.body, &other.body) {
            (ProfileBody::Input(ours), ProfileBody::Input(theirs)) => ours.merge(theirs),
            (ProfileBody::Output(ours), ProfileBody::Output(theirs)) => ours.merge(theirs),
            (ProfileBody::Joint(ours), ProfileBody::Joint(theirs)) => ours.merge(theirs),
            (ours, theirs) => same("direction", &ours.direction(), &theirs.direction()),
        }
    }
}

fn same<T: PartialEq + fmt::Display>(what: &'static str, left: &T, right: &T) -> Result<(), MergeError> {
    if left == right {
        return Ok(());
    }
    Err(MergeError::Key { what, left: left.to_string(), right: right.to_string() })
}

/// The counts of all signals of a payload, on one [`Reference`].
///
/// Signals are found by their address in the order in which payloads visit them, so nothing is
/// hashed and nothing allocated once each was seen. A visit of another kind than the signal was
/// first counted as counts as missing.
#[derive(Clone, Debug)]
pub struct ProfileSet {
    reference: Arc<Reference>,
    entries: Vec<Entry>,
    /// Where the next signal is expected.
    cursor: usize,
    code: CodeOfRecord,
}

/// One signal of a set.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The signal as payloads visit it; unknown to a set that was decoded.
    signal: Option<&'static Signal>,
    pub(crate) name: Box<str>,
    pub(crate) unit: Box<str>,
    /// Whether the bins come from the reference or from the declaration.
    pub(crate) from_reference: bool,
    pub(crate) profile: SignalProfile,
    /// Which part of the record codebook it is, if there is one and the set counts by itself.
    part: Option<usize>,
}

impl ProfileSet {
    /// Makes an empty set.
    #[must_use]
    pub fn new(reference: Arc<Reference>) -> Self {
        Self { reference, entries: Vec::new(), cursor: 0, code: CodeOfRecord::default() }
    }

    pub(crate) fn with_entries(reference: Arc<Reference>, entries: Vec<Entry>) -> Self {
        Self { entries, ..Self::new(reference) }
    }

    /// Counts one payload and returns its [code](Reference::code): `visit` shows its signals.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use driftline_stats::{ProfileSet, Reference, Scale, Signal, SignalVisitor};
    /// static LENGTH: Signal = Signal::number("length", "s", "Length.", Scale::Log { lo: 0.01, hi: 100.0 });
    /// let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    /// let code = set.observe(|visit| visit.number(&LENGTH, Some(1.0)));
    /// assert_eq!(code, 4 + 16); // four slots before the bins, then the middle of 32
    /// ```
    pub fn observe(&mut self, visit: impl FnOnce(&mut dyn SignalVisitor)) -> Code {
        self.cursor = 0;
        self.code.start(&self.reference);
        visit(self);
        self.code.get(&self.reference)
    }

    /// Adds another set. Signals that only one of the two has seen are kept.
    ///
    /// # Errors
    /// If the two have different references, or a signal has different edges, dictionaries or
    /// kinds; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.reference.id() != other.reference.id() {
            return Err(MergeError::Reference { left: self.reference.id(), right: other.reference.id() });
        }
        let is_at = |at: usize, theirs: &Entry| self.entries.get(at).is_some_and(|ours| ours.name == theirs.name);
        // Sets of one payload have a signal at the same place, but for those that only one has seen.
        let place_of = |(at, theirs): (usize, &Entry)| {
            if is_at(at, theirs) { Some(at) } else { (0..self.entries.len()).find(|&at| is_at(at, theirs)) }
        };
        let places: Vec<Option<usize>> = other.entries.iter().enumerate().map(place_of).collect();
        for (place, theirs) in places.iter().zip(&other.entries) {
            if let Some(at) = *place {
                self.entries[at].check(theirs)?;
            }
        }
        for (place, theirs) in places.iter().zip(&other.entries) {
            match *place {
                Some(at) => self.entries[at].add(theirs)?,
                None => self.entries.push(theirs.clone()),
            }
        }
        Ok(())
    }

    /// Forgets all values but keeps the signals and their memory: for the next delta.
    pub fn clear(&mut self) {
        for entry in &mut self.entries {
            match &mut entry.profile {
                SignalProfile::Number(profile) => profile.clear(),
                SignalProfile::Category(profile) => profile.clear(),
                SignalProfile::Embedding(profile) => profile.clear(),
            }
        }
    }

    /// Says whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.profile.total() == 0)
    }

    /// Returns the reference that values are counted on.
    #[must_use]
    pub fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// Returns the id of all bins in use: of the reference, and of the declared scales of signals
    /// that it does not have.
    #[must_use]
    pub fn reference_id(&self) -> ReferenceId {
        let mut description = Writer::default();
        description.bytes(&self.reference.id().to_bytes());
        for entry in self.sorted() {
            description.text(&entry.name);
            entry.profile.bins().describe(&mut description);
        }
        ReferenceId::of(&description.finish())
    }

    /// Returns the signals that were counted, by name: name, unit and profile.
    pub fn signals(&self) -> impl Iterator<Item = (&str, &str, &SignalProfile)> {
        self.sorted().into_iter().map(|entry| (&*entry.name, &*entry.unit, &entry.profile))
    }

    /// Visits the numeric signals that this set has counted itself, in the order in which they were
    /// first seen: cheaper than [`ProfileSet::signals`], which sorts and knows decoded ones too.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static Signal, &NumberProfile)> {
        self.entries.iter().filter_map(|entry| match (&entry.profile, entry.signal) {
            (SignalProfile::Number(profile), Some(signal)) if profile.total() > 0 => Some((signal, profile)),
            _ => None,
        })
    }

    /// Returns the profile of a signal, `None` if it was not counted.
    #[must_use]
    pub fn signal(&self, name: &str) -> Option<&SignalProfile> {
        let found = self.entries.iter().find(|entry| *entry.name == *name)?;
        (found.profile.total() > 0).then_some(&found.profile)
    }

    /// Returns the entries that were counted, by name.
    pub(crate) fn sorted(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.profile.total() > 0).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Returns where a signal is counted: at the cursor if payloads keep their order.
    #[inline]
    fn entry(&mut self, signal: &'static Signal) -> usize {
        let expected = self.entries.get(self.cursor).is_some_and(|entry| entry.is_of(signal));
        let at = if expected { self.cursor } else { self.find(signal) };
        self.cursor = at + 1;
        at
    }

    #[cold]
    fn find(&mut self, signal: &'static Signal) -> usize {
        if let Some(at) = self.entries.iter().position(|entry| entry.is_of(signal)) {
            return at;
        }
        if let Some(at) = self.entries.iter().position(|entry| *entry.name == *signal.name) {
            self.entries[at].signal = Some(signal);
            self.entries[at].part = self.reference.records().and_then(|book| book.part(signal.name));
            return at;
        }
        let bins = self.reference.bins(signal).cloned();
        self.entries.push(Entry {
            signal: Some(signal),
            name: signal.name.into(),
            unit: signal.unit.into(),
            from_reference: bins.is_some(),
            part: self.reference.records().and_then(|book| book.part(signal.name)),
            profile: SignalProfile::new(bins.unwrap_or_else(|| SignalBins::declared(signal.kind))),
        });
        self.entries.len() - 1
    }

    #[cold]
    fn number_elsewhere(&mut self, signal: &'static Signal, value: Option<f64>) {
        let at = self.entry(signal);
        let entry = &mut self.entries[at];
        let slot = match &mut entry.profile {
            SignalProfile::Number(profile) => profile.observe(value),
            other => other.count_missing(),
        };
        self.code.see(&self.reference, entry.part, slot);
    }
}

impl SignalVisitor for ProfileSet {
    #[inline]
    fn number(&mut self, signal: &'static Signal, value: Option<f64>) {
        // Nearly all visits come here in the expected order, and nearly all are numbers.
        if let Some(entry) = self.entries.get_mut(self.cursor)
            && entry.is_of(signal)
            && let SignalProfile::Number(profile) = &mut entry.profile
        {
            self.cursor += 1;
            self.code.see(&self.reference, entry.part, profile.observe(value));
        } else {
            self.number_elsewhere(signal, value);
        }
    }

    fn category(&mut self, signal: &'static Signal, value: Option<&str>) {
        let at = self.entry(signal);
        let entry = &mut self.entries[at];
        let slot = match &mut entry.profile {
            SignalProfile::Category(profile) => profile.observe(value),
            other => other.count_missing(),
        };
        self.code.see(&self.reference, entry.part, slot);
    }

    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>) {
        let at = self.entry(signal);
        let entry = &mut self.entries[at];
        match &mut entry.profile {
            SignalProfile::Embedding(profile) => {
                let (slot, projected) = profile.observe_projected(value);
                let has_codebook = profile.bins().codebook.is_some();
                self.code.see_embedding(&self.reference, entry.part, slot, &projected, has_codebook);
            }
            other => self.code.see(&self.reference, entry.part, other.count_missing()),
        }
    }
}

/// Equal references and equal counts of equal signals, in whatever order they were first seen.
impl PartialEq for ProfileSet {
    fn eq(&self, other: &Self) -> bool {
        self.reference.id() == other.reference.id() && self.sorted() == other.sorted()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.unit, &self.profile) == (&other.name, &other.unit, &other.profile)
    }
}

impl Entry {
    pub(crate) fn decoded(name: &str, unit: &str, from_reference: bool, profile: SignalProfile) -> Self {
        Self { signal: None, name: name.into(), unit: unit.into(), from_reference, profile, part: None }
    }

    #[inline]
    fn is_of(&self, signal: &'static Signal) -> bool {
        self.signal.is_some_and(|held| std::ptr::eq(held, signal))
    }

    fn check(&self, other: &Self) -> Result<(), MergeError> {
        let (left, right) = (self.profile.bins(), other.profile.bins());
        if (&self.unit, &left) == (&other.unit, &right) {
            return Ok(());
        }
        let name = |entry: &Self, bins: SignalBins| format!("{bins} in {:?}", entry.unit);
        Err(MergeError::Signal { signal: self.name.to_string(), left: name(self, left), right: name(other, right) })
    }

    fn add(&mut self, other: &Self) -> Result<(), MergeError> {
        match (&mut self.profile, &other.profile) {
            (SignalProfile::Number(ours), SignalProfile::Number(theirs)) => ours.merge(theirs),
            (SignalProfile::Category(ours), SignalProfile::Category(theirs)) => ours.merge(theirs),
            (SignalProfile::Embedding(ours), SignalProfile::Embedding(theirs)) => ours.merge(theirs),
            _ => self.check(other),
        }
    }
}

impl SignalProfile {
    #[cold]
    fn count_missing(&mut self) -> usize {
        match self {
            Self::Number(profile) => profile.observe(None),
            Self::Category(profile) => profile.observe(None),
            Self::Embedding(profile) => profile.observe(None),
        };
        MISSING
    }
}

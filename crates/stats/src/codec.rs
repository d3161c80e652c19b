//! Profiles to bytes and back, version 2 of the format.
//!
//! ```text
//! profile   = version direction pipeline stage stage-version start length body
//! body      = reference signal-count signal*          input and output
//!           | input-reference output-reference rows   joint
//! reference = 0 | 1 id
//! signal    = name unit bins counts                   by name; those without values are left out
//! bins      = 0 shape bins lo hi | 2 | 4 dims         number, category, embedding as declared
//!           | 1 | 3 | 5                               the same as the reference has them
//! ```
//!
//! Declared bins are written as their formula, so such a profile can be read by itself. One on a
//! reference names it; whoever reads it needs that reference.

use std::{collections::HashMap, sync::Arc};

use driftline_types::{NameError, Timestamp};

use crate::{
    CategoryProfile, DecodeError, DecodeProblem, Edges, EmbeddingBins, EmbeddingProfile, JointProfile, MAX_BINS,
    NumberProfile, Profile, ProfileBody, ProfileKey, ProfileSet, Reference, ReferenceId, SignalBins, SignalProfile,
    Window,
    edges::Shape,
    profile::Entry,
    wire::{Reader, Writer},
};

const VERSION: u8 = 2;
/// The most signals of a payload that are read, and the most components of an embedding: they bound
/// what a few hostile bytes can make us allocate.
const MAX_SIGNALS: usize = 1024;
const MAX_DIMS: usize = 1 << 20;

/// The references at hand when profiles are read. The declared one always is.
#[derive(Clone, Debug)]
pub struct References {
    declared: Arc<Reference>,
    by_id: HashMap<ReferenceId, Arc<Reference>>,
}

impl Default for References {
    fn default() -> Self {
        Self { declared: Arc::new(Reference::declared()), by_id: HashMap::new() }
    }
}

impl References {
    /// Adds a reference.
    pub fn insert(&mut self, reference: Arc<Reference>) {
        self.by_id.insert(reference.id(), reference);
    }

    /// Returns a reference by its id.
    #[must_use]
    pub fn get(&self, id: ReferenceId) -> Option<&Arc<Reference>> {
        if id == ReferenceId::DECLARED { Some(&self.declared) } else { self.by_id.get(&id) }
    }
}

impl Profile {
    /// Encodes the profile; equal profiles give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let ProfileKey { pipeline, stage, version, window } = &self.key;
        out.byte(VERSION);
        out.byte(self.body.direction() as u8);
        out.text(pipeline.as_str());
        out.text(stage.as_str());
        out.text(version.as_str());
        out.signed(window.start.as_millis().into());
        out.varint(window.millis);
        match &self.body {
            ProfileBody::Input(set) | ProfileBody::Output(set) => encode_set(set, &mut out),
            ProfileBody::Joint(joint) => joint.encode(&mut out),
        }
        out.finish()
    }

    /// Decodes a profile.
    ///
    /// # Errors
    /// If the bytes are no profile in its one encoding, or it was counted on a reference that
    /// `references` lacks. No bytes make it panic, or allocate more than some thousand times their
    /// length.
    pub fn decode(bytes: &[u8], references: &References) -> Result<Self, DecodeError> {
        let bytes = &mut Reader::new(bytes);
        match bytes.byte("format version")? {
            VERSION => {}
            found => return Err(bytes.value_error("format version", &found, VERSION.to_string())),
        }
        let direction = bytes.byte("direction")?;
        let pipeline = name(bytes, "pipeline name")?;
        let stage = name(bytes, "stage name")?;
        let version = name(bytes, "stage version")?;
        let start = bytes.signed("start of the window")?;
        let Ok(start) = i64::try_from(start).map(Timestamp::from_millis) else {
            return Err(bytes.error(DecodeProblem::Number));
        };
        let window = Window { start, millis: bytes.varint("length of the window")? };
        let body = match direction {
            0 => ProfileBody::Input(decode_set(bytes, references)?),
            1 => ProfileBody::Output(decode_set(bytes, references)?),
            2 => ProfileBody::Joint(JointProfile::decode(bytes)?),
            found => return Err(bytes.value_error("direction", &found, "0 to 2")),
        };
        bytes.end()?;
        Ok(Self { key: ProfileKey { pipeline, stage, version, window }, body })
    }
}

fn name<T: TryFrom<String, Error = NameError>>(bytes: &mut Reader<'_>, what: &'static str) -> Result<T, DecodeError> {
    let found = bytes.text(what)?;
    T::try_from(found.to_owned()).map_err(|error| bytes.value_error(what, &format!("{found:?}"), error.to_string()))
}

fn encode_set(set: &ProfileSet, out: &mut Writer) {
    let id = set.reference().id();
    out.byte(u8::from(id != ReferenceId::DECLARED));
    if id != ReferenceId::DECLARED {
        out.bytes(&id.to_bytes());
    }
    let entries = set.sorted();
    out.varint(entries.len() as u64);
    for Entry { name, unit, from_reference, profile, .. } in entries {
        out.text(name);
        out.text(unit);
        match profile {
            SignalProfile::Number(profile) => {
                out.byte(u8::from(*from_reference));
                if !from_reference {
                    profile.edges().describe(out);
                }
                profile.encode(out);
            }
            SignalProfile::Category(profile) => {
                out.byte(2 | u8::from(*from_reference));
                profile.encode(out);
            }
            SignalProfile::Embedding(profile) => {
                out.byte(4 | u8::from(*from_reference));
                if !from_reference {
                    out.varint(profile.bins().dims as u64);
                }
                profile.encode(out);
            }
        }
    }
}

fn decode_set(bytes: &mut Reader<'_>, references: &References) -> Result<ProfileSet, DecodeError> {
    let id = match bytes.byte("reference")? {
        0 => ReferenceId::DECLARED,
        1 => match bytes.reference()? {
            ReferenceId::DECLARED => return Err(bytes.value_error("reference id", &"zero", "other ids")),
            id => id,
        },
        found => return Err(bytes.value_error("reference", &found, "0 or 1")),
    };
    let Some(reference) = references.get(id) else {
        return Err(bytes.error(DecodeProblem::Reference { found: id }));
    };
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..bytes.size("number of signals", MAX_SIGNALS)? {
        let name = bytes.text("signal name")?;
        if let Some(last) = entries.last().filter(|last| *last.name >= *name) {
            return Err(bytes.value_error("signal name", &format!("{name:?}"), format!("names after {:?}", last.name)));
        }
        let unit = bytes.text("unit")?;
        let tag = bytes.byte("bins")?;
        let from_reference = tag & 1 == 1;
        let bins =
            if from_reference { reference.signals().get(name).cloned() } else { Some(declared_bins(tag, bytes)?) };
        let profile = match (tag >> 1, bins) {
            (0, Some(SignalBins::Number(edges))) => SignalProfile::Number(NumberProfile::decode(edges, bytes)?),
            (1, Some(SignalBins::Category(values))) => SignalProfile::Category(CategoryProfile::decode(values, bytes)?),
            (2, Some(SignalBins::Embedding(bins))) => SignalProfile::Embedding(EmbeddingProfile::decode(bins, bytes)?),
            _ => {
                return Err(bytes.value_error(
                    "bins",
                    &format!("{tag} of {name:?}"),
                    format!("those of reference {id}"),
                ));
            }
        };
        if profile.total() == 0 {
            return Err(bytes.value_error("number of values", &0, "1 or more"));
        }
        entries.push(Entry::decoded(name, unit, from_reference, profile));
    }
    Ok(ProfileSet::with_entries(reference.clone(), entries))
}

fn declared_bins(tag: u8, bytes: &mut Reader<'_>) -> Result<SignalBins, DecodeError> {
    match tag {
        0 => {
            let shape = bytes.byte("shape of edges")?;
            let bins = bytes.size("number of bins", MAX_BINS)?;
            let (lo, hi) = (bytes.float("lowest bound")?, bytes.float("highest bound")?);
            let edges = match shape {
                shape if shape == Shape::Linear as u8 => Edges::linear(lo, hi, bins),
                shape if shape == Shape::Log as u8 => Edges::log(lo, hi, bins),
                found => return Err(bytes.value_error("shape of edges", &found, "0 or 1")),
            };
            match edges {
                Ok(edges) => Ok(SignalBins::Number(edges.into())),
                Err(error) => Err(bytes.value_error("edges", &format!("{bins} over {lo}..={hi}"), error.to_string())),
            }
        }
        2 => Ok(SignalBins::Category(Arc::default())),
        4 => Ok(SignalBins::Embedding(EmbeddingBins::declared(bytes.size("dimensions", MAX_DIMS)?).into())),
        found => Err(bytes.value_error("bins", &found, "0 to 5")),
    }
}

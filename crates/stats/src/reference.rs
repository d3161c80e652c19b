//! What values are counted against: edges, dictionaries and codebooks by signal.
//!
//! Without a reference file each signal is counted on its declared scale. A reference made from
//! data replaces that signal by signal; its id is the hash of all it holds, and profiles counted on
//! different references are never merged.

use std::{collections::BTreeMap, fmt, sync::Arc};

use driftline_types::Code;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

use crate::{
    CategoryProfile, Dictionary, Edges, EmbeddingBins, EmbeddingProfile, NumberProfile, PROJECTIONS, RecordCodebook,
    ReferenceError, Signal, SignalKind, SignalVisitor, UNKNOWN, edges::MISSING, wire::Writer,
};

/// The id of a reference: the first 8 bytes of the BLAKE3 hash of its edges, dictionaries and
/// codebooks, written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReferenceId([u8; 8]);

impl ReferenceId {
    /// Stands for no reference from data: all signals on their declared scales.
    pub const DECLARED: Self = Self([0; 8]);

    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// Hashes a description.
    pub(crate) fn of(description: &[u8]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(description).as_bytes()[..8]);
        Self(id)
    }
}

/// 16 hexadecimal digits, or `declared`.
impl fmt::Display for ReferenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::DECLARED {
            return f.write_str("declared");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where the values of one signal are counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalBins {
    /// A number, on edges.
    Number(Arc<Edges>),
    /// A category, on a dictionary.
    Category(Arc<Dictionary>),
    /// An embedding, on projections and a codebook.
    Embedding(Arc<EmbeddingBins>),
}

/// Equal bins; those of one reference are the same ones, which need not be looked at.
impl PartialEq for SignalBins {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Category(a), Self::Category(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Embedding(a), Self::Embedding(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

impl SignalBins {
    /// Returns the bins of a signal's declaration: the default number of bins over its scale, an
    /// empty dictionary, or the bins of vectors of length 1. A scale that is not valid gives the
    /// bins over −4..=4, so that values are still counted; [`Signal::check`] finds it.
    #[must_use]
    pub fn declared(kind: SignalKind) -> Self {
        match kind {
            SignalKind::Number { scale } => {
                Self::Number(Edges::declared(scale).unwrap_or_else(|_| Edges::of_unit_variance()).into())
            }
            SignalKind::Category => Self::Category(Arc::default()),
            SignalKind::Embedding { dims } => Self::Embedding(EmbeddingBins::declared(dims).into()),
        }
    }

    fn fits(&self, kind: SignalKind) -> bool {
        match (self, kind) {
            (Self::Number(_), SignalKind::Number { .. }) | (Self::Category(_), SignalKind::Category) => true,
            (Self::Embedding(bins), SignalKind::Embedding { dims }) => bins.dims == dims,
            _ => false,
        }
    }

    pub(crate) fn describe(&self, out: &mut Writer) {
        match self {
            Self::Number(edges) => {
                out.byte(0);
                edges.describe(out);
            }
            Self::Category(dictionary) => {
                out.byte(1);
                dictionary.describe(out);
            }
            Self::Embedding(bins) => {
                out.byte(2);
                bins.describe(out);
            }
        }
    }
}

impl fmt::Display for SignalBins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(edges) => edges.fmt(f),
            Self::Category(dictionary) => dictionary.fmt(f),
            Self::Embedding(bins) => bins.fmt(f),
        }
    }
}

impl Signal {
    /// Checks the declared scale.
    ///
    /// # Errors
    /// If the range is empty or not finite, or a logarithmic one does not start above 0.
    pub fn check(&self) -> Result<(), ReferenceError> {
        match self.kind {
            SignalKind::Number { scale } => Edges::declared(scale).map(drop),
            SignalKind::Category | SignalKind::Embedding { .. } => Ok(()),
        }
    }
}

/// The counts of one signal.
#[derive(Clone, Debug, PartialEq)]
pub enum SignalProfile {
    /// Of a number.
    Number(NumberProfile),
    /// Of a category.
    Category(CategoryProfile),
    /// Of an embedding.
    Embedding(EmbeddingProfile),
}

impl SignalProfile {
    /// Makes an empty profile on these bins.
    pub(crate) fn new(bins: SignalBins) -> Self {
        match bins {
            SignalBins::Number(edges) => Self::Number(NumberProfile::new(edges)),
            SignalBins::Category(dictionary) => Self::Category(CategoryProfile::new(dictionary)),
            SignalBins::Embedding(bins) => Self::Embedding(EmbeddingProfile::new(bins)),
        }
    }

    /// Returns the bins.
    #[must_use]
    pub fn bins(&self) -> SignalBins {
        match self {
            Self::Number(profile) => SignalBins::Number(profile.edges().clone()),
            Self::Category(profile) => SignalBins::Category(profile.dictionary().clone()),
            Self::Embedding(profile) => SignalBins::Embedding(profile.bins().clone()),
        }
    }

    /// Returns the number of values counted, missing ones included.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self {
            Self::Number(profile) => profile.total(),
            Self::Category(profile) => profile.total(),
            Self::Embedding(profile) => profile.total(),
        }
    }

    /// Returns the number of missing values.
    #[must_use]
    pub fn missing(&self) -> u64 {
        match self {
            Self::Number(profile) => profile.missing(),
            Self::Category(profile) => profile.missing(),
            Self::Embedding(profile) => profile.missing(),
        }
    }
}

/// Edges, dictionaries and codebooks by the name of their signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    id: ReferenceId,
    signals: BTreeMap<String, SignalBins>,
    records: Option<RecordCodebook>,
}

impl Reference {
    /// Makes the reference without data: every signal on its declared scale.
    #[must_use]
    pub fn declared() -> Self {
        Self { id: ReferenceId::DECLARED, signals: BTreeMap::new(), records: None }
    }

    /// Validates a reference without a record codebook and derives its id. An empty one is the declared
    /// reference.
    ///
    /// # Errors
    /// If an embedding has not 16 projections, or a codebook of other dimensions.
    pub fn try_new(signals: BTreeMap<String, SignalBins>) -> Result<Self, ReferenceError> {
        Self::with_records(signals, None)
    }

    /// Validates a reference and derives its id, which covers all of it.
    ///
    /// # Errors
    /// As [`try_new`](Self::try_new), or if the record codebook has other slots than the signals.
    pub fn with_records(
        signals: BTreeMap<String, SignalBins>,
        records: Option<RecordCodebook>,
    ) -> Result<Self, ReferenceError> {
        let mut description = Writer::default();
        for (name, bins) in &signals {
            if let SignalBins::Embedding(bins) = bins {
                bins.check(name)?;
            }
            description.text(name);
            bins.describe(&mut description);
        }
        if let Some(records) = &records {
            records.check(&signals)?;
            records.describe(&mut description);
        }
        let declared = signals.is_empty() && records.is_none();
        let id = if declared { ReferenceId::DECLARED } else { ReferenceId::of(&description.finish()) };
        Ok(Self { id, signals, records })
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> ReferenceId {
        self.id
    }

    /// Returns the bins by signal.
    #[must_use]
    pub fn signals(&self) -> &BTreeMap<String, SignalBins> {
        &self.signals
    }

    /// Returns the cells over whole payloads, if there are some.
    #[must_use]
    pub fn records(&self) -> Option<&RecordCodebook> {
        self.records.as_ref()
    }

    /// Returns the bins of a signal if the reference has some of its kind; else it is counted on
    /// its declared scale.
    #[must_use]
    pub fn bins(&self, signal: &Signal) -> Option<&SignalBins> {
        self.signals.get(signal.name).filter(|bins| bins.fits(signal.kind))
    }

    /// Returns the code of a payload: its cell in the [record codebook](Self::records). Without one, the slot of
    /// its first embedding that has a codebook, which is the cell plus 2; if none has, the slot of the
    /// first signal that it visits. Slot 0 is missing.
    ///
    /// A [`ProfileSet`](crate::ProfileSet) returns the same code as it counts.
    #[must_use]
    pub fn code(&self, visit: impl FnOnce(&mut dyn SignalVisitor)) -> Code {
        let mut coder = Coder { reference: self, code: CodeOfRecord::default() };
        coder.code.start(self);
        visit(&mut coder);
        coder.code.get(self)
    }
}

/// `{"signals": {"level": {"number": …}, …}, "records": …}`; the id is derived on reading.
impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct File<'a> {
            signals: &'a BTreeMap<String, SignalBins>,
            #[serde(skip_serializing_if = "Option::is_none")]
            records: &'a Option<RecordCodebook>,
        }
        File { signals: &self.signals, records: &self.records }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(deserialize_with = "by_name")]
            signals: BTreeMap<String, SignalBins>,
            #[serde(default)]
            records: Option<RecordCodebook>,
        }
        let File { signals, records } = File::deserialize(deserializer)?;
        Self::with_records(signals, records).map_err(Error::custom)
    }
}

/// Reads the bins of signals; a signal that is named twice is refused.
fn by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SignalBins>, D::Error> {
    struct ByName;
    impl<'de> Visitor<'de> for ByName {
        type Value = BTreeMap<String, SignalBins>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bins by the names of signals")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut signals = BTreeMap::new();
            while let Some((name, bins)) = map.next_entry::<String, SignalBins>()? {
                if signals.contains_key(&name) {
                    return Err(Error::custom(ReferenceError::SignalRepeats { name }));
                }
                signals.insert(name, bins);
            }
            Ok(signals)
        }
    }
    deserializer.deserialize_map(ByName)
}

/// The code of the record being visited, as far as is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodeOfRecord {
    slot: Slot,
    /// The record's numbers for the record codebook, if there is one.
    vector: Vec<f32>,
    novel: bool,
}

/// What stands for a record without a record codebook.
#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    /// No signal was visited yet.
    #[default]
    Unknown,
    /// The slot of the first signal.
    First(Code),
    /// The slot of the first embedding with a codebook.
    Cell(Code),
}

impl CodeOfRecord {
    /// Begins a record. A signal that it does not visit has numbers of 0.
    #[inline]
    pub(crate) fn start(&mut self, reference: &Reference) {
        self.slot = Slot::Unknown;
        if let Some(book) = &reference.records {
            self.vector.clear();
            self.vector.resize(book.dims(), 0.0);
            self.novel = false;
        }
    }

    /// Sees the slot of a number or category; `part` is its part of the record codebook.
    #[inline]
    pub(crate) fn see(&mut self, reference: &Reference, part: Option<usize>, slot: usize) {
        if let Some(book) = &reference.records {
            if let Some((part, range)) = part.and_then(|part| book.place(part)) {
                self.novel |= part.write(slot, &mut self.vector[range]);
            }
        } else if matches!(self.slot, Slot::Unknown) {
            self.slot = Slot::First(slot as Code);
        }
    }

    /// Sees the slot of an embedding and those of its projections.
    pub(crate) fn see_embedding(
        &mut self,
        reference: &Reference,
        part: Option<usize>,
        slot: usize,
        projected: &[u8; PROJECTIONS],
        has_codebook: bool,
    ) {
        if let Some(book) = &reference.records {
            if let Some((part, range)) = part.and_then(|part| book.place(part)) {
                self.novel |= part.write_embedding(slot, projected, &mut self.vector[range]);
            }
        } else if has_codebook && !matches!(self.slot, Slot::Cell(_)) {
            self.slot = Slot::Cell(slot as Code);
        } else if matches!(self.slot, Slot::Unknown) {
            self.slot = Slot::First(slot as Code);
        }
    }

    #[inline]
    pub(crate) fn get(&self, reference: &Reference) -> Code {
        match (&reference.records, self.slot) {
            (Some(book), _) => book.code(&self.vector, self.novel),
            (None, Slot::Unknown) => UNKNOWN,
            (None, Slot::First(code) | Slot::Cell(code)) => code,
        }
    }
}

/// Finds the code of a payload without counting it.
struct Coder<'a> {
    reference: &'a Reference,
    code: CodeOfRecord,
}

impl Coder<'_> {
    fn bins(&self, signal: &Signal) -> SignalBins {
        self.reference.bins(signal).cloned().unwrap_or_else(|| SignalBins::declared(signal.kind))
    }

    fn see(&mut self, signal: &Signal, slot: usize) {
        self.code.see(self.reference, self.part(signal), slot);
    }

    fn part(&self, signal: &Signal) -> Option<usize> {
        self.reference.records.as_ref().and_then(|book| book.part(signal.name))
    }
}

impl SignalVisitor for Coder<'_> {
    fn number(&mut self, signal: &'static Signal, value: Option<f64>) {
        let slot = if let SignalBins::Number(edges) = self.bins(signal) { edges.slot(value) } else { MISSING };
        self.see(signal, slot);
    }

    fn category(&mut self, signal: &'static Signal, value: Option<&str>) {
        let slot =
            if let SignalBins::Category(dictionary) = self.bins(signal) { dictionary.slot(value) } else { MISSING };
        self.see(signal, slot);
    }

    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>) {
        match self.bins(signal) {
            SignalBins::Embedding(bins) => {
                let (slot, projected) = bins.project(value);
                let part = self.part(signal);
                self.code.see_embedding(self.reference, part, slot, &projected, bins.codebook.is_some());
            }
            _ => self.see(signal, MISSING),
        }
    }
}

//! A reference from records: edges from quantiles, dictionaries from the most frequent values, cells from k-means.
//!
//! A [`Sample`] keeps the records of least hash, at most [`FIT_RECORDS`]: a uniform sample that does not depend on
//! the order in which records come, so the same records give the same reference, byte for byte.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    DEFAULT_BINS, Dictionary, Edges, EmbeddingBins, EmbeddingProfile, MAX_DICTIONARY, MAX_RECORD_CELLS, RecordCodebook,
    Reference, ReferenceError, Signal, SignalBins, SignalProfile, SignalVisitor, category::cut, random::SplitMix,
    records::Part,
};

/// The most records that a reference is fitted to.
pub const FIT_RECORDS: usize = 32_768;
/// The most of them that cells are fitted to.
pub(crate) const CELL_RECORDS: usize = 8_192;
/// The records that a cell needs on average: twice what makes a row that can be compared.
const RECORDS_A_CELL: usize = 2 * crate::MIN_ROW as usize;
/// The most cells of an embedding.
const EMBEDDING_CELLS: usize = 64;
const SEED: u64 = 0x6669_7420_6365_6c6c; // "fit cell"

/// Records of one topic, to fit a reference to.
#[derive(Default)]
pub struct Sample {
    signals: Vec<&'static Signal>,
    /// By hash; equal hashes are kept apart by their number.
    rows: BTreeMap<(u64, u64), Vec<(usize, Value)>>,
    seen: u64,
    current: Vec<(usize, Value)>,
}

/// A value as a payload showed it.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(Option<f64>),
    Category(Option<Box<str>>),
    Embedding(Option<Box<[f32]>>),
}

impl Sample {
    /// Takes a record; `id` is a number that tells it from the others.
    pub fn observe(&mut self, id: u64, visit: impl FnOnce(&mut dyn SignalVisitor)) {
        let hash = SplitMix::new(id).bits();
        self.seen += 1;
        if self.rows.len() >= FIT_RECORDS && self.rows.last_key_value().is_some_and(|(last, _)| hash >= last.0) {
            return;
        }
        self.current.clear();
        visit(self);
        let row = std::mem::take(&mut self.current);
        self.rows.insert((hash, self.seen), row);
        if self.rows.len() > FIT_RECORDS {
            self.rows.pop_last();
        }
    }

    /// Returns the number of records taken.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Fits bins and cells.
    ///
    /// A number gets about 32 bins of equal mass; one of at most 32 different values a bin each; one that never
    /// varied stays on its declared scale. There is a cell for every 40 records, at most 64.
    ///
    /// # Errors
    /// [`ReferenceError::NoRecords`] of an empty sample.
    pub fn fit(&self) -> Result<Reference, ReferenceError> {
        if self.rows.is_empty() {
            return Err(ReferenceError::NoRecords);
        }
        let mut signals = BTreeMap::new();
        for (at, signal) in self.signals.iter().enumerate() {
            if let Some(bins) = self.bins(at)? {
                signals.insert(signal.name.to_owned(), bins);
            }
        }
        let bins_of =
            |signal: &Signal| signals.get(signal.name).cloned().unwrap_or_else(|| SignalBins::declared(signal.kind));
        let parts: Vec<(&'static Signal, SignalBins, Part)> = self
            .signals
            .iter()
            .enumerate()
            .map(|(at, signal)| {
                let bins = bins_of(signal);
                let part = Part::new(&bins, &self.counts(at, &bins));
                (*signal, bins, part)
            })
            .collect();
        let sample: Vec<Vec<f32>> = self.rows.values().take(CELL_RECORDS).map(|row| vector(row, &parts)).collect();
        let cells = (self.seen as usize / RECORDS_A_CELL).clamp(1, MAX_RECORD_CELLS);
        let parts = parts.into_iter().map(|(signal, _, part)| (signal.name.to_owned(), part)).collect();
        let records = RecordCodebook::fit(parts, &sample, cells, SEED)?;
        Reference::with_records(signals, Some(records))
    }

    fn values(&self, signal: usize) -> impl Iterator<Item = &Value> {
        self.rows.values().flatten().filter(move |(at, _)| *at == signal).map(|(_, value)| value)
    }

    /// Fits the bins of one signal; `None` leaves it on its declared ones.
    fn bins(&self, signal: usize) -> Result<Option<SignalBins>, ReferenceError> {
        let mut numbers = Vec::new();
        let mut words: HashMap<&str, u64> = HashMap::new();
        let mut vectors: Vec<&[f32]> = Vec::new();
        for value in self.values(signal) {
            match value {
                Value::Number(Some(x)) if x.is_finite() => numbers.push(*x),
                Value::Category(Some(word)) => *words.entry(word).or_default() += 1,
                Value::Embedding(Some(x)) if x.iter().all(|x| x.is_finite()) => vectors.push(x),
                _ => {}
            }
        }
        Ok(match self.signals[signal].kind {
            crate::SignalKind::Number { .. } => number_edges(&numbers)?.map(|edges| SignalBins::Number(edges.into())),
            crate::SignalKind::Category if words.is_empty() => None,
            crate::SignalKind::Category => {
                let mut words: Vec<(&str, u64)> = words.into_iter().collect();
                words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
                words.truncate(MAX_DICTIONARY);
                Some(SignalBins::Category(Dictionary::try_new(words.iter().map(|(word, _)| word))?.into()))
            }
            crate::SignalKind::Embedding { dims } => {
                vectors.retain(|x| x.len() == dims);
                let cells = (vectors.len() / RECORDS_A_CELL).clamp(1, EMBEDDING_CELLS);
                let bins = (!vectors.is_empty()).then(|| EmbeddingBins::fit(&vectors, cells, SEED)).transpose()?;
                bins.map(|bins| SignalBins::Embedding(bins.into()))
            }
        })
    }

    /// Counts one signal on its bins.
    fn counts(&self, signal: usize, bins: &SignalBins) -> Vec<Vec<u64>> {
        match SignalProfile::new(bins.clone()) {
            SignalProfile::Number(mut profile) => {
                for value in self.values(signal) {
                    profile.observe(if let Value::Number(x) = value { *x } else { None });
                }
                vec![profile.counts().to_vec()]
            }
            SignalProfile::Category(mut profile) => {
                for value in self.values(signal) {
                    profile.observe(if let Value::Category(word) = value { word.as_deref() } else { None });
                }
                vec![profile.counts().to_vec()]
            }
            SignalProfile::Embedding(mut profile) => {
                for value in self.values(signal) {
                    profile.observe(if let Value::Embedding(x) = value { x.as_deref() } else { None });
                }
                rows_of(&profile)
            }
        }
    }

    fn keep(&mut self, signal: &'static Signal, value: Value) {
        let at = self.signals.iter().position(|known| known.name == signal.name).unwrap_or_else(|| {
            self.signals.push(signal);
            self.signals.len() - 1
        });
        self.current.push((at, value));
    }
}

impl SignalVisitor for Sample {
    fn number(&mut self, signal: &'static Signal, value: Option<f64>) {
        self.keep(signal, Value::Number(value));
    }

    fn category(&mut self, signal: &'static Signal, value: Option<&str>) {
        self.keep(signal, Value::Category(value.map(|word| cut(word).into())));
    }

    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>) {
        self.keep(signal, Value::Embedding(value.map(Into::into)));
    }
}

fn rows_of(profile: &EmbeddingProfile) -> Vec<Vec<u64>> {
    let projections = profile.projections().iter().map(|counts| counts.to_vec());
    std::iter::once(profile.cells().to_vec()).chain(projections).collect()
}

/// Returns bins of equal mass, or one for each of a few values; `None` of a number that never varied.
fn number_edges(values: &[f64]) -> Result<Option<Edges>, ReferenceError> {
    // Adding zero makes one zero of two.
    let different = values.iter().map(|x| (x + 0.0).to_bits()).try_fold(BTreeSet::new(), |mut set, bits| {
        set.insert(bits);
        if set.len() > DEFAULT_BINS { Err(set) } else { Ok(set) }
    });
    match different {
        Ok(few) if few.len() < 2 => Ok(None),
        Ok(few) => {
            let mut bounds: Vec<f64> = few.into_iter().map(f64::from_bits).collect();
            bounds.sort_unstable_by(f64::total_cmp);
            let gap = bounds.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
            let last = bounds[bounds.len() - 1];
            bounds.push((last + gap).max(last.next_up()));
            Edges::try_new(bounds).map(Some)
        }
        Err(_) => Edges::quantiles(values, DEFAULT_BINS).map(Some),
    }
}

/// Returns the numbers of a record, signal by signal in the order of their names.
fn vector(row: &[(usize, Value)], parts: &[(&'static Signal, SignalBins, Part)]) -> Vec<f32> {
    let mut named: Vec<&(&'static Signal, SignalBins, Part)> = parts.iter().collect();
    named.sort_by_key(|(signal, _, _)| signal.name);
    let mut vector = Vec::new();
    for (signal, bins, part) in named {
        let start = vector.len();
        vector.resize(start + part.dims(), 0.0);
        let into = &mut vector[start..];
        let value = row.iter().find(|(at, _)| parts[*at].0.name == signal.name).map(|(_, value)| value);
        match (bins, value) {
            (SignalBins::Number(edges), Some(Value::Number(x))) => drop(part.write(edges.slot(*x), into)),
            (SignalBins::Category(words), Some(Value::Category(word))) => {
                part.write(words.slot(word.as_deref()), into);
            }
            (SignalBins::Embedding(bins), Some(Value::Embedding(x))) => {
                let (slot, projected) = Arc::as_ref(bins).project(x.as_deref());
                part.write_embedding(slot, &projected, into);
            }
            _ => {}
        }
    }
    if vector.is_empty() {
        vector.push(0.0);
    }
    vector
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{ProfileSet, Scale};

    static LEVEL: Signal = Signal::number("level", "dB", "Level.", Scale::Linear { lo: -90.0, hi: 0.0 });
    static COUNT: Signal = Signal::number("count", "1", "Count.", Scale::Linear { lo: 0.0, hi: 9.0 });
    static STUCK: Signal = Signal::number("stuck", "1", "Never varies.", Scale::Linear { lo: 0.0, hi: 9.0 });
    static WORD: Signal = Signal::category("word", "Word.");
    static MEANING: Signal = Signal::embedding("meaning", "Meaning.", 4);

    #[derive(Clone, Debug)]
    struct Record {
        level: Option<f64>,
        count: u8,
        word: &'static str,
        meaning: [f32; 4],
    }

    fn show(record: &Record) -> impl Fn(&mut dyn SignalVisitor) + '_ {
        move |visit| {
            visit.number(&LEVEL, record.level);
            visit.number(&COUNT, Some(f64::from(record.count)));
            visit.number(&STUCK, Some(3.0));
            visit.category(&WORD, Some(record.word));
            visit.embedding(&MEANING, Some(&record.meaning));
        }
    }

    fn draw(seed: u64, n: usize) -> Vec<Record> {
        let mut random = SplitMix::new(seed);
        let mut record = || Record {
            level: (random.unit() < 0.9).then(|| -60.0 * random.unit()),
            count: (random.unit() * 6.0) as u8,
            word: ["a", "b", "c"][(random.unit() * 3.0) as usize],
            meaning: std::array::from_fn(|_| random.unit() as f32),
        };
        (0..n).map(|_| record()).collect()
    }

    fn fitted(records: &[Record]) -> Reference {
        let mut sample = Sample::default();
        records.iter().enumerate().for_each(|(at, record)| sample.observe(at as u64, show(record)));
        sample.fit().unwrap()
    }

    #[test]
    fn bins_fit_what_was_seen() {
        let reference = fitted(&draw(1, 4000));
        let SignalBins::Number(edges) = &reference.signals()["level"] else { panic!("a number") };
        assert_eq!(edges.bins(), DEFAULT_BINS);
        let SignalBins::Number(edges) = &reference.signals()["count"] else { panic!("a number") };
        assert_eq!(edges.bounds(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(!reference.signals().contains_key("stuck"));
        assert_eq!(reference.records().unwrap().cells(), 64);
        assert_eq!(fitted(&draw(1, 200)).records().unwrap().cells(), 5);
        assert_eq!(Sample::default().fit(), Err(ReferenceError::NoRecords));
    }

    #[test]
    fn a_change_of_any_signal_moves_the_cells() {
        let records = draw(2, 8000);
        let reference = fitted(&records);
        let law = |change: &dyn Fn(&mut Record)| {
            let mut counts = vec![0u64; 65];
            for mut record in draw(3, 4000) {
                change(&mut record);
                counts[usize::from(reference.code(show(&record)))] += 1;
            }
            counts
        };
        let healthy = law(&|_| {});
        let moved = |change: &dyn Fn(&mut Record)| crate::jensen_shannon(&healthy, &law(change)).unwrap();
        assert!(moved(&|_| {}) < 1e-9);
        assert!(moved(&|r| r.level = r.level.map(|x| x * 0.6)) > 0.03);
        assert!(moved(&|r| r.count = r.count.min(3)) > 0.03);
        assert!(moved(&|r| r.word = if r.word == "c" { "a" } else { r.word }) > 0.03);
        assert!(moved(&|r| r.meaning[2] = 0.9) > 0.01);
        assert!(moved(&|r| r.level = None) > 0.1);
        assert!(moved(&|r| r.word = "new") > 0.9, "a level never seen has a code of its own");
    }

    #[test]
    fn the_order_of_records_does_not_matter_and_a_file_round_trips() {
        let records = draw(4, 500);
        let mut backwards = Sample::default();
        for (at, record) in records.iter().enumerate().rev() {
            backwards.observe(at as u64, show(record));
        }
        let reference = fitted(&records);
        assert_eq!(backwards.fit().unwrap().id(), reference.id());
        let read: Reference = serde_json::from_str(&serde_json::to_string(&reference).unwrap()).unwrap();
        assert_eq!((&read, read.id()), (&reference, reference.id()));
    }

    #[test]
    fn a_codebook_of_other_slots_is_refused() {
        let mut text = serde_json::to_value(fitted(&draw(5, 300))).unwrap();
        text["records"]["signals"]["count"]["tables"][0].as_array_mut().unwrap().pop();
        let error = serde_json::from_value::<Reference>(text.clone()).unwrap_err().to_string();
        assert!(error.contains("other slots than signal \"count\""), "{error}");
        text["records"]["cells"][0].as_array_mut().unwrap().pop();
        assert!(serde_json::from_value::<Reference>(text).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Counting a payload and asking for its code give the same, whatever the payload.
        #[test]
        fn a_set_and_its_reference_agree(seed in any::<u64>(), strange in any::<Option<f64>>(), word in "[a-d]") {
            let reference = Arc::new(fitted(&draw(6, 300)));
            let mut set = ProfileSet::new(Arc::clone(&reference));
            for record in draw(seed, 20) {
                let visit = |visit: &mut dyn SignalVisitor| {
                    visit.number(&LEVEL, strange.or(record.level));
                    visit.number(&COUNT, Some(f64::from(record.count)));
                    visit.number(&STUCK, Some(3.0));
                    visit.category(&WORD, Some(&word));
                    visit.embedding(&MEANING, Some(&record.meaning));
                };
                prop_assert_eq!(set.observe(visit), reference.code(visit));
            }
        }
    }
}

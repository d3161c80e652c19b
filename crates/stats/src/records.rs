//! The record codebook: one cell for the whole payload, so that no signal can change unseen.
//!
//! Each signal becomes a few numbers, by the slot that its value falls in: a number its normal
//! score Φ⁻¹(rank) within ±2.5, a category one number a frequent level, an embedding the scores of its
//! projections; what is missing, where that occurs, a number of its own. Each signal has a
//! variance of about 1 in all, so none dominates; an embedding has 2, as it holds what numbers only describe. The cell is the
//! nearest of at most 64 k-means centres.
//!
//! A record with a value that the reference never had (a level, a missing value where none was, a vector far from
//! all others) has the code after the last cell: it is *novel*, and resembles none of the cells.
//!
//! Cells are numbered along the direction in which records vary most, so that neighbours in number are
//! alike and a [conditional score](crate::ConditionalBasis) over their order means something.
//!
//! **Cost.** One multiplication a cell and number: a payload of 6 signals takes about 60 ns.

use std::collections::BTreeMap;

use driftline_types::Code;
use serde::{Deserialize, Serialize};

use crate::{
    Codebook, ReferenceError, SignalBins,
    edges::{BELOW, MISSING},
    embedding::{FIRST_CELL, PROJECTIONS},
    normal::quantile,
    wire::Writer,
};

/// The most cells of a record codebook.
pub const MAX_RECORD_CELLS: usize = 64;
/// The most numbers that a payload becomes.
const MAX_DIMS: usize = 1024;
/// The most levels of a category that have a number of their own.
const LEVELS: usize = 8;
/// How far a normal score reaches.
const REACH: f64 = 2.5;
/// The variance of an embedding.
const EMBEDDING_VARIANCE: f32 = 2.0;
/// How far a missing value is from any other, in deviations of a number.
const UNUSABLE: f32 = 2.0;
/// Values are whole multiples of this, so that a file holds few digits.
const GRID: f64 = 250.0;

/// Cells over all signals of a payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RecordsFile", into = "RecordsFile")]
pub struct RecordCodebook {
    /// In the order of their names, each with the place of its first number.
    parts: Vec<Placed>,
    book: Codebook,
    /// Component by component, those of 64 centres side by side.
    columns: Vec<f32>,
    /// Half the squared length of each centre; infinite where there is none.
    halves: Box<[f32; MAX_RECORD_CELLS]>,
}

#[derive(Clone, Debug, PartialEq)]
struct Placed {
    name: String,
    part: Part,
    start: usize,
}

/// The form in a reference file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordsFile {
    signals: BTreeMap<String, Part>,
    cells: Codebook,
}

/// What the slots of one signal become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// For each slot of a number or category its numbers; for an embedding, of each projection by slot.
    tables: Vec<Vec<f32>>,
    /// The slots that the reference never had.
    novel: Vec<u16>,
}

impl Part {
    /// Makes the numbers of a signal from the counts on its bins: one row for a number or category, the
    /// cells and then the projections for an embedding.
    pub(crate) fn new(bins: &SignalBins, rows: &[Vec<u64>]) -> Self {
        let Some((first, rest)) = rows.split_first() else { return Self { tables: Vec::new(), novel: Vec::new() } };
        let never = |slots: &mut dyn Iterator<Item = usize>| -> Vec<u16> {
            slots.filter(|&slot| first[slot] == 0).map(|slot| slot as u16).collect()
        };
        match bins {
            SignalBins::Number(_) => {
                let last = first.len() - 1;
                let unusable: Vec<usize> = (0..BELOW).chain([last]).collect();
                let mut tables = Vec::new();
                if first[BELOW..last].iter().filter(|&&count| count > 0).count() > 1 {
                    tables.push(normal_scores(first));
                }
                if unusable.iter().any(|&slot| first[slot] > 0) {
                    tables.push(
                        (0..first.len()).map(|slot| if unusable.contains(&slot) { UNUSABLE } else { 0.0 }).collect(),
                    );
                }
                // A number that never varied: any other value is new.
                let constant = tables.is_empty();
                let mut slots = (0..first.len()).filter(|slot| constant || unusable.contains(slot));
                Self { tables, novel: never(&mut slots) }
            }
            SignalBins::Category(_) => {
                let mut levels: Vec<usize> = (0..first.len()).filter(|&slot| first[slot] > 0).collect();
                levels.sort_by_key(|&slot| (std::cmp::Reverse(first[slot]), slot));
                levels.truncate(LEVELS);
                let n: f64 = first.iter().sum::<u64>().max(1) as f64;
                let varied: f64 = 1.0 - levels.iter().map(|&slot| (first[slot] as f64 / n).powi(2)).sum::<f64>();
                let scale = grid(varied.max(1e-9).sqrt().recip().min(2.0));
                let table =
                    |level: usize| (0..first.len()).map(|slot| if slot == level { scale } else { 0.0 }).collect();
                let tables = if levels.len() > 1 { levels.into_iter().map(table).collect() } else { Vec::new() };
                Self { tables, novel: never(&mut (0..first.len())) }
            }
            SignalBins::Embedding(bins) => {
                let share = (EMBEDDING_VARIANCE / PROJECTIONS as f32).sqrt();
                let scores = |row: &Vec<u64>| normal_scores(row).into_iter().map(|score| score * share).collect();
                let novel = never(&mut [MISSING, crate::MALFORMED].into_iter().chain(bins.far()));
                Self { tables: rest.iter().map(scores).collect(), novel }
            }
        }
    }

    pub(crate) fn dims(&self) -> usize {
        self.tables.len()
    }

    /// Writes the numbers of a slot; returns whether the value is new.
    #[inline]
    pub(crate) fn write(&self, slot: usize, into: &mut [f32]) -> bool {
        for (into, table) in into.iter_mut().zip(&self.tables) {
            *into = table.get(slot).copied().unwrap_or(0.0);
        }
        !self.novel.is_empty() && self.novel.contains(&(slot as u16))
    }

    /// Writes the numbers of an embedding by the slots of its projections; those of a missing one are 0. Returns whether it is new.
    pub(crate) fn write_embedding(&self, slot: usize, projections: &[u8; PROJECTIONS], into: &mut [f32]) -> bool {
        if slot < FIRST_CELL {
            into.fill(0.0);
            return self.novel.contains(&(slot as u16));
        }
        for ((into, table), &slot) in into.iter_mut().zip(&self.tables).zip(projections) {
            *into = table.get(usize::from(slot)).copied().unwrap_or(0.0);
        }
        self.novel.contains(&(slot as u16))
    }
}

/// Φ⁻¹ of each slot's middle rank among the finite ones, in ±2.5; 0 for what is no finite number.
fn normal_scores(counts: &[u64]) -> Vec<f32> {
    let last = counts.len() - 1;
    let n: f64 = counts[BELOW..last].iter().map(|&count| count as f64).sum::<f64>().max(1.0);
    let mut below = 0.0;
    let mut scores = vec![0.0; counts.len()];
    for (score, &count) in scores[BELOW..last].iter_mut().zip(&counts[BELOW..last]) {
        let rank = (below + 0.5 * count as f64) / n;
        below += count as f64;
        *score = grid(quantile(rank.clamp(1e-9, 1.0 - 1e-9)).clamp(-REACH, REACH));
    }
    // The infinities lie beyond all else.
    scores[crate::NEG_INFINITY] = grid(-REACH);
    scores[last] = grid(REACH);
    scores
}

fn grid(x: f64) -> f32 {
    ((x * GRID).round() / GRID) as f32
}

impl RecordCodebook {
    /// Fits cells to records, each given by its numbers as `parts` make them, in the order of the parts'
    /// names. There are fewer cells than asked for if the sample has fewer different records.
    pub(crate) fn fit(
        parts: BTreeMap<String, Part>,
        sample: &[Vec<f32>],
        cells: usize,
        seed: u64,
    ) -> Result<Self, ReferenceError> {
        let book = Codebook::fit(sample, cells.clamp(1, MAX_RECORD_CELLS), seed)?;
        let mut centres: Vec<Vec<f32>> = book.into();
        let direction = principal(&centres);
        let along = |centre: &[f32]| centre.iter().zip(&direction).map(|(x, d)| f64::from(*x) * d).sum::<f64>();
        centres.sort_by(|a, b| along(a).total_cmp(&along(b)));
        centres.iter_mut().flatten().for_each(|x| *x = grid(f64::from(*x)));
        Self::try_new(parts, Codebook::try_new(&centres)?)
    }

    /// Validates parts and cells.
    fn try_new(parts: BTreeMap<String, Part>, book: Codebook) -> Result<Self, ReferenceError> {
        let mut placed = Vec::with_capacity(parts.len());
        let mut dims = 0;
        for (name, part) in parts {
            let finite = |table: &Vec<f32>| table.iter().all(|x| x.is_finite());
            if !part.tables.iter().all(finite) {
                return Err(ReferenceError::RecordSignal { name });
            }
            let start = dims;
            dims += part.dims();
            placed.push(Placed { name, part, start });
        }
        // A codebook has a dimension at least; one of nothing but constants has a single 0.
        let wanted = dims.max(1);
        if book.dims() != wanted || dims > MAX_DIMS {
            return Err(ReferenceError::RecordDims { found: book.dims(), wanted, max: MAX_DIMS });
        }
        if book.cells() > MAX_RECORD_CELLS {
            return Err(ReferenceError::CodebookSize { found: book.cells(), max: MAX_RECORD_CELLS });
        }
        let centres: Vec<Vec<f32>> = book.clone().into();
        let mut columns = vec![0.0; wanted * MAX_RECORD_CELLS];
        let mut halves = Box::new([f32::INFINITY; MAX_RECORD_CELLS]);
        for (cell, centre) in centres.iter().enumerate() {
            halves[cell] = centre.iter().map(|x| x * x).sum::<f32>() * 0.5;
            centre.iter().enumerate().for_each(|(dim, x)| columns[dim * MAX_RECORD_CELLS + cell] = *x);
        }
        Ok(Self { parts: placed, book, columns, halves })
    }

    /// Returns the number of cells; the code of a novel record is this number.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.book.cells()
    }

    /// Returns the number of numbers that a payload becomes.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.book.dims()
    }

    /// Checks that every part has a table entry for each slot of its signal's bins.
    pub(crate) fn check(&self, signals: &BTreeMap<String, SignalBins>) -> Result<(), ReferenceError> {
        for Placed { name, part, .. } in &self.parts {
            let fits = match signals.get(name) {
                // On its declared bins, whose number is not known here; a slot without an entry is 0.
                None => true,
                Some(SignalBins::Number(edges)) => part.tables.iter().all(|table| table.len() == edges.slots()),
                Some(SignalBins::Category(values)) => part.tables.iter().all(|table| table.len() == values.slots()),
                Some(SignalBins::Embedding(bins)) => {
                    part.tables.len() == PROJECTIONS
                        && part.tables.iter().zip(&bins.projections).all(|(table, edges)| table.len() == edges.slots())
                }
            };
            if !fits {
                return Err(ReferenceError::RecordSignal { name: name.clone() });
            }
        }
        Ok(())
    }

    /// Returns which part a signal is, by number.
    pub(crate) fn part(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|placed| placed.name == name)
    }

    /// Returns a part and where its numbers stand in the vector of a record.
    #[inline]
    pub(crate) fn place(&self, part: usize) -> Option<(&Part, std::ops::Range<usize>)> {
        let Placed { part, start, .. } = self.parts.get(part)?;
        Some((part, *start..start + part.dims()))
    }

    /// Returns the code of a record: its cell, or the code of a novel one.
    #[inline]
    pub(crate) fn code(&self, vector: &[f32], novel: bool) -> Code {
        if novel { self.cells() as Code } else { self.nearest(vector) as Code }
    }

    /// Returns the nearest centre, the first of equals: |x − c|² is least where |c|²/2 − x·c is.
    fn nearest(&self, vector: &[f32]) -> usize {
        let mut distances = *self.halves;
        for (x, column) in vector.iter().zip(self.columns.chunks_exact(MAX_RECORD_CELLS)) {
            // Of a category all but one are 0.
            if *x != 0.0 {
                distances.iter_mut().zip(column).for_each(|(distance, c)| *distance -= x * c);
            }
        }
        let mut nearest = 0;
        for (cell, distance) in distances.iter().enumerate() {
            if *distance < distances[nearest] {
                nearest = cell;
            }
        }
        nearest
    }

    pub(crate) fn describe(&self, out: &mut Writer) {
        for Placed { name, part, .. } in &self.parts {
            out.text(name);
            out.varint(part.tables.len() as u64);
            for table in &part.tables {
                out.varint(table.len() as u64);
                table.iter().for_each(|x| out.bytes(&x.to_le_bytes()));
            }
            out.varint(part.novel.len() as u64);
            part.novel.iter().for_each(|&slot| out.varint(slot.into()));
        }
        self.book.describe(out);
    }
}

impl TryFrom<RecordsFile> for RecordCodebook {
    type Error = ReferenceError;
    fn try_from(file: RecordsFile) -> Result<Self, ReferenceError> {
        Self::try_new(file.signals, file.cells)
    }
}

impl From<RecordCodebook> for RecordsFile {
    fn from(book: RecordCodebook) -> Self {
        Self { signals: book.parts.into_iter().map(|placed| (placed.name, placed.part)).collect(), cells: book.book }
    }
}

/// Returns the direction in which centres vary most, by power iteration from a fixed start.
fn principal(centres: &[Vec<f32>]) -> Vec<f64> {
    let dims = centres.first().map_or(0, Vec::len);
    let mean: Vec<f64> =
        (0..dims).map(|d| centres.iter().map(|c| f64::from(c[d])).sum::<f64>() / centres.len() as f64).collect();
    let mut direction: Vec<f64> = (0..dims).map(|d| 1.0 / (d + 1) as f64).collect();
    for _ in 0..64 {
        let mut next = vec![0.0; dims];
        for centre in centres {
            let away = || centre.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m);
            let along: f64 = away().zip(&direction).map(|(x, d)| x * d).sum();
            next.iter_mut().zip(away()).for_each(|(next, x)| *next += along * x);
        }
        let length = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length < 1e-12 {
            break;
        }
        direction = next.into_iter().map(|x| x / length).collect();
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edges, FIRST_VALUE, OTHER};

    #[test]
    fn scores_are_normal_and_bounded() {
        let mut counts = vec![0; 38];
        counts[4..36].fill(100);
        let scores = normal_scores(&counts);
        assert!(scores[4..36].is_sorted() && (scores[4] + scores[35]).abs() < 0.01);
        assert!(scores[4] > -2.5 && scores[3] == -2.5 && scores[36] == 2.5);
        assert_eq!((scores[0], scores[1], scores[2], scores[37]), (0.0, 0.0, -2.5, 2.5));
    }

    #[test]
    fn what_the_reference_never_had_is_new() {
        let edges = SignalBins::Number(Edges::linear(0.0, 1.0, 4).unwrap().into());
        let part = Part::new(&edges, &[vec![0, 0, 0, 0, 5, 5, 5, 5, 0, 0]]);
        let mut numbers = [0.0; 1];
        assert!(part.write(MISSING, &mut numbers) && !part.write(BELOW, &mut numbers) && !part.write(5, &mut numbers));
        let constant = Part::new(&edges, &[vec![0, 0, 0, 0, 5, 0, 0, 0, 0, 0]]);
        assert!(constant.tables.is_empty() && !constant.write(4, &mut []) && constant.write(5, &mut []));
        let with_missing = Part::new(&edges, &[vec![3, 0, 0, 0, 5, 5, 0, 0, 0, 0]]);
        assert_eq!(with_missing.dims(), 2);
        let words = SignalBins::Category(crate::Dictionary::try_new(["a", "b"]).unwrap().into());
        let part = Part::new(&words, &[vec![0, 0, 10, 5]]);
        assert!(
            [MISSING, OTHER].iter().all(|&slot| part.write(slot, &mut [0.0; 2]))
                && !part.write(FIRST_VALUE, &mut [0.0; 2])
        );
    }

    #[test]
    fn cells_are_numbered_along_the_widest_direction() {
        let sample: Vec<Vec<f32>> = (0..400).map(|i| vec![(i % 20) as f32 / 4.0, (i / 20 % 2) as f32 * 0.1]).collect();
        let parts = BTreeMap::from([("a".to_owned(), Part { tables: vec![vec![0.0]; 2], novel: Vec::new() })]);
        let book = RecordCodebook::fit(parts, &sample, 8, 1).unwrap();
        let cells: Vec<Code> = (0..20).map(|i| book.code(&[i as f32 / 4.0, 0.05], false)).collect();
        assert!(cells.is_sorted() || cells.iter().rev().is_sorted(), "{cells:?}");
        assert_eq!(usize::from(book.code(&[0.0, 0.0], true)), book.cells());
    }
}

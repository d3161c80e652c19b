//! The profile of an embedding: histograms of fixed random projections, and codebook cells.
//!
//! A vector x gives 16 numbers pⱼ = Σᵢ sᵢⱼ·xᵢ with signs sᵢⱼ = ±1 drawn once from a fixed seed
//! (Achlioptas 2003). E pⱼ² = ‖x‖², so for vectors of length 1 the numbers lie within ±4 nearly
//! always: the declared edges. A change of any direction or of the length shows in some projection
//! (Cramér–Wold: all projections determine the law). Only counts are kept, no moments.
//!
//! A vector that is farther from every centre of the codebook than any of the reference was is *far*: it is new, as a
//! level is that a category never had, and none of the cells says what it is.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Codebook, DEFAULT_BINS, DecodeError, Edges, MergeError, ReferenceError,
    edges::MISSING,
    fit::CELL_RECORDS,
    number::{add_counts, cells},
    random::SplitMix,
    wire::{Reader, Writer},
};

/// The number of projections.
pub const PROJECTIONS: usize = 16;
/// The slot of vectors with another length than declared, or a component that is not finite.
pub const MALFORMED: usize = 1;
/// The slot of the first cell of the codebook. Slot 0 is missing, as for numbers.
pub const FIRST_CELL: usize = 2;

/// How much farther from its centre than any vector of the reference one may be: a maximum over a sample is exceeded now and then.
const BEYOND: f32 = 1.25;
/// Components of centres are whole multiples of this part of 1.
const GRID: f32 = 1000.0;

const SEED: u64 = 0x6472_6966_746c_696e; // "driftlin"

/// Where an embedding is counted: the edges of each projection, and a codebook if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingBins {
    /// The number of components of a vector.
    pub dims: usize,
    /// The edges of each of the 16 projections.
    pub projections: Vec<Edges>,
    /// The cells that give a record its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codebook: Option<Codebook>,
    /// The distance from the nearest centre from which a vector is far, 0 or more; infinite in files that do not have it.
    #[serde(default = "infinite", skip_serializing_if = "is_infinite")]
    pub radius: f32,
}

fn infinite() -> f32 {
    f32::INFINITY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_infinite(radius: &f32) -> bool {
    radius.is_infinite()
}

/// Returns how far from its nearest centre a vector may be that is like those of a sample.
fn radius(codebook: &Codebook, sample: &[impl AsRef<[f32]>]) -> f32 {
    let squared = sample.iter().map(|vector| codebook.nearest_and_distance(vector.as_ref()).1).fold(0.0, f32::max);
    let length = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>();
    let longest = sample.iter().map(|vector| length(vector.as_ref())).fold(0.0, f32::max);
    // Where the reference had few different vectors, its centres are these but for rounding.
    (BEYOND * squared.sqrt() + 1e-3 * longest.sqrt()).min(f32::MAX)
}

impl EmbeddingBins {
    /// Makes the bins for vectors of length 1, without a codebook.
    #[must_use]
    pub fn declared(dims: usize) -> Self {
        Self { dims, projections: vec![Edges::of_unit_variance(); PROJECTIONS], codebook: None, radius: f32::INFINITY }
    }

    /// Fits `cells` cells to the first 8,192 vectors of a sample, and the edges of each projection to all; one that never
    /// varied keeps the declared edges.
    ///
    /// # Errors
    /// If the sample is empty, `cells` is not in 1..=256, or the vectors that cells are fitted to differ in length or have
    /// components that are not finite.
    pub fn fit(sample: &[impl AsRef<[f32]>], cells: usize, seed: u64) -> Result<Self, ReferenceError> {
        let mut centres: Vec<Vec<f32>> = Codebook::fit(&sample[..sample.len().min(CELL_RECORDS)], cells, seed)?.into();
        // Three digits, so that a file stays small.
        centres.iter_mut().flatten().for_each(|x| *x = (*x * GRID).round() / GRID);
        let codebook = Codebook::try_new(&centres)?;
        let projected: Vec<[f64; PROJECTIONS]> = sample.iter().map(|vector| project(vector.as_ref())).collect();
        let edges = |j: usize| {
            let values: Vec<f64> = projected.iter().map(|p| p[j]).collect();
            Edges::quantiles(&values, DEFAULT_BINS).unwrap_or_else(|_| Edges::of_unit_variance())
        };
        let projections = (0..PROJECTIONS).map(edges).collect();
        let radius = radius(&codebook, sample);
        Ok(Self { dims: codebook.dims(), projections, codebook: Some(codebook), radius })
    }

    pub(crate) fn check(&self, name: &str) -> Result<(), ReferenceError> {
        if self.projections.len() != PROJECTIONS {
            let found = self.projections.len();
            return Err(ReferenceError::ProjectionCount { name: name.to_owned(), found, allowed: PROJECTIONS });
        }
        match &self.codebook {
            Some(book) if book.dims() != self.dims => {
                Err(ReferenceError::Vector { index: 0, found: book.dims(), dims: self.dims })
            }
            // NaN is not at least 0.
            _ if self.radius.is_nan() || self.radius < 0.0 => {
                Err(ReferenceError::Radius { name: name.to_owned(), found: self.radius })
            }
            _ => Ok(()),
        }
    }

    /// Returns the slot of a vector: missing, malformed, [`FIRST_CELL`] plus the cell of the codebook (0 without one), or
    /// [far](Self::far) from all cells.
    #[must_use]
    pub fn slot(&self, value: Option<&[f32]>) -> usize {
        match (value, &self.codebook) {
            (None, _) => MISSING,
            (Some(x), _) if x.len() != self.dims || !x.iter().all(|x| x.is_finite()) => MALFORMED,
            (Some(_), None) => FIRST_CELL,
            (Some(x), Some(book)) => {
                let (cell, distance) = book.nearest_and_distance(x);
                FIRST_CELL + if distance > self.radius * self.radius { book.cells() } else { cell }
            }
        }
    }

    /// Returns the slot of vectors that are far from all cells: the last. `None` without a codebook.
    #[must_use]
    pub fn far(&self) -> Option<usize> {
        self.codebook.as_ref().map(|book| FIRST_CELL + book.cells())
    }

    /// Returns the number of slots.
    fn slots(&self) -> usize {
        1 + self.far().unwrap_or(FIRST_CELL)
    }

    /// Returns the slot of a vector and those of its projections, 0 of a vector that has none.
    pub(crate) fn project(&self, value: Option<&[f32]>) -> (usize, [u8; PROJECTIONS]) {
        let slot = self.slot(value);
        let mut projected = [0; PROJECTIONS];
        if let (Some(x), FIRST_CELL..) = (value, slot) {
            for ((slot, edges), p) in projected.iter_mut().zip(&self.projections).zip(project(x)) {
                // Slots are at most 70.
                *slot = edges.slot(Some(p)) as u8;
            }
        }
        (slot, projected)
    }

    fn cells(&self) -> usize {
        self.codebook.as_ref().map_or(0, Codebook::cells)
    }

    pub(crate) fn describe(&self, out: &mut Writer) {
        out.varint(self.dims as u64);
        self.projections.iter().for_each(|edges| edges.describe(out));
        match &self.codebook {
            Some(book) => {
                book.describe(out);
                out.bytes(&self.radius.to_le_bytes());
            }
            None => out.varint(0),
        }
    }
}

impl fmt::Display for EmbeddingBins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an embedding of {} components and {} cells", self.dims, self.cells())
    }
}

/// Counts of an embedding's projections and codebook cells.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingProfile {
    bins: Arc<EmbeddingBins>,
    /// Missing, malformed, the cells of the codebook, and far from all; without a codebook one cell for all.
    cells: Box<[u64]>,
    projections: [Box<[u64]>; PROJECTIONS],
}

impl EmbeddingProfile {
    /// Makes an empty profile. `bins` is one that a [`Reference`](crate::Reference) has accepted, or
    /// declared: it has [`PROJECTIONS`] edges.
    pub(crate) fn new(bins: Arc<EmbeddingBins>) -> Self {
        let cells = vec![0; bins.slots()].into();
        let projections = std::array::from_fn(|j| vec![0; bins.projections[j].slots()].into());
        Self { bins, cells, projections }
    }

    /// Counts one vector, `None` as missing, and returns its [slot](EmbeddingBins::slot).
    pub fn observe(&mut self, value: Option<&[f32]>) -> usize {
        self.observe_projected(value).0
    }

    /// Counts one vector and returns its slot and those of its projections, 0 of a vector that has none.
    pub(crate) fn observe_projected(&mut self, value: Option<&[f32]>) -> (usize, [u8; PROJECTIONS]) {
        let (slot, projected) = self.bins.project(value);
        if slot >= FIRST_CELL {
            for (counts, &slot) in self.projections.iter_mut().zip(&projected) {
                let count = &mut counts[usize::from(slot)];
                *count = count.saturating_add(1);
            }
        }
        self.cells[slot] = self.cells[slot].saturating_add(1);
        (slot, projected)
    }

    /// Adds another profile.
    ///
    /// # Errors
    /// If the two have different bins; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if !Arc::ptr_eq(&self.bins, &other.bins) && self.bins != other.bins {
            return Err(MergeError::bins("an embedding", &self.bins, &other.bins));
        }
        add_counts(&mut self.cells, &other.cells);
        for (into, from) in self.projections.iter_mut().zip(&other.projections) {
            add_counts(into, from);
        }
        Ok(())
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.cells.fill(0);
        self.projections.iter_mut().for_each(|counts| counts.fill(0));
    }

    /// Returns the bins.
    #[must_use]
    pub fn bins(&self) -> &Arc<EmbeddingBins> {
        &self.bins
    }

    /// Returns the counts of missing, malformed, each cell of the codebook, and far from all of them.
    #[must_use]
    pub fn cells(&self) -> &[u64] {
        &self.cells
    }

    /// Returns the counts of each projection, as [`Edges`] lays them out.
    #[must_use]
    pub fn projections(&self) -> &[Box<[u64]>; PROJECTIONS] {
        &self.projections
    }

    /// Returns the number of values, missing and malformed ones included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.cells.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Returns the number of missing values.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.cells[MISSING]
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.counts(cells(&self.cells));
        self.projections.iter().for_each(|counts| out.counts(cells(counts)));
    }

    pub(crate) fn decode(bins: Arc<EmbeddingBins>, bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut profile = Self::new(bins);
        for counts in std::iter::once(&mut profile.cells).chain(&mut profile.projections) {
            bytes.counts("count of an embedding", counts.len() as u64, |cell, count| counts[cell as usize] = count)?;
        }
        Ok(profile)
    }
}

/// Projects a vector on the 16 fixed directions.
#[must_use]
pub fn project(vector: &[f32]) -> [f64; PROJECTIONS] {
    let mut sums = [0.0f64; PROJECTIONS];
    let mut random = SplitMix::new(SEED);
    for &x in vector {
        let signs = random.bits();
        for (j, sum) in sums.iter_mut().enumerate() {
            // The sign bit of a float is its highest.
            *sum += f64::from_bits(f64::from(x).to_bits() ^ ((signs >> j & 1) << 63));
        }
    }
    sums
}

//! The bins of a number: fixed edges, and the slot that a value falls in.
//!
//! K bins lie between K + 1 ascending bounds. Bin k holds `bounds[k] <= x < bounds[k + 1]`; the
//! last one holds its upper bound too. Six more slots hold what no bin can, so that every value,
//! and every missing one, is counted in exactly one slot:
//!
//! | slot | 0 | 1 | 2 | 3 | 4 … K + 3 | K + 4 | K + 5 |
//! |---|---|---|---|---|---|---|---|
//! | holds | missing | NaN | −∞ | below | bins | above | +∞ |

use std::fmt;

use datasketches::{
    common::SearchCriteria,
    kll::{KllFloat, KllSketch},
};
use serde::{Deserialize, Serialize};

use crate::{ReferenceError, Scale, quantum::Quantum, search::Search, wire::Writer};

/// The number of bins of a number unless a reference says otherwise.
pub const DEFAULT_BINS: usize = 32;
/// The most bins that a number may have.
pub const MAX_BINS: usize = 64;

/// The slot of a missing value.
pub const MISSING: usize = 0;
/// The slot of NaN.
pub const NAN: usize = 1;
/// The slot of −∞.
pub const NEG_INFINITY: usize = 2;
/// The slot of finite values below the first bound.
pub const BELOW: usize = 3;
/// The slot of the first bin.
pub const FIRST_BIN: usize = 4;

/// Ascending bounds of K bins, and how they came about.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "EdgesFile", into = "EdgesFile")]
pub struct Edges {
    shape: Shape,
    bounds: Box<[f64]>,
    /// Over the bounds, the last one moved up by one float, as the last bin holds it.
    search: Search,
    quantum: Quantum,
}

/// How edges came about: by a formula, which is all that the wire then needs, or from data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Linear,
    Log,
    Explicit,
}

/// The form of edges in a reference file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum EdgesFile {
    Linear { lo: f64, hi: f64, bins: usize },
    Log { lo: f64, hi: f64, bins: usize },
    Bounds(Vec<f64>),
}

impl Edges {
    /// Says whether a bin stands for its lower bound alone, if no value is above `max`: nothing else fits in. The last bin holds its
    /// upper bound too.
    pub(crate) fn is_of_one_value(&self, bin: usize, max: f64) -> bool {
        let Some(&[lo, hi]) = self.bounds.get(bin..bin + 2) else { return false };
        lo.next_up() == hi && (bin + 2 < self.bounds.len() || max < hi)
    }

    /// Says whether the bins are of equal ratio.
    pub(crate) fn is_logarithmic(&self) -> bool {
        self.shape == Shape::Log
    }

    /// Validates explicit bounds: 2 to 65 of them, finite, strictly ascending.
    ///
    /// # Errors
    /// If there are too few or too many bounds, or one is not finite or not above the one before.
    pub fn try_new(bounds: Vec<f64>) -> Result<Self, ReferenceError> {
        Self::with_shape(Shape::Explicit, bounds)
    }

    /// Spreads `bins` bins of equal width over `lo..=hi`.
    ///
    /// # Errors
    /// If `lo < hi` does not hold, one of them is not finite, or `bins` is not in 1..=64.
    pub fn linear(lo: f64, hi: f64, bins: usize) -> Result<Self, ReferenceError> {
        Self::by_formula(Shape::Linear, lo, hi, bins)
    }

    /// Spreads `bins` bins of equal ratio over `lo..=hi`. Inner bounds are rounded to 24
    /// significant bits, so that machines whose power functions differ in the last bit agree.
    ///
    /// # Errors
    /// If `0 < lo < hi` does not hold, one of them is not finite, or `bins` is not in 1..=64.
    pub fn log(lo: f64, hi: f64, bins: usize) -> Result<Self, ReferenceError> {
        Self::by_formula(Shape::Log, lo, hi, bins)
    }

    /// Spreads the default number of bins over a declared scale.
    ///
    /// # Errors
    /// If the scale is not valid, as [`linear`](Self::linear) and [`log`](Self::log) say.
    pub fn declared(scale: Scale) -> Result<Self, ReferenceError> {
        match scale {
            Scale::Linear { lo, hi } => Self::linear(lo, hi, DEFAULT_BINS),
            Scale::Log { lo, hi } => Self::log(lo, hi, DEFAULT_BINS),
        }
    }

    /// Takes the quantiles of a sample as bounds: about as many values in each bin. Values that
    /// are not finite are left out; a value so frequent that it fills several bins gets one bin to
    /// itself, so there may be fewer than `bins`.
    ///
    /// # Errors
    /// If fewer than two different finite values exist, or `bins` is not in 1..=64.
    pub fn quantiles(sample: &[f64], bins: usize) -> Result<Self, ReferenceError> {
        let mut sorted: Vec<f64> = sample.iter().copied().filter(|x| x.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        Self::from_quantiles(bins, sorted.len(), |rank| sorted.get((rank * last as f64).round() as usize).copied())
    }

    /// Takes the quantiles of a KLL sketch as bounds, as [`quantiles`](Self::quantiles) does of a
    /// sample: for references over streams too long to keep. KLL compacts at random, so two
    /// sketches of one stream give slightly different bounds (Karnin, Lang, Liberty 2016,
    /// arXiv 1603.05346).
    ///
    /// # Errors
    /// If the sketch holds fewer than two different values, or `bins` is not in 1..=64.
    pub fn from_sketch(sketch: &KllSketch<KllFloat<f64>>, bins: usize) -> Result<Self, ReferenceError> {
        let view = sketch.sorted_view();
        Self::from_quantiles(bins, sketch.n() as usize, |rank| {
            let item = if rank <= 0.0 {
                sketch.min_item().copied()
            } else if rank >= 1.0 {
                sketch.max_item().copied()
            } else {
                view.quantile(rank, SearchCriteria::Inclusive).ok().flatten()
            };
            item.map(KllFloat::<f64>::into_inner).filter(|x| x.is_finite())
        })
    }

    fn from_quantiles(
        bins: usize,
        values: usize,
        quantile: impl Fn(f64) -> Option<f64>,
    ) -> Result<Self, ReferenceError> {
        check_bins(bins)?;
        // With fewer values than bins each is asked for once: quantiles are equal only where a value occurs again.
        let bins = bins.min(values.saturating_sub(1)).max(1);
        let quantiles: Vec<f64> =
            (0..=bins).filter_map(|k| quantile(k as f64 / bins as f64)).map(|x| x + 0.0).collect();
        let mut bounds = Vec::with_capacity(quantiles.len());
        for run in quantiles.chunk_by(|a, b| a == b) {
            bounds.push(run[0]);
            // A value with a bin to itself leaves what is above it to the next one. A constant leaves nothing.
            if run.len() > 1 && run.len() < quantiles.len() {
                bounds.extend(Some(run[0].next_up()).filter(|x| x.is_finite()));
            }
        }
        bounds.dedup();
        Self::try_new(bounds)
    }

    fn by_formula(shape: Shape, lo: f64, hi: f64, bins: usize) -> Result<Self, ReferenceError> {
        check_bins(bins)?;
        if shape == Shape::Log && lo.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
            return Err(ReferenceError::LogRange { found: lo });
        }
        let at = |k: usize| match k {
            0 => lo,
            k if k == bins => hi,
            k => {
                let part = k as f64 / bins as f64;
                match shape {
                    Shape::Log => round_to_24_bits(lo * (hi / lo).powf(part)),
                    Shape::Linear | Shape::Explicit => lo * (1.0 - part) + hi * part,
                }
            }
        };
        Self::with_shape(shape, (0..=bins).map(at).collect())
    }

    fn with_shape(shape: Shape, bounds: Vec<f64>) -> Result<Self, ReferenceError> {
        if bounds.len() < 2 || bounds.len() > MAX_BINS + 1 {
            return Err(ReferenceError::BoundCount { found: bounds.len() });
        }
        for (index, &found) in bounds.iter().enumerate() {
            if !found.is_finite() {
                return Err(ReferenceError::BoundNotFinite { index, found });
            }
            if index > 0 && found <= bounds[index - 1] {
                return Err(ReferenceError::BoundOrder { index, found, before: bounds[index - 1] });
            }
        }
        Ok(Self::of_valid(shape, bounds))
    }

    /// Returns the default number of bins over −4..=4: what a number of unit variance needs.
    pub(crate) fn of_unit_variance() -> Self {
        let bound = |k: usize| 8.0 * k as f64 / DEFAULT_BINS as f64 - 4.0;
        Self::of_valid(Shape::Linear, (0..=DEFAULT_BINS).map(bound).collect())
    }

    fn of_valid(shape: Shape, mut bounds: Vec<f64>) -> Self {
        // One zero: -0.0 and 0.0 compare equal and must be written alike.
        bounds.iter_mut().for_each(|x| *x += 0.0);
        let mut keys = bounds.clone();
        if let Some(last) = keys.last_mut() {
            *last = last.next_up();
        }
        Self { shape, search: Search::new(&keys), quantum: Quantum::of(&bounds), bounds: bounds.into() }
    }

    /// Returns the number of bins, K.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Returns the number of slots, K + 6.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.bounds.len() + 5
    }

    /// Returns the slot of finite values above the last bound, K + 4.
    #[must_use]
    pub fn above(&self) -> usize {
        self.bounds.len() + 3
    }

    /// Returns the K + 1 bounds, ascending.
    #[must_use]
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    pub(crate) fn quantum(&self) -> Quantum {
        self.quantum
    }

    /// Returns the slot of a value.
    #[must_use]
    #[inline]
    pub fn slot(&self, value: Option<f64>) -> usize {
        match value {
            None => MISSING,
            Some(x) if x.is_finite() => self.finite_slot(x),
            Some(x) if x.is_nan() => NAN,
            Some(x) if x < 0.0 => NEG_INFINITY,
            Some(_) => self.above() + 1,
        }
    }

    /// Returns the slot of a finite value.
    #[inline]
    pub(crate) fn finite_slot(&self, x: f64) -> usize {
        BELOW + self.search.at_most(x)
    }

    /// Writes what the edges are: a formula, or every bound.
    pub(crate) fn describe(&self, out: &mut Writer) {
        out.byte(self.shape as u8);
        match self.shape {
            Shape::Linear | Shape::Log => {
                out.varint(self.bins() as u64);
                out.float(self.bounds[0]);
                out.float(self.bounds[self.bins()]);
            }
            Shape::Explicit => {
                out.varint(self.bins() as u64);
                self.bounds.iter().for_each(|&x| out.float(x));
            }
        }
    }
}

/// Equal bounds that came about alike; the rest follows from them.
impl PartialEq for Edges {
    fn eq(&self, other: &Self) -> bool {
        // Most are the same one.
        std::ptr::eq(self, other) || self.shape == other.shape && self.bounds == other.bounds
    }
}

/// Says the range and the number of bins, as error messages need it.
impl fmt::Display for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = match self.shape {
            Shape::Linear => "linear",
            Shape::Log => "logarithmic",
            Shape::Explicit => "reference",
        };
        write!(f, "{} {shape} bins over {}..={}", self.bins(), self.bounds[0], self.bounds[self.bins()])
    }
}

impl fmt::Debug for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<EdgesFile> for Edges {
    type Error = ReferenceError;
    fn try_from(file: EdgesFile) -> Result<Self, ReferenceError> {
        match file {
            EdgesFile::Linear { lo, hi, bins } => Self::linear(lo, hi, bins),
            EdgesFile::Log { lo, hi, bins } => Self::log(lo, hi, bins),
            EdgesFile::Bounds(bounds) => Self::try_new(bounds),
        }
    }
}

impl From<Edges> for EdgesFile {
    fn from(edges: Edges) -> Self {
        let (lo, hi, bins) = (edges.bounds[0], edges.bounds[edges.bins()], edges.bins());
        match edges.shape {
            Shape::Linear => Self::Linear { lo, hi, bins },
            Shape::Log => Self::Log { lo, hi, bins },
            Shape::Explicit => Self::Bounds(edges.bounds.into_vec()),
        }
    }
}

fn check_bins(bins: usize) -> Result<(), ReferenceError> {
    if (1..=MAX_BINS).contains(&bins) { Ok(()) } else { Err(ReferenceError::BinCount { found: bins }) }
}

fn round_to_24_bits(x: f64) -> f64 {
    const DROPPED: u32 = 53 - 24;
    let half = 1u64 << (DROPPED - 1);
    f64::from_bits(x.to_bits().saturating_add(half) & !((1u64 << DROPPED) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_slot() {
        let edges = Edges::linear(-1.0, 1.0, 4).unwrap();
        assert_eq!(edges.bounds(), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        let slots = [
            (None, MISSING),
            (Some(f64::NAN), NAN),
            (Some(f64::NEG_INFINITY), NEG_INFINITY),
            (Some(f64::MIN), BELOW),
            (Some(-1.0f64.next_up()), BELOW),
            (Some(-1.0), FIRST_BIN),
            (Some(-0.0), FIRST_BIN + 2),
            (Some(0.5f64.next_down()), FIRST_BIN + 2),
            (Some(0.5), FIRST_BIN + 3),
            (Some(1.0), FIRST_BIN + 3),
            (Some(1.0f64.next_up()), edges.above()),
            (Some(f64::INFINITY), edges.above() + 1),
        ];
        for (value, slot) in slots {
            assert_eq!(edges.slot(value), slot, "{value:?}");
        }
        assert_eq!(edges.slots(), edges.above() + 2);
    }

    #[test]
    fn quantiles_give_bins_of_equal_mass() {
        let sample: Vec<f64> = (0..10_000).map(|i| f64::from(i).sqrt()).collect();
        let edges = Edges::quantiles(&sample, 32).unwrap();
        let mut counts = vec![0u32; edges.slots()];
        sample.iter().for_each(|&x| counts[edges.slot(Some(x))] += 1);
        assert!(counts[FIRST_BIN..edges.above()].iter().all(|&count| count.abs_diff(10_000 / 32) <= 2), "{counts:?}");
    }

    #[test]
    fn a_value_that_fills_several_bins_gets_one() {
        let sample: Vec<f64> = (0..100).map(|i| if i < 50 { 0.0 } else { f64::from(i) }).collect();
        let edges = Edges::quantiles(&sample, 10).unwrap();
        assert_eq!(edges.bounds()[..3], [0.0, 0.0f64.next_up(), 50.0]);
        assert!(Edges::quantiles(&[3.0; 9], 10).is_err());
    }

    #[test]
    fn a_value_that_fills_nearly_all_does_not_hide_the_rest() {
        let sample: Vec<f64> = (0..1000).map(|i| if i < 970 { 0.0 } else { f64::from(i) }).collect();
        let above = Edges::quantiles(&sample, 32).unwrap();
        assert_eq!(above.bounds(), [0.0, 0.0f64.next_up(), 999.0]);
        assert_ne!(above.slot(Some(0.0)), above.slot(Some(980.0)));
        let sample: Vec<f64> = sample.iter().map(|x| 2.0 - x).collect();
        let below = Edges::quantiles(&sample, 32).unwrap();
        assert_eq!(below.bounds(), [-997.0, 2.0, 2.0f64.next_up()]);
        assert_ne!(below.slot(Some(2.0)), below.slot(Some(-980.0)));
        assert_eq!((below.slot(Some(2.0)), below.slot(Some(2.1))), (below.above() - 1, below.above()));
    }

    #[test]
    fn fewer_values_than_bins_are_the_bounds() {
        assert_eq!(Edges::quantiles(&[4.0, 1.0, 2.0], 32).unwrap().bounds(), [1.0, 2.0, 4.0]);
        assert_eq!(Edges::quantiles(&[4.0, 1.0, 1.0], 32).unwrap().bounds(), [1.0, 1.0f64.next_up(), 4.0]);
    }

    #[test]
    fn a_sketch_gives_nearly_the_bounds_of_its_sample() {
        let mut sketch = KllSketch::new(1024).unwrap();
        let sample: Vec<f64> = (0..20_000).map(|i| f64::from(i * 7919 % 20_000)).collect();
        sample.iter().for_each(|&x| sketch.update(KllFloat::<f64>::new(x).unwrap()));
        let edges = Edges::from_sketch(&sketch, 32).unwrap();
        for (k, bound) in edges.bounds().iter().enumerate() {
            assert!((bound - k as f64 * 625.0).abs() < 200.0, "{bound} at {k}");
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = |edges: Result<Edges, ReferenceError>| edges.unwrap_err().to_string();
        assert_eq!(error(Edges::linear(0.0, 1.0, 65)), "number of bins is 65, allowed are 1 to 64");
        assert_eq!(error(Edges::log(0.0, 1.0, 8)), "logarithmic range starts at 0, allowed are numbers above 0");
        let order = "bound 1 of edges is 1, allowed are numbers above the bound before it, 2";
        assert_eq!(error(Edges::linear(2.0, 1.0, 1)), order);
        let finite = "bound 1 of edges is inf, allowed are finite numbers";
        assert_eq!(error(Edges::try_new(vec![0.0, f64::INFINITY])), finite);
        assert!(Edges::linear(f64::NAN, 1.0, 4).is_err());
    }
}

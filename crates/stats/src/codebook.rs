//! A k-means codebook: the cells that give an embedding its code.

use serde::{Deserialize, Serialize};

use crate::{ReferenceError, random::SplitMix, wire::Writer};

/// The most cells of a codebook.
pub const MAX_CELLS: usize = 256;
/// The most rounds of Lloyd's algorithm; it stops earlier once no vector changes its cell.
const ROUNDS: usize = 50;

/// Centres of the cells of a vector space, each in `dims` dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f32>>", into = "Vec<Vec<f32>>")]
pub struct Codebook {
    dims: usize,
    /// One centre after the other.
    centres: Box<[f32]>,
}

impl Codebook {
    /// Validates centres: 1 to 256 of equal length, finite.
    ///
    /// # Errors
    /// If there are too few or too many, or one has another length or a component that is not finite.
    pub fn try_new(centres: &[impl AsRef<[f32]>]) -> Result<Self, ReferenceError> {
        if centres.is_empty() || centres.len() > MAX_CELLS {
            return Err(ReferenceError::CodebookSize { found: centres.len(), max: MAX_CELLS });
        }
        let dims = check_vectors(centres)?;
        Ok(Self { dims, centres: centres.iter().flat_map(|centre| centre.as_ref().iter().copied()).collect() })
    }

    /// Fits at most `cells` centres to `sample` by k-means++ seeding (Arthur, Vassilvitskii 2007)
    /// and Lloyd's algorithm. The same sample, in the same order, and the same seed give the same
    /// codebook. There are fewer cells if the sample has fewer different vectors.
    ///
    /// # Errors
    /// If `cells` is not in 1..=256, the sample is empty, or its vectors differ in length or have a
    /// component that is not finite.
    pub fn fit(sample: &[impl AsRef<[f32]>], cells: usize, seed: u64) -> Result<Self, ReferenceError> {
        if cells == 0 || cells > MAX_CELLS {
            return Err(ReferenceError::CodebookSize { found: cells, max: MAX_CELLS });
        }
        let dims = check_vectors(sample)?;
        let mut book = Self { dims, centres: seed_centres(sample, cells, seed) };
        let mut cell_of = vec![usize::MAX; sample.len()];
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (cell, vector) in cell_of.iter_mut().zip(sample) {
                let nearest = book.nearest_of(vector.as_ref());
                moved |= nearest != *cell;
                *cell = nearest;
            }
            if !moved {
                break;
            }
            book.move_to_means(sample, &cell_of);
        }
        Ok(book)
    }

    /// Moves each centre to the mean of its vectors; one without any stays.
    fn move_to_means(&mut self, sample: &[impl AsRef<[f32]>], cell_of: &[usize]) {
        let mut sums = vec![0.0f64; self.centres.len()];
        let mut sizes = vec![0u64; self.cells()];
        for (&cell, vector) in cell_of.iter().zip(sample) {
            sizes[cell] += 1;
            let sums = &mut sums[cell * self.dims..][..self.dims];
            sums.iter_mut().zip(vector.as_ref()).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let centres = self.centres.chunks_exact_mut(self.dims).zip(sums.chunks_exact(self.dims));
        for ((centre, sums), &size) in centres.zip(&sizes) {
            if size > 0 {
                centre.iter_mut().zip(sums).for_each(|(x, sum)| *x = (sum / size as f64) as f32);
            }
        }
    }

    /// Returns the number of cells.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.centres.len() / self.dims
    }

    /// Returns the number of components of a vector.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Returns the cell whose centre is nearest in Euclidean distance to a vector of the right length, the first of
    /// equals.
    fn nearest_of(&self, vector: &[f32]) -> usize {
        self.nearest_and_distance(vector).0
    }

    /// Returns the nearest cell of a vector of the right length, and the squared distance to its centre.
    pub(crate) fn nearest_and_distance(&self, vector: &[f32]) -> (usize, f32) {
        let mut nearest = (0, f32::INFINITY);
        for (cell, centre) in self.centres.chunks_exact(self.dims).enumerate() {
            let distance = squared_distance(centre, vector);
            if distance < nearest.1 {
                nearest = (cell, distance);
            }
        }
        nearest
    }

    pub(crate) fn describe(&self, out: &mut Writer) {
        out.varint(self.dims as u64);
        out.varint(self.cells() as u64);
        self.centres.iter().for_each(|x| out.bytes(&x.to_le_bytes()));
    }
}

impl TryFrom<Vec<Vec<f32>>> for Codebook {
    type Error = ReferenceError;
    fn try_from(centres: Vec<Vec<f32>>) -> Result<Self, ReferenceError> {
        Self::try_new(&centres)
    }
}

impl From<Codebook> for Vec<Vec<f32>> {
    fn from(book: Codebook) -> Self {
        book.centres.chunks_exact(book.dims).map(<[f32]>::to_vec).collect()
    }
}

/// Returns the common length of vectors.
fn check_vectors(vectors: &[impl AsRef<[f32]>]) -> Result<usize, ReferenceError> {
    let dims = vectors.first().map_or(0, |first| first.as_ref().len());
    if dims == 0 {
        return Err(ReferenceError::Vector { index: 0, found: 0, dims });
    }
    for (index, vector) in vectors.iter().enumerate() {
        let vector = vector.as_ref();
        let found = vector.iter().filter(|x| x.is_finite()).count();
        if vector.len() != dims || found != dims {
            return Err(ReferenceError::Vector { index, found, dims });
        }
    }
    Ok(dims)
}

/// Draws centres from the sample, each with probability proportional to the squared distance to
/// the nearest one drawn before.
fn seed_centres(sample: &[impl AsRef<[f32]>], cells: usize, seed: u64) -> Box<[f32]> {
    let mut random = SplitMix::new(seed);
    let mut centres = Vec::new();
    let mut distances = vec![f64::INFINITY; sample.len()];
    let mut next = (random.unit() * sample.len() as f64) as usize;
    for _ in 0..cells {
        let centre = sample[next].as_ref();
        centres.extend_from_slice(centre);
        for (distance, vector) in distances.iter_mut().zip(sample) {
            *distance = distance.min(f64::from(squared_distance(centre, vector.as_ref())));
        }
        let total: f64 = distances.iter().sum();
        let mut left = random.unit() * total;
        let drawn = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0 && *distance > 0.0
        });
        // Rounding may leave a remainder past the end; then the last vector not yet covered serves.
        match drawn.or_else(|| distances.iter().rposition(|&distance| distance > 0.0)) {
            Some(index) => next = index,
            None => break,
        }
    }
    centres.into()
}

/// Sums in eight lanes, which the compiler turns into vector instructions; the order is fixed.
fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| (a - b) * (a - b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += (a[lane] - b[lane]) * (a[lane] - b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four clusters of 50 vectors around the corners of a square in 9 dimensions.
    fn corners() -> Vec<Vec<f32>> {
        let mut random = SplitMix::new(7);
        let mut vector = |i: usize| {
            let mut vector: Vec<f32> = (0..9).map(|_| random.unit() as f32 * 0.1).collect();
            vector[0] += (i % 2) as f32;
            vector[8] += (i / 2 % 2) as f32;
            vector
        };
        (0..200).map(&mut vector).collect()
    }

    #[test]
    fn separate_clusters_get_a_cell_each() {
        let sample = corners();
        let book = Codebook::fit(&sample, 4, 1).unwrap();
        let cells: Vec<usize> = sample[..4].iter().map(|vector| book.nearest_of(vector)).collect();
        assert_eq!(cells.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(sample.iter().enumerate().all(|(i, vector)| book.nearest_of(vector) == cells[i % 4]));
    }

    #[test]
    fn the_seed_decides_alone() {
        let sample = corners();
        assert_eq!(Codebook::fit(&sample, 16, 3).unwrap(), Codebook::fit(&sample, 16, 3).unwrap());
        assert_ne!(Codebook::fit(&sample, 16, 3).unwrap(), Codebook::fit(&sample, 16, 4).unwrap());
    }

    #[test]
    fn equal_vectors_give_one_cell_and_bad_ones_none() {
        let book = Codebook::fit(&[[1.0, 2.0]; 5], 64, 1).unwrap();
        assert_eq!(book.cells(), 1);
        assert_eq!(book.nearest_of(&[9.0, 9.0]), 0);
        let error = Codebook::fit(&[vec![1.0, 2.0], vec![1.0]], 2, 1).unwrap_err();
        assert_eq!(error.to_string(), "vector 1 has 1 finite components, allowed are exactly 2, at least 1");
    }
}

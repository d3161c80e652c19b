//! Labelled pictures, and how they are split.
//!
//! Photographs of one piece resemble each other more than those of two pieces ever do. A split by photograph tests how well a network remembers; so pieces
//! are split, and all photographs of a piece stay on one side.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    error::ModelError,
    inspection::view::{Plane, square},
};

/// How much larger than the network's view samples are kept, so that they can be turned and scaled without losing detail.
const MARGIN: f64 = 1.25;

/// A labelled picture.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What names it in reports.
    pub name: String,
    /// The condition it was taken under, such as an exposure.
    pub slice: String,
    /// The piece it shows: all pictures of a piece have the same number.
    pub piece: usize,
    /// The class, an index into the list of classes; 0 is *good*.
    pub class: usize,
    /// Share of the picture that the defect covers, 0 to 1; `None` without a mask.
    pub area: Option<f64>,
    picture: Plane,
    mask: Option<Plane>,
}

impl Sample {
    /// Takes a picture of brightness from 0 to 255 and, if there is one, its mask of the same size, in which a defect's pixels are not 0. An empty mask of a
    /// defective picture is none: nobody marked the defect. `side` is that of the network's view; picture and mask are kept as squares, as it sees them.
    ///
    /// # Errors
    /// [`ModelError::Input`] if the sizes do not fit.
    #[allow(clippy::too_many_arguments, reason = "what a labelled picture has")]
    pub fn try_new(
        name: impl Into<String>,
        slice: impl Into<String>,
        piece: usize,
        class: usize,
        (width, height): (usize, usize),
        pixels: &[u8],
        mask: Option<&[u8]>,
        side: usize,
    ) -> Result<Self, ModelError> {
        let kept = (side as f64 * MARGIN) as usize;
        let picture = square(width, height, pixels, kept)?;
        let mask = mask.filter(|mask| class == 0 || mask.iter().any(|&m| m != 0));
        let mask = mask.map(|mask| mask.iter().map(|&m| if m == 0 { 0 } else { 255 }).collect::<Vec<u8>>());
        let area = mask.as_ref().map(|mask| mask.iter().filter(|&&m| m > 0).count() as f64 / mask.len().max(1) as f64);
        let mask = match mask {
            Some(mask) => {
                let mut mask = square(width, height, &mask, kept)?;
                mask.values_mut().iter_mut().for_each(|v| *v /= 255.0);
                Some(mask)
            }
            None => None,
        };
        Ok(Self { name: name.into(), slice: slice.into(), piece, class, area, picture, mask })
    }

    /// Returns the picture as it is kept.
    #[must_use]
    pub fn picture(&self) -> &Plane {
        &self.picture
    }

    /// Returns the share of each pixel that is defect; `None` where nobody marked it.
    #[must_use]
    pub fn mask(&self) -> Option<&Plane> {
        self.mask.as_ref()
    }

    /// Returns the picture as the network sees it when it is not trained: `side` × `side` pixels, normalised.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a side of 0.
    pub fn view(&self, side: usize) -> Result<Plane, ModelError> {
        let mut plane = square(self.picture.width(), self.picture.height(), self.picture.values(), side)?;
        plane.normalise();
        Ok(plane)
    }
}

/// Deals pieces into `count` parts of like composition and returns the part of each sample. Pieces of a class (that of most defects it shows) are shuffled and
/// dealt out in turn.
#[must_use]
pub fn deal(samples: &[Sample], count: usize, seed: u64) -> Vec<usize> {
    let mut pieces: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
    for sample in samples {
        let class = pieces.entry(sample.piece).or_default();
        *class = (*class).max(sample.class);
    }
    let mut order: Vec<(usize, usize)> = pieces.into_iter().collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    order.sort_by_key(|&(_, class)| class);
    let parts: std::collections::BTreeMap<usize, usize> =
        order.into_iter().enumerate().map(|(i, (piece, _))| (piece, i % count.max(1))).collect();
    samples.iter().map(|sample| parts[&sample.piece]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_that_nobody_marked_has_no_mask() {
        let sample = |class, marked: u8| {
            let mut mask = [0; 256];
            mask[17] = marked;
            Sample::try_new("", "", 0, class, (16, 16), &[80; 256], Some(&mask), 16).unwrap()
        };
        assert_eq!((sample(1, 0).area, sample(1, 0).mask().is_none()), (None, true));
        assert_eq!((sample(1, 1).area, sample(1, 1).mask().is_none()), (Some(1.0 / 256.0), false));
        assert_eq!(sample(0, 0).area, Some(0.0));
    }
}

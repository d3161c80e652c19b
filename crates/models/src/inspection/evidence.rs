//! From logits to what is decided on: how much speaks for a defect, of which class, and where.

use super::{
    batch::Size,
    network::{Logits, Network},
    view::Plane,
};
use crate::error::ModelError;

/// Cells of the map whose mean speaks for the map: a defect may be as small as they are.
pub const PEAK: usize = 5;

/// What a picture's logits say. The first class is *good*.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Size of the map.
    pub size: Size,
    /// Log odds of a defect for each cell of the map, row by row.
    pub odds: Vec<f32>,
    /// Mean of the largest [`PEAK`] log odds.
    pub peak: f32,
    /// Log odds of a defect for the picture as a whole.
    pub whole: f32,
    /// Probabilities of the classes but the first, if there is a defect: what the whole says and what the peak's cells say, as if they were independent.
    pub defects: Vec<f32>,
}

/// The mirror images of a view besides itself: from the other side, upside down, both.
const MIRRORS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

impl Evidence {
    /// Looks at a view with a network; if `mirrored`, at its mirror images too, and takes the means: what looks like a defect one way round only counts for less.
    ///
    /// # Errors
    /// [`ModelError`] from the network.
    pub fn of(network: &Network, view: &Plane, mirrored: bool) -> Result<Self, ModelError> {
        let mut mean = Self::read(&network.forward(view)?)?;
        if !mirrored {
            return Ok(mean);
        }
        for (sideways, upside_down) in MIRRORS {
            let seen = Self::read(&network.forward(&view.mirrored(sideways, upside_down))?)?;
            let odds = Plane::try_new(seen.size.width, seen.size.height, seen.odds)?;
            mean.peak += seen.peak;
            mean.whole += seen.whole;
            add(&mut mean.odds, odds.mirrored(sideways, upside_down).values());
            add(&mut mean.defects, &seen.defects);
        }
        let share = 1.0 / (MIRRORS.len() + 1) as f32;
        mean.peak *= share;
        mean.whole *= share;
        mean.odds.iter_mut().chain(&mut mean.defects).for_each(|x| *x *= share);
        Ok(mean)
    }

    /// Reads logits.
    ///
    /// # Errors
    /// [`ModelError::Candle`] if a tensor cannot be read.
    pub fn read(logits: &Logits) -> Result<Self, ModelError> {
        let head = logits.head.flatten_all()?.to_vec1::<f32>()?;
        let map = logits.map.flatten_all()?.to_vec1::<f32>()?;
        let odds: Vec<f32> = map.chunks_exact(head.len()).map(log_odds).collect();
        let places = peak(&odds);
        let count = places.len().max(1) as f32;
        let mut defects: Vec<f32> = head[1..].to_vec();
        for &place in &places {
            let row = &map[place * head.len()..][1..head.len()];
            let all = log_sum_exp(row);
            defects.iter_mut().zip(row).for_each(|(sum, x)| *sum += (x - all) / count);
        }
        let all = log_sum_exp(&defects);
        defects.iter_mut().for_each(|x| *x = (*x - all).exp());
        Ok(Self {
            size: logits.size,
            peak: places.iter().map(|&i| odds[i]).sum::<f32>() / count,
            odds,
            whole: log_odds(&head),
            defects,
        })
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
}

/// Returns the places of the largest [`PEAK`] values, fewer if there are fewer.
#[must_use]
pub fn peak(odds: &[f32]) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(PEAK + 1);
    for (i, value) in odds.iter().enumerate() {
        if best.len() < PEAK || best.last().is_some_and(|&last| *value > odds[last]) {
            let place = best.partition_point(|&other| odds[other] >= *value);
            best.insert(place, i);
            best.truncate(PEAK);
        }
    }
    best
}

/// Returns the log odds of any class but the first.
fn log_odds(row: &[f32]) -> f32 {
    log_sum_exp(&row[1..]) - row[0]
}

/// Returns `ln Σ e^x`.
pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    most + values.iter().map(|v| (v - most).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::inspection::training::trainer::initial;

    #[test]
    fn mirror_images_are_judged_alike_and_defects_stand_where_they_are() {
        let network = Network::try_new(&initial(3, 1).unwrap(), 3, "test".as_ref()).unwrap();
        let mut view = Plane::from_fn(64, 64, |x, y| ((x * 31 + y * y * 7) % 23) as f32);
        view.normalise();
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        let seen = Evidence::of(&network, &view, true).unwrap();
        for (sideways, upside_down) in MIRRORS {
            let other = Evidence::of(&network, &view.mirrored(sideways, upside_down), true).unwrap();
            assert!(near(&[seen.whole, seen.peak], &[other.whole, other.peak]) && near(&seen.defects, &other.defects));
            let odds = Plane::try_new(16, 16, other.odds).unwrap();
            assert!(near(&seen.odds, odds.mirrored(sideways, upside_down).values()));
        }
        let once = Evidence::of(&network, &view, false).unwrap();
        assert_eq!(once, Evidence::read(&network.forward(&view).unwrap()).unwrap());
        assert!(!near(&[once.whole], &[seen.whole]));
    }

    #[test]
    fn the_peak_is_the_mean_of_the_largest() {
        assert_eq!(peak(&[0.0, 9.0, 3.0, 8.0, -1.0, 5.0, 7.0]), [1, 3, 6, 5, 2]);
        assert_eq!(peak(&[1.0, 2.0]), [1, 0]);
    }

    #[test]
    fn whole_and_peak_both_speak_for_a_class() {
        let map = Tensor::new(&[[0f32, 1.0, -1.0], [3.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let head = Tensor::new(&[[1f32, 0.0, 0.0]], &Device::Cpu).unwrap();
        let evidence = Evidence::read(&Logits { size: Size { height: 1, width: 2 }, map, head }).unwrap();
        assert!((evidence.whole - (2f32 / 1f32.exp()).ln()).abs() < 1e-5);
        assert!((evidence.odds[1] - (2f32 / 3f32.exp()).ln()).abs() < 1e-5);
        assert!((evidence.peak - (evidence.odds[0] + evidence.odds[1]) / 2.0).abs() < 1e-5);
        // The head is undecided; the first cell is for the first class by two nats, the second undecided.
        assert!((evidence.defects[0] / evidence.defects[1] - 1f32.exp()).abs() < 1e-4);
    }
}

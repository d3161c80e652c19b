//! From logits to what is decided on: how much speaks for a defect, of which class, and where.

use super::{batch::Size, network::Logits};
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

impl Evidence {
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

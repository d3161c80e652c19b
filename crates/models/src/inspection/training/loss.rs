//! What is minimised, with its derivative with respect to the logits.
//!
//! Four parts: the class of every cell of the map, as far as it is known; how far what the map marks as defective and what is overlap (Dice; Milletari et al., "V-Net", 2016, with
//! shares of cells); the largest log odds of the map, which must tell whether there is a defect at all; and the class of the whole. Cells of defects are few: together they weigh as
//! much as `DEFECT_SHARE` of all cells.

use crate::inspection::evidence::{PEAK, log_sum_exp, peak};

/// Weight of a picture's defective cells together, against that of all cells.
const DEFECT_SHARE: f32 = 0.25;
/// The largest weight of one defective cell.
const HEAVIEST: f32 = 30.0;
/// Probability taken from the right class of a whole picture and given to all.
const SMOOTHING: f32 = 0.05;
/// Weights of the parts.
const CELLS: f32 = 3.0;
const OVERLAP: f32 = 1.0;
const PEAKS: f32 = 0.5;
const WHOLE: f32 = 1.0;

/// A loss and its derivative with respect to the logits of the map and of the head.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The loss.
    pub value: f32,
    /// `[cells, classes]`, row by row.
    pub map: Vec<f32>,
    /// `[classes]`
    pub head: Vec<f32>,
}

/// Computes the loss of one picture of class `class`. `cells` is the share of each cell that is defect.
#[must_use]
pub fn loss(map: &[f32], head: &[f32], class: usize, cells: Option<&[f32]>) -> Loss {
    let classes = head.len();
    let mut value = 0.0;
    let mut map_gradient = vec![0f32; map.len()];
    if let Some(cells) = cells {
        let defect: f32 = cells.iter().sum();
        let weight = if defect > 0.0 { (DEFECT_SHARE * cells.len() as f32 / defect).clamp(1.0, HEAVIEST) } else { 1.0 };
        let scale = CELLS / cells.len() as f32;
        for ((row, gradient), &share) in
            map.chunks_exact(classes).zip(map_gradient.chunks_exact_mut(classes)).zip(cells)
        {
            let all = log_sum_exp(row);
            let weight = scale * (share * weight + 1.0 - share);
            for (k, (x, g)) in row.iter().zip(gradient).enumerate() {
                let wanted = if k == 0 {
                    1.0 - share
                } else if k == class {
                    share
                } else {
                    0.0
                };
                value -= weight * wanted * (x - all);
                *g = weight * ((x - all).exp() - wanted);
            }
        }
    }

    let odds: Vec<f32> = map.chunks_exact(classes).map(|row| log_sum_exp(&row[1..]) - row[0]).collect();
    // How much the loss rises with the log odds of each cell.
    let mut slopes = vec![0f32; odds.len()];
    if let Some(cells) = cells.filter(|_| class > 0) {
        let marked: Vec<f32> = odds.iter().map(|o| 1.0 / (1.0 + (-o).exp())).collect();
        let both = 2.0 * marked.iter().zip(cells).map(|(p, share)| p * share).sum::<f32>() + 1.0;
        let either = marked.iter().sum::<f32>() + cells.iter().sum::<f32>() + 1.0;
        value += OVERLAP * (1.0 - both / either);
        for ((slope, p), share) in slopes.iter_mut().zip(&marked).zip(cells) {
            *slope = OVERLAP * (both / either - 2.0 * share) / either * p * (1.0 - p);
        }
    }
    let places = peak(&odds);
    let count = places.len().clamp(1, PEAK) as f32;
    let mean = places.iter().map(|&i| odds[i]).sum::<f32>() / count;
    let sign = if class == 0 { 1.0 } else { -1.0 };
    // ln(1 + e^(±mean)), without overflow.
    value += PEAKS * ((sign * mean).max(0.0) + (-(sign * mean).abs()).exp().ln_1p());
    for &i in &places {
        slopes[i] += PEAKS * sign / (1.0 + (-sign * mean).exp()) / count;
    }
    for ((row, gradient), slope) in map.chunks_exact(classes).zip(map_gradient.chunks_exact_mut(classes)).zip(slopes) {
        if slope == 0.0 {
            continue;
        }
        let defects = log_sum_exp(&row[1..]);
        gradient[0] -= slope;
        for (g, x) in gradient[1..].iter_mut().zip(&row[1..]) {
            *g += slope * (x - defects).exp();
        }
    }

    let all = log_sum_exp(head);
    let wanted = |k: usize| SMOOTHING / classes as f32 + if k == class { 1.0 - SMOOTHING } else { 0.0 };
    let mut head_gradient = Vec::with_capacity(classes);
    for (k, x) in head.iter().enumerate() {
        value -= WHOLE * wanted(k) * (x - all);
        head_gradient.push(WHOLE * ((x - all).exp() - wanted(k)));
    }
    Loss { value, map: map_gradient, head: head_gradient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_equal_finite_differences() {
        let map: Vec<f32> = (0..8 * 3).map(|i| (i as f32 * 1.3).sin() * 2.0).collect();
        let head = [0.3f32, -0.4, 0.9];
        let cells: Vec<f32> = (0..8).map(|i| if i < 2 { 0.75 } else { 0.0 }).collect();
        for (class, cells) in [(0, Some(vec![0.0; 8])), (2, Some(cells)), (1, None)] {
            let found = loss(&map, &head, class, cells.as_deref());
            let at = |map: &[f32], head: &[f32]| f64::from(loss(map, head, class, cells.as_deref()).value);
            for i in 0..map.len() {
                let moved = |step: f32| {
                    let mut moved = map.clone();
                    moved[i] += step;
                    at(&moved, &head)
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((f64::from(found.map[i]) - numeric).abs() < 2e-3, "{class} {i}: {} {numeric}", found.map[i]);
            }
            for i in 0..3 {
                let moved = |step: f32| {
                    let mut moved = head;
                    moved[i] += step;
                    at(&map, &moved)
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((f64::from(found.head[i]) - numeric).abs() < 2e-3);
            }
        }
    }
}

//! Connectionist temporal classification: loss, its gradient, and the best alignment.
//!
//! Graves et al., "Connectionist temporal classification", ICML 2006: the forward and backward recursions are equations 6–11, the gradient with
//! respect to the logits is equation 16. Everything stays in log space and in `f64`, so that a long utterance does not underflow.

use rayon::prelude::*;

/// The class that stands for "no symbol here".
pub const BLANK: usize = 0;

/// Loss and gradient of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct LossAndGradient {
    /// `-ln p(target | logits)` of each sequence; infinite where the target does not fit into the frames.
    pub losses: Vec<f32>,
    /// Derivative of each sequence's loss with respect to its logits, laid out as the logits; zero in the padding and for an infinite loss.
    pub gradient: Vec<f32>,
}

/// Computes the loss of logits `[batch, time, classes]`, row-major, with `lengths` valid frames and a target a sequence.
///
/// Targets hold classes other than [`BLANK`]. NaN logits give a NaN loss.
///
/// # Panics
/// Where the slices' lengths contradict one another.
#[must_use]
pub fn loss_and_gradient(logits: &[f32], classes: usize, lengths: &[usize], targets: &[Vec<u8>]) -> LossAndGradient {
    assert_eq!(lengths.len(), targets.len(), "one target a sequence");
    let per_sequence = logits.len() / lengths.len().max(1);
    let mut gradient = vec![0f32; logits.len()];
    let mut rest = gradient.as_mut_slice();
    let mut parts = Vec::with_capacity(lengths.len());
    for b in 0..lengths.len() {
        let (part, after) = rest.split_at_mut(per_sequence);
        parts.push((b, part));
        rest = after;
    }
    let losses = parts
        .into_par_iter()
        .map(|(b, gradient)| {
            let n = lengths[b] * classes;
            sequence(&logits[b * per_sequence..][..n], classes, &targets[b], &mut gradient[..n])
        })
        .collect();
    LossAndGradient { losses, gradient }
}

/// Turns one frame's logits into log probabilities.
pub fn log_softmax(row: &[f32], out: &mut [f64]) {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    let norm = f64::from(max) + sum.ln();
    for (o, &x) in out.iter_mut().zip(row) {
        *o = f64::from(x) - norm;
    }
}

/// Adds two probabilities given as logarithms.
#[must_use]
pub fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// The class at position `s` of the target with blanks between and around.
fn state_class(target: &[u8], s: usize) -> usize {
    if s.is_multiple_of(2) { BLANK } else { usize::from(target[s / 2]) }
}

/// Says whether a path may go from state `s - 2` straight to `s`.
fn may_skip(target: &[u8], s: usize) -> bool {
    s >= 2 && s % 2 == 1 && target[s / 2] != target[s / 2 - 1]
}

fn sequence(logits: &[f32], classes: usize, target: &[u8], gradient: &mut [f32]) -> f32 {
    let frames = logits.len() / classes;
    let states = 2 * target.len() + 1;
    if frames == 0 {
        return if target.is_empty() { 0.0 } else { f32::INFINITY };
    }
    let mut log_p = vec![0f64; logits.len()];
    for (row, out) in logits.chunks_exact(classes).zip(log_p.chunks_exact_mut(classes)) {
        log_softmax(row, out);
    }
    let at = |t: usize, s: usize| log_p[t * classes + state_class(target, s)];

    let mut alpha = vec![f64::NEG_INFINITY; frames * states];
    alpha[0] = at(0, 0);
    if states > 1 {
        alpha[1] = at(0, 1);
    }
    for t in 1..frames {
        let (before, now) = alpha.split_at_mut(t * states);
        let before = &before[(t - 1) * states..];
        for s in 0..states {
            let mut sum = before[s];
            if s >= 1 {
                sum = log_add(sum, before[s - 1]);
            }
            if may_skip(target, s) {
                sum = log_add(sum, before[s - 2]);
            }
            now[s] = sum + at(t, s);
        }
    }
    let last = &alpha[(frames - 1) * states..];
    let total = if states > 1 { log_add(last[states - 1], last[states - 2]) } else { last[0] };
    if total == f64::NEG_INFINITY {
        return f32::INFINITY;
    }

    // beta excludes the frame's own probability, so alpha + beta is the whole path's.
    let mut beta = vec![f64::NEG_INFINITY; states];
    let mut next = beta.clone();
    let mut posterior = vec![f64::NEG_INFINITY; classes];
    for t in (0..frames).rev() {
        if t == frames - 1 {
            beta[states - 1] = 0.0;
            if states > 1 {
                beta[states - 2] = 0.0;
            }
        } else {
            for (s, slot) in next.iter_mut().enumerate() {
                let mut sum = beta[s] + at(t + 1, s);
                if s + 1 < states {
                    sum = log_add(sum, beta[s + 1] + at(t + 1, s + 1));
                }
                if s + 2 < states && may_skip(target, s + 2) {
                    sum = log_add(sum, beta[s + 2] + at(t + 1, s + 2));
                }
                *slot = sum;
            }
            std::mem::swap(&mut beta, &mut next);
        }
        posterior.fill(f64::NEG_INFINITY);
        for (s, b) in beta.iter().enumerate() {
            let class = state_class(target, s);
            posterior[class] = log_add(posterior[class], alpha[t * states + s] + b);
        }
        for (class, p) in posterior.iter().enumerate() {
            let cell = t * classes + class;
            gradient[cell] = (log_p[cell].exp() - (p - total).exp()) as f32;
        }
    }
    -total as f32
}

/// The most probable way to lay a target over the frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// First and last frame of each symbol of the target.
    pub spans: Vec<(usize, usize)>,
    /// Sum over the frames of the path's log probability.
    pub log_probability: f64,
}

/// Finds the most probable alignment of `target` with `log_p` `[time, classes]`, or `None` where it does not fit into the frames.
#[must_use]
pub fn align(log_p: &[f64], classes: usize, target: &[u8]) -> Option<Alignment> {
    let frames = log_p.len() / classes;
    let states = 2 * target.len() + 1;
    if frames == 0 {
        return None;
    }
    let at = |t: usize, s: usize| log_p[t * classes + state_class(target, s)];
    let mut best = vec![f64::NEG_INFINITY; states];
    best[0] = at(0, 0);
    if states > 1 {
        best[1] = at(0, 1);
    }
    let mut steps = vec![0u8; frames * states];
    for t in 1..frames {
        // From the last state down, so that `best` still holds the frame before.
        for s in (0..states).rev() {
            let mut step = 0;
            for back in 1..=2usize {
                let allowed = s >= back && (back == 1 || may_skip(target, s));
                if allowed && best[s - back] > best[s - step] {
                    step = back;
                }
            }
            steps[t * states + s] = step as u8;
            best[s] = best[s - step] + at(t, s);
        }
    }
    let mut state = states - 1;
    if states > 1 && best[states - 2] > best[state] {
        state = states - 2;
    }
    let log_probability = best[state];
    if log_probability == f64::NEG_INFINITY {
        return None;
    }
    let mut spans = vec![(usize::MAX, 0); target.len()];
    for t in (0..frames).rev() {
        if state % 2 == 1 {
            let span = &mut spans[state / 2];
            *span = (t, span.1.max(t));
        }
        state -= usize::from(steps[t * states + state]);
    }
    Some(Alignment { spans, log_probability })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        classes: usize,
        lengths: Vec<usize>,
        targets: Vec<Vec<u8>>,
        logits: Vec<f32>,
        losses: Vec<f32>,
        gradient: Vec<f32>,
    }

    #[test]
    fn equals_the_reference() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../tests/golden/ctc.json")).expect("the golden file is JSON");
        let found = loss_and_gradient(&golden.logits, golden.classes, &golden.lengths, &golden.targets);
        for (found, wanted) in found.losses.iter().zip(&golden.losses) {
            assert!((found - wanted).abs() < 1e-4, "{found} against {wanted}");
        }
        for (i, (found, wanted)) in found.gradient.iter().zip(&golden.gradient).enumerate() {
            assert!((found - wanted).abs() < 1e-5, "gradient {i}: {found} against {wanted}");
        }
    }

    #[test]
    fn a_target_that_does_not_fit_has_no_gradient() {
        // "aa" needs a blank between, three frames in all.
        let found = loss_and_gradient(&[0.0; 6], 3, &[2], &[vec![1, 1]]);
        assert_eq!(found.losses, [f32::INFINITY]);
        assert!(found.gradient.iter().all(|&g| g == 0.0));
        assert_eq!(align(&[-1.0; 6], 3, &[1, 1]), None);
    }

    #[test]
    fn no_frames_fit_only_the_empty_target() {
        let found = loss_and_gradient(&[], 3, &[0, 0], &[vec![], vec![1]]);
        assert_eq!(found.losses, [0.0, f32::INFINITY]);
    }

    #[test]
    fn alignment_follows_the_peaks() {
        let (low, high) = (-5.0, -0.1);
        let rows = [[high, low, low], [low, high, low], [low, high, low], [high, low, low], [low, low, high]];
        let found = align(&rows.concat(), 3, &[1, 2]).expect("it fits");
        assert_eq!(found.spans, [(1, 2), (4, 4)]);
        assert!((found.log_probability + 0.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn gradient_equals_finite_differences(
            logits in prop::collection::vec(-3f32..3.0, 6 * 4),
            target in prop::collection::vec(1u8..4, 0..4),
        ) {
            let targets = [target];
            let found = loss_and_gradient(&logits, 4, &[6], &targets);
            if found.losses[0].is_finite() {
                for i in 0..logits.len() {
                    let at = |step: f32| {
                        let mut moved = logits.clone();
                        moved[i] += step;
                        loss_and_gradient(&moved, 4, &[6], &targets).losses[0]
                    };
                    let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                    prop_assert!((found.gradient[i] - numeric).abs() < 2e-3);
                }
            }
        }

        #[test]
        fn the_best_alignment_is_no_likelier_than_all(
            logits in prop::collection::vec(-3f32..3.0, 7 * 4),
            target in prop::collection::vec(1u8..4, 0..4),
        ) {
            let mut log_p = vec![0f64; logits.len()];
            for (row, out) in logits.chunks_exact(4).zip(log_p.chunks_exact_mut(4)) {
                log_softmax(row, out);
            }
            if let Some(alignment) = align(&log_p, 4, &target) {
                let all = loss_and_gradient(&logits, 4, &[7], &[target]).losses[0];
                prop_assert!(alignment.log_probability <= f64::from(-all) + 1e-5);
                prop_assert!(alignment.spans.windows(2).all(|w| w[0].1 < w[1].0));
            }
        }
    }
}

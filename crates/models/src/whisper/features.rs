//! Log-mel features as `WhisperFeatureExtractor` computes them (Radford et al. 2022, section 2.2).
//!
//! 25 ms Hann windows every 10 ms at 16 kHz, centred with reflected edges; power through a mel filter bank in Slaney's
//! scale and norm; `log10` with a floor of 1e-10; nothing more than 8 below the loudest value; `(x + 4) / 4`.

use std::f64::consts::PI;
use std::sync::Arc;

use rayon::prelude::*;
use realfft::{RealFftPlanner, RealToComplex};

/// Samples a second.
pub(super) const SAMPLE_RATE: usize = 16_000;
/// Samples from one frame to the next.
pub(super) const HOP: usize = 160;
const WINDOW: usize = 400;
const BINS: usize = WINDOW / 2 + 1;
const FLOOR: f32 = -10.0;

/// Computes features; cheap to share.
pub(super) struct Extractor {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    /// For each mel band its first bin and its weights.
    filters: Vec<(usize, Vec<f32>)>,
}

/// Features of one recording, frame after frame of `mels` values.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub mels: usize,
    pub values: Vec<f32>,
}

impl Features {
    pub fn frames(&self) -> usize {
        self.values.len() / self.mels
    }

    /// Returns `count` frames from `start`; what lies beyond the end is 0.
    pub fn window(&self, start: usize, count: usize) -> Vec<f32> {
        let from = (start * self.mels).min(self.values.len());
        let to = ((start + count) * self.mels).min(self.values.len());
        let mut frames = self.values[from..to].to_vec();
        frames.resize(count * self.mels, 0.0);
        frames
    }
}

impl Extractor {
    pub fn new(mels: usize) -> Self {
        let hann = |n| (0.5 - 0.5 * (2.0 * PI * f64::from(n) / WINDOW as f64).cos()) as f32;
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(WINDOW),
            window: (0..WINDOW as u32).map(hann).collect(),
            filters: mel_filters(mels),
        }
    }

    /// Computes the features of `samples`, extended with silence to `least` samples: one frame for every whole 10 ms.
    pub fn extract(&self, samples: &[f32], least: usize) -> Features {
        let length = samples.len().max(least);
        let mels = self.filters.len();
        // Sample `i` of the recording with its edges reflected; `i` counts from half a window before the start.
        let at = |i: usize| {
            let i = i.abs_diff(WINDOW / 2);
            let i = if i < length { i } else { (2 * (length - 1)).saturating_sub(i) };
            samples.get(i).copied().unwrap_or(0.0)
        };
        let mut values = vec![FLOOR; length / HOP * mels];
        values.par_chunks_mut(mels * 64).enumerate().for_each(|(chunk, out)| {
            let mut frame = self.fft.make_input_vec();
            let mut spectrum = self.fft.make_output_vec();
            let mut scratch = self.fft.make_scratch_vec();
            let mut power = [0f32; BINS];
            for (index, out) in out.chunks_exact_mut(mels).enumerate() {
                let start = (chunk * 64 + index) * HOP;
                let mut silent = true;
                for (offset, (value, weight)) in frame.iter_mut().zip(&self.window).enumerate() {
                    let sample = at(start + offset);
                    silent &= sample == 0.0;
                    *value = sample * weight;
                }
                // The power of silence is zero: the floor is already there. The lengths come from the plan, so it cannot fail.
                if silent || self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch).is_err() {
                    continue;
                }
                for (p, s) in power.iter_mut().zip(&spectrum) {
                    *p = s.norm_sqr();
                }
                for (value, (first, weights)) in out.iter_mut().zip(&self.filters) {
                    let energy: f32 = weights.iter().zip(&power[*first..]).map(|(w, p)| w * p).sum();
                    *value = energy.max(1e-10).log10();
                }
            }
        });
        let least = values.iter().copied().fold(FLOOR, f32::max) - 8.0;
        for value in &mut values {
            *value = (value.max(least) + 4.0) / 4.0;
        }
        Features { mels, values }
    }
}

/// Slaney's mel filters (Auditory Toolbox, 1998): triangles of equal area from 0 to 8 kHz.
fn mel_filters(mels: usize) -> Vec<(usize, Vec<f32>)> {
    let to_mel = |hertz: f64| {
        if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln() }
    };
    let to_hertz =
        |mel: f64| if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * (6.4f64.ln() / 27.0 * (mel - 15.0)).exp() };
    let top = SAMPLE_RATE as f64 / 2.0;
    let edges: Vec<f64> = (0..mels + 2).map(|i| to_hertz(to_mel(top) * i as f64 / (mels + 1) as f64)).collect();
    edges
        .windows(3)
        .map(|edge| {
            let weight = |bin: usize| {
                let hertz = top * bin as f64 / (BINS - 1) as f64;
                let rise = (hertz - edge[0]) / (edge[1] - edge[0]);
                let fall = (edge[2] - hertz) / (edge[2] - edge[1]);
                (rise.min(fall).max(0.0) * 2.0 / (edge[2] - edge[0])) as f32
            };
            let first = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
            let weights = (first..BINS).map(weight).take_while(|&w| w > 0.0).collect();
            (first, weights)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_floor_everywhere() {
        let features = Extractor::new(80).extract(&[], 16_000);
        assert_eq!(features.frames(), 100);
        assert!(features.values.iter().all(|&v| v == (FLOOR + 4.0) / 4.0));
    }

    #[test]
    fn filters_have_the_area_slaney_gives_them() {
        // At 40 Hz a bin, wide filters sum to 1 / 40 Hz.
        for (_, weights) in &mel_filters(80)[40..] {
            let area: f32 = weights.iter().sum::<f32>() * 40.0;
            assert!((area - 1.0).abs() < 0.1, "{area}");
        }
    }

    #[test]
    fn a_window_beyond_the_end_is_zero() {
        let features = Features { mels: 2, values: vec![1.0, 2.0, 3.0, 4.0] };
        assert_eq!(features.window(1, 2), [3.0, 4.0, 0.0, 0.0]);
        assert_eq!(features.window(9, 1), [0.0, 0.0]);
    }
}

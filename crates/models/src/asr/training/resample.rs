//! Resampling by any ratio: brings synthesised speech to 8 kHz and changes speed and pitch together.

use std::f32::consts::PI;

/// Zero crossings of the sinc on either side.
const CROSSINGS: f32 = 10.0;
/// Positions between two input samples that have their own filter.
const PHASES: usize = 128;

/// Reads `samples` at `step` input samples an output sample, with frequencies that would alias removed.
///
/// A step of 2 halves the sample rate, or doubles the speed where the rate is kept. Beyond the ends the input is zero.
#[must_use]
pub fn resample(samples: &[f32], step: f32) -> Vec<f32> {
    let cutoff = (1.0 / step).min(1.0) * 0.95;
    let reach = (CROSSINGS / cutoff).ceil() as usize;
    let taps = 2 * reach;
    let mut filters = vec![0f32; PHASES * taps];
    for (phase, filter) in filters.chunks_exact_mut(taps).enumerate() {
        let offset = phase as f32 / PHASES as f32;
        for (i, tap) in filter.iter_mut().enumerate() {
            let x = i as f32 - (reach - 1) as f32 - offset;
            let window = 0.5 + 0.5 * (PI * x / reach as f32).clamp(-PI, PI).cos();
            let angle = PI * cutoff * x;
            *tap = cutoff * window * if angle.abs() < 1e-6 { 1.0 } else { angle.sin() / angle };
        }
    }
    let mut padded = vec![0f32; reach];
    padded.extend_from_slice(samples);
    padded.resize(padded.len() + reach + 1, 0.0);
    let count = (samples.len() as f64 / f64::from(step)) as usize;
    (0..count)
        .map(|i| {
            let at = i as f64 * f64::from(step);
            let whole = at as usize;
            let phase = (((at - whole as f64) * PHASES as f64) as usize).min(PHASES - 1);
            // Input sample `whole` lies at `whole + reach` of the padded copy and at tap `reach - 1`.
            let window = &padded[whole + 1..][..taps];
            window.iter().zip(&filters[phase * taps..]).map(|(x, tap)| x * tap).sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_shape_at_another_rate() {
        let tone = |hz: f32, rate: f32, n: usize| -> Vec<f32> {
            (0..n).map(|i| (2.0 * PI * hz * i as f32 / rate).sin()).collect()
        };
        let found = resample(&tone(440.0, 22050.0, 4410), 22050.0 / 8000.0);
        let wanted = tone(440.0, 8000.0, found.len());
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate().skip(60).take(1400) {
            assert!((found - wanted).abs() < 0.03, "sample {i}: {found} against {wanted}");
        }
    }

    #[test]
    fn length_follows_the_step() {
        assert_eq!(resample(&[0.0; 1000], 2.0).len(), 500);
        assert!(resample(&[], 1.3).is_empty());
    }
}

//! What the built-in network sees of a chunk: three spectra of 16 ms, 10 ms apart, each as the logarithms of 32 mel
//! bands.

use super::{
    INPUT, SAMPLE_RATE,
    elementary::ln,
    spectrum::{BINS, Spectrum, SpectrumScratch, WINDOW},
};

/// Mel bands of a frame.
pub const BANDS: usize = 32;
/// Frames of a chunk.
pub const FRAMES: usize = 3;
/// Features of a chunk: `[FRAMES][BANDS]`.
pub const FEATURES: usize = FRAMES * BANDS;

const HOP: usize = (INPUT - WINDOW) / (FRAMES - 1);
/// The lowest and highest edge of the bands, in hertz.
const EDGES: (f64, f64) = (60.0, 7_800.0);
/// Added to a band's power, so that digital silence has a logarithm: about what white noise at -90 dBFS has in one bin.
const FLOOR: f32 = 1e-7;

/// Log-mel features of single chunks. Band edges are equally spaced on the mel scale `2595 log10(1 + f / 700)`; bands
/// are triangles over power spectra.
#[derive(Clone, Debug)]
pub struct LogMel {
    spectrum: Spectrum,
    /// For each band the first bin and the weights from there on.
    bands: Vec<(usize, Vec<f32>)>,
}

/// The memory of one extraction.
pub struct LogMelScratch {
    spectrum: SpectrumScratch,
    power: [f32; BINS],
}

impl LogMel {
    /// Lays out the bands.
    pub fn new() -> Self {
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        let (low, high) = (mel(EDGES.0), mel(EDGES.1));
        let width = (high - low) / (BANDS + 1) as f64;
        let bands = (0..BANDS)
            .map(|band| {
                let centre = low + width * (band + 1) as f64;
                let weight = |bin: usize| {
                    1.0 - (mel(bin as f64 * f64::from(SAMPLE_RATE) / WINDOW as f64) - centre).abs() / width
                };
                let first = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(BINS);
                (
                    first,
                    (first..BINS).map(weight).take_while(|&weight| weight > 0.0).map(|weight| weight as f32).collect(),
                )
            })
            .collect();
        Self { spectrum: Spectrum::new(), bands }
    }

    /// Makes memory for [`extract`](Self::extract).
    pub fn scratch(&self) -> LogMelScratch {
        LogMelScratch { spectrum: self.spectrum.scratch(), power: [0.0; BINS] }
    }

    /// Writes the features of a chunk. `samples` is 64 samples of context and 512 new ones, `features` has
    /// [`FEATURES`] places.
    ///
    /// # Panics
    ///
    /// Where `samples` is shorter than 576.
    #[inline(always)]
    pub fn extract(&self, scratch: &mut LogMelScratch, samples: &[f32], features: &mut [f32]) {
        for (frame, features) in features.chunks_exact_mut(BANDS).enumerate() {
            self.spectrum.power(&mut scratch.spectrum, &samples[frame * HOP..][..WINDOW], &mut scratch.power);
            for (feature, (first, weights)) in features.iter_mut().zip(&self.bands) {
                *feature = FLOOR
                    + scratch.power[*first..].iter().zip(weights).map(|(power, weight)| power * weight).sum::<f32>();
            }
        }
        for feature in features {
            *feature = ln(*feature);
        }
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_band_hears_something_and_a_tone_is_heard_in_its_own() {
        let log_mel = LogMel::new();
        assert!(log_mel.bands.iter().all(|(_, weights)| !weights.is_empty()));
        let mut scratch = log_mel.scratch();
        let mut loudest = |hertz: f32| {
            let samples: Vec<f32> =
                (0..INPUT).map(|n| (std::f32::consts::TAU * hertz * n as f32 / 16_000.0).sin() * 0.1).collect();
            let mut features = [0.0; FEATURES];
            log_mel.extract(&mut scratch, &samples, &mut features);
            (0..BANDS).max_by(|&a, &b| features[a].total_cmp(&features[b])).unwrap()
        };
        let bands: Vec<usize> = [500.0, 1000.0, 2000.0, 4000.0, 7000.0].map(&mut loudest).to_vec();
        // (mel(f) - mel(60)) / ((mel(7800) - mel(60)) / 33) - 1 is 5.2, 10.0, 16.3, 23.9, 30.7.
        assert_eq!(bands, [5, 10, 16, 24, 31]);
        let mut silence = [0.0; FEATURES];
        log_mel.extract(&mut scratch, &[0.0; INPUT], &mut silence);
        assert!(silence.iter().all(|&feature| (feature - FLOOR.ln()).abs() < 1e-4));
    }
}

//! Log-mel spectrograms.
//!
//! A [`LogMel`] holds the window, the Fourier plan and the filters of one setting; it is immutable and shared between threads.
//! Frames are not centred and nothing is padded beyond the last whole window, so frame `t` depends on samples
//! `t·hop .. t·hop + window` alone and a stream can be cut at any frame.
//!
//! The filters are triangles, equally spaced on the HTK mel scale `2595·log10(1 + f/700)`, with peak 1 and applied to the power spectrum
//! of a periodic Hann window. The values equal `transformers.audio_utils.spectrogram` (see `tests/golden/log_mel.py`).

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

use crate::error::ModelError;

/// Added to the mel power before the logarithm, so that digital silence stays finite.
const FLOOR: f32 = 1e-10;

/// Sets the resolution of a [`LogMel`] in time and frequency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogMelSettings {
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples in a window.
    pub window: usize,
    /// Samples between the starts of two windows.
    pub hop: usize,
    /// Length of the Fourier transform; the window is zero-padded to it.
    pub fft: usize,
    /// Number of mel bands.
    pub bands: usize,
    /// Lower edge of the lowest band, Hz.
    pub low_hz: f32,
    /// Upper edge of the highest band, Hz.
    pub high_hz: f32,
}

/// A triangular filter: its weights from one spectral bin on.
#[derive(Debug, Clone, PartialEq)]
struct Triangle {
    first_bin: usize,
    weights: Vec<f32>,
}

/// Holds the filters of one [`LogMelSettings`], possibly with a warped frequency axis.
#[derive(Debug, Clone, PartialEq)]
pub struct MelFilters {
    triangles: Vec<Triangle>,
}

impl MelFilters {
    /// Builds the filters with every edge frequency passed through `warp` (Hz to Hz, increasing; the identity for plain mel bands).
    ///
    /// Warping the axis imitates another vocal-tract length: Jaitly and Hinton, "Vocal tract length perturbation", 2013.
    #[must_use]
    pub fn warped(settings: &LogMelSettings, warp: impl Fn(f32) -> f32) -> Self {
        let to_mel = |hz: f32| 2595.0 * (1.0 + hz / 700.0).log10();
        let to_hz = |mel: f32| 700.0 * (10f32.powf(mel / 2595.0) - 1.0);
        let (low, high) = (to_mel(settings.low_hz), to_mel(settings.high_hz));
        let step = (high - low) / (settings.bands + 1) as f32;
        let edges: Vec<f32> = (0..settings.bands + 2).map(|i| warp(to_hz(low + step * i as f32))).collect();
        let bin_hz = settings.sample_rate as f32 / settings.fft as f32;
        let bins = settings.fft / 2 + 1;
        let triangles = edges
            .windows(3)
            .map(|e| {
                let first_bin = ((e[0] / bin_hz).floor().max(0.0) as usize).min(bins);
                let last_bin = ((e[2] / bin_hz).ceil() as usize).min(bins - 1);
                let weights = (first_bin..=last_bin)
                    .map(|bin| {
                        let hz = bin as f32 * bin_hz;
                        let rise = (hz - e[0]) / (e[1] - e[0]);
                        let fall = (e[2] - hz) / (e[2] - e[1]);
                        rise.min(fall).max(0.0)
                    })
                    .collect();
                Triangle { first_bin, weights }
            })
            .collect();
        Self { triangles }
    }
}

/// Computes log-mel spectrograms of one setting.
#[derive(Clone)]
pub struct LogMel {
    settings: LogMelSettings,
    window: Arc<[f32]>,
    fft: Arc<dyn RealToComplex<f32>>,
    filters: MelFilters,
}

impl LogMel {
    /// Checks the settings and plans the transform.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] where a length is zero, the transform is shorter than the window, or the bands do not lie
    /// between 0 Hz and half the sample rate.
    pub fn try_new(settings: LogMelSettings) -> Result<Self, ModelError> {
        let LogMelSettings { sample_rate, window, hop, fft, bands, low_hz, high_hz } = settings;
        if window == 0 || hop == 0 || bands == 0 || sample_rate == 0 {
            return Err(ModelError::Parameter {
                name: "log-mel settings",
                found: format!("{settings:?}"),
                allowed: "window, hop, bands and sample_rate of at least 1",
            });
        }
        if fft < window {
            return Err(ModelError::Parameter { name: "fft", found: fft.to_string(), allowed: "at least the window" });
        }
        let nyquist = sample_rate as f32 / 2.0;
        if !(0.0 <= low_hz && low_hz < high_hz && high_hz <= nyquist) {
            return Err(ModelError::Parameter {
                name: "low_hz..high_hz",
                found: format!("{low_hz}..{high_hz}"),
                allowed: "an increasing range between 0 and half the sample rate",
            });
        }
        let hann =
            (0..window).map(|i| 0.5 - 0.5 * (2.0 * std::f32::consts::PI * i as f32 / window as f32).cos()).collect();
        Ok(Self {
            settings,
            window: hann,
            fft: RealFftPlanner::new().plan_fft_forward(fft),
            filters: MelFilters::warped(&settings, |hz| hz),
        })
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &LogMelSettings {
        &self.settings
    }

    /// Returns the power of each band in a flat spectrum of power 1 a bin: the sums of the filters' weights.
    #[must_use]
    pub fn flat(&self) -> Vec<f32> {
        self.filters.triangles.iter().map(|triangle| triangle.weights.iter().sum()).collect()
    }

    /// Counts the frames of `samples` samples: 0 below one window.
    #[must_use]
    pub fn frames(&self, samples: usize) -> usize {
        if samples < self.settings.window { 0 } else { 1 + (samples - self.settings.window) / self.settings.hop }
    }

    /// Computes natural-log mel powers, `frames(samples.len())` rows of `bands` values, row-major.
    ///
    /// Empty or too short audio gives no rows. A NaN sample makes NaN rows of the windows that hold it.
    #[must_use]
    pub fn compute(&self, samples: &[f32]) -> Vec<f32> {
        self.compute_with(&self.filters, samples)
    }

    /// Computes as [`LogMel::compute`] does, with other filters (see [`MelFilters::warped`]).
    #[must_use]
    pub fn compute_with(&self, filters: &MelFilters, samples: &[f32]) -> Vec<f32> {
        let frames = self.frames(samples.len());
        let mut rows = Vec::with_capacity(frames * self.settings.bands);
        let mut input = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0f32; spectrum.len()];
        for frame in 0..frames {
            let start = frame * self.settings.hop;
            for ((slot, sample), weight) in input.iter_mut().zip(&samples[start..]).zip(self.window.iter()) {
                *slot = sample * weight;
            }
            input[self.settings.window..].fill(0.0);
            self.fft
                .process_with_scratch(&mut input, &mut spectrum, &mut scratch)
                .expect("the buffers were made by this plan");
            for (p, bin) in power.iter_mut().zip(&spectrum) {
                *p = bin.norm_sqr();
            }
            rows.extend(filters.triangles.iter().map(|triangle| {
                let energy: f32 =
                    triangle.weights.iter().zip(&power[triangle.first_bin..]).map(|(weight, p)| weight * p).sum();
                (energy + FLOOR).ln()
            }));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: LogMelSettings =
        LogMelSettings { sample_rate: 8000, window: 200, hop: 80, fft: 512, bands: 40, low_hz: 60.0, high_hz: 3900.0 };

    #[test]
    fn equals_the_reference() {
        #[derive(serde::Deserialize)]
        struct Golden {
            samples: Vec<f32>,
            log_mel: Vec<Vec<f32>>,
        }
        let golden: Golden =
            serde_json::from_str(include_str!("../tests/golden/log_mel.json")).expect("the golden file is JSON");
        let rows = LogMel::try_new(SETTINGS).expect("valid settings").compute(&golden.samples);
        let expected: Vec<f32> = golden.log_mel.into_iter().flatten().collect();
        assert_eq!(rows.len(), expected.len());
        for (i, (found, wanted)) in rows.iter().zip(&expected).enumerate() {
            assert!((found - wanted).abs() < 2e-3, "value {i}: {found} against {wanted}");
        }
    }

    #[test]
    fn a_tone_lights_its_band() {
        let mel = LogMel::try_new(SETTINGS).expect("valid settings");
        let tone: Vec<f32> =
            (0..800).map(|i| (2.0 * std::f32::consts::PI * 1000.0 * i as f32 / 8000.0).sin()).collect();
        let row = &mel.compute(&tone)[..40];
        let loudest = (0..40).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("forty bands");
        // 1000 Hz is 1000 mel; the bands are 49.6 mel apart from 91 mel on.
        assert!((17..=19).contains(&loudest), "band {loudest}");
    }

    #[test]
    fn settings_are_checked() {
        for bad in [
            LogMelSettings { hop: 0, ..SETTINGS },
            LogMelSettings { fft: 128, ..SETTINGS },
            LogMelSettings { high_hz: 4001.0, ..SETTINGS },
            LogMelSettings { low_hz: f32::NAN, ..SETTINGS },
        ] {
            assert!(matches!(LogMel::try_new(bad), Err(ModelError::Parameter { .. })), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_stream_can_be_cut_at_any_frame(samples in prop::collection::vec(-1f32..1.0, 0..1200), cut in 0usize..12) {
            let mel = LogMel::try_new(SETTINGS).expect("valid settings");
            let whole = mel.compute(&samples);
            prop_assert_eq!(whole.len(), mel.frames(samples.len()) * 40);
            let start = (cut * 80).min(samples.len());
            let tail = mel.compute(&samples[start..]);
            if !tail.is_empty() {
                prop_assert_eq!(&whole[cut * 40..], &tail[..]);
            }
        }
    }
}

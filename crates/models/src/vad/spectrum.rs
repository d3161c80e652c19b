//! Short-time spectra of a chunk: what both networks see of the sound.

use std::{f32::consts::PI, fmt, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

/// Samples of a frame.
pub(super) const WINDOW: usize = 256;
/// Frequencies of a spectrum, 62.5 Hz apart.
pub(super) const BINS: usize = WINDOW / 2 + 1;

/// The discrete Fourier transform of frames under a periodic Hann window.
#[derive(Clone)]
pub(super) struct Spectrum {
    plan: Arc<dyn RealToComplex<f32>>,
    window: Arc<[f32; WINDOW]>,
}

/// The memory of one transform.
pub(super) struct SpectrumScratch {
    frame: Vec<f32>,
    bins: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Spectrum {
    /// Plans the transform.
    pub(super) fn new() -> Self {
        let window = std::array::from_fn(|n| 0.5 - 0.5 * (2.0 * PI * n as f32 / WINDOW as f32).cos());
        Self { plan: RealFftPlanner::new().plan_fft_forward(WINDOW), window: Arc::new(window) }
    }

    /// Returns the window.
    pub(super) fn window(&self) -> &[f32; WINDOW] {
        &self.window
    }

    /// Makes memory for [`power`](Self::power).
    pub(super) fn scratch(&self) -> SpectrumScratch {
        SpectrumScratch {
            frame: self.plan.make_input_vec(),
            bins: self.plan.make_output_vec(),
            scratch: self.plan.make_scratch_vec(),
        }
    }

    /// Writes the squared magnitude of each frequency of `frame` (256 samples) to `power` (129 values).
    #[inline(always)]
    pub(super) fn power(&self, scratch: &mut SpectrumScratch, frame: &[f32], power: &mut [f32]) {
        for ((windowed, &sample), &weight) in scratch.frame.iter_mut().zip(frame).zip(self.window.iter()) {
            *windowed = sample * weight;
        }
        self.plan
            .process_with_scratch(&mut scratch.frame, &mut scratch.bins, &mut scratch.scratch)
            .expect("the buffers come from the plan");
        for (power, bin) in power.iter_mut().zip(&scratch.bins) {
            *power = bin.re * bin.re + bin.im * bin.im;
        }
    }
}

impl fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spectrum").finish_non_exhaustive()
    }
}

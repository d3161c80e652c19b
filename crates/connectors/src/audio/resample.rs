//! Any rate to 16 kHz, as a stream.
//!
//! Rubato's FFT resampler in blocks of about 64 ms: the ratio of a file is fixed, and a long block
//! puts the edge of the filter close to the Nyquist frequency. Delay is cut off at the start and
//! flushed at the end, so that `n` samples in are `⌈n · 16000 / rate⌉` out and time is kept.

use driftline_payloads::SAMPLE_RATE;
use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction, audioadapter_buffers::direct::SequentialSlice};

use super::refused::Refused;

/// Output frames of a block, at least.
const BLOCK: usize = 1_024;

/// Brings one channel to 16 kHz. What is there already passes through.
pub(crate) struct Resampler {
    rate: u64,
    /// Samples taken and given.
    taken: u64,
    given: u64,
    engine: Option<Engine>,
}

struct Engine {
    fft: Fft<f32>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Output frames still to be cut off at the start.
    delay: usize,
}

impl Resampler {
    /// Makes a resampler from `rate` samples a second.
    ///
    /// # Errors
    /// If rubato cannot convert the rate; it can convert every rate above 0.
    pub(crate) fn try_new(rate: u32) -> Result<Self, Refused> {
        let engine = if rate == SAMPLE_RATE { None } else { Some(Engine::try_new(rate)?) };
        Ok(Self { rate: u64::from(rate), taken: 0, given: 0, engine })
    }

    /// Takes samples and appends those at 16 kHz that they complete.
    ///
    /// # Errors
    /// If rubato refuses a block, which its sizes rule out.
    pub(crate) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), Refused> {
        self.taken += samples.len() as u64;
        let before = out.len();
        match &mut self.engine {
            None => out.extend_from_slice(samples),
            Some(engine) => {
                engine.input.extend_from_slice(samples);
                engine.run(out)?;
            }
        }
        self.given += (out.len() - before) as u64;
        Ok(())
    }

    /// Appends the rest, when there is no more to take.
    ///
    /// # Errors
    /// As [`Resampler::push`].
    pub(crate) fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), Refused> {
        let due = self.at_output(self.taken);
        let before = out.len();
        if let Some(engine) = &mut self.engine {
            let block = engine.fft.input_frames_next();
            while self.given + ((out.len() - before) as u64) < due {
                let filled = engine.input.len().next_multiple_of(block).max(block);
                engine.input.resize(filled, 0.0);
                engine.run(out)?;
            }
            out.truncate(before + (due - self.given) as usize);
        }
        self.given = due;
        Ok(())
    }

    /// Returns how many samples at 16 kHz stand for `frames` frames of the recording.
    pub(crate) fn at_output(&self, frames: u64) -> u64 {
        (u128::from(frames) * u128::from(SAMPLE_RATE)).div_ceil(u128::from(self.rate)) as u64
    }
}

impl Engine {
    fn try_new(rate: u32) -> Result<Self, Refused> {
        let refused = |error: &dyn std::fmt::Display| {
            Refused::new("sample rate", format!("{rate} Hz ({error})"), "a rate that can be converted")
        };
        let (rate_in, rate_out) = (rate as usize, SAMPLE_RATE as usize);
        // The centre of the filter stands on a sample, and its delay is a whole number of them,
        // only where the block is an even multiple of the least one that both rates divide.
        let (least_in, least_out) = (rate_in / gcd(rate_in, rate_out), rate_out / gcd(rate_in, rate_out));
        let block = least_in * BLOCK.div_ceil(least_out).next_multiple_of(2);
        let window = WindowFunction::BlackmanHarris2;
        let fft = Fft::new_custom(rate_in, rate_out, block, 1, 1, window, FixedSync::Both).map_err(|e| refused(&e))?;
        let (delay, frames) = (fft.output_delay(), fft.output_frames_max());
        Ok(Self { fft, input: Vec::new(), output: vec![0.0; frames], delay })
    }

    /// Converts all whole blocks of the input.
    fn run(&mut self, out: &mut Vec<f32>) -> Result<(), Refused> {
        let refused =
            |error: &dyn std::fmt::Display| Refused::new("block", error.to_string(), "a block that can be resampled");
        let mut used = 0;
        while self.input.len() - used >= self.fft.input_frames_next() {
            let frames = self.output.len();
            let input = SequentialSlice::new(&self.input[..], 1, self.input.len()).map_err(|e| refused(&e))?;
            let mut output = SequentialSlice::new_mut(&mut self.output[..], 1, frames).map_err(|e| refused(&e))?;
            let indexing = Indexing::new().input_offset(used);
            let (read, written) =
                self.fft.process_into_buffer(&input, &mut output, Some(&indexing)).map_err(|e| refused(&e))?;
            used += read;
            let cut = self.delay.min(written);
            self.delay -= cut;
            out.extend_from_slice(&self.output[cut..written]);
        }
        self.input.drain(..used);
        Ok(())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

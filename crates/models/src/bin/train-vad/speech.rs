//! Clean utterances and when in them somebody speaks.

use std::sync::Arc;

use realfft::{RealFftPlanner, num_complex::Complex};

/// Samples by which speech is told from silence in a clean utterance, 10 ms.
const FRAME: usize = 160;
/// Pauses shorter than this many frames belong to the speech around them: the closure of a plosive is not silence.
const BRIDGED: usize = 15;
/// Sounds shorter than this many frames are no speech.
const SHORTEST: usize = 4;

/// A clean utterance at 16 kHz.
#[derive(Clone, Debug)]
pub(crate) struct Utterance {
    /// How it was made, the slice it is counted under.
    pub(crate) kind: String,
    pub(crate) voice: String,
    /// Peak-normalized samples.
    pub(crate) samples: Arc<Vec<f32>>,
    /// For each sample 1 where somebody speaks, else 0.
    pub(crate) speaks: Arc<Vec<f32>>,
}

impl Utterance {
    /// Normalizes the samples and marks the speech by energy.
    pub(crate) fn new(kind: &str, voice: &str, mut samples: Vec<f32>) -> Self {
        let peak = samples.iter().fold(1e-9f32, |peak, sample| peak.max(sample.abs()));
        for sample in &mut samples {
            *sample /= peak;
        }
        let speaks = mark(&samples);
        Self { kind: kind.to_owned(), voice: voice.to_owned(), samples: Arc::new(samples), speaks: Arc::new(speaks) }
    }
}

/// Marks frames whose energy is within 38 dB of the loud ones and 6 dB above the quietest, bridges pauses and drops
/// blips.
fn mark(samples: &[f32]) -> Vec<f32> {
    let level: Vec<f32> = samples
        .chunks(FRAME)
        .map(|frame| 10.0 * (frame.iter().map(|x| x * x).sum::<f32>() / frame.len() as f32 + 1e-9).log10())
        .collect();
    let mut sorted = level.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f32| sorted.get((share * sorted.len() as f32) as usize).copied().unwrap_or(-90.0);
    let loud = at(0.95);
    let threshold = (loud - 38.0).max((at(0.02) + 6.0).min(loud - 15.0));
    let mut speaks: Vec<bool> = level.iter().map(|&level| level > threshold).collect();
    flip_short_runs(&mut speaks, false, BRIDGED);
    flip_short_runs(&mut speaks, true, SHORTEST);
    speaks
        .iter()
        .flat_map(|&speaks| std::iter::repeat_n(if speaks { 1.0 } else { 0.0 }, FRAME))
        .take(samples.len())
        .collect()
}

/// Flips runs of `value` shorter than `length`, except at the ends.
fn flip_short_runs(flags: &mut [bool], value: bool, length: usize) {
    let mut start = 0;
    while start < flags.len() {
        let end = start + flags[start..].iter().take_while(|&&flag| flag == flags[start]).count();
        if flags[start] == value && end - start < length && start > 0 && end < flags.len() {
            flags[start..end].fill(!value);
        }
        start = end;
    }
}

/// Resamples by truncating or extending the spectrum of the whole signal.
pub(crate) fn resample(samples: &[f32], from: f64, to: f64) -> Vec<f32> {
    let length = (samples.len() as f64 * to / from).round() as usize;
    if length == samples.len() || samples.len() < 2 || length < 2 {
        return samples.to_vec();
    }
    let mut planner = RealFftPlanner::new();
    let (forward, inverse) = (planner.plan_fft_forward(samples.len()), planner.plan_fft_inverse(length));
    let (mut input, mut spectrum) = (samples.to_vec(), forward.make_output_vec());
    forward.process(&mut input, &mut spectrum).expect("the buffers come from the plan");
    let mut output = inverse.make_output_vec();
    spectrum.resize(length / 2 + 1, Complex::default());
    // The inverse takes a real signal for granted: what stands at zero and at the Nyquist frequency has no phase.
    spectrum[0].im = 0.0;
    if let Some(last) = spectrum.last_mut() {
        last.im = 0.0;
    }
    inverse.process(&mut spectrum, &mut output).expect("the buffers come from the plan");
    let scale = 1.0 / samples.len() as f32;
    for sample in &mut output {
        *sample *= scale;
    }
    output
}

/// Multiplies the spectrum of a signal by a gain for each frequency in hertz.
pub(crate) fn filter(samples: &mut [f32], gain: impl Fn(f32) -> f32) {
    let mut planner = RealFftPlanner::new();
    let (forward, inverse) = (planner.plan_fft_forward(samples.len()), planner.plan_fft_inverse(samples.len()));
    let mut spectrum = forward.make_output_vec();
    forward.process(samples, &mut spectrum).expect("the buffers come from the plan");
    let (bin, scale) = (16_000.0 / samples.len() as f32, 1.0 / samples.len() as f32);
    for (k, value) in spectrum.iter_mut().enumerate() {
        *value *= gain(k as f32 * bin) * scale;
    }
    inverse.process(&mut spectrum, samples).expect("the buffers come from the plan");
}

/// Convolves a signal with an impulse response, keeping its length.
pub(crate) fn convolve(samples: &mut [f32], response: &[f32]) {
    let length = (samples.len() + response.len()).next_power_of_two();
    let mut planner = RealFftPlanner::new();
    let (forward, inverse) = (planner.plan_fft_forward(length), planner.plan_fft_inverse(length));
    let transform = |values: &[f32]| {
        let mut padded = values.to_vec();
        padded.resize(length, 0.0);
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut padded, &mut spectrum).expect("the buffers come from the plan");
        spectrum
    };
    let mut product = transform(samples);
    for (a, b) in product.iter_mut().zip(transform(response)) {
        *a *= b / length as f32;
    }
    let mut output = inverse.make_output_vec();
    inverse.process(&mut product, &mut output).expect("the buffers come from the plan");
    samples.copy_from_slice(&output[..samples.len()]);
}

/// Returns the root of the mean square.
pub(crate) fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|x| x * x).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resampling_keeps_a_tone() {
        let tone = |rate: f32, n: usize| {
            (0..n).map(|i| (std::f32::consts::TAU * 500.0 * i as f32 / rate).sin()).collect::<Vec<_>>()
        };
        for (wide, expected) in resample(&tone(8_000.0, 800), 8_000.0, 16_000.0).iter().zip(tone(16_000.0, 1_600)) {
            assert!((wide - expected).abs() < 1e-3);
        }
    }

    #[test]
    fn speech_is_marked_over_short_pauses_only() {
        let mut samples: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.3).sin()).collect();
        samples[..3_200].fill(0.0);
        samples[6_400..7_200].fill(0.0);
        samples[12_800..].fill(0.0);
        let speaks = Utterance::new("", "", samples).speaks;
        assert!(speaks.iter().enumerate().all(|(i, &speaks)| (speaks == 1.0) == (3_200..12_800).contains(&i)));
    }
}

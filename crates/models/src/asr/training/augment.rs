//! Makes one training example of clips: other rooms, microphones, speeds and vocal tracts than were recorded.
//!
//! In the order in which they happen to a voice: speed (pitch and formants with it), silence before and after, reverberation, noise
//! (white, brown, or other voices), telephone band with μ-law, clipping; then in the spectrogram vocal-tract length, pace, the microphone's
//! colour; and last the masks of SpecAugment (Park et al., 2019).

use std::f32::consts::PI;

use rand::{RngExt, seq::IndexedRandom};
use rand_distr::StandardNormal;
use realfft::RealFftPlanner;

use super::{clip::Clip, resample::resample};
use crate::asr::frontend::{BANDS, Frontend, RATE};

/// Joins clips with pauses of 0 to 0.5 s between them, each at its own level.
pub fn join(clips: &[&Clip], rng: &mut impl RngExt) -> (Vec<f32>, Vec<u8>) {
    let mut audio = Vec::new();
    let mut phones = Vec::new();
    for (i, clip) in clips.iter().enumerate() {
        if i > 0 {
            let pause = if rng.random_bool(0.2) { 0.0 } else { rng.random_range(0.02..0.5) };
            audio.resize(audio.len() + (pause * RATE as f32) as usize, 0.0);
        }
        let gain = decibels(rng.random_range(-3.0..3.0));
        audio.extend(clip.audio().iter().map(|x| x * gain));
        phones.extend_from_slice(&clip.phones);
    }
    (audio, phones)
}

/// Turns audio into a training example's normalised rows. `others` are voices for babble.
pub fn example(audio: Vec<f32>, others: &[Clip], frontend: &Frontend, rng: &mut impl RngExt) -> Vec<f32> {
    let mut audio = audio;
    if rng.random_bool(0.7) {
        audio = resample(&audio, rng.random_range(0.85..1.18));
    }
    audio = surround(&audio, rng);
    if rng.random_bool(0.45) {
        reverberate(&mut audio, rng);
    }
    if rng.random_bool(0.9) {
        add_noise(&mut audio, others, rng);
    }
    if rng.random_bool(0.3) {
        telephone(&mut audio, rng);
    }
    if rng.random_bool(0.08) {
        let limit = peak(&audio) * rng.random_range(0.2..0.7);
        audio.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    }
    let mut rows = if rng.random_bool(0.85) {
        frontend.log_mel_warped(&audio, rng.random_range(0.82..1.22))
    } else {
        frontend.log_mel(&audio)
    };
    if rng.random_bool(0.6) {
        rows = stretch(&rows, rng.random_range(0.78..1.3));
    }
    if rng.random_bool(0.85) {
        colour(&mut rows, rng);
    }
    let mut rows = frontend.normalise(&rows);
    mask(&mut rows, rng);
    rows
}

fn decibels(gain: f32) -> f32 {
    10f32.powf(gain / 20.0)
}

fn peak(audio: &[f32]) -> f32 {
    audio.iter().fold(0f32, |peak, x| peak.max(x.abs()))
}

fn surround(audio: &[f32], rng: &mut impl RngExt) -> Vec<f32> {
    let silence = |seconds: f32| vec![0f32; (seconds * RATE as f32) as usize];
    let longest = if rng.random_bool(0.8) { 0.2 } else { 0.6 };
    let mut out = silence(rng.random_range(0.0..longest));
    out.extend_from_slice(audio);
    out.extend(silence(rng.random_range(0.0..longest)));
    out
}

/// Convolves with exponentially decaying noise after a direct path, as a room of 0.1 to 0.7 s does.
fn reverberate(audio: &mut [f32], rng: &mut impl RngExt) {
    let decay = rng.random_range(0.1..0.7f32);
    let taps = (decay * RATE as f32) as usize;
    let amount = decibels(rng.random_range(-12.0..3.0));
    let mut room: Vec<f32> = (0..taps)
        .map(|i| {
            // 60 dB down after `decay` seconds.
            let envelope = (-6.9 * i as f32 / taps as f32).exp();
            envelope * rng.sample::<f32, _>(StandardNormal)
        })
        .collect();
    let energy = room.iter().map(|x| x * x).sum::<f32>().sqrt();
    room.iter_mut().for_each(|x| *x *= amount / energy);
    room[0] = 1.0;

    let size = (audio.len() + taps).next_power_of_two();
    let mut planner = RealFftPlanner::<f32>::new();
    let (forward, inverse) = (planner.plan_fft_forward(size), planner.plan_fft_inverse(size));
    let spectrum = |signal: &[f32]| {
        let mut input = forward.make_input_vec();
        input[..signal.len()].copy_from_slice(signal);
        let mut output = forward.make_output_vec();
        forward.process(&mut input, &mut output).expect("the buffers were made by this plan");
        output
    };
    let mut product = spectrum(audio);
    product.iter_mut().zip(spectrum(&room)).for_each(|(a, b)| *a = *a * b / size as f32);
    let mut wet = inverse.make_output_vec();
    inverse.process(&mut product, &mut wet).expect("the product of two real signals' spectra is a real signal's");
    audio.copy_from_slice(&wet[..audio.len()]);
}

/// Adds noise at 3 to 45 dB under the speech.
fn add_noise(audio: &mut [f32], others: &[Clip], rng: &mut impl RngExt) {
    let noise: Vec<f32> = match rng.random_range(0..10) {
        0..4 => (0..audio.len()).map(|_| rng.sample(StandardNormal)).collect(),
        4..8 => {
            let memory = rng.random_range(0.5..0.98f32);
            let mut state = 0f32;
            (0..audio.len())
                .map(|_| {
                    state = memory * state + rng.sample::<f32, _>(StandardNormal);
                    state
                })
                .collect()
        }
        _ => babble(audio.len(), others, rng),
    };
    let speech = loud_power(audio);
    let power = noise.iter().map(|x| x * x).sum::<f32>() / noise.len().max(1) as f32;
    if power > 0.0 {
        let gain = (speech / power).sqrt() / decibels(rng.random_range(3.0..45.0));
        audio.iter_mut().zip(noise).for_each(|(x, n)| *x += gain * n);
    }
}

/// Mean power of the louder half of the 20 ms frames: the level of the speech without its pauses.
#[must_use]
pub fn loud_power(audio: &[f32]) -> f32 {
    let mut powers: Vec<f32> =
        audio.chunks(RATE as usize / 50).map(|c| c.iter().map(|x| x * x).sum::<f32>() / c.len() as f32).collect();
    powers.sort_by(|a, b| b.total_cmp(a));
    let half = powers.len().div_ceil(2);
    powers[..half].iter().sum::<f32>() / half.max(1) as f32
}

/// Three to six other voices, backwards, so that no words are heard.
fn babble(length: usize, others: &[Clip], rng: &mut impl RngExt) -> Vec<f32> {
    let mut sum = vec![0f32; length];
    for _ in 0..rng.random_range(3..=6) {
        let Some(voice) = others.choose(rng).filter(|clip| !clip.samples.is_empty()) else {
            continue;
        };
        let offset = rng.random_range(0..voice.samples.len());
        let backwards = voice.samples.iter().rev().cycle().skip(offset);
        sum.iter_mut().zip(backwards).for_each(|(x, &sample)| *x += f32::from(sample) / 32768.0);
    }
    sum
}

/// Passes 300–3400 Hz (second-order Butterworth edges), on half of the calls through the 8 bits of μ-law.
pub fn telephone(audio: &mut [f32], rng: &mut impl RngExt) {
    biquad(audio, 300.0, Edge::High);
    biquad(audio, 3400.0, Edge::Low);
    if rng.random_bool(0.5) {
        const MU: f32 = 255.0;
        let scale = peak(audio).max(1e-6) * rng.random_range(1.0..8.0f32);
        for x in audio {
            let compressed = (1.0 + MU * (*x / scale).abs()).ln() / (1.0 + MU).ln();
            let rounded = (compressed * 127.0).round() / 127.0;
            *x = x.signum() * scale * ((1.0 + MU).powf(rounded) - 1.0) / MU;
        }
    }
}

#[derive(Clone, Copy)]
enum Edge {
    Low,
    High,
}

/// Filters in place by the bilinear transform's second-order Butterworth section.
fn biquad(audio: &mut [f32], hz: f32, edge: Edge) {
    let w = 2.0 * PI * hz / RATE as f32;
    let (sin, cos) = w.sin_cos();
    let alpha = sin / std::f32::consts::SQRT_2;
    let (b0, b1) = match edge {
        Edge::Low => ((1.0 - cos) / 2.0, 1.0 - cos),
        Edge::High => ((1.0 + cos) / 2.0, -(1.0 + cos)),
    };
    let (a0, a1, a2) = (1.0 + alpha, -2.0 * cos, 1.0 - alpha);
    let (mut z1, mut z2) = (0f32, 0f32);
    for x in audio {
        let y = (b0 * *x + z1) / a0;
        z1 = b1 * *x - a1 * y + z2;
        z2 = b0 * *x - a2 * y;
        *x = y;
    }
}

/// Changes the pace: `factor` times as many rows, interpolated.
fn stretch(rows: &[f32], factor: f32) -> Vec<f32> {
    let frames = rows.len() / BANDS;
    let count = ((frames as f32 * factor) as usize).max(1);
    let mut out = Vec::with_capacity(count * BANDS);
    for i in 0..count {
        let at = (i as f32 / factor).min((frames - 1) as f32);
        let low = at as usize;
        let high = (low + 1).min(frames - 1);
        let share = at - low as f32;
        let (low, high) = (&rows[low * BANDS..][..BANDS], &rows[high * BANDS..][..BANDS]);
        out.extend(low.iter().zip(high).map(|(a, b)| a + share * (b - a)));
    }
    out
}

/// Adds a smooth curve over the bands, mostly within 12 dB: another microphone.
fn colour(rows: &mut [f32], rng: &mut impl RngExt) {
    let waves: Vec<(f32, f32)> =
        (0..3).map(|_| (rng.random_range(0.0..1.8f32), rng.random_range(0.0..2.0 * PI))).collect();
    let tilt = rng.random_range(-2.2..2.2f32);
    let curve: Vec<f32> = (0..BANDS)
        .map(|band| {
            let x = band as f32 / BANDS as f32;
            let ripple: f32 =
                waves.iter().zip(1..).map(|(&(a, phase), k)| a * 0.5 * (PI * x * k as f32 + phase).cos()).sum();
            ripple + tilt * (x - 0.5) * 2.0
        })
        .collect();
    for row in rows.chunks_exact_mut(BANDS) {
        row.iter_mut().zip(&curve).for_each(|(x, c)| *x += c);
    }
}

/// Sets up to two stretches of bands (up to 6) and of time (up to 80 ms) to the average.
fn mask(rows: &mut [f32], rng: &mut impl RngExt) {
    let frames = rows.len() / BANDS;
    for _ in 0..2 {
        let width = rng.random_range(0..=6);
        let first = rng.random_range(0..=BANDS - width);
        for row in rows.chunks_exact_mut(BANDS) {
            row[first..first + width].fill(0.0);
        }
        let width = rng.random_range(0..=8).min(frames);
        let first = rng.random_range(0..=frames - width);
        rows[first * BANDS..(first + width) * BANDS].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::asr::training::clip::Source;

    fn clip() -> Clip {
        Clip {
            samples: (0..4000).map(|i| ((i as f32 * 0.4).sin() * 8000.0) as i16).collect(),
            phones: vec![1, 2],
            words: vec!["word".into()],
            source: Source::Real { speaker: "nobody".into() },
        }
    }

    #[test]
    fn examples_are_finite_and_repeat_with_the_seed() {
        let frontend = Frontend::try_new(vec![0.0; BANDS]).expect("forty zeros");
        let clips = [clip()];
        for seed in 0..40 {
            let make = || {
                let mut rng = StdRng::seed_from_u64(seed);
                let (audio, phones) = join(&[&clips[0], &clips[0]], &mut rng);
                assert_eq!(phones, [1, 2, 1, 2]);
                example(audio, &clips, &frontend, &mut rng)
            };
            let rows = make();
            assert!(rows.iter().all(|x| x.is_finite()), "seed {seed}");
            assert_eq!(rows, make());
        }
    }

    #[test]
    fn the_telephone_removes_what_it_does_not_carry() {
        let tone =
            |hz: f32| -> Vec<f32> { (0..4000).map(|i| (2.0 * PI * hz * i as f32 / RATE as f32).sin()).collect() };
        let after = |hz| {
            let mut audio = tone(hz);
            telephone(&mut audio, &mut StdRng::seed_from_u64(1));
            peak(&audio[1000..])
        };
        assert!(after(80.0) < 0.15, "{}", after(80.0));
        assert!(after(1000.0) > 0.8, "{}", after(1000.0));
    }

    #[test]
    fn stretching_keeps_the_ends() {
        let rows: Vec<f32> = (0..10 * BANDS).map(|i| (i / BANDS) as f32).collect();
        let long = stretch(&rows, 1.5);
        assert_eq!(long.len(), 15 * BANDS);
        assert_eq!((long[0], long[14 * BANDS]), (0.0, 9.0));
    }

    #[test]
    fn noise_meets_the_ratio() {
        let mut audio = clip().audio();
        let before = loud_power(&audio);
        add_noise(&mut audio, &[], &mut StdRng::seed_from_u64(2));
        assert!(loud_power(&audio) < before * 2.0);
    }
}

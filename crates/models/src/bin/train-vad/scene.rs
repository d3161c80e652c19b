//! Scenes: utterances and pauses, a room, a channel, noise, and the truth about who speaks when.

use driftline_models::vad::{
    CHUNK, CONTEXT,
    features::{FEATURES, LogMel},
};
use rand::{RngExt, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{
    noise::Noise,
    speech::{Utterance, convolve, filter, rms},
};

/// A turn in radians, as the weights that ship were trained with; a digit more would be another training.
const TURN: f32 = 628.0 / 100.0;

/// What is to be heard.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Length in chunks.
    pub(crate) chunks: usize,
    /// Root mean square of the speech in dB of full scale; `None` for a scene without speech.
    pub(crate) speech: Option<f32>,
    /// Root mean square of the noise in dB of full scale; `None` for digital silence behind the speech.
    pub(crate) noise: Option<(Noise, f32)>,
    /// Reverberation time in seconds.
    pub(crate) room: Option<f32>,
    /// The band that the channel lets through, in hertz.
    pub(crate) band: Option<(f32, f32)>,
    /// Speed of the utterances, which also moves pitch and formants.
    pub(crate) speed: f32,
    /// Whether the noise swells and fades.
    pub(crate) swelling: bool,
    /// Whether what exceeds the level that half the speech exceeds ten times is cut off.
    pub(crate) clipped: bool,
}

impl Recipe {
    /// Draws a scene for training.
    pub(crate) fn draw(rng: &mut StdRng, chunks: usize) -> Self {
        let speech = (!rng.random_bool(0.2)).then(|| rng.random_range(-48.0..-12.0f32));
        let kind = Noise::ALL[rng.random_range(0..Noise::ALL.len())];
        let kind = if kind == Noise::Babble && rng.random_bool(0.5) { Noise::Coloured } else { kind };
        let noise = match speech {
            // Babble as loud as the speech has no truth.
            Some(speech) => (!rng.random_bool(0.06)).then(|| {
                (kind, speech - rng.random_range(if kind == Noise::Babble { 5.0..40.0f32 } else { -4.0..42.0 }))
            }),
            None => (!rng.random_bool(0.03)).then(|| (kind, rng.random_range(-75.0..-12.0f32))),
        };
        Self {
            chunks,
            speech,
            noise,
            room: rng.random_bool(0.4).then(|| rng.random_range(0.1..0.7f32)),
            band: match rng.random_range(0..10) {
                0..=2 => Some((rng.random_range(200.0..350.0f32), rng.random_range(3_000.0..3_600.0f32))),
                3 => Some((rng.random_range(20.0..150.0f32), rng.random_range(3_400.0..6_000.0f32))),
                _ => None,
            },
            speed: rng.random_range(0.85..1.18f32),
            swelling: rng.random_bool(0.3),
            clipped: rng.random_bool(0.04),
        }
    }
}

/// A scene: its sound and, for each chunk, the share of it in which somebody speaks.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) samples: Vec<f32>,
    pub(crate) labels: Vec<f32>,
}

impl Scene {
    /// Makes the scene with utterances drawn from `speech`; `crowd` is who babbles.
    pub(crate) fn make(rng: &mut StdRng, recipe: &Recipe, speech: &[&Utterance], crowd: &[Utterance]) -> Self {
        let length = recipe.chunks * CHUNK;
        let (mut samples, mut speaks) = (vec![0.0; length], vec![0.0; length]);
        if let Some(level) = recipe.speech {
            place(rng, recipe, speech, &mut samples, &mut speaks);
            let spoken: Vec<f32> =
                samples.iter().zip(&speaks).filter(|(_, speaks)| **speaks > 0.5).map(|(sample, _)| *sample).collect();
            let gain = decibels(level) / rms(&spoken).max(1e-6);
            for sample in &mut samples {
                *sample *= gain;
            }
            if let Some(seconds) = recipe.room {
                convolve(&mut samples, &room(rng, seconds));
            }
        }
        if let Some((kind, level)) = recipe.noise {
            let mut noise = kind.make(rng, length, crowd);
            let gain = decibels(level) / rms(&noise).max(1e-6);
            let (rate, phase) = (rng.random_range(0.05..0.5f32), rng.random_range(0.0..TURN));
            for (i, sample) in noise.iter_mut().enumerate() {
                let swell =
                    if recipe.swelling { (1.2 * (rate * i as f32 / 16_000.0 * TURN + phase).sin()).exp() } else { 1.0 };
                *sample *= gain * swell;
            }
            for (sample, noise) in samples.iter_mut().zip(noise) {
                *sample += noise;
            }
        }
        if let Some((low, high)) = recipe.band {
            filter(&mut samples, |f| {
                if f < low {
                    (f / low).powi(3)
                } else if f > high {
                    (high / f).powi(12)
                } else {
                    1.0
                }
            });
        }
        if recipe.clipped {
            let limit = recipe.speech.map_or(0.3, |level| decibels(level + 4.0));
            for sample in &mut samples {
                *sample = sample.clamp(-limit, limit);
            }
        }
        for sample in &mut samples {
            *sample = (sample.clamp(-1.0, 1.0) * 32_767.0).round() / 32_768.0;
        }
        let labels = speaks.chunks_exact(CHUNK).map(|chunk| chunk.iter().sum::<f32>() / CHUNK as f32).collect();
        Self { samples, labels }
    }

    /// Computes the features of all chunks, `[chunks][FEATURES]`.
    pub(crate) fn features(&self, log_mel: &LogMel) -> Vec<f32> {
        let mut scratch = log_mel.scratch();
        let padded: Vec<f32> = [0.0; CONTEXT].iter().chain(&self.samples).copied().collect();
        let mut features = vec![0.0; self.labels.len() * FEATURES];
        for (chunk, features) in features.chunks_exact_mut(FEATURES).enumerate() {
            log_mel.extract(&mut scratch, &padded[chunk * CHUNK..][..CONTEXT + CHUNK], features);
        }
        features
    }
}

/// Puts utterances of one voice at a time, and sometimes a change of voice, on the time line.
fn place(rng: &mut StdRng, recipe: &Recipe, speech: &[&Utterance], samples: &mut [f32], speaks: &mut [f32]) {
    let mut voice = speech[rng.random_range(0..speech.len())].voice.clone();
    let mut at = (rng.random_range(0.0..1.0f32).powi(2) * 24_000.0) as usize;
    while at < samples.len() {
        if rng.random_bool(0.2) {
            voice.clone_from(&speech[rng.random_range(0..speech.len())].voice);
        }
        let said = (0..64)
            .map(|_| speech[rng.random_range(0..speech.len())])
            .find(|said| said.voice == voice)
            .unwrap_or(speech[0]);
        let length = (said.samples.len() as f32 / recipe.speed) as usize;
        let level = decibels(rng.random_range(-4.0..4.0f32));
        for i in 0..length.min(samples.len() - at) {
            let position = i as f32 * recipe.speed;
            samples[at + i] += level * interpolate(&said.samples, position);
            speaks[at + i] = said.speaks.get(position as usize).copied().unwrap_or(0.0);
        }
        // Pauses of a fifth of a second within a turn, of seconds between turns.
        let mean = if rng.random_bool(0.7) { 0.25 } else { 1.5 };
        at += length + (-mean * rng.random_range(0.01..1.0f32).ln() * 16_000.0) as usize;
    }
}

/// Catmull-Rom interpolation.
fn interpolate(samples: &[f32], position: f32) -> f32 {
    let (whole, t) = (position as usize, position.fract());
    let at = |offset: usize| samples.get((whole + offset).wrapping_sub(1)).copied().unwrap_or(0.0);
    let (a, b, c, d) = (at(0), at(1), at(2), at(3));
    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
}

/// An impulse response: the direct sound and an exponentially decaying tail of noise.
fn room(rng: &mut StdRng, seconds: f32) -> Vec<f32> {
    let length = (seconds * 16_000.0) as usize;
    let level = rng.random_range(0.2..0.8f32) * (13.8 / length as f32).sqrt();
    let delay = rng.random_range(40..400);
    let mut response: Vec<f32> = (0..length)
        .map(|i| {
            let value: f32 = StandardNormal.sample(rng);
            if i < delay { 0.0 } else { level * value * (-6.9 * i as f32 / length as f32).exp() }
        })
        .collect();
    response[0] = 1.0;
    response
}

fn decibels(level: f32) -> f32 {
    10f32.powf(level / 20.0)
}

//! Sounds that are not speech.

use std::f32::consts::TAU;

use rand::{RngExt, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use crate::speech::{Utterance, filter};

/// The kinds of sound, each a slice of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    White,
    Coloured,
    Hum,
    Engine,
    Clicks,
    Slams,
    Tones,
    Music,
    Babble,
}

impl Noise {
    pub(crate) const ALL: [Self; 9] = [
        Self::White,
        Self::Coloured,
        Self::Hum,
        Self::Engine,
        Self::Clicks,
        Self::Slams,
        Self::Tones,
        Self::Music,
        Self::Babble,
    ];

    /// Makes a sound of this kind, `length` samples at 16 kHz, at any level. Babble is made of eight of the `voices`
    /// at a time.
    pub(crate) fn make(self, rng: &mut StdRng, length: usize, voices: &[Utterance]) -> Vec<f32> {
        match self {
            Self::White => white(rng, length),
            Self::Coloured => {
                let mut sound = white(rng, length);
                let (slope, peak, width) = (
                    rng.random_range(-2.0..0.5f32),
                    rng.random_range(100.0..5_000.0f32),
                    rng.random_range(50.0..2_000.0f32),
                );
                let resonance = if rng.random_bool(0.5) { rng.random_range(0.0..8.0f32) } else { 0.0 };
                filter(&mut sound, |f| {
                    (f.max(50.0) / 1_000.0).powf(slope) * (1.0 + resonance * (-((f - peak) / width).powi(2)).exp())
                });
                sound
            }
            Self::Hum => {
                let base = if rng.random_bool(0.5) { 50.0 } else { 60.0 };
                let mut sound: Vec<f32> = white(rng, length).iter().map(|x| x * 0.02).collect();
                for harmonic in 1..rng.random_range(4..24) {
                    let (level, phase) = (rng.random_range(0.0..1.0f32) / harmonic as f32, rng.random_range(0.0..TAU));
                    add_tone(&mut sound, |_| base * harmonic as f32, |_| level, phase);
                }
                sound
            }
            Self::Engine => {
                let mut sound = white(rng, length);
                let slope = rng.random_range(-1.8..-0.4f32);
                filter(&mut sound, |f| (f.max(40.0) / 1_000.0).powf(slope));
                let (rate, depth, wander) =
                    (rng.random_range(1.0..40.0f32), rng.random_range(0.1..0.9f32), rng.random_range(0.1..1.0f32));
                for (i, x) in sound.iter_mut().enumerate() {
                    let t = i as f32 / 16_000.0;
                    *x *= 1.0 + depth * (TAU * rate * t + (TAU * wander * t).sin()).sin();
                }
                sound
            }
            Self::Clicks => bursts(rng, length, 2.0..12.0, 0.001..0.02),
            Self::Slams => bursts(rng, length, 0.4..2.5, 0.03..0.4),
            Self::Tones => tones(rng, length),
            Self::Music => music(rng, length),
            Self::Babble => {
                let mut sound = vec![0.0; length];
                for _ in 0..8 {
                    let mut at = 0;
                    while at < length {
                        let voice = &voices[rng.random_range(0..voices.len())].samples;
                        for (x, y) in sound[at..].iter_mut().zip(voice.iter()) {
                            *x += y;
                        }
                        at += voice.len() * 4 / 5 + 1;
                    }
                }
                sound
            }
        }
    }
}

fn white(rng: &mut StdRng, length: usize) -> Vec<f32> {
    (0..length).map(|_| StandardNormal.sample(rng)).collect()
}

/// Adds a wave whose frequency in hertz and level are functions of the second.
fn add_tone(sound: &mut [f32], frequency: impl Fn(f32) -> f32, level: impl Fn(f32) -> f32, mut phase: f32) {
    for (i, x) in sound.iter_mut().enumerate() {
        let t = i as f32 / 16_000.0;
        phase = (phase + TAU * frequency(t) / 16_000.0) % TAU;
        *x += level(t) * phase.sin();
    }
}

/// Decaying bursts of filtered noise, `rate` a second, each `decay` seconds long.
fn bursts(rng: &mut StdRng, length: usize, rate: std::ops::Range<f32>, decay: std::ops::Range<f32>) -> Vec<f32> {
    let mut sound = vec![0.0; length];
    let rate = rng.random_range(rate);
    for _ in 0..(rate * length as f32 / 16_000.0).ceil() as usize {
        let (at, decay, level) =
            (rng.random_range(0..length), rng.random_range(decay.clone()), rng.random_range(0.2..1.0f32));
        let mut memory = 0.0;
        let smooth = rng.random_range(0.0..0.95f32);
        for (i, x) in sound[at..].iter_mut().take((decay * 5.0 * 16_000.0) as usize).enumerate() {
            let fresh: f32 = StandardNormal.sample(rng);
            memory = smooth * memory + (1.0 - smooth) * fresh;
            *x += level * memory * (-(i as f32) / (decay * 16_000.0)).exp();
        }
    }
    sound
}

/// Beeps, dialling tones, sirens: one or two waves at a time, switched on and off.
fn tones(rng: &mut StdRng, length: usize) -> Vec<f32> {
    let mut sound = vec![0.0; length];
    let (period, duty, sweep, speed) = (
        rng.random_range(0.1..1.5f32),
        rng.random_range(0.3..1.0f32),
        rng.random_range(0.0..0.4f32),
        rng.random_range(0.2..6.0f32),
    );
    for _ in 0..rng.random_range(1..3) {
        let frequency = rng.random_range(200.0..3_500.0f32);
        let frequency = |t: f32| frequency * (1.0 + sweep * (TAU * speed * t).sin());
        add_tone(&mut sound, frequency, |t| if t % period < duty * period { 1.0 } else { 0.0 }, 0.0);
    }
    sound
}

/// Notes with harmonics, struck or bowed, some at a time, and a drum.
fn music(rng: &mut StdRng, length: usize) -> Vec<f32> {
    let mut sound = vec![0.0; length];
    let beat = rng.random_range(0.15..0.6f32);
    let voices = rng.random_range(1..4);
    let (bright, vibrato, struck) =
        (rng.random_range(0.3..1.5f32), rng.random_range(0.0..0.01f32), rng.random_bool(0.6));
    let mut start = 0.0;
    while start < length as f32 / 16_000.0 {
        let duration = beat * rng.random_range(1..4) as f32;
        for _ in 0..voices {
            let pitch = 110.0 * 2f32.powf(rng.random_range(0..36) as f32 / 12.0);
            let from = (start * 16_000.0) as usize;
            let to = length.min(from + (duration * 16_000.0) as usize);
            for harmonic in 1..7 {
                let level = (harmonic as f32).powf(-bright);
                let envelope = |t: f32| level * if struck { (-3.0 * t / duration).exp() } else { (10.0 * t).min(1.0) };
                let frequency = |t: f32| pitch * harmonic as f32 * (1.0 + vibrato * (TAU * 5.5 * t).sin());
                if pitch * (harmonic as f32) < 7_500.0 && from < to {
                    add_tone(&mut sound[from..to], frequency, envelope, 0.0);
                }
            }
        }
        start += duration;
    }
    if rng.random_bool(0.5) {
        for (x, y) in sound.iter_mut().zip(bursts(rng, length, 1.0..4.0, 0.02..0.1)) {
            *x += 2.0 * y;
        }
    }
    sound
}

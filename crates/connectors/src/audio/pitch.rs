//! Another voice at the same speed: pitch and formants moved together, as between adults and children.
//!
//! Short grains of the recording are played faster or slower and laid one over the other at the recording's own
//! pace. Each grain begins where it continues the one before best, within a pitch period of where it is due:
//! Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA)", ICASSP 1993, eq. 6,
//! with the grains resampled by a windowed sinc.
//!
//! What always holds: as many samples come out as go in, none is late, and with a factor of 1 the
//! samples are left as they are once a grain has passed.

use std::f64::consts::PI;

/// Samples between two grains, at 16 kHz: 20 ms. A grain lasts two of them.
const HOP: usize = 320;
/// How far a grain may begin from where it is due, samples: a period of 100 Hz.
const SEARCH: isize = 160;
/// Steps of the first, coarse search.
const COARSE: usize = 4;
/// The largest factor.
pub(crate) const MOST: f64 = 2.0;
/// Zero crossings of the kernel on either side.
const CROSSINGS: f64 = 8.0;
/// Positions between two samples for which there is a kernel.
const PHASES: usize = 128;
/// Samples before a piece that a grain in it may read.
pub(crate) const BEFORE: usize = 256;
/// Samples after a piece that a grain in it may read.
pub(crate) const AHEAD: usize = SEARCH as usize + (2.0 * MOST) as usize * HOP + 2 * CROSSINGS as usize * MOST as usize;

/// Moves the voice of one session.
#[derive(Default)]
pub(crate) struct Shifter {
    kernel: Option<Kernel>,
    /// How the last grain goes on; `None` is as the recording does.
    tail: Option<Vec<f32>>,
    /// Output beyond the last piece.
    ready: Vec<f32>,
    /// The recording before the next piece: the last [`BEFORE`] samples of it.
    before: Vec<f32>,
    window: Vec<f32>,
}

impl Shifter {
    /// Replaces a piece by the same piece in another voice. `ahead` is the recording after it, as far as it goes; with
    /// fewer than [`AHEAD`] samples the rest is silence.
    pub(crate) fn apply(&mut self, factor: f64, piece: &mut [f32], ahead: &[f32]) {
        let active = factor != 1.0 || self.tail.is_some() || !self.ready.is_empty();
        self.before.resize(BEFORE, 0.0);
        if !active {
            let kept = BEFORE.saturating_sub(piece.len());
            self.before.drain(..BEFORE - kept);
            self.before.extend_from_slice(&piece[piece.len() - (BEFORE - kept)..]);
        } else {
            self.window.clear();
            self.window.extend_from_slice(&self.before);
            self.window.extend_from_slice(piece);
            let heard = self.window.len();
            self.window.extend_from_slice(&ahead[..ahead.len().min(AHEAD)]);
            self.window.resize(heard + AHEAD, 0.0);
            while self.ready.len() < piece.len() {
                self.grain(factor, BEFORE + self.ready.len());
            }
            piece.copy_from_slice(&self.ready[..piece.len()]);
            self.ready.drain(..piece.len());
            self.before.copy_from_slice(&self.window[heard - BEFORE..heard]);
        }
    }

    /// Appends the next [`HOP`] samples of output, which stand at `at` in the window.
    fn grain(&mut self, factor: f64, at: usize) {
        let window = &self.window;
        if factor == 1.0 && self.tail.is_none() {
            self.ready.extend_from_slice(&window[at..at + HOP]);
            return;
        }
        let tail = self.tail.take().unwrap_or_else(|| window[at..at + HOP].to_vec());
        if factor == 1.0 {
            fade(&tail, &window[at..at + HOP], &mut self.ready);
            return;
        }
        let kernel = match self.kernel.take_if(|kernel| kernel.factor == factor) {
            Some(kernel) => kernel,
            None => Kernel::new(factor),
        };
        let start = at as isize + best_start(window, at as isize, factor, &tail);
        let mut grain = (0..2 * HOP).map(|n| kernel.read(window, start as f64 + n as f64 * factor));
        let head: Vec<f32> = grain.by_ref().take(HOP).collect();
        fade(&tail, &head, &mut self.ready);
        self.tail = Some(grain.collect());
        self.kernel = Some(kernel);
    }
}

/// Appends the way from one sound to another.
fn fade(from: &[f32], to: &[f32], out: &mut Vec<f32>) {
    let n = from.len() as f64;
    out.extend(from.iter().zip(to).enumerate().map(|(i, (from, to))| {
        let part = (0.5 - 0.5 * (PI * (i as f64 + 0.5) / n).cos()) as f32;
        from * (1.0 - part) + to * part
    }));
}

/// Returns how far from where it is due a grain goes on best where the last one ended.
fn best_start(window: &[f32], at: isize, factor: f64, tail: &[f32]) -> isize {
    let likeness = |shift: isize| {
        let (mut product, mut power) = (0.0f32, 1e-9f32);
        for (n, sample) in tail.iter().enumerate().step_by(2) {
            let other = window[(at + shift + (n as f64 * factor) as isize) as usize];
            product += sample * other;
            power += other * other;
        }
        product / power.sqrt()
    };
    let best = |shifts: &mut dyn Iterator<Item = isize>| {
        shifts.map(|shift| (likeness(shift), shift)).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, shift)| shift)
    };
    let coarse = best(&mut (-SEARCH..=SEARCH).step_by(COARSE));
    let near = COARSE as isize - 1;
    best(&mut ((coarse - near).max(-SEARCH)..=(coarse + near).min(SEARCH)))
}

/// A windowed sinc (von Hann) that reads between samples and lets pass what the new rate can hold.
struct Kernel {
    factor: f64,
    half: usize,
    /// For each phase, the weights of the samples around.
    weights: Vec<Vec<f32>>,
}

impl Kernel {
    fn new(factor: f64) -> Self {
        let cutoff = (1.0 / factor).min(1.0);
        let half = (CROSSINGS / cutoff).ceil() as usize;
        let phase = |phase: usize| {
            let fraction = phase as f64 / PHASES as f64;
            let weight = |tap: usize| {
                let x = tap as f64 - half as f64 + 1.0 - fraction;
                let window = 0.5 + 0.5 * (PI * x / half as f64).cos();
                let sinc = if x == 0.0 { cutoff } else { (PI * cutoff * x).sin() / (PI * x) };
                if x.abs() < half as f64 { sinc * window } else { 0.0 }
            };
            let weights: Vec<f64> = (0..2 * half).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| (weight / sum) as f32).collect()
        };
        Self { factor, half, weights: (0..PHASES).map(phase).collect() }
    }

    /// Reads the window at a position between its samples.
    fn read(&self, window: &[f32], position: f64) -> f32 {
        let nearest = (position * PHASES as f64).round() as usize;
        let (whole, phase) = (nearest / PHASES, nearest % PHASES);
        let first = whole + 1 - self.half;
        let samples = &window[first..first + 2 * self.half];
        samples.iter().zip(&self.weights[phase]).map(|(sample, weight)| sample * weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a shifter to a sound in pieces.
    fn shifted(sound: &[f32], piece: usize, factor: impl Fn(usize) -> f64) -> Vec<f32> {
        let mut shifter = Shifter::default();
        let mut out = sound.to_vec();
        for start in (0..sound.len()).step_by(piece) {
            let end = (start + piece).min(sound.len());
            shifter.apply(factor(start), &mut out[start..end], &sound[end..]);
        }
        out
    }

    /// A voice: harmonics of 120 Hz.
    fn voice(samples: usize) -> Vec<f32> {
        let sample = |n: usize| {
            (1..20).map(|k| (2.0 * PI * 120.0 * k as f64 * n as f64 / 16_000.0).sin() / k as f64).sum::<f64>()
        };
        (0..samples).map(|n| 0.2 * sample(n) as f32).collect()
    }

    /// The frequency, within a third of the expected one, at which a sound repeats itself best.
    fn pitch(sound: &[f32], expected: f64) -> f64 {
        let likeness = |lag: usize| {
            let pairs = sound.iter().zip(&sound[lag..]);
            pairs.map(|(a, b)| f64::from(a * b)).sum::<f64>() / (sound.len() - lag) as f64
        };
        let around = |share: f64| (16_000.0 / expected * share) as usize;
        let lag = (around(0.75)..around(1.33)).max_by(|&a, &b| likeness(a).total_cmp(&likeness(b))).unwrap();
        16_000.0 / lag as f64
    }

    #[test]
    fn a_voice_moves_by_the_factor_and_keeps_its_level_and_length() {
        let sound = voice(16_000);
        let power = |sound: &[f32]| sound.iter().map(|s| s * s).sum::<f32>();
        for factor in [0.7, 1.25, 1.5] {
            let moved = shifted(&sound, 1_024, |_| factor);
            assert_eq!(moved.len(), sound.len());
            // Away from the ends.
            let (inner, original) = (&moved[2_000..14_000], &sound[2_000..14_000]);
            let found = pitch(inner, 120.0 * factor);
            assert!((found / (120.0 * factor) - 1.0).abs() < 0.03, "{factor}: {found} Hz");
            let level = 10.0 * (power(inner) / power(original)).log10();
            assert!(level.abs() < 1.5, "{factor}: {level} dB");
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing_before_and_after() {
        let sound = voice(16_000);
        assert_eq!(shifted(&sound, 700, |_| 1.0), sound);
        let moved = shifted(&sound, 1_000, |at| if (4_000..8_000).contains(&at) { 1.3 } else { 1.0 });
        assert_eq!(moved[..4_000], sound[..4_000]);
        assert_ne!(moved[4_000..8_000], sound[4_000..8_000]);
        assert_eq!(moved[8_000 + 2 * HOP..], sound[8_000 + 2 * HOP..]);
    }

    #[test]
    fn silence_and_short_pieces_stay_within_bounds() {
        for factor in [0.5, MOST] {
            assert!(shifted(&[0.0; 5_000], 160, |_| factor).iter().all(|sample| *sample == 0.0));
            assert!(shifted(&voice(333), 37, |_| factor).iter().all(|sample| sample.abs() < 1.5));
        }
    }
}

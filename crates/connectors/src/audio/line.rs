//! What lies between a voice and the pipeline: the speaker, the room, the microphone, the codec and the network.
//!
//! In the order in which sound passes them: pitch, level, noise, band, codec, loss. Each can be
//! changed while recordings are sent (the parameters of the source), and [`Voice`] makes the sessions of repeated
//! recordings differ.
//!
//! What always holds: a line that changes nothing leaves a piece as it is, to the bit; and what it does depends on the
//! recording, the session and the settings of each tick alone, so that a resumed session goes on as it would have.

use std::f64::consts::PI;

use driftline_payloads::{SAMPLE_RATE, wav};
use driftline_stage::Parameter;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    pitch::{self, Shifter},
    recording::{Piece, Recording, Tick},
    refused::Refused,
    traffic::{Voice, unit},
};

/// Pitch and formants.
pub(crate) static PITCH: Parameter = Parameter {
    name: "pitch",
    unit: "1",
    help: "factor on pitch and formants of the speakers, at the same speed; 1.3 makes children of women",
    min: 0.5,
    max: pitch::MOST,
    neutral: 1.0,
};
/// Level.
pub(crate) static GAIN: Parameter = Parameter {
    name: "gain_db",
    unit: "dB",
    help: "louder or softer; what is beyond full scale is clipped",
    min: -60.0,
    max: 40.0,
    neutral: 0.0,
};
/// Noise of the room.
pub(crate) static NOISE: Parameter = Parameter {
    name: "noise_dbfs",
    unit: "dBFS",
    help: "level of the white noise that is added",
    min: -120.0,
    max: 0.0,
    neutral: -120.0,
};
/// Lower end of the band.
pub(crate) static HIGHPASS: Parameter = Parameter {
    name: "highpass_hz",
    unit: "Hz",
    help: "lower end of the microphone's band, 24 dB an octave; 300 is a telephone's",
    min: 0.0,
    max: 4_000.0,
    neutral: 0.0,
};
/// Upper end of the band.
pub(crate) static LOWPASS: Parameter = Parameter {
    name: "lowpass_hz",
    unit: "Hz",
    help: "upper end of the microphone's band, 24 dB an octave; 3400 is a telephone's",
    min: 300.0,
    max: 8_000.0,
    neutral: 8_000.0,
};
/// Codec.
pub(crate) static MULAW: Parameter = Parameter {
    name: "mulaw_bits",
    unit: "bit",
    help: "bits of a sample in a mu-law codec (ITU-T G.711 has 8); 16 is none",
    min: 2.0,
    max: 16.0,
    neutral: 16.0,
};
/// Loss.
pub(crate) static DROP: Parameter = Parameter {
    name: "drop",
    unit: "1",
    help: "share of the chunks that are lost on the way",
    min: 0.0,
    max: 1.0,
    neutral: 0.0,
};

/// All parameters of a line.
pub(crate) static PARAMETERS: &[&Parameter] = &[&PITCH, &GAIN, &NOISE, &HIGHPASS, &LOWPASS, &MULAW, &DROP];

/// What the parameters are in one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    pub pitch: f64,
    pub gain_db: f64,
    pub noise_dbfs: f64,
    pub highpass_hz: f64,
    pub lowpass_hz: f64,
    pub mulaw_bits: f64,
    pub drop: f64,
}

impl Settings {
    /// Reads the parameters.
    pub(crate) fn read(value: impl Fn(&'static Parameter) -> f64) -> Self {
        Self {
            pitch: value(&PITCH),
            gain_db: value(&GAIN),
            noise_dbfs: value(&NOISE),
            highpass_hz: value(&HIGHPASS),
            lowpass_hz: value(&LOWPASS),
            mulaw_bits: value(&MULAW),
            drop: value(&DROP),
        }
    }
}

/// µ of ITU-T G.711.
const MU: f64 = 255.0;

/// A recording as it arrives.
pub(crate) struct Line {
    recording: Recording,
    voice: Voice,
    shifter: Shifter,
    highpass: Filter,
    lowpass: Filter,
    /// Pieces lost right before the next one.
    lost: u32,
}

impl Line {
    pub(crate) fn new(recording: Recording, voice: Voice) -> Self {
        Self {
            recording,
            voice,
            shifter: Shifter::default(),
            highpass: Filter::default(),
            lowpass: Filter::default(),
            lost: 0,
        }
    }

    /// Returns the recording.
    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Advances by one piece, as [`Recording::next`] does.
    ///
    /// # Errors
    /// As [`Recording::next`].
    pub(crate) fn next(&mut self, settings: &Settings) -> Result<Tick, Refused> {
        let mut piece = match self.recording.next()? {
            Tick::Piece(piece) => piece,
            Tick::Lost => return Ok(Tick::Lost),
        };
        let number = u64::from(piece.number);
        if settings.drop > 0.0 && unit(xxh3_64_with_seed(&number.to_le_bytes(), !self.voice.seed)) < settings.drop {
            let last = piece.last;
            self.lost += 1 + piece.missing;
            if !last {
                return Ok(Tick::Lost);
            }
            let start = piece.start + piece.samples.len() as u64;
            let number = piece.number.saturating_add(1);
            piece = Piece { number, start, clipped: 0.0, missing: 0, last, samples: Vec::new() };
        }
        piece.missing += std::mem::take(&mut self.lost);
        self.change(settings, &mut piece);
        Ok(Tick::Piece(piece))
    }

    /// Changes the sound of a piece.
    fn change(&mut self, settings: &Settings, piece: &mut Piece) {
        let Voice { seed, pitch, gain_db, noise_dbfs } = self.voice;
        let samples = &mut piece.samples;
        let pitch = (pitch * settings.pitch).clamp(PITCH.min, PITCH.max);
        self.shifter.apply(pitch, samples, self.recording.ahead());
        let gain = gain_db + settings.gain_db;
        if gain != 0.0 {
            let factor = 10f32.powf(gain as f32 / 20.0);
            samples.iter_mut().for_each(|sample| *sample *= factor);
        }
        let room = noise_dbfs.unwrap_or(NOISE.neutral);
        let power: f64 = [room, settings.noise_dbfs]
            .into_iter()
            .filter(|level| *level > NOISE.neutral)
            .map(|level| 10f64.powf(level / 10.0))
            .sum();
        if power > 0.0 {
            add_noise(samples, piece.start, power.sqrt(), seed);
        }
        if settings.highpass_hz > HIGHPASS.neutral {
            self.highpass.apply(Pass::High, settings.highpass_hz, samples);
        }
        if settings.lowpass_hz < LOWPASS.neutral {
            self.lowpass.apply(Pass::Low, settings.lowpass_hz, samples);
        }
        if settings.mulaw_bits < MULAW.neutral {
            samples.iter_mut().for_each(|sample| *sample = through_mulaw(*sample, settings.mulaw_bits));
        }
        let beyond = samples.iter().filter(|sample| sample.abs() > 1.0).count();
        piece.clipped = piece.clipped.max(beyond as f32 / samples.len().max(1) as f32);
        // As they will be on the wire; what comes as it was recorded is so already.
        samples.iter_mut().for_each(|sample| *sample = wav::from_16_bits(wav::to_16_bits(*sample)));
    }
}

/// Adds white noise. Its samples depend on the seed and their place in the session alone.
fn add_noise(samples: &mut [f32], start: u64, deviation: f64, seed: u64) {
    for (place, sample) in (start..).zip(samples) {
        // The sum of four uniform numbers, of variance 1/3, is close to a normal one.
        let hash = xxh3_64_with_seed(&place.to_le_bytes(), seed);
        let sum: f64 = (0..4).map(|part| f64::from((hash >> (16 * part)) as u16) / 65_535.0 - 0.5).sum();
        *sample += (sum * 3f64.sqrt() * deviation) as f32;
    }
}

/// Compresses a sample by µ-law, keeps so many bits of it, and expands it.
fn through_mulaw(sample: f32, bits: f64) -> f32 {
    let x = f64::from(sample.clamp(-1.0, 1.0));
    let compressed = (1.0 + MU * x.abs()).ln() / (1.0 + MU).ln();
    let levels = 2f64.powf(bits - 1.0);
    let kept = (compressed * levels).round().min(levels) / levels;
    (((1.0 + MU).powf(kept) - 1.0) / MU * x.signum()) as f32
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Low,
    High,
}

/// A Butterworth filter of fourth order: two biquads by Bristow-Johnson's cookbook.
#[derive(Default)]
struct Filter {
    /// For which frequency the coefficients are.
    hz: f64,
    coefficients: [[f64; 5]; 2],
    /// Two values a biquad, transposed direct form 2.
    state: [[f64; 2]; 2],
}

/// Quality of the two biquads.
const QUALITIES: [f64; 2] = [0.541_196_1, 1.306_563];

impl Filter {
    fn apply(&mut self, pass: Pass, hz: f64, samples: &mut [f32]) {
        if self.hz != hz {
            self.hz = hz;
            self.coefficients = QUALITIES.map(|quality| biquad(pass, hz, quality));
        }
        for sample in samples {
            let mut x = f64::from(*sample);
            for ([b0, b1, b2, a1, a2], [s1, s2]) in self.coefficients.iter().zip(&mut self.state) {
                let y = b0 * x + *s1;
                *s1 = b1 * x - a1 * y + *s2;
                *s2 = b2 * x - a2 * y;
                x = y;
            }
            *sample = x as f32;
        }
    }
}

fn biquad(pass: Pass, hz: f64, quality: f64) -> [f64; 5] {
    // At the very end of the band a filter has no poles.
    let omega = 2.0 * PI * (hz / f64::from(SAMPLE_RATE)).min(0.499);
    let alpha = omega.sin() / (2.0 * quality);
    let cos = omega.cos();
    let (side, middle) = match pass {
        Pass::Low => ((1.0 - cos) / 2.0, 1.0 - cos),
        Pass::High => ((1.0 + cos) / 2.0, -(1.0 + cos)),
    };
    [side, middle, side, -2.0 * cos, 1.0 - alpha].map(|c| c / (1.0 + alpha))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(samples: &[f32]) -> f64 {
        10.0 * (samples.iter().map(|s| f64::from(s * s)).sum::<f64>() / samples.len() as f64).log10()
    }

    fn tone(hz: f64) -> Vec<f32> {
        (0..16_000).map(|n| 0.5 * (2.0 * PI * hz * f64::from(n) / 16_000.0).sin() as f32).collect()
    }

    #[test]
    fn noise_has_its_level_and_does_not_depend_on_the_pieces() {
        let mut whole = vec![0.0; 20_000];
        add_noise(&mut whole, 500, 0.01, 9);
        assert!((level(&whole) + 40.0).abs() < 0.2, "{}", level(&whole));
        let mut pieces = vec![0.0; 20_000];
        for (n, piece) in pieces.chunks_mut(777).enumerate() {
            add_noise(piece, 500 + 777 * n as u64, 0.01, 9);
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn a_band_ends_where_it_says() {
        for (pass, hz, tones) in
            [(Pass::Low, 3_400.0, [1_000.0, 3_400.0, 6_800.0]), (Pass::High, 300.0, [1_000.0, 300.0, 150.0])]
        {
            let [through, edge, beyond] = tones.map(|frequency| {
                let mut samples = tone(frequency);
                let before = level(&samples[4_000..]);
                Filter::default().apply(pass, hz, &mut samples);
                level(&samples[4_000..]) - before
            });
            assert!(through.abs() < 0.1, "{through}");
            assert!((edge + 3.01).abs() < 0.1, "{edge}");
            assert!(beyond < -23.0, "{beyond}");
        }
    }

    /// G.711 has a signal-to-noise ratio of about 38 dB over a wide range of levels.
    #[test]
    fn fewer_bits_of_mulaw_are_more_noise() {
        let noise = |bits: f64| {
            let sound = tone(440.0);
            let error: Vec<f32> = sound.iter().map(|&sample| through_mulaw(sample, bits) - sample).collect();
            level(&sound) - level(&error)
        };
        assert!((36.0..40.0).contains(&noise(8.0)), "{}", noise(8.0));
        assert!(noise(4.0) < noise(6.0) && noise(6.0) < noise(8.0));
    }
}

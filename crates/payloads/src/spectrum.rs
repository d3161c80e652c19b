//! How a sound is coloured, apart from how loud it is: what tells one voice, room or microphone from another.
//!
//! A few frames of 32 ms, spread evenly over the sound, are brought to a power spectrum (von Hann window) and added up.
//! Sixteen triangular bands, evenly spaced on the mel scale (O'Shaughnessy 1987: mel = 2595·log₁₀(1 + f/700)) from 100 to 7,600 Hz, give
//! the shape; its centre of mass on the mel scale is the centroid. Frames instead of the whole sound keep the cost small, and it
//! does not grow with the length.

use std::{
    cell::RefCell,
    f64::consts::PI,
    sync::{Arc, LazyLock},
};

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use crate::SAMPLE_RATE;

/// Bands of the shape.
pub(crate) const BANDS: usize = 16;
/// Samples of a frame.
const FRAME: usize = 512;
/// Most frames that are looked at.
const MOST_FRAMES: usize = 4;
/// Samples of sound a frame, at least: of a chunk of 64 ms one frame is looked at.
const SPREAD: usize = 1_024;
/// Ends of the bands, Hz.
const LOWEST: f64 = 100.0;
const HIGHEST: f64 = 7_600.0;
/// Mean square below which a sound is silence, whose colour is that of its noise: -60 dBFS.
const SILENT: f64 = 1e-6;
/// How far below the mean of a sound's bands a band is looked at, dB.
const FLOOR_DB: f64 = -60.0;
/// What a shape is divided by, dB: the length of the vector is then about 1 for speech.
const SCALE_DB: f64 = 60.0;

/// The colour of a sound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spectrum {
    /// How far each band is above the mean of all, in units of 60 dB; they sum to 0.
    pub shape: [f32; BANDS],
    /// Where the middle of its power is, Hz.
    pub centroid: f64,
}

struct Plan {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    /// For each line of the spectrum: the lower of the two bands it belongs to, from -1, and its part of the upper one;
    /// `None` outside all bands.
    bands: Vec<Option<(isize, f32)>>,
}

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let mel = |hz: f64| 2_595.0 * (1.0 + hz / 700.0).log10();
    let step = (mel(HIGHEST) - mel(LOWEST)) / (BANDS + 1) as f64;
    let band = |line: usize| {
        let hz = line as f64 * f64::from(SAMPLE_RATE) / FRAME as f64;
        let place = (mel(hz) - mel(LOWEST)) / step;
        (0.0..(BANDS + 1) as f64).contains(&place).then(|| (place as isize - 1, place.fract() as f32))
    };
    Plan {
        fft: RealFftPlanner::new().plan_fft_forward(FRAME),
        window: (0..FRAME).map(|n| (0.5 - 0.5 * (2.0 * PI * n as f64 / FRAME as f64).cos()) as f32).collect(),
        bands: (0..=FRAME / 2).map(band).collect(),
    }
});

/// Memory of a thread.
struct Scratch {
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        frame: PLAN.fft.make_input_vec(),
        spectrum: PLAN.fft.make_output_vec(),
        fft: PLAN.fft.make_scratch_vec(),
    });
}

impl Spectrum {
    /// Describes a sound of the mean square `power`; `None` if it is silent or shorter than a frame.
    pub(crate) fn of(samples: &[f32], power: f64) -> Option<Self> {
        if power < SILENT || samples.len() < FRAME {
            return None;
        }
        let frames = (samples.len() / SPREAD).clamp(1, MOST_FRAMES);
        let mut bands = [0f32; BANDS];
        SCRATCH.with_borrow_mut(|scratch| {
            for frame in 0..frames {
                // The middle of its part of the sound.
                let start = (2 * frame + 1) * samples.len() / (2 * frames) - FRAME / 2;
                add(&samples[start.min(samples.len() - FRAME)..][..FRAME], scratch, &mut bands);
            }
        });
        let total: f32 = bands.iter().sum();
        // The frames may be silent where the sound is not.
        if !(total > 0.0 && total.is_finite()) {
            return None;
        }
        let floor = f64::from(total) * 10f64.powf(FLOOR_DB / 10.0);
        let levels = bands.map(|band| 10.0 * (f64::from(band) + floor).log10());
        let mean = levels.iter().sum::<f64>() / BANDS as f64;
        let middle = bands.iter().zip(1..).map(|(band, place)| f64::from(band * place as f32)).sum::<f64>();
        let mel = |hz: f64| 2_595.0 * (1.0 + hz / 700.0).log10();
        let step = (mel(HIGHEST) - mel(LOWEST)) / (BANDS + 1) as f64;
        let centroid = 700.0 * (10f64.powf((mel(LOWEST) + step * middle / f64::from(total)) / 2_595.0) - 1.0);
        Some(Self { shape: levels.map(|level| ((level - mean) / SCALE_DB) as f32), centroid })
    }
}

/// Adds the power of a frame to the bands.
fn add(samples: &[f32], scratch: &mut Scratch, bands: &mut [f32; BANDS]) {
    let Scratch { frame, spectrum, fft } = scratch;
    for ((out, sample), weight) in frame.iter_mut().zip(samples).zip(&PLAN.window) {
        *out = sample * weight;
    }
    if PLAN.fft.process_with_scratch(frame, spectrum, fft).is_err() {
        // The lengths are those of the plan.
        return;
    }
    for (line, band) in spectrum.iter().zip(&PLAN.bands) {
        let Some((lower, upper_part)) = *band else { continue };
        let power = line.norm_sqr();
        if let Some(band) = usize::try_from(lower).ok().and_then(|lower| bands.get_mut(lower)) {
            *band += power * (1.0 - upper_part);
        }
        if let Some(band) = usize::try_from(lower + 1).ok().and_then(|upper| bands.get_mut(upper)) {
            *band += power * upper_part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::power;

    fn spectrum(samples: &[f32]) -> Option<Spectrum> {
        Spectrum::of(samples, power(samples))
    }

    fn tone(hz: f64, amplitude: f32, samples: usize) -> Vec<f32> {
        (0..samples).map(|n| amplitude * (2.0 * PI * hz * n as f64 / 16_000.0).sin() as f32).collect()
    }

    /// A voice with one formant: harmonics of 150 Hz around 800 Hz, all moved by a factor.
    fn voice(factor: f64, amplitude: f32) -> Vec<f32> {
        let mut sum = vec![0.0; 8_000];
        for harmonic in 1..20 {
            let hz = 150.0 * f64::from(harmonic);
            let part = amplitude * (-((hz - 800.0) / 600.0).powi(2)).exp() as f32;
            for (sum, sample) in sum.iter_mut().zip(tone(hz * factor, part, 8_000)) {
                *sum += sample;
            }
        }
        sum
    }

    #[test]
    fn silence_and_short_sounds_have_no_colour() {
        assert_eq!(spectrum(&[]), None);
        assert_eq!(spectrum(&[0.0; 4_096]), None);
        assert_eq!(spectrum(&tone(440.0, 0.0005, 4_096)), None);
        assert_eq!(spectrum(&tone(440.0, 0.5, FRAME - 1)), None);
        assert!(spectrum(&tone(440.0, 0.5, FRAME)).is_some());
        // A click between the frames that are looked at.
        let mut click = vec![0.0; 100_000];
        click[0] = 1.0;
        assert_eq!(spectrum(&click), None);
    }

    #[test]
    fn the_centroid_of_a_tone_is_near_its_frequency() {
        for hz in [250.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 6_000.0] {
            let found = spectrum(&tone(hz, 0.3, 4_000)).unwrap().centroid;
            assert!((found / hz - 1.0).abs() < 0.06, "{hz}: {found}");
        }
    }

    #[test]
    fn colour_does_not_depend_on_level_and_moves_with_the_voice() {
        let [soft, loud] = [0.01, 0.2].map(|amplitude| spectrum(&voice(1.0, amplitude)).unwrap());
        let distance = |a: Spectrum, b: Spectrum| {
            a.shape.iter().zip(b.shape).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>().sqrt()
        };
        assert!(distance(soft, loud) < 1e-3, "{}", distance(soft, loud));
        let child = spectrum(&voice(1.3, 0.2)).unwrap();
        assert!(child.centroid > 1.2 * loud.centroid, "{} {}", child.centroid, loud.centroid);
        assert!(distance(child, loud) > 0.2, "{}", distance(child, loud));
        assert!(child.shape.iter().sum::<f32>().abs() < 1e-5);
    }
}

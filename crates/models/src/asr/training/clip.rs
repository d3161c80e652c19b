//! Recordings to train and test on, at 8 kHz.

use std::{fs, path::Path};

use super::{TrainingError, grammar::DIGITS, resample::resample};
use crate::asr::{frontend::RATE, lexicon::Lexicon};

/// Where a clip comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A person.
    Real {
        /// The person's name in the data set.
        speaker: String,
    },
    /// A synthesiser.
    Synthetic {
        /// Engine and voice.
        voice: String,
    },
}

/// A recording and what is said in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// 8 kHz samples.
    pub samples: Vec<i16>,
    /// Phone classes.
    pub phones: Vec<u8>,
    /// The words.
    pub words: Vec<String>,
    /// Who speaks.
    pub source: Source,
}

impl Clip {
    /// Returns the samples in -1..1.
    #[must_use]
    pub fn audio(&self) -> Vec<f32> {
        self.samples.iter().map(|&sample| f32::from(sample) / 32768.0).collect()
    }
}

/// Reads a WAV file's first channel, with its sample rate.
///
/// # Errors
/// [`TrainingError::Wav`] naming the file.
pub fn read_wav(path: &Path) -> Result<(Vec<f32>, u32), TrainingError> {
    let wav = |source| TrainingError::Wav { path: path.to_path_buf(), source };
    let mut reader = hound::WavReader::open(path).map_err(wav)?;
    let spec = reader.spec();
    let channels = usize::from(spec.channels);
    let samples = reader
        .samples::<i16>()
        .step_by(channels)
        .map(|sample| sample.map(|sample| f32::from(sample) / 32768.0))
        .collect::<Result<_, _>>()
        .map_err(wav)?;
    Ok((samples, spec.sample_rate))
}

/// Rounds to 16 bits, clipping.
#[must_use]
pub fn to_i16(samples: &[f32]) -> Vec<i16> {
    samples.iter().map(|x| (x * 32768.0).round() as i16).collect()
}

/// Cuts silence (40 dB under the loudest 10 ms) from both ends, leaving 30 ms.
#[must_use]
pub fn trim(samples: &[f32]) -> &[f32] {
    let frame = RATE as usize / 100;
    let energies: Vec<f32> = samples.chunks(frame).map(|frame| frame.iter().map(|x| x * x).sum()).collect();
    let threshold = energies.iter().copied().fold(0f32, f32::max) * 1e-4;
    let loud = |energy: &f32| *energy > threshold;
    let (Some(first), Some(last)) = (energies.iter().position(loud), energies.iter().rposition(loud)) else {
        return &[];
    };
    &samples[first.saturating_sub(3) * frame..((last + 4) * frame).min(samples.len())]
}

/// Reads the Free Spoken Digit Dataset: files `{digit}_{speaker}_{number}.wav`, in order of their names.
///
/// # Errors
/// [`TrainingError`] for a folder or file that cannot be read, or a name of another form.
pub fn spoken_digits(folder: &Path, lexicon: &Lexicon) -> Result<Vec<Clip>, TrainingError> {
    let mut paths = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wav"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let fields: Vec<&str> = name.split('_').collect();
        let parsed = match fields[..] {
            [digit, speaker, _] => digit.parse::<usize>().ok().and_then(|digit| DIGITS.get(digit)).zip(Some(speaker)),
            _ => None,
        };
        let Some((digit, speaker)) = parsed else {
            return Err(TrainingError::FileName { path: path.clone(), allowed: "{digit}_{speaker}_{number}.wav" });
        };
        let id = lexicon.find(digit).ok_or_else(|| TrainingError::UnknownWord { word: (*digit).into() })?;
        let (samples, rate) = read_wav(path)?;
        Ok(Clip {
            samples: to_i16(&resample(&samples, rate as f32 / RATE as f32)),
            phones: lexicon.pronunciations(id)[0].clone(),
            words: vec![(*digit).to_owned()],
            source: Source::Real { speaker: speaker.to_owned() },
        })
    };
    paths.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_leaves_thirty_milliseconds() {
        let mut samples = vec![0f32; 8000];
        samples[4000..4800].fill(0.5);
        assert_eq!(trim(&samples).len(), 800 + 2 * 240);
        assert!(trim(&[0.0; 100]).is_empty());
    }

    #[test]
    fn rounding_clips() {
        assert_eq!(to_i16(&[0.0, 2.0, -2.0, 0.5]), [0, i16::MAX, i16::MIN, 16384]);
    }
}

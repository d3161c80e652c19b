//! How well detectors do, slice by slice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use driftline_models::vad::{CHUNK, Detector};
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    corpus::read,
    noise::Noise,
    scene::{Recipe, Scene},
    speech::Utterance,
};

/// Chunks of a scene, 20 s, so that the memory of a network has long run full.
const CHUNKS: usize = 625;
/// Scenes of a slice.
const SCENES: usize = 12;
/// From here on a chunk counts as speech.
const THRESHOLD: f32 = 0.5;

/// Scenes that are counted together.
struct Slice {
    name: String,
    scenes: Vec<Scene>,
}

/// Prints the table.
pub(crate) fn evaluate(data: &Path, speech: &[Utterance], weights: &[PathBuf], silero: Option<&Path>) -> Result<()> {
    let detectors = weights
        .iter()
        .map(|path| Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), Detector::load(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut slices = slices(speech);
    match silero {
        Some(silero) => slices.extend(librivox(data, speech, &Detector::load(silero)?)?),
        None => eprintln!("LibriVox skipped: no weights of Silero given"),
    }
    println!(
        "| slice | speech |{}",
        detectors
            .iter()
            .map(|(name, _)| format!(" {name} AUC | {name} F1 | {name} false alarms |"))
            .collect::<String>()
    );
    println!("|---|---|{}", "---|---|---|".repeat(detectors.len()));
    for slice in slices {
        let labels: Vec<f32> = slice.scenes.iter().flat_map(|scene| scene.labels.iter().copied()).collect();
        print!(
            "| {} | {:.0} % |",
            slice.name,
            100.0 * labels.iter().filter(|&&label| label > 0.5).count() as f32 / labels.len() as f32
        );
        for (_, detector) in &detectors {
            let probabilities = probabilities(detector, &slice.scenes)?;
            let score =
                |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
            let (auc, f1, alarms) =
                (roc_auc(&probabilities, &labels), f1(&probabilities, &labels), false_alarms(&probabilities, &labels));
            print!(" {} | {} | {} % |", score(auc, 4), score(f1, 3), score(alarms.map(|share| 100.0 * share), 1));
        }
        println!();
    }
    Ok(())
}

fn probabilities(detector: &Detector, scenes: &[Scene]) -> Result<Vec<f32>> {
    let mut states: Vec<_> = scenes.iter().map(|_| detector.new_state()).collect();
    let audio: Vec<&[f32]> = scenes.iter().map(|scene| &scene.samples[..scene.labels.len() * CHUNK]).collect();
    Ok(detector.detect(&mut states.iter_mut().collect::<Vec<_>>(), &audio)?.concat())
}

fn slices(speech: &[Utterance]) -> Vec<Slice> {
    let plain = Recipe {
        chunks: CHUNKS,
        speech: Some(-26.0),
        noise: None,
        room: None,
        band: None,
        speed: 1.0,
        swelling: false,
        clipped: false,
    };
    let kinds = |i: usize| Noise::ALL[i % Noise::ALL.len()];
    let mut slices = Vec::new();
    let mut add =
        |name: String, speech: &dyn Fn(&Utterance) -> bool, vary: &dyn Fn(usize) -> Recipe, voices: &[Utterance]| {
            let chosen: Vec<&Utterance> = voices.iter().filter(|utterance| speech(utterance)).collect();
            let mut rng = StdRng::seed_from_u64(slices.len() as u64 + 77_000);
            slices.push(Slice {
                name,
                scenes: (0..SCENES).map(|i| Scene::make(&mut rng, &vary(i), &chosen, voices)).collect(),
            });
        };
    for kind in ["recorded", "espeak-ng", "flite", "festival"] {
        let noisy = |i: usize| Recipe { noise: Some((kinds(i), -26.0 - 15.0)), ..plain.clone() };
        add(format!("{kind}, 15 dB"), &|utterance| utterance.kind == kind, &noisy, speech);
    }
    for ratio in [40.0, 20.0, 10.0, 5.0, 0.0] {
        // Eight voices as loud as the one have no truth: babble stays out of the lowest ratio.
        let kind = |i: usize| if ratio > 0.0 { kinds(i) } else { Noise::ALL[i % (Noise::ALL.len() - 1)] };
        add(
            format!("{ratio} dB, all voices"),
            &|_| true,
            &|i| Recipe { noise: Some((kind(i), -26.0 - ratio)), ..plain.clone() },
            speech,
        );
    }
    add("digital silence between".to_owned(), &|_| true, &|_| plain.clone(), speech);
    add(
        "telephone, 15 dB".to_owned(),
        &|_| true,
        &|i| Recipe { noise: Some((kinds(i), -41.0)), band: Some((300.0, 3_400.0)), ..plain.clone() },
        speech,
    );
    add(
        "room 0.5 s, 20 dB".to_owned(),
        &|_| true,
        &|i| Recipe { noise: Some((kinds(i), -46.0)), room: Some(0.5), ..plain.clone() },
        speech,
    );
    add(
        "quiet, -50 dBFS, 15 dB".to_owned(),
        &|_| true,
        &|i| Recipe { speech: Some(-50.0), noise: Some((kinds(i), -65.0)), ..plain.clone() },
        speech,
    );
    for kind in Noise::ALL {
        let alone = |i: usize| Recipe { speech: None, noise: Some((kind, -60.0 + 4.0 * i as f32)), ..plain.clone() };
        add(format!("no speech: {kind:?}").to_lowercase(), &|_| true, &alone, speech);
    }
    slices
}

/// Recordings of a real reader: what Silero hears in them clean is the truth, also where noise is added.
fn librivox(data: &Path, crowd: &[Utterance], silero: &Detector) -> Result<Vec<Slice>> {
    let folder = data.join("speech/librivox");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wav"));
    paths.sort();
    let mut clean = Vec::new();
    for path in paths {
        let mut samples = vec![0.0; CHUNK * 20];
        samples.extend(read(&path)?);
        samples.resize((samples.len() / CHUNK + 20) * CHUNK, 0.0);
        let labels = silero.detect(&mut [&mut silero.new_state()], &[&samples])?.concat();
        clean.push(Scene { samples, labels });
    }
    let mut slices = Vec::new();
    for ratio in [None, Some(20.0), Some(10.0), Some(5.0)] {
        let mut rng = StdRng::seed_from_u64(5);
        let mut scenes = Vec::new();
        for scene in &clean {
            let spoken: Vec<f32> = scene
                .samples
                .chunks_exact(CHUNK)
                .zip(&scene.labels)
                .filter(|(_, label)| **label > 0.5)
                .flat_map(|(chunk, _)| chunk.iter().copied())
                .collect();
            let level = 20.0 * crate::speech::rms(&spoken).log10();
            for kind in Noise::ALL {
                let noise = ratio.map(|ratio| (kind, level - ratio));
                let recipe = Recipe {
                    chunks: scene.labels.len(),
                    speech: None,
                    noise,
                    room: None,
                    band: None,
                    speed: 1.0,
                    swelling: false,
                    clipped: false,
                };
                let mut mixed = Scene::make(&mut rng, &recipe, &[], crowd);
                for (mixed, clean) in mixed.samples.iter_mut().zip(&scene.samples) {
                    *mixed += clean;
                }
                mixed.labels.clone_from(&scene.labels);
                scenes.push(mixed);
                if ratio.is_none() {
                    break;
                }
            }
        }
        let name = ratio.map_or("LibriVox as recorded".to_owned(), |ratio| format!("LibriVox, {ratio} dB"));
        slices.push(Slice { name, scenes });
    }
    Ok(slices)
}

/// The probability that a chunk of speech scores above one of silence; `None` where either is missing.
fn roc_auc(probabilities: &[f32], labels: &[f32]) -> Option<f64> {
    let mut order: Vec<(f32, bool)> =
        probabilities.iter().copied().zip(labels.iter().map(|&label| label > 0.5)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = order.iter().filter(|(_, speech)| *speech).count() as f64;
    let negatives = order.len() as f64 - positives;
    let (mut below, mut area) = (0.0, 0.0);
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        let speech = ties.iter().filter(|(_, speech)| *speech).count() as f64;
        let silence = ties.len() as f64 - speech;
        area += speech * (below + 0.5 * silence);
        below += silence;
    }
    (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives))
}

/// The harmonic mean of precision and recall at 0.5; `None` where nobody speaks.
fn f1(probabilities: &[f32], labels: &[f32]) -> Option<f64> {
    let count = |heard: bool, said: bool| {
        probabilities
            .iter()
            .zip(labels)
            .filter(|(p, label)| (**p >= THRESHOLD) == heard && (**label > 0.5) == said)
            .count() as f64
    };
    let (hits, alarms, misses) = (count(true, true), count(true, false), count(false, true));
    (hits + misses > 0.0).then(|| 2.0 * hits / (2.0 * hits + alarms + misses))
}

/// The share of silent chunks that are heard as speech; `None` where there is no silence.
fn false_alarms(probabilities: &[f32], labels: &[f32]) -> Option<f64> {
    let silent: Vec<f32> =
        probabilities.iter().zip(labels).filter(|(_, label)| **label <= 0.5).map(|(p, _)| *p).collect();
    (!silent.is_empty()).then(|| silent.iter().filter(|p| **p >= THRESHOLD).count() as f64 / silent.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_a_known_ranking() {
        let (probabilities, labels) = ([0.9, 0.6, 0.6, 0.2, 0.1], [1.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(roc_auc(&probabilities, &labels), Some(4.5 / 6.0));
        assert_eq!(f1(&probabilities, &labels), Some(4.0 / 6.0));
        assert_eq!(false_alarms(&probabilities, &labels), Some(0.5));
        assert_eq!(roc_auc(&[0.5], &[1.0]), None);
    }
}

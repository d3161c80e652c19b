//! Silero's network against its ONNX model, and against its authors' definition where the weights are those of the
//! published safetensors, which are another training; `goldens/silero.py` made the probabilities. Needs the recordings and the
//! published weights.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use driftline_models::vad::{CHUNK, Detector};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    passes: Vec<(f32, f32)>,
    onnx: Vec<f32>,
    published: Vec<f32>,
}

/// Samples of the recordings in the order of their names; each file is a 44-byte header and 16-bit samples.
fn speech(data: &Path) -> Vec<f32> {
    let folder = data.join("speech/librivox");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "wav"))
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|file| {
            hound::WavReader::open(file)
                .unwrap()
                .into_samples::<i16>()
                .map(|sample| f32::from(sample.unwrap()) / 32_768.0)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Compares the detector with the weights that the variable names; says so aloud where they, or the recordings, are
/// missing.
fn compare(variable: &str, what: &str, golden: impl Fn(&Golden) -> &[f32]) {
    let (Some(weights), Some(data)) = (env::var_os(variable), env::var_os("DRIFTLINE_DATA")) else {
        eprintln!("skipped: {variable} ({what}) and DRIFTLINE_DATA must be set");
        return;
    };
    let expected: Golden = serde_json::from_str(include_str!("goldens/silero.json")).unwrap();
    let speech = speech(Path::new(&data));
    let mut seed = 1u32;
    let mut audio = Vec::new();
    for &(gain, level) in &expected.passes {
        for &sample in &speech {
            let mut noise = 0.0;
            if level > 0.0 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise = (seed >> 8) as f32 / (1 << 24) as f32 - 0.5;
            }
            audio.push(gain * sample + level * noise);
        }
    }
    audio.truncate(audio.len() / CHUNK * CHUNK);
    assert!(audio.len() > 60 * 16_000, "a minute of speech");

    let detector = Detector::load(Path::new(&weights)).unwrap();
    let found = detector.detect(&mut [&mut detector.new_state()], &[&audio]).unwrap().remove(0);
    let golden = golden(&expected);
    assert_eq!(found.len(), golden.len());
    let worst = found.iter().zip(golden).map(|(found, golden)| (found - golden).abs()).fold(0.0, f32::max);
    eprintln!("largest difference in {} probabilities: {worst:e}", found.len());
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn published_weights_give_what_the_published_network_gives() {
    let what = "silero_vad_16k.safetensors of the Python package silero-vad 6.2.3";
    compare("DRIFTLINE_SILERO", what, |golden| &golden.published);
}

#[test]
fn the_onnx_models_weights_give_what_the_onnx_model_gives() {
    compare("DRIFTLINE_SILERO_ONNX", "what goldens/silero_weights.py writes", |golden| &golden.onnx);
}

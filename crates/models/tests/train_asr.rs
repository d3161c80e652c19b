//! `train-asr train` from end to end, with a handful of utterances and steps.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SPEAKERS: [&str; 4] = ["george", "jackson", "lucas", "nicolas"];
const STAGES: [&str; 6] = ["base", "final", "george", "jackson", "lucas", "nicolas"];

/// Copies two takes of each digit by each speaker, and the read sentences.
fn few_recordings(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("fsdd")).unwrap();
    for speaker in SPEAKERS {
        for name in (0..20).map(|i| format!("fsdd/{}_{speaker}_{}.wav", i / 2, i % 2)) {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
    fs::create_dir_all(to.join("librivox")).unwrap();
    for entry in fs::read_dir(from.join("librivox")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join("librivox").join(entry.file_name())).unwrap();
    }
}

fn train_asr(folder: &Path, run: &str, step: &str) {
    let model = folder.join(run).join("model");
    fs::create_dir_all(&model).unwrap();
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stages/search/data/catalogue.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_train-asr"))
        .env("RAYON_NUM_THREADS", "1")
        .args(["--smoke", "--data"])
        .arg(folder.join("data"))
        .arg("--catalogue")
        .arg(catalogue)
        .arg("--cache")
        .arg(folder.join("cache"))
        .arg("--work")
        .arg(folder.join(run))
        .arg("--model")
        .arg(model)
        .arg(step)
        .output()
        .unwrap();
    assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_stage_runs_and_a_repetition_gives_the_same_weights() {
    let Some(data) = std::env::var_os("DRIFTLINE_DATA").map(PathBuf::from) else {
        eprintln!("skipped: DRIFTLINE_DATA is not set");
        return;
    };
    if let Some(missing) =
        ["espeak-ng", "flite", "festival"].iter().find(|name| Command::new(name).arg("--version").output().is_err())
    {
        eprintln!("skipped: {missing} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    few_recordings(&data.join("speech"), &folder.join("data/speech"));
    for run in ["first", "second"] {
        train_asr(folder, run, "lexicon");
        train_asr(folder, run, "train");
    }
    let read = |run: &str, file: &str| fs::read(folder.join(run).join(file)).unwrap();
    for stage in STAGES {
        let file = format!("{stage}/asr.safetensors");
        assert!(read("first", &file) == read("second", &file), "{stage}: the weights differ");
    }
    assert!(read("first", "model/asr.safetensors") == read("second", "model/asr.safetensors"));
    let report: serde_json::Value = serde_json::from_slice(&read("first", "evaluation.json")).unwrap();
    // A row a speaker and two of all of them, for digits and for strings; ten voices, all of them, three kinds of noise; other speech.
    assert_eq!(report["rows"].as_array().unwrap().len(), 2 * 6 + 10 + 1 + 3 + 2);
    let utterances = |row: usize| report["rows"][row]["utterances"].as_u64().unwrap();
    assert_eq!((utterances(0), utterances(4)), (20, 80));
}

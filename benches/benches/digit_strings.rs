//! Word error of spoken digit strings with pauses through the whole pipeline, voice-activity
//! detection included.
//!
//! Strings of three to six digits, cut together from the recordings of one speaker with pauses of
//! 0.15 to 0.7 s and half a second of quiet at both ends, all seeds fixed. With `DRIFTLINE_FOLDS`
//! set, each speaker is heard by the model `<folder>/<speaker>` that was trained without that
//! speaker; without it, by the bundled model, which has heard all four.
//!
//! `DRIFTLINE_DATA=$PWD/../shared/data cargo bench -p driftline-benches --bench digit_strings` (an absolute path: a
//! benchmark runs in the folder of its package)

#![allow(clippy::unwrap_used, reason = "a benchmark")]

mod bundled;

use std::{collections::BTreeMap, fs, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

const SPEAKERS: [&str; 4] = ["george", "jackson", "lucas", "nicolas"];
const WORDS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const STRINGS: usize = 100;
/// Samples a second of the recordings.
const RATE: usize = 8_000;

fn main() {
    let Some(data) = std::env::var_os("DRIFTLINE_DATA") else {
        eprintln!("skipped: digit strings, DRIFTLINE_DATA is not set");
        return;
    };
    let digits = Path::new(&data).join("speech/fsdd");
    let folds = std::env::var("DRIFTLINE_FOLDS").ok();
    let (mut errors, mut words) = (0, 0);
    for (seed, speaker) in SPEAKERS.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let said: BTreeMap<String, Vec<&str>> = (0..STRINGS)
            .map(|number| {
                let session = format!("{speaker}-{number:03}");
                let (samples, said) = string(&mut rng, &digits, speaker);
                fs::write(folder.path().join(format!("{session}.wav")), wav(&samples)).unwrap();
                (session, said)
            })
            .collect();
        let model = folds.as_ref().map_or("builtin".to_owned(), |folds| format!("{folds}/{speaker}"));
        let heard = transcripts(folder.path(), &model);
        let (mut wrong, mut count) = (0, 0);
        for (session, said) in &said {
            let heard: Vec<&str> = heard.get(session).map_or(Vec::new(), |text| text.split_whitespace().collect());
            wrong += distance(said, &heard);
            count += said.len();
        }
        println!("{speaker}: {wrong} errors in {count} words, {:.1} % ({model})", 100.0 * wrong as f64 / count as f64);
        errors += wrong;
        words += count;
    }
    println!("all: {errors} errors in {words} words, {:.1} %", 100.0 * errors as f64 / words as f64);
}

/// Cuts a string of digits together.
fn string(rng: &mut StdRng, digits: &Path, speaker: &str) -> (Vec<i16>, Vec<&'static str>) {
    // Recordings hold a faint noise: so do the pauses.
    let pause = |rng: &mut StdRng, seconds: f64| -> Vec<i16> {
        (0..(seconds * RATE as f64) as usize).map(|_| rng.random_range(-4..=4)).collect()
    };
    let mut samples = pause(rng, 0.5);
    let mut said = Vec::new();
    for _ in 0..rng.random_range(3..=6) {
        let digit = rng.random_range(0..10);
        let bytes = fs::read(digits.join(format!("{digit}_{speaker}_{}.wav", rng.random_range(0..50)))).unwrap();
        let data = bytes.windows(4).position(|window| window == b"data").unwrap() + 8;
        samples.extend(bytes[data..].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])));
        let seconds = rng.random_range(0.15..0.7);
        samples.extend(pause(rng, seconds));
        said.push(WORDS[digit]);
    }
    samples.extend(pause(rng, 0.5));
    (samples, said)
}

fn wav(samples: &[i16]) -> Vec<u8> {
    let size = samples.len() as u32 * 2;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + size).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend((RATE as u32).to_le_bytes());
    wav.extend((RATE as u32 * 2).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(size.to_le_bytes());
    wav.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    wav
}

/// Runs the pipeline and returns what was heard in each session, its segments joined.
fn transcripts(folder: &Path, model: &str) -> BTreeMap<String, String> {
    let output = tempfile::NamedTempFile::new().unwrap();
    let set = [
        format!("sources.microphone.path={}", folder.display()),
        format!("stages.asr.model={model}"),
        "sinks.responses.kind=jsonl".to_owned(),
        format!("sinks.responses.path={}", output.path().display()),
    ];
    bundled::run("speech", &set);
    let mut segments: BTreeMap<(String, u64), String> = BTreeMap::new();
    for line in fs::read_to_string(output.path()).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let session = line["session"].as_str().unwrap().to_owned();
        segments.insert((session, line["segment"].as_u64().unwrap()), line["transcript"].as_str().unwrap().to_owned());
    }
    let mut heard: BTreeMap<String, String> = BTreeMap::new();
    for ((session, _), text) in segments {
        let all = heard.entry(session).or_default();
        all.push(' ');
        all.push_str(&text);
    }
    heard
}

/// Least number of words to insert, remove or replace (Levenshtein).
fn distance(a: &[&str], b: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

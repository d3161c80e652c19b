//! What a user is told about a broken file, word for word.

mod kinds;

use std::{fs, path::Path};

use driftline_pipeline::{Override, Plan};

fn told(file: &Path, overrides: &[&str]) -> String {
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    match Plan::load(file, &overrides, &kinds::kinds()) {
        Ok(plan) => panic!("{} was loaded: {plan:?}", file.display()),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn broken_files() {
    let mut files: Vec<_> = fs::read_dir("tests/broken").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        insta::assert_snapshot!(file.file_stem().unwrap().to_str().unwrap(), told(&file, &[]));
    }
}

#[test]
fn a_missing_file() {
    insta::assert_snapshot!(told(Path::new("tests/none.toml"), &[]), @"");
}

#[test]
fn wrong_overrides() {
    let overrides = [
        "sources.microphone.pace=slow",
        "sources.microphone.speed=2",
        "sinks.out={ kind = \"jsonl\", inputs = [\"mic\"], path = \"-\", color = 1 }",
        "pipeline.name.first=x",
        "stages.vad.threshold=0.5",
        "broker.kind=kafka",
    ];
    insta::assert_snapshot!(told(Path::new("tests/right.toml"), &overrides), @"");
}

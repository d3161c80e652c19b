//! What a user is told about a broken file, word for word.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kinds;

use std::{fs, path::Path};

use driftline_pipeline::{Override, Place, Plan};
use proptest::prelude::*;

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
    assert!(told(Path::new("tests/none.toml"), &[]).starts_with("tests/none.toml: the pipeline file cannot be read: "));
}

#[test]
fn wrong_overrides() {
    let overrides = [
        "sources.microphone.pace=slow",
        "sources.microphone.speed=2",
        "sinks.out={ kind = \"jsonl\", inputs = [\"mic\"], path = \"-\", color = 1 }",
        "pipeline.name.first=x",
        "stages.vad.threshold=0.5",
        "broker.kind=redpanda",
        "sources.micro.path=x",
        "tests.0.name=x",
    ];
    insta::assert_snapshot!(told(Path::new("tests/right.toml"), &overrides));
}

#[test]
fn an_empty_path_is_no_folder() {
    let overrides = ["broker.path=", "monitor.reference=", "sources.microphone.path=", "stages.asr.model="];
    let expected = overrides.map(|text| format!("--set {}: found \"\", allowed is a path", text.trim_end_matches('=')));
    assert_eq!(told(Path::new("tests/right.toml"), &overrides), expected.join("\n"));
}

#[test]
fn a_sink_writes_no_file_that_is_read() {
    let right = Path::new("tests/right.toml");
    let whose = |overrides: &[&str]| {
        let told = told(right, overrides);
        let whose = told.strip_suffix(", allowed is one that nothing else of the pipeline reads or writes").unwrap();
        whose.rsplit_once(", ").unwrap().1.to_owned()
    };
    assert_eq!(whose(&["sinks.out.path=tests/right.toml"]), "it is the pipeline file");
    let out = "sinks.out.path=tests/none.json";
    assert_eq!(whose(&[out, "monitor.reference=tests/./none.json"]), "monitor.reference names this file");
    assert_eq!(whose(&[out, "monitor.probes.path=tests/none.json"]), "monitor.probes.path names this file");
    assert_eq!(whose(&[out, "stages.vad.model=tests/none.json"]), "the stage vad reads this file");
}

#[test]
fn wrong_injections() {
    let injections =
        ["vad.clip=200 @ 60s", "vad.clip_ms=9e9 @ 60s over 10 parsecs", "microphone.pitch=1.3 @ 60s until 2001"];
    let overrides: Vec<_> = injections.map(|text| Override::injection(text).unwrap()).into();
    let problems = Plan::load(Path::new("tests/right.toml"), &overrides, &kinds::kinds()).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

/// A right file with lines taken out, doubled or cut short.
fn mangled() -> impl Strategy<Value = String> {
    let edit = (0..1000_usize, 0..3_u8, 0..40_usize);
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut lines: Vec<String> =
            fs::read_to_string("tests/right.toml").unwrap().lines().map(str::to_owned).collect();
        for (at, what, cut) in edits {
            let at = at % lines.len();
            match what {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                _ => lines[at] = lines[at].chars().take(cut).collect(),
            }
        }
        lines.join("\n")
    })
}

proptest! {
    /// Whatever is wrong with a file is told, with a line that the file has.
    #[test]
    fn problems_are_within_the_file(text in mangled()) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mangled.toml");
        fs::write(&file, &text).unwrap();
        if let Err(problems) = Plan::load(&file, &[], &kinds::kinds()) {
            prop_assert!(problems.iter().next().is_some());
            for problem in problems.iter() {
                if let Place::Line { line, column } = problem.place {
                    // An error may stand at the end of the text, after its last character.
                    let text = text.split('\n').nth(line - 1).unwrap_or_default();
                    prop_assert!((1..=text.chars().count() + 1).contains(&column), "{}", problem);
                }
            }
        }
    }
}

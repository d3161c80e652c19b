//! Probes: they change nothing for users, and name the stage that answers otherwise.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{collections::BTreeSet, path::Path};

use driftline::{output, parse};
use serde_json::Value;

const SPEECH: &str = "pipelines/speech.toml";
const TRAFFIC: &str = "sources.microphone.repeat={ sessions = 24, seed = 3, gain_db = 3.0 }";

fn record(file: &Path) {
    let recorded = output(&["probes", "record", SPEECH, "--output", file.to_str().unwrap()]);
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
}

/// The lines without timings, and the counts of every node.
fn run(more: &[&str]) -> (BTreeSet<String>, Vec<Value>) {
    let ran = output(&[&["run", SPEECH, "--set", TRAFFIC, "--summary", "json"], more].concat());
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success(), "{told}");
    let stable = |mut line: Value| {
        line.as_object_mut().unwrap().remove("timings_ms");
        line.to_string()
    };
    let report: Value = serde_json::from_str(told.lines().rfind(|line| line.starts_with('{')).unwrap()).unwrap();
    let counts = |node: &Value| {
        ["name", "read", "written", "used", "dropped", "rejected"].iter().map(|key| node[key].clone()).collect()
    };
    (
        parse(&ran.stdout).into_iter().map(stable).collect(),
        report["nodes"].as_array().unwrap().iter().map(counts).collect(),
    )
}

/// What was found of each stage, round by round.
fn check(file: &Path, more: &[&str]) -> (bool, Vec<Value>) {
    let path = format!("monitor.probes.path={}", file.display());
    let args = ["probes", "check", SPEECH, "--format", "json", "--set", &path];
    let checked = output(&[&args[..], more].concat());
    (checked.status.success(), parse(&checked.stdout))
}

/// The same of the rounds that a run sends every two seconds.
fn check_run(file: &Path, more: &[&str]) -> (bool, Vec<Value>) {
    let log = format!("broker.path={}", file.with_extension("log").display());
    let path = format!("monitor.probes.path={}", file.display());
    let ran = output(
        &[&["run", SPEECH, "--set", TRAFFIC, "--set", &log, "--set", &path, "--set", "monitor.probes.every=2s"], more]
            .concat(),
    );
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let checked = check(file, &["--set", &log]);
    std::fs::remove_dir_all(file.with_extension("log")).unwrap();
    checked
}

#[test]
fn a_check_without_a_log_sends_one_round() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probes.json");
    record(&file);
    // The pipeline as it ships: its recordings are shorter than `monitor.probes.every`.
    let (unchanged, found) = check(&file, &[]);
    assert!(unchanged && found.len() == 3, "{found:?}");
    assert!(found.iter().all(|found| found["findings"]["outcome"] == "same"), "{found:?}");
    assert!(found.iter().all(|found| found["findings"]["same"] == 12), "{found:?}");

    let (unchanged, found) = check(&file, &["--inject", "vad.clip_ms=100 @ 0s"]);
    assert!(!unchanged && found.len() == 3, "{found:?}");
    for found in found {
        assert_eq!(found["findings"]["outcome"] == "different", found["stage"] == "vad", "{found}");
    }
}

#[test]
fn users_see_nothing_of_probes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probes.json");
    record(&file);
    let path = format!("monitor.probes.path={}", file.display());
    let (lines, counts) = run(&[]);
    let (with_lines, with_counts) = run(&["--set", &path, "--set", "monitor.probes.every=1s"]);
    assert_eq!(lines.len(), with_lines.len());
    assert_eq!((with_lines, with_counts), (lines, counts));
}

#[test]
fn the_stage_that_changed_is_named_and_those_after_it_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probes.json");
    record(&file);
    let (unchanged, rounds) = check_run(&file, &[]);
    assert!(unchanged && rounds.len() >= 6, "{rounds:?}");
    assert!(rounds.iter().all(|found| found["findings"]["outcome"] == "same"), "{rounds:?}");
    assert!(rounds.iter().all(|found| found["findings"]["same"] == 12), "{rounds:?}");

    for (injection, changed) in [("vad.clip_ms=100 @ 3s", "vad"), ("asr.weights_noise=0.3 @ 3s", "asr")] {
        let (unchanged, rounds) = check_run(&file, &["--inject", injection]);
        assert!(!unchanged);
        let outcomes = |stage: &str| -> Vec<&str> {
            let of = rounds.iter().filter(|found| found["stage"] == stage);
            of.map(|found| found["findings"]["outcome"].as_str().unwrap()).collect()
        };
        for stage in ["vad", "asr", "search"] {
            let outcomes = outcomes(stage);
            assert_eq!(outcomes[0], "same", "{stage} before {injection}");
            if stage == changed {
                assert!(outcomes[1..].iter().all(|outcome| *outcome == "different"), "{injection}: {outcomes:?}");
            } else {
                assert!(outcomes.iter().all(|outcome| *outcome != "different"), "{injection}: {stage} {outcomes:?}");
            }
        }
    }
}

#[test]
fn a_file_of_another_pipeline_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probes.json");
    std::fs::write(&file, r#"{ "pipeline": "other", "recordings": {}, "answers": {} }"#).unwrap();
    let refused = output(&["run", SPEECH, "--set", &format!("monitor.probes.path={}", file.display())]);
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("found probes of the pipeline \"other\", allowed is \"speech\""), "{told}");
}

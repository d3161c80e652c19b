//! A slice of the past through a stage: what it wrote then it writes again, at another version something else, and the
//! pipeline notices nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use driftline::{lines, output};
use driftline_types::Timestamp;
use serde_json::Value;

const SPEECH: &str = "pipelines/speech.toml";

/// What says which record it is and what stands in it.
fn told(records: &[Value]) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.to_string();
    let mut told: Vec<_> =
        records.iter().map(|r| (text(&r["headers"]["ce_id"]), text(&r["time"]), text(&r["value"]))).collect();
    told.sort();
    told
}

/// Replays stages of a pipeline whose log is where `log` says.
fn replayed(log: &[String]) {
    let with = |args: &[&str]| -> Vec<String> {
        let all = args.iter().copied().chain(log.iter().flat_map(|setting| ["--set", setting.as_str()]));
        all.map(str::to_owned).collect()
    };
    let lines = |args: &[&str]| lines(&with(args).iter().map(String::as_str).collect::<Vec<_>>());
    let output = |args: &[&str]| output(&with(args).iter().map(String::as_str).collect::<Vec<_>>());
    let recordings = "sources.microphone.path=pipelines/samples/voice-search/two-queries.flac";
    assert!(!lines(&["run", SPEECH, "--set", recordings]).is_empty());
    let lag = lines(&["lag", SPEECH, "--format", "json"]);

    for stage in ["vad", "search"] {
        let then = told(&lines(&["tap", SPEECH, stage]));
        assert!(!then.is_empty());
        assert_eq!(told(&lines(&["replay", SPEECH, stage])), then, "{stage}");
    }

    // A slice, by event time.
    let times: Vec<String> = lines(&["tap", SPEECH, "microphone"])
        .iter()
        .map(|record| record["time"].as_str().unwrap().to_owned())
        .collect();
    let (from, to) = (&times[times.len() / 4], &times[times.len() / 2]);
    let slice = output(&["replay", SPEECH, "vad", "--from", from, "--to", to]);
    let said = String::from_utf8(slice.stderr).unwrap();
    let at = |time: &String| Timestamp::parse(time).unwrap();
    let read = times.iter().filter(|time| at(time) >= at(from) && at(time) < at(to)).count();
    assert!(said.contains(&format!("{read} records read")), "{read} of {}: {said}", times.len());

    // Another version says so, and hears nothing of what this one heard.
    let version = |records: &[Value]| records[0]["headers"]["driftline-versions"].to_string();
    let other = ["replay", SPEECH, "vad", "--set", "stages.vad.speech_pad_ms=200"];
    assert_ne!(version(&lines(&other)), version(&lines(&["replay", SPEECH, "vad"])));
    assert!(lines(&["replay", SPEECH, "vad", "--set", "stages.vad.min_speech_duration_ms=10000"]).is_empty());

    // Into a topic, but into none of the pipeline's own.
    let into = |topic: &str| output(&["replay", SPEECH, "search", "--output-topic", topic]);
    assert!(into("speech.again").status.success());
    assert_eq!(into("speech.search").status.code(), Some(2));

    assert_eq!(lines(&["lag", SPEECH, "--format", "json"]), lag, "offsets and ends are as they were");
}

#[test]
fn the_past_is_replayed_from_the_embedded_log() {
    let folder = tempfile::tempdir().unwrap();
    replayed(&[format!("broker.path={}", folder.path().join("log").display())]);
    // Without a log there is no past.
    assert_eq!(output(&["replay", SPEECH, "vad"]).status.code(), Some(2));
}

#[test]
fn the_past_is_replayed_from_kafka() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    replayed(&[
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={servers}"),
        format!("broker.prefix=replay-{}.", std::process::id()),
    ]);
}

//! What is injected into the speech pipeline changes what it should, from the moment on.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::collections::BTreeMap;

use driftline::{lines, output};
use serde_json::Value;

/// Traffic of 64 sessions, 8 at a time: the first ones end before the tenth second, the last ones begin after it.
const TRAFFIC: [&str; 4] =
    ["run", "pipelines/speech.toml", "--set", "sources.microphone.repeat={ sessions = 64, seed = 5 }"];
const EARLY: usize = 8;
const LATE: usize = 48;

/// Lines by session and segment, without what differs from run to run.
fn run(injection: Option<&str>) -> BTreeMap<(usize, u64), Value> {
    let mut args = TRAFFIC.to_vec();
    args.extend(injection.iter().flat_map(|text| ["--inject", *text]));
    let stable = |mut line: Value| {
        line.as_object_mut().unwrap().remove("timings_ms");
        let session = line["session"].as_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
        ((session, line["segment"].as_u64().unwrap()), line)
    };
    lines(&args).into_iter().map(stable).collect()
}

fn of(lines: &BTreeMap<(usize, u64), Value>, sessions: std::ops::Range<usize>) -> Vec<&Value> {
    lines.iter().filter(|((session, _), _)| sessions.contains(session)).map(|(_, line)| line).collect()
}

#[test]
fn every_parameter_changes_what_comes_after_and_nothing_before() {
    let clean = run(None);
    assert!(of(&clean, 0..64).len() >= 64);
    let confidence = |lines: &[&Value]| {
        lines.iter().map(|line| line["confidence"].as_f64().unwrap()).sum::<f64>() / lines.len().max(1) as f64
    };
    for injection in [
        "microphone.pitch=1.4",
        "microphone.gain_db=30",
        "microphone.noise_dbfs=-30",
        "microphone.highpass_hz=1500",
        "microphone.lowpass_hz=1000",
        "microphone.mulaw_bits=3",
        "microphone.drop=0.3",
        "vad.clip_ms=200",
        "vad.threshold_shift=0.3",
        "asr.weights_noise=0.5",
        "asr.beam=1",
        "search.stale=0.9",
        "search.fuzziness=0",
    ] {
        let changed = run(Some(&format!("{injection} @ 10s")));
        assert_eq!(of(&changed, 0..EARLY), of(&clean, 0..EARLY), "{injection}");
        // Exact titles are found without a letter wrong.
        if injection != "search.fuzziness=0" {
            assert_ne!(of(&changed, LATE..64), of(&clean, LATE..64), "{injection}");
        }
        if injection.starts_with("asr.weights") || injection.starts_with("microphone.noise") {
            let (worse, before) = (confidence(&of(&changed, LATE..64)), confidence(&of(&clean, LATE..64)));
            assert!(worse < before - 0.05, "{injection}: {before} to {worse}");
        }
        if injection == "search.stale=0.9" {
            let fewer =
                |lines: Vec<&Value>| lines.iter().map(|line| line["results"].as_array().unwrap().len()).sum::<usize>();
            assert!(fewer(of(&changed, LATE..64)) < fewer(of(&clean, LATE..64)));
        }
    }
}

#[test]
fn an_injection_is_the_same_each_time() {
    let ramp = Some("microphone.pitch=1.5 @ 5s over 5s until 12s");
    assert_eq!(run(ramp), run(ramp));
}

#[test]
fn a_wrong_injection_is_refused_with_what_is_allowed() {
    let refused = output(&["run", "pipelines/speech.toml", "--inject", "vad.clip=1 @ 60s"]);
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    let expected =
        "--inject \"vad.clip=1 @ 60s\": parameter: found \"clip\", allowed are \"clip_ms\", \"threshold_shift\"";
    assert!(message.starts_with(expected), "{message}");
}

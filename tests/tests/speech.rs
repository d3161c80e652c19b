//! The speech pipeline as a user runs it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{fs, path::Path};

use driftline::{lines, output, root};
use serde_json::Value;

const SPEECH: &str = "pipelines/speech.toml";

/// What of a line does not change from run to run.
fn stable(line: &Value) -> Value {
    let mut line = line.clone();
    line.as_object_mut().unwrap().remove("timings_ms");
    line
}

fn sorted(lines: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| stable(line).to_string()).collect();
    lines.sort();
    lines
}

#[test]
fn the_bundled_recordings_are_answered() {
    let output = output(&["run", SPEECH]);
    let report = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{report}");
    let lines = driftline::parse(&output.stdout);
    assert_eq!(lines.len(), 13, "twelve recordings, one with two queries");
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    let order =
        ["session", "segment", "start_ms", "end_ms", "transcript", "confidence", "results", "timings_ms", "versions"];
    let places: Vec<usize> = order.iter().map(|key| first.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{first}");
    for line in &lines {
        for stage in ["vad", "asr", "search", "total"] {
            assert!(line["timings_ms"][stage].as_f64().unwrap() >= 0.0, "{line}");
        }
        for node in ["vad", "asr", "search"] {
            assert_eq!(line["versions"][node].as_str().unwrap().len(), 16, "{line}");
        }
    }
    for word in ["microphone", "vad", "asr", "search", "responses", "audio.level", "transcript.confidence", "p95"] {
        assert!(report.contains(word), "{word} is not in the report:\n{report}");
    }
}

#[test]
fn the_pipelines_own_tests_pass() {
    let output = output(&["test", SPEECH]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn two_runs_give_the_same_lines() {
    assert_eq!(sorted(&lines(&["run", SPEECH])), sorted(&lines(&["run", SPEECH, "--set", "pipeline.partitions=5"])));
}

#[test]
fn bad_recordings_are_dead_letters_and_the_good_ones_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let samples = root().join("pipelines/samples/voice-search");
    let input = folder.path().join("recordings");
    fs::create_dir(&input).unwrap();
    fs::copy(samples.join("red-jacket.wav"), input.join("red-jacket.wav")).unwrap();
    fs::write(input.join("empty.wav"), b"").unwrap();
    fs::write(input.join("text.mp3"), b"this is no recording").unwrap();
    fs::write(input.join("random.flac"), (0..4_000u32).map(|n| ((n * n) >> 3) as u8).collect::<Vec<_>>()).unwrap();
    fs::write(input.join("nan.wav"), float_wav(&[0.0, 0.5, f32::NAN, 0.1].repeat(4_000))).unwrap();
    fs::write(input.join("ten-hours.wav"), wav_that_claims(36_000 * 16_000)).unwrap();
    let log = folder.path().join("log");
    let set_path = format!("sources.microphone.path={}", input.display());
    let set_log = format!("broker.path={}", log.display());
    let output = output(&["run", SPEECH, "--set", &set_path, "--set", &set_log]);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let answered: Vec<_> = driftline::parse(&output.stdout).iter().map(|line| line["session"].clone()).collect();
    assert!(answered.contains(&"red-jacket".into()), "{answered:?}");

    let letters = lines(&["dlq", "inspect", SPEECH, "--set", &set_log]);
    for name in ["empty.wav", "text.mp3", "random.flac", "nan.wav", "ten-hours.wav"] {
        let letter = letters
            .iter()
            .find(|letter| letter["key"].as_str().unwrap().contains(name.split('.').next().unwrap()))
            .unwrap_or_else(|| panic!("{name} has no dead letter: {letters:?}"));
        let reason = letter["headers"]["driftline-error-reason"].as_str().unwrap();
        assert!(reason.contains("allowed"), "{name}: {reason}");
        let size = fs::metadata(input.join(name)).unwrap().len();
        assert_eq!(letter["value"]["bytes"].as_u64().unwrap(), size, "{name} is kept whole");
    }
    assert_eq!(lines(&["dlq", "discard", SPEECH, "--set", &set_log]).len(), 0);
    assert_eq!(lines(&["dlq", "inspect", SPEECH, "--set", &set_log]).len(), 0);
}

#[test]
fn silence_and_noise_answer_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 1u32;
    let noise: Vec<f32> = (0..32_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.02 - 0.01
        })
        .collect();
    fs::write(folder.path().join("silence.wav"), float_wav(&[0.0; 32_000])).unwrap();
    fs::write(folder.path().join("noise.wav"), float_wav(&noise)).unwrap();
    let set_path = format!("sources.microphone.path={}", folder.path().display());
    assert_eq!(lines(&["run", SPEECH, "--set", &set_path]), Vec::<Value>::new());
}

#[test]
fn tap_and_profiles_show_what_stages_wrote_and_saw() {
    let set = "sources.microphone.path=pipelines/samples/voice-search/red-jacket.wav";
    let segments = lines(&["tap", SPEECH, "vad", "--set", set]);
    assert_eq!(segments.len(), 1);
    assert_eq!(segments[0]["headers"]["content-type"], "audio/wav");
    let profiles = lines(&["profiles", SPEECH, "--format", "json", "--set", set]);
    let of = |stage: &str, side: &str| {
        profiles.iter().find(|profile| profile["stage"] == stage && profile["direction"] == side).unwrap()
    };
    assert_eq!(of("asr", "output")["signals"]["transcript.confidence"]["n"], 1);
    assert_eq!(
        of("microphone", "output")["signals"]["audio.level"]["n"],
        of("vad", "input")["signals"]["audio.level"]["n"]
    );
}

#[test]
fn every_mistake_in_a_file_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    fs::write(
        &file,
        r#"[pipeline]
name = "broken"
[sources.microphone]
kind = "audio-files"
path = "nowhere"
[stages.vad]
kind = "vad"
inputs = ["microphone"]
treshold = 0.4
model = "missing.safetensors"
[stages.asr]
kind = "asr"
inputs = ["search"]
[stages.search]
kind = "search"
inputs = ["asr"]
top_k = 0
[stages.other]
kind = "oracle"
inputs = ["vad"]
[sinks.responses]
kind = "stdout"
inputs = ["serach"]
"#,
    )
    .unwrap();
    let output = output(&["validate", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "treshold",
        "did you mean \"threshold\"",
        "missing.safetensors",
        "cycle",
        "top_k",
        "oracle",
        "did you mean \"search\"",
    ] {
        assert!(errors.contains(expected), "{expected} is not in\n{errors}");
    }
    assert!(errors.lines().all(|line| line.contains("broken.toml:")), "{errors}");
}

#[test]
fn an_edge_between_schemas_that_do_not_fit_is_refused() {
    let output = output(&["validate", SPEECH, "--set", "stages.search.inputs=[\"vad\"]"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("speech-segment.v1") && errors.contains("transcript.v1"), "{errors}");
}

#[test]
fn audio_into_a_sink_of_lines_is_refused() {
    let output = output(&["validate", SPEECH, "--set", "sinks.responses.inputs=[\"search\", \"vad\"]"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    let expected = "sinks.responses.inputs.1: found \"vad\", responses reads one of \
                    click-event.v1, inspection.v1, json.v1, recommendations.v1, search-response.v1, transcript.v1, \
                    user-profile.v1, vad writes speech-segment.v1";
    assert!(errors.contains(expected), "{errors}");
}

#[test]
fn real_recordings_run_to_the_end() {
    let Some(data) = std::env::var_os("DRIFTLINE_DATA") else {
        eprintln!("skipped: real_recordings_run_to_the_end, DRIFTLINE_DATA is not set");
        return;
    };
    let set = |folder: &str| {
        let path = fs::canonicalize(Path::new(&data).join("speech").join(folder)).unwrap();
        format!("sources.microphone.path={}", path.display())
    };
    let read = lines(&["run", SPEECH, "--set", &set("librivox")]);
    assert!(!read.is_empty());
    let digits = lines(&["run", SPEECH, "--set", &format!("{}/*_jackson_1?.wav", set("fsdd"))]);
    let words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let right = digits
        .iter()
        .filter(|line| {
            let digit: usize = line["session"].as_str().unwrap()[..1].parse().unwrap();
            line["transcript"] == words[digit]
        })
        .count();
    assert!(right * 10 >= digits.len() * 8 && digits.len() >= 90, "{right} of {}", digits.len());
}

/// A 16 kHz mono WAV of 32-bit floats.
fn float_wav(samples: &[f32]) -> Vec<u8> {
    let mut wav = header(3, 32, samples.len() as u32 * 4);
    wav.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    wav
}

/// A WAV whose header claims this many samples, of which a thousand are there.
fn wav_that_claims(samples: u32) -> Vec<u8> {
    let mut wav = header(1, 16, samples * 2);
    wav.extend([0; 2_000]);
    wav
}

fn header(format: u16, bits: u16, data: u32) -> Vec<u8> {
    let mut wav = Vec::new();
    wav.extend(b"RIFF");
    wav.extend((36 + data).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    wav.extend(format.to_le_bytes());
    wav.extend(1u16.to_le_bytes());
    wav.extend(16_000u32.to_le_bytes());
    wav.extend((16_000 * u32::from(bits) / 8).to_le_bytes());
    wav.extend((bits / 8).to_le_bytes());
    wav.extend(bits.to_le_bytes());
    wav.extend(b"data");
    wav.extend(data.to_le_bytes());
    wav
}

#[test]
fn what_is_live_needs_a_terminal() {
    let output = output(&["top", "pipelines/speech.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("standard output is no terminal"), "{said}");
}

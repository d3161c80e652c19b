//! Commands that only look: they make nothing, and say what is not there.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

/// A pipeline of lines that is watched by a rule, and not judged in its first hour.
const COPY: &str = r#"
[pipeline]
name = "copy"

[sources.input]
kind = "jsonl"
path = "in.jsonl"
event_time = "t"

[sinks.output]
kind = "jsonl"
inputs = ["input"]
path = "out.jsonl"
"#;
const WATCHED: &str = r#"
[monitor]
window = "1s"
warm_up = "1h"

[[monitor.rules]]
name = "many"
stage = "input"
statistic = "count"
above = 1000000.0
"#;

/// A folder with [`COPY`] as it is, watched, and watched under another name.
struct Subject(tempfile::TempDir);

impl Subject {
    fn new() -> Self {
        let subject = Self(tempfile::tempdir().unwrap());
        fs::write(subject.path("in.jsonl"), "{\"t\":0}\n{\"t\":1000}\n{\"t\":2000}\n").unwrap();
        fs::write(subject.path("probes.json"), r#"{ "pipeline": "copy", "recordings": {}, "answers": {} }"#).unwrap();
        fs::write(subject.path("plain.toml"), COPY).unwrap();
        fs::write(subject.path("copy.toml"), format!("{COPY}{WATCHED}")).unwrap();
        fs::write(subject.path("other.toml"), format!("{COPY}{WATCHED}").replace("\"copy\"", "\"other\"")).unwrap();
        subject
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command in the folder, which must end with this code; returns what it printed on standard output and standard
    /// error.
    fn told(&self, words: &[&str], code: i32) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftline"));
        let output = command.args(words).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {out}{error}");
        (out, error)
    }
}

/// What looks at the log of a pipeline, with the arguments before the file and after it.
const LOOKS: [(&[&str], &[&str]); 11] = [
    (&["tap"], &["input"]),
    (&["profiles"], &[]),
    (&["report"], &[]),
    (&["alarms"], &[]),
    (&["feedback"], &[]),
    (&["dlq", "inspect"], &[]),
    (&["dlq", "replay"], &[]),
    (&["dlq", "discard"], &[]),
    (&["reference", "build"], &["--output", "reference.json"]),
    (&["probes", "check"], &["--set", "monitor.probes.path=probes.json"]),
    (&["lag"], &[]),
];

#[test]
fn a_log_that_is_not_there_is_not_made() {
    let subject = Subject::new();
    let log = ["--set", "broker.path=mistyped"];
    let describe: (&[&str], &[&str]) = (&["topics", "describe"], &[]);
    for (words, more) in LOOKS.into_iter().chain([describe]) {
        let (_, error) = subject.told(&[words, &["copy.toml"], more, &log].concat(), 2);
        assert!(error.contains("no log in ") && error.contains("found nothing"), "{words:?}: {error}");
        assert!(!subject.path("mistyped").exists(), "{words:?}");
    }
    fs::create_dir(subject.path("mistyped")).unwrap();
    let (_, error) = subject.told(&[&["lag", "copy.toml"][..], &log].concat(), 2);
    assert!(error.contains("found a folder without one"), "{error}");
    assert_eq!(fs::read_dir(subject.path("mistyped")).unwrap().count(), 0);
}

#[test]
fn a_log_that_cannot_be_there_is_refused_by_its_key() {
    let subject = Subject::new();
    for path in ["in.jsonl", "in.jsonl/log"] {
        let (_, error) = subject.told(&["run", "copy.toml", "--set", &format!("broker.path={path}")], 2);
        assert!(error.contains("copy.toml: broker.path: no log can be in ") && error.contains(path), "{error}");
    }
}

#[test]
fn a_part_needs_a_log_that_others_can_read() {
    let subject = Subject::new();
    let words = ["run", "copy.toml", "--only", "input", "--set", "broker.path=log"];
    let (_, error) = subject.told(&words, 2);
    assert!(error.contains("broker.kind: found an embedded log") && !subject.path("log").exists(), "{error}");
}

/// The rows of a table of signals that tell of the size of lines, word by word.
fn sizes(told: &str) -> Vec<Vec<&str>> {
    let rows = told.lines().filter(|line| line.starts_with("│ input") && line.contains("json.size"));
    rows.map(|row| row.split_whitespace().skip(1).collect()).collect()
}

#[test]
fn what_was_counted_before_there_was_a_reference_is_left_out_and_told() {
    const LEFT_OUT: &str = "left out, counted on other bins than newer ones: ";
    const WHOLE: &str = "the signals are of the whole log\n";
    let subject = Subject::new();
    let write = |count: u32| {
        let lines: String = (0..count).map(|n| format!("{{\"t\":{}}}\n", 1000 * n)).collect();
        fs::write(subject.path("in.jsonl"), lines).unwrap();
    };
    let log = ["--set", "broker.path=log", "--set", "monitor.warm_up=0s"];
    write(100);
    let (_, error) = subject.told(&[&["run", "copy.toml"][..], &log].concat(), 0);
    assert_eq!(sizes(&error)[0][4], "100", "{error}");
    assert!(!error.contains(WHOLE) && !error.contains(LEFT_OUT), "{error}");
    subject.told(&[&["reference", "build", "copy.toml", "--output", "reference.json"][..], &log].concat(), 0);
    write(130);
    let settings = [&log[..], &["--set", "monitor.reference=reference.json"]].concat();
    let (_, error) = subject.told(&[&["run", "copy.toml"][..], &settings[..]].concat(), 0);
    assert_eq!((sizes(&error).len(), sizes(&error)[0][4]), (1, "30"), "{error}");
    assert!(error.contains(WHOLE) && error.contains(LEFT_OUT), "{error}");
    let (shown, error) = subject.told(&[&["profiles", "copy.toml"][..], &settings[..]].concat(), 0);
    assert_eq!((sizes(&shown).len(), sizes(&shown)[0][4]), (1, "30"), "{shown}");
    assert!(error.contains(LEFT_OUT) && !error.contains("unreadable"), "{error}");
}

#[test]
fn versions_of_a_node_are_told_apart_the_newest_last() {
    let subject = Subject::new();
    let lines = |count: u32| (0..count).map(|n| format!("{{\"t\":{},\"k\":\"a\"}}\n", 1000 * n)).collect::<String>();
    let log = ["--set", "broker.path=log"];
    fs::write(subject.path("in.jsonl"), lines(3)).unwrap();
    let (_, error) = subject.told(&[&["run", "copy.toml"][..], &log].concat(), 0);
    assert_eq!(sizes(&error)[0][1], "output", "{error}");
    fs::write(subject.path("in.jsonl"), lines(4)).unwrap();
    let run = ["run", "copy.toml", "--set", "sources.input.key=k"];
    let (_, error) = subject.told(&[&run[..], &log].concat(), 0);
    let rows = sizes(&error);
    assert!(rows.len() == 2 && rows[0][1] != rows[1][1], "{error}");
    assert_eq!([rows[0][5], rows[1][5]], ["3", "1"], "{error}");
}

#[test]
fn topics_that_are_not_there_are_named_and_not_made() {
    let subject = Subject::new();
    let log = ["--set", "broker.path=log"];
    subject.told(&[&["run", "copy.toml"][..], &log].concat(), 0);
    fs::write(subject.path("probes.json"), r#"{ "pipeline": "other", "recordings": {}, "answers": {} }"#).unwrap();
    for (words, more) in LOOKS {
        let (_, error) = subject.told(&[words, &["other.toml"], more, &log].concat(), 2);
        assert!(error.contains("found no topic other.") && error.contains("topics create"), "{words:?}: {error}");
    }
    let (shown, _) = subject.told(&[&["topics", "describe", "other.toml", "--format", "json"][..], &log].concat(), 1);
    for line in shown.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["partitions"], Value::Null, "{line}");
    }
}

#[test]
fn a_report_of_what_was_not_judged_says_so() {
    let subject = Subject::new();
    let log = ["--set", "broker.path=log"];
    subject.told(&[&["run", "plain.toml"][..], &log].concat(), 0);
    let (_, error) = subject.told(&[&["report", "copy.toml"][..], &log].concat(), 2);
    assert!(error.contains("found no topic copy.monitor.state"), "{error}");
    subject.told(&[&["run", "copy.toml"][..], &log].concat(), 0);
    let (shown, _) = subject.told(&[&["report", "copy.toml", "--json"][..], &log].concat(), 0);
    let report: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["windows"], &report["sentence"]), (&0.into(), &"nothing was judged yet".into()));
    // Without a log the pipeline is run first.
    let (shown, _) = subject.told(&["report", "copy.toml"], 0);
    assert!(shown.contains("copy: nothing was judged yet"), "{shown}");
}

#[test]
fn what_a_command_line_names_wrongly_is_told() {
    let subject = Subject::new();
    let tap = |node: &str| subject.told(&["tap", "copy.toml", node], 2).1;
    assert!(tap("output").ends_with("found \"output\", a sink, allowed are its sources and stages: input\n"));
    assert!(tap("nobody").contains("found \"nobody\", no node of the pipeline, allowed are"), "{}", tap("nobody"));
    let (_, error) = subject.told(&["replay", "copy.toml", "input"], 2);
    assert!(error.ends_with("found \"input\", a source, allowed are its stages: none\n"), "{error}");

    let (early, late) = ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z");
    for words in [&["replay", "copy.toml", "input"][..], &["reference", "build", "copy.toml", "--output", "r.json"]] {
        let (_, error) = subject.told(&[words, &["--from", late, "--to", early]].concat(), 2);
        assert!(error.starts_with(&format!("--from, --to: found {late} and {early}, allowed")), "{error}");
    }
    let (_, error) = subject.told(&["feedback", "copy.toml", "--window", "0s"], 2);
    assert!(error.contains("--window") && error.contains("allowed is at least 1ms"), "{error}");
}

#[test]
fn of_many_lines_that_are_no_feedback_ten_are_told() {
    let subject = Subject::new();
    let log = ["--set", "broker.path=log"];
    subject.told(&[&["run", "copy.toml"][..], &log].concat(), 0);
    fs::write(subject.path("wrong.jsonl"), "{}\n".repeat(25)).unwrap();
    let (_, error) = subject.told(&[&["feedback", "copy.toml", "wrong.jsonl"][..], &log].concat(), 1);
    let told: Vec<&str> = error.lines().filter(|line| line.starts_with("wrong.jsonl:")).collect();
    assert_eq!(told.len(), 12, "{error}");
    assert!(told[9].starts_with("wrong.jsonl:10: ") && told[10] == "wrong.jsonl: and 15 more", "{error}");
    assert!(told[9].ends_with(" at column 2"), "{error}");
}

#[test]
fn probes_that_nobody_answered_are_no_success() {
    let subject = Subject::new();
    let probes = ["--set", "monitor.probes.path=probes.json"];
    let (_, error) = subject.told(&[&["probes", "check", "copy.toml"][..], &probes].concat(), 1);
    assert!(error.contains("found no round of probes") && error.contains("probes.json: 0"), "{error}");
    let settings = [&probes[..], &["--set", "broker.path=log"]].concat();
    subject.told(&[&["run", "copy.toml"][..], &settings[..]].concat(), 0);
    let (_, error) = subject.told(&[&["probes", "check", "copy.toml"][..], &settings[..]].concat(), 1);
    assert!(error.contains("every 1m of event time (monitor.probes.every)"), "{error}");
}

#[test]
fn what_stands_on_a_log_needs_one_that_outlives_runs() {
    let subject = Subject::new();
    for words in [&["topics", "describe", "copy.toml"][..], &["lag", "copy.toml"]] {
        let (_, error) = subject.told(words, 2);
        assert!(error.contains("broker.path: is missing"), "{error}");
    }
}

#[test]
fn a_doctor_tries_what_a_run_opens_and_leaves_nothing() {
    let subject = Subject::new();
    let content = subject.told(&["doctor", "copy.toml", "--set", "broker.path=log"], 0).0;
    assert!(content.contains("ok    source input: opens"), "{content}");
    assert!(content.contains("ok    broker: the embedded log is not there yet, a run makes it"), "{content}");
    assert!(content.contains("ok    sink output: the file is not there yet, a run makes it"), "{content}");
    assert!(!subject.path("log").exists() && !subject.path("out.jsonl").exists());
    for (setting, line) in [
        ("sinks.output.path=nowhere/out.jsonl", "FAIL  sink output: "),
        ("sinks.output.path=.", "FAIL  sink output: "),
        ("sinks.output.path=plain.toml", "ok    sink output: the file opens for writing"),
        ("sinks.output.path=-", "ok    sink output: needs no file"),
        ("broker.path=/proc/nowhere/log", "FAIL  broker: broker.path: /proc "),
        ("sources.input.path=missing.jsonl", "FAIL  source input: "),
        ("sources.input.path=-", "?     source input: "),
        ("monitor.reference=missing.json", "FAIL  reference: "),
        ("monitor.probes.path=missing.json", "FAIL  probes: "),
        ("monitor.probes.path=probes.json", "ok    probes: 0 recordings, sent every 1m"),
    ] {
        let code = i32::from(line.starts_with("FAIL"));
        let (shown, _) = subject.told(&["doctor", "copy.toml", "--set", setting], code);
        assert!(shown.contains(line), "{setting}: {shown}");
    }
}

#[test]
fn a_pipeline_that_cannot_start_is_a_wrong_one() {
    let subject = Subject::new();
    let (_, error) = subject.told(&["run", "copy.toml", "--set", "sources.input.path=missing.jsonl"], 2);
    assert!(error.contains("copy.toml: input: ") && error.contains("missing.jsonl"), "{error}");
    let settings = ["--set", "monitor.reference=missing.json", "--set", "monitor.probes.path=absent.json"];
    let (_, error) = subject.told(&[&["validate", "copy.toml"][..], &settings].concat(), 2);
    assert!(error.contains("missing.json") && error.contains("absent.json"), "{error}");
    assert!(!error.contains("is valid"), "{error}");
}

/// What a training yields must have a place before it takes hours.
#[test]
fn a_training_is_refused_before_it_begins() {
    let subject = Subject::new();
    let train =
        |words: &[&str]| subject.told(&[&["train", "inspection", "--images", "nowhere"][..], words].concat(), 2).1;
    assert!(train(&["--folds", "1"]).starts_with("--folds: found 1"));
    let error = train(&["--output", "in.jsonl/tiles.safetensors"]);
    assert!(error.starts_with("--output: in.jsonl/tiles.safetensors cannot be written"), "{error}");
    let error = train(&["--output", "weights/tiles.safetensors"]);
    assert!(error.contains("nowhere"), "{error}");
    assert_eq!(fs::read_dir(subject.path("weights")).unwrap().count(), 0);
    let generate = |count: &str, words: &[&str]| {
        let train = ["train", "inspection", "--surface", "ground-tile", "--generate", count];
        subject.told(&[&train[..], words].concat(), 2).1
    };
    let error = generate("0", &[]);
    assert!(error.starts_with("--generate: found 0 good and 0 defective pictures"), "{error}");
    let error = generate("8", &["--slices", "exp9"]);
    assert_eq!(error, "--slices: found \"exp9\", allowed are \"all\"\n");
}

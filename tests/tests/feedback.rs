//! Feedback from a file, joined to what the pipeline answered.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::fs;

use driftline::{lines, output, parse};

const SPEECH: &str = "pipelines/speech.toml";

#[test]
fn reactions_are_joined_to_the_lines_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let log = format!("broker.path={}", folder.path().join("log").display());
    let answered = lines(&["run", SPEECH, "--set", &log, "--set", "sinks.responses.record_ids=true"]);
    assert_eq!(answered.len(), 13);
    let mut feedback = String::new();
    for (n, line) in answered.iter().enumerate() {
        let record = line["record"].as_str().unwrap();
        feedback += &match n {
            0..8 => format!("{{\"record\":\"{record}\",\"at\":\"2000-01-01T00:00:40Z\",\"kind\":\"clicked\"}}\n"),
            8..11 => {
                format!("{{\"record\":\"{record}\",\"at\":\"2000-01-01T00:00:40Z\",\"kind\":\"searched_again\"}}\n")
            }
            _ => format!(
                "{{\"record\":\"{record}\",\"at\":\"2000-01-01T00:00:50Z\",\"kind\":\"corrected\",\"transcript\":\"{} please\"}}\n",
                line["transcript"].as_str().unwrap()
            ),
        };
    }
    feedback +=
        "{\"record\":\"speech.search/0/99999/0\",\"at\":\"2000-01-01T00:00:40Z\",\"kind\":\"clicked\"}\nnonsense\n";
    let file = folder.path().join("feedback.jsonl");
    fs::write(&file, feedback).unwrap();
    let args = ["feedback", SPEECH, "--set", &log, "--maturity", "60s", "--window", "1h", "--format", "json"];
    let shown = output(&[&args[..], &[file.to_str().unwrap()]].concat());
    let told = String::from_utf8(shown.stderr).unwrap();
    // One line was no feedback.
    assert_eq!(shown.status.code(), Some(1), "{told}");
    assert!(told.contains("feedback.jsonl:15: ") && told.contains("14 taken, 1 refused"), "{told}");
    assert!(told.contains("search: 14 reactions, 1 of unknown records, 0 late, 0 repeated"), "{told}");
    let [window] = &parse(&shown.stdout)[..] else { panic!("{told}") };
    assert_eq!(window["predictions"], 13);
    assert_eq!(window["click_through"].as_f64().unwrap(), 8.0 / 13.0);
    assert_eq!(window["redo"].as_f64().unwrap(), 3.0 / 13.0);
    assert!(window["word_error"].as_f64().unwrap() > 0.0);
    assert_eq!(window["labelled"], 13);

    // The same file again changes nothing.
    let again = output(&[&args[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(parse(&again.stdout), parse(&shown.stdout));
}

//! What a right file becomes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kinds;

use std::{
    fs,
    path::{Path, PathBuf},
};

use driftline_pipeline::{BatchConfig, Durability, Kinds, Others, Override, Plan, Property};
use driftline_types::config::{ByteSize, Millis};
use serde_json::json;

const RIGHT: &str = "tests/right.toml";

fn load(overrides: &[Override]) -> Plan {
    Plan::load(Path::new(RIGHT), overrides, &kinds::kinds()).unwrap()
}

fn folder() -> PathBuf {
    std::env::current_dir().unwrap().join("tests")
}

#[test]
fn a_file_becomes_a_plan() {
    let plan = load(&[]);
    assert_eq!((plan.name.as_str(), plan.partitions), ("speech", 4));
    assert_eq!(plan.broker.path, Some(folder().join("log")));
    assert_eq!(plan.broker.retention.bytes, Some(ByteSize(1 << 30)));
    assert_eq!(plan.broker.retention.age, Some(Millis(7 * 86_400_000)));
    assert_eq!(plan.broker.durability, Durability::Power);
    assert_eq!(plan.monitor.window, Millis(30_000));
    assert_eq!(plan.warnings, []);

    let names: Vec<_> = plan.nodes().map(|(_, node)| node.name.as_str()).collect();
    assert_eq!(names, ["microphone", "vad", "asr", "search", "responses", "out"]);
    let vad = &plan.stages[0];
    assert_eq!((vad.kind, vad.inputs[0].as_str()), ("vad", "microphone"));
    assert_eq!(vad.batch, BatchConfig { max_records: 64, max_wait: Millis(5), ..BatchConfig::default() });
    assert_eq!(vad.config, toml::toml! { threshold = 0.4 }, "common keys are not the kind's");
}

#[test]
fn paths_are_relative_to_where_they_are_written() {
    let path_of = |plan: &Plan| plan.sources[0].config["path"].as_str().unwrap().to_owned();
    let plan = load(&[]);
    assert_eq!(Path::new(&path_of(&plan)), folder().join("samples/voice-search"));
    assert_eq!(plan.stages[1].config["model"].as_str(), Some("builtin"));
    assert_eq!(plan.sinks[0].config["path"].as_str(), Some("-"));
    assert_eq!(plan.sinks[1].config["path"].as_str(), Some("/tmp/out.jsonl"));

    let plan = load(&["sources.microphone.path=../shared/x.wav".parse().unwrap()]);
    assert_eq!(Path::new(&path_of(&plan)), std::env::current_dir().unwrap().join("../shared/x.wav"));

    let plan = load(&plan.tests[0].overrides);
    assert_eq!(Path::new(&path_of(&plan)), folder().join("samples/x.wav"));
    assert_eq!(plan.partitions, 1);
}

#[test]
fn certificates_are_relative_to_where_they_are_written_too() {
    let text = fs::read_to_string(RIGHT).unwrap();
    let (before, after) = (text.split("[broker]").next().unwrap(), text.split("[sources.microphone]").nth(1).unwrap());
    let broker = r#"
        [broker]
        kind = "kafka"
        bootstrap_servers = "kafka:9093"

        [broker.properties]
        "ssl.ca.location" = "ca.pem"
        "ssl.certificate.location" = "own/certificate.pem"
        "ssl.key.location" = { file = "place-of-the-key" }
    "#;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("kafka.toml");
    fs::write(&file, format!("{before}{broker}\n[sources.microphone]{after}")).unwrap();
    let properties = &["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"];
    let kinds = Kinds { properties, ..kinds::kinds() };
    let properties = |overrides: &[&str]| {
        let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
        Plan::load(&file, &overrides, &kinds).unwrap().broker.properties
    };
    let at = |path: PathBuf| Property::Text(path.into_os_string().into_string().unwrap());

    let found = properties(&[]);
    assert_eq!(found["ssl.ca.location"], at(folder.path().join("ca.pem")));
    assert_eq!(found["ssl.certificate.location"], at(folder.path().join("own/certificate.pem")));
    assert_eq!(found["ssl.key.location"], Property::File(folder.path().join("place-of-the-key")));

    let found = properties(&["broker.properties.\"ssl.ca.location\"=ca.pem"]);
    assert_eq!(found["ssl.ca.location"], at(std::env::current_dir().unwrap().join("ca.pem")));
    assert_eq!(found["ssl.certificate.location"], at(folder.path().join("own/certificate.pem")));
    // The system's own authorities.
    let found = properties(&["broker.properties.\"ssl.ca.location\"=probe"]);
    assert_eq!(found["ssl.ca.location"], Property::Text("probe".to_owned()));
}

#[test]
fn a_file_that_is_wrong_is_told_of_where_it_is_named() {
    let told =
        |plan: Plan| plan.problem_of_file(&["monitor", "reference"], "x.json: no such file".to_owned()).to_string();
    let text = fs::read_to_string(RIGHT).unwrap().replace("[monitor]\n", "[monitor]\nreference = \"x.json\"\n");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("wrong.toml");
    fs::write(&file, text).unwrap();
    let in_file = told(Plan::load(&file, &[], &kinds::kinds()).unwrap());
    assert!(in_file.ends_with("wrong.toml:41:13: monitor.reference: x.json: no such file"), "{in_file}");

    let set = "monitor.reference=x.json".parse().unwrap();
    assert_eq!(told(load(&[set])), "--set monitor.reference: x.json: no such file");
}

#[test]
fn the_last_override_wins() {
    let overrides =
        ["stages.vad={ kind = \"vad\", inputs = [\"microphone\"] }", "stages.vad.threshold=0.7", "monitor.window=1m"];
    let plan = load(&overrides.map(|text| text.parse().unwrap()));
    assert_eq!(plan.stages[0].config, toml::toml! { threshold = 0.7 });
    assert_eq!(plan.stages[0].batch, BatchConfig::default());
    assert_eq!(plan.monitor.window, Millis(60_000));
}

#[test]
fn tests_are_read() {
    let test = &load(&[]).tests[0];
    assert_eq!((test.name.as_str(), test.others), ("one phrase", Others::Allow));
    let line = json!({ "session": "x", "segment": 0, "transcript": "red jacket", "confidence": 0.75 });
    assert_eq!(test.compare(&[json!({}), line]), Ok(()));
}

#[test]
fn what_nobody_reads_is_a_warning() {
    let plan =
        load(&["sinks.responses.inputs=[\"asr\"]".parse().unwrap(), "sinks.out.inputs=[\"asr\"]".parse().unwrap()]);
    let warnings: Vec<_> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["tests/right.toml:15:1: warning: stages.search: nothing reads its output"]);
}

#[test]
fn the_graph_is_drawn() {
    let graph = load(&[]).graph();
    insta::assert_snapshot!("dot", graph.to_dot());
    insta::assert_snapshot!("mermaid", graph.to_mermaid());
}

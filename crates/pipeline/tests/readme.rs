//! The documented file is right, and its values are the defaults.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kinds;

use std::fs;

use driftline_pipeline::{BrokerKind, Plan, Problems, Property};
use driftline_types::{StageName, Timestamp, config::Millis};

const README: &str = include_str!("../README.md");

/// The same pipeline with nothing in it that has a default.
const BARE: &str = r#"
    pipeline.name = "speech"
    sources.microphone = { kind = "audio-files", path = "samples/voice-search" }
    stages.vad = { kind = "vad", inputs = ["microphone"] }
    stages.asr = { kind = "asr", inputs = ["vad"] }
    stages.search = { kind = "search", inputs = ["asr"] }
    sinks.responses = { kind = "jsonl", inputs = ["search"], path = "-" }
"#;

/// The blocks of TOML, in order.
fn examples() -> Vec<&'static str> {
    let blocks = README.split("```toml\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

fn load(text: &str) -> Result<Plan, Problems> {
    // One path for every text: a plan knows its file.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("pipeline.toml");
    fs::write(&file, text).unwrap();
    Plan::load(&file, &[], &kinds::kinds()).map(|plan| without(plan, folder.path()))
}

/// Cuts the folder off, which is another one each time.
fn without(mut plan: Plan, folder: &std::path::Path) -> Plan {
    let short = |text: &str| text.replace(folder.to_str().unwrap(), "");
    plan.file = short(plan.file.to_str().unwrap()).into();
    for node in plan.sources.iter_mut().chain(&mut plan.sinks) {
        let path = short(node.config["path"].as_str().unwrap());
        node.config.insert("path".to_owned(), path.into());
    }
    plan
}

#[test]
fn the_example_has_the_defaults() {
    let plan = load(examples()[0]).unwrap();
    assert_eq!(plan, load(BARE).unwrap());
    assert_eq!(plan.warnings, []);
}

#[test]
fn what_the_example_hides_is_right_too() {
    let shown: String =
        examples()[0].lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    let plan = load(&shown).unwrap();
    assert!(plan.broker.path.is_some() && plan.broker.retention.bytes.is_some() && plan.broker.retention.age.is_some());
    assert!(plan.monitor.reference.is_some() && plan.monitor.probes.is_some());
    assert!(plan.telemetry.otlp.is_some() && plan.telemetry.prometheus.is_some());
}

#[test]
fn the_example_of_kafka_is_right() {
    let nodes = examples()[0].split_once("[sources.microphone]").unwrap().1;
    let text = format!("pipeline.name = \"speech\"\n{}\n[sources.microphone]{nodes}", examples()[1]);
    let plan = load(&text).unwrap();
    assert_eq!(plan.broker.kind, BrokerKind::Kafka);
    assert!(matches!(plan.broker.properties["sasl.password"], Property::File(_)));
    let (with_password, with_token) = (&examples()[1], &examples()[2]);
    let servers = with_password.lines().take(3).collect::<Vec<_>>().join("\n");
    let text = format!("pipeline.name = \"speech\"\n{servers}\n{with_token}\n[sources.microphone]{nodes}");
    assert!(matches!(load(&text).unwrap().broker.token, Some(Property::File(_))));
}

#[test]
fn the_example_of_a_test_is_right() {
    let plan = load(&format!("{}\n{}", examples()[0], examples()[5])).unwrap();
    assert_eq!((plan.tests.len(), plan.tests[0].expect.len(), plan.tests[0].overrides.len()), (1, 1, 1));
}

#[test]
fn the_examples_of_injections_are_right() {
    let plan = load(&format!("{}\n{}", examples()[0], examples()[4])).unwrap();
    let injected = |node: &str| plan.injections_of(&StageName::try_new(node).unwrap());
    let moment = |text| Timestamp::parse(text).unwrap();
    let clip = injected("vad").iter().next().copied().unwrap();
    assert_eq!((clip.value, clip.at), (200.0, moment("2000-01-01T00:01:00Z")));
    let pitch = injected("microphone").iter().next().copied().unwrap();
    assert_eq!((pitch.over, pitch.until), (Millis(300_000), Some(moment("2000-01-01T01:00:00Z"))));
}

#[test]
fn the_example_of_a_rule_is_right() {
    let plan = load(&format!("{}\n{}", examples()[0], examples()[3])).unwrap();
    assert_eq!((plan.monitor.rules.len(), plan.monitor.rules[0].min_records), (1, 20));
    assert!(plan.monitor.is_on());
}

/// Every key of the format stands in a table of the reference.
#[test]
fn the_reference_is_complete() {
    for key in [
        "pipeline.name",
        "pipeline.partitions",
        "broker.kind",
        "broker.path",
        "broker.durability",
        "broker.retention.bytes",
        "broker.retention.age",
        "broker.bootstrap_servers",
        "broker.delivery",
        "broker.prefix",
        "broker.replication",
        "broker.properties",
        "broker.token",
        "monitor.window",
        "monitor.reference",
        "monitor.lateness",
        "monitor.warm_up",
        "monitor.run_length",
        "monitor.tolerance",
        "monitor.ignore",
        "monitor.probes.path",
        "monitor.probes.every",
        "monitor.rules",
        "monitor.webhook.url",
        "stage",
        "signal",
        "statistic",
        "above`, `below",
        "for",
        "min_records",
        "severity",
        "telemetry.otlp",
        "telemetry.sampling",
        "telemetry.prometheus",
        "telemetry.logs",
        "kind",
        "inputs",
        "batch.max_records",
        "batch.max_bytes",
        "batch.max_wait",
        "node",
        "parameter",
        "value",
        "at",
        "over",
        "until",
        "name",
        "set",
        "expect",
        "more",
    ] {
        assert!(README.contains(&format!("\n| `{key}` |")), "{key}");
    }
}

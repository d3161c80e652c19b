//! Which crate may use which: the rule of `crates/README.md`, over `cargo metadata`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Our crates and what they may use of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("stats", &["types"]),
    ("pipeline", &["types"]),
    ("stage", &["types", "stats"]),
    ("payloads", &["types", "stage"]),
    ("broker", &["types"]),
    ("models", &[]),
    ("shop", &[]),
    ("monitor", &["types", "stats", "pipeline", "broker"]),
    ("connectors", &["types", "stage", "payloads", "shop"]),
    ("runtime", &["types", "stats", "pipeline", "stage", "broker"]),
    ("vad", &["types", "stage", "payloads", "models"]),
    ("asr", &["types", "stage", "payloads", "models"]),
    ("search", &["types", "stage", "payloads"]),
    ("inspection", &["stage", "payloads", "models"]),
    ("user-profile", &["types", "stage", "payloads", "models"]),
    ("recommender", &["types", "stage", "payloads", "models"]),
];

/// Libraries that one crate alone may use.
const ONLY_USER: &[(&str, &str)] = &[
    ("candle-core", "models"),
    ("candle-nn", "models"),
    ("fjall", "broker"),
    ("image", "payloads"),
    ("opentelemetry", "runtime"),
    ("rdkafka", "broker"),
    ("tantivy", "search"),
];

/// Crates that know no runtime, no broker and no network.
const PURE: &[&str] = &["types", "stats", "pipeline", "stage", "payloads"];
const IMPURE: &[&str] = &["tokio", "rdkafka", "candle-core", "candle-nn", "fjall"];

/// The direct dependencies of each of our crates, tests left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let names = dependencies.filter(|d| d["kind"].is_null()).map(|d| d["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_layout_allows() {
    let mut wrong = Vec::new();
    for (name, uses) in dependencies() {
        let Some(name) = name.strip_prefix("driftline-") else { continue };
        if matches!(name, "cli" | "tests" | "benches") {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(krate, _)| *krate == name) else {
            wrong.push(format!("{name} has no line in the layout"));
            continue;
        };
        for used in uses {
            match used.strip_prefix("driftline-") {
                Some(ours) if !allowed.contains(&ours) => {
                    wrong.push(format!("{name} uses {ours}, allowed are {allowed:?}"));
                }
                None if PURE.contains(&name) && IMPURE.contains(&used.as_str()) => {
                    wrong.push(format!("{name} uses {used}, but it is to know none of {IMPURE:?}"));
                }
                _ => {}
            }
            if let Some((library, owner)) = ONLY_USER.iter().find(|(library, _)| *library == used)
                && *owner != name
            {
                wrong.push(format!("{name} uses {library}, which only {owner} may"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_stage_has_a_pipeline_that_uses_it() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts: Vec<toml::Table> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| std::fs::read_to_string(path).unwrap().parse().unwrap())
        .collect();
    let used: Vec<&str> = texts
        .iter()
        .filter_map(|pipeline| pipeline.get("stages")?.as_table())
        .flat_map(|stages| stages.values().filter_map(|stage| stage.get("kind")?.as_str()))
        .collect();
    for stage in driftline_cli::registry::REGISTRY.stages {
        assert!(used.contains(&stage.kind), "no pipeline under pipelines/ uses the stage kind {:?}", stage.kind);
    }
}

//! The references that ship belong to the stages that ship.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{fs, path::PathBuf};

use driftline::{lines, output, root};
use driftline_cli::registry::REGISTRY;
use driftline_monitor::Baseline;
use driftline_pipeline::Plan;
use driftline_runtime::kinds;
use serde_json::{Value, json};

const MAX_BYTES: u64 = 512 << 10;

fn references() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("pipelines/references")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

#[test]
fn each_is_of_the_versions_that_are_built() {
    let files = references();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let pipeline = root().join(format!("pipelines/{name}.toml"));
        let plan = Plan::load(&pipeline, &[], &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"));
        let baseline = Baseline::load(&file).unwrap();
        assert_eq!((&baseline.pipeline, baseline.window_ms), (&plan.name, plan.monitor.window.0), "{name}");
        assert_eq!(baseline.nodes.len(), plan.sources.len() + plan.stages.len(), "{name}");
        for stage in &plan.stages {
            let opened = REGISTRY.stage(stage.kind).unwrap().open(&stage.config).unwrap();
            let known = baseline.node(&stage.name).unwrap();
            let (found, built) = (&known.version, opened.version());
            assert!(
                found == built,
                "{name}.json is of version {found} of {}, built is {built}: run pipelines/references/build.sh",
                stage.name
            );
        }
        let bytes = fs::metadata(&file).unwrap().len();
        assert!(bytes <= MAX_BYTES, "{name}.json has {bytes} bytes, allowed are {MAX_BYTES}");
    }
}

/// A few recordings fill no window: they are watched, and nothing is said of them.
#[test]
fn a_short_run_is_no_alarm() {
    let reference = "monitor.reference=pipelines/references/speech.json";
    let ran = output(&["run", "pipelines/speech.toml", "--set", reference]);
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success(), "{told}");
    let monitor: Vec<&str> = told.lines().skip_while(|line| !line.starts_with("monitor: ")).take(2).collect();
    assert!(monitor[0].starts_with("monitor: nothing can be told yet"), "{monitor:?}");
    assert_eq!(monitor[1].trim(), "", "no notes");
}

/// What the monitor says of a run of a pipeline that ships, with the reference that ships.
fn judged(name: &str, set: &[&str], inject: Option<&str>) -> Value {
    let (pipeline, reference) =
        (format!("pipelines/{name}.toml"), format!("monitor.reference=pipelines/references/{name}.json"));
    let mut args = vec!["report", &pipeline, "--json", "--set", &reference];
    args.extend(set.iter().flat_map(|&set| ["--set", set]));
    args.extend(inject.iter().flat_map(|&inject| ["--inject", inject]));
    let report = lines(&args).remove(0);
    eprintln!("{name} {set:?} {inject:?}: {}", report["sentence"]);
    report
}

fn is_silent(report: &Value, windows: u64) -> bool {
    let sentence = report["sentence"].as_str().unwrap();
    report["windows"] == windows && report["alarms"] == json!([]) && sentence.starts_with("nothing has changed")
}

/// Whether an alarm was raised, and each names this node as the one where it began.
fn began_in(report: &Value, node: &str) -> bool {
    let alarms = report["alarms"].as_array().unwrap();
    !alarms.is_empty() && alarms.iter().all(|alarm| alarm["state"] == "firing" && alarm["origin"] == node)
}

/// A minute after the first picture, milliseconds.
const LAMP_DIMS: u64 = 946_684_860_000;

#[test]
fn a_lamp_that_grows_old_is_laid_at_the_camera_and_nothing_at_nobody() {
    let few = ["sources.camera.frames=240"];
    let healthy = judged("inspect", &few, None);
    assert!(is_silent(&healthy, 12), "{healthy}");
    let dim = judged("inspect", &few, Some("camera.light=0.6 @ 60s"));
    assert!(began_in(&dim, "camera"), "{}", dim["sentence"]);
    let alarm = &dim["alarms"][0];
    let [changed, fired] = ["onset", "fired"].map(|moment| alarm[moment].as_u64().unwrap());
    assert_eq!((changed, fired), (LAMP_DIMS, LAMP_DIMS + 30_000), "alarmed after three windows: {alarm}");
}

#[test]
fn a_bolder_network_is_laid_at_the_inspection() {
    let bold = judged("inspect", &["sources.camera.frames=320"], Some("inspection.odds_shift=3 @ 60s"));
    assert!(began_in(&bold, "inspection"), "{}", bold["sentence"]);
}

/// A shop from October on: six weeks in which the histories fill, then November and December with their weekends and
/// holidays.
const SHOP: [&str; 2] = ["sources.shop.start=2026-10-01T00:00:00Z", "sources.shop.days=92"];

#[test]
fn a_shops_holidays_are_silent_whoever_its_customers_are() {
    for seed in ["sources.shop.seed=2", "sources.shop.seed=3", "sources.shop.seed=4"] {
        let healthy = judged("recommend", &[&SHOP[..], &[seed]].concat(), None);
        assert!(is_silent(&healthy, 100), "{seed}: {healthy}");
    }
}

#[test]
fn a_tracker_that_loses_views_is_laid_at_the_shop() {
    let report = judged("recommend", &[&SHOP[..], &["sources.shop.seed=2"]].concat(), Some("shop.lose_view=1 @ 60d"));
    assert!(began_in(&report, "shop"), "{}", report["sentence"]);
}

#[test]
fn a_worse_threshold_is_laid_at_the_user_profile() {
    let worse = "user-profile.threshold_shift=0.1 @ 60d";
    let report = judged("recommend", &[&SHOP[..], &["sources.shop.seed=2"]].concat(), Some(worse));
    assert!(began_in(&report, "user-profile"), "{}", report["sentence"]);
}

/// A week fills no history: nothing of it is judged.
#[test]
fn a_shops_first_weeks_are_not_judged() {
    let report = judged("recommend", &[], None);
    assert_eq!((&report["windows"], &report["alarms"]), (&json!(0), &json!([])), "{report}");
    assert_eq!(report["sentence"], "nothing was judged yet");
    let notes = report["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|note| note.as_str().unwrap().starts_with("warming up: 14 of the 84 windows")),
        "{notes:?}"
    );
}

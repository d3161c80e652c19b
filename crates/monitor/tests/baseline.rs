//! Building a baseline from a log, and its file.

#![allow(clippy::unwrap_used, reason = "tests")]

mod plant;

use driftline_monitor::{Baseline, FORMAT, NodeWindow, Range, build};
use driftline_runtime::{Monitoring, profiles::Profiles};
use driftline_stats::Window;
use driftline_types::{StageName, Timestamp};
use plant::Changes;

/// The same records counted twice: from the log when the baseline is built, and by the operators on its bins.
#[test]
fn what_is_counted_again_is_what_operators_count() {
    let baseline = plant::baseline(Changes::default(), 70);
    let (broker, plan) = (plant::temporary(), plant::plan(Changes::default(), 1, 0, 70, "", ""));
    plant::run(&plan, &broker, plant::bins(&plan, &baseline));
    let whole = Window { start: Timestamp::from_millis(0), millis: 0 };
    let seen = Profiles::read(&*broker, &plan.name, &baseline.references(), Some(whole)).unwrap();
    assert!(seen.unreadable.is_empty(), "{:?}", seen.unreadable);
    for node in &baseline.nodes {
        let mut counted = NodeWindow::default();
        for profile in seen.merged.values().filter(|profile| profile.key.stage == node.name) {
            assert_eq!(profile.key.version, node.version);
            counted.add(profile).unwrap();
        }
        assert!(counted.input == node.profiles.input, "input of {}", node.name);
        assert!(counted.output == node.profiles.output, "output of {}", node.name);
        let pairs = |window: &NodeWindow| window.joint.as_ref().unwrap().pairs();
        assert_eq!(pairs(&counted), pairs(&node.profiles), "{}", node.name);
    }
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let baseline = plant::baseline(Changes::default(), 80);
    assert_eq!((baseline.windows.len(), baseline.records, baseline.nodes.len()), (80, 8_000, 4));
    assert_eq!(baseline.unarmed(), Vec::<String>::new());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("references/plant.json");
    baseline.save(&path).unwrap();
    let read = Baseline::load(&path).unwrap();
    assert_eq!((&read.windows, read.records), (&baseline.windows, baseline.records));
    for (read, node) in read.nodes.iter().zip(&baseline.nodes) {
        assert!(read.profiles == node.profiles && read.output.id() == node.output.id(), "{}", node.name);
        assert_eq!(read.series.len(), node.series.len());
        for (read, series) in read.series.iter().zip(&node.series) {
            assert!(
                read.train(&baseline.windows, |_, _| {}) == series.train(&baseline.windows, |_, _| {}),
                "{}",
                series.what
            );
            assert!(series.train(&baseline.windows, |_, _| {}).history() >= driftline_stats::MIN_HISTORY);
        }
    }
    let again = folder.path().join("again.json");
    read.save(&again).unwrap();
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());
}

#[test]
fn every_signal_and_every_stage_is_watched() {
    let baseline = plant::baseline(Changes::default(), 64);
    for node in ["parts", "scale", "pair", "paint"] {
        let node = baseline.node(&StageName::try_new(node).unwrap()).unwrap();
        let watched: Vec<String> = node.series.iter().map(|series| series.what.to_string()).collect();
        assert_eq!(
            watched,
            ["output:part.colour", "output:part.material", "output:part.weight", "output:part.width", "conditional"]
        );
        assert_eq!(node.output.records().unwrap().cells(), 64);
    }
}

#[test]
fn too_short_a_log_says_how_many_windows_are_needed() {
    let (broker, plan) = (plant::temporary(), plant::plan(Changes::default(), 1, 0, 20, "", ""));
    plant::run(&plan, &broker, Monitoring::default());
    let error = |range| build(&*broker, &plan, &[range], &plant::show).unwrap_err().to_string();
    assert_eq!(
        error(Range::default()),
        "found 20 windows of 1s with records, a reference needs 64: take more records, or a shorter monitor.window"
    );
    let nothing = Range { from: Some(Timestamp::from_millis(1_000_000)), to: None };
    assert!(error(nothing).starts_with("parts: found no records in this range"), "{}", error(nothing));
}

#[test]
fn the_warm_up_is_no_part_of_a_baseline() {
    let warming =
        |windows: u64| plant::plan(Changes::default(), 1, 0, 80, "", &format!("warm_up = \"{windows} windows\""));
    let broker = plant::temporary();
    plant::run(&warming(10), &broker, Monitoring::default());
    let built = |warm_up: u64, from: Option<i64>| {
        let from = from.map(|window| Timestamp::from_millis(window * plant::WINDOW));
        build(&*broker, &warming(warm_up), &[Range { from, to: None }], &plant::show)
    };
    let baseline = built(10, None).unwrap();
    assert_eq!((baseline.windows.len(), baseline.records), (70, 7_000));
    assert_eq!(baseline.windows[0], Timestamp::from_millis(10 * plant::WINDOW));
    let by_hand = built(10, Some(10)).unwrap();
    assert_eq!((&by_hand.windows, by_hand.records), (&baseline.windows, baseline.records));
    assert!(by_hand.nodes.iter().zip(&baseline.nodes).all(|(by_hand, node)| by_hand.profiles == node.profiles));
    assert_eq!(built(10, Some(12)).unwrap().windows.len(), 68);
    for (warm_up, left) in [(30, 50), (90, 0)] {
        let expected = format!(
            "found {left} windows of 1s with records after the {warm_up} of monitor.warm_up, a reference needs 64: take more \
             records, or a shorter monitor.window"
        );
        assert_eq!(built(warm_up, None).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_wrong_file_is_refused_with_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plant.json");
    let missing = Baseline::load(&path).unwrap_err().to_string();
    assert!(missing.contains("plant.json") && missing.contains("No such file"), "{missing}");
    let baseline = plant::baseline(Changes::default(), 64);
    baseline.save(&path).unwrap();
    let right: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut file = right.clone();
        change(&mut file);
        Baseline::parse(&file.to_string(), "plant.json".as_ref()).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&|file| file["version"] = 9.into()),
        format!("plant.json: version: found 9, allowed is {FORMAT}; build the reference again")
    );
    assert!(
        refused(&|file| file["nodes"][1]["inputs"][0] = "nobody".into()).contains("nodes.scale.inputs: found nobody")
    );
    assert!(
        refused(&|file| file["nodes"][1]["profiles"][0] = "AAAA".into())
            .contains("nodes.scale.profiles.0: profile at byte 1")
    );
    assert!(
        refused(&|file| file["nodes"][2]["series"]["conditional"]["scores"] = "AAAA".into())
            .contains("nodes.pair.series.conditional: found 3 bytes of scores, allowed are ")
    );
    assert!(
        refused(&|file| file["pipeline"] = "other".into())
            .contains("nodes.parts.profiles.0: found a profile of the pipeline plant, allowed are those of other")
    );
    assert!(refused(&|file| file["surprise"] = 1.into()).contains("unknown field `surprise`"));
    assert!(refused(&|file| file["windows"][0] = 10_000_000.into()).contains("windows: found 64 starts"));
}

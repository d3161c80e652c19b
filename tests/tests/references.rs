//! The references that ship belong to the stages that ship.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{fs, path::PathBuf};

use driftline::{output, root};
use driftline_cli::registry::REGISTRY;
use driftline_monitor::Baseline;
use driftline_pipeline::Plan;
use driftline_runtime::kinds;

const MAX_BYTES: u64 = 300 << 10;

fn references() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("pipelines/references")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

#[test]
fn each_is_of_the_versions_that_are_built() {
    let files = references();
    assert!(files.iter().any(|file| file.ends_with("speech.json")));
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
    assert!(monitor[0].starts_with("monitor: nothing has changed"), "{monitor:?}");
    assert_eq!(monitor[1].trim(), "", "no notes");
}

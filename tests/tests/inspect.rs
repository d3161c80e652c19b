//! The inspection pipeline as a user runs it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use driftline::{lines, output};
use driftline_payloads::{
    Image,
    image::{Format, Shot},
};
use serde_json::Value;

const INSPECT: &str = "pipelines/inspect.toml";

/// The lines without what changes from run to run, in an order of their own.
fn stable(mut lines: Vec<Value>) -> Vec<String> {
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("timings_ms")));
    let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    lines.sort();
    lines
}

#[test]
fn every_generated_screen_gets_a_decision() {
    let output = output(&["run", INSPECT]);
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{report}");
    let lines = driftline::parse(&output.stdout);
    assert_eq!(lines.len(), 120, "two cameras, 60 pictures each");
    let mut decisions: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &lines {
        let decision = line["decision"].as_str().unwrap();
        *decisions.entry(decision).or_default() += 1;
        let score = line["score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&score) && (0.0..=1.0).contains(&line["area"].as_f64().unwrap()), "{line}");
        assert_eq!(decision == "accept", line["class"] == "good", "{line}");
        assert_eq!(decision == "accept", line["heat_map"].is_null(), "{line}");
    }
    // One screen in seven is defective.
    assert!(decisions["accept"] >= 80 && decisions["reject"] >= 5, "{decisions:?}");
    for word in
        ["camera", "inspection", "gate", "image.brightness", "image.sharpness", "inspection.score", "inspection.area"]
    {
        assert!(report.contains(word), "{word} is not in the report:\n{report}");
    }
}

#[test]
fn the_pipelines_own_tests_pass() {
    let output = output(&["test", INSPECT]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn two_runs_give_the_same_lines_however_they_are_split() {
    let few = "--set=sources.camera.frames=12";
    let one = stable(lines(&["run", INSPECT, few]));
    let more = ["run", INSPECT, few, "--set=pipeline.partitions=3", "--set=stages.inspection.batch.max_records=1"];
    assert_eq!(one, stable(lines(&more)));
}

fn picture(shade: u8) -> Vec<u8> {
    let rgb: Vec<u8> = (0..96 * 96).flat_map(|i| [shade + (i % 7) as u8; 3]).collect();
    Image::from_rgb(Shot::default(), Format::Jpeg, 90, (96, 96), &rgb).unwrap().file().to_vec()
}

/// A PNG of 100,000 × 100,000 pixels in a few dozen bytes; its checksums are right.
const BOMB: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\0\0\0\0\x8d\x39\x54\x14\0\0\0\0IEND\xaeB`\x82";

#[test]
fn bad_pictures_are_dead_letters_and_the_good_ones_are_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("photos");
    fs::create_dir(&input).unwrap();
    let whole = picture(90);
    fs::write(input.join("1-good.jpg"), &whole).unwrap();
    fs::write(input.join("2-empty.jpg"), b"").unwrap();
    fs::write(input.join("3-text.png"), b"this is no picture").unwrap();
    fs::write(input.join("4-cut.jpg"), &whole[..whole.len() / 3]).unwrap();
    fs::write(input.join("5-bomb.png"), BOMB).unwrap();
    fs::write(input.join("6-good.jpg"), &whole).unwrap();
    let log = format!("--set=broker.path={}", folder.path().join("log").display());
    let [source, path] = photos(&input);
    let inspected = lines(&["run", INSPECT, &source, &path, &log]);
    let names: Vec<&str> = inspected.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["1-good.jpg", "6-good.jpg"]);
    let letters = lines(&["dlq", "inspect", INSPECT, &source, &path, &log]);
    assert_eq!(letters.len(), 4, "{letters:?}");
    for name in ["2-empty.jpg", "3-text.png", "4-cut.jpg", "5-bomb.png"] {
        let letter = letters.iter().find(|letter| letter["key"] == name);
        let letter = letter.unwrap_or_else(|| panic!("{name} has no dead letter: {letters:?}"));
        let reason = letter["headers"]["driftline-error-reason"].as_str().unwrap();
        assert!(reason.contains("allowed"), "{name}: {reason}");
        assert_eq!(letter["value"]["bytes"].as_u64().unwrap(), fs::metadata(input.join(name)).unwrap().len());
    }
    // The four that could not be used were lost on the way, and the next picture says so.
    let profiles = lines(&["profiles", INSPECT, &source, &path, &log, "--format", "json"]);
    assert_eq!(signal(&profiles, "camera", "image.missing_frames")["max"], 4.0);
}

/// The arguments that put photographs of a folder in the place of generated screens, as one camera's.
fn photos(folder: &Path) -> [String; 2] {
    let source = "--set=sources.camera={ kind = \"image-files\", camera = \"line\" }".to_owned();
    [source, format!("--set=sources.camera.path={}", folder.display())]
}

fn signal<'a>(profiles: &'a [Value], stage: &str, name: &str) -> &'a Value {
    let output = profiles.iter().find(|profile| profile["stage"] == stage && profile["direction"] == "output");
    &output.unwrap()["signals"][name]
}

#[test]
fn a_lamp_that_is_dimmed_shows_in_the_pictures_from_that_moment_on() {
    let dim = ["profiles", INSPECT, "--windows", "--format", "json", "--inject", "camera.light=0.6 @ 20s"];
    let profiles = lines(&dim);
    let own = profiles.iter().filter(|profile| profile["stage"] == "camera" && profile["direction"] == "output");
    let means: Vec<f64> = own.map(|profile| profile["signals"]["image.brightness"]["mean"].as_f64().unwrap()).collect();
    assert_eq!(means.len(), 3, "30 seconds in windows of ten");
    assert!(means[2] < 0.75 * means[0] && means[2] < 0.75 * means[1], "{means:?}");
}

/// Photographs of tiles, first under the three darkest exposures, then under the two brightest.
#[test]
fn another_exposure_of_real_tiles_shows_in_brightness() {
    let Some(data) = std::env::var_os("DRIFTLINE_DATA") else {
        eprintln!("skipped: DRIFTLINE_DATA is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("tiles");
    fs::create_dir(&input).unwrap();
    let tiles = PathBuf::from(data).join("inspection/magnetic-tile/MT_Free");
    let mut files: Vec<PathBuf> = fs::read_dir(tiles).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut count = 0;
    for (order, exposures) in [("a", ["exp1_", "exp2_", "exp3_"]), ("b", ["exp5_", "exp6_", "exp6_"])] {
        let chosen = files.iter().filter(|file| {
            let name = file.file_name().unwrap().to_str().unwrap();
            name.ends_with(".jpg") && exposures.iter().any(|exposure| name.starts_with(exposure))
        });
        for file in chosen.step_by(3).take(60) {
            fs::copy(file, input.join(format!("{order}{count:04}.jpg"))).unwrap();
            count += 1;
        }
    }
    assert_eq!(count, 120);
    let [source, path] = photos(&input);
    let profiles = lines(&["profiles", INSPECT, "--windows", "--format", "json", &source, &path]);
    // 60 seconds in windows of ten; the change comes with the fourth.
    let own = profiles.iter().filter(|profile| profile["stage"] == "camera" && profile["direction"] == "output");
    let means = own.map(|profile| profile["signals"]["image.brightness"]["mean"].as_f64().unwrap());
    let brightness: Vec<f64> = means.collect();
    assert_eq!(brightness.len(), 6);
    let highest = brightness[..3].iter().copied().fold(0.0, f64::max);
    assert!(brightness[3..].iter().all(|&mean| mean > highest + 30.0), "{brightness:?}");
}

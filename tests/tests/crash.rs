//! Runs that are killed at random moments and started again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use driftline::driftline;

/// A small generator, so that a failing seed can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn start(args: &[&str]) -> Child {
    driftline(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Starts the command until it ends by itself. The first `kills` times it is killed once the file
/// has grown by some bytes, at most `step`. Returns how often it was killed.
fn run_and_kill(args: &[&str], file: &Path, kills: u32, step: u64, seed: u64) -> u32 {
    let mut random = Random(seed);
    let mut killed = 0;
    loop {
        let mut child = start(args);
        let before = length(file);
        let enough = before + random.below(step);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return killed;
            }
            if killed < kills && length(file) > enough {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
                break;
            }
            std::thread::yield_now();
        }
    }
}

fn killed_copy(lines: u64, kills: u32) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input: String = (0..lines).map(|n| format!("{{\"user\":\"u{}\",\"n\":{n}}}\n", n % 97)).collect();
    fs::write(path("in.jsonl"), &input).unwrap();
    let pipeline = "[pipeline]\nname = \"copy\"\npartitions = 3\n\
         [broker]\npath = \"log\"\n\
         [sources.input]\nkind = \"jsonl\"\npath = \"in.jsonl\"\nkey = \"user\"\n\
         [sinks.output]\nkind = \"jsonl\"\ninputs = [\"input\"]\npath = \"out.jsonl\"\n";
    fs::write(path("copy.toml"), pipeline).unwrap();
    let file = path("copy.toml");
    let size = input.len() as u64 * 2;
    let killed = run_and_kill(&["run", file.to_str().unwrap()], &path("out.jsonl"), kills, size / u64::from(kills), 7);
    let output = driftline::parse(&fs::read(path("out.jsonl")).unwrap());
    let mut last_of_user = std::collections::BTreeMap::new();
    let mut seen = vec![0u32; lines as usize];
    for line in &output {
        let n = line["n"].as_u64().unwrap();
        seen[n as usize] += 1;
        if let Some(last) = last_of_user.insert(line["user"].as_str().unwrap().to_owned(), n) {
            assert!(last < n, "the order of a key is kept");
        }
    }
    let lost = seen.iter().filter(|&&times| times == 0).count();
    let repeated = seen.iter().filter(|&&times| times > 1).count();
    eprintln!("{lines} records, killed {killed} times: {lost} lost, {repeated} repeated");
    assert!(killed > kills / 2, "the run was too short to be killed: {killed} of {kills}");
    assert_eq!((lost, repeated), (0, 0));
}

#[test]
fn a_killed_run_loses_and_repeats_nothing() {
    killed_copy(20_000, 6);
}

/// The long form: `cargo test --release -p driftline-tests --test crash -- --ignored --nocapture`.
#[test]
#[ignore = "the long form takes minutes"]
fn a_run_of_100_000_records_killed_20_times_loses_and_repeats_nothing() {
    killed_copy(100_000, 20);
}

/// Runs a pipeline once whole and once killed, and compares their lines.
fn killed_pipeline(pipeline: &str, more: &[&str], kills: u32, step: u64) {
    let folder = tempfile::tempdir().unwrap();
    let run = |log: &str, out: &str| {
        let mut args = vec![
            "run".to_owned(),
            format!("pipelines/{pipeline}.toml"),
            "--set=sinks.responses.kind=jsonl".to_owned(),
            format!("--set=sinks.responses.path={}", folder.path().join(out).display()),
            format!("--set=broker.path={}", folder.path().join(log).display()),
        ];
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    };
    let lines = |out: &str| {
        let mut lines = driftline::parse(&fs::read(folder.path().join(out)).unwrap());
        lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("timings_ms")));
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    };
    let whole = run("whole-log", "whole.jsonl");
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    assert!(driftline::output(&whole).status.success());
    let parts = run("parts-log", "parts.jsonl");
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    run_and_kill(&parts, &folder.path().join("parts.jsonl"), kills, step, 11);
    assert_eq!(lines("parts.jsonl"), lines("whole.jsonl"));
}

#[test]
fn a_speech_run_killed_in_the_middle_of_words_gives_the_same_lines() {
    killed_pipeline("speech", &[], 4, 1_500);
}

#[test]
fn a_shop_run_killed_in_the_middle_of_visits_gives_the_same_lines() {
    let lost = ["--set=sources.shop.customers=100", "--inject=shop.lose_view=0.5 @ 3d"];
    killed_pipeline("recommend", &lost, 4, 200_000);
}

#[test]
fn an_inspection_killed_at_any_moment_inspects_no_picture_twice_and_loses_none() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("control.jsonl");
    let args = [
        "run".to_owned(),
        "pipelines/inspect.toml".to_owned(),
        "--set=sources.camera.frames=40".to_owned(),
        "--set=sources.camera.size=128".to_owned(),
        "--set=stages.inspection.batch.max_records=4".to_owned(),
        "--set=stages.inspection.heat_map=0".to_owned(),
        "--set=sinks.gate.kind=jsonl".to_owned(),
        format!("--set=sinks.gate.path={}", out.display()),
        format!("--set=broker.path={}", folder.path().join("log").display()),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let killed = run_and_kill(&args, &out, 5, 6_000, 5);
    assert!(killed > 2, "the run was too short to be killed: {killed} of 5");
    let lines = driftline::parse(&fs::read(&out).unwrap());
    let mut seen: Vec<(String, u64)> = lines
        .iter()
        .map(|line| (line["camera"].as_str().unwrap().to_owned(), line["frame"].as_u64().unwrap()))
        .collect();
    seen.sort();
    let expected: Vec<(String, u64)> =
        (1..=2).flat_map(|camera| (0..40).map(move |frame| (format!("camera-{camera}"), frame))).collect();
    assert_eq!(seen, expected);
}

//! Stage binaries on Kafka, each a process: they tell what one process on the embedded broker tells.
//!
//! `DRIFTLINE_KAFKA` names the cluster, as `deploy/kafka-local start` prints it; without it the tests say that they were
//! skipped. `tests/tests/kafka.rs` kills such processes; here it is the binaries themselves that are started.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Long enough that only a group that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A pipeline that ships, made short, and the binary of each of its stages.
struct Case {
    file: &'static str,
    source: &'static str,
    stages: &'static [(&'static str, &'static str)],
    sink: &'static str,
    settings: &'static [&'static str],
}

const CASES: [Case; 3] = [
    Case {
        file: "pipelines/speech.toml",
        source: "microphone",
        stages: &[
            ("vad", env!("CARGO_BIN_EXE_driftline-vad")),
            ("asr", env!("CARGO_BIN_EXE_driftline-asr")),
            ("search", env!("CARGO_BIN_EXE_driftline-search")),
        ],
        sink: "responses",
        settings: &["sources.microphone.path=pipelines/samples/voice-search/red-jacket.wav"],
    },
    Case {
        file: "pipelines/recommend.toml",
        source: "shop",
        stages: &[
            ("user-profile", env!("CARGO_BIN_EXE_driftline-user-profile")),
            ("recommender", env!("CARGO_BIN_EXE_driftline-recommender")),
        ],
        sink: "responses",
        settings: &["sources.shop.customers=30", "sources.shop.days=2"],
    },
    Case {
        file: "pipelines/inspect.toml",
        source: "camera",
        stages: &[("inspection", env!("CARGO_BIN_EXE_driftline-inspection"))],
        sink: "gate",
        settings: &["sources.camera.frames=6"],
    },
];

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Asks it to stop and waits; returns the exit code.
    fn terminate(&mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(binary: &str, words: &[&str], settings: &[String]) -> Command {
    let mut command = Command::new(binary);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command.args(words).args(settings.iter().flat_map(|setting| ["--set", setting]));
    command
}

/// What lines say, without what differs from run to run, in an order of their own.
fn told(text: &str) -> Vec<String> {
    let mut told: Vec<String> = text
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("timings_ms");
            line.to_string()
        })
        .collect();
    told.sort();
    told
}

impl Case {
    /// Returns what the binaries told on Kafka and what one process told on the embedded broker.
    fn run(&self, servers: &str) -> [Vec<String>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let driftline = env!("CARGO_BIN_EXE_driftline");
        let mut settings: Vec<String> = self.settings.iter().map(|&setting| setting.to_owned()).collect();
        let embedded = command(driftline, &["run", self.file], &settings).output().unwrap();
        assert!(embedded.status.success(), "{}", String::from_utf8_lossy(&embedded.stderr));
        let expected = told(std::str::from_utf8(&embedded.stdout).unwrap());
        assert!(!expected.is_empty());

        let out = folder.path().join("out.jsonl");
        settings.extend([
            "broker.kind=kafka".to_owned(),
            format!("broker.bootstrap_servers={servers}"),
            format!("broker.prefix=binaries-{}-{}.", std::process::id(), self.source),
            format!("sinks.{}.kind=jsonl", self.sink),
            format!("sinks.{}.path={}", self.sink, out.display()),
        ]);
        let log = |node: &str| folder.path().join(format!("{node}.log"));
        let mut running: Vec<Process> = Vec::new();
        for &(stage, binary) in self.stages {
            let words = ["--pipeline", self.file, "--stage", stage];
            running.push(Process::start(command(binary, &words, &settings), &log(stage)));
        }
        let only =
            |node: &str| Process::start(command(driftline, &["run", self.file, "--only", node], &settings), &log(node));
        let mut sink = only(self.sink);
        let mut source = only(self.source);
        let lines = || fs::read_to_string(&out).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        while lines().matches('\n').count() < expected.len() {
            if Instant::now() > deadline {
                let logs = fs::read_dir(folder.path())
                    .unwrap()
                    .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
                panic!("{} of {} lines\n{}", lines().lines().count(), expected.len(), logs.collect::<String>());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(source.0.wait().unwrap().success(), "the source has come to its end");
        for process in &mut running {
            assert_eq!(process.terminate(), Some(0));
        }
        assert_eq!(sink.terminate(), Some(130));
        [told(&lines()), expected]
    }
}

#[test]
fn the_binaries_of_each_pipeline_tell_what_one_process_tells() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    for case in &CASES {
        let [found, expected] = case.run(&servers);
        assert_eq!(found, expected, "{}", case.file);
        eprintln!("{}: {} lines, the same", case.file, expected.len());
    }
}

/// A binary runs stages of its own kind alone.
#[test]
fn a_binary_refuses_the_stage_of_another_kind() {
    for stage in ["asr", "microphone", "responses", "vda"] {
        let words = ["--pipeline", "pipelines/speech.toml", "--stage", stage];
        let said = refused(env!("CARGO_BIN_EXE_driftline-vad"), &words);
        let expected = format!("--stage: found {stage}, allowed are its stages of kind \"vad\": vad");
        assert!(said.contains(&expected), "{said}");
    }
    let words = ["--pipeline", "pipelines/speech.toml", "--stage", "vad"];
    let said = refused(env!("CARGO_BIN_EXE_driftline-inspection"), &words);
    assert!(said.contains("its stages of kind \"inspection\": none"), "{said}");
}

#[test]
fn a_part_that_is_none_is_refused_before_the_cluster_is_asked() {
    let said = refused(env!("CARGO_BIN_EXE_driftline"), &["run", "pipelines/speech.toml", "--only", "vad,vda"]);
    assert!(said.contains("--only: found vda, allowed are microphone, vad, asr, search, responses"), "{said}");
}

/// Runs a binary on a cluster that is not there; it must refuse its arguments, and what it says is returned.
fn refused(binary: &str, words: &[&str]) -> String {
    let settings = ["broker.kind=kafka".to_owned(), "broker.bootstrap_servers=127.0.0.1:1".to_owned()];
    let output = command(binary, words, &settings).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

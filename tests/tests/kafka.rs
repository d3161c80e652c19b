//! Pipelines on Kafka as processes that are killed, stopped and joined by others.
//!
//! `DRIFTLINE_KAFKA` names the cluster, as `deploy/kafka-local start` prints it; without it the tests say that they were
//! skipped. Numbers of the long forms are in `benches/README.md`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use driftline::{
    driftline,
    process::{LOOK, Process},
};
use driftline_broker::{Broker, Embedded, EmbeddedConfig, Kafka, KafkaConfig, records};
use driftline_types::{PipelineName, TopicPartition};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough that only a group that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// One at a time: a pipeline is up to fifteen processes, which starve beside another one's.
static ALONE: Mutex<()> = Mutex::new(());

/// A pipeline on Kafka, in a corner of the cluster of its own, and alone on the machine.
struct Pipeline {
    _alone: MutexGuard<'static, ()>,
    file: PathBuf,
    prefix: String,
    settings: Vec<String>,
    folder: TempDir,
}

impl Pipeline {
    /// `None`, with a word, where there is no cluster.
    fn new(file: &str, delivery: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
            eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
            return None;
        };
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let prefix = format!("e2e-{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let settings = [
            "broker.kind=kafka".to_owned(),
            format!("broker.bootstrap_servers={servers}"),
            format!("broker.delivery={delivery}"),
            format!("broker.prefix={prefix}"),
            // A killed process is missed after six seconds; one that merely waits for a core is not.
            "broker.properties.\"session.timeout.ms\"=6000".to_owned(),
            "broker.properties.\"heartbeat.interval.ms\"=1000".to_owned(),
            "broker.properties.\"transaction.timeout.ms\"=5900".to_owned(),
            "sinks.responses.kind=jsonl".to_owned(),
            format!("sinks.responses.path={}", folder.path().join("out.jsonl").display()),
        ];
        Some(Self { _alone: alone, file: driftline::root().join(file), prefix, settings: settings.into(), folder })
    }

    fn set(mut self, setting: String) -> Self {
        self.settings.push(setting);
        self
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.jsonl")
    }

    fn command(&self, only: &[&str]) -> Command {
        let mut command = driftline(&["run"]);
        command.arg(&self.file).args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        if !only.is_empty() {
            command.arg("--only").arg(only.join(","));
        }
        command
    }

    fn start(&self, only: &str) -> Process {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{only}.log")))
            .unwrap();
        let child = self.command(&[only]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Process(child)
    }

    fn lines(&self) -> Vec<Value> {
        fs::read(self.out()).map_or_else(
            |_| Vec::new(),
            |bytes| {
                // A sink that was killed may have left a part of a line, which its successor removes.
                let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                driftline::parse(&bytes[..whole])
            },
        )
    }

    /// Waits for lines; tells what the processes said if they do not come.
    fn wait_for(&self, lines: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.lines().len() < lines {
            if Instant::now() > deadline {
                let mut said = String::new();
                for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
                    if entry.path().extension().is_some_and(|extension| extension == "log") {
                        said += &fs::read_to_string(entry.path()).unwrap();
                    }
                }
                panic!("{} of {lines} lines\n{said}", self.lines().len());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a line says, without what differs from run to run.
fn told(lines: &[Value]) -> Vec<String> {
    let mut told: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove("timings_ms");
            line.to_string()
        })
        .collect();
    told.sort();
    told
}

fn on_the_embedded_broker() -> Vec<String> {
    told(&driftline::lines(&["run", "pipelines/speech.toml"]))
}

#[test]
fn one_process_on_kafka_tells_what_the_embedded_broker_tells() {
    for delivery in ["at_least_once", "exactly_once"] {
        let Some(pipeline) = Pipeline::new("pipelines/speech.toml", delivery) else { return };
        let output = pipeline.command(&[]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(told(&pipeline.lines()), on_the_embedded_broker(), "{delivery}");
    }
}

#[test]
fn replicas_of_each_stage_tell_what_one_process_tells() {
    let expected = on_the_embedded_broker();
    for replicas in [1, 2, 4] {
        let Some(pipeline) = Pipeline::new("pipelines/speech.toml", "at_least_once") else { return };
        let mut running: Vec<Process> = ["vad", "asr", "search", "responses"]
            .into_iter()
            .flat_map(|node| (0..if node == "responses" { 1 } else { replicas }).map(move |_| node))
            .map(|node| pipeline.start(node))
            .collect();
        let mut source = pipeline.start("microphone");
        pipeline.wait_for(expected.len());
        assert!(source.0.wait().unwrap().success(), "the source has come to its end");
        for process in &mut running {
            process.stop(130);
        }
        assert_eq!(told(&pipeline.lines()), expected, "{replicas} replicas of each stage");
        eprintln!("{replicas} replicas of each stage: {} lines, the same", expected.len());
    }
}

/// Every stage twice, each killed once and replaced: the group takes over, and the lines are the same.
fn stages_are_killed(delivery: &str) {
    let Some(pipeline) = Pipeline::new("pipelines/speech.toml", delivery) else { return };
    let expected = on_the_embedded_broker();
    let stages = ["vad", "asr", "search"];
    let mut running: BTreeMap<&str, Vec<Process>> =
        stages.into_iter().map(|stage| (stage, vec![pipeline.start(stage), pipeline.start(stage)])).collect();
    let mut sink = pipeline.start("responses");
    let mut source = pipeline.start("microphone");
    for (round, stage) in stages.into_iter().enumerate() {
        pipeline.wait_for(1 + 2 * round);
        let processes = running.get_mut(stage).unwrap();
        processes[round % 2].kill();
        processes[round % 2] = pipeline.start(stage);
        if round == 1 {
            sink.kill();
            sink = pipeline.start("responses");
        }
    }
    pipeline.wait_for(expected.len());
    assert!(source.0.wait().unwrap().success(), "the source has come to its end");
    for process in running.values_mut().flatten().chain([&mut sink]) {
        process.stop(130);
    }
    assert_eq!(told(&pipeline.lines()), expected);
}

#[test]
fn killed_stages_lose_and_repeat_nothing_at_least_once() {
    stages_are_killed("at_least_once");
}

#[test]
fn killed_stages_lose_and_repeat_nothing_exactly_once() {
    stages_are_killed("exactly_once");
}

/// Numbered records from a file to a file, source and sink killed in turn.
fn copied(lines: u64, kills: u64, delivery: &str) {
    let folder = tempfile::tempdir().unwrap();
    let input: String = (0..lines).map(|n| format!("{{\"user\":\"u{}\",\"n\":{n}}}\n", n % 97)).collect();
    fs::write(folder.path().join("in.jsonl"), &input).unwrap();
    let text = "[pipeline]\nname = \"copy\"\npartitions = 3\n\
         [sources.input]\nkind = \"jsonl\"\npath = \"in.jsonl\"\nkey = \"user\"\n\
         [sinks.responses]\nkind = \"jsonl\"\ninputs = [\"input\"]\npath = \"out.jsonl\"\n";
    let file = folder.path().join("copy.toml");
    fs::write(&file, text).unwrap();
    let Some(pipeline) = Pipeline::new(file.to_str().unwrap(), delivery) else { return };
    let (mut source, mut sink) = (pipeline.start("input"), pipeline.start("responses"));
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut killed = 0;
    for kill in 1..=kills {
        let enough = input.len() as u64 * kill / (kills + 1);
        while length(&pipeline.out()) < enough {
            std::thread::sleep(LOOK);
        }
        let (process, name) = if kill % 2 == 0 { (&mut source, "input") } else { (&mut sink, "responses") };
        if process.0.try_wait().unwrap().is_none() {
            process.kill();
            killed += 1;
        }
        *process = pipeline.start(name);
    }
    pipeline.wait_for(lines as usize);
    assert!(source.0.wait().unwrap().success());
    sink.stop(130);
    let output = pipeline.lines();
    let mut last_of_user = BTreeMap::new();
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
    eprintln!("{delivery}: {lines} records, killed {killed} times: {lost} lost, {repeated} repeated");
    assert_eq!((lost, repeated), (0, 0));
}

#[test]
fn a_killed_source_and_sink_lose_and_repeat_nothing() {
    copied(20_000, 4, "at_least_once");
    copied(20_000, 4, "exactly_once");
}

/// The long form: `cargo test --release -p driftline-tests --test kafka -- --ignored --nocapture`.
#[test]
#[ignore = "the long form takes minutes"]
fn a_source_and_a_sink_killed_20_times_lose_and_repeat_nothing() {
    copied(100_000, 20, "at_least_once");
    copied(100_000, 20, "exactly_once");
}

#[test]
fn bad_records_become_dead_letters_on_kafka_too() {
    let Some(pipeline) = Pipeline::new("pipelines/speech.toml", "at_least_once") else { return };
    let samples = driftline::root().join("pipelines/samples/voice-search");
    let bad = pipeline.folder.path().join("bad");
    fs::create_dir(&bad).unwrap();
    for entry in fs::read_dir(samples).unwrap().flatten().take(3) {
        fs::copy(entry.path(), bad.join(entry.file_name())).unwrap();
    }
    fs::write(bad.join("no-audio.wav"), "no audio").unwrap();
    let pipeline = pipeline.set(format!("sources.microphone.path={}", bad.display()));
    let output = pipeline.command(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 dead letter:"), "{said}");
    assert!(pipeline.lines().len() >= 3);
}

/// What the alarm says as it first fires, but for the records that it names: those are places in one log.
fn first_verdict(broker: &dyn Broker) -> Option<Value> {
    let place = TopicPartition::new(PipelineName::try_new("speech").unwrap().alarms_topic(), 0);
    broker.describe_topic(&place.topic).unwrap()?;
    let mut alarms = records(broker, place).unwrap().filter_map(|message| message.unwrap().value);
    let mut alarm = alarms.find_map(|value| {
        let alarm: Value = serde_json::from_slice(&value).unwrap();
        (alarm["state"] == "firing").then_some(alarm)
    })?;
    alarm.as_object_mut().unwrap().remove("examples");
    Some(alarm)
}

#[test]
fn the_verdict_is_the_same_on_either_broker_and_with_any_number_of_replicas() {
    // The detector begins to cut words off after 20 s of event time; the last two windows stay open on Kafka.
    let watched = [
        "pipeline.partitions=4",
        "monitor.reference=pipelines/references/speech.json",
        "sources.microphone.sessions=16",
        "sources.microphone.repeat={ sessions = 460, seed = 2, gain_db = 3.0, pitch = 0.05, noise_dbfs = -65.0 }",
        "inject=[{ node = \"vad\", parameter = \"clip_ms\", value = 120.0, at = \"20s\" }]",
    ]
    .map(str::to_owned);
    // Exactly once, as at least once a rebalance may count a batch twice.
    let on_kafka = || {
        let pipeline = Pipeline::new("pipelines/speech.toml", "exactly_once")?;
        Some(watched.iter().cloned().fold(pipeline, Pipeline::set))
    };
    if on_kafka().is_none() {
        return;
    }
    let embedded = tempfile::tempdir().unwrap();
    let path = |name: &str| embedded.path().join(name);
    let mut run = driftline(&["run", "pipelines/speech.toml"]);
    run.args(watched.iter().flat_map(|setting| ["--set", setting]));
    run.arg("--set").arg(format!("broker.path={}", path("log").display()));
    run.args(["--set", "sinks.responses.kind=jsonl", "--set"]);
    let ran = run.arg(format!("sinks.responses.path={}", path("out.jsonl").display())).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let log = Embedded::open(&path("log"), EmbeddedConfig::default()).unwrap();
    let expected = first_verdict(&log).expect("an alarm");
    assert_eq!(expected["origin"], "vad", "{expected}");
    let lines = fs::read(path("out.jsonl")).unwrap().iter().filter(|&&byte| byte == b'\n').count();

    for replicas in [1, 2, 4] {
        let Some(pipeline) = on_kafka() else { return };
        let stages = ["vad", "asr", "search"].into_iter().flat_map(|stage| (0..replicas).map(move |_| stage));
        let mut running: Vec<Process> = stages.chain(["responses"]).map(|node| pipeline.start(node)).collect();
        let said = pipeline.folder.path().join("monitor.log");
        let mut monitor = Process(driftline::monitor(&pipeline.file, &pipeline.settings, &said).spawn().unwrap());
        let mut source = pipeline.start("microphone");
        pipeline.wait_for(lines);
        assert!(source.0.wait().unwrap().success(), "the source has come to its end");
        let mut config = KafkaConfig::new(std::env::var("DRIFTLINE_KAFKA").unwrap());
        config.prefix.clone_from(&pipeline.prefix);
        let kafka = Kafka::connect(config).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let found = loop {
            if let Some(found) = first_verdict(&kafka) {
                break found;
            }
            assert!(Instant::now() < deadline, "no alarm: {}", fs::read_to_string(&said).unwrap());
        };
        for process in &mut running {
            process.stop(130);
        }
        monitor.stop(0);
        assert_eq!(found, expected, "{replicas} replicas");
        eprintln!("{replicas} replicas of each stage on Kafka: {}", found["summary"]);
    }
}

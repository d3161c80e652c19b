//! `driftline doctor`, and a monitor that may do little, on a Kafka that asks for a token and knows permissions.
//!
//! `DRIFTLINE_KAFKA` names the cluster, as `deploy/kafka-local start` prints it; without it the test says that it was skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use driftline::{
    driftline,
    process::{LOOK, Process},
};
use driftline_broker::{Kafka, KafkaConfig};
use driftline_monitor::alarms;
use driftline_types::PipelineName;

/// Long enough that only a monitor that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A pipeline on the listener that asks for a token, as a user of its own.
struct Subject {
    servers: String,
    user: String,
    prefix: String,
    folder: tempfile::TempDir,
}

impl Subject {
    fn new(name: &str) -> Option<Self> {
        let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
            eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
            return None;
        };
        let user = format!("{name}-{}", std::process::id());
        Some(Self { servers, prefix: format!("{user}."), user, folder: tempfile::tempdir().unwrap() })
    }

    fn acl(&self, arguments: &[&str]) {
        let tool = driftline::root().join("deploy/kafka-local");
        let output = Command::new(tool).args(["acl", &self.servers]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn token(&self) -> std::path::PathBuf {
        let file = self.folder.path().join("token");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expires = (now + Duration::from_secs(600)).as_secs();
        let claims =
            URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{}","iat":{},"exp":{expires}}}"#, self.user, now.as_secs()));
        fs::write(&file, format!("{}.{claims}.\n", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#))).unwrap();
        file
    }

    /// What lets a process in as this user.
    fn settings(&self, token: &Path, delivery: &str) -> Vec<String> {
        let (host, port) = self.servers.split(',').next().unwrap().rsplit_once(':').unwrap();
        vec![
            format!("broker.bootstrap_servers={host}:{}", port.parse::<u16>().unwrap() + 200),
            format!("broker.delivery={delivery}"),
            format!("broker.token={{ file = \"{}\" }}", token.display()),
            "broker.properties.\"security.protocol\"=sasl_ssl".to_owned(),
            "broker.properties.\"ssl.ca.location\"=deploy/kafka/local-certificate.pem".to_owned(),
            "broker.properties.\"sasl.mechanism\"=OAUTHBEARER".to_owned(),
        ]
    }

    /// Runs a command on the pipeline, with a token; returns what it printed and whether it was content.
    fn run(&self, command: &[&str], delivery: &str) -> (String, bool) {
        let token = self.token();
        let (said, content) = self.run_with(command, &self.settings(&token, delivery));
        assert!(!said.contains(&fs::read_to_string(&token).unwrap().trim()[..40]), "the token is not shown");
        (said, content)
    }

    /// The same as who may do everything.
    fn run_freely(&self, command: &[&str]) -> (String, bool) {
        self.run_with(command, &[format!("broker.bootstrap_servers={}", self.servers)])
    }

    /// What every process is told of the pipeline.
    fn always(&self) -> [String; 5] {
        [
            "broker.kind=kafka".to_owned(),
            format!("broker.prefix={}", self.prefix),
            "monitor.reference=pipelines/references/speech.json".to_owned(),
            "sinks.responses.kind=jsonl".to_owned(),
            format!("sinks.responses.path={}", self.folder.path().join("out.jsonl").display()),
        ]
    }

    fn run_with(&self, command: &[&str], settings: &[String]) -> (String, bool) {
        let always = self.always();
        let mut process = driftline(command);
        process.arg(Path::new("pipelines/speech.toml"));
        let output =
            process.args(always.iter().chain(settings).flat_map(|setting| ["--set", setting])).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (said, output.status.success())
    }

    fn line<'a>(&self, said: &'a str, what: &str) -> &'a str {
        said.lines()
            .find(|line| line.get(6..).is_some_and(|line| line.starts_with(what)))
            .unwrap_or_else(|| panic!("{what}: {said}"))
    }
}

#[test]
fn permissions_and_clock_are_tried_and_nothing_is_left() {
    let Some(subject) = Subject::new("doctor") else { return };
    let principal = format!("User:{}", subject.user);
    let prefixed = ["--resource-pattern-type", "prefixed"];

    // With a token nobody can make topics.
    let (said, content) = subject.run_freely(&["topics", "create"]);
    assert!(content, "{said}");

    // Nobody has allowed anything.
    let (said, content) = subject.run(&["doctor"], "at_least_once");
    assert!(!content, "{said}");
    assert!(subject.line(&said, "topic speech.vad:").ends_with("or is not shown to this user"), "{said}");
    assert!(
        subject.line(&said, "clock:").starts_with("?     clock: not measured: kafka: cannot create topic"),
        "{said}"
    );

    // All is allowed: the pipeline runs, and the doctor is content.
    let all = ["--add", "--allow-principal", &principal, "--operation", "All"];
    let on = ["--topic", &subject.prefix, "--group", &subject.prefix, "--transactional-id", &subject.prefix];
    subject.acl(&[&all[..], &prefixed, &on].concat());
    let (said, content) = subject.run(&["run"], "exactly_once");
    assert!(content, "{said}");
    let offsets = || {
        let (said, _) = subject.run(&["topics", "describe"], "at_least_once");
        said.lines().filter(|line| line.starts_with('│')).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = offsets();
    for delivery in ["at_least_once", "exactly_once"] {
        let (said, content) = subject.run(&["doctor"], delivery);
        assert!(content, "{said}");
        let vad = subject.line(&said, "permissions of vad:");
        assert!(
            vad.starts_with(
                "ok    permissions of vad: may read speech.microphone, read speech.vad.state, join speech.vad, write"
            ),
            "{vad}"
        );
        assert!(vad.ends_with("use transactions speech.vad-…"), "{vad}");
        let monitor = subject.line(&said, "permissions of the monitor:");
        assert!(
            monitor.starts_with("ok    permissions of the monitor: may read speech.profiles, read speech.control"),
            "{monitor}"
        );
    }
    let (said, content) = subject.run_freely(&["doctor"]);
    assert!(content, "{said}");
    assert!(subject.line(&said, "clock:").contains("this machine's, allowed are 1000 ms"), "{said}");
    eprintln!("{}", subject.line(&said, "clock:"));
    assert_eq!(before, offsets(), "no offset has moved");

    // Five things are denied, each to somebody else.
    let deny = |operation: &str, on: &[&str]| {
        subject.acl(&[&["--add", "--deny-principal", &principal, "--operation", operation], on].concat());
    };
    let of = |name: &str| format!("{}speech.{name}", subject.prefix);
    deny("Read", &["--topic", &of("microphone")]);
    let (said, _) = subject.run(&["doctor"], "at_least_once");
    let monitor = subject.line(&said, "permissions of the monitor:");
    assert!(
        monitor.starts_with("?     permissions of the monitor: may not read speech.microphone (kafka: cannot read: "),
        "{monitor}"
    );
    assert!(monitor.ends_with("so that alarms name no examples of it"), "{monitor}");
    deny("Read", &["--group", &of("asr")]);
    deny("Write", &["--topic", &of("search.dlq")]);
    deny("Write", &["--topic", &of("alarms")]);
    deny("Write", &["--transactional-id", &of("microphone"), "--resource-pattern-type", "prefixed"]);
    let (said, content) = subject.run(&["doctor"], "at_least_once");
    assert!(!content, "{said}");
    assert!(!subject.line(&said, "permissions of vad:").contains("join"), "it may: {said}");
    for (who, expected) in [
        (
            "microphone",
            "FAIL  permissions of microphone: may not use transactions speech.microphone-… (kafka: cannot write transactions: ",
        ),
        ("vad", "FAIL  permissions of vad: may not read speech.microphone (kafka: cannot read: "),
        ("asr", "FAIL  permissions of asr: may not join speech.asr (kafka: cannot join a group: "),
        ("search", "FAIL  permissions of search: may not write speech.search.dlq (kafka: cannot write: "),
        (
            "responses",
            "ok    permissions of responses: may read speech.search, join speech.responses, write speech.responses.dlq",
        ),
        ("the monitor", "FAIL  permissions of the monitor: may not write speech.alarms (kafka: cannot write: "),
    ] {
        let line = subject.line(&said, &format!("permissions of {who}:"));
        assert!(line.starts_with(expected), "{line}");
        eprintln!("{line}");
    }
}

#[test]
fn a_monitor_that_may_not_read_outputs_raises_its_alarms_all_the_same() {
    let Some(subject) = Subject::new("monitor") else { return };
    // A run of named nodes brings no monitor. From 20 s of event time on the detector cuts words off.
    let run = [
        "run",
        "--only",
        "microphone,vad,asr,search,responses",
        "--inject",
        "vad.clip_ms=120 @ 20s",
        "--set",
        "sources.microphone.sessions=16",
        "--set",
        "sources.microphone.repeat={ sessions = 460, seed = 2, gain_db = 3.0, pitch = 0.05, noise_dbfs = -65.0 }",
    ];
    let (said, content) = subject.run_freely(&run);
    assert!(content, "{said}");

    // What the table in `crates/pipeline/README.md` lists, but for what examples need.
    let principal = format!("User:{}", subject.user);
    let of = |name: &str| format!("{}speech.{name}", subject.prefix);
    let allow = |operations: &[&str], on: &[&str]| {
        let operations = operations.iter().flat_map(|operation| ["--operation", operation]);
        let start = ["--add", "--allow-principal", &principal].into_iter();
        subject.acl(&start.chain(operations).chain(on.iter().copied()).collect::<Vec<_>>());
    };
    let prefixed = ["--resource-pattern-type", "prefixed"];
    allow(&["Describe", "DescribeConfigs"], &[&prefixed[..], &["--topic", &subject.prefix]].concat());
    let (profiles, control, state) = (of("profiles"), of("control"), of("monitor.state"));
    allow(&["Read"], &["--topic", &profiles, "--topic", &control, "--topic", &state, "--group", &of("monitor")]);
    allow(&["Write"], &["--topic", &of("alarms"), "--topic", &state]);
    allow(&["Write"], &[&prefixed[..], &["--transactional-id", &of("monitor-")]].concat());

    let (token, log) = (subject.token(), subject.folder.path().join("monitor.log"));
    let settings: Vec<String> = subject.always().into_iter().chain(subject.settings(&token, "at_least_once")).collect();
    let pipeline = Path::new("pipelines/speech.toml");
    let mut monitor = Process(driftline::monitor(pipeline, &settings, &log).spawn().unwrap());
    let said = || fs::read_to_string(&log).unwrap();
    let mut config = KafkaConfig::new(subject.servers.clone());
    config.prefix.clone_from(&subject.prefix);
    let kafka = Kafka::connect(config).unwrap();
    let pipeline = PipelineName::try_new("speech").unwrap();
    let deadline = Instant::now() + PATIENCE;
    let alarm = loop {
        let firing = alarms(&kafka, &pipeline).unwrap().into_iter().find(|alarm| alarm.state.is_active());
        if let Some(alarm) = firing {
            break alarm;
        }
        assert!(monitor.0.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}", said());
        thread::sleep(LOOK);
    };
    monitor.stop(0);
    assert!(alarm.examples.is_empty(), "{:?}", alarm.examples);
    assert_eq!(said().matches("alarms name no examples").count(), 1, "{}", said());
}

//! What customers say, who they are, and what the pipeline logs in with appears in no log, profile, metric or header of a
//! dead letter; what could load code or reach other hosts is refused; and nothing can be changed over HTTP (test 15).
//!
//! `DRIFTLINE_KAFKA` names a cluster, as `deploy/kafka-local start` prints it; without it the tests that need one say that
//! they were skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    collections::HashSet,
    fs,
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use driftline::{ask, driftline, process::LOOK};
use driftline_broker::{ALLOWED_PROPERTIES, Broker, Kafka, KafkaConfig, records};
use driftline_pipeline::Plan;
use driftline_stage::Registry;
use driftline_types::{Message, PipelineName, StageName, Topic, TopicPartition, wire};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;

const SPEECH: &str = "pipelines/speech.toml";
const PATIENCE: Duration = Duration::from_secs(120);
/// Letters of a secret: far too many for one to stand anywhere by chance.
const LETTERS: usize = 12;

/// So many secrets, the same in every run.
fn secrets(count: usize) -> Vec<String> {
    let mut state = 20_261_129_u64;
    let mut letter = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..count).map(|_| (0..LETTERS).map(|_| letter()).collect()).collect()
}

/// How many of the secrets stand somewhere in the bytes, in letters of either case.
fn hits(secrets: &[String], bytes: &[u8]) -> usize {
    let known: HashSet<&[u8]> = secrets.iter().map(String::as_bytes).collect();
    let bytes = bytes.to_ascii_lowercase();
    bytes.windows(LETTERS).filter(|window| known.contains(window)).collect::<HashSet<_>>().len()
}

fn all(kafka: &Kafka, topic: &Topic) -> Vec<Message> {
    let partitions = kafka.describe_topic(topic).unwrap().map_or(0, |topic| topic.partitions.len() as u32);
    let read = |n| records(kafka, TopicPartition::new(topic.clone(), n)).unwrap().map(Result::unwrap);
    (0..partitions).flat_map(read).collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(LOOK);
    }
}

#[test]
fn what_customers_say_stays_in_the_records() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (out, log) = (folder.path().join("out.jsonl"), folder.path().join("log"));
    let prefix = format!("secrets-{}.", std::process::id());
    // A port that was free a moment ago.
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = [
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={servers}"),
        format!("broker.prefix={prefix}"),
        "sinks.responses.kind=jsonl".to_owned(),
        format!("sinks.responses.path={}", out.display()),
        format!("telemetry.prometheus={endpoint}"),
        "telemetry.sampling=1".to_owned(),
        // So that windows close, and their profiles are written, while the test runs.
        "monitor.window=1s".to_owned(),
    ];
    let command = |words: &[&str]| {
        let mut command = driftline(words);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    };
    let topics = command(&["topics", "create", SPEECH]).output().unwrap();
    assert!(topics.status.success(), "{}", String::from_utf8_lossy(&topics.stderr));

    // A secret each as the session, which is the key too, and as a word; every tenth is broken, in one of four ways.
    let secrets = secrets(2_000);
    let (sessions, words) = secrets.split_at(1_000);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
    let topic = format!("{prefix}speech.asr");
    for (n, (session, word)) in sessions.iter().zip(words).enumerate() {
        let said = json!({
            "session": session, "segment": 0, "start_ms": 0, "end_ms": 900 + n,
            "transcript": format!("red {word} jacket"), "confidence": 0.9, "tokens": 7,
        });
        let value = match n % 40 {
            0 => said.to_string()[..said.to_string().len() / 2].to_owned(),
            10 => said.to_string().replace("\"segment\":0", &format!("\"segment\":\"{word}\"")),
            20 => said.to_string().replace("\"segment\"", &format!("\"{word}\"")),
            30 => format!("{word} {session}"),
            _ => said.to_string(),
        };
        producer.send(BaseRecord::to(&topic).key(session).payload(&value)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let file = fs::File::create(&log).unwrap();
    let mut running = command(&["run", SPEECH, "--only", "search,responses"])
        .env("DRIFTLINE_LOG", "debug")
        .stdout(file.try_clone().unwrap())
        .stderr(Stdio::from(file))
        .spawn()
        .unwrap();
    let read = |path| fs::read(path).unwrap_or_default();
    let lines = || read(&out).iter().filter(|&&byte| byte == b'\n').count();
    until("900 lines", || lines() == 900);
    let mut config = KafkaConfig::new(&servers);
    config.prefix.clone_from(&prefix);
    let kafka = Kafka::connect(config).unwrap();
    let speech = PipelineName::try_new("speech").unwrap();
    let dead = speech.dead_letter_topic(&StageName::try_new("search").unwrap());
    until("100 dead letters", || all(&kafka, &dead).len() == 100);

    let metrics = ask(endpoint, "GET", "/metrics").unwrap();
    assert_eq!(metrics.0, 200);
    assert!(metrics.1.contains("driftline_records_rejected_total"), "{}", metrics.1);
    // There is nothing to change: whatever changes is not allowed, to anybody.
    for path in ["/metrics", "/healthz", "/readyz", "/", "/shutdown"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let status = ask(endpoint, method, path).unwrap().0;
            assert!(status == 404 || status == 405, "{method} {path}: {status}");
        }
    }
    let process = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    assert_eq!(running.wait().unwrap().code(), Some(130), "{}", String::from_utf8_lossy(&read(&log)));

    let profiles: Vec<Message> = all(&kafka, &speech.profiles_topic());
    assert!(!profiles.is_empty());
    let mut of_profiles = Vec::new();
    for profile in &profiles {
        of_profiles.extend(profile.key.iter().chain(&profile.value).flat_map(|bytes| bytes.iter()));
        profile.headers.iter().for_each(|(_, value)| of_profiles.extend(value));
    }
    let letters = all(&kafka, &dead);
    let mut of_headers = Vec::new();
    for letter in &letters {
        let ours = letter.headers.iter().filter(|(name, _)| name.starts_with(wire::ERROR_PREFIX));
        ours.for_each(|(name, value)| of_headers.extend([name.as_bytes(), b"=", value, b"\n"].concat()));
    }
    assert_eq!(hits(&secrets, &read(&out)), 1_800, "who looks finds them where they belong");
    for (what, bytes) in
        [("logs", read(&log)), ("metrics", metrics.1.into_bytes()), ("profiles", of_profiles), ("headers", of_headers)]
    {
        eprintln!("{what}: {} bytes, {} hits of {} secrets", bytes.len(), hits(&secrets, &bytes), secrets.len());
        assert!(!bytes.is_empty());
        assert_eq!(hits(&secrets, &bytes), 0, "{what}: {}", String::from_utf8_lossy(&bytes));
    }
}

/// A wrong password, so that the cluster complains and everybody tells why.
#[test]
fn a_password_is_not_told_where_it_is_refused() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    let (host, port) = servers.split(',').next().unwrap().rsplit_once(':').unwrap();
    let secrets = secrets(1);
    let settings = [
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={host}:{}", port.parse::<u16>().unwrap() + 200),
        "broker.properties.\"security.protocol\"=sasl_ssl".to_owned(),
        "broker.properties.\"ssl.ca.location\"=deploy/kafka/local-certificate.pem".to_owned(),
        "broker.properties.\"sasl.mechanism\"=SCRAM-SHA-512".to_owned(),
        "broker.properties.\"sasl.username\"=driftline".to_owned(),
        "broker.properties.\"sasl.password\"={ env = \"TEST_PASSWORD\" }".to_owned(),
    ];
    for words in [["topics", "describe", SPEECH].as_slice(), &["doctor", SPEECH]] {
        let mut command = driftline(words);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        let output = command.env("TEST_PASSWORD", &secrets[0]).env("DRIFTLINE_LOG", "debug").output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&told);
        assert!(!output.status.success() && text.contains("uthentication"), "{words:?}: {text}");
        assert_eq!(hits(&secrets, &told), 0, "{words:?}: {text}");
    }
}

static NO_KINDS: Registry = Registry { sources: &[], stages: &[], sinks: &[] };

/// What is wrong with a pipeline that has these properties.
fn problems(properties: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.toml");
    let broker = "[broker]\nkind = \"kafka\"\nbootstrap_servers = \"127.0.0.1:1\"\n";
    fs::write(&file, format!("[pipeline]\nname = \"p\"\n{broker}[broker.properties]\n{properties}\n")).unwrap();
    Plan::load(&file, &[], &driftline_runtime::kinds(&NO_KINDS)).err().unwrap().to_string()
}

#[test]
fn a_thousand_secrets_in_plain_sight_are_refused_and_not_told() {
    let secrets = secrets(1_000);
    let mut told = String::new();
    for (n, secret) in secrets.iter().enumerate() {
        let name = ["sasl.password", "ssl.key.password", "ssl.key.pem"][n % 3];
        let said = problems(&format!("\"{name}\" = \"{secret}\""));
        assert!(said.contains(name) && said.contains("a secret does not stand in the file"), "{said}");
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.properties.insert(name.into(), secret.clone());
        told += &format!("{said}\n{config:?}\n");
        config.properties.insert("plugin.library.paths".into(), secret.clone());
        told += &Kafka::connect(config).err().unwrap().to_string();
    }
    assert_eq!(hits(&secrets, told.as_bytes()), 0);
    eprintln!("{} secrets in plain sight refused, none told in {} bytes", secrets.len(), told.len());
}

#[test]
fn what_could_load_code_reach_out_or_break_a_promise_is_refused() {
    for name in [
        "plugin.library.paths",
        "ssl.engine.location",
        "ssl.providers",
        "sasl.kerberos.kinit.cmd",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.oauthbearer.config",
        "enable.ssl.certificate.verification",
        "ssl.endpoint.identification.algorithm",
        "bootstrap.servers",
        "group.id",
        "group.protocol",
        "isolation.level",
        "enable.auto.commit",
        "enable.idempotence",
        "transactional.id",
        "check.crcs",
        "debug",
        "no.such.property",
    ] {
        assert!(!ALLOWED_PROPERTIES.contains(&name));
        let said = problems(&format!("\"{name}\" = \"x\""));
        assert!(said.contains(&format!("properties.{name}")) || said.contains(&format!("{name:?}")), "{said}");
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.properties.insert(name.into(), "x".into());
        let error = Kafka::connect(config).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("allowed are"), "{error}");
    }
}

//! Dead letters: what is sent again goes to the node that refused it, and what a sink refuses is kept too.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{fs, path::Path};

use bytes::Bytes;
use driftline::lines;
use driftline_broker::{Broker, Embedded, EmbeddedConfig};
use driftline_types::{Headers, Outgoing, Timestamp, Topic};
use serde_json::Value;

const RECOMMEND: &str = "pipelines/recommend.toml";

/// A visit of the past, which the stage refuses, among others.
const LOG: &str = "user,kind,product,category,time_ms\n\
    ann,view,P-00020,auto/tyres,1794787200000\n\
    ann,visit,,,1794787202000\n\
    ann,visit,,,1794760000000\n\
    ann,visit,,,1794787203000\n";

/// The recommender pipeline on a log of its own, whose topic of events has two readers: a stage and a sink.
struct Subject {
    folder: tempfile::TempDir,
}

impl Subject {
    /// Runs it for the first time.
    fn new() -> Self {
        let subject = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(subject.path("log.csv"), LOG).unwrap();
        subject.command(&["run"]);
        subject
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a command on it, which must be a success, and returns its lines.
    fn command(&self, command: &[&str]) -> Vec<Value> {
        let settings = [
            "sources.shop.kind=event-files".to_owned(),
            format!("sources.shop.path={}", self.path("log.csv")),
            format!("broker.path={}", self.path("log")),
            "sinks.responses.kind=jsonl".to_owned(),
            format!("sinks.responses.path={}", self.path("responses.jsonl")),
            "sinks.events.kind=jsonl".to_owned(),
            "sinks.events.inputs=[\"shop\"]".to_owned(),
            format!("sinks.events.path={}", self.path("events.jsonl")),
        ];
        let settings = settings.iter().flat_map(|setting| ["--set", setting.as_str()]);
        lines(&command.iter().copied().chain([RECOMMEND]).chain(settings).collect::<Vec<_>>())
    }

    /// The dead letters of a node that are not settled.
    fn letters(&self, node: &str) -> Vec<Value> {
        self.command(&["dlq", "inspect", "--stage", node])
    }

    fn send_again(&self, node: &str) {
        assert!(self.command(&["dlq", "replay", "--stage", node]).is_empty());
        assert!(self.letters(node).is_empty());
        self.command(&["run"]);
    }

    /// What a sink has written.
    fn written(&self, file: &str) -> Vec<Value> {
        driftline::parse(&fs::read(self.path(file)).unwrap())
    }
}

#[test]
fn what_is_sent_again_is_read_by_who_refused_it_alone() {
    let subject = Subject::new();
    let (events, responses) = (subject.written("events.jsonl"), subject.written("responses.jsonl"));
    assert_eq!((events.len(), responses.len()), (4, 2));
    let letters = subject.letters("user-profile");
    assert_eq!(letters.len(), 1, "{letters:?}");

    subject.send_again("user-profile");
    assert_eq!(subject.written("events.jsonl"), events, "the other reader had it");
    assert_eq!(subject.written("responses.jsonl"), responses);
    let again = subject.letters("user-profile");
    assert_eq!(again.len(), 1, "it is as late as before: {again:?}");
    let told = |letter: &Value| (letter["key"].clone(), letter["value"].clone());
    assert_eq!(told(&again[0]), told(&letters[0]));
    assert_eq!(again[0]["headers"]["driftline-only"], "user-profile");
}

#[test]
fn what_a_sink_cannot_write_is_a_dead_letter_and_the_rest_is_written_once() {
    let subject = Subject::new();
    let before = subject.written("responses.jsonl");
    {
        let log = Embedded::open(Path::new(&subject.path("log")), EmbeddedConfig::default()).unwrap();
        let foreign = |value: &'static str| Outgoing {
            topic: Topic::try_new("recommend.recommender").unwrap(),
            partition: Some(0),
            key: None,
            value: Some(Bytes::from_static(value.as_bytes())),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(1_794_787_204_000),
        };
        let messages = [r#"{"n":0}"#, "RIFF", r#"{"n":1}"#, "", r#"{"n":2}"#].map(foreign);
        log.producer("foreign").unwrap().send(messages.into()).unwrap();
    }
    subject.command(&["run"]);
    let written = subject.written("responses.jsonl");
    assert_eq!(written[..before.len()], before);
    let numbers: Vec<u64> = written[before.len()..].iter().map(|line| line["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let letters = subject.letters("responses");
    let sizes: Vec<u64> = letters.iter().map(|letter| letter["value"]["bytes"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [4, 0]);
    for letter in &letters {
        let reason = letter["headers"]["driftline-error-reason"].as_str().unwrap();
        assert!(reason.contains("found a value that is no JSON, allowed is JSON"), "{reason}");
        assert_eq!(letter["headers"]["driftline-error-stage"], "responses");
    }

    subject.send_again("responses");
    assert_eq!(subject.written("responses.jsonl"), written);
    assert_eq!(subject.letters("responses").len(), 2);
    assert!(subject.command(&["dlq", "discard", "--stage", "responses"]).is_empty());
    assert!(subject.letters("responses").is_empty());
}

//! A pipeline that passes lines on, a node a process, for tests that kill, stop and hold up processes.
//!
//! ```text
//! relay FILE SERVERS PREFIX DELIVERY NODE [PROPERTY=VALUE | --follow]…
//! ```
//!
//! Its kinds: the source and the sink of JSON lines that ship, and the stage `relay`, which passes a line on and, if it is
//! told to, counts the lines of each key in its state, takes its time, and refuses long lines.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use driftline_broker::{Broker, Delivery, Kafka, KafkaConfig, Retention};
use driftline_connectors::{JsonLinesSink, JsonLinesSource};
use driftline_payloads::JsonValue;
use driftline_pipeline::Plan;
use driftline_runtime::{Metrics, RunOptions, create_topics};
use driftline_stage::{Emitter, Record, Registry, SinkDef, SourceDef, Stage, StageDef, StageError, StageKind};
use driftline_types::StageName;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Said once for each partition that is taken over.
const TAKEN_OVER: &str = "relay: taken over";

static REGISTRY: Registry = Registry {
    sources: &[SourceDef::of::<JsonLinesSource>()],
    stages: &[StageDef::of::<Relay>()],
    sinks: &[SinkDef::of::<JsonLinesSink>()],
};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RelayConfig {
    /// Milliseconds that each batch takes.
    #[serde(default)]
    pause_ms: u64,
    /// Whether lines are counted by key; the count is written as `seen`.
    #[serde(default)]
    count: bool,
    /// The longest line that is taken, bytes; longer ones are refused.
    #[serde(default)]
    max_bytes: Option<usize>,
}

struct Relay(RelayConfig);

impl StageKind for Relay {
    const KIND: &'static str = "relay";
    type Config = RelayConfig;
    type Stage = RelayStage;

    fn open(config: RelayConfig) -> Result<Self, StageError> {
        Ok(Self(config))
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> RelayStage {
        // One a partition that is taken over: what tests count.
        eprintln!("{TAKEN_OVER}");
        RelayStage { config: self.0.clone(), seen: HashMap::new() }
    }
}

struct RelayStage {
    config: RelayConfig,
    seen: HashMap<Bytes, u64>,
}

impl Stage for RelayStage {
    type Input = JsonValue;
    type Output = JsonValue;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let bytes = value.as_ref().try_into().map_err(|_| StageError::fatal("a count has 8 bytes"))?;
            self.seen.insert(key, u64::from_be_bytes(bytes));
        }
        Ok(())
    }

    fn process(&mut self, batch: &[Record<JsonValue>], out: &mut Emitter<'_, JsonValue>) -> Result<(), StageError> {
        // Stands for inference that takes long.
        std::thread::sleep(Duration::from_millis(self.config.pause_ms));
        for record in batch {
            let found = record.value.as_bytes().len();
            if let Some(allowed) = self.config.max_bytes.filter(|&allowed| found > allowed) {
                out.reject(record, format!("line: found {found} bytes, allowed {allowed}"));
                continue;
            }
            if !self.config.count {
                out.emit(record, record.value.clone());
                continue;
            }
            let key = record.key.as_bytes();
            let seen = self.seen.entry(key.clone()).or_default();
            *seen += 1;
            out.put_state(key.clone(), Bytes::copy_from_slice(&seen.to_be_bytes()));
            let line = serde_json::from_slice::<Value>(record.value.as_bytes());
            let line = line.map_err(|error| StageError::record(error.to_string()))?;
            let line = json!({ "user": line["user"], "n": line["n"], "seen": *seen }).to_string();
            out.emit(record, JsonValue::try_new(line).map_err(|error| StageError::record(error.to_string()))?);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("expected FILE SERVERS PREFIX DELIVERY NODE");
    let (file, servers, prefix, delivery, node) = (arg()?, arg()?, arg()?, arg()?, arg()?);
    let plan = Plan::load(file.as_ref(), &[], &driftline_runtime::kinds(&REGISTRY))?;
    let mut config = KafkaConfig::new(servers);
    config.prefix = prefix;
    config.delivery = if delivery == "exactly_once" { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let mut follow = false;
    for property in args {
        if property == "--follow" {
            follow = true;
            continue;
        }
        let (name, value) = property.split_once('=').ok_or("expected PROPERTY=VALUE")?;
        config.properties.insert(name.to_owned(), value.to_owned());
    }
    let broker: Arc<dyn Broker> = Arc::new(Kafka::connect(config)?);
    create_topics(&*broker, &plan, Retention::default())?;
    let plan = plan.only(&[StageName::try_new(&node)?]).map_err(|_| "no such node")?;
    let metrics = Arc::new(Metrics::new(&plan));
    let options = RunOptions { durable: true, follow, ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let asked = async move {
            terminate.recv().await;
        };
        driftline_runtime::run(&plan, &REGISTRY, broker, metrics, options, asked).await?;
        Ok(())
    })
}

//! A small pipeline whose source and stages change on request: parts come in, are scaled, put together in pairs, and labelled.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{collections::HashMap, future, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use driftline_broker::{Broker, Embedded, EmbeddedConfig, Retention};
use driftline_monitor::{Baseline, build};
use driftline_pipeline::{Node, Plan};
use driftline_runtime::{Metrics, Monitoring, Report, RunOptions, create_topics, kinds};
use driftline_stage::{
    CodecError, Emitter, Held, Key, Payload, Record, Registry, Scale, SchemaId, Signal, SignalVisitor, Sink, SinkDef,
    SinkKind, Source, SourceBatch, SourceDef, SourceKind, SourceStatus, Stage, StageDef, StageError, StageKind,
    Timestamp, operator::Bins,
};
use driftline_types::Message;
use serde::{Deserialize, Serialize};

/// Milliseconds between two parts, and in a window: a hundred parts.
pub const STEP: i64 = 10;
pub const WINDOW: i64 = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    number: u64,
    width: f64,
    weight: Option<f64>,
    colour: String,
}

static WIDTH: Signal = Signal::number("part.width", "mm", "Width.", Scale::Linear { lo: -20.0, hi: 20.0 });
static WEIGHT: Signal = Signal::number("part.weight", "g", "Weight.", Scale::Linear { lo: -20.0, hi: 20.0 });
static COLOUR: Signal = Signal::category("part.colour", "Colour.");
static MATERIAL: Signal = Signal::number("part.material", "1", "Never varies.", Scale::Linear { lo: 0.0, hi: 9.0 });

impl Payload for Part {
    const SCHEMA: SchemaId = SchemaId::new("part.v1");
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        serde_json::to_writer(out.writer(), self).map_err(|error| CodecError::new("value", error.to_string(), "JSON"))
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| CodecError::new("value", error.to_string(), "JSON"))
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&WIDTH, Some(self.width));
        visit.number(&WEIGHT, self.weight);
        visit.category(&COLOUR, Some(&self.colour));
        visit.number(&MATERIAL, Some(4.0));
    }
}

/// A standard normal number that belongs to a part and a purpose (Box and Muller).
fn noise(seed: u64, number: u64, purpose: u64) -> f64 {
    let uniform = |salt: u64| {
        let z = (seed << 40 ^ number << 8 ^ purpose << 4 ^ salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (-2.0 * uniform(1).ln()).sqrt() * (std::f64::consts::TAU * uniform(2)).cos()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartsConfig {
    seed: u64,
    /// The number of the first window, and how many follow.
    first: u64,
    windows: u64,
    /// The window from which parts are wider, and the windows that this takes.
    #[serde(default)]
    wider_from: Option<u64>,
    #[serde(default)]
    wider_over: u64,
    /// The window with a single part, none for 0.
    #[serde(default)]
    lone: u64,
    /// What becomes strange, and from which window.
    #[serde(default)]
    strange: Option<Strange>,
    #[serde(default)]
    strange_from: u64,
    /// The window from which parts have numbers that a stage makes more of: no signal shows that.
    #[serde(default)]
    hidden_from: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Strange {
    /// No part has a weight.
    Missing,
    /// Every part has a colour never seen.
    Unseen,
    /// One part has.
    One,
}

struct Parts {
    config: PartsConfig,
    next: u64,
}

impl Source for Parts {
    type Output = Part;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        if let [(_, value)] = entries.as_slice() {
            self.next = u64::from_be_bytes(value.as_ref().try_into().unwrap());
        }
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Part>) -> Result<SourceStatus, StageError> {
        let a_window = (WINDOW / STEP) as u64;
        let end = (self.config.first + self.config.windows) * a_window;
        for _ in 0..100 {
            if self.next == end {
                return Ok(SourceStatus::End);
            }
            let number = self.next;
            self.next += 1;
            let window = number / a_window;
            if window == self.config.lone && window > 0 && !number.is_multiple_of(a_window) {
                continue;
            }
            let wider = self
                .config
                .wider_from
                .filter(|from| window >= *from)
                .map_or(0.0, |from| ((window - from + 1) as f64 / self.config.wider_over.max(1) as f64).min(1.0));
            let draw = |purpose| noise(self.config.seed, number, purpose);
            let strange = self.config.strange.filter(|_| window >= self.config.strange_from);
            let one = number == self.config.strange_from * a_window;
            let unseen = strange == Some(Strange::Unseen) || strange == Some(Strange::One) && one;
            let hidden = self.config.hidden_from.is_some_and(|from| window >= from);
            let mut numbers = (number..).step_by(1_000_000);
            let part = Part {
                number: numbers.find(|&n| !hidden || roughness(n) >= 0.8).unwrap_or(number),
                width: draw(1) + wider,
                weight: (draw(2) < 1.5 && strange != Some(Strange::Missing)).then(|| draw(3)),
                colour: if unseen {
                    "ultraviolet"
                } else if draw(4) < 0.3 {
                    "red"
                } else {
                    "blue"
                }
                .to_owned(),
            };
            out.emit(Key::new((number % 7).to_string()), Timestamp::from_millis(number as i64 * STEP), part);
            out.put_state("next", Bytes::copy_from_slice(&self.next.to_be_bytes()));
        }
        Ok(SourceStatus::More)
    }
}

impl SourceKind for Parts {
    const KIND: &'static str = "parts";
    type Config = PartsConfig;

    fn open(config: PartsConfig, _follow: bool) -> Result<Self, StageError> {
        let next = config.first * (WINDOW / STEP) as u64;
        Ok(Self { config, next })
    }
}

/// What `scale` adds to a part by its number.
fn roughness(number: u64) -> f64 {
    noise(7, number, 5)
}

/// What a stage does, and from which window it does it otherwise. That is part of the config of healthy runs too, so the
/// version of the stage stays the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkConfig {
    task: Task,
    #[serde(default)]
    changes_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Doubles the width, drops the widest.
    Scale,
    /// Makes one part of two of one key.
    Pair,
    /// Paints by width.
    Paint,
}

struct Work(WorkConfig);

struct WorkStage {
    config: WorkConfig,
    waiting: HashMap<Bytes, (Held, Part, Timestamp)>,
}

impl Stage for WorkStage {
    type Input = Part;
    type Output = Part;

    fn process(&mut self, batch: &[Record<Part>], out: &mut Emitter<'_, Part>) -> Result<(), StageError> {
        for record in batch {
            let window = record.event_time.as_millis() / WINDOW;
            let changed = self.config.changes_at.is_some_and(|at| window >= at as i64);
            let mut part = record.value.clone();
            match self.config.task {
                Task::Scale => {
                    part.width = part.width * if changed { 4.0 } else { 2.0 } + 0.3 * roughness(part.number);
                    if part.width < 3.5 {
                        out.emit(record, part);
                    }
                }
                Task::Pair => match self.waiting.remove(record.key.as_bytes()) {
                    None => {
                        let held = out.hold(record);
                        let state = serde_json::to_vec(&(&held, &part, record.event_time)).unwrap();
                        out.put_state(record.key.as_bytes().clone(), state);
                        self.waiting.insert(record.key.as_bytes().clone(), (held, part, record.event_time));
                    }
                    Some((first, other, _)) => {
                        let held = out.hold(record);
                        out.delete_state(record.key.as_bytes().clone());
                        part.width = (part.width + other.width) / 2.0;
                        part.weight =
                            part.weight.or(other.weight).map(|weight| weight + if changed { 1.5 } else { 0.0 });
                        out.emit_held(record, vec![first, held], part);
                    }
                },
                Task::Paint => {
                    let limit = if changed { -0.5 } else { 1.5 };
                    part.colour = if part.width > limit { "gold" } else { "grey" }.to_owned();
                    out.emit(record, part);
                }
            }
        }
        Ok(())
    }

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        self.waiting = entries.into_iter().map(|(key, state)| (key, serde_json::from_slice(&state).unwrap())).collect();
        Ok(())
    }

    fn flush(&mut self, out: &mut Emitter<'_, Part>) -> Result<(), StageError> {
        self.waiting.keys().for_each(|key| out.delete_state(key.clone()));
        for (held, _, at) in self.waiting.drain().map(|(_, waiting)| waiting) {
            out.drop_held([held], at);
        }
        Ok(())
    }
}

impl StageKind for Work {
    const KIND: &'static str = "work";
    type Config = WorkConfig;
    type Stage = WorkStage;

    fn open(config: WorkConfig) -> Result<Self, StageError> {
        Ok(Self(config))
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> WorkStage {
        WorkStage { config: self.0.clone(), waiting: HashMap::new() }
    }
}

struct Bin;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BinConfig {}

impl Sink for Bin {
    fn resume(&mut self, _note: Option<&str>) -> Result<(), StageError> {
        Ok(())
    }

    fn write(&mut self, _records: &[Message]) -> Result<(), StageError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        Ok(None)
    }
}

impl SinkKind for Bin {
    const KIND: &'static str = "bin";
    type Config = BinConfig;

    fn open(_: BinConfig) -> Result<Self, StageError> {
        Ok(Self)
    }
}

static REGISTRY: Registry = Registry {
    sources: &[SourceDef::of::<Parts>()],
    stages: &[StageDef::of::<Work>()],
    sinks: &[SinkDef::of::<Bin>()],
};

/// What changes in a plant, and in which window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    pub scale: Option<u64>,
    pub pair: Option<u64>,
    pub paint: Option<u64>,
}

/// A pipeline over some windows; `source` and `monitor` are further lines of TOML.
pub fn plan(changes: Changes, seed: u64, first: u64, windows: u64, source: &str, monitor: &str) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plant.toml");
    let stage = |name: &str, input: &str, at: Option<u64>| {
        let changes = at.map_or_else(String::new, |at| format!("changes_at = {at}\n"));
        format!("[stages.{name}]\nkind = \"work\"\ninputs = [\"{input}\"]\ntask = \"{name}\"\n{changes}")
    };
    let text = format!(
        "[pipeline]\nname = \"plant\"\n\
         [sources.parts]\nkind = \"parts\"\nseed = {seed}\nfirst = {first}\nwindows = {windows}\n{source}\n\
         {}{}{}\
         [sinks.bin]\nkind = \"bin\"\ninputs = [\"paint\"]\n\
         [monitor]\nwindow = \"1s\"\n{monitor}\n",
        stage("scale", "parts", changes.scale),
        stage("pair", "scale", changes.pair),
        stage("paint", "pair", changes.paint),
    );
    std::fs::write(&file, text).unwrap();
    Plan::load(&file, &[], &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Shows some part.
pub fn show_one(visit: &mut dyn SignalVisitor) {
    Part { number: 0, width: 0.0, weight: None, colour: "red".to_owned() }.signals(visit);
}

pub fn temporary() -> Arc<dyn Broker> {
    Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap())
}

/// What the nodes of a run count on.
pub fn bins(plan: &Plan, baseline: &Baseline) -> Monitoring {
    let nodes = plan.sources.iter().chain(&plan.stages).filter_map(|node| baseline.node(&node.name));
    let bins = |node: &driftline_monitor::NodeBaseline| Bins {
        input: Arc::clone(&node.input),
        output: Arc::clone(&node.output),
    };
    Monitoring { bins: nodes.map(|node| (node.name.clone(), bins(node))).collect(), ..Monitoring::default() }
}

pub fn run(plan: &Plan, broker: &Arc<dyn Broker>, monitoring: Monitoring) -> Report {
    run_until(plan, broker, monitoring, false, future::pending())
}

/// Runs a plant until it is asked to stop.
pub fn run_until(
    plan: &Plan,
    broker: &Arc<dyn Broker>,
    monitoring: Monitoring,
    durable: bool,
    shutdown: impl Future<Output = ()>,
) -> Report {
    create_topics(&**broker, plan, Retention::default()).unwrap();
    let options = RunOptions { durable, monitoring, ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let metrics = Arc::new(Metrics::new(plan));
    let run = driftline_runtime::run(plan, &REGISTRY, Arc::clone(broker), metrics, options, shutdown);
    runtime.block_on(run).unwrap()
}

pub fn show(node: &Node, value: &Bytes, visit: &mut dyn SignalVisitor) -> Result<(), String> {
    let signals = REGISTRY.stage(node.kind).map(|def| def.signals);
    let signals = signals.or_else(|| REGISTRY.source(node.kind).map(|def| def.signals)).unwrap();
    signals(value, visit).map_err(|error| error.to_string())
}

/// Builds the baseline of a plant over its first windows, healthy.
pub fn baseline(changes: Changes, windows: u64) -> Baseline {
    let (broker, plan) = (temporary(), plan(changes, 1, 0, windows, "", ""));
    run(&plan, &broker, Monitoring::default());
    build(&*broker, &plan, &[], &show).unwrap()
}

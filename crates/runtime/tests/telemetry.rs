//! What a run tells to the outside, as a collector and a scraper see it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod collector;

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use driftline_broker::{Broker, Embedded, EmbeddedConfig, FetchLimit, Retention};
use driftline_pipeline::Plan;
use driftline_runtime::{
    Metrics, Report, RunOptions, Telemetry, create_topics, kinds,
    telemetry::{METRICS, Metric, MetricKind, prometheus_label},
};
use driftline_stage::{
    CodecError, Emitter, Held, Key, Payload, Record, Registry, Scale, SchemaId, Signal, SignalVisitor, Sink, SinkDef,
    SinkKind, Source, SourceBatch, SourceDef, SourceKind, SourceStatus, Stage, StageDef, StageError, StageKind,
    Timestamp,
};
use driftline_types::{Message, StageName, TopicPartition, wire};
use opentelemetry_proto::tonic::{
    metrics::v1::metric::Data,
    trace::v1::{Span, span::SpanKind},
};
use serde::Deserialize;

use collector::{Collector, Told};

/// What no exported byte may hold, as key, value or reason.
const SECRET: &str = "zebra";

/// A text with a length. Each holds the secret.
#[derive(Clone, Debug)]
struct Text(String);

static LENGTH: Signal = Signal::number("text.length", "By", "Length.", Scale::Linear { lo: 0.0, hi: 100.0 });
static DIGIT: Signal = Signal::number("text.digit", "1", "Last digit, if even.", Scale::Linear { lo: 0.0, hi: 10.0 });

impl Payload for Text {
    const SCHEMA: SchemaId = SchemaId::new("text.v1");
    const CONTENT_TYPE: &'static str = "text/plain";

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::new("value", "other bytes", "UTF-8"))?;
        Ok(Self(text.to_owned()))
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LENGTH, Some(self.0.len() as f64));
        let digit = self.0.bytes().last().map(|b| f64::from(b - b'0'));
        visit.number(&DIGIT, digit.filter(|digit| digit % 2.0 == 0.0));
    }
}

/// `zebra 0`, `zebra 1`, …
struct Texts {
    left: std::ops::Range<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextsConfig {
    count: u64,
}

impl Source for Texts {
    type Output = Text;

    fn restore(&mut self, _entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Text>) -> Result<SourceStatus, StageError> {
        for n in self.left.by_ref().take(50) {
            let key = Key::new(format!("{SECRET}-{}", n % 5));
            out.emit(key, Timestamp::from_millis(n as i64), Text(format!("{SECRET} {n}")));
        }
        Ok(if self.left.is_empty() { SourceStatus::End } else { SourceStatus::More })
    }
}

impl SourceKind for Texts {
    const KIND: &'static str = "texts";
    type Config = TextsConfig;

    fn open(config: TextsConfig, _follow: bool) -> Result<Self, StageError> {
        Ok(Self { left: 0..config.count })
    }
}

/// Passes texts on. What ends in one of the numbers is treated otherwise.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PassConfig {
    reject: Vec<String>,
    fail: Vec<String>,
    drop: Vec<String>,
    /// What is logged before a batch fails.
    mark: String,
}

struct Pass(PassConfig);

impl Stage for Pass {
    type Input = Text;
    type Output = Text;

    fn process(&mut self, batch: &[Record<Text>], out: &mut Emitter<'_, Text>) -> Result<(), StageError> {
        let is_one = |all: &[String], text: &Text| all.iter().any(|end| text.0.ends_with(end.as_str()));
        for record in batch {
            if is_one(&self.0.fail, &record.value) {
                tracing::warn!("about to fail {}", self.0.mark);
                return Err(StageError::record("bad"));
            }
            if is_one(&self.0.reject, &record.value) {
                out.reject(record, "bad");
            } else if !is_one(&self.0.drop, &record.value) {
                out.emit(record, record.value.clone());
            }
        }
        Ok(())
    }
}

impl StageKind for Pass {
    const KIND: &'static str = "pass";
    type Config = PassConfig;
    type Stage = Self;

    fn open(config: PassConfig) -> Result<Self, StageError> {
        Ok(Self(config))
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Makes one text of three.
struct Trio;

#[derive(Default)]
struct TrioStage {
    held: Vec<Held>,
}

impl Stage for TrioStage {
    type Input = Text;
    type Output = Text;

    fn process(&mut self, batch: &[Record<Text>], out: &mut Emitter<'_, Text>) -> Result<(), StageError> {
        for record in batch {
            self.held.push(out.hold(record));
            if self.held.len() == 3 {
                out.emit_held(record, std::mem::take(&mut self.held), record.value.clone());
            }
        }
        Ok(())
    }
}

impl StageKind for Trio {
    const KIND: &'static str = "trio";
    type Config = Nothing;
    type Stage = TrioStage;

    fn open(_config: Nothing) -> Result<Self, StageError> {
        Ok(Self)
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> TrioStage {
        TrioStage::default()
    }
}

/// Forgets what it is given.
struct Nowhere;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Sink for Nowhere {
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

impl SinkKind for Nowhere {
    const KIND: &'static str = "nowhere";
    type Config = Nothing;

    fn open(_config: Nothing) -> Result<Self, StageError> {
        Ok(Self)
    }
}

static REGISTRY: Registry = Registry {
    sources: &[SourceDef::of::<Texts>()],
    stages: &[StageDef::of::<Pass>(), StageDef::of::<Trio>()],
    sinks: &[SinkDef::of::<Nowhere>()],
};

fn plan(count: u64, settings: &str, telemetry: &str) -> Plan {
    let kind = if settings.contains("kind") { "" } else { "kind = \"pass\"" };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.toml");
    let pipeline = format!(
        "[pipeline]\nname = \"texts\"\n[sources.texts]\nkind = \"texts\"\ncount = {count}\n\
         [stages.first]\ninputs = [\"texts\"]\n{kind}\n{settings}\n\
         [stages.second]\nkind = \"pass\"\ninputs = [\"first\"]\n\
         [sinks.out]\nkind = \"nowhere\"\ninputs = [\"second\"]\n[telemetry]\n{telemetry}\n"
    );
    std::fs::write(&file, pipeline).unwrap();
    Plan::load(&file, &[], &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"))
}

struct Ran {
    plan: Plan,
    broker: Arc<dyn Broker>,
    report: Report,
    telemetry: Option<Arc<Telemetry>>,
}

async fn run(plan: Plan) -> Ran {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap());
    create_topics(&*broker, &plan, Retention::default()).unwrap();
    let telemetry = Telemetry::start(&plan).unwrap().map(Arc::new);
    let metrics = Arc::new(Metrics::new(&plan));
    let options = RunOptions { telemetry: telemetry.clone(), ..RunOptions::default() };
    let run = driftline_runtime::run(&plan, &REGISTRY, Arc::clone(&broker), metrics, options, future::pending());
    let report = run.await.unwrap();
    Ran { plan, broker, report, telemetry }
}

impl Ran {
    fn records(&self, node: &str) -> Vec<Message> {
        let topic = self.plan.name.output_topic(&StageName::try_new(node).unwrap());
        let limit = FetchLimit { records: 10_000, bytes: 1 << 30 };
        let read = |n| self.broker.read(&TopicPartition::new(topic.clone(), n), 0, limit).unwrap();
        (0..self.plan.partitions).flat_map(read).collect()
    }
}

#[tokio::test]
async fn a_trace_goes_from_source_to_sink() {
    let collector = Collector::start();
    let settings = "drop = [\"7\"]\nreject = [\"8\"]";
    let ran = run(plan(60, settings, &format!("otlp = \"{}\"\nsampling = 1", collector.url()))).await;
    let last = ran.records("second");
    drop(ran);
    let told = collector.stop();

    let spans = told.spans();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.span_id.clone(), span)).collect();
    let sent = named("send texts.texts");
    assert_eq!(sent.len(), 60);
    assert!(sent.iter().all(|span| span.parent_span_id.is_empty() && span.kind == SpanKind::Producer as i32));
    assert_eq!(sent.iter().map(|span| &span.trace_id).collect::<BTreeSet<_>>().len(), 60, "a trace each");

    let at_sink = named("process texts.second");
    assert_eq!(at_sink.len(), 48, "6 were dropped, 6 rejected");
    for span in &at_sink {
        let mut names = Vec::new();
        let mut at: &Span = span;
        loop {
            names.push(at.name.as_str());
            assert_eq!(at.trace_id, span.trace_id);
            match by_id.get(&at.parent_span_id) {
                Some(parent) => at = parent,
                None => break,
            }
        }
        assert_eq!(names, ["process texts.second", "process texts.first", "process texts.texts", "send texts.texts"]);
        assert!(at.parent_span_id.is_empty());
    }

    // What came last into the log carries the span of the stage that wrote it.
    for record in &last {
        let parent = record.headers.get_str(wire::TRACEPARENT).unwrap();
        let id = parent.split('-').nth(2).unwrap();
        let by = by_id.values().find(|span| hex(&span.span_id) == id).unwrap();
        assert_eq!(by.name, "process texts.first");
        assert!(parent.ends_with("-01"));
    }

    // Each record's span is linked with its batch's, and that with the record's producer.
    for span in named("process texts.texts") {
        let [link] = span.links.as_slice() else { panic!("{:?}", span.links) };
        let batch = by_id[&link.span_id];
        assert_eq!(batch.name, "batch first");
        assert_ne!(batch.trace_id, span.trace_id);
        assert!(batch.links.iter().any(|link| link.span_id == span.parent_span_id), "the batch knows its records");
        let children: BTreeSet<_> =
            spans.iter().filter(|child| child.parent_span_id == batch.span_id).map(|child| &*child.name).collect();
        assert_eq!(children, BTreeSet::from(["poll texts.texts", "commit texts.texts"]));
    }
    let counts: i64 = named("batch first").iter().map(|span| number(span, "messaging.batch.message_count")).sum();
    assert_eq!(counts, 60);

    let rejected: Vec<_> = named("process texts.texts").into_iter().filter(|span| span.status.is_some()).collect();
    let rejected: Vec<_> = rejected.into_iter().filter(|span| span.status.as_ref().unwrap().code == 2).collect();
    assert_eq!(rejected.len(), 6);
    assert!(rejected.iter().all(|span| text(span, "error.type") == "rejected"));
    let span = at_sink[0];
    for (key, value) in [
        ("messaging.system", "driftline"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "texts.second"),
        ("messaging.consumer.group.name", "texts.out"),
        ("pipeline", "texts"),
        ("stage", "out"),
    ] {
        assert_eq!(text(span, key), value);
    }
    nothing_secret(&told);
}

#[tokio::test]
async fn what_is_not_sampled_tells_nothing() {
    let collector = Collector::start();
    let ran = run(plan(300, "", &format!("otlp = \"{}\"\nsampling = 0", collector.url()))).await;
    assert!(ran.records("second").iter().all(|record| record.headers.get(wire::TRACEPARENT).is_none()));
    drop(ran);
    let told = collector.stop();
    assert_eq!(told.spans(), Vec::<Span>::new());
    assert!(told.metrics().next().is_some(), "metrics are told all the same");
}

#[tokio::test]
async fn the_part_that_is_sampled_is_decided_by_trace_id() {
    let collector = Collector::start();
    drop(run(plan(600, "", &format!("otlp = \"{}\"\nsampling = 0.25", collector.url()))).await);
    let told = collector.stop();
    let mut by_trace: BTreeMap<_, u32> = BTreeMap::new();
    let is_record = |span: &&Span| span.name.starts_with("send") || span.name.starts_with("process");
    for span in told.spans().iter().filter(is_record) {
        *by_trace.entry(span.trace_id.clone()).or_default() += 1;
    }
    // Five standard deviations of a binomial draw around 150.
    assert!((97..203).contains(&by_trace.len()), "{}", by_trace.len());
    assert!(by_trace.values().all(|&spans| spans == 4), "a trace is whole");
    for id in by_trace.keys() {
        let low = u64::from_be_bytes(id[8..].try_into().unwrap()) >> 1;
        assert!(low < 1 << 61, "TraceIdRatioBased(0.25) agrees");
    }
}

#[tokio::test]
async fn what_is_made_of_several_records_continues_the_trace_of_one_that_is_sampled() {
    let collector = Collector::start();
    let settings = "kind = \"trio\"\nbatch = { max_records = 2 }";
    let ran = run(plan(300, settings, &format!("otlp = \"{}\"\nsampling = 0.4", collector.url()))).await;
    let trace = |record: &Message| record.headers.get_str(wire::TRACEPARENT).map(|parent| parent[3..35].to_owned());
    let inputs: BTreeMap<String, Message> = ran.records("texts").into_iter().map(|m| (place_of(&m), m)).collect();
    let mut kinds = BTreeSet::new();
    let outputs = ran.records("first");
    for output in &outputs {
        let parts = output.headers.get_str(wire::PARENTS).unwrap().split(',');
        let traces: Vec<_> = parts.filter_map(|id| trace(&inputs[id])).collect();
        match trace(output) {
            Some(own) => assert!(traces.contains(&own)),
            None => assert!(traces.is_empty(), "a trace that was begun goes on"),
        }
        kinds.insert(traces.len().min(2));
    }
    assert_eq!(kinds, BTreeSet::from([0, 1, 2]), "this run shows every case");
    drop(ran);
    let told = collector.stop();
    let spans = told.spans();
    let end_to_end = spans.iter().filter(|span| span.name == "process texts.second");
    assert_eq!(end_to_end.count(), outputs.iter().filter(|output| trace(output).is_some()).count());
    // One link leads to the batch; the others to the parts, which are traces of their own.
    let processed = spans.iter().filter(|span| span.name == "process texts.texts");
    assert!(processed.clone().any(|span| span.links.len() > 1));
    for link in processed.flat_map(|span| &span.links) {
        assert!(spans.iter().any(|span| span.span_id == link.span_id));
    }
}

fn place_of(message: &Message) -> String {
    format!("{}/{}/{}/0", message.topic, message.partition, message.offset)
}

#[tokio::test]
async fn without_telemetry_records_carry_nothing() {
    let ran = run(plan(100, "", "")).await;
    assert!(ran.telemetry.is_none());
    assert!(ran.records("second").iter().all(|record| record.headers.get(wire::TRACEPARENT).is_none()));
}

#[tokio::test]
async fn metrics_are_those_of_the_table() {
    let collector = Collector::start();
    let settings = "drop = [\"7\"]\nreject = [\"8\"]\nfail = [\"a 11\"]";
    let telemetry = format!("otlp = \"{}\"\nprometheus = \"127.0.0.1:0\"", collector.url());
    let ran = run(plan(300, settings, &telemetry)).await;
    let address = ran.telemetry.as_ref().unwrap().address().unwrap();
    let page = get(address, "/metrics");
    assert_eq!(get(address, "/healthz").1, "ok\n");
    assert_eq!(get(address, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(address, "/other").0, 404);
    let node = ran.report.node("first").unwrap().clone();
    drop(ran);
    let told = collector.stop();

    let mut found = BTreeMap::new();
    for metric in told.metrics() {
        let row = METRICS.iter().find(|row| row.name == metric.name).unwrap_or_else(|| panic!("{}", metric.name));
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), (row.unit, row.description));
        let (kind_fits, attributes) = points(metric.data.as_ref().unwrap(), row.kind);
        assert!(kind_fits, "{}", metric.name);
        let allowed: BTreeSet<&str> = row.attributes.iter().copied().collect();
        for attribute in attributes {
            assert!(allowed.contains(attribute.as_str()), "{}: {attribute}", metric.name);
            found.entry(row.name).or_insert_with(BTreeSet::new).insert(attribute);
        }
        found.entry(row.name).or_default();
    }
    for row in METRICS {
        let told = found.get(row.name).unwrap_or_else(|| panic!("{} is not told", row.name));
        let missing: Vec<_> = row.attributes.iter().filter(|&&name| !told.contains(name)).collect();
        // No commit fails here.
        let excused = row.name == "messaging.client.operation.duration" && missing == [&"error.type"];
        assert!(missing.is_empty() || excused, "{}: {missing:?}", row.name);
    }

    // The endpoint serves the same.
    let is_ours = |name: &str| name != "target_info";
    let series: BTreeSet<String> = page.1.lines().filter(|line| !line.starts_with('#')).map(series_of).collect();
    let expected: BTreeSet<String> = METRICS.iter().flat_map(Metric::prometheus_series).collect();
    assert_eq!(series.into_iter().filter(|name| is_ours(name)).collect::<BTreeSet<_>>(), expected);
    let label = prometheus_label("messaging.operation.name");
    assert!(page.1.contains(&format!("{label}=\"process\"")));
    let dropped = value(&page.1, "driftline_records_dropped_total", "stage=\"first\"");
    assert_eq!(dropped, node.metrics.dropped as f64);
    assert_eq!(value(&page.1, "driftline_records_rejected_total", "stage=\"first\""), node.metrics.rejected as f64);
    assert_eq!(value(&page.1, "messaging_client_consumed_messages_total", "stage=\"first\""), 300.0);
    let failed = page.1.lines().find(|line| line.contains("error_type=\"record\"") && line.contains("_count"));
    assert!(failed.is_some(), "failures are told by their class");
    nothing_secret(&told);
    assert!(!page.1.contains(SECRET));
}

#[tokio::test]
async fn signals_of_each_side_are_told() {
    let ran = run(plan(100, "drop = [\"7\"]", "prometheus = \"127.0.0.1:0\"")).await;
    let page = get(ran.telemetry.as_ref().unwrap().address().unwrap(), "/metrics").1;
    let of = |name: &str, stage: &str, direction: &str, signal: &str| {
        let labels = page.lines().filter(|line| line.contains(&format!("direction=\"{direction}\"")));
        let labels = labels.filter(|line| line.contains(&format!("signal=\"{signal}\"")));
        value(&labels.collect::<Vec<_>>().join("\n"), name, &format!("stage=\"{stage}\""))
    };
    assert_eq!(of("driftline_signal_values_total", "first", "input", "text.length"), 100.0);
    assert_eq!(of("driftline_signal_values_total", "first", "output", "text.length"), 90.0);
    assert_eq!(of("driftline_signal_missing_total", "first", "input", "text.digit"), 50.0);
    assert_eq!(of("driftline_signal_values_total", "first", "output", "text.digit"), 50.0);
    // 10 of 7 bytes and 90 of 8; of the last digits those that are even.
    assert!((of("driftline_signal_mean", "first", "input", "text.length") - 7.9).abs() < 1e-6);
    assert!((of("driftline_signal_mean", "texts", "output", "text.digit") - 4.0).abs() < 1e-6);
}

#[tokio::test]
async fn logs_carry_the_ids_of_their_trace() {
    use tracing_subscriber::layer::SubscriberExt;
    let collector = Collector::start();
    let telemetry = format!("otlp = \"{}\"\nsampling = 1", collector.url());
    let plan = plan(60, "fail = [\"a 11\"]\nmark = \"here\"", &telemetry);
    let telemetry = Arc::new(Telemetry::start(&plan).unwrap().unwrap());
    let lines = Lines::default();
    let writer = lines.clone();
    let text = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
    // Stages log from threads of their own.
    let subscriber = tracing_subscriber::registry().with(text).with(telemetry.log_layer());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap());
    create_topics(&*broker, &plan, Retention::default()).unwrap();
    let metrics = Arc::new(Metrics::new(&plan));
    let options = RunOptions { telemetry: Some(telemetry), ..RunOptions::default() };
    driftline_runtime::run(&plan, &REGISTRY, broker, metrics, options, future::pending()).await.unwrap();
    let told = collector.stop();

    let batches: BTreeSet<_> =
        told.spans().iter().filter(|span| span.name == "batch first").map(|span| span.span_id.clone()).collect();
    let logs = told.logs();
    let ours: Vec<_> = logs
        .iter()
        .filter(|log| log.body.as_ref().is_some_and(|body| format!("{body:?}").contains("about to fail here")))
        .collect();
    assert!(!ours.is_empty());
    assert!(ours.iter().all(|log| batches.contains(&log.span_id) && log.trace_id.len() == 16));
    let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = written.lines().find(|line| line.contains("about to fail here")).unwrap();
    assert!(line.contains(&format!("\"span_id\":\"{}\"", hex(&ours[0].span_id))), "{line}");
    nothing_secret(&told);
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_taken_address_is_told_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = plan(1, "", &format!("prometheus = \"{}\"", taken.local_addr().unwrap()));
    let error = Telemetry::start(&plan).err().unwrap();
    assert_eq!(error.to_string(), format!("telemetry.prometheus: cannot listen on {}", taken.local_addr().unwrap()));
}

#[tokio::test]
async fn a_process_is_not_ready_before_its_nodes_are() {
    let plan = plan(1, "", "prometheus = \"127.0.0.1:0\"");
    let telemetry = Telemetry::start(&plan).unwrap().unwrap();
    let address = telemetry.address().unwrap();
    assert_eq!(get(address, "/readyz"), (503, "starting\n".to_owned()));
    assert_eq!(get(address, "/healthz").0, 200);
}

#[tokio::test]
async fn a_monitor_by_itself_is_ready_once_it_tells_how_things_stand() {
    let plan = plan(1, "", "prometheus = \"127.0.0.1:0\"");
    let telemetry = Telemetry::start(&plan).unwrap().unwrap();
    let address = telemetry.address().unwrap();
    assert_eq!(get(address, "/readyz").0, 503);
    telemetry.monitor(1, 20_000.0, 3);
    assert_eq!(get(address, "/readyz"), (200, "ready\n".to_owned()));
    telemetry.monitor(0, 0.0, 2);
    let page = get(address, "/metrics").1;
    let of = |name: &str| value(&page, name, "pipeline=\"texts\"");
    assert_eq!(of("driftline_monitor_alarms"), 0.0);
    assert_eq!(of("driftline_monitor_evidence"), 0.0);
    assert_eq!(of("driftline_monitor_windows_total"), 5.0, "windows add up");
}

#[tokio::test]
async fn a_collector_that_is_away_stops_nothing() {
    // A port that was free a moment ago.
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run(plan(200, "", &format!("otlp = \"http://{away}\"\nsampling = 1"))).await;
    assert_eq!(ran.report.node("out").unwrap().metrics.read, 200);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_the_end_up_for_two_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = format!("otlp = \"http://{}\"\nsampling = 1", silent.local_addr().unwrap());
    let ran = run(plan(200, "", &otlp)).await;
    let started = Instant::now();
    drop(ran.telemetry);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

fn nothing_secret(told: &Told) {
    assert!(!told.bytes.is_empty());
    let holds = |bytes: &Vec<u8>| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(!told.bytes.iter().any(holds));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a opentelemetry_proto::tonic::common::v1::any_value::Value {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()).unwrap_or_else(|| panic!("{key}: {span:?}"))
}

fn text(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => text.clone(),
        other => panic!("{key}: {other:?}"),
    }
}

fn number(span: &Span, key: &str) -> i64 {
    match attribute(span, key) {
        opentelemetry_proto::tonic::common::v1::any_value::Value::IntValue(number) => *number,
        other => panic!("{key}: {other:?}"),
    }
}

/// Says whether the data of a metric are of its kind, and names the attributes of all points.
fn points(data: &Data, kind: MetricKind) -> (bool, BTreeSet<String>) {
    let keys = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        attributes.iter().map(|attribute| attribute.key.clone()).collect::<Vec<_>>()
    };
    match data {
        Data::Sum(sum) => {
            let counter = kind == MetricKind::Counter && sum.is_monotonic;
            let up_down = kind == MetricKind::UpDownCounter && !sum.is_monotonic;
            (counter || up_down, sum.data_points.iter().flat_map(|point| keys(&point.attributes)).collect())
        }
        Data::Gauge(gauge) => {
            (kind == MetricKind::Gauge, gauge.data_points.iter().flat_map(|point| keys(&point.attributes)).collect())
        }
        Data::Histogram(histogram) => {
            let fits = |bounds: &[f64]| matches!(kind, MetricKind::Histogram(expected) if expected == bounds);
            let fit = histogram.data_points.iter().all(|point| fits(&point.explicit_bounds));
            (fit, histogram.data_points.iter().flat_map(|point| keys(&point.attributes)).collect())
        }
        _ => (false, BTreeSet::new()),
    }
}

fn series_of(line: &str) -> String {
    line.split(['{', ' ']).next().unwrap().to_owned()
}

/// Reads the value of the one series with this name and label.
fn value(page: &str, name: &str, label: &str) -> f64 {
    let mut lines = page.lines().filter(|line| series_of(line) == name && line.contains(label));
    let line = lines.next().unwrap_or_else(|| panic!("{name} {label}"));
    assert_eq!(lines.next(), None);
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: driftline\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

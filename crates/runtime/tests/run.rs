//! The runtime on the embedded broker: every record ends somewhere, once, whatever goes wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    future::{self, Future},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use driftline_broker::{
    Broker, BrokerError, Committed, Embedded, EmbeddedConfig, FetchLimit, Member, OffsetCommit, Poll, Producer,
    Retention, TopicDescription, TopicSpec, Unit,
};
use driftline_pipeline::Plan;
use driftline_runtime::{Metrics, Report, RunError, RunOptions, create_topics, kinds, profiles::Profiles};
use driftline_stage::{
    CodecError, Emitter, Held, Key, Payload, Record, Registry, Scale, SchemaId, Signal, SignalVisitor, Sink, SinkDef,
    SinkKind, Source, SourceBatch, SourceDef, SourceKind, SourceStatus, Stage, StageDef, StageError, StageKind,
    Timestamp,
};
use driftline_stats::{ProfileBody, References, Window};
use driftline_types::{GroupId, Headers, Message, Offset, Outgoing, StageName, Topic, TopicPartition, wire};
use serde::Deserialize;

/// A number; its key is the number modulo 7.
#[derive(Clone, Debug, PartialEq)]
struct Number(u64);

/// A number with this bit is written with so many bytes after it.
const SWOLLEN: u64 = 1 << 40;
const SWELLING: usize = 200 << 10;

static VALUE: Signal = Signal::number("number.value", "1", "The number.", Scale::Linear { lo: 0.0, hi: 1_000.0 });

impl Payload for Number {
    const SCHEMA: SchemaId = SchemaId::new("number.v1");
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        out.put_u64(self.0);
        if self.0 & SWOLLEN != 0 {
            out.put_bytes(0, SWELLING);
        }
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let bytes = bytes.as_ref().try_into();
        bytes.map(|b| Self(u64::from_be_bytes(b))).map_err(|_| CodecError::new("value", "other bytes", "8 bytes"))
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&VALUE, Some(self.0 as f64));
    }
}

fn key_of(n: u64) -> Key {
    Key::new((n % 7).to_string())
}

/// Counts from 0 to `count`, after inputs of some sizes that are no numbers. Some numbers are swollen.
struct Counter {
    next: u64,
    count: u64,
    refused: Vec<usize>,
    swell: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CounterConfig {
    count: u64,
    #[serde(default)]
    refused: Vec<usize>,
    #[serde(default)]
    swell: Vec<u64>,
}

impl Source for Counter {
    type Output = Number;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        if let [(_, value)] = entries.as_slice() {
            self.next = u64::from_be_bytes(value.as_ref().try_into().unwrap());
        }
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Number>) -> Result<SourceStatus, StageError> {
        if self.next == 0 {
            for size in self.refused.drain(..) {
                out.reject(key_of(0), vec![b'x'; size], "found letters, allowed is a number");
            }
        }
        for _ in 0..50 {
            if self.next == self.count {
                return Ok(SourceStatus::End);
            }
            let number = if self.swell.contains(&self.next) { self.next | SWOLLEN } else { self.next };
            out.emit(key_of(self.next), Timestamp::from_millis(self.next as i64 * 10), Number(number));
            self.next += 1;
            out.put_state("next", Bytes::copy_from_slice(&self.next.to_be_bytes()));
        }
        Ok(SourceStatus::More)
    }
}

impl SourceKind for Counter {
    const KIND: &'static str = "counter";
    type Config = CounterConfig;

    fn open(config: CounterConfig, _follow: bool) -> Result<Self, StageError> {
        Ok(Self { next: 0, count: config.count, refused: config.refused, swell: config.swell })
    }
}

/// What the sum stage does at certain numbers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SumConfig {
    reject: Vec<u64>,
    /// Rejected with a reason that is larger than a message may be.
    large: Vec<u64>,
    fail: Vec<u64>,
    panic: Vec<u64>,
    transient: Vec<u64>,
    fatal: Vec<u64>,
    /// Added as others are, with a sum that is swollen.
    swell: Vec<u64>,
    /// Kept to the end, and then written as they are.
    hold: Vec<u64>,
    /// Names the counters of this run.
    run: String,
}

/// The running sum of each key, as keyed state.
struct Sum(SumConfig);

struct SumStage {
    config: SumConfig,
    sums: HashMap<Bytes, u64>,
    held: Vec<(Record<Number>, Held)>,
}

/// How often a transient or fatal error was raised, by run and number.
static RAISED: Mutex<BTreeMap<(String, u64), u32>> = Mutex::new(BTreeMap::new());

fn first_time(run: &str, n: u64) -> bool {
    let mut raised = RAISED.lock().unwrap();
    let times = raised.entry((run.to_owned(), n)).or_default();
    *times += 1;
    *times == 1
}

impl Stage for SumStage {
    type Input = Number;
    type Output = Number;

    fn process(&mut self, batch: &[Record<Number>], out: &mut Emitter<'_, Number>) -> Result<(), StageError> {
        for record in batch {
            let n = record.value.0;
            if self.config.reject.contains(&n) {
                out.reject(record, format!("value: found {n}, allowed others"));
                continue;
            }
            if self.config.large.contains(&n) {
                out.reject(record, "x".repeat(200 << 10));
                continue;
            }
            assert!(!self.config.panic.contains(&n), "cannot bear {n}");
            if self.config.fail.contains(&n) {
                return Err(StageError::record(format!("cannot add {n}")));
            }
            if self.config.transient.contains(&n) && first_time(&self.config.run, n) {
                return Err(StageError::transient("not now"));
            }
            if self.config.fatal.contains(&n) && first_time(&self.config.run, n) {
                return Err(StageError::fatal("out of order"));
            }
            if self.config.hold.contains(&n) {
                self.held.push((record.clone(), out.hold(record)));
                continue;
            }
            let sum = self.sums.entry(record.key.as_bytes().clone()).or_default();
            *sum += n;
            out.put_state(record.key.as_bytes().clone(), Bytes::copy_from_slice(&sum.to_be_bytes()));
            // Odd sums are dropped.
            if sum.is_multiple_of(2) {
                let swelling = if self.config.swell.contains(&n) { SWOLLEN } else { 0 };
                out.emit(record, Number(*sum | swelling));
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Emitter<'_, Number>) -> Result<(), StageError> {
        for (record, held) in self.held.drain(..) {
            let swelling = if self.config.swell.contains(&record.value.0) { SWOLLEN } else { 0 };
            out.emit_held(&record, vec![held], Number(record.value.0 | swelling));
        }
        Ok(())
    }

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let entries = entries.into_iter();
        self.sums = entries.map(|(key, sum)| (key, u64::from_be_bytes(sum.as_ref().try_into().unwrap()))).collect();
        Ok(())
    }
}

impl StageKind for Sum {
    const KIND: &'static str = "sum";
    type Config = SumConfig;
    type Stage = SumStage;

    fn open(config: SumConfig) -> Result<Self, StageError> {
        Ok(Self(config))
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> SumStage {
        SumStage { config: self.0.clone(), sums: HashMap::new(), held: Vec::new() }
    }
}

/// Keeps what it is given under the name of the run, all of a call or nothing.
struct Keep {
    run: String,
    refuse: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepConfig {
    run: String,
    #[serde(default)]
    refuse: Vec<u64>,
}

static KEPT: Mutex<BTreeMap<String, Vec<(String, u64)>>> = Mutex::new(BTreeMap::new());

impl Sink for Keep {
    fn resume(&mut self, note: Option<&str>) -> Result<(), StageError> {
        let length = note.map_or(0, |note| note.parse().unwrap());
        KEPT.lock().unwrap().entry(self.run.clone()).or_default().truncate(length);
        Ok(())
    }

    fn write(&mut self, records: &[Message]) -> Result<(), StageError> {
        let mut new = Vec::new();
        for record in records {
            let key = String::from_utf8(record.key.as_ref().unwrap().to_vec()).unwrap();
            let n = Number::decode(record.value.as_ref().unwrap()).unwrap().0;
            if self.refuse.contains(&n) {
                return Err(StageError::record(format!("cannot keep {n}")));
            }
            new.push((key, n));
        }
        KEPT.lock().unwrap().entry(self.run.clone()).or_default().extend(new);
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        Ok(Some(KEPT.lock().unwrap()[&self.run].len().to_string()))
    }
}

impl SinkKind for Keep {
    const KIND: &'static str = "keep";
    type Config = KeepConfig;

    fn open(config: KeepConfig) -> Result<Self, StageError> {
        Ok(Self { run: config.run, refuse: config.refuse })
    }
}

static REGISTRY: Registry = Registry {
    sources: &[SourceDef::of::<Counter>()],
    stages: &[StageDef::of::<Sum>()],
    sinks: &[SinkDef::of::<Keep>()],
};

/// A pipeline of all three, with the sum stage's own settings in TOML.
fn plan(run: &str, count: u64, settings: &str) -> Plan {
    plan_with(run, &format!("count = {count}"), settings, "")
}

/// The same with the own settings of each.
fn plan_with(run: &str, source: &str, stage: &str, sink: &str) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("numbers.toml");
    let text = format!(
        "[pipeline]\nname = \"numbers\"\npartitions = 3\n\
         [sources.counter]\nkind = \"counter\"\n{source}\n\
         [stages.sum]\nkind = \"sum\"\ninputs = [\"counter\"]\nrun = \"{run}\"\nbatch = {{ max_records = 16 }}\n{stage}\n\
         [sinks.keep]\nkind = \"keep\"\ninputs = [\"sum\"]\nrun = \"{run}\"\n{sink}\n\
         [monitor]\nwindow = \"1s\"\n"
    );
    std::fs::write(&file, text).unwrap();
    Plan::load(&file, &[], &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"))
}

async fn run(plan: &Plan, broker: &Arc<dyn Broker>, shutdown: impl Future<Output = ()>) -> Result<Report, RunError> {
    create_topics(&**broker, plan, Retention::default()).unwrap();
    let metrics = Arc::new(Metrics::new(plan));
    let options = RunOptions { durable: true, ..RunOptions::default() };
    driftline_runtime::run(plan, &REGISTRY, Arc::clone(broker), metrics, options, shutdown).await
}

fn temporary() -> Arc<dyn Broker> {
    Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap())
}

/// The even running sums of each key over the numbers that are left.
fn expected(count: u64, without: &[u64]) -> BTreeMap<String, Vec<u64>> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    let mut out: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for n in (0..count).filter(|n| !without.contains(n)) {
        let sum = sums.entry(n % 7).or_default();
        *sum += n;
        if sum.is_multiple_of(2) {
            out.entry((n % 7).to_string()).or_default().push(*sum);
        }
    }
    out
}

fn kept(run: &str) -> BTreeMap<String, Vec<u64>> {
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (key, value) in KEPT.lock().unwrap().get(run).cloned().unwrap_or_default() {
        by_key.entry(key).or_default().push(value);
    }
    by_key
}

fn name(node: &str) -> StageName {
    StageName::try_new(node).unwrap()
}

fn all_of(broker: &dyn Broker, plan: &Plan, topic: &Topic) -> Vec<Message> {
    let limit = FetchLimit { records: 1_000, bytes: 1 << 20 };
    let read = |partition| broker.read(&TopicPartition::new(topic.clone(), partition), 0, limit).unwrap();
    (0..plan.partitions).flat_map(read).collect()
}

fn dead_letters(broker: &dyn Broker, plan: &Plan, node: &str) -> Vec<Message> {
    all_of(broker, plan, &plan.name.dead_letter_topic(&name(node)))
}

fn number(message: &Message) -> u64 {
    Number::decode(message.value.as_ref().unwrap()).unwrap().0
}

/// The number of records that the profiles of the log count, by node and side.
fn profiled(broker: &dyn Broker, plan: &Plan) -> BTreeMap<(String, String), u64> {
    let whole = Window { start: Timestamp::from_millis(0), millis: 0 };
    let profiles = Profiles::read(broker, &plan.name, &References::default(), Some(whole)).unwrap();
    assert!(profiles.unreadable.is_empty(), "{:?}", profiles.unreadable);
    let mut seen = BTreeMap::new();
    for profile in profiles.merged.values() {
        let n = match &profile.body {
            ProfileBody::Input(set) | ProfileBody::Output(set) => set.signal("number.value").unwrap().total(),
            ProfileBody::Joint(joint) => joint.total(),
        };
        seen.insert((profile.key.stage.to_string(), profile.body.direction().to_string()), n);
    }
    seen
}

fn balanced(report: &Report, read: u64) {
    let node = report.node("sum").unwrap();
    let m = &node.metrics;
    assert_eq!(m.read, read);
    assert_eq!(m.read, m.used + m.dropped + m.rejected + m.held as u64, "{m:?}");
}

#[tokio::test]
async fn every_record_arrives_once_and_in_order() {
    let (broker, plan) = (temporary(), plan("all", 2_000, ""));
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    assert_eq!(kept("all"), expected(2_000, &[]));
    balanced(&report, 2_000);
    assert!(report.node("sum").unwrap().metrics.dropped > 0);
}

#[tokio::test]
async fn profiles_count_every_record_once() {
    let (broker, plan) = (temporary(), plan("profiles", 1_500, "reject = [4, 700]"));
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    let seen = profiled(&*broker, &plan);
    let written = report.node("sum").unwrap().metrics.written;
    let of = |stage: &str, side: &str| seen[&(stage.to_owned(), side.to_owned())];
    assert_eq!(of("counter", "output"), 1_500);
    assert_eq!(of("sum", "input"), 1_500);
    assert_eq!(of("sum", "output"), written);
    assert_eq!(of("sum", "joint"), 1_498, "each record that was not rejected has one output or none");
}

#[tokio::test]
async fn bad_records_become_dead_letters_and_the_rest_goes_on() {
    let (broker, plan) = (temporary(), plan("bad", 600, "reject = [5]\nfail = [100, 101, 599]\npanic = [333]"));
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    let bad = [5, 100, 101, 333, 599];
    assert_eq!(kept("bad"), expected(600, &bad));
    balanced(&report, 600);
    let letters = dead_letters(&*broker, &plan, "sum");
    let mut found: Vec<u64> = letters.iter().map(number).collect();
    found.sort_unstable();
    assert_eq!(found, bad);
    for letter in &letters {
        let n = number(letter);
        let reason = letter.headers.get_str(wire::ERROR_REASON).unwrap();
        assert!(reason.contains(&n.to_string()), "{reason}");
        // Byte for byte what was read, and the added headers.
        let offset: u64 = letter.headers.get_str(wire::ERROR_OFFSET).unwrap().parse().unwrap();
        let place = TopicPartition::new(plan.name.output_topic(&plan.sources[0].name), letter.partition);
        let limit = FetchLimit { records: 1, bytes: 1 << 20 };
        let original = broker.read(&place, offset, limit).unwrap().remove(0);
        assert_eq!((&letter.key, &letter.value), (&original.key, &original.value));
        let mut headers = letter.headers.clone();
        headers.retain(|name| !name.starts_with(wire::ERROR_PREFIX));
        assert_eq!(headers, original.headers);
    }
}

#[tokio::test]
async fn an_input_that_is_no_record_keeps_its_head_if_its_topic_has_no_room_for_it() {
    let config = EmbeddedConfig { max_message_bytes: 100 << 10, ..EmbeddedConfig::default() };
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(config).unwrap());
    let plan = plan_with("large", "count = 200\nrefused = [10, 204800, 81920, 307200]", "", "");
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    assert_eq!(kept("large"), expected(200, &[]));
    assert_eq!(report.node("counter").unwrap().metrics.rejected, 4);
    let letters = dead_letters(&*broker, &plan, "counter");
    let told: Vec<(usize, &str)> = letters
        .iter()
        .map(|letter| (letter.value.as_ref().unwrap().len(), letter.headers.get_str(wire::ERROR_REASON).unwrap()))
        .collect();
    let whole = "found letters, allowed is a number";
    let head = format!("{whole}; of its value the first 65536 bytes are kept");
    assert_eq!(told, [(10, whole), (65_536, head.as_str()), (81_920, whole), (65_536, head.as_str())]);
}

/// The numbers of dead letters in the place of records for which the topic of `node` has no room.
fn too_large(broker: &dyn Broker, plan: &Plan, node: &str) -> Vec<u64> {
    let topic = plan.name.output_topic(&name(node)).to_string();
    let number = |letter: Message| {
        let header = |name| letter.headers.get_str(name);
        let reason = header(wire::ERROR_REASON).unwrap();
        assert!(reason.starts_with("message of ") && reason.contains(&format!(" bytes for {topic}, ")), "{reason}");
        assert_eq!((header(wire::ERROR_STAGE), header(wire::ERROR_TOPIC)), (Some(node), Some(topic.as_str())));
        let value = letter.value.unwrap();
        assert_eq!(value.len(), 64 << 10);
        u64::from_be_bytes(value[..8].try_into().unwrap()) & !SWOLLEN
    };
    let mut numbers: Vec<u64> = dead_letters(broker, plan, node).into_iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Sources and stages go on behind what they have made too large, with its effect on their state; so does the end of a run.
#[tokio::test]
async fn a_record_for_which_its_topic_has_no_room_becomes_a_dead_letter_and_the_rest_goes_on() {
    let config = EmbeddedConfig { max_message_bytes: 100 << 10, ..EmbeddedConfig::default() };
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(config).unwrap());
    let (source, stage) = ("count = 600\nswell = [7, 308]", "swell = [14, 15, 141]\nhold = [141, 147]");
    let plan = plan_with("swollen", source, stage, "");
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    assert_eq!(too_large(&*broker, &plan, "counter"), [7, 308]);
    let source = &report.node("counter").unwrap().metrics;
    assert_eq!((source.written, source.rejected), (598, 2));

    let mut expected = expected(600, &[7, 308, 141, 147]);
    // Of 0 + 14 and of 1 + 8 + 15; the last at the end of the run.
    let sums = [14, 24, 141];
    assert_eq!(too_large(&*broker, &plan, "sum"), sums);
    for sums_of_key in expected.values_mut() {
        sums_of_key.retain(|sum| !sums.contains(sum));
    }
    expected.get_mut("0").unwrap().push(147);
    assert_eq!(kept("swollen"), expected);
    balanced(&report, 598);
    let stage = &report.node("sum").unwrap().metrics;
    assert_eq!((stage.rejected, stage.held), (3, 0));
}

#[tokio::test]
async fn a_commit_that_is_refused_for_one_record_costs_no_record_of_another_partition() {
    // One batch, in which a partition has one record, two or none.
    for count in 2..8 {
        let config = EmbeddedConfig { max_message_bytes: 100 << 10, ..EmbeddedConfig::default() };
        let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(config).unwrap());
        let (run_name, last) = (format!("innocent-{count}"), count - 1);
        let plan = plan(&run_name, count, &format!("large = [{last}]"));
        let report = run(&plan, &broker, future::pending()).await.unwrap();
        assert_eq!(kept(&run_name), expected(count, &[last]));
        assert_eq!(report.node("sum").unwrap().metrics.rejected, 1, "{count}");
        let letters = dead_letters(&*broker, &plan, "sum");
        assert_eq!(letters.iter().map(number).collect::<Vec<_>>(), [last]);
    }
}

#[tokio::test]
async fn what_a_sink_refuses_becomes_dead_letters_and_the_rest_is_kept_once() {
    let broker = temporary();
    let bad: Vec<u64> = expected(600, &[])
        .values()
        .take(2)
        .flat_map(|sums| [sums[0], sums[4], sums[5], sums[sums.len() - 1]])
        .collect();
    let mut before = 0;
    for count in [600, 900] {
        let plan = plan_with("refused", &format!("count = {count}"), "", &format!("refuse = {bad:?}"));
        let report = run(&plan, &broker, future::pending()).await.unwrap();
        let mut good = expected(count, &[]);
        let all: usize = good.values().map(Vec::len).sum();
        good.values_mut().for_each(|sums| sums.retain(|sum| !bad.contains(sum)));
        let refused = all - good.values().map(Vec::len).sum::<usize>();
        assert_eq!(kept("refused"), good);
        let letters = dead_letters(&*broker, &plan, "keep");
        assert_eq!(letters.len(), refused);
        for letter in &letters {
            let sum = number(letter);
            assert!(bad.contains(&sum), "{sum}");
            assert_eq!(letter.headers.get_str(wire::ERROR_REASON).unwrap(), format!("cannot keep {sum}"));
            assert_eq!(letter.headers.get_str(wire::ERROR_STAGE), Some("keep"));
        }
        let metrics = &report.node("keep").unwrap().metrics;
        assert_eq!(metrics.rejected, (refused - before) as u64);
        assert_eq!(metrics.read, metrics.used + metrics.rejected);
        before = refused;
    }
    assert!(before >= 8, "{before}");
}

#[tokio::test]
async fn what_is_sent_again_is_read_by_the_node_that_it_names_alone() {
    let (broker, plan) = (temporary(), plan("again", 200, ""));
    run(&plan, &broker, future::pending()).await.unwrap();
    let before = KEPT.lock().unwrap()["again"].clone();
    let seen = profiled(&*broker, &plan);
    let again = |writer: &str, reader: &str, n: u64| {
        let mut headers = Headers::default();
        headers.push(wire::ONLY, reader);
        Outgoing {
            topic: plan.name.output_topic(&name(writer)),
            partition: None,
            key: Some(key_of(n).as_bytes().clone()),
            value: Some(Bytes::copy_from_slice(&n.to_be_bytes())),
            headers,
            timestamp: Timestamp::from_millis(0),
        }
    };
    // The sum of all multiples of 7 below 200, and 14 once more: both are even.
    let sum: u64 = 2_842 + 14;
    let sent = vec![
        again("counter", "other", 2),
        again("counter", "sum", 14),
        again("sum", "other", 1_000),
        again("sum", "keep", 1_001),
    ];
    broker.producer("again").unwrap().send(sent).unwrap();
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    let kept = KEPT.lock().unwrap()["again"].clone();
    assert_eq!(kept[..before.len()], before);
    assert_eq!(kept[before.len()..], [("0".to_owned(), 1_001), ("0".to_owned(), sum)]);
    balanced(&report, 1);
    assert_eq!(report.node("keep").unwrap().metrics.read, 2);
    let side = |side: &str| ("sum".to_owned(), side.to_owned());
    for side in ["input", "output", "joint"].map(side) {
        assert_eq!(profiled(&*broker, &plan)[&side], seen[&side] + 1, "{side:?}");
    }
    // What is made of it is for everybody.
    let named = |message: &Message| message.headers.get(wire::ONLY).is_some();
    let outputs = all_of(&*broker, &plan, &plan.name.output_topic(&name("sum")));
    assert_eq!(outputs.iter().filter(|output| named(output)).count(), 2);
    assert!(outputs.iter().any(|output| number(output) == sum && !named(output)));
    // Who passes it over has read it.
    for (writer, reader) in [("counter", "sum"), ("sum", "keep")] {
        let topic = plan.name.output_topic(&name(writer));
        let ends = broker.describe_topic(&topic).unwrap().unwrap().partitions;
        for (partition, ends) in (0..).zip(ends) {
            let place = TopicPartition::new(topic.clone(), partition);
            let committed = broker.committed(&plan.name.group(&name(reader)), &place).unwrap();
            assert_eq!(committed.map_or(0, |committed| committed.next), ends.high, "{place} by {reader}");
        }
    }
}

#[tokio::test]
async fn a_passing_error_is_repeated_without_loss_or_doubling() {
    let (broker, plan) = (temporary(), plan("transient", 400, "transient = [50, 390]"));
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    assert_eq!(kept("transient"), expected(400, &[]));
    balanced(&report, 400);
}

#[tokio::test]
async fn after_a_fatal_error_the_next_run_goes_on_where_it_stopped() {
    let (broker, plan) = (temporary(), plan("fatal", 900, "fatal = [450]"));
    let error = run(&plan, &broker, future::pending()).await.unwrap_err();
    assert_eq!(error.to_string(), "sum: out of order");
    let report = run(&plan, &broker, future::pending()).await.unwrap();
    assert!(report.node("sum").unwrap().metrics.read < 900, "what was committed is not read again");
    assert_eq!(kept("fatal"), expected(900, &[]));
}

#[tokio::test]
async fn a_run_that_is_stopped_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("stopped", 3_000, "");
    let runs = AtomicU32::new(0);
    loop {
        let broker: Arc<dyn Broker> = Arc::new(open(folder.path()));
        let number = runs.fetch_add(1, Ordering::Relaxed);
        // The first runs are asked to stop while they work; the last is left alone.
        let stop = async {
            if number < 4 {
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
            } else {
                future::pending::<()>().await;
            }
        };
        let report = run(&plan, &broker, stop).await.unwrap();
        if report.end == driftline_runtime::End::Finished {
            break;
        }
    }
    assert_eq!(kept("stopped"), expected(3_000, &[]));
}

/// A broker that can lose the offsets of a group.
struct Forgetful(Embedded);

impl Broker for Forgetful {
    fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError> {
        self.0.create_topic(topic, spec)
    }

    fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError> {
        self.0.describe_topic(topic)
    }

    fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        self.0.topics()
    }

    fn join(&self, group: &GroupId, topics: &[Topic]) -> Result<Box<dyn Member>, BrokerError> {
        self.0.join(group, topics)
    }

    fn producer(&self, name: &str) -> Result<Box<dyn Producer>, BrokerError> {
        self.0.producer(name)
    }

    fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Result<Option<Committed>, BrokerError> {
        self.0.committed(group, partition)
    }

    fn read(&self, partition: &TopicPartition, from: Offset, limit: FetchLimit) -> Result<Vec<Message>, BrokerError> {
        self.0.read(partition, from, limit)
    }

    fn forgets_groups(&self) -> bool {
        true
    }
}

/// As on Kafka after `offsets.retention.minutes` without a member, or where a group was deleted.
#[tokio::test]
async fn a_stage_whose_group_is_forgotten_does_not_count_twice_what_its_state_holds() {
    let broker: Arc<dyn Broker> = Arc::new(Forgetful(Embedded::temporary(EmbeddedConfig::default()).unwrap()));
    let plan = plan("forgotten", 200, "");
    create_topics(&*broker, &plan, Retention::default()).unwrap();
    // Only a key of partition 1 has a state that no offset belongs to.
    let state = |key: &'static [u8], sum: u64| Outgoing {
        topic: plan.name.state_topic(&name("sum")),
        partition: Some(1),
        key: Some(Bytes::from_static(key)),
        value: Some(Bytes::copy_from_slice(&sum.to_be_bytes())),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    };
    broker.producer("before").unwrap().send(vec![state(b"x", 4)]).unwrap();
    let error = run(&plan, &broker, future::pending()).await.unwrap_err().to_string();
    let told =
        "group numbers.sum has no offset for partition 1 of its input, but numbers.sum.state keeps a state of it";
    assert!(error.contains(told) && error.contains("--reset-offsets"), "{error}");
    assert_eq!(kept("forgotten"), BTreeMap::new());
    // Whoever sets the offset has said where to go on.
    let input = plan.name.output_topic(&name("counter"));
    let mut member = broker.join(&plan.name.group(&name("sum")), std::slice::from_ref(&input)).unwrap();
    let limit = FetchLimit { records: 1, bytes: 1 };
    while !matches!(member.poll(limit, Duration::from_millis(10)).unwrap(), Poll::Assigned(_)) {}
    let partition = TopicPartition::new(input, 1);
    let committed = Committed { next: 0, metadata: None };
    member.commit(Unit { outputs: Vec::new(), offsets: vec![OffsetCommit { partition, committed }] }).unwrap();
    drop(member);
    run(&plan, &broker, future::pending()).await.unwrap();
    assert_eq!(kept("forgotten"), expected(200, &[]));
}

fn open(folder: &Path) -> Embedded {
    Embedded::open(folder, EmbeddedConfig::default()).unwrap()
}

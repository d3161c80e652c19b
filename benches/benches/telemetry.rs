//! What telemetry costs: records through a source, a pass-through stage and a sink, with telemetry
//! off and on (1 % of the records traced, metrics and traces sent by OTLP, and a Prometheus
//! endpoint). Rounds alternate, and each round with telemetry is compared with the one before it.
//!
//! ```text
//! cargo bench -p driftline-benches --bench telemetry [-- ROUNDS [RECORDS]]
//! ```
//!
//! The receiver that stands for a collector runs in this process, so its work is counted as well; it
//! reads requests and decodes nothing.

use std::{
    env, fs, future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use driftline_broker::{Broker, Embedded, EmbeddedConfig, Retention};
use driftline_pipeline::{KindSpec, Kinds, Plan, SchemaSpec};
use driftline_runtime::{Limits, Metrics, RunOptions, Telemetry, create_topics};
use driftline_stage::{
    CodecError, Emitter, Key, Payload, Record, Registry, Scale, SchemaId, Signal, SignalVisitor, Sink, SinkDef,
    SinkKind, Source, SourceBatch, SourceDef, SourceKind, SourceStatus, Stage, StageDef, StageError, StageKind,
    Timestamp,
};
use driftline_types::Message;
use serde::Deserialize;

const RECORD_BYTES: usize = 200;

struct Blob(Bytes);

static LENGTH: Signal = Signal::number("blob.length", "By", "Length.", Scale::Log { lo: 1.0, hi: 1e6 });

impl Payload for Blob {
    const SCHEMA: SchemaId = SchemaId::new("blob.v1");
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        Ok(Self(bytes.clone()))
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LENGTH, Some(self.0.len() as f64));
    }
}

struct Blobs {
    value: Bytes,
    left: std::ops::Range<u64>,
}

#[derive(Deserialize)]
struct BlobsConfig {
    count: u64,
}

impl Source for Blobs {
    type Output = Blob;

    fn restore(&mut self, _entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Blob>) -> Result<SourceStatus, StageError> {
        for n in self.left.by_ref().take(256) {
            let key = Key::new(Bytes::copy_from_slice(&(n % 64).to_be_bytes()));
            out.emit(key, Timestamp::from_millis(n as i64), Blob(self.value.clone()));
        }
        Ok(if self.left.is_empty() { SourceStatus::End } else { SourceStatus::More })
    }
}

impl SourceKind for Blobs {
    const KIND: &'static str = "blobs";
    type Config = BlobsConfig;

    fn open(config: BlobsConfig, _follow: bool) -> Result<Self, StageError> {
        Ok(Self { value: Bytes::from(vec![7; RECORD_BYTES]), left: 0..config.count })
    }
}

struct Pass;

#[derive(Deserialize)]
struct Nothing {}

impl Stage for Pass {
    type Input = Blob;
    type Output = Blob;

    fn process(&mut self, batch: &[Record<Blob>], out: &mut Emitter<'_, Blob>) -> Result<(), StageError> {
        for record in batch {
            out.emit(record, Blob(record.value.0.clone()));
        }
        Ok(())
    }
}

impl StageKind for Pass {
    const KIND: &'static str = "pass";
    type Config = Nothing;
    type Stage = Self;

    fn open(_config: Nothing) -> Result<Self, StageError> {
        Ok(Self)
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> Self {
        Self
    }
}

struct Nowhere;

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
    sources: &[SourceDef::of::<Blobs>()],
    stages: &[StageDef::of::<Pass>()],
    sinks: &[SinkDef::of::<Nowhere>()],
};

fn main() {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let rounds: usize = args.next().map_or(7, |arg| arg.parse().expect("a number of rounds"));
    let records: u64 = args.next().map_or(300_000, |arg| arg.parse().expect("a number of records"));
    let collector = receiver();
    let off = plan(records, "");
    let on = plan(records, &format!("otlp = \"http://{collector}\"\nsampling = 0.01\nprometheus = \"127.0.0.1:0\""));
    let (mut cpu, mut clock) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (without, with) = (run(&off), run(&on));
        // The first round fills caches.
        if round > 0 {
            cpu.push(with.cpu / without.cpu);
            clock.push(with.seconds / without.seconds);
            println!(
                "off {:5.2} µs CPU a record, {:7.0} records/s; on {:5.2} µs, {:7.0} records/s; CPU × {:.3}, time × {:.3}",
                without.cpu * 1e6 / records as f64,
                records as f64 / without.seconds,
                with.cpu * 1e6 / records as f64,
                records as f64 / with.seconds,
                with.cpu / without.cpu,
                with.seconds / without.seconds,
            );
        }
    }
    println!("median of {rounds} rounds: CPU × {:.3}, time × {:.3}", median(cpu), median(clock));
}

struct Took {
    cpu: f64,
    seconds: f64,
}

fn run(plan: &Plan) -> Took {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).expect("a log"));
    create_topics(&*broker, plan, Retention { bytes: Some(64 << 20), ms: None }).expect("topics");
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let telemetry = Telemetry::start(plan).expect("telemetry starts").map(Arc::new);
    let options = RunOptions { follow: false, durable: false, limits: Limits::default(), telemetry };
    let metrics = Arc::new(Metrics::new(plan));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = driftline_runtime::run(plan, &REGISTRY, broker, metrics, options, future::pending());
    runtime.block_on(run).expect("the run ends well");
    Took { cpu: cpu_seconds() - cpu, seconds: start.elapsed().as_secs_f64() }
}

fn plan(records: u64, telemetry: &str) -> Plan {
    let blob = Some(SchemaSpec::Exactly(Blob::SCHEMA));
    let spec = |name, input, output, check| KindSpec { name, input, output, paths: &[], check };
    let kinds = Kinds {
        properties: &[],
        sources: vec![spec("blobs", None, blob.clone(), REGISTRY.sources[0].check)],
        stages: vec![spec("pass", blob.clone(), blob, REGISTRY.stages[0].check)],
        sinks: vec![spec("nowhere", Some(SchemaSpec::Any), None, REGISTRY.sinks[0].check)],
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("blobs.toml");
    let text = format!(
        "[pipeline]\nname = \"blobs\"\n[sources.blobs]\nkind = \"blobs\"\ncount = {records}\n\
         [stages.pass]\nkind = \"pass\"\ninputs = [\"blobs\"]\n\
         [sinks.out]\nkind = \"nowhere\"\ninputs = [\"pass\"]\n[telemetry]\n{telemetry}\n"
    );
    fs::write(&file, text).expect("written");
    Plan::load(&file, &[], &kinds).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Takes every request and says that all is well.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || receive(stream));
        }
    });
    address
}

fn receive(stream: TcpStream) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        requests.read_exact(&mut vec![0; length]).ok()?;
        answers
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            .ok()?;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    cpu_time::ProcessTime::now().as_duration().as_secs_f64()
}

//! What monitoring costs: the speech pipeline, and records through a stage that passes them on, without and with a reference
//! and the monitor beside the nodes. Rounds alternate, and each round with the monitor is compared with the one before it.
//! Every signal is counted in both: without a reference on its declared scale.
//!
//! ```text
//! cargo bench -p driftline-benches --bench monitoring [-- ROUNDS [RECORDS [SESSIONS]]]
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark")]

mod blobs;

use std::{env, future, path::Path, sync::Arc, time::Instant};

use driftline_broker::{Broker, Embedded, EmbeddedConfig, Retention};
use driftline_cli::registry::REGISTRY as SHIPPED;
use driftline_monitor::{Alarm, Baseline, Ending, Listener, Service, Settings, Status, build};
use driftline_pipeline::{Override, Plan};
use driftline_runtime::{Companion, Metrics, Monitoring, Nodes, RunOptions, create_topics, kinds};
use driftline_stage::{Registry, operator::Bins};

/// Records of a window of the pass-through stage: 5 windows a second at 100,000 records/s, fifty times as many as by default.
const WINDOW: u64 = 20_000;
/// Windows of its reference.
const HEALTHY: u64 = 64;

fn main() {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let mut number = |usual: u64| args.next().map_or(usual, |arg| arg.parse().expect("a whole number"));
    let (rounds, records, sessions) = (number(7), number(1_000_000), number(300));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blobs.json");
    let windows = format!("[monitor]\nwindow = \"{WINDOW}ms\"\n");
    let baseline = reference(&blobs::plan(WINDOW * HEALTHY, &windows));
    baseline.save(&file).unwrap();
    let off = blobs::plan(records, &windows);
    let on = blobs::plan(records, &format!("{windows}reference = {file:?}\n"));
    compare(["pass-through", "record"], records, rounds, &blobs::REGISTRY, &off, &on);

    let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines");
    let plan = |more: &[String]| {
        let repeat = format!("{{sessions={sessions},seed=2,gain_db=3.0,pitch=0.05,noise_dbfs=-65.0}}");
        let set = [
            "sources.microphone.sessions=16".to_owned(),
            format!("sources.microphone.repeat={repeat}"),
            "sinks.responses.kind=jsonl".to_owned(),
            format!("sinks.responses.path={}", folder.path().join("responses.jsonl").display()),
        ];
        let set: Vec<Override> = set.iter().chain(more).map(|text| text.parse().unwrap()).collect();
        Plan::load(&pipelines.join("speech.toml"), &set, &kinds(&SHIPPED)).unwrap_or_else(|wrong| panic!("{wrong}"))
    };
    let reference = format!("monitor.reference={}", pipelines.join("references/speech.json").display());
    compare(["speech", "session"], sessions, rounds, &SHIPPED, &plan(&[]), &plan(&[reference]));
}

/// Runs a pipeline by turns without and with a monitor, and prints each pair and the medians.
fn compare([name, unit]: [&str; 2], count: u64, rounds: u64, registry: &'static Registry, off: &Plan, on: &Plan) {
    let (mut cpu, mut clock) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (without, with) = (run(registry, off), run(registry, on));
        // The first round fills caches.
        if round > 0 {
            let each = |took: &Took| (took.cpu * 1e6 / count as f64, count as f64 / took.seconds);
            let ((cpu_off, rate_off), (cpu_on, rate_on)) = (each(&without), each(&with));
            println!(
                "{name}: off {cpu_off:.2} µs CPU a {unit}, {rate_off:.0} {unit}s/s; on {cpu_on:.2} µs, {rate_on:.0} {unit}s/s, \
                 {} windows judged; CPU × {:.3}, time × {:.3}",
                with.windows,
                with.cpu / without.cpu,
                with.seconds / without.seconds,
            );
            cpu.push(with.cpu / without.cpu);
            clock.push(with.seconds / without.seconds);
        }
    }
    println!("{name}: median of {rounds} rounds: CPU × {:.3}, time × {:.3}", median(cpu), median(clock));
}

struct Took {
    cpu: f64,
    seconds: f64,
    windows: u64,
}

fn run(registry: &'static Registry, plan: &Plan) -> Took {
    let baseline = plan.monitor.reference.as_ref().map(|file| Arc::new(Baseline::load(file).unwrap()));
    let baseline = baseline.as_ref();
    let broker = log(plan);
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let beside = baseline.map(|baseline| {
        let service = Service::new(Arc::clone(&broker), Settings::of(plan), Arc::clone(baseline));
        Arc::new(Beside { service })
    });
    let monitoring = Monitoring {
        bins: baseline.map(|baseline| baseline.nodes.iter().map(bins).collect()).unwrap_or_default(),
        companion: beside.clone().map(|beside| beside as Arc<dyn Companion>),
        ..Monitoring::default()
    };
    execute(registry, plan, &broker, RunOptions { monitoring, ..RunOptions::default() });
    let (cpu, seconds) = (cpu_seconds() - cpu, start.elapsed().as_secs_f64());
    let windows = beside.map_or(0, |beside| beside.service.look().unwrap().status().windows);
    assert!(baseline.is_none() || windows > 0, "no window was judged");
    Took { cpu, seconds, windows }
}

fn execute(registry: &'static Registry, plan: &Plan, broker: &Arc<dyn Broker>, options: RunOptions) {
    let metrics = Arc::new(Metrics::new(plan));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = driftline_runtime::run(plan, registry, Arc::clone(broker), metrics, options, future::pending());
    runtime.block_on(run).unwrap();
}

fn log(plan: &Plan) -> Arc<dyn Broker> {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap());
    create_topics(&*broker, plan, Retention::default()).unwrap();
    broker
}

/// Builds the reference of the pass-through stage from a run.
fn reference(plan: &Plan) -> Baseline {
    let broker = log(plan);
    execute(&blobs::REGISTRY, plan, &broker, RunOptions::default());
    let built = build(&*broker, plan, &[], &|node, value, visit| {
        let stage = blobs::REGISTRY.stage(node.kind).map(|def| def.signals);
        let signals = stage.or_else(|| blobs::REGISTRY.source(node.kind).map(|def| def.signals)).expect("a known kind");
        signals(value, visit).map_err(|error| error.to_string())
    });
    built.unwrap()
}

fn bins(node: &driftline_monitor::NodeBaseline) -> (driftline_types::StageName, Bins) {
    let (input, output) = (Arc::clone(&node.input), Arc::clone(&node.output));
    (node.name.clone(), Bins { input, output })
}

/// The monitor, as `driftline run` has it.
struct Beside {
    service: Service,
}

impl Companion for Beside {
    fn run(&self, nodes: &Nodes) {
        let ending = || Ending::of(nodes.cut_off(), nodes.finished(), nodes.stopped());
        self.service.run(ending, &Silent).expect("the monitor goes on");
    }
}

struct Silent;

impl Listener for Silent {
    fn alarm(&self, _alarm: &Alarm) {}
    fn judged(&self, _status: &Status) {}
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    cpu_time::ProcessTime::now().as_duration().as_secs_f64()
}

//! What a window costs the monitor: 1,000 signals, each merged from 50 replicas, scored, and fed to both lanes of its detector.
//!
//! `cargo bench --bench monitor`. The memory that the process holds is printed at the end.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use driftline_monitor::{Baseline, Basis, Monitor, NodeBaseline, NodeWindow, ProfileMessage, Series, Settings, What};
use driftline_stats::{
    Profile, ProfileBody, ProfileKey, ProfileSet, Reference, Sample, Scale, ScoreBasis, Signal, SignalVisitor, Window,
};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};

const NODES: usize = 4;
const SIGNALS: usize = 250;
const REPLICAS: usize = 50;
/// Of each replica, in a window.
const RECORDS: usize = 20;
const WINDOWS: usize = 256;
const MILLIS: u64 = 10_000;

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn score(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32
    }
}

fn name(node: usize) -> StageName {
    StageName::try_new(format!("node-{node}")).unwrap()
}

fn signals() -> &'static [Signal] {
    let signal = |at: usize| {
        let name: &'static str = format!("signal.{at:03}").leak();
        Signal::number(name, "1", "A number.", Scale::Linear { lo: 0.0, hi: 1.0 })
    };
    (0..SIGNALS).map(signal).collect::<Vec<_>>().leak()
}

fn set(reference: &Arc<Reference>, signals: &'static [Signal], records: usize, random: &mut Random) -> ProfileSet {
    let mut set = ProfileSet::new(Arc::clone(reference));
    for _ in 0..records {
        set.observe(|visit: &mut dyn SignalVisitor| {
            signals.iter().for_each(|signal| visit.number(signal, Some(random.unit())));
        });
    }
    set
}

fn key(node: usize, start: i64) -> ProfileKey {
    ProfileKey {
        pipeline: PipelineName::try_new("bench").unwrap(),
        stage: name(node),
        version: StageVersion::try_new("v1").unwrap(),
        window: Window { start: Timestamp::from_millis(start), millis: MILLIS },
    }
}

/// The bins that all nodes count on.
fn reference(signals: &'static [Signal], random: &mut Random) -> Arc<Reference> {
    let mut sample = Sample::default();
    for record in 0..1_000 {
        sample.observe(record, |visit: &mut dyn SignalVisitor| {
            signals.iter().for_each(|signal| visit.number(signal, Some(random.unit())));
        });
    }
    Arc::new(sample.fit().unwrap())
}

/// A baseline of sources with a full history, without a log behind it.
fn baseline(signals: &'static [Signal], reference: &Arc<Reference>, random: &mut Random) -> Baseline {
    let windows: Vec<Timestamp> = (0..WINDOWS).map(|at| Timestamp::from_millis(at as i64 * MILLIS as i64)).collect();
    let node = |node: usize, random: &mut Random| {
        let profiles = NodeWindow { output: Some(set(reference, signals, 2_000, random)), ..NodeWindow::default() };
        let series = signals.iter().map(|signal| {
            let what = What::Output(signal.name.to_owned());
            let basis = Basis::Signal(ScoreBasis::new(profiles.signal(&what).unwrap()));
            let scores = (0..basis.len() * WINDOWS).map(|_| random.score()).collect();
            Series { what, least: 1, basis, scores }
        });
        NodeBaseline {
            name: name(node),
            version: StageVersion::try_new("v1").unwrap(),
            inputs: Vec::new(),
            records: 0,
            input: Arc::new(Reference::declared()),
            output: Arc::clone(reference),
            series: series.collect(),
            profiles,
        }
    };
    Baseline {
        pipeline: PipelineName::try_new("bench").unwrap(),
        window_ms: MILLIS,
        records: 0,
        windows,
        nodes: (0..NODES).map(|at| node(at, random)).collect(),
    }
}

/// The messages of a window, from all replicas.
fn window(
    signals: &'static [Signal],
    reference: &Arc<Reference>,
    at: usize,
    random: &mut Random,
) -> Vec<ProfileMessage> {
    let start = (WINDOWS + at) as i64 * MILLIS as i64;
    (0..NODES * REPLICAS)
        .map(|number| {
            let (node, replica) = (number / REPLICAS, number % REPLICAS);
            let body = ProfileBody::Output(set(reference, signals, RECORDS, random));
            ProfileMessage {
                offset: (at * NODES * REPLICAS + number) as u64,
                partition: replica as u32,
                node: Some(name(node)),
                start: Timestamp::from_millis(start),
                value: Bytes::from(Profile { key: key(node, start), body }.encode()),
            }
        })
        .collect()
}

fn resident_mb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1_024)
}

fn bench(criterion: &mut Criterion) {
    let (signals, mut random) = (signals(), Random(7));
    let before = resident_mb();
    let reference = reference(signals, &mut random);
    let baseline = Arc::new(baseline(signals, &reference, &mut random));
    let settings = Settings {
        pipeline: baseline.pipeline.clone(),
        nodes: (0..NODES).map(|node| (name(node), Vec::new())).collect(),
        partitions: REPLICAS as u32,
        window_ms: MILLIS,
        lateness: 6,
        warm_up: 0,
        run_length: 1e12,
        tolerance: 0.02,
        ignore: Vec::new(),
        rules: Vec::new(),
        answers: Default::default(),
    };
    let mut monitor = Monitor::new(settings, baseline);
    let mut at = 0;
    let mut entries: BTreeMap<Bytes, usize> = BTreeMap::new();
    let mut group = criterion.benchmark_group("monitor");
    group.sample_size(20);
    group.bench_function("a window of 1,000 signals from 50 replicas", |bench| {
        bench.iter_batched(
            || {
                at += 1;
                window(signals, &reference, at, &mut random)
            },
            |messages| {
                messages.iter().for_each(|message| monitor.take(message));
                monitor.close_complete();
                for (key, value) in black_box(monitor.take_changes()).0 {
                    entries.insert(key, value.map_or(0, |value| value.len()));
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let state: usize = entries.values().sum();
    println!(
        "{at} windows: state of {} MB; resident {before:?} MB at the start, {:?} MB now",
        state >> 20,
        resident_mb()
    );
}

criterion_group!(benches, bench);
criterion_main!(benches);

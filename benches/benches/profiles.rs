//! What profiles cost: nanoseconds a value and a joint pair, and bytes on the wire.
//!
//! `cargo bench -p driftline-benches --bench profiles`. The bytes are printed first. Values are drawn
//! once, with a fixed seed, and are unordered, so branches and caches see what a stream shows them.
//! Time is CPU time of the thread, so that other work on the machine counts only as far as it shares
//! the core.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Duration};

use cpu_time::ThreadTime;
use criterion::{
    BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use driftline_stats::{
    CategoryProfile, DROPPED, Dictionary, Edges, JointProfile, NumberProfile, Profile, ProfileBody, ProfileKey,
    ProfileSet, Reference, ReferenceId, Sample, Scale, Signal, SignalBins, SignalVisitor, Window,
};
use driftline_types::{Code, PipelineName, StageName, StageVersion, Timestamp};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, LogNormal, Normal, Zipf};

const VALUES: usize = 8192;

static LENGTH: Signal = Signal::number("length", "s", "Length of the audio.", Scale::Log { lo: 0.01, hi: 600.0 });
static LEVEL: Signal = Signal::number("level", "dBFS", "Level.", Scale::Linear { lo: -90.0, hi: 0.0 });
static CLIPPED: Signal = Signal::number("clipping_ratio", "", "Clipped samples.", Scale::Linear { lo: 0.0, hi: 1.0 });
static RATE: Signal = Signal::number("sample_rate", "Hz", "Sample rate.", Scale::Log { lo: 4e3, hi: 192e3 });
static MISSING: Signal = Signal::number("missing_chunks", "", "Gaps.", Scale::Linear { lo: 0.0, hi: 32.0 });
static FORMAT: Signal = Signal::category("format", "Container.");

/// A payload as the speech pipeline has it.
#[derive(Clone)]
struct Audio {
    length: f64,
    level: f64,
    clipped: f64,
    rate: f64,
    missing: Option<f64>,
    format: &'static str,
}

impl Audio {
    const SIGNALS: u64 = 6;

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LENGTH, Some(self.length));
        visit.number(&LEVEL, Some(self.level));
        visit.number(&CLIPPED, Some(self.clipped));
        visit.number(&RATE, Some(self.rate));
        visit.number(&MISSING, self.missing);
        visit.category(&FORMAT, Some(self.format));
    }
}

fn draw<T>(seed: u64, law: impl Distribution<T>, n: usize) -> Vec<T> {
    law.sample_iter(StdRng::seed_from_u64(seed)).take(n).collect()
}

fn lengths(n: usize) -> Vec<f64> {
    draw(1, LogNormal::new(0.8, 0.7).expect("a valid law"), n)
}

fn levels(n: usize) -> Vec<f64> {
    draw(2, Normal::new(-28.0, 8.0).expect("a valid law"), n)
}

fn ranks(seed: u64, n: usize, of: f64) -> Vec<f64> {
    draw(seed, Zipf::new(of, 1.1).expect("a valid law"), n)
}

fn payloads(n: usize) -> Vec<Audio> {
    let (lengths, levels, ranks) = (lengths(n), levels(n), ranks(3, n, 32.0));
    let audio = |i: usize| Audio {
        length: lengths[i],
        level: levels[i],
        clipped: (levels[i] / 100.0 + 0.3).max(0.0),
        rate: if ranks[i] > 1.0 { 16_000.0 } else { 8_000.0 },
        missing: (ranks[i] < 30.0).then_some(ranks[i] - 1.0),
        format: if ranks[i] > 4.0 { "flac" } else { "wav" },
    };
    (0..n).map(audio).collect()
}

/// Pairs as a stage of 32 + 6 input and output codes makes them: near the diagonal, some dropped.
fn pairs(n: usize) -> Vec<(Code, Code)> {
    let edges = Edges::linear(-90.0, 0.0, 32).expect("valid edges");
    let (inputs, noise) = (levels(n), draw(4, Normal::new(0.0, 5.0).expect("a valid law"), n));
    let pair = |(&x, &e): (&f64, &f64)| {
        let output = if e > 8.0 { DROPPED } else { edges.slot(Some(x + e)) as Code };
        (edges.slot(Some(x)) as Code, output)
    };
    inputs.iter().zip(&noise).map(pair).collect()
}

fn numbers(c: &mut Criterion<CpuTime>) {
    let (lengths, levels) = (lengths(VALUES), levels(VALUES));
    let mut group = c.benchmark_group("number");
    group.throughput(Throughput::Elements(VALUES as u64));
    let cases = [
        ("linear-32", Edges::linear(-90.0, 0.0, 32), &levels),
        ("log-32", Edges::log(0.01, 600.0, 32), &lengths),
        ("quantiles-32", Edges::quantiles(&lengths, 32), &lengths),
        ("quantiles-64", Edges::quantiles(&lengths, 64), &lengths),
    ];
    for (name, edges, values) in cases {
        let edges = Arc::new(edges.expect("valid edges"));
        group.bench_with_input(BenchmarkId::from_parameter(name), values, |b, values| {
            let mut profile = NumberProfile::new(edges.clone());
            b.iter(|| {
                for &value in values {
                    profile.observe(black_box(Some(value)));
                }
            });
        });
    }
    group.finish();
}

fn categories(c: &mut Criterion<CpuTime>) {
    let words: Vec<String> = ranks(5, VALUES, 2000.0).iter().map(|rank| format!("query {rank}")).collect();
    let mut group = c.benchmark_group("category");
    group.throughput(Throughput::Elements(VALUES as u64));
    let known = Dictionary::try_new((1..=255).map(|rank| format!("query {rank}"))).expect("a valid dictionary");
    for (name, dictionary) in [("dictionary-255", known), ("all-new", Dictionary::default())] {
        let dictionary = Arc::new(dictionary);
        group.bench_with_input(BenchmarkId::from_parameter(name), &words, |b, words| {
            let mut profile = CategoryProfile::new(dictionary.clone());
            b.iter(|| {
                for word in words {
                    profile.observe(black_box(Some(word)));
                }
            });
        });
    }
    group.finish();
}

fn sets(c: &mut Criterion<CpuTime>) {
    let payloads = payloads(VALUES);
    let mut group = c.benchmark_group("payload");
    group.throughput(Throughput::Elements(VALUES as u64 * Audio::SIGNALS));
    group.bench_function("six-signals", |b| {
        let mut set = ProfileSet::new(Arc::new(Reference::declared()));
        b.iter(|| {
            for payload in &payloads {
                black_box(set.observe(|visit| black_box(payload).signals(visit)));
            }
        });
    });
    group.finish();
}

/// What the cell of a whole record costs: the same payloads on a fitted reference with it and without.
fn records(c: &mut Criterion<CpuTime>) {
    let payloads = payloads(VALUES);
    let mut sample = Sample::default();
    payloads.iter().zip(0u64..).for_each(|(payload, hash)| sample.observe(hash, |visit| payload.signals(visit)));
    let with = sample.fit().expect("a sample that fits");
    let without = Reference::try_new(with.signals().clone()).expect("the same bins");
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(VALUES as u64));
    for (name, reference) in [("with-cell", with), ("without-cell", without)] {
        let mut set = ProfileSet::new(Arc::new(reference));
        group.bench_function(name, |b| {
            b.iter(|| {
                for payload in &payloads {
                    black_box(set.observe(|visit| black_box(payload).signals(visit)));
                }
            });
        });
    }
    group.finish();
}

fn embeddings(c: &mut Criterion<CpuTime>) {
    static MEANING: Signal = Signal::embedding("meaning", "Meaning.", 384);
    let components = draw(6, Normal::new(0.0f32, 0.05).expect("a valid law"), 384 * 256);
    let mut group = c.benchmark_group("embedding");
    group.throughput(Throughput::Elements(256));
    group.bench_function("384-dims", |b| {
        let mut set = ProfileSet::new(Arc::new(Reference::declared()));
        b.iter(|| {
            for vector in components.chunks_exact(384) {
                set.embedding(&MEANING, black_box(Some(vector)));
            }
        });
    });
    group.finish();
}

fn joints(c: &mut Criterion<CpuTime>) {
    let pairs = pairs(VALUES);
    let mut group = c.benchmark_group("joint");
    group.throughput(Throughput::Elements(VALUES as u64));
    group.bench_function("pairs", |b| {
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        b.iter(|| {
            for &(input, output) in &pairs {
                joint.observe(black_box(input), black_box(output));
            }
        });
    });
    group.finish();
}

fn wire(c: &mut Criterion<CpuTime>) {
    let payloads = payloads(10_000);
    let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    for payload in &payloads {
        set.observe(|visit| payload.signals(visit));
    }
    let profile = profile(ProfileBody::Output(set));
    let bytes = profile.encode();
    let mut group = c.benchmark_group("wire");
    group.bench_function("encode", |b| b.iter(|| black_box(&profile).encode()));
    group.bench_function("decode", |b| b.iter(|| Profile::decode(black_box(&bytes), &Default::default())));
    let mut sum = profile.clone();
    group.bench_function("merge", |b| b.iter(|| sum.merge(black_box(&profile))));
    group.finish();
}

fn profile(body: ProfileBody) -> Profile {
    let key = ProfileKey {
        pipeline: PipelineName::try_new("speech").expect("a valid name"),
        stage: StageName::try_new("vad").expect("a valid name"),
        version: StageVersion::try_new("0123456789abcdef").expect("a valid version"),
        window: Window { start: Timestamp::from_millis(1_760_000_000_000), millis: 10_000 },
    };
    Profile { key, body }
}

/// Prints the bytes of each signal and of the joint, for a record, a small and a large window.
fn sizes(_: &mut Criterion<CpuTime>) {
    let fitted = Edges::quantiles(&lengths(10_000), 32).expect("valid edges");
    let signals = BTreeMap::from([("length".to_owned(), SignalBins::Number(fitted.into()))]);
    let references = [Reference::declared(), Reference::try_new(signals).expect("a valid reference")];
    let header = profile(ProfileBody::Output(ProfileSet::new(Arc::new(Reference::declared())))).encode().len();
    println!("bytes on the wire; {header} more for what a profile describes");
    println!("{:<28}{:>10}{:>10}{:>10}{:>12}", "records", 1, 100, 10_000, 1_000_000);
    for reference in references.map(Arc::new) {
        for only in 0..Audio::SIGNALS as usize {
            let mut row = Vec::new();
            let mut name = "";
            for n in [1, 100, 10_000, 1_000_000] {
                let mut set = ProfileSet::new(reference.clone());
                for payload in payloads(n) {
                    payload.signals(&mut Only { signal: only, seen: 0, name: &mut name, set: &mut set });
                }
                let id = if reference.id() == ReferenceId::DECLARED { 0 } else { 8 };
                row.push(profile(ProfileBody::Output(set)).encode().len() - header - id);
            }
            if reference.signals().is_empty() || reference.signals().contains_key(name) {
                let on = if reference.signals().is_empty() { "declared" } else { "quantiles" };
                println!("{:<28}{:>10}{:>10}{:>10}{:>12}", format!("{name} ({on})"), row[0], row[1], row[2], row[3]);
            }
        }
    }
    let joint = |n: usize| {
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        pairs(n).into_iter().for_each(|(input, output)| joint.observe(input, output));
        profile(ProfileBody::Joint(joint)).encode().len() - header
    };
    println!("{:<28}{:>10}{:>10}{:>10}{:>12}", "joint", joint(1), joint(100), joint(10_000), joint(1_000_000));
}

/// Passes one signal of a payload on.
struct Only<'a> {
    signal: usize,
    seen: usize,
    name: &'a mut &'static str,
    set: &'a mut ProfileSet,
}

impl Only<'_> {
    fn is_it(&mut self, signal: &'static Signal) -> bool {
        self.seen += 1;
        let it = self.seen == self.signal + 1;
        if it {
            *self.name = signal.name;
        }
        it
    }
}

impl SignalVisitor for Only<'_> {
    fn number(&mut self, signal: &'static Signal, value: Option<f64>) {
        if self.is_it(signal) {
            self.set.number(signal, value);
        }
    }

    fn category(&mut self, signal: &'static Signal, value: Option<&str>) {
        if self.is_it(signal) {
            self.set.category(signal, value);
        }
    }

    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>) {
        if self.is_it(signal) {
            self.set.embedding(signal, value);
        }
    }
}

/// CPU time of the thread, shown as criterion shows time.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = ThreadTime;
    type Value = Duration;

    fn start(&self) -> ThreadTime {
        ThreadTime::now()
    }

    fn end(&self, started: ThreadTime) -> Duration {
        started.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = sizes, numbers, categories, sets, records, embeddings, joints, wire
}
criterion_main!(benches);

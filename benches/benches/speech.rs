//! The speech pipeline as a whole: audio seconds a core second, and the time from the end of speech
//! to its results with 20 live sessions.
//!
//! `cargo bench -p driftline-benches --bench speech` (about a minute; recordings are the bundled
//! ones, repeated).

#![allow(clippy::unwrap_used, reason = "a benchmark")]

mod bundled;

use std::{fs, path::Path, sync::Arc};

use driftline_broker::{Broker, FetchLimit};
use driftline_payloads::{AudioChunk, SpeechSegment};
use driftline_pipeline::Plan;
use driftline_runtime::Report;
use driftline_stage::Payload;
use driftline_types::{Message, RecordId, Topic, TopicPartition, wire};
use serde_json::Value;

const LIVE: usize = 20;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    throughput(folder.path());
    live(folder.path());
}

/// Copies the bundled recordings until there are `count`.
fn recordings(folder: &Path, count: usize) {
    fs::create_dir(folder).unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/samples/voice-search");
    let mut files: Vec<_> = fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (number, file) in files.iter().cycle().take(count).enumerate() {
        let name = format!("{number:04}.{}", file.extension().unwrap().to_str().unwrap());
        fs::copy(file, folder.join(name)).unwrap();
    }
}

fn run(path: &Path, output: &Path, more: &[&str]) -> (Plan, Arc<dyn Broker>, Report) {
    let mut set = vec![
        format!("sources.microphone.path={}", path.display()),
        "sinks.responses.kind=jsonl".to_owned(),
        format!("sinks.responses.path={}", output.display()),
    ];
    set.extend(more.iter().map(|&text| text.to_owned()));
    bundled::run("speech", &set)
}

fn read_all(broker: &dyn Broker, topic: &Topic) -> Vec<Message> {
    let limit = FetchLimit { records: usize::MAX, bytes: usize::MAX };
    let partitions = broker.describe_topic(topic).unwrap().unwrap().spec.partitions;
    let read = |partition| broker.read(&TopicPartition::new(topic.clone(), partition), 0, limit).unwrap();
    (0..partitions).flat_map(read).collect()
}

fn throughput(folder: &Path) {
    let input = folder.join("many");
    recordings(&input, 400);
    let (plan, broker, report) = run(&input, &folder.join("many.jsonl"), &["sources.microphone.sessions=64"]);
    let chunks = read_all(&*broker, &plan.name.output_topic(&plan.sources[0].name));
    let samples: usize =
        chunks.iter().map(|message| AudioChunk::decode(message.value.as_ref().unwrap()).unwrap().samples.len()).sum();
    let audio = samples as f64 / 16_000.0;
    println!(
        "throughput: {audio:.0} s of audio, {:.2} s of CPU: {:.0} audio seconds a core second; {:.2} s by the clock; peak memory {:.0} MB",
        report.cpu_seconds,
        audio / report.cpu_seconds,
        report.seconds,
        report.peak_memory as f64 / 1e6
    );
}

fn live(folder: &Path) {
    let (input, output) = (folder.join("live"), folder.join("live.jsonl"));
    recordings(&input, LIVE * 8);
    let sessions = format!("sources.microphone.sessions={LIVE}");
    let (plan, broker, report) = run(&input, &output, &[&sessions, "sources.microphone.pace=realtime"]);
    let chunk_end = |id: &RecordId| {
        let place = TopicPartition::new(id.topic.clone(), id.partition);
        let message = broker.read(&place, id.offset, FetchLimit { records: 1, bytes: 1 }).unwrap().remove(0);
        let chunk = AudioChunk::decode(message.value.as_ref().unwrap()).unwrap();
        (chunk.start + chunk.samples.len() as u64) as f64 / 16.0
    };
    // From the end of a segment to the end of the chunk that made it certain, by session and number.
    let mut waited = std::collections::BTreeMap::new();
    for message in read_all(&*broker, &plan.name.output_topic(&plan.stages[0].name)) {
        let segment = SpeechSegment::decode(message.value.as_ref().unwrap()).unwrap();
        let cause: RecordId = message.headers.get_str(wire::CE_ID).unwrap().parse().unwrap();
        let wait = (chunk_end(&cause) - segment.end_ms as f64).max(0.0);
        waited.insert((segment.session.clone(), segment.segment), wait);
    }
    let mut latencies: Vec<f64> = fs::read_to_string(output)
        .unwrap()
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let session = line["session"].as_str().unwrap().to_owned();
            let segment = line["segment"].as_u64().unwrap() as u32;
            waited[&(session, segment)] + line["timings_ms"]["total"].as_f64().unwrap()
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |quantile: f64| latencies[((latencies.len() - 1) as f64 * quantile) as usize];
    println!(
        "live: {LIVE} sessions, {} utterances, end of speech to results p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms; \
         {:.0} % of one core; peak memory {:.0} MB",
        latencies.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        100.0 * report.cpu_seconds / report.seconds,
        report.peak_memory as f64 / 1e6
    );
}

//! Throughput of the embedded broker through one pass-through member, on two threads: a producer
//! writes topic `a`; a member polls it and commits each batch to topic `b` together with its
//! offsets. Each record is therefore stored twice.
//!
//! The producer is at most [`AHEAD_BYTES`] ahead, as a source under backpressure is. The disk's own
//! speed is measured in the same run, because every byte stored must end there.
//!
//! ```text
//! cargo bench -p driftline-benches --bench broker [-- FOLDER [LOAD]]
//! ```
//!
//! `FOLDER` (default: the system's temporary folder) is where the log is written; `LOAD` limits the
//! run to the loads whose name begins so, for example `200 B`.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use driftline_broker::{
    Broker, Cleanup, Committed, Durability, Embedded, EmbeddedConfig, FetchLimit, OffsetCommit, Poll, Retention,
    TopicSpec, Unit,
};
use driftline_types::{GroupId, Headers, Message, Outgoing, Timestamp, Topic, TopicPartition};

/// How far the producer may be ahead of the member.
const AHEAD_BYTES: usize = 16 << 20;
/// What a topic keeps.
const KEPT_BYTES: u64 = 256 << 20;
/// What a unit holds at most.
const UNIT: FetchLimit = FetchLimit { records: 2000, bytes: 1 << 20 };

struct Load {
    name: &'static str,
    record_bytes: usize,
    headers: usize,
    total_bytes: usize,
    unit: FetchLimit,
    durability: Durability,
}

fn main() {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let folder = args.next().map_or_else(env::temp_dir, PathBuf::from);
    let only = args.next().unwrap_or_default();
    println!("raw disk, sequential write of 1 GiB and fdatasync: {:.0} MB/s", disk_mb_per_s(&folder, 1 << 30));
    let process = Durability::Process;
    let small = FetchLimit { records: 10, ..UNIT };
    let loads = [
        Load {
            name: "32 KB",
            record_bytes: 32 << 10,
            headers: 0,
            total_bytes: 512 << 20,
            unit: UNIT,
            durability: process,
        },
        Load { name: "200 B", record_bytes: 200, headers: 0, total_bytes: 256 << 20, unit: UNIT, durability: process },
        Load {
            name: "200 B, 9 headers",
            record_bytes: 200,
            headers: 9,
            total_bytes: 256 << 20,
            unit: UNIT,
            durability: process,
        },
        Load {
            name: "200 B, 10 a unit",
            record_bytes: 200,
            headers: 0,
            total_bytes: 64 << 20,
            unit: small,
            durability: process,
        },
        Load {
            name: "32 KB, power",
            record_bytes: 32 << 10,
            headers: 0,
            total_bytes: 512 << 20,
            unit: UNIT,
            durability: Durability::Power,
        },
    ];
    for load in loads.iter().filter(|load| load.name.starts_with(&only)) {
        for _ in 0..3 {
            pass_through(load, &folder);
        }
    }
    println!("raw disk, sequential write of 1 GiB and fdatasync: {:.0} MB/s", disk_mb_per_s(&folder, 1 << 30));
}

fn pass_through(load: &Load, folder: &Path) {
    let folder = tempfile::tempdir_in(folder).expect("a folder for the log");
    let opening = Instant::now();
    let config = EmbeddedConfig { durability: load.durability, ..EmbeddedConfig::default() };
    let broker = Embedded::open(folder.path(), config).expect("an empty log opens");
    let [a, b] = ["a", "b"].map(|name| Topic::try_new(name).expect("a topic"));
    let cleanup = Cleanup::Delete(Retention { bytes: Some(KEPT_BYTES), ms: None });
    for topic in [&a, &b] {
        broker.create_topic(topic, &TopicSpec { partitions: 1, cleanup: cleanup.clone() }).expect("a topic");
    }
    let opening = opening.elapsed();

    let records = load.total_bytes / load.record_bytes;
    let a_unit = load.unit.records.min(load.unit.bytes / load.record_bytes);
    let (written, ahead) = mpsc::sync_channel::<usize>(AHEAD_BYTES / (a_unit * load.record_bytes));
    let start = Instant::now();
    let cpu = cpu_seconds();
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        let (broker, a) = (&broker, &a);
        scope.spawn(move || {
            let mut producer = broker.producer("test").expect("a producer");
            let value = noise(load.record_bytes);
            let mut sent = 0;
            while sent < records {
                let n = a_unit.min(records - sent);
                producer.send((0..n).map(|_| message(a, &value, load.headers)).collect()).expect("stored");
                written.send(n).expect("the member reads to the end");
                sent += n;
            }
        });
        let group = GroupId::try_new("pass-through").expect("a group");
        let mut member = broker.join(&group, std::slice::from_ref(a)).expect("the topic exists");
        let place = TopicPartition::new(a.clone(), 0);
        let (mut done, mut allowed) = (0, 0);
        while done < records {
            let polled = Instant::now();
            let Poll::Messages(messages) = member.poll(load.unit, Duration::from_secs(60)).expect("polled") else {
                continue;
            };
            let last = messages.last().map_or(0, |message| message.offset);
            done += messages.len();
            let copy = |Message { key, value, headers, timestamp, .. }: Message| Outgoing {
                topic: b.clone(),
                partition: None,
                key,
                value,
                headers,
                timestamp,
            };
            let committed = Committed { next: last + 1, metadata: None };
            let offsets = vec![OffsetCommit { partition: place.clone(), committed }];
            let unit = Unit { outputs: messages.into_iter().map(copy).collect(), offsets };
            member.commit(unit).expect("stored");
            while allowed < done {
                allowed += ahead.recv().expect("the producer writes to the end");
            }
            slowest = slowest.max(polled.elapsed());
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    drop(broker);
    println!(
        "{:>18}: {:7.0} MB/s {:9.0} records/s; {:.1} CPU s a GB, {:.1} cores busy; slowest batch {:4.0} ms; opened in {:3.0} ms; {:4.0} MB kept on disk; peak memory {:.0} MB",
        load.name,
        (records * load.record_bytes) as f64 / seconds / 1e6,
        records as f64 / seconds,
        cpu * 1e9 / (records * load.record_bytes) as f64,
        cpu / seconds,
        slowest.as_secs_f64() * 1e3,
        opening.as_secs_f64() * 1e3,
        folder_mb(folder.path()),
        peak_memory_mb(),
    );
}

fn message(topic: &Topic, value: &Bytes, headers: usize) -> Outgoing {
    const NAMES: [&str; 9] = [
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "content-type",
        "driftline-parents",
        "driftline-versions",
        "driftline-ingested",
    ];
    let mut buffer = BytesMut::new();
    let mut all = Headers::writer(&mut buffer);
    for name in NAMES.into_iter().take(headers) {
        all.push(name, b"speech.microphone/0/123456/0");
    }
    let key = Some(Bytes::from_static(b"session-0001"));
    let timestamp = Timestamp::from_millis(0);
    Outgoing {
        topic: topic.clone(),
        partition: None,
        key,
        value: Some(value.clone()),
        headers: all.finish(),
        timestamp,
    }
}

/// Bytes that do not compress (xorshift64).
fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(byte).take(len).collect()
}

fn disk_mb_per_s(folder: &Path, bytes: usize) -> f64 {
    let block = noise(1 << 20);
    let mut file = tempfile::tempfile_in(folder).expect("a file");
    let start = Instant::now();
    for _ in 0..bytes / block.len() {
        file.write_all(&block).expect("written");
    }
    file.sync_data().expect("synced");
    bytes as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn folder_mb(folder: &Path) -> f64 {
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => folder_mb(&entry.path()),
        _ => entry.metadata().map_or(0.0, |file| file.len() as f64 / 1e6),
    };
    fs::read_dir(folder).map_or(0.0, |entries| entries.flatten().map(size).sum())
}

/// Processor time of this process, user and system (Linux; 0 elsewhere).
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in brackets: utime and stime are the 12th and 13th field, in 1/100 s.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Highest resident memory of this process so far (Linux; 0 elsewhere).
fn peak_memory_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

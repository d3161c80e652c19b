//! Kills a process in the middle of its work, again and again, and looks for lost, repeated and
//! disordered records.
//!
//! The process is this binary itself, started as `child FOLDER RECORDS SEED`. It opens the log in a
//! folder; one thread writes records to topic `a`, another passes them on to topic `b`, each batch
//! with its offsets. It says on standard output how far it is, which is how the parent chooses a
//! moment: by the records seen, never by time. The parent answers each line with a byte, and the
//! child is never more than [`AHEAD`] batches ahead of the answers, so it cannot finish unseen. Between two kills the parent opens the log and
//! checks that `b` is exactly the committed beginning of `a`.
//!
//! `cargo test --test crash` runs 10,000 records with 5 kills, `cargo test --test crash -- --ignored`
//! 100,000 with 20. The seed is printed; `DRIFTLINE_SEED` sets it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env,
    hash::{BuildHasher, RandomState},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use driftline_broker::{
    Broker, Cleanup, Committed, Embedded, EmbeddedConfig, FetchLimit, OffsetCommit, Poll, Retention, TopicSpec, Unit,
};
use driftline_types::{GroupId, Headers, Message, Outgoing, Timestamp, Topic, TopicPartition};

const PARTITIONS: u32 = 3;
/// How many batches the child may be ahead of what the parent has read.
const AHEAD: usize = 16;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", folder, records, seed] => child(Path::new(folder), records.parse().unwrap(), seed.parse().unwrap()),
        // What the test runner asks of a binary that has no tests of its own kind.
        ref flags if flags.contains(&"--list") => {}
        ref flags if flags.iter().any(|flag| matches!(*flag, "--ignored" | "--include-ignored")) => parent(100_000, 20),
        _ => parent(10_000, 5),
    }
    ExitCode::SUCCESS
}

/// A xorshift generator: the test needs repeatable choices, not good ones.
struct Choices(u64);

impl Choices {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn topic(name: &str) -> Topic {
    Topic::try_new(name).unwrap()
}

fn group() -> GroupId {
    GroupId::try_new("pass-through").unwrap()
}

/// The key and value of a record, by its number.
fn content(number: u64) -> (Bytes, Bytes) {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + (number * 37 % 400) as usize, number as u8);
    (Bytes::from(format!("key-{}", number % 11)), value.into())
}

fn written(broker: &Embedded, topic: &Topic) -> u64 {
    broker.describe_topic(topic).unwrap().map_or(0, |topic| topic.partitions.iter().map(|ends| ends.high).sum())
}

fn child(folder: &Path, records: u64, seed: u64) {
    say("opening 0");
    let broker = Embedded::open(folder, EmbeddedConfig::default()).unwrap();
    let (a, b) = (topic("a"), topic("b"));
    let spec = TopicSpec { partitions: PARTITIONS, cleanup: Cleanup::Delete(Retention::default()) };
    broker.create_topic(&a, &spec).unwrap();
    broker.create_topic(&b, &spec).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| produce(&broker, &a, records, Choices(seed)));
        pass_through(&broker, &a, &b, records, Choices(seed ^ 1 << 63));
    });
    say(&format!("done {records}"));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Writes the records that are still missing: units are whole, so their number says which.
fn produce(broker: &Embedded, a: &Topic, records: u64, mut choices: Choices) {
    let mut producer = broker.producer("test").unwrap();
    let mut next = written(broker, a);
    while next < records {
        let end = records.min(next + 1 + choices.below(200));
        let message = |number| {
            let (key, value) = content(number);
            Outgoing {
                topic: a.clone(),
                partition: None,
                key: Some(key),
                value: Some(value),
                headers: Headers::default(),
                timestamp: Timestamp::from_millis(number as i64),
            }
        };
        producer.send((next..end).map(message).collect()).unwrap();
        next = end;
    }
}

fn pass_through(broker: &Embedded, a: &Topic, b: &Topic, records: u64, mut choices: Choices) {
    let mut member = broker.join(&group(), std::slice::from_ref(a)).unwrap();
    let mut done = written(broker, b);
    let mut answers = std::io::stdin().lock();
    let mut unanswered = 0;
    while done < records {
        if unanswered == AHEAD {
            answers.read_exact(&mut [0]).unwrap();
            unanswered -= 1;
        }
        let limit = FetchLimit { records: 1 + choices.below(150) as usize, bytes: 1 << 20 };
        let Poll::Messages(messages) = member.poll(limit, Duration::from_secs(60)).unwrap() else { continue };
        done += messages.len() as u64;
        let mut offsets: Vec<OffsetCommit> = Vec::new();
        for Message { partition, offset, .. } in &messages {
            let committed = Committed { next: offset + 1, metadata: None };
            offsets.retain(|commit| commit.partition.partition != *partition);
            offsets.push(OffsetCommit { partition: TopicPartition::new(a.clone(), *partition), committed });
        }
        let copy = |message: Message| Outgoing {
            topic: b.clone(),
            partition: None,
            key: message.key,
            value: message.value,
            headers: message.headers,
            timestamp: message.timestamp,
        };
        member.commit(Unit { outputs: messages.into_iter().map(copy).collect(), offsets }).unwrap();
        say(&format!("passed {done}"));
        unanswered += 1;
    }
}

fn parent(records: u64, kills: u64) {
    let seed =
        env::var("DRIFTLINE_SEED").map_or_else(|_| RandomState::new().hash_one(0) | 1, |seed| seed.parse().unwrap());
    println!("crash: {records} records, {kills} kills, DRIFTLINE_SEED={seed}");
    let mut choices = Choices(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for kill in 0..kills {
        // The kills spread over the run; every fifth hits a process that is still opening the log.
        let share = records / (kills + 1);
        let after = if kill % 5 == 4 { 0 } else { kill * share + choices.below(share) };
        let killed = run(folder.path(), records, choices.below(u64::MAX), Some(after));
        assert!(killed, "the process finished before kill {kill}");
        seen.push(check(folder.path(), records));
    }
    let killed = run(folder.path(), records, choices.below(u64::MAX), None);
    assert!(!killed);
    assert_eq!(check(folder.path(), records), records, "lost");
    println!("crash: killed after {seen:?} records passed on; lost 0, repeated 0, in order");
}

/// Runs the child, and kills it once it says it has passed `kill_after` records on. Returns whether
/// it was killed.
fn run(folder: &Path, records: u64, seed: u64, kill_after: Option<u64>) -> bool {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["child", folder.to_str().unwrap(), &records.to_string(), &(seed | 1).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        let passed: u64 = line.split_whitespace().last().unwrap().parse().unwrap();
        if !killed && kill_after.is_some_and(|after| passed >= after) {
            // SIGKILL: the process gets no chance to do anything more.
            child.kill().unwrap();
            killed = true;
        }
        // After the kill, and after its last batch, the child no longer listens.
        let _ = answers.write_all(&[0]);
    }
    let status = child.wait().unwrap();
    assert_eq!(status.success(), !killed, "{status}");
    killed
}

/// Opens the log and checks that `b` is the committed beginning of `a`, and `a` a beginning of the
/// records. Returns how many were passed on.
fn check(folder: &Path, records: u64) -> u64 {
    let broker = Embedded::open(folder, EmbeddedConfig::default()).unwrap();
    let (a, b) = (topic("a"), topic("b"));
    if broker.describe_topic(&b).unwrap().is_none() {
        return 0;
    }
    let mut numbers = Vec::new();
    let mut passed = 0;
    for partition in 0..PARTITIONS {
        let (from, to) = (read(&broker, &a, partition), read(&broker, &b, partition));
        let committed = broker.committed(&group(), &TopicPartition::new(a.clone(), partition)).unwrap();
        assert_eq!(to.len() as u64, committed.unwrap_or_default().next, "outputs and offset of partition {partition}");
        for (original, copy) in from.iter().zip(&to) {
            assert_eq!((&original.key, &original.value), (&copy.key, &copy.value), "offset {}", copy.offset);
        }
        passed += to.len() as u64;
        let before = numbers.len();
        for message in from {
            let value = message.value.unwrap();
            let number = u64::from_le_bytes(*value.first_chunk().unwrap());
            assert_eq!((message.key.unwrap(), value), content(number));
            numbers.push(number);
        }
        assert!(numbers[before..].is_sorted(), "partition {partition} is out of order");
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "topic a has gaps or repeats");
    assert!(numbers.len() as u64 <= records);
    passed
}

fn read(broker: &Embedded, topic: &Topic, partition: u32) -> Vec<Message> {
    let place = TopicPartition::new(topic.clone(), partition);
    let mut messages: Vec<Message> = Vec::new();
    loop {
        let next = messages.last().map_or(0, |last| last.offset + 1);
        let more = broker.read(&place, next, FetchLimit { records: 5_000, bytes: 8 << 20 }).unwrap();
        assert!(more.iter().map(|m| m.offset).eq((next..).take(more.len())), "gap after offset {next}");
        if more.is_empty() {
            return messages;
        }
        messages.extend(more);
    }
}

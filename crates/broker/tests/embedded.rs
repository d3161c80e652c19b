//! The embedded broker: the laws of the contract, and what only it promises.

#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
#[path = "embedded/immediate.rs"]
mod immediate;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use driftline_broker::{
    Broker, BrokerError, Cleanup, Committed, Embedded, EmbeddedConfig, FetchLimit, OffsetCommit, Poll, Retention,
    TopicSpec, Unit,
};
use driftline_types::{GroupId, Headers, Message, Outgoing, Timestamp, Topic, TopicPartition};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::contract::{Subject, groups, log};

/// A folder in memory where the system has one: opening a log waits for the disk a dozen times, and
/// nothing here is about the disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(folder: &Path) -> Result<Embedded, BrokerError> {
    Embedded::open(folder, EmbeddedConfig::default())
}

struct OnDisk {
    folder: TempDir,
    broker: Option<Embedded>,
}

impl Subject for OnDisk {
    type Broker = Embedded;

    const DENSE: bool = true;

    fn start() -> Self {
        let folder = folder();
        let broker = open(folder.path()).unwrap();
        Self { folder, broker: Some(broker) }
    }

    fn broker(&self) -> &Embedded {
        self.broker.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.broker = None;
        self.broker = Some(open(self.folder.path()).unwrap());
    }
}

macro_rules! laws {
    ($($module:ident :: $law:ident),* $(,)?) => {
        $(#[test]
        fn $law() {
            $module::$law::<OnDisk>();
        })*
    };
}

contract::each_law!(laws);
laws! { immediate::readers_see_units_whole, immediate::only_the_oldest_beyond_the_limits_go }

fn topic(name: &str) -> Topic {
    Topic::try_new(name).unwrap()
}

fn group() -> GroupId {
    GroupId::try_new("g").unwrap()
}

fn place(topic: &Topic, partition: u32) -> TopicPartition {
    TopicPartition::new(topic.clone(), partition)
}

fn to(topic: &Topic, partition: u32, value: &[u8]) -> Outgoing {
    Outgoing {
        topic: topic.clone(),
        partition: Some(partition),
        key: None,
        value: Some(value.to_vec().into()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    }
}

fn spec(partitions: u32, bytes: Option<u64>) -> TopicSpec {
    TopicSpec { partitions, cleanup: Cleanup::Delete(Retention { bytes, ms: None }) }
}

fn commit(topic: &Topic, partition: u32, next: u64) -> OffsetCommit {
    OffsetCommit { partition: place(topic, partition), committed: Committed { next, metadata: None } }
}

const ANY: FetchLimit = FetchLimit { records: 1000, bytes: 1 << 20 };

/// Units of one record a partition and an offset that equals their number, then a closed log.
fn log_of_units(folder: &Path, units: u64) {
    let broker = open(folder).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(3, None)).unwrap();
    let mut member = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
    assert!(matches!(member.poll(ANY, Duration::ZERO).unwrap(), Poll::Assigned(_)));
    for i in 0..units {
        let outputs = (0..3).map(|partition| to(&t, partition, &i.to_le_bytes())).collect();
        member.commit(Unit { outputs, offsets: vec![commit(&t, 0, i + 1)] }).unwrap();
    }
}

/// Reads what [`log_of_units`] wrote: `Ok(n)` if exactly the first `n` units are there, whole.
fn whole_units(folder: &Path) -> Result<u64, BrokerError> {
    let broker = open(folder)?;
    let t = topic("t");
    let Some(description) = broker.describe_topic(&t)? else { return Ok(0) };
    let n = description.partitions[0].high;
    assert!(description.partitions.iter().all(|ends| ends.high == n), "a torn unit: {description:?}");
    assert_eq!(broker.committed(&group(), &place(&t, 0))?.map_or(0, |committed| committed.next), n, "a torn unit");
    for partition in 0..3 {
        let mut read: Vec<Message> = Vec::new();
        while (read.len() as u64) < n {
            read.extend(broker.read(&place(&t, partition), read.len() as u64, ANY)?);
        }
        assert!(read.iter().enumerate().all(|(i, m)| m.value.as_deref() == Some(&(i as u64).to_le_bytes()[..])));
    }
    Ok(n)
}

/// The files below a folder; a journal without the zeros at its end, room that the store keeps.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files.extend(self::files(&entry.path()));
        } else {
            let mut bytes = fs::read(entry.path()).unwrap();
            if is_journal(&entry.path()) {
                bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            }
            files.push((entry.path(), bytes));
        }
    }
    files.sort();
    files
}

/// Writes a copy of a log, with the bytes of one of its files replaced.
fn copy_with(from: &Path, files: &[(PathBuf, Vec<u8>)], changed: usize, bytes: &[u8]) -> TempDir {
    let copy = folder();
    for (i, (path, original)) in files.iter().enumerate() {
        let path = copy.path().join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if i == changed { bytes } else { original }).unwrap();
    }
    copy
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jnl")
}

/// A crash can end the last write anywhere: whatever is left of the journal, the log opens with
/// whole units, all those before the cut.
#[test]
fn a_journal_cut_anywhere_holds_whole_units() {
    let original = folder();
    log_of_units(original.path(), 40);
    let files = files(original.path());
    let journal = files.iter().position(|(path, _)| is_journal(path)).unwrap();
    let all = &files[journal].1;
    let mut config = ProptestConfig::with_cases(40);
    config.failure_persistence = None;
    let mut last = (0, 0);
    let mut cuts: Vec<usize> = Vec::new();
    proptest::test_runner::TestRunner::new(config)
        .run(&(all.len() / 10..all.len()), |cut| {
            let copy = copy_with(original.path(), &files, journal, &all[..cut]);
            let whole = whole_units(copy.path());
            prop_assert!(whole.is_ok(), "{whole:?}");
            Ok(())
        })
        .unwrap();
    // Evenly spaced cuts leave more and more units, and the whole file leaves all of them.
    cuts.extend((0..10).map(|tenth| all.len() / 10 * tenth));
    cuts.push(all.len());
    for cut in cuts {
        let units = whole_units(copy_with(original.path(), &files, journal, &all[..cut]).path()).unwrap();
        assert!(units >= last.1, "{cut} bytes leave {units} units, {} bytes leave {}", last.0, last.1);
        last = (cut, units);
    }
    assert_eq!(last.1, 40);
}

const DAMAGED_LOG: &str = "DRIFTLINE_TEST_DAMAGED_LOG";

/// Opens a log that `damage_is_found` has damaged, in a process of its own: there is damage on which
/// the store aborts the process.
#[test]
#[ignore = "run by damage_is_found"]
fn opens_a_damaged_log() {
    let Some(path) = std::env::var_os(DAMAGED_LOG) else { return };
    match whole_units(std::path::Path::new(&path)) {
        Ok(n) => println!("\nunits {n}"),
        Err(BrokerError::Corrupt { .. } | BrokerError::Store(_)) => println!("\nrefused"),
        Err(error) => panic!("{error}"),
    }
}

/// Damage is an error, ends the journal as a crash would have, or ends the process; it never changes
/// a record.
#[test]
fn damage_is_found() {
    let original = folder();
    log_of_units(original.path(), 40);
    let files = files(original.path());
    let sizes: Vec<usize> = files.iter().map(|(_, bytes)| bytes.len()).collect();
    let mut config = ProptestConfig::with_cases(60);
    config.failure_persistence = None;
    let damage = (0..files.len(), any::<prop::sample::Index>(), 1..=255_u8);
    proptest::test_runner::TestRunner::new(config)
        .run(&damage, |(file, at, flip)| {
            if sizes[file] == 0 {
                return Ok(());
            }
            let mut bytes = files[file].1.clone();
            bytes[at.index(sizes[file])] ^= flip;
            let copy = copy_with(original.path(), &files, file, &bytes);
            let opened = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "opens_a_damaged_log", "--ignored", "--nocapture"])
                .env(DAMAGED_LOG, copy.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&opened.stdout);
            let word = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            match (word("units "), word("refused")) {
                (Some(n), _) => prop_assert!(n == "40" || is_journal(&files[file].0), "{n} units left"),
                (None, Some(_)) => {}
                // The store panicked while it unwound from a panic of its own: an end, but no wrong record.
                (None, None) if opened.status.code().is_none() => {}
                (None, None) => return Err(TestCaseError::fail(format!("{}: {said}", opened.status))),
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_second_handle_is_refused() {
    let folder = folder();
    let first = open(folder.path()).unwrap();
    let second = open(folder.path()).err().unwrap();
    assert_eq!(second.to_string(), format!("the log at {} is in use by another process", folder.path().display()));
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn another_format_and_a_strange_folder_are_refused() {
    let other = folder();
    drop(open(other.path()).unwrap());
    fs::write(other.path().join("FORMAT"), "driftline-log 2\n").unwrap();
    let error = open(other.path()).err().unwrap().to_string();
    assert!(error.contains("driftline-log 2") && error.contains("driftline-log 1"), "{error}");
    let strange = folder();
    fs::write(strange.path().join("thesis.tex"), "").unwrap();
    assert!(matches!(open(strange.path()), Err(BrokerError::Corrupt { .. })));
    assert!(!strange.path().join("store").exists());
    let error = open(&strange.path().join("thesis.tex")).err().unwrap().to_string();
    assert!(error.contains("thesis.tex: "), "{error}");
}

/// With no time to give up, a partition is lost to the member that is to have it: the former owner
/// is fenced at once and told at its next poll.
#[test]
fn a_member_that_does_not_give_up_in_time_loses_the_partition() {
    let config = EmbeddedConfig { revocation_timeout: Duration::ZERO, ..EmbeddedConfig::default() };
    let broker = Embedded::temporary(config).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(2, None)).unwrap();
    broker.producer("test").unwrap().send(vec![to(&t, 0, b"a"), to(&t, 1, b"b")]).unwrap();
    let mut slow = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
    assert!(matches!(slow.poll(ANY, Duration::ZERO).unwrap(), Poll::Assigned(all) if all.len() == 2));
    let mut second = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
    assert!(matches!(second.poll(ANY, Duration::ZERO).unwrap(), Poll::Assigned(all) if all[0].0 == place(&t, 1)));
    let both = Unit { outputs: vec![to(&t, 0, b"c")], offsets: vec![commit(&t, 0, 1), commit(&t, 1, 1)] };
    assert!(matches!(slow.commit(both), Err(BrokerError::Fenced { partition, .. }) if partition == place(&t, 1)));
    assert_eq!(broker.committed(&group(), &place(&t, 0)).unwrap(), None);
    assert!(matches!(slow.poll(ANY, Duration::ZERO).unwrap(), Poll::Lost(lost) if lost == [place(&t, 1)]));
    slow.commit(Unit { outputs: vec![], offsets: vec![commit(&t, 0, 1)] }).unwrap();
    second.commit(Unit { outputs: vec![], offsets: vec![commit(&t, 1, 1)] }).unwrap();
}

/// A member that waits is woken by a write and by a change of its group, long before its timeout.
#[test]
fn a_waiting_member_is_woken() {
    let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(1, None)).unwrap();
    let patient = Duration::from_secs(600);
    std::thread::scope(|scope| {
        let mut member = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
        let mut waiting = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
        assert!(matches!(member.poll(ANY, patient).unwrap(), Poll::Assigned(_)));
        let other = scope.spawn(move || {
            assert!(matches!(waiting.poll(ANY, patient).unwrap(), Poll::Assigned(_)), "when the first has left");
            assert!(matches!(waiting.poll(ANY, patient).unwrap(), Poll::Messages(_)), "what was not committed");
        });
        let mut producer = broker.producer("test").unwrap();
        let reader = scope.spawn(move || {
            let read = member.poll(ANY, patient).unwrap();
            assert!(matches!(read, Poll::Messages(messages) if messages.len() == 1));
        });
        producer.send(vec![to(&t, 0, b"x")]).unwrap();
        reader.join().unwrap();
        other.join().unwrap();
    });
}

/// A busy partition does not starve the others.
#[test]
fn partitions_are_read_in_turn() {
    let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(3, None)).unwrap();
    let mut producer = broker.producer("test").unwrap();
    producer.send((0..100).map(|i| to(&t, 0, &[i])).collect()).unwrap();
    producer.send(vec![to(&t, 1, b"a"), to(&t, 2, b"b")]).unwrap();
    let mut member = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Poll::Messages(messages) = member.poll(FetchLimit { records: 10, ..ANY }, Duration::ZERO).unwrap() {
            seen.push(messages.iter().map(|m| m.partition).max());
        }
    }
    assert_eq!(seen, [Some(0), Some(2), Some(0)]);
}

/// Retention frees records; what is kept stays close to the limit.
#[test]
fn retention_keeps_little_more_than_its_limit() {
    let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
    let t = topic("t");
    let limit = 1_000_000;
    broker.create_topic(&t, &spec(1, Some(limit))).unwrap();
    let mut producer = broker.producer("test").unwrap();
    for _ in 0..400 {
        producer.send(vec![to(&t, 0, &[0; 10_000])]).unwrap();
    }
    let ends = broker.describe_topic(&t).unwrap().unwrap().partitions[0];
    let kept = (ends.high - ends.low) * 10_000;
    assert!((limit..limit + 20_000).contains(&kept), "{kept} bytes kept");
}

/// Whoever opens a log with other limits has them kept from the next write on, by every later opening too.
#[test]
fn a_topic_takes_over_other_limits_of_retention() {
    let folder = folder();
    let t = topic("t");
    let write = |broker: &Embedded, records: usize| {
        let mut producer = broker.producer("test").unwrap();
        (0..records).for_each(|_| producer.send(vec![to(&t, 0, &[0; 1_000])]).unwrap());
        let ends = broker.describe_topic(&t).unwrap().unwrap().partitions[0];
        ends.high - ends.low
    };
    let broker = open(folder.path()).unwrap();
    broker.create_topic(&t, &spec(1, None)).unwrap();
    assert_eq!(write(&broker, 10), 10);
    broker.create_topic(&t, &spec(1, Some(3_000))).unwrap();
    assert_eq!(broker.describe_topic(&t).unwrap().unwrap().spec, spec(1, Some(3_000)));
    assert_eq!(write(&broker, 0), 10, "until the next write");
    assert_eq!(write(&broker, 1), 3);
    drop(broker);
    let broker = open(folder.path()).unwrap();
    assert_eq!(write(&broker, 1), 3);
    broker.create_topic(&t, &spec(1, None)).unwrap();
    assert_eq!(write(&broker, 2), 5);
    // What is compacted stays compacted, and the number of partitions what it is.
    broker.create_topic(&t, &TopicSpec { partitions: 1, cleanup: Cleanup::Compact }).unwrap();
    let wider = broker.create_topic(&t, &spec(2, Some(3_000)));
    assert!(matches!(wider, Err(BrokerError::TopicMismatch { found: 1, wanted: 2, .. })));
    assert_eq!(broker.describe_topic(&t).unwrap().unwrap().spec, spec(1, None));
}

/// A member that joined before limits changed is woken by what is written after.
#[test]
fn a_member_waits_on_where_limits_of_retention_change() {
    let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(1, None)).unwrap();
    let mut member = broker.join(&group(), std::slice::from_ref(&t)).unwrap();
    assert!(matches!(member.poll(ANY, Duration::ZERO).unwrap(), Poll::Assigned(_)));
    broker.create_topic(&t, &spec(1, Some(3_000))).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || member.poll(ANY, Duration::from_secs(60)).unwrap());
        // So that it waits by then.
        std::thread::sleep(Duration::from_millis(50));
        broker.producer("test").unwrap().send(vec![to(&t, 0, b"x")]).unwrap();
        let read = reader.join().unwrap();
        assert!(matches!(&read, Poll::Messages(messages) if messages.len() == 1), "{read:?}");
    });
}

/// A tombstone outlives 10,000 further offsets and is then forgotten with its key.
#[test]
fn old_tombstones_are_forgotten() {
    let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &TopicSpec { partitions: 1, cleanup: Cleanup::Compact }).unwrap();
    let keyed = |key: &'static [u8], value: Option<&[u8]>| Outgoing {
        key: Some(key.into()),
        value: value.map(|value| value.to_vec().into()),
        ..to(&t, 0, b"")
    };
    let mut producer = broker.producer("test").unwrap();
    producer.send(vec![keyed(b"gone", Some(b"1")), keyed(b"kept", Some(b"2"))]).unwrap();
    producer.send(vec![keyed(b"gone", None)]).unwrap();
    let offsets = || -> Vec<u64> { broker.read(&place(&t, 0), 0, ANY).unwrap().iter().map(|m| m.offset).collect() };
    assert_eq!(offsets(), [1, 2]);
    producer.send(vec![keyed(b"busy", Some(b"3")); 10_000]).unwrap();
    assert_eq!(offsets(), [1, 2, 10_002]);
    producer.send(vec![keyed(b"busy", Some(b"4"))]).unwrap();
    assert_eq!(offsets(), [1, 10_003]);
    let unkeyed = producer.send(vec![to(&t, 0, b"x")]);
    assert!(matches!(unkeyed, Err(BrokerError::KeyMissing { .. })));
}

/// Readers that are far behind read from the store what others read from memory.
#[test]
fn the_store_and_the_memory_agree() {
    let small = EmbeddedConfig { cache_bytes: 3_000, ..EmbeddedConfig::default() };
    let broker = Embedded::temporary(small).unwrap();
    let t = topic("t");
    broker.create_topic(&t, &spec(2, None)).unwrap();
    let mut producer = broker.producer("test").unwrap();
    for unit in 0..50_u8 {
        producer.send((0..7).map(|i| to(&t, u32::from(unit % 2), &[unit, i].repeat(20))).collect()).unwrap();
    }
    for from in [0, 1, 6, 7, 100, 160, 174, 175] {
        let read = broker.read(&place(&t, 1), from, ANY).unwrap();
        let expected = (from..175).map(|offset| [(offset / 7 * 2 + 1) as u8, (offset % 7) as u8].repeat(20));
        assert!(read.iter().map(|m| m.value.as_deref().unwrap().to_vec()).eq(expected), "from {from}");
    }
}

//! The laws of [`driftline_broker::Broker`], as property tests that any implementation runs:
//! implement [`Subject`] and hand [`each_law`] a macro that makes tests.

pub mod groups;
pub mod log;
pub mod retention;

use std::time::Duration;

use bytes::Bytes;
use driftline_broker::{
    Broker, Cleanup, Committed, FetchLimit, Member, OffsetCommit, Poll, Retention, TopicSpec, Unit,
};
use driftline_types::{GroupId, Headers, Message, Offset, Outgoing, Partition, Timestamp, Topic, TopicPartition};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// A broker under test, empty at first.
pub trait Subject {
    /// The implementation.
    type Broker: Broker + 'static;

    /// Starts an empty broker.
    fn start() -> Self;

    /// Returns the broker.
    fn broker(&self) -> &Self::Broker;

    /// Closes the broker and opens it again: what was committed stays. No member or producer may be
    /// alive.
    fn restart(&mut self);
}

/// Hands every law to a macro, which makes a test of each.
macro_rules! each_law {
    ($tests:ident) => {
        $tests! {
            log::offsets_are_dense_in_the_order_of_commits,
            log::a_failed_unit_leaves_nothing,
            log::readers_see_units_whole,
            log::messages_come_back_byte_for_byte,
            groups::a_partition_has_one_owner_and_others_are_fenced,
            groups::reading_starts_at_the_committed_offset,
            groups::a_key_is_read_in_order_by_any_number_of_members,
            groups::paused_partitions_stand_still,
            retention::only_the_oldest_beyond_the_limits_go,
            retention::the_last_record_of_a_key_stays,
        }
    };
}
pub(crate) use each_law;

/// Runs a law on generated inputs.
fn check<T>(cases: u32, inputs: impl Strategy<Value = T>, law: impl Fn(T) -> Result<(), TestCaseError>)
where
    T: std::fmt::Debug,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&inputs, law) {
        panic!("{error}");
    }
}

const ANY: FetchLimit = FetchLimit { records: 10_000, bytes: 64 << 20 };
/// Long enough that only a broker that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn topic(name: &str) -> Topic {
    Topic::try_new(name).unwrap()
}

fn group(name: &str) -> GroupId {
    GroupId::try_new(name).unwrap()
}

fn keep_all(partitions: u32) -> TopicSpec {
    TopicSpec { partitions, cleanup: Cleanup::Delete(Retention::default()) }
}

fn place(topic: &Topic, partition: Partition) -> TopicPartition {
    TopicPartition::new(topic.clone(), partition)
}

fn to(topic: &Topic, partition: Partition, value: impl Into<Bytes>) -> Outgoing {
    Outgoing {
        topic: topic.clone(),
        partition: Some(partition),
        key: None,
        value: Some(value.into()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    }
}

fn offset(topic: &Topic, partition: Partition, next: Offset) -> OffsetCommit {
    OffsetCommit { partition: place(topic, partition), committed: Committed { next, metadata: None } }
}

/// Reads a partition from an offset to its end, a few records at a time.
fn read_all(broker: &impl Broker, topic: &Topic, partition: Partition, from: Offset) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let limit = FetchLimit { records: 3, bytes: 1 << 20 };
    loop {
        let next = messages.last().map_or(from, |last| last.offset + 1);
        let more = broker.read(&place(topic, partition), next, limit).unwrap();
        if more.is_empty() {
            return messages;
        }
        assert!(more.len() <= limit.records);
        messages.extend(more);
    }
}

/// Polls until the member owns `n` partitions; returns where it starts in each.
fn assigned(member: &mut dyn Member, n: usize) -> Vec<(TopicPartition, Committed)> {
    let mut all = Vec::new();
    while all.len() < n {
        match member.poll(ANY, PATIENCE).unwrap() {
            Poll::Assigned(some) => all.extend(some),
            other => panic!("expected an assignment, found {other:?}"),
        }
    }
    all
}

/// Polls messages until there are `n`.
fn messages(member: &mut dyn Member, limit: FetchLimit, n: usize) -> Vec<Message> {
    let mut all = Vec::new();
    while all.len() < n {
        match member.poll(limit, PATIENCE).unwrap() {
            Poll::Messages(some) => {
                assert!(!some.is_empty());
                assert!(some.len() == 1 || some.len() <= limit.records);
                assert!(some.len() == 1 || some.iter().map(Message::payload_bytes).sum::<usize>() <= limit.bytes);
                all.extend(some);
            }
            other => panic!("expected messages, found {other:?} after {} of {n}", all.len()),
        }
    }
    all
}

fn unit(outputs: Vec<Outgoing>, offsets: Vec<OffsetCommit>) -> Unit {
    Unit { outputs, offsets }
}

//! The laws of [`driftline_broker::Broker`], as property tests that any implementation runs:
//! implement [`Subject`] and hand [`each_law`] a macro that makes tests.

pub mod groups;
pub mod log;

use std::time::Duration;

use bytes::Bytes;
use driftline_broker::{
    Broker, Cleanup, Committed, FetchLimit, Member, OffsetCommit, Poll, Retention, TopicSpec, Unit, Wait,
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

    /// Whether every offset holds a record: the marks of transactions have offsets too, where there are any.
    const DENSE: bool;

    /// How many of the cases asked for are run: all, or fewer where each takes seconds.
    fn cases(asked: u32) -> u32 {
        asked
    }

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
            log::offsets_grow_in_the_order_of_commits,
            log::a_failed_unit_leaves_nothing,
            log::messages_come_back_byte_for_byte,
            log::the_last_record_of_a_key_stays,
            groups::a_partition_has_one_owner_and_others_are_fenced,
            groups::reading_starts_at_the_committed_offset,
            groups::a_key_is_read_in_order_by_any_number_of_members,
            groups::units_under_way_are_written_in_order_and_none_past_a_failure,
            groups::the_estimated_lag_is_what_is_left_to_read,
        }
    };
}
pub(crate) use each_law;

/// Runs a law on generated inputs.
pub fn check<S: Subject, T>(cases: u32, inputs: impl Strategy<Value = T>, law: impl Fn(T) -> Result<(), TestCaseError>)
where
    T: std::fmt::Debug,
{
    let config = Config { cases: S::cases(cases), failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&inputs, law) {
        panic!("{error}");
    }
}

pub const ANY: FetchLimit = FetchLimit { records: 10_000, bytes: 64 << 20 };
/// Long enough that only a broker that hangs reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn topic(name: &str) -> Topic {
    Topic::try_new(name).unwrap()
}

pub fn group(name: &str) -> GroupId {
    GroupId::try_new(name).unwrap()
}

pub fn keep_all(partitions: u32) -> TopicSpec {
    TopicSpec { partitions, cleanup: Cleanup::Delete(Retention::default()) }
}

pub fn place(topic: &Topic, partition: Partition) -> TopicPartition {
    TopicPartition::new(topic.clone(), partition)
}

pub fn to(topic: &Topic, partition: Partition, value: impl Into<Bytes>) -> Outgoing {
    Outgoing {
        topic: topic.clone(),
        partition: Some(partition),
        key: None,
        value: Some(value.into()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    }
}

pub fn offset(topic: &Topic, partition: Partition, next: Offset) -> OffsetCommit {
    OffsetCommit { partition: place(topic, partition), committed: Committed { next, metadata: None } }
}

/// Reads a partition from an offset to its end, a few records at a time.
pub fn read_all(broker: &impl Broker, topic: &Topic, partition: Partition, from: Offset) -> Vec<Message> {
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
pub fn assigned(member: &mut dyn Member, n: usize) -> Vec<(TopicPartition, Committed)> {
    let mut all = Vec::new();
    while all.len() < n {
        match member.poll(ANY, PATIENCE).unwrap() {
            Poll::Assigned(some) => all.extend(some),
            // A member that finds the group busy may be told to wait.
            Poll::Idle => {}
            other => panic!("expected an assignment, found {other:?}"),
        }
    }
    all
}

/// Polls messages until there are `n`.
pub fn messages(member: &mut dyn Member, limit: FetchLimit, n: usize) -> Vec<Message> {
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

/// Asks a member how far it is behind until the broker tells.
pub fn estimate(member: &dyn Member) -> u64 {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match member.lag_estimate() {
            Ok(lag) => return lag,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}

pub fn unit(outputs: Vec<Outgoing>, offsets: Vec<OffsetCommit>) -> Unit {
    Unit { outputs, offsets }
}

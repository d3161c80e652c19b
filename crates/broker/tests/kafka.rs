//! Kafka: the laws of the contract on a real cluster, and what only it promises.
//!
//! `DRIFTLINE_KAFKA` names the cluster, as `deploy/kafka-local start` prints it; without it the tests say that they were
//! skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
#[path = "kafka/login.rs"]
mod login;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, Delivery, FetchLimit, Kafka, KafkaConfig, Poll, Unit};
use driftline_types::{Outgoing, Topic, TopicPartition};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use crate::contract::{ANY, PATIENCE, Subject, group, groups, keep_all, log, to, topic};

/// The cluster to test on.
fn servers() -> Option<String> {
    let servers = std::env::var("DRIFTLINE_KAFKA").ok();
    if servers.is_none() {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
    }
    servers
}

/// A prefix that no other test uses, so that the cluster looks empty.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn config(delivery: Delivery) -> KafkaConfig {
    let mut config = KafkaConfig::new(std::env::var("DRIFTLINE_KAFKA").unwrap());
    config.prefix = prefix();
    config.delivery = delivery;
    // A group notices within the second that a member is gone.
    config.properties.insert("heartbeat.interval.ms".into(), "100".into());
    config
}

/// A cluster seen through a prefix of its own.
struct OnKafka<const EXACTLY_ONCE: bool> {
    config: KafkaConfig,
    broker: Kafka,
}

impl<const EXACTLY_ONCE: bool> Subject for OnKafka<EXACTLY_ONCE> {
    type Broker = Kafka;

    const DENSE: bool = false;

    fn cases(asked: u32) -> u32 {
        asked.div_ceil(24)
    }

    fn start() -> Self {
        let config = config(if EXACTLY_ONCE { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce });
        Self { broker: Kafka::connect(config.clone()).unwrap(), config }
    }

    fn broker(&self) -> &Kafka {
        &self.broker
    }

    fn restart(&mut self) {
        self.broker = Kafka::connect(self.config.clone()).unwrap();
    }
}

macro_rules! laws {
    ($($module:ident::$law:ident,)*) => {
        mod exactly_once {
            use super::*;
            $(#[test]
            fn $law() {
                if servers().is_some() {
                    $module::$law::<OnKafka<true>>();
                }
            })*
        }
        mod at_least_once {
            use super::*;
            $(#[test]
            fn $law() {
                if servers().is_some() {
                    $module::$law::<OnKafka<false>>();
                }
            })*
        }
    };
}

contract::each_law!(laws);

/// Who waits until a process is ready must not wait for ever where a group has more members than partitions.
#[test]
fn a_member_without_partitions_is_told_that_it_stands_by() {
    if servers().is_none() {
        return;
    }
    let broker = Kafka::connect(config(Delivery::AtLeastOnce)).unwrap();
    let (narrow, readers) = (topic("narrow"), group("readers"));
    broker.create_topic(&narrow, &keep_all(1)).unwrap();
    let mut members = [(); 2].map(|()| broker.join(&readers, std::slice::from_ref(&narrow)).unwrap());
    let mut owned = [None, None];
    let (deadline, moment) = (Instant::now() + PATIENCE, Duration::from_millis(100));
    while owned != [Some(0), Some(1)] && owned != [Some(1), Some(0)] {
        assert!(Instant::now() < deadline, "partitions told of: {owned:?}");
        for (member, owned) in members.iter_mut().zip(&mut owned) {
            match member.poll(ANY, moment).unwrap() {
                Poll::Assigned(partitions) => *owned = Some(partitions.len()),
                Poll::Revoking(_) | Poll::Lost(_) => *owned = None,
                Poll::Messages(_) | Poll::Idle => {}
            }
        }
    }
}

/// A member that leaves messages lying has its partitions paused. It loses them before it has polled at all, and when they come back it reads on.
#[test]
fn partitions_that_were_paused_are_read_when_they_come_back() {
    if servers().is_none() {
        return;
    }
    let broker = Kafka::connect(config(Delivery::AtLeastOnce)).unwrap();
    let (wide, readers) = (topic("wide"), group("readers"));
    broker.create_topic(&wide, &keep_all(2)).unwrap();
    // Three times as much as waits for a member.
    let value = Bytes::from(vec![b'x'; 500_000]);
    let mut producer = broker.producer("test").unwrap();
    for _ in 0..48 {
        producer.send(vec![to(&wide, 0, value.clone()), to(&wide, 1, value.clone())]).unwrap();
    }
    let mut member = broker.join(&readers, std::slice::from_ref(&wide)).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let mut other = broker.join(&readers, std::slice::from_ref(&wide)).unwrap();
    let limit = FetchLimit { records: 10, bytes: usize::MAX };
    let (deadline, moment) = (Instant::now() + Duration::from_secs(60), Duration::from_millis(100));
    while !matches!(other.poll(limit, moment).unwrap(), Poll::Assigned(_)) {
        assert!(Instant::now() < deadline, "no partitions for the second member");
    }
    drop(other);
    // Nothing was committed, so an assignment begins at the first message.
    let mut seen = BTreeSet::new();
    while seen.len() < 96 {
        match member.poll(limit, moment).unwrap() {
            Poll::Assigned(_) => seen.clear(),
            Poll::Messages(messages) => seen.extend(messages.iter().map(|m| (m.partition, m.offset))),
            _ => {}
        }
        assert!(Instant::now() < deadline, "{} of 96 messages", seen.len());
    }
}

fn admin(config: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.bootstrap_servers);
    client.create().unwrap()
}

/// Makes a topic whose batches may have 100,000 bytes, as its owner would.
fn create_narrow(config: &KafkaConfig, topic: &Topic) {
    let name = format!("{}{topic}", config.prefix);
    let new = NewTopic::new(&name, 1, TopicReplication::Fixed(-1)).set("max.message.bytes", "100000");
    let created = futures_executor::block_on(admin(config).create_topics([&new], &AdminOptions::new())).unwrap();
    created.into_iter().for_each(|topic| drop(topic.unwrap()));
}

/// Sets the same limit for a topic that is there.
fn make_narrow(config: &KafkaConfig, topic: &Topic) {
    let name = format!("{}{topic}", config.prefix);
    let change = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "100000");
    let changed = futures_executor::block_on(admin(config).alter_configs([&change], &AdminOptions::new())).unwrap();
    changed.into_iter().for_each(|topic| drop(topic.unwrap()));
}

/// Writes until it is written, as the runtime does: with a new producer after each failure that passes.
fn send(broker: &Kafka, messages: &[Outgoing]) -> Result<u32, BrokerError> {
    let mut failures = 0;
    loop {
        match broker.producer("test").unwrap().send(messages.to_vec()) {
            Err(BrokerError::Unavailable { .. }) if failures < 10 => failures += 1,
            outcome => return outcome.map(|()| failures),
        }
    }
}

/// Brokers hold a topic's limit against batches. Messages that fit one by one go into batches that do, whether the limit
/// was known when the producer was made or not; and one that does not is named with the limit that was set meanwhile.
#[test]
fn batches_fit_the_narrowest_topic() {
    if servers().is_none() {
        return;
    }
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let config = config(delivery);
        let broker = Kafka::connect(config.clone()).unwrap();
        let (narrow, readers) = (topic("narrow"), group("readers"));
        create_narrow(&config, &narrow);
        let messages = vec![to(&narrow, 0, Bytes::from(vec![b'x'; 30_000])); 40];
        // The producer comes before the topic is known: it hears of it from a broker.
        assert!(send(&broker, &messages).unwrap() <= 1);
        assert_eq!(send(&broker, &messages).unwrap(), 0);
        // A member's comes after it.
        let mut member = broker.join(&readers, std::slice::from_ref(&narrow)).unwrap();
        while !matches!(member.poll(ANY, Duration::from_millis(100)).unwrap(), Poll::Assigned(_)) {}
        member.commit(Unit { outputs: messages.clone(), offsets: Vec::new() }).unwrap();
        let place = TopicPartition::new(narrow.clone(), 0);
        let limit = FetchLimit { records: 1_000, bytes: usize::MAX };
        assert_eq!(broker.read(&place, 0, limit).unwrap().len(), 120);
        let error = send(&broker, &[to(&narrow, 0, Bytes::from(vec![b'x'; 120_000]))]).unwrap_err();
        assert!(matches!(&error, BrokerError::TooLarge { found: 120_000, allowed: 99_488, .. }), "{error}");
    }
}

/// What a broker refuses as too large is not tried for ever: the limit is looked up again.
#[test]
fn a_limit_that_was_lowered_is_heard_of() {
    if servers().is_none() {
        return;
    }
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let config = config(delivery);
        let broker = Kafka::connect(config.clone()).unwrap();
        let (wide, readers) = (topic("wide"), group("readers"));
        broker.create_topic(&wide, &keep_all(1)).unwrap();
        let mut member = broker.join(&readers, std::slice::from_ref(&wide)).unwrap();
        while !matches!(member.poll(ANY, Duration::from_millis(100)).unwrap(), Poll::Assigned(_)) {}
        let mut commit = |size: usize, count: usize| {
            let outputs = vec![to(&wide, 0, Bytes::from(vec![b'x'; size])); count];
            member.commit(Unit { outputs, offsets: Vec::new() })
        };
        commit(30_000, 40).unwrap();
        make_narrow(&config, &wide);
        let deadline = Instant::now() + PATIENCE;
        // The broker may take a moment to hear of it.
        while commit(30_000, 40).is_ok() {
            assert!(Instant::now() < deadline, "batches are as large as before");
        }
        while let Err(error) = commit(30_000, 40) {
            assert!(Instant::now() < deadline, "{error}");
        }
        let error = commit(120_000, 1).unwrap_err();
        assert!(matches!(&error, BrokerError::TooLarge { found: 120_000, allowed: 99_488, .. }), "{error}");
    }
}

/// A group whose committed offset the log does not reach, as after a broker has lost its disk, is told so.
#[test]
fn a_group_beyond_the_end_is_told_where_the_log_ends() {
    if servers().is_none() {
        return;
    }
    let config = config(Delivery::AtLeastOnce);
    let broker = Kafka::connect(config.clone()).unwrap();
    let (short, readers) = (topic("short"), group("readers"));
    broker.create_topic(&short, &keep_all(1)).unwrap();
    broker.producer("test").unwrap().send(vec![to(&short, 0, "x")]).unwrap();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.bootstrap_servers);
    client.set("group.id", format!("{}{readers}", config.prefix));
    let client: BaseConsumer = client.create().unwrap();
    let mut beyond = TopicPartitionList::new();
    beyond.add_partition_offset(&format!("{}{short}", config.prefix), 0, Offset::Offset(70)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.commit(&beyond, CommitMode::Sync) {
        assert!(Instant::now() < deadline, "{error}");
    }
    let mut member = broker.join(&readers, std::slice::from_ref(&short)).unwrap();
    let error = loop {
        assert!(Instant::now() < deadline, "nothing was told");
        if let Err(error) = member.poll(ANY, Duration::from_millis(100)) {
            break error;
        }
    };
    assert!(matches!(&error, BrokerError::OutOfRange { offset: 70, low: 0, .. }), "{error}");
    assert!(error.to_string().contains("set the offset of group readers"), "{error}");
}

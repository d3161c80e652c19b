//! What is told of a cluster that refuses, or that has lost what was there: on librdkafka's mock, which does both when it is
//! asked to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use driftline_types::{GroupId, Topic, TopicPartition};
use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code},
};

use super::{Kafka, cluster::Cluster, login::Login, member::KafkaMember};
use crate::{Broker, BrokerError, FetchLimit, KafkaConfig, Member, Poll, fixture};

type Mock = MockCluster<'static, DefaultProducerContext>;

/// Long enough that only a client that hears nothing reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
const ANY: FetchLimit = FetchLimit { records: 10, bytes: 1 << 20 };

/// A cluster with one topic of one partition that holds one record.
fn cluster() -> (Mock, Kafka, TopicPartition) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("t", 1, 1).unwrap();
    let place = TopicPartition::new(Topic::try_new("t").unwrap(), 0);
    let cluster = Cluster::connect(KafkaConfig::new(mock.bootstrap_servers())).unwrap();
    cluster.assume(&place.topic, 1);
    let kafka = Kafka(Arc::new(cluster));
    kafka.producer("test").unwrap().send(vec![fixture::message(place.topic.clone())]).unwrap();
    (mock, kafka, place)
}

fn group() -> GroupId {
    GroupId::try_new("g").unwrap()
}

/// Polls until something fits.
fn until<T>(member: &mut dyn Member, mut fits: impl FnMut(Result<Poll, BrokerError>) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing was told");
        if let Some(found) = fits(member.poll(ANY, Duration::from_millis(100))) {
            return found;
        }
    }
}

/// Polls until the member fails.
fn failure(member: &mut dyn Member) -> BrokerError {
    until(member, Result::err)
}

/// Asks until the cluster tells.
fn estimate(member: &dyn Member) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match member.lag_estimate() {
            Ok(lag) => return lag,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[test]
fn a_reader_is_told_what_the_cluster_refuses() {
    let (mock, kafka, place) = cluster();
    mock.request_errors(Api::Fetch, &[Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let error = kafka.read(&place, 0, ANY).unwrap_err();
    assert!(matches!(error, BrokerError::Refused { action: "read", .. }), "{error}");
    assert!(error.to_string().contains("TopicAuthorizationFailed"), "{error}");
    assert_eq!(kafka.read(&place, 0, ANY).unwrap().len(), 1);
}

/// Readers belong to no group. librdkafka looks one up nevertheless, which users need not be allowed.
#[test]
fn a_reader_does_without_a_group() {
    let (mock, kafka, place) = cluster();
    mock.request_errors(Api::FindCoordinator, &[Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 8]);
    assert_eq!(kafka.read(&place, 0, ANY).unwrap().len(), 1);
}

#[test]
fn a_group_beyond_the_end_is_told_where_the_log_ends() {
    let (_mock, kafka, place) = cluster();
    let mut client = kafka.0.config.reader("read_committed");
    client.set("group.id", "g");
    let client: BaseConsumer<Login> = client.create_with_context(kafka.0.config.login()).unwrap();
    let mut beyond = TopicPartitionList::new();
    beyond.add_partition_offset("t", 0, Place::Offset(7)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.commit(&beyond, CommitMode::Sync) {
        assert!(Instant::now() < deadline, "{error}");
    }
    let mut member = kafka.join(&group(), &[place.topic]).unwrap();
    let error = failure(&mut *member);
    assert!(matches!(&error, BrokerError::OutOfRange { offset: 7, low: 0, high: 1, .. }), "{error}");
    assert!(error.to_string().contains("set the offset of group g"), "{error}");
}

/// The client tells once that it has stopped to read a partition, and not which. The member is not left waiting, even
/// where the partition looks whole again; until then it reads and knows how far it is.
#[test]
fn a_partition_that_is_read_no_more_is_told() {
    let (mock, kafka, place) = cluster();
    let mut member = kafka.join(&group(), &[place.topic]).unwrap();
    until(&mut *member, |event| matches!(event, Ok(Poll::Assigned(_))).then_some(()));
    assert_eq!(estimate(&*member), 1);
    until(&mut *member, |event| matches!(event, Ok(Poll::Messages(_))).then_some(()));
    assert_eq!(estimate(&*member), 0);
    mock.request_errors(Api::Fetch, &[Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
    let error = failure(&mut *member);
    assert!(matches!(error, BrokerError::Refused { action: "read", .. }), "{error}");
    assert!(error.to_string().contains("t[0] at 1 of 0 to 1"), "{error}");
}

#[test]
fn a_member_is_told_that_its_thread_polls_no_more() {
    let (_mock, kafka, place) = cluster();
    let mut member = KafkaMember::join(&kafka.0, &group(), &[place.topic]).unwrap();
    until(&mut member, |event| matches!(event, Ok(Poll::Assigned(_))).then_some(()));
    member.shared.stop.store(true, Ordering::Release);
    let error = failure(&mut member);
    assert!(matches!(error, BrokerError::Refused { action: "read", .. }), "{error}");
    assert!(member.poll(ANY, Duration::ZERO).is_err(), "as often as it asks");
}

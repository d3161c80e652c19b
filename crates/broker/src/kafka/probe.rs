//! Tries whether a cluster keeps transactions, before anything relies on it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use driftline_types::{Headers, Outgoing, Timestamp, Topic, TopicPartition};

use super::{
    cluster::{Cluster, refused},
    writer::{Failed, Writer},
};
use crate::{BrokerError, Cleanup, FetchLimit, Retention, TopicSpec};

/// Aborts one transaction and commits another one: a reader must see exactly the second.
///
/// # Errors
/// [`BrokerError::Refused`] if it sees anything else.
pub(super) fn probe(cluster: &Arc<Cluster>) -> Result<(), BrokerError> {
    let name = format!("driftline-probe-{:016x}", RandomState::new().hash_one(std::process::id()));
    let topic = Topic::try_new(&name).map_err(|error| refused("probe", error))?;
    let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(Retention::default()) };
    cluster.create_topic(&topic, &spec)?;
    let outcome = keeps_transactions(cluster, &topic, &name);
    cluster.delete_topic(&topic)?;
    outcome
}

fn keeps_transactions(cluster: &Arc<Cluster>, topic: &Topic, name: &str) -> Result<(), BrokerError> {
    let message = |value: &'static [u8]| Outgoing {
        topic: topic.clone(),
        partition: Some(0),
        key: None,
        value: Some(value.into()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    };
    let mut writer = Writer::new(Arc::clone(cluster), Some(format!("{}{name}", cluster.config.prefix)));
    let tried = |failure| match failure {
        Failed::Nothing(error) => error,
        Failed::Fenced => refused("probe", "fenced"),
        Failed::Unknown(reason) => refused("probe", reason),
    };
    writer.begin()?;
    writer.add(&[message(b"aborted")]).map_err(tried)?;
    writer.delivered()?;
    writer.abort();
    writer.transact(&[message(b"committed")], None).map_err(tried)?;
    let place = TopicPartition::new(topic.clone(), 0);
    let read = cluster.readers.read(cluster, &place, 0, FetchLimit { records: 10, bytes: 1 << 20 })?;
    if read.iter().map(|message| message.value.as_deref()).eq([Some(&b"committed"[..])]) {
        return Ok(());
    }
    let reason = format!(
        "a reader of an aborted and a committed transaction found {} records, expected 1: this broker does not keep \
         transactions; set delivery = \"at_least_once\"",
        read.len()
    );
    Err(refused("write exactly once", reason))
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::KafkaConfig;

    /// librdkafka's mock takes every call of a transaction and then shows what was aborted.
    #[test]
    fn a_broker_that_ignores_aborts_is_refused() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("probe", 1, 1).unwrap();
        let cluster = Arc::new(Cluster::connect(KafkaConfig::new(mock.bootstrap_servers())).unwrap());
        let topic = Topic::try_new("probe").unwrap();
        cluster.assume(&topic, 1);
        let refused = keeps_transactions(&cluster, &topic, "probe").unwrap_err();
        assert!(matches!(refused, BrokerError::Refused { action: "write exactly once", .. }), "{refused}");
        assert!(refused.to_string().contains("found 2 records, expected 1"), "{refused}");
    }
}

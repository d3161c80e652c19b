//! Apache Kafka, by librdkafka.
//!
//! # What always holds
//!
//! - Readers see committed records only (`read_committed`), whoever wrote them.
//! - A unit that changes state is one transaction, with the offsets in it; any other as [`KafkaConfig::delivery`] says.
//!   Transactions carry the member's generation, so that a process that slept through a rebalance writes nothing.
//! - One thread polls a member's client all the time ([`poller`]): no stage is too slow to stay in its group.
//! - Another writes, while the member works on ([`committer`]): in order, and nothing past a failure.
//! - Credentials are read anew whenever a client asks ([`login`]), and never shown.
//! - A call whose outcome is unknown ends with a new client and a look at the offsets ([`writer`]), never with a guess.
//! - What the cluster refuses to a reader, and a place that its log does not hold, is an error, never silence. A header whose
//!   name is not UTF-8, which only others write, is left out with a warning, and its record is read.
//! - Memory: a member buffers 16 MB beyond what librdkafka holds (16 MB a partition), a producer 256 MB at most. A message
//!   shares a buffer of 32 KB with those read before and after it, unless it is large.
//!
//! Transactions are visible to readers a moment after their commit has returned; [`Kafka::read`](crate::Broker::read)
//! waits for those that were open when it was called.

mod clock;
mod cluster;
mod committer;
mod config;
mod convert;
#[cfg(test)]
mod faults;
mod login;
mod member;
mod permissions;
mod poller;
mod probe;
mod reader;
mod trial;
mod writer;

use std::sync::Arc;

use driftline_types::{GroupId, Message, Offset, Outgoing, Topic, TopicPartition};
use rdkafka::consumer::BaseConsumer;

pub use self::{
    clock::ClockDifference,
    config::{ALLOWED_PROPERTIES, Delivery, KafkaConfig},
    login::TokenSource,
};
use self::{
    cluster::{Cluster, failed, refused},
    login::Login,
    member::KafkaMember,
    writer::{Failed, Writer},
};
use crate::{Broker, BrokerError, Committed, FetchLimit, Member, Producer, TopicDescription, TopicSpec};

/// A Kafka cluster.
#[derive(Clone)]
pub struct Kafka(Arc<Cluster>);

impl Kafka {
    /// Connects to a cluster. With [`Delivery::ExactlyOnce`] it is tried first whether the cluster keeps transactions.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if no broker answers; [`BrokerError::Refused`] if a property is not allowed or wrong,
    /// if the token cannot be used, if the cluster does not let us in, or if the cluster shows records of aborted transactions or loses offsets committed with one.
    pub fn connect(config: KafkaConfig) -> Result<Self, BrokerError> {
        if let Some(name) = config.properties.keys().find(|name| !ALLOWED_PROPERTIES.contains(&name.as_str())) {
            let reason = format!("found property {name:?}, allowed are {}", ALLOWED_PROPERTIES.join(", "));
            return Err(refused("connect", reason));
        }
        let delivery = config.delivery;
        let has_token = config.token.is_some();
        let kafka = Self(Arc::new(Cluster::connect(config)?));
        if has_token {
            kafka.0.keep_let_in()?;
        }
        if delivery == Delivery::ExactlyOnce {
            if has_token {
                tracing::warn!(
                    "with OAUTHBEARER no topic can be made to try whether the cluster keeps transactions: it is taken to"
                );
            } else {
                probe::probe(&kafka.0)?;
            }
        }
        Ok(kafka)
    }
}

impl Broker for Kafka {
    fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError> {
        self.0.create_topic(topic, spec)
    }

    fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError> {
        self.0.describe_topic(topic)
    }

    fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        self.0.topics()
    }

    fn join(&self, group: &GroupId, topics: &[Topic]) -> Result<Box<dyn Member>, BrokerError> {
        Ok(Box::new(KafkaMember::join(&self.0, group, topics)?))
    }

    fn producer(&self, name: &str) -> Result<Box<dyn Producer>, BrokerError> {
        let mut writer = Writer::new(Arc::clone(&self.0), Some(format!("{}{name}", self.0.config.prefix)));
        // At once, so that an earlier producer of the name is shut out before anything is read.
        writer.open()?;
        Ok(Box::new(KafkaProducer { cluster: Arc::clone(&self.0), writer }))
    }

    fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Result<Option<Committed>, BrokerError> {
        self.0.check(partition)?;
        let mut client = self.0.config.reader("read_committed");
        client.set("group.id", self.0.group_name(group));
        let client: BaseConsumer<Login> = client
            .create_with_context(self.0.config.login())
            .map_err(|error| failed("look up committed offsets", &error))?;
        login::serve(&client);
        member::committed(&self.0, &client, partition)
    }

    fn read(&self, partition: &TopicPartition, from: Offset, limit: FetchLimit) -> Result<Vec<Message>, BrokerError> {
        self.0.readers.read(&self.0, partition, from, limit)
    }

    fn waits_by_the_wall_clock(&self) -> bool {
        true
    }

    /// After `offsets.retention.minutes` without a member, or when somebody deletes the group.
    fn forgets_groups(&self) -> bool {
        true
    }
}

/// Writes units as transactions.
struct KafkaProducer {
    cluster: Arc<Cluster>,
    writer: Writer,
}

impl Producer for KafkaProducer {
    fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        Writer::check(&self.cluster, &messages)?;
        if messages.is_empty() {
            return Ok(());
        }
        self.writer.transact(&messages, None).map_err(|failure| match failure {
            Failed::Nothing(error) => error,
            Failed::Fenced => refused("write", "another process has taken this producer's place"),
            Failed::Unknown(reason) => {
                let reason = format!("it is not known whether a unit was written: {reason}");
                BrokerError::Unavailable { action: "write", reason }
            }
        })
    }
}

//! What the cluster allows this user to do, tried in ways that leave nothing behind.
//!
//! A cluster judges permission before anything else, so each trial asks for something that is allowed and cannot be done:
//! a record that is to be acknowledged by two brokers, which Kafka has not known since 0.9; the offset of a partition that
//! does not exist. Nothing is written, no group is joined, no transaction of a running process ends.

use std::time::{Duration, Instant};

use driftline_types::{GroupId, Topic};
use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::Producer as _,
};

use super::{
    Kafka,
    cluster::{failed, refused},
    config::CALL,
    login::{Login, serve},
    trial::Trial,
};
use crate::BrokerError;

/// How long an answer is waited for between two looks at what else the client says.
const MOMENT: Duration = Duration::from_millis(50);

impl Kafka {
    /// Tries whether this user may read a topic, in no group.
    ///
    /// # Errors
    /// [`BrokerError::UnknownTopic`]; [`BrokerError::Refused`] if not; [`BrokerError::Unavailable`] if there is no answer.
    pub fn may_read(&self, topic: &Topic) -> Result<(), BrokerError> {
        self.0.limits(topic)?;
        let client = self.0.config.reader("read_committed");
        let client: BaseConsumer<Login> =
            client.create_with_context(self.0.config.login()).map_err(|error| failed("read", &error))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.0.topic_name(topic), 0, Place::End)
            .and_then(|()| client.assign(&list))
            .map_err(|error| failed("read", &error))?;
        let deadline = Instant::now() + CALL;
        while Instant::now() < deadline {
            match client.poll(MOMENT) {
                // The end is known only to who may read.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                    return Err(failed("read", &error));
                }
                // Such as that the reader's group may not be looked up, which it does without.
                Some(Err(_)) | None => {}
            }
        }
        Err(BrokerError::Unavailable { action: "read", reason: format!("no answer within {} s", CALL.as_secs()) })
    }

    /// Tries whether this user may be a member of a group that reads a topic.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if not; [`BrokerError::Unavailable`] if there is no answer.
    pub fn may_join(&self, group: &GroupId, topic: &Topic) -> Result<(), BrokerError> {
        let mut client = self.0.config.reader("read_committed");
        client.set("group.id", self.0.group_name(group));
        let client: BaseConsumer<Login> =
            client.create_with_context(self.0.config.login()).map_err(|error| failed("join a group", &error))?;
        let mut nowhere = TopicPartitionList::new();
        nowhere
            .add_partition_offset(&self.0.topic_name(topic), i32::MAX, Place::Offset(0))
            .map_err(|error| failed("join a group", &error))?;
        serve(&client);
        let deadline = Instant::now() + CALL;
        loop {
            // Until the group's coordinator is known, the client does not ask; why not, it tells who polls.
            while let Some(told) = client.poll(Duration::ZERO) {
                if let Err(error) = told
                    && error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed)
                {
                    return Err(failed("join a group", &error));
                }
            }
            match client.committed_offsets(nowhere.clone(), MOMENT * 10) {
                Ok(_) => break,
                Err(error) if error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed) => {
                    return Err(failed("join a group", &error));
                }
                Err(error) if Instant::now() > deadline => return Err(failed("join a group", &error)),
                Err(_) => {}
            }
        }
        match client.commit(&nowhere, CommitMode::Sync) {
            // The group is judged before the topic.
            Err(error)
                if matches!(
                    error.rdkafka_error_code(),
                    Some(Code::UnknownTopicOrPartition | Code::TopicAuthorizationFailed)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(failed("join a group", &error)),
            Ok(()) => Err(refused("join a group", "the cluster took an offset of a partition that does not exist")),
        }
    }

    /// Tries whether this user may write to a topic.
    ///
    /// # Errors
    /// [`BrokerError::UnknownTopic`]; [`BrokerError::Refused`] if not; [`BrokerError::Unavailable`] if there is no answer.
    pub fn may_write(&self, topic: &Topic) -> Result<(), BrokerError> {
        self.0.limits(topic)?;
        let mut client = self.0.config.producer(None);
        client.set("enable.idempotence", "false").set("acks", "2").set("message.timeout.ms", "30000");
        client.remove("enable.gapless.guarantee");
        let name = self.0.topic_name(topic);
        match Trial::start(&self.0.config, &client)?.send("write", &name, 0)? {
            Err(error) if error.rdkafka_error_code() == Some(Code::InvalidRequiredAcks) => Ok(()),
            Err(error) => Err(failed("write", &error)),
            Ok(_) => Err(refused("write", "the cluster took a record that two brokers were to acknowledge")),
        }
    }

    /// Tries whether this user may write transactions by ids that begin with the name of a group, as the members of the group and
    /// its source do. The one tried ends in `-doctor`, which no process has.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if not; [`BrokerError::Unavailable`] if there is no answer.
    pub fn may_transact(&self, group: &GroupId) -> Result<(), BrokerError> {
        let id = format!("{}-doctor", self.0.group_name(group));
        let trial = Trial::start(&self.0.config, &self.0.config.producer(Some(&id)))?;
        trial.client.init_transactions(CALL).map_err(|error| failed("write transactions", &error))
    }
}

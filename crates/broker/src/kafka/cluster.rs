//! What all handles of one cluster share: names, topics and their limits, ends of partitions.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use dashmap::{DashMap, DashSet};
use driftline_types::{GroupId, Offset, Partition, Topic, TopicPartition};
use futures_executor::block_on;
use parking_lot::Mutex;
use rdkafka::{
    Offset as Place, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    producer::BaseProducer,
    topic_partition_list::TopicPartitionListElem,
};

use super::{
    config::CALL,
    login::{Login, serve},
    reader::Readers,
    writer::Deliveries,
};
use crate::{BrokerError, Cleanup, KafkaConfig, Retention, TopicDescription, TopicSpec, Watermarks};

/// Shared by the handle, its members and producers.
pub(super) struct Cluster {
    pub config: KafkaConfig,
    pub readers: Readers,
    /// Asks for settings of topics, makes and deletes them. Not with a token: the admin client of rdkafka 0.39 never asks for one
    /// (its issue 757).
    admin: Option<AdminClient<Login>>,
    /// Sees records of open transactions too, so it knows the true ends.
    ends: BaseConsumer<Login>,
    topics: DashMap<Topic, Limits>,
    /// Names of topics that a broker has shown. Another one may hear of a new topic a moment later.
    seen: DashSet<String>,
    /// Those that are polled only while they write.
    producers: Mutex<Vec<Weak<BaseProducer<Deliveries>>>>,
}

/// What a message for a topic must fit.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub partitions: u32,
    pub compacted: bool,
    pub message_bytes: usize,
    /// What a batch of messages must fit, as brokers count it.
    pub batch_bytes: usize,
}

/// How long an answer is waited for before it is looked whether there was a refusal; then twice as long, and so on.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How often brokers are asked again for a topic that one of them has shown, each time a millisecond later than before: 5 s in all.
const TRIES: u64 = 100;

/// How long a client is listened to before it is asked.
const LISTEN: Duration = Duration::from_millis(10);

/// How long an answer is waited for that can be done without.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How often clients are looked after that may need a new token.
const LET_IN: Duration = Duration::from_millis(500);

/// How the names of the topics end that keep the states of stages.
const STATE: &str = ".state";

/// Room for what Kafka stores around the bytes of a message.
const OVERHEAD: usize = 512;

impl Cluster {
    pub(super) fn connect(config: KafkaConfig) -> Result<Self, BrokerError> {
        // The clients would go on asking for a token that can be used.
        if let Some(token) = &config.token {
            token.read().map_err(|reason| refused("connect", reason))?;
        }
        let made = |error: KafkaError| failed("connect", &error);
        let admin = match config.token {
            Some(_) => None,
            None => Some(config.admin().create_with_context(config.login()).map_err(made)?),
        };
        let ends = config.reader("read_uncommitted").create_with_context(config.login()).map_err(made)?;
        await_answer(&ends, &config.bootstrap_servers)?;
        Ok(Self {
            readers: Readers::new(&config),
            config,
            admin,
            ends,
            topics: DashMap::new(),
            seen: DashSet::new(),
            producers: Mutex::default(),
        })
    }

    /// Keeps clients let in that have nothing to do for longer than a token lasts, until the cluster is dropped.
    pub(super) fn keep_let_in(self: &Arc<Self>) -> Result<(), BrokerError> {
        let cluster = Arc::downgrade(self);
        let keep = move || {
            while let Some(cluster) = cluster.upgrade() {
                cluster.readers.forget_idle();
                let producers: Vec<_> = {
                    let mut producers = cluster.producers.lock();
                    producers.retain(|producer| producer.strong_count() > 0);
                    producers.iter().filter_map(Weak::upgrade).collect()
                };
                producers.iter().for_each(|producer| producer.poll(Duration::ZERO));
                // Its own questions, and the wait until the next round.
                let _ = cluster.ends.poll(LET_IN);
            }
        };
        let thread = std::thread::Builder::new().name("kafka-token".to_owned()).spawn(keep);
        thread.map(drop).map_err(|error| refused("connect", error))
    }

    /// Has a producer kept let in.
    pub(super) fn keep(&self, producer: &Arc<BaseProducer<Deliveries>>) {
        if self.config.token.is_some() {
            self.producers.lock().push(Arc::downgrade(producer));
        }
    }

    /// The name of a topic on the cluster.
    pub(super) fn topic_name(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.config.prefix)
    }

    /// The name of a group on the cluster.
    pub(super) fn group_name(&self, group: &GroupId) -> String {
        format!("{}{group}", self.config.prefix)
    }

    /// Our name of a topic of the cluster; `None` if it is somebody else's.
    pub(super) fn our_topic(&self, name: &str) -> Option<Topic> {
        Topic::try_new(name.strip_prefix(self.config.prefix.as_str())?).ok()
    }

    pub(super) fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        let metadata = self.ends.fetch_metadata(None, CALL).map_err(|error| failed("list topics", &error))?;
        let names =
            metadata.topics().iter().map(rdkafka::metadata::MetadataTopic::name).filter(|name| !name.starts_with("__"));
        let mut topics: Vec<Topic> = names.filter_map(|name| self.our_topic(name)).collect();
        topics.sort();
        Ok(topics)
    }

    /// The number of partitions; `None` if the topic does not exist. Asked of the client that goes on to ask for
    /// settings: it asks the broker that the newest answer names, which may be gone if that is an old one.
    fn partitions(&self, name: &str) -> Result<Option<u32>, BrokerError> {
        let found = self.until_known(name, || {
            let metadata = match &self.admin {
                Some(admin) => admin.inner().fetch_metadata(Some(name), CALL),
                None => self.ends.fetch_metadata(Some(name), CALL),
            };
            let metadata = metadata.map_err(|error| failed("describe topic", &error))?;
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            Ok(found.map(|topic| topic.partitions().len() as u32).filter(|&partitions| partitions > 0))
        })?;
        if found.is_some() && !self.seen.contains(name) {
            self.seen.insert(name.to_owned());
        }
        Ok(found)
    }

    /// Asks again for a while where the broker that is asked does not know a topic that another one has shown.
    fn until_known<T>(
        &self,
        name: &str,
        ask: impl Fn() -> Result<Option<T>, BrokerError>,
    ) -> Result<Option<T>, BrokerError> {
        for attempt in 0..TRIES {
            let answer = ask()?;
            if answer.is_some() || !self.seen.contains(name) {
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(5 + attempt));
        }
        ask()
    }

    /// What messages for a topic must fit, looked up once.
    pub(super) fn limits(&self, topic: &Topic) -> Result<Limits, BrokerError> {
        if let Some(limits) = self.topics.get(topic) {
            return Ok(*limits);
        }
        let name = self.topic_name(topic);
        let unknown = || BrokerError::UnknownTopic { topic: topic.clone() };
        let partitions = self.partitions(&name)?.ok_or_else(unknown)?;
        let settings = self.settings(&name)?;
        let number = |key: &str| settings.iter().find(|(name, _)| name == key).and_then(|(_, v)| v.parse().ok());
        let batch_bytes: usize = number("max.message.bytes").unwrap_or(1_048_588);
        let limits = Limits {
            partitions,
            compacted: settings.iter().any(|(name, value)| name == "cleanup.policy" && value.contains("compact")),
            message_bytes: batch_bytes.saturating_sub(OVERHEAD),
            batch_bytes,
        };
        self.topics.insert(topic.clone(), limits);
        Ok(limits)
    }

    /// What a batch must fit whichever of the topics known it is for: one producer writes to many.
    pub(super) fn batch_bytes(&self) -> usize {
        self.topics.iter().map(|limits| limits.batch_bytes).min().unwrap_or(usize::MAX)
    }

    /// Notes that a broker refused a batch as too large: the name of the topic, the bytes of the batch's first message, and
    /// what the producer's batches were to fit. Limits are looked up again, as they may have been changed. Where they
    /// are not told and all was within what is taken for them, messages are sent one by one; one that is refused alone says
    /// what its topic takes.
    pub(super) fn note_too_large(&self, name: &str, first: usize, batch_bytes: usize) {
        let Some(topic) = self.our_topic(name) else { return };
        if self.admin.is_some() {
            self.topics.remove(&topic);
        }
        // Otherwise they are looked up before the next message is written.
        let Ok(mut limits) = self.limits(&topic) else { return };
        if batch_bytes > limits.batch_bytes {
            return;
        }
        if self.admin.is_some() {
            // The broker that was asked has not heard of it yet: the next write asks again.
            self.topics.remove(&topic);
            return;
        }
        if batch_bytes > 1 {
            limits.batch_bytes = 1;
        } else {
            limits.message_bytes = limits.message_bytes.min(first.saturating_sub(1));
            limits.batch_bytes = limits.message_bytes;
        }
        self.topics.insert(topic, limits);
    }

    /// The settings of a topic. With a token they cannot be asked for: then the state of a stage is taken to be compacted, as
    /// [`Self::create_topic`] would make it, and all else to be Kafka's default.
    fn settings(&self, name: &str) -> Result<Vec<(String, String)>, BrokerError> {
        let Some(admin) = &self.admin else {
            let policy = if name.ends_with(STATE) { "compact" } else { "delete" };
            return Ok(vec![("cleanup.policy".to_owned(), policy.to_owned())]);
        };
        let options = AdminOptions::new().request_timeout(Some(CALL));
        let found = self.until_known(name, || {
            let described = block_on(admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options));
            let described = described.map_err(|error| failed("describe topic", &error))?;
            match described.into_iter().next() {
                Some(Ok(resource)) => Ok(Some(resource.entries)),
                Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) => Ok(None),
                Some(Err(code)) => Err(refused("describe topic", code)),
                None => Err(refused("describe topic", "no answer")),
            }
        })?;
        let entries = found.ok_or_else(|| refused("describe topic", RDKafkaErrorCode::UnknownTopicOrPartition))?;
        Ok(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    pub(super) fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError> {
        const MOST: u32 = 10_000;
        if spec.partitions == 0 || spec.partitions > MOST {
            let (found, allowed) = (spec.partitions, MOST);
            return Err(BrokerError::PartitionCount { topic: topic.clone(), found, allowed });
        }
        let name = self.topic_name(topic);
        let settings: Vec<(&str, String)> = match &spec.cleanup {
            Cleanup::Compact => vec![("cleanup.policy", "compact".into())],
            Cleanup::Delete(Retention { bytes, ms }) => {
                let limit = |limit: &Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
                vec![("retention.bytes", limit(bytes)), ("retention.ms", limit(ms))]
            }
        };
        let there = self.partitions(&name)?;
        if there == Some(spec.partitions)
            && let Cleanup::Delete(wanted) = &spec.cleanup
        {
            self.tell_other_limits(&name, *wanted);
        }
        let found = match there {
            Some(found) => Some(found),
            None => self.make_new(&name, spec.partitions, &settings)?,
        };
        match found {
            Some(found) if found == spec.partitions => {
                // Producers that are made after this know what its batches must fit. Who may not look learns it when they write.
                let _ = self.limits(topic);
                Ok(())
            }
            Some(found) => Err(BrokerError::TopicMismatch { topic: topic.clone(), found, wanted: spec.partitions }),
            None => Err(BrokerError::UnknownTopic { topic: topic.clone() }),
        }
    }

    /// Makes a topic if there is none of the name; returns how many partitions it has.
    pub(super) fn make(
        &self,
        name: &str,
        partitions: u32,
        settings: &[(&str, String)],
    ) -> Result<Option<u32>, BrokerError> {
        match self.partitions(name)? {
            Some(found) => Ok(Some(found)),
            None => self.make_new(name, partitions, settings),
        }
    }

    /// The same where there is none as far as is known.
    fn make_new(&self, name: &str, partitions: u32, settings: &[(&str, String)]) -> Result<Option<u32>, BrokerError> {
        let replication = TopicReplication::Fixed(self.config.replication.map_or(-1, i32::from));
        let mut new = NewTopic::new(name, partitions as i32, replication);
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let options = AdminOptions::new().request_timeout(Some(CALL)).operation_timeout(Some(CALL));
        let created = block_on(self.admin("create topic")?.create_topics([&new], &options))
            .map_err(|error| failed("create topic", &error))?;
        match created.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(refused("create topic", format!("{name}: {code}"))),
            _ => {}
        }
        self.seen.insert(name.to_owned());
        self.partitions(name)
    }

    /// Warns if a topic that is there has other limits of retention than the ones asked for. It keeps them: a cluster's settings
    /// are changed by its own tools.
    fn tell_other_limits(&self, name: &str, wanted: Retention) {
        if wanted == Retention::default() {
            return;
        }
        // Who may not look is not told, and goes on.
        let Ok(settings) = self.settings(name) else { return };
        let others = other_limits(wanted, &settings);
        if others.is_empty() {
            return;
        }
        let found: Vec<String> = others.iter().map(|(key, found, _)| format!("{key}={found}")).collect();
        let wanted: Vec<String> = others.iter().map(|(key, _, wanted)| format!("{key}={wanted}")).collect();
        let (found, wanted, servers) = (found.join(","), wanted.join(","), &self.config.bootstrap_servers);
        tracing::warn!(
            topic = name,
            found,
            wanted,
            "the topic keeps its retention; to change it: kafka-configs --bootstrap-server {servers} --alter \
             --entity-type topics --entity-name {name} --add-config {wanted}"
        );
    }

    pub(super) fn delete_topic(&self, topic: &Topic) -> Result<(), BrokerError> {
        self.delete(&self.topic_name(topic))?;
        self.topics.remove(topic);
        Ok(())
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), BrokerError> {
        let options = AdminOptions::new().request_timeout(Some(CALL)).operation_timeout(Some(CALL));
        self.seen.remove(name);
        let deleted = block_on(self.admin("delete topic")?.delete_topics(&[name], &options));
        deleted.map(drop).map_err(|error| failed("delete topic", &error))
    }

    fn admin(&self, action: &'static str) -> Result<&AdminClient<Login>, BrokerError> {
        let why = "with OAUTHBEARER topics are made and deleted by the cluster's own tools: the client's admin part takes no token";
        self.admin.as_ref().ok_or_else(|| refused(action, why))
    }

    /// The number of brokers.
    pub(super) fn brokers(&self) -> Result<u32, BrokerError> {
        let metadata = self.ends.fetch_metadata(None, CALL).map_err(|error| failed("list brokers", &error))?;
        Ok(metadata.brokers().len() as u32)
    }

    pub(super) fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError> {
        let name = self.topic_name(topic);
        let Some(count) = self.partitions(&name)? else { return Ok(None) };
        let settings = self.settings(&name)?;
        let of = |key: &str| settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let cleanup = if of("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            Cleanup::Compact
        } else {
            let limit = |key| of(key).and_then(|value| value.parse::<i64>().ok()).and_then(|v| u64::try_from(v).ok());
            Cleanup::Delete(Retention { bytes: limit("retention.bytes"), ms: limit("retention.ms") })
        };
        let ends = |partition| self.watermarks(&TopicPartition::new(topic.clone(), partition));
        let partitions = (0..count).map(ends).collect::<Result<_, _>>()?;
        Ok(Some(TopicDescription { spec: TopicSpec { partitions: count, cleanup }, partitions }))
    }

    /// The ends of a partition, records of open transactions included.
    pub(super) fn watermarks(&self, place: &TopicPartition) -> Result<Watermarks, BrokerError> {
        let name = self.topic_name(&place.topic);
        let found = self.until_known(&name, || match ends(&self.ends, &name, place.partition) {
            Ok(ends) => Ok(Some(ends)),
            Err(error) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
                _ => Err(failed("look up the ends of a partition", &error)),
            },
        })?;
        found.ok_or_else(|| BrokerError::UnknownTopic { topic: place.topic.clone() })
    }

    /// Where partitions end, as in [`Self::watermarks`] and in the order given: one question to each broker, and no patience
    /// with it.
    pub(super) fn highs<'a>(
        &self,
        places: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<Vec<Offset>, BrokerError> {
        let asked = |error: KafkaError| failed("look up the ends of partitions", &error);
        let mut list = TopicPartitionList::new();
        for place in places {
            let mut element = list.add_partition(&self.topic_name(&place.topic), signed(place.partition));
            // In the place of a time, the end.
            element.set_offset(Place::End).map_err(asked)?;
        }
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        serve(&self.ends);
        let found = self.ends.offsets_for_times(list, AT_ONCE).map_err(asked)?;
        let high = |element: &TopicPartitionListElem<'_>| match (element.error(), element.offset()) {
            (Ok(()), Place::Offset(high)) => Ok(high as Offset),
            (Ok(()), _) => Err(BrokerError::Unavailable {
                action: "look up the ends of partitions",
                reason: format!("no answer for {}[{}]", element.topic(), element.partition()),
            }),
            (Err(error), _) => Err(asked(error)),
        };
        found.elements().iter().map(high).collect()
    }

    /// Takes a topic to be there, on a cluster that cannot be asked.
    #[cfg(test)]
    pub(super) fn assume(&self, topic: &Topic, partitions: u32) {
        self.topics.insert(
            topic.clone(),
            Limits { partitions, compacted: false, message_bytes: 1 << 20, batch_bytes: 1 << 20 },
        );
    }

    /// Fails if a partition does not exist.
    pub(super) fn check(&self, place: &TopicPartition) -> Result<(), BrokerError> {
        let partitions = self.limits(&place.topic)?.partitions;
        if place.partition < partitions {
            return Ok(());
        }
        Err(BrokerError::UnknownPartition { partition: place.clone(), partitions })
    }
}

/// The limits that a topic with these settings has otherwise than asked for: the setting, its value, the one asked for. What is
/// not asked for is the cluster's to say.
fn other_limits(wanted: Retention, settings: &[(String, String)]) -> Vec<(&'static str, &str, u64)> {
    let other = |(key, wanted): (&'static str, Option<u64>)| {
        let wanted = wanted?;
        let (_, found) = settings.iter().find(|(name, _)| name == key)?;
        (*found != wanted.to_string()).then_some((key, found.as_str(), wanted))
    };
    [("retention.bytes", wanted.bytes), ("retention.ms", wanted.ms)].into_iter().filter_map(other).collect()
}

/// Waits until a broker answers. Fails here, with the servers named, instead of waiting in the first stage.
fn await_answer(client: &BaseConsumer<Login>, servers: &str) -> Result<(), BrokerError> {
    let deadline = Instant::now() + CALL;
    let mut patience = ASK_AGAIN;
    loop {
        // All that it has to say: what it asks for, and why it was not let in, which its context notes.
        while client.poll(LISTEN).is_some() {}
        let Err(error) = client.fetch_metadata(None, patience) else { return Ok(()) };
        patience *= 2;
        if let Some(reason) = client.context().refused() {
            return Err(refused("connect", format!("{servers} did not let us in: {reason}")));
        }
        if Instant::now() > deadline {
            let why = client.context().complaint().unwrap_or_else(|| error.to_string());
            let reason = format!("{servers} did not answer within {} s: {why}", CALL.as_secs());
            return Err(BrokerError::Unavailable { action: "connect", reason });
        }
    }
}

/// Asks for the ends of a partition as a client sees them. The client must not be reading. One that knows a leader that is gone looks for the new one
/// only when it is told to.
pub(super) fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    name: &str,
    partition: Partition,
) -> Result<Watermarks, KafkaError> {
    serve(client);
    let ask = || client.fetch_watermarks(name, signed(partition), CALL);
    let (low, high) = ask().or_else(|_| client.fetch_metadata(Some(name), CALL).and_then(|_| ask()))?;
    Ok(Watermarks { low: low as Offset, high: high as Offset })
}

/// Returns a partition as Kafka's clients count it.
pub(super) fn signed(partition: Partition) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// What a failed call means: most pass, because a broker was restarted or a connection broke.
pub(super) fn failed(action: &'static str, error: &KafkaError) -> BrokerError {
    use RDKafkaErrorCode as Code;
    let reason = error.to_string();
    let fatal = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::UnsupportedFeature
                | Code::UnsupportedVersion
                | Code::Fatal
                | Code::Fenced
        )
    ) || matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(..));
    if fatal { BrokerError::Refused { action, reason } } else { BrokerError::Unavailable { action, reason } }
}

/// Tells what the cluster refused from what a client that reads overcomes by itself.
pub(super) fn judge(error: &KafkaError, login: &Login) -> Result<(), BrokerError> {
    match failed("read", error) {
        _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication) && login.outlasts() => Ok(()),
        refused @ BrokerError::Refused { .. } => Err(refused),
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(refused("read", error)),
        _ => {
            tracing::debug!(%error, "reading");
            Ok(())
        }
    }
}

pub(super) fn refused(action: &'static str, reason: impl std::fmt::Display) -> BrokerError {
    BrokerError::Refused { action, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

    use super::*;

    /// Where brokers do not say what a topic takes, as with a token.
    #[test]
    fn what_a_topic_takes_is_learned_from_what_is_refused() {
        let mock: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
        let mut cluster = Cluster::connect(KafkaConfig::new(mock.bootstrap_servers())).unwrap();
        cluster.admin = None;
        let topics = ["t", "u"].map(|name| Topic::try_new(name).unwrap());
        topics.iter().for_each(|topic| cluster.assume(topic, 1));
        let limits = |cluster: &Cluster| {
            let limits = cluster.limits(&topics[0]).unwrap();
            (limits.message_bytes, limits.batch_bytes)
        };
        // A batch that was too large for what is known already.
        cluster.note_too_large("t", 5_000, 2 << 20);
        assert_eq!(limits(&cluster), (1 << 20, 1 << 20));
        // One that was not: messages go one by one until one of them is refused.
        cluster.note_too_large("t", 5_000, 1 << 20);
        assert_eq!(limits(&cluster), (1 << 20, 1));
        assert_eq!(cluster.batch_bytes(), 1);
        cluster.note_too_large("t", 5_000, 1);
        assert_eq!(limits(&cluster), (4_999, 4_999));
        assert_eq!(cluster.batch_bytes(), 4_999);
    }

    #[test]
    fn a_topic_that_is_there_is_told_of_by_the_limits_asked_for_alone() {
        let settings = [("cleanup.policy", "delete"), ("retention.bytes", "-1"), ("retention.ms", "604800000")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let others = |bytes, ms| other_limits(Retention { bytes, ms }, &settings);
        assert_eq!(others(None, None), []);
        assert_eq!(others(None, Some(604_800_000)), []);
        assert_eq!(others(None, Some(1_000)), [("retention.ms", "604800000", 1_000)]);
        assert_eq!(
            others(Some(1 << 30), Some(1_000)),
            [("retention.bytes", "-1", 1 << 30), ("retention.ms", "604800000", 1_000)]
        );
        // With a token settings are not known.
        assert_eq!(other_limits(Retention { bytes: Some(1), ms: Some(1) }, &settings[..1]), []);
    }
}

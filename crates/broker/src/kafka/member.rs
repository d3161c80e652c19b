//! A consumer of a group: takes what the [`Poller`] has put into its inbox, and hands units to the [`Committer`].

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use driftline_types::{GroupId, Message, Offset, Topic, TopicPartition};
use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
};

use super::{
    cluster::{Cluster, failed, refused, signed},
    committer::{Checked, Committer, How, Job},
    config::CALL,
    poller::{Client, Poller, Rebalances, Shared},
    writer::Writer,
};
use crate::{BrokerError, Committed, Delivery, FetchLimit, Member, OffsetCommit, Poll, Settled, Unit, Wait, advance};

/// How long leaving a group is waited for.
const LEAVE: Duration = Duration::from_secs(5);
/// The longest note with an offset: Kafka's default limit, less our mark.
const NOTE: usize = 4095;

/// A member of a group of a Kafka cluster.
pub(super) struct KafkaMember {
    cluster: Arc<Cluster>,
    group: GroupId,
    pub(super) shared: Arc<Shared>,
    committer: Committer,
    /// What it was told that it owns, and the next offset it has not seen.
    owned: BTreeMap<TopicPartition, Offset>,
    /// What proves that it does.
    generation: Option<Arc<ConsumerGroupMetadata>>,
    /// It was told that its partitions are taken away by the next poll.
    revoking: bool,
    /// The group has moved on without it: what it reads is for others, until it is given partitions again.
    outcast: bool,
    ended: mpsc::Receiver<()>,
}

impl KafkaMember {
    pub(super) fn join(cluster: &Arc<Cluster>, group: &GroupId, topics: &[Topic]) -> Result<Self, BrokerError> {
        for topic in topics {
            cluster.limits(topic)?;
        }
        let name = cluster.group_name(group);
        let client: Client = cluster
            .config
            .member(&name)
            .create_with_context(Rebalances::new(cluster.config.login()))
            .map_err(|error| failed("join a group", &error))?;
        let names: Vec<(String, Topic)> =
            topics.iter().map(|topic| (cluster.topic_name(topic), topic.clone())).collect();
        let subscribed: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        client.subscribe(&subscribed).map_err(|error| failed("join a group", &error))?;
        let (client, shared) = (Arc::new(client), Arc::new(Shared::default()));
        let (ending, ended) = mpsc::channel();
        let poller = Poller {
            cluster: Arc::clone(cluster),
            client: Arc::clone(&client),
            shared: Arc::clone(&shared),
            group: group.clone(),
            names,
            reading: false,
            full_since: None,
            paused: false,
            started: BTreeMap::new(),
            buffer: BytesMut::new(),
            fetched: Vec::new(),
        };
        std::thread::Builder::new()
            .name(format!("{group}-poll"))
            .spawn(move || poller.run(&ending))
            .map_err(|error| refused("join a group", error))?;
        // A static member keeps its id, so that its restart ends at once what it left open.
        let instance = cluster.config.properties.get("group.instance.id").cloned();
        let instance = instance.unwrap_or_else(|| format!("{:016x}", RandomState::new().hash_one(std::process::id())));
        Ok(Self {
            committer: Committer::start(cluster, group, &client, &shared, format!("{name}-{instance}"))?,
            cluster: Arc::clone(cluster),
            group: group.clone(),
            shared,
            owned: BTreeMap::new(),
            generation: None,
            revoking: false,
            outcast: false,
            ended,
        })
    }

    /// Checks a unit against what its topics take and what this member owns.
    fn check(&self, unit: Unit) -> Result<Checked, BrokerError> {
        for OffsetCommit { partition, committed } in &unit.offsets {
            let Some(&position) = self.owned.get(partition) else {
                return Err(fenced(&self.group, Some(partition)));
            };
            if committed.next > position {
                let ends = self.cluster.watermarks(partition)?;
                if committed.next > ends.high {
                    let (partition, offset) = (partition.clone(), committed.next);
                    return Err(BrokerError::OutOfRange {
                        partition,
                        offset,
                        low: ends.low,
                        high: ends.high,
                        group: None,
                    });
                }
            }
            let note = committed.metadata.as_ref().map_or(0, String::len);
            if note > NOTE {
                let (found, allowed) = (note, NOTE);
                return Err(BrokerError::MetadataTooLarge { partition: partition.clone(), found, allowed });
            }
        }
        let sizes = Writer::check(&self.cluster, &unit.outputs)?;
        let whole = sizes.compacted || self.cluster.config.delivery == Delivery::ExactlyOnce;
        let empty = unit.outputs.is_empty() && unit.offsets.is_empty();
        let how = if whole && !empty { How::Whole } else { How::InTurn };
        let generation = self.generation.clone();
        Ok(Checked { outputs: unit.outputs, offsets: unit.offsets, bytes: sizes.bytes, how, generation })
    }
}

/// Says that a partition, or any, is no longer owned.
pub(super) fn fenced(group: &GroupId, partition: Option<&TopicPartition>) -> BrokerError {
    let any = || TopicPartition::new(Topic::try_new("any").expect("a valid name"), 0);
    BrokerError::Fenced { group: group.clone(), partition: partition.cloned().unwrap_or_else(any) }
}

/// What a group has committed for a partition.
pub(super) fn committed<C: ConsumerContext>(
    cluster: &Cluster,
    client: &BaseConsumer<C>,
    place: &TopicPartition,
) -> Result<Option<Committed>, BrokerError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(&cluster.topic_name(&place.topic), signed(place.partition));
    let found = client.committed_offsets(list, CALL).map_err(|error| failed("look up committed offsets", &error))?;
    Ok(found.elements().first().and_then(|element| committed_of(element.offset(), element.metadata())))
}

pub(super) fn committed_of(offset: Place, metadata: &str) -> Option<Committed> {
    match offset {
        Place::Offset(next) => {
            Some(Committed { next: next as Offset, metadata: metadata.strip_prefix('=').map(str::to_owned) })
        }
        _ => None,
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, limit: FetchLimit, timeout: Duration) -> Result<Poll, BrokerError> {
        let deadline = Instant::now().checked_add(timeout);
        let revoked = std::mem::take(&mut self.revoking);
        if revoked {
            // Others may read from here on: nothing is left under way.
            self.committer.finish();
        }
        let mut inbox = self.shared.inbox.lock();
        if revoked {
            self.owned.clear();
            inbox.agreed = true;
            self.shared.emptied.notify_all();
        }
        loop {
            if let Some(event) = inbox.events.pop_front() {
                return Ok(match event {
                    Poll::Assigned(assigned) => {
                        self.outcast = false;
                        self.generation.clone_from(&inbox.generation);
                        self.owned =
                            assigned.iter().map(|(place, committed)| (place.clone(), committed.next)).collect();
                        Poll::Assigned(assigned)
                    }
                    Poll::Revoking(_) => {
                        self.revoking = true;
                        Poll::Revoking(self.owned.keys().cloned().collect())
                    }
                    Poll::Lost(_) => Poll::Lost(std::mem::take(&mut self.owned).into_keys().collect()),
                    other => other,
                });
            }
            if let Some(error) = inbox.failure.take() {
                return Err(error);
            }
            if inbox.ended {
                return Err(refused("read", "the thread that polls has ended"));
            }
            if self.outcast {
                inbox.messages.clear();
                inbox.bytes = 0;
                self.shared.emptied.notify_all();
            }
            if !inbox.messages.is_empty() {
                break;
            }
            let timed_out = match deadline {
                Some(deadline) => self.shared.filled.wait_until(&mut inbox, deadline).timed_out(),
                None => {
                    self.shared.filled.wait(&mut inbox);
                    false
                }
            };
            if timed_out && inbox.events.is_empty() && inbox.messages.is_empty() && inbox.failure.is_none() {
                return Ok(Poll::Idle);
            }
        }
        let (mut records, mut bytes) = (0, 0);
        for next in &inbox.messages {
            let size = next.payload_bytes();
            if records > 0 && (records >= limit.records || bytes + size > limit.bytes) {
                break;
            }
            records += 1;
            bytes += size;
        }
        let messages: Vec<Message> = inbox.messages.drain(..records).collect();
        inbox.bytes = inbox.bytes.saturating_sub(bytes);
        self.shared.emptied.notify_all();
        drop(inbox);
        advance(&mut self.owned, &messages);
        Ok(Poll::Messages(messages))
    }

    fn submit(&mut self, unit: Unit) {
        self.committer.submit(self.check(unit).map_or_else(Job::Refused, Job::Write));
    }

    fn settled(&mut self, wait: Wait) -> Settled {
        let settled = self.committer.settled(wait);
        self.outcast |= self.committer.is_outcast();
        settled
    }

    fn lag(&self) -> Result<u64, BrokerError> {
        {
            let inbox = self.shared.inbox.lock();
            if !inbox.settled || !inbox.events.is_empty() {
                return Ok(1);
            }
        }
        let mut lag = 0;
        for (place, &next) in &self.owned {
            let high = self.cluster.watermarks(place)?.high;
            if next < high {
                // What follows may be the marks of transactions alone.
                let limit = FetchLimit { records: 1, bytes: 1 };
                if !self.cluster.readers.read(&self.cluster, place, next, limit)?.is_empty() {
                    lag += high - next;
                }
            }
        }
        Ok(lag)
    }

    fn lag_estimate(&self) -> Result<u64, BrokerError> {
        let highs = self.cluster.highs(self.owned.keys())?;
        Ok(highs.iter().zip(self.owned.values()).map(|(high, next)| high.saturating_sub(*next)).sum())
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.committer.stop();
        self.shared.stop.store(true, Ordering::Release);
        self.shared.emptied.notify_all();
        if self.ended.recv_timeout(LEAVE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(group = %self.group, "the group's coordinator does not answer: left without a word");
        }
    }
}

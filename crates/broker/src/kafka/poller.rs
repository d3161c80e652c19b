//! The thread of a member that polls the client.
//!
//! It never pauses, so that a stage may compute for as long as it likes without losing its partitions. A partition that is to be
//! given up goes through three states: *owned* → *revoking*, when the group asks for it and the member is told → given up, when
//! the member polls again; one that the group has given to somebody else is *lost* at once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use driftline_types::{ErrorClass, GroupId, Message, Offset, Topic, TopicPartition};
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode as Code},
    types::RDKafkaRespErr,
};

use super::{
    cluster::{Cluster, failed, judge, refused},
    convert,
    login::{Login, by_login},
    member::committed_of,
};
use crate::{BrokerError, Committed, Poll, Watermarks};

/// Bytes that wait for the member, beyond which the client is left alone.
const BUFFERED: usize = 16 << 20;
/// How long that may last before partitions are paused: pausing throws away what the client has fetched.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// How long the poller waits for the client, and so at most for anything else.
const TURN: Duration = Duration::from_millis(10);
/// How long committed offsets are waited for before they are asked for again.
const COMMITTED: Duration = Duration::from_secs(10);
/// How long an assignment is put off.
const ASSIGN_AGAIN: Duration = Duration::from_millis(300);

/// What the group asks of the client; filled in by its callback.
pub(super) struct Rebalances {
    login: Login,
    waiting: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
}

enum Rebalance {
    Assign(TopicPartitionList),
    Revoke { lost: bool },
}

impl Rebalances {
    pub(super) fn new(login: Login) -> Self {
        Self { login, waiting: Mutex::default(), closing: AtomicBool::default() }
    }
}

impl ClientContext for Rebalances {
    by_login!();
}

impl ConsumerContext for Rebalances {
    /// Notes what is asked for; the group waits until the poller has answered.
    fn rebalance(&self, client: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            // A client that is closed waits for this, and nobody else will answer any more.
            let _ = client.unassign();
            return;
        }
        let rebalance = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(list.clone()),
            _ => Rebalance::Revoke { lost: client.assignment_lost() },
        };
        self.waiting.lock().push_back(rebalance);
    }
}

pub(super) type Client = BaseConsumer<Rebalances>;

/// What poller and member share.
#[derive(Default)]
pub(super) struct Shared {
    pub inbox: Mutex<Inbox>,
    /// For the member: something came in.
    pub filled: Condvar,
    /// For the poller: there is room, or something to do.
    pub emptied: Condvar,
    pub stop: AtomicBool,
}

impl Shared {
    /// Whether an assignment is the newest one.
    pub(super) fn is_newest(&self, generation: Option<&Arc<ConsumerGroupMetadata>>) -> bool {
        match (generation, &self.inbox.lock().generation) {
            (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
            _ => false,
        }
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    /// Comes before messages.
    pub events: VecDeque<Poll>,
    /// Comes after events and before messages.
    pub failure: Option<BrokerError>,
    pub messages: VecDeque<Message>,
    pub bytes: usize,
    /// Nobody polls any more.
    pub ended: bool,
    /// The member knows that its partitions are taken away, and has polled again.
    pub agreed: bool,
    /// The group has said what this member reads, if only that it is nothing.
    pub settled: bool,
    /// What proves that the newest assignment is this member's: commits carry the proof of the assignment that the
    /// member knows of, so that they fail if it sleeps through a rebalance.
    pub generation: Option<Arc<ConsumerGroupMetadata>>,
}

/// The thread's side.
pub(super) struct Poller {
    pub cluster: Arc<Cluster>,
    pub client: Arc<Client>,
    pub shared: Arc<Shared>,
    pub group: GroupId,
    /// The topics as the cluster names them.
    pub names: Vec<(String, Topic)>,
    /// Whether partitions are assigned and not being taken away.
    pub reading: bool,
    pub full_since: Option<Instant>,
    pub paused: bool,
    /// Where the partitions assigned were begun.
    pub started: BTreeMap<TopicPartition, Offset>,
    /// What the messages share that are read.
    pub buffer: BytesMut,
    /// Messages on their way to the inbox.
    pub fetched: Vec<Message>,
}

/// Leaves the group, whatever ended the thread: the member would wait for ever, and so would whoever closes the client.
impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.inbox.lock().ended = true;
        self.shared.filled.notify_all();
        self.client.context().closing.store(true, Ordering::Release);
        let _ = self.client.unassign();
    }
}

impl Poller {
    /// Polls until it is told to stop, then leaves the group.
    pub(super) fn run(mut self, ended: &mpsc::Sender<()>) {
        while !self.shared.stop.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                self.fail(error);
            }
        }
        // With the last handle to the client, which leaves the group.
        drop(self);
        let _ = ended.send(());
    }

    fn fail(&self, error: BrokerError) {
        self.shared.inbox.lock().failure.get_or_insert(error);
        self.shared.filled.notify_all();
    }

    fn turn(&mut self) -> Result<(), BrokerError> {
        if std::mem::take(&mut self.shared.inbox.lock().agreed) {
            self.give_up()?;
        }
        let rebalance = self.client.context().waiting.lock().pop_front();
        match rebalance {
            Some(Rebalance::Assign(list)) => match self.assign(&list) {
                Err(error) if error.class() == ErrorClass::Transient => self.assign_later(list, &error),
                outcome => outcome,
            },
            Some(Rebalance::Revoke { lost }) => self.revoke(lost),
            None => self.fetch(),
        }
    }

    /// Ends the assignment. The client would keep a pause beyond it, and read nothing when the partitions come back.
    fn give_up(&mut self) -> Result<(), BrokerError> {
        self.set_paused(false)?;
        self.client.unassign().map_err(|error| failed("give up partitions", &error))
    }

    /// Puts off an assignment for which the cluster has no answers now. The group would forget a member that does not
    /// poll; no partition is being read, so no message can come.
    fn assign_later(&self, list: TopicPartitionList, error: &BrokerError) -> Result<(), BrokerError> {
        tracing::warn!(%error, "partitions cannot be taken over, trying again");
        self.client.context().waiting.lock().push_front(Rebalance::Assign(list));
        match self.client.poll(ASSIGN_AGAIN) {
            Some(Err(error)) => self.judge(&error),
            _ => Ok(()),
        }
    }

    /// Begins to read what the group has assigned, each partition where the group had come to.
    fn assign(&mut self, list: &TopicPartitionList) -> Result<(), BrokerError> {
        let mut start = TopicPartitionList::new();
        let mut assigned = Vec::new();
        let mut missing = None;
        if list.count() > 0 {
            let committed = self
                .client
                .committed_offsets(list.clone(), COMMITTED)
                .map_err(|error| failed("look up committed offsets", &error))?;
            for element in committed.elements() {
                let Some((_, topic)) = self.names.iter().find(|(name, _)| name == element.topic()) else { continue };
                let place = TopicPartition::new(topic.clone(), element.partition().unsigned_abs());
                let ends = self.cluster.watermarks(&place)?;
                let committed = committed_of(element.offset(), element.metadata())
                    .unwrap_or(Committed { next: ends.low, metadata: None });
                // No group commits past the end, and the ends asked for after its offset include open transactions: beyond
                // them the log has lost what was there.
                missing = missing.or_else(|| self.missing(&place, committed.next, ends));
                start
                    .add_partition_offset(element.topic(), element.partition(), Place::Offset(committed.next as i64))
                    .map_err(|error| failed("take over partitions", &error))?;
                assigned.push((place, committed));
            }
        }
        self.client.assign(&start).map_err(|error| failed("take over partitions", &error))?;
        self.reading = !assigned.is_empty();
        self.started = assigned.iter().map(|(place, committed)| (place.clone(), committed.next)).collect();
        let places: Vec<String> = assigned.iter().map(|(place, _)| place.to_string()).collect();
        tracing::info!(group = %self.group, partitions = places.join(" "), "taken over");
        let mut inbox = self.shared.inbox.lock();
        inbox.settled = true;
        inbox.generation = self.client.group_metadata().map(Arc::new);
        // A member without partitions is told so as well: it stands by, and is ready.
        inbox.events.push_back(Poll::Assigned(assigned));
        inbox.failure = inbox.failure.take().or(missing);
        self.shared.filled.notify_all();
        Ok(())
    }

    fn revoke(&mut self, lost: bool) -> Result<(), BrokerError> {
        let had = std::mem::replace(&mut self.reading, false);
        tracing::info!(group = %self.group, lost, "given up");
        let mut inbox = self.shared.inbox.lock();
        inbox.settled = false;
        inbox.messages.clear();
        inbox.bytes = 0;
        // An assignment that the member was never told of ends without its knowledge.
        let before = inbox.events.len();
        inbox.events.retain(|event| !matches!(event, Poll::Assigned(_)));
        let told = had && inbox.events.len() == before;
        if told {
            // The member knows which ones it has.
            inbox.events.push_back(if lost { Poll::Lost(Vec::new()) } else { Poll::Revoking(Vec::new()) });
            self.shared.filled.notify_all();
        }
        drop(inbox);
        if told && !lost { Ok(()) } else { self.give_up() }
    }

    /// Takes messages from the client, if there is room for them.
    fn fetch(&mut self) -> Result<(), BrokerError> {
        const MESSAGES: usize = 1024;
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.bytes >= BUFFERED && !self.paused {
                let since = *self.full_since.get_or_insert_with(Instant::now);
                if since.elapsed() < PAUSE_AFTER {
                    self.shared.emptied.wait_for(&mut inbox, TURN);
                    return Ok(());
                }
            }
        }
        self.pause_or_resume()?;
        let mut bytes = 0;
        let mut wait = TURN;
        let mut outcome = Ok(());
        // Where the group has asked for something, the poll returns nothing.
        while outcome.is_ok() && self.fetched.len() < MESSAGES && bytes < BUFFERED / 8 {
            match self.client.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    if let Some((_, topic)) =
                        self.names.iter().find(|(name, _)| name == rdkafka::Message::topic(&message))
                    {
                        let message = convert::message(topic.clone(), &message, &mut self.buffer);
                        bytes += message.payload_bytes();
                        self.fetched.push(message);
                    }
                }
                Some(Err(error)) => outcome = self.judge(&error),
            }
            wait = Duration::ZERO;
        }
        if !self.fetched.is_empty() && self.reading {
            let mut inbox = self.shared.inbox.lock();
            inbox.messages.extend(self.fetched.drain(..));
            inbox.bytes += bytes;
            self.shared.filled.notify_all();
        }
        self.fetched.clear();
        outcome
    }

    /// Pauses the client where the member has been too slow for a while; goes on when half of the room is free.
    fn pause_or_resume(&mut self) -> Result<(), BrokerError> {
        let bytes = self.shared.inbox.lock().bytes;
        let full = bytes >= BUFFERED;
        if !full {
            self.full_since = None;
        }
        if full || bytes < BUFFERED / 2 { self.set_paused(full) } else { Ok(()) }
    }

    /// Pauses all partitions or resumes them, if they are not already.
    fn set_paused(&mut self, paused: bool) -> Result<(), BrokerError> {
        if paused != self.paused {
            let all = self.client.assignment().map_err(|error| failed("pause", &error))?;
            let outcome = if paused { self.client.pause(&all) } else { self.client.resume(&all) };
            outcome.map_err(|error| failed("pause", &error))?;
            self.paused = paused;
        }
        Ok(())
    }

    /// Tells what ends the member from what the client overcomes by itself.
    fn judge(&self, error: &KafkaError) -> Result<(), BrokerError> {
        match error.rdkafka_error_code() {
            // The client reads the partition no more, and says so once.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => self.strayed(error),
            _ => judge(error, &self.client.context().login),
        }
    }

    /// Fails with the partition that was to be read where its log holds nothing, or with all that it may have been. What is
    /// told of an assignment that has ended is too late to matter.
    fn strayed(&self, error: &KafkaError) -> Result<(), BrokerError> {
        let position = self.client.position().map_err(|error| failed("read", &error))?;
        let mut places = Vec::new();
        for element in position.elements() {
            let Some((_, topic)) = self.names.iter().find(|(name, _)| name == element.topic()) else { continue };
            let place = TopicPartition::new(topic.clone(), element.partition().unsigned_abs());
            let at = match (element.offset(), self.started.get(&place)) {
                (Place::Offset(at), _) => at as Offset,
                // Before its first message a partition has no position.
                (_, Some(&started)) => started,
                _ => continue,
            };
            let ends = self.cluster.watermarks(&place)?;
            if let Some(missing) = self.missing(&place, at, ends) {
                return Err(missing);
            }
            places.push(format!("{place} at {at} of {} to {}", ends.low, ends.high));
        }
        if places.is_empty() {
            return Ok(());
        }
        // The end has grown past it since, or what stands there now is not what stood there before.
        let reason = format!(
            "{error}: the cluster did not hold the next record of one of {}; started again, the group goes on from its \
             committed offsets",
            places.join(", ")
        );
        Err(refused("read", reason))
    }

    /// Says that a log does not hold the place that the group has come to.
    fn missing(&self, place: &TopicPartition, offset: Offset, ends: Watermarks) -> Option<BrokerError> {
        let Watermarks { low, high } = ends;
        let missing = || {
            let (partition, group) = (place.clone(), Some(self.group.clone()));
            BrokerError::OutOfRange { partition, offset, low, high, group }
        };
        (!(low..=high).contains(&offset)).then(missing)
    }
}

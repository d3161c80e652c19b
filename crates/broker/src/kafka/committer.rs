//! The thread of a member that writes units, while the member works on the next ones.
//!
//! Units are written in the order in which they were handed over, and as many as come within [`EVERY`] are committed
//! together: in one transaction, or with one commit of offsets after their outputs are stored. Where no more come,
//! what is open is committed after about as long as a commit takes, so that a quiet stream waits little and a busy one
//! does not pay for a commit a batch. After a failure everything that is not committed is withdrawn.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use driftline_types::{ErrorClass, GroupId, Outgoing, TopicPartition};
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{CommitMode, Consumer, ConsumerGroupMetadata},
    error::RDKafkaErrorCode as Code,
};

use super::{
    cluster::{Cluster, failed, refused, signed},
    member::{committed, fenced},
    poller::{Client, Shared},
    writer::{Failed, Offsets, Writer},
};
use crate::{BrokerError, Committed, OffsetCommit, Settled, Wait};

/// How long units are added to those that will be committed with them.
const EVERY: Duration = Duration::from_millis(100);
/// How long the next unit is waited for at most: as long as the last commit took, within these bounds.
const LULL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// Bytes of outputs under way, beyond which the member waits.
const UNDER_WAY: usize = 32 << 20;

/// How long a cluster that does not know what became of a transaction is left alone.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How a unit is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Outputs, then offsets.
    InTurn,
    /// In a transaction.
    Whole,
}

/// A unit that was checked, or what is wrong with it.
pub(super) enum Job {
    Write(Checked),
    Refused(BrokerError),
}

/// A unit that its topics and partitions will take.
pub(super) struct Checked {
    pub outputs: Vec<Outgoing>,
    pub offsets: Vec<OffsetCommit>,
    /// Of the outputs.
    pub bytes: usize,
    pub how: How,
    /// The assignment it was made under.
    pub generation: Option<Arc<ConsumerGroupMetadata>>,
}

/// The member's side.
pub(super) struct Committer {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

/// What member and thread share.
#[derive(Default)]
struct Work {
    queue: Mutex<Queue>,
    /// For the thread: there is something to do.
    asked: Condvar,
    /// For the member: something was settled.
    told: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Units handed over and not settled, those that the thread has taken included, and their bytes.
    under_way: usize,
    bytes: usize,
    settled: Settled,
    /// The member waits for all of them.
    hurry: bool,
    /// The group has moved on without this member.
    outcast: bool,
    stop: bool,
    /// The thread has ended.
    ended: bool,
}

impl Committer {
    /// Starts the thread of a member. It holds the client until [`Self::stop`].
    pub(super) fn start(
        cluster: &Arc<Cluster>,
        group: &GroupId,
        client: &Arc<Client>,
        shared: &Arc<Shared>,
        transactional_id: String,
    ) -> Result<Self, BrokerError> {
        let work = Arc::new(Work::default());
        let thread = Thread {
            plain: Writer::new(Arc::clone(cluster), None),
            transactions: Writer::new(Arc::clone(cluster), Some(transactional_id)),
            cluster: Arc::clone(cluster),
            group: group.clone(),
            client: Arc::clone(client),
            shared: Arc::clone(shared),
            work: Arc::clone(&work),
            open: None,
            lull: LULL[0],
        };
        let thread = std::thread::Builder::new()
            .name(format!("{group}-commit"))
            .spawn(move || thread.run())
            .map_err(|error| refused("join a group", error))?;
        Ok(Self { work, thread: Some(thread) })
    }

    /// Hands a unit over; waits while too much is under way.
    pub(super) fn submit(&self, job: Job) {
        let bytes = if let Job::Write(unit) = &job { unit.bytes } else { 0 };
        let mut queue = self.work.queue.lock();
        while queue.under_way > 0 && queue.bytes + bytes > UNDER_WAY && queue.settled.failed.is_none() {
            self.work.told.wait(&mut queue);
        }
        if queue.ended {
            queue.settled.failed.get_or_insert_with(ended);
        }
        // Nothing is written past a failure that the member has not heard of.
        if queue.settled.failed.is_none() {
            queue.under_way += 1;
            queue.bytes += bytes;
            queue.waiting.push_back(job);
            self.work.asked.notify_one();
        }
    }

    pub(super) fn settled(&self, wait: Wait) -> Settled {
        if wait == Wait::ForAll {
            self.finish();
        }
        let mut queue = self.work.queue.lock();
        if wait == Wait::ForAny {
            while queue.under_way > 0 && queue.settled.written == 0 {
                self.work.told.wait(&mut queue);
            }
        }
        std::mem::take(&mut queue.settled)
    }

    /// Whether a commit showed, since the last call, that the group has moved on without this member.
    pub(super) fn is_outcast(&self) -> bool {
        std::mem::take(&mut self.work.queue.lock().outcast)
    }

    /// Waits until nothing is under way, whatever becomes of it.
    pub(super) fn finish(&self) {
        let mut queue = self.work.queue.lock();
        while queue.under_way > 0 {
            queue.hurry = true;
            self.work.asked.notify_one();
            self.work.told.wait(&mut queue);
        }
        queue.hurry = false;
    }

    /// Withdraws what is not committed and ends the thread.
    pub(super) fn stop(&mut self) {
        self.work.queue.lock().stop = true;
        self.work.asked.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing open any more.
            let _ = thread.join();
        }
    }
}

/// What the thread does next.
enum Step {
    Add(Checked),
    Commit,
    Fail(BrokerError),
    Stop,
}

/// Units that were written and will be committed together.
struct Open {
    how: How,
    generation: Option<Arc<ConsumerGroupMetadata>>,
    units: usize,
    bytes: usize,
    offsets: BTreeMap<TopicPartition, Committed>,
    since: Instant,
    newest: Instant,
}

impl Open {
    fn takes(&self, unit: &Checked) -> bool {
        let same = match (&self.generation, &unit.generation) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        same && self.how == unit.how && self.since.elapsed() < EVERY
    }
}

struct Thread {
    cluster: Arc<Cluster>,
    group: GroupId,
    client: Arc<Client>,
    shared: Arc<Shared>,
    work: Arc<Work>,
    plain: Writer,
    transactions: Writer,
    open: Option<Open>,
    /// How long the next unit is waited for.
    lull: Duration,
}

/// Nobody waits for a thread that is no more, whatever ended it.
impl Drop for Thread {
    fn drop(&mut self) {
        let mut queue = self.work.queue.lock();
        queue.ended = true;
        if std::mem::take(&mut queue.under_way) > 0 {
            queue.settled.failed.get_or_insert_with(ended);
        }
        self.work.told.notify_one();
    }
}

fn ended() -> BrokerError {
    refused("commit", "the thread that commits has ended")
}

impl Thread {
    fn run(mut self) {
        loop {
            let step = self.next();
            let asked = matches!(step, Step::Fail(_));
            let outcome = match step {
                Step::Add(unit) => self.add(unit),
                Step::Commit => self.commit(),
                Step::Fail(error) => Err(error),
                Step::Stop => {
                    self.transactions.abort();
                    return;
                }
            };
            if let Err(error) = outcome {
                tracing::info!(group = %self.group, %error, "not committed");
                self.open = None;
                let mut queue = self.work.queue.lock();
                queue.waiting.clear();
                (queue.under_way, queue.bytes) = (0, 0);
                queue.outcast |= !asked && matches!(error, BrokerError::Fenced { .. });
                queue.settled.failed = Some(error);
                self.work.told.notify_one();
            }
        }
    }

    fn next(&self) -> Step {
        let mut queue = self.work.queue.lock();
        loop {
            if queue.stop {
                return Step::Stop;
            }
            match (&self.open, queue.waiting.front()) {
                (Some(open), Some(Job::Write(unit))) if !open.takes(unit) => return Step::Commit,
                (Some(_), Some(Job::Refused(_))) => return Step::Commit,
                (_, Some(_)) => {
                    return match queue.waiting.pop_front() {
                        Some(Job::Write(unit)) => Step::Add(unit),
                        Some(Job::Refused(error)) => Step::Fail(error),
                        None => continue,
                    };
                }
                (Some(open), None) => {
                    let until = (open.since + EVERY).min(open.newest + self.lull);
                    if queue.hurry || Instant::now() >= until {
                        return Step::Commit;
                    }
                    self.work.asked.wait_until(&mut queue, until);
                }
                (None, None) => self.work.asked.wait(&mut queue),
            }
        }
    }

    /// Hands a unit's outputs to the client.
    fn add(&mut self, unit: Checked) -> Result<(), BrokerError> {
        let first = self.open.is_none();
        match unit.how {
            How::InTurn if unit.outputs.is_empty() => {}
            How::InTurn => {
                if first {
                    self.plain.fit();
                }
                self.plain.send(&unit.outputs)?;
            }
            How::Whole => {
                if first {
                    self.transactions.fit();
                    self.transactions.begin()?;
                }
                self.transactions.add(&unit.outputs).map_err(|failure| self.meaning(failure))?;
            }
        }
        let now = Instant::now();
        let open = self.open.get_or_insert_with(|| Open {
            how: unit.how,
            generation: unit.generation,
            units: 0,
            bytes: 0,
            offsets: BTreeMap::new(),
            since: now,
            newest: now,
        });
        open.units += 1;
        open.bytes += unit.bytes;
        open.newest = now;
        open.offsets.extend(unit.offsets.into_iter().map(|offset| (offset.partition, offset.committed)));
        Ok(())
    }

    /// Commits what is open.
    fn commit(&mut self) -> Result<(), BrokerError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let started = Instant::now();
        let list = self.list(&open.offsets)?;
        match open.how {
            How::InTurn => self.commit_in_turn(&open, &list)?,
            How::Whole => self.commit_whole(&open, &list)?,
        }
        self.lull = started.elapsed().clamp(LULL[0], LULL[1]);
        let mut queue = self.work.queue.lock();
        queue.under_way = queue.under_way.saturating_sub(open.units);
        queue.bytes = queue.bytes.saturating_sub(open.bytes);
        queue.settled.written += open.units;
        self.work.told.notify_one();
        Ok(())
    }

    /// Offsets as the client wants them.
    fn list(&self, offsets: &BTreeMap<TopicPartition, Committed>) -> Result<TopicPartitionList, BrokerError> {
        let mut list = TopicPartitionList::new();
        for (place, committed) in offsets {
            let mut element = list.add_partition(&self.cluster.topic_name(&place.topic), signed(place.partition));
            element.set_offset(Place::Offset(committed.next as i64)).map_err(|error| failed("commit", &error))?;
            if let Some(note) = &committed.metadata {
                element.set_metadata(format!("={note}"));
            }
        }
        Ok(list)
    }

    fn commit_whole(&mut self, open: &Open, list: &TopicPartitionList) -> Result<(), BrokerError> {
        let offsets = open.generation.as_ref().map(|group| Offsets { list, group }).filter(|_| list.count() > 0);
        match self.transactions.end(offsets.as_ref()) {
            Ok(()) => Ok(()),
            Err(Failed::Unknown(reason)) => self.resolve(open, reason),
            Err(failure) => Err(self.meaning(failure)),
        }
    }

    /// Finds out what became of a transaction whose end was not heard: offsets and outputs were written together or
    /// not at all, and some of the offsets may be those of the commit before. Until the cluster tells, nobody else may hear of
    /// it: a guess would lose or double the unit.
    fn resolve(&mut self, open: &Open, reason: String) -> Result<(), BrokerError> {
        if open.offsets.is_empty() {
            return Err(refused("commit", format!("it is not known whether a unit was written: {reason}")));
        }
        loop {
            // Opening the producer anew ends what is open.
            let opened = self.transactions.open().map(drop);
            match opened.and_then(|()| self.are_committed(&open.offsets)) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(BrokerError::Unavailable { action: "commit", reason }),
                Err(error) if error.class() == ErrorClass::Transient && !self.work.queue.lock().stop => {
                    tracing::warn!(group = %self.group, %error, "it is not known whether a unit was written, asking again");
                    std::thread::sleep(ASK_AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether each of these offsets is what the group has committed.
    fn are_committed(&self, offsets: &BTreeMap<TopicPartition, Committed>) -> Result<bool, BrokerError> {
        for (place, expected) in offsets {
            if committed(&self.cluster, &self.client, place)?.as_ref() != Some(expected) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until outputs are stored, then commits offsets.
    fn commit_in_turn(&mut self, open: &Open, list: &TopicPartitionList) -> Result<(), BrokerError> {
        self.plain.delivered()?;
        if list.count() == 0 {
            return Ok(());
        }
        let fenced = || fenced(&self.group, open.offsets.keys().next());
        // The client would prove the newest assignment, of which the member may not know yet.
        if !self.shared.is_newest(open.generation.as_ref()) {
            return Err(fenced());
        }
        self.client.commit(list, CommitMode::Sync).map_err(|error| match error.rdkafka_error_code() {
            Some(
                Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::RebalanceInProgress
                | Code::FencedInstanceId
                | Code::AssignmentLost,
            ) => fenced(),
            _ => failed("commit", &error),
        })
    }

    fn meaning(&self, failure: Failed) -> BrokerError {
        match failure {
            Failed::Nothing(error) => error,
            Failed::Fenced => fenced(&self.group, None),
            Failed::Unknown(reason) => BrokerError::Unavailable { action: "commit", reason },
        }
    }
}

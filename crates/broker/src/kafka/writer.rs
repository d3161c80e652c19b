//! Writing: an idempotent producer, with or without transactions.
//!
//! A call that ends a transaction can time out while its answer is under way. librdkafka cannot tell such an answer from
//! one to a later transaction, so after a time-out the client is thrown away; a new one with the same id makes the broker
//! finish or abort what is open, and only then the caller may ask what became of it.
//!
//! Brokers that are away for a while are nothing that ends a process: whatever fails because of it, a transaction that
//! the cluster has given up meanwhile included, is [`BrokerError::Unavailable`], and the next try makes a new client.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use driftline_types::Outgoing;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Message as _},
    producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig},
};

use super::{
    cluster::{Cluster, failed},
    config::CALL,
    convert,
    login::{Login, by_login},
};
use crate::BrokerError;

/// How long deliveries and the end of a transaction are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the client is left alone where it has nothing to tell.
const MOMENT: Duration = Duration::from_micros(200);

/// Remembers the first delivery that failed since the last look.
pub(super) struct Deliveries {
    login: Login,
    failed: Mutex<Option<KafkaError>>,
    /// The topic, as the cluster names it, and the size of a message that was the first of a batch that is too large.
    too_large: Mutex<Option<(String, usize)>>,
}

impl ClientContext for Deliveries {
    by_login!();
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            if let Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) = error.rdkafka_error_code() {
                let told = || (message.topic().to_owned(), convert::payload_bytes(message));
                self.too_large.lock().get_or_insert_with(told);
            }
            self.failed.lock().get_or_insert_with(|| error.clone());
        }
    }
}

/// Offsets that are committed with a unit.
pub(super) struct Offsets<'a> {
    pub list: &'a TopicPartitionList,
    pub group: &'a Arc<ConsumerGroupMetadata>,
}

/// Why a unit was not written.
pub(super) enum Failed {
    /// Nothing of it was written.
    Nothing(BrokerError),
    /// The group has moved on; nothing of it was written.
    Fenced,
    /// It may or may not have been written as a whole.
    Unknown(String),
}

/// What messages amount to.
#[derive(Clone, Copy, Default)]
pub(super) struct Sizes {
    pub bytes: usize,
    /// Whether any is for a compacted topic.
    pub compacted: bool,
}

/// A producer.
pub(super) struct Writer {
    cluster: Arc<Cluster>,
    transactional_id: Option<String>,
    /// `None` before the first use, and after a call whose outcome is unknown.
    client: Option<Arc<BaseProducer<Deliveries>>>,
    /// What its batches are to fit.
    batch_bytes: usize,
}

impl Writer {
    pub(super) fn new(cluster: Arc<Cluster>, transactional_id: Option<String>) -> Self {
        Self { cluster, transactional_id, client: None, batch_bytes: 0 }
    }

    /// Connects. For a producer of transactions this ends whatever one of the same id has left open.
    pub(super) fn open(&mut self) -> Result<&Arc<BaseProducer<Deliveries>>, BrokerError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let id = self.transactional_id.as_deref();
                let (config, login) = (&self.cluster.config, self.cluster.config.login());
                let mut settings = config.producer(id);
                self.batch_bytes = batch_bytes(&self.cluster);
                // A broker holds a topic's limit against batches. One record alone may be larger than this.
                if self.batch_bytes < config.batch_bytes() {
                    settings.set("batch.size", self.batch_bytes.max(1).to_string());
                }
                let client: BaseProducer<Deliveries> = settings
                    .create_with_context(Deliveries { login, failed: Mutex::default(), too_large: Mutex::default() })
                    .map_err(|error| failed("start a producer", &error))?;
                client.poll(Duration::ZERO);
                if id.is_some() {
                    until_settled(PATIENCE, || client.init_transactions(CALL))
                        .map_err(|error| failed("start transactions", &error))?;
                }
                let client = Arc::new(client);
                self.cluster.keep(&client);
                client
            }
        };
        Ok(self.client.insert(client))
    }

    /// Lets go of a client whose batches are to fit something else than the topics that are known by now. Nothing may
    /// be open; while anything is on its way the client stays. Not for producers outside a group: what shows that a
    /// process has taken the place of another is that its client is the newer one.
    pub(super) fn fit(&mut self) {
        if self.batch_bytes != batch_bytes(&self.cluster)
            && self.client.as_ref().is_some_and(|client| client.in_flight_count() == 0)
        {
            self.client = None;
        }
    }

    /// Checks messages against what their topics take; nothing is sent. Messages of one topic mostly come together,
    /// so each run of them looks its topic up once.
    pub(super) fn check(cluster: &Cluster, outputs: &[Outgoing]) -> Result<Sizes, BrokerError> {
        let mut sizes = Sizes::default();
        for run in outputs.chunk_by(|a, b| a.topic == b.topic) {
            let Some(topic) = run.first().map(|output| &output.topic) else { continue };
            let limits = cluster.limits(topic)?;
            sizes.compacted |= limits.compacted;
            for output in run {
                if let Some(partition) = output.partition
                    && partition >= limits.partitions
                {
                    let partition = driftline_types::TopicPartition::new(topic.clone(), partition);
                    return Err(BrokerError::UnknownPartition { partition, partitions: limits.partitions });
                }
                let found = output.payload_bytes();
                if found > limits.message_bytes {
                    let (topic, allowed) = (topic.clone(), limits.message_bytes);
                    return Err(BrokerError::TooLarge { topic, found, allowed });
                }
                if limits.compacted && output.key.is_none() {
                    return Err(BrokerError::KeyMissing { topic: topic.clone() });
                }
                sizes.bytes += found;
            }
        }
        Ok(sizes)
    }

    /// Hands messages to the client, outside any transaction; they are stored in this order within each partition.
    pub(super) fn send(&mut self, outputs: &[Outgoing]) -> Result<(), BrokerError> {
        let sent = self.hand_over(outputs)?;
        self.or_anew(sent)
    }

    fn hand_over(&mut self, outputs: &[Outgoing]) -> Result<Result<(), KafkaError>, BrokerError> {
        let client = Arc::clone(self.open()?);
        Ok(send(&client, &self.cluster, outputs))
    }

    /// Waits until everything that was handed over is stored.
    pub(super) fn delivered(&mut self) -> Result<(), BrokerError> {
        let delivered = delivered(self.open()?);
        self.or_anew(delivered)
    }

    /// After a failure, what is still under way would land after a repeat, out of order: the client is thrown away.
    fn or_anew(&mut self, outcome: Result<(), KafkaError>) -> Result<(), BrokerError> {
        outcome.map_err(|error| self.anew(&error))
    }

    /// Passes on what was too large for its topic. It is refused for that, or sent in smaller batches, the next time.
    fn note_too_large(&self) {
        let Some(client) = &self.client else { return };
        take_reports(client);
        let told = client.context().too_large.lock().take();
        if let Some((name, first)) = told {
            self.cluster.note_too_large(&name, first, self.batch_bytes);
        }
    }

    /// Throws the client away and says what that means: what is fatal to a client is not to the next one.
    fn anew(&mut self, error: &KafkaError) -> BrokerError {
        self.note_too_large();
        self.client = None;
        match (error.rdkafka_error_code(), failed("write", error)) {
            (Some(Code::Fatal | Code::Fenced), BrokerError::Refused { action, reason }) => {
                BrokerError::Unavailable { action, reason }
            }
            (_, error) => error,
        }
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self) -> Result<(), BrokerError> {
        let begun = self.open()?.begin_transaction();
        self.or_anew(begun)
    }

    /// Hands messages to the client as a part of the transaction that was begun. After a failure it is aborted.
    pub(super) fn add(&mut self, outputs: &[Outgoing]) -> Result<(), Failed> {
        let sent = self.hand_over(outputs).map_err(Failed::Nothing)?;
        sent.map_err(|error| self.aborted(&error))
    }

    /// Waits until all that was added is stored, adds offsets and ends the transaction. After a failure it is aborted.
    pub(super) fn end(&mut self, offsets: Option<&Offsets<'_>>) -> Result<(), Failed> {
        let client = self.open().map_err(Failed::Nothing)?;
        let added = delivered(client).and_then(|()| match offsets {
            Some(offsets) => add_offsets(client, offsets),
            None => Ok(()),
        });
        match added {
            Ok(()) => {}
            Err(error @ KafkaError::Flush(Code::OperationTimedOut)) => return Err(Failed::Nothing(self.anew(&error))),
            Err(error) => return Err(self.aborted(&error)),
        }
        match until_settled(PATIENCE, || client.commit_transaction(PATIENCE)) {
            Ok(()) => Ok(()),
            Err(error) if requires_abort(&error) => Err(self.aborted(&error)),
            Err(error) => {
                self.client = None;
                Err(Failed::Unknown(error.to_string()))
            }
        }
    }

    /// Writes messages and offsets in one transaction.
    pub(super) fn transact(&mut self, outputs: &[Outgoing], offsets: Option<&Offsets<'_>>) -> Result<(), Failed> {
        self.begin().map_err(Failed::Nothing)?;
        self.add(outputs)?;
        self.end(offsets)
    }

    /// Aborts the transaction that is open, if there is one.
    pub(super) fn abort(&mut self) {
        if let Some(client) = &self.client
            && abort(client).is_err()
        {
            // A new client with the same id aborts it.
            self.client = None;
        }
    }

    /// Aborts after a failure and says what it means.
    fn aborted(&mut self, error: &KafkaError) -> Failed {
        self.note_too_large();
        self.abort();
        match error.rdkafka_error_code() {
            Some(
                Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId | Code::RebalanceInProgress,
            ) => Failed::Fenced,
            // By another process, or by the cluster because the transaction took too long. Which of them, the offsets or
            // the state tell that are written with it.
            Some(Code::Fatal | Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
                Failed::Nothing(self.anew(error))
            }
            _ => Failed::Nothing(failed("write", error)),
        }
    }
}

/// What the batches of a client are to fit that is made now.
fn batch_bytes(cluster: &Cluster) -> usize {
    cluster.config.batch_bytes().min(cluster.batch_bytes())
}

/// Adds offsets to the transaction that is open.
///
/// While the group's coordinator moves, librdkafka's call has been seen to wait for minutes, whatever time-out it is
/// given. It is left behind then, with its client: the next client of the same id ends the transaction, and the call.
fn add_offsets(client: &Arc<BaseProducer<Deliveries>>, offsets: &Offsets<'_>) -> Result<(), KafkaError> {
    let (client, list, group) = (Arc::clone(client), offsets.list.clone(), Arc::clone(offsets.group));
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let added = until_settled(PATIENCE, || client.send_offsets_to_transaction(&list, &group, PATIENCE));
        // Nobody waits any more for a call that took too long.
        let _ = done.send(added);
    });
    outcome.recv_timeout(PATIENCE).unwrap_or(Err(KafkaError::Flush(Code::OperationTimedOut)))
}

fn abort(client: &BaseProducer<Deliveries>) -> Result<(), KafkaError> {
    client.purge(PurgeConfig::default().queue().inflight());
    // Deliveries that were thrown away are reported as failed, which is known.
    let _ = delivered(client);
    until_settled(PATIENCE, || client.abort_transaction(PATIENCE))
}

/// Hands messages over; waits where the client's buffer is full.
fn send(client: &BaseProducer<Deliveries>, cluster: &Cluster, outputs: &[Outgoing]) -> Result<(), KafkaError> {
    let mut named: Option<(&driftline_types::Topic, String, u32)> = None;
    let mut full_since = None;
    for output in outputs {
        let (name, partitions) = match &named {
            Some((topic, name, partitions)) if *topic == &output.topic => (name.as_str(), *partitions),
            _ => {
                let partitions = cluster.limits(&output.topic).map_or(1, |limits| limits.partitions);
                let (_, name, _) = named.insert((&output.topic, cluster.topic_name(&output.topic), partitions));
                (name.as_str(), partitions)
            }
        };
        let partition = output.partition.unwrap_or_else(|| match &output.key {
            Some(key) => driftline_types::wire::partition_of(key, partitions),
            None => spread(partitions),
        });
        let mut record = convert::record(name, partition, output);
        loop {
            match client.send(record) {
                Ok(()) => break,
                Err((error @ KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if !serve(client) && since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    record = back;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
    // Taken as they come, so that the commit need not take all of them.
    while take_reports(client) {}
    Ok(())
}

/// The partition of a message without a key: all in turn.
fn spread(partitions: u32) -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % partitions.max(1)
}

/// Waits for every delivery. `flush` would wait in steps of 100 ms.
fn delivered(client: &BaseProducer<Deliveries>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    while client.in_flight_count() > 0 {
        if Instant::now() > deadline {
            return Err(KafkaError::Flush(Code::OperationTimedOut));
        }
        serve(client);
    }
    match client.context().failed.lock().take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Takes reports of deliveries that are there. Returns whether there were any.
fn take_reports(client: &BaseProducer<Deliveries>) -> bool {
    let before = client.in_flight_count();
    client.poll(Duration::ZERO);
    client.in_flight_count() != before
}

/// Takes reports of deliveries, or waits a moment where there are none. A poll with a time-out would spin through its
/// last millisecond. Returns whether there were any.
fn serve(client: &BaseProducer<Deliveries>) -> bool {
    let any = take_reports(client);
    if !any {
        std::thread::sleep(MOMENT);
    }
    any
}

/// Repeats a call while the client says that this is all it takes.
fn until_settled(patience: Duration, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + patience;
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

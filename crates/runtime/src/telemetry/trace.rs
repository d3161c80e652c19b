//! One trace from source to sink.
//!
//! ```text
//! source   send ──┐ traceparent
//! stage           └─► process ──┐ traceparent        batch ─┬─ poll
//! sink                          └─► process            ⇡    └─ commit
//!                                      └──── link ─────┘
//! ```
//!
//! - A source starts a trace for a part of its records and writes their context into `traceparent`.
//!   The part is decided by the trace id, as `TraceIdRatioBased` does everywhere.
//! - A record without a sampled context costs a look at its headers and nothing else. It gets no
//!   `traceparent` from us; one that others gave it passes through as it came.
//! - A sampled record has a span in each node, child of the one before it. What is emitted from it
//!   carries that span on.
//! - What is emitted from records that were kept continues the trace of the record that completed it,
//!   whose span is linked with the sampled parts; or, if that has none, of the first sampled part.
//! - A batch with sampled records is a span of its own trace, linked with their contexts, and each of
//!   their spans is linked with it. What is logged meanwhile carries its ids.
//! - Spans name topics, partitions and offsets; never keys, values or reasons.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    time::{Instant, SystemTime},
};

use driftline_stage::operator::Effects;
use driftline_types::{Headers, Message, Offset, Outgoing, Partition, RecordId, Topic, wire};
use opentelemetry::{
    Context, ContextGuard, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceId},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator, RandomIdGenerator, SdkTracer, Span},
};

use super::table::{ERROR_TYPE, OPERATION};

const OPERATION_TYPE: &str = "messaging.operation.type";
const DESTINATION: &str = "messaging.destination.name";
const PARTITION: &str = "messaging.destination.partition.id";
const OFFSET: &str = "messaging.kafka.offset";
const GROUP: &str = "messaging.consumer.group.name";
const BATCH_COUNT: &str = "messaging.batch.message_count";

thread_local! {
    /// The id of the next trace begun on this thread, where it is decided before its span is made.
    static CHOSEN: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random ids, but for a trace whose id was chosen.
#[derive(Debug, Default)]
pub(super) struct ChosenIds(RandomIdGenerator);

impl IdGenerator for ChosenIds {
    fn new_trace_id(&self) -> TraceId {
        CHOSEN.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// The place of a record in the log.
type Place = (Topic, Partition, Offset);

/// How many sampled records a node remembers that it may have kept for a later output.
const MAX_KEPT: usize = 4096;

/// The spans of sampled records that became part of no output yet, oldest first.
#[derive(Default)]
struct Kept {
    spans: HashMap<Place, SpanContext>,
    order: VecDeque<Place>,
}

impl Kept {
    fn insert(&mut self, place: Place, span: SpanContext) {
        if self.order.len() == MAX_KEPT {
            self.order.pop_front().map(|oldest| self.spans.remove(&oldest));
        }
        self.order.push_back(place.clone());
        self.spans.insert(place, span);
    }
}

/// A share of all trace ids: the one that the SDK's `TraceIdRatioBased` samples, without its answer in allocated pieces.
struct Share {
    /// The first number that is not sampled, of 63 bits.
    end: u64,
}

impl Share {
    fn new(ratio: f64) -> Self {
        Self { end: (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64 }
    }

    fn holds(&self, id: TraceId) -> bool {
        (u128::from_be_bytes(id.to_bytes()) as u64) >> 1 < self.end
    }
}

/// Makes the spans of one node.
pub(crate) struct NodeTracer {
    tracer: SdkTracer,
    sampled: Share,
    ids: RandomIdGenerator,
    propagator: TraceContextPropagator,
    name: String,
    group: String,
    /// What every span says: pipeline, stage, version and messaging system.
    attributes: Vec<KeyValue>,
    /// `None` until the node keeps a record.
    kept: RefCell<Option<Kept>>,
}

impl NodeTracer {
    /// `tracer` samples every span it makes: what is not sampled gets none.
    pub(super) fn new(tracer: SdkTracer, ratio: f64, name: String, group: String, attributes: Vec<KeyValue>) -> Self {
        Self {
            tracer,
            sampled: Share::new(ratio),
            ids: RandomIdGenerator::default(),
            propagator: TraceContextPropagator::new(),
            name,
            group,
            attributes,
            kept: RefCell::new(None),
        }
    }

    /// Starts the traces of some of the records a source is about to write. The spans end when they
    /// are dropped.
    pub(super) fn begin(&self, outputs: &mut [Outgoing]) -> Vec<Span> {
        let mut spans = Vec::new();
        for output in outputs {
            let id = self.ids.new_trace_id();
            if !self.sampled.holds(id) {
                continue;
            }
            CHOSEN.set(Some(id));
            let builder = self
                .span("send", &output.topic, SpanKind::Producer)
                .with_attributes(self.operation("send", "send").chain([destination(&output.topic)]));
            let span = builder.start_with_context(&self.tracer, &Context::new());
            output.headers.set(wire::TRACEPARENT, traceparent(span.span_context()));
            spans.push(span);
        }
        spans
    }

    /// Starts the span of a batch, if a record in it is sampled. `first` is when its first record
    /// was read.
    pub(super) fn batch(&self, messages: &[Message], first: Instant) -> Option<BatchTrace<'_>> {
        let mut records = Vec::new();
        let is_traced = |message: &&Message| is_sampled(&message.headers) && wire::is_for(message, &self.name);
        for message in messages.iter().filter(is_traced) {
            let context = self.propagator.extract_with_context(&Context::new(), &Carrier(&message.headers));
            if context.span().span_context().is_valid() {
                let place = (message.topic.clone(), message.partition, message.offset);
                records.push(SampledRecord { place, context });
            }
        }
        let topic = &records.first()?.place.0.clone();
        let links = records.iter().map(|record| Link::with_context(record.context.span().span_context().clone()));
        let count = KeyValue::new(BATCH_COUNT, messages.len() as i64);
        let group = KeyValue::new(GROUP, self.group.clone());
        let span = SpanBuilder::from_name(format!("batch {}", self.name))
            .with_kind(SpanKind::Internal)
            .with_start_time(wall_clock(first))
            .with_links(links.collect())
            .with_attributes(self.attributes.iter().cloned().chain([count.clone(), group.clone()]))
            .start_with_context(&self.tracer, &Context::new());
        let context = Context::new().with_span(span);
        let poll = self
            .span("poll", topic, SpanKind::Client)
            .with_start_time(wall_clock(first))
            .with_attributes(self.operation("poll", "receive").chain([destination(topic), count, group]));
        drop(poll.start_with_context(&self.tracer, &context));
        let ids = context.span().span_context().clone();
        // At the highest level: a filter that shows any event shows the ids too.
        let log = tracing::error_span!("batch", trace_id = %ids.trace_id(), span_id = %ids.span_id());
        Some(BatchTrace {
            records,
            _logs: (log.entered(), context.clone().attach()),
            commit: CommitTrace { node: self, topic: topic.clone(), context },
        })
    }

    /// Hands the spans of a batch on to what was emitted from their records, and to what was
    /// completed of records kept before.
    pub(super) fn hand_on(&self, effects: &mut Effects, spans: &mut HashMap<Place, Span>) {
        let mut kept = self.kept.borrow_mut();
        if effects.counts.held != 0 {
            kept.get_or_insert_default();
        }
        if kept.is_none() && spans.is_empty() {
            return;
        }
        for output in &mut effects.outputs {
            let parts = match kept.as_mut() {
                Some(kept) => sampled_parts(&output.headers, kept, spans),
                None if !is_sampled(&output.headers) => continue,
                None => Vec::new(),
            };
            let cause = output.headers.get_str(wire::CE_ID).and_then(place);
            if let Some(span) = cause.and_then(|cause| spans.get_mut(&cause)) {
                let own = span.span_context().clone();
                output.headers.set(wire::TRACEPARENT, traceparent(&own));
                for part in parts.into_iter().filter(|part| *part != own) {
                    span.add_link(part, Vec::new());
                }
            } else if let Some(part) = parts.first()
                && output.headers.get(wire::TRACEPARENT).is_none()
            {
                output.headers.set(wire::TRACEPARENT, traceparent(part));
            }
        }
        if let Some(kept) = kept.as_mut() {
            for (place, span) in spans.iter() {
                kept.insert(place.clone(), span.span_context().clone());
            }
        }
    }

    fn span(&self, operation: &str, topic: &Topic, kind: SpanKind) -> SpanBuilder {
        SpanBuilder::from_name(format!("{operation} {topic}")).with_kind(kind)
    }

    fn operation(&self, name: &'static str, kind: &'static str) -> impl Iterator<Item = KeyValue> {
        let own = [KeyValue::new(OPERATION, name), KeyValue::new(OPERATION_TYPE, kind)];
        self.attributes.iter().cloned().chain(own)
    }
}

/// A record whose trace goes on in this node.
struct SampledRecord {
    place: Place,
    /// Its producer's span.
    context: Context,
}

/// The span of a batch with sampled records. It ends when it and its commit are dropped; until then what this
/// thread logs carries its ids.
pub(crate) struct BatchTrace<'a> {
    records: Vec<SampledRecord>,
    _logs: (tracing::span::EnteredSpan, ContextGuard),
    pub commit: CommitTrace<'a>,
}

impl BatchTrace<'_> {
    /// Makes the spans of the sampled records among `messages`, which are of one partition and were
    /// processed from `started` to now, and hands them on to what was emitted. `outcome` is what
    /// came of them, or the class of the error.
    pub(super) fn processed(
        &self,
        messages: &[Message],
        started: Instant,
        outcome: Result<Option<&mut Effects>, &'static str>,
    ) {
        let (start, end) = (wall_clock(started), SystemTime::now());
        let mut spans = HashMap::new();
        let mut rest = messages;
        // Both are in the order of the batch, so that each message is looked at once.
        for record in &self.records {
            let (topic, partition, offset) = &record.place;
            let is_it =
                |message: &Message| (message.offset, message.partition, &message.topic) == (*offset, *partition, topic);
            let Some(at) = rest.iter().position(is_it) else { continue };
            rest = &rest[at + 1..];
            let place = [
                destination(topic),
                KeyValue::new(PARTITION, partition.to_string()),
                KeyValue::new(OFFSET, *offset as i64),
                KeyValue::new(GROUP, self.commit.node.group.clone()),
            ];
            let span = self
                .commit
                .node
                .span("process", topic, SpanKind::Consumer)
                .with_start_time(start)
                .with_links(vec![Link::with_context(self.commit.context.span().span_context().clone())])
                .with_attributes(self.commit.node.operation("process", "process").chain(place))
                .start_with_context(&self.commit.node.tracer, &record.context);
            spans.insert(record.place.clone(), span);
        }
        match outcome {
            Ok(Some(effects)) => {
                let letters = effects.dead_letters.iter().filter(|letter| is_sampled(&letter.headers));
                for place in letters.filter_map(refused_place) {
                    spans.get_mut(&place).into_iter().for_each(|span| fail(span, "rejected"));
                }
                self.commit.node.hand_on(effects, &mut spans);
            }
            Ok(None) => {}
            Err(class) => spans.values_mut().for_each(|span| fail(span, class)),
        }
        spans.into_values().for_each(|mut span| span.end_with_timestamp(end));
    }
}

/// The span of a batch whose records were worked off.
pub(crate) struct CommitTrace<'a> {
    node: &'a NodeTracer,
    /// That of its first sampled record.
    topic: Topic,
    context: Context,
}

impl CommitTrace<'_> {
    /// Makes the span of a commit that took from `started` to now.
    pub(super) fn committed(&self, started: Instant, error: Option<&'static str>) {
        let mut span = self
            .node
            .span("commit", &self.topic, SpanKind::Client)
            .with_start_time(wall_clock(started))
            .with_attributes(self.node.operation("commit", "settle").chain([destination(&self.topic)]))
            .start_with_context(&self.node.tracer, &self.context);
        error.into_iter().for_each(|class| fail(&mut span, class));
    }
}

/// Says that a span failed, by the class of the error: its text may hold what must not leave.
fn fail(span: &mut Span, class: &'static str) {
    span.set_status(Status::error(""));
    span.set_attribute(KeyValue::new(ERROR_TYPE, class));
}

fn destination(topic: &Topic) -> KeyValue {
    KeyValue::new(DESTINATION, topic.to_string())
}

/// The place of the record that a dead letter holds.
fn refused_place(letter: &Outgoing) -> Option<Place> {
    let topic = Topic::try_new(letter.headers.get_str(wire::ERROR_TOPIC)?).ok()?;
    let number = |name| letter.headers.get_str(name);
    Some((topic, number(wire::ERROR_PARTITION)?.parse().ok()?, number(wire::ERROR_OFFSET)?.parse().ok()?))
}

/// The place that the id of a record names.
fn place(id: &str) -> Option<Place> {
    let id: RecordId = id.parse().ok()?;
    Some((id.topic, id.partition, id.offset))
}

/// The spans of those parts of an output that are sampled, as far as its headers name them.
fn sampled_parts(headers: &Headers, kept: &mut Kept, spans: &HashMap<Place, Span>) -> Vec<SpanContext> {
    let parts = headers.get_str(wire::PARENTS).into_iter().flat_map(|ids| ids.split(',')).filter_map(place);
    let span =
        |part: Place| kept.spans.remove(&part).or_else(|| spans.get(&part).map(|span| span.span_context().clone()));
    parts.filter_map(span).collect()
}

/// Says whether the `traceparent` of a record has the sampled flag, without looking at the rest of it.
fn is_sampled(headers: &Headers) -> bool {
    // Version, trace id, span id and flags: 2 + 32 + 16 + 2 digits and three hyphens.
    let flag = headers.get(wire::TRACEPARENT).and_then(|parent| parent.get(54));
    flag.and_then(|&digit| char::from(digit).to_digit(16)).is_some_and(|digit| digit & 1 == 1)
}

fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// Returns the wall clock at an instant of the recent past.
fn wall_clock(at: Instant) -> SystemTime {
    SystemTime::now() - at.elapsed()
}

struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get_str(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_parent(text: &'static str) -> Headers {
        let mut headers = Headers::default();
        headers.push(wire::TRACEPARENT, text);
        headers
    }

    #[test]
    fn the_flag_decides() {
        let parent = |flags| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        for (flags, sampled) in [("01", true), ("00", false), ("03", true), ("ff", true), ("0b", true), ("02", false)] {
            let headers = with_parent(parent(flags).leak());
            assert_eq!(is_sampled(&headers), sampled, "{flags}");
        }
        assert!(!is_sampled(&with_parent("")) && !is_sampled(&with_parent("00-ab-cd-01")));
        assert!(!is_sampled(&Headers::default()));
    }

    #[test]
    fn the_share_is_that_of_the_sdk() {
        use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};
        let ids = RandomIdGenerator::default();
        for ratio in [0.0, 0.01, 0.5, 1.0] {
            let (share, sampler) = (Share::new(ratio), Sampler::TraceIdRatioBased(ratio));
            for id in (0..10_000).map(|_| ids.new_trace_id()) {
                let sampled = sampler.should_sample(None, id, "", &SpanKind::Producer, &[], &[]);
                assert_eq!(share.holds(id), sampled.decision == SamplingDecision::RecordAndSample, "{ratio} {id}");
            }
        }
    }

    #[test]
    fn contexts_survive_the_header() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = with_parent(text);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(&headers));
        assert_eq!(traceparent(context.span().span_context()), text);
    }
}

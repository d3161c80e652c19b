//! `driftline replay`: a slice of the past through a stage as it is now.
//!
//! The stage is that of the pipeline file, at whatever version its config and models make it; the records are those of
//! its input topics. Nothing of the pipeline is written: no offset, no state, no profile, no dead letter. The stage begins
//! without state, so what it remembers begins with the slice, and what it holds at the end it is asked for.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use driftline_broker::{Broker, Cleanup, Producer, Records, Retention, TopicSpec, records};
use driftline_pipeline::{Node, Plan, Role};
use driftline_runtime::pipeline_topics;
use driftline_stage::{
    OpenStage,
    operator::{Effects, Operator, Site},
};
use driftline_types::{ErrorClass, Message, Offset, Outgoing, Partition, Timestamp, Topic, TopicPartition, wire};

use crate::{
    Exit,
    args::{ReplayArgs, check_range},
    exit::Failure,
    log, nodes, print, reference,
    registry::REGISTRY,
    run::with_cause,
    tap::describe_outgoing,
};

pub(crate) fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    check_range(args.from, args.to)?;
    let node = nodes::named(&plan, &args.stage, &[Role::Stage])?;
    let inputs: Vec<Topic> = node.inputs.iter().map(|input| plan.name.output_topic(input)).collect();
    let broker = log::open_existing(&plan, &inputs)?;
    let (site, stage) = open(&plan, node)?;
    let mut replay = Replay {
        batch: node.batch.max_records.max(1),
        from: args.from,
        to: args.to,
        target: target(&*broker, &plan, args.output_topic.as_ref())?,
        operator: stage.instance(Arc::clone(&site)),
        site,
        stage,
        state: BTreeMap::new(),
        read: 0,
        written: 0,
        refused: 0,
    };
    for partition in 0..plan.partitions {
        if replay.partition(&*broker, &plan, node, partition)?.is_break() {
            break;
        }
    }
    let Replay { site, read, written, refused, .. } = replay;
    let read = print::counted(read, "record");
    print::tell!("{} {}: {read} read, {written} written, {refused} refused", site.stage, site.version);
    Ok(Exit::Success)
}

/// Opens the stage at the version that the file makes it.
fn open(plan: &Plan, node: &Node) -> Result<(Arc<Site>, Box<dyn OpenStage>), Failure> {
    let wrong = |reason: String| Failure::running(format!("{}: {}: {reason}", plan.file.display(), node.name));
    let def = REGISTRY.stage(node.kind).ok_or_else(|| wrong(format!("no stage of kind {}", node.kind)))?;
    let stage = def.open(&node.config).map_err(|error| wrong(with_cause(&error)))?;
    let baseline = reference::baseline(plan)?;
    let window = i64::try_from(plan.monitor.window.0).unwrap_or(i64::MAX);
    let mut site = Site::new(plan.name.clone(), node.name.clone(), stage.version().clone(), window);
    site.injections = plan.injections_of(&node.name);
    site.bins = reference::monitoring(plan, baseline.as_deref()).bins.remove(&node.name).unwrap_or_default();
    Ok((Arc::new(site), stage))
}

/// Where outputs go.
enum Target {
    Lines,
    Topic { topic: Topic, producer: Box<dyn Producer> },
}

/// Opens the topic that outputs are to go to, made if it is missing; standard output if none is named.
fn target(broker: &dyn Broker, plan: &Plan, topic: Option<&Topic>) -> Result<Target, Failure> {
    let Some(topic) = topic else { return Ok(Target::Lines) };
    if pipeline_topics(plan).iter().any(|(own, _)| own == topic) {
        return Err(Failure::usage(format!(
            "--output-topic: found {topic}, allowed is any but the topics of the pipeline, whose readers would take the \
             past for the present"
        )));
    }
    // One that is there keeps its limits.
    let found = broker.describe_topic(topic).map_err(Failure::running)?;
    let cleanup = found.map_or(Cleanup::Delete(Retention::default()), |found| found.spec.cleanup);
    let spec = TopicSpec { partitions: plan.partitions, cleanup };
    broker.create_topic(topic, &spec).map_err(Failure::running)?;
    let producer = broker.producer(&format!("{topic}.replay")).map_err(Failure::running)?;
    Ok(Target::Topic { topic: topic.clone(), producer })
}

/// A stage at work on one partition after the other.
struct Replay {
    site: Arc<Site>,
    stage: Box<dyn OpenStage>,
    operator: Box<dyn Operator>,
    /// What the operator remembers, for the next one after a failure.
    state: BTreeMap<Bytes, Bytes>,
    batch: usize,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    target: Target,
    read: u64,
    written: u64,
    refused: u64,
}

impl Replay {
    /// Works off the slice of one partition. Breaks where nobody reads the lines any more.
    fn partition(
        &mut self,
        broker: &dyn Broker,
        plan: &Plan,
        node: &Node,
        partition: Partition,
    ) -> Result<ControlFlow<()>, Failure> {
        self.state.clear();
        self.operator = self.stage.instance(Arc::clone(&self.site));
        let places = node.inputs.iter().map(|input| TopicPartition::new(plan.name.output_topic(input), partition));
        let mut inputs = places.map(|place| Input::open(broker, place)).collect::<Result<Vec<_>, _>>()?;
        let mut batch = Vec::new();
        while let Some(message) = next(&mut inputs)? {
            if self.from.is_none_or(|from| message.timestamp >= from) && self.to.is_none_or(|to| message.timestamp < to)
            {
                batch.push(message);
            }
            if batch.len() == self.batch && self.work(&std::mem::take(&mut batch))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if self.work(&batch)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let effects = self.operator.flush().map_err(|error| self.failed(&error))?;
        self.take(effects)
    }

    /// Processes messages; where they fail, finds the one that does.
    fn work(&mut self, messages: &[Message]) -> Result<ControlFlow<()>, Failure> {
        let Some((first, rest)) = messages.split_first() else { return Ok(ControlFlow::Continue(())) };
        let error = match self.operator.process(messages, Duration::ZERO) {
            Ok(effects) => {
                self.read += messages.len() as u64;
                return self.take(effects);
            }
            Err(error) => error,
        };
        if error.class() != ErrorClass::Record {
            return Err(self.failed(&error));
        }
        self.operator = self.stage.instance(Arc::clone(&self.site));
        let state = self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.operator.restore(state).map_err(|error| self.failed(&error))?;
        if rest.is_empty() {
            self.read += 1;
            self.refuse(first.topic.as_str(), first.offset, &with_cause(&error));
            return Ok(ControlFlow::Continue(()));
        }
        let (left, right) = messages.split_at(messages.len() / 2);
        if self.work(left)?.is_break() { Ok(ControlFlow::Break(())) } else { self.work(right) }
    }

    fn failed(&self, error: &dyn std::error::Error) -> Failure {
        Failure::running(format!("{}: {}", self.site.stage, with_cause(error)))
    }

    fn refuse(&mut self, topic: &str, offset: impl std::fmt::Display, reason: &str) {
        self.refused += 1;
        print::tell!("refused: {topic} offset {offset}: {reason}");
    }

    /// Writes what a batch led to.
    fn take(&mut self, effects: Effects) -> Result<ControlFlow<()>, Failure> {
        effects.state.into_iter().for_each(|change| change.apply(&mut self.state));
        for letter in &effects.dead_letters {
            let header = |name| letter.headers.get_str(name).unwrap_or("unknown").to_owned();
            self.refuse(&header(wire::ERROR_TOPIC), header(wire::ERROR_OFFSET), &header(wire::ERROR_REASON));
        }
        self.written += effects.outputs.len() as u64;
        match &mut self.target {
            Target::Lines => lines(&effects.outputs),
            Target::Topic { topic, producer } => {
                let to = |output| Outgoing { topic: topic.clone(), ..output };
                producer.send(effects.outputs.into_iter().map(to).collect()).map_err(Failure::running)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }
}

/// Prints outputs; breaks where nobody reads them any more.
fn lines(outputs: &[Outgoing]) -> Result<ControlFlow<()>, Failure> {
    let read = print::lines(outputs.iter().map(describe_outgoing))?;
    Ok(if read { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
}

/// One input topic of a partition, as far as it reached when it was opened.
struct Input<'a> {
    records: Records<'a>,
    end: Offset,
    ahead: Option<Message>,
}

impl<'a> Input<'a> {
    fn open(broker: &'a dyn Broker, place: TopicPartition) -> Result<Self, Failure> {
        let found = broker.describe_topic(&place.topic).map_err(Failure::running)?;
        let end = found.and_then(|found| found.partitions.get(place.partition as usize).map(|ends| ends.high));
        let records = records(broker, place).map_err(Failure::running)?;
        let mut input = Self { records, end: end.unwrap_or(0), ahead: None };
        input.advance()?;
        Ok(input)
    }

    /// Takes the next message and looks at the one after it.
    fn advance(&mut self) -> Result<Option<Message>, Failure> {
        let next = self.records.next().transpose().map_err(Failure::running)?;
        Ok(std::mem::replace(&mut self.ahead, next.filter(|message| message.offset < self.end)))
    }
}

/// Takes the oldest message, by event time, of those that are next in their topics.
fn next(inputs: &mut [Input<'_>]) -> Result<Option<Message>, Failure> {
    let time = |input: &Input<'_>| input.ahead.as_ref().map(|message| message.timestamp);
    let oldest = inputs.iter_mut().filter(|input| input.ahead.is_some()).min_by_key(|input| time(input));
    oldest.map_or(Ok(None), Input::advance)
}

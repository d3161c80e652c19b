//! `driftline dlq`: dead letters listed, sent again or set aside.
//!
//! What was sent again or discarded is remembered as the offset of the group
//! `<pipeline>.<stage>.dlq`; sending again and remembering it are one unit. A record that is sent again stands on a topic that
//! others may read too: it names the node that refused it, and they pass it over.

use std::time::Duration;

use driftline_broker::{Broker, BrokerError, Committed, FetchLimit, Member, OffsetCommit, Poll, Unit};
use driftline_pipeline::{Node, Plan, Role};
use driftline_runtime::{End, Report};
use driftline_types::{GroupId, Message, Offset, Outgoing, StageName, Topic, TopicPartition, wire};

use crate::{
    Exit,
    args::{DlqArgs, DlqCommand, DlqTarget},
    exit::Failure,
    log, logging,
    nodes::named,
    print,
    tap::describe,
    topics::behind,
};

pub(crate) fn dlq(args: &DlqArgs) -> Result<Exit, Failure> {
    let (target, action) = match &args.command {
        DlqCommand::Inspect(target) => (target, Action::Inspect),
        DlqCommand::Replay(target) => (target, Action::Replay),
        DlqCommand::Discard(target) => (target, Action::Discard),
    };
    let plan = log::load(&target.pipeline)?;
    let nodes = nodes(&plan, target)?;
    let topics: Vec<Topic> = nodes.iter().map(|(_, node)| plan.name.dead_letter_topic(&node.name)).collect();
    let broker = log::open_existing(&plan, &topics)?;
    let mut count = 0;
    for ((role, node), topic) in nodes.into_iter().zip(&topics) {
        if role == Role::Source && action == Action::Replay {
            if behind(&*broker, &group(topic)?, topic)?.iter().any(|(_, next, end)| next < end) {
                print::tell!(
                    "{}: the dead letters of a source are its input; mend that and run the pipeline again",
                    node.name
                );
            }
            continue;
        }
        count += settle(&*broker, &node.name, topic, &plan.name.output_topic(&node.name), action)?;
    }
    let count = print::counted(count as u64, "dead letter");
    match action {
        Action::Inspect => print::tell!("{count}"),
        Action::Replay => print::tell!("{count} sent again, for the next run of the pipeline"),
        Action::Discard => print::tell!("{count} set aside"),
    }
    Ok(Exit::Success)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Inspect,
    Replay,
    Discard,
}

fn nodes<'a>(plan: &'a Plan, target: &DlqTarget) -> Result<Vec<(Role, &'a Node)>, Failure> {
    let mut nodes: Vec<_> = plan.nodes().collect();
    if let Some(stage) = &target.stage {
        named(plan, stage, &Role::ALL)?;
        nodes.retain(|(_, node)| node.name == *stage);
    }
    Ok(nodes)
}

/// Returns the group that settles the dead letters of a topic.
fn group(topic: &Topic) -> Result<GroupId, Failure> {
    GroupId::try_new(topic.as_str()).map_err(Failure::running)
}

/// Applies an action to every dead letter of a node, on its topic, not settled before; returns their number. What the node itself
/// wrote, for which its `output` topic had no room, is passed over when letters are sent again: nothing reads it from there.
fn settle(
    broker: &dyn Broker,
    node: &StageName,
    topic: &Topic,
    output: &Topic,
    action: Action,
) -> Result<usize, Failure> {
    let is_own = |letter: &&Message| letter.headers.get_str(wire::ERROR_TOPIC) == Some(output.as_str());
    let mut member = broker.join(&group(topic)?, std::slice::from_ref(topic)).map_err(Failure::running)?;
    let mut count = 0;
    let limit = FetchLimit { records: 1024, bytes: 16 << 20 };
    loop {
        match member.poll(limit, Duration::from_millis(50)).map_err(Failure::running)? {
            Poll::Messages(messages) => {
                count += messages.len();
                match action {
                    Action::Inspect => {
                        if !print::lines(messages.iter().map(describe))? {
                            return Ok(count);
                        }
                    }
                    Action::Replay => {
                        let (own, read): (Vec<_>, Vec<_>) = messages.iter().partition(is_own);
                        commit(&mut *member, read.into_iter().map(|letter| again(node, letter)).collect(), &messages)?;
                        count -= own.len();
                        if !own.is_empty() {
                            let own = print::counted(own.len() as u64, "output");
                            print::tell!(
                                "{node}: {own} too large for {output} cannot be sent again and is set aside; `driftline replay` shows what the stage makes of the input"
                            );
                        }
                    }
                    Action::Discard => commit(&mut *member, Vec::new(), &messages)?,
                }
            }
            Poll::Assigned(_) => {}
            _ if member.lag().map_err(Failure::running)? == 0 => return Ok(count),
            _ => {}
        }
    }
}

fn commit(member: &mut dyn Member, outputs: Vec<Outgoing>, settled: &[Message]) -> Result<(), Failure> {
    let mut offsets: Vec<OffsetCommit> = Vec::new();
    for message in settled {
        let partition = TopicPartition::new(message.topic.clone(), message.partition);
        let committed = Committed { next: message.offset + 1, metadata: None };
        match offsets.iter_mut().find(|offset| offset.partition == partition) {
            Some(offset) => offset.committed = committed,
            None => offsets.push(OffsetCommit { partition, committed }),
        }
    }
    member.commit(Unit { outputs, offsets }).map_err(Failure::running)
}

/// Makes the message that a dead letter was, for the topic and partition it was read from, and for the node that refused it.
fn again(node: &StageName, letter: &Message) -> Outgoing {
    let topic = letter.headers.get_str(wire::ERROR_TOPIC).and_then(|topic| Topic::try_new(topic).ok());
    let mut headers = letter.headers.clone();
    // Without the id it had: it would be taken for a repeat of the record that was refused.
    headers.retain(|name| !name.starts_with(wire::ERROR_PREFIX) && name != wire::CE_ID);
    headers.set(wire::ONLY, node.as_str());
    Outgoing {
        topic: topic.unwrap_or_else(|| letter.topic.clone()),
        partition: Some(letter.partition),
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers,
        timestamp: letter.timestamp,
    }
}

/// How many reasons a run shows.
const SHOWN: usize = 10;

/// Where the dead letters of a pipeline ended at some moment, a partition each. Counts do not say where those of a run
/// begin: offsets are not dense on Kafka, and other partitions may hold older ones.
pub(crate) struct Ends(Vec<(StageName, TopicPartition, Offset)>);

impl Ends {
    /// Notes where they end now.
    pub(crate) fn now(broker: &dyn Broker, plan: &Plan) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for (_, node) in plan.nodes() {
            let topic = plan.name.dead_letter_topic(&node.name);
            let Some(found) = broker.describe_topic(&topic).map_err(Failure::running)? else { continue };
            for (partition, ends) in (0..).zip(found.partitions) {
                all.push((node.name.clone(), TopicPartition::new(topic.clone(), partition), ends.high));
            }
        }
        Ok(Self(all))
    }
}

/// Tells of the dead letters that a run has left since `before`.
pub(crate) fn warn(broker: &dyn Broker, plan: &Plan, report: &Report, before: &Ends) -> Result<(), Failure> {
    let total: u64 = report.nodes.iter().map(|node| node.metrics.rejected).sum();
    if total == 0 {
        return Ok(());
    }
    if logging::is_json() {
        // Without reasons: a collector may read log lines too.
        tracing::warn!(dead_letters = total, "records were refused, `driftline dlq inspect` says why");
        return Ok(());
    }
    if report.end == End::CutOff {
        // A broker that hangs would be waited for.
        print::tell!("\n{}, not looked at: the run was cut off", print::counted(total, "dead letter"));
        return Ok(());
    }
    print::tell!("\n{}:", print::counted(total, "dead letter"));
    let mut shown = 0;
    for (node, place, from) in &before.0 {
        let limit = FetchLimit { records: SHOWN - shown, bytes: 8 << 20 };
        if limit.records == 0 {
            break;
        }
        let letters = match broker.read(place, *from, limit) {
            Ok(letters) => letters,
            // Retention has taken them already.
            Err(BrokerError::OutOfRange { .. }) => continue,
            Err(error) => return Err(Failure::running(error)),
        };
        for letter in letters {
            let reason = letter.headers.get_str(wire::ERROR_REASON).unwrap_or("no reason");
            // Its place, not its key: a key may say who it is about, and this ends in logs.
            print::tell!("  {node}: {place} at {}: {}", letter.offset, print::visible(reason, &[]));
            shown += 1;
        }
    }
    if total > shown as u64 {
        print::tell!("  and {} more", total - shown as u64);
    }
    if !log::is_durable(plan) {
        print::tell!("they are gone with the temporary log; --set broker.path=FOLDER keeps them for `driftline dlq`");
    }
    Ok(())
}

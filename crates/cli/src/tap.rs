//! `driftline tap`.

use bytes::Bytes;
use driftline_broker::records;
use driftline_pipeline::Role;
use driftline_types::{Headers, Message, Outgoing, TopicPartition, wire};
use serde_json::{Value, json};

use crate::{Exit, args::TapArgs, exit::Failure, log, nodes, print, run::execute_first};

pub(crate) fn tap(args: &TapArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let writer = nodes::named(&plan, &args.stage, &[Role::Source, Role::Stage])?;
    let topic = plan.name.output_topic(&writer.name);
    let broker = log::open_to_read(&plan, std::slice::from_ref(&topic))?;
    let mut exit = Exit::Success;
    if !log::is_durable(&plan) {
        exit = Exit::from(execute_first(&plan, &broker, None)?.end);
    }
    let mut left = args.limit.unwrap_or(usize::MAX);
    for partition in 0..plan.partitions {
        let place = TopicPartition::new(topic.clone(), partition);
        for message in records(&*broker, place).map_err(Failure::running)?.take(left) {
            let message = message.map_err(Failure::running)?;
            if !print::line(describe(&message))? {
                return Ok(exit);
            }
            left -= 1;
        }
    }
    Ok(exit)
}

/// A record as JSON: JSON values as they are, others by their type and size.
pub(crate) fn describe(message: &Message) -> Value {
    json!({
        "topic": message.topic.as_str(),
        "partition": message.partition,
        "offset": message.offset,
        "time": message.timestamp.to_string(),
        "key": text(message.key.as_deref()),
        "headers": texts(&message.headers),
        "value": shown(&message.headers, message.value.as_ref()),
    })
}

/// The same of a record that stands nowhere yet.
pub(crate) fn describe_outgoing(output: &Outgoing) -> Value {
    json!({
        "topic": output.topic.as_str(),
        "time": output.timestamp.to_string(),
        "key": text(output.key.as_deref()),
        "headers": texts(&output.headers),
        "value": shown(&output.headers, output.value.as_ref()),
    })
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn texts(headers: &Headers) -> serde_json::Map<String, Value> {
    headers.iter().map(|(name, value)| (name.to_owned(), text(Some(value)).into())).collect()
}

fn shown(headers: &Headers, value: Option<&Bytes>) -> Value {
    let Some(bytes) = value else { return Value::Null };
    let size = || json!({ "bytes": bytes.len() });
    match headers.get_str(wire::CONTENT_TYPE) {
        Some("application/json") => serde_json::from_slice(bytes).unwrap_or_else(|_| size()),
        _ => size(),
    }
}

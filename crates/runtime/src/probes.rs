//! What stages answered to probes, on its topic: written with the outputs it describes.

use std::collections::BTreeMap;

use driftline_broker::{Broker, BrokerError, records};
use driftline_stage::operator::Site;
use driftline_stats::{Answers, ProbePart, rounds};
use driftline_types::{Headers, Outgoing, PipelineName, Timestamp, TopicPartition, wire};

/// The schema of a part, in the `ce_type` header.
const SCHEMA: &str = "probe-part.v1";

/// Makes the message of a part of an answer; nothing if it has no JSON, which its types rule out.
pub(crate) fn message(site: &Site, part: &ProbePart) -> Option<Outgoing> {
    let value = serde_json::to_vec(part).ok()?;
    let mut headers = Headers::default();
    headers.push(wire::CE_TYPE, SCHEMA);
    headers.push(wire::CONTENT_TYPE, "application/json");
    Some(Outgoing {
        topic: site.pipeline.probes_topic(),
        partition: Some(0),
        key: Some(site.stage.to_string().into()),
        value: Some(value.into()),
        headers,
        timestamp: part.round,
    })
}

/// Reads the answers that the log of a pipeline holds, by the event time of their round.
///
/// # Errors
/// If the log cannot be read. What is no answer is left out.
pub fn read(broker: &dyn Broker, pipeline: &PipelineName) -> Result<BTreeMap<Timestamp, Answers>, BrokerError> {
    let place = TopicPartition::new(pipeline.probes_topic(), 0);
    if broker.describe_topic(&place.topic)?.is_none() {
        return Ok(BTreeMap::new());
    }
    let mut parts: Vec<ProbePart> = Vec::new();
    for message in records(broker, place)? {
        parts.extend(message?.value.and_then(|value| serde_json::from_slice(&value).ok()));
    }
    Ok(rounds(parts))
}

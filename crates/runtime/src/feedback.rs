//! Feedback on its topic: written as it comes in, read back with the predictions it is about.

use driftline_broker::{Broker, BrokerError, records};
use driftline_pipeline::Plan;
use driftline_stats::{Feedback, Prediction};
use driftline_types::{Headers, Message, Outgoing, PipelineName, RecordId, StageName, TopicPartition, wire};
use serde_json::Value;

/// The schema, in the `ce_type` header.
const SCHEMA: &str = "feedback.v1";
/// Messages of one unit.
const UNIT: usize = 1_000;

/// Writes feedback to its topic. What was written twice counts once when it is joined.
///
/// # Errors
/// If the log cannot be written.
pub fn write(broker: &dyn Broker, pipeline: &PipelineName, feedback: &[Feedback]) -> Result<(), BrokerError> {
    let mut producer = broker.producer(pipeline.feedback_topic().as_str())?;
    for unit in feedback.chunks(UNIT) {
        producer.send(unit.iter().filter_map(|feedback| message(pipeline, feedback)).collect())?;
    }
    Ok(())
}

/// Makes the message of one; nothing if it has no JSON, which its types rule out.
fn message(pipeline: &PipelineName, feedback: &Feedback) -> Option<Outgoing> {
    let mut headers = Headers::default();
    headers.push(wire::CE_TYPE, SCHEMA);
    headers.push(wire::CONTENT_TYPE, "application/json");
    Some(Outgoing {
        topic: pipeline.feedback_topic(),
        partition: Some(0),
        key: Some(feedback.record.to_string().into()),
        value: Some(serde_json::to_vec(feedback).ok()?.into()),
        headers,
        timestamp: feedback.at,
    })
}

/// Reads the feedback of a pipeline; what is none is left out.
///
/// # Errors
/// If the log cannot be read.
pub fn read(broker: &dyn Broker, pipeline: &PipelineName) -> Result<Vec<Feedback>, BrokerError> {
    let place = TopicPartition::new(pipeline.feedback_topic(), 0);
    if broker.describe_topic(&place.topic)?.is_none() {
        return Ok(Vec::new());
    }
    let mut feedback = Vec::new();
    for message in records(broker, place)? {
        feedback.extend(message?.value.and_then(|value| serde_json::from_slice::<Feedback>(&value).ok()));
    }
    Ok(feedback)
}

/// Reads the predictions of a stage whose records are JSON objects: `confidence` and `transcript` are theirs, if they have
/// them. Records of probes and dead letters that were sent again are none.
///
/// # Errors
/// If the log cannot be read.
pub fn predictions(broker: &dyn Broker, plan: &Plan, stage: &StageName) -> Result<Vec<Prediction>, BrokerError> {
    let topic = plan.name.output_topic(stage);
    let mut predictions = Vec::new();
    for partition in 0..plan.partitions {
        for message in records(broker, TopicPartition::new(topic.clone(), partition))? {
            let message = message?;
            if wire::is_output(&message) {
                predictions.push(prediction(&message));
            }
        }
    }
    Ok(predictions)
}

fn prediction(message: &Message) -> Prediction {
    let value: Value =
        message.value.as_deref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
    let record =
        RecordId { topic: message.topic.clone(), partition: message.partition, offset: message.offset, index: 0 };
    Prediction {
        record,
        time: message.timestamp,
        confidence: value["confidence"].as_f64(),
        transcript: value["transcript"].as_str().map(str::to_owned),
    }
}

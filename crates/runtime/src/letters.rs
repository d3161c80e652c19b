//! What a node writes and its topic has no room for.

use std::collections::BTreeSet;

use bytes::Bytes;
use driftline_broker::BrokerError;
use driftline_stage::operator::Counts;
use driftline_types::{Outgoing, PipelineName, StageName, wire};

/// How much is kept of a record for which its topic of dead letters has no room, bytes: as much as sources keep of a file
/// that is larger than any message.
const HEAD: usize = 64 << 10;

/// Cuts a dead letter down to its head, which says what it was, and notes that in its reason. Returns whether there was
/// anything to cut off.
fn cut(letter: &mut Outgoing) -> bool {
    let Some(value) = letter.value.take_if(|value| value.len() > HEAD) else { return false };
    // A copy: a part of the value would keep all of it in memory.
    letter.value = Some(Bytes::copy_from_slice(&value[..HEAD]));
    let reason = letter.headers.get_str(wire::ERROR_REASON).unwrap_or_default();
    let reason = format!("{reason}; of its value the first {HEAD} bytes are kept");
    letter.headers.set(wire::ERROR_REASON, reason);
    true
}

/// Makes room for what is larger than its topic takes among what a node writes, if that is what the error says: a
/// record becomes a dead letter of the node, and of a dead letter the head is kept. Counts what became of records.
/// Returns whether there was anything to do, so that it is worth writing all of it once more.
pub(crate) fn make_room(
    error: &BrokerError,
    pipeline: &PipelineName,
    node: &StageName,
    outputs: &mut Vec<Outgoing>,
    counts: &mut Counts,
) -> bool {
    let BrokerError::TooLarge { topic, allowed, .. } = error else { return false };
    let is_large = |output: &Outgoing| output.topic == *topic && output.payload_bytes() > *allowed;
    let letters = pipeline.dead_letter_topic(node);
    if *topic == letters {
        return outputs.iter_mut().filter(|output| is_large(output)).map(cut).filter(|was_cut| *was_cut).count() > 0;
    }
    if *topic != pipeline.output_topic(node) {
        return false;
    }
    let mut found = false;
    let mut causes = BTreeSet::new();
    outputs.retain_mut(|output| {
        if !is_large(output) {
            return true;
        }
        found = true;
        // Nobody has lost anything: what was answered is told by its hash.
        if output.headers.get(wire::PROBE).is_some() {
            counts.probes = counts.probes.saturating_sub(1);
            return false;
        }
        let found = output.payload_bytes();
        let reason = BrokerError::TooLarge { topic: topic.clone(), found, allowed: *allowed }.to_string();
        // It was never read anywhere, so it has no place; its id names its cause.
        wire::push_refusal(&mut output.headers, node, reason, topic);
        output.topic = letters.clone();
        counts.written = counts.written.saturating_sub(1);
        // A record that led to several of them is refused once: their ids differ in what comes last.
        let id = output.headers.get_str(wire::CE_ID);
        let cause = id.and_then(|id| id.rsplit_once('/')).map(|(cause, _)| cause.to_owned());
        let is_first = cause.is_none_or(|cause| causes.insert(cause));
        if counts.read == 0 || is_first && counts.used > 0 {
            counts.used = counts.used.saturating_sub(1);
            counts.rejected += 1;
        }
        true
    });
    found
}

#[cfg(test)]
mod tests {
    use driftline_types::{Headers, Timestamp, Topic};

    use super::*;

    const ALLOWED: usize = 100 << 10;

    fn outgoing(topic: Topic, bytes: usize) -> Outgoing {
        let mut headers = Headers::default();
        headers.push(wire::ERROR_REASON, "found noise");
        let value = Some(vec![7_u8; bytes].into());
        Outgoing { topic, partition: Some(0), key: None, value, headers, timestamp: Timestamp::default() }
    }

    #[test]
    fn what_its_topic_has_no_room_for_is_cut_once_and_the_rest_stays() {
        let (pipeline, node) = (PipelineName::try_new("speech").unwrap(), StageName::try_new("mic").unwrap());
        let (letters, records) = (pipeline.dead_letter_topic(&node), pipeline.output_topic(&node));
        let too_large =
            |topic: &Topic| BrokerError::TooLarge { topic: topic.clone(), found: 1 << 20, allowed: ALLOWED };
        let mut outputs: Vec<Outgoing> =
            [10, 200 << 10, 80 << 10, 300 << 10].map(|bytes| outgoing(letters.clone(), bytes)).into();
        outputs.push(outgoing(records.clone(), 200 << 10));
        let before = outputs.clone();
        // A state that is too large is another matter, and so is another error.
        let (gone, mut counts) = (BrokerError::UnknownTopic { topic: letters.clone() }, Counts::default());
        for error in [too_large(&pipeline.state_topic(&node)), gone] {
            assert!(!make_room(&error, &pipeline, &node, &mut outputs, &mut counts));
            assert_eq!(outputs, before);
        }
        assert!(make_room(&too_large(&letters), &pipeline, &node, &mut outputs, &mut counts));
        let sizes: Vec<usize> = outputs.iter().map(|output| output.value.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [10, HEAD, 80 << 10, HEAD, 200 << 10]);
        let reasons: Vec<&str> =
            outputs.iter().map(|output| output.headers.get_str(wire::ERROR_REASON).unwrap()).collect();
        let cut_reason = "found noise; of its value the first 65536 bytes are kept";
        assert_eq!(reasons, ["found noise", cut_reason, "found noise", cut_reason, "found noise"]);
        let again = make_room(&too_large(&letters), &pipeline, &node, &mut outputs, &mut counts);
        assert!(!again, "there is no less than a head");
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn a_record_that_its_topic_has_no_room_for_becomes_a_dead_letter_and_a_probe_is_left_out() {
        let (pipeline, node) = (PipelineName::try_new("speech").unwrap(), StageName::try_new("vad").unwrap());
        let (letters, records) = (pipeline.dead_letter_topic(&node), pipeline.output_topic(&node));
        let mut outputs: Vec<Outgoing> =
            [10, 200 << 10, 200 << 10, 200 << 10].map(|bytes| outgoing(records.clone(), bytes)).into();
        outputs.iter_mut().for_each(|output| output.headers.retain(|_| false));
        for (output, id) in outputs.iter_mut().zip(["mic/0/7/0", "mic/0/8/0", "mic/0/8/1", "mic/0/9/0"]) {
            output.headers.push(wire::CE_ID, id);
        }
        outputs[3].headers.push(wire::PROBE, "a@1");
        // One of two records that were used became both that are too large.
        let mut counts = Counts { read: 3, used: 2, held: 1, written: 3, probes: 1, ..Counts::default() };
        let error = BrokerError::TooLarge { topic: records.clone(), found: 200 << 10, allowed: ALLOWED };
        assert!(make_room(&error, &pipeline, &node, &mut outputs, &mut counts));
        let topics: Vec<&Topic> = outputs.iter().map(|output| &output.topic).collect();
        assert_eq!(topics, [&records, &letters, &letters]);
        assert_eq!(counts, Counts { read: 3, used: 1, rejected: 1, held: 1, written: 1, ..Counts::default() });
        let header = |name| outputs[1].headers.get_str(name);
        assert_eq!(header(wire::ERROR_STAGE), Some("vad"));
        assert_eq!(header(wire::ERROR_TOPIC), Some("speech.vad"));
        assert_eq!(header(wire::ERROR_REASON), Some("message of 204814 bytes for speech.vad, allowed are 102400"));
        assert!(!make_room(&error, &pipeline, &node, &mut outputs, &mut counts), "there is no other");
    }
}

//! Dead letters for which their topic has no room.

use bytes::Bytes;
use driftline_broker::BrokerError;
use driftline_types::{Outgoing, PipelineName, StageName, wire};

/// How much is kept of a record for which its topic of dead letters has no room, bytes: as much as sources keep of a file
/// that is larger than any message.
const HEAD: usize = 64 << 10;

/// Cuts a dead letter down to its head, which says what it was, and notes that in its reason. Returns whether there was
/// anything to cut off.
pub(crate) fn cut(letter: &mut Outgoing) -> bool {
    let Some(value) = letter.value.take_if(|value| value.len() > HEAD) else { return false };
    // A copy: a part of the value would keep all of it in memory.
    letter.value = Some(Bytes::copy_from_slice(&value[..HEAD]));
    let reason = letter.headers.get_str(wire::ERROR_REASON).unwrap_or_default();
    let reason = format!("{reason}; of its value the first {HEAD} bytes are kept");
    letter.headers.set(wire::ERROR_REASON, reason);
    true
}

/// Cuts the dead letters of a node, among what it writes, that are larger than their topic takes, if that is what the error
/// says. Returns whether there was anything to cut off, so that it is worth writing them once more.
pub(crate) fn make_room(
    error: &BrokerError,
    pipeline: &PipelineName,
    node: &StageName,
    outputs: &mut [Outgoing],
) -> bool {
    let BrokerError::TooLarge { topic, allowed, .. } = error else { return false };
    if *topic != pipeline.dead_letter_topic(node) {
        return false;
    }
    let large = outputs.iter_mut().filter(|output| output.topic == *topic && output.payload_bytes() > *allowed);
    large.map(cut).filter(|was_cut| *was_cut).count() > 0
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
        // A record that is too large is another matter, and so is another error.
        let gone = BrokerError::UnknownTopic { topic: letters.clone() };
        for error in [too_large(&records), gone] {
            assert!(!make_room(&error, &pipeline, &node, &mut outputs));
            assert_eq!(outputs, before);
        }
        assert!(make_room(&too_large(&letters), &pipeline, &node, &mut outputs));
        let sizes: Vec<usize> = outputs.iter().map(|output| output.value.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [10, HEAD, 80 << 10, HEAD, 200 << 10]);
        let reasons: Vec<&str> =
            outputs.iter().map(|output| output.headers.get_str(wire::ERROR_REASON).unwrap()).collect();
        let cut_reason = "found noise; of its value the first 65536 bytes are kept";
        assert_eq!(reasons, ["found noise", cut_reason, "found noise", cut_reason, "found noise"]);
        assert!(!make_room(&too_large(&letters), &pipeline, &node, &mut outputs), "there is no less than a head");
    }
}

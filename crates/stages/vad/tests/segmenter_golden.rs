//! The segments of Silero VAD 6.2.3, made by `goldens/segments.py`.

use driftline_vad::segmenter::{SegmentEvent, Segmenter, SegmenterConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    options: serde_json::Map<String, serde_json::Value>,
    length: u64,
    probabilities: Vec<f32>,
    segments: Vec<(u64, u64)>,
}

#[test]
fn the_segments_are_those_of_silero() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("goldens/segments.json")).unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let options = serde_json::from_value(case.options.into()).unwrap();
        // What Silero's caller does not name is infinite there.
        let config = SegmenterConfig { ..options };
        let config = if config.max_speech_duration_s == SegmenterConfig::default().max_speech_duration_s {
            SegmenterConfig { max_speech_duration_s: f64::INFINITY, ..config }
        } else {
            config
        };
        let mut segmenter = Segmenter::try_new(config).unwrap();
        let mut events = Vec::new();
        for &probability in &case.probabilities {
            segmenter.push(probability, &mut events);
        }
        segmenter.finish(case.length, &mut events);
        let segments: Vec<(u64, u64)> = events
            .iter()
            .filter_map(|event| match *event {
                SegmentEvent::Started { .. } => None,
                SegmentEvent::Ended { start, end } => Some((start, end)),
            })
            .collect();
        assert_eq!(segments, case.segments, "{}", case.name);
    }
}

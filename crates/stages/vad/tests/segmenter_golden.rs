//! The segments of Silero VAD 6.2.3, made by `goldens/segments.py`.

use driftline_vad::{
    Config,
    segmenter::{Rules, SegmentEvent, Segmenter},
};
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
        // What a case does not name has Silero's default there; no case lasts a minute.
        let mut options = case.options;
        options.entry("min_speech_duration_ms").or_insert(250.into());
        options.entry("max_speech_duration_s").or_insert(60.into());
        let config: Config = serde_json::from_value(options.into()).unwrap();
        let mut segmenter = Segmenter::new(Rules::try_new(&config).unwrap());
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

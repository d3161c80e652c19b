//! What the stage makes of pictures, whole and broken, does not depend on how they were batched.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use driftline_inspection::InspectionKind;
use driftline_payloads::{
    Decision, Image, Inspection,
    image::{Format, Shot},
};
use driftline_stage::{
    Payload, StageDef,
    operator::{Effects, Operator, Site},
};
use driftline_types::{Headers, Message, PipelineName, StageName, StageVersion, Timestamp, Topic};

fn operator(config: &str) -> Box<dyn Operator> {
    let stage = StageDef::of::<InspectionKind>().open(&config.parse().unwrap()).unwrap();
    stage.instance(Arc::new(Site::new(
        PipelineName::try_new("inspect").unwrap(),
        StageName::try_new("inspection").unwrap(),
        StageVersion::try_new("test").unwrap(),
        10_000,
    )))
}

fn message(offset: u64, key: &str, value: Bytes) -> Message {
    Message {
        topic: Topic::try_new("inspect.camera").unwrap(),
        partition: 0,
        offset,
        key: Some(key.to_owned().into()),
        value: Some(value),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(offset as i64),
    }
}

/// A picture of noise, with or without a bright line.
fn picture(seed: u64, line: bool) -> Image {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut rgb = Vec::new();
    for i in 0..200 * 160 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bright = line && (i % 200) / 2 == (i / 200) / 2 + 10;
        let value = 70 + (state >> 60) as u8 + if bright { 120 } else { 0 };
        rgb.extend([value; 3]);
    }
    let shot = Shot { camera: "a".to_owned(), frame: Some(seed), name: None, missing: 0 };
    Image::from_rgb(shot, Format::Png, 90, (200, 160), &rgb).unwrap()
}

fn encode(image: &Image) -> Bytes {
    let mut bytes = BytesMut::new();
    image.encode(&mut bytes).unwrap();
    bytes.freeze()
}

fn outputs(effects: &Effects) -> Vec<Inspection> {
    effects.outputs.iter().map(|output| Inspection::decode(output.value.as_ref().unwrap()).unwrap()).collect()
}

#[test]
fn every_picture_is_inspected_and_broken_ones_are_dead_letters_as_they_came() {
    let whole = encode(&picture(1, true));
    // The header is whole, the pixels are not.
    let cut = whole.slice(..whole.len() / 2);
    let foreign = picture(2, false).file().clone();
    let batch = [
        message(0, "a", whole),
        message(1, "a", cut.clone()),
        message(2, "b", foreign),
        message(3, "a", Bytes::from_static(b"no picture")),
    ];
    let effects = operator("").process(&batch, Duration::ZERO).unwrap();
    let found = outputs(&effects);
    assert_eq!(found.iter().map(|i| (i.camera.as_str(), i.frame)).collect::<Vec<_>>(), [("a", Some(1)), ("b", None)]);
    assert_eq!((effects.counts.read, effects.counts.used, effects.counts.rejected), (4, 2, 2));
    let mut letters: Vec<Bytes> = effects.dead_letters.iter().map(|letter| letter.value.clone().unwrap()).collect();
    letters.sort();
    let mut expected = vec![cut, Bytes::from_static(b"no picture")];
    expected.sort();
    assert_eq!(letters, expected);
}

#[test]
fn batches_make_no_difference() {
    let messages: Vec<Message> = (0..6).map(|i| message(i, "a", encode(&picture(i, i % 2 == 0)))).collect();
    let together = outputs(&operator("").process(&messages, Duration::ZERO).unwrap());
    let mut alone = operator("");
    let single: Vec<Inspection> = messages
        .iter()
        .flat_map(|message| outputs(&alone.process(std::slice::from_ref(message), Duration::ZERO).unwrap()))
        .collect();
    assert_eq!(together, single);
}

#[test]
fn a_threshold_that_contradicts_the_weights_is_named() {
    let error = |config: &str| {
        let opened = StageDef::of::<InspectionKind>().open(&config.parse().unwrap());
        opened.err().unwrap().to_string()
    };
    let low = error("reject_from = 0.1");
    assert!(low.starts_with("reject_from: found 0.1, allowed is at least accept_below of the weights, 0."), "{low}");
    let high = error("accept_below = 0.9");
    assert!(high.starts_with("accept_below: found 0.9, allowed is at most reject_from of the weights, 0."), "{high}");
}

#[test]
fn thresholds_decide() {
    // Noise alone: of the line the network is so sure that its score is 1.
    let batch = [message(0, "a", encode(&picture(1, false)))];
    let decide = |config: &str| outputs(&operator(config).process(&batch, Duration::ZERO).unwrap()).remove(0);
    let rejected = decide("accept_below = 0.0\nreject_from = 0.0");
    assert_eq!(rejected.decision, Decision::Reject);
    assert!(rejected.heat_map.unwrap().starts_with("data:image/png;base64,") && rejected.class != "good");
    let referred = decide("accept_below = 0.0\nreject_from = 1.0\nheat_map = 0");
    assert_eq!((referred.decision, referred.heat_map), (Decision::Refer, None));
    let accepted = decide("accept_below = 1.0\nreject_from = 1.0");
    assert_eq!((accepted.decision, accepted.class.as_str(), accepted.heat_map), (Decision::Accept, "good", None));
    assert!((accepted.confidence - (1.0 - accepted.score)).abs() < 1e-6);
}

#[test]
fn a_picture_that_shows_nothing_is_referred() {
    let uniform = |shade: u8, (width, height): (u32, u32)| {
        let rgb = vec![shade; 3 * width as usize * height as usize];
        Image::from_rgb(Shot::default(), Format::Png, 90, (width, height), &rgb).unwrap()
    };
    let pictures = [uniform(0, (200, 160)), uniform(255, (200, 160)), uniform(90, (200, 15))];
    let messages: Vec<Message> = (0..3).map(|i| message(i, "a", encode(&pictures[i as usize]))).collect();
    let decisions = |config: &str| -> Vec<Decision> {
        let found = outputs(&operator(config).process(&messages, Duration::ZERO).unwrap());
        found.iter().map(|inspection| inspection.decision).collect()
    };
    let accept_all = "accept_below = 1.0\nreject_from = 1.0";
    assert_eq!(decisions(accept_all), [Decision::Refer; 3]);
    let decided = decisions(&format!("{accept_all}\nmin_contrast = 0.0"));
    assert_eq!(decided, [Decision::Accept, Decision::Accept, Decision::Refer]);
}

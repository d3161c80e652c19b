//! What the stage makes of a session does not depend on how its chunks were batched, nor on where
//! the process was killed and its state restored.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use driftline_payloads::{AudioChunk, SpeechSegment};
use driftline_stage::{
    OpenStage, Payload, StageDef,
    operator::{Counts, Effects, Operator, Site},
};
use driftline_types::{
    Headers, Injection, Injections, Message, PipelineName, StageName, StageVersion, Timestamp, Topic, config::Millis,
    wire,
};
use driftline_vad::Vad;
use proptest::prelude::*;

/// Samples of a 16 kHz, 16-bit, mono recording of the speech pipeline.
fn recording(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/samples/voice-search").join(name);
    let bytes = std::fs::read(path).unwrap();
    let data = bytes.windows(4).position(|window| window == b"data").unwrap() + 8;
    bytes[data..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_767.0).collect()
}

fn chunks(session: &str, samples: &[f32], size: usize) -> Vec<AudioChunk> {
    let count = samples.len().div_ceil(size);
    let chunk = |(number, samples): (usize, &[f32])| AudioChunk {
        session: session.to_owned(),
        chunk: number as u32,
        start: (number * size) as u64,
        source_rate: 16_000,
        source_channels: 1,
        clipped: 0.0,
        missing: 0,
        last: number + 1 == count,
        samples: samples.to_vec(),
    };
    samples.chunks(size).enumerate().map(chunk).collect()
}

fn messages(chunks: &[AudioChunk]) -> Vec<Message> {
    let message = |(offset, chunk): (usize, &AudioChunk)| {
        let mut value = BytesMut::new();
        chunk.encode(&mut value).unwrap();
        Message {
            topic: Topic::try_new("speech.microphone").unwrap(),
            partition: 0,
            offset: offset as u64,
            key: Some(chunk.session.clone().into()),
            value: Some(value.freeze()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(offset as i64),
        }
    };
    chunks.iter().enumerate().map(message).collect()
}

fn stage() -> Box<dyn OpenStage> {
    StageDef::of::<Vad>().open(&toml::Table::new()).unwrap()
}

fn operator(stage: &dyn OpenStage, injections: &Injections) -> Box<dyn Operator> {
    stage.instance(Arc::new(Site {
        injections: injections.clone(),
        ..Site::new(
            PipelineName::try_new("speech").unwrap(),
            StageName::try_new("vad").unwrap(),
            StageVersion::try_new("test").unwrap(),
            10_000,
        )
    }))
}

/// Changes parameters at the times of these messages.
fn injections(changes: &[(&str, f64, i64)]) -> Injections {
    let parameter =
        |name: &str| StageDef::of::<Vad>().parameters.iter().find(|parameter| parameter.name == name).unwrap();
    let injection = |&(name, value, at): &(&str, f64, i64)| Injection {
        parameter: parameter(name),
        value,
        at: Timestamp::from_millis(at),
        over: Millis(0),
        until: None,
    };
    Injections::new(changes.iter().map(injection).collect())
}

/// What the log holds after some batches.
#[derive(Default)]
struct Log {
    /// Id, key and value of each output.
    outputs: Vec<(String, Bytes, Bytes)>,
    state: BTreeMap<Bytes, Bytes>,
    counts: Counts,
    rejected: usize,
}

impl Log {
    fn commit(&mut self, effects: Effects) {
        for output in effects.outputs {
            let id = output.headers.get_str(wire::CE_ID).unwrap().to_owned();
            self.outputs.push((id, output.key.unwrap(), output.value.unwrap()));
        }
        for change in effects.state {
            match change.value {
                Some(value) => drop(self.state.insert(change.key, value)),
                None => drop(self.state.remove(&change.key)),
            }
        }
        self.rejected += effects.dead_letters.len();
        let c = effects.counts;
        self.counts.read += c.read;
        self.counts.used += c.used;
        self.counts.dropped += c.dropped;
        self.counts.rejected += c.rejected;
        self.counts.held += c.held;
    }

    fn segments(&self) -> Vec<SpeechSegment> {
        self.outputs.iter().map(|(_, _, value)| SpeechSegment::decode(value).unwrap()).collect()
    }
}

/// Works messages off in batches that end at the cuts; where `restart` is set, the operator is
/// thrown away after the batch and another one restored.
fn work(stage: &dyn OpenStage, messages: &[Message], cuts: &[(usize, bool)]) -> Log {
    work_with(stage, &Injections::default(), messages, cuts)
}

fn work_with(stage: &dyn OpenStage, injections: &Injections, messages: &[Message], cuts: &[(usize, bool)]) -> Log {
    let mut log = Log::default();
    let mut operator_now = operator(stage, injections);
    let mut at = 0;
    for &(cut, restart) in cuts.iter().chain([&(messages.len(), false)]) {
        let batch = &messages[at..cut.max(at)];
        at = cut.max(at);
        log.commit(operator_now.process(batch, Duration::ZERO).unwrap());
        if restart {
            operator_now = operator(stage, injections);
            operator_now.restore(log.state.clone().into_iter().collect()).unwrap();
        }
    }
    log.commit(operator_now.flush().unwrap());
    log
}

/// Two sessions, their chunks interleaved.
fn two_sessions() -> Vec<Message> {
    let first = chunks("first", &recording("red-jacket.wav"), 1_000);
    let mut second = recording("red-jacket.wav");
    second.drain(..2_345);
    let second = chunks("second", &second, 777);
    let mut all = Vec::new();
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return messages(&all),
            (a, b) => all.extend(a.into_iter().chain(b)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batching_and_crashes_do_not_change_the_output(
        mut cuts in prop::collection::vec((0usize..110, any::<bool>()), 0..20),
        changed in any::<bool>(),
    ) {
        let stage = stage();
        let messages = two_sessions();
        cuts.sort_unstable();
        cuts.retain(|(cut, _)| *cut <= messages.len());
        let injections = if changed { injections(&[("clip_ms", 90.0, 10), ("threshold_shift", 0.2, 20)]) } else { Injections::default() };
        let whole = work_with(&*stage, &injections, &messages, &[]);
        let parts = work_with(&*stage, &injections, &messages, &cuts);
        prop_assert_eq!(&parts.outputs.len(), &whole.outputs.len());
        // Sessions of one batch may come in another order than in two; each session's own holds.
        let sorted = |log: &Log| { let mut outputs = log.outputs.clone(); outputs.sort(); outputs };
        prop_assert_eq!(sorted(&parts), sorted(&whole));
        prop_assert_eq!(parts.counts, whole.counts);
        prop_assert!(parts.state.is_empty(), "every session has ended");
    }
}

#[test]
fn only_speech_leaves_and_every_chunk_is_accounted_for() {
    let stage = stage();
    let log = work(&*stage, &two_sessions(), &[]);
    let counts = log.counts;
    assert_eq!(counts.read, counts.used + counts.dropped + counts.rejected);
    assert_eq!(counts.held, 0);
    assert!(counts.dropped > 0 && counts.used > 0, "{counts:?}");
    for segment in log.segments() {
        assert_eq!(segment.samples.len() as u64 * 1_000 / 16_000, segment.end_ms - segment.start_ms);
        assert!(segment.speech_ratio > 0.5, "{}", segment.speech_ratio);
    }
}

#[test]
fn clipped_segments_lack_both_ends_and_short_ones_are_lost() {
    let stage = stage();
    let messages = messages(&chunks("one", &recording("red-jacket.wav"), 1_000));
    let whole = work(&*stage, &messages, &[]).segments().remove(0);
    let clipped = work_with(&*stage, &injections(&[("clip_ms", 100.0, 0)]), &messages, &[]);
    let [segment] = &clipped.segments()[..] else { panic!() };
    assert_eq!((segment.start_ms, segment.end_ms), (whole.start_ms + 100, whole.end_ms - 100));
    assert_eq!(segment.samples, whole.samples[1_600..whole.samples.len() - 1_600]);
    let lost = work_with(&*stage, &injections(&[("clip_ms", 2_000.0, 0)]), &messages, &[]);
    assert!(lost.outputs.is_empty());
    for Counts { read, used, dropped, .. } in [clipped.counts, lost.counts] {
        assert_eq!(read, used + dropped);
    }
}

#[test]
fn higher_thresholds_hear_less() {
    let stage = stage();
    let messages = two_sessions();
    let length = |shift: f64| {
        let log = work_with(&*stage, &injections(&[("threshold_shift", shift, 0)]), &messages, &[]);
        log.segments().iter().map(|segment| segment.samples.len()).sum::<usize>()
    };
    let lengths = [-0.3, 0.0, 0.3, 0.49].map(length);
    assert!(lengths.is_sorted_by(|a, b| a >= b) && lengths[0] > lengths[3], "{lengths:?}");
    assert_eq!(length(0.6), 0);
}

#[test]
fn silence_leaves_nothing() {
    let stage = stage();
    let log = work(&*stage, &messages(&chunks("silent", &[0.0; 48_000], 1_024)), &[]);
    assert!(log.outputs.is_empty());
    assert_eq!(log.counts.dropped, log.counts.read);
}

#[test]
fn chunks_out_of_order_are_rejected_and_lost_ones_become_silence() {
    let stage = stage();
    let mut all = chunks("gap", &recording("red-jacket.wav"), 1_000);
    let lost = all.remove(3);
    all.insert(10, lost);
    let log = work(&*stage, &messages(&all), &[(5, true)]);
    assert_eq!(log.rejected, 1);
    assert_eq!(log.counts.read, log.counts.used + log.counts.dropped + 1);
    assert_eq!(log.segments().len(), 1);
}

#[test]
fn a_session_without_an_end_is_flushed() {
    let stage = stage();
    let mut all = chunks("open", &recording("red-jacket.wav")[..20_000], 1_000);
    all.last_mut().unwrap().last = false;
    let log = work(&*stage, &messages(&all), &[(15, true)]);
    assert_eq!(log.segments().len(), 1, "speech goes on to the end");
    assert!(log.state.is_empty());
}

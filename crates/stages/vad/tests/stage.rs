//! What the stage makes of a session, and how it is described, does not depend on how its chunks were batched, nor on
//! where the process was killed and its state restored.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use driftline_payloads::{AudioChunk, SpeechSegment};
use driftline_stage::{
    OpenStage, Payload, StageDef,
    operator::{Counts, Effects, Operator, Site},
};
use driftline_stats::{Profile, References};
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
    stage_with("")
}

fn stage_with(config: &str) -> Box<dyn OpenStage> {
    StageDef::of::<Vad>().open(&config.parse().unwrap()).unwrap()
}

/// Length of a window of profiles, ms: ten messages.
const WINDOW: i64 = 10;

fn operator(stage: &dyn OpenStage, injections: &Injections) -> Box<dyn Operator> {
    stage.instance(Arc::new(Site {
        injections: injections.clone(),
        ..Site::new(
            PipelineName::try_new("speech").unwrap(),
            StageName::try_new("vad").unwrap(),
            StageVersion::try_new("test").unwrap(),
            WINDOW,
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

/// Makes speech of every frame, whatever it holds.
fn all_speech() -> Injections {
    injections(&[("threshold_shift", -1.0, 0)])
}

/// What the log holds after some batches.
#[derive(Default)]
struct Log {
    /// Id, key and value of each output.
    outputs: Vec<(String, Bytes, Bytes)>,
    /// What each output was made from.
    parents: Vec<String>,
    state: BTreeMap<Bytes, Bytes>,
    counts: Counts,
    rejected: usize,
    /// By window and direction.
    profiles: BTreeMap<(Timestamp, u8), Profile>,
}

impl Log {
    fn commit(&mut self, effects: Effects) {
        for output in effects.outputs {
            let id = output.headers.get_str(wire::CE_ID).unwrap().to_owned();
            self.parents.push(output.headers.get_str(wire::PARENTS).unwrap_or_default().to_owned());
            self.outputs.push((id, output.key.unwrap(), output.value.unwrap()));
        }
        for change in effects.state {
            match change.value {
                Some(value) => drop(self.state.insert(change.key, value)),
                None => drop(self.state.remove(&change.key)),
            }
        }
        self.rejected += effects.dead_letters.len();
        for profile in effects.profiles {
            let profile = Profile::decode(&profile.bytes, &References::default()).unwrap();
            match self.profiles.entry((profile.key.window.start, profile.body.direction() as u8)) {
                Entry::Vacant(entry) => drop(entry.insert(profile)),
                Entry::Occupied(mut entry) => entry.get_mut().merge(&profile).unwrap(),
            }
        }
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
    let (mut log, mut operator) = work_unflushed(stage, injections, messages, cuts);
    log.commit(operator.flush().unwrap());
    log
}

/// The same as long as more may come.
fn work_unflushed(
    stage: &dyn OpenStage,
    injections: &Injections,
    messages: &[Message],
    cuts: &[(usize, bool)],
) -> (Log, Box<dyn Operator>) {
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
    (log, operator_now)
}

/// Requires that the outcome is the same if the process is killed after every message.
fn assert_kills_change_nothing(stage: &dyn OpenStage, injections: &Injections, messages: &[Message], whole: &Log) {
    let cuts: Vec<_> = (1..messages.len()).map(|cut| (cut, true)).collect();
    let parts = work_with(stage, injections, messages, &cuts);
    assert_eq!(parts.outputs, whole.outputs);
    assert_eq!(parts.parents, whole.parents);
    assert_eq!(parts.counts, whole.counts);
    assert_eq!(parts.profiles, whole.profiles);
    assert_eq!(parts.counts.held, 0);
    assert!(parts.state.is_empty());
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
    fn batching_and_crashes_change_neither_the_output_nor_its_description(
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
        prop_assert_eq!(&parts.profiles, &whole.profiles);
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

#[test]
fn a_gap_that_is_too_long_ends_a_segment_and_the_session_goes_on() {
    let stage = stage();
    let mut all = chunks("gap", &[0.1; 40_000], 1_000);
    // 12.5 s are lost.
    for chunk in &mut all[20..] {
        chunk.start += 200_000;
    }
    let messages = messages(&all);
    let log = work_with(&*stage, &all_speech(), &messages, &[]);
    assert_eq!((log.rejected, log.counts.used), (0, 40));
    let [before, after] = &log.segments()[..] else { panic!() };
    assert_eq!((before.segment, before.start_ms, before.end_ms), (0, 0, 1_250));
    assert_eq!((before.samples.len(), before.silence_after_ms), (20_000, None));
    assert_eq!((after.segment, after.start_ms, after.end_ms), (1, 13_750, 15_000));
    assert_eq!((after.samples.len(), after.silence_before_ms, after.speech_ratio), (20_000, 12_500, 1.0));
    assert_kills_change_nothing(&*stage, &all_speech(), &messages, &log);

    // Nor does a session need its beginning.
    let rest = work_with(&*stage, &all_speech(), &messages[20..], &[]);
    let [segment] = &rest.segments()[..] else { panic!() };
    assert_eq!((segment.segment, segment.start_ms, segment.end_ms), (0, 13_750, 15_000));
}

#[test]
fn what_a_chunk_ends_and_what_it_holds_itself_have_names_of_their_own() {
    let stage = stage_with("max_speech_duration_s = 0.3");
    let [a, b] = ["a", "b"].map(|session| {
        let mut all = chunks(session, &[0.1; 40_000], 20_000);
        all[1].start += 200_000;
        all
    });
    let messages = messages(&[&a[..1], &b[..1], &a[1..], &b[1..]].concat());
    let log = work_with(&*stage, &all_speech(), &messages, &[]);
    assert_eq!(log.rejected, 0);
    let ids: BTreeSet<&String> = log.outputs.iter().map(|(id, _, _)| id).collect();
    assert_eq!(ids.len(), log.outputs.len());
    assert_kills_change_nothing(&*stage, &all_speech(), &messages, &log);
}

#[test]
fn chunk_0_begins_a_new_session_unless_it_is_a_repeat() {
    let stage = stage();
    let first = chunks("again", &[0.1; 20_000], 1_000);
    let second = chunks("again", &[0.2; 10_000], 1_000);
    // The first chunk comes three times, and the end never.
    let mut messages = messages(&[&first[..1], &first[..1], &first[1..12], &first[..1], &second[..]].concat());
    for repeat in [1, 13] {
        messages[repeat].timestamp = messages[0].timestamp;
    }
    let log = work_with(&*stage, &all_speech(), &messages, &[]);
    assert_eq!((log.rejected, log.counts.used), (2, 22));
    let [before, after] = &log.segments()[..] else { panic!() };
    assert_eq!((before.segment, before.start_ms, before.end_ms, before.silence_after_ms), (0, 0, 750, None));
    assert!(before.samples.iter().all(|sample| *sample < 0.15));
    assert_eq!((after.segment, after.start_ms, after.end_ms, after.silence_before_ms), (0, 0, 625, 0));
    assert!(after.samples.iter().all(|sample| *sample > 0.15));
    assert_kills_change_nothing(&*stage, &all_speech(), &messages, &log);
}

#[test]
fn a_last_chunk_that_is_rejected_ends_its_session() {
    let stage = stage();
    let mut all = chunks("end", &[0.1; 12_000], 1_000);
    all[11].start = 5_000;
    let messages = messages(&all);
    for cuts in [vec![], vec![(11, true)]] {
        let (log, _) = work_unflushed(&*stage, &all_speech(), &messages, &cuts);
        assert_eq!((log.rejected, log.counts.used, log.counts.held), (1, 11, 0));
        let [segment] = &log.segments()[..] else { panic!() };
        assert_eq!((segment.start_ms, segment.samples.len()), (0, 11_000));
        assert!(log.state.is_empty());
    }
}

#[test]
fn a_chunk_that_comes_again_is_rejected_with_what_may_have_sent_it() {
    let stage = stage();
    let all = chunks("twice", &[0.1; 3_000], 1_000);
    let messages = messages(&[&all[..2], &all[1..2]].concat());
    let effects = operator(&*stage, &Injections::default()).process(&messages, Duration::ZERO).unwrap();
    let reason = effects.dead_letters[0].headers.get_str(wire::ERROR_REASON).unwrap();
    let expected = "start: found 1000, allowed 2000 or later (sent twice, or two sources with sessions of one name?)";
    assert!(reason.ends_with(expected), "{reason}");
}

#[test]
fn a_segment_has_the_session_name_of_the_chunk_that_ends_it() {
    let stage = stage_with("max_speech_duration_s = 0.3");
    let mut all = chunks("before", &[0.1; 20_000], 1_500);
    for chunk in &mut all[9..] {
        chunk.session = "after".to_owned();
    }
    let mut messages = messages(&all);
    for message in &mut messages {
        message.key = Some("one".into());
    }
    let whole = work_with(&*stage, &all_speech(), &messages, &[]);
    let names: Vec<String> = whole.segments().into_iter().map(|segment| segment.session).collect();
    assert!(names.first().is_some_and(|name| name == "before"), "{names:?}");
    assert!(names.last().is_some_and(|name| name == "after"), "{names:?}");
    assert_kills_change_nothing(&*stage, &all_speech(), &messages, &whole);
}

#[test]
fn a_session_that_accepted_nothing_is_not_kept() {
    let stage = stage();
    let mut all = chunks("nowhere", &[0.1; 2_000], 1_000);
    all[0].start = u64::MAX;
    let (log, _) = work_unflushed(&*stage, &all_speech(), &messages(&all[..1]), &[]);
    assert_eq!(log.rejected, 1);
    assert!(log.state.is_empty());
}

#[test]
fn open_sessions_go_on_with_another_network() {
    let stage = stage();
    let messages = messages(&chunks("open", &[0.1; 20_000], 1_000));
    let (mut log, _) = work_unflushed(&*stage, &all_speech(), &messages[..10], &[]);
    // Instead of the state of our network one of Silero's: layout, network, length, then as many zeros.
    let mut network: Vec<u8> = vec![1, 1, 0, 1];
    network.resize(4 + 4 * (64 + 256), 0);
    let fields = log.state.iter_mut().find(|(key, _)| key.len() == 4 + "open".len() + 1);
    let (_, value) = fields.unwrap();
    let json = u32::from_be_bytes(value[..4].try_into().unwrap()) as usize;
    let mut fields: serde_json::Value = serde_json::from_slice(&value[4..4 + json]).unwrap();
    fields["model"] = "another".into();
    let fields = serde_json::to_vec(&fields).unwrap();
    let mut changed = (fields.len() as u32).to_be_bytes().to_vec();
    changed.extend(fields);
    changed.extend(network);
    *value = changed.into();

    let mut operator = operator(&*stage, &all_speech());
    operator.restore(log.state.clone().into_iter().collect()).unwrap();
    log.commit(operator.process(&messages[10..], Duration::ZERO).unwrap());
    assert_eq!((log.rejected, log.counts.used), (0, 20));
    let [segment] = &log.segments()[..] else { panic!() };
    assert_eq!((segment.start_ms, segment.end_ms), (0, 1_250));
    assert!(log.state.is_empty());
}

#[test]
fn open_sessions_begin_afresh_with_other_weights_of_the_same_network() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/weights/vad.safetensors");
    let mut weights = std::fs::read(ours).unwrap();
    // The last bit of the last weight.
    let last = weights.len() - 4;
    weights[last] ^= 1;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vad-other.safetensors");
    std::fs::write(&path, weights).unwrap();
    let other = stage_with(&format!("model = {:?}", path.to_str().unwrap()));

    let mut all = chunks("open", &[0.1; 20_000], 1_000);
    // With nothing to hear: what is saved after it is what was restored.
    all[10].samples.clear();
    let messages = messages(&all);
    let stage = stage();
    let (log, _) = work_unflushed(&*stage, &Injections::default(), &messages[..10], &[]);
    let network = |log: &Log| {
        let (_, value) = log.state.iter().find(|(key, _)| key.len() == 4 + "open".len() + 1).unwrap();
        let json = u32::from_be_bytes(value[..4].try_into().unwrap()) as usize;
        value[4 + json..].to_vec()
    };
    let restored = |stage: &dyn OpenStage| {
        let mut operator = operator(stage, &Injections::default());
        operator.restore(log.state.clone().into_iter().collect()).unwrap();
        let mut after = Log { state: log.state.clone(), ..Log::default() };
        after.commit(operator.process(&messages[10..11], Duration::ZERO).unwrap());
        assert_eq!((after.rejected, after.counts.read), (0, 1));
        network(&after)
    };
    assert_eq!(restored(&*stage), network(&log));
    assert_ne!(restored(&*other), network(&log));
    // Layout, network and length, then no sample and no state.
    assert!(restored(&*other)[4..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_chunk_of_two_segments_is_a_part_once() {
    for config in ["max_speech_duration_s = 0.3", "max_speech_duration_s = 0.3\nspeech_pad_ms = 0"] {
        let stage = stage_with(config);
        let messages = messages(&chunks("long", &[0.1; 20_000], 1_500));
        for clip_ms in [0.0, 20.0] {
            let injections = injections(&[("threshold_shift", -1.0, 0), ("clip_ms", clip_ms, 0)]);
            let whole = work_with(&*stage, &injections, &messages, &[]);
            assert!(whole.outputs.len() > 2, "{}", whole.outputs.len());
            assert_eq!(whole.counts.read, whole.counts.used + whole.counts.dropped);
            assert_kills_change_nothing(&*stage, &injections, &messages, &whole);
        }
    }
}

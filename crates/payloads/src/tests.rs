//! Laws of every payload.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use driftline_stage::{Payload, Signal, SignalVisitor};
use proptest::prelude::*;

use crate::{
    Answer, Attributes, AudioChunk, Basis, ClickEvent, ClickKind, Estimate, Hit, Interest, JsonValue, RecentEvent,
    Recommendation, Recommendations, SAMPLE_RATE, SearchResponse, SpeechSegment, Transcript, UserProfile, wav,
};

fn encode(value: &impl Payload) -> Bytes {
    let mut bytes = BytesMut::new();
    value.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// What was encoded decodes to the same, and encoding appends.
fn round_trips<P: Payload + PartialEq + Debug>(value: &P) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert_eq!(&P::decode(&bytes).unwrap(), value);
    let mut appended = BytesMut::from(&b"before"[..]);
    value.encode(&mut appended).unwrap();
    prop_assert_eq!(&appended[6..], &bytes[..]);
    Ok(())
}

#[derive(Default)]
struct Names(Vec<&'static str>);

impl SignalVisitor for Names {
    fn number(&mut self, signal: &'static Signal, _: Option<f64>) {
        self.0.push(signal.name);
    }

    fn category(&mut self, signal: &'static Signal, _: Option<&str>) {
        self.0.push(signal.name);
    }

    fn embedding(&mut self, signal: &'static Signal, _: Option<&[f32]>) {
        self.0.push(signal.name);
    }
}

fn signals(value: &impl Payload) -> Vec<&'static str> {
    let mut names = Names::default();
    value.signals(&mut names);
    names.0
}

/// Samples that 16 bits hold exactly.
fn samples() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-32_767i16..=32_767).prop_map(|sample| f32::from(sample) / 32_767.0), 0..400)
}

prop_compose! {
    fn chunk()(
        session in ".{0,20}", chunk in any::<u32>(), start in any::<u64>(), source_rate in any::<u32>(),
        source_channels in any::<u16>(), clipped in 0.0f32..=1.0, missing in any::<u32>(), last in any::<bool>(),
        samples in samples(),
    ) -> AudioChunk {
        AudioChunk { session, chunk, start, source_rate, source_channels, clipped, missing, last, samples }
    }
}

prop_compose! {
    fn segment()(
        session in ".{0,20}", segment in any::<u32>(), start_ms in any::<u64>(), end_ms in any::<u64>(),
        speech_ratio in 0.0f32..=1.0, silence_before_ms in any::<u64>(),
        silence_after_ms in any::<Option<u64>>(), samples in samples(),
    ) -> SpeechSegment {
        SpeechSegment { session, segment, start_ms, end_ms, speech_ratio, silence_before_ms, silence_after_ms, samples }
    }
}

prop_compose! {
    fn transcript()(
        session in ".{0,20}", segment in any::<u32>(), start_ms in any::<u64>(), end_ms in any::<u64>(),
        transcript in ".{0,40}", confidence in 0.0f32..=1.0, tokens in any::<u32>(),
        language in any::<Option<String>>(),
    ) -> Transcript {
        Transcript { session, segment, start_ms, end_ms, transcript, confidence, tokens, language }
    }
}

prop_compose! {
    fn response()(
        session in ".{0,20}", segment in any::<u32>(), start_ms in any::<u64>(), end_ms in any::<u64>(),
        transcript in ".{0,40}", confidence in 0.0f32..=1.0,
        results in prop::collection::vec((".{0,9}", ".{0,20}", 0.0f32..1e6), 0..4),
    ) -> SearchResponse {
        let results = results.into_iter().map(|(id, title, score)| Hit { id, title, score }).collect();
        SearchResponse { session, segment, start_ms, end_ms, transcript, confidence, results }
    }
}

fn kind() -> impl Strategy<Value = ClickKind> {
    prop::sample::select(&ClickKind::ALL[..])
}

prop_compose! {
    fn click()(
        user in ".{1,9}", kind in kind(), product in prop::option::of(".{1,9}"), category in prop::option::of(".{1,9}"),
        time_ms in 946_684_800_000i64..4_102_444_800_000,
    ) -> ClickEvent {
        ClickEvent::try_new(user, kind, product, category, time_ms).unwrap()
    }
}

prop_compose! {
    fn estimate()(answer in 0usize..3, probability in 0.0f32..=1.0) -> Estimate {
        Estimate { answer: [Answer::Yes, Answer::No, Answer::Unknown][answer], probability }
    }
}

prop_compose! {
    fn profile()(
        user in ".{1,9}", time_ms in any::<i64>(), cause in kind(), events in any::<u32>(), activity in 0.0f32..1e6,
        gap_ms in any::<Option<i64>>(), estimates in [estimate(), estimate(), estimate(), estimate(), estimate()],
        interests in prop::collection::vec((".{0,9}", 0.0f32..=1.0), 0..4),
        recent in prop::collection::vec((any::<i64>(), kind(), any::<Option<String>>(), any::<Option<String>>()), 0..4),
        bought in prop::collection::vec(".{0,9}", 0..4),
    ) -> UserProfile {
        let interests = interests.into_iter().map(|(category, weight)| Interest { category, weight }).collect();
        let past = |(time_ms, kind, product, category)| RecentEvent { time_ms, kind, product, category };
        let recent = recent.into_iter().map(past).collect();
        UserProfile {
            user, time_ms, cause, events, activity, gap_ms, attributes: Attributes::from_all(estimates), interests, recent, bought,
        }
    }
}

prop_compose! {
    fn recommendations()(
        user in ".{1,9}", time_ms in any::<i64>(), cause in kind(), basis in 0usize..3, unknown_products in any::<u32>(),
        items in prop::collection::vec((".{0,9}", ".{0,9}", -9.0f32..9.0, 0.0f32..9.0), 0..4),
    ) -> Recommendations {
        let basis = [Basis::History, Basis::Profile, Basis::Popularity][basis];
        let item = |(product, category, score, surprise)| Recommendation { product, category, score, surprise };
        Recommendations { user, time_ms, cause, basis, unknown_products, items: items.into_iter().map(item).collect() }
    }
}

proptest! {
    #[test]
    fn clicks_round_trip(value in click()) {
        round_trips(&value)?;
    }

    #[test]
    fn profiles_round_trip(value in profile()) {
        round_trips(&value)?;
    }

    #[test]
    fn recommendations_round_trip(value in recommendations()) {
        round_trips(&value)?;
    }

    #[test]
    fn chunks_round_trip(value in chunk()) {
        round_trips(&value)?;
    }

    #[test]
    fn segments_round_trip(value in segment()) {
        round_trips(&value)?;
    }

    #[test]
    fn transcripts_round_trip(value in transcript()) {
        round_trips(&value)?;
    }

    #[test]
    fn responses_round_trip(value in response()) {
        round_trips(&value)?;
    }

    #[test]
    fn json_round_trips(text in "[ \\n]{0,2}(\"[a-z]{0,9}\"|[0-9]{1,9}|null|\\[1, true\\]|\\{\"a\": 1\\})[ \\n]{0,2}") {
        if let Ok(value) = JsonValue::try_new(text) {
            round_trips(&value)?;
        }
    }

    /// The order of the signals does not depend on the value.
    #[test]
    fn signals_come_in_the_same_order(
        chunks in [chunk(), chunk()], segments in [segment(), segment()],
        transcripts in [transcript(), transcript()], responses in [response(), response()],
        clicks in [click(), click()], profiles in [profile(), profile()],
        recommendations in [recommendations(), recommendations()],
    ) {
        prop_assert_eq!(signals(&clicks[0]), signals(&clicks[1]));
        prop_assert_eq!(signals(&profiles[0]), signals(&profiles[1]));
        prop_assert_eq!(signals(&recommendations[0]), signals(&recommendations[1]));
        prop_assert_eq!(signals(&chunks[0]), signals(&chunks[1]));
        prop_assert_eq!(signals(&segments[0]), signals(&segments[1]));
        prop_assert_eq!(signals(&transcripts[0]), signals(&transcripts[1]));
        prop_assert_eq!(signals(&responses[0]), signals(&responses[1]));
    }

    /// Any bytes at all decode to a value or an error.
    #[test]
    fn decoding_is_total(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes.into());
    }

    /// So do bytes that are nearly right, and what they decode to is sound.
    #[test]
    fn damaged_bytes_decode_to_a_value_or_an_error(
        chunk in chunk(),
        response in response(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for bytes in [encode(&chunk), encode(&response)] {
            let mut bytes = bytes.to_vec();
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            decode_all(&bytes.clone().into());
            bytes.truncate(cut.index(bytes.len()));
            decode_all(&bytes.into());
        }
    }
}

fn decode_all(bytes: &Bytes) {
    if let Ok(chunk) = AudioChunk::decode(bytes) {
        assert!(chunk.samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        assert!(chunk.samples.len() * 2 <= bytes.len());
    }
    let _ = SpeechSegment::decode(bytes);
    let _ = Transcript::decode(bytes);
    let _ = SearchResponse::decode(bytes);
    let _ = JsonValue::decode(bytes);
    let _ = ClickEvent::decode(bytes);
    let _ = UserProfile::decode(bytes);
    let _ = Recommendations::decode(bytes);
}

#[test]
fn an_event_that_is_none_says_why() {
    let cases = [
        (r#"{"kind":"view","time_ms":1}"#, "JSON of another shape"),
        (r#"{"user":"a","kind":"look","time_ms":1600000000000}"#, "kind: found another word, allowed visit, search"),
        (r#"{"user":"","kind":"view","time_ms":1600000000000}"#, "user: found 0 bytes, allowed 1 to 64"),
        (r#"{"user":"a","kind":"view","time_ms":17}"#, "time_ms: found 17, allowed milliseconds since 1970"),
        ("[1]", "JSON of another shape"),
    ];
    for (text, expected) in cases {
        let error = ClickEvent::decode(&Bytes::from(text)).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let long = "x".repeat(65);
    let text = format!(r#"{{"user":"a","kind":"view","product":"{long}","time_ms":1600000000000}}"#);
    assert_eq!(ClickEvent::decode(&text.into()).unwrap_err().to_string(), "product: found 65 bytes, allowed 1 to 64");
}

#[test]
fn what_an_event_lacks_is_counted() {
    let event = |kind, product: Option<&str>, category: Option<&str>| {
        let (product, category) = (product.map(str::to_owned), category.map(str::to_owned));
        ClickEvent::try_new("a".to_owned(), kind, product, category, 1_600_000_000_000).unwrap().missing()
    };
    assert_eq!(event(ClickKind::View, Some("p"), Some("c")), 0);
    assert_eq!(event(ClickKind::Buy, Some(""), None), 2);
    assert_eq!(event(ClickKind::Search, None, None), 1);
    assert_eq!(event(ClickKind::Visit, None, None), 0);
}

fn silent(samples: usize) -> AudioChunk {
    AudioChunk {
        session: "a".into(),
        chunk: 0,
        start: 0,
        source_rate: SAMPLE_RATE,
        source_channels: 1,
        clipped: 0.0,
        missing: 0,
        last: false,
        samples: vec![0.0; samples],
    }
}

#[test]
fn audio_is_bounded_on_both_ways() {
    let most = wav::MAX_SECONDS * SAMPLE_RATE as usize;
    let bytes = encode(&silent(most));
    assert!(AudioChunk::decode(&bytes).is_ok());
    let error = silent(most + 1).encode(&mut BytesMut::new()).unwrap_err();
    assert_eq!(error.to_string(), "samples: found 960001, allowed at most 960000");
}

#[test]
fn samples_beyond_full_scale_are_clipped_and_nan_is_silence() {
    let chunk = AudioChunk { samples: vec![2.0, -3.0, f32::NAN, f32::INFINITY], ..silent(0) };
    assert_eq!(AudioChunk::decode(&encode(&chunk)).unwrap().samples, [1.0, -1.0, 0.0, 1.0]);
}

/// A chunk of one 32-bit float sample.
fn float(sample: f32) -> Bytes {
    let mut bytes = encode(&silent(2)).to_vec();
    // Format 3, 4 bytes a sample; the four bytes of data are one sample.
    bytes[20] = 3;
    bytes[34] = 32;
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sample.to_le_bytes());
    bytes.into()
}

#[test]
fn a_sample_that_is_not_finite_is_refused_by_its_index() {
    for (sample, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let error = AudioChunk::decode(&float(sample)).unwrap_err();
        assert_eq!(error.to_string(), format!("sample 0: found {name}, allowed finite samples"));
    }
}

#[test]
fn float_samples_beyond_full_scale_are_clipped_too() {
    for (sample, expected) in [(1.5, 1.0), (-1e9, -1.0), (0.25, 0.25)] {
        assert_eq!(AudioChunk::decode(&float(sample)).unwrap().samples, [expected]);
    }
}

//! From probabilities of speech to segments of speech, chunk by chunk.
//!
//! The rules and their names are those of `get_speech_timestamps` in Silero VAD 6.2.3 with its default
//! `use_max_poss_sil_at_max_speech`: hysteresis between two thresholds, a shortest speech and a shortest silence,
//! padding, and a longest speech that is split at the longest silence within it, or where it stands if there was
//! none. The segments are the same to the sample; what differs is when they are known, and what is remembered:
//! - A segment is announced once it cannot be discarded any more, that is when it is longer than
//!   `min_speech_duration_ms`; its start lies back accordingly.
//! - Its end is announced once nothing can move it any more. Neighbours closer than twice `speech_pad_ms` share the
//!   silence between them, so a later segment moves the end of an earlier one; an end therefore waits until so much
//!   silence has passed, or until a segment that begins earlier is sure or discarded.
//! - Of the silences at which a segment may be split, the longest alone is kept (of equal ones, the first), which is
//!   where the original splits. Memory does not grow with time.
//!
//! What always holds: segments are in order, do not overlap, lie within the session, and are no longer than
//! `max_speech_duration_s`, padding included.

use driftline_payloads::{SAMPLE_RATE, wav};
use driftline_stage::{Checks, ConfigProblem};
use serde::{Deserialize, Serialize};

use crate::Config;

/// Samples a second.
const RATE: f64 = SAMPLE_RATE as f64;
/// Samples of a millisecond.
const MILLISECOND: u64 = 16;
/// Samples of a chunk.
const CHUNK: u64 = 512;
/// Silences longer than this many samples (98 ms) are where a segment that is too long may be split: Silero's
/// `min_silence_at_max_speech`.
const SPLITTING_SILENCE: u64 = 98 * MILLISECOND;
/// The least threshold, and the least that `neg_threshold` is where it is not given.
const MIN_THRESHOLD: f32 = 0.01;
/// How far below the threshold `neg_threshold` is where it is not given.
const HYSTERESIS: f32 = 0.15;
/// Longest segment that a message can hold, seconds.
const MAX_SPEECH_S: f64 = wav::MAX_SECONDS as f64;

/// What a [`Config`] says of segments, times in samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    threshold: f32,
    neg_threshold: f32,
    min_speech: u64,
    min_silence: u64,
    pad: u64,
    /// Beyond this many samples, without padding, a segment is split; at least `min_speech`.
    max_speech: u64,
}

impl Rules {
    /// Takes the rules from a configuration.
    ///
    /// # Errors
    /// Every problem there is: thresholds out of range or in the wrong order, and a longest speech that a message
    /// cannot hold, or that cannot hold a chunk more than the shortest speech and its padding.
    pub fn try_new(config: &Config) -> Result<Self, Vec<ConfigProblem>> {
        let mut checks = Checks::default();
        let &Config { threshold, max_speech_duration_s, .. } = config;
        let threshold_fits = (MIN_THRESHOLD..=1.0).contains(&threshold);
        checks.expect(threshold_fits, "threshold", threshold, format_args!("{MIN_THRESHOLD} to 1"));
        let neg_threshold = config.neg_threshold.unwrap_or((threshold - HYSTERESIS).max(MIN_THRESHOLD));
        checks.expect(
            !threshold_fits || neg_threshold > 0.0 && neg_threshold <= threshold,
            "neg_threshold",
            neg_threshold,
            format_args!("above 0, at most the threshold, {threshold}"),
        );
        let [min_speech, min_silence, pad] =
            [config.min_speech_duration_ms, config.min_silence_duration_ms, config.speech_pad_ms]
                .map(|milliseconds| u64::from(milliseconds) * MILLISECOND);
        let least = min_speech + 2 * pad + CHUNK;
        // Rounded: milliseconds have no exact fractions of a second.
        let longest = (RATE * max_speech_duration_s).round();
        checks.expect(
            longest >= least as f64 && max_speech_duration_s <= MAX_SPEECH_S,
            "max_speech_duration_s",
            max_speech_duration_s,
            format_args!(
                "{} (min_speech_duration_ms + 2 * speech_pad_ms + 32 ms) to {MAX_SPEECH_S}",
                least as f64 / RATE
            ),
        );
        let problems = checks.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let max_speech = longest as u64 - 2 * pad - CHUNK;
        Ok(Self { threshold, neg_threshold, min_speech, min_silence, pad, max_speech })
    }

    /// Returns the probability from which a chunk is speech.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }
}

/// What has become certain. Positions are samples since the start of the session; starts and ends include the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentEvent {
    /// A segment that will not be discarded began at `start`.
    Started {
        /// Its first sample.
        start: u64,
    },
    /// The segment announced last is `start..end`.
    Ended {
        /// Its first sample, as announced.
        start: u64,
        /// The sample after its last.
        end: u64,
    },
}

/// What a segmenter remembers of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmenterState {
    /// Samples heard.
    position: u64,
    /// The segment in which somebody speaks.
    speech: Option<Speech>,
    /// The segment before it, as long as its end may move.
    pending: Option<Pending>,
    /// The end, without padding, of the last segment that was kept.
    last_end: Option<u64>,
}

/// A segment that has not ended; positions without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Speech {
    start: u64,
    /// Its padded start, once announced.
    announced: Option<u64>,
    /// Since when it has been silent.
    silent_since: Option<u64>,
    /// The longest silence within it, as start and length.
    longest_silence: Option<(u64, u64)>,
}

impl Speech {
    fn new(start: u64) -> Self {
        Self { start, announced: None, silent_since: None, longest_silence: None }
    }
}

/// A segment whose end is not announced: padded start, end without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    start: u64,
    end: u64,
}

/// The segmentation of one session.
///
/// ```
/// use driftline_vad::{Config, segmenter::{Rules, SegmentEvent, Segmenter}};
///
/// let rules = Rules::try_new(&Config::default()).map_err(|problems| problems[0].to_string())?;
/// let mut segmenter = Segmenter::new(rules);
/// let mut events = Vec::new();
/// for chunk in 0..60 {
///     segmenter.push(if (10..30).contains(&chunk) { 0.9 } else { 0.1 }, &mut events);
/// }
/// segmenter.finish(60 * 512, &mut events);
/// let (start, end) = (10 * 512 - 480, 30 * 512 + 480);
/// assert_eq!(events, [SegmentEvent::Started { start }, SegmentEvent::Ended { start, end }]);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug)]
pub struct Segmenter {
    rules: Rules,
    state: SegmenterState,
}

impl Segmenter {
    /// Makes a segmenter for a session of which nothing has been heard.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::resume(rules, SegmenterState::default())
    }

    /// Makes a segmenter that goes on where another, of the same rules, stood.
    #[must_use]
    pub fn resume(rules: Rules, state: SegmenterState) -> Self {
        Self { rules, state }
    }

    /// Returns what has to be kept to go on later.
    pub fn state(&self) -> &SegmenterState {
        &self.state
    }

    /// Returns the earliest sample that an event to come can name, so that audio before it need not be kept. It never
    /// goes back.
    pub fn needed_from(&self) -> u64 {
        let state = &self.state;
        let start = match state.speech {
            Some(Speech { announced: Some(start), .. }) => start,
            Some(Speech { start, .. }) => start - self.padding_before(start),
            None => state.position - self.padding_before(state.position),
        };
        state.pending.map_or(start, |pending| pending.start.min(start))
    }

    /// Takes the probability of the next chunk and appends what has become certain. A probability that is NaN counts
    /// as neither speech nor silence.
    pub fn push(&mut self, probability: f32, events: &mut Vec<SegmentEvent>) {
        self.advance(probability, events);
        self.announce(events);
        self.state.position += CHUNK;
        self.settle(events);
    }

    /// Ends the session and is ready for another. The session was `length` samples long: as many as were pushed, or
    /// more that fill no chunk, or up to 511 fewer if the last chunk was filled up.
    pub fn finish(&mut self, length: u64, events: &mut Vec<SegmentEvent>) {
        if let Some(speech) = self.state.speech
            && (speech.announced.is_some() || length.saturating_sub(speech.start) > self.rules.min_speech)
        {
            // What was not pushed may be beyond the longest speech.
            self.close(speech, length.min(speech.start + self.rules.max_speech + CHUNK), events);
        }
        if let Some(Pending { start, end }) = self.state.pending {
            events.push(SegmentEvent::Ended { start, end: (end + self.rules.pad).min(length) });
        }
        self.state = SegmenterState::default();
    }

    /// Silero's loop body for one chunk.
    fn advance(&mut self, probability: f32, events: &mut Vec<SegmentEvent>) {
        let now = self.state.position;
        let speaks = probability >= self.rules.threshold;
        let Some(mut speech) = self.state.speech else {
            if speaks {
                self.state.speech = Some(Speech::new(now));
            }
            return;
        };
        if speaks && let Some(since) = speech.silent_since.take() {
            let silence = now - since;
            if silence > SPLITTING_SILENCE && speech.longest_silence.is_none_or(|(_, longest)| silence > longest) {
                speech.longest_silence = Some((since, silence));
            }
        }
        if now - speech.start > self.rules.max_speech {
            let Some((since, silence)) = speech.longest_silence else {
                self.close(speech, now, events);
                return;
            };
            self.close(speech, since, events);
            speech = Speech::new(since + silence);
        }
        if probability < self.rules.neg_threshold {
            let since = *speech.silent_since.get_or_insert(now);
            if now - since >= self.rules.min_silence {
                if since - speech.start > self.rules.min_speech {
                    self.close(speech, since, events);
                } else {
                    self.state.speech = None;
                }
                return;
            }
        }
        self.state.speech = Some(speech);
    }

    /// Announces the segment that goes on, once it is sure.
    fn announce(&mut self, events: &mut Vec<SegmentEvent>) {
        if let Some(speech) = self.state.speech
            && speech.announced.is_none()
            && speech.silent_since.unwrap_or(self.state.position).saturating_sub(speech.start) > self.rules.min_speech
        {
            let announced = Some(self.start(speech, events));
            self.state.speech = Some(Speech { announced, ..speech });
        }
    }

    /// Keeps a segment, announcing it if that has not been done, and leaves its end pending.
    fn close(&mut self, speech: Speech, end: u64, events: &mut Vec<SegmentEvent>) {
        let start = speech.announced.unwrap_or_else(|| self.start(speech, events));
        self.state.speech = None;
        self.state.pending = Some(Pending { start, end });
        self.state.last_end = Some(end);
    }

    /// Announces the start of a segment, and before it the end of the one before; returns the padded start.
    fn start(&mut self, speech: Speech, events: &mut Vec<SegmentEvent>) -> u64 {
        let before = self.padding_before(speech.start);
        if let Some(Pending { start, end }) = self.state.pending.take() {
            events.push(SegmentEvent::Ended { start, end: end + before });
        }
        let start = speech.start - before;
        events.push(SegmentEvent::Started { start });
        start
    }

    /// Returns how much is added before a segment that begins at `start`: the padding, or half of the silence before
    /// it where that holds no padding for both sides.
    fn padding_before(&self, start: u64) -> u64 {
        let room = self.state.last_end.map_or(start, |end| (start - end) / 2);
        room.min(self.rules.pad)
    }

    /// Announces a pending end that nothing can move any more: the next segment begins too late to share its padding,
    /// and the session is long enough to hold it, even if the newest chunk was filled up.
    fn settle(&mut self, events: &mut Vec<SegmentEvent>) {
        let (pad, position) = (self.rules.pad, self.state.position);
        let next = self.state.speech.map_or(position, |speech| speech.start);
        let settled = |pending: &mut Pending| next >= pending.end + 2 * pad && position - CHUNK >= pending.end + pad;
        if let Some(Pending { start, end }) = self.state.pending.take_if(settled) {
            events.push(SegmentEvent::Ended { start, end: end + pad });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(segmenter: &mut Segmenter, probabilities: &[f32], length: u64) -> Vec<SegmentEvent> {
        let mut events = Vec::new();
        for &probability in probabilities {
            segmenter.push(probability, &mut events);
        }
        segmenter.finish(length, &mut events);
        events
    }

    /// Every configuration that is accepted.
    fn config() -> impl Strategy<Value = Config> {
        let milliseconds = || prop_oneof![Just(0u32), 0u32..50, 0u32..600];
        let neg_threshold = prop::option::of(0.01f32..=1.0);
        (0.01f32..=1.0, neg_threshold, milliseconds(), 0.0f64..1.0, milliseconds(), milliseconds()).prop_map(
            |(threshold, share, min_speech_duration_ms, longer, min_silence_duration_ms, speech_pad_ms)| {
                let least = f64::from(min_speech_duration_ms + 2 * speech_pad_ms + 32) / 1_000.0;
                Config {
                    threshold,
                    neg_threshold: share.map(|share| share * threshold),
                    min_speech_duration_ms,
                    // Mostly short, so that segments are split.
                    max_speech_duration_s: least + longer.powi(3) * (MAX_SPEECH_S - least),
                    min_silence_duration_ms,
                    speech_pad_ms,
                    ..Config::default()
                }
            },
        )
    }

    /// Runs of chunks that are speech, silence, between, or anything.
    fn probabilities() -> impl Strategy<Value = Vec<f32>> {
        let probability = prop_oneof![prop::sample::select(vec![0.0f32, 0.05, 0.4, 0.95, 1.0, f32::NAN]), 0.0f32..=1.0];
        prop::collection::vec((probability, 1usize..25), 1..40).prop_map(|runs| {
            runs.into_iter().flat_map(|(probability, length)| std::iter::repeat_n(probability, length)).collect()
        })
    }

    proptest! {
        #[test]
        fn segments_are_bounded_and_in_order_within_the_session_and_never_overlap(
            config in config(),
            probabilities in probabilities(),
            chunk in 1..2 * CHUNK,
        ) {
            // The last chunk was filled up, or audio that fills none came after it.
            let length = (probabilities.len() as u64 - 1) * CHUNK + chunk;
            let longest = (RATE * config.max_speech_duration_s) as u64;
            let mut segmenter = Segmenter::new(Rules::try_new(&config).unwrap());
            let events = run(&mut segmenter, &probabilities, length);
            let mut last = 0;
            for pair in events.chunks(2) {
                let [SegmentEvent::Started { start }, SegmentEvent::Ended { start: again, end }] = *pair else {
                    return Err(TestCaseError::fail(format!("starts and ends do not alternate: {events:?}")));
                };
                prop_assert_eq!(start, again);
                prop_assert!(last <= start && start < end && end <= length, "{:?} in {}", pair, length);
                prop_assert!(end - start <= longest, "{:?} is longer than {}", pair, longest);
                last = end;
            }
            prop_assert_eq!(segmenter.state(), &SegmenterState::default());
        }

        #[test]
        fn a_stored_state_goes_on_where_it_stood(
            config in config(),
            probabilities in probabilities(),
            at in any::<prop::sample::Index>(),
        ) {
            let rules = Rules::try_new(&config).unwrap();
            let at = at.index(probabilities.len());
            let length = probabilities.len() as u64 * CHUNK;
            let whole = run(&mut Segmenter::new(rules), &probabilities, length);
            let mut first = Segmenter::new(rules);
            let mut events = Vec::new();
            for &probability in &probabilities[..at] {
                first.push(probability, &mut events);
            }
            let stored = serde_json::to_string(first.state()).unwrap();
            let mut second = Segmenter::resume(rules, serde_json::from_str(&stored).unwrap());
            events.extend(run(&mut second, &probabilities[at..], length));
            prop_assert_eq!(events, whole);
        }

        #[test]
        fn no_event_names_a_sample_that_was_given_up(config in config(), probabilities in probabilities()) {
            let mut segmenter = Segmenter::new(Rules::try_new(&config).unwrap());
            let mut events = Vec::new();
            let mut needed = 0;
            for &probability in &probabilities {
                segmenter.push(probability, &mut events);
                for event in events.drain(..) {
                    let (SegmentEvent::Started { start } | SegmentEvent::Ended { start, .. }) = event;
                    prop_assert!(start >= needed, "{:?} needs what was given up before {}", event, needed);
                }
                prop_assert!(segmenter.needed_from() >= needed);
                needed = segmenter.needed_from();
            }
        }
    }
    fn split_early(speech_pad_ms: u32) -> Segmenter {
        let config = Config {
            min_speech_duration_ms: 0,
            max_speech_duration_s: 0.3,
            min_silence_duration_ms: 0,
            speech_pad_ms,
            ..Config::default()
        };
        Segmenter::new(Rules::try_new(&config).unwrap())
    }

    #[test]
    fn a_split_in_the_last_chunk_ends_within_the_session() {
        // The second segment is split at 24 * 512; padding it fits only if the last chunk is whole.
        let mut probabilities = [0.95; 27];
        probabilities[24..].fill(0.4);
        let length = 27 * CHUNK - 353;
        let events = run(&mut split_early(10), &probabilities, length);
        let Some(&SegmentEvent::Ended { end, .. }) = events.last() else { panic!("{events:?}") };
        assert!(end <= length, "{end} in {length}");
    }

    #[test]
    fn wide_padding_does_not_ask_again_for_what_was_given_up() {
        let mut segmenter = split_early(113);
        let needed: Vec<u64> = (0..6)
            .map(|_| {
                segmenter.push(0.95, &mut Vec::new());
                segmenter.needed_from()
            })
            .collect();
        assert!(needed.is_sorted(), "{needed:?}");
    }
}

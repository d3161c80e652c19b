//! From probabilities of speech to segments of speech, chunk by chunk.
//!
//! The rules and their names are those of `get_speech_timestamps` in Silero VAD 6.2.3 with its default
//! `use_max_poss_sil_at_max_speech`: hysteresis between two thresholds, a shortest speech and a shortest silence,
//! padding, and a longest speech that is split at the longest silence within it, or where it stands if there was
//! none. The segments are the same to the sample; what differs is forced by not knowing the future:
//! - A segment is announced once it cannot be discarded any more, that is when it is longer than
//!   `min_speech_duration_ms`; its start lies back accordingly.
//! - Its end is announced once nothing can move it any more. Neighbours closer than twice `speech_pad_ms` share the
//!   silence between them, so a later segment moves the end of an earlier one; an end therefore waits until so much
//!   silence has passed, or until a segment that begins earlier is sure or discarded.
//! - The original compares a candidate split with all others at the time of the split; here the longest silence so
//!   far is all that is remembered (of equal ones, the first). Memory does not grow with time.
//!
//! One default differs: `max_speech_duration_s` is 15 instead of infinite, because a recogniser works on bounded
//! segments.

use serde::{Deserialize, Serialize};

/// Samples a second.
const RATE: f64 = 16_000.0;
/// Samples of a millisecond.
const MILLISECOND: u64 = 16;
/// Samples of a chunk.
const CHUNK: u64 = 512;
/// Silences longer than this many samples (98 ms) are where a segment that is too long may be split: Silero's
/// `min_silence_at_max_speech`.
const SPLITTING_SILENCE: u64 = 98 * MILLISECOND;

/// When probabilities become segments. Names and meanings are Silero's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmenterConfig {
    /// From this probability on a chunk is speech, in (0, 1].
    pub threshold: f32,
    /// Below this probability a chunk within speech is silence; where it is not given, `threshold - 0.15`, at least
    /// 0.01.
    pub neg_threshold: Option<f32>,
    /// Segments of at most this length are discarded.
    pub min_speech_duration_ms: u32,
    /// Segments do not exceed this length, padding included, by more than a chunk. May be infinite.
    pub max_speech_duration_s: f64,
    /// Silence of this length ends a segment.
    pub min_silence_duration_ms: u32,
    /// What is added to either end of a segment.
    pub speech_pad_ms: u32,
}

impl Default for SegmenterConfig {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            neg_threshold: None,
            min_speech_duration_ms: 250,
            max_speech_duration_s: 15.0,
            min_silence_duration_ms: 100,
            speech_pad_ms: 30,
        }
    }
}

/// A value of a [`SegmenterConfig`] that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name}: found {found}, allowed: {allowed}")]
pub struct SegmenterConfigError {
    /// The field.
    pub name: &'static str,
    /// Its value.
    pub found: String,
    /// The values allowed.
    pub allowed: String,
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
/// use driftline_vad::segmenter::{SegmentEvent, Segmenter, SegmenterConfig};
///
/// let mut segmenter = Segmenter::try_new(SegmenterConfig::default())?;
/// let mut events = Vec::new();
/// for chunk in 0..60 {
///     segmenter.push(if (10..30).contains(&chunk) { 0.9 } else { 0.1 }, &mut events);
/// }
/// segmenter.finish(60 * 512, &mut events);
/// assert_eq!(events, [SegmentEvent::Started { start: 10 * 512 - 480 }, SegmentEvent::Ended { start: 10 * 512 - 480, end: 30 * 512 + 480 }]);
/// # Ok::<(), driftline_vad::segmenter::SegmenterConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Segmenter {
    threshold: f32,
    neg_threshold: f32,
    min_speech: u64,
    min_silence: u64,
    pad: u64,
    /// Beyond this many samples, without padding, a segment is split. Negative where the padding alone is too long.
    max_speech: f64,
    state: SegmenterState,
}

impl Segmenter {
    /// Makes a segmenter for a session of which nothing has been heard.
    ///
    /// # Errors
    ///
    /// Thresholds outside (0, 1] or in the wrong order; a longest speech that is not positive.
    pub fn try_new(config: SegmenterConfig) -> Result<Self, SegmenterConfigError> {
        Self::resume(config, SegmenterState::default())
    }

    /// Makes a segmenter that goes on where another, of the same configuration, stood.
    ///
    /// # Errors
    ///
    /// As [`try_new`](Self::try_new).
    #[allow(clippy::needless_pass_by_value, reason = "a configuration belongs to one segmenter")]
    pub fn resume(config: SegmenterConfig, state: SegmenterState) -> Result<Self, SegmenterConfigError> {
        let refuse = |name, found: String, allowed: String| Err(SegmenterConfigError { name, found, allowed });
        if !(config.threshold > 0.0 && config.threshold <= 1.0) {
            return refuse("threshold", config.threshold.to_string(), "above 0, at most 1".to_owned());
        }
        let neg_threshold = config.neg_threshold.unwrap_or((config.threshold - 0.15).max(0.01));
        if !(neg_threshold > 0.0 && neg_threshold <= config.threshold) && config.neg_threshold.is_some() {
            return refuse(
                "neg_threshold",
                neg_threshold.to_string(),
                format!("above 0, at most the threshold {}", config.threshold),
            );
        }
        if config.max_speech_duration_s.is_nan() || config.max_speech_duration_s <= 0.0 {
            return refuse("max_speech_duration_s", config.max_speech_duration_s.to_string(), "above 0".to_owned());
        }
        let pad = u64::from(config.speech_pad_ms) * MILLISECOND;
        Ok(Self {
            threshold: config.threshold,
            neg_threshold,
            min_speech: u64::from(config.min_speech_duration_ms) * MILLISECOND,
            min_silence: u64::from(config.min_silence_duration_ms) * MILLISECOND,
            pad,
            max_speech: RATE * config.max_speech_duration_s - (CHUNK + 2 * pad) as f64,
            state,
        })
    }

    /// Returns what has to be kept to go on later.
    pub fn state(&self) -> &SegmenterState {
        &self.state
    }

    /// Returns the earliest sample that an event to come can name, so that audio before it need not be kept.
    pub fn needed_from(&self) -> u64 {
        let state = &self.state;
        let earliest = state.speech.map_or(state.position, |speech| speech.start);
        let start = state.speech.and_then(|speech| speech.announced).unwrap_or(earliest.saturating_sub(self.pad));
        state.pending.map_or(start, |pending| pending.start.min(start))
    }

    /// Takes the probability of the next chunk and appends what has become certain, at most four events. A
    /// probability that is NaN counts as neither speech nor silence.
    pub fn push(&mut self, probability: f32, events: &mut Vec<SegmentEvent>) {
        self.advance(probability, events);
        self.announce(events);
        self.state.position += CHUNK;
        self.settle(events);
    }

    /// Ends the session, which was `length` samples long (the last chunk may have been filled up), and is ready for
    /// another.
    pub fn finish(&mut self, length: u64, events: &mut Vec<SegmentEvent>) {
        if let Some(speech) = self.state.speech
            && (speech.announced.is_some() || length.saturating_sub(speech.start) > self.min_speech)
        {
            self.close(speech, length, events);
        }
        if let Some(Pending { start, end }) = self.state.pending {
            events.push(SegmentEvent::Ended { start, end: (end + self.pad).min(length) });
        }
        self.state = SegmenterState::default();
    }

    /// Silero's loop body for one chunk.
    fn advance(&mut self, probability: f32, events: &mut Vec<SegmentEvent>) {
        let now = self.state.position;
        let speaks = probability >= self.threshold;
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
        if (now - speech.start) as f64 > self.max_speech {
            let Some((since, silence)) = speech.longest_silence else {
                self.close(speech, now, events);
                return;
            };
            self.close(speech, since, events);
            speech = Speech::new(since + silence);
        }
        if probability < self.neg_threshold {
            let since = *speech.silent_since.get_or_insert(now);
            if now - since >= self.min_silence {
                if since - speech.start > self.min_speech {
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
            && speech.silent_since.unwrap_or(self.state.position).saturating_sub(speech.start) > self.min_speech
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
        let before = match self.state.last_end {
            Some(end) => (speech.start - end) / 2,
            None => speech.start,
        }
        .min(self.pad);
        if let Some(Pending { start, end }) = self.state.pending.take() {
            events.push(SegmentEvent::Ended { start, end: end + before });
        }
        let start = speech.start - before;
        events.push(SegmentEvent::Started { start });
        start
    }

    /// Announces a pending end that nothing can move any more: the next segment, if there is one, begins too late.
    fn settle(&mut self, events: &mut Vec<SegmentEvent>) {
        let next = self.state.speech.map_or(self.state.position, |speech| speech.start);
        if let Some(Pending { start, end }) = self.state.pending.take_if(|pending| next >= pending.end + 2 * self.pad) {
            events.push(SegmentEvent::Ended { start, end: end + self.pad });
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

    /// Configurations whose silences are at least two chunks long and hold the padding of both sides. With less,
    /// the cut of a segment that is too long can fall behind what was announced.
    fn config() -> impl Strategy<Value = SegmenterConfig> {
        (0u32..400, 1.0f64..6.0, 64u32..300, 0u32..=30).prop_map(|(speech, longest, silence, pad)| SegmenterConfig {
            min_speech_duration_ms: speech,
            max_speech_duration_s: longest,
            min_silence_duration_ms: silence,
            speech_pad_ms: pad,
            ..SegmenterConfig::default()
        })
    }

    /// Runs of chunks that are speech, silence or between.
    fn probabilities() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((prop::sample::select(vec![0.05f32, 0.4, 0.95]), 1usize..25), 1..40).prop_map(|runs| {
            runs.into_iter().flat_map(|(probability, length)| std::iter::repeat_n(probability, length)).collect()
        })
    }

    proptest! {
        #[test]
        fn segments_are_in_order_within_the_session_and_never_overlap(config in config(), probabilities in probabilities(), cut in 0u64..CHUNK) {
            let length = probabilities.len() as u64 * CHUNK - cut;
            let mut segmenter = Segmenter::try_new(config).unwrap();
            let events = run(&mut segmenter, &probabilities, length);
            let mut last = 0;
            for pair in events.chunks(2) {
                let [SegmentEvent::Started { start }, SegmentEvent::Ended { start: again, end }] = *pair else {
                    return Err(TestCaseError::fail(format!("starts and ends do not alternate: {events:?}")));
                };
                prop_assert_eq!(start, again);
                prop_assert!(last <= start && start <= end && end <= length, "{:?} in {}", pair, length);
                last = end;
            }
            prop_assert_eq!(segmenter.state(), &SegmenterState::default());
        }

        #[test]
        fn a_stored_state_goes_on_where_it_stood(config in config(), probabilities in probabilities(), at in 0usize..400) {
            let at = at.min(probabilities.len());
            let length = probabilities.len() as u64 * CHUNK;
            let whole = run(&mut Segmenter::try_new(config.clone()).unwrap(), &probabilities, length);
            let mut first = Segmenter::try_new(config.clone()).unwrap();
            let mut events = Vec::new();
            for &probability in &probabilities[..at] {
                first.push(probability, &mut events);
            }
            let stored = serde_json::to_string(first.state()).unwrap();
            let mut second = Segmenter::resume(config, serde_json::from_str(&stored).unwrap()).unwrap();
            events.extend(run(&mut second, &probabilities[at..], length));
            prop_assert_eq!(events, whole);
        }

        #[test]
        fn no_event_names_a_sample_that_was_given_up(config in config(), probabilities in probabilities()) {
            let mut segmenter = Segmenter::try_new(config).unwrap();
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

    #[test]
    fn configurations_without_sense_are_refused() {
        for (config, expected) in [
            (
                SegmenterConfig { threshold: 0.0, ..SegmenterConfig::default() },
                "threshold: found 0, allowed: above 0, at most 1",
            ),
            (
                SegmenterConfig { threshold: f32::NAN, ..SegmenterConfig::default() },
                "threshold: found NaN, allowed: above 0, at most 1",
            ),
            (
                SegmenterConfig { neg_threshold: Some(0.7), ..SegmenterConfig::default() },
                "neg_threshold: found 0.7, allowed: above 0, at most the threshold 0.5",
            ),
            (
                SegmenterConfig { max_speech_duration_s: 0.0, ..SegmenterConfig::default() },
                "max_speech_duration_s: found 0, allowed: above 0",
            ),
        ] {
            assert_eq!(Segmenter::try_new(config).unwrap_err().to_string(), expected);
        }
    }
}

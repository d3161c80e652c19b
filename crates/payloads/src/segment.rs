//! A stretch of speech.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::{
    audio,
    spectrum::{BANDS, Spectrum},
    wav,
};

/// A stretch of speech cut out of a session: 16 kHz, one channel, padding included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeechSegment {
    /// The session it was cut from; also the record's key.
    pub session: String,
    /// Its number within the session, from 0.
    pub segment: u32,
    /// Where it begins in the session, milliseconds.
    pub start_ms: u64,
    /// Where it ends in the session, milliseconds.
    pub end_ms: u64,
    /// Share of its frames that are speech, 0 to 1.
    pub speech_ratio: f32,
    /// Silence between the segment before, or the session's start, and this one, milliseconds.
    pub silence_before_ms: u64,
    /// Audio heard after its end before the end was certain, milliseconds; `None` if the session
    /// ended with it.
    pub silence_after_ms: Option<u64>,
    /// Samples in [-1, 1].
    #[serde(skip)]
    pub samples: Vec<f32>,
}

static LENGTH: Signal =
    Signal::number("segment.length", "ms", "length of the segment", Scale::Log { lo: 50.0, hi: 30_000.0 });
static LEVEL: Signal = Signal::number(
    "segment.level",
    "dBFS",
    "root mean square against full scale, missing for silence",
    Scale::Linear { lo: -96.0, hi: 0.0 },
);
static COLOUR: Signal = Signal::embedding(
    "segment.colour",
    "levels of 16 mel bands against their mean, in units of 60 dB; missing for silence",
    BANDS,
);
static CENTROID: Signal = Signal::number(
    "segment.centroid",
    "Hz",
    "middle of the power on the mel scale; missing for silence",
    Scale::Log { lo: 100.0, hi: 8_000.0 },
);
/// Samples of an edge: 30 ms.
const EDGE: usize = 480;
/// Of a segment with its padding the edges are quiet. Where they are not, speech is cut off, and a recogniser will not hear what
/// is missing.
static EDGES: Signal = Signal::embedding(
    "segment.edges",
    "levels of its first and of its last 30 ms against that of the whole, in units of 60 dB; missing for silence",
    2,
);
static SPEECH_RATIO: Signal = Signal::number(
    "segment.speech_ratio",
    "1",
    "share of the segment's frames that are speech",
    Scale::Linear { lo: 0.0, hi: 1.0 },
);
static NUMBER: Signal = Signal::number(
    "segment.number",
    "{segment}",
    "segments of the session so far, this one included",
    Scale::Log { lo: 1.0, hi: 1_000.0 },
);
static SILENCE_BEFORE: Signal =
    Signal::number("segment.silence_before", "ms", "silence before the segment", Scale::Log { lo: 10.0, hi: 60_000.0 });
static SILENCE_AFTER: Signal = Signal::number(
    "segment.silence_after",
    "ms",
    "audio heard after the segment before its end was certain, missing at a session's end",
    Scale::Log { lo: 10.0, hi: 60_000.0 },
);

/// Returns the levels of both edges against that of the whole, in units of 60 dB and at least -1; `None` for digital silence.
fn edges(samples: &[f32], power: f64) -> Option<[f32; 2]> {
    let whole = audio::level_dbfs(power)?;
    let edge = samples.len().min(EDGE);
    let level = |samples: &[f32]| {
        let below = audio::level_dbfs(audio::power(samples)).map_or(-1.0, |level| (level - whole) / 60.0);
        below.max(-1.0) as f32
    };
    Some([level(&samples[..edge]), level(&samples[samples.len() - edge..])])
}

impl Payload for SpeechSegment {
    const SCHEMA: SchemaId = SchemaId::new("speech-segment.v1");
    const CONTENT_TYPE: &'static str = wav::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wav::encode(self, &self.samples, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let (segment, samples) = wav::decode::<Self>(bytes)?;
        Ok(Self { samples, ..segment })
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LENGTH, Some(audio::millis(self.samples.len())));
        let power = audio::power(&self.samples);
        let spectrum = Spectrum::of(&self.samples, power);
        visit.number(&LEVEL, audio::level_dbfs(power));
        visit.embedding(&COLOUR, spectrum.as_ref().map(|spectrum| spectrum.shape.as_slice()));
        visit.number(&CENTROID, spectrum.map(|spectrum| spectrum.centroid));
        visit.embedding(&EDGES, edges(&self.samples, power).as_ref().map(<[f32; 2]>::as_slice));
        visit.number(&SPEECH_RATIO, Some(f64::from(self.speech_ratio)));
        visit.number(&NUMBER, Some(f64::from(self.segment) + 1.0));
        visit.number(&SILENCE_BEFORE, Some(self.silence_before_ms as f64));
        visit.number(&SILENCE_AFTER, self.silence_after_ms.map(|ms| ms as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_as_loud_as_it_is_against_the_whole() {
        // A tenth of the amplitude is 20 dB less; the whole is as loud as its middle, but for a thousandth.
        let samples: Vec<f32> = (0..48_000).map(|at| if at < EDGE { 0.05 } else { 0.5 }).collect();
        let [first, last] = edges(&samples, audio::power(&samples)).unwrap();
        assert!((first + 1.0 / 3.0).abs() < 1e-3 && last.abs() < 1e-3, "{first} {last}");
        let mut quiet = samples;
        quiet[..EDGE].fill(0.0);
        assert_eq!(edges(&quiet, audio::power(&quiet)).unwrap()[0], -1.0);
        assert_eq!(edges(&[0.0; 100], 0.0), None);
        assert_eq!(edges(&[], 0.0), None);
    }
}

//! What was said.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::json;

/// What was said in a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The session; also the record's key.
    pub session: String,
    /// The segment's number within the session, from 0.
    pub segment: u32,
    /// Where the segment begins in the session, milliseconds.
    pub start_ms: u64,
    /// Where the segment ends in the session, milliseconds.
    pub end_ms: u64,
    /// The words, separated by single spaces; empty if nothing was understood.
    pub transcript: String,
    /// How sure the recogniser is, 0 to 1.
    pub confidence: f32,
    /// Acoustic tokens the words were made of.
    pub tokens: u32,
    /// The language, if the recogniser names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

static LENGTH: Signal =
    Signal::number("transcript.length", "{word}", "words of the transcript", Scale::Linear { lo: 0.0, hi: 32.0 });
static CONFIDENCE: Signal =
    Signal::number("transcript.confidence", "1", "how sure the recogniser is", Scale::Linear { lo: 0.0, hi: 1.0 });
static EMPTY: Signal = Signal::category("transcript.empty", "whether nothing was understood");
static TOKEN_RATE: Signal = Signal::number(
    "transcript.token_rate",
    "{token}/s",
    "acoustic tokens a second of audio",
    Scale::Linear { lo: 0.0, hi: 32.0 },
);

/// Components of the words' vector.
const WORDS_DIMS: usize = 32;
static WORDS: Signal = Signal::embedding(
    "transcript.words",
    "which words were understood, in any order, as a direction; missing where none were",
    WORDS_DIMS,
);

/// Returns which words a text has, in any order, as a vector of length 1: the sum over its words of signs that a hash of the word
/// draws (feature hashing, Weinberger et al. 2009). Texts without a common word are nearly at right angles, up to 1/√32 in the
/// mean square. `None` of a text without words.
fn word_vector(text: &str) -> Option<[f32; WORDS_DIMS]> {
    let mut sum = [0i32; WORDS_DIMS];
    for word in text.split_whitespace() {
        let signs = xxh3_64(word.as_bytes());
        for (bit, component) in sum.iter_mut().enumerate() {
            *component += if signs >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    let length = sum.iter().map(|&x| f64::from(x * x)).sum::<f64>().sqrt();
    (length > 0.0).then(|| sum.map(|x| (f64::from(x) / length) as f32))
}

impl Payload for Transcript {
    const SCHEMA: SchemaId = SchemaId::new("transcript.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        json::decode(bytes)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        let seconds = self.end_ms.saturating_sub(self.start_ms) as f64 / 1_000.0;
        visit.number(&CONFIDENCE, Some(f64::from(self.confidence)));
        visit.embedding(&WORDS, word_vector(&self.transcript).as_ref().map(<[f32; WORDS_DIMS]>::as_slice));
        visit.number(&LENGTH, Some(self.transcript.split_whitespace().count() as f64));
        visit.category(&EMPTY, Some(if self.transcript.is_empty() { "yes" } else { "no" }));
        visit.number(&TOKEN_RATE, (seconds > 0.0).then(|| f64::from(self.tokens) / seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let (a, b) = (word_vector(a).unwrap(), word_vector(b).unwrap());
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn words_are_told_apart_whatever_their_order() {
        assert!((cosine("red jacket", "jacket red") - 1.0).abs() < 1e-6);
        assert!(cosine("teddy bear", "seven bear") > 0.3);
        assert!(cosine("winter tyres", "garden hose").abs() < 0.6);
        assert_eq!(word_vector(" "), None);
        // Every build, on every machine, counts the same.
        let signs: u32 =
            word_vector("jacket").unwrap().iter().enumerate().map(|(bit, x)| u32::from(*x > 0.0) << bit).sum();
        assert_eq!(signs, xxh3_64(b"jacket") as u32);
    }
}

//! What was said.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalKind, SignalVisitor};
use serde::{Deserialize, Serialize};

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

static LENGTH: Signal = Signal {
    name: "transcript.length",
    unit: "{word}",
    help: "words of the transcript",
    kind: SignalKind::Number { scale: Scale::Linear { lo: 0.0, hi: 32.0 } },
};
static CONFIDENCE: Signal = Signal {
    name: "transcript.confidence",
    unit: "1",
    help: "how sure the recogniser is",
    kind: SignalKind::Number { scale: Scale::Linear { lo: 0.0, hi: 1.0 } },
};
static EMPTY: Signal =
    Signal { name: "transcript.empty", unit: "", help: "whether nothing was understood", kind: SignalKind::Category };
static TOKEN_RATE: Signal = Signal {
    name: "transcript.token_rate",
    unit: "{token}/s",
    help: "acoustic tokens a second of audio",
    kind: SignalKind::Number { scale: Scale::Linear { lo: 0.0, hi: 32.0 } },
};

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
        visit.number(&LENGTH, Some(self.transcript.split_whitespace().count() as f64));
        visit.category(&EMPTY, Some(if self.transcript.is_empty() { "yes" } else { "no" }));
        visit.number(&TOKEN_RATE, (seconds > 0.0).then(|| f64::from(self.tokens) / seconds));
    }
}

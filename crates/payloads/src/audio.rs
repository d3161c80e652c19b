//! A piece of a recording, as a microphone sends it.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalKind, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::{
    SAMPLE_RATE,
    spectrum::{BANDS, Spectrum},
    wav,
};

/// A piece of a recording: 16 kHz, one channel. A session's chunks come in order; the last one is
/// marked and may be empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioChunk {
    /// The recording or call it belongs to; also the record's key.
    pub session: String,
    /// Its number within the session, from 0.
    pub chunk: u32,
    /// Where its first sample stands in the session, in samples at 16 kHz.
    pub start: u64,
    /// Samples a second of the recording before it was brought to 16 kHz.
    pub source_rate: u32,
    /// Channels of the recording before they were mixed to one.
    pub source_channels: u16,
    /// Share of the samples at full scale before resampling, 0 to 1.
    pub clipped: f32,
    /// Chunks lost right before this one.
    pub missing: u32,
    /// Whether the session ends with this chunk.
    pub last: bool,
    /// Samples in [-1, 1].
    #[serde(skip)]
    pub samples: Vec<f32>,
}

static LEVEL: Signal = Signal::number(
    "audio.level",
    "dBFS",
    "root mean square against full scale, missing for silence",
    Scale::Linear { lo: -96.0, hi: 0.0 },
);
static LENGTH: Signal =
    Signal::number("audio.length", "ms", "length of the chunk", Scale::Linear { lo: 0.0, hi: 1_000.0 });
static CLIPPED: Signal =
    Signal::number("audio.clipped", "1", "share of the samples at full scale", Scale::Linear { lo: 0.0, hi: 1.0 });
static SOURCE_RATE: Signal =
    Signal { name: "audio.sample_rate", unit: "Hz", help: "sample rate of the recording", kind: SignalKind::Category };
static MISSING: Signal = Signal::number(
    "audio.missing_chunks",
    "{chunk}",
    "chunks lost right before this one",
    Scale::Linear { lo: 0.0, hi: 32.0 },
);

static COLOUR: Signal = Signal::embedding(
    "audio.colour",
    "levels of 16 mel bands against their mean, in units of 60 dB; missing for silence",
    BANDS,
);
static CENTROID: Signal = Signal::number(
    "audio.centroid",
    "Hz",
    "middle of the power on the mel scale; missing for silence",
    Scale::Log { lo: 100.0, hi: 8_000.0 },
);

impl Payload for AudioChunk {
    const SCHEMA: SchemaId = SchemaId::new("audio-chunk.v1");
    const CONTENT_TYPE: &'static str = wav::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wav::encode(self, &self.samples, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let (chunk, samples) = wav::decode::<Self>(bytes)?;
        Ok(Self { samples, ..chunk })
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        let power = power(&self.samples);
        let spectrum = Spectrum::of(&self.samples, power);
        visit.number(&LEVEL, level_dbfs(power));
        visit.embedding(&COLOUR, spectrum.as_ref().map(|spectrum| spectrum.shape.as_slice()));
        visit.number(&CENTROID, spectrum.map(|spectrum| spectrum.centroid));
        visit.number(&LENGTH, Some(millis(self.samples.len())));
        visit.number(&CLIPPED, (!self.samples.is_empty()).then_some(f64::from(self.clipped)));
        visit.category(&SOURCE_RATE, Some(&self.source_rate.to_string()));
        visit.number(&MISSING, Some(f64::from(self.missing)));
    }
}

/// Returns the mean square; 0 of no samples.
pub(crate) fn power(samples: &[f32]) -> f64 {
    samples.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>() / samples.len().max(1) as f64
}

/// Returns a mean square in dB against full scale, or `None` for digital silence.
pub(crate) fn level_dbfs(power: f64) -> Option<f64> {
    (power > 0.0).then(|| 10.0 * power.log10())
}

/// Returns the length of `samples` samples at 16 kHz, in milliseconds.
pub(crate) fn millis(samples: usize) -> f64 {
    samples as f64 * 1_000.0 / f64::from(SAMPLE_RATE)
}

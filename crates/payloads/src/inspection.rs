//! What was found on a surface, and what to do with the piece.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde::{Deserialize, Serialize};

use crate::json;

/// What to do with a piece: the control signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is good.
    Accept,
    /// A person decides.
    Refer,
    /// It is defective.
    Reject,
}

impl Decision {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Refer => "refer",
            Self::Reject => "reject",
        }
    }
}

/// What was found in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The camera; also the record's key.
    pub camera: String,
    /// The number of the picture among those of its camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
    /// What the picture is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What to do with the piece.
    pub decision: Decision,
    /// Probability of a defect, 0 to 1.
    pub score: f32,
    /// The class: what is wrong, or what *good* is called if it is accepted.
    pub class: String,
    /// Probability of the class, 0 to 1.
    pub confidence: f32,
    /// Share of the picture that is marked as defective, 0 to 1.
    pub area: f32,
    /// Where the defect is: a PNG of few pixels as a `data:` address, white where it is certain. It is a square that covers the whole picture, whatever the
    /// picture's shape. `None` where none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heat_map: Option<String>,
}

/// Makes a heat map of probabilities, row by row.
///
/// # Errors
/// If there are not `width · height` of them.
pub fn heat_map(width: u32, height: u32, probabilities: &[f32]) -> Result<String, CodecError> {
    let pixels: Vec<u8> = probabilities.iter().map(|p| (p.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    if pixels.len() as u64 != u64::from(width) * u64::from(height) || pixels.is_empty() {
        let found = format!("{width} by {height} with {} values", pixels.len());
        return Err(CodecError::new("heat map", found, "as many values as pixels"));
    }
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&pixels, width, height, ExtendedColorType::L8)
        .map_err(|error| CodecError::new("heat map", error.to_string(), "a PNG"))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(file)))
}

static SCORE: Signal =
    Signal::number("inspection.score", "1", "probability of a defect", Scale::Linear { lo: 0.0, hi: 1.0 });
static CLASS: Signal = Signal::category("inspection.class", "class of the piece");
static DECISION: Signal =
    Signal::category("inspection.decision", "what to do with the piece: accept, refer to a person, reject");
static CONFIDENCE: Signal =
    Signal::number("inspection.confidence", "1", "probability of the class", Scale::Linear { lo: 0.0, hi: 1.0 });
static REFERRED: Signal = Signal::number(
    "inspection.referred",
    "1",
    "1 for a piece that is referred to a person, else 0: the mean is the share referred",
    Scale::Linear { lo: 0.0, hi: 1.0 },
);
static AREA: Signal = Signal::number(
    "inspection.area",
    "1",
    "share of the picture that is marked as defective",
    Scale::Log { lo: 1e-4, hi: 1.0 },
);

impl Payload for Inspection {
    const SCHEMA: SchemaId = SchemaId::new("inspection.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        json::decode(bytes)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&SCORE, Some(f64::from(self.score)));
        visit.category(&CLASS, Some(&self.class));
        visit.category(&DECISION, Some(self.decision.as_str()));
        visit.number(&CONFIDENCE, Some(f64::from(self.confidence)));
        visit.number(&REFERRED, Some(f64::from(u8::from(self.decision == Decision::Refer))));
        visit.number(&AREA, Some(f64::from(self.area)));
    }
}

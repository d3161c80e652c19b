//! The payloads that ship: audio, speech segments, transcripts, search responses, and any JSON.
//!
//! Each module holds one payload: its fields, its encoding and the signals that describe it. Audio
//! travels as WAV, playable by anything, with its own fields in one extra chunk (see [`wav`]);
//! structured values are JSON.

mod audio;
mod json;
mod search;
mod segment;
mod transcript;
pub mod wav;

pub use audio::AudioChunk;
pub use json::JsonValue;
pub use search::{Hit, SearchResponse};
pub use segment::SpeechSegment;
pub use transcript::Transcript;

/// Samples a second of all audio between stages.
pub const SAMPLE_RATE: u32 = 16_000;

/// Names a schema mismatch inside a JSON payload.
fn json_error(error: &serde_json::Error) -> driftline_stage::CodecError {
    driftline_stage::CodecError::new(
        format!("line {} column {}", error.line(), error.column()),
        match error.classify() {
            serde_json::error::Category::Data => "JSON of another shape",
            serde_json::error::Category::Eof => "JSON that ends too early",
            _ => "no JSON",
        },
        "a JSON object of this schema",
    )
}

#[cfg(test)]
mod tests;

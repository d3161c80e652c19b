//! The payloads that ship: audio, speech segments, transcripts, search responses; click events, user
//! profiles, recommendations; and any JSON.
//!
//! Each module holds one payload: its fields, its encoding and the signals that describe it. Audio
//! travels as WAV, playable by anything, with its own fields in one extra chunk (see [`wav`]);
//! structured values are JSON.

mod audio;
mod click;
mod json;
mod profile;
mod recommendations;
mod search;
mod segment;
mod transcript;
pub mod wav;

pub use audio::AudioChunk;
pub use click::{ClickEvent, ClickKind, MAX_NAME};
pub use json::JsonValue;
pub use profile::{Answer, Attributes, Estimate, Interest, RecentEvent, UserProfile};
pub use recommendations::{Basis, Recommendation, Recommendations};
pub use search::{Hit, SearchResponse};
pub use segment::SpeechSegment;
pub use transcript::Transcript;

/// Samples a second of all audio between stages.
pub const SAMPLE_RATE: u32 = 16_000;

#[cfg(test)]
mod tests;

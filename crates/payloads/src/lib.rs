//! The payloads that ship: audio, speech segments, transcripts, search responses, images, inspections, click events,
//! user profiles, recommendations, and any JSON.
//!
//! Each module holds one payload: its fields, its encoding and the signals that describe it. Audio
//! travels as WAV, playable by anything, with its own fields in one extra chunk (see [`wav`]);
//! images as JPEG or PNG, likewise (see [`image`]); structured values are JSON.

mod audio;
mod click;
pub mod image;
mod inspection;
mod json;
mod profile;
mod recommendations;
mod search;
mod segment;
mod spectrum;
mod transcript;
pub mod wav;

pub use audio::AudioChunk;
pub use click::{ClickEvent, ClickKind, MAX_NAME};
pub use image::Image;
pub use inspection::{Decision, Inspection, heat_map};
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

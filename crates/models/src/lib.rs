//! Features, networks, loading and training: the only user of candle.

pub mod asr;
pub mod error;
pub mod features;
pub mod inspect;
pub mod inspection;
pub mod parameters;
pub mod profile;
pub mod recommender;
mod training;
pub mod vad;
pub mod whisper;

pub use error::ModelError;

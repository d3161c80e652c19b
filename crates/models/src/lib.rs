//! Features, networks, loading and training: the only user of candle.

pub mod error;
pub mod inspect;
pub mod vad;
pub mod whisper;

pub use error::ModelError;

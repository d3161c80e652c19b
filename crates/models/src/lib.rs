//! Features, networks, loading and training: the only user of candle.

pub mod asr;
pub mod error;
pub mod features;
pub mod vad;

pub use error::ModelError;

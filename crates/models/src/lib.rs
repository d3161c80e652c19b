//! Features, networks, loading and training: the only user of candle.

pub mod error;
pub mod vad;

pub use error::ModelError;

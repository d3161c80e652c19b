//! What can go wrong when a model is read, checked or run.

use std::path::PathBuf;

/// Says why a model could not be read or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be opened or read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// A file was read but does not hold what it should.
    #[error("{}: {place}: found {found}, allowed: {allowed}", path.display())]
    Format {
        /// The file, or the name of the embedded copy.
        path: PathBuf,
        /// The line, tensor or key.
        place: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        allowed: String,
    },
    /// A sample of the audio is NaN or infinite.
    #[error("segment {segment}: sample {index}: found {value}, allowed: finite numbers")]
    NonFiniteSample {
        /// Position of the segment in the batch.
        segment: usize,
        /// Position of the sample in the segment.
        index: usize,
        /// The sample.
        value: f32,
    },
    /// A parameter is outside its range.
    #[error("{name}: found {found}, allowed: {allowed}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        allowed: &'static str,
    },
    /// What was handed over does not fit the model or the rest of the batch.
    #[error("{place}: found {found}, allowed: {allowed}")]
    Input {
        /// The argument.
        place: String,
        /// Its value or shape.
        found: String,
        /// The values or shapes that fit.
        allowed: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

//! Training and evaluation of the builtin recogniser: data, augmentation, the loop, the figures of the model card.
//!
//! Nothing here is needed to recognise speech. The command is `train-asr`; its steps and the recipe stand in `weights/asr.md`.

pub mod augment;
pub mod calibrate;
pub mod clip;
pub mod evaluate;
pub mod grammar;
pub mod pronounce;
pub mod resample;
pub mod synthesis;
pub mod trainer;

use std::{io, path::PathBuf};

use crate::error::ModelError;

/// Says why training or evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A recording could not be read.
    #[error("{}: {source}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: hound::Error,
    },
    /// A file of a data set has a name of another form.
    #[error("{}: found this name, allowed: {allowed}", path.display())]
    FileName {
        /// The file.
        path: PathBuf,
        /// The form of the names.
        allowed: &'static str,
    },
    /// A line of the catalogue is no product.
    #[error("{}: line {line}: {source}", path.display())]
    Catalogue {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A word has no pronunciation.
    #[error("word {word:?}: found no pronunciation, allowed: words of the lexicon or that flite can say")]
    UnknownWord {
        /// The word.
        word: String,
    },
    /// A synthesiser is not installed.
    #[error("{program}: not found, install the packages named in the model card")]
    MissingProgram {
        /// Its command.
        program: String,
    },
    /// A synthesiser failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Its command.
        program: String,
        /// What it printed on standard error.
        message: String,
    },
    /// There is nothing to learn from.
    #[error("found no recordings, allowed: at least one")]
    NoData,
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<candle_core::Error> for TrainingError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

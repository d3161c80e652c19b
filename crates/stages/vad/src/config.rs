//! Configuration of the stage.

use std::path::Path;

use driftline_stage::ConfigProblem;
use serde::Deserialize;

use crate::segmenter;

pub(crate) const BUILTIN: &str = "builtin";

/// Configuration of the stage; times as Silero's `get_speech_timestamps` names them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, or the path of a network: Silero VAD's safetensors, or ours.
    pub model: String,
    /// Probability from which a frame is speech, above 0 and below 1.
    pub threshold: f32,
    /// Probability below which a frame is silence again; `None` is `threshold - 0.15`.
    pub neg_threshold: Option<f32>,
    /// Shorter segments are dropped, milliseconds.
    pub min_speech_duration_ms: u32,
    /// Longer segments are cut, seconds, at most 60.
    pub max_speech_duration_s: f32,
    /// Shorter silences do not end a segment, milliseconds.
    pub min_silence_duration_ms: u32,
    /// What is added to both ends of a segment, milliseconds.
    pub speech_pad_ms: u32,
}

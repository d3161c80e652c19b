//! Configuration of the stage.

use std::path::Path;

use driftline_stage::ConfigProblem;
use serde::Deserialize;

use crate::segmenter::{Segmenter, SegmenterConfig, SegmenterConfigError, SegmenterState};

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
    /// Shorter segments are dropped, milliseconds. Silero's own default is 250.
    pub min_speech_duration_ms: u32,
    /// Longer segments are cut, seconds, at most 59.
    pub max_speech_duration_s: f64,
    /// Shorter silences do not end a segment, milliseconds.
    pub min_silence_duration_ms: u32,
    /// What is added to both ends of a segment, milliseconds.
    pub speech_pad_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        let SegmenterConfig {
            threshold,
            neg_threshold,
            min_speech_duration_ms: _,
            max_speech_duration_s,
            min_silence_duration_ms,
            speech_pad_ms,
        } = SegmenterConfig::default();
        Self {
            model: BUILTIN.to_owned(),
            threshold,
            neg_threshold,
            // Silero's 250 ms would drop spoken digits, the shortest of which last about 150 ms.
            min_speech_duration_ms: 100,
            max_speech_duration_s,
            min_silence_duration_ms,
            speech_pad_ms,
        }
    }
}

/// Longest segment a message may hold, seconds.
const MAX_SPEECH_S: f64 = driftline_payloads::wav::MAX_SECONDS as f64 - 1.0;

impl Config {
    /// Makes the segmenter of a session, new or restored.
    pub(crate) fn segmenter(&self, state: SegmenterState) -> Result<Segmenter, SegmenterConfigError> {
        let config = SegmenterConfig {
            threshold: self.threshold,
            neg_threshold: self.neg_threshold,
            min_speech_duration_ms: self.min_speech_duration_ms,
            max_speech_duration_s: self.max_speech_duration_s,
            min_silence_duration_ms: self.min_silence_duration_ms,
            speech_pad_ms: self.speech_pad_ms,
        };
        Segmenter::resume(config, state)
    }

    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut problem = |key: &str, found: String, message: String| {
            problems.push(ConfigProblem { path: vec![key.to_owned()], found: Some(found), message });
        };
        if self.model != BUILTIN && !Path::new(&self.model).is_file() {
            let message = "is no file, allowed are \"builtin\" and the path of a network".to_owned();
            problem("model", format!("{:?}", self.model), message);
        }
        if let Err(SegmenterConfigError { name, found, allowed }) = self.segmenter(SegmenterState::default()) {
            problem(name, found, format!("allowed is {allowed}"));
        }
        if self.max_speech_duration_s > MAX_SPEECH_S {
            let found = self.max_speech_duration_s.to_string();
            problem("max_speech_duration_s", found, format!("allowed is at most {MAX_SPEECH_S}"));
        }
        problems
    }
}

//! Configuration of the stage.

use std::path::Path;

use driftline_stage::{Checks, ConfigProblem, config::BUILTIN};
use serde::Deserialize;

use crate::segmenter::Rules;

/// Configuration of the stage; times as Silero's `get_speech_timestamps` names them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, or the path of a network: Silero VAD's safetensors, or ours.
    pub model: String,
    /// Probability from which a frame is speech, 0.01 to 1.
    pub threshold: f32,
    /// Probability below which a frame within speech is silence, above 0 and at most `threshold`; `None` is
    /// `threshold - 0.15`, at least 0.01.
    pub neg_threshold: Option<f32>,
    /// Segments of at most this length are dropped, milliseconds, unless they are what was left of a longer one that
    /// was cut. Silero's own default is 250.
    pub min_speech_duration_ms: u32,
    /// Longer segments are cut, seconds: at most 60, and at least `min_speech_duration_ms`, twice `speech_pad_ms` and
    /// a frame of 32 ms. Silero's own default is infinite; a recogniser works on bounded segments.
    pub max_speech_duration_s: f64,
    /// Silence of this length ends a segment, milliseconds.
    pub min_silence_duration_ms: u32,
    /// What is added to both ends of a segment, milliseconds; neighbours with less than twice as much between them
    /// share the silence.
    pub speech_pad_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: BUILTIN.to_owned(),
            threshold: 0.5,
            neg_threshold: None,
            // Silero's 250 ms would drop spoken digits, the shortest of which last about 150 ms.
            min_speech_duration_ms: 100,
            max_speech_duration_s: 15.0,
            min_silence_duration_ms: 100,
            speech_pad_ms: 30,
        }
    }
}

impl Config {
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let model = &self.model;
        let mut checks = Checks::default();
        checks.expect_builtin_or("model", model, Path::new(model), "a file of weights");
        let mut problems = checks.problems();
        problems.extend(Rules::try_new(self).err().into_iter().flatten());
        problems
    }
}

#[cfg(test)]
mod tests {
    use driftline_stage::StageDef;

    use crate::Vad;

    fn problems(config: &str) -> Vec<String> {
        let problems = (StageDef::of::<Vad>().check)(&config.parse().unwrap());
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_named_with_what_is_allowed() {
        let config = "model = \"no/such.safetensors\"\nthreshold = 0.7\nneg_threshold = 0.8\nmax_speech_duration_s = 0.5\nspeech_pad_ms = 250";
        assert_eq!(
            problems(config),
            [
                "model: found \"no/such.safetensors\", allowed is \"builtin\" or a file of weights",
                "neg_threshold: found 0.8, allowed is above 0, at most the threshold, 0.7",
                "max_speech_duration_s: found 0.5, allowed is 0.632 \
                 (min_speech_duration_ms + 2 * speech_pad_ms + 32 ms) to 60",
            ]
        );
    }

    #[test]
    fn a_default_that_is_written_down_makes_no_other_version() {
        let version = |config: &str| StageDef::of::<Vad>().open(&config.parse().unwrap()).unwrap().version().clone();
        assert_eq!(version(""), version("model = \"builtin\"\nthreshold = 0.5"));
        assert_ne!(version(""), version("threshold = 0.6"));
    }

    #[test]
    fn ranges_end_where_they_say() {
        for right in ["", "threshold = 0.01", "threshold = 1.0", "neg_threshold = 0.5", "max_speech_duration_s = 60.0"]
        {
            assert_eq!(problems(right), [""; 0], "{right}");
        }
        assert_eq!(problems("max_speech_duration_s = 0.192"), [""; 0]);
        for wrong in [
            "threshold = 0.009",
            "threshold = 1.1",
            "threshold = nan",
            "neg_threshold = 0.0",
            "neg_threshold = 0.51",
            "neg_threshold = nan",
            "max_speech_duration_s = 0.191",
            "max_speech_duration_s = 60.1",
            "max_speech_duration_s = inf",
            "max_speech_duration_s = nan",
            "max_speech_duration_s = -1.0",
            "speech_pad_ms = 4294967295",
        ] {
            assert_eq!(problems(wrong).len(), 1, "{wrong}");
        }
    }
}

//! Configuration of the stage.

use std::path::Path;

use driftline_models::profile::Fading;
use driftline_payloads::ClickKind;
use driftline_stage::{
    Checks, ConfigProblem,
    config::{BUILTIN, Millis},
};
use serde::Deserialize;

/// What tells a model of our training.
const WEIGHTS: &str = driftline_models::profile::WEIGHTS_FILE;
const DAY_MS: u64 = 86_400_000;

/// Configuration of the stage.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, or a folder that `train-recommender` wrote.
    pub model: String,
    /// Probability from which an attribute is *yes*, and from which of the opposite it is *no*; what
    /// reaches neither is *unknown*. 0.5 to 1.
    pub threshold: f32,
    /// After which events a profile is written; an erasure always has one.
    pub emit_on: Vec<ClickKind>,
    /// In which time an interest halves. The model that ships was trained with 14 days.
    pub half_life: Millis,
    /// After which time an event is forgotten, and a user of whom there was none since.
    pub expiry: Millis,
    /// How far a user's clock may run backwards; such events count as of the newest one's time.
    pub max_late: Millis,
    /// How far an event may be ahead of the others of its partition: more than the longest silence of a partition.
    pub max_ahead: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: BUILTIN.to_owned(),
            threshold: 0.85,
            emit_on: ClickKind::ALL.to_vec(),
            half_life: Millis(14 * DAY_MS),
            expiry: Millis(60 * DAY_MS),
            max_late: Millis(3_600_000),
            max_ahead: Millis(30 * DAY_MS),
        }
    }
}

impl Config {
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let Self { model, threshold, .. } = self;
        let mut checks = Checks::default();
        let weights = Path::new(model).join(WEIGHTS);
        checks.expect_builtin_or("model", model, &weights, format_args!("a folder with {WEIGHTS}"));
        checks.expect((0.5..=1.0).contains(threshold), "threshold", threshold, "0.5 to 1");
        for (key, millis) in [("half_life", self.half_life), ("expiry", self.expiry)] {
            let holds = (60_000..=3_650 * DAY_MS).contains(&millis.0);
            checks.expect(holds, key, format_args!("\"{millis}\""), "\"1m\" to \"3650d\"");
        }
        checks.problems()
    }

    pub(crate) fn rules(&self) -> Rules {
        let millis = |Millis(millis): Millis| i64::try_from(millis).unwrap_or(i64::MAX);
        Rules {
            threshold: self.threshold,
            emit_on: ClickKind::ALL.map(|kind| kind == ClickKind::Erase || self.emit_on.contains(&kind)),
            fading: Fading { half_life_ms: millis(self.half_life), expiry_ms: millis(self.expiry) },
            max_late_ms: millis(self.max_late),
            max_ahead_ms: millis(self.max_ahead),
        }
    }
}

/// The configuration as the stage uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub threshold: f32,
    /// By the order of [`ClickKind::ALL`].
    pub emit_on: [bool; ClickKind::ALL.len()],
    pub fading: Fading,
    pub max_late_ms: i64,
    pub max_ahead_ms: i64,
}

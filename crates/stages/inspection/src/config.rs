//! Configuration of the stage.

use std::path::Path;

use driftline_models::inspection::Surface;
use driftline_stage::{Checks, ConfigProblem, config::BUILTIN};
use serde::Deserialize;

/// Configuration of the stage.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, or the path of weights that `driftline train inspection` wrote.
    pub model: String,
    /// Which of the built-in weights: `phone-screen` or `ground-tile`.
    pub surface: String,
    /// Probability of a defect below which a piece is accepted, 0 to 1; `None` takes the operating point of the weights.
    pub accept_below: Option<f32>,
    /// Probability of a defect from which a piece is rejected, 0 to 1 and not below `accept_below`; what lies between is referred to a person. `None` takes the
    /// operating point of the weights.
    pub reject_from: Option<f32>,
    /// Standard deviation of a picture's brightness, 0 to 255, below which it is referred whatever its score: a broken
    /// lamp or a covered lens leaves a picture without contrast. 0 for no such limit.
    pub min_contrast: f32,
    /// Side of the heat map of pieces that are not accepted, pixels, up to 256; 0 for none. It is a square that covers the whole picture.
    pub heat_map: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: BUILTIN.to_owned(),
            surface: Surface::PhoneScreen.name().to_owned(),
            accept_below: None,
            reject_from: None,
            min_contrast: 4.0,
            heat_map: 32,
        }
    }
}

/// Largest side of a heat map.
const LARGEST: usize = 256;

impl Config {
    /// Returns the built-in surface that is named.
    pub(crate) fn surface(&self) -> Option<Surface> {
        Surface::named(&self.surface)
    }

    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let Self { model, surface, accept_below, reject_from, min_contrast, heat_map } = self;
        let mut checks = Checks::default();
        checks.expect_builtin_or("model", model, Path::new(model), "a file of weights");
        checks.expect(
            self.surface().is_some(),
            "surface",
            format_args!("{surface:?}"),
            "\"phone-screen\" or \"ground-tile\"",
        );
        let is_share = |value: &f32| (0.0..=1.0).contains(value);
        for (key, value) in [("accept_below", accept_below), ("reject_from", reject_from)] {
            if let Some(value) = value {
                checks.expect(is_share(value), key, value, "0 to 1");
            }
        }
        if let (Some(accept), Some(reject)) = (accept_below, reject_from) {
            let holds = accept <= reject || !is_share(reject);
            checks.expect(holds, "reject_from", reject, format_args!("at least accept_below, {accept}"));
        }
        checks.expect((0.0..=255.0).contains(min_contrast), "min_contrast", min_contrast, "0 to 255");
        checks.expect(*heat_map <= LARGEST, "heat_map", heat_map, "a whole number from 0 to 256");
        checks.problems()
    }
}

#[cfg(test)]
mod tests {
    use driftline_stage::StageDef;

    use crate::InspectionKind;

    #[test]
    fn every_problem_is_named_with_what_is_allowed() {
        let problems = |config: &str| -> Vec<String> {
            let problems = (StageDef::of::<InspectionKind>().check)(&config.parse().unwrap());
            problems.iter().map(ToString::to_string).collect()
        };
        assert_eq!(problems("surface = \"phone-screen\"\naccept_below = 0.2\nreject_from = 0.2"), [""; 0]);
        assert_eq!(
            problems("model = \"no/such\"\nsurface = \"moon\"\naccept_below = 0.7\nreject_from = 0.5\nheat_map = 999"),
            [
                "model: found \"no/such\", allowed is \"builtin\" or a file of weights",
                "surface: found \"moon\", allowed is \"phone-screen\" or \"ground-tile\"",
                "reject_from: found 0.5, allowed is at least accept_below, 0.7",
                "heat_map: found 999, allowed is a whole number from 0 to 256",
            ]
        );
        assert_eq!(problems("accept_below = nan"), ["accept_below: found NaN, allowed is 0 to 1"]);
        assert_eq!(problems("min_contrast = -1.0"), ["min_contrast: found -1, allowed is 0 to 255"]);
    }
}

//! Configuration of the stage.

use std::path::Path;

use driftline_models::inspection::Surface;
use driftline_stage::ConfigProblem;
use serde::Deserialize;

pub(crate) const BUILTIN: &str = "builtin";

/// Configuration of the stage.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, or the path of weights that `driftline train inspection` wrote.
    pub model: String,
    /// Which of the built-in weights: `phone-screen`.
    pub surface: String,
    /// Probability of a defect below which a piece is accepted, 0 to 1; `None` takes the operating point of the weights.
    pub accept_below: Option<f32>,
    /// Probability of a defect from which a piece is rejected, 0 to 1 and not below `accept_below`; what lies between is referred to a person. `None` takes the
    /// operating point of the weights.
    pub reject_from: Option<f32>,
    /// Longer side of the heat map of pieces that are not accepted, pixels, up to 256; 0 for none.
    pub heat_map: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: BUILTIN.to_owned(),
            surface: Surface::PhoneScreen.name().to_owned(),
            accept_below: None,
            reject_from: None,
            heat_map: 32,
        }
    }
}

/// Largest side of a heat map.
const LARGEST: usize = 256;

impl Config {
    /// Returns the built-in surface that is named.
    pub(crate) fn surface(&self) -> Option<Surface> {
        Surface::ALL.into_iter().find(|surface| surface.name() == self.surface)
    }

    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut expect = |right: bool, key: &str, found: String, message: &str| {
            if !right {
                let (path, message) = (vec![key.to_owned()], message.to_owned());
                problems.push(ConfigProblem { path, found: Some(found), message });
            }
        };
        expect(
            self.model == BUILTIN || Path::new(&self.model).is_file(),
            "model",
            format!("{:?}", self.model),
            "is no file, allowed are \"builtin\" and the path of weights",
        );
        let surfaces = "allowed is \"phone-screen\"";
        expect(self.surface().is_some(), "surface", format!("{:?}", self.surface), surfaces);
        let share = |value: Option<f32>| value.is_none_or(|value| (0.0..=1.0).contains(&value));
        let found = |value: Option<f32>| value.map_or_else(String::new, |value| value.to_string());
        expect(share(self.accept_below), "accept_below", found(self.accept_below), "allowed is 0 to 1");
        expect(share(self.reject_from), "reject_from", found(self.reject_from), "allowed is 0 to 1");
        if let (Some(accept), Some(reject)) = (self.accept_below, self.reject_from) {
            let allowed = format!("allowed is at least accept_below, {accept}");
            expect(accept <= reject || !share(Some(reject)), "reject_from", reject.to_string(), &allowed);
        }
        let pixels = "allowed is a whole number from 0 to 256";
        expect(self.heat_map <= LARGEST, "heat_map", self.heat_map.to_string(), pixels);
        problems
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
                "model: found \"no/such\", is no file, allowed are \"builtin\" and the path of weights",
                "surface: found \"moon\", allowed is \"phone-screen\"",
                "reject_from: found 0.5, allowed is at least accept_below, 0.7",
                "heat_map: found 999, allowed is a whole number from 0 to 256",
            ]
        );
        assert_eq!(problems("accept_below = nan"), ["accept_below: found NaN, allowed is 0 to 1"]);
    }
}

//! What is said of a stage: the decision from what was measured.

use serde::{Deserialize, Serialize};

/// Answers of fixed records that are sent through a stage on a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probes {
    /// There are none, or they say nothing.
    #[default]
    None,
    /// Every answer is as it was.
    Same,
    /// An answer of a deterministic stage differs: proof that the stage changed.
    Different,
}

/// What was seen of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Findings {
    /// The law of what goes in has changed.
    pub input: bool,
    /// P(output | input) has changed.
    pub conditional: bool,
    /// The stage runs another version than the reference's.
    pub version: bool,
    /// What the probes say.
    pub probes: Probes,
    /// The share of records in input cells that the reference hardly knows, 0 to 1.
    pub unattributable: f64,
}

/// What became of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Neither the stage nor its input.
    Unchanged,
    /// The stage does what it did, to other input.
    InputMoved,
    /// The stage does something else with the same input.
    StageChanged,
    /// It does something else, and is another version.
    VersionChanged,
    /// P(output | input) changed, yet every probe is answered as before, or something before the stage moved in the same moment:
    /// what the input's code does not show has moved.
    HiddenInput,
    /// Too much of the input is new to say.
    Undetermined,
}

impl Verdict {
    /// Says whether the stage itself is what changed.
    #[must_use]
    pub fn is_change(self) -> bool {
        matches!(self, Self::StageChanged | Self::VersionChanged)
    }
}

/// The share of new input from which nothing is said about the stage.
pub const TOO_NEW: f64 = 0.5;

/// Decides.
///
/// | probes | P(output given input) | input | verdict |
/// |---|---|---|---|
/// | different | | | stage or version changed |
/// | same | changed | | hidden input |
/// | none | changed | | stage or version changed |
/// | | as before | moved | input moved; undetermined if half of it is new |
/// | | as before | as before | unchanged |
#[must_use]
pub fn verdict(findings: Findings) -> Verdict {
    let changed = if findings.version { Verdict::VersionChanged } else { Verdict::StageChanged };
    match (findings.probes, findings.conditional) {
        (Probes::Different, _) => changed,
        (Probes::Same, true) if !findings.version => Verdict::HiddenInput,
        (_, true) => changed,
        (Probes::None, false) if findings.unattributable >= TOO_NEW => Verdict::Undetermined,
        (_, false) if findings.input => Verdict::InputMoved,
        (_, false) => Verdict::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        let quiet =
            Findings { input: false, conditional: false, version: false, probes: Probes::None, unattributable: 0.0 };
        assert_eq!(verdict(quiet), Verdict::Unchanged);
        assert_eq!(verdict(Findings { input: true, ..quiet }), Verdict::InputMoved);
        assert_eq!(verdict(Findings { input: true, unattributable: 0.6, ..quiet }), Verdict::Undetermined);
        let same = Findings { input: true, unattributable: 0.6, probes: Probes::Same, ..quiet };
        assert_eq!(verdict(same), Verdict::InputMoved);
        let changed = Findings { conditional: true, ..quiet };
        assert_eq!(verdict(changed), Verdict::StageChanged);
        assert_eq!(verdict(Findings { version: true, ..changed }), Verdict::VersionChanged);
        assert_eq!(verdict(Findings { probes: Probes::Same, ..changed }), Verdict::HiddenInput);
        assert_eq!(verdict(Findings { probes: Probes::Different, ..quiet }), Verdict::StageChanged);
    }
}

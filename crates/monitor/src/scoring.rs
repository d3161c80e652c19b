//! The profiles of a node over one window, and the scores that are made of them.

use std::{fmt, str::FromStr};

use driftline_stats::{
    ConditionalBasis, JointProfile, MergeError, Profile, ProfileBody, ProfileSet, ScoreBasis, SignalProfile,
};
use serde::{Deserialize, Serialize};

/// What of a node is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum What {
    /// A signal of what goes in. Watched of nodes that read several others: what goes into the rest is the
    /// output of the node before.
    Input(String),
    /// A signal of what comes out.
    Output(String),
    /// P(output | input); of a source, the law of its output over the cells of whole records.
    Conditional,
}

impl What {
    /// Returns the name of the signal, if it is one.
    #[must_use]
    pub fn signal(&self) -> Option<&str> {
        match self {
            Self::Input(signal) | Self::Output(signal) => Some(signal),
            Self::Conditional => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(signal) => write!(f, "input:{signal}"),
            Self::Output(signal) => write!(f, "output:{signal}"),
            Self::Conditional => f.write_str("conditional"),
        }
    }
}

/// Text that names nothing to watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed are \"input:SIGNAL\", \"output:SIGNAL\" and \"conditional\"")]
pub struct WhatError {
    found: String,
}

impl FromStr for What {
    type Err = WhatError;

    fn from_str(text: &str) -> Result<Self, WhatError> {
        match text.split_once(':') {
            Some(("input", signal)) if !signal.is_empty() => Ok(Self::Input(signal.to_owned())),
            Some(("output", signal)) if !signal.is_empty() => Ok(Self::Output(signal.to_owned())),
            None if text == "conditional" => Ok(Self::Conditional),
            _ => Err(WhatError { found: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for What {
    type Error = WhatError;
    fn try_from(text: String) -> Result<Self, WhatError> {
        text.parse()
    }
}

impl From<What> for String {
    fn from(what: What) -> Self {
        what.to_string()
    }
}

/// The score functions of one thing that is watched.
#[derive(Clone, Debug)]
pub enum Basis {
    /// Of a signal.
    Signal(ScoreBasis),
    /// Of P(output | input).
    Conditional(ConditionalBasis),
}

impl Basis {
    /// Returns the number of scores.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Signal(basis) => basis.aspects().count(),
            Self::Conditional(basis) => basis.aspects().len(),
        }
    }

    /// Returns what the evidence of each score counts for.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        match self {
            Self::Signal(basis) => basis.weights(),
            Self::Conditional(basis) => vec![1.0; basis.aspects().len()],
        }
    }

    /// Says whether there are no scores.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one node saw over one window, merged over its replicas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeWindow {
    /// What went in.
    pub input: Option<ProfileSet>,
    /// What came out.
    pub output: Option<ProfileSet>,
    /// What became what.
    pub joint: Option<JointProfile>,
}

impl NodeWindow {
    /// Adds a profile. Whatever the order, the sum is the same.
    ///
    /// # Errors
    /// If it was counted on other bins than those before; nothing is added then.
    pub fn add(&mut self, profile: &Profile) -> Result<(), MergeError> {
        match &profile.body {
            ProfileBody::Input(set) => into(&mut self.input, set, ProfileSet::merge),
            ProfileBody::Output(set) => into(&mut self.output, set, ProfileSet::merge),
            ProfileBody::Joint(joint) => into(&mut self.joint, joint, JointProfile::merge),
        }
    }

    /// Adds another window of the same node.
    ///
    /// # Errors
    /// If it was counted on other bins.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let Self { input, output, joint } = other;
        input.iter().try_for_each(|set| into(&mut self.input, set, ProfileSet::merge))?;
        output.iter().try_for_each(|set| into(&mut self.output, set, ProfileSet::merge))?;
        joint.iter().try_for_each(|joint| into(&mut self.joint, joint, JointProfile::merge))
    }

    /// Returns what it holds, as the bodies of profiles.
    pub fn bodies(&self) -> impl Iterator<Item = ProfileBody> {
        let input = self.input.clone().map(ProfileBody::Input);
        let output = self.output.clone().map(ProfileBody::Output);
        input.into_iter().chain(output).chain(self.joint.clone().map(ProfileBody::Joint))
    }

    /// Returns the profile of a signal.
    #[must_use]
    pub fn signal(&self, what: &What) -> Option<&SignalProfile> {
        match what {
            What::Input(name) => self.input.as_ref()?.signal(name),
            What::Output(name) => self.output.as_ref()?.signal(name),
            What::Conditional => None,
        }
    }

    /// Returns the number of records behind something that is watched.
    #[must_use]
    pub fn records(&self, what: &What) -> u64 {
        match what {
            What::Input(_) | What::Output(_) => self.signal(what).map_or(0, SignalProfile::total),
            What::Conditional => self.joint.as_ref().map_or(0, JointProfile::total),
        }
    }

    /// Computes the scores of something that is watched; `None` without records, or if it is counted on other bins
    /// than the basis. They are rounded to `f32`, as they are kept.
    #[must_use]
    pub fn scores(&self, what: &What, basis: &Basis) -> Option<Vec<f32>> {
        let scores = match basis {
            Basis::Signal(basis) => basis.scores(self.signal(what)?)?,
            Basis::Conditional(basis) => basis.scores(self.joint.as_ref()?)?.scores,
        };
        Some(scores.into_iter().map(|score| score as f32).collect())
    }

    /// Lists what can be watched of it; inputs only if asked for.
    pub(crate) fn watchable(&self, inputs: bool) -> Vec<What> {
        let names = |set: &Option<ProfileSet>| -> Vec<String> {
            set.iter().flat_map(|set| set.signals().map(|(name, _, _)| name.to_owned()).collect::<Vec<_>>()).collect()
        };
        let inputs = if inputs { names(&self.input) } else { Vec::new() };
        let signals = inputs.into_iter().map(What::Input).chain(names(&self.output).into_iter().map(What::Output));
        signals.chain(self.joint.iter().map(|_| What::Conditional)).collect()
    }

    /// Makes the score functions of something that is watched, with this as the reference.
    pub(crate) fn basis(&self, what: &What) -> Option<Basis> {
        match what {
            What::Conditional => self.joint.as_ref().map(|joint| Basis::Conditional(ConditionalBasis::new(joint))),
            _ => self.signal(what).map(|signal| Basis::Signal(ScoreBasis::new(signal))),
        }
    }
}

/// Adds to what is held, or holds it.
fn into<T: Clone>(
    held: &mut Option<T>,
    new: &T,
    merge: fn(&mut T, &T) -> Result<(), MergeError>,
) -> Result<(), MergeError> {
    match held {
        Some(held) => merge(held, new),
        None => {
            *held = Some(new.clone());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["input:audio.level", "output:a:b", "conditional"] {
            assert_eq!(text.parse::<What>().unwrap().to_string(), text);
        }
        for text in ["", "output:", "joint", "level"] {
            assert!(text.parse::<What>().is_err(), "{text}");
        }
    }
}

//! `[[monitor.rules]]`: thresholds on any signal, beside the tests that need none.

use std::{fmt, str::FromStr};

use driftline_types::{
    StageName,
    config::{self, ConfigProblem},
};
use serde::{Deserialize, Deserializer, de};

use crate::Lateness;

/// A threshold that a statistic of a window must not cross for long.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// The name, unique in the file; a part of the ids of its alarms.
    pub name: StageName,
    /// The source or stage.
    pub stage: StageName,
    /// The signal; not for what is counted of whole records.
    #[serde(default)]
    pub signal: Option<SignalRef>,
    /// What of it is looked at.
    pub statistic: Statistic,
    /// The value that it must not be above.
    #[serde(default)]
    pub above: Option<f64>,
    /// The value that it must not be below.
    #[serde(default)]
    pub below: Option<f64>,
    /// How long it must last to be an alarm, and to be over.
    #[serde(default = "one_window", rename = "for")]
    pub lasts: Lateness,
    /// The records below which a window says nothing.
    #[serde(default = "one_record")]
    pub min_records: u64,
    /// How much it matters.
    #[serde(default)]
    pub severity: RuleSeverity,
}

fn one_window() -> Lateness {
    Lateness::Windows(1)
}

fn one_record() -> u64 {
    1
}

/// How much the alarm of a rule matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleSeverity {
    /// Somebody should look at it.
    #[default]
    Warning,
    /// Somebody should look at it now.
    Critical,
}

/// A signal of one side of a node: `input:NAME` or `output:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalRef {
    /// Of what goes in.
    Input(String),
    /// Of what comes out.
    Output(String),
}

impl FromStr for SignalRef {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("input", name)) if !name.is_empty() => Ok(Self::Input(name.to_owned())),
            Some(("output", name)) if !name.is_empty() => Ok(Self::Output(name.to_owned())),
            _ => Err(()),
        }
    }
}

impl fmt::Display for SignalRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(name) => write!(f, "input:{name}"),
            Self::Output(name) => write!(f, "output:{name}"),
        }
    }
}

/// What of a window a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The mean of a number.
    Mean,
    /// The share of records in which a signal is missing, 0 to 1.
    Missing,
    /// The value of a number that so many percent are at most.
    Percentile(u8),
    /// The share of a category's records that have this value, 0 to 1.
    Share(String),
    /// The number of records of a window: those read, of a source those written.
    Count,
    /// The same a second.
    Rate,
    /// The share of records that were dropped, 0 to 1.
    Dropped,
}

impl Statistic {
    const ALLOWED: &str =
        "\"mean\", \"missing\", \"p1\" to \"p99\", \"share of VALUE\", \"count\", \"rate\" or \"dropped\"";

    /// Says whether it is of whole records and not of a signal.
    #[must_use]
    pub fn is_of_records(&self) -> bool {
        matches!(self, Self::Count | Self::Rate | Self::Dropped)
    }
}

impl FromStr for Statistic {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(value) = text.strip_prefix("share of ").filter(|value| !value.is_empty()) {
            return Ok(Self::Share(value.to_owned()));
        }
        match text {
            "mean" => Ok(Self::Mean),
            "missing" => Ok(Self::Missing),
            "count" => Ok(Self::Count),
            "rate" => Ok(Self::Rate),
            "dropped" => Ok(Self::Dropped),
            _ => match text.strip_prefix('p').and_then(|percent| percent.parse().ok()) {
                Some(percent @ 1..=99) => Ok(Self::Percentile(percent)),
                _ => Err(()),
            },
        }
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Missing => f.write_str("missing"),
            Self::Percentile(percent) => write!(f, "p{percent}"),
            Self::Share(value) => write!(f, "share of {value}"),
            Self::Count => f.write_str("count"),
            Self::Rate => f.write_str("rate"),
            Self::Dropped => f.write_str("dropped"),
        }
    }
}

impl<'de> Deserialize<'de> for SignalRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = "\"input:SIGNAL\" or \"output:SIGNAL\"";
        text.parse().map_err(|()| de::Error::invalid_value(de::Unexpected::Str(&text), &allowed))
    }
}

impl<'de> Deserialize<'de> for Statistic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| de::Error::invalid_value(de::Unexpected::Str(&text), &Self::ALLOWED))
    }
}

/// Finds what is wrong with rules beyond their types; paths are relative to the list. `writers` are the sources and
/// stages, and whether each is a source.
pub(crate) fn check(rules: &[RuleConfig], writers: &[(&str, bool)]) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let mut note = |key: &str, found: Option<String>, message: String| {
            problems.push(ConfigProblem { path: vec![i.to_string(), key.to_owned()], found, message });
        };
        if rules[..i].iter().any(|other| other.name == rule.name) {
            note("name", Some(format!("{:?}", rule.name.as_str())), "allowed is each name once".to_owned());
        }
        let writer = writers.iter().find(|(name, _)| *name == rule.stage.as_str());
        if writer.is_none() {
            let names: Vec<&str> = writers.iter().map(|(name, _)| *name).collect();
            let message =
                format!("no source or stage of that name, {}", config::allowed_words(rule.stage.as_str(), &names));
            note("stage", Some(format!("{:?}", rule.stage.as_str())), message);
        }
        match (&rule.signal, rule.statistic.is_of_records()) {
            (None, false) => note("signal", None, format!("is missing, {} is of a signal", rule.statistic)),
            (Some(signal), true) => {
                let message = format!("{} is of whole records, allowed is none", rule.statistic);
                note("signal", Some(format!("{:?}", signal.to_string())), message);
            }
            (Some(SignalRef::Input(name)), false) if writer.is_some_and(|(_, is_source)| *is_source) => {
                let found = Some(format!("{:?}", format!("input:{name}")));
                note("signal", found, "nothing goes into a source, allowed is \"output:SIGNAL\"".to_owned());
            }
            _ => {}
        }
        match (rule.above, rule.below) {
            (None, None) => note("above", None, "is missing, allowed is a number here or as below".to_owned()),
            (Some(_), Some(below)) => {
                note("below", Some(format!("{below:?}")), "allowed is one of above and below".to_owned());
            }
            _ => {}
        }
        for (key, limit) in [("above", rule.above), ("below", rule.below)] {
            if let Some(found) = limit.filter(|limit| !limit.is_finite()) {
                note(key, Some(format!("{found:?}")), "allowed are finite numbers".to_owned());
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_round_trip() {
        for text in ["mean", "missing", "p1", "p99", "share of yes", "count", "rate", "dropped"] {
            assert_eq!(text.parse::<Statistic>().map(|statistic| statistic.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "p0", "p100", "median", "share of "] {
            assert_eq!(text.parse::<Statistic>(), Err(()), "{text}");
        }
    }

    #[test]
    fn every_problem_is_told() {
        let rules: toml::Table = r#"
            rules = [
                { name = "a", stage = "serch", statistic = "mean", signal = "output:x", above = 1.0 },
                { name = "a", stage = "search", statistic = "missing", below = 0.5, above = 0.1 },
                { name = "b", stage = "microphone", statistic = "p50", signal = "input:level", above = 0.1 },
                { name = "c", stage = "search", statistic = "count", signal = "output:x" },
            ]
        "#
        .parse()
        .unwrap();
        let rules: Vec<RuleConfig> = config::read_value(&rules["rules"]).unwrap();
        let problems = check(&rules, &[("microphone", true), ("search", false)]);
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "0.stage: found \"serch\", no source or stage of that name, allowed are \"microphone\", \"search\" (did you mean \"search\"?)",
                "1.name: found \"a\", allowed is each name once",
                "1.signal: is missing, missing is of a signal",
                "1.below: found 0.5, allowed is one of above and below",
                "2.signal: found \"input:level\", nothing goes into a source, allowed is \"output:SIGNAL\"",
                "3.signal: found \"output:x\", count is of whole records, allowed is none",
                "3.above: is missing, allowed is a number here or as below",
            ]
        );
    }
}

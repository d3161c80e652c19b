//! `[monitor]`: the windows of profiles, and what watches them.

use std::{fmt, path::PathBuf, str::FromStr};

use driftline_types::config::Millis;
use serde::{Deserialize, Deserializer, de};

use crate::{OtlpEndpoint, RuleConfig};

/// How signals are monitored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// The event time that one profile covers, at least 1 ms.
    #[serde(deserialize_with = "some_time")]
    pub window: Millis,
    /// The reference that windows are compared with; `None` watches for no drift.
    pub reference: Option<PathBuf>,
    /// How long a node or partition that is silent is waited for before windows close without it.
    pub lateness: Lateness,
    /// The first windows, which are not judged: what stages remember fills up. `None` judges all.
    pub warm_up: Option<Lateness>,
    /// The windows that pass on average between two false alarms, at least 10.
    #[serde(deserialize_with = "run_length")]
    pub run_length: u64,
    /// The effect below which a change is noted and nobody is called, 0 to 1.
    #[serde(deserialize_with = "share")]
    pub tolerance: f64,
    /// Signals whose drift is nobody's concern, by name: what they show changes by its nature, such as products that
    /// come and go.
    pub ignore: Vec<String>,
    /// Fixed recordings that are sent on a schedule; `None` sends none.
    pub probes: Option<ProbesConfig>,
    /// Thresholds on signals.
    pub rules: Vec<RuleConfig>,
    /// Where alarms are posted; `None` posts none.
    pub webhook: Option<WebhookConfig>,
}

/// Fixed recordings that are sent on a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbesConfig {
    /// The file that `driftline probes record` wrote.
    pub path: PathBuf,
    /// Event time between two sendings, at least 1 ms.
    #[serde(default = "every_minute", deserialize_with = "some_time")]
    pub every: Millis,
}

fn every_minute() -> Millis {
    Millis(60_000)
}

/// Where alarms are posted, in Alertmanager's format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The receiver.
    pub url: WebhookUrl,
}

/// `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl(OtlpEndpoint);

impl WebhookUrl {
    const ALLOWED: &str =
        "a URL such as \"http://localhost:9093/hook\" (a receiver beside the process; it adds TLS and credentials)";
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for WebhookUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Credentials in a URL are a mistake, but not one to print.
        let found = if text.contains('@') { "a URL with credentials" } else { &text };
        OtlpEndpoint::parse(&text)
            .map(Self)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(found), &Self::ALLOWED))
    }
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            window: Millis(10_000),
            reference: None,
            lateness: Lateness::Windows(6),
            warm_up: None,
            run_length: 10_000,
            tolerance: 0.02,
            ignore: Vec::new(),
            probes: None,
            rules: Vec::new(),
            webhook: None,
        }
    }
}

impl MonitorConfig {
    /// Says whether anything is watched.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.reference.is_some() || !self.rules.is_empty()
    }
}

/// A stretch of event time, in windows or in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// So many windows.
    Windows(u32),
    /// So much time.
    Time(Millis),
}

impl Lateness {
    const ALLOWED: &str = "a number of windows such as \"2 windows\", or a duration such as \"30s\"";

    /// Returns the number of windows of `window` milliseconds that cover it, at least 1.
    #[must_use]
    pub fn windows(self, window: Millis) -> u64 {
        let windows = match self {
            Self::Windows(n) => n.into(),
            Self::Time(time) => time.0.div_ceil(window.0.max(1)),
        };
        windows.max(1)
    }
}

impl FromStr for Lateness {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let windows = text.strip_suffix("windows").or_else(|| text.strip_suffix("window"));
        match windows {
            Some(number) => number.trim().parse().map(Self::Windows).map_err(drop),
            None => text.parse().map(Self::Time).map_err(drop),
        }
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Windows(1) => f.write_str("1 window"),
            Self::Windows(n) => write!(f, "{n} windows"),
            Self::Time(time) => time.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Lateness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| de::Error::invalid_value(de::Unexpected::Str(&text), &Self::ALLOWED))
    }
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    match Millis::deserialize(deserializer)? {
        Millis(0) => Err(de::Error::invalid_value(de::Unexpected::Str("0s"), &"a duration of at least \"1ms\"")),
        time => Ok(time),
    }
}

fn run_length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        n @ 0..10 => Err(de::Error::invalid_value(de::Unexpected::Unsigned(n), &"a whole number of windows from 10")),
        n => Ok(n),
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    // NaN is in no range.
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    Err(de::Error::invalid_value(de::Unexpected::Float(share), &"a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_in_windows_or_time() {
        let window = Millis(10_000);
        for (text, windows) in [("2 windows", 2), ("1 window", 1), ("25s", 3), ("0s", 1), ("0 windows", 1)] {
            assert_eq!(text.parse::<Lateness>().map(|lateness| lateness.windows(window)), Ok(windows), "{text}");
        }
        for text in ["", "two windows", "2", "-1 windows"] {
            assert_eq!(text.parse::<Lateness>(), Err(()), "{text}");
        }
        assert_eq!(Lateness::Windows(2).to_string(), "2 windows");
    }
}

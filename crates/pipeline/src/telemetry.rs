//! `[telemetry]`: where metrics, traces and logs go. Everything is off unless it is named here.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Deserializer, de};

/// What a run tells to the outside.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The collector that traces, metrics and logs are sent to; `None` sends nothing.
    pub otlp: Option<OtlpEndpoint>,
    /// The part of the traces that is recorded, decided where a record enters the pipeline.
    pub sampling: Sampling,
    /// Where metrics and the state of health are served; `None` serves nothing.
    #[serde(deserialize_with = "address")]
    pub prometheus: Option<SocketAddr>,
    /// How log lines on standard error are written.
    pub logs: LogFormat,
}

impl TelemetryConfig {
    /// Says whether anything is told at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.otlp.is_some() || self.prometheus.is_some()
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The base URL of an OTLP/HTTP receiver: `http://host:port`, perhaps with a path, without the slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    const ALLOWED: &str =
        "a URL such as \"http://localhost:4318\" (a collector beside the process; it adds TLS and credentials)";

    /// Checks a URL; `None` if it is not `http://host[:port][/path]`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // An IPv6 address has colons of its own, in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fits = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let path_fits = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b));
        (host_fits && port_fits && path_fits).then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    /// Returns the URL of one signal, such as `v1/traces`.
    #[must_use]
    pub fn url(&self, signal: &str) -> String {
        format!("{}/{signal}", self.0)
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for OtlpEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Credentials in a URL are a mistake, but not one to print.
        let found = if text.contains('@') {
            de::Unexpected::Other("a URL with credentials")
        } else {
            de::Unexpected::Str(&text)
        };
        Self::parse(&text).ok_or_else(|| de::Error::invalid_value(found, &Self::ALLOWED))
    }
}

/// A part of all traces, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling(f64);

impl Sampling {
    /// Returns the part, 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.0
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self(0.01)
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ratio = f64::deserialize(deserializer)?;
        // NaN is in no range.
        if (0.0..=1.0).contains(&ratio) {
            return Ok(Self(ratio));
        }
        Err(de::Error::invalid_value(de::Unexpected::Float(ratio), &"a number from 0 to 1"))
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let allowed = "an address and a port such as \"127.0.0.1:9464\" or \"0.0.0.0:9464\"";
    text.parse().map(Some).map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_a_collector() {
        for (text, traces) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("http://collector.observability:4318/", "http://collector.observability:4318/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
            ("http://10.0.0.7/otlp", "http://10.0.0.7/otlp/v1/traces"),
        ] {
            assert_eq!(OtlpEndpoint::parse(text).map(|endpoint| endpoint.url("v1/traces")).as_deref(), Some(traces));
        }
        for text in [
            "",
            "localhost:4318",
            "https://localhost:4318",
            "http://",
            "http://:4318",
            "http://host:0",
            "http://host:x",
            "http://user:secret@host:4318",
            "http://host:4318/?key=secret",
            "http://a b",
            "http://[::z]:4318",
        ] {
            assert_eq!(OtlpEndpoint::parse(text), None, "{text}");
        }
    }
}

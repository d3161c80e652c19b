//! From a TOML file to a validated, typed plan: the graph of a pipeline and its tests.
//!
//! [`Plan::load`] reads one file, applies `--set` overrides, and checks everything that can be known
//! without running: names, kinds, keys, values, the edges of the graph and the schemas on them. It
//! reports every [`Problem`] at once, each with its line, what was found and what is allowed; a plan
//! that was loaded is right. The kinds themselves are not known here: the caller describes them
//! ([`Kinds`]), and each checks its own keys.
//!
//! Nothing here runs a pipeline, and the only file read is the TOML itself. `README.md` is the
//! reference of the format.

mod broker;
mod compile;
mod document;
mod expect;
mod graph;
mod inject;
mod kinds;
mod monitor;
mod overrides;
mod plan;
mod problem;
mod rules;
mod telemetry;

pub use expect::{Difference, Missing, Others, TestCase, TestFailure};
pub use graph::{Edge, Graph, Vertex};
pub use kinds::{KindSpec, Kinds, Role, SchemaSpec};
pub use monitor::{Lateness, MonitorConfig, ProbesConfig, WebhookConfig, WebhookUrl};
pub use overrides::{Override, OverrideError};
pub use plan::{BatchConfig, BrokerConfig, BrokerKind, Delivery, Durability, Node, Plan, Property, Retention};
pub use problem::{Place, Problem, Problems, Severity};
pub use rules::{RuleConfig, RuleSeverity, SignalRef, Statistic};
pub use telemetry::{LogFormat, OtlpEndpoint, Sampling, TelemetryConfig};

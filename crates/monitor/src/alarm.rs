//! Alarms: what is said of a change, and the states that it goes through.
//!
//! ```text
//!            evidence ≥ A/10        ≥ A and large enough         no more for a while
//! (nothing) ────────────────► pending ───────────────► firing ───────────────────────► resolved
//!                                │                        │ ack                            ▲
//!                                └─ evidence < A/100 ─►   └──► acknowledged ───────────────┘
//!                                     resolved
//! ```

use std::fmt;

use driftline_stats::{Effect, Probes, Speed, Verdict};
use driftline_types::{PipelineName, RecordId, StageName, StageVersion, Timestamp};
use serde::{Deserialize, Serialize};

use crate::What;

/// Where an alarm is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmState {
    /// Something may be wrong; nobody is called yet.
    Pending,
    /// Something is wrong.
    Firing,
    /// Somebody knows.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl AlarmState {
    /// Says whether something is wrong now, known or not.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Firing | Self::Acknowledged)
    }
}

impl fmt::Display for AlarmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        })
    }
}

/// How much an alarm matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody should look at it.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

/// An alarm, as it stands on the topic of alarms: the last record of an id is how it stands now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Names it within its pipeline: `drift-1`, `rule-NAME-1`.
    pub id: String,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Its state.
    pub state: AlarmState,
    /// How much it matters.
    pub severity: Severity,
    /// What there is to say, in one sentence.
    pub summary: String,
    /// The end of the first window in which it was pending or firing.
    pub since: Timestamp,
    /// The end of the window by which it fired first, if it has.
    pub fired: Option<Timestamp>,
    /// The end of the window by which it was last changed.
    pub updated: Timestamp,
    /// The start of the first window after the change, if it could be told: by the strongest signal that is large
    /// enough, of all or of the origin, whichever is earlier.
    pub onset: Option<Timestamp>,
    /// How the change came, in windows; when is [`onset`](Self::onset).
    pub speed: Option<Speed>,
    /// The evidence when it was last changed: the windows that would pass on average until chance says as much.
    pub evidence: f64,
    /// The node in which it began, if that could be told.
    pub origin: Option<StageName>,
    /// What is said of every node, sources first.
    pub nodes: Vec<NodeFinding>,
    /// The signals that have changed, strongest first.
    pub signals: Vec<SignalFinding>,
    /// Whose doing the change of each last stage is.
    pub traces: Vec<Trace>,
    /// Some of the records that it is about: outputs of its origin since the onset.
    pub examples: Vec<RecordId>,
}

impl Alarm {
    /// Says whether it is of drift; else it is of a rule.
    #[must_use]
    pub fn is_drift(&self) -> bool {
        self.id.starts_with("drift-")
    }
}

/// What is said of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeFinding {
    /// The node.
    pub node: StageName,
    /// What became of it.
    pub verdict: Verdict,
    /// Its version.
    pub version: Option<StageVersion>,
    /// What the probes since the onset say.
    #[serde(default)]
    pub probes: Probes,
    /// The share of its records about which nothing can be said, 0 to 1.
    pub unattributable: f64,
}

/// What is said of a signal, or of P(output | input).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalFinding {
    /// The node.
    pub node: StageName,
    /// What of it.
    pub what: What,
    /// The evidence, as of the alarm.
    pub evidence: f64,
    /// How far it has moved; `None` if that cannot be measured.
    pub effect: Option<Effect>,
    /// In which measure.
    pub measure: Measure,
    /// Before and after, with units, for people.
    pub change: String,
    /// The start of the first window after the change.
    pub onset: Option<Timestamp>,
}

/// How an effect is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The mean distance that values have moved among the reference's, as a part of all of them.
    Ranks,
    /// Jensen–Shannon divergence, bits.
    Divergence,
}

impl Measure {
    /// Returns an effect on the scale of the tolerance. A small shift of a normal signal by δσ moves ranks by
    /// 0.28·δ and the root of the divergence by 0.42·δ: 1.5 times as far.
    #[must_use]
    pub fn size(self, effect: f64) -> f64 {
        match self {
            Self::Ranks => effect,
            Self::Divergence => effect.max(0.0).sqrt() / 1.5,
        }
    }
}

/// Whose doing the change of one stage's output is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The stage.
    pub target: StageName,
    /// How far its output has moved, bits.
    pub divergence: f64,
    /// How far chance moves it once in a thousand times, bits.
    pub floor: f64,
    /// Its change shared out over itself and what lies before it; empty if there is none to share out.
    pub shares: Vec<Share>,
}

/// A part of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Whose: a node, or `a + b` for what those write together into a stage that reads both.
    pub node: String,
    /// The part; all sum to 1, one below 0 undid a part of what others did.
    pub share: f64,
    /// The 5 % and 95 % ranks over resampled windows.
    pub interval: (f64, f64),
}

//! Runs a plan: every source, stage and sink on a thread of its own, the log between them.
//!
//! ```text
//! poll ─► batch (size, bytes, deadline) ─► operator ─► one unit: outputs, dead letters,
//!   ▲                                                   state, profiles, offsets ─► commit
//!   └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What always holds:
//! - Offsets are committed only with everything the records led to, so a run that is killed loses
//!   and repeats nothing: the next one restores the stage's state and goes on at the offset.
//! - A record ends as *used*, *dropped*, *rejected* (dead letter) or *held* in the stage's state.
//! - A batch that fails is repeated (transient), searched for the record that fails (record), or
//!   stops the run (fatal); a stage that panics counts as *record*.
//! - A source waits while the pipeline holds more than [`Limits::backlog_records`].
//! - A node is finished when its inputs are finished, its lag is zero and it has flushed.
//!
//! Nodes block on the broker, so they run on threads; the async runtime only waits for signals
//! and for the threads to end.

mod batch;
mod clock;
mod failure;
pub mod feedback;
mod flow;
mod kinds;
mod letters;
mod metrics;
mod monitoring;
pub mod probes;
pub mod profiles;
mod repeats;
mod report;
mod retry;
mod run;
mod sink_task;
mod source_task;
mod stage_task;
mod state;
pub mod telemetry;
mod topics;
mod webhook;

pub use flow::Limits;
pub use kinds::kinds;
pub use metrics::{Metrics, NodeKind, NodeMetrics, NodeSnapshot};
pub use monitoring::{Companion, Monitoring, Nodes};
pub use report::{NodeReport, Percentiles, Report};
pub use run::{End, RunError, RunOptions, run};
pub use telemetry::{Telemetry, TelemetryError};
pub use topics::{create_topics, pipeline_topics};
pub use webhook::Webhook;

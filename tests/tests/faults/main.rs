//! Lines through a stage on Kafka while brokers die, answers get lost, processes hang, are killed and told to stop,
//! networks break and clocks jump: nothing may be lost or doubled, and the order of each key is kept.
//!
//! `DRIFTLINE_KAFKA` names a cluster on this machine, as `deploy/kafka-local start` prints it; without it the tests say
//! that they were skipped. Each has a long form, which the list of acceptance asks for:
//!
//! ```text
//! DRIFTLINE_KAFKA=… cargo test --release -p driftline-tests --test faults -- --ignored --nocapture --test-threads 1
//! ```
//!
//! What was measured is in `benches/README.md`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod brokers;
mod clock;
mod cluster;
#[path = "../driftline/mod.rs"]
mod driftline;
mod pipeline;
mod poison;
mod processes;
mod proxy;
mod stages;

use std::sync::Mutex;

/// One at a time: each needs the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

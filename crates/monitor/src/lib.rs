//! From profiles to a verdict: what is healthy, and whether it still is.
//!
//! A [`Baseline`] holds what is healthy: the bins that every node counts on, its profiles, and the scores of healthy windows. It
//! is [built](build) from a log and kept in one JSON file. A [`Monitor`] merges the profiles of all replicas, closes windows,
//! feeds detectors, and says what changed, where it began and whose doing it is; it is pure. A [`Service`] runs it on a
//! broker.
//!
//! What always holds:
//! - Profiles in any order, split in any way, from any number of replicas, give the same verdict as long as none is late.
//! - A monitor that is stopped at any moment and started again raises the same alarms.
//! - What cannot be read, comes too late or belongs to another version is told of, and never an alarm.

mod alarm;
mod alertmanager;
mod baseline;
mod build;
mod cause;
mod detect;
mod effect;
mod line;
mod monitor;
mod probes;
mod report;
mod rules;
mod scoring;
mod sentence;
mod service;
mod settings;
mod state;
mod windows;

pub use alarm::{Alarm, AlarmState, Measure, NodeFinding, Severity, Share, SignalFinding, Trace};
pub use alertmanager::alertmanager;
pub use baseline::{Baseline, BaselineError, FORMAT, NodeBaseline, Series};
pub use build::{BuildError, Range, ShowRecord, build};
pub use monitor::{Monitor, ProfileMessage, Status};
pub use report::{Bar, NodeReport, Report, SignalReport};
pub use scoring::{Basis, NodeWindow, What, WhatError};
pub use service::{Ending, Listener, Service, ServiceError, acknowledge, alarms};
pub use settings::Settings;
pub use state::{Note, StateError};

//! From profiles to a verdict: what is healthy, and whether it still is.
//!
//! A [`Baseline`] holds what is healthy: the bins that every node counts on, its profiles, and the scores of healthy windows. It
//! is [built](build) from a log and kept in one JSON file.

mod baseline;
mod build;
mod scoring;

pub use baseline::{Baseline, BaselineError, FORMAT, NodeBaseline, Series};
pub use build::{BuildError, Range, ShowRecord, build};
pub use scoring::{Basis, NodeWindow, What, WhatError};

//! Runs a plan: tasks, batching, backpressure, acknowledgement, drain and metrics.

//! Training and evaluation of inspection networks. Nothing here is needed to inspect.
//!
//! The command is `driftline train inspection`; recipes and figures stand in the cards beside the weights.

pub mod augment;
pub mod calibrate;
pub mod loss;
mod paste;
pub mod report;
pub mod sample;
pub mod study;
pub mod trainer;

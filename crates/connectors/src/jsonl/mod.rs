//! JSON Lines, in and out: one JSON value a line, UTF-8 ([jsonlines.org](https://jsonlines.org)).

mod format;
pub(crate) mod lines;
mod sink;
mod source;

pub use sink::{JsonLinesConfig, JsonLinesSink, StdoutConfig, StdoutSink};
pub use source::{JsonLinesSource, JsonLinesSourceConfig};

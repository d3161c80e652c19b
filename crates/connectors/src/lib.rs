//! Sources and sinks: where records enter a pipeline and where they leave it.
//!
//! | kind | what | type |
//! |---|---|---|
//! | source `audio-files` | recordings, sent as microphones would send them | [`AudioFiles`] |
//! | source `event-files` | logs of real shops: CSV or JSON Lines, the columns named | [`EventFiles`] |
//! | source `shop` | a simulated shop: what its customers do | [`ShopSource`] |
//! | source `image-files` | photographs, sent as cameras would send them | [`ImageFiles`] |
//! | source `camera` | phone screens under a lamp, generated | [`Camera`] |
//! | source `jsonl` | a JSON object a line, from a file or standard input | [`JsonLinesSource`] |
//! | sink `jsonl` | a JSON object a line, into a file or to standard output | [`JsonLinesSink`] |
//! | sink `stdout` | the same to standard output | [`StdoutSink`] |
//!
//! What always holds: input that cannot be used goes to the dead letters with the place, what was
//! found and what is allowed, and the rest goes on; a source that is interrupted and resumed gives
//! the records of one that was not; a file that is written holds each record once.

pub mod audio;
pub mod camera;
pub mod event_files;
mod files;
pub mod images;
pub mod jsonl;
pub mod pacing;
pub mod shop;

pub use audio::AudioFiles;
pub use camera::Camera;
pub use event_files::EventFiles;
pub use images::ImageFiles;
pub use jsonl::{JsonLinesSink, JsonLinesSource, StdoutSink};
pub use shop::ShopSource;

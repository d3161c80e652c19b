//! The config table of the source.

use driftline_stage::{Checks, ConfigProblem, Timestamp, config::ByteSize};
use serde::Deserialize;

use super::traffic::Repeat;
use crate::pacing::{A_TIME, Pace};

/// The config table of the source `audio-files`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioFilesConfig {
    /// A folder (with all folders in it), a file, or a glob.
    pub path: String,
    /// Milliseconds of a piece, 10 to 10,000.
    #[serde(default = "default_chunk_ms")]
    pub chunk_ms: u32,
    /// Whether time passes as it does.
    #[serde(default)]
    pub pace: Pace,
    /// Recordings open at once, 1 to 256.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// Event time of the first piece, RFC 3339.
    #[serde(default = "default_start")]
    pub start: String,
    /// Longest recording, seconds.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: u64,
    /// Largest file.
    #[serde(default = "default_max_file_bytes")]
    pub max_file_bytes: ByteSize,
    /// Put before the name of every session: what tells this source's sessions from another's.
    #[serde(default)]
    pub session_prefix: String,
    /// Sends recordings again and again, drawn at random; `None` sends each once.
    #[serde(default)]
    pub repeat: Option<Repeat>,
}

impl AudioFilesConfig {
    pub(crate) fn problems(&self) -> Vec<ConfigProblem> {
        let Self { path, chunk_ms, sessions, start, max_seconds, .. } = self;
        let mut checks = Checks::default();
        checks.expect(!path.is_empty(), "path", format_args!("{path:?}"), "a folder, a file or a glob");
        checks.expect((10..=10_000).contains(chunk_ms), "chunk_ms", chunk_ms, "a whole number from 10 to 10000");
        checks.expect((1..=256).contains(sessions), "sessions", sessions, "a whole number from 1 to 256");
        checks.expect(Timestamp::parse(start).is_some(), "start", format_args!("{start:?}"), A_TIME);
        let holds = (1..=86_400).contains(max_seconds);
        checks.expect(holds, "max_seconds", max_seconds, "a whole number from 1 to 86400");
        if let Some(repeat) = &self.repeat {
            repeat.check(&mut checks);
        }
        checks.problems()
    }
}

fn default_chunk_ms() -> u32 {
    64
}
fn default_sessions() -> usize {
    8
}
fn default_start() -> String {
    "2000-01-01T00:00:00Z".to_owned()
}
fn default_max_seconds() -> u64 {
    3_600
}
fn default_max_file_bytes() -> ByteSize {
    ByteSize(2 << 30)
}

//! How far the source is, as keyed state.
//!
//! ```text
//! tick                  the next tick
//! drawn                 with `repeat`: the number of the next session
//! file/<path>           a file: its session, and when it was opened, or that it is finished, or what was refused
//! session/<n>/<path>    a session of a repeated recording that is open
//! ```

use bytes::Bytes;
use driftline_payloads::AudioChunk;
use driftline_stage::{SourceBatch, StageError};
use serde::{Deserialize, Serialize};

use crate::files::Stamp;

const TICK: &[u8] = b"tick";
const DRAWN: &[u8] = b"drawn";
const FILE: &str = "file/";
const SESSION: &str = "session/";

/// What a state entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of the session of a repeated recording.
    pub number: Option<u64>,
    /// The path of the recording below the place.
    pub path: String,
}

impl Entry {
    fn key(&self) -> String {
        match self.number {
            None => format!("{FILE}{}", self.path),
            Some(number) => format!("{SESSION}{number}/{}", self.path),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        if let Some(path) = key.strip_prefix(FILE) {
            return Some(Self { number: None, path: path.to_owned() });
        }
        let (number, path) = key.strip_prefix(SESSION)?.split_once('/')?;
        Some(Self { number: Some(number.parse().ok()?), path: path.to_owned() })
    }
}

/// State entry of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub session: String,
    /// Size of the file when it was opened.
    pub bytes: u64,
    /// When it was opened; `None` once it is finished.
    pub opened: Option<Opened>,
    /// The file that was refused before any of it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// The tick of its first piece.
    pub tick: u64,
    /// How many files were opened before it.
    pub order: u64,
    /// Samples a second and channels of the file.
    pub rate: u32,
    pub channels: u16,
}

/// The progress of an interrupted run.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub tick: u64,
    pub drawn: u64,
    /// Files in the order in which they were opened; those that are finished come first.
    pub files: Vec<(Entry, Progress)>,
}

/// Reads the state of an interrupted run.
///
/// # Errors
/// If an entry cannot be read.
pub(crate) fn restore(entries: Vec<(Bytes, Bytes)>) -> Result<Restored, StageError> {
    let mut restored = Restored::default();
    for (key, value) in entries {
        let damaged = || StageError::fatal(format!("state entry {:?} is damaged", String::from_utf8_lossy(&key)));
        let count = || serde_json::from_slice(&value).map_err(|_| damaged());
        match &key[..] {
            TICK => restored.tick = count()?,
            DRAWN => restored.drawn = count()?,
            key => {
                let entry = std::str::from_utf8(key).ok().and_then(Entry::parse).ok_or_else(damaged)?;
                let progress = serde_json::from_slice(&value).map_err(|_| damaged())?;
                restored.files.push((entry, progress));
            }
        }
    }
    restored.files.sort_by_key(|(_, progress)| progress.opened);
    Ok(restored)
}

pub(crate) fn put_tick(out: &mut SourceBatch<AudioChunk>, tick: u64) {
    out.put_state(TICK, tick.to_string());
}

pub(crate) fn put_drawn(out: &mut SourceBatch<AudioChunk>, drawn: u64) {
    out.put_state(DRAWN, drawn.to_string());
}

pub(crate) fn put(out: &mut SourceBatch<AudioChunk>, entry: &Entry, progress: &Progress) -> Result<(), StageError> {
    let value =
        serde_json::to_vec(progress).map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?;
    out.put_state(entry.key(), value);
    Ok(())
}

pub(crate) fn forget(out: &mut SourceBatch<AudioChunk>, entry: &Entry) {
    out.delete_state(entry.key());
}

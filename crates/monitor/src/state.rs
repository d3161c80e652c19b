//! What a monitor remembers, as entries of a compacted topic.
//!
//! | key | value |
//! |---|---|
//! | `meta` | how far it is, alarms and notes: JSON |
//! | `w/<start>` | the scores of a closed window, of every watch: a byte of flags, then for each watch a byte with their number and as many little-endian `f32` |
//! | `p/<start>/<node>/<side>` | the profile of one side of a node over one of the last closed windows, as on the wire |
//!
//! They are written in one unit with the offset up to which profiles are not needed any more.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use driftline_stats::{Profile, References};
use driftline_types::{StageName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Alarm, NodeWindow,
    detect::Scored,
    rules::Crossing,
    windows::{Closed, Progress, Seen},
};

const META: &[u8] = b"meta";
const RESET: u8 = 1;
const ALARMED: u8 = 2;

/// An entry to write; `None` removes it.
pub type Change = (Bytes, Option<Bytes>);

/// Says why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("state of the monitor: entry {entry:?}: {problem}")]
pub struct StateError {
    entry: String,
    problem: String,
}

/// All that is neither scores nor profiles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Which baseline the scores are of.
    pub baseline: String,
    pub progress: Progress,
    /// Windows passed before any was judged.
    #[serde(default)]
    pub passed: u64,
    /// Windows scored.
    pub seen: u64,
    /// Alarms raised.
    pub raised: u64,
    /// Alarms that are not resolved.
    pub alarms: BTreeMap<String, Held>,
    /// The last one that fired and is over.
    #[serde(default)]
    pub over: Option<Alarm>,
    pub notes: BTreeMap<String, Note>,
    /// By rule.
    pub crossings: BTreeMap<String, Crossing>,
}

/// An alarm that is not resolved, and what decides when it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub alarm: Alarm,
    /// The windows since it was last confirmed, and after how many it is over.
    pub quiet: u64,
    pub hold: u64,
}

/// Something worth telling that is no alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// How often it occurred.
    pub times: u64,
    /// What it is, the last time.
    pub text: String,
}

/// What was remembered.
#[derive(Default)]
pub(crate) struct Remembered {
    pub meta: Meta,
    pub scored: Vec<Scored>,
    pub closed: Vec<Closed>,
    /// Entries that say nothing any more.
    pub stale: Vec<Bytes>,
}

fn start_of(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(Timestamp::from_millis)
}

pub(crate) fn meta_change(meta: &Meta) -> Change {
    // A value of plain data always has JSON.
    (Bytes::from_static(META), Some(serde_json::to_vec(meta).unwrap_or_default().into()))
}

fn scored_key(start: Timestamp) -> Bytes {
    format!("w/{}", start.as_millis()).into()
}

pub(crate) fn scored_change(scored: &Scored) -> Change {
    let flags = if scored.reset { RESET } else { 0 } | if scored.alarmed { ALARMED } else { 0 };
    let mut bytes = vec![flags];
    for scores in scored.each() {
        let scores = scores.unwrap_or_default();
        // A watch has far fewer than 256 scores, see `Scored`.
        bytes.push(scores.len() as u8);
        scores.iter().for_each(|score| bytes.extend(score.to_le_bytes()));
    }
    (scored_key(scored.start), Some(bytes.into()))
}

pub(crate) fn scored_forgotten(start: Timestamp) -> Change {
    (scored_key(start), None)
}

fn read_scored(start: Timestamp, bytes: &[u8]) -> Option<Scored> {
    let (&flags, mut rest) = bytes.split_first()?;
    let mut scored = Scored::new(start);
    (scored.reset, scored.alarmed) = (flags & RESET > 0, flags & ALARMED > 0);
    while let Some((&length, after)) = rest.split_first() {
        let (numbers, after) = after.split_at_checked(usize::from(length) * 4)?;
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        scored.push(numbers.chunks_exact(4).map(number));
        rest = after;
    }
    Some(scored)
}

fn closed_key(start: Timestamp, node: &StageName, side: &str) -> Bytes {
    format!("p/{}/{node}/{side}", start.as_millis()).into()
}

/// Writes what nodes saw; `profile` gives a body its key.
pub(crate) fn closed_changes(
    closed: &Closed,
    profile: impl Fn(&StageName, &Seen, driftline_stats::ProfileBody) -> Profile,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (node, seen) in &closed.nodes {
        for body in seen.window.bodies() {
            let key = closed_key(closed.start, node, &body.direction().to_string());
            changes.push((key, Some(profile(node, seen, body).encode().into())));
        }
    }
    changes
}

pub(crate) fn closed_forgotten(closed: &Closed) -> Vec<Change> {
    let keys = closed.nodes.iter().flat_map(|(node, seen)| {
        let sides: Vec<String> = seen.window.bodies().map(|body| body.direction().to_string()).collect();
        sides.into_iter().map(|side| closed_key(closed.start, node, &side)).collect::<Vec<_>>()
    });
    keys.map(|key| (key, None)).collect()
}

/// Reads what was remembered.
///
/// # Errors
/// If an entry is damaged; it is named.
pub(crate) fn read(entries: &[(Bytes, Bytes)], references: &References) -> Result<Remembered, StateError> {
    let mut remembered = Remembered::default();
    let mut closed: BTreeMap<Timestamp, Closed> = BTreeMap::new();
    for (key, value) in entries {
        let name = String::from_utf8_lossy(key).into_owned();
        let damaged = |problem: String| StateError { entry: name.clone(), problem };
        let unreadable = || damaged("is no entry of this version".to_owned());
        let mut parts = name.splitn(4, '/');
        match (parts.next(), parts.next().and_then(start_of)) {
            (Some("meta"), None) => {
                remembered.meta = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
            }
            (Some("w"), Some(start)) => {
                remembered.scored.push(read_scored(start, value).ok_or_else(unreadable)?);
            }
            (Some("p"), Some(start)) => {
                // Of another baseline, whose state is not used, or of another format.
                let Ok(profile) = Profile::decode(value, references) else {
                    remembered.stale.push(key.clone());
                    continue;
                };
                let node = parts.next().and_then(|node| StageName::try_new(node).ok()).ok_or_else(unreadable)?;
                let window = closed.entry(start).or_insert_with(|| Closed { start, ..Closed::default() });
                let seen = window
                    .nodes
                    .entry(node)
                    .or_insert_with(|| Seen { version: profile.key.version.clone(), window: NodeWindow::default() });
                seen.window.add(&profile).map_err(|error| damaged(error.to_string()))?;
            }
            _ => return Err(unreadable()),
        }
    }
    remembered.scored.sort_by_key(|scored| scored.start);
    remembered.closed = closed.into_values().collect();
    Ok(remembered)
}

/// Returns the keys of entries other than those of a state: what is left of another baseline.
pub(crate) fn keys(entries: &[(Bytes, Bytes)]) -> BTreeSet<Bytes> {
    entries.iter().map(|(key, _)| key.clone()).filter(|key| key != META).collect()
}

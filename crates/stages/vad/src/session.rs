//! One session: what was heard of it, and what is kept of its audio.
//!
//! Positions are samples from the session's beginning. `heard ≤ received`: what lies between fills
//! no whole frame of the network yet. Chunks are kept from [`Session::needed`] on, the first
//! sample that a later segment may contain. The segmentation counts from `origin`, which is 0 but
//! after a gap that was not filled; so do frames.
//!
//! State entries, all prefixed by the length (u32) and the bytes of the record key:
//!
//! ```text
//! 0            u32 n, n bytes of JSON (the fields), then the network's state
//! 1 u64-be p   the chunk at p: u32 n, n bytes of JSON (who held it), then its samples as i16
//! ```
//!
//! Chunks are written once and removed once, so a long segment is not written again with every
//! batch. Hence an entry may still name who held a chunk that became part of a segment since: that
//! is so for the chunks that begin before the end of the last segment. Samples go as 16-bit integers, as they came.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use driftline_models::vad::{CHUNK, SessionState};
use driftline_payloads::{AudioChunk, SAMPLE_RATE, SpeechSegment, wav};
use driftline_stage::{Context, Emitter, Held, Key, Probe, Record, RecordId, StageError, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    CLIP, THRESHOLD_SHIFT,
    segmenter::{Rules, SegmentEvent, Segmenter, SegmenterState},
};

/// Longest gap between two chunks that is filled with silence, in samples: 10 seconds.
const MAX_GAP: u64 = 160_000;
/// Latest start of a chunk, in samples: what it holds still has a position in milliseconds.
const MAX_START: u64 = u64::MAX / 2_000;

/// One session.
pub(crate) struct Session {
    network: SessionState,
    segmenter: Segmenter,
    fields: Fields,
    chunks: VecDeque<Chunk>,
    /// Positions of saved chunks that were given up since the last save.
    given_up: Vec<u64>,
    /// Whether its last chunk was accepted.
    ending: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fields {
    /// Of the segmenter, at the last save.
    segmenter: SegmenterState,
    /// Where the segmentation began.
    #[serde(default)]
    origin: u64,
    received: u64,
    heard: u64,
    segments: u32,
    last_end: u64,
    /// Frames (by number) at or above the threshold, from the first one needed on.
    speech: VecDeque<u64>,
    newest: Option<Newest>,
    session: String,
    /// Version of the weights that the network's state is of; empty where it was not kept yet.
    #[serde(default)]
    model: String,
}

/// What is needed of the newest record to emit a segment on its behalf without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Newest {
    id: RecordId,
    event_time: Timestamp,
    ingested: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<Probe>,
}

/// How a chunk goes on with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// After what was received, with silence between where something was lost.
    Next,
    /// By a segmentation of its own: after a gap that is too long, or as the first of a new session.
    Anew,
}

/// What ended a segment.
#[derive(Clone, Copy)]
enum Ending {
    /// Silence, or its length.
    Silence,
    /// The session's end.
    Session,
}

/// A chunk of audio that a later segment may contain.
struct Chunk {
    start: u64,
    samples: Vec<f32>,
    /// `None` for silence put in for chunks that were lost.
    held: Option<Held>,
    saved: bool,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.samples.len() as u64
    }
}

impl Session {
    /// Makes a session of which nothing was heard, and which is heard from a position on.
    pub(crate) fn new(segmenter: Segmenter, network: SessionState, origin: u64) -> Self {
        Self {
            network,
            segmenter,
            fields: Fields {
                segmenter: SegmenterState::default(),
                origin,
                received: origin,
                heard: origin,
                segments: 0,
                last_end: 0,
                speech: VecDeque::new(),
                newest: None,
                session: String::new(),
                model: String::new(),
            },
            chunks: VecDeque::new(),
            given_up: Vec::new(),
            ending: false,
        }
    }

    pub(crate) fn state(&mut self) -> &mut SessionState {
        &mut self.network
    }

    /// Returns the version of the weights whose state was restored.
    pub(crate) fn model(&self) -> &str {
        &self.fields.model
    }

    /// Whether any chunk was accepted.
    pub(crate) fn has_begun(&self) -> bool {
        self.fields.newest.is_some()
    }

    /// Says how a chunk goes on with the session. Chunk 0 begins another one if it is later than the newest chunk; a
    /// repeat of the first chunk is as old as that.
    ///
    /// # Errors
    /// If the chunk begins before the end of what was received, or too far on.
    pub(crate) fn fit(&self, record: &Record<AudioChunk>) -> Result<Fit, String> {
        let (chunk, received) = (&record.value, self.fields.received);
        if (received..=MAX_START).contains(&chunk.start) {
            return Ok(if chunk.start - received > MAX_GAP { Fit::Anew } else { Fit::Next });
        }
        let later = self.fields.newest.as_ref().is_some_and(|newest| record.event_time > newest.event_time);
        if later && (chunk.chunk, chunk.start) == (0, 0) {
            return Ok(Fit::Anew);
        }
        let found = chunk.start;
        Err(if found < received {
            let why = "sent twice, or two sources with sessions of one name?";
            format!("start: found {found}, allowed {received} or later ({why})")
        } else {
            format!("start: found {found}, allowed at most {MAX_START}")
        })
    }

    /// Takes the next chunk; a gap before it is filled with silence.
    pub(crate) fn accept(&mut self, record: &Record<AudioChunk>) {
        let (chunk, received) = (&record.value, self.fields.received);
        let gap = (chunk.start - received) as usize;
        if gap > 0 {
            self.chunks.push_back(Chunk { start: received, samples: vec![0.0; gap], held: None, saved: false });
        }
        self.fields.received = chunk.start + chunk.samples.len() as u64;
        self.ending = chunk.last;
        self.fields.newest = Some(Newest {
            id: record.context.id.clone(),
            event_time: record.event_time,
            ingested: record.context.ingested,
            probe: record.context.probe.clone(),
        });
        self.chunks.push_back(Chunk { start: chunk.start, samples: chunk.samples.clone(), held: None, saved: false });
    }

    /// Ends the session before this one on behalf of this one's first record. After a gap it is the same session: the
    /// segments are counted on.
    pub(crate) fn follow(
        &mut self,
        before: &mut Self,
        record: &Record<AudioChunk>,
        key: &Key,
        out: &mut Emitter<'_, SpeechSegment>,
    ) {
        before.end(Some(record), key, out);
        before.forget(key, out);
        if self.fields.origin > 0 {
            self.fields.segments = before.fields.segments;
            self.fields.last_end = before.fields.last_end;
        }
    }

    /// Returns the audio not heard yet, in whole frames; the session's last one is filled with
    /// silence.
    pub(crate) fn take_frames(&self) -> Vec<f32> {
        let mut frames = self.samples(self.fields.heard, self.fields.received);
        let whole = frames.len() / CHUNK * CHUNK;
        let length = if self.ending && whole < frames.len() { whole + CHUNK } else { whole };
        frames.resize(length, 0.0);
        frames
    }

    /// Follows the network's answers, frame by frame, and emits the segments that end.
    pub(crate) fn hear(
        &mut self,
        threshold: f32,
        records: &[&Record<AudioChunk>],
        probabilities: &[f32],
        out: &mut Emitter<'_, SpeechSegment>,
    ) {
        let mut left = probabilities.iter();
        let mut events = Vec::new();
        for &record in records {
            let end = record.value.start + record.value.samples.len() as u64;
            self.fields.session.clone_from(&record.value.session);
            self.hold(record, out);
            let shift = out.parameter(&THRESHOLD_SHIFT, record) as f32;
            // A frame belongs to the chunk that completes it.
            while self.fields.heard + CHUNK as u64 <= end || record.value.last {
                // Moving the probabilities down moves the thresholds up.
                let Some(probability) = left.next().map(|probability| probability - shift) else { break };
                if probability >= threshold {
                    self.fields.speech.push_back((self.fields.heard - self.fields.origin) / CHUNK as u64);
                }
                self.fields.heard += CHUNK as u64;
                self.segmenter.push(probability, &mut events);
                for event in events.drain(..) {
                    self.emit(event, Ending::Silence, record, out);
                }
            }
            self.give_up(self.needed(), record.event_time, out);
        }
    }

    /// Ends the session: emits what is open, and drops the rest. Without a record, the end is
    /// where the audio ended so far, and the newest record stands for the cause.
    pub(crate) fn end(&mut self, record: Option<&Record<AudioChunk>>, key: &Key, out: &mut Emitter<'_, SpeechSegment>) {
        let cause = match (record, &self.fields.newest) {
            (Some(Record { key, event_time, context, .. }), _) => {
                Record { key: key.clone(), event_time: *event_time, context: context.clone(), value: () }
            }
            (None, Some(newest)) => Record {
                key: key.clone(),
                event_time: newest.event_time,
                context: Context {
                    probe: newest.probe.clone(),
                    ..Context::at_source(newest.id.clone(), newest.ingested)
                },
                value: (),
            },
            (None, None) => return,
        };
        let mut events = Vec::new();
        self.segmenter.finish(self.fields.received - self.fields.origin, &mut events);
        for event in events {
            self.emit(event, Ending::Session, &cause, out);
        }
        self.give_up(u64::MAX, cause.event_time, out);
    }

    fn hold(&mut self, record: &Record<AudioChunk>, out: &mut Emitter<'_, SpeechSegment>) {
        if record.value.samples.is_empty() {
            return;
        }
        if let Some(chunk) =
            self.chunks.iter_mut().find(|chunk| chunk.start == record.value.start && !chunk.samples.is_empty())
        {
            chunk.held = Some(out.hold(record));
        }
    }

    fn emit<I>(
        &mut self,
        event: SegmentEvent,
        ending: Ending,
        cause: &Record<I>,
        out: &mut Emitter<'_, SpeechSegment>,
    ) {
        let SegmentEvent::Ended { start, end } = event else { return };
        let clip = (out.parameter(&CLIP, cause) * f64::from(SAMPLE_RATE) / 1_000.0) as u64;
        let origin = self.fields.origin;
        let (start, end) = (origin + start + clip, (origin + end).saturating_sub(clip));
        if start >= end {
            // Its chunks are dropped when they are given up.
            return;
        }
        let inside = |chunk: &&mut Chunk| chunk.start < end && chunk.end() > start;
        let parts = self.chunks.iter_mut().filter(inside).filter_map(|chunk| chunk.held.take()).collect();
        let frames = (start - origin) / CHUNK as u64..(end - origin).div_ceil(CHUNK as u64);
        let speech = self.fields.speech.iter().filter(|frame| frames.contains(frame)).count();
        let value = SpeechSegment {
            session: self.fields.session.clone(),
            segment: self.fields.segments,
            start_ms: to_ms(start),
            end_ms: to_ms(end),
            speech_ratio: speech as f32 / (frames.end - frames.start).max(1) as f32,
            silence_before_ms: to_ms(start.saturating_sub(self.fields.last_end)),
            silence_after_ms: match ending {
                Ending::Silence => Some(to_ms(self.fields.heard.saturating_sub(end))),
                Ending::Session => None,
            },
            samples: self.samples(start, end),
        };
        self.fields.segments += 1;
        self.fields.last_end = end;
        out.emit_held(cause, parts, value);
    }

    /// Returns the first sample that a later segment may contain.
    fn needed(&self) -> u64 {
        (self.fields.origin + self.segmenter.needed_from()).min(self.fields.heard)
    }

    /// Gives up the chunks that end before a position, decided at an event time; those still held are dropped.
    fn give_up(&mut self, before: u64, at: Timestamp, out: &mut Emitter<'_, SpeechSegment>) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= before) {
            let Some(chunk) = self.chunks.pop_front() else { break };
            out.drop_held(chunk.held, at);
            if chunk.saved {
                self.given_up.push(chunk.start);
            }
        }
        let origin = self.fields.origin;
        while self.fields.speech.front().is_some_and(|frame| origin + (frame + 1) * CHUNK as u64 <= before) {
            self.fields.speech.pop_front();
        }
    }

    fn samples(&self, start: u64, end: u64) -> Vec<f32> {
        let mut samples = Vec::with_capacity(end.saturating_sub(start) as usize);
        for chunk in &self.chunks {
            let from = start.clamp(chunk.start, chunk.end()) - chunk.start;
            let to = end.clamp(chunk.start, chunk.end()) - chunk.start;
            samples.extend_from_slice(&chunk.samples[from as usize..to as usize]);
        }
        samples
    }
}

fn to_ms(samples: u64) -> u64 {
    samples * 1_000 / u64::from(driftline_payloads::SAMPLE_RATE)
}

// State.

const FIELDS: u8 = 0;
const CHUNK_AT: u8 = 1;

fn state_key(key: &Key, tail: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 + key.as_bytes().len() + tail.len());
    bytes.put_u32(key.as_bytes().len() as u32);
    bytes.put_slice(key.as_bytes());
    bytes.put_slice(tail);
    bytes.freeze()
}

fn chunk_key(key: &Key, start: u64) -> Bytes {
    let mut tail = [CHUNK_AT; 9];
    tail[1..].copy_from_slice(&start.to_be_bytes());
    state_key(key, &tail)
}

impl Session {
    /// Writes what has changed since the last save; `model` is the version of the weights.
    pub(crate) fn save(
        &mut self,
        model: &str,
        key: &Key,
        out: &mut Emitter<'_, SpeechSegment>,
    ) -> Result<(), StageError> {
        let unwritable = |error: serde_json::Error| StageError::fatal("state has no encoding").caused_by(error);
        for start in self.given_up.drain(..) {
            out.delete_state(chunk_key(key, start));
        }
        for chunk in self.chunks.iter_mut().filter(|chunk| !chunk.saved && !chunk.samples.is_empty()) {
            let held = serde_json::to_vec(&chunk.held).map_err(unwritable)?;
            let mut value = BytesMut::with_capacity(4 + held.len() + 2 * chunk.samples.len());
            value.put_u32(held.len() as u32);
            value.put_slice(&held);
            for sample in &chunk.samples {
                value.put_i16_le(wav::to_16_bits(*sample));
            }
            out.put_state(chunk_key(key, chunk.start), value.freeze());
            chunk.saved = true;
        }
        self.fields.segmenter = self.segmenter.state().clone();
        model.clone_into(&mut self.fields.model);
        let fields = serde_json::to_vec(&self.fields).map_err(unwritable)?;
        let network = self.network.to_bytes();
        let mut value = BytesMut::with_capacity(4 + fields.len() + network.len());
        value.put_u32(fields.len() as u32);
        value.put_slice(&fields);
        value.put_slice(&network);
        out.put_state(state_key(key, &[FIELDS]), value.freeze());
        Ok(())
    }

    /// Removes every entry of the session.
    pub(crate) fn forget(&mut self, key: &Key, out: &mut Emitter<'_, SpeechSegment>) {
        let saved = self.chunks.iter().filter(|chunk| chunk.saved).map(|chunk| chunk.start);
        for start in self.given_up.drain(..).chain(saved) {
            out.delete_state(chunk_key(key, start));
        }
        out.delete_state(state_key(key, &[FIELDS]));
    }
}

/// Rebuilds the sessions of a partition.
pub(crate) fn restore(rules: Rules, entries: Vec<(Bytes, Bytes)>) -> Result<HashMap<Key, Session>, StageError> {
    let damaged = || StageError::fatal("a state entry of the vad stage is damaged");
    let mut fields = HashMap::new();
    let mut chunks: HashMap<Key, Vec<Chunk>> = HashMap::new();
    for (mut name, mut value) in entries {
        let length = name.try_get_u32().map_err(|_| damaged())? as usize;
        if name.len() <= length {
            return Err(damaged());
        }
        let key = Key::new(name.split_to(length));
        let json = value.try_get_u32().map_err(|_| damaged())? as usize;
        if value.len() < json {
            return Err(damaged());
        }
        let json = value.split_to(json);
        match name.get_u8() {
            FIELDS => {
                let read: Fields = serde_json::from_slice(&json).map_err(|error| damaged().caused_by(error))?;
                let network = SessionState::from_bytes(&value).map_err(|error| damaged().caused_by(error))?;
                fields.insert(key, (read, network));
            }
            CHUNK_AT => {
                let start = name.try_get_u64().map_err(|_| damaged())?;
                let held = serde_json::from_slice(&json).map_err(|error| damaged().caused_by(error))?;
                let samples = value.chunks_exact(2).map(|b| wav::from_16_bits(i16::from_le_bytes([b[0], b[1]])));
                chunks.entry(key).or_default().push(Chunk { start, samples: samples.collect(), held, saved: true });
            }
            _ => return Err(damaged()),
        }
    }
    let mut sessions = HashMap::new();
    for (key, (fields, network)) in fields {
        let mut chunks = chunks.remove(&key).unwrap_or_default();
        chunks.sort_by_key(|chunk| chunk.start);
        for chunk in chunks.iter_mut().filter(|chunk| chunk.start < fields.last_end) {
            chunk.held = None;
        }
        let segmenter = Segmenter::resume(rules, fields.segmenter.clone());
        let chunks = chunks.into();
        sessions.insert(key, Session { network, segmenter, fields, chunks, given_up: Vec::new(), ending: false });
    }
    Ok(sessions)
}

//! The voice-activity detection stage: audio in, speech segments out.
//!
//! Each session has a recurrent state of the network and a [`segmenter::Segmenter`]. The chunks of a batch go
//! through the network together, all sessions side by side: one session at a time wastes the
//! machine. Only speech leaves the stage; a chunk that became no part of a segment is dropped.
//!
//! Everything a session needs is keyed state, committed with the batch that changed it: a run that
//! is killed in the middle of a word goes on in the middle of that word. If the model was changed meanwhile, the new
//! network begins afresh there.
//!
//! # Where a session begins and ends
//!
//! A session is what comes with one key up to the chunk that is marked as the last one. What is lost or comes again on
//! the way there:
//! - A gap of at most 10 s is filled with silence. A longer one ends the segment that is open, as the session's end
//!   would, and what comes after it is heard as if nothing had been before. Positions and the numbers of segments go on.
//! - A chunk that begins before the end of what was received is rejected; the last one ends its session nevertheless.
//! - Chunk 0 at position 0 begins a new session if its event time is after that of the newest chunk: a client that has
//!   lost its connection is back. What was open is ended and forgotten. A repeat of the first chunk has its event time,
//!   by which it is known and rejected; so is a session that is sent again as a whole, event times included, as long as
//!   it is open. Of one that has ended nothing is kept: sent again, it is heard again.
//!
//! Two sources whose sessions have names in common are one source to this stage: their chunks get mixed up, and most of them
//! are rejected. `session_prefix` of `audio-files` keeps them apart.
//!
//! Time alone ends no session: one that is left open stays until the input ends, or something more comes with its key.
//!
//! Two parameters may be injected: `clip_ms` cuts the ends off segments as some telephones do, `threshold_shift` moves both
//! thresholds.

mod config;
pub mod segmenter;
mod session;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use driftline_models::vad::{CHUNK, Detector, SessionState};
use driftline_payloads::{AudioChunk, SpeechSegment};
use driftline_stage::{ConfigProblem, Emitter, Key, Parameter, Record, Stage, StageError, StageKind, config::BUILTIN};

pub use config::Config;

use crate::{
    segmenter::{Rules, Segmenter},
    session::{Fit, Session},
};

/// The `vad` kind of stage.
pub struct Vad {
    detector: Detector,
    /// The state of a session of which nothing was heard.
    fresh: SessionState,
    rules: Rules,
}

pub(crate) static CLIP: Parameter = Parameter {
    name: "clip_ms",
    unit: "ms",
    help: "what is cut off both ends of each segment; one that is shorter than both is lost",
    min: 0.0,
    max: 5_000.0,
    neutral: 0.0,
};
pub(crate) static THRESHOLD_SHIFT: Parameter = Parameter {
    name: "threshold_shift",
    unit: "1",
    help: "added to the probabilities from which a frame is speech and below which it is silence",
    min: -1.0,
    max: 1.0,
    neutral: 0.0,
};

/// Silence that the built-in network hears before a session, in frames: half a second. Recordings of
/// single words often begin with the word; without a silence before it the network, which was
/// trained on whole scenes, misses one in six of them.
const LEAD_IN: usize = 16;

impl StageKind for Vad {
    const KIND: &'static str = "vad";
    const PATHS: &'static [&'static str] = &["model"];
    const PARAMETERS: &'static [&'static Parameter] = &[&CLIP, &THRESHOLD_SHIFT];
    type Config = Config;
    type Stage = VadStage;

    fn check(config: &Config) -> Vec<ConfigProblem> {
        config.problems()
    }

    fn open(config: Config) -> Result<Self, StageError> {
        let rules = Rules::try_new(&config).map_err(|problems| {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            StageError::fatal(problems.join("; "))
        })?;
        let detector =
            if config.model == BUILTIN { Detector::builtin() } else { Detector::load(Path::new(&config.model)) };
        let unusable = |error| StageError::fatal("the model cannot be used").caused_by(error);
        let detector = detector.map_err(unusable)?;
        let mut fresh = detector.new_state();
        if config.model == BUILTIN {
            detector.detect(&mut [&mut fresh], &[&[0.0; LEAD_IN * CHUNK]]).map_err(unusable)?;
        }
        Ok(Self { detector, fresh, rules })
    }

    fn fingerprint(&self) -> String {
        self.detector.version().to_owned()
    }

    fn instance(&self) -> VadStage {
        VadStage {
            detector: self.detector.clone(),
            fresh: self.fresh.clone(),
            rules: self.rules,
            sessions: HashMap::new(),
        }
    }
}

/// The stage of one partition.
pub struct VadStage {
    detector: Detector,
    fresh: SessionState,
    rules: Rules,
    sessions: HashMap<Key, Session>,
}

impl Stage for VadStage {
    type Input = AudioChunk;
    type Output = SpeechSegment;

    fn process(
        &mut self,
        batch: &[Record<AudioChunk>],
        out: &mut Emitter<'_, SpeechSegment>,
    ) -> Result<(), StageError> {
        // Chunks after a session's last one begin a new session: the batch is worked off in rounds
        // in which each session begins and ends at most once.
        let mut rest: Vec<&Record<AudioChunk>> = batch.iter().collect();
        while !rest.is_empty() {
            rest = self.round(rest, out)?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Emitter<'_, SpeechSegment>) -> Result<(), StageError> {
        let mut open: Vec<(Key, Session)> = self.sessions.drain().collect();
        // In the order of the keys, so that a repeat gives the same records in the same order.
        open.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, mut session) in open {
            session.end(None, &key, out);
            session.forget(&key, out);
        }
        Ok(())
    }

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        self.sessions = session::restore(self.rules, entries)?;
        let mut foreign = 0;
        for session in self.sessions.values_mut() {
            if session.model() != self.detector.version() {
                *session.state() = self.fresh.clone();
                foreign += 1;
            }
        }
        if foreign > 0 {
            tracing::warn!(
                sessions = foreign,
                "the model is another one, open sessions go on with a fresh state of it"
            );
        }
        Ok(())
    }
}

/// What a round does with one session.
struct Turn<'a> {
    key: &'a Key,
    /// The session that the first record ends.
    before: Option<Session>,
    session: Session,
    /// The records that it accepted.
    records: Vec<&'a Record<AudioChunk>>,
    /// The record that ends it.
    end: Option<&'a Record<AudioChunk>>,
    /// Whether further records are for the next round.
    full: bool,
}

impl VadStage {
    /// Makes a session that is heard from a position on.
    fn begin(&self, origin: u64) -> Session {
        Session::new(Segmenter::new(self.rules), self.fresh.clone(), origin)
    }

    /// Processes the records up to where each session ends or begins anew, and returns those beyond.
    fn round<'a>(
        &mut self,
        records: Vec<&'a Record<AudioChunk>>,
        out: &mut Emitter<'_, SpeechSegment>,
    ) -> Result<Vec<&'a Record<AudioChunk>>, StageError> {
        let mut beyond = Vec::new();
        let mut turns: Vec<Turn<'a>> = Vec::new();
        let mut places: HashMap<&'a Key, usize> = HashMap::new();
        for record in records {
            let key = &record.key;
            let place = *places.entry(key).or_insert(turns.len());
            if place == turns.len() {
                let session = self.sessions.remove(key).unwrap_or_else(|| self.begin(0));
                turns.push(Turn { key, before: None, session, records: Vec::new(), end: None, full: false });
            }
            let turn = &mut turns[place];
            let fit = turn.session.fit(record);
            // What begins anew is the first of a round: what it ends has been heard by then, and all that is emitted on
            // its behalf is emitted together.
            turn.full |= !turn.records.is_empty() && matches!(fit, Ok(Fit::Anew));
            if turn.full {
                beyond.push(record);
                continue;
            }
            match fit {
                Ok(fit) => {
                    if fit == Fit::Anew {
                        let before = std::mem::replace(&mut turn.session, self.begin(record.value.start));
                        turn.before = before.has_begun().then_some(before);
                    }
                    turn.session.accept(record);
                    turn.records.push(record);
                }
                Err(reason) => out.reject(record, reason),
            }
            if record.value.last {
                turn.end = Some(record);
                turn.full = true;
            }
        }

        let probabilities = self.detect(&mut turns)?;
        for (turn, probabilities) in turns.into_iter().zip(probabilities) {
            let Turn { key, before, mut session, records, end, .. } = turn;
            if let (Some(mut before), Some(first)) = (before, records.first()) {
                session.follow(&mut before, first, key, out);
            }
            session.hear(self.rules.threshold(), &records, &probabilities, out);
            if let Some(end) = end {
                session.end(Some(end), key, out);
                session.forget(key, out);
            } else if session.has_begun() {
                if !records.is_empty() {
                    session.save(self.detector.version(), key, out)?;
                }
                // Copied: a slice would keep all that was read beside the record.
                self.sessions.insert(Key::new(Bytes::copy_from_slice(key.as_bytes())), session);
            }
        }
        Ok(beyond)
    }

    /// Runs the network over the whole frames of every session, side by side.
    fn detect(&self, turns: &mut [Turn<'_>]) -> Result<Vec<Vec<f32>>, StageError> {
        let audio: Vec<Vec<f32>> = turns.iter().map(|turn| turn.session.take_frames()).collect();
        let audio: Vec<&[f32]> = audio.iter().map(Vec::as_slice).collect();
        let mut states: Vec<&mut SessionState> = turns.iter_mut().map(|turn| turn.session.state()).collect();
        debug_assert!(audio.iter().all(|frames| frames.len() % CHUNK == 0));
        self.detector
            .detect(&mut states, &audio)
            .map_err(|error| StageError::record("the detector failed").caused_by(error))
    }
}

//! The voice-activity detection stage: audio in, speech segments out.
//!
//! Each session has a recurrent state of the network and a [`segmenter::Segmenter`]. The chunks of a batch go
//! through the network together, all sessions side by side: one session at a time wastes the
//! machine. Only speech leaves the stage; a chunk that became no part of a segment is dropped.
//!
//! Everything a session needs is keyed state, committed with the batch that changed it: a run that
//! is killed in the middle of a word goes on in the middle of that word.
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
use driftline_stage::{ConfigProblem, Emitter, Key, Parameter, Record, Stage, StageError, StageKind};

pub use config::Config;

use crate::{
    config::BUILTIN,
    segmenter::{Rules, Segmenter},
    session::Session,
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
        // in which each session ends at most once.
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
        Ok(())
    }
}

impl VadStage {
    /// Processes the records up to each session's last chunk and returns those beyond.
    fn round<'a>(
        &mut self,
        records: Vec<&'a Record<AudioChunk>>,
        out: &mut Emitter<'_, SpeechSegment>,
    ) -> Result<Vec<&'a Record<AudioChunk>>, StageError> {
        let mut beyond = Vec::new();
        let mut order: Vec<Key> = Vec::new();
        let mut work: HashMap<Key, (Session, Vec<&'a Record<AudioChunk>>)> = HashMap::new();
        for record in records {
            let (session, accepted) = match work.get_mut(&record.key) {
                Some(found) => found,
                None => {
                    order.push(record.key.clone());
                    let new = || Session::new(Segmenter::new(self.rules), self.fresh.clone());
                    let session = self.sessions.remove(&record.key).unwrap_or_else(new);
                    work.entry(record.key.clone()).or_insert((session, Vec::new()))
                }
            };
            if accepted.last().is_some_and(|last| last.value.last) {
                beyond.push(record);
                continue;
            }
            match session.accept(record) {
                Ok(()) => accepted.push(record),
                Err(reason) => out.reject(record, reason),
            }
        }

        let mut ready: Vec<(Key, Session, Vec<&Record<AudioChunk>>)> = order
            .into_iter()
            .filter_map(|key| work.remove(&key).map(|(session, records)| (key, session, records)))
            .collect();
        let probabilities = self.detect(&mut ready)?;
        for ((key, mut session, records), probabilities) in ready.into_iter().zip(probabilities) {
            session.hear(self.rules.threshold(), &records, &probabilities, out);
            match records.last() {
                Some(last) if last.value.last => {
                    session.end(Some(last), &key, out);
                    session.forget(&key, out);
                }
                _ => {
                    session.save(&key, out)?;
                    self.sessions.insert(key, session);
                }
            }
        }
        Ok(beyond)
    }

    /// Runs the network over the whole frames of every session, side by side.
    fn detect(&self, ready: &mut [(Key, Session, Vec<&Record<AudioChunk>>)]) -> Result<Vec<Vec<f32>>, StageError> {
        let audio: Vec<Vec<f32>> = ready.iter_mut().map(|(_, session, _)| session.take_frames()).collect();
        let audio: Vec<&[f32]> = audio.iter().map(Vec::as_slice).collect();
        let mut states: Vec<&mut SessionState> = ready.iter_mut().map(|(_, session, _)| session.state()).collect();
        debug_assert!(audio.iter().all(|frames| frames.len() % CHUNK == 0));
        self.detector
            .detect(&mut states, &audio)
            .map_err(|error| StageError::record("the detector failed").caused_by(error))
    }
}

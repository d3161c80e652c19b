//! Voice-activity detection: how probable it is that somebody speaks, for every 32 ms of each of many sessions.
//!
//! Two networks answer the same call: that of Silero VAD v6, with its published weights from a file, and our own,
//! which is part of the binary. Both look at chunks of 512 samples at 16 kHz behind 64 samples of context, and both
//! are recurrent, so each session has a [`SessionState`] that the caller keeps (and may store).
//!
//! One session at a time wastes the machine: a single chunk is a product of matrices with vectors, which waits for
//! the weights instead of computing. So one call takes the chunks of many sessions, and several of each where they
//! have come in faster than real time. What always holds: a session's probabilities are, bit for bit, the same in
//! whatever company and in whatever portions its chunks are handed in.
//!
//! The arithmetic is written for these two networks (`dense`) and not in candle tensors, because at this size an
//! operation on a tensor costs more than its arithmetic. candle defines both networks where speed does not matter:
//! ours in the training binary, Silero's in `tests/vad_candle.rs`, which requires both ways to agree.
//!
//! ```
//! use driftline_models::vad::{CHUNK, Detector};
//!
//! let detector = Detector::builtin()?;
//! let (mut one, mut two) = (detector.new_state(), detector.new_state());
//! let silence = [0.0; 2 * CHUNK];
//! let speech = detector.detect(&mut [&mut one, &mut two], &[&silence[..CHUNK], &silence])?;
//! assert_eq!((speech[0].len(), speech[1].len()), (1, 2));
//! assert!(speech[1][0] < 0.5);
//! # Ok::<(), driftline_models::ModelError>(())
//! ```

use std::{path::Path, sync::Arc};

use rayon::prelude::*;

pub use self::state::SessionState;
use self::{
    builtin::Builtin,
    network::{Advance, Network},
    silero::Silero,
    state::NetworkKind,
    weights::Weights,
};
use crate::{ModelError, inspect::header::read_checked};

pub mod builtin;
pub(crate) mod dense;
mod elementary;
pub mod features;
mod network;
mod silero;
mod spectrum;
mod state;
mod weights;

/// Samples a second.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples of a chunk, 32 ms.
pub const CHUNK: usize = 512;
/// Samples before a chunk that the networks see with it.
pub const CONTEXT: usize = 64;

/// Samples the networks see at once.
const INPUT: usize = CONTEXT + CHUNK;
/// Largest magnitude of a sample. Full scale is 1; far beyond it squares overflow, and a state that is once NaN stays
/// it.
const LOUDEST: f32 = 1e6;
/// Sessions below which a further thread costs more than it gains.
const SESSIONS_PER_THREAD: usize = 8;

/// A voice-activity detector. Cheap to clone; clones share the weights.
#[derive(Clone, Debug)]
pub struct Detector {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    network: AnyNetwork,
    version: String,
}

#[derive(Debug)]
enum AnyNetwork {
    Silero(Silero),
    Builtin(Builtin),
}

impl Detector {
    /// Opens the network in the binary.
    ///
    /// # Errors
    ///
    /// None in a binary whose tests have passed.
    pub fn builtin() -> Result<Self, ModelError> {
        Self::parse(Path::new("builtin"), builtin::BYTES)
    }

    /// Opens a weights file: `silero_vad_16k.safetensors` of the Python package `silero-vad` 6.2, or one written by
    /// the training binary. Which of them it is is recognised by the names of its tensors.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is no safetensors file, is neither network, or has a tensor of another type or
    /// shape.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::parse(path, &read_checked(path)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let weights = Weights::parse(path, bytes)?;
        let network = if weights.has(Silero::MARK) {
            AnyNetwork::Silero(Silero::load(&weights)?)
        } else if weights.has(Builtin::MARK) {
            AnyNetwork::Builtin(Builtin::load(&weights)?)
        } else {
            let allowed =
                format!("{} (Silero VAD v6, 16 kHz) or {} (Driftline) among them", Silero::MARK, Builtin::MARK);
            return Err(weights.refuse("tensors", weights.names(), allowed));
        };
        let version = blake3::hash(bytes).to_hex()[..16].to_owned();
        Ok(Self { inner: Arc::new(Inner { network, version }) })
    }

    /// Makes the state of a session of which nothing has been heard.
    pub fn new_state(&self) -> SessionState {
        let (kind, hidden) = self.shape();
        SessionState::new(kind, hidden)
    }

    /// Returns the version of the weights: the first 16 hexadecimal digits of the file's BLAKE3 hash.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Computes the probability of speech in each chunk of each session and advances the sessions' states.
    ///
    /// `audio[i]` holds samples of the session of `states[i]`, full scale ±1, any number of chunks of 512, also none.
    /// The result has as many probabilities for session `i`, each in `[0, 1]`. Sessions are spread over the threads
    /// of the current rayon pool.
    ///
    /// # Errors
    ///
    /// As many states as pieces of audio must be given, every state made by a detector with this kind of network,
    /// every piece a whole number of chunks, every sample finite and at most 10⁶ in magnitude. Otherwise nothing has
    /// been computed and no state has changed.
    pub fn detect(&self, states: &mut [&mut SessionState], audio: &[&[f32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check(states, audio)?;
        match &self.inner.network {
            AnyNetwork::Silero(network) => Ok(spread(network, states, audio)),
            AnyNetwork::Builtin(network) => Ok(spread(network, states, audio)),
        }
    }

    fn shape(&self) -> (NetworkKind, usize) {
        match self.inner.network {
            AnyNetwork::Silero(_) => (Silero::KIND, Silero::HIDDEN),
            AnyNetwork::Builtin(_) => (Builtin::KIND, Builtin::HIDDEN),
        }
    }

    fn check(&self, states: &[&mut SessionState], audio: &[&[f32]]) -> Result<(), ModelError> {
        let refuse = |place: String, found: String, allowed: String| Err(ModelError::Input { place, found, allowed });
        if states.len() != audio.len() {
            return refuse(
                "voice-activity batch".to_owned(),
                format!("{} states", states.len()),
                format!("{}, one a piece of audio", audio.len()),
            );
        }
        let (kind, hidden) = self.shape();
        for (i, (state, samples)) in states.iter().zip(audio).enumerate() {
            if state.network != kind || state.hidden.len() != hidden {
                let found = format!("{:?} of {} values", state.network, state.hidden.len());
                return refuse(format!("state {i}"), found, format!("{kind:?} of {hidden} values"));
            }
            if samples.len() % CHUNK != 0 {
                return refuse(
                    format!("audio {i}"),
                    format!("{} samples", samples.len()),
                    format!("multiples of {CHUNK}"),
                );
            }
            // One pass that compiles to vector code; which sample it was matters only where there is one.
            let (largest, sum) = samples
                .iter()
                .fold((0.0f32, 0.0f32), |(largest, sum), sample| (largest.max(sample.abs()), sum + sample * 0.0));
            if sum.is_nan() {
                let index = samples.iter().position(|sample| !sample.is_finite()).unwrap_or_default();
                return Err(ModelError::NonFiniteSample { segment: i, index, value: samples[index] });
            }
            if largest > LOUDEST {
                return refuse(
                    format!("audio {i}"),
                    format!("a sample of magnitude {largest}"),
                    format!("at most {LOUDEST}"),
                );
            }
        }
        Ok(())
    }
}

/// Advances the sessions in groups, one a thread.
fn spread<N: Network>(network: &N, states: &mut [&mut SessionState], audio: &[&[f32]]) -> Vec<Vec<f32>> {
    let arch = pulp::Arch::new();
    let group = audio.len().div_ceil(rayon::current_num_threads()).max(SESSIONS_PER_THREAD);
    if audio.len() <= group {
        return arch.dispatch(Advance { network, states, audio });
    }
    states
        .par_chunks_mut(group)
        .zip(audio.par_chunks(group))
        .flat_map_iter(|(states, audio)| arch.dispatch(Advance { network, states, audio }))
        .collect()
}

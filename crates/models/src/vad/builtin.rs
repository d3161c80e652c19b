//! Our own network, small enough to be part of the binary: 96 log-mel features of a chunk, two dense layers (128, 64;
//! ReLU), a gated recurrent unit of 96 (Cho et al. 2014, in the form of cuDNN, where the reset gate acts on the
//! recurrent product), a logistic unit. 67,233 parameters, a sixth of Silero's multiplications.
//!
//! `weights/vad.md` says how it was trained and what it reaches; `src/bin/train-vad` trains it.

use pulp::Simd;

use super::{
    INPUT,
    dense::{Dense, Mode, Rows},
    elementary::{sigmoid, tanh},
    features::{BANDS, FEATURES, LogMel, LogMelScratch},
    network::Network,
    state::NetworkKind,
    weights::Weights,
};
use crate::ModelError;

/// Outputs of the first dense layer.
pub const FIRST: usize = 128;
/// Outputs of the second dense layer.
pub const SECOND: usize = 64;
/// Width of the recurrent unit.
pub const CELL: usize = 96;

/// The weights in the binary.
pub(super) const BYTES: &[u8] = include_bytes!("../../weights/vad.safetensors");

/// The built-in network.
#[derive(Debug)]
pub(super) struct Builtin {
    log_mel: LogMel,
    first: Dense,
    second: Dense,
    input: Dense,
    /// Recurrent weights of the reset and the update gate.
    gates: Dense,
    /// Recurrent weights of the candidate.
    candidate: Dense,
    head: Vec<f32>,
    head_bias: f32,
}

/// Activations for one tile of chunks, and the recurrent part of the candidate for one step.
pub(super) struct BuiltinScratch {
    log_mel: LogMelScratch,
    /// `[chunk][96]`
    features: Vec<f32>,
    /// `[chunk][128]`
    first: Vec<f32>,
    /// `[chunk][64]`
    second: Vec<f32>,
    /// `[session][96]`
    candidate: Vec<f32>,
}

impl Builtin {
    /// The tensor by which the file is recognised.
    pub(super) const MARK: &str = "gru.recurrent.weight";

    pub(super) fn load(weights: &Weights<'_>) -> Result<Self, ModelError> {
        let dense = |name: &str, inputs: usize, outputs: usize| {
            let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
            Ok::<_, ModelError>(Dense::new(inputs, bias, |input, output| weight[output * inputs + input]))
        };
        let mean = weights.take("features.mean", &[BANDS])?;
        let scale = weights.take("features.scale", &[BANDS])?;
        let weight = weights.take("encoder.0.weight", &[FIRST, FEATURES])?;
        let mut bias = weights.take("encoder.0.bias", &[FIRST])?;
        for (bias, weight) in bias.iter_mut().zip(weight.chunks_exact(FEATURES)) {
            *bias -= weight.iter().enumerate().map(|(i, w)| w * mean[i % BANDS] * scale[i % BANDS]).sum::<f32>();
        }
        let recurrent = weights.take(Self::MARK, &[3 * CELL, CELL])?;
        let candidate_bias = weights.take("gru.recurrent.bias", &[CELL])?;
        Ok(Self {
            log_mel: LogMel::new(),
            first: Dense::new(FEATURES, bias, |input, output| weight[output * FEATURES + input] * scale[input % BANDS]),
            second: dense("encoder.1", FIRST, SECOND)?,
            input: dense("gru.input", SECOND, 3 * CELL)?,
            gates: Dense::new(CELL, vec![0.0; 2 * CELL], |input, output| recurrent[output * CELL + input]),
            candidate: Dense::new(CELL, candidate_bias, |input, output| recurrent[(2 * CELL + output) * CELL + input]),
            head: weights.take("head.weight", &[1, CELL])?,
            head_bias: weights.take("head.bias", &[1])?[0],
        })
    }
}

impl Network for Builtin {
    const KIND: NetworkKind = NetworkKind::Driftline;
    const HIDDEN: usize = CELL;
    const GATES: usize = 3 * CELL;
    type Scratch = BuiltinScratch;

    fn scratch(&self, chunks: usize) -> BuiltinScratch {
        BuiltinScratch {
            log_mel: self.log_mel.scratch(),
            features: vec![0.0; chunks * FEATURES],
            first: vec![0.0; chunks * FIRST],
            second: vec![0.0; chunks * SECOND],
            candidate: Vec::new(),
        }
    }

    #[inline(always)]
    fn encode<S: Simd>(&self, simd: S, scratch: &mut BuiltinScratch, samples: &[f32], gates: &mut [f32]) {
        let BuiltinScratch { log_mel, features, first, second, .. } = scratch;
        let chunks = samples.len() / INPUT;
        for (samples, features) in samples.chunks_exact(INPUT).zip(features.chunks_exact_mut(FEATURES)) {
            self.log_mel.extract(log_mel, samples, features);
        }
        self.first.apply(simd, chunks, features, Rows::single(FEATURES), first, Rows::single(FIRST), Mode::Relu);
        self.second.apply(simd, chunks, first, Rows::single(FIRST), second, Rows::single(SECOND), Mode::Relu);
        self.input.apply(simd, chunks, second, Rows::single(SECOND), gates, Rows::single(Self::GATES), Mode::Affine);
    }

    #[inline(always)]
    fn step<S: Simd>(
        &self,
        simd: S,
        scratch: &mut BuiltinScratch,
        hidden: &mut [f32],
        gates: &mut [f32],
        probabilities: &mut [f32],
    ) {
        let sessions = probabilities.len();
        let recurrent = &mut scratch.candidate;
        recurrent.resize(recurrent.len().max(sessions * CELL), 0.0);
        self.gates.apply(
            simd,
            sessions,
            hidden,
            Rows::single(CELL),
            gates,
            Rows::single(Self::GATES),
            Mode::Accumulate,
        );
        self.candidate.apply(simd, sessions, hidden, Rows::single(CELL), recurrent, Rows::single(CELL), Mode::Affine);
        let sessions =
            hidden.chunks_exact_mut(CELL).zip(gates.chunks_exact(Self::GATES)).zip(recurrent.chunks_exact(CELL));
        for (((h, gates), recurrent), probability) in sessions.zip(probabilities) {
            let (reset, gates) = gates.split_at(CELL);
            let (update, candidate) = gates.split_at(CELL);
            for k in 0..CELL {
                let new = tanh(candidate[k] + sigmoid(reset[k]) * recurrent[k]);
                h[k] = new + sigmoid(update[k]) * (h[k] - new);
            }
            let activation: f32 = h.iter().zip(&self.head).map(|(h, w)| h * w).sum();
            *probability = sigmoid(activation + self.head_bias);
        }
    }
}

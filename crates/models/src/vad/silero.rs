//! The network of Silero VAD v6 at 16 kHz (Silero Team, <https://github.com/snakers4/silero-vad>, MIT), with its
//! published weights.
//!
//! A chunk of 512 samples behind 64 of context, mirrored by 64 at its end, gives four magnitude spectra (256 samples,
//! hop 128, Hann); four convolutions over time (kernel 3; 129 → 128, 128 → 64 by two, 64 → 64 by two, 64 → 128; ReLU)
//! make one vector of it; an LSTM cell of 128 and a logistic unit on its rectified output give the probability.
//!
//! What is done differently from the published graph, without changing its result:
//! - The file gives the transform as a convolution with 258 filters. They are the windowed DFT (checked at loading),
//!   so it is computed by FFT.
//! - A convolution is one matrix product over overlapping rows of its input. After the third there is one frame left:
//!   of its taps two meet data, of the fourth's one.

use pulp::Simd;

use super::{
    INPUT,
    dense::{Dense, Mode, Rows},
    elementary::{sigmoid, tanh},
    network::Network,
    spectrum::{BINS, Spectrum, SpectrumScratch, WINDOW},
    state::NetworkKind,
    weights::Weights,
};
use crate::ModelError;

const FRAMES: usize = 4;
const HOP: usize = 128;
/// Width of the LSTM cell.
const CELL: usize = 128;

/// Silero VAD v6.
#[derive(Debug)]
pub(super) struct Silero {
    spectrum: Spectrum,
    convolutions: [Dense; 4],
    input: Dense,
    recurrent: Dense,
    head: Vec<f32>,
    head_bias: f32,
}

/// Activations of the encoder for one tile of chunks. The frames that stand for the convolutions' zero padding are
/// never written.
pub(super) struct SileroScratch {
    spectrum: SpectrumScratch,
    tail: [f32; WINDOW],
    /// `[chunk][1 + 4 + 1][129]`
    magnitudes: Vec<f32>,
    /// `[chunk][1 + 4][128]`
    first: Vec<f32>,
    /// `[chunk][2][64]`
    second: Vec<f32>,
    /// `[chunk][64]`
    third: Vec<f32>,
    /// `[chunk][128]`
    fourth: Vec<f32>,
}

impl Silero {
    /// The tensor by which the file is recognised.
    pub(super) const MARK: &str = "stft_conv.weight";

    pub(super) fn load(weights: &Weights<'_>) -> Result<Self, ModelError> {
        let spectrum = Spectrum::new();
        check_basis(weights, &spectrum)?;
        let convolution = |name: &str, inputs: usize, outputs: usize, taps: std::ops::Range<usize>| {
            let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs, 3])?;
            let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
            Ok::<_, ModelError>(Dense::new(inputs * taps.len(), bias, |input, output| {
                weight[(output * inputs + input % inputs) * 3 + taps.start + input / inputs]
            }))
        };
        let matrix = |name: &str, bias: Vec<f32>| {
            let weight = weights.take(name, &[4 * CELL, CELL])?;
            Ok::<_, ModelError>(Dense::new(CELL, bias, |input, output| weight[output * CELL + input]))
        };
        let mut bias = weights.take("lstm_cell.bias_ih", &[4 * CELL])?;
        for (sum, term) in bias.iter_mut().zip(weights.take("lstm_cell.bias_hh", &[4 * CELL])?) {
            *sum += term;
        }
        Ok(Self {
            spectrum,
            convolutions: [
                convolution("conv1", BINS, 128, 0..3)?,
                convolution("conv2", 128, 64, 0..3)?,
                convolution("conv3", 64, 64, 1..3)?,
                convolution("conv4", 64, 128, 1..2)?,
            ],
            input: matrix("lstm_cell.weight_ih", bias)?,
            recurrent: matrix("lstm_cell.weight_hh", vec![0.0; 4 * CELL])?,
            head: weights.take("final_conv.weight", &[1, CELL, 1])?,
            head_bias: weights.take("final_conv.bias", &[1])?[0],
        })
    }
}

/// Checks that the file's filters are the cosines and negative sines of the DFT under the window.
fn check_basis(weights: &Weights<'_>, spectrum: &Spectrum) -> Result<(), ModelError> {
    let basis = weights.take(Silero::MARK, &[2 * BINS, 1, WINDOW])?;
    for (filter, values) in basis.chunks_exact(WINDOW).enumerate() {
        for (n, &found) in values.iter().enumerate() {
            let phase = std::f64::consts::TAU * ((filter % BINS * n) % WINDOW) as f64 / WINDOW as f64;
            let wave = if filter < BINS { phase.cos() } else { -phase.sin() };
            let expected = f64::from(spectrum.window()[n]) * wave;
            if (f64::from(found) - expected).abs() > 1e-6 {
                return Err(weights.refuse(
                    &format!("tensor {}, filter {filter}, sample {n}", Silero::MARK),
                    found.to_string(),
                    format!("{expected} (the discrete Fourier transform under a Hann window)"),
                ));
            }
        }
    }
    Ok(())
}

impl Network for Silero {
    const KIND: NetworkKind = NetworkKind::Silero;
    const HIDDEN: usize = 2 * CELL;
    const GATES: usize = 4 * CELL;
    type Scratch = SileroScratch;

    fn scratch(&self, chunks: usize) -> SileroScratch {
        SileroScratch {
            spectrum: self.spectrum.scratch(),
            tail: [0.0; WINDOW],
            magnitudes: vec![0.0; chunks * (FRAMES + 2) * BINS],
            first: vec![0.0; chunks * (FRAMES + 1) * 128],
            second: vec![0.0; chunks * 2 * 64],
            third: vec![0.0; chunks * 64],
            fourth: vec![0.0; chunks * 128],
        }
    }

    #[inline(always)]
    fn encode<S: Simd>(&self, simd: S, scratch: &mut SileroScratch, samples: &[f32], gates: &mut [f32]) {
        let SileroScratch { spectrum, tail, magnitudes, first, second, third, fourth } = scratch;
        let chunks = samples.len() / INPUT;
        for (samples, frames) in samples.chunks_exact(INPUT).zip(magnitudes.chunks_exact_mut((FRAMES + 2) * BINS)) {
            for (frame, magnitude) in frames[BINS..].chunks_exact_mut(BINS).take(FRAMES).enumerate() {
                let start = frame * HOP;
                if start + WINDOW <= INPUT {
                    self.spectrum.power(spectrum, &samples[start..start + WINDOW], magnitude);
                } else {
                    let (inside, mirrored) = tail.split_at_mut(INPUT - start);
                    inside.copy_from_slice(&samples[start..]);
                    for (place, &sample) in mirrored.iter_mut().zip(samples[..INPUT - 1].iter().rev()) {
                        *place = sample;
                    }
                    self.spectrum.power(spectrum, tail, magnitude);
                }
                for value in magnitude {
                    *value = value.sqrt();
                }
            }
        }
        let [one, two, three, four] = &self.convolutions;
        let from = Rows { first: 0, step: BINS, per_chunk: FRAMES, stride: (FRAMES + 2) * BINS };
        let to = Rows { first: 128, step: 128, per_chunk: FRAMES, stride: (FRAMES + 1) * 128 };
        one.apply(simd, FRAMES * chunks, magnitudes, from, first, to, Mode::Relu);
        let from = Rows { first: 0, step: 2 * 128, per_chunk: 2, stride: (FRAMES + 1) * 128 };
        two.apply(simd, 2 * chunks, first, from, second, Rows::single(64), Mode::Relu);
        three.apply(simd, chunks, second, Rows::single(2 * 64), third, Rows::single(64), Mode::Relu);
        four.apply(simd, chunks, third, Rows::single(64), fourth, Rows::single(128), Mode::Relu);
        self.input.apply(simd, chunks, fourth, Rows::single(128), gates, Rows::single(Self::GATES), Mode::Affine);
    }

    #[inline(always)]
    fn step<S: Simd>(
        &self,
        simd: S,
        _: &mut SileroScratch,
        hidden: &mut [f32],
        gates: &mut [f32],
        probabilities: &mut [f32],
    ) {
        self.recurrent.apply(
            simd,
            probabilities.len(),
            hidden,
            Rows::single(Self::HIDDEN),
            gates,
            Rows::single(Self::GATES),
            Mode::Accumulate,
        );
        for ((hidden, gates), probability) in
            hidden.chunks_exact_mut(Self::HIDDEN).zip(gates.chunks_exact(Self::GATES)).zip(probabilities)
        {
            let (h, c) = hidden.split_at_mut(CELL);
            let (input, gates) = gates.split_at(CELL);
            let (forget, gates) = gates.split_at(CELL);
            let (cell, output) = gates.split_at(CELL);
            for k in 0..CELL {
                c[k] = sigmoid(forget[k]) * c[k] + sigmoid(input[k]) * tanh(cell[k]);
                h[k] = sigmoid(output[k]) * tanh(c[k]);
            }
            let activation: f32 = h.iter().zip(&self.head).map(|(h, w)| h.max(0.0) * w).sum();
            *probability = sigmoid(activation + self.head_bias);
        }
    }
}

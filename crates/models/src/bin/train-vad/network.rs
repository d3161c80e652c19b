//! The built-in network as candle sees it: the definition that is trained. `vad::builtin` computes the same faster; a
//! test holds them together.

use std::{collections::HashMap, path::Path};

use anyhow::Result;
use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops::sigmoid;
use driftline_models::vad::{
    builtin::{CELL, FIRST, SECOND},
    features::{BANDS, FEATURES},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The network and how its features are standardized.
pub(crate) struct Network {
    mean: Tensor,
    scale: Tensor,
    layers: Vec<(&'static str, Var)>,
}

/// Names and shapes of the trained tensors.
const SHAPES: [(&str, &[usize]); 10] = [
    ("encoder.0.weight", &[FIRST, FEATURES]),
    ("encoder.0.bias", &[FIRST]),
    ("encoder.1.weight", &[SECOND, FIRST]),
    ("encoder.1.bias", &[SECOND]),
    ("gru.input.weight", &[3 * CELL, SECOND]),
    ("gru.input.bias", &[3 * CELL]),
    ("gru.recurrent.weight", &[3 * CELL, CELL]),
    ("gru.recurrent.bias", &[CELL]),
    ("head.weight", &[1, CELL]),
    ("head.bias", &[1]),
];

impl Network {
    /// Draws weights uniformly from `±1/√inputs`; biases are zero. `mean` and `scale` have one value a band.
    pub(crate) fn new(seed: u64, mean: Vec<f32>, scale: Vec<f32>) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let layers = SHAPES
            .iter()
            .map(|&(name, shape)| {
                let bound = if shape.len() == 2 { 1.0 / (shape[1] as f32).sqrt() } else { 0.0 };
                let values: Vec<f32> =
                    (0..shape.iter().product()).map(|_| bound * rng.random_range(-1.0..1.0f32)).collect();
                Ok((name, Var::from_vec(values, shape, &Device::Cpu)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            mean: Tensor::from_vec(mean, BANDS, &Device::Cpu)?,
            scale: Tensor::from_vec(scale, BANDS, &Device::Cpu)?,
            layers,
        })
    }

    /// Returns the variables to be trained.
    pub(crate) fn variables(&self) -> Vec<Var> {
        self.layers.iter().map(|(_, variable)| variable.clone()).collect()
    }

    /// Standardizes features, `[batch, FEATURES]`.
    pub(crate) fn standardize(&self, features: &Tensor) -> Result<Tensor> {
        let batch = features.dim(0)?;
        let frames = features.reshape((batch, FEATURES / BANDS, BANDS))?;
        Ok(frames.broadcast_sub(&self.mean)?.broadcast_mul(&self.scale)?.reshape((batch, FEATURES))?)
    }

    /// Takes one step: standardized features `[batch, FEATURES]` and hidden state `[batch, CELL]` to the next hidden
    /// state.
    pub(crate) fn step(&self, features: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let layer = |x: &Tensor, index: usize| -> Result<Tensor> {
            Ok(x.matmul(&self.layers[index].1.t()?)?.broadcast_add(&self.layers[index + 1].1)?)
        };
        let x = layer(&layer(&layer(features, 0)?.relu()?, 2)?.relu()?, 4)?;
        let recurrent = hidden.matmul(&self.layers[6].1.t()?)?;
        let gates = sigmoid(&(x.narrow(D::Minus1, 0, 2 * CELL)? + recurrent.narrow(D::Minus1, 0, 2 * CELL)?)?)?;
        let (reset, update) = (gates.narrow(D::Minus1, 0, CELL)?, gates.narrow(D::Minus1, CELL, CELL)?);
        let candidate = recurrent.narrow(D::Minus1, 2 * CELL, CELL)?.broadcast_add(&self.layers[7].1)?;
        let new = (x.narrow(D::Minus1, 2 * CELL, CELL)? + (reset * candidate)?)?.tanh()?;
        Ok((&new + (update * (hidden - &new)?)?)?)
    }

    /// Returns the logits of hidden states, `[rows, CELL]` to `[rows]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.matmul(&self.layers[8].1.t()?)?.broadcast_add(&self.layers[9].1)?.squeeze(1)?)
    }

    /// Writes the weights.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: HashMap<&str, Tensor> =
            self.layers.iter().map(|(name, variable)| (*name, variable.as_tensor().clone())).collect();
        tensors.insert("features.mean", self.mean.clone());
        tensors.insert("features.scale", self.scale.clone());
        candle_core::safetensors::save(&tensors, path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftline_models::vad::{CHUNK, CONTEXT, Detector, features::LogMel};

    #[test]
    fn the_detector_computes_what_candle_computes() {
        let network = Network::new(7, vec![-9.0; BANDS], vec![0.3; BANDS]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vad.safetensors");
        network.save(&path).unwrap();
        let detector = Detector::load(&path).unwrap();
        let samples: Vec<f32> =
            (0..40 * CHUNK).map(|i| ((i * i % 7919) as f32 / 7919.0 - 0.5) * (i as f32 / 5_000.0).sin()).collect();
        let probabilities = detector.detect(&mut [&mut detector.new_state()], &[&samples]).unwrap().remove(0);

        let padded: Vec<f32> = [0.0; CONTEXT].iter().chain(&samples).copied().collect();
        let (log_mel, mut features) = (LogMel::new(), [0.0; FEATURES]);
        let mut scratch = log_mel.scratch();
        let mut hidden = Tensor::zeros((1, CELL), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut spread = (1.0f32, 0.0f32);
        for (chunk, &found) in probabilities.iter().enumerate() {
            log_mel.extract(&mut scratch, &padded[chunk * CHUNK..][..CONTEXT + CHUNK], &mut features);
            let features = Tensor::from_slice(&features, (1, FEATURES), &Device::Cpu).unwrap();
            hidden = network.step(&network.standardize(&features).unwrap(), &hidden).unwrap();
            let expected = sigmoid(&network.logits(&hidden).unwrap()).unwrap().to_vec1::<f32>().unwrap()[0];
            assert!((found - expected).abs() < 1e-5, "chunk {chunk}: {found}, candle {expected}");
            spread = (spread.0.min(found), spread.1.max(found));
        }
        assert!(spread.1 - spread.0 > 0.01, "the network answers to its input");
    }
}

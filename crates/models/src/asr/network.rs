//! The acoustic network: from normalised log-mel frames to phone logits every 30 ms.
//!
//! Nine 10 ms frames (90 ms) are laid side by side every third frame and projected; then follow residual blocks, each a convolution over
//! three frames that widens, a rectifier, and a projection back:
//! `x + narrow · relu(widen · unfold(norm(x)))`. Layer normalisation, no batch statistics: a segment's result does not depend on its batch.
//! The dilations grow and shrink so that a phone is seen with about 0.3 s on either side, a word's worth.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use super::{
    frontend::BANDS,
    layers::{LayerNorm, Unfold},
};
use crate::error::ModelError;

/// 10 ms frames between two outputs.
pub const STRIDE: usize = 3;
/// 10 ms frames that one output's first layer sees.
const STACK: usize = 9;
/// Taps of each block's convolution.
const TAPS: usize = 3;
/// Frames between taps, one entry a block.
const DILATIONS: [usize; 6] = [1, 1, 2, 3, 2, 1];

/// Named parameters, as they stand in a safetensors file.
pub type Parameters = BTreeMap<String, Tensor>;

/// Sizes of a network that is about to be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Channels of the residual stream.
    pub channels: usize,
    /// Channels inside a block.
    pub hidden: usize,
    /// Output classes, the blank included.
    pub classes: usize,
}

impl Sizes {
    /// Lists every parameter with its shape.
    #[must_use]
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Self { channels, hidden, classes } = *self;
        let mut shapes =
            vec![("stem.weight".into(), vec![STACK * BANDS, channels]), ("stem.bias".into(), vec![channels])];
        for block in 0..DILATIONS.len() {
            shapes.push((format!("block.{block}.scale"), vec![channels]));
            shapes.push((format!("block.{block}.shift"), vec![channels]));
            shapes.push((format!("block.{block}.widen"), vec![TAPS * channels, hidden]));
            shapes.push((format!("block.{block}.narrow"), vec![hidden, channels]));
        }
        shapes.push(("head.scale".into(), vec![channels]));
        shapes.push(("head.shift".into(), vec![channels]));
        shapes.push(("head.weight".into(), vec![channels, classes]));
        shapes.push(("head.bias".into(), vec![classes]));
        shapes
    }
}

#[derive(Debug, Clone)]
struct Block {
    scale: Tensor,
    shift: Tensor,
    widen: Tensor,
    narrow: Tensor,
}

/// The network; its tensors are shared, a clone is cheap.
#[derive(Debug, Clone)]
pub struct Network {
    stem: (Tensor, Tensor),
    blocks: Vec<Block>,
    norm: (Tensor, Tensor),
    head: (Tensor, Tensor),
}

impl Network {
    /// Takes the parameters listed by [`Sizes::shapes`]; others are ignored. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a parameter that is missing or has another shape.
    pub fn try_new(parameters: &Parameters, sizes: Sizes, path: &Path) -> Result<Self, ModelError> {
        let mut checked = sizes.shapes().into_iter().map(|(name, shape)| {
            let format = |found: String| ModelError::Format {
                path: path.to_path_buf(),
                place: format!("tensor {name}"),
                found,
                allowed: format!("shape {shape:?}"),
            };
            let tensor = parameters.get(&name).ok_or_else(|| format("nothing".into()))?;
            if tensor.dims() != shape { Err(format(format!("shape {:?}", tensor.dims()))) } else { Ok(tensor.clone()) }
        });
        let mut next = || checked.next().expect("as many parameters are taken as Sizes::shapes lists");
        Ok(Self {
            stem: (next()?, next()?),
            blocks: DILATIONS
                .iter()
                .map(|_| Ok(Block { scale: next()?, shift: next()?, widen: next()?, narrow: next()? }))
                .collect::<Result<_, ModelError>>()?,
            norm: (next()?, next()?),
            head: (next()?, next()?),
        })
    }

    /// Returns the network with Gaussian noise added to every parameter, in standard deviations of its tensor.
    pub(crate) fn with_noise(&self, noise: f64, seed: u64) -> Result<Self, ModelError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut noisy = |tensor: &Tensor| -> Result<Tensor, ModelError> {
            let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let count = values.len().max(1) as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
            let scale = noise * variance.sqrt();
            for value in &mut values {
                let normal: f64 = StandardNormal.sample(&mut rng);
                *value += (scale * normal) as f32;
            }
            Ok(Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?)
        };
        Ok(Self {
            stem: (noisy(&self.stem.0)?, noisy(&self.stem.1)?),
            blocks: self
                .blocks
                .iter()
                .map(|Block { scale, shift, widen, narrow }| {
                    Ok(Block {
                        scale: noisy(scale)?,
                        shift: noisy(shift)?,
                        widen: noisy(widen)?,
                        narrow: noisy(narrow)?,
                    })
                })
                .collect::<Result<_, ModelError>>()?,
            norm: (noisy(&self.norm.0)?, noisy(&self.norm.1)?),
            head: (noisy(&self.head.0)?, noisy(&self.head.1)?),
        })
    }

    /// Counts the outputs of `frames` 10 ms frames.
    #[must_use]
    pub fn outputs(frames: usize) -> usize {
        frames.div_ceil(STRIDE)
    }

    /// Computes logits `[batch, outputs(time), classes]` of frames `[batch, time, 40]`, of which `lengths` are valid.
    ///
    /// What stands in the padding is not read; the outputs from `outputs(length)` on mean nothing.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where the shapes do not fit.
    pub fn forward(&self, frames: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        let stack = Unfold { kernel: STACK, dilation: 1, stride: STRIDE, lengths: lengths.into() };
        let x = frames.apply_op1(stack)?;
        let (batch, time, stacked) = x.dims3()?;
        let rows = batch * time;
        let mut x = x.reshape((rows, stacked))?.matmul(&self.stem.0)?.broadcast_add(&self.stem.1)?;
        let outputs: Arc<[usize]> = lengths.iter().map(|&n| Self::outputs(n)).collect();
        for (block, dilation) in self.blocks.iter().zip(DILATIONS) {
            let normal = x.apply_op3(&block.scale, &block.shift, LayerNorm)?.reshape((batch, time, ()))?;
            let unfold = Unfold { kernel: TAPS, dilation, stride: 1, lengths: Arc::clone(&outputs) };
            let around = normal.apply_op1(unfold)?.reshape((rows, ()))?;
            x = (x + around.matmul(&block.widen)?.relu()?.matmul(&block.narrow)?)?;
        }
        let x = x.apply_op3(&self.norm.0, &self.norm.1, LayerNorm)?;
        let logits = x.matmul(&self.head.0)?.broadcast_add(&self.head.1)?;
        Ok(logits.reshape((batch, time, ()))?)
    }

    /// Computes as [`Network::forward`] does from rows of frames of different lengths.
    ///
    /// # Errors
    /// See [`Network::forward`].
    pub fn forward_rows(&self, rows: &[impl AsRef<[f32]>]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().len() / BANDS).collect();
        let time = lengths.iter().copied().max().unwrap_or(0);
        let mut padded = Vec::with_capacity(rows.len() * time * BANDS);
        for row in rows.iter().map(AsRef::as_ref) {
            padded.extend_from_slice(row);
            padded.resize(padded.len() + time * BANDS - row.len(), 0.0);
        }
        let frames = Tensor::from_vec(padded, (rows.len(), time, BANDS), &Device::Cpu)?;
        Ok((self.forward(&frames, &lengths)?, lengths.into_iter().map(Self::outputs).collect()))
    }
}

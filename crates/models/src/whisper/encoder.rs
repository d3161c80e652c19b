//! The encoder: two convolutions and a stack of pre-norm transformer blocks over a whole window.
//!
//! A window has 1,500 positions, enough rows to keep a matrix product busy, so windows are encoded one by one.

use candle_core::{Device, Tensor};

use crate::error::ModelError;
use crate::whisper::config::Dimensions;
use crate::whisper::layers::{Linear, Norm, add, for_rows, gelu, softmax};
use crate::whisper::weights::Weights;

pub(super) struct Encoder {
    convolutions: [Linear; 2],
    positions: Vec<f32>,
    blocks: Vec<Block>,
    norm: Norm,
    mels: usize,
    width: usize,
}

struct Block {
    attention_norm: Norm,
    joined: Linear,
    out: Linear,
    heads: usize,
    feed_norm: Norm,
    fc1: Linear,
    fc2: Linear,
    feed_width: usize,
}

impl Encoder {
    pub fn take(weights: &mut Weights, d: &Dimensions) -> Result<Self, ModelError> {
        let width = d.d_model;
        let block = |weights: &mut Weights, layer: usize| {
            let prefix = format!("encoder.layers.{layer}");
            let attention = format!("{prefix}.self_attn");
            Ok::<_, ModelError>(Block {
                attention_norm: Norm::take(weights, &format!("{prefix}.self_attn_layer_norm")),
                joined: Linear::take_joined(weights, &attention, &["q_proj", "k_proj", "v_proj"], width)?,
                out: Linear::take(weights, &format!("{attention}.out_proj"), width)?,
                heads: d.encoder_attention_heads,
                feed_norm: Norm::take(weights, &format!("{prefix}.final_layer_norm")),
                fc1: Linear::take(weights, &format!("{prefix}.fc1"), width)?,
                fc2: Linear::take(weights, &format!("{prefix}.fc2"), d.encoder_ffn_dim)?,
                feed_width: d.encoder_ffn_dim,
            })
        };
        Ok(Self {
            convolutions: [
                Linear::take_convolution(weights, "encoder.conv1", d.num_mel_bins)?,
                Linear::take_convolution(weights, "encoder.conv2", width)?,
            ],
            positions: weights.take("encoder.embed_positions.weight"),
            blocks: (0..d.encoder_layers).map(|layer| block(weights, layer)).collect::<Result<_, _>>()?,
            norm: Norm::take(weights, "encoder.layer_norm"),
            mels: d.num_mel_bins,
            width,
        })
    }

    /// Encodes a window of `2 * max_source_positions` frames into `max_source_positions` rows of `d_model` values.
    pub fn encode(&self, window: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut x = self.convolutions[0].apply(neighbours(window, self.mels, 1))?;
        gelu(&mut x, self.width);
        let mut x = self.convolutions[1].apply(neighbours(&x, self.width, 2))?;
        gelu(&mut x, self.width);
        add(&mut x, &self.positions);
        for block in &self.blocks {
            let mixed = block.attention(&x, self.width)?;
            add(&mut x, &mixed);
            let mut hidden = block.fc1.apply(block.feed_norm.apply(&x))?;
            gelu(&mut hidden, block.feed_width);
            add(&mut x, &block.fc2.apply(hidden)?);
        }
        Ok(self.norm.apply(&x))
    }
}

impl Block {
    fn attention(&self, x: &[f32], width: usize) -> Result<Vec<f32>, ModelError> {
        let rows = x.len() / width;
        let head_width = width / self.heads;
        let joined = self.joined.apply(self.attention_norm.apply(x))?;
        let joined = Tensor::from_vec(joined, (rows, 3, self.heads, head_width), &Device::Cpu)?;
        let part = |index| joined.narrow(1, index, 1)?.squeeze(1)?.transpose(0, 1);
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / (head_width as f32).sqrt();
        let mut mixed = Vec::with_capacity(self.heads);
        for head in 0..self.heads {
            let scores = queries.get(head)?.matmul(&keys.get(head)?.t()?)?;
            let mut scores = scores.flatten_all()?.to_vec1::<f32>()?;
            for_rows(&mut scores, rows, |_, row| {
                row.iter_mut().for_each(|v| *v *= scale);
                softmax(row);
            });
            let scores = Tensor::from_vec(scores, (rows, rows), &Device::Cpu)?;
            mixed.push(scores.matmul(&values.get(head)?)?);
        }
        self.out.apply(Tensor::cat(&mixed, 1)?.flatten_all()?.to_vec1()?)
    }
}

/// Lays three neighbouring frames side by side for every `stride`-th frame; beyond the edges is 0.
fn neighbours(x: &[f32], columns: usize, stride: usize) -> Vec<f32> {
    let frames = x.len() / columns;
    let mut out = vec![0.0; frames.div_ceil(stride) * 3 * columns];
    for_rows(&mut out, 3 * columns, |index, row| {
        for (tap, cell) in row.chunks_exact_mut(columns).enumerate() {
            let frame = (index * stride + tap).wrapping_sub(1);
            if frame < frames {
                cell.copy_from_slice(&x[frame * columns..][..columns]);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_zero_beyond_the_edges() {
        assert_eq!(neighbours(&[1.0, 2.0, 3.0], 1, 1), [0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 2.0, 3.0, 0.0]);
        assert_eq!(neighbours(&[1.0, 2.0, 3.0, 4.0], 1, 2), [0.0, 1.0, 2.0, 2.0, 3.0, 4.0]);
    }
}

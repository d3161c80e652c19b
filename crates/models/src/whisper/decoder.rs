//! The decoder: one step feeds any number of sequences, each at its own position.
//!
//! Projections are one product over the rows of all sequences; attention runs a sequence and head at a time over
//! that sequence's own keys and values. So sequences of different lengths share a batch without padding, and one
//! that ends leaves it without anything being moved.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::ModelError;
use crate::whisper::config::Dimensions;
use crate::whisper::layers::{Linear, Norm, add, attend, gelu};
use crate::whisper::weights::Weights;

pub(super) struct Decoder {
    /// Embeds tokens, and gives the logits where the two are tied.
    embedding: Linear,
    projection: Option<Linear>,
    positions: Vec<f32>,
    blocks: Vec<Block>,
    norm: Norm,
    width: usize,
    heads: usize,
    feed_width: usize,
}

struct Block {
    own_norm: Norm,
    own: Linear,
    own_out: Linear,
    cross_norm: Norm,
    cross_query: Linear,
    cross_keys_values: Linear,
    cross_out: Linear,
    feed_norm: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// Keys and values of an encoded window: for each block and head, position after position.
pub(super) struct Cross {
    blocks: Vec<KeysValues>,
}

/// A sequence being decoded.
pub(super) struct Sequence {
    cross: Arc<Cross>,
    /// For each block, position after position, all heads of a position together.
    own: Vec<KeysValues>,
    length: usize,
}

#[derive(Default, Clone)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Sequence {
    /// Starts an empty sequence over an encoded window.
    pub fn new(cross: Arc<Cross>) -> Self {
        let own = vec![KeysValues::default(); cross.blocks.len()];
        Self { cross, own, length: 0 }
    }
}

impl Decoder {
    pub fn take(weights: &mut Weights, d: &Dimensions) -> Result<Self, ModelError> {
        let width = d.d_model;
        let block = |weights: &mut Weights, layer: usize| {
            let prefix = format!("decoder.layers.{layer}");
            let (own, cross) = (format!("{prefix}.self_attn"), format!("{prefix}.encoder_attn"));
            Ok::<_, ModelError>(Block {
                own_norm: Norm::take(weights, &format!("{prefix}.self_attn_layer_norm")),
                own: Linear::take_joined(weights, &own, &["q_proj", "k_proj", "v_proj"], width)?,
                own_out: Linear::take(weights, &format!("{own}.out_proj"), width)?,
                cross_norm: Norm::take(weights, &format!("{prefix}.encoder_attn_layer_norm")),
                cross_query: Linear::take(weights, &format!("{cross}.q_proj"), width)?,
                cross_keys_values: Linear::take_joined(weights, &cross, &["k_proj", "v_proj"], width)?,
                cross_out: Linear::take(weights, &format!("{cross}.out_proj"), width)?,
                feed_norm: Norm::take(weights, &format!("{prefix}.final_layer_norm")),
                fc1: Linear::take(weights, &format!("{prefix}.fc1"), width)?,
                fc2: Linear::take(weights, &format!("{prefix}.fc2"), d.decoder_ffn_dim)?,
            })
        };
        let projection =
            if d.tie_word_embeddings { None } else { Some(Linear::new(weights.take("proj_out.weight"), None, width)?) };
        Ok(Self {
            embedding: Linear::new(weights.take("decoder.embed_tokens.weight"), None, width)?,
            projection,
            positions: weights.take("decoder.embed_positions.weight"),
            blocks: (0..d.decoder_layers).map(|layer| block(weights, layer)).collect::<Result<_, _>>()?,
            norm: Norm::take(weights, "decoder.layer_norm"),
            width,
            heads: d.decoder_attention_heads,
            feed_width: d.decoder_ffn_dim,
        })
    }

    /// Computes what every block's cross-attention needs of a window, once.
    pub fn cross(&self, encoded: &[f32]) -> Result<Cross, ModelError> {
        let split = |block: &Block| {
            let joined = block.cross_keys_values.apply(encoded.to_vec())?;
            let part = |offset: usize| {
                let head_width = self.width / self.heads;
                let mut out = Vec::with_capacity(encoded.len());
                for head in 0..self.heads {
                    let start = offset + head * head_width;
                    out.extend(joined.chunks_exact(2 * self.width).flat_map(|row| &row[start..start + head_width]));
                }
                out
            };
            Ok(KeysValues { keys: part(0), values: part(self.width) })
        };
        Ok(Cross { blocks: self.blocks.iter().map(split).collect::<Result<_, ModelError>>()? })
    }

    /// Appends `tokens[i]` to `sequences[i]` and returns the normalised state after every token, in order.
    ///
    /// The caller keeps sequences within `max_target_positions` and tokens within the vocabulary.
    pub fn feed(&self, sequences: &mut [&mut Sequence], tokens: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let width = self.width;
        let mut x = Vec::new();
        // For each row its sequence and how many positions it sees.
        let mut rows = Vec::new();
        for (index, (sequence, tokens)) in sequences.iter().zip(tokens).enumerate() {
            for (offset, &token) in tokens.iter().enumerate() {
                let position = sequence.length + offset;
                let mut row = self.embedding.row(token)?;
                add(&mut row, &self.positions[position * width..][..width]);
                x.append(&mut row);
                rows.push((index, position + 1));
            }
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            let joined = block.own.apply(block.own_norm.apply(&x))?;
            for (row, &(index, _)) in joined.chunks_exact(3 * width).zip(&rows) {
                let own = &mut sequences[index].own[layer];
                own.keys.extend_from_slice(&row[width..2 * width]);
                own.values.extend_from_slice(&row[2 * width..]);
            }
            let own: Vec<&KeysValues> = rows.iter().map(|&(index, _)| &sequences[index].own[layer]).collect();
            let mixed = self.mix(&joined, 3 * width, |row, offset| {
                let range = offset..rows[row].1 * width;
                (&own[row].keys[range.clone()], &own[row].values[range], width)
            });
            add(&mut x, &block.own_out.apply(mixed)?);

            let queries = block.cross_query.apply(block.cross_norm.apply(&x))?;
            let cross: Vec<&KeysValues> =
                rows.iter().map(|&(index, _)| &sequences[index].cross.blocks[layer]).collect();
            let mixed = self.mix(&queries, width, |row, offset| {
                let per_head = cross[row].keys.len() / width;
                let range = offset * per_head..(offset + width / self.heads) * per_head;
                (&cross[row].keys[range.clone()], &cross[row].values[range], width / self.heads)
            });
            add(&mut x, &block.cross_out.apply(mixed)?);

            let mut hidden = block.fc1.apply(block.feed_norm.apply(&x))?;
            gelu(&mut hidden, self.feed_width);
            add(&mut x, &block.fc2.apply(hidden)?);
        }
        for (sequence, tokens) in sequences.iter_mut().zip(tokens) {
            sequence.length += tokens.len();
        }
        Ok(self.norm.apply(&x))
    }

    /// Attends for every row and head; `memory(row, offset)` gives keys, values and stride of the head that starts at `offset`.
    fn mix<'a>(
        &self,
        queries: &[f32],
        row_width: usize,
        memory: impl Fn(usize, usize) -> (&'a [f32], &'a [f32], usize) + Sync,
    ) -> Vec<f32> {
        let head_width = self.width / self.heads;
        let mut mixed = vec![0.0; queries.len() / row_width * self.width];
        mixed.par_chunks_exact_mut(head_width).enumerate().for_each(|(index, output)| {
            let (row, offset) = (index / self.heads, index % self.heads * head_width);
            let (keys, values, stride) = memory(row, offset);
            attend(&queries[row * row_width + offset..][..head_width], keys, values, stride, output);
        });
        mixed
    }

    /// Returns the logits of states, a row of `vocab_size` values each.
    pub fn logits(&self, states: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        self.projection.as_ref().unwrap_or(&self.embedding).apply(states)
    }
}

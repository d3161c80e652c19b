//! `config.json`, `generation_config.json` and `preprocessor_config.json`, checked before anything is allocated.
//!
//! The generation settings come from `generation_config.json`, or from the keys of the same names in `config.json` where
//! there is no such file, as in `transformers`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::inspect::header::regular_file_bytes;

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let mut file = File::open(path).map_err(|e| ModelError::read(path, e))?;
    let bytes = regular_file_bytes(path, &file)?;
    if bytes > limit {
        return Err(ModelError::format(
            path,
            "file length",
            format!("{bytes} bytes"),
            format!("at most {limit} bytes"),
        ));
    }
    let mut content = Vec::new();
    file.by_ref().take(limit).read_to_end(&mut content).map_err(|e| ModelError::read(path, e))?;
    Ok(content)
}

/// Parses JSON; the error names the file, the line and the key.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, content: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(content).map_err(|e| {
        ModelError::format(path, "json", e.to_string(), "the keys and types Hugging Face's Whisper writes")
    })
}

/// The dimensions of the network.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Dimensions {
    model_type: Option<String>,
    #[serde(default = "gelu")]
    activation_function: String,
    pub vocab_size: usize,
    pub num_mel_bins: usize,
    pub d_model: usize,
    pub encoder_layers: usize,
    pub encoder_attention_heads: usize,
    pub encoder_ffn_dim: usize,
    pub decoder_layers: usize,
    pub decoder_attention_heads: usize,
    pub decoder_ffn_dim: usize,
    #[serde(default = "source_positions")]
    pub max_source_positions: usize,
    #[serde(default = "target_positions")]
    pub max_target_positions: usize,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
}

fn gelu() -> String {
    "gelu".into()
}
fn source_positions() -> usize {
    1500
}
fn target_positions() -> usize {
    448
}
fn yes() -> bool {
    true
}

impl Dimensions {
    /// Parses and checks `config.json`.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self, ModelError> {
        let d: Self = parse(path, content)?;
        let wrong = |key: &str, found: String, allowed: &str| {
            Err(ModelError::format(path, format!("key {key}"), found, allowed))
        };
        if d.model_type.as_deref().is_some_and(|t| t != "whisper") {
            return wrong("model_type", format!("{:?}", d.model_type), "\"whisper\"");
        }
        if d.activation_function != "gelu" {
            return wrong("activation_function", d.activation_function.clone(), "\"gelu\"");
        }
        let ranges = [
            ("vocab_size", d.vocab_size, 1 << 20),
            ("num_mel_bins", d.num_mel_bins, 256),
            ("d_model", d.d_model, 8192),
            ("encoder_layers", d.encoder_layers, 128),
            ("encoder_attention_heads", d.encoder_attention_heads, 256),
            ("encoder_ffn_dim", d.encoder_ffn_dim, 1 << 16),
            ("decoder_layers", d.decoder_layers, 128),
            ("decoder_attention_heads", d.decoder_attention_heads, 256),
            ("decoder_ffn_dim", d.decoder_ffn_dim, 1 << 16),
            ("max_source_positions", d.max_source_positions, 8192),
            ("max_target_positions", d.max_target_positions, 8192),
        ];
        for (key, value, most) in ranges {
            if value == 0 || value > most {
                return wrong(key, value.to_string(), &format!("1 to {most}"));
            }
        }
        for (key, heads) in [
            ("encoder_attention_heads", d.encoder_attention_heads),
            ("decoder_attention_heads", d.decoder_attention_heads),
        ] {
            if !d.d_model.is_multiple_of(heads) {
                return wrong(key, heads.to_string(), &format!("a divisor of d_model, {}", d.d_model));
            }
        }
        Ok(d)
    }

    /// Returns the name and shape of every tensor the network needs, without the `model.` in front.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.d_model;
        let mut list = vec![
            ("encoder.conv1.weight".to_owned(), vec![d, self.num_mel_bins, 3]),
            ("encoder.conv1.bias".into(), vec![d]),
            ("encoder.conv2.weight".into(), vec![d, d, 3]),
            ("encoder.conv2.bias".into(), vec![d]),
            ("encoder.embed_positions.weight".into(), vec![self.max_source_positions, d]),
            ("decoder.embed_tokens.weight".into(), vec![self.vocab_size, d]),
            ("decoder.embed_positions.weight".into(), vec![self.max_target_positions, d]),
        ];
        if !self.tie_word_embeddings {
            list.push(("proj_out.weight".into(), vec![self.vocab_size, d]));
        }
        for (side, layers, ffn) in [
            ("encoder", self.encoder_layers, self.encoder_ffn_dim),
            ("decoder", self.decoder_layers, self.decoder_ffn_dim),
        ] {
            let mut norm = |name: &str| {
                list.push((format!("{side}.{name}.weight"), vec![d]));
                list.push((format!("{side}.{name}.bias"), vec![d]));
            };
            norm("layer_norm");
            for layer in 0..layers {
                norm(&format!("layers.{layer}.self_attn_layer_norm"));
                norm(&format!("layers.{layer}.final_layer_norm"));
                if side == "decoder" {
                    norm(&format!("layers.{layer}.encoder_attn_layer_norm"));
                }
            }
            for layer in 0..layers {
                let prefix = format!("{side}.layers.{layer}");
                list.push((format!("{prefix}.fc1.weight"), vec![ffn, d]));
                list.push((format!("{prefix}.fc1.bias"), vec![ffn]));
                list.push((format!("{prefix}.fc2.weight"), vec![d, ffn]));
                list.push((format!("{prefix}.fc2.bias"), vec![d]));
                let attentions: &[&str] =
                    if side == "decoder" { &["self_attn", "encoder_attn"] } else { &["self_attn"] };
                for attention in attentions {
                    for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                        list.push((format!("{prefix}.{attention}.{projection}.weight"), vec![d, d]));
                        if projection != "k_proj" {
                            list.push((format!("{prefix}.{attention}.{projection}.bias"), vec![d]));
                        }
                    }
                }
            }
        }
        list
    }
}

/// An end-of-text id, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

/// What `generate` obeys, in the names of `generation_config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Generation {
    pub decoder_start_token_id: u32,
    eos_token_id: Ids,
    /// `-1` and ids outside the vocabulary suppress nothing.
    #[serde(default)]
    pub suppress_tokens: Option<Vec<i64>>,
    #[serde(default)]
    pub begin_suppress_tokens: Option<Vec<i64>>,
    #[serde(default)]
    pub forced_decoder_ids: Option<Vec<(usize, Option<u32>)>>,
    pub no_timestamps_token_id: Option<u32>,
    pub max_initial_timestamp_index: Option<u32>,
    pub is_multilingual: Option<bool>,
    #[serde(default)]
    pub lang_to_id: Option<BTreeMap<String, u32>>,
    #[serde(default)]
    pub task_to_id: Option<BTreeMap<String, u32>>,
    pub language: Option<String>,
    pub task: Option<String>,
    pub max_length: Option<usize>,
}

impl Generation {
    /// Parses and checks the generation settings in `content`, the bytes of `path`.
    ///
    /// The start, the end and the forced ids may also stand in `config`.
    pub fn parse(path: &Path, content: &[u8], config: &[u8], vocab_size: usize) -> Result<Self, ModelError> {
        let mut keys: Map<String, Value> = parse(path, content)?;
        let config: Map<String, Value> = parse(path, config)?;
        for key in ["decoder_start_token_id", "eos_token_id", "forced_decoder_ids"] {
            if keys.get(key).is_none_or(Value::is_null)
                && let Some(value) = config.get(key)
            {
                keys.insert(key.to_owned(), value.clone());
            }
        }
        let g = Self::deserialize(Value::Object(keys)).map_err(|e| {
            ModelError::format(path, "json", e.to_string(), "the keys and types Hugging Face's Whisper writes")
        })?;
        let check = |key: &str, id: u32| {
            if (id as usize) < vocab_size {
                return Ok(());
            }
            Err(ModelError::format(
                path,
                format!("key {key}"),
                id.to_string(),
                format!("token ids below vocab_size, {vocab_size}"),
            ))
        };
        check("decoder_start_token_id", g.decoder_start_token_id)?;
        if g.ends().is_empty() {
            return Err(ModelError::format(path, "key eos_token_id", "an empty list", "one id or several"));
        }
        g.ends().iter().try_for_each(|&id| check("eos_token_id", id))?;
        g.no_timestamps_token_id.iter().try_for_each(|&id| check("no_timestamps_token_id", id))?;
        g.lang_to_id.iter().flatten().try_for_each(|(_, &id)| check("lang_to_id", id))?;
        g.task_to_id.iter().flatten().try_for_each(|(_, &id)| check("task_to_id", id))?;
        for (place, (index, id)) in g.forced_decoder_ids.iter().flatten().enumerate() {
            if *index != place + 1 {
                let allowed = format!("consecutive positions from 1, here {}", place + 1);
                return Err(ModelError::format(path, "key forced_decoder_ids", format!("position {index}"), allowed));
            }
            id.iter().try_for_each(|&id| check("forced_decoder_ids", id))?;
        }
        Ok(g)
    }

    /// Returns the ids that end a sequence; the first is *the* end of text.
    pub fn ends(&self) -> &[u32] {
        match &self.eos_token_id {
            Ids::One(id) => std::slice::from_ref(id),
            Ids::Many(ids) => ids,
        }
    }
}

/// Checks that `preprocessor_config.json` asks for the features this crate computes.
pub(super) fn check_preprocessor(path: &Path, content: &[u8], dimensions: &Dimensions) -> Result<(), ModelError> {
    #[derive(Deserialize)]
    struct Preprocessor {
        feature_size: Option<usize>,
        sampling_rate: Option<usize>,
        hop_length: Option<usize>,
        n_fft: Option<usize>,
        chunk_length: Option<usize>,
    }
    let p: Preprocessor = parse(path, content)?;
    let chunk = dimensions.max_source_positions.div_ceil(50);
    for (key, found, allowed) in [
        ("feature_size", p.feature_size, dimensions.num_mel_bins),
        ("sampling_rate", p.sampling_rate, 16_000),
        ("hop_length", p.hop_length, 160),
        ("n_fft", p.n_fft, 400),
        ("chunk_length", p.chunk_length, chunk),
    ] {
        if let Some(found) = found.filter(|&found| found != allowed) {
            return Err(ModelError::format(path, format!("key {key}"), found.to_string(), allowed.to_string()));
        }
    }
    Ok(())
}

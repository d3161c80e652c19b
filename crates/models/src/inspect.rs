//! Says what a model file or folder holds, without running it and without trusting it.
//!
//! Limits: a header of 8 MiB and 16,384 tensors a file, 256 files, settings of 4 MiB, a tokenizer of 64 MiB; only regular
//! files in the folder itself are opened. What breaks a limit is an error before it costs memory or time.

pub(crate) mod header;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::ModelError;
use crate::whisper::{SETTINGS, read_limited, shard_paths};
use header::Header;

/// What a model file or folder holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// The path that was inspected.
    pub path: PathBuf,
    /// Which model the tensors' names say it is.
    pub kind: ModelKind,
    /// The tensors, file after file, in the order of their data.
    pub tensors: Vec<TensorSummary>,
    /// The values in all tensors.
    pub parameters: u64,
    /// The length of all files that were read.
    pub bytes: u64,
    /// The first 16 hexadecimal digits of the blake3 hash: of the file, or of a folder's settings, tokenizer and weights.
    pub hash: String,
    /// The values of a folder's `config.json`, lists and maps left out.
    pub config: BTreeMap<String, Value>,
    /// The text a safetensors header carries beside its tensors.
    pub metadata: BTreeMap<String, String>,
}

/// The models Driftline knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Silero's voice activity detection.
    SileroVad,
    /// Driftline's own voice activity detection.
    BuiltinVad,
    /// Driftline's own recogniser.
    BuiltinAsr,
    /// Driftline's own inspection, of any surface.
    BuiltinInspection,
    /// Driftline's own estimate of a user's attributes.
    BuiltinUserProfile,
    /// Driftline's own recommender.
    BuiltinRecommender,
    /// A Whisper checkpoint.
    Whisper,
    /// Anything else.
    Unknown,
}

impl std::fmt::Display for ModelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SileroVad => "silero-vad",
            Self::BuiltinVad => "builtin-vad",
            Self::BuiltinAsr => "builtin-asr",
            Self::BuiltinInspection => "builtin-inspection",
            Self::BuiltinUserProfile => "builtin-user-profile",
            Self::BuiltinRecommender => "builtin-recommender",
            Self::Whisper => "whisper",
            Self::Unknown => "unknown",
        })
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorSummary {
    /// Its name in the file.
    pub name: String,
    /// Its type in the file, such as `F32`.
    pub dtype: String,
    /// Its dimensions; none for a single value.
    pub shape: Vec<usize>,
    /// The values in it.
    pub parameters: u64,
}

/// Summarises a safetensors file, or a folder with `model.safetensors` or its shards.
///
/// The hash of a Whisper folder is the one [`Whisper::version`](crate::whisper::Whisper::version) gives.
///
/// # Errors
///
/// [`ModelError::Read`] where a file cannot be read; [`ModelError::Format`] names what is wrong in it, or which limit it breaks.
pub fn inspect(path: &Path) -> Result<ModelSummary, ModelError> {
    let mut summary = ModelSummary {
        path: path.to_owned(),
        kind: ModelKind::Unknown,
        tensors: Vec::new(),
        parameters: 0,
        bytes: 0,
        hash: String::new(),
        config: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    let mut hasher = blake3::Hasher::new();
    if path.is_dir() {
        read_settings(path, &mut summary, &mut hasher)?;
        let shards = shard_paths(path)?;
        if matches!(&shards[..], [single] if !single.exists()) {
            let allowed = "model.safetensors, or model.safetensors.index.json and the files that it names";
            return Err(ModelError::format(path, "the folder", "no weights", allowed));
        }
        for shard in shards {
            read_tensors(&shard, &mut summary, &mut hasher)?;
        }
    } else {
        read_tensors(path, &mut summary, &mut hasher)?;
    }
    summary.kind = kind(&summary);
    summary.hash = hasher.finalize().to_hex()[..16].to_owned();
    Ok(summary)
}

fn read_settings(folder: &Path, summary: &mut ModelSummary, hasher: &mut blake3::Hasher) -> Result<(), ModelError> {
    for (name, limit) in SETTINGS {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let content = read_limited(&path, limit)?;
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(&content);
        summary.bytes += content.len() as u64;
        if name == "config.json" {
            let config: BTreeMap<String, Value> = serde_json::from_slice(&content)
                .map_err(|e| ModelError::format(&path, "json", e.to_string(), "a JSON object"))?;
            summary.config = config.into_iter().filter(|(_, value)| !value.is_array() && !value.is_object()).collect();
        }
    }
    Ok(())
}

fn read_tensors(path: &Path, summary: &mut ModelSummary, hasher: &mut blake3::Hasher) -> Result<(), ModelError> {
    let mut file = File::open(path).map_err(|e| ModelError::read(path, e))?;
    let header = Header::read(path, &mut file)?;
    hasher.update(&header.raw);
    hasher.update_reader(&mut file).map_err(|e| ModelError::read(path, e))?;
    summary.bytes += header.raw.len() as u64;
    summary.metadata.extend(header.metadata);
    for entry in header.tensors {
        let parameters = entry.shape.iter().map(|&d| d as u64).product();
        summary.parameters += parameters;
        summary.bytes += entry.bytes as u64;
        summary.tensors.push(TensorSummary {
            name: entry.name,
            dtype: format!("{:?}", entry.dtype),
            shape: entry.shape,
            parameters,
        });
    }
    Ok(())
}

fn kind(summary: &ModelSummary) -> ModelKind {
    let has = |name: &str| summary.tensors.iter().any(|t| t.name.strip_prefix("model.").unwrap_or(&t.name) == name);
    let marks: [(ModelKind, &[&str]); 7] = [
        (
            ModelKind::Whisper,
            &["encoder.conv1.weight", "decoder.embed_tokens.weight", "decoder.layers.0.encoder_attn.q_proj.weight"],
        ),
        (ModelKind::SileroVad, &["stft_conv.weight", "lstm_cell.weight_hh"]),
        (ModelKind::BuiltinVad, &["features.mean", "gru.recurrent.weight"]),
        (ModelKind::BuiltinAsr, &["stem.weight", "block.0.widen"]),
        (ModelKind::BuiltinInspection, &["down.0.gain", "map.bias"]),
        (ModelKind::BuiltinUserProfile, &["queries", "calibration"]),
        (ModelKind::BuiltinRecommender, &["attributes", "block.0.query"]),
    ];
    marks.iter().find(|(_, names)| names.iter().all(|name| has(name))).map_or(ModelKind::Unknown, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn file(header: &str, data: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn refusal(header: &str, data: usize) -> String {
        inspect(file(header, data).path()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_summarised() {
        let header = r#"{"__metadata__":{"format":"pt"},"stft_conv.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},"lstm_cell.weight_hh":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
        let summary = inspect(file(header, 28).path()).unwrap();
        assert_eq!(summary.kind, ModelKind::SileroVad);
        assert_eq!((summary.parameters, summary.bytes), (8, 8 + header.len() as u64 + 28));
        assert_eq!(
            summary.tensors[1],
            TensorSummary { name: "stft_conv.weight".into(), dtype: "F32".into(), shape: vec![2, 3], parameters: 6 }
        );
        assert_eq!((summary.metadata["format"].as_str(), summary.hash.len()), ("pt", 16));
    }

    #[test]
    fn what_ships_is_known() {
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights");
        for (file, kind) in [
            ("vad", ModelKind::BuiltinVad),
            ("asr", ModelKind::BuiltinAsr),
            ("inspection-phone-screen", ModelKind::BuiltinInspection),
            ("inspection-ground-tile", ModelKind::BuiltinInspection),
            ("profile", ModelKind::BuiltinUserProfile),
            ("recommender", ModelKind::BuiltinRecommender),
        ] {
            assert_eq!(inspect(&weights.join(format!("{file}.safetensors"))).unwrap().kind, kind, "{file}");
        }
    }

    #[test]
    fn lies_are_refused_with_their_place() {
        let tensor = |shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert!(
            refusal(&tensor("[4]", "[0,16]"), 8)
                .contains(r#"tensor "w": found data_offsets [0, 16], allowed: ranges within the file's 8 bytes"#)
        );
        assert!(refusal(&tensor("[4]", "[16,0]"), 16).contains("data_offsets [16, 0]"));
        assert!(
            refusal(&tensor("[5]", "[0,16]"), 16).contains("found 16 bytes of data, allowed: 20 bytes, for F32 [5]")
        );
        assert!(refusal(&tensor("[4294967296,4294967296,4294967296]", "[0,16]"), 16).contains("more than 2^64 bits"));
        assert!(refusal(&tensor("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4).contains("9 dimensions"));
        assert!(refusal(&tensor("[2]", "[8,16]"), 16).contains("neither gaps nor overlaps"));
        assert!(refusal(&tensor("[2]", "[0,8]"), 16).contains("the 8 bytes the header describes"));
        let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(refusal(twice, 2).contains("twice"));
        assert!(refusal("[1, 2", 0).contains("header: found"));
    }

    #[test]
    fn a_header_longer_than_the_file_or_the_limit_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [u64::MAX, 1 << 40, 100] {
            std::fs::write(file.path(), [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
            let error = inspect(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("header length: found {length} bytes, allowed: at most 2 bytes")),
                "{error}"
            );
        }
        std::fs::write(file.path(), b"1234567").unwrap();
        assert!(inspect(file.path()).unwrap_err().to_string().contains("7 bytes"));
    }

    #[test]
    fn what_holds_no_model_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| inspect(path).unwrap_err().to_string();
        let said = error(folder.path());
        assert!(said.contains("found no weights, allowed: model.safetensors, or"), "{said}");
        let file = folder.path().join("x.json");
        std::fs::write(&file, r#"{ "weights": [1, 2, 3] }"#).unwrap();
        assert!(error(&file).ends_with("it is no safetensors file"), "{}", error(&file));
        std::fs::write(&file, [&100u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert!(error(&file).ends_with("it is not all of a safetensors file"), "{}", error(&file));
    }

    #[test]
    fn a_hundred_thousand_tensors_are_refused_at_the_limit() {
        // Short entries, so that the limit on tensors and not the one on bytes is met.
        let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
        let header = format!("{{{}}}", (0..100_000).map(entry).collect::<Vec<_>>().join(","));
        assert!((header.len() as u64) < header::MAX_HEADER_BYTES);
        let file = file(&header, 0);
        let start = Instant::now();
        let error = inspect(file.path()).unwrap_err().to_string();
        eprintln!("refused in {:?}", start.elapsed());
        assert!(error.contains("more than 16384 tensors"), "{error}");
    }

    #[test]
    fn an_index_cannot_leave_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        for name in ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "C:x.safetensors", "weights.bin"] {
            std::fs::write(&index, serde_json::json!({ "weight_map": { "w": name } }).to_string()).unwrap();
            let error = inspect(folder.path()).unwrap_err().to_string();
            assert!(error.contains("key weight_map") && error.contains(name), "{error}");
        }
        std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
        assert!(inspect(folder.path()).unwrap_err().to_string().contains("regular file"));
    }
}

//! Reads `model.safetensors`, or the shards that `model.safetensors.index.json` lists, as 32-bit floats.
//!
//! Every name and shape is compared with what `config.json` asks for before any data is read. Files are read, not
//! mapped: mapping needs `unsafe`, which this workspace forbids. The tensors are read one after another in the order
//! of the file, so the peak is the network in 32 bits plus one tensor, and the hash of the file comes with the same pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde::Deserialize;

use crate::error::ModelError;
use crate::inspect::header::Header;
use crate::parameters::check_finite;
use crate::whisper::config::{parse, read_limited};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 8 << 20;
const MAX_SHARDS: usize = 256;

/// The tensors of a checkpoint, taken one by one while the network is built.
pub(super) struct Weights {
    tensors: HashMap<String, Vec<f32>>,
}

impl Weights {
    /// Reads the tensors in `expected` and feeds every byte of the files to `hasher`.
    pub fn read(
        folder: &Path,
        expected: &[(String, Vec<usize>)],
        hasher: &mut blake3::Hasher,
    ) -> Result<Self, ModelError> {
        let shards = shard_paths(folder)?;
        let mut headers = Vec::with_capacity(shards.len());
        for path in &shards {
            let mut file = File::open(path).map_err(|e| ModelError::read(path, e))?;
            headers.push((path, Header::read(path, &mut file)?, file));
        }
        check_shapes(folder, &headers, expected)?;
        let wanted: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let mut tensors = HashMap::with_capacity(expected.len());
        for (path, header, mut file) in headers {
            hasher.update(&header.raw);
            for entry in header.tensors {
                let mut bytes = vec![0; entry.bytes];
                file.read_exact(&mut bytes).map_err(|e| ModelError::read(path, e))?;
                hasher.update(&bytes);
                let name = bare(&entry.name);
                if wanted.contains(name) {
                    tensors.insert(name.to_owned(), floats(path, &entry.name, entry.dtype, &bytes)?);
                }
            }
        }
        Ok(Self { tensors })
    }

    /// Takes a tensor out, row after row.
    ///
    /// # Panics
    ///
    /// If `name` was not in the list given to [`Weights::read`], or was taken before.
    pub fn take(&mut self, name: &str) -> Vec<f32> {
        self.tensors
            .remove(name)
            .unwrap_or_else(|| panic!("tensor {name} is read once, and listed in Dimensions::tensors"))
    }
}

/// Some checkpoints leave out the `model.` that `WhisperForConditionalGeneration` puts in front.
fn bare(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}

/// Returns the files that hold a folder's tensors.
pub(crate) fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let single = folder.join(SINGLE);
    let index_path = folder.join(INDEX);
    if single.exists() || !index_path.exists() {
        return Ok(vec![single]);
    }
    let index: Index = parse(&index_path, &read_limited(&index_path, MAX_INDEX_BYTES)?)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(ModelError::format(
            &index_path,
            "key weight_map",
            format!("{} files", names.len()),
            format!("1 to {MAX_SHARDS} files"),
        ));
    }
    for name in &names {
        let plain = name.ends_with(".safetensors") && !name.contains(['/', '\\', '\0', ':']);
        if !plain {
            return Err(ModelError::format(
                &index_path,
                "key weight_map",
                format!("{name:?}"),
                "names of .safetensors files in the same folder",
            ));
        }
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

fn check_shapes(
    folder: &Path,
    headers: &[(&PathBuf, Header, File)],
    expected: &[(String, Vec<usize>)],
) -> Result<(), ModelError> {
    let mut found = HashMap::new();
    for (path, header, _) in headers {
        for entry in &header.tensors {
            if found.insert(bare(&entry.name), (*path, entry)).is_some() {
                return Err(ModelError::format(
                    path,
                    format!("tensor {}", entry.name),
                    "it twice",
                    "every tensor once",
                ));
            }
        }
    }
    for (name, shape) in expected {
        let Some((path, entry)) = found.get(name.as_str()) else {
            let known = format!("a tensor of shape {shape:?} with this name, or model.{name}");
            return Err(ModelError::format(
                folder,
                format!("tensor {name}"),
                format!("none among {}", found.len()),
                known,
            ));
        };
        if entry.shape != *shape {
            return Err(ModelError::format(
                path,
                format!("tensor {}", entry.name),
                format!("shape {:?}", entry.shape),
                format!("{shape:?}, from config.json"),
            ));
        }
    }
    Ok(())
}

fn floats(path: &Path, name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(ModelError::format(
                path,
                format!("tensor {name}"),
                format!("type {other:?}"),
                "F32, F16, BF16",
            ));
        }
    };
    let count = bytes.len() / dtype.size_in_bytes();
    let tensor = Tensor::from_raw_buffer(bytes, dtype, &[count], &Device::Cpu)?;
    let values = tensor.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    check_finite(&values, name, path)?;
    Ok(values)
}

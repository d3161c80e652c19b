//! Tensors of a weights file, checked by name and shape as they are taken.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::{ModelError, parameters::check_finite};

/// A parsed weights file.
pub(super) struct Weights<'a> {
    path: PathBuf,
    tensors: SafeTensors<'a>,
}

impl<'a> Weights<'a> {
    /// Parses the bytes of a safetensors file. `path` is for errors only.
    pub(super) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| ModelError::Format {
            path: path.to_owned(),
            place: "header".to_owned(),
            found: format!("{error} ({} bytes)", bytes.len()),
            allowed: "a safetensors file".to_owned(),
        })?;
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// Tells whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// Returns the values of a tensor that must have this shape, finite `f32` values in row-major order.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let expected = || format!("F32 {shape:?}");
        let Ok(tensor) = self.tensors.tensor(name) else {
            return Err(self.refuse(&format!("tensor {name}"), "nothing".to_owned(), expected()));
        };
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(self.refuse(
                &format!("tensor {name}"),
                format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                expected(),
            ));
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        check_finite(&values, name, &self.path)?;
        Ok(values)
    }

    /// Makes the error for something in this file.
    pub(super) fn refuse(&self, place: &str, found: String, allowed: String) -> ModelError {
        ModelError::Format { path: self.path.clone(), place: place.to_owned(), found, allowed }
    }

    /// Lists the names of the tensors in alphabetical order.
    pub(super) fn names(&self) -> String {
        let mut names = self.tensors.names();
        names.sort_unstable();
        names.join(", ")
    }
}

//! The weights file: safetensors with the network's parameters, the front end's average colour and the confidence's calibration.
//!
//! Stored as half floats, which changes no figure of the model card; computed with as `f32`.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{
    lexicon::CLASSES,
    network::{Parameters, Sizes},
};
use crate::{error::ModelError, parameters::read_tensors};

pub(super) const COLOUR: &str = "frontend.colour";
const CALIBRATION: &str = "confidence.calibration";

/// Everything that training yields.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Parameters of the network, `f32`.
    pub parameters: Parameters,
    /// Average colour of the front end.
    pub colour: Vec<f32>,
    /// Coefficients of the confidence, see [`super::confidence`].
    pub calibration: Vec<f32>,
}

impl Weights {
    /// Reads a safetensors file's content. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a missing colour or calibration, for what is not safetensors, and for a value that is no finite number.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let mut parameters = read_tensors(bytes, path)?;
        let mut vector = |name: &str| -> Result<Vec<f32>, ModelError> {
            let tensor = parameters.remove(name).ok_or_else(|| ModelError::Format {
                path: path.to_path_buf(),
                place: format!("tensor {name}"),
                found: "nothing".into(),
                allowed: "a vector".into(),
            })?;
            Ok(tensor.flatten_all()?.to_vec1()?)
        };
        let (colour, calibration) = (vector(COLOUR)?, vector(CALIBRATION)?);
        Ok(Self { parameters, colour, calibration })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
        let mut tensors = std::collections::HashMap::new();
        for (name, tensor) in &self.parameters {
            tensors.insert(name.clone(), tensor.to_dtype(DType::F16)?);
        }
        tensors.insert(COLOUR.to_owned(), vector(&self.colour)?);
        tensors.insert(CALIBRATION.to_owned(), vector(&self.calibration)?);
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }

    /// Reads the network's sizes off the parameters' shapes.
    ///
    /// # Errors
    /// [`ModelError::Format`] where the parameters that tell are missing.
    pub fn sizes(&self, path: &Path) -> Result<Sizes, ModelError> {
        let width = |name: &str| {
            self.parameters.get(name).and_then(|tensor| tensor.dims().get(1).copied()).ok_or_else(|| {
                ModelError::Format {
                    path: path.to_path_buf(),
                    place: format!("tensor {name}"),
                    found: "nothing".into(),
                    allowed: "a matrix".into(),
                }
            })
        };
        Ok(Sizes { channels: width("stem.weight")?, hidden: width("block.0.widen")?, classes: CLASSES })
    }
}

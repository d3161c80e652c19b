//! Named tensors of a network: read from a file and checked by name and shape, or drawn to be trained.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, Var};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;

use crate::ModelError;

/// Named tensors, `f32` in memory; files hold half floats.
#[derive(Clone, Debug)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    path: PathBuf,
}

/// The name of a parameter, its shape and the deviation it is drawn with; zero leaves it zero.
pub type Shape = (String, Vec<usize>, f64);

/// Reads the tensors of a safetensors file as `f32`. `path` is named in errors.
///
/// # Errors
/// [`ModelError::Format`] for what is not safetensors, and for a value that is no finite number.
pub(crate) fn read_tensors(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let read = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|error| ModelError::format(path, "tensors", error.to_string(), "a safetensors file"))?;
    let mut tensors: BTreeMap<String, Tensor> = read.into_iter().collect();
    for (name, tensor) in &mut tensors {
        *tensor = tensor.to_dtype(DType::F32)?;
        check_finite(&tensor.flatten_all()?.to_vec1()?, name, path)?;
    }
    Ok(tensors)
}

/// Checks that the values of the tensor `name` in the file `path` are finite numbers.
///
/// # Errors
/// [`ModelError::Format`] with the place of the first that is not.
pub(crate) fn check_finite(values: &[f32], name: &str, path: &Path) -> Result<(), ModelError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let place = format!("tensor {name}, value {index}");
            Err(ModelError::format(path, place, values[index].to_string(), "finite numbers"))
        }
    }
}

impl Parameters {
    /// Reads the content of a safetensors file. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for what is not safetensors, and for a value that is no finite number.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        Ok(Self { tensors: read_tensors(bytes, path)?, path: path.to_owned() })
    }

    /// Draws parameters that can be trained, and returns their variables in the order of `shapes`.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn draw(shapes: &[Shape], seed: u64) -> Result<(Self, Vec<Var>), ModelError> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut tensors = BTreeMap::new();
        let mut variables = Vec::with_capacity(shapes.len());
        for (name, shape, deviation) in shapes {
            let centre = if name.ends_with(".scale") { 1.0 } else { 0.0 };
            let count = shape.iter().product();
            let values: Vec<f32> =
                (0..count).map(|_| centre + (*deviation * random.sample::<f64, _>(StandardNormal)) as f32).collect();
            let variable = Var::from_vec(values, shape.as_slice(), &Device::Cpu)?;
            tensors.insert(name.clone(), variable.as_tensor().clone());
            variables.push(variable);
        }
        Ok((Self { tensors, path: PathBuf::from("training") }, variables))
    }

    /// Returns a tensor that must have this shape.
    ///
    /// # Errors
    /// [`ModelError::Format`] for one that is missing or has another shape.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        match self.tensors.get(name) {
            Some(tensor) if tensor.dims() == shape => Ok(tensor.clone()),
            found => Err(ModelError::Format {
                path: self.path.clone(),
                place: format!("tensor {name}"),
                found: found.map_or_else(|| "nothing".to_owned(), |tensor| format!("shape {:?}", tensor.dims())),
                allowed: format!("shape {shape:?}"),
            }),
        }
    }

    /// Returns the rows of a matrix, however many, that must have so many columns.
    ///
    /// # Errors
    /// [`ModelError::Format`] for one that is missing or has another shape.
    pub fn take_rows(&self, name: &str, columns: usize) -> Result<Tensor, ModelError> {
        let rows = self.tensors.get(name).and_then(|tensor| tensor.dims().first().copied()).unwrap_or(0);
        self.take(name, &[rows, columns])
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where the tensor cannot be made.
    pub fn insert(&mut self, name: &str, values: &[f32]) -> Result<(), ModelError> {
        self.tensors.insert(name.to_owned(), Tensor::from_slice(values, values.len(), &Device::Cpu)?);
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let mut tensors = HashMap::new();
        for (name, tensor) in &self.tensors {
            tensors.insert(name.clone(), tensor.to_dtype(DType::F16)?);
        }
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_is_no_finite_number_is_refused_by_its_place() {
        let parse = |dtype: DType, values: &[f32]| {
            let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            let tensors = [("a", tensor(&[1.0])), ("b", tensor(values).to_dtype(dtype).unwrap())];
            Parameters::parse(&safetensors::serialize(tensors, None).unwrap(), Path::new("w"))
        };
        for dtype in [DType::F32, DType::F16] {
            assert!(parse(dtype, &[0.5, -2.0]).is_ok());
            let error = parse(dtype, &[0.5, f32::NAN]).unwrap_err().to_string();
            assert_eq!(error, "w: tensor b, value 1: found NaN, allowed: finite numbers");
            let error = parse(dtype, &[f32::NEG_INFINITY, 1.0]).unwrap_err().to_string();
            assert_eq!(error, "w: tensor b, value 0: found -inf, allowed: finite numbers");
        }
        let error = Parameters::parse(b"no weights", Path::new("w")).unwrap_err().to_string();
        assert!(error.starts_with("w: tensors: found"), "{error}");
    }
}

//! The weights file: safetensors with the network's parameters as half floats, and what else an inspection needs as JSON in its metadata.

use std::{collections::HashMap, path::Path};

use candle_core::DType;
use serde::{Deserialize, Serialize};

use super::{Surface, network::Parameters, view::ALIGN};
use crate::{error::ModelError, inspect::header::read_checked, parameters::read_tensors};

/// The key of the settings in the file's metadata.
const SETTINGS: &str = "driftline.inspection";

/// What an inspection needs besides the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the surface is.
    pub surface: String,
    /// Side of the square that the network sees, pixels: a multiple of [`ALIGN`].
    pub side: usize,
    /// Whether mirror images of a picture are judged too, for four times the work.
    #[serde(default)]
    pub mirrored: bool,
    /// Names of the classes; the first is *good*.
    pub classes: Vec<String>,
    /// How evidence becomes a probability.
    pub calibration: Calibration,
    /// Probability of a defect below which a piece is accepted.
    pub accept_below: f64,
    /// Probability of a defect from which a piece is rejected.
    pub reject_from: f64,
}

/// Turns the log odds of the whole and of the map's peak into a probability: `σ(whole · a + peak · b + c)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Weight of the whole.
    pub whole: f64,
    /// Weight of the peak.
    pub peak: f64,
    /// Constant.
    pub bias: f64,
}

impl Calibration {
    /// Returns the probability of a defect, 0 to 1.
    #[must_use]
    pub fn probability(&self, whole: f64, peak: f64) -> f64 {
        1.0 / (1.0 + (-(self.whole * whole + self.peak * peak + self.bias)).exp())
    }
}

/// Everything that training yields.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Parameters of the network, `f32`.
    pub parameters: Parameters,
    /// The rest.
    pub settings: Settings,
}

impl Weights {
    /// Reads weights that ship.
    ///
    /// # Errors
    /// Never in practice: a test loads them all.
    pub fn builtin(surface: Surface) -> Result<Self, ModelError> {
        Self::parse(surface.weights(), surface.name().as_ref())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ModelError::Read`], and those of [`Self::parse`].
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::parse(&read_checked(path)?, path)
    }

    /// Reads a file's content. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for what is not safetensors, for settings that are missing or impossible, and for a value that is no finite number.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let format = |place: &str, found: String, allowed: &str| ModelError::Format {
            path: path.to_path_buf(),
            place: place.to_owned(),
            found,
            allowed: allowed.to_owned(),
        };
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes)
            .map_err(|error| format("header", error.to_string(), "safetensors"))?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(SETTINGS));
        let allowed = "the settings that our training writes";
        let text = text.ok_or_else(|| format("metadata", format!("no {SETTINGS:?}"), allowed))?;
        let settings: Settings =
            serde_json::from_str(text).map_err(|error| format(SETTINGS, error.to_string(), allowed))?;
        let Settings { side, classes, accept_below, reject_from, .. } = &settings;
        if !(32..=1_024).contains(side) || !side.is_multiple_of(ALIGN) {
            return Err(format("side", side.to_string(), "32 to 1024, a multiple of 16"));
        }
        if !(2..=64).contains(&classes.len()) {
            return Err(format("classes", classes.len().to_string(), "2 to 64"));
        }
        if !(0.0 <= *accept_below && accept_below <= reject_from && *reject_from <= 1.0) {
            let found = format!("{accept_below} and {reject_from}");
            return Err(format("accept_below and reject_from", found, "0 to 1, the first not above the second"));
        }
        Ok(Self { parameters: read_tensors(bytes, path)?, settings })
    }

    /// Returns the file's content.
    ///
    /// # Errors
    /// [`ModelError::Candle`] for a tensor that cannot be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let failed = |error: &dyn std::fmt::Display| ModelError::Candle(candle_core::Error::msg(error.to_string()));
        let settings = serde_json::to_string(&self.settings).map_err(|error| failed(&error))?;
        let metadata = HashMap::from([(SETTINGS.to_owned(), settings)]);
        let halves: Vec<(&String, candle_core::Tensor)> = self
            .parameters
            .iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?)))
            .collect::<candle_core::Result<_>>()?;
        safetensors::serialize(halves, Some(metadata)).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::inspection::training::trainer::initial;

    fn weights() -> Weights {
        let settings = Settings {
            surface: "test".to_owned(),
            side: 64,
            mirrored: true,
            classes: vec!["good".to_owned(), "bad".to_owned()],
            calibration: Calibration { whole: 0.5, peak: 0.5, bias: 0.0 },
            accept_below: 0.2,
            reject_from: 0.8,
        };
        Weights { parameters: initial(2, 1).unwrap(), settings }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = weights().to_bytes().unwrap();
        assert!(bytes.len() < 5_000_000, "{}", bytes.len());
        let back = Weights::parse(&bytes, "x".as_ref()).unwrap();
        assert_eq!(back.settings, weights().settings);
        assert_eq!(back.parameters.len(), weights().parameters.len());
    }

    #[test]
    fn impossible_settings_are_refused_with_what_was_found() {
        let error = |change: fn(&mut Settings)| {
            let mut weights = weights();
            change(&mut weights.settings);
            Weights::parse(&weights.to_bytes().unwrap(), "x".as_ref()).unwrap_err().to_string()
        };
        assert_eq!(error(|s| s.side = 7), "x: side: found 7, allowed: 32 to 1024, a multiple of 16");
        assert!(error(|s| s.side = 200).contains("found 200"));
        assert_eq!(error(|s| s.classes.clear()), "x: classes: found 0, allowed: 2 to 64");
        assert!(error(|s| s.accept_below = 0.9).starts_with("x: accept_below and reject_from: found 0.9 and 0.8"));
        assert!(Weights::parse(b"no tensors", "x".as_ref()).unwrap_err().to_string().starts_with("x: header: found"));
        let mut infinite = weights();
        let tensor = Tensor::from_slice(&[0.0, f32::INFINITY], 2, &Device::Cpu).unwrap();
        infinite.parameters.insert("map.bias".to_owned(), tensor);
        let error = Weights::parse(&infinite.to_bytes().unwrap(), "x".as_ref()).unwrap_err().to_string();
        assert_eq!(error, "x: tensor map.bias, value 1: found inf, allowed: finite numbers");
        let bare = candle_core::safetensors::load_buffer(&weights().to_bytes().unwrap(), &Device::Cpu).unwrap();
        let bare = safetensors::serialize(bare, None).unwrap();
        assert!(Weights::parse(&bare, "x".as_ref()).unwrap_err().to_string().contains("no \"driftline.inspection\""));
    }
}

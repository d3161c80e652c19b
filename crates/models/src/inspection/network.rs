//! The network: from a picture to logits of a class for every 4 × 4 pixels and for the picture as a whole.
//!
//! A U-Net (Ronneberger et al., 2015) that is narrow where the picture is large. The pixels of every 2 × 2 square are laid side by side and convolved; then three
//! times the resolution is halved and a residual block of two convolutions follows (He et al., 2016), at a quarter, an eighth and a sixteenth of the resolution, where a
//! pixel sees most of the picture; then back up to a quarter, each step adding what was known at that resolution. Mean and largest value of the smallest pictures
//! say what the whole is.
//!
//! Convolutions go over all channels, and each is followed by batch normalisation: without either, real surfaces are not learned (the card of the magnetic
//! tiles has the comparison). Learning, a network normalises by the batch it is shown and says what the batch's moments were; inspecting, it has averaged moments folded into its
//! weights, so that a picture's result does not depend on its company.
//!
//! At 256 × 256 it takes 0.35 · 10⁹ multiplications.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};

use super::{
    batch::{Batch, Enlarge, Fold, Pool, Size},
    convolution::{Convolution, Reach},
    layers::{After, Bias, Moments, Normalise, Sum},
    view::{ALIGN, CHANNELS, Plane},
};
use crate::error::ModelError;

/// Pixels of the picture along a side of one of the map.
pub const CELL: usize = 4;
/// Channels at half the resolution, a quarter, an eighth and a sixteenth of it.
const WIDTHS: [usize; 4] = [16, 32, 64, 128];
/// Halvings after the first.
const LEVELS: usize = 3;

/// Named parameters, as they stand in a safetensors file.
pub type Parameters = BTreeMap<String, Tensor>;

/// Lists the convolutions: name, reach, channels of the argument and of the result.
fn convolutions() -> Vec<(String, Reach, usize, usize)> {
    let mut list = vec![("stem".to_owned(), Reach::Around, 4 * CHANNELS, WIDTHS[0])];
    for level in 0..LEVELS {
        let (from, to) = (WIDTHS[level], WIDTHS[level + 1]);
        list.push((format!("down.{level}"), Reach::Pixel, 4 * from, to));
        list.push((format!("level.{level}.first"), Reach::Around, to, to));
        list.push((format!("level.{level}.second"), Reach::Around, to, to));
    }
    for level in 0..LEVELS - 1 {
        let (from, to) = (WIDTHS[level + 2], WIDTHS[level + 1]);
        list.push((format!("up.{level}"), Reach::Pixel, from, to));
        list.push((format!("back.{level}"), Reach::Around, to, to));
    }
    list
}

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of a convolution or a product: `[values seen, channels]`.
    Weight,
    /// Gain of a normalised channel.
    Gain,
    /// What is added to a channel.
    Bias,
    /// Mean of a channel over what was learned from: it is measured, not learned.
    Mean,
    /// Its standard deviation.
    Deviation,
}

/// Lists every parameter of a network of `classes` classes, with its role and shape.
#[must_use]
pub fn shapes(classes: usize) -> Vec<(String, Role, Vec<usize>)> {
    let mut shapes = Vec::new();
    for (name, reach, from, to) in convolutions() {
        shapes.push((format!("{name}.weight"), Role::Weight, vec![reach.side().pow(2) * from, to]));
        shapes.push((format!("{name}.gain"), Role::Gain, vec![to]));
        shapes.push((format!("{name}.bias"), Role::Bias, vec![to]));
        shapes.push((format!("{name}.mean"), Role::Mean, vec![to]));
        shapes.push((format!("{name}.deviation"), Role::Deviation, vec![to]));
    }
    for (name, from) in [("map", WIDTHS[1]), ("head", 2 * WIDTHS[LEVELS])] {
        shapes.push((format!("{name}.weight"), Role::Weight, vec![from, classes]));
        shapes.push((format!("{name}.bias"), Role::Bias, vec![classes]));
    }
    shapes
}

/// A product over the channels of a pixel.
#[derive(Debug, Clone)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.apply_op2(&self.bias, Bias(After::Plain))
    }
}

/// How a network normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// By moments that are known, which are folded into the weights.
    Inspecting,
    /// By those of the batch.
    Learning,
}

/// A convolution with its normalisation.
#[derive(Debug, Clone)]
struct Unit {
    name: String,
    reach: Reach,
    weight: Tensor,
    bias: Tensor,
    /// `None` if folded into the weights.
    gain: Option<Tensor>,
}

impl Unit {
    fn forward(&self, x: &Tensor, batch: Batch, after: After, seen: &mut Parameters) -> candle_core::Result<Tensor> {
        let x = x.apply_op2(&self.weight, Convolution { batch, reach: self.reach })?;
        let Some(gain) = &self.gain else { return x.apply_op2(&self.bias, Bias(after)) };
        let moments = Moments::measure(&x)?;
        for (role, values) in [("mean", &moments.mean), ("deviation", &moments.deviation)] {
            seen.insert(format!("{}.{role}", self.name), Tensor::new(values.as_slice(), &Device::Cpu)?);
        }
        x.apply_op3(gain, &self.bias, Normalise { moments, after })
    }
}

/// Logits of a picture.
#[derive(Debug, Clone)]
pub struct Logits {
    /// Size of the map.
    pub size: Size,
    /// A class a pixel of the map, `[height · width, classes]`.
    pub map: Tensor,
    /// A class for the whole, `[1, classes]`.
    pub head: Tensor,
}

/// Logits of a batch.
#[derive(Debug, Clone)]
pub struct BatchLogits {
    /// The maps.
    pub batch: Batch,
    /// A class a pixel of the maps, `[pixels, classes]`.
    pub map: Tensor,
    /// A class for each whole, `[pictures, classes]`.
    pub head: Tensor,
    /// Mean and deviation of each channel that was normalised by the batch, named as the parameters are.
    pub moments: Parameters,
}

/// The network; its tensors are shared, a clone is cheap.
#[derive(Debug, Clone)]
pub struct Network {
    stem: Unit,
    down: Vec<Unit>,
    levels: Vec<[Unit; 2]>,
    up: Vec<Unit>,
    back: Vec<Unit>,
    map: Linear,
    head: Linear,
}

impl Network {
    /// Takes the parameters listed by [`shapes`], for inspecting; others are ignored. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a parameter that is missing or has another shape, and for a deviation that is not above 0.
    pub fn try_new(parameters: &Parameters, classes: usize, path: &Path) -> Result<Self, ModelError> {
        Self::build(parameters, classes, path, Mode::Inspecting)
    }

    /// Takes the parameters listed by [`shapes`], for learning: the network normalises by each batch it is shown, and does not look at means and deviations.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a parameter that is missing or has another shape.
    pub fn learning(parameters: &Parameters, classes: usize) -> Result<Self, ModelError> {
        Self::build(parameters, classes, "training".as_ref(), Mode::Learning)
    }

    fn build(parameters: &Parameters, classes: usize, path: &Path, mode: Mode) -> Result<Self, ModelError> {
        let mut checked = BTreeMap::new();
        for (name, role, shape) in shapes(classes) {
            let format = |found: String, allowed: String| ModelError::Format {
                path: path.to_path_buf(),
                place: format!("tensor {name}"),
                found,
                allowed,
            };
            if mode == Mode::Learning && matches!(role, Role::Mean | Role::Deviation) {
                continue;
            }
            let allowed = format!("shape {shape:?}");
            let tensor = parameters.get(&name).ok_or_else(|| format("nothing".into(), allowed.clone()))?;
            if tensor.dims() != shape {
                return Err(format(format!("shape {:?}", tensor.dims()), allowed));
            }
            if role == Role::Deviation
                && let Some(low) = tensor
                    .to_vec1::<f32>()?
                    .into_iter()
                    .find(|d| d.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater))
            {
                return Err(format(low.to_string(), "above 0".to_owned()));
            }
            checked.insert(name, tensor.clone());
        }
        // Every name below is one of those checked.
        let tensor = |name: String| checked[&name].clone();
        let linear =
            |name: &str| Linear { weight: tensor(format!("{name}.weight")), bias: tensor(format!("{name}.bias")) };
        let mut units = BTreeMap::new();
        for (name, reach, ..) in convolutions() {
            let [weight, gain, bias] = ["weight", "gain", "bias"].map(|role| tensor(format!("{name}.{role}")));
            let unit = match mode {
                Mode::Learning => Unit { name: name.clone(), reach, weight, bias, gain: Some(gain) },
                Mode::Inspecting => {
                    let scale = (gain / tensor(format!("{name}.deviation")))?;
                    let bias = (bias - (tensor(format!("{name}.mean")) * &scale)?)?;
                    Unit { name: name.clone(), reach, weight: weight.broadcast_mul(&scale)?, bias, gain: None }
                }
            };
            units.insert(name, unit);
        }
        let unit = |name: String| units[&name].clone();
        let level = |level| [unit(format!("level.{level}.first")), unit(format!("level.{level}.second"))];
        Ok(Self {
            stem: unit("stem".to_owned()),
            down: (0..LEVELS).map(|level| unit(format!("down.{level}"))).collect(),
            levels: (0..LEVELS).map(level).collect(),
            up: (0..LEVELS - 1).map(|level| unit(format!("up.{level}"))).collect(),
            back: (0..LEVELS - 1).map(|level| unit(format!("back.{level}"))).collect(),
            map: linear("map"),
            head: linear("head"),
        })
    }

    /// Computes the logits of a picture whose sides are multiples of [`ALIGN`].
    ///
    /// # Errors
    /// [`ModelError::Input`] for other sides.
    pub fn forward(&self, picture: &Plane) -> Result<Logits, ModelError> {
        let BatchLogits { batch, map, head, .. } = self.forward_batch(&[picture])?;
        Ok(Logits { size: batch.size, map, head })
    }

    /// Computes the logits of pictures of one size.
    ///
    /// # Errors
    /// [`ModelError::Input`] for sides that are no multiples of [`ALIGN`], for pictures that differ in size, and without pictures.
    pub fn forward_batch(&self, pictures: &[&Plane]) -> Result<BatchLogits, ModelError> {
        let input = |found: String, allowed: String| ModelError::Input { place: "picture".to_owned(), found, allowed };
        let Some(first) = pictures.first() else { return Err(input("none".to_owned(), "at least one".to_owned())) };
        let size = Size { height: first.height(), width: first.width() };
        if !size.width.is_multiple_of(ALIGN) || !size.height.is_multiple_of(ALIGN) {
            return Err(input(format!("{} by {}", size.width, size.height), format!("multiples of {ALIGN}")));
        }
        if let Some(other) = pictures.iter().find(|p| (p.width(), p.height()) != (size.width, size.height)) {
            let found = format!("{} by {}", other.width(), other.height());
            return Err(input(found, format!("{} by {}, as the first", size.width, size.height)));
        }
        let full = Batch { count: pictures.len(), size };
        let values: Vec<f32> = pictures.iter().flat_map(|picture| picture.channels()).collect();
        let x = Tensor::from_vec(values, (full.pixels(), CHANNELS), &Device::Cpu)?;

        let mut moments = Parameters::new();
        let seen = &mut moments;
        // At half the resolution, a quarter, and so on.
        let mut batches = vec![full.halved()];
        let mut x = self.stem.forward(&x.apply_op1(Fold(full))?, batches[0], After::Rectified, seen)?;
        let mut kept = Vec::with_capacity(LEVELS);
        for (level, [first, second]) in self.levels.iter().enumerate() {
            let folded = x.apply_op1(Fold(batches[level]))?;
            let batch = batches[level].halved();
            let small = self.down[level].forward(&folded, batch, After::Rectified, seen)?;
            let inner = first.forward(&small, batch, After::Rectified, seen)?;
            let inner = second.forward(&inner, batch, After::Plain, seen)?;
            x = small.apply_op2(&inner, Sum(After::Rectified))?;
            kept.push(x.clone());
            batches.push(batch);
        }
        let head = self.head.forward(&x.apply_op1(Pool(batches[LEVELS]))?)?;
        for level in (0..LEVELS - 1).rev() {
            let narrow = self.up[level].forward(&x, batches[level + 2], After::Rectified, seen)?;
            let batch = batches[level + 1];
            let both = narrow.apply_op1(Enlarge(batch))?.apply_op2(&kept[level], Sum(After::Plain))?;
            x = self.back[level].forward(&both, batch, After::Rectified, seen)?;
        }
        let map = self.map.forward(&x)?;
        Ok(BatchLogits { batch: batches[1], map, head, moments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspection::training::trainer::initial;

    fn picture(width: usize, height: usize, step: usize) -> Plane {
        let mut plane = Plane::from_fn(width, height, |x, y| ((x * 31 + y * step) % 23) as f32);
        plane.normalise();
        plane
    }

    /// What a network learns with, folded into its weights, gives what it gave when it normalised by the batch.
    #[test]
    fn folded_moments_do_what_the_batch_did() {
        let pictures = [picture(32, 48, 17), picture(32, 48, 5)];
        let mut parameters = initial(3, 1).unwrap();
        let learned = Network::learning(&parameters, 3).unwrap().forward_batch(&[&pictures[0], &pictures[1]]).unwrap();
        assert_eq!(learned.map.dims(), [2 * 8 * 12, 3]);
        parameters.extend(learned.moments);
        let network = Network::try_new(&parameters, 3, "test".as_ref()).unwrap();
        for (i, picture) in pictures.iter().enumerate() {
            let Logits { size, map, head } = network.forward(picture).unwrap();
            for (own, of_batch) in [
                (map, learned.map.narrow(0, i * size.pixels(), size.pixels()).unwrap()),
                (head, learned.head.narrow(0, i, 1).unwrap()),
            ] {
                let difference = (own - of_batch).unwrap().abs().unwrap().max_all().unwrap();
                assert!(difference.to_scalar::<f32>().unwrap() < 1e-3, "{difference}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_was_found() {
        let parameters = initial(3, 1).unwrap();
        let error = |parameters: &Parameters| Network::try_new(parameters, 3, "x".as_ref()).unwrap_err().to_string();
        let mut changed = parameters.clone();
        changed.insert("stem.deviation".to_owned(), Tensor::zeros(16, candle_core::DType::F32, &Device::Cpu).unwrap());
        assert_eq!(error(&changed), "x: tensor stem.deviation: found 0, allowed: above 0");
        changed.remove("stem.bias");
        assert_eq!(error(&changed), "x: tensor stem.bias: found nothing, allowed: shape [16]");
        let network = Network::try_new(&parameters, 3, "x".as_ref()).unwrap();
        let uneven = network.forward(&picture(20, 16, 17)).unwrap_err().to_string();
        assert!(uneven.contains("found 20 by 16"), "{uneven}");
        let (one, other) = (picture(32, 16, 17), picture(16, 32, 17));
        let unequal = network.forward_batch(&[&one, &other]).unwrap_err().to_string();
        assert!(unequal.contains("found 16 by 32, allowed: 32 by 16"), "{unequal}");
        assert!(network.forward_batch(&[]).is_err());
    }
}

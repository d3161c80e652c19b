//! The network: from a picture to logits of a class for every 4 × 4 pixels and for the picture as a whole.
//!
//! The pixels of every 4 × 4 square are laid side by side and projected; then follow residual blocks at a quarter, an eighth and a sixteenth of the
//! resolution, where a pixel sees most of the picture, and back up to a quarter, each step adding what was known at that resolution. A block is `x + narrow · relu(widen · (x ∗ w))`: a 5 × 5 convolution of
//! each channel by itself, then two products over the channels of a pixel (Liu et al., "A ConvNet for the 2020s", 2022, with the sizes of a processor).
//!
//! Nothing is normalised on the way. The picture is, before; layer normalisation of each pixel would take away how strongly it stands out, which is what a
//! defect does. A picture's result does not depend on its company.
//!
//! At 256 × 256 it takes 0.1 · 10⁹ multiplications.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};

use super::{
    layers::{Bias, Depthwise, REACH, Size, Sum, fold, unfold},
    view::{ALIGN, CHANNELS, Plane},
};
use crate::error::ModelError;

/// Pixels of the picture along a side of one of the map.
pub const CELL: usize = 4;
/// Channels at a quarter, an eighth and a sixteenth of the resolution.
const WIDTHS: [usize; 3] = [24, 48, 80];
/// Blocks on the way down.
const DEPTHS: [usize; 3] = [1, 2, 3];
/// Channels inside a block for each of its own.
const EXPANSION: usize = 2;

/// Named parameters, as they stand in a safetensors file.
pub type Parameters = BTreeMap<String, Tensor>;

/// Lists every parameter of a network of `classes` classes, with its shape.
#[must_use]
pub fn shapes(classes: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut linear = |name: &str, from: usize, to: usize| {
        shapes.push((format!("{name}.weight"), vec![from, to]));
        shapes.push((format!("{name}.bias"), vec![to]));
    };
    linear("stem", CELL * CELL * CHANNELS, WIDTHS[0]);
    linear("down.0", 4 * WIDTHS[0], WIDTHS[1]);
    linear("down.1", 4 * WIDTHS[1], WIDTHS[2]);
    linear("up.0", WIDTHS[1], 4 * WIDTHS[0]);
    linear("up.1", WIDTHS[2], 4 * WIDTHS[1]);
    linear("map", WIDTHS[0], classes);
    linear("head", 2 * WIDTHS[2], classes);
    let down =
        WIDTHS.iter().zip(DEPTHS).enumerate().flat_map(|(level, (&width, depth))| {
            (0..depth).map(move |block| (format!("level.{level}.{block}"), width))
        });
    let up = (0..2).map(|level| (format!("back.{level}"), WIDTHS[level]));
    for (name, width) in down.chain(up) {
        shapes.push((format!("{name}.around"), vec![REACH * REACH, width]));
        shapes.push((format!("{name}.widen.weight"), vec![width, EXPANSION * width]));
        shapes.push((format!("{name}.widen.bias"), vec![EXPANSION * width]));
        shapes.push((format!("{name}.narrow"), vec![EXPANSION * width, width]));
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
        x.matmul(&self.weight)?.apply_op2(&self.bias, Bias::Plain)
    }
}

#[derive(Debug, Clone)]
struct Block {
    around: Tensor,
    widen: Linear,
    narrow: Tensor,
}

impl Block {
    fn forward(&self, x: &Tensor, size: Size) -> candle_core::Result<Tensor> {
        let around = x.apply_op2(&self.around, Depthwise(size))?;
        let wide = around.matmul(&self.widen.weight)?.apply_op2(&self.widen.bias, Bias::Rectified)?;
        x.apply_op2(&wide.matmul(&self.narrow)?, Sum)
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

/// The network; its tensors are shared, a clone is cheap.
#[derive(Debug, Clone)]
pub struct Network {
    stem: Linear,
    levels: [Vec<Block>; 3],
    down: [Linear; 2],
    up: [Linear; 2],
    back: [Block; 2],
    map: Linear,
    head: Linear,
}

impl Network {
    /// Takes the parameters listed by [`shapes`]; others are ignored. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a parameter that is missing or has another shape.
    pub fn try_new(parameters: &Parameters, classes: usize, path: &Path) -> Result<Self, ModelError> {
        let mut checked = BTreeMap::new();
        for (name, shape) in shapes(classes) {
            let format = |found: String| ModelError::Format {
                path: path.to_path_buf(),
                place: format!("tensor {name}"),
                found,
                allowed: format!("shape {shape:?}"),
            };
            let tensor = parameters.get(&name).ok_or_else(|| format("nothing".into()))?;
            if tensor.dims() != shape {
                return Err(format(format!("shape {:?}", tensor.dims())));
            }
            checked.insert(name, tensor.clone());
        }
        // Every name below is one of those checked.
        let tensor = |name: String| checked[&name].clone();
        let linear =
            |name: &str| Linear { weight: tensor(format!("{name}.weight")), bias: tensor(format!("{name}.bias")) };
        let block = |name: String| Block {
            around: tensor(format!("{name}.around")),
            widen: linear(&format!("{name}.widen")),
            narrow: tensor(format!("{name}.narrow")),
        };
        let level = |level: usize| (0..DEPTHS[level]).map(|i| block(format!("level.{level}.{i}"))).collect();
        Ok(Self {
            stem: linear("stem"),
            levels: [level(0), level(1), level(2)],
            down: [linear("down.0"), linear("down.1")],
            up: [linear("up.0"), linear("up.1")],
            back: [block("back.0".to_owned()), block("back.1".to_owned())],
            map: linear("map"),
            head: linear("head"),
        })
    }

    /// Computes the logits of a picture whose sides are multiples of [`ALIGN`], see [`Plane::aligned`].
    ///
    /// # Errors
    /// [`ModelError::Input`] for other sides.
    pub fn forward(&self, picture: &Plane) -> Result<Logits, ModelError> {
        if !picture.width().is_multiple_of(ALIGN) || !picture.height().is_multiple_of(ALIGN) {
            return Err(ModelError::Input {
                place: "picture".to_owned(),
                found: format!("{} by {}", picture.width(), picture.height()),
                allowed: format!("multiples of {ALIGN}"),
            });
        }
        let full = Size { height: picture.height(), width: picture.width() };
        let half = full.halved();
        let sizes = [half.halved(), half.halved().halved(), half.halved().halved().halved()];
        let x = Tensor::from_vec(picture.channels(), (full.pixels(), CHANNELS), &Device::Cpu)?;
        let mut x = self.stem.forward(&fold(&fold(&x, full)?, half)?)?;
        let mut kept = Vec::with_capacity(2);
        for (level, blocks) in self.levels.iter().enumerate() {
            for block in blocks {
                x = block.forward(&x, sizes[level])?;
            }
            if let Some(down) = self.down.get(level) {
                let smaller = down.forward(&fold(&x, sizes[level])?)?;
                kept.push(std::mem::replace(&mut x, smaller));
            }
        }
        let pooled = Tensor::cat(&[x.mean_keepdim(0)?, x.max_keepdim(0)?], 1)?;
        let head = self.head.forward(&pooled)?;
        for level in [1, 0] {
            let larger = unfold(&self.up[level].forward(&x)?, sizes[level + 1])?;
            x = self.back[level].forward(&larger.apply_op2(&kept[level], Sum)?, sizes[level])?;
        }
        let map = self.map.forward(&x)?;
        Ok(Logits { size: sizes[0], map, head })
    }
}

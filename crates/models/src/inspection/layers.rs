//! The operations on pictures that candle lacks in a form that is fast on a processor.
//!
//! A picture is `[height · width, channels]`: the channels of a pixel lie together, so that a convolution over single pixels is a matrix product as it
//! stands. One picture at a time; pictures are computed side by side on several threads, not batched. candle's `conv2d` with a group a channel takes 18 to 37
//! times as long as [`Depthwise`], and its sums of large tensors wait for each other across threads.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use pulp::Arch;

use crate::asr::layers::contiguous;

/// Channels computed together; the channels of every layer are a multiple of it.
pub const LANES: usize = 8;
/// Side of the neighbourhood of [`Depthwise`].
pub const REACH: usize = 5;

/// Height and width of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// Returns the size at half the resolution; both sides are even.
    #[must_use]
    pub fn halved(self) -> Self {
        Self { height: self.height / 2, width: self.width / 2 }
    }

    /// Counts the pixels.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Convolves each channel by itself with its 5 × 5 weights, zeros beyond the edges.
///
/// Arguments: the picture `[height · width, channels]` and the weights `[25, channels]`, rows of the neighbourhood from the top.
#[derive(Debug, Clone, Copy)]
pub struct Depthwise(pub Size);

impl Depthwise {
    /// Returns the taps that stay inside a length at a position: the first, the one after the last, and the offset of the first.
    #[inline(always)]
    fn inside(position: usize, length: usize) -> (usize, usize, usize) {
        let half = REACH / 2;
        let first = half.saturating_sub(position);
        let last = REACH.min(length + half - position);
        (first, last, position + first - half)
    }

    /// Adds `x ∗ weights` to `y`; mirrored weights give the derivative with respect to the input.
    #[inline(always)]
    fn convolve(self, x: &[f32], weights: &[f32], channels: usize, y: &mut [f32]) {
        let Size { height, width } = self.0;
        for row in 0..height {
            let (top, bottom, first_row) = Self::inside(row, height);
            for column in 0..width {
                let (left, right, first_column) = Self::inside(column, width);
                let out = &mut y[(row * width + column) * channels..][..channels];
                for (block, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let mut sum = [0f32; LANES];
                    for tap_row in top..bottom {
                        let taps = (first_row + tap_row - top) * width + first_column;
                        for tap in left..right {
                            let x = &x[(taps + tap - left) * channels + block * LANES..][..LANES];
                            let w = &weights[(tap_row * REACH + tap) * channels + block * LANES..][..LANES];
                            for lane in 0..LANES {
                                sum[lane] += x[lane] * w[lane];
                            }
                        }
                    }
                    *out = sum;
                }
            }
        }
    }

    /// Returns the derivative with respect to the weights.
    #[inline(always)]
    fn correlate(self, x: &[f32], above: &[f32], channels: usize) -> Vec<f32> {
        let Size { height, width } = self.0;
        let half = REACH / 2;
        let mut grad = vec![0f32; REACH * REACH * channels];
        for row in 0..height {
            let (top, bottom, first_row) = Self::inside(row, height);
            for tap_row in top..bottom {
                let from = (first_row + tap_row - top) * width;
                for tap in 0..REACH {
                    let columns = half.saturating_sub(tap)..(width + half).saturating_sub(tap).min(width);
                    for block in 0..channels / LANES {
                        let mut sum = [0f32; LANES];
                        for column in columns.clone() {
                            let x = &x[(from + column + tap - half) * channels + block * LANES..][..LANES];
                            let a = &above[(row * width + column) * channels + block * LANES..][..LANES];
                            for lane in 0..LANES {
                                sum[lane] += x[lane] * a[lane];
                            }
                        }
                        let out = &mut grad[(tap_row * REACH + tap) * channels + block * LANES..][..LANES];
                        for lane in 0..LANES {
                            out[lane] += sum[lane];
                        }
                    }
                }
            }
        }
        grad
    }
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise-5x5"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = channels(l1, self.0)?;
        if channels % LANES != 0 || l2.shape().dims() != [REACH * REACH, channels] {
            bail!("depthwise-5x5: found weights {:?} for {channels} channels", l2.shape());
        }
        let (x, weights) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let mut y = vec![0f32; x.len()];
        Arch::new().dispatch(|| self.convolve(x, weights, channels, &mut y));
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, channels) = arg1.dims2()?;
        let x = arg1.flatten_all()?.to_vec1::<f32>()?;
        let weights = arg2.to_vec2::<f32>()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let mirrored: Vec<f32> = weights.into_iter().rev().flatten().collect();
        let mut grad_x = vec![0f32; x.len()];
        let mut grad_weights = Vec::new();
        Arch::new().dispatch(|| {
            self.convolve(&above, &mirrored, channels, &mut grad_x);
            grad_weights = self.correlate(&x, &above, channels);
        });
        let device = arg1.device();
        Ok((
            Some(Tensor::from_vec(grad_x, arg1.shape(), device)?),
            Some(Tensor::from_vec(grad_weights, arg2.shape(), device)?),
        ))
    }
}

/// Adds a bias `[channels]` to each pixel `[pixels, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// And nothing else.
    Plain,
    /// And takes what is negative for 0.
    Rectified,
}

impl CustomOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let mut y = x.to_vec();
        for row in y.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            if *self == Self::Rectified {
                row.iter_mut().for_each(|y| *y = y.max(0.0));
            }
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grad = grad_res.flatten_all()?.to_vec1::<f32>()?;
        if *self == Self::Rectified {
            let y = res.flatten_all()?.to_vec1::<f32>()?;
            grad.iter_mut().zip(y).filter(|(_, y)| *y <= 0.0).for_each(|(g, _)| *g = 0.0);
        }
        let mut sums = vec![0f32; arg2.elem_count()];
        for row in grad.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
        }
        let device = arg1.device();
        Ok((Some(Tensor::from_vec(grad, arg1.shape(), device)?), Some(Tensor::from_vec(sums, arg2.shape(), device)?)))
    }
}

/// Adds two pictures.
#[derive(Debug, Clone, Copy)]
pub struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if l1.shape() != l2.shape() {
            bail!("sum: found {:?} and {:?}, allowed: equal shapes", l1.shape(), l2.shape());
        }
        let (a, b) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        Ok((CpuStorage::F32(a.iter().zip(b).map(|(a, b)| a + b).collect()), l1.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad_res: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad_res.clone()), Some(grad_res.clone())))
    }
}

/// Lays the 2 × 2 pixels of each square side by side: `[height · width, channels]` to `[height/2 · width/2, 4 · channels]`.
///
/// # Errors
/// If the tensor is no picture of this size.
pub fn fold(x: &Tensor, size: Size) -> Result<Tensor> {
    let (_, channels) = x.dims2()?;
    let Size { height, width } = size.halved();
    x.reshape((height, 2, width, 2 * channels))?
        .permute((0, 2, 1, 3))?
        .contiguous()?
        .reshape((height * width, 4 * channels))
}

/// Does the opposite of [`fold`]: `[height · width, 4 · channels]` to `[2 height · 2 width, channels]`, where `size` is that of the argument.
///
/// # Errors
/// If the tensor is no picture of this size.
pub fn unfold(x: &Tensor, size: Size) -> Result<Tensor> {
    let (_, channels) = x.dims2()?;
    let Size { height, width } = size;
    x.reshape((height, width, 2, channels / 2))?
        .permute((0, 2, 1, 3))?
        .contiguous()?
        .reshape((4 * height * width, channels / 4))
}

fn channels(layout: &Layout, size: Size) -> Result<usize> {
    let (pixels, channels) = layout.shape().dims2()?;
    if pixels != size.pixels() {
        bail!("found {pixels} pixels, allowed: {} by {}", size.width, size.height);
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn wave(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>() as f32;
        Tensor::arange(0f32, n, &Device::Cpu).and_then(|x| (x * 1.7)?.cos()?.reshape(shape)).unwrap()
    }

    /// Compares the derivative of `sum(f(x)·w)` with central differences at every seventh element of `x`.
    fn check_gradient(x: &Var, f: impl Fn() -> Result<Tensor>) {
        let shape = f().unwrap().dims().to_vec();
        let weights = wave(&shape);
        let value = || f().unwrap().mul(&weights).unwrap().sum_all().unwrap();
        let gradients = value().backward().unwrap();
        let gradient = gradients.get(x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let base = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, found) in gradient.into_iter().enumerate().step_by(7) {
            let at = |step: f32| {
                let mut moved = base.clone();
                moved[i] += step;
                x.set(&Tensor::from_vec(moved, x.shape(), x.device()).unwrap()).unwrap();
                value().to_scalar::<f32>().unwrap()
            };
            let numeric = (at(0.5) - at(-0.5)) / 1.0;
            assert!((found - numeric).abs() < 2e-3, "element {i}: {found} against {numeric}");
        }
        x.set(&Tensor::from_vec(base, x.shape(), x.device()).unwrap()).unwrap();
    }

    #[test]
    fn derivatives_equal_finite_differences() {
        // One picture is smaller than the neighbourhood.
        for size in [Size { height: 6, width: 8 }, Size { height: 2, width: 4 }, Size { height: 12, width: 2 }] {
            let x = Var::from_tensor(&wave(&[size.pixels(), 8])).unwrap();
            let weights = Var::from_tensor(&wave(&[25, 8])).unwrap();
            check_gradient(&x, || x.apply_op2(&weights, Depthwise(size)));
            check_gradient(&weights, || x.apply_op2(&weights, Depthwise(size)));
            check_gradient(&x, || x.apply_op2(x.as_tensor(), Sum));
            let bias = Var::from_tensor(&wave(&[8])).unwrap();
            check_gradient(&bias, || x.apply_op2(&bias, Bias::Plain));
            check_gradient(&x, || x.apply_op2(&bias, Bias::Plain));
        }
    }

    #[test]
    fn what_is_negative_has_no_derivative() {
        let x = Var::new(&[[1f32, -1.0], [-3.0, 2.0]], &Device::Cpu).unwrap();
        let bias = Var::new(&[0.5f32, 0.5], &Device::Cpu).unwrap();
        let y = x.apply_op2(&bias, Bias::Rectified).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[1.5, 0.0], [0.0, 2.5]]);
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 0.0], [0.0, 1.0]]);
        assert_eq!(gradients.get(&bias).unwrap().to_vec1::<f32>().unwrap(), [1.0, 1.0]);
    }

    /// candle's own convolution, slow but independent.
    #[test]
    fn it_convolves_as_candle_does() {
        let size = Size { height: 10, width: 6 };
        let x = wave(&[size.pixels(), 8]);
        let as_picture = x.reshape((1, 10, 6, 8)).unwrap().permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let weights = wave(&[25, 8]);
        let found = x.apply_op2(&weights, Depthwise(size)).unwrap();
        let kernel = weights.reshape((5, 5, 8)).unwrap().permute((2, 0, 1)).unwrap().reshape((8, 1, 5, 5)).unwrap();
        let expected = as_picture.conv2d(&kernel.contiguous().unwrap(), 2, 1, 1, 8).unwrap();
        let expected = expected.permute((0, 2, 3, 1)).unwrap().reshape((60, 8)).unwrap();
        let difference = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn folding_and_unfolding_are_inverse() {
        let size = Size { height: 4, width: 6 };
        let x = wave(&[24, 8]);
        let folded = fold(&x, size).unwrap();
        assert_eq!(folded.dims(), [6, 32]);
        let back = unfold(&folded, size.halved()).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
    }
}

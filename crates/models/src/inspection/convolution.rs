//! Convolutions over all channels, for inference and training on a processor.
//!
//! candle's `conv2d` rearranges its input for a general matrix product, and its derivative with respect to the weights takes many times as long as the
//! convolution. Here a picture is given a border of zeros once; then the three pixels of a row that a kernel looks at lie together, and the sum over them and
//! their channels is one run of memory. A tile of the result stays in registers for all of the kernel, as in `vad::dense`. Both derivatives have the same
//! shape: with respect to the input it is a convolution with mirrored weights, with respect to the weights a product that sums over the pixels.
//!
//! Every value of the result is one chain of fused multiplications and additions in the order of the kernel, whatever tile it falls in: a picture's result does
//! not depend on its company. The pictures of a batch are shared among the threads of rayon's current pool, and what is summed over them is summed in order.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::batch::{Batch, Size};
use crate::asr::layers::contiguous;

/// The channels of a result are a multiple of this: two vectors of AVX2, one of AVX-512.
pub const LANES: usize = 16;
/// The channels of an argument are a multiple of this.
const BLOCK: usize = 8;
/// Columns of weights that are packed together.
const PANEL: usize = 32;

/// What a convolution looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The pixel itself.
    Pixel,
    /// It and the eight around it, zeros beyond the edges.
    Around,
}

impl Reach {
    /// Returns the side of the square that is looked at.
    #[must_use]
    pub const fn side(self) -> usize {
        match self {
            Self::Pixel => 1,
            Self::Around => 3,
        }
    }

    /// Gives a picture its border.
    fn bordered(self, x: &[f32], Size { width, .. }: Size, channels: usize) -> Cow<'_, [f32]> {
        let border = (self.side() / 2) * channels;
        if border == 0 {
            return Cow::Borrowed(x);
        }
        let line = width * channels + 2 * border;
        let mut y = Vec::with_capacity(line * (x.len() / (width * channels) + 2));
        y.resize(line, 0.0);
        for row in x.chunks_exact(width * channels) {
            y.resize(y.len() + border, 0.0);
            y.extend_from_slice(row);
            y.resize(y.len() + border, 0.0);
        }
        y.resize(y.len() + line, 0.0);
        Cow::Owned(y)
    }
}

/// Convolves the pictures of a batch.
///
/// Arguments: the pictures `[pixels, inputs]` and the weights `[side² · inputs, outputs]`, the pixels of the square row by row, each with its channels.
#[derive(Debug, Clone, Copy)]
pub struct Convolution {
    /// The pictures.
    pub batch: Batch,
    /// What is looked at.
    pub reach: Reach,
}

impl Convolution {
    fn convolve(&self, x: &[f32], inputs: usize, weights: &[f32], outputs: usize) -> Vec<f32> {
        let panels = packed(weights, outputs);
        let mut y = vec![0f32; self.batch.pixels() * outputs];
        let size = self.batch.size;
        let pictures = x.par_chunks_exact(size.pixels() * inputs).zip(y.par_chunks_exact_mut(size.pixels() * outputs));
        pictures.for_each(|(x, y)| {
            let x = self.reach.bordered(x, size, inputs);
            let shape = Shaped { size, side: self.reach.side(), inputs, outputs };
            Arch::new().dispatch(Product { shape, x: &x, panels: &panels, y });
        });
        y
    }

    /// Returns the derivative with respect to the weights.
    fn correlate(&self, x: &[f32], inputs: usize, above: &[f32], outputs: usize) -> Vec<f32> {
        let (size, side) = (self.batch.size, self.reach.side());
        let sums: Vec<Vec<f32>> = x
            .par_chunks_exact(size.pixels() * inputs)
            .zip(above.par_chunks_exact(size.pixels() * outputs))
            .map(|(x, above)| {
                let x = self.reach.bordered(x, size, inputs);
                let mut sums = vec![0f32; side * side * inputs * outputs];
                let shape = Shaped { size, side, inputs, outputs };
                Arch::new().dispatch(Correlation { shape, x: &x, above, sums: &mut sums });
                sums
            })
            .collect();
        let mut total = vec![0f32; side * side * inputs * outputs];
        for sums in sums {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        total
    }

    /// Turns weights around, so that a convolution with them is the derivative with respect to the input.
    fn mirrored(&self, weights: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
        let taps = self.reach.side().pow(2);
        let mut mirrored = Vec::with_capacity(weights.len());
        for tap in (0..taps).rev() {
            for output in 0..outputs {
                mirrored.extend((0..inputs).map(|input| weights[(tap * inputs + input) * outputs + output]));
            }
        }
        mirrored
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let inputs = self.batch.channels(l1)?;
        let (rows, outputs) = l2.shape().dims2()?;
        let fits = rows == self.reach.side().pow(2) * inputs;
        if !fits || inputs % BLOCK != 0 || outputs % LANES != 0 {
            bail!("convolution: found weights {:?} for {inputs} channels", l2.shape());
        }
        let y = self.convolve(contiguous(s1, l1)?, inputs, contiguous(s2, l2)?, outputs);
        Ok((CpuStorage::F32(y), Shape::from((self.batch.pixels(), outputs))))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((_, inputs), (_, outputs)) = (arg1.dims2()?, arg2.dims2()?);
        let x = arg1.flatten_all()?.to_vec1::<f32>()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let device = arg1.device();
        let grad_weights = self.correlate(&x, inputs, &above, outputs);
        let grad_weights = Tensor::from_vec(grad_weights, arg2.shape(), device)?;
        // Nobody asks how the pictures themselves should change.
        let grad_x = if arg1.track_op() {
            let weights = arg2.flatten_all()?.to_vec1::<f32>()?;
            let grad = self.convolve(&above, outputs, &self.mirrored(&weights, inputs, outputs), inputs);
            Some(Tensor::from_vec(grad, arg1.shape(), device)?)
        } else {
            None
        };
        Ok((grad_x, Some(grad_weights)))
    }
}

/// Lays the columns of weights in panels of [`PANEL`], the last one with as many as are left.
fn packed(weights: &[f32], outputs: usize) -> Vec<f32> {
    let mut panels = Vec::with_capacity(weights.len());
    for first in (0..outputs).step_by(PANEL) {
        let last = (first + PANEL).min(outputs);
        for row in weights.chunks_exact(outputs) {
            panels.extend_from_slice(&row[first..last]);
        }
    }
    panels
}

/// What the kernels know of a picture with its border.
#[derive(Debug, Clone, Copy)]
struct Shaped {
    size: Size,
    side: usize,
    inputs: usize,
    outputs: usize,
}

impl Shaped {
    /// Values that a kernel sees in one row.
    fn run(self) -> usize {
        self.side * self.inputs
    }

    /// Values of a row with its border.
    fn line(self) -> usize {
        (self.size.width + self.side - 1) * self.inputs
    }
}

/// One convolution of a picture. A type of its own, so that its code exists once for each instruction set.
struct Product<'a> {
    shape: Shaped,
    x: &'a [f32],
    panels: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.shape.side * self.shape.run();
        for output in (0..self.shape.outputs).step_by(PANEL) {
            let width = PANEL.min(self.shape.outputs - output);
            let panel = Panel { weights: &self.panels[output * rows..][..width * rows], width, output };
            let mut column = 0;
            while column + 2 * S::F32_LANES <= width {
                self.columns::<S, 2>(simd, panel, column);
                column += 2 * S::F32_LANES;
            }
            while column + S::F32_LANES <= width {
                self.columns::<S, 1>(simd, panel, column);
                column += S::F32_LANES;
            }
        }
    }
}

/// Columns of weights.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [f32],
    width: usize,
    /// The channel of the first column.
    output: usize,
}

impl Product<'_> {
    #[inline(always)]
    fn columns<S: Simd, const VECTORS: usize>(&mut self, simd: S, panel: Panel<'_>, column: usize) {
        let pixels = self.shape.size.pixels();
        let mut pixel = 0;
        // AVX-512 has registers for twelve pixels of two vectors, AVX2 for six.
        if S::F32_LANES >= 16 {
            while pixel + 12 <= pixels {
                self.tile::<S, 12, VECTORS>(simd, pixel, panel, column);
                pixel += 12;
            }
        }
        while pixel + 6 <= pixels {
            self.tile::<S, 6, VECTORS>(simd, pixel, panel, column);
            pixel += 6;
        }
        while pixel < pixels {
            self.tile::<S, 1, VECTORS>(simd, pixel, panel, column);
            pixel += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const PIXELS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        pixel: usize,
        panel: Panel<'_>,
        column: usize,
    ) {
        let Shaped { size, inputs, outputs, .. } = self.shape;
        let (run, line) = (self.shape.run(), self.shape.line());
        let places: [usize; PIXELS] =
            std::array::from_fn(|p| (pixel + p) / size.width * line + (pixel + p) % size.width * inputs);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PIXELS];
        for (down, weights) in panel.weights.chunks_exact(run * panel.width).enumerate() {
            let seen: [&[f32]; PIXELS] = std::array::from_fn(|p| &self.x[places[p] + down * line..][..run]);
            for (k, weights) in weights.chunks_exact(panel.width).enumerate().take(run) {
                let weights = vectors::<S, VECTORS>(&weights[column..][..VECTORS * S::F32_LANES]);
                for p in 0..PIXELS {
                    let value = simd.splat_f32s(seen[p][k]);
                    for v in 0..VECTORS {
                        sums[p][v] = simd.mul_add_e_f32s(value, weights[v], sums[p][v]);
                    }
                }
            }
        }
        for (p, sums) in sums.into_iter().enumerate() {
            let place = (pixel + p) * outputs + panel.output + column;
            let (out, _) = S::as_mut_simd_f32s(&mut self.y[place..][..VECTORS * S::F32_LANES]);
            out[..VECTORS].copy_from_slice(&sums);
        }
    }
}

/// The derivative of one picture with respect to the weights.
struct Correlation<'a> {
    shape: Shaped,
    x: &'a [f32],
    above: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Correlation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut column = 0;
        if S::F32_LANES >= 16 {
            while column + 2 * S::F32_LANES <= self.shape.outputs {
                self.columns::<S, 2>(simd, column);
                column += 2 * S::F32_LANES;
            }
        }
        while column + S::F32_LANES <= self.shape.outputs {
            self.columns::<S, 1>(simd, column);
            column += S::F32_LANES;
        }
    }
}

impl Correlation<'_> {
    #[inline(always)]
    fn columns<S: Simd, const VECTORS: usize>(&mut self, simd: S, column: usize) {
        let Shaped { size, side, inputs, outputs } = self.shape;
        let (run, line) = (self.shape.run(), self.shape.line());
        for down in 0..side {
            for first in (0..run).step_by(BLOCK) {
                let mut sums = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
                for row in 0..size.height {
                    let x = self.x[(row + down) * line + first..].chunks(inputs);
                    let above = self.above[row * size.width * outputs + column..].chunks(outputs);
                    for (x, above) in x.zip(above).take(size.width) {
                        // Up to the last pixel of the picture a whole block follows.
                        let Some(x) = x.first_chunk::<BLOCK>() else { break };
                        let above = vectors::<S, VECTORS>(&above[..VECTORS * S::F32_LANES]);
                        for k in 0..BLOCK {
                            let value = simd.splat_f32s(x[k]);
                            for v in 0..VECTORS {
                                sums[k][v] = simd.mul_add_e_f32s(value, above[v], sums[k][v]);
                            }
                        }
                    }
                }
                for (k, sums) in sums.into_iter().enumerate() {
                    let place = (down * run + first + k) * outputs + column;
                    let (out, _) = S::as_mut_simd_f32s(&mut self.sums[place..][..VECTORS * S::F32_LANES]);
                    out[..VECTORS].copy_from_slice(&sums);
                }
            }
        }
    }
}

#[inline(always)]
fn vectors<S: Simd, const VECTORS: usize>(values: &[f32]) -> [S::f32s; VECTORS] {
    let (vectors, _) = S::as_simd_f32s(values);
    std::array::from_fn(|v| vectors[v])
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::inspection::layers::tests::{check_gradient, wave};

    fn batches() -> [Batch; 3] {
        // One is smaller than the kernel.
        [(2, 5, 7), (3, 1, 2), (1, 6, 1)].map(|(count, height, width)| Batch { count, size: Size { height, width } })
    }

    #[test]
    fn derivatives_equal_finite_differences() {
        let kernels = [(Reach::Pixel, 16, 32), (Reach::Around, 16, 16), (Reach::Around, 16, 48)];
        for (batch, (reach, inputs, outputs)) in batches().into_iter().zip(kernels) {
            let x = Var::from_tensor(&wave(&[batch.pixels(), inputs])).unwrap();
            let weights = Var::from_tensor(&wave(&[reach.side().pow(2) * inputs, outputs])).unwrap();
            let convolve = || x.apply_op2(&weights, Convolution { batch, reach });
            check_gradient(&x, convolve);
            check_gradient(&weights, convolve);
        }
    }

    /// candle's own convolution, slow but independent.
    #[test]
    fn it_convolves_as_candle_does() {
        let kernels = [(Reach::Pixel, 8, 16), (Reach::Around, 8, 16), (Reach::Around, 24, 80)];
        for (batch, (reach, inputs, outputs)) in batches().into_iter().flat_map(|batch| kernels.map(|k| (batch, k))) {
            let Batch { count, size: Size { height, width } } = batch;
            let side = reach.side();
            let x = wave(&[batch.pixels(), inputs]);
            let weights = wave(&[side * side * inputs, outputs]);
            let found = x.apply_op2(&weights, Convolution { batch, reach }).unwrap();
            let kernel = weights.reshape((side, side, inputs, outputs)).unwrap().permute((3, 2, 0, 1)).unwrap();
            let x = x.reshape((count, height, width, inputs)).unwrap().permute((0, 3, 1, 2)).unwrap();
            let expected = x.contiguous().unwrap().conv2d(&kernel.contiguous().unwrap(), side / 2, 1, 1, 1).unwrap();
            let expected = expected.permute((0, 2, 3, 1)).unwrap().reshape((batch.pixels(), outputs)).unwrap();
            let difference = (found - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-4);
        }
    }

    #[test]
    fn a_picture_does_not_notice_its_company() {
        let [batch, other, _] = batches();
        let (x, weights) = (wave(&[batch.pixels(), 16]), wave(&[9 * 16, 32]));
        let together = x.apply_op2(&weights, Convolution { batch, reach: Reach::Around }).unwrap();
        let own = Convolution { batch: Batch { count: 1, ..batch }, reach: Reach::Around };
        let alone = x.narrow(0, 35, 35).unwrap().apply_op2(&weights, own).unwrap();
        let together = together.narrow(0, 35, 35).unwrap();
        assert_eq!(together.to_vec2::<f32>().unwrap(), alone.to_vec2::<f32>().unwrap());
        assert!(x.apply_op2(&weights, Convolution { batch: other, reach: Reach::Around }).is_err());
        assert!(x.apply_op2(&wave(&[16, 32]), Convolution { batch, reach: Reach::Around }).is_err());
    }
}

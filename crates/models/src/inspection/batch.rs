//! Pictures laid one after the other, and what moves their pixels about.
//!
//! A batch is `[pixels, channels]`: the pixels of the first picture row by row, then those of the next. All pictures have one size. What looks at single pixels or
//! at channels need not know where one ends; what looks at neighbours is told by a [`Batch`].

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::asr::layers::contiguous;

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

/// How many pictures a batch has, and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Pictures.
    pub count: usize,
    /// The size of each.
    pub size: Size,
}

impl Batch {
    /// Returns the batch at half the resolution; both sides are even.
    #[must_use]
    pub fn halved(self) -> Self {
        Self { size: self.size.halved(), ..self }
    }

    /// Counts the pixels of all pictures.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.count * self.size.pixels()
    }

    /// Returns the channels of a tensor that holds these pictures.
    pub(crate) fn channels(self, layout: &Layout) -> Result<usize> {
        let (pixels, channels) = layout.shape().dims2()?;
        if pixels != self.pixels() {
            bail!("found {pixels} pixels, allowed: {}, as the pictures have", self.pixels());
        }
        Ok(channels)
    }
}

/// Lays the 2 × 2 pixels of each square side by side: `[pixels, channels]` to `[pixels / 4, 4 · channels]`. The batch is that of the argument.
#[derive(Debug, Clone, Copy)]
pub struct Fold(pub Batch);

impl Fold {
    /// Calls `visit` with the first value of a pixel, and the first of its place in the folded tensor.
    #[inline(always)]
    fn places(&self, channels: usize, mut visit: impl FnMut(usize, usize)) {
        let Batch { count, size: Size { height, width } } = self.0;
        // Sides are even, so that the rows of all pictures fold as those of one.
        let mut pixel = 0;
        for row in 0..count * height {
            for column in 0..width {
                let target = row / 2 * (width / 2) + column / 2;
                visit(pixel * channels, (4 * target + row % 2 * 2 + column % 2) * channels);
                pixel += 1;
            }
        }
    }
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = self.0.channels(l1)?;
        let x = contiguous(s1, l1)?;
        let mut y = vec![0f32; x.len()];
        self.places(channels, |from, to| y[to..to + channels].copy_from_slice(&x[from..from + channels]));
        Ok((CpuStorage::F32(y), Shape::from((self.0.pixels() / 4, 4 * channels))))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let (_, channels) = arg.dims2()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let mut grad = vec![0f32; above.len()];
        self.places(channels, |to, from| grad[to..to + channels].copy_from_slice(&above[from..from + channels]));
        Tensor::from_vec(grad, arg.shape(), arg.device()).map(Some)
    }
}

/// Makes four equal pixels of each: `[pixels, channels]` to `[4 · pixels, channels]`. The batch is that of the result.
#[derive(Debug, Clone, Copy)]
pub struct Enlarge(pub Batch);

impl Enlarge {
    /// Calls `visit` with the first value of a pixel of the result, and the first of the one it is a copy of.
    #[inline(always)]
    fn places(&self, channels: usize, mut visit: impl FnMut(usize, usize)) {
        let Batch { count, size: Size { height, width } } = self.0;
        let mut pixel = 0;
        for row in 0..count * height {
            for column in 0..width {
                visit(pixel * channels, (row / 2 * (width / 2) + column / 2) * channels);
                pixel += 1;
            }
        }
    }
}

impl CustomOp1 for Enlarge {
    fn name(&self) -> &'static str {
        "enlarge"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = self.0.halved().channels(l1)?;
        let x = contiguous(s1, l1)?;
        let mut y = vec![0f32; 4 * x.len()];
        self.places(channels, |to, from| y[to..to + channels].copy_from_slice(&x[from..from + channels]));
        Ok((CpuStorage::F32(y), Shape::from((self.0.pixels(), channels))))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let (_, channels) = arg.dims2()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let mut grad = vec![0f32; arg.elem_count()];
        self.places(channels, |from, to| {
            let own = &mut grad[to..to + channels];
            own.iter_mut().zip(&above[from..from + channels]).for_each(|(sum, g)| *sum += g);
        });
        Tensor::from_vec(grad, arg.shape(), arg.device()).map(Some)
    }
}

/// Takes the mean of every channel of a picture, and beside the means the largest values: `[pixels, channels]` to `[pictures, 2 · channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Pool(pub Batch);

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = self.0.channels(l1)?;
        let pixels = self.0.size.pixels();
        let mut y = Vec::with_capacity(2 * channels * self.0.count);
        for picture in contiguous(s1, l1)?.chunks_exact(pixels * channels) {
            let (mut sums, mut most) = (vec![0f32; channels], vec![f32::NEG_INFINITY; channels]);
            for pixel in picture.chunks_exact(channels) {
                for ((sum, most), &x) in sums.iter_mut().zip(&mut most).zip(pixel) {
                    *sum += x;
                    *most = most.max(x);
                }
            }
            y.extend(sums.into_iter().map(|sum| sum / pixels as f32));
            y.extend(most);
        }
        Ok((CpuStorage::F32(y), Shape::from((self.0.count, 2 * channels))))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let (_, channels) = arg.dims2()?;
        let x = arg.flatten_all()?.to_vec1::<f32>()?;
        let (y, above) = (res.to_vec2::<f32>()?, grad_res.to_vec2::<f32>()?);
        let mut grad = Vec::with_capacity(x.len());
        let count = self.0.size.pixels() as f32;
        for ((picture, y), above) in x.chunks_exact(self.0.size.pixels() * channels).zip(y).zip(above) {
            // Of equal values the first is the largest.
            let mut taken = vec![false; channels];
            for pixel in picture.chunks_exact(channels) {
                for (k, (&x, taken)) in pixel.iter().zip(&mut taken).enumerate() {
                    let largest = !*taken && x == y[channels + k];
                    *taken |= largest;
                    grad.push(above[k] / count + if largest { above[channels + k] } else { 0.0 });
                }
            }
        }
        Tensor::from_vec(grad, arg.shape(), arg.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::inspection::layers::tests::{check_gradient, wave};

    fn batch() -> Batch {
        Batch { count: 2, size: Size { height: 2, width: 6 } }
    }

    #[test]
    fn squares_are_laid_side_by_side_and_copied() {
        let x = Tensor::arange(0f32, 24.0, &candle_core::Device::Cpu).unwrap().reshape((24, 1)).unwrap();
        let folded = x.apply_op1(Fold(batch())).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(folded[0], [0.0, 1.0, 6.0, 7.0]);
        assert_eq!(folded[5], [16.0, 17.0, 22.0, 23.0]);
        let small = Tensor::arange(0f32, 6.0, &candle_core::Device::Cpu).unwrap().reshape((6, 1)).unwrap();
        let large = small.apply_op1(Enlarge(batch())).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(large[..12], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(large[18..], [3.0, 3.0, 4.0, 4.0, 5.0, 5.0]);
        let pooled = x.apply_op1(Pool(batch())).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(pooled, [[5.5, 11.0], [17.5, 23.0]]);
        assert!(small.apply_op1(Fold(batch())).is_err());
    }

    #[test]
    fn derivatives_equal_finite_differences() {
        let x = Var::from_tensor(&wave(&[24, 8])).unwrap();
        check_gradient(&x, || x.apply_op1(Fold(batch())));
        let small = Var::from_tensor(&wave(&[6, 8])).unwrap();
        check_gradient(&small, || small.apply_op1(Enlarge(batch())));
        // A step may not change which value is the largest.
        let steep = Var::from_tensor(&(wave(&[24, 8]) * 500.0).unwrap()).unwrap();
        check_gradient(&steep, || steep.apply_op1(Pool(batch())));
    }
}

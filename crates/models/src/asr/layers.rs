//! The two operations candle lacks in a form that trains fast on a processor, each with its derivative.
//!
//! A convolution over time is a copy ([`Unfold`]) and a matrix product, which candle hands to its fastest kernel forwards and backwards.
//! Both operations take contiguous `f32` and work on one thread: training runs one shard of the batch a thread.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Added to the variance in [`LayerNorm`].
const EPSILON: f32 = 1e-5;

/// Lays the frames around each output frame side by side: `[batch, time, channels]` to `[batch, ceil(time/stride), kernel·channels]`.
///
/// Frames before 0 and from a sequence's own length on read as zeros, so what a sequence yields does not depend on how far its batch is padded.
#[derive(Debug, Clone)]
pub struct Unfold {
    /// Taps; odd, so that the middle one is the frame itself.
    pub kernel: usize,
    /// Frames between taps.
    pub dilation: usize,
    /// Frames between output frames.
    pub stride: usize,
    /// Valid frames of each sequence.
    pub lengths: Arc<[usize]>,
}

impl Unfold {
    /// Calls `visit(output offset, input offset)` for every tap that falls inside its sequence, in units of one frame's channels.
    fn taps(&self, batch: usize, time: usize, mut visit: impl FnMut(usize, usize)) {
        let out_time = time.div_ceil(self.stride);
        let reach = (self.kernel / 2) * self.dilation;
        for b in 0..batch {
            let length = self.lengths[b].min(time);
            for t in 0..out_time {
                for tap in 0..self.kernel {
                    let from = t * self.stride + tap * self.dilation;
                    if from >= reach && from - reach < length {
                        visit((b * out_time + t) * self.kernel + tap, b * time + from - reach);
                    }
                }
            }
        }
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, time, channels) = layout.shape().dims3()?;
        if self.lengths.len() != batch {
            bail!("unfold: found {} lengths, allowed: {batch}", self.lengths.len());
        }
        let x = contiguous(storage, layout)?;
        let shape = Shape::from((batch, time.div_ceil(self.stride), self.kernel * channels));
        let mut y = vec![0f32; shape.elem_count()];
        self.taps(batch, time, |to, from| {
            y[to * channels..][..channels].copy_from_slice(&x[from * channels..][..channels]);
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let (batch, time, channels) = arg.dims3()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let mut grad = vec![0f32; batch * time * channels];
        self.taps(batch, time, |to, from| {
            for (g, a) in grad[from * channels..][..channels].iter_mut().zip(&above[to * channels..][..channels]) {
                *g += a;
            }
        });
        Tensor::from_vec(grad, arg.shape(), arg.device()).map(Some)
    }
}

/// Normalises each frame to zero mean and unit variance over its channels, then scales and shifts: Ba et al., "Layer normalization", 2016.
///
/// Arguments: `x` `[.., channels]`, scale `[channels]`, shift `[channels]`.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm;

/// Returns the mean and the inverse standard deviation of a row.
fn moments(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = row.iter().sum::<f32>() / n;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    (mean, (variance + EPSILON).sqrt().recip())
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, scale, shift) = (contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?);
        let mut y = vec![0f32; x.len()];
        for (row, out) in x.chunks_exact(scale.len()).zip(y.chunks_exact_mut(scale.len())) {
            let (mean, inverse) = moments(row);
            for (((o, x), s), b) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                *o = (x - mean) * inverse * s + b;
            }
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let x = arg1.flatten_all()?.to_vec1::<f32>()?;
        let scale = arg2.to_vec1::<f32>()?;
        let above = grad_res.flatten_all()?.to_vec1::<f32>()?;
        let channels = scale.len();
        let mut grad_x = vec![0f32; x.len()];
        let mut grad_scale = vec![0f32; channels];
        let mut grad_shift = vec![0f32; channels];
        let mut normal = vec![0f32; channels];
        for ((row, up), down) in
            x.chunks_exact(channels).zip(above.chunks_exact(channels)).zip(grad_x.chunks_exact_mut(channels))
        {
            let (mean, inverse) = moments(row);
            let (mut sum, mut dot) = (0f32, 0f32);
            for c in 0..channels {
                normal[c] = (row[c] - mean) * inverse;
                grad_scale[c] += up[c] * normal[c];
                grad_shift[c] += up[c];
                let g = up[c] * scale[c];
                sum += g;
                dot += g * normal[c];
            }
            let (sum, dot) = (sum / channels as f32, dot / channels as f32);
            for c in 0..channels {
                down[c] = inverse * (up[c] * scale[c] - sum - normal[c] * dot);
            }
        }
        let device = arg1.device();
        Ok((
            Some(Tensor::from_vec(grad_x, arg1.shape(), device)?),
            Some(Tensor::from_vec(grad_scale, arg2.shape(), device)?),
            Some(Tensor::from_vec(grad_shift, arg3.shape(), device)?),
        ))
    }
}

/// Returns the values of a tensor that lies in one piece.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("found {:?}, allowed: f32", storage.dtype());
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("found a strided tensor, allowed: contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Compares the derivative of `sum(f(x)·w)` with central differences at every element of `x`.
    fn check_gradient(x: &Var, f: impl Fn() -> Result<Tensor>) {
        let weights = f()
            .and_then(|y| Tensor::arange(0f32, y.elem_count() as f32, y.device())?.sin()?.reshape(y.shape()))
            .expect("weights");
        let value = || f()?.mul(&weights)?.sum_all()?.to_scalar::<f32>();
        let loss = f().and_then(|y| y.mul(&weights)?.sum_all()).expect("loss");
        let gradients = loss.backward().expect("backward");
        let gradient = gradients.get(x).expect("x has a gradient").flatten_all().and_then(|g| g.to_vec1::<f32>());
        let base = x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("values");
        for (i, found) in gradient.expect("gradient").into_iter().enumerate() {
            let at = |step: f32| {
                let mut moved = base.clone();
                moved[i] += step;
                x.set(&Tensor::from_vec(moved, x.shape(), x.device())?)?;
                value()
            };
            let numeric = (at(1e-2).expect("forward") - at(-1e-2).expect("forward")) / 2e-2;
            assert!((found - numeric).abs() < 2e-2, "element {i}: {found} against {numeric}");
        }
    }

    #[test]
    fn unfold_lays_neighbours_side_by_side() {
        let x = Tensor::arange(1f32, 6.0, &Device::Cpu).and_then(|x| x.reshape((1, 5, 1))).expect("input");
        let unfold = Unfold { kernel: 3, dilation: 1, stride: 2, lengths: [4].into() };
        let y = x.apply_op1(unfold).and_then(|y| y.to_vec3::<f32>()).expect("unfold");
        // The fifth frame lies beyond the sequence's length of four and reads as zero.
        assert_eq!(y, [[[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 0.0, 0.0]]]);
    }

    #[test]
    fn derivatives_equal_finite_differences() {
        let var = |shape: &[usize]| {
            let n = shape.iter().product::<usize>() as f32;
            let x = Tensor::arange(0f32, n, &Device::Cpu).and_then(|x| (x * 1.7)?.cos()?.reshape(shape));
            x.and_then(|x| Var::from_tensor(&x)).expect("variable")
        };
        let x = var(&[2, 5, 3]);
        let unfold = Unfold { kernel: 3, dilation: 2, stride: 3, lengths: [5, 4].into() };
        check_gradient(&x, || x.apply_op1(unfold.clone()));
        let (scale, shift) = (var(&[3]), var(&[3]));
        for variable in [&x, &scale, &shift] {
            check_gradient(variable, || x.apply_op3(&scale, &shift, LayerNorm));
        }
    }
}

//! What is done with every pixel or channel by itself: biases, sums, batch normalisation.
//!
//! A batch is `[pixels, channels]`, see [`batch`](super::batch). Batch normalisation (Ioffe and Szegedy, 2015) takes mean and deviation of each channel over all
//! pixels of all pictures of a batch. It is only computed while learning; a network that inspects has it folded into its convolutions.
//!
//! candle's sums of large tensors wait for each other across threads; those here do not.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::asr::layers::contiguous;

/// Added to the variance of a channel.
const CALM: f64 = 1e-5;

/// What follows an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Plain,
    /// What is negative is taken for 0.
    Rectified,
}

impl After {
    #[inline(always)]
    fn of(self, value: f32) -> f32 {
        match self {
            Self::Plain => value,
            Self::Rectified => value.max(0.0),
        }
    }

    /// Returns the derivative before this step from that behind it, where `res` is the result.
    fn before(self, grad_res: &Tensor, res: &Tensor) -> Result<Vec<f32>> {
        let mut grad = grad_res.flatten_all()?.to_vec1::<f32>()?;
        if self == Self::Rectified {
            let y = res.flatten_all()?.to_vec1::<f32>()?;
            grad.iter_mut().zip(y).for_each(|(g, y)| *g = if y > 0.0 { *g } else { 0.0 });
        }
        Ok(grad)
    }
}

/// Adds a bias `[channels]` to each pixel `[pixels, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Bias(pub After);

impl CustomOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(bias.len()) {
            y.extend(row.iter().zip(bias).map(|(x, b)| self.0.of(x + b)));
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
        let grad = self.0.before(grad_res, res)?;
        let mut sums = vec![0f32; arg2.elem_count()];
        for row in grad.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
        }
        let device = arg1.device();
        Ok((Some(Tensor::from_vec(grad, arg1.shape(), device)?), Some(Tensor::from_vec(sums, arg2.shape(), device)?)))
    }
}

/// Adds two tensors of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Sum(pub After);

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if l1.shape() != l2.shape() {
            bail!("sum: found {:?} and {:?}, allowed: equal shapes", l1.shape(), l2.shape());
        }
        let (a, b) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        Ok((CpuStorage::F32(a.iter().zip(b).map(|(a, b)| self.0.of(a + b)).collect()), l1.shape().clone()))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        _: &Tensor,
        res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = match self.0 {
            After::Plain => grad_res.clone(),
            After::Rectified => Tensor::from_vec(self.0.before(grad_res, res)?, arg1.shape(), arg1.device())?,
        };
        Ok((Some(grad.clone()), Some(grad)))
    }
}

/// Mean and standard deviation of every channel of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f32>,
    /// Standard deviations, above 0.
    pub deviation: Vec<f32>,
}

impl Moments {
    /// Measures a tensor `[pixels, channels]`.
    ///
    /// # Errors
    /// If the tensor is none, or has no pixels.
    pub fn measure(x: &Tensor) -> Result<Self> {
        let (pixels, channels) = x.dims2()?;
        let values = x.detach().flatten_all()?.to_vec1::<f32>()?;
        // About the first pixel, so that a large mean does not swallow a small deviation; in runs, so that single precision is enough within each.
        let Some(origin) = values.get(..channels) else { bail!("moments: found no pixels") };
        let mut sums = vec![[0f64; 2]; channels];
        let (mut first, mut second) = (vec![0f32; channels], vec![0f32; channels]);
        for run in values.chunks(256 * channels) {
            first.fill(0.0);
            second.fill(0.0);
            for row in run.chunks_exact(channels) {
                for (((a, b), x), origin) in first.iter_mut().zip(&mut second).zip(row).zip(origin) {
                    let x = x - origin;
                    *a += x;
                    *b += x * x;
                }
            }
            for ((sum, a), b) in sums.iter_mut().zip(&first).zip(&second) {
                *sum = [sum[0] + f64::from(*a), sum[1] + f64::from(*b)];
            }
        }
        let count = pixels as f64;
        let (mean, deviation) = sums
            .into_iter()
            .zip(origin)
            .map(|([first, second], &origin)| {
                let mean = first / count;
                let variance = (second / count - mean * mean).max(0.0);
                ((mean + f64::from(origin)) as f32, (variance + CALM).sqrt() as f32)
            })
            .unzip();
        Ok(Self { mean, deviation })
    }
}

/// Normalises each channel by the moments of the batch: `(x − mean) / deviation · gain + bias`, and takes what is negative for 0 if told so.
///
/// Arguments: the batch `[pixels, channels]`, gain and bias `[channels]`. The moments are those of the batch, and the derivative knows that they follow it.
#[derive(Debug, Clone)]
pub struct Normalise {
    /// The moments of the batch.
    pub moments: Moments,
    /// What follows.
    pub after: After,
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
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
        let (x, gain, bias) = (contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?);
        let Moments { mean, deviation } = &self.moments;
        let scale: Vec<f32> = gain.iter().zip(deviation).map(|(g, d)| g / d).collect();
        let shift: Vec<f32> = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(scale.len()) {
            y.extend(row.iter().zip(&scale).zip(&shift).map(|((x, s), b)| self.after.of(x * s + b)));
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        _: &Tensor,
        res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (pixels, channels) = arg1.dims2()?;
        let x = arg1.flatten_all()?.to_vec1::<f32>()?;
        let gain = arg2.to_vec1::<f32>()?;
        let mut grad = self.after.before(grad_res, res)?;
        let Moments { mean, deviation } = &self.moments;
        let inverse: Vec<f32> = deviation.iter().map(|d| d.recip()).collect();
        // Sums of the derivative, and of it with the normalised values.
        let (mut plain, mut along) = (vec![0f64; channels], vec![0f64; channels]);
        let (mut a, mut b) = (vec![0f32; channels], vec![0f32; channels]);
        for (x, grad) in x.chunks(256 * channels).zip(grad.chunks(256 * channels)) {
            a.fill(0.0);
            b.fill(0.0);
            for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                for ((((a, b), x), g), mean) in a.iter_mut().zip(&mut b).zip(x).zip(grad).zip(mean) {
                    *a += g;
                    *b += g * (x - mean);
                }
            }
            plain.iter_mut().zip(&a).for_each(|(sum, a)| *sum += f64::from(*a));
            along.iter_mut().zip(&b).for_each(|(sum, b)| *sum += f64::from(*b));
        }
        along.iter_mut().zip(&inverse).for_each(|(sum, inverse)| *sum *= f64::from(*inverse));
        // gain / deviation · (grad − mean of grad − normalised · mean of grad · normalised)
        let count = pixels as f64;
        let scale: Vec<f32> = gain.iter().zip(&inverse).map(|(g, i)| g * i).collect();
        let level: Vec<f32> = plain.iter().map(|sum| (sum / count) as f32).collect();
        let slope: Vec<f32> = along.iter().zip(&inverse).map(|(sum, i)| (sum / count) as f32 * i).collect();
        for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)) {
            let constants = scale.iter().zip(&level).zip(&slope).zip(mean);
            for ((g, x), (((scale, level), slope), mean)) in grad.iter_mut().zip(x).zip(constants) {
                *g = scale * (*g - level - slope * (x - mean));
            }
        }
        let device = arg1.device();
        let channel = |sums: Vec<f64>| {
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            Tensor::from_vec(sums, channels, device)
        };
        Ok((Some(Tensor::from_vec(grad, arg1.shape(), device)?), Some(channel(along)?), Some(channel(plain)?)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{Device, Var};

    use super::*;

    pub(crate) fn wave(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>() as f32;
        Tensor::arange(0f32, n, &Device::Cpu).and_then(|x| (x * 1.7)?.cos()?.reshape(shape)).unwrap()
    }

    /// Compares the derivative of `sum(f(x)·w)` with central differences at every seventh element of `x`; `f` is linear.
    pub(crate) fn check_gradient(x: &Var, f: impl Fn() -> Result<Tensor>) {
        check(x, f, 0.5, 5e-3);
    }

    fn check(x: &Var, f: impl Fn() -> Result<Tensor>, step: f32, tolerance: f32) {
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
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            assert!(
                (found - numeric).abs() < tolerance * found.abs().max(1.0),
                "element {i}: {found} against {numeric}"
            );
        }
        x.set(&Tensor::from_vec(base, x.shape(), x.device()).unwrap()).unwrap();
    }

    #[test]
    fn derivatives_equal_finite_differences() {
        let x = Var::from_tensor(&wave(&[24, 8])).unwrap();
        let bias = Var::from_tensor(&wave(&[8])).unwrap();
        check_gradient(&x, || x.apply_op2(x.as_tensor(), Sum(After::Plain)));
        check_gradient(&bias, || x.apply_op2(&bias, Bias(After::Plain)));
        check_gradient(&x, || x.apply_op2(&bias, Bias(After::Plain)));
        let gain = Var::from_tensor(&(wave(&[8]) + 2.0).unwrap()).unwrap();
        for after in [After::Plain, After::Rectified] {
            let normalise = || {
                let moments = Moments::measure(&x)?;
                x.apply_op3(&gain, &bias, Normalise { moments, after })
            };
            // Small steps, so that hardly anything passes 0 on the way.
            check(&x, normalise, 5e-3, 2e-2);
            check(&gain, normalise, 5e-3, 2e-2);
            check(&bias, normalise, 5e-3, 2e-2);
        }
    }

    #[test]
    fn what_is_negative_has_no_derivative() {
        let x = Var::new(&[[1f32, -1.0], [-3.0, 2.0]], &Device::Cpu).unwrap();
        let bias = Var::new(&[0.5f32, 0.5], &Device::Cpu).unwrap();
        let y = x.apply_op2(&bias, Bias(After::Rectified)).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[1.5, 0.0], [0.0, 2.5]]);
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 0.0], [0.0, 1.0]]);
        assert_eq!(gradients.get(&bias).unwrap().to_vec1::<f32>().unwrap(), [1.0, 1.0]);
        let sum = x.apply_op2(x.as_tensor(), Sum(After::Rectified)).unwrap();
        assert_eq!(sum.to_vec2::<f32>().unwrap(), [[2.0, 0.0], [0.0, 4.0]]);
        let gradients = sum.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[2.0, 0.0], [0.0, 2.0]]);
    }

    #[test]
    fn a_normalised_batch_has_no_mean_and_a_deviation_of_one() {
        let x = ((wave(&[900, 8]) * 3.0).unwrap() + 500.0).unwrap();
        let moments = Moments::measure(&x).unwrap();
        let (one, zero) =
            (Tensor::new(&[1f32; 8], &Device::Cpu).unwrap(), Tensor::new(&[0f32; 8], &Device::Cpu).unwrap());
        let normalised = x.apply_op3(&one, &zero, Normalise { moments, after: After::Plain }).unwrap();
        let found = Moments::measure(&normalised).unwrap();
        assert!(found.mean.iter().all(|m| m.abs() < 1e-3), "{found:?}");
        assert!(found.deviation.iter().all(|d| (d - 1.0).abs() < 1e-3), "{found:?}");
        assert!(Moments::measure(&Tensor::zeros((0, 8), candle_core::DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}

//! The parts encoder and decoder share, on rows of 32-bit floats.
//!
//! Matrix products are candle's; what stands between them (normalisation, activation, softmax, attention of a few
//! queries) is a pass over memory, written so that the compiler vectorises it, and parallel over rows, never inside one.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::whisper::weights::Weights;

/// Values a thread should have before another one is worth waking.
const GRAIN: usize = 1 << 15;
/// From this many rows on, the input and not the weight is the product's left side.
const TALL: usize = 64;
/// Results up to which gemm computes a product in another way, and so to other last bits; as it does for a single row.
const SMALL: usize = 16 * 16;

/// `y = W x + b`.
pub(super) struct Linear {
    /// `[outputs, inputs]`, as stored.
    weight: Tensor,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    pub fn new(weight: Vec<f32>, bias: Option<Vec<f32>>, inputs: usize) -> Result<Self, ModelError> {
        let outputs = weight.len() / inputs;
        Ok(Self { weight: Tensor::from_vec(weight, (outputs, inputs), &Device::Cpu)?, bias, inputs, outputs })
    }

    /// Takes `prefix.weight` and `prefix.bias`.
    pub fn take(weights: &mut Weights, prefix: &str, inputs: usize) -> Result<Self, ModelError> {
        let bias = weights.take(&format!("{prefix}.bias"));
        Self::new(weights.take(&format!("{prefix}.weight")), Some(bias), inputs)
    }

    /// Takes several projections of one attention as a single product; keys have no bias.
    pub fn take_joined(weights: &mut Weights, prefix: &str, names: &[&str], inputs: usize) -> Result<Self, ModelError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.append(&mut weights.take(&format!("{prefix}.{name}.weight")));
            match *name {
                "k_proj" => bias.resize(bias.len() + inputs, 0.0),
                _ => bias.append(&mut weights.take(&format!("{prefix}.{name}.bias"))),
            }
        }
        Self::new(weight, Some(bias), inputs)
    }

    /// Takes `prefix.weight` of shape `[outputs, channels, 3]` as a product over three neighbouring frames.
    pub fn take_convolution(weights: &mut Weights, prefix: &str, channels: usize) -> Result<Self, ModelError> {
        let stored = weights.take(&format!("{prefix}.weight"));
        let mut weight = Vec::with_capacity(stored.len());
        for output in stored.chunks_exact(channels * 3) {
            weight.extend((0..3).flat_map(|tap| output.iter().skip(tap).step_by(3)));
        }
        Self::new(weight, Some(weights.take(&format!("{prefix}.bias"))), channels * 3)
    }

    /// Maps rows of `inputs` values to rows of `outputs`. A row's result is the same, bit for bit, whatever the others.
    pub fn apply(&self, mut x: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        let rows = x.len() / self.inputs;
        let mut y = if rows >= TALL {
            let x = Tensor::from_vec(x, (rows, self.inputs), &Device::Cpu)?;
            x.matmul(&self.weight.t()?)?.flatten_all()?.to_vec1()?
        } else {
            // Filled up with rows of zeros: of a real network's width, two are enough.
            let filled = rows.max(2).max(SMALL / self.outputs + 1);
            x.resize(filled * self.inputs, 0.0);
            let x = Tensor::from_vec(x, (filled, self.inputs), &Device::Cpu)?;
            // A few rows against a large weight: with the weight on the left it is read once and not rearranged.
            transposed(&self.weight.matmul(&x.t()?)?.flatten_all()?.to_vec1()?, filled, rows)
        };
        if let Some(bias) = &self.bias {
            for_rows(&mut y, self.outputs, |_, row| row.iter_mut().zip(bias).for_each(|(v, b)| *v += b));
        }
        Ok(y)
    }

    /// Returns row `index` of the weight.
    pub fn row(&self, index: u32) -> Result<Vec<f32>, ModelError> {
        Ok(self.weight.get(index as usize)?.to_vec1()?)
    }
}

/// Turns columns into rows, the first `rows` of them.
fn transposed(y: &[f32], columns: usize, rows: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(y.len() / columns * rows);
    for row in 0..rows {
        out.extend(y.iter().skip(row).step_by(columns));
    }
    out
}

/// Calls `f(index, row)` for every row, in parallel where there is enough to do.
pub(super) fn for_rows(x: &mut [f32], columns: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if x.len() < 2 * GRAIN {
        x.chunks_exact_mut(columns).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        let least = GRAIN.div_ceil(columns);
        x.par_chunks_exact_mut(columns).with_min_len(least).enumerate().for_each(|(i, row)| f(i, row));
    }
}

/// Layer normalisation with weight and bias (Ba et al. 2016, equation 4), epsilon 1e-5.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    pub fn take(weights: &mut Weights, prefix: &str) -> Self {
        Self { weight: weights.take(&format!("{prefix}.weight")), bias: weights.take(&format!("{prefix}.bias")) }
    }

    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let columns = self.weight.len();
        let mut y = x.to_vec();
        for_rows(&mut y, columns, |_, row| {
            let mean = sum(row, |v| v) / columns as f32;
            let variance = sum(row, |v| (v - mean) * (v - mean)) / columns as f32;
            let scale = 1.0 / (variance + 1e-5).sqrt();
            for ((v, w), b) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *v = (*v - mean) * scale * w + b;
            }
        });
        y
    }
}

/// Sums `f` over `x` in eight lanes: vectorised, and more exact than one running sum.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 8];
    let chunks = x.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += f(v));
    }
    lanes.iter().sum::<f32>() + rest
}

/// Adds `y` to `x`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Applies the Gaussian error linear unit, `x Φ(x)`, in its exact form.
pub(super) fn gelu(x: &mut [f32], columns: usize) {
    for_rows(x, columns, |_, row| {
        for v in row {
            *v = 0.5 * *v * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2));
        }
    });
}

/// The error function as a rational polynomial, within 5e-7 everywhere (the approximation Eigen and XLA use).
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142e-10;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_5e-5, -7.349_906e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = p * s + c;
    }
    let mut q = -1.456_607_2e-5;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2] {
        q = q * s + c;
    }
    x * p / q
}

/// `e^x` for `x ≤ 0`, within 3e-7 of the true value relatively (Cephes' `expf`); 0 below -87.
fn exp(x: f32) -> f32 {
    let floor = x.max(-87.0);
    let n = (floor * std::f32::consts::LOG2_E - 0.5) as i32;
    let r = floor - n as f32 * 0.693_359_4 + n as f32 * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits(((n + 127) << 23) as u32);
    let value = (p * r * r + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { value }
}

/// Turns scores into weights that sum to 1. A score of `-inf` becomes 0; at least one must be finite.
pub(super) fn softmax(x: &mut [f32]) {
    let most = maximum(x);
    x.iter_mut().for_each(|v| *v = exp(*v - most));
    let scale = 1.0 / sum(x, |v| v);
    x.iter_mut().for_each(|v| *v *= scale);
}

/// Returns the logarithm of the sum of exponentials; `-inf` where every value is `-inf` or there is none.
pub(super) fn log_sum_exp(x: &[f32]) -> f32 {
    let most = maximum(x);
    if most == f32::NEG_INFINITY { most } else { most + sum(x, |v| exp(v - most)).ln() }
}

/// Returns the largest value, `-inf` if there is none.
pub(super) fn maximum(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Scaled dot-product attention of one query in one head over the positions in `keys` and `values`.
///
/// Position `i` starts at `i * stride`; `output` has the width of the head and is overwritten.
pub(super) fn attend(query: &[f32], keys: &[f32], values: &[f32], stride: usize, output: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    let mut scores: Vec<f32> = keys.chunks(stride).map(|key| dot(query, &key[..width]) * scale).collect();
    softmax(&mut scores);
    output.fill(0.0);
    for (weight, value) in scores.iter().zip(values.chunks(stride)) {
        output.iter_mut().zip(&value[..width]).for_each(|(o, v)| *o += weight * v);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_and_exp_follow_the_exact_functions() {
        for i in -6000..=6000 {
            let x = i as f32 / 1000.0;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() < 5e-7, "erf({x})");
            let x = -(i + 6000) as f32 / 140.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn softmax_gives_nothing_to_what_is_suppressed() {
        let mut x = [1.0, f32::NEG_INFINITY, 1.0];
        softmax(&mut x);
        assert!((x[0] - 0.5).abs() < 1e-6 && x[1] == 0.0);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    }

    #[test]
    fn few_and_many_rows_give_the_same_products_bit_for_bit() {
        // As wide as a real network, where a sum is made of several parts, and as narrow as one of the tests.
        for (inputs, outputs) in [(1_280, 384), (64, 64)] {
            let weight: Vec<f32> = (0..inputs * outputs).map(|i| (i as f32).sin()).collect();
            let linear = Linear::new(weight, Some(vec![0.5; outputs]), inputs).unwrap();
            let x: Vec<f32> = (0..inputs * 2 * TALL).map(|i| (i as f32).cos()).collect();
            let tall = linear.apply(x.clone()).unwrap();
            for rows in [1, 2, 3, 4, 5, 8, TALL - 1, TALL] {
                let few = linear.apply(x[..inputs * rows].to_vec()).unwrap();
                assert_eq!(few.len(), outputs * rows);
                let same = few.iter().zip(&tall).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{rows} rows of {inputs} to {outputs}");
            }
        }
    }

    #[test]
    fn attention_is_the_weighted_mean_of_the_values() {
        let mut output = [9.0; 2];
        attend(&[0.0, 0.0], &[1.0, 2.0, 0.0, 3.0, 4.0, 0.0], &[2.0, 4.0, 0.0, 4.0, 8.0, 0.0], 3, &mut output);
        assert!((output[0] - 3.0).abs() < 1e-6 && (output[1] - 6.0).abs() < 1e-6);
    }
}

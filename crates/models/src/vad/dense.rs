//! Matrix products of a few hundred rows with weights known beforehand.
//!
//! The networks of this module are chains of small products, some 0.4 million multiplications a chunk. A general
//! matrix library packs the weights anew in every call, and a tensor library adds an allocation and a copy for every
//! operation; at this size both cost more than the arithmetic. So the weights are packed once, at loading, and the
//! kernel keeps a tile of the result in registers for the whole inner dimension.
//!
//! Every element of the result is one chain of fused multiplications and additions in the order of the inner index,
//! whatever tile it falls in. A row's result therefore does not depend, not even in its last bit, on which other rows
//! are computed with it.

use pulp::{Simd, WithSimd};

/// Columns that are packed together.
const PANEL: usize = 32;
/// Rows of a register tile. Six rows of two vectors fill the sixteen registers of AVX2; AVX-512 has registers to spare.
const TILE_ROWS: usize = 6;

/// Where the rows of a matrix lie in a buffer: `per_chunk` rows, `step` apart, for each chunk; chunks `stride` apart,
/// the first row of all at `first`. Rows may overlap, which is how a convolution over time reads its input without a
/// copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) per_chunk: usize,
    pub(crate) stride: usize,
}

impl Rows {
    /// Describes one row a chunk, chunks `stride` apart.
    pub(crate) const fn single(stride: usize) -> Self {
        Self { first: 0, step: 0, per_chunk: 1, stride }
    }

    #[inline(always)]
    fn offset(self, row: usize) -> usize {
        self.first + row / self.per_chunk * self.stride + row % self.per_chunk * self.step
    }
}

/// What a product starts from and what happens to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `out = x · W + b`
    Affine,
    /// `out = max(0, x · W + b)`
    Relu,
    /// `out += x · W`
    Accumulate,
}

/// An affine map of rows, `x · W + b`, packed for the kernel.
#[derive(Debug)]
pub(crate) struct Dense {
    inputs: usize,
    /// `[outputs / PANEL][inputs][PANEL]`
    panels: Vec<f32>,
    bias: Vec<f32>,
}

impl Dense {
    /// Packs the weights `weight(input, output)`. `bias` has one value an output, and their number is a multiple of 32.
    pub(crate) fn new(inputs: usize, bias: Vec<f32>, weight: impl Fn(usize, usize) -> f32) -> Self {
        let outputs = bias.len();
        assert_eq!(outputs % PANEL, 0, "outputs of a dense layer come in panels");
        let mut panels = Vec::with_capacity(inputs * outputs);
        for panel in 0..outputs / PANEL {
            for input in 0..inputs {
                panels.extend((0..PANEL).map(|column| weight(input, panel * PANEL + column)));
            }
        }
        Self { inputs, panels, bias }
    }

    /// Applies the map to `rows` rows of `x`, whose places `from` gives, and writes to the places in `out` that `to`
    /// gives.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "two matrices with their layouts, and what to do with them")]
    pub(crate) fn apply<S: Simd>(
        &self,
        simd: S,
        rows: usize,
        x: &[f32],
        from: Rows,
        out: &mut [f32],
        to: Rows,
        mode: Mode,
    ) {
        simd.vectorize(Product { dense: self, rows, x, from, out, to, mode });
    }
}

/// One call of [`Dense::apply`]. A type of its own, so that its code exists once for each instruction set.
struct Product<'a> {
    dense: &'a Dense,
    rows: usize,
    x: &'a [f32],
    from: Rows,
    out: &'a mut [f32],
    to: Rows,
    mode: Mode,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let dense = self.dense;
        for (panel, weights) in dense.panels.chunks_exact(dense.inputs * PANEL).enumerate() {
            for column in (0..PANEL).step_by(2 * S::F32_LANES) {
                let bias = &dense.bias[panel * PANEL + column..];
                let block = Block { weights, column, output: panel * PANEL + column, bias };
                let mut row = 0;
                while row + TILE_ROWS <= self.rows {
                    self.tile::<S, TILE_ROWS>(simd, row, block);
                    row += TILE_ROWS;
                }
                match self.rows - row {
                    1 => self.tile::<S, 1>(simd, row, block),
                    2 => self.tile::<S, 2>(simd, row, block),
                    3 => self.tile::<S, 3>(simd, row, block),
                    4 => self.tile::<S, 4>(simd, row, block),
                    5 => self.tile::<S, 5>(simd, row, block),
                    _ => {}
                }
            }
        }
    }
}

impl Product<'_> {
    /// Computes `ROWS` rows of two vectors of columns.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize>(&mut self, simd: S, row: usize, block: Block<'_>) {
        let width = 2 * S::F32_LANES;
        let inputs: [&[f32]; ROWS] = std::array::from_fn(|r| &self.x[self.from.offset(row + r)..][..self.dense.inputs]);
        let places: [usize; ROWS] = std::array::from_fn(|r| self.to.offset(row + r) + block.output);
        let mut sums: [[S::f32s; 2]; ROWS] = match self.mode {
            Mode::Accumulate => std::array::from_fn(|r| pair::<S>(&self.out[places[r]..][..width])),
            Mode::Affine | Mode::Relu => [pair::<S>(&block.bias[..width]); ROWS],
        };
        for (k, weights) in block.weights.chunks_exact(PANEL).enumerate().take(self.dense.inputs) {
            let weights = pair::<S>(&weights[block.column..][..width]);
            for r in 0..ROWS {
                let value = simd.splat_f32s(inputs[r][k]);
                sums[r][0] = simd.mul_add_e_f32s(value, weights[0], sums[r][0]);
                sums[r][1] = simd.mul_add_e_f32s(value, weights[1], sums[r][1]);
            }
        }
        let floor = simd.splat_f32s(if self.mode == Mode::Relu { 0.0 } else { f32::NEG_INFINITY });
        for r in 0..ROWS {
            let (vectors, _) = S::as_mut_simd_f32s(&mut self.out[places[r]..][..width]);
            vectors[0] = simd.max_f32s(sums[r][0], floor);
            vectors[1] = simd.max_f32s(sums[r][1], floor);
        }
    }
}

/// The columns of a tile.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// The panel, `[inputs][PANEL]`.
    weights: &'a [f32],
    /// The first column within the panel.
    column: usize,
    /// The same column within the result.
    output: usize,
    /// The bias from that column on.
    bias: &'a [f32],
}

#[inline(always)]
fn pair<S: Simd>(values: &[f32]) -> [S::f32s; 2] {
    let (vectors, _) = S::as_simd_f32s(values);
    [vectors[0], vectors[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Apply<'a>(&'a Dense, usize, &'a [f32], Rows, &'a mut [f32], Rows, Mode);

    impl WithSimd for Apply<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.apply(simd, self.1, self.2, self.3, self.4, self.5, self.6);
        }
    }

    fn noise(seed: usize, i: usize) -> f32 {
        (((i * 7919 + seed * 104_729 + 12_345) % 2003) as f32 / 2003.0) - 0.5
    }

    proptest! {
        #[test]
        fn equals_the_definition_and_ignores_other_rows(chunks in 1usize..9, taps in 1usize..4, seed in 0usize..1000) {
            let (inputs, outputs) = (5 * taps, 64);
            let dense = Dense::new(inputs, (0..outputs).map(|o| noise(seed, o)).collect(), |i, o| noise(seed + 1, i * outputs + o));
            let from = Rows { first: 0, step: 5, per_chunk: 2, stride: 20 };
            let to = Rows { first: 3, step: outputs, per_chunk: 2, stride: 2 * outputs + 1 };
            let x: Vec<f32> = (0..20 * chunks).map(|i| noise(seed + 2, i)).collect();
            for mode in [Mode::Affine, Mode::Relu, Mode::Accumulate] {
                let run = |chunks: usize| {
                    let mut out = vec![0.25; 3 + chunks * to.stride];
                    pulp::Arch::new().dispatch(Apply(&dense, 2 * chunks, &x, from, &mut out, to, mode));
                    out
                };
                let all = run(chunks);
                for row in 0..2 * chunks {
                    for o in 0..outputs {
                        let product: f32 = (0..inputs).map(|i| x[from.offset(row) + i] * noise(seed + 1, i * outputs + o)).sum();
                        let expected = match mode {
                            Mode::Affine => product + noise(seed, o),
                            Mode::Relu => (product + noise(seed, o)).max(0.0),
                            Mode::Accumulate => product + 0.25,
                        };
                        prop_assert!((all[to.offset(row) + o] - expected).abs() < 1e-5);
                    }
                }
                let alone = run(1);
                prop_assert_eq!(&alone[3..3 + 2 * outputs], &all[3..3 + 2 * outputs]);
            }
        }
    }
}

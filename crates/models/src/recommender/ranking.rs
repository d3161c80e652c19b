//! Exact top-k: every product's score by a matrix product, the best of each row kept.

use pulp::{Arch, Simd, WithSimd};

use super::network::WIDTH;
use crate::vad::dense::{Dense, Mode, Rows};

/// Products scored together: 64 KB of weights and, with a tile of rows, as much of scores.
const BLOCK: usize = 256;
/// Rows scored together.
const TILE: usize = 60;

/// A product and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The product's place in the catalogue.
    pub product: u32,
    /// The score.
    pub score: f32,
}

/// The output embeddings of a catalogue, packed for the product.
pub struct Ranking {
    blocks: Vec<Dense>,
    products: usize,
}

impl Ranking {
    /// Packs the embeddings, `[products][WIDTH]`, and biases. A product with a bias of minus infinity
    /// is never among the best.
    ///
    /// # Panics
    /// If there are not as many embeddings as biases.
    #[must_use]
    pub fn new(embeddings: &[f32], biases: &[f32]) -> Self {
        assert_eq!(embeddings.len(), biases.len() * WIDTH, "an embedding for each bias");
        let blocks = biases.chunks(BLOCK).enumerate().map(|(block, biases)| {
            // Blocks are full; what is beyond the last product is worse than everything.
            let mut full = biases.to_vec();
            full.resize(BLOCK, f32::NEG_INFINITY);
            let own = &embeddings[block * BLOCK * WIDTH..];
            Dense::new(WIDTH, full, |input, output| own.get(output * WIDTH + input).copied().unwrap_or(0.0))
        });
        Self { blocks: blocks.collect(), products: biases.len() }
    }

    /// Returns the number of products.
    #[must_use]
    pub fn len(&self) -> usize {
        self.products
    }

    /// Returns whether there are no products.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.products == 0
    }

    /// Finds the best `k` products of each row of states, `[rows][WIDTH]`, best first; of equal scores
    /// the one that stands first in the catalogue. A row's answer does not depend on the other rows.
    #[must_use]
    pub fn best(&self, states: &[f32], k: usize) -> Vec<Vec<Scored>> {
        let mut answers: Vec<Vec<Scored>> = Vec::with_capacity(states.len() / WIDTH);
        let mut scores = vec![0.0; TILE * BLOCK];
        for states in states.chunks(TILE * WIDTH) {
            let rows = states.len() / WIDTH;
            let mut best: Vec<Best> = (0..rows).map(|_| Best::new(k)).collect();
            for (index, block) in self.blocks.iter().enumerate() {
                Arch::new().dispatch(Scoring { block, rows, states, scores: &mut scores });
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(BLOCK)) {
                    best.offer((index * BLOCK) as u32, scores);
                }
            }
            answers.extend(best.into_iter().map(Best::into_sorted));
        }
        answers
    }
}

struct Scoring<'a> {
    block: &'a Dense,
    rows: usize,
    states: &'a [f32],
    scores: &'a mut [f32],
}

impl WithSimd for Scoring<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (from, to) = (Rows::single(WIDTH), Rows::single(BLOCK));
        self.block.apply(simd, self.rows, self.states, from, self.scores, to, Mode::Affine);
    }
}

/// The best so far. It is cut back to `k` when it has twice as many.
struct Best {
    k: usize,
    /// What a product must beat.
    floor: f32,
    found: Vec<Scored>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, floor: f32::NEG_INFINITY, found: Vec::with_capacity(2 * k + 1) }
    }

    fn offer(&mut self, first: u32, scores: &[f32]) {
        // Most chunks have nothing: their maximum is found without a branch a product.
        for (chunk, scores) in scores.chunks(16).enumerate() {
            let most = scores.iter().fold(f32::NEG_INFINITY, |most, &score| if score > most { score } else { most });
            if most <= self.floor {
                continue;
            }
            for (index, &score) in scores.iter().enumerate() {
                if score > self.floor {
                    self.found.push(Scored { product: first + (chunk * 16 + index) as u32, score });
                    if self.found.len() > 2 * self.k {
                        self.cut();
                    }
                }
            }
        }
    }

    fn cut(&mut self) {
        if self.found.len() > self.k && self.k > 0 {
            self.found.select_nth_unstable_by(self.k - 1, order);
            self.floor = self.found[self.k - 1].score;
        }
        self.found.truncate(self.k);
    }

    fn into_sorted(mut self) -> Vec<Scored> {
        self.found.sort_unstable_by(order);
        self.found.truncate(self.k);
        self.found
    }
}

fn order(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.product.cmp(&b.product))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The best of the definition, whatever the rows beside them.
        #[test]
        fn equals_sorting_every_score(
            rows in 1usize..130, products in 1usize..700, k in 0usize..12, seed in 0u32..1000, coarse in any::<bool>(),
        ) {
            let noise = |n: usize| {
                let value = ((n as u32).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) % 1_009;
                // Coarse values are often equal.
                if coarse { (value % 3) as f32 } else { value as f32 / 1_009.0 - 0.5 }
            };
            let embeddings: Vec<f32> = (0..products * WIDTH).map(noise).collect();
            let biases: Vec<f32> =
                (0..products).map(|n| if n % 7 == 3 { f32::NEG_INFINITY } else { noise(n + 77) }).collect();
            let states: Vec<f32> = (0..rows * WIDTH).map(|n| noise(n + 1_234_567)).collect();
            let ranking = Ranking::new(&embeddings, &biases);
            let all = ranking.best(&states, k);
            for (row, found) in all.iter().enumerate() {
                let state = &states[row * WIDTH..][..WIDTH];
                let mut expected: Vec<Scored> = (0..products).filter(|n| biases[*n].is_finite()).map(|product| {
                    let embedding = &embeddings[product * WIDTH..][..WIDTH];
                    // One chain of fused operations, as in the kernel.
                    let score = state.iter().zip(embedding).fold(biases[product], |sum, (a, b)| a.mul_add(*b, sum));
                    Scored { product: product as u32, score }
                }).collect();
                expected.sort_by(order);
                expected.truncate(k);
                prop_assert_eq!(found, &expected);
            }
            let row = rows / 2;
            let alone = ranking.best(&states[row * WIDTH..][..WIDTH], k);
            prop_assert_eq!(&alone[0], &all[row]);
        }
    }
}

//! Finds how many ascending keys are at most a value, without a branch on the value.
//!
//! A binary search over bins that hold equal mass mispredicts every second step, and as chosen moves
//! each step waits for the one before. Here the keys lie in blocks of 8, with the last key of each
//! block as its pivot: count the pivots at most x, which names the block, then count within it.
//! Both counts are a few vector comparisons. Measured on 32 bins: 4.5 ns against 5.2 ns (branches,
//! in a loop of one signal; 12 ns when three signals alternate) and 7.9 ns (chosen moves).

const BLOCK: usize = 8;
/// The most keys: the first, and as many blocks as there are pivots.
pub(crate) const MAX_KEYS: usize = 1 + BLOCK * BLOCK;

/// Ascending finite keys, arranged for counting.
#[derive(Clone, PartialEq)]
pub(crate) struct Search {
    first: f64,
    /// The last key of each block, infinity where there is none.
    pivots: [f64; BLOCK],
    /// All keys but the first, then infinity; at least one infinity stands at the end.
    blocks: Box<[[f64; BLOCK]]>,
}

impl Search {
    /// Arranges ascending finite keys, at most [`MAX_KEYS`].
    pub(crate) fn new(keys: &[f64]) -> Self {
        let (first, rest) = keys.split_first().map_or((f64::INFINITY, keys), |(first, rest)| (*first, rest));
        let mut blocks: Vec<[f64; BLOCK]> = rest.chunks(BLOCK).map(padded).collect();
        let pivots = padded(&blocks.iter().map(|block| block[BLOCK - 1]).collect::<Vec<_>>());
        blocks.push([f64::INFINITY; BLOCK]);
        Self { first, pivots, blocks: blocks.into() }
    }

    /// Returns how many keys are at most `x`, which is finite.
    #[inline(always)]
    pub(crate) fn at_most(&self, x: f64) -> usize {
        let block = count(&self.pivots, x);
        usize::from(self.first <= x) + block * BLOCK + count(&self.blocks[block], x)
    }
}

fn padded(keys: &[f64]) -> [f64; BLOCK] {
    std::array::from_fn(|i| keys.get(i).copied().unwrap_or(f64::INFINITY))
}

/// Counts in two lanes, as wide as the vectors that every x86-64 and ARM64 has.
#[inline(always)]
fn count(keys: &[f64; BLOCK], x: f64) -> usize {
    let (pairs, _) = keys.as_chunks::<2>();
    let lanes = pairs
        .iter()
        .fold([0u64; 2], |lanes, pair| [lanes[0] + u64::from(pair[0] <= x), lanes[1] + u64::from(pair[1] <= x)]);
    (lanes[0] + lanes[1]) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_as_a_plain_loop_does(mut keys in prop::collection::vec(-1e3..1e3f64, 0..MAX_KEYS), x in -1.1e3..1.1e3f64) {
            keys.sort_unstable_by(f64::total_cmp);
            keys.dedup();
            let search = Search::new(&keys);
            for x in keys.iter().copied().flat_map(|key| [key, key.next_down(), key.next_up()]).chain([x, f64::MAX, f64::MIN]) {
                prop_assert_eq!(search.at_most(x), keys.iter().filter(|key| **key <= x).count());
            }
        }
    }
}

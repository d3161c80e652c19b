//! Finds how many ascending keys are at most a value: a guess from a table, then a short walk.
//!
//! A map that never decreases sends the range of the keys to 512 cells; a table holds, for each
//! cell, how many keys lie in cells before it. Those are below any value of the cell, and keys in
//! later cells are above it, whatever the rounding of the map: only keys of the same cell are left to
//! compare, nearly always none or one. There are two maps, and each set of keys takes the one that
//! spreads it better: by value (linear scales), or by the bits of the float, which is nearly
//! logarithmic (durations, rates).
//!
//! A binary search over bins of equal mass mispredicts its steps: counting a value took 18 ns with
//! it, 12 ns with a count over blocks of keys by vector instructions, and takes 9 ns with this.

const CELLS: usize = 512;

/// Ascending finite keys, at most 255, with the table of guesses.
#[derive(Clone)]
pub(crate) struct Search {
    map: Map,
    before: Box<[u8; CELLS]>,
    /// The keys, then infinity.
    keys: Box<[f64]>,
}

/// A map from floats to cells that never decreases.
#[derive(Clone, Copy)]
enum Map {
    Value { first: f64, cells_per_unit: f64 },
    Bits { first: i64, last: i64, shift: u32 },
}

impl Search {
    /// Prepares ascending finite keys, at least one.
    pub(crate) fn new(keys: &[f64]) -> Self {
        let (first, last) = (keys[0], keys[keys.len() - 1]);
        let by_bits = Self::with_map(Map::bits(first, last), keys);
        match Map::value(first, last).map(|map| Self::with_map(map, keys)) {
            Some(by_value) if by_value.crowding() <= by_bits.crowding() => by_value,
            _ => by_bits,
        }
    }

    fn with_map(map: Map, keys: &[f64]) -> Self {
        let mut before = Box::new([0; CELLS]);
        for cell in keys.iter().map(|key| map.cell(*key)).filter(|cell| cell + 1 < CELLS) {
            before[cell + 1] += 1;
        }
        let mut sum = 0;
        for held in before.iter_mut() {
            sum += *held;
            *held = sum;
        }
        Self { map, before, keys: keys.iter().copied().chain([f64::INFINITY]).collect() }
    }

    /// Returns how many pairs of keys share a cell, with itself each.
    fn crowding(&self) -> usize {
        let last = self.keys.len() - 1 - usize::from(self.before[CELLS - 1]);
        let inner = self.before.windows(2).map(|cells| usize::from(cells[1] - cells[0]).pow(2)).sum::<usize>();
        inner + last.pow(2)
    }

    /// Returns how many keys are at most `x`, which is finite.
    #[inline]
    pub(crate) fn at_most(&self, x: f64) -> usize {
        let mut count = usize::from(self.before[self.map.cell(x)]);
        count += usize::from(self.keys[count] <= x);
        while self.keys[count] <= x {
            count += 1;
        }
        count
    }
}

impl Map {
    /// Maps by value; `None` where the range is too wide or too narrow for that.
    fn value(first: f64, last: f64) -> Option<Self> {
        let cells_per_unit = (CELLS - 1) as f64 / (last - first);
        cells_per_unit.is_normal().then_some(Self::Value { first, cells_per_unit })
    }

    fn bits(first: f64, last: f64) -> Self {
        let (first, last) = (ordered(first), ordered(last));
        let used = 64 - last.abs_diff(first).leading_zeros();
        Self::Bits { first, last, shift: used.saturating_sub(CELLS.ilog2()) }
    }

    #[inline]
    fn cell(self, x: f64) -> usize {
        match self {
            Self::Value { first, cells_per_unit } => {
                // Adding 2⁵² leaves the nearest whole number in the low bits.
                let cell = ((x - first) * cells_per_unit).clamp(0.0, (CELLS - 1) as f64) + (1u64 << 52) as f64;
                cell.to_bits() as usize % CELLS
            }
            Self::Bits { first, last, shift } => {
                (ordered(x).clamp(first, last).abs_diff(first) >> shift) as usize % CELLS
            }
        }
    }
}

/// Returns the bits of a float as an integer that orders as floats do; both zeros are 0.
#[inline]
fn ordered(x: f64) -> i64 {
    let bits = (x + 0.0).to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = f64> {
        let any = any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| x + 0.0);
        prop_oneof![-1e3..1e3f64, 1.0..1.001f64, any, Just(0.0), Just(f64::MIN), Just(f64::MAX), Just(5e-324)]
    }

    proptest! {
        #[test]
        fn counts_as_a_plain_loop_does(mut keys in prop::collection::vec(key(), 1..66), others in prop::collection::vec(key(), 9)) {
            keys.sort_unstable_by(f64::total_cmp);
            keys.dedup();
            let search = Search::new(&keys);
            let near = keys.iter().flat_map(|key| [*key, key.next_down(), key.next_up()]);
            for x in near.chain(others).chain([-0.0, f64::MAX, f64::MIN]).filter(|x| x.is_finite()) {
                prop_assert_eq!(search.at_most(x), keys.iter().filter(|key| **key <= x).count(), "{}", x);
            }
        }
    }

    #[test]
    fn usual_scales_leave_one_comparison() {
        let linear: Vec<f64> = (0..=64).map(|k| f64::from(k) - 30.0).collect();
        let ratios: Vec<f64> = (0..=64).map(|k| 0.01 * 1.2f64.powi(k)).collect();
        for keys in [linear, ratios] {
            assert_eq!(Search::new(&keys).crowding(), keys.len());
        }
    }
}

//! Shapley values: what each player adds, averaged over the orders in which all could join.

use crate::random::SplitMix;

/// The most players whose value is computed over all coalitions.
pub const EXACT_PLAYERS: usize = 10;
/// The orders that are drawn beyond; each is taken forwards and backwards.
const ORDERS: usize = 200;

/// Returns the Shapley value of each player for `value`, a function of the coalition as a set of bits
/// (Shapley 1953). They sum to value(all) − value(none). Exact up to [`EXACT_PLAYERS`], by
///
/// > φ_i = Σ_{S ∌ i} |S|!·(n − |S| − 1)!/n! · [v(S ∪ i) − v(S)];
///
/// beyond, the mean over 200 orders drawn from `seed`, half of them the reverse of the other half
/// (Castro, Gómez, Tejada 2009). Players beyond 64 do not exist.
pub fn shapley(players: usize, seed: u64, mut value: impl FnMut(u64) -> f64) -> Vec<f64> {
    let players = players.min(64);
    if players <= EXACT_PLAYERS { exact(players, value) } else { sampled(players, seed, &mut value) }
}

fn exact(players: usize, value: impl FnMut(u64) -> f64) -> Vec<f64> {
    let values: Vec<f64> = (0..1u64 << players).map(value).collect();
    // |S|!·(n − |S| − 1)!/n! = 1 / (n · C(n − 1, |S|)).
    let mut weights = vec![1.0; players];
    let mut choose = 1.0;
    for (size, weight) in weights.iter_mut().enumerate() {
        *weight = 1.0 / (players as f64 * choose);
        choose *= (players - 1 - size) as f64 / (size + 1) as f64;
    }
    let of = |player: usize| {
        let without = (0..values.len()).filter(|set| set & (1 << player) == 0);
        without.map(|set| weights[set.count_ones() as usize] * (values[set | 1 << player] - values[set])).sum()
    };
    (0..players).map(of).collect()
}

fn sampled(players: usize, seed: u64, value: &mut impl FnMut(u64) -> f64) -> Vec<f64> {
    let mut random = SplitMix::new(seed);
    let mut order: Vec<usize> = (0..players).collect();
    let mut sums = vec![0.0; players];
    let none = value(0);
    for at in 0..ORDERS {
        if at % 2 == 0 {
            (1..players).rev().for_each(|i| order.swap(i, (random.bits() % (i as u64 + 1)) as usize));
        } else {
            order.reverse();
        }
        let (mut set, mut before) = (0, none);
        for &player in &order {
            set |= 1 << player;
            let after = value(set);
            sums[player] += (after - before) / ORDERS as f64;
            before = after;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_sum_to_the_whole(players in 1..14usize, salt in any::<u64>()) {
            let value = |set: u64| (set.wrapping_mul(salt | 1) >> 40) as f64 / 1e6;
            let found = shapley(players, 1, value);
            let whole = value((1 << players) - 1) - value(0);
            prop_assert!((found.iter().sum::<f64>() - whole).abs() < 1e-9 * (1.0 + whole.abs()) * 16.0);
        }

        /// For a game of pairs, half of each pair's worth goes to each of the two, exactly.
        #[test]
        fn pairs_are_halved(worth in proptest::collection::vec(-5.0..5.0f64, 12), players in 2..13usize) {
            let value = |set: u64| {
                (0..players - 1).filter(|i| set >> i & 3 == 3).map(|i| worth[i]).sum::<f64>()
            };
            let found = shapley(players, 1, value);
            for player in 0..players {
                let expected = 0.5 * (if player > 0 { worth[player - 1] } else { 0.0 } + if player + 1 < players { worth[player] } else { 0.0 });
                // An order and its reverse give each of a pair its half: even the sample is exact.
                prop_assert!((found[player] - expected).abs() < 1e-9, "{found:?}");
            }
        }
    }
}

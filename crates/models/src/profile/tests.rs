use proptest::prelude::*;

use super::*;

fn history(seed: usize) -> History {
    let mut history = History::default();
    for n in 0..seed % 27 {
        let past = Past {
            time_ms: 1_700_000_000_000 + (n * n * (seed % 5 + 1)) as i64 * 60_000,
            action: Action::ALL[(seed + n) % 5],
            category: ((seed * 7 + n) % 33) as u8,
            product: format!("P-{n}"),
        };
        history.observe(past, Fading::default());
    }
    history
}

#[test]
fn of_a_stranger_nothing_is_claimed() {
    let profiler = Profiler::builtin().unwrap();
    let stranger = profiler.estimate(&[&History::default()]).unwrap()[0];
    assert!(stranger.iter().all(|probability| *probability < 0.85), "{stranger:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// An answer is the same, bit for bit, whoever else is asked about.
    #[test]
    fn an_estimate_does_not_depend_on_the_others(seeds in prop::collection::vec(0usize..1_000, 1..200), one in any::<prop::sample::Index>()) {
        let profiler = Profiler::builtin().unwrap();
        let histories: Vec<History> = seeds.iter().map(|&seed| history(seed)).collect();
        let all = profiler.estimate(&histories.iter().collect::<Vec<_>>()).unwrap();
        let one = one.index(histories.len());
        let alone = profiler.estimate(&[&histories[one]]).unwrap()[0];
        prop_assert_eq!(alone.map(f32::to_bits), all[one].map(f32::to_bits));
        prop_assert!(alone.iter().all(|probability| (0.0..=1.0).contains(probability)));
    }
}

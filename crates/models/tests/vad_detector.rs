//! What always holds of a detector: sessions do not see each other, portions do not matter, bad input changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use driftline_models::{
    ModelError,
    vad::{CHUNK, Detector, SessionState},
};
use proptest::prelude::*;

fn sound(session: usize, chunks: usize) -> Vec<f32> {
    (0..chunks * CHUNK)
        .map(|i| {
            0.3 * (i as f32 * (0.01 + 0.003 * session as f32)).sin() * (i as f32 * 2e-4 * (session + 1) as f32).cos()
        })
        .collect()
}

fn alone(detector: &Detector, samples: &[f32]) -> (Vec<f32>, SessionState) {
    let mut state = detector.new_state();
    let mut probabilities = Vec::new();
    for chunk in samples.chunks(CHUNK) {
        probabilities.extend(detector.detect(&mut [&mut state], &[chunk]).unwrap().remove(0));
    }
    (probabilities, state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn neither_company_nor_portions_nor_storage_change_a_bit(lengths in prop::collection::vec(0usize..30, 1..40), cut in 0usize..30) {
        let detector = Detector::builtin().unwrap();
        let audio: Vec<Vec<f32>> = lengths.iter().enumerate().map(|(session, &chunks)| sound(session, chunks)).collect();
        let mut states: Vec<SessionState> = audio.iter().map(|_| detector.new_state()).collect();
        let mut together = vec![Vec::new(); audio.len()];
        for part in 0..2 {
            let pieces: Vec<&[f32]> = audio.iter().map(|samples| {
                let (first, second) = samples.split_at((cut * CHUNK).min(samples.len()));
                [first, second][part]
            }).collect();
            states = states.iter().map(|state| SessionState::from_bytes(&state.to_bytes()).unwrap()).collect();
            let results = detector.detect(&mut states.iter_mut().collect::<Vec<_>>(), &pieces).unwrap();
            for (all, result) in together.iter_mut().zip(results) {
                all.extend(result);
            }
        }
        for (session, samples) in audio.iter().enumerate() {
            let (probabilities, state) = alone(&detector, samples);
            prop_assert_eq!(&together[session], &probabilities);
            prop_assert_eq!(&states[session], &state);
            prop_assert!(probabilities.iter().all(|probability| (0.0..=1.0).contains(probability)));
        }
    }
}

#[test]
fn bad_input_is_named_and_changes_no_state() {
    let detector = Detector::builtin().unwrap();
    let (mut one, mut two) = (detector.new_state(), detector.new_state());
    detector.detect(&mut [&mut one], &[&sound(1, 3)]).unwrap();
    let before = one.clone();
    let good = sound(2, 1);
    let mut bad = good.clone();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        bad[77] = value;
        let error = detector.detect(&mut [&mut one, &mut two], &[&good, &bad]).unwrap_err();
        assert!(matches!(error, ModelError::NonFiniteSample { segment: 1, index: 77, .. }), "{error}");
    }
    bad[77] = -1e7;
    let error =
        |audio: &[&[f32]], states: &mut [&mut SessionState]| detector.detect(states, audio).unwrap_err().to_string();
    assert_eq!(
        error(&[&good, &bad], &mut [&mut one, &mut two]),
        "audio 1: found a sample of magnitude 10000000, allowed: at most 1000000"
    );
    assert_eq!(
        error(&[&good, &good[..100]], &mut [&mut one, &mut two]),
        "audio 1: found 100 samples, allowed: multiples of 512"
    );
    assert_eq!(
        error(&[&good], &mut [&mut one, &mut two]),
        "voice-activity batch: found 2 states, allowed: 1, one a piece of audio"
    );
    assert_eq!(one, before);

    let mut foreign = before.to_bytes();
    foreign[1] = 1;
    let mut foreign = SessionState::from_bytes(&foreign).unwrap();
    assert!(
        error(&[&good], &mut [&mut foreign])
            .starts_with("state 0: found Silero of 96 values, allowed: Driftline of 96 values")
    );
}

#[test]
fn a_reset_state_is_a_new_one() {
    let detector = Detector::builtin().unwrap();
    let mut state = detector.new_state();
    detector.detect(&mut [&mut state], &[&sound(4, 5)]).unwrap();
    assert_ne!(state, detector.new_state());
    state.reset();
    assert_eq!(state, detector.new_state());
}

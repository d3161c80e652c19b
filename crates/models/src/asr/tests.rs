//! Tests of the embedded model as a whole.

use std::path::PathBuf;

use proptest::prelude::*;

use super::{
    training::{clip::read_wav, resample::resample},
    *,
};

fn recogniser() -> Recogniser {
    Recogniser::builtin().expect("the embedded model is consistent")
}

/// The folder of recordings, or a word that there is none.
fn recordings(folder: &str) -> Option<PathBuf> {
    let path = std::env::var_os("DRIFTLINE_DATA").map(|data| PathBuf::from(data).join("speech").join(folder));
    if path.is_none() {
        eprintln!("skipped: DRIFTLINE_DATA is not set");
    }
    path
}

fn at_16_khz(path: &Path) -> Vec<f32> {
    let (samples, rate) = read_wav(path).expect("a readable recording");
    resample(&samples, rate as f32 / 16_000.0)
}

/// A buzz with a moving formant: nothing that is said, but speech enough for numbers to flow.
fn buzz(samples: usize, seed: u32) -> Vec<f32> {
    (0..samples)
        .map(|i| {
            let t = i as f32 / 16_000.0;
            let pulse = ((t * (110.0 + seed as f32)) % 1.0) - 0.5;
            0.3 * pulse * (1.0 + (t * 40.0 * (1 + seed) as f32).sin())
        })
        .collect()
}

#[test]
fn hears_digits_of_real_speakers() {
    let Some(folder) = recordings("fsdd") else {
        return;
    };
    let recogniser = recogniser();
    let mut right = 0;
    for (digit, word) in training::grammar::DIGITS.iter().enumerate() {
        for speaker in ["george", "jackson", "lucas", "nicolas"] {
            let audio = at_16_khz(&folder.join(format!("{digit}_{speaker}_3.wav")));
            right += usize::from(recogniser.recognise(&[&audio]).expect("finite samples")[0].text == *word);
        }
    }
    assert!(right >= 36, "{right} of 40");
}

#[test]
fn says_nothing_of_read_sentences() {
    let Some(folder) = recordings("librivox") else {
        return;
    };
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "wav") {
            let heard = recogniser().recognise(&[&at_16_khz(&path)]).expect("finite samples");
            assert_eq!(heard[0].text, "", "{}: {:?}", path.display(), heard[0]);
            assert!(heard[0].tokens > 10);
        }
    }
}

#[test]
fn a_result_does_not_depend_on_the_batch() {
    let recogniser = recogniser();
    let segments = [buzz(16_000, 0), buzz(3_000, 1), vec![], buzz(41_000, 2), buzz(150, 3)];
    let slices: Vec<&[f32]> = segments.iter().map(Vec::as_slice).collect();
    let together = recogniser.recognise(&slices).expect("finite samples");
    for (slice, batched) in slices.iter().zip(&together) {
        let alone = &recogniser.recognise(&[slice]).expect("finite samples")[0];
        assert_eq!((&alone.text, alone.tokens), (&batched.text, batched.tokens));
        assert_eq!(
            alone.confidence.to_bits(),
            batched.confidence.to_bits(),
            "a batch changes nothing, to the last bit"
        );
    }
}

#[test]
fn nothing_is_heard_in_nothing() {
    let silence = vec![0f32; 16_000];
    for heard in recogniser().recognise(&[&[], &[0.5], &silence]).expect("finite samples") {
        assert_eq!((heard.text.as_str(), heard.words.len()), ("", 0));
    }
    assert_eq!(recogniser().recognise(&[]).expect("no segments"), []);
    assert_eq!(recogniser().recognise(&[&[]]).expect("finite samples"), [Hypothesis::default()]);
}

#[test]
fn a_sample_that_is_no_number_is_named() {
    let mut bad = vec![0f32; 100];
    bad[42] = f32::NAN;
    let error = recogniser().recognise(&[&[0.0], &bad]).expect_err("NaN");
    assert_eq!(error.to_string(), "segment 1: sample 42: found NaN, allowed: finite numbers");
}

#[test]
fn the_embedded_model_is_small_and_named_by_its_content() {
    assert!(include_bytes!("../../weights/asr.safetensors").len() <= 8_000_000);
    let version = recogniser().version().to_owned();
    assert_eq!(version.len(), 16);
    assert!(version.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights");
    assert_eq!(Recogniser::load(&folder).expect("the same files").version(), version);
}

#[test]
fn a_folder_without_a_model_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = Recogniser::load(folder.path()).map(drop).expect_err("no files");
    assert!(matches!(missing, ModelError::Read { .. }), "{missing}");
    for (name, content) in
        [(WEIGHTS_FILE, "no weights"), (LEXICON_FILE, "one w ah n\n"), (TRIGRAMS_FILE, "- - one 1\n- one - 1\n")]
    {
        fs::write(folder.path().join(name), content).expect("written");
    }
    assert!(Recogniser::load(folder.path()).is_err());
}

#[test]
fn a_wrong_average_colour_is_named_with_its_file() {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in [LEXICON_FILE, TRIGRAMS_FILE] {
        fs::copy(ours.join(name), folder.path().join(name)).expect("copied");
    }
    let path = ours.join(WEIGHTS_FILE);
    let mut weights = Weights::parse(&fs::read(&path).expect("a file"), &path).expect("weights");
    weights.colour.truncate(3);
    weights.write(&folder.path().join(WEIGHTS_FILE)).expect("written");
    let error = Recogniser::load(folder.path()).map(drop).expect_err("three values").to_string();
    let expected = "asr.safetensors: tensor frontend.colour: found 3 values, 3 of them finite, allowed: 40";
    assert!(error.contains(expected), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn words_lie_in_the_segment_in_order(samples in prop::collection::vec(-1f32..1.0, 0..9000)) {
        let heard = &recogniser().recognise(&[&samples]).expect("finite samples")[0];
        prop_assert!((0.0..=1.0).contains(&heard.confidence));
        let spoken: Vec<&str> = heard.words.iter().map(|word| word.text.as_str()).collect();
        prop_assert_eq!(spoken.join(" "), heard.text.as_str());
        prop_assert!(heard.words.iter().all(|word| word.start_ms < word.end_ms));
        prop_assert!(heard.words.windows(2).all(|pair| pair[0].start_ms <= pair[1].start_ms));
    }
}

//! Compares Whisper with `transformers` on checkpoints of random weights.
//!
//! `whisper/make_checkpoints.py` wrote the settings, tokenizers and golden values beside it, and names the versions it wants. The weights
//! are a formula that is repeated here, so that a checkpoint is made in a temporary folder.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use driftline_models::ModelError;
use driftline_models::inspect::{ModelKind, inspect};
use driftline_models::whisper::{Options, Transcription, Whisper};
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    tensors: BTreeMap<String, Vec<usize>>,
    cases: Vec<Case>,
    // The bare checkpoint has tokens only.
    #[serde(default)]
    features: Sampled,
    #[serde(default)]
    long_features: Sampled,
    #[serde(default)]
    encoder: Sampled,
    #[serde(default)]
    speech_plain: Vec<Row>,
    #[serde(default)]
    speech_timestamps: Vec<Row>,
}

#[derive(Default, Deserialize)]
struct Sampled {
    frames: Option<usize>,
    index: Vec<usize>,
    value: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    label: String,
    clips: Vec<(u64, f64)>,
    timestamps: bool,
    language: Option<String>,
    log_prob: Option<f32>,
    no_speech: Option<f32>,
    max_new_tokens: Option<usize>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    file: Option<String>,
    tokens: Vec<u32>,
    segments: Vec<(u64, u64, usize)>,
    windows_average_log_prob: Vec<f32>,
    windows_no_speech: Vec<f32>,
}

fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The `index`-th of a sequence of values in [-1, 1).
fn uniform(seed: u64, index: usize) -> f32 {
    let state = seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    ((splitmix(state) >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

fn audio(seed: u64, samples: usize) -> Vec<f32> {
    let sample = |i: usize| {
        let h = splitmix((seed * 1_000_003).wrapping_add(i as u64 / 1600));
        let frequency = 80 + h % 2900;
        let amplitude = if (h >> 32).is_multiple_of(4) { 0.0 } else { ((h >> 40) % 256) as f64 / 512.0 };
        let phase = (i as u64 * frequency % 16_000) as f64 / 16_000.0;
        let triangle = 4.0 * (phase - 0.5).abs() - 1.0;
        (amplitude * triangle + f64::from(uniform(seed * 7_919 + 1, i)) / 64.0) as f32
    };
    (0..samples).map(sample).collect()
}

fn weight(checkpoint: &str, name: &str, shape: &[usize], end_of_text: usize) -> Vec<f32> {
    let seed = fnv1a(checkpoint) ^ fnv1a(name);
    let count = shape.iter().product();
    let row = |i: usize| i / (count / shape[0]);
    let fan_in: usize = shape[1..].iter().product();
    let value = |i: usize| {
        let u = uniform(seed, i);
        if name.ends_with("layer_norm.weight") {
            1.0 + 0.125 * u
        } else if name.ends_with(".bias") {
            0.125 * u
        } else if name.ends_with("embed_tokens.weight") {
            u * if row(i) == end_of_text {
                1.5
            } else if row(i) < end_of_text {
                0.625
            } else {
                0.375
            }
        } else if name.contains("embed_positions") {
            u
        } else {
            let gain = if name.contains("q_proj") || name.contains("k_proj") { 2.0 } else { 3.0 };
            (gain / (fan_in as f64).sqrt()) as f32 * u
        }
    };
    (0..count).map(value).collect()
}

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whisper").join(name)
}

fn golden(name: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(fixtures(name).join("golden.json")).unwrap()).unwrap()
}

/// The tensors of a checkpoint as bytes of the given type.
fn tensors(name: &str, golden: &Golden, dtype: Dtype) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixtures(name).join("config.json")).unwrap()).unwrap();
    let end_of_text = config["eos_token_id"].as_u64().unwrap() as usize;
    let bytes = |v: f32| match dtype {
        Dtype::BF16 => v.to_bits().to_le_bytes()[2..].to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    let tensor = |(key, shape): (&String, &Vec<usize>)| {
        let data = weight(name, key, shape, end_of_text).into_iter().flat_map(bytes).collect();
        (key.clone(), shape.clone(), data)
    };
    golden.tensors.iter().map(tensor).collect()
}

fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)], dtype: Dtype) {
    let views =
        tensors.iter().map(|(name, shape, data)| (name.clone(), TensorView::new(dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn copy_settings(name: &str, folder: &Path) {
    for file in ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"] {
        std::fs::copy(fixtures(name).join(file), folder.join(file)).unwrap();
    }
}

fn checkpoint(name: &str, golden: &Golden) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_settings(name, folder.path());
    write(&folder.path().join("model.safetensors"), &tensors(name, golden, Dtype::F32), Dtype::F32);
    folder
}

fn greedy(case: &Case) -> Options {
    Options {
        language: case.language.clone(),
        timestamps: case.timestamps,
        temperatures: vec![0.0],
        no_speech_threshold: case.no_speech.unwrap_or(0.999),
        log_prob_threshold: case.log_prob.unwrap_or(-1000.0),
        max_tokens: case.max_new_tokens.unwrap_or(448),
        ..Options::default()
    }
}

fn assert_close(found: &[f32], golden: &Sampled, tolerance: f32, what: &str) {
    let scale = golden.value.iter().fold(1f32, |most, v| most.max(v.abs()));
    let worst = golden.index.iter().zip(&golden.value).map(|(&i, v)| (found[i] - v).abs()).fold(0f32, f32::max);
    eprintln!("{what}: largest difference {worst:e}, scale {scale}");
    assert!(worst <= tolerance * scale, "{what}: {worst}");
}

fn assert_same(found: &Transcription, row: &Row, samples: usize, tokenizer: &tokenizers::Tokenizer, what: &str) {
    assert_eq!(found.tokens, row.tokens, "{what}");
    let mut rest = &row.tokens[..];
    let mut timed = Vec::new();
    let end = (samples * 1000).div_ceil(16_000) as u64;
    for &(start, stop, count) in &row.segments {
        let (piece, after) = rest.split_at(count);
        rest = after;
        // Timestamps are not in the tokenizer.
        let text = tokenizer.decode(piece, true).unwrap();
        if !text.trim().is_empty() {
            timed.push((start.min(end), stop.min(end), text.trim().to_owned()));
        }
    }
    let segments: Vec<_> = found.segments.iter().map(|s| (s.start_ms, s.end_ms, s.text.clone())).collect();
    assert_eq!(segments, timed, "{what}");
    if let [average] = row.windows_average_log_prob[..] {
        assert!((found.average_log_prob - average).abs() < 2e-3, "{what}: {} {average}", found.average_log_prob);
    }
    if let Some(least) = row.windows_no_speech.iter().copied().reduce(f32::min) {
        let relative = found.no_speech_probability / least - 1.0;
        assert!(relative.abs() < 1e-2, "{what}: {} {least}", found.no_speech_probability);
    }
}

fn follows_transformers(name: &str, folder: &Path, golden: &Golden) {
    let model = Whisper::load(folder).unwrap();
    let tokenizer = tokenizers::Tokenizer::from_file(fixtures(name).join("tokenizer.json")).unwrap();
    let mut compared = 0;
    for case in &golden.cases {
        let clips: Vec<Vec<f32>> =
            case.clips.iter().map(|&(seed, seconds)| audio(seed, (seconds * 16_000.0) as usize)).collect();
        let clips: Vec<&[f32]> = clips.iter().map(Vec::as_slice).collect();
        // One batch here, one at a time there: the batch must not matter.
        let found = model.transcribe(&clips, &greedy(case)).unwrap();
        for (i, (found, row)) in found.iter().zip(&case.rows).enumerate() {
            assert_same(found, row, clips[i].len(), &tokenizer, &format!("{name}, {}, clip {i}", case.label));
            compared += row.tokens.len();
        }
    }
    eprintln!("{name}: {compared} tokens are the same");
    assert!(compared > 200);
}

#[test]
fn tokens_are_those_of_transformers_english_only() {
    let golden = golden("english");
    follows_transformers("english", checkpoint("english", &golden).path(), &golden);
}

#[test]
fn tokens_are_those_of_transformers_multilingual_128_mels() {
    let golden = golden("multilingual");
    follows_transformers("multilingual", checkpoint("multilingual", &golden).path(), &golden);
}

#[test]
fn tokens_are_those_of_transformers_without_whispers_generation_settings() {
    let golden = golden("bare");
    follows_transformers("bare", checkpoint("bare", &golden).path(), &golden);
}

#[test]
fn features_and_encoder_are_those_of_transformers() {
    for name in ["english", "multilingual"] {
        let golden = golden(name);
        let model = Whisper::load(checkpoint(name, &golden).path()).unwrap();
        // The reference has one row a mel band, here one row a frame.
        let by_band = |(frames, values): (usize, Vec<f32>)| {
            let mels = values.len() / frames;
            (0..mels)
                .flat_map(|m| (0..frames).map(move |t| (m, t)))
                .map(|(m, t)| values[t * mels + m])
                .collect::<Vec<_>>()
        };
        let clip = audio(2, 136_000);
        assert_close(&by_band(model.features(&clip)), &golden.features, 1e-4, "features");
        let long = model.features(&audio(6, (47.3 * 16_000.0) as usize));
        assert_eq!(Some(long.0), golden.long_features.frames);
        assert_close(&by_band(long), &golden.long_features, 1e-4, "long features");
        assert_close(&model.encode(&clip).unwrap(), &golden.encoder, 1e-4, "encoder");
    }
}

#[test]
fn real_speech_gives_the_tokens_of_transformers() {
    let Ok(data) = std::env::var("DRIFTLINE_DATA") else {
        eprintln!("skipped: DRIFTLINE_DATA is not set");
        return;
    };
    for name in ["english", "multilingual"] {
        let golden = golden(name);
        let model = Whisper::load(checkpoint(name, &golden).path()).unwrap();
        for (rows, timestamps) in [(&golden.speech_plain, false), (&golden.speech_timestamps, true)] {
            let read = |row: &Row| read_wav(&Path::new(&data).join("speech/librivox").join(row.file.as_ref().unwrap()));
            let clips: Vec<Vec<f32>> = rows.iter().map(read).collect();
            let clips: Vec<&[f32]> = clips.iter().map(Vec::as_slice).collect();
            let options =
                Options { timestamps, temperatures: vec![0.0], no_speech_threshold: 1.0, ..Options::default() };
            for (found, row) in model.transcribe(&clips, &options).unwrap().iter().zip(rows) {
                assert_eq!(found.tokens, row.tokens, "{name}, {:?}, timestamps {timestamps}", row.file);
            }
        }
    }
}

/// Reads the samples of a 16-bit mono file with the usual 44-byte header.
fn read_wav(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes[44..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect()
}

#[test]
fn checkpoints_saved_by_transformers_load() {
    let Ok(saved) = std::env::var("DRIFTLINE_WHISPER_CHECKPOINTS") else {
        eprintln!(
            "not asked for: folders that transformers itself wrote; DRIFTLINE_WHISPER_CHECKPOINTS is the folder given to make_checkpoints.py --save"
        );
        return;
    };
    for name in ["english", "multilingual"] {
        follows_transformers(name, &Path::new(&saved).join(name), &golden(name));
    }
}

#[test]
fn shards_and_names_without_model_give_the_same_output() {
    let golden = golden("english");
    let whole = Whisper::load(checkpoint("english", &golden).path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy_settings("english", folder.path());
    let mut all = tensors("english", &golden, Dtype::F32);
    for tensor in &mut all {
        tensor.0 = tensor.0.trim_start_matches("model.").to_owned();
    }
    let (first, second) = all.split_at(all.len() / 2);
    let mut map = BTreeMap::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        write(&folder.path().join(file), part, Dtype::F32);
        map.extend(part.iter().map(|(name, ..)| (name.clone(), file)));
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let sharded = Whisper::load(folder.path()).unwrap();
    assert_ne!(sharded.version(), whole.version());
    let clip = audio(1, 48_000);
    let options = Options { max_tokens: 20, temperatures: vec![0.0], ..Options::default() };
    assert_eq!(sharded.transcribe(&[&clip], &options).unwrap(), whole.transcribe(&[&clip], &options).unwrap());
}

#[test]
fn inspection_knows_a_checkpoint_and_its_version() {
    let golden = golden("english");
    let folder = checkpoint("english", &golden);
    let summary = inspect(folder.path()).unwrap();
    assert_eq!(summary.kind, ModelKind::Whisper);
    assert_eq!(summary.hash, Whisper::load(folder.path()).unwrap().version());
    assert_eq!(
        summary.parameters,
        golden.tensors.values().map(|shape| shape.iter().product::<usize>() as u64).sum::<u64>()
    );
    assert_eq!(summary.config["d_model"], 64);
    assert_eq!(serde_json::to_value(&summary).unwrap()["kind"], "whisper");
}

#[test]
fn sixteen_bit_weights_load() {
    let golden = golden("english");
    let folder = tempfile::tempdir().unwrap();
    copy_settings("english", folder.path());
    write(&folder.path().join("model.safetensors"), &tensors("english", &golden, Dtype::BF16), Dtype::BF16);
    let encoded = Whisper::load(folder.path()).unwrap().encode(&audio(2, 136_000)).unwrap();
    // Eight bits of mantissa through two layers.
    assert_close(&encoded, &golden.encoder, 0.1, "bf16 encoder");
}

#[test]
fn fallback_is_repeatable_and_independent_of_the_batch() {
    let golden = golden("multilingual");
    let model = Whisper::load(checkpoint("multilingual", &golden).path()).unwrap();
    let (a, b) = (audio(1, 48_000), audio(2, 60_000));
    // No output of random weights is probable enough: every temperature is tried.
    let options = Options { max_tokens: 30, log_prob_threshold: 0.0, no_speech_threshold: 1.0, ..Options::default() };
    let together = model.transcribe(&[&a, &b], &options).unwrap();
    assert_eq!(together[0].temperature, 1.0);
    let alone = &model.transcribe(&[&a], &options).unwrap()[0];
    assert_eq!(together[0].tokens, alone.tokens);
    // A probe compares bytes: not even the last bit may depend on the company.
    let bits = |heard: &Transcription| [heard.average_log_prob, heard.no_speech_probability].map(f32::to_bits);
    assert_eq!(bits(&together[0]), bits(alone));
    let one = Options { temperatures: vec![0.0], ..options };
    assert_ne!(together[0].tokens, model.transcribe(&[&a], &one).unwrap()[0].tokens);
}

#[test]
fn a_model_is_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Whisper>();
}

#[test]
fn an_empty_segment_is_silence_and_a_bad_one_an_error() {
    let golden = golden("english");
    let model = Whisper::load(checkpoint("english", &golden).path()).unwrap();
    assert!(model.transcribe(&[], &Options::default()).unwrap().is_empty());
    let silence = model.transcribe(&[&[]], &Options::default()).unwrap();
    assert_eq!((silence[0].text.as_str(), silence[0].no_speech_probability), ("", 1.0));
    let error = model.transcribe(&[&[0.0], &[0.0, f32::NAN]], &Options::default()).unwrap_err();
    assert!(matches!(error, ModelError::NonFiniteSample { segment: 1, index: 1, .. }), "{error}");
    let error =
        model.transcribe(&[&[0.0]], &Options { language: Some("de".into()), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("English-only"), "{error}");
}

#[test]
fn errors_name_the_file_the_place_and_what_is_allowed() {
    let golden = golden("english");
    let folder = checkpoint("english", &golden);
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let broken = |from: &str, to: &str| {
        assert!(config.contains(from));
        std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
        Whisper::load(folder.path()).err().unwrap().to_string()
    };
    let error = broken("\"d_model\": 64", "\"d_model\": 128");
    assert!(
        error.contains("model.safetensors")
            && error.contains("tensor model.")
            && error.contains("found shape")
            && error.contains("128"),
        "{error}"
    );
    let error = broken("\"d_model\": 64", "\"d_model\": 18446744073709551615");
    assert!(error.contains("config.json: key d_model") && error.contains("1 to 8192"), "{error}");
    let error = broken("\"encoder_layers\": 2", "\"encoder_layers\": 3");
    assert!(error.contains("tensor encoder.layers.2."), "{error}");
    let error = broken("\"decoder_attention_heads\": 4", "\"decoder_attention_heads\": 5");
    assert!(error.contains("divisor of d_model, 64"), "{error}");
    let error = broken("\"activation_function\": \"gelu\"", "\"activation_function\": \"relu\"");
    assert!(error.contains("key activation_function: found relu"), "{error}");
    std::fs::write(folder.path().join("config.json"), &config).unwrap();
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = Whisper::load(folder.path()).err().unwrap();
    assert!(matches!(&error, ModelError::Read { path, .. } if path.ends_with("tokenizer.json")), "{error}");
}

/// Prints the cost of a token with a checkpoint of whisper-base's size; `whisper/decode_speed.py` prints transformers'.
///
/// Run alone: `RAYON_NUM_THREADS=1 cargo test --release -p driftline-models --test whisper decode_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a test"]
fn decode_speed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures("english").join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let config = serde_json::json!({
        "model_type": "whisper", "vocab_size": 51_865, "num_mel_bins": 80, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048,
        "decoder_start_token_id": 50_258, "eos_token_id": 50_257, "suppress_tokens": [50_257],
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut shapes = BTreeMap::new();
    for (name, shape) in &golden("english").tensors {
        let base = |d: &usize| match d {
            64 => 512,
            128 | 192 => 2048,
            1790 => 51_865,
            other => *other,
        };
        let shape: Vec<usize> = shape.iter().map(base).collect();
        for layer in 0..6 {
            shapes.insert(name.replace("layers.1.", &format!("layers.{layer}.")), shape.clone());
        }
    }
    let bytes = |(name, shape): (&String, &Vec<usize>)| {
        let data = weight("base", name, shape, 50_257).into_iter().flat_map(f32::to_le_bytes).collect();
        (name.clone(), shape.clone(), data)
    };
    let tensors: Vec<_> = shapes.iter().map(bytes).collect();
    write(&folder.path().join("model.safetensors"), &tensors, Dtype::F32);
    drop(tensors);
    let model = Whisper::load(folder.path()).unwrap();
    let clips: Vec<Vec<f32>> = (0..8).map(|seed| audio(seed, 480_000)).collect();
    let clips: Vec<&[f32]> = clips.iter().map(Vec::as_slice).collect();
    let start = std::time::Instant::now();
    model.encode(clips[0]).unwrap();
    eprintln!("encoder, one window: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for batch in [1, 8] {
        let time = |max_tokens| {
            let options = Options { max_tokens, temperatures: vec![0.0], ..Options::default() };
            let start = std::time::Instant::now();
            let found = model.transcribe(&clips[..batch], &options).unwrap();
            assert!(found.iter().all(|f| f.tokens.len() == max_tokens));
            start.elapsed().as_secs_f64()
        };
        time(1);
        let (few, many) = (time(8), time(72));
        eprintln!("decoder, batch {batch}: {:.2} ms a step", (many - few) / 64.0 * 1e3);
    }
}

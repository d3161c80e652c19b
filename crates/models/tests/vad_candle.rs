//! Silero's network as its authors define it (`tinygrad_model.py` of silero-vad 6.2.3), in candle's tensors, with
//! random weights; the detector must agree.

use std::{
    collections::HashMap,
    f64::consts::TAU,
    path::{Path, PathBuf},
};

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::sigmoid;
use driftline_models::vad::{CHUNK, CONTEXT, Detector};
use rand::{RngExt, SeedableRng, rngs::StdRng};

type Tensors = HashMap<&'static str, Tensor>;

/// Random weights, except for the transform.
fn tensors() -> Result<Tensors> {
    let mut rng = StdRng::seed_from_u64(20);
    let basis = (0..258).flat_map(|filter| {
        (0..256).map(move |n| {
            let (window, phase) =
                (0.5 - 0.5 * (TAU * f64::from(n) / 256.0).cos(), TAU * f64::from(filter % 129 * n) / 256.0);
            (window * if filter < 129 { phase.cos() } else { -phase.sin() }) as f32
        })
    });
    let mut tensors =
        Tensors::from([("stft_conv.weight", Tensor::from_iter(basis, &Device::Cpu)?.reshape((258, 1, 256))?)]);
    let shapes: [(&'static str, &[usize]); 14] = [
        ("conv1.weight", &[128, 129, 3]),
        ("conv1.bias", &[128]),
        ("conv2.weight", &[64, 128, 3]),
        ("conv2.bias", &[64]),
        ("conv3.weight", &[64, 64, 3]),
        ("conv3.bias", &[64]),
        ("conv4.weight", &[128, 64, 3]),
        ("conv4.bias", &[128]),
        ("lstm_cell.weight_ih", &[512, 128]),
        ("lstm_cell.weight_hh", &[512, 128]),
        ("lstm_cell.bias_ih", &[512]),
        ("lstm_cell.bias_hh", &[512]),
        ("final_conv.weight", &[1, 128, 1]),
        ("final_conv.bias", &[1]),
    ];
    for (name, shape) in shapes {
        let bound = (3.0 / shape[1..].iter().product::<usize>() as f32).sqrt().min(0.5);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(tensors)
}

/// One chunk with its context, `[1, 576]`, and the state `[1, 128]` twice; returns the probability.
fn forward(tensors: &Tensors, x: &Tensor, (h, c): &mut (Tensor, Tensor)) -> Result<f32> {
    let mirrored = x.narrow(1, CONTEXT + CHUNK - 65, 64)?.flip(&[1])?;
    let x = Tensor::cat(&[x, &mirrored], 1)?.unsqueeze(1)?.conv1d(&tensors["stft_conv.weight"], 0, 128, 1, 1)?;
    let mut x = (x.narrow(1, 0, 129)?.sqr()? + x.narrow(1, 129, 129)?.sqr()?)?.sqrt()?;
    for (weight, bias, stride) in [
        ("conv1.weight", "conv1.bias", 1),
        ("conv2.weight", "conv2.bias", 2),
        ("conv3.weight", "conv3.bias", 2),
        ("conv4.weight", "conv4.bias", 1),
    ] {
        x = x.conv1d(&tensors[weight], 1, stride, 1, 1)?.broadcast_add(&tensors[bias].reshape((1, (), 1))?)?.relu()?;
    }
    let gates =
        x.squeeze(2)?.matmul(&tensors["lstm_cell.weight_ih"].t()?)?.broadcast_add(&tensors["lstm_cell.bias_ih"])?;
    let gates = (gates
        + h.matmul(&tensors["lstm_cell.weight_hh"].t()?)?.broadcast_add(&tensors["lstm_cell.bias_hh"])?)?
    .chunk(4, D::Minus1)?;
    *c = ((sigmoid(&gates[1])? * &*c)? + (sigmoid(&gates[0])? * gates[2].tanh()?)?)?;
    *h = (sigmoid(&gates[3])? * c.tanh()?)?;
    let logit = h
        .relu()?
        .matmul(&tensors["final_conv.weight"].reshape((128, 1))?)?
        .broadcast_add(&tensors["final_conv.bias"])?;
    sigmoid(&logit)?.reshape(())?.to_scalar()
}

fn save(tensors: &Tensors, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("silero.safetensors");
    candle_core::safetensors::save(tensors, &path)?;
    Ok(path)
}

#[test]
fn the_detector_computes_what_candle_computes() {
    let tensors = tensors().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let detector = Detector::load(&save(&tensors, folder.path()).unwrap()).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let samples: Vec<f32> =
        (0..60 * CHUNK).map(|i| (i as f32 / 9_000.0).sin() * rng.random_range(-0.5..0.5f32)).collect();
    let found = detector.detect(&mut [&mut detector.new_state()], &[&samples]).unwrap().remove(0);

    let padded: Vec<f32> = [0.0; CONTEXT].iter().chain(&samples).copied().collect();
    let zeros = Tensor::zeros((1, 128), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut state = (zeros.clone(), zeros);
    let mut range = (1.0f32, 0.0f32);
    for (chunk, &found) in found.iter().enumerate() {
        let x = Tensor::from_slice(&padded[chunk * CHUNK..][..CONTEXT + CHUNK], (1, CONTEXT + CHUNK), &Device::Cpu)
            .unwrap();
        let expected = forward(&tensors, &x, &mut state).unwrap();
        assert!((found - expected).abs() < 1e-5, "chunk {chunk}: {found}, candle {expected}");
        range = (range.0.min(found), range.1.max(found));
    }
    assert!(range.1 - range.0 > 0.01, "the network answers to its input: {range:?}");
}

#[test]
fn a_transform_that_is_not_the_windowed_dft_is_refused() {
    let mut tensors = tensors().unwrap();
    let mut basis = tensors["stft_conv.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    basis[130 * 256 + 17] += 1e-3;
    tensors.insert("stft_conv.weight", Tensor::from_vec(basis, (258, 1, 256), &Device::Cpu).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let error = Detector::load(&save(&tensors, folder.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("stft_conv.weight, filter 130, sample 17: found"), "{error}");
}

#[test]
fn a_file_that_is_no_network_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("silero.safetensors");
    let error = || Detector::load(&path).unwrap_err().to_string();
    assert!(error().contains("silero.safetensors: cannot read"), "{}", error());
    std::fs::write(&path, b"RIFF").unwrap();
    assert!(error().contains("file length: found 4 bytes, allowed: at least 8 bytes"), "{}", error());

    let mut tensors = tensors().unwrap();
    let transform = tensors.remove("stft_conv.weight").unwrap();
    save(&tensors, folder.path()).unwrap();
    assert!(
        error().contains("tensors: found conv1.bias") && error().contains("gru.recurrent.weight (Driftline)"),
        "{}",
        error()
    );
    tensors.insert("stft_conv.weight", transform);
    tensors.insert("conv2.bias", Tensor::zeros(63, candle_core::DType::F32, &Device::Cpu).unwrap());
    save(&tensors, folder.path()).unwrap();
    assert!(error().contains("tensor conv2.bias: found F32 [63], allowed: F32 [64]"), "{}", error());
}

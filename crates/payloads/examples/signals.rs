//! What it costs to describe audio: a chunk of 64 ms and a segment of a second.
//!
//! `cargo run --release -p driftline-payloads --example signals`

use std::{f64::consts::PI, hint::black_box, time::Instant};

use driftline_payloads::{AudioChunk, SpeechSegment};
use driftline_stage::{Payload, Signal, SignalVisitor};

/// Looks at every signal and does nothing with it.
struct Nothing;

impl SignalVisitor for Nothing {
    fn number(&mut self, signal: &'static Signal, value: Option<f64>) {
        black_box((signal, value));
    }

    fn category(&mut self, signal: &'static Signal, value: Option<&str>) {
        black_box((signal, value));
    }

    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>) {
        black_box((signal, value));
    }
}

fn sound(samples: usize) -> Vec<f32> {
    (0..samples).map(|n| 0.2 * (2.0 * PI * 300.0 * n as f64 / 16_000.0).sin() as f32).collect()
}

fn measure(what: &str, value: &impl Payload) {
    const ROUNDS: u32 = 20_000;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        value.signals(&mut Nothing);
    }
    println!("{what}: {:.1} us", started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn main() {
    let chunk = AudioChunk {
        session: "a".to_owned(),
        chunk: 0,
        start: 0,
        source_rate: 16_000,
        source_channels: 1,
        clipped: 0.0,
        missing: 0,
        last: false,
        samples: sound(1_024),
    };
    measure("chunk of 64 ms", &chunk);
    measure("chunk of 64 ms, silent: without its colour", &AudioChunk { samples: vec![1e-4; 1_024], ..chunk });
    let segment = SpeechSegment {
        session: "a".to_owned(),
        segment: 0,
        start_ms: 0,
        end_ms: 1_000,
        speech_ratio: 1.0,
        silence_before_ms: 0,
        silence_after_ms: None,
        samples: sound(16_000),
    };
    measure("segment of 1 s", &segment);
    measure("segment of 1 s, silent: without its colour", &SpeechSegment { samples: vec![1e-4; 16_000], ..segment });
}

//! Prints how many chunks a second the voice-activity detectors compute: `vad_throughput SESSIONS [WEIGHTS]`, on as
//! many threads as `RAYON_NUM_THREADS` says. `vad_throughput.py` sets it against onnxruntime.

use std::{path::Path, time::Instant};

use driftline_models::{
    ModelError,
    vad::{CHUNK, Detector, SessionState},
};

/// Rounds, of which the fastest counts: on a machine that does other things too it is the one that was disturbed least.
const ROUNDS: usize = 40;
/// Chunks of each session in a round, each handed in with a call of its own, as they come in live.
const CALLS: usize = 50;

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sessions = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(64);
    let detector = match arguments.get(1) {
        Some(path) => Detector::load(Path::new(path))?,
        None => Detector::builtin()?,
    };
    let mut states: Vec<SessionState> = (0..sessions).map(|_| detector.new_state()).collect();
    let mut states: Vec<&mut SessionState> = states.iter_mut().collect();
    let sound: Vec<f32> =
        (0..CHUNK * (CALLS + sessions)).map(|i| 0.1 * ((i * i % 65_521) as f32 / 32_760.5 - 1.0)).collect();
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for call in 0..CALLS {
            let audio: Vec<&[f32]> = (0..sessions).map(|session| &sound[(call + session) * CHUNK..][..CHUNK]).collect();
            std::hint::black_box(detector.detect(&mut states, &audio)?);
        }
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    println!("{}", (CALLS * sessions) as f64 / fastest);
    Ok(())
}

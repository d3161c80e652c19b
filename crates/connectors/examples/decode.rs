//! Measures how fast `audio-files` reads: audio seconds a second on one core.
//!
//! ```sh
//! cargo run --release -p driftline-connectors --example decode -- ../shared/data/speech/fsdd
//! ```

use std::{error::Error, time::Instant};

use driftline_connectors::AudioFiles;
use driftline_stage::{Source, SourceBatch, SourceKind, SourceStatus, config};

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let table = format!("path = {path:?}").parse()?;
        let config = config::read(&table).map_err(|problems| format!("{problems:?}"))?;
        let begin = Instant::now();
        let mut source = AudioFiles::open(config, false)?;
        let (mut samples, mut rejected) = (0, 0);
        loop {
            let mut batch = SourceBatch::new();
            let status = source.read(&mut batch)?;
            samples += batch.records().iter().map(|(.., chunk)| chunk.samples.len()).sum::<usize>();
            rejected += batch.rejected().len();
            if status == SourceStatus::End {
                break;
            }
        }
        let (audio, took) = (samples as f64 / 16_000.0, begin.elapsed().as_secs_f64());
        println!(
            "{path}: {audio:.1} s of audio in {took:.3} s, {:.0} times real time, {rejected} refused",
            audio / took
        );
    }
    Ok(())
}

//! Trains and evaluates the built-in voice-activity network. `weights/vad.md` says which commands made the weights
//! that ship.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod corpus;
mod evaluation;
mod network;
mod noise;
mod scene;
mod speech;
mod training;

/// Trains and evaluates the built-in voice-activity network.
#[derive(Parser)]
struct Arguments {
    /// The folder with `speech/fsdd` and `speech/librivox`.
    #[arg(long, env = "DRIFTLINE_DATA", default_value = "../shared/data")]
    data: PathBuf,
    /// The product catalogue, whose titles are spoken.
    #[arg(long, default_value = "crates/stages/search/data/catalogue.jsonl")]
    catalogue: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Trains from nothing and writes the weights.
    Train {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 1_500)]
        batches: usize,
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints a table of ROC-AUC and F1 by slice, on voices and recordings that were not trained on.
    Evaluate {
        /// Weights files, of either network.
        #[arg(long, required = true, num_args = 1..)]
        weights: Vec<PathBuf>,
        /// Silero's weights, whose answer to the clean LibriVox recordings is taken for the truth.
        #[arg(long, env = "DRIFTLINE_SILERO")]
        silero: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let Arguments { data, catalogue, task } = Arguments::parse();
    match task {
        Task::Train { seed, batches, out } => {
            let speech = corpus::collect(&data, &catalogue, corpus::Part::Training)?;
            let seconds: usize = speech.iter().map(|utterance| utterance.samples.len() / 16_000).sum();
            eprintln!("{} utterances, {seconds} s", speech.len());
            training::train(&speech, seed, batches, &out)
        }
        Task::Evaluate { weights, silero } => evaluation::evaluate(
            &data,
            &corpus::collect(&data, &catalogue, corpus::Part::HeldOut)?,
            &weights,
            silero.as_deref(),
        ),
    }
}

//! Trains and evaluates the built-in profile and recommender. `weights/profile.md` and
//! `weights/recommender.md` say which commands made the weights that ship.
//!
//! The data are those of any shop, in a folder: `events.jsonl` (`click-event.v1`, in the order of their
//! times), `products.jsonl` (`{id, category, in_stock}`) and, for the profile, `customers.jsonl`
//! (`{user, has: {car: true, …}}`). `shop --out FOLDER` writes those of the simulated shop.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod attributes;
mod log;
mod sequences;
mod split;

/// Trains and evaluates the built-in profile and recommender.
#[derive(Parser)]
struct Arguments {
    /// The folder with events, products and customers.
    #[arg(long)]
    data: PathBuf,
    /// The folder of the weights.
    #[arg(long, default_value = "crates/models/weights")]
    weights: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Trains the profile on four fifths of the customers, calibrates it on a tenth.
    Profile {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 4_000)]
        batches: usize,
    },
    /// Prints the profile's figures on the last tenth of the customers.
    EvaluateProfile,
    /// Trains the recommender on all but each customer's last new product.
    Recommender {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 5_000)]
        batches: usize,
    },
    /// Prints the recommender's figures on each customer's last new product.
    EvaluateRecommender,
    /// Writes the split for other programs: `train.csv` (customer, product) and `test.csv`.
    Split {
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    let Arguments { data, weights, task } = Arguments::parse();
    let log = log::Log::read(&data)?;
    eprintln!("{} customers, {} events", log.customers.len(), log.events());
    match task {
        Task::Profile { seed, batches } => attributes::train(&log, seed, batches, &weights),
        Task::EvaluateProfile => attributes::evaluate(&log, &weights),
        Task::Recommender { seed, batches } => sequences::train(&log, seed, batches, &weights),
        Task::EvaluateRecommender => sequences::evaluate(&log, &weights),
        Task::Split { out } => split::write(&log, &out),
    }
}

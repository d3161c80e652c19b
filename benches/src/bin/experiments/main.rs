//! The acceptance experiments of drift detection, E1 and E3 to E8, with fixed seeds.
//!
//! ```text
//! benches/peers/install.sh
//! cargo run --release -p driftline-benches --bin experiments -- [E1 …] [--json] [--quick]
//! ```
//!
//! Each prints a table as Markdown, or all of them as JSON. Peers run in the virtual environments
//! that the script makes; without them their rows say so.

mod alarms;
mod attribution;
mod concept;
mod delay;
mod label_free;
mod merge;
mod peers;
mod report;
mod same_law;
mod simulate;
mod speed;

use std::io::Write;

use clap::{Parser, ValueEnum};

use crate::report::Table;

/// Runs acceptance experiments and prints their tables.
#[derive(Parser)]
struct Arguments {
    /// Which experiments; all of them if none is named.
    #[arg(ignore_case = true)]
    experiments: Vec<Experiment>,
    /// Print JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Run at a fraction of the length, to see that everything works.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Experiment {
    E1,
    E3,
    E4,
    E5,
    E6,
    E7,
    E8,
}

/// How long experiments run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Full,
    Quick,
}

impl Length {
    /// Returns `full`, or `quick` in a quick run.
    fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let length = if arguments.quick { Length::Quick } else { Length::Full };
    let wanted = if arguments.experiments.is_empty() { Experiment::value_variants() } else { &arguments.experiments };
    let mut tables: Vec<Table> = Vec::new();
    for experiment in wanted {
        let found = match experiment {
            Experiment::E1 => vec![merge::run(length)?],
            Experiment::E3 => vec![alarms::run(length)?],
            Experiment::E4 => vec![same_law::run(length)?],
            Experiment::E5 => vec![delay::run(length)?],
            Experiment::E6 => vec![attribution::run(length)?],
            Experiment::E7 => vec![label_free::run()?, concept::run(length)],
            Experiment::E8 => vec![speed::run(length)?],
        };
        if !arguments.json {
            found.iter().try_for_each(|table| writeln!(std::io::stdout(), "{table}"))?;
        }
        tables.extend(found);
    }
    if arguments.json {
        serde_json::to_writer_pretty(std::io::stdout(), &tables)?;
    }
    Ok(())
}

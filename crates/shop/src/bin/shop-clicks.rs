//! Lets the simulated customers look at what they were recommended: JSON Lines of recommendations with the
//! names of their records on standard input, as the sinks `jsonl` and `stdout` write them with `record_ids = true`; a
//! line of `feedback.v1` on standard output for each of which something is clicked. `driftline feedback` takes them.

use std::io::{BufRead, BufWriter, Write, stdin, stdout};

use anyhow::{Context, Result};
use clap::Parser;
use driftline_shop::{Parameters, Shop};

/// Lets the simulated customers click on what they were recommended; reads standard input, writes standard output.
#[derive(Parser)]
struct Arguments {
    /// The seed of the customers, as the source's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The strength of the seasons, as the source's.
    #[arg(long, default_value_t = 1.0)]
    season: f64,
}

fn main() -> Result<()> {
    let Arguments { seed, season } = Arguments::parse();
    let shop = Shop::new(Parameters { seed, season, ..Parameters::default() });
    let mut out = BufWriter::new(stdout().lock());
    let (mut shown, mut clicked) = (0, 0);
    for (number, line) in (1..).zip(stdin().lock().lines()) {
        shown += 1;
        if let Some(feedback) = shop.feedback(&line?).with_context(|| format!("line {number}"))? {
            clicked += 1;
            writeln!(out, "{feedback}")?;
        }
    }
    eprintln!("{clicked} of {shown} were clicked");
    Ok(out.flush()?)
}

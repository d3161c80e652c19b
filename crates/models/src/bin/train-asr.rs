//! Trains and evaluates the builtin recogniser; `weights/asr.md` says with which arguments.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use driftline_models::asr::{
    frontend::Frontend,
    lexicon::{CLASSES, Lexicon},
    network::Sizes,
    training::{
        clip::spoken_digits,
        grammar::Grammar,
        pronounce, synthesis,
        trainer::{Data, Recipe, initial, train},
    },
    weights::Weights,
};
use rand::{SeedableRng, rngs::StdRng};

#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    Lexicon(Folders),
    Synthesise(Folders),
    Bench(Folders),
}

#[derive(Args)]
struct Folders {
    #[arg(long)]
    catalogue: PathBuf,
    #[arg(long)]
    cache: PathBuf,
    #[arg(long)]
    model: PathBuf,
    #[arg(long, default_value_t = 14000)]
    count: usize,
    #[arg(long, default_value_t = 100)]
    steps: usize,
    #[arg(long, default_value_t = 128)]
    channels: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long)]
    data: Option<PathBuf>,
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long)]
    start: Option<PathBuf>,
    #[arg(long)]
    leave_out: Option<String>,
    #[arg(long, default_value_t = 0.0)]
    real: f64,
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
}

fn titles(path: &PathBuf) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Product {
        title: String,
    }
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| Ok(serde_json::from_str::<Product>(line)?.title)).collect()
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match Command::parse().step {
        Step::Lexicon(f) => {
            let titles = titles(&f.catalogue)?;
            let grammar = Grammar::new(titles.iter().map(String::as_str));
            std::fs::write(f.model.join("asr.lexicon.txt"), pronounce::lexicon(grammar.words())?)?;
            std::fs::write(f.model.join("asr.bigrams.txt"), grammar.bigrams(&mut StdRng::seed_from_u64(1), 200_000))?;
        }
        Step::Synthesise(f) => {
            let titles = titles(&f.catalogue)?;
            let grammar = Grammar::new(titles.iter().map(String::as_str));
            let lp = f.model.join("asr.lexicon.txt");
            let lexicon = Lexicon::parse(&std::fs::read_to_string(&lp)?, &lp)?;
            let clips = synthesis::synthesise(&synthesis::training_requests(&grammar, f.count, 1), &lexicon, &f.cache)?;
            let seconds: usize = clips.iter().map(|c| c.samples.len()).sum::<usize>() / 8000;
            println!("{} clips, {seconds} s", clips.len());
        }
        Step::Bench(f) => {
            let titles = titles(&f.catalogue)?;
            let grammar = Grammar::new(titles.iter().map(String::as_str));
            let lp = f.model.join("asr.lexicon.txt");
            let lexicon = Lexicon::parse(&std::fs::read_to_string(&lp)?, &lp)?;
            let mut requests = synthesis::training_requests(&grammar, 14000, 1);
            requests.truncate(f.count);
            let clips = synthesis::synthesise(&requests, &lexicon, &f.cache)?;
            let real = match &f.data {
                Some(d) => spoken_digits(&d.join("speech/fsdd"), &lexicon)?,
                None => vec![],
            };
            let data = Data::new(clips, &real, f.leave_out.as_deref());
            let (start, sizes, colour) = match &f.start {
                Some(p) => {
                    let w = Weights::parse(&std::fs::read(p)?, p)?;
                    let s = w.sizes(p)?;
                    (w.parameters, s, w.colour)
                }
                None => {
                    let sizes = Sizes { channels: f.channels, hidden: f.channels * 2, classes: CLASSES };
                    (initial(sizes, 1)?, sizes, data.colour()?)
                }
            };
            let frontend = Frontend::try_new(colour.clone())?;
            let recipe = Recipe { steps: f.steps, batch: 64, rate: f.rate, real: f.real, seed: 1, threads: f.threads };
            let save = |p: &driftline_models::asr::network::Parameters| -> Result<(), driftline_models::asr::training::TrainingError> {
                if let Some(out) = &f.out {
                    Weights { parameters: p.clone(), colour: colour.clone(), calibration: vec![0.0; 4] }.write(out)?;
                }
                Ok(())
            };
            let t = std::time::Instant::now();
            let w = train(&start, sizes, &data, &frontend, recipe, 200, |_, p| save(p))?;
            save(&w)?;
            println!("{:?} a step", t.elapsed() / f.steps as u32);
        }
    }
    Ok(())
}

//! The `driftline` command: arguments, what each subcommand does, and how it ends.
//!
//! Results go to standard output, everything for people to standard error. Exit codes are in
//! [`Exit`]. The list of kinds is in [`registry`].

// It panics where nobody reads standard error any more.
#![warn(clippy::print_stderr)]

mod args;
mod dead_letters;
mod doctor;
mod exit;
mod feedback;
mod log;
mod logging;
mod models;
mod monitor;
mod nodes;
mod parameters;
mod print;
mod probes;
mod profiles;
mod progress;
mod reference;
pub mod registry;
mod replay;
mod report;
mod report_html;
mod run;
mod table;
mod tap;
mod test;
mod top;
mod topics;
mod train;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use driftline_pipeline::LogFormat;

pub use exit::Exit;

use crate::{
    args::{Args, Command, MonitorArgs, StageArgs},
    exit::Failure,
};

/// Runs the command with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    finish(Args::try_parse(), |args: Args| execute(args.command))
}

/// Runs one stage, of one kind, until the process is asked to stop: what `driftline-vad` and its like are. They read the
/// whole pipeline file, so they know every kind.
#[must_use]
pub fn stage(kind: &'static str) -> ExitCode {
    finish(StageArgs::try_parse(), |args| run::stage(kind, &args))
}

/// Watches one pipeline until the process is asked to stop: what `driftline-monitor` is.
#[must_use]
pub fn monitor() -> ExitCode {
    finish(MonitorArgs::try_parse(), |args| monitor::watch(&args))
}

fn finish<A>(args: Result<A, clap::Error>, execute: impl FnOnce(A) -> Result<Exit, Failure>) -> ExitCode {
    let args = match args {
        Ok(args) => args,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // Nothing can be done if the message cannot be printed.
            let _ = error.print();
            return exit.into();
        }
    };
    let exit = execute(args).unwrap_or_else(|Failure { exit, message }| {
        if logging::is_json() {
            tracing::error!("{message}");
        } else {
            print::error_line(message);
        }
        exit
    });
    logging::end();
    // A node that was left behind may hold it.
    log::remove_temporary();
    exit.into()
}

fn execute(command: Command) -> Result<Exit, Failure> {
    // A run logs as its pipeline says, once that is loaded; on a screen lines have no place.
    if !matches!(command, Command::Run(_) | Command::Top(_)) {
        logging::start(logging::COMMAND, LogFormat::Text, None)?;
    }
    match command {
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => validate::validate(&args),
        Command::Graph(args) => validate::graph(&args),
        Command::Tap(args) => tap::tap(&args),
        Command::Profiles(args) => profiles::profiles(&args),
        Command::Alarms(args) => monitor::alarms(&args),
        Command::Report(args) => report::report(&args),
        Command::Top(args) => top::top(&args),
        Command::Reference(args) => reference::reference(&args),
        Command::Test(args) => test::test(&args),
        Command::Feedback(args) => feedback::feedback(&args),
        Command::Probes(args) => probes::probes(&args),
        Command::Parameters(args) => parameters::parameters(&args),
        Command::Models(args) => models::models(&args),
        Command::Train(args) => train::train(&args),
        Command::Dlq(args) => dead_letters::dlq(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Topics(args) => topics::topics(&args),
        Command::Lag(args) => topics::lag(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions { shell } => {
            let mut script: Vec<u8> = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "driftline", &mut script);
            print::text(String::from_utf8_lossy(&script))?;
            Ok(Exit::Success)
        }
    }
}

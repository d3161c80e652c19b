//! The arguments.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use driftline_pipeline::Override;
use driftline_types::{StageName, Timestamp, Topic, config::Millis};

use crate::exit::Failure;

/// Runs machine-learning pipelines as streams and describes what every stage sees.
#[derive(Debug, Parser)]
#[command(name = "driftline", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    it did what was asked; dead letters are no failure, the summary counts them
  1    it failed while running, or a test of a pipeline failed
  2    the arguments or the pipeline file are wrong; nothing was run
  130  it was asked to stop (Ctrl-C, SIGTERM, SIGHUP) before its sources ended, and did so in
       order; what takes all their records, such as a reference, was not made. Asked again, or
       later, it ended at once

DRIFTLINE_LOG sets what is logged to standard error: error, warn (the default), info, debug.";

const SERVICE_EXIT_CODES: &str = "\
Exit codes:
  0    it was asked to stop (Ctrl-C, SIGTERM, SIGHUP), and did so in order
  1    it failed while running
  2    the arguments or the pipeline file are wrong; nothing was run

DRIFTLINE_LOG sets what is logged to standard error: error, warn, info, debug; by default warnings, and what Driftline
itself does from info on.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a pipeline until its sources end.
    Run(RunArgs),
    /// Checks pipeline files and reports every problem in them.
    Validate(ValidateArgs),
    /// Draws the graph of a pipeline.
    Graph(GraphArgs),
    /// Prints what a source or stage writes, one JSON line a record.
    ///
    /// Reads Kafka or the log at `broker.path`; without one, runs the pipeline first.
    Tap(TapArgs),
    /// Shows what every stage saw: the profiles of its inputs and outputs.
    ///
    /// Reads Kafka or the log at `broker.path`; without one, runs the pipeline first.
    Profiles(ProfilesArgs),
    /// Says what has changed, where it began, and shows every signal against its reference.
    ///
    /// Reads Kafka or the log at `broker.path`; without one, runs the pipeline first.
    Report(ReportArgs),
    /// Shows how a pipeline stands, live in the terminal: verdicts, records a second, lag, latency, and what has moved.
    ///
    /// Watches what other processes do on Kafka; on an embedded log it runs the pipeline itself.
    Top(PipelineArgs),
    /// Lists the alarms of a pipeline, or acknowledges one. Needs Kafka or a log at `broker.path`.
    Alarms(AlarmsArgs),
    /// Builds the reference that windows are compared with.
    Reference(ReferenceArgs),
    /// Runs the `[[tests]]` of pipelines.
    Test(TestArgs),
    /// Brings in what users did with predictions, and shows how good those were. Needs Kafka or a log at `broker.path`.
    Feedback(FeedbackArgs),
    /// Records fixed recordings with their answers, or says what has changed.
    Probes(ProbesArgs),
    /// Lists what may be injected into the sources and stages of a pipeline, see `run --inject`.
    Parameters(ParametersArgs),
    /// Looks at model files.
    Models(ModelsArgs),
    /// Trains a model from labelled data; what it writes is used with `model = "<path>"`.
    Train(TrainArgs),
    /// Looks at dead letters, sends them again or sets them aside. Needs Kafka or a log at `broker.path`.
    Dlq(DlqArgs),
    /// Puts a slice of the past through a stage as the file makes it now, one JSON line an output.
    ///
    /// The stage begins without state. Nothing of the pipeline is written, its offsets included. Needs Kafka or a log at
    /// `broker.path`.
    Replay(ReplayArgs),
    /// Makes or describes the topics of a pipeline. Needs Kafka or a log at `broker.path`.
    Topics(TopicsArgs),
    /// Shows how far each stage and sink is behind. Needs Kafka or a log at `broker.path`.
    Lag(LagArgs),
    /// Tries what a run relies on: sources, models, sinks, reference, probes, broker, topics; on Kafka also permissions and the
    /// clock.
    ///
    /// Permissions are tried by asking for what is allowed and cannot be done, so nothing is written and no group is joined. For the clock a
    /// topic is made and deleted. A line begins with `ok`, `FAIL`, or `?` for what could not be tried.
    Doctor(DoctorArgs),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file.
    pub pipeline: PathBuf,
    #[command(flatten)]
    pub changes: Changes,
}

/// What the command line changes of a pipeline file.
#[derive(Debug, clap::Args)]
pub(crate) struct Changes {
    /// Overrides an entry of the file, such as `sources.microphone.path=recordings`. A relative
    /// path is relative to the current directory.
    #[arg(long = "set", value_name = "PATH.TO.KEY=VALUE")]
    pub overrides: Vec<Override>,
    /// Changes a source or stage at a moment of event time, such as `vad.clip_ms=200 @ 60s` or
    /// `microphone.pitch=1.3 @ 10m over 5m`; times count from the start of the sources.
    #[arg(long = "inject", value_name = "NODE.PARAMETER=VALUE @ TIME", value_parser = Override::injection)]
    pub injections: Vec<Override>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// The pipeline files.
    #[arg(required = true)]
    pub pipelines: Vec<PathBuf>,
    #[command(flatten)]
    pub changes: Changes,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Waits for new input where the sources would end.
    #[arg(long)]
    pub follow: bool,
    /// Runs only these sources, stages and sinks, separated by commas; other processes run the rest. Needs Kafka.
    #[arg(long, value_delimiter = ',', value_parser = |name: &str| StageName::try_new(name))]
    pub only: Vec<StageName>,
    /// Prints the summary as JSON instead of tables.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub summary: Format,
}

/// Runs one stage of a pipeline on Kafka; start as many as there are partitions to share the work.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = SERVICE_EXIT_CODES)]
pub(crate) struct StageArgs {
    /// The pipeline file.
    #[arg(long)]
    pub pipeline: PathBuf,
    /// The stage.
    #[arg(long, value_parser = |name: &str| StageName::try_new(name))]
    pub stage: StageName,
    #[command(flatten)]
    pub changes: Changes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The language of the drawing.
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub format: GraphFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Graphviz.
    Dot,
    /// Mermaid, as in Markdown.
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TapArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The source or stage.
    #[arg(value_parser = |name: &str| StageName::try_new(name))]
    pub stage: StageName,
    /// Stops after this many records.
    #[arg(long)]
    pub limit: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The stage; `--set stages.NAME.…` makes it another version.
    #[arg(value_parser = |name: &str| StageName::try_new(name))]
    pub stage: StageName,
    /// Takes records from this event time on, such as `2026-11-01T00:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<Timestamp>,
    /// Takes records before this event time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<Timestamp>,
    /// Writes to this topic, made if it is missing, instead of lines to standard output.
    #[arg(long, value_name = "TOPIC", value_parser = |name: &str| Topic::try_new(name))]
    pub output_topic: Option<Topic>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProfilesArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Shows each window by itself instead of all of them merged.
    #[arg(long)]
    pub windows: bool,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FeedbackArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Lines of `feedback.v1` to bring in, or `-` for standard input: pipelines/recommend.md says what they hold.
    pub file: Option<PathBuf>,
    /// The stage whose predictions are judged; by default the one that the first sink reads.
    #[arg(long, value_parser = |name: &str| StageName::try_new(name))]
    pub stage: Option<StageName>,
    /// How long after a prediction feedback counts, event time.
    #[arg(long, default_value = "1h", value_parser = |text: &str| text.parse::<Millis>())]
    pub maturity: Millis,
    /// The event time that one row covers, at least `1ms`; by default `monitor.window`.
    #[arg(long, value_parser = window)]
    pub window: Option<Millis>,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProbesArgs {
    #[command(subcommand)]
    pub command: ProbesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProbesCommand {
    /// Runs the pipeline on a log of its own and writes what its sources sent, and what every stage answered.
    Record(RecordProbesArgs),
    /// Compares what stages answered to probes with what they answered when those were recorded. Fails if one has changed.
    ///
    /// Reads Kafka or the log at `broker.path`; without one, runs the pipeline first, whose sources send the probes once, before
    /// their first record, whatever `monitor.probes.every` says.
    Check(CheckProbesArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecordProbesArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Where to write them; `monitor.probes.path` of the pipeline if not given.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Most probes a source, in the order of their names.
    #[arg(long, default_value_t = 200)]
    pub most: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckProbesArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ParametersArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Writes one page with plots that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// Watches a pipeline that other processes run. Several share the work by pipeline: of each one is at work, the others stand by.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = SERVICE_EXIT_CODES)]
pub(crate) struct MonitorArgs {
    /// The pipeline file.
    #[arg(long)]
    pub pipeline: PathBuf,
    /// Overrides an entry of the file, such as `broker.bootstrap_servers=localhost:9092`.
    #[arg(long = "set", value_name = "PATH.TO.KEY=VALUE")]
    pub overrides: Vec<Override>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AlarmsArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Prints each alarm as one JSON line, with all that is known of it.
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<AlarmsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlarmsCommand {
    /// Notes that somebody knows of an alarm.
    Ack {
        /// The alarm, such as `drift-1`.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReferenceArgs {
    #[command(subcommand)]
    pub command: ReferenceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Builds a reference from records that are healthy: bins, profiles and the windows to compare with.
    ///
    /// Reads Kafka or the log at `broker.path`; without one, runs the pipeline first.
    Build(BuildArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Takes records from this event time on, such as `2026-11-01T00:00:00Z`. With several `--from` and as many `--to` takes
    /// several stretches, such as the same weeks of some years.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Vec<Timestamp>,
    /// Takes records before this event time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Vec<Timestamp>,
    /// Where to write it; `monitor.reference` of the pipeline if not given.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Checks that a stretch of event time holds a moment. `to` is the first that it does not hold.
pub(crate) fn check_range(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Failure> {
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(Failure::usage(format!("--from, --to: found {from} and {to}, allowed is a --to after its --from")))
        }
        _ => Ok(()),
    }
}

fn window(text: &str) -> Result<Millis, String> {
    let window = text.parse::<Millis>().map_err(|error| error.to_string())?;
    if window.0 > 0 { Ok(window) } else { Err("allowed is at least 1ms".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "allowed is a share from 0 to 1".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "allowed is a time such as 2026-11-01T00:00:00Z".to_owned())
}

#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// The pipeline files.
    #[arg(required = true)]
    pub pipelines: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Says what a model file or folder holds, without running it.
    Inspect {
        /// A safetensors file, or a folder with a model.
        path: PathBuf,
        /// The form of the output.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    pub command: TrainCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Trains the network of the stage `inspection`, and says how well it judges pieces it has not seen.
    Inspection(TrainInspectionArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrainInspectionArgs {
    /// A folder with a folder a class: `<class>/<slice>_…_<number>.jpg`, each with a mask `.png` beside it, white where the
    /// defect is, or none.
    #[arg(long, value_name = "FOLDER", required_unless_present = "generate")]
    pub images: Option<PathBuf>,
    /// Trains on so many generated pictures instead, of the surface that `--surface` names: `phone-screen` or `ground-tile`.
    #[arg(long, value_name = "COUNT", conflicts_with = "images")]
    pub generate: Option<usize>,
    /// The class of good pieces; otherwise the one called good, ok, free or normal.
    #[arg(long, value_name = "CLASS")]
    pub good: Option<String>,
    /// Pictures whose numbers are at most this far apart show the same piece; pieces are never split.
    #[arg(long, default_value_t = 60)]
    pub gap: u64,
    /// Trains on these slices only, separated by commas; the others are judged nevertheless.
    #[arg(long, value_delimiter = ',')]
    pub slices: Vec<String>,
    /// What the surface is called.
    #[arg(long, default_value = "surface")]
    pub surface: String,
    /// The surface has a direction, such as grinding marks: pictures are flipped, but not turned.
    #[arg(long)]
    pub upright: bool,
    /// Mirror images of a picture are judged too and the mean counts, for four times the work.
    #[arg(long)]
    pub mirrored: bool,
    /// Side of the square that the network sees, whatever the pictures' shape: pixels, a multiple of 16.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(32..=1024))]
    pub side: u16,
    /// Parts of the pieces, at least 2; each is judged by a network that learned from the others. 0 trains the network that
    /// ships alone, and judges the pieces that it was calibrated on.
    #[arg(long, default_value_t = 4)]
    pub folds: usize,
    /// Share of the defective pieces that must not be accepted.
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub recall: f64,
    /// Share of the good pieces that may be rejected without a person.
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub false_rejects: f64,
    /// Steps of each network; 0 judges what it starts from.
    #[arg(long, default_value_t = 1500)]
    pub steps: usize,
    /// The network that ships stops after so many looks at the pieces held back from it, one every hundred steps from the middle on, that find them told
    /// apart no better. 0 makes every step.
    #[arg(long, default_value_t = 4)]
    pub patience: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 3e-3)]
    pub rate: f64,
    /// Seed of folds, examples and initial weights.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Starts from these weights, of whatever classes, instead of drawn ones: `phone-screen`, `ground-tile`, or a file. What they
    /// know of a class of the same name is kept, whatever the case and what stands before the last `_`.
    #[arg(long, value_name = "WEIGHTS")]
    pub start: Option<String>,
    /// Share of the small defects drawn that are shown on the surface of a good piece, for want of defective ones. They need masks.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub pasted: f64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Where the weights go, in a folder that is made if it is missing; the figures go beside them.
    #[arg(long, default_value = "inspection.safetensors")]
    pub output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    pub command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Makes the topics that are missing and checks those that are there.
    Create(PipelineArgs),
    /// Lists the topics with their partitions and offsets. Fails if one is missing.
    Describe {
        #[command(flatten)]
        pipeline: PipelineArgs,
        /// The form of the output.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub command: DlqCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Lists the dead letters that were neither sent again nor discarded, one JSON line each.
    Inspect(DlqTarget),
    /// Writes the dead letters of stages and sinks back to the topics they were read from; the next run of
    /// the pipeline processes them, each in the node that refused it and in no other.
    Replay(DlqTarget),
    /// Sets the dead letters aside: they are not listed or sent again.
    Discard(DlqTarget),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DlqTarget {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only those of this source, stage or sink.
    #[arg(long, value_parser = |name: &str| StageName::try_new(name))]
    pub stage: Option<StageName>,
}

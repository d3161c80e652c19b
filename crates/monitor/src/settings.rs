//! What a monitor is told by the pipeline file.

use driftline_pipeline::{Plan, RuleConfig};
use driftline_stats::Answers;
use driftline_types::{PipelineName, StageName};

/// What a monitor is told by the pipeline file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Its sources and stages, each after those it reads.
    pub nodes: Vec<(StageName, Vec<StageName>)>,
    /// The partitions of each topic.
    pub partitions: u32,
    /// The length of a window, milliseconds.
    pub window_ms: u64,
    /// The windows that a silent node is waited for.
    pub lateness: u64,
    /// The first windows, which are not judged.
    pub warm_up: u64,
    /// The windows between two false alarms, A.
    pub run_length: f64,
    /// The least effect that is worth an alarm.
    pub tolerance: f64,
    /// Signals that are not watched.
    pub ignore: Vec<String>,
    /// Thresholds that people set.
    pub rules: Vec<RuleConfig>,
    /// What stages answered to probes when those were recorded; empty without probes.
    pub answers: Answers,
}

impl Settings {
    /// Takes them from a plan; without answers to probes, which are in a file of their own.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let nodes = plan.sources.iter().chain(&plan.stages);
        Self {
            pipeline: plan.name.clone(),
            nodes: nodes.map(|node| (node.name.clone(), node.inputs.clone())).collect(),
            partitions: plan.partitions,
            window_ms: plan.monitor.window.0,
            lateness: plan.monitor.lateness.windows(plan.monitor.window),
            warm_up: plan.monitor.warm_up.map_or(0, |time| time.windows(plan.monitor.window)),
            run_length: plan.monitor.run_length as f64,
            tolerance: plan.monitor.tolerance,
            ignore: plan.monitor.ignore.clone(),
            rules: plan.monitor.rules.clone(),
            answers: Answers::new(),
        }
    }
}

//! `driftline doctor`: tries what a run relies on, one line a check.

use std::{
    fmt::Display,
    fs::{self, OpenOptions},
    io::ErrorKind,
    path::Path,
    sync::Arc,
    time::Instant,
};

use driftline_broker::{Broker, BrokerError, Cleanup, ClockDifference, Kafka};
use driftline_pipeline::{BrokerKind, Delivery, Node, Plan, Role};
use driftline_runtime::pipeline_topics;
use driftline_stage::{SourceDef, StageError, operator::Site};
use driftline_types::{GroupId, Partition, Topic};

use crate::{
    Exit, args::DoctorArgs, exit::Failure, log, print, probes, reference, registry::REGISTRY, run::with_cause,
};

/// How far a broker's clock may be from this machine's, milliseconds. Tokens expire by the cluster's clock, retention by age goes by
/// the writers'; both count in minutes and hours. What is measured across machines, such as a latency, is wrong by the difference.
const CLOCK_MS: f64 = 1000.0;

/// What a check came to.
enum Outcome {
    Good(String),
    /// Could not be tried, is only wrong in a case that cannot be told from here, or can be done without.
    Unknown(String),
    Bad(String),
}

impl<E: Display> From<Result<String, E>> for Outcome {
    fn from(outcome: Result<String, E>) -> Self {
        match outcome {
            Ok(text) => Self::Good(text),
            Err(error) => Self::Bad(error.to_string()),
        }
    }
}

/// Prints outcomes, and remembers whether one was bad.
struct Report {
    exit: Exit,
}

impl Report {
    fn check(&mut self, what: &str, outcome: impl Into<Outcome>) -> Result<(), Failure> {
        let (mark, text) = match outcome.into() {
            Outcome::Good(text) => ("ok  ", text),
            Outcome::Unknown(text) => ("?   ", text),
            Outcome::Bad(text) => {
                self.exit = Exit::Failed;
                ("FAIL", text)
            }
        };
        print::line(format_args!("{mark}  {what}: {}", print::visible(&text, &print::LAYOUT)))?;
        Ok(())
    }
}

/// Tries everything a run of the pipeline relies on, and says what is wrong.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let mut report = Report { exit: Exit::Success };
    report.check("pipeline", Outcome::Good(format!("{} is valid", plan.file.display())))?;
    for node in &plan.sources {
        report.check(&format!("source {}", node.name), source(&plan, node))?;
    }
    for node in &plan.stages {
        report.check(&format!("stage {}", node.name), opened(node))?;
    }
    for node in &plan.sinks {
        report.check(&format!("sink {}", node.name), sink(node))?;
    }
    for (what, found) in [("reference", reference::described_of(&plan)), ("probes", probes::described_of(&plan))] {
        if let Some(found) = found.transpose() {
            report.check(what, found.map_err(|failure| failure.message))?;
        }
    }
    let started = Instant::now();
    match plan.broker.kind {
        BrokerKind::Embedded => match plan.broker.path.as_deref().filter(|path| is_to_be_made(path)) {
            Some(path) => report.check("broker", to_be_made(path))?,
            None => match log::connect(&plan) {
                Err(failure) => report.check("broker", Outcome::Bad(failure.message))?,
                Ok(broker) => {
                    let took = started.elapsed().as_millis();
                    report.check("broker", Outcome::Good(format!("the embedded log opens ({took} ms)")))?;
                    topics(&mut report, &plan, &*broker)?;
                }
            },
        },
        BrokerKind::Kafka => match log::kafka(&plan) {
            Err(failure) => report.check("broker", Outcome::Bad(failure.message))?,
            Ok(kafka) => {
                let took = started.elapsed().as_millis();
                report.check("broker", Outcome::Good(format!("the cluster answers ({took} ms)")))?;
                topics(&mut report, &plan, &kafka)?;
                for (role, node) in plan.nodes() {
                    let work = Work::of(&plan, role, node);
                    report.check(&format!("permissions of {}", node.name), permissions(&work, &kafka))?;
                }
                if plan.monitor.is_on() {
                    report.check("permissions of the monitor", permissions(&Work::of_monitor(&plan), &kafka))?;
                }
                report.check("clock", clock(&kafka))?;
            }
        },
    }
    Ok(report.exit)
}

/// Whether a folder is not there yet, or holds nothing.
fn is_to_be_made(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Tries whether the folder of a log can be made: in the nearest folder around it that is there.
fn to_be_made(folder: &Path) -> Result<String, String> {
    let around = folder.ancestors().find(|around| around.exists()).unwrap_or(folder);
    may_write(around).map_err(|problem| format!("broker.path: {problem}"))?;
    Ok("the embedded log is not there yet, a run makes it".to_owned())
}

/// Tries whether files can be made in a folder, by one without a name.
fn may_write(folder: &Path) -> Result<(), String> {
    if !folder.is_dir() {
        return Err(format!("{} is no folder", folder.display()));
    }
    tempfile::tempfile_in(folder).map(drop).map_err(|error| format!("{} cannot be written: {error}", folder.display()))
}

/// Tries whether a sink can write its file. Nothing is written to one that is there, and none is made.
fn sink(node: &Node) -> Outcome {
    let Some(def) = REGISTRY.sink(node.kind) else {
        return Outcome::Bad(format!("kind {:?} is not known", node.kind));
    };
    let paths = def.paths.iter().filter_map(|key| node.config.get(*key)?.as_str());
    let files: Vec<&str> = paths.filter(|path| *path != "-").collect();
    if let Some(path) = files.iter().find(|path| is_stream(path)) {
        return Outcome::Unknown(format!("{path:?} is a stream: who opens it may wait for its reader"));
    }
    let mut outcome = "needs no file";
    for path in files.into_iter().map(Path::new) {
        if path.exists() {
            outcome = "the file opens for writing";
            if let Err(error) = OpenOptions::new().write(true).open(path) {
                return Outcome::Bad(format!("{} cannot be written: {error}", path.display()));
            }
        } else {
            outcome = "the file is not there yet, a run makes it";
            if let Some(Err(problem)) = path.parent().map(may_write) {
                return Outcome::Bad(problem);
            }
        }
    }
    Outcome::Good(outcome.to_owned())
}

/// Opens a source as a run does, which reads no record yet.
fn source(plan: &Plan, node: &Node) -> Outcome {
    let Some(def) = REGISTRY.source(node.kind) else {
        return Outcome::Bad(format!("kind {:?} is not known", node.kind));
    };
    let mut paths = def.paths.iter().filter_map(|key| node.config.get(*key)?.as_str());
    if paths.any(|path| path == "-") {
        return Outcome::Unknown("\"-\" is a stream: who opens it takes from it".to_owned());
    }
    let open = |follow| open_source(def, plan, node, follow);
    match open(false) {
        Ok(()) => Outcome::Good("opens".to_owned()),
        Err(error) if open(true).is_ok() => Outcome::Unknown(format!("{}; --follow waits for it", with_cause(&error))),
        Err(error) => Outcome::Bad(with_cause(&error)),
    }
}

fn open_source(def: &SourceDef, plan: &Plan, node: &Node, follow: bool) -> Result<(), StageError> {
    let window = i64::try_from(plan.monitor.window.0).unwrap_or(i64::MAX);
    let site = Site::new(plan.name.clone(), node.name.clone(), def.version(&node.config)?, window);
    def.open(&node.config, follow, Arc::new(site)).map(drop)
}

/// Whether a path is standard input, or of a pipe, a socket or a device.
fn is_stream(path: &str) -> bool {
    path == "-" || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Loads what a stage loads.
fn opened(node: &Node) -> Result<String, String> {
    let def = REGISTRY.stage(node.kind).ok_or_else(|| format!("kind {:?} is not known", node.kind))?;
    let started = Instant::now();
    let stage = def.open(&node.config).map_err(|error| with_cause(&error))?;
    Ok(format!("version {} loads ({} ms)", stage.version(), started.elapsed().as_millis()))
}

fn topics(report: &mut Report, plan: &Plan, broker: &dyn Broker) -> Result<(), Failure> {
    for (topic, wanted) in pipeline_topics(plan) {
        report.check(&format!("topic {topic}"), described(plan, broker, &topic, wanted))?;
    }
    Ok(())
}

fn described(plan: &Plan, broker: &dyn Broker, topic: &Topic, wanted: Partition) -> Outcome {
    let found = match broker.describe_topic(topic) {
        Err(error) => return Outcome::Bad(error.to_string()),
        Ok(Some(found)) => found,
        Ok(None) => {
            return match plan.broker.kind {
                BrokerKind::Embedded => Outcome::Good("is made by the first run".to_owned()),
                // A cluster does not tell who may not know.
                BrokerKind::Kafka => Outcome::Unknown(
                    "is made by the first run or `driftline topics create`, or is not shown to this user".to_owned(),
                ),
            };
        }
    };
    if found.spec.partitions != wanted {
        let found = print::counted(found.spec.partitions.into(), "partition");
        return Outcome::Bad(format!("has {found}, the pipeline wants {wanted}"));
    }
    if topic.as_str().ends_with(".state") != (found.spec.cleanup == Cleanup::Compact) {
        return Outcome::Bad("has the wrong cleanup policy: state is compacted, records are not".to_owned());
    }
    Outcome::Good(print::counted(wanted.into(), "partition"))
}

/// What somebody at work does on the cluster.
struct Work {
    reads: Vec<Topic>,
    /// The outputs that alarms name examples of.
    examples: Vec<Topic>,
    writes: Vec<Topic>,
    /// The group that is joined for a topic.
    joins: Option<(GroupId, Topic)>,
    /// The group whose offsets are committed in transactions, and whether they always are.
    transacts: Option<(GroupId, bool)>,
}

impl Work {
    fn of(plan: &Plan, role: Role, node: &Node) -> Self {
        let (name, group) = (&node.name, plan.name.group(&node.name));
        let inputs: Vec<Topic> = node.inputs.iter().map(|input| plan.name.output_topic(input)).collect();
        let joins = inputs.first().map(|input| (group.clone(), input.clone()));
        // A sink commits offsets, and what it refused.
        if role == Role::Sink {
            let writes = vec![plan.name.dead_letter_topic(name)];
            let transacts = (plan.broker.delivery == Delivery::ExactlyOnce).then_some((group, true));
            return Self { reads: inputs, examples: Vec::new(), writes, joins, transacts };
        }
        let state = plan.name.state_topic(name);
        let mut writes = vec![
            plan.name.output_topic(name),
            plan.name.dead_letter_topic(name),
            state.clone(),
            plan.name.profiles_topic(),
        ];
        writes.extend(plan.monitor.probes.is_some().then(|| plan.name.probes_topic()));
        // A stage that keeps no state needs no transactions at least once.
        let always = role == Role::Source || plan.broker.delivery == Delivery::ExactlyOnce;
        Self {
            reads: inputs.into_iter().chain([state]).collect(),
            examples: Vec::new(),
            writes,
            joins,
            transacts: Some((group, always)),
        }
    }

    fn of_monitor(plan: &Plan) -> Self {
        let (name, group) = (&plan.name, plan.name.monitor_group());
        let state = name.monitor_state_topic();
        let mut reads = vec![name.profiles_topic(), name.control_topic(), state.clone()];
        reads.extend(plan.monitor.probes.is_some().then(|| name.probes_topic()));
        Self {
            joins: Some((group.clone(), name.profiles_topic())),
            reads,
            examples: log::outputs(plan),
            writes: vec![name.alarms_topic(), state],
            transacts: Some((group, true)),
        }
    }
}

/// Tries what somebody does on the cluster, without doing it.
fn permissions(work: &Work, kafka: &Kafka) -> Outcome {
    let mut allowed: Vec<String> = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    let mut missing = Vec::new();
    let mut unsure = Vec::new();
    let mut tried = |what: String, outcome: Result<(), BrokerError>| match outcome {
        Ok(()) => allowed.push(what),
        Err(BrokerError::UnknownTopic { .. }) => missing.push(what),
        Err(error) => refused.push(format!("{what} ({error})")),
    };
    for topic in &work.reads {
        tried(format!("read {topic}"), kafka.may_read(topic));
    }
    for topic in &work.examples {
        match kafka.may_read(topic) {
            Err(error @ BrokerError::Refused { .. }) => {
                unsure.push(format!("may not read {topic} ({error}), so that alarms name no examples of it"));
            }
            outcome => tried(format!("read {topic}"), outcome),
        }
    }
    if let Some((group, input)) = &work.joins {
        tried(format!("join {group}"), kafka.may_join(group, input));
    }
    for topic in &work.writes {
        tried(format!("write {topic}"), kafka.may_write(topic));
    }
    if let Some((group, always)) = &work.transacts {
        match kafka.may_transact(group) {
            Err(error) if !always => {
                unsure.push(format!("may not use transactions {group}-… ({error}), which it needs if it keeps state"));
            }
            outcome => tried(format!("use transactions {group}-…"), outcome),
        }
    }
    if !refused.is_empty() {
        return Outcome::Bad(format!("may not {}", refused.join(", nor ")));
    }
    if !missing.is_empty() {
        return Outcome::Unknown(format!("not tried for want of topics: {}", missing.join(", ")));
    }
    if !unsure.is_empty() {
        return Outcome::Unknown(unsure.join("; "));
    }
    Outcome::Good(format!("may {}", allowed.join(", ")))
}

/// Compares the brokers' clocks with this machine's.
fn clock(kafka: &Kafka) -> Outcome {
    match kafka.clock() {
        Err(error @ BrokerError::Refused { .. }) => Outcome::Unknown(format!("not measured: {error}")),
        Err(error) => Outcome::Bad(error.to_string()),
        Ok(difference) => judged(difference),
    }
}

fn judged(difference: ClockDifference) -> Outcome {
    let way = if difference.ahead_ms < 0.0 { "behind" } else { "ahead of" };
    let text = format!(
        "the cluster's is {:.0} ms (± {:.0}) {way} this machine's, allowed are {CLOCK_MS:.0} ms",
        difference.ahead_ms.abs(),
        difference.within_ms.ceil()
    );
    let certain = difference.ahead_ms.abs() - difference.within_ms;
    if certain > CLOCK_MS { Outcome::Bad(text) } else { Outcome::Good(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_if_it_certainly_is() {
        let told = |ahead_ms, within_ms| match judged(ClockDifference { ahead_ms, within_ms }) {
            Outcome::Good(text) => format!("ok {text}"),
            Outcome::Unknown(text) => format!("? {text}"),
            Outcome::Bad(text) => format!("FAIL {text}"),
        };
        assert_eq!(told(3.4, 1.2), "ok the cluster's is 3 ms (± 2) ahead of this machine's, allowed are 1000 ms");
        assert_eq!(
            told(-1500.0, 4.0),
            "FAIL the cluster's is 1500 ms (± 4) behind this machine's, allowed are 1000 ms"
        );
        assert!(told(1500.0, 600.0).starts_with("ok "), "it may be right");
    }
}

//! `driftline probes`: records fixed recordings with what every stage answers to them, and says what has changed.
//!
//! The file is JSON: the values of the records as sources wrote them, and hashes of what each stage read and wrote. It is
//! made from a run over the sources of the pipeline as they are, without injections.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use driftline_broker::{Broker, records};
use driftline_pipeline::{Plan, ProbesConfig};
use driftline_runtime::probes;
use driftline_stage::operator::{Recording, Schedule};
use driftline_stats::{Answer, Answers, ProbeFindings, Probes, ValueHash, compare_answers};
use driftline_types::{PipelineName, StageName, StageVersion, TopicPartition, config::Millis, wire};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Exit,
    args::{CheckProbesArgs, Format, ProbesArgs, ProbesCommand, RecordProbesArgs},
    exit::Failure,
    log, print,
    run::{execute_first, whole},
    table,
};

/// Longer than event time lasts: probes are sent once, at the start.
const ONCE: Millis = Millis(u64::MAX);

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProbeFile {
    pipeline: PipelineName,
    /// By source.
    recordings: BTreeMap<StageName, Vec<Recorded>>,
    answers: Answers,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    name: String,
    /// The values of its records, base64.
    values: Vec<String>,
}

impl ProbeFile {
    /// Reads the probes of a pipeline.
    pub(crate) fn load(plan: &Plan, path: &Path) -> Result<Self, Failure> {
        let wrong = |problem: String| {
            let problem = format!("{}: {problem}", path.display());
            Failure::usage(plan.problem_of_file(&["monitor", "probes", "path"], problem))
        };
        let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let file: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if file.pipeline != plan.name {
            return Err(wrong(format!("found probes of the pipeline {:?}, allowed is {:?}", file.pipeline, plan.name)));
        }
        Ok(file)
    }

    /// Returns what each source sends, once if `every_ms` is `None`.
    fn schedules(&self, every_ms: Option<i64>) -> Result<BTreeMap<StageName, Arc<Schedule>>, Failure> {
        let recording = |recorded: &Recorded| {
            let values = recorded.values.iter().map(|value| BASE64.decode(value).map(Bytes::from));
            let values = values
                .collect::<Result<_, _>>()
                .map_err(|error| Failure::usage(format!("monitor.probes.path: probe {:?}: {error}", recorded.name)))?;
            Ok(Recording { name: recorded.name.clone(), values })
        };
        let schedule = |(source, recorded): (&StageName, &Vec<Recorded>)| {
            let recordings = recorded.iter().map(recording).collect::<Result<_, Failure>>()?;
            Ok((source.clone(), Arc::new(Schedule { every_ms, recordings })))
        };
        self.recordings.iter().map(schedule).collect()
    }
}

/// Returns the probes that the sources of a pipeline send, if it has any.
pub(crate) fn schedules(plan: &Plan) -> Result<BTreeMap<StageName, Arc<Schedule>>, Failure> {
    let Some(ProbesConfig { path, every }) = &plan.monitor.probes else { return Ok(BTreeMap::new()) };
    ProbeFile::load(plan, path)?.schedules(i64::try_from(every.0).ok())
}

/// Says what the probes of a pipeline are, if it has any.
pub(crate) fn described_of(plan: &Plan) -> Result<Option<String>, Failure> {
    let Some(ProbesConfig { every, .. }) = &plan.monitor.probes else { return Ok(None) };
    let count: usize = schedules(plan)?.values().map(|schedule| schedule.recordings.len()).sum();
    Ok(Some(format!("{}, sent every {every}", print::counted(count as u64, "recording"))))
}

/// Returns what stages answered when the probes of a pipeline were recorded; nothing if it has none.
pub(crate) fn answers(plan: &Plan) -> Result<Answers, Failure> {
    let Some(ProbesConfig { path, .. }) = &plan.monitor.probes else { return Ok(Answers::new()) };
    Ok(ProbeFile::load(plan, path)?.answers)
}

pub(crate) fn probes(args: &ProbesArgs) -> Result<Exit, Failure> {
    match &args.command {
        ProbesCommand::Record(args) => record(args),
        ProbesCommand::Check(args) => check(args),
    }
}

fn record(args: &RecordProbesArgs) -> Result<Exit, Failure> {
    let mut plan = log::load(&args.pipeline)?;
    let configured = plan.monitor.probes.take().map(|probes| probes.path);
    let Some(output) = args.output.clone().or(configured) else {
        let file = plan.file.display();
        return Err(Failure::usage(format!(
            "{file}: --output: is missing, allowed are a path here or as monitor.probes.path"
        )));
    };
    // A log of its own: what was written before is of no interest.
    plan.broker = Default::default();
    plan.injections.clear();
    let broker = log::open(&plan)?;
    let report = execute_first(&plan, &broker, None)?;
    whole(&plan, &report)?;
    let mut recordings = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    for source in &plan.sources {
        let mut by_key: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        each(&*broker, &plan, &source.name, |key, value| by_key.entry(key).or_default().push(value))?;
        let mut recorded = Vec::new();
        for (key, values) in by_key.into_iter().take(args.most) {
            let name = String::from_utf8_lossy(&key).into_owned();
            recorded.push(Recorded { name, values: values.iter().map(|value| BASE64.encode(value)).collect() });
            chosen.insert(key);
        }
        recordings.insert(source.name.clone(), recorded);
    }
    let mut answers = Answers::new();
    for stage in &plan.stages {
        let version = report.node(stage.name.as_str()).and_then(|node| node.version.clone());
        let Some(version) = version else { continue };
        answers.insert(stage.name.clone(), answers_of(&*broker, &plan, stage, &version, &chosen)?);
    }
    let count: usize = recordings.values().map(Vec::len).sum();
    let file = ProbeFile { pipeline: plan.name.clone(), recordings, answers };
    let text = serde_json::to_vec(&file).map_err(Failure::running)?;
    // Whole or not at all: the process may be asked to end meanwhile.
    let partial = output.with_extension("partial");
    let folder = output.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder.and_then(|()| fs::write(&partial, &text)).and_then(|()| fs::rename(&partial, &output));
    written.map_err(|error| Failure::running(format!("{}: {error}", output.display())))?;
    let (probes, stages) = (print::counted(count as u64, "probe"), print::counted(file.answers.len() as u64, "stage"));
    print::tell!("{}: {probes}, {stages}, {} bytes", output.display(), text.len());
    Ok(Exit::Success)
}

/// Reads what a stage made of each key.
fn answers_of(
    broker: &dyn Broker,
    plan: &Plan,
    stage: &driftline_pipeline::Node,
    version: &StageVersion,
    chosen: &BTreeSet<Bytes>,
) -> Result<BTreeMap<String, Answer>, Failure> {
    let mut hashes: BTreeMap<Bytes, (Vec<ValueHash>, Vec<ValueHash>)> = BTreeMap::new();
    for input in &stage.inputs {
        each(broker, plan, input, |key, value| {
            if chosen.contains(&key) {
                hashes.entry(key).or_default().0.push(ValueHash::of(&value));
            }
        })?;
    }
    each(broker, plan, &stage.name, |key, value| {
        if let Some((_, outputs)) = hashes.get_mut(&key) {
            outputs.push(ValueHash::of(&value));
        }
    })?;
    let answer = |(key, (inputs, outputs)): (Bytes, (Vec<_>, Vec<_>))| {
        (String::from_utf8_lossy(&key).into_owned(), Answer::new(version.clone(), inputs, outputs))
    };
    Ok(hashes.into_iter().map(answer).collect())
}

/// Visits the records of a topic that have a key and a value.
fn each(
    broker: &dyn Broker,
    plan: &Plan,
    node: &StageName,
    mut visit: impl FnMut(Bytes, Bytes),
) -> Result<(), Failure> {
    let topic = plan.name.output_topic(node);
    for partition in 0..plan.partitions {
        for message in records(broker, TopicPartition::new(topic.clone(), partition)).map_err(Failure::running)? {
            let message = message.map_err(Failure::running)?;
            if let (Some(key), Some(value), false) = (&message.key, &message.value, wire::is_probe(&message)) {
                visit(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

fn check(args: &CheckProbesArgs) -> Result<Exit, Failure> {
    let mut plan = log::load(&args.pipeline)?;
    let Some(config) = plan.monitor.probes.clone() else {
        return Err(Failure::usage(format!("{}: monitor.probes: is missing", plan.file.display())));
    };
    let ProbeFile { recordings, answers: before, .. } = ProbeFile::load(&plan, &config.path)?;
    let broker = log::open_to_read(&plan, &[plan.name.probes_topic()])?;
    if !log::is_durable(&plan) {
        plan.monitor.probes = Some(ProbesConfig { every: ONCE, ..config.clone() });
        whole(&plan, &execute_first(&plan, &broker, None)?)?;
    }
    let rounds = probes::read(&*broker, &plan.name).map_err(Failure::running)?;
    if rounds.is_empty() {
        let (file, ProbesConfig { path, every }) = (plan.file.display(), &config);
        let why = if log::is_durable(&plan) {
            format!("a run sends one every {every} of event time (monitor.probes.every)")
        } else {
            let count: usize = recordings.values().map(Vec::len).sum();
            format!("sources send one before their first record, recordings in {}: {count}", path.display())
        };
        return Err(Failure::running(format!(
            "{file}: found no round of probes that a stage answered, nothing was judged; {why}"
        )));
    }
    let mut changed = false;
    let mut table = table::table(&["round", "stage", "says", "same", "changed", "silent", "which"], 3);
    for (round, answers) in &rounds {
        for (stage, findings) in compare_answers(&before, answers) {
            changed |= findings.outcome == Probes::Different;
            match args.format {
                Format::Json => {
                    let line = json!({ "round": round.to_string(), "stage": stage.as_str(), "findings": findings });
                    print::line(line)?;
                }
                Format::Table => {
                    table.add_row(row(&round.to_string(), &stage, &findings));
                }
            }
        }
    }
    if args.format == Format::Table {
        print::line(table::fitted(table, &std::io::stdout()))?;
    }
    Ok(if changed { Exit::Failed } else { Exit::Success })
}

fn row(round: &str, stage: &StageName, findings: &ProbeFindings) -> [String; 7] {
    let says = match findings.outcome {
        Probes::None => "nothing",
        Probes::Same => "unchanged",
        Probes::Different => "changed",
    };
    let which: Vec<&str> = findings.changed.iter().map(|change| change.probe.as_str()).collect();
    let more = which.len().saturating_sub(3);
    let which = which.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    [
        round.to_owned(),
        stage.to_string(),
        says.to_owned(),
        findings.same.to_string(),
        findings.changed.len().to_string(),
        findings.silent.to_string(),
        if more > 0 { format!("{which} and {more} more") } else { which },
    ]
}

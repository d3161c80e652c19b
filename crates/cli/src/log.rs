//! Loading a pipeline and opening its log.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use driftline_broker::{
    Broker, Delivery, Durability, Embedded, EmbeddedConfig, Kafka, KafkaConfig, Retention, TokenSource,
};
use driftline_pipeline::{self as pipeline, BrokerKind, Plan};
use driftline_runtime::{create_topics, kinds};
use driftline_types::Topic;

use crate::{
    args::{Changes, PipelineArgs},
    exit::Failure,
    logging, print,
    registry::REGISTRY,
};

/// The folder of the temporary log that this process made last.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// How many topics an error names.
const NAMED: usize = 3;

/// Loads a pipeline; warnings go to standard error.
pub(crate) fn load(args: &PipelineArgs) -> Result<Plan, Failure> {
    load_file(&args.pipeline, &args.changes)
}

pub(crate) fn load_file(pipeline: &Path, changes: &Changes) -> Result<Plan, Failure> {
    let plan = load_silently(pipeline, changes)?;
    tell_warnings(&plan);
    Ok(plan)
}

/// Loads a pipeline without telling its warnings, for who is to log in the form that it names.
pub(crate) fn load_silently(pipeline: &Path, changes: &Changes) -> Result<Plan, Failure> {
    let overrides: Vec<_> = changes.overrides.iter().chain(&changes.injections).cloned().collect();
    Plan::load(pipeline, &overrides, &kinds(&REGISTRY)).map_err(Failure::usage)
}

/// Tells the warnings of a pipeline.
pub(crate) fn tell_warnings(plan: &Plan) {
    for warning in &plan.warnings {
        if logging::is_json() {
            tracing::warn!("{warning}");
        } else {
            print::error_line(warning);
        }
    }
}

/// Opens the log of a pipeline, a temporary one if it names none, and creates its topics.
pub(crate) fn open(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    let broker = connect(plan)?;
    let retention = Retention {
        bytes: plan.broker.retention.bytes.map(|bytes| bytes.0),
        ms: plan.broker.retention.age.map(|age| age.0),
    };
    create_topics(&*broker, plan, retention).map_err(Failure::running)?;
    Ok(broker)
}

/// Opens the log of a pipeline for a command that reads these topics. One that outlives runs is opened as
/// [`open_existing`] does; else it is an empty temporary one, for the run that the command begins with.
pub(crate) fn open_to_read(plan: &Plan, topics: &[Topic]) -> Result<Arc<dyn Broker>, Failure> {
    if is_durable(plan) { open_existing(plan, topics) } else { open(plan) }
}

/// Opens a log that outlives runs and has these topics. Nothing is made.
pub(crate) fn open_existing(plan: &Plan, topics: &[Topic]) -> Result<Arc<dyn Broker>, Failure> {
    let broker = connect_durable(plan)?;
    let known = broker.topics().map_err(Failure::running)?;
    let missing: BTreeSet<&str> = topics.iter().filter(|topic| !known.contains(topic)).map(Topic::as_str).collect();
    if missing.is_empty() { Ok(broker) } else { Err(without_topics(plan, &missing)) }
}

fn without_topics(plan: &Plan, missing: &BTreeSet<&str>) -> Failure {
    let mut names = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if missing.len() > NAMED {
        names.push_str(&format!(" and {} more", missing.len() - NAMED));
    }
    let (file, broker) = (plan.file.display(), &plan.broker);
    let found = match broker.kind {
        BrokerKind::Embedded => {
            let path = broker.path.as_deref().unwrap_or(Path::new(""));
            format!("broker.path: found no topic {names} in the log in {}", path.display())
        }
        BrokerKind::Kafka => {
            let prefix = &broker.prefix;
            format!("broker.prefix: found no topic {names} under {prefix:?}, or none that is shown to this user")
        }
    };
    Failure::usage(format!("{file}: {found}; `driftline run` and `driftline topics create` make those of a pipeline"))
}

/// Names the topics that the sources and stages of a pipeline write to.
pub(crate) fn outputs(plan: &Plan) -> Vec<Topic> {
    plan.sources.iter().chain(&plan.stages).map(|node| plan.name.output_topic(&node.name)).collect()
}

/// Opens the log of a pipeline as it is; an embedded one is made if it is missing.
pub(crate) fn connect(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    match plan.broker.kind {
        BrokerKind::Embedded => embedded(plan),
        BrokerKind::Kafka => Ok(Arc::new(kafka(plan)?)),
    }
}

/// Connects to the Kafka cluster of a pipeline.
pub(crate) fn kafka(plan: &Plan) -> Result<Kafka, Failure> {
    let mut config = KafkaConfig::new(plan.broker.bootstrap_servers.clone().unwrap_or_default());
    config.prefix.clone_from(&plan.broker.prefix);
    config.replication = plan.broker.replication;
    config.delivery = match plan.broker.delivery {
        pipeline::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
        pipeline::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
    };
    config.token = plan.broker.token.clone().map(|token| TokenSource::new(move || token.read()));
    let mut problems = Vec::new();
    for (name, property) in &plan.broker.properties {
        match property.read() {
            Ok(value) => drop(config.properties.insert(name.clone(), value)),
            Err(reason) => problems.push(format!("{}: broker.properties.{name:?}: {reason}", plan.file.display())),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::usage(problems.join("\n")));
    }
    Kafka::connect(config).map_err(Failure::running)
}

fn embedded(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    let config = EmbeddedConfig {
        durability: match plan.broker.durability {
            pipeline::Durability::Process => Durability::Process,
            pipeline::Durability::Power => Durability::Power,
        },
        ..EmbeddedConfig::default()
    };
    let broker = match &plan.broker.path {
        Some(path) => {
            fs::create_dir_all(path).map_err(|error| {
                Failure::usage(format!(
                    "{}: broker.path: no log can be in {}: {error}, allowed is a folder, made if it is missing",
                    plan.file.display(),
                    path.display()
                ))
            })?;
            Embedded::open(path, config)
        }
        None => Embedded::temporary(config),
    };
    let broker = broker.map_err(Failure::running)?;
    if let Some(folder) = broker.temporary_folder() {
        *TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
    }
    Ok(Arc::new(broker))
}

/// Removes the temporary log of this process, at an end that leaves handles open.
pub(crate) fn remove_temporary() {
    let folder = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(folder) = folder {
        // Whoever still writes may add a file while the others are removed.
        let _ = (0..3).any(|_| fs::remove_dir_all(&folder).is_ok());
    }
}

/// Whether the log of a pipeline outlives a run.
pub(crate) fn is_durable(plan: &Plan) -> bool {
    plan.broker.kind == BrokerKind::Kafka || plan.broker.path.is_some()
}

/// Opens a log that outlives runs, and creates the pipeline's topics.
pub(crate) fn open_durable(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    check_durable(plan)?;
    open(plan)
}

/// Opens a log that outlives runs as it is; an embedded one must be there.
pub(crate) fn connect_durable(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    check_durable(plan)?;
    match &plan.broker.path {
        Some(path) if plan.broker.kind == BrokerKind::Embedded && !Embedded::is_in(path) => {
            let found = match fs::metadata(path) {
                Ok(found) if found.is_dir() => "a folder without one".to_owned(),
                Ok(_) => "a file".to_owned(),
                Err(error) if error.kind() == ErrorKind::NotFound => "nothing".to_owned(),
                Err(error) => error.to_string(),
            };
            Err(Failure::usage(format!(
                "{}: broker.path: no log in {}: found {found}, allowed is the folder of a log that a run has made",
                plan.file.display(),
                path.display()
            )))
        }
        _ => connect(plan),
    }
}

fn check_durable(plan: &Plan) -> Result<(), Failure> {
    if is_durable(plan) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{}: broker.path: is missing, a run leaves its log nowhere; set it in the file or by --set broker.path=FOLDER",
        plan.file.display()
    )))
}

//! Loading a pipeline and opening its log.

use std::{path::Path, sync::Arc};

use driftline_broker::{
    Broker, Delivery, Durability, Embedded, EmbeddedConfig, Kafka, KafkaConfig, Retention, TokenSource,
};
use driftline_pipeline::{self as pipeline, BrokerKind, Plan};
use driftline_runtime::{create_topics, kinds};

use crate::{
    args::{Changes, PipelineArgs},
    exit::Failure,
    registry::REGISTRY,
};

/// Loads a pipeline; warnings go to standard error.
pub(crate) fn load(args: &PipelineArgs) -> Result<Plan, Failure> {
    load_file(&args.pipeline, &args.changes)
}

pub(crate) fn load_file(pipeline: &Path, changes: &Changes) -> Result<Plan, Failure> {
    let overrides: Vec<_> = changes.overrides.iter().chain(&changes.injections).cloned().collect();
    let plan = Plan::load(pipeline, &overrides, &kinds(&REGISTRY)).map_err(Failure::usage)?;
    for warning in &plan.warnings {
        eprintln!("{warning}");
    }
    Ok(plan)
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

/// Opens the log of a pipeline as it is.
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
        Some(path) => Embedded::open(path, config),
        None => Embedded::temporary(config),
    };
    Ok(Arc::new(broker.map_err(Failure::running)?))
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

/// Opens a log that outlives runs as it is.
pub(crate) fn connect_durable(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    check_durable(plan)?;
    connect(plan)
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

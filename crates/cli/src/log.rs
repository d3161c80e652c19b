//! Loading a pipeline and opening its log.

use std::sync::Arc;

use driftline_broker::{Broker, Durability, Embedded, EmbeddedConfig, Retention};
use driftline_pipeline::{self as pipeline, Plan};
use driftline_runtime::create_topics;

use crate::{
    args::PipelineArgs,
    exit::Failure,
    registry::{REGISTRY, kinds},
};

/// Loads a pipeline; warnings go to standard error.
pub(crate) fn load(args: &PipelineArgs) -> Result<Plan, Failure> {
    let plan = Plan::load(&args.pipeline, &args.overrides, &kinds(&REGISTRY)).map_err(Failure::usage)?;
    for warning in &plan.warnings {
        eprintln!("{warning}");
    }
    Ok(plan)
}

/// Opens the log of a pipeline, a temporary one if it names none, and creates its topics.
pub(crate) fn open(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
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
    let broker: Arc<dyn Broker> = Arc::new(broker.map_err(Failure::running)?);
    let retention = Retention {
        bytes: plan.broker.retention.bytes.map(|bytes| bytes.0),
        ms: plan.broker.retention.age.map(|age| age.0),
    };
    create_topics(&*broker, plan, retention).map_err(Failure::running)?;
    Ok(broker)
}

/// Opens a log that outlives runs.
pub(crate) fn open_durable(plan: &Plan) -> Result<Arc<dyn Broker>, Failure> {
    if plan.broker.path.is_none() {
        return Err(Failure::usage(format!(
            "{}: broker.path: is missing, a run leaves its log nowhere; set it in the file or by --set broker.path=FOLDER",
            plan.file.display()
        )));
    }
    open(plan)
}

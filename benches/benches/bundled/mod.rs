//! A run of one of the pipelines that ship, on a log that is thrown away.

use std::{future, path::Path, sync::Arc};

use driftline_broker::{Broker, Embedded, EmbeddedConfig, Retention};
use driftline_cli::registry::REGISTRY;
use driftline_pipeline::{Override, Plan};
use driftline_runtime::{Metrics, Report, RunOptions, create_topics, kinds};

/// Runs `pipelines/<name>.toml` to the end of its sources, with these overrides (`path.to.key=value`).
pub fn run(name: &str, set: &[String]) -> (Plan, Arc<dyn Broker>, Report) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../pipelines/{name}.toml"));
    let set: Vec<Override> = set.iter().map(|text| text.parse().unwrap()).collect();
    let plan = Plan::load(&file, &set, &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"));
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).unwrap());
    create_topics(&*broker, &plan, Retention::default()).unwrap();
    let metrics = Arc::new(Metrics::new(&plan));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = RunOptions::default();
    let run = driftline_runtime::run(&plan, &REGISTRY, Arc::clone(&broker), metrics, options, future::pending());
    let report = runtime.block_on(run).unwrap();
    (plan, broker, report)
}

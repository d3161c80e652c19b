//! `driftline topics`, `driftline lag` and `driftline doctor`: what stands on the broker.

use std::time::Instant;

use driftline_broker::{Broker, Cleanup, FetchLimit};
use driftline_pipeline::{BrokerKind, Node, Plan};
use driftline_runtime::pipeline_topics;
use driftline_types::{StageName, Topic, TopicPartition};
use serde_json::{Value, json};

use crate::{
    Exit,
    args::{DoctorArgs, Format, LagArgs, TopicsArgs, TopicsCommand},
    exit::Failure,
    log,
    registry::REGISTRY,
    table,
};

pub(crate) fn topics(args: &TopicsArgs) -> Result<Exit, Failure> {
    match &args.command {
        TopicsCommand::Create(pipeline) => {
            let plan = log::load(pipeline)?;
            log::open_durable(&plan)?;
            eprintln!("{}: every topic of {} is there", plan.file.display(), plan.name);
            Ok(Exit::Success)
        }
        TopicsCommand::Describe { pipeline, format } => describe(&log::load(pipeline)?, *format),
    }
}

fn describe(plan: &Plan, format: Format) -> Result<Exit, Failure> {
    let broker = log::connect(plan)?;
    let mut rows = Vec::new();
    let mut missing = false;
    for (topic, _) in pipeline_topics(plan) {
        let found = broker.describe_topic(&topic).map_err(Failure::running)?;
        missing |= found.is_none();
        rows.push(match found {
            None => json!({ "topic": topic.as_str(), "partitions": null, "cleanup": null, "ends": [] }),
            Some(found) => json!({
                "topic": topic.as_str(),
                "partitions": found.spec.partitions,
                "cleanup": if found.spec.cleanup == Cleanup::Compact { "compact" } else { "delete" },
                "ends": found.partitions.iter().map(|ends| json!([ends.low, ends.high])).collect::<Vec<_>>(),
            }),
        });
    }
    let ends = |row: &Value| {
        let ends = row["ends"].as_array().cloned().unwrap_or_default();
        ends.iter().map(|pair| format!("{}–{}", pair[0], pair[1])).collect::<Vec<_>>().join(" ")
    };
    show(&["topic", "partitions", "cleanup", "offsets"], &rows, format, |row| {
        let text = |key: &str| match &row[key] {
            Value::Null => "missing".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![text("topic"), text("partitions"), text("cleanup"), ends(row)]
    });
    Ok(if missing { Exit::Failed } else { Exit::Success })
}

/// How far each stage and sink is behind what it reads.
pub(crate) fn lag(args: &LagArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let broker = log::connect(&plan)?;
    let mut rows = Vec::new();
    for node in plan.stages.iter().chain(&plan.sinks) {
        for input in &node.inputs {
            for (partition, next, end) in behind(&*broker, &plan, &node.name, &plan.name.output_topic(input))? {
                rows.push(json!({
                    "node": node.name.as_str(), "input": input.as_str(), "partition": partition,
                    "next": next, "end": end, "lag": end.saturating_sub(next),
                }));
            }
        }
    }
    show(&["node", "input", "partition", "next", "end", "lag"], &rows, args.format, |row| {
        ["node", "input", "partition", "next", "end", "lag"]
            .map(|key| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned))
            .into()
    });
    Ok(Exit::Success)
}

fn behind(broker: &dyn Broker, plan: &Plan, node: &StageName, topic: &Topic) -> Result<Vec<(u32, u64, u64)>, Failure> {
    let Some(found) = broker.describe_topic(topic).map_err(Failure::running)? else { return Ok(Vec::new()) };
    let mut behind = Vec::new();
    for (partition, ends) in (0..).zip(&found.partitions) {
        let place = TopicPartition::new(topic.clone(), partition);
        let committed = broker.committed(&plan.name.group(node), &place).map_err(Failure::running)?;
        let next = committed.map_or(ends.low, |committed| committed.next);
        // What is left may be the marks of transactions alone.
        let limit = FetchLimit { records: 1, bytes: 1 };
        let none_left = next >= ends.low && broker.read(&place, next, limit).map_err(Failure::running)?.is_empty();
        behind.push((partition, if none_left { ends.high } else { next }, ends.high));
    }
    Ok(behind)
}

fn show(header: &[&str], rows: &[Value], format: Format, cells: impl Fn(&Value) -> Vec<String>) {
    match format {
        Format::Json => rows.iter().for_each(|row| println!("{row}")),
        Format::Table => {
            let mut table = table::table(header, 1);
            for row in rows {
                table.add_row(cells(row));
            }
            println!("{table}");
        }
    }
}

/// Tries everything a run of the pipeline relies on, and says what is wrong.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let mut healthy = true;
    let mut check = |what: &str, outcome: Result<String, String>| {
        let (mark, text) = match outcome {
            Ok(text) => ("ok  ", text),
            Err(text) => {
                healthy = false;
                ("FAIL", text)
            }
        };
        println!("{mark}  {what}: {text}");
    };
    check("pipeline", Ok(format!("{} is valid", plan.file.display())));
    for node in &plan.stages {
        check(&format!("stage {}", node.name), opened(node));
    }
    let started = Instant::now();
    match log::connect(&plan) {
        Err(failure) => check("broker", Err(failure.message)),
        Ok(broker) => {
            let kind = match plan.broker.kind {
                BrokerKind::Embedded => "the embedded log opens",
                BrokerKind::Kafka => "the cluster answers",
            };
            check("broker", Ok(format!("{kind} ({} ms)", started.elapsed().as_millis())));
            for (topic, wanted) in pipeline_topics(&plan) {
                let found = broker.describe_topic(&topic);
                let compacted = |cleanup: &Cleanup| *cleanup == Cleanup::Compact;
                let outcome = match found {
                    Err(error) => Err(error.to_string()),
                    Ok(None) if plan.broker.kind == BrokerKind::Embedded => Ok("is made by the first run".to_owned()),
                    Ok(None) => Err("is missing; `driftline topics create` makes it".to_owned()),
                    Ok(Some(found)) if found.spec.partitions != wanted => {
                        Err(format!("has {} partitions, the pipeline wants {wanted}", found.spec.partitions))
                    }
                    Ok(Some(found)) if topic.as_str().ends_with(".state") != compacted(&found.spec.cleanup) => {
                        Err("has the wrong cleanup policy: state is compacted, records are not".to_owned())
                    }
                    Ok(Some(found)) => {
                        let s = if found.spec.partitions == 1 { "" } else { "s" };
                        Ok(format!("{} partition{s}", found.spec.partitions))
                    }
                };
                check(&format!("topic {topic}"), outcome);
            }
        }
    }
    Ok(if healthy { Exit::Success } else { Exit::Failed })
}

/// Loads what a stage loads.
fn opened(node: &Node) -> Result<String, String> {
    let def = REGISTRY.stage(node.kind).ok_or_else(|| format!("kind {:?} is not known", node.kind))?;
    let started = Instant::now();
    let stage = def.open(&node.config).map_err(|error| error.to_string())?;
    Ok(format!("version {} loads ({} ms)", stage.version(), started.elapsed().as_millis()))
}

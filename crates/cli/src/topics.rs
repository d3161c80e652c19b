//! `driftline topics` and `driftline lag`: what stands on the broker.

use driftline_broker::{Broker, Cleanup, FetchLimit};
use driftline_pipeline::Plan;
use driftline_runtime::pipeline_topics;
use driftline_types::{GroupId, Topic, TopicPartition};
use serde_json::{Value, json};

use crate::{
    Exit,
    args::{Format, LagArgs, TopicsArgs, TopicsCommand},
    exit::Failure,
    log, print, table,
};

pub(crate) fn topics(args: &TopicsArgs) -> Result<Exit, Failure> {
    match &args.command {
        TopicsCommand::Create(pipeline) => {
            let plan = log::load(pipeline)?;
            log::open_durable(&plan)?;
            print::tell!("{}: every topic of {} is there", plan.file.display(), plan.name);
            Ok(Exit::Success)
        }
        TopicsCommand::Describe { pipeline, format } => describe(&log::load(pipeline)?, *format),
    }
}

fn describe(plan: &Plan, format: Format) -> Result<Exit, Failure> {
    let broker = log::connect_durable(plan)?;
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
    })?;
    Ok(if missing { Exit::Failed } else { Exit::Success })
}

/// How far each stage and sink is behind what it reads.
pub(crate) fn lag(args: &LagArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let readers = || plan.stages.iter().chain(&plan.sinks);
    let inputs: Vec<Topic> =
        readers().flat_map(|node| &node.inputs).map(|input| plan.name.output_topic(input)).collect();
    let broker = log::open_existing(&plan, &inputs)?;
    let mut rows = Vec::new();
    for node in readers() {
        let group = plan.name.group(&node.name);
        for input in &node.inputs {
            for (partition, next, end) in behind(&*broker, &group, &plan.name.output_topic(input))? {
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
    })?;
    Ok(Exit::Success)
}

/// Returns where a group stands in each partition of a topic: the partition, the next offset and the end.
pub(crate) fn behind(broker: &dyn Broker, group: &GroupId, topic: &Topic) -> Result<Vec<(u32, u64, u64)>, Failure> {
    let Some(found) = broker.describe_topic(topic).map_err(Failure::running)? else { return Ok(Vec::new()) };
    let mut behind = Vec::new();
    for (partition, ends) in (0..).zip(&found.partitions) {
        let place = TopicPartition::new(topic.clone(), partition);
        let committed = broker.committed(group, &place).map_err(Failure::running)?;
        let next = committed.map_or(ends.low, |committed| committed.next);
        // What is left may be the marks of transactions alone.
        let limit = FetchLimit { records: 1, bytes: 1 };
        let none_left = next >= ends.low && broker.read(&place, next, limit).map_err(Failure::running)?.is_empty();
        behind.push((partition, if none_left { ends.high } else { next }, ends.high));
    }
    Ok(behind)
}

fn show(header: &[&str], rows: &[Value], format: Format, cells: impl Fn(&Value) -> Vec<String>) -> Result<(), Failure> {
    match format {
        Format::Json => print::lines(rows)?,
        Format::Table => {
            let mut table = table::table(header, 1);
            for row in rows {
                table.add_row(cells(row));
            }
            print::line(table::fitted(table, &std::io::stdout()))?
        }
    };
    Ok(())
}

//! The topics of a pipeline.

use driftline_broker::{Broker, BrokerError, Cleanup, Retention, TopicSpec};
use driftline_pipeline::Plan;
use driftline_types::{Partition, Topic};

/// Names every topic of a pipeline with its number of partitions. All that hold records have as many, so that a stage's
/// partition of outputs holds what came from the same partition of its inputs.
#[must_use]
pub fn pipeline_topics(plan: &Plan) -> Vec<(Topic, Partition)> {
    let mut topics = Vec::new();
    for node in plan.sources.iter().chain(&plan.stages) {
        topics.push((plan.name.output_topic(&node.name), plan.partitions));
        topics.push((plan.name.dead_letter_topic(&node.name), plan.partitions));
        topics.push((plan.name.state_topic(&node.name), plan.partitions));
    }
    topics.extend(plan.sinks.iter().map(|node| (plan.name.dead_letter_topic(&node.name), plan.partitions)));
    // One partition: profiles are few, and a reader wants all of them.
    topics.push((plan.name.profiles_topic(), 1));
    topics.push((plan.name.feedback_topic(), 1));
    if plan.monitor.probes.is_some() {
        topics.push((plan.name.probes_topic(), 1));
    }
    if plan.monitor.is_on() {
        // One partition: alarms are few, and one monitor is at work.
        topics.push((plan.name.alarms_topic(), 1));
        topics.push((plan.name.control_topic(), 1));
        topics.push((plan.name.monitor_state_topic(), 1));
    }
    topics
}

/// Creates every topic of a pipeline, or checks that it is as the plan wants it.
///
/// # Errors
/// If a topic exists with another number of partitions, or the broker failed.
pub fn create_topics(broker: &dyn Broker, plan: &Plan, retention: Retention) -> Result<(), BrokerError> {
    let nodes = plan.sources.iter().chain(&plan.stages).map(|node| plan.name.state_topic(&node.name));
    let states: Vec<Topic> = nodes.chain([plan.name.monitor_state_topic()]).collect();
    for (topic, partitions) in pipeline_topics(plan) {
        let cleanup = if states.contains(&topic) { Cleanup::Compact } else { Cleanup::Delete(retention) };
        broker.create_topic(&topic, &TopicSpec { partitions, cleanup })?;
    }
    Ok(())
}

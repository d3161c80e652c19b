//! The topics of a pipeline.

use driftline_broker::{Broker, BrokerError, Cleanup, Retention, TopicSpec};
use driftline_pipeline::Plan;

/// Creates every topic of a pipeline, or checks that it is as the plan wants it.
///
/// # Errors
/// If a topic exists with another number of partitions, or the broker failed.
pub fn create_topics(broker: &dyn Broker, plan: &Plan, retention: Retention) -> Result<(), BrokerError> {
    let records = TopicSpec { partitions: plan.partitions, cleanup: Cleanup::Delete(retention) };
    let state = TopicSpec { partitions: plan.partitions, cleanup: Cleanup::Compact };
    for node in plan.sources.iter().chain(&plan.stages) {
        broker.create_topic(&plan.name.output_topic(&node.name), &records)?;
        broker.create_topic(&plan.name.dead_letter_topic(&node.name), &records)?;
        broker.create_topic(&plan.name.state_topic(&node.name), &state)?;
    }
    // One partition: profiles are few, and a reader wants all of them.
    let profiles = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(retention) };
    broker.create_topic(&plan.name.profiles_topic(), &profiles)
}

//! The broker contract, and the brokers that keep it.
//!
//! [`Broker`], [`Member`] and [`Producer`] are what the runtime needs of Kafka and no more: topics
//! with partitions, consumer groups with rebalances, and one unit of outputs and offsets that is
//! committed whole or not at all. Calls block: a consumer lives on its own thread, never on the
//! async runtime. The laws stand at the head of `contract.rs`; the suite in `tests/contract` runs them on
//! every implementation.

mod contract;
mod embedded;
mod error;
#[cfg(test)]
mod fixture;
mod kafka;
mod records;

pub use contract::{
    Broker, Cleanup, Committed, FetchLimit, Member, OffsetCommit, Poll, Producer, Retention, Settled, TopicDescription,
    TopicSpec, Unit, Wait, Watermarks,
};
pub use embedded::{Durability, Embedded, EmbeddedConfig};
pub use error::BrokerError;
pub use kafka::{ALLOWED_PROPERTIES, ClockDifference, Delivery, Kafka, KafkaConfig, TokenSource};
pub use records::{Records, advance, records, records_from};

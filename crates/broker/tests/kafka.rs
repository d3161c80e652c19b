//! Kafka: the laws of the contract on a real cluster, and what only it promises.
//!
//! `DRIFTLINE_KAFKA` names the cluster, as `deploy/kafka-local start` prints it; without it the tests say that they were
//! skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
#[path = "kafka/login.rs"]
mod login;

use std::sync::atomic::{AtomicU32, Ordering};

use driftline_broker::{Delivery, Kafka, KafkaConfig};

use crate::contract::{Subject, groups, log};

/// The cluster to test on.
fn servers() -> Option<String> {
    let servers = std::env::var("DRIFTLINE_KAFKA").ok();
    if servers.is_none() {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
    }
    servers
}

/// A prefix that no other test uses, so that the cluster looks empty.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn config(delivery: Delivery) -> KafkaConfig {
    let mut config = KafkaConfig::new(std::env::var("DRIFTLINE_KAFKA").unwrap());
    config.prefix = prefix();
    config.delivery = delivery;
    // A group notices within the second that a member is gone.
    config.properties.insert("heartbeat.interval.ms".into(), "100".into());
    config
}

/// A cluster seen through a prefix of its own.
struct OnKafka<const EXACTLY_ONCE: bool> {
    config: KafkaConfig,
    broker: Kafka,
}

impl<const EXACTLY_ONCE: bool> Subject for OnKafka<EXACTLY_ONCE> {
    type Broker = Kafka;

    const DENSE: bool = false;

    fn cases(asked: u32) -> u32 {
        asked.div_ceil(24)
    }

    fn start() -> Self {
        let config = config(if EXACTLY_ONCE { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce });
        Self { broker: Kafka::connect(config.clone()).unwrap(), config }
    }

    fn broker(&self) -> &Kafka {
        &self.broker
    }

    fn restart(&mut self) {
        self.broker = Kafka::connect(self.config.clone()).unwrap();
    }
}

macro_rules! laws {
    ($($module:ident::$law:ident,)*) => {
        mod exactly_once {
            use super::*;
            $(#[test]
            fn $law() {
                if servers().is_some() {
                    $module::$law::<OnKafka<true>>();
                }
            })*
        }
        mod at_least_once {
            use super::*;
            $(#[test]
            fn $law() {
                if servers().is_some() {
                    $module::$law::<OnKafka<false>>();
                }
            })*
        }
    };
}

contract::each_law!(laws);

//! A producer that sends one record at a time and says what became of it.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Timestamp,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, ProducerContext},
};

use super::{
    cluster::{failed, signed},
    config::{CALL, KafkaConfig},
    login::{Login, by_login},
};
use crate::BrokerError;

/// When a record was appended, or why it was not.
type Outcome = Result<Timestamp, KafkaError>;

/// The producer.
pub(super) struct Trial {
    pub client: BaseProducer<Told>,
    outcome: mpsc::Receiver<Outcome>,
}

impl Trial {
    pub(super) fn start(config: &KafkaConfig, client: &ClientConfig) -> Result<Self, BrokerError> {
        let (told, outcome) = mpsc::channel();
        let client: BaseProducer<Told> = client
            .create_with_context(Told { login: config.login(), told })
            .map_err(|error| failed("start a producer", &error))?;
        client.poll(Duration::ZERO);
        Ok(Self { client, outcome })
    }

    /// Sends an empty record and waits.
    pub(super) fn send(&self, action: &'static str, name: &str, partition: u32) -> Result<Outcome, BrokerError> {
        let record = BaseRecord::to(name).partition(signed(partition)).key("driftline").payload("");
        self.client.send(record).map_err(|(error, _)| failed(action, &error))?;
        let sent = Instant::now();
        loop {
            self.client.poll(Duration::from_millis(1));
            if let Ok(outcome) = self.outcome.try_recv() {
                return Ok(outcome);
            }
            if sent.elapsed() > CALL {
                let reason = format!("no answer within {} s", CALL.as_secs());
                return Err(BrokerError::Unavailable { action, reason });
            }
        }
    }
}

/// Hands outcomes on.
pub(super) struct Told {
    login: Login,
    told: mpsc::Sender<Outcome>,
}

impl ClientContext for Told {
    by_login!();
}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = match result {
            Ok(message) => Ok(message.timestamp()),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits any more for one that took too long.
        let _ = self.told.send(outcome);
    }
}

//! How to reach a Kafka cluster, and what to ask of it.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::ClientConfig;

use super::login::{Login, TokenSource};

/// The settings of a Kafka cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// The brokers to ask first, `host:port` separated by commas.
    pub bootstrap_servers: String,
    /// Put before the name of every topic, group and transaction, so that several teams can share a cluster.
    pub prefix: String,
    /// What a unit without state guarantees.
    pub delivery: Delivery,
    /// Copies of each partition of a new topic; `None` is the cluster's default.
    pub replication: Option<u16>,
    /// Properties of librdkafka, of [`ALLOWED_PROPERTIES`] only.
    pub properties: BTreeMap<String, String>,
    /// Where the token comes from if `sasl.mechanism` is `OAUTHBEARER`.
    pub token: Option<TokenSource>,
}

/// What a unit guarantees on Kafka.
///
/// A unit that changes state (that writes to a compacted topic) is a transaction in either case, because a state without
/// the offsets it belongs to is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Outputs first, by an idempotent producer, then offsets. A crash in between repeats outputs; they carry the same
    /// ids, and readers drop them.
    #[default]
    AtLeastOnce,
    /// Outputs and offsets in one transaction.
    ExactlyOnce,
}

/// The properties of librdkafka that may be set. What is not here could load code, reach other hosts, or break what
/// [`crate::Broker`] promises.
pub const ALLOWED_PROPERTIES: [&str; 31] = [
    "batch.size",
    "broker.address.family",
    "client.id",
    "client.rack",
    "compression.type",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "group.instance.id",
    "heartbeat.interval.ms",
    "linger.ms",
    "max.poll.interval.ms",
    "queued.max.messages.kbytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "sasl.mechanism",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "topic.metadata.refresh.interval.ms",
    "transaction.timeout.ms",
];

/// The protocols in which brokers show certificates.
const TLS: [&str; 2] = ["ssl", "sasl_ssl"];
/// The properties that name the authorities by which those are judged.
const AUTHORITIES: [&str; 2] = ["ssl.ca.location", "ssl.ca.pem"];

/// Secrets, which never appear in messages.
impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("prefix", &self.prefix)
            .field("delivery", &self.delivery)
            .field("replication", &self.replication)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("token", &self.token)
            .finish()
    }
}

/// How long a call to the cluster may take before it counts as failed.
pub(super) const CALL: Duration = Duration::from_secs(30);

/// librdkafka's own `batch.size`.
const BATCH: usize = 1_000_000;

impl KafkaConfig {
    /// Makes the settings of a cluster on this machine, or of any that needs no credentials.
    #[must_use]
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            prefix: String::new(),
            delivery: Delivery::default(),
            replication: None,
            properties: BTreeMap::new(),
            token: None,
        }
    }

    /// What a client shows the cluster.
    pub(super) fn login(&self) -> Login {
        Login::new(self.token.clone())
    }

    /// What every client of the cluster is made with. The user's properties come last.
    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "driftline")
            // librdkafka's own 10 s hold a client up after a network that is whole again, and outlast a session.
            .set("reconnect.backoff.max.ms", "1000");
        if self.lacks_authorities() && !openssl_is_told() {
            // The OpenSSL that is built in does not know where systems keep theirs; librdkafka does.
            client.set("ssl.ca.location", "probe");
        }
        for (name, value) in own {
            client.set(*name, *value);
        }
        let consumes = own.iter().any(|(name, _)| *name == "group.id");
        for (name, value) in self.properties.iter().filter(|(name, _)| consumes || !is_for_consumers(name)) {
            if consumes && is_for_producers(name) {
                continue;
            }
            client.set(name, value);
        }
        client
    }

    /// Whether brokers show certificates and no property names authorities to judge them by.
    fn lacks_authorities(&self) -> bool {
        let protocol = self.properties.get("security.protocol");
        protocol.is_some_and(|found| TLS.iter().any(|tls| found.eq_ignore_ascii_case(tls)))
            && !AUTHORITIES.iter().any(|&name| self.properties.contains_key(name))
    }

    /// A client that describes and changes topics.
    pub(super) fn admin(&self) -> ClientConfig {
        self.client(&[])
    }

    /// A consumer of a group. The member's own thread polls it without a pause, so `max.poll.interval.ms` only bounds
    /// how long others wait for a partition that is to be given up.
    pub(super) fn member(&self, group: &str) -> ClientConfig {
        self.client(&[
            ("group.id", group),
            ("partition.assignment.strategy", "range"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "true"),
            ("session.timeout.ms", "12000"),
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", "60000"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "10"),
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", "16384"),
        ])
    }

    /// A consumer that reads from places it names itself. It belongs to no group, but librdkafka wants a name.
    pub(super) fn reader(&self, isolation: &str) -> ClientConfig {
        let mut client = self.client(&[
            ("group.id", "driftline-reader"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "20"),
            ("queued.max.messages.kbytes", "16384"),
        ]);
        client.set("isolation.level", isolation);
        client.remove("group.instance.id");
        client
    }

    /// The most bytes of records that a producer puts into one batch, as far as the user has a say.
    pub(super) fn batch_bytes(&self) -> usize {
        self.properties.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(BATCH)
    }

    /// A producer; with a transactional id, one of transactions. Sizes of records are checked against the topic's limit
    /// before they are handed over, so the client's own limit is out of the way. Transactions end before
    /// [`Self::member`]'s session, so that a hanging process holds readers up no longer than it holds its partitions.
    pub(super) fn producer(&self, transactional_id: Option<&str>) -> ClientConfig {
        let mut own = vec![
            ("enable.idempotence", "true"),
            ("message.max.bytes", "1000000000"),
            ("queue.buffering.max.messages", "200000"),
            ("queue.buffering.max.kbytes", "262144"),
        ];
        match transactional_id {
            Some(id) => {
                own.push(("transactional.id", id));
                own.push(("transaction.timeout.ms", "10000"));
            }
            // What is written after a record that failed would hide its repeat. How long a record may take is the
            // writer's to say, not the client's.
            None => own.extend([("enable.gapless.guarantee", "true"), ("message.timeout.ms", "0")]),
        }
        let mut client = self.client(&own);
        if transactional_id.is_none() {
            client.remove("transaction.timeout.ms");
        }
        client
    }
}

/// Whether the environment names authorities to OpenSSL, which is not asked for them where librdkafka looks itself.
fn openssl_is_told() -> bool {
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some())
}

fn is_for_consumers(name: &str) -> bool {
    ["fetch.", "group.", "heartbeat.", "max.poll.", "queued.", "session."].iter().any(|start| name.starts_with(start))
}

fn is_for_producers(name: &str) -> bool {
    ["batch.", "compression.", "linger.", "transaction."].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_go_where_they_belong() {
        let mut config = KafkaConfig::new("localhost:9092");
        for (name, value) in [("linger.ms", "7"), ("session.timeout.ms", "9000"), ("sasl.username", "me")] {
            config.properties.insert(name.into(), value.into());
        }
        let of = |client: ClientConfig, name: &str| client.get(name).map(str::to_owned);
        assert_eq!(of(config.producer(None), "linger.ms").as_deref(), Some("7"));
        assert_eq!(of(config.producer(None), "session.timeout.ms"), None);
        assert_eq!(of(config.member("g"), "session.timeout.ms").as_deref(), Some("9000"));
        assert_eq!(of(config.member("g"), "linger.ms"), None);
        assert_eq!(of(config.admin(), "sasl.username").as_deref(), Some("me"));
    }

    #[test]
    fn users_have_a_say_in_the_size_of_batches() {
        let mut config = KafkaConfig::new("localhost:9092");
        assert_eq!(config.batch_bytes(), BATCH);
        config.properties.insert("batch.size".into(), "200000".into());
        assert_eq!(config.batch_bytes(), 200_000);
    }

    #[test]
    fn certificates_are_judged_by_the_systems_authorities_unless_others_are_named() {
        /// Properties, whether they lack authorities, and whose certificates are taken then.
        type Case<'a> = (&'a [(&'a str, &'a str)], bool, Option<&'a str>);
        let probe = (!openssl_is_told()).then_some("probe");
        let cases: [Case<'_>; 6] = [
            (&[], false, None),
            (&[("security.protocol", "sasl_plaintext")], false, None),
            (&[("security.protocol", "ssl")], true, probe),
            (&[("security.protocol", "SASL_SSL")], true, probe),
            (&[("security.protocol", "ssl"), ("ssl.ca.location", "ca.pem")], false, Some("ca.pem")),
            (&[("security.protocol", "ssl"), ("ssl.ca.pem", "-----BEGIN")], false, None),
        ];
        for (properties, lacks, location) in cases {
            let mut config = KafkaConfig::new("localhost:9092");
            config.properties.extend(properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
            assert_eq!(config.lacks_authorities(), lacks, "{properties:?}");
            assert_eq!(config.admin().get("ssl.ca.location"), location, "{properties:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.properties.insert("sasl.password".into(), "hunter2".into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

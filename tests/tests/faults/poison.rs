//! Records that cannot be used, among many that can (test 10).

use std::time::{Duration, Instant};

use driftline_broker::{BrokerError, Kafka, KafkaConfig, records};
use driftline_types::{Message, PipelineName, StageName, Topic, TopicPartition, wire};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{
    ALONE,
    driftline::process::LOOK,
    pipeline::{BOTH, LASTING, PATIENCE, Pipeline, servers},
};

/// The longest line that the stage takes.
const MAX_BYTES: usize = 1 << 20;

/// A record that was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

/// Ten ways: whole and of another schema, broken, or more than the stage takes. Returns the schema too, where it is named.
fn poison(n: usize) -> (Sent, Option<&'static str>) {
    let line = format!("{{\"user\":\"u{}\",\"n\":{n}}}", n % 97);
    let value = match n % 10 {
        // Ends too early.
        0 => Some(line[..line.len() - 3].into()),
        1 => Some(line.replace(&format!(":{n}}}"), ":NaN}").into()),
        // No UTF-8.
        2 => Some([line.as_bytes(), b"\xff\xfe"].concat()),
        3 => Some(Vec::new()),
        4 => None,
        5 => return (Sent { key: Some(line.clone().into()), value: Some(line.into()) }, Some("other.v9")),
        6 => Some(format!("{{\"user\":\"u0\",\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(MAX_BYTES)).into()),
        // JSON, but a number that nobody can hold: the stage fails in the middle of its batch, which is then halved until
        // it is found; each time the state is read again, so there are few of them.
        7 if n == 7 || n == 57 => Some(line.replace(&format!(":{n}}}"), ":1e999}").into()),
        7 | 8 => Some("[".repeat(10_000 + n).into()),
        _ => Some(
            (0..1_000_u64).map(|i| (i * 7 + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect(),
        ),
    };
    // Among the lines of the users, and without a key.
    let key = (n % 10 != 9).then(|| format!("u{}", n % 97).into_bytes());
    (Sent { key, value }, None)
}

fn send(producer: &BaseProducer, topic: &str, n: usize) -> Sent {
    let (sent, schema) = poison(n);
    // What a letter keeps are bytes, whatever they mean.
    let note = [0xff, n as u8, 0];
    let mut headers = OwnedHeaders::new().insert(Header { key: "x-note", value: Some(&note[..]) });
    if let Some(schema) = schema {
        headers = headers.insert(Header { key: wire::CE_TYPE, value: Some(schema) });
    }
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
    record.key = sent.key.as_deref();
    record.payload = sent.value.as_deref();
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    sent
}

/// All records of a topic. A cluster that is busy may not know for a moment where they are.
fn all(kafka: &Kafka, topic: &Topic) -> Vec<Message> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let each = (0..6).map(|n| records(kafka, TopicPartition::new(topic.clone(), n))?.collect());
        match each.collect::<Result<Vec<Vec<Message>>, BrokerError>>() {
            Ok(each) => return each.concat(),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(LOOK);
    }
}

#[test]
fn each_of_100_bad_records_becomes_one_dead_letter() {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .set("message.max.bytes", "10000000")
        .set("linger.ms", "0")
        .create()
        .unwrap();
    for delivery in BOTH {
        let stage = format!("count = true\nmax_bytes = {MAX_BYTES}");
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, &stage);
        pipeline.properties = LASTING.map(str::to_owned).into();
        let _processes = ["output", "relay", "input"].map(|node| pipeline.start(node));
        pipeline.feed(99);
        pipeline.wait_for(1);
        let topic = format!("{}lines.input", pipeline.prefix);
        let mut sent: Vec<Sent> = (0..100)
            .map(|n| {
                pipeline.feed(if n > 0 { 99 } else { 0 });
                send(&producer, &topic, n)
            })
            .collect();
        pipeline.check("100 bad records among others");
        assert_eq!(pipeline.lines, 9_900);

        let mut config = KafkaConfig::new(&servers);
        config.prefix.clone_from(&pipeline.prefix);
        let kafka = Kafka::connect(config).unwrap();
        let [name, source, relay] = ["lines", "input", "relay"];
        let name = PipelineName::try_new(name).unwrap();
        let [source, relay] = [source, relay].map(|node| StageName::try_new(node).unwrap());
        let dead = name.dead_letter_topic(&relay);
        let deadline = Instant::now() + PATIENCE;
        while all(&kafka, &dead).len() < 100 {
            assert!(Instant::now() < deadline, "{} dead letters\n{}", all(&kafka, &dead).len(), pipeline.said());
            std::thread::sleep(LOOK);
        }
        std::thread::sleep(Duration::from_millis(500));
        let letters = all(&kafka, &dead);
        let bytes = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map(|bytes| bytes.to_vec());
        let mut found: Vec<Sent> =
            letters.iter().map(|letter| Sent { key: bytes(&letter.key), value: bytes(&letter.value) }).collect();
        found.sort();
        sent.sort();
        assert!(found == sent, "{} letters for {} bad records, or other bytes", found.len(), sent.len());
        let originals = all(&kafka, &name.output_topic(&source));
        for letter in &letters {
            let offset: u64 = letter.headers.get_str(wire::ERROR_OFFSET).unwrap().parse().unwrap();
            let is_original = |message: &&Message| (message.partition, message.offset) == (letter.partition, offset);
            let original = originals.iter().find(is_original).unwrap();
            let mut headers = letter.headers.clone();
            headers.retain(|name| !name.starts_with(wire::ERROR_PREFIX));
            assert_eq!((&letter.key, &letter.value, &headers), (&original.key, &original.value, &original.headers));
        }
        eprintln!("{delivery}: {} dead letters, byte for byte", letters.len());
    }
}

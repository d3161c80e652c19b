//! A pass-through stage on Kafka against a bare loop of librdkafka that consumes and produces, on one cluster with the
//! same client settings: records of 1 KB in four partitions, at least once and exactly once with a commit every 100 ms.
//!
//! ```text
//! DRIFTLINE_KAFKA=$(deploy/kafka-local start) cargo bench -p driftline-benches --bench kafka [-- ROUNDS [RECORDS]]
//! ```
//!
//! With Kafka Streams beside them, which `benches/peers/kafka-streams/compare` builds and names in `DRIFTLINE_STREAMS`: the same
//! topology, records and commits, two threads. Its first 100,000 records warm the JVM up and are not counted.
//!
//! At last the latency that the stage adds, at 1,000 records/s at least once: from the moment at which a consumer has a
//! record of the input topic to that at which another has what the stage made of it.
//!
//! Time counts from the first record read to the last one committed. The stage decodes, profiles both sides and writes
//! CloudEvents headers (some 400 B a record); the bare loop copies key and value, and in a third run also gives each record
//! the headers of one of the stage's, which tells what these cost by themselves. The topics are removed after each round.

mod blobs;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use blobs::{REGISTRY, plan};
use cpu_time::ProcessTime;
use driftline_broker::{Broker, Delivery, Kafka, KafkaConfig, Retention};
use driftline_runtime::{Metrics, RunOptions, create_topics};
use driftline_types::{Headers, Outgoing, StageName, Timestamp, Topic};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{Headers as _, OwnedHeaders},
    metadata::MetadataTopic,
    producer::{BaseProducer, BaseRecord, Producer},
};

const RECORD_BYTES: usize = 1000;
const COMMIT: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(30);

fn main() {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let rounds: u64 = args.next().map_or(3, |arg| arg.parse().expect("a number of rounds"));
    let records: u64 = args.next().map_or(300_000, |arg| arg.parse().expect("a number of records"));
    let servers = env::var("DRIFTLINE_KAFKA").expect("DRIFTLINE_KAFKA names a cluster");
    let peer = env::var_os("DRIFTLINE_STREAMS").map(PathBuf::from);
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let (mut ratios, mut with_headers, mut against_streams) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut config = KafkaConfig::new(&servers);
            config.prefix = format!("bench-{}-{delivery:?}-{round}.", std::process::id());
            config.delivery = delivery;
            let (bare, bare_cpu) = bare_loop(&config, records, None);
            let (ours, ours_cpu) = ours(&config, records);
            let headers = headers_of_ours(&config);
            let (laden, laden_cpu) = bare_loop(&config, records, Some(&headers));
            let (rate, cost) = (|s: f64| records as f64 / s, |cpu: f64| cpu * 1e6 / records as f64);
            println!(
                "{delivery:?}: bare {:7.0} records/s, {:.1} µs CPU a record; ours {:7.0} records/s, {:.1} µs CPU; ratio {:.2}",
                rate(bare),
                cost(bare_cpu),
                rate(ours),
                cost(ours_cpu),
                bare / ours
            );
            println!(
                "{delivery:?}: bare with {} headers {:7.0} records/s, {:.1} µs CPU a record; ratio {:.2}",
                headers.count(),
                rate(laden),
                cost(laden_cpu),
                laden / ours
            );
            ratios.push(bare / ours);
            with_headers.push(laden / ours);
            if let Some(peer) = &peer {
                let (streams, streams_cpu) = streams(peer, &config, records);
                println!(
                    "{delivery:?}: Kafka Streams {:7.0} records/s, {:.1} µs CPU a record; ours is {:.2} times as fast",
                    rate(streams),
                    cost(streams_cpu),
                    streams / ours
                );
                against_streams.push(streams / ours);
            }
            remove(&servers, &config.prefix);
        }
        let (plain, laden) = (median(&mut ratios), median(&mut with_headers));
        println!("{delivery:?}: median ratio {plain:.2}; to the loop with the same headers {laden:.2}");
        if peer.is_some() {
            println!("{delivery:?}: against Kafka Streams, median {:.2} times as fast", median(&mut against_streams));
        }
    }
    let mut config = KafkaConfig::new(&servers);
    config.prefix = format!("bench-{}-latency.", std::process::id());
    let mut added: Vec<f64> = latency(&config).iter().map(|time| time.as_secs_f64() * 1e3).collect();
    remove(&servers, &config.prefix);
    added.sort_by(f64::total_cmp);
    let at = |share: f64| added[(share * (added.len() - 1) as f64) as usize];
    println!(
        "a hop at {} records/s adds {:.1} ms (median), {:.1} ms (p99), {:.1} ms (most) to {} records",
        PACE * 1000,
        at(0.5),
        at(0.99),
        at(1.0),
        added.len()
    );
}

fn median(ratios: &mut [f64]) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Records that warm up the JVM of Kafka Streams.
const JVM_WARM_UP: u64 = 100_000;

/// Runs Kafka Streams; returns seconds by the clock, and of CPU of its process, for the records that count.
fn streams(peer: &Path, config: &KafkaConfig, records: u64) -> (f64, f64) {
    let mut config = config.clone();
    config.prefix.push_str("streams.");
    let broker = filled(&config, records + JVM_WARM_UP);
    let topic = |name: &str| format!("{}blobs.{name}", config.prefix);
    let delivery = if config.delivery == Delivery::ExactlyOnce { "exactly_once" } else { "at_least_once" };
    let output = Command::new("java")
        .arg("-cp")
        .arg(format!("{0}/classes:{0}/jars/*", peer.display()))
        .args(["PassThrough", &config.bootstrap_servers, &topic("app"), &topic("blobs"), &topic("pass"), delivery])
        .args([records.to_string(), JVM_WARM_UP.to_string()])
        .output()
        .expect("java is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = broker.describe_topic(&Topic::try_new("blobs.pass").expect("a topic")).expect("the cluster answers");
    let written: u64 = written.expect("it is there").partitions.iter().map(|ends| ends.high - ends.low).sum();
    assert!(written >= records + JVM_WARM_UP, "{written} records came out");
    let said = String::from_utf8(output.stdout).expect("text");
    let (seconds, cpu) = said.trim().split_once(' ').expect("two numbers");
    (seconds.parse().expect("seconds"), cpu.parse().expect("seconds of CPU"))
}

/// Records a millisecond, and how many are counted after how many that warm up.
const PACE: u64 = 1;
const COUNTED: u64 = 20_000;
const WARM_UP: u64 = 5_000;

/// What a hop adds to the way of each record.
fn latency(config: &KafkaConfig) -> Vec<Duration> {
    let more = "[stages.pass.batch]\nmax_wait = \"1ms\"";
    let broker: Arc<dyn Broker> = Arc::new(Kafka::connect(config.clone()).expect("the cluster answers"));
    create_topics(&*broker, &plan(0, more), Retention::default()).expect("topics");
    let all = WARM_UP + COUNTED;
    let finished = AtomicBool::new(false);
    let arrivals = |topic: &str| arrivals(config, &format!("{}{topic}", config.prefix), all);
    let [before, after] = std::thread::scope(|scope| {
        let stage = scope.spawn(|| {
            let pass = StageName::try_new("pass").expect("a name");
            let plan = plan(0, more).only(&[pass]).expect("it is there");
            let options = RunOptions { durable: true, ..RunOptions::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let done = async {
                while !finished.load(Ordering::Acquire) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let metrics = Arc::new(Metrics::new(&plan));
            runtime
                .block_on(driftline_runtime::run(&plan, &REGISTRY, broker, metrics, options, done))
                .expect("it runs");
        });
        let readers = ["blobs.blobs", "blobs.pass"].map(|topic| scope.spawn(move || arrivals(topic)));
        send_paced(config, all);
        let arrived = readers.map(|reader| reader.join().expect("it has read"));
        finished.store(true, Ordering::Release);
        stage.join().expect("it has stopped");
        arrived
    });
    before.iter().zip(&after).skip(WARM_UP as usize).map(|(before, after)| after.duration_since(*before)).collect()
}

/// Writes numbered records of 1 KB, each at its time.
fn send_paced(config: &KafkaConfig, records: u64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    let topic = format!("{}blobs.blobs", config.prefix);
    let mut value = vec![7_u8; RECORD_BYTES];
    let start = Instant::now();
    for n in 0..records {
        while (start.elapsed().as_millis() as u64) * PACE < n {
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(200));
        }
        value[..8].copy_from_slice(&n.to_be_bytes());
        let key = (n % 64).to_be_bytes();
        let record = BaseRecord::to(&topic).partition((n % 4) as i32).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("there is room");
    }
    producer.flush(CALL).expect("written");
}

/// When each of the numbered records of a topic came.
fn arrivals(config: &KafkaConfig, topic: &str, records: u64) -> Vec<Instant> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("group.id", format!("{topic}.watch"))
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer");
    let mut places = TopicPartitionList::new();
    for partition in 0..4 {
        places.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&places).expect("assigned");
    let mut arrived: Vec<Option<Instant>> = vec![None; records as usize];
    let mut left = records;
    while left > 0 {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let now = Instant::now();
        let message = message.expect("a message");
        let number = message.payload().and_then(|value| value.get(..8)).expect("a number");
        let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
        if arrived[number as usize].replace(now).is_none() {
            left -= 1;
        }
    }
    arrived.into_iter().map(|at| at.expect("it came")).collect()
}

/// Removes what a round has left on the cluster.
fn remove(servers: &str, prefix: &str) {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", servers).create().expect("a client");
    let metadata = admin.inner().fetch_metadata(None, CALL).expect("the cluster answers");
    let names: Vec<&str> =
        metadata.topics().iter().map(MetadataTopic::name).filter(|name| name.starts_with(prefix)).collect();
    futures_executor::block_on(admin.delete_topics(&names, &AdminOptions::new())).expect("deleted");
}

/// Makes the topics anew and fills the first one.
fn filled(config: &KafkaConfig, records: u64) -> Kafka {
    let broker = Kafka::connect(config.clone()).expect("the cluster answers");
    create_topics(&broker, &plan(records, ""), Retention::default()).expect("topics");
    let topic = Topic::try_new("blobs.blobs").expect("a topic");
    let mut producer = broker.producer("fill").expect("a producer");
    let value = bytes::Bytes::from((0..RECORD_BYTES).map(|i| (i * 7919 % 251) as u8).collect::<Vec<_>>());
    for start in (0..records).step_by(5000) {
        let message = |n: u64| Outgoing {
            topic: topic.clone(),
            partition: Some((n % 4) as u32),
            key: Some(bytes::Bytes::copy_from_slice(&(n % 64).to_be_bytes())),
            value: Some(value.clone()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(n as i64 + 1),
        };
        producer.send((start..records.min(start + 5000)).map(message).collect()).expect("stored");
    }
    broker
}

/// Returns seconds by the clock, and of CPU of this process.
fn ours(config: &KafkaConfig, records: u64) -> (f64, f64) {
    let mut config = config.clone();
    config.prefix.push_str("ours.");
    let broker: Arc<dyn Broker> = Arc::new(filled(&config, records));
    let pass = StageName::try_new("pass").expect("a name");
    let plan = plan(records, "").only(&[pass]).expect("it is there");
    let metrics = Arc::new(Metrics::new(&plan));
    let options = RunOptions { durable: true, ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut first, mut last) = (None, None);
    let start = ProcessTime::now();
    let (watched, begun, ended) = (Arc::clone(&metrics), &mut first, &mut last);
    let done = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            // Counted once they are committed.
            let read = watched.snapshot()[0].read;
            if read > 0 && begun.is_none() {
                // What the first batch took is not seen: it counts as the average.
                *begun = Some((Instant::now(), read));
            }
            if read >= records {
                // Closing the clients does not count, for the bare loop as little.
                *ended = Some((Instant::now(), start.elapsed()));
                break;
            }
        }
    };
    runtime.block_on(driftline_runtime::run(&plan, &REGISTRY, broker, metrics, options, done)).expect("it runs");
    let ((begun, read), (ended, cpu)) = first.zip(last).expect("records were read");
    let counted = (records - read).max(1) as f64;
    (ended.duration_since(begun).as_secs_f64() * records as f64 / counted, cpu.as_secs_f64())
}

/// Returns the headers of the first record that the stage wrote.
fn headers_of_ours(config: &KafkaConfig) -> OwnedHeaders {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("group.id", format!("{}look", config.prefix))
        .create()
        .expect("a consumer");
    let mut places = TopicPartitionList::new();
    let topic = format!("{}ours.blobs.pass", config.prefix);
    places.add_partition_offset(&topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&places).expect("assigned");
    let message = consumer.poll(CALL).expect("the stage has written").expect("a message");
    message.headers().expect("it has headers").detach()
}

/// Consumes and produces with librdkafka alone; every record gets `headers`. Returns seconds by the clock, and of CPU of this process.
fn bare_loop(config: &KafkaConfig, records: u64, headers: Option<&OwnedHeaders>) -> (f64, f64) {
    let mut config = config.clone();
    config.prefix.push_str(if headers.is_some() { "laden." } else { "bare." });
    drop(filled(&config, records));
    let (input, output) = (format!("{}blobs.blobs", config.prefix), format!("{}blobs.pass", config.prefix));
    let exactly_once = config.delivery == Delivery::ExactlyOnce;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("group.id", format!("{}bare", config.prefix))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .expect("a consumer");
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "262144");
    if exactly_once {
        client.set("transactional.id", format!("{}bare", config.prefix));
    }
    let producer: BaseProducer = client.create().expect("a producer");
    if exactly_once {
        producer.init_transactions(CALL).expect("transactions");
        producer.begin_transaction().expect("a transaction");
    }
    let cpu = ProcessTime::now();
    consumer.subscribe(&[&input]).expect("subscribed");
    let (mut read, mut start, mut committed) = (0, None, Instant::now());
    let mut next = [0_i64; 4];
    while read < records || committed.elapsed() < COMMIT {
        if let Some(message) = consumer.poll(Duration::from_millis(10)) {
            let message = message.expect("a message");
            start.get_or_insert_with(Instant::now);
            let mut record = BaseRecord::to(&output)
                .partition(message.partition())
                .key(message.key().expect("a key"))
                .payload(message.payload().expect("a value"));
            if let Some(headers) = headers {
                record = record.headers(headers.clone());
            }
            while let Err((_, back)) = producer.send(record) {
                serve(&producer);
                record = back;
            }
            next[message.partition() as usize] = message.offset() + 1;
            read += 1;
        }
        if committed.elapsed() >= COMMIT || read == records {
            while producer.in_flight_count() > 0 {
                serve(&producer);
            }
            let mut list = TopicPartitionList::new();
            for (partition, next) in (0..).zip(next) {
                if next > 0 {
                    list.add_partition_offset(&input, partition, Offset::Offset(next)).expect("an offset");
                }
            }
            if list.count() > 0 && exactly_once {
                let group = consumer.group_metadata().expect("a group");
                producer.send_offsets_to_transaction(&list, &group, CALL).expect("offsets");
                producer.commit_transaction(CALL).expect("committed");
                producer.begin_transaction().expect("a transaction");
            } else if list.count() > 0 {
                consumer.commit(&list, CommitMode::Sync).expect("committed");
            }
            committed = Instant::now();
            if read == records {
                break;
            }
        }
    }
    (start.expect("records were read").elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64())
}

/// Takes reports of deliveries, or waits a moment: a poll with a time-out spins through its last millisecond.
fn serve(producer: &BaseProducer) {
    let before = producer.in_flight_count();
    producer.poll(Duration::ZERO);
    if producer.in_flight_count() == before {
        std::thread::sleep(Duration::from_micros(200));
    }
}

//! Lines through a stage on Kafka while brokers die, answers get lost, processes hang and networks break: nothing may be
//! lost or doubled, and the order of each key is kept.
//!
//! `DRIFTLINE_KAFKA` names a cluster on this machine, as `deploy/kafka-local start` prints it; without it the tests say
//! that they were skipped. Each has a long form, which the list of acceptance asks for:
//!
//! ```text
//! DRIFTLINE_KAFKA=… cargo test --release -p driftline-tests --test faults -- --ignored --nocapture --test-threads 1
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "faults/proxy.rs"]
mod proxy;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Long enough that only a group that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often a test looks how far the pipeline is.
const LOOK: Duration = Duration::from_millis(20);

/// One at a time: each needs the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

/// The cluster to test on.
fn servers() -> Option<String> {
    let servers = std::env::var("DRIFTLINE_KAFKA").ok();
    if servers.is_none() {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
    }
    servers
}

/// Numbered lines of 97 users.
fn input(numbers: Range<u64>, bytes: usize) -> String {
    let fill = "x".repeat(bytes);
    numbers.map(|n| format!("{{\"user\":\"u{}\",\"n\":{n},\"fill\":\"{fill}\"}}\n", n % 97)).collect()
}

/// Numbered lines from a file through a stage to a file, in a corner of the cluster of its own.
struct Pipeline {
    folder: TempDir,
    servers: String,
    prefix: String,
    delivery: &'static str,
    lines: u64,
    properties: Vec<String>,
}

impl Pipeline {
    /// `stage` is the table of the stage.
    fn new(servers: String, delivery: &'static str, lines: u64, bytes: usize, stage: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("in.jsonl"), input(0..lines, bytes)).unwrap();
        let text = format!(
            "[pipeline]\nname = \"lines\"\npartitions = 6\n\
             [sources.input]\nkind = \"jsonl\"\npath = \"in.jsonl\"\nkey = \"user\"\n\
             [stages.relay]\nkind = \"relay\"\ninputs = [\"input\"]\n{stage}\n\
             [sinks.output]\nkind = \"jsonl\"\ninputs = [\"relay\"]\npath = \"out.jsonl\"\n"
        );
        fs::write(folder.path().join("lines.toml"), text).unwrap();
        let prefix = format!("faults-{}-{}.", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // A killed process is missed after two seconds.
        let properties =
            ["session.timeout.ms=2000", "heartbeat.interval.ms=300", "transaction.timeout.ms=1900"].map(str::to_owned);
        Self { folder, servers, prefix, delivery, lines, properties: properties.into() }
    }

    /// A pipeline whose source waits for [`Self::feed`].
    fn fed(servers: String, delivery: &'static str) -> Self {
        let mut pipeline = Self::new(servers, delivery, 0, 0, "");
        pipeline.properties.push("--follow".to_owned());
        pipeline
    }

    /// Gives the source more lines.
    fn feed(&mut self, lines: u64) {
        let more = input(self.lines..self.lines + lines, 100);
        let mut file = fs::OpenOptions::new().append(true).open(self.path("in.jsonl")).unwrap();
        file.write_all(more.as_bytes()).unwrap();
        self.lines += lines;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, node: &str) -> Process {
        self.start_at(node, &self.servers)
    }

    fn start_at(&self, node: &str, servers: &str) -> Process {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{node}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_relay-under-test"))
            .arg(self.path("lines.toml"))
            .args([servers, &self.prefix, self.delivery, node])
            .args(&self.properties)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    /// How many whole lines have come out.
    fn out(&self) -> u64 {
        fs::read(self.path("out.jsonl")).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count() as u64)
    }

    /// Waits until that many lines have come out; tells what the processes said if they do not come.
    fn wait_for(&self, lines: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.out() < lines {
            if Instant::now() > deadline {
                let said = ["input", "relay", "output"]
                    .map(|node| fs::read_to_string(self.path(&format!("{node}.log"))).unwrap_or_default());
                panic!("{} of {lines} lines\n{}", self.out(), said.join("\n"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for all lines and checks that each is there once, in the order of its key, with its count if it has one.
    fn check(&self, what: &str) {
        self.wait_for(self.lines);
        // What is doubled comes after what is awaited.
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && self.out() == self.lines {
            std::thread::sleep(LOOK);
        }
        let mut last_of_user: BTreeMap<String, u64> = BTreeMap::new();
        let mut count_of_user: BTreeMap<String, u64> = BTreeMap::new();
        let mut times = vec![0_u32; self.lines as usize];
        for line in fs::read_to_string(self.path("out.jsonl")).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let (user, n) = (line["user"].as_str().unwrap().to_owned(), line["n"].as_u64().unwrap());
            times[n as usize] += 1;
            let count = count_of_user.entry(user.clone()).or_default();
            *count += 1;
            if let Some(seen) = line["seen"].as_u64() {
                assert_eq!(seen, *count, "the count of {user} at line {n}");
            }
            if let Some(last) = last_of_user.insert(user, n) {
                assert!(last < n, "the order of a key is kept: {n} after {last}");
            }
        }
        let lost = times.iter().filter(|&&times| times == 0).count();
        let doubled = times.iter().filter(|&&times| times > 1).count();
        eprintln!("{what}, {}: {} lines, {lost} lost, {doubled} doubled", self.delivery, self.lines);
        assert_eq!((lost, doubled), (0, 0));
    }
}

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }

    /// The most memory it has had, in bytes.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster of a test's own.
struct Cluster {
    folder: TempDir,
    servers: String,
}

impl Cluster {
    fn start(brokers: u32, port: u16) -> Self {
        Self::start_with("true", brokers, port)
    }

    /// `limit` is a command of the shell that starts the brokers.
    fn start_with(limit: &str, brokers: u32, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, servers: String::new() };
        let args = ["start", "--brokers", &brokers.to_string(), "--port", &port.to_string()];
        cluster.servers = cluster.script_with(limit, &args).trim().to_owned();
        cluster
    }

    fn is_alive(&self, broker: &str) -> bool {
        let pid = fs::read_to_string(self.folder.path().join(format!("kafka/broker-{broker}/pid"))).unwrap();
        // One that has ended and that nobody has asked about yet is a zombie.
        fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn script(&self, args: &[&str]) -> String {
        self.script_with("true", args)
    }

    fn script_with(&self, limit: &str, args: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        // Files, not pipes: the brokers that the script leaves behind would keep a pipe open.
        let said = self.folder.path().join("said");
        let status = Command::new("bash")
            .args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")])
            .arg(root.join("deploy/kafka-local"))
            .args(args)
            .arg("--dir")
            .arg(self.folder.path().join("kafka"))
            .env("DRIFTLINE_KAFKA_HEAP", "256m")
            .stdout(fs::File::create(&said).unwrap())
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "kafka-local {args:?}");
        fs::read_to_string(said).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

const BOTH: [&str; 2] = ["at_least_once", "exactly_once"];

/// Test 3: each of three brokers is killed once while lines flow.
fn brokers_are_killed(lines: u64) {
    if servers().is_none() {
        return;
    }
    let _alone = ALONE.lock();
    let cluster = Cluster::start(3, 29_092);
    for delivery in BOTH {
        let mut pipeline = Pipeline::fed(cluster.servers.clone(), delivery);
        let _processes = ["output", "relay", "relay", "input"].map(|node| pipeline.start(node));
        pipeline.feed(lines / 10);
        pipeline.wait_for(1);
        for broker in ["1", "2", "3"] {
            // Lines are on their way when it is killed, while it is away, and when it comes back.
            pipeline.feed(lines / 10);
            cluster.script(&["kill", broker]);
            let killed = Instant::now();
            pipeline.wait_for(pipeline.lines);
            let moving = killed.elapsed();
            pipeline.feed(lines / 5);
            cluster.script(&["revive", broker]);
            let revived = Instant::now();
            pipeline.wait_for(pipeline.lines);
            let [moving, done] = [moving, revived.elapsed()].map(|time| time.as_secs_f64());
            eprintln!("broker {broker}: all lines {moving:.1} s after its death, {done:.1} s after its return");
        }
        pipeline.check("three brokers killed once each");
    }
}

#[test]
fn brokers_that_are_killed_lose_nothing() {
    brokers_are_killed(20_000);
}

#[test]
#[ignore = "the long form takes minutes"]
fn brokers_that_are_killed_lose_nothing_in_the_long_form() {
    brokers_are_killed(200_000);
}

/// Test 4: answers to the end of transactions get lost, or come when the next one is under way.
fn ends_are_not_heard(times: u32) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    let (through, faults) = proxy::start(&servers);
    // So slow that lines are left for the last fault: while an answer is missed, the next ones are worked on, and then
    // written in one transaction.
    let stage = "pause_ms = 10\n[stages.relay.batch]\nmax_records = 10";
    let mut pipeline = Pipeline::new(servers, "exactly_once", 4_000 * u64::from(times), 20, stage);
    // An answer is missed after this time.
    pipeline.properties.push("socket.timeout.ms=2000".to_owned());
    faults.late_by_ms.store(2_500, Ordering::SeqCst);
    let _output = pipeline.start("output");
    let _relay = pipeline.start_at("relay", &through);
    let _input = pipeline.start("input");
    for round in 0..times {
        pipeline.wait_for(pipeline.out() + 100);
        let fault = if round % 2 == 0 { &faults.lose_end_txn } else { &faults.late_end_txn };
        fault.store(1, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while fault.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline && pipeline.out() < pipeline.lines, "fault {round} does not happen");
            std::thread::sleep(LOOK);
        }
    }
    assert!(pipeline.out() < pipeline.lines, "lines come after the last fault");
    pipeline.check(&format!("{times} answers to EndTxn lost or late"));
}

#[test]
fn transactions_whose_end_is_not_heard_are_whole() {
    ends_are_not_heard(4);
}

#[test]
#[ignore = "the long form takes minutes"]
fn transactions_whose_end_is_not_heard_are_whole_in_the_long_form() {
    ends_are_not_heard(50);
}

/// Test 5: a process hangs for longer than its session and wakes up when another one has its partitions.
fn processes_hang(times: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let share = 4_000;
        let pipeline = Pipeline::new(servers.clone(), delivery, share * (times + 1), 20, "");
        let _output = pipeline.start("output");
        let mut relay = pipeline.start("relay");
        let _input = pipeline.start("input");
        let mut zombies = Vec::new();
        for round in 0..times {
            pipeline.wait_for(share * round + share / 4);
            relay.signal("-STOP");
            let successor = pipeline.start("relay");
            // The successor has taken over when lines come again.
            pipeline.wait_for(share * round + share / 2);
            pipeline.wait_for((pipeline.out() + 100).min(share * (times + 1)));
            relay.signal("-CONT");
            zombies.push(std::mem::replace(&mut relay, successor));
            if zombies.len() > 1 {
                zombies.remove(0);
            }
        }
        pipeline.check(&format!("a process stopped past its session {times} times"));
    }
}

#[test]
fn a_process_that_hangs_writes_nothing_when_it_wakes() {
    processes_hang(1);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_process_that_hangs_writes_nothing_when_it_wakes_in_the_long_form() {
    processes_hang(20);
}

/// Test 6: a process joins or leaves every two seconds; no line waits for long.
fn storm(seconds: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let pipeline = Pipeline::new(servers.clone(), delivery, 1_500 * seconds, 20, "");
        let _output = pipeline.start("output");
        let mut relays = vec![pipeline.start("relay")];
        let _input = pipeline.start("input");
        let started = Instant::now();
        let mut turn = 0;
        while started.elapsed().as_secs() < seconds {
            match turn % 4 {
                0 | 1 => relays.push(pipeline.start("relay")),
                2 => relays.remove(0).kill(),
                _ => {
                    let mut relay = relays.remove(0);
                    relay.signal("-TERM");
                    relay.0.wait().unwrap();
                }
            }
            turn += 1;
            std::thread::sleep(Duration::from_secs(2));
        }
        pipeline.check(&format!("{turn} joins and leaves in {seconds} s"));
    }
}

#[test]
fn a_storm_of_rebalances_loses_nothing() {
    storm(8);
}

#[test]
#[ignore = "the long form takes ten minutes"]
fn a_storm_of_rebalances_loses_nothing_in_the_long_form() {
    storm(300);
}

/// Test 7: a slow network that breaks now and then.
fn network_breaks(lines: u64, cuts: &[u64], between: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let (through, faults) = proxy::start(&servers);
        faults.delay_ms.store(200, Ordering::SeqCst);
        let mut pipeline = Pipeline::new(servers.clone(), delivery, lines, 20, "");
        // A session outlives what the network does to heartbeats.
        pipeline.properties = vec!["session.timeout.ms=6000".into(), "transaction.timeout.ms=5900".into()];
        let _output = pipeline.start("output");
        let _relays = [pipeline.start_at("relay", &through), pipeline.start_at("relay", &through)];
        let _input = pipeline.start("input");
        pipeline.wait_for(1);
        for &seconds in cuts {
            faults.cut();
            std::thread::sleep(Duration::from_secs(seconds));
            faults.mend();
            std::thread::sleep(Duration::from_secs(between));
        }
        pipeline.check(&format!("200 ms on the way, cuts of {cuts:?} s"));
    }
}

#[test]
fn a_network_that_breaks_loses_nothing() {
    network_breaks(20_000, &[2, 8], 2);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_network_that_breaks_loses_nothing_in_the_long_form() {
    network_breaks(100_000, &[5, 5, 5, 30, 5, 5], 20);
}

/// Test 8: a stage that is far too slow has a backlog before it, and keeps to its memory.
fn backlog(lines: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    let stage = "pause_ms = 20\n[stages.relay.batch]\nmax_records = 100";
    let pipeline = Pipeline::new(servers, "at_least_once", lines, 10_000, stage);
    let mut input = pipeline.start("input");
    assert!(input.0.wait().unwrap().success());
    let _output = pipeline.start("output");
    let relay = pipeline.start("relay");
    pipeline.check("a backlog of 10 KB lines before a slow stage");
    // 16 MB in the inbox, 16 MB a partition in the client, 32 MB being committed, and what the process has anyway.
    let (peak, bound) = (relay.peak() >> 20, 16 + 6 * 16 + 2 * 32 + 40);
    eprintln!("peak memory {peak} MB, bound {bound} MB");
    assert!(peak <= bound * 12 / 10, "peak memory {peak} MB, bound {bound} MB and a fifth");
}

#[test]
fn a_slow_stage_keeps_to_its_memory() {
    backlog(10_000);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_slow_stage_keeps_to_its_memory_in_the_long_form() {
    backlog(50_000);
}

/// Test 9: each batch takes far longer than a member may be silent.
#[test]
fn inference_that_takes_long_loses_no_partition() {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let mut pipeline = Pipeline::new(servers.clone(), delivery, 8, 20, "pause_ms = 2000");
        pipeline.properties = ["session.timeout.ms=1000", "heartbeat.interval.ms=200", "max.poll.interval.ms=1000"]
            .map(str::to_owned)
            .into();
        let _processes = ["output", "relay", "input"].map(|node| pipeline.start(node));
        pipeline.check("inference of twice max.poll.interval.ms");
        let said = fs::read_to_string(pipeline.path("relay.log")).unwrap();
        let taken_over = said.lines().filter(|line| *line == "relay: taken over").count();
        assert_eq!(taken_over, 6, "each partition once: {said}");
    }
}

/// Test 14, of it the disk: the broker may write no file beyond 12 MB, stops for it, and comes back when it may.
#[test]
fn a_full_disk_loses_nothing() {
    if servers().is_none() {
        return;
    }
    let _alone = ALONE.lock();
    let cluster = Cluster::start_with("ulimit -f 12288", 1, 29_192);
    for delivery in BOTH {
        let pipeline = Pipeline::new(cluster.servers.clone(), delivery, 7_000, 10_000, "");
        let _processes = ["output", "relay", "input"].map(|node| pipeline.start(node));
        let deadline = Instant::now() + PATIENCE;
        while cluster.is_alive("1") {
            assert!(Instant::now() < deadline && pipeline.out() < pipeline.lines, "the disk is never full");
            std::thread::sleep(LOOK);
        }
        eprintln!("the broker stopped after {} lines", pipeline.out());
        cluster.script(&["revive", "1"]);
        pipeline.check("a disk that was full");
        // For the next one the disk is as small as before.
        cluster.script(&["kill", "1"]);
        cluster.script_with("ulimit -f 12288", &["revive", "1"]);
    }
}

/// Test 12: counts of keys, whose store is lost with each process, after crashes.
fn state_survives(lines: u64, crashes: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let pipeline = Pipeline::new(servers.clone(), delivery, lines, 0, "count = true");
        let _output = pipeline.start("output");
        let mut relay = pipeline.start("relay");
        let _input = pipeline.start("input");
        for crash in 1..=crashes {
            pipeline.wait_for(lines * crash / (crashes + 1));
            relay.kill();
            relay = pipeline.start("relay");
        }
        pipeline.check(&format!("counts of keys over {crashes} crashes"));
    }
}

#[test]
fn counts_survive_crashes() {
    state_survives(20_000, 3);
}

#[test]
#[ignore = "the long form takes minutes"]
fn counts_survive_crashes_in_the_long_form() {
    state_survives(100_000, 10);
}

//! Lines through a stage, a process a node, and what became of them.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::driftline::process::{LOOK, Process};

/// Long enough that only a group that hangs reaches it.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// How often lines are added where they are to flow.
const DROP: Duration = Duration::from_millis(100);

pub const BOTH: [&str; 2] = ["at_least_once", "exactly_once"];
/// Properties of processes that are not killed, and wait for input: they outlive a busy machine.
pub const LASTING: [&str; 3] = ["session.timeout.ms=6000", "transaction.timeout.ms=5900", "--follow"];
/// Sink, stage and source.
pub const NODES: [&str; 3] = ["output", "relay", "input"];

/// The cluster to test on.
pub fn servers() -> Option<String> {
    let servers = std::env::var("DRIFTLINE_KAFKA").ok();
    if servers.is_none() {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
    }
    servers
}

/// Numbered lines of so many users.
fn input(numbers: Range<u64>, bytes: usize, users: u64) -> String {
    let fill = "x".repeat(bytes);
    numbers.map(|n| format!("{{\"user\":\"u{}\",\"n\":{n},\"fill\":\"{fill}\"}}\n", n % users)).collect()
}

/// Numbered lines from a file through a stage to a file, in a corner of the cluster of its own.
pub struct Pipeline {
    folder: TempDir,
    pub servers: String,
    pub prefix: String,
    pub delivery: &'static str,
    pub lines: u64,
    pub users: u64,
    pub properties: Vec<String>,
    pub environment: Vec<(&'static str, PathBuf)>,
    /// The first line of each addition, and when it was made.
    fed: Vec<(u64, Instant)>,
    seen: Mutex<Seen>,
}

/// How far what comes out has been looked at.
#[derive(Default)]
struct Seen {
    bytes: u64,
    lines: u64,
    /// The newest line of each user.
    newest: BTreeMap<u64, u64>,
    /// The longest that a line took to come out.
    longest: Duration,
}

impl Pipeline {
    /// `stage` is the table of the stage.
    pub fn new(servers: String, delivery: &'static str, lines: u64, bytes: usize, stage: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let users = 97;
        fs::write(folder.path().join("in.jsonl"), input(0..lines, bytes, users)).unwrap();
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
        Self {
            folder,
            servers,
            prefix,
            delivery,
            lines,
            users,
            properties: properties.into(),
            environment: Vec::new(),
            fed: Vec::new(),
            seen: Mutex::default(),
        }
    }

    /// A pipeline whose source waits for [`Self::feed`].
    pub fn fed(servers: String, delivery: &'static str, stage: &str) -> Self {
        let mut pipeline = Self::new(servers, delivery, 0, 0, stage);
        pipeline.properties.push("--follow".to_owned());
        pipeline
    }

    /// Gives the source more lines.
    pub fn feed(&mut self, lines: u64) {
        let more = input(self.lines..self.lines + lines, 100, self.users);
        let mut file = fs::OpenOptions::new().append(true).open(self.path("in.jsonl")).unwrap();
        self.fed.push((self.lines, Instant::now()));
        file.write_all(more.as_bytes()).unwrap();
        self.lines += lines;
    }

    /// Gives the source so many lines a second for a while, and looks at what comes out.
    pub fn feed_for(&mut self, time: Duration, lines_per_second: u64) {
        let until = Instant::now() + time;
        let mut next = Instant::now();
        while next < until {
            self.feed(lines_per_second / 10);
            next += DROP;
            self.look_until(next.min(until));
        }
    }

    fn look_until(&self, until: Instant) {
        loop {
            self.out();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(&self, node: &str) -> Process {
        self.start_at(node, &self.servers)
    }

    pub fn start_at(&self, node: &str, servers: &str) -> Process {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{node}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_relay-under-test"))
            .arg(self.path("lines.toml"))
            .args([servers, &self.prefix, self.delivery, node])
            .args(&self.properties)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    /// How many whole lines have come out.
    pub fn out(&self) -> u64 {
        let mut seen = self.seen.lock().unwrap();
        let Ok(mut file) = fs::File::open(self.path("out.jsonl")) else { return 0 };
        let mut more = Vec::new();
        if seen.bytes > 0 {
            // From the end of the last line on.
            file.seek(SeekFrom::Start(seen.bytes - 1)).unwrap();
            file.read_to_end(&mut more).unwrap();
            if more.first() == Some(&b'\n') {
                more.remove(0);
            } else {
                // A sink that started again has cut off what was not committed, and perhaps written on.
                (seen.bytes, seen.lines) = (0, 0);
                more.clear();
            }
        }
        if seen.bytes == 0 {
            file.rewind().unwrap();
            file.read_to_end(&mut more).unwrap();
        }
        let whole = more.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        seen.bytes += whole as u64;
        for line in more[..whole].split_inclusive(|&byte| byte == b'\n') {
            seen.lines += 1;
            if !self.fed.is_empty() {
                self.time(&mut seen, line);
            }
        }
        seen.lines
    }

    /// Notes how long a line took, if it is a new one.
    fn time(&self, seen: &mut Seen, line: &[u8]) {
        let line: Value = serde_json::from_slice(line).unwrap();
        let n = line["n"].as_u64().unwrap();
        let newest = seen.newest.entry(n % self.users).or_default();
        if n < *newest {
            return;
        }
        *newest = n + 1;
        let addition = self.fed.partition_point(|(first, _)| *first <= n) - 1;
        seen.longest = seen.longest.max(self.fed[addition].1.elapsed());
    }

    /// The longest that a line has taken from the source's file to the sink's.
    pub fn longest(&self) -> Duration {
        self.seen.lock().unwrap().longest
    }

    /// Waits until that many lines have come out, and says whether they came in time.
    pub fn comes_to(&self, lines: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.out() < lines {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Waits until that many lines have come out; tells what the processes said if they do not come.
    pub fn wait_for(&self, lines: u64) {
        assert!(self.comes_to(lines, PATIENCE), "{} of {lines} lines\n{}", self.out(), self.said());
    }

    /// What the processes have said.
    pub fn said(&self) -> String {
        ["input", "relay", "output"]
            .map(|node| fs::read_to_string(self.path(&format!("{node}.log"))).unwrap_or_default())
            .join("\n")
    }

    /// Waits for all lines and checks that each is there once, in the order of its key, with its count if it has one.
    pub fn check(&self, what: &str) {
        self.wait_for(self.lines);
        // Counted anew: what was cut off and written again between two looks may have been counted wrongly.
        let longest = std::mem::take(&mut *self.seen.lock().unwrap()).longest;
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
        eprint!("{what}, {}: {} lines, {lost} lost, {doubled} doubled", self.delivery, self.lines);
        if self.fed.is_empty() {
            eprintln!();
        } else {
            eprintln!(", at most {:.1} s on the way", longest.as_secs_f64());
        }
        assert_eq!((lost, doubled), (0, 0));
        self.seen.lock().unwrap().longest = longest;
    }
}

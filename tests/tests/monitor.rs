//! `driftline-monitor` as a process: whether it is ready, and what it tells of itself.
//!
//! `DRIFTLINE_KAFKA` names a cluster, as `deploy/kafka-local start` prints it; without it the test that needs one says that it
//! was skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use driftline::process::{LOOK, Process};

const PATIENCE: Duration = Duration::from_secs(120);

/// A monitor of the speech pipeline that tells of itself.
struct Monitor {
    process: Process,
    endpoint: SocketAddr,
    log: PathBuf,
}

impl Monitor {
    fn start(name: &str, folder: &Path, settings: &[String]) -> Self {
        // A port that was free a moment ago.
        let endpoint = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = folder.join(format!("{name}.log"));
        let own = [
            "monitor.reference=pipelines/references/speech.json".to_owned(),
            format!("telemetry.prometheus={endpoint}"),
        ];
        let settings = [&own[..], settings].concat();
        let mut command = driftline::monitor(Path::new("pipelines/speech.toml"), &settings, &log);
        Self { process: Process(command.spawn().unwrap()), endpoint, log }
    }

    /// Asks its endpoint; nothing where it does not answer yet.
    fn get(&self, path: &str) -> (u16, String) {
        driftline::ask(self.endpoint, "GET", path).unwrap_or_default()
    }

    /// Waits until it is ready and has measured itself.
    fn is_ready_and_measured(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let is_told = |page: &str, name: &str| {
            let line = page.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).is_some_and(|value| value > 0.0)
        };
        loop {
            let (_, page) = self.get("/metrics");
            let measured = ["process_memory_usage_bytes", "process_cpu_time_seconds_total"];
            if self.get("/readyz").0 == 200 && measured.iter().all(|name| is_told(&page, name)) {
                return;
            }
            let lives = self.process.0.try_wait().unwrap().is_none();
            let said = fs::read_to_string(&self.log).unwrap();
            assert!(lives && Instant::now() < deadline, "{}\n{page}\n{said}", self.get("/readyz").1);
            thread::sleep(LOOK);
        }
    }
}

#[test]
fn a_monitor_is_ready_and_tells_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [format!("broker.path={}", folder.path().join("log").display())];
    let mut monitor = Monitor::start("monitor", folder.path(), &settings);
    monitor.is_ready_and_measured();
    monitor.process.stop(0);
}

#[test]
fn a_monitor_that_stands_by_is_ready_too() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={servers}"),
        format!("broker.prefix=ready-{}.", std::process::id()),
    ];
    let mut monitors = ["first", "second"].map(|name| Monitor::start(name, folder.path(), &settings));
    monitors.iter_mut().for_each(Monitor::is_ready_and_measured);
    monitors.iter_mut().for_each(|monitor| monitor.process.stop(0));
}

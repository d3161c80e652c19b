//! The wall clock of the processes jumps by an hour, there and back (test 14, of it the clock).
//!
//! `clock.c` is loaded before each process and lets its clock jump; the broker keeps the real one.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    ALONE,
    driftline::{
        monitor,
        process::{LOOK, Process},
    },
    pipeline::{BOTH, LASTING, NODES, PATIENCE, Pipeline, servers},
};

const HOUR: i64 = 3600;

/// A clock that jumps.
struct Clock {
    folder: TempDir,
    file: fs::File,
}

impl Clock {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
        let library = folder.path().join("clock.so");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).arg("-ldl").status();
        assert!(built.unwrap().success(), "the C compiler builds clock.c");
        let file = fs::File::create(folder.path().join("clock")).unwrap();
        let clock = Self { folder, file };
        clock.set(0);
        clock
    }

    /// Sets it to the real time and so many seconds.
    fn set(&self, ahead: i64) {
        self.file.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        [("LD_PRELOAD", "clock.so"), ("DRIFTLINE_TEST_CLOCK", "clock")]
            .map(|(name, file)| (name, self.folder.path().join(file)))
            .into()
    }
}

/// Whether lines are on their way when the clock jumps.
#[derive(Clone, Copy, Debug)]
enum When {
    Busy,
    Idle,
}

/// Starts processes anew that end by themselves, as whoever runs them does, until all lines have come out and so many
/// processes have ended.
fn supervise(pipeline: &Pipeline, processes: &mut [Process; 3], ends: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut ended = 0;
    while !pipeline.comes_to(pipeline.lines, LOOK) || ended < ends {
        assert!(
            Instant::now() < deadline,
            "{} of {} lines, {ended} of {ends} processes ended\n{}",
            pipeline.out(),
            pipeline.lines,
            pipeline.said()
        );
        for (process, node) in processes.iter_mut().zip(NODES) {
            if process.0.try_wait().unwrap().is_some() {
                *process = pipeline.start(node);
                ended += 1;
            }
        }
    }
    assert_eq!(ended, ends, "{}", pipeline.said());
}

fn clock_jumps(jumps: &[(When, i64)], lines_per_second: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    let clock = Clock::new();
    for delivery in BOTH {
        clock.set(0);
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, "count = true");
        pipeline.properties = LASTING.map(str::to_owned).into();
        pipeline.environment = clock.environment();
        let mut processes = NODES.map(|node| pipeline.start(node));
        pipeline.feed(100);
        pipeline.wait_for(1);
        let mut clock_at = 0;
        for &(when, ahead) in jumps {
            match when {
                When::Busy => pipeline.feed_for(Duration::from_millis(500), lines_per_second),
                When::Idle => {
                    pipeline.wait_for(pipeline.lines);
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
            clock.set(ahead);
            let jumped = Instant::now();
            match when {
                When::Busy => pipeline.feed_for(Duration::from_secs(1), lines_per_second),
                When::Idle => {
                    std::thread::sleep(Duration::from_millis(500));
                    pipeline.feed(lines_per_second);
                }
            }
            // A clock that goes ahead ends nothing; where it is set back, each process ends with a word.
            supervise(&pipeline, &mut processes, if ahead < clock_at { NODES.len() } else { 0 });
            clock_at = ahead;
            let took = jumped.elapsed().as_secs_f64();
            eprintln!("{delivery}, {when:?}, clock at {ahead} s: all lines {took:.1} s after the jump");
        }
        drop(processes);
        pipeline.check(&format!("{} jumps of the clock by an hour", jumps.len()));
        let set_back = jumps.windows(2).any(|pair| pair[1].1 < pair[0].1);
        assert_eq!(pipeline.said().contains("ClockSetBack"), set_back);
    }
}

#[test]
fn a_clock_that_jumps_loses_nothing() {
    clock_jumps(&[(When::Busy, HOUR), (When::Busy, 0)], 1_000);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_clock_that_jumps_loses_nothing_in_the_long_form() {
    let jumps = [(When::Idle, HOUR), (When::Idle, 0), (When::Busy, HOUR), (When::Busy, 0), (When::Busy, -HOUR)];
    clock_jumps(&jumps.repeat(5), 1_000);
}

/// A monitor runs no node, and minds its clock all the same.
#[test]
fn a_monitor_whose_clock_is_set_back_ends_with_a_word() {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    let clock = Clock::new();
    clock.set(HOUR);
    let log = clock.folder.path().join("monitor.log");
    let settings = [
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={servers}"),
        format!("broker.prefix=clock-{}.", std::process::id()),
        "monitor.reference=pipelines/references/speech.json".to_owned(),
    ];
    let mut monitor = monitor(Path::new("pipelines/speech.toml"), &settings, &log);
    let mut monitor = Process(monitor.envs(clock.environment()).spawn().unwrap());
    let said = || fs::read_to_string(&log).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !said().contains("taken over") {
        assert!(monitor.0.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}", said());
        std::thread::sleep(LOOK);
    }
    clock.set(0);
    let status = monitor.ends_by(Instant::now() + Duration::from_secs(30));
    let status = status.unwrap_or_else(|| panic!("it has not ended: {}", said()));
    assert_eq!(status.code(), Some(1), "{}", said());
    assert!(said().contains("the clock was set back by"), "{}", said());
}

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
    pipeline::{BOTH, LASTING, NODES, Pipeline, servers},
};

const HOUR: i64 = 3600;
/// After so long a pipeline is taken not to go on by itself.
const BY_ITSELF: Duration = Duration::from_secs(15);

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
        let mut restarts = 0;
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
            if pipeline.comes_to(pipeline.lines, BY_ITSELF) {
                let took = jumped.elapsed().as_secs_f64();
                eprintln!("{delivery}, {when:?}, clock at {ahead} s: all lines {took:.1} s after the jump");
                continue;
            }
            let stuck = pipeline.out();
            drop(processes);
            processes = NODES.map(|node| pipeline.start(node));
            restarts += 1;
            let restarted = Instant::now();
            pipeline.wait_for(pipeline.lines);
            let took = restarted.elapsed().as_secs_f64();
            eprintln!(
                "{delivery}, {when:?}, clock at {ahead} s: {stuck} of {} lines, all {took:.1} s after a restart",
                pipeline.lines
            );
        }
        drop(processes);
        pipeline.check(&format!("{} jumps of the clock by an hour, {restarts} restarts", jumps.len()));
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

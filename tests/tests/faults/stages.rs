//! Stages that are slow, take long, and keep state, and how much memory they take (tests 8, 9, 12 and the soak of 14).

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    ALONE,
    pipeline::{BOTH, NODES, PATIENCE, Pipeline, servers},
};

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
    let (peak, bound) = (relay.memory("VmHWM:") >> 20, 16 + 6 * 16 + 2 * 32 + 40);
    eprintln!("peak memory {peak} MB, bound {bound} MB");
    assert!(peak <= bound * 12 / 10, "peak memory {peak} MB, bound {bound} MB and a fifth");
}

#[test]
fn a_slow_stage_keeps_to_its_memory() {
    backlog(5_000);
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

/// Test 12: counts of keys, whose store is lost with each process, after crashes; and how long a store takes to come back.
fn state_survives(lines: u64, users: u64, crashes: u64, soon: Duration) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, "count = true");
        pipeline.users = users;
        pipeline.feed(lines);
        let _output = pipeline.start("output");
        let mut relay = pipeline.start("relay");
        let _input = pipeline.start("input");
        for crash in 1..=crashes {
            pipeline.wait_for(lines * crash / (crashes + 1));
            relay.kill();
            relay = pipeline.start("relay");
        }
        pipeline.wait_for(lines);
        relay.kill();
        // Its successor needs the counts of all keys before the first line, and has to wait until the group misses it.
        pipeline.feed(users);
        let _relay = pipeline.start("relay");
        let started = Instant::now();
        pipeline.wait_for(lines + 1);
        let restored = started.elapsed();
        pipeline.check(&format!("counts of {users} keys over {} crashes", crashes + 1));
        eprintln!("the first line {:.1} s after the last start, of {lines} updates", restored.as_secs_f64());
        assert!(restored <= soon, "restored after {restored:?}");
    }
}

#[test]
fn counts_survive_crashes() {
    state_survives(20_000, 97, 2, PATIENCE);
}

#[test]
#[ignore = "the long form takes minutes"]
fn counts_survive_crashes_in_the_long_form() {
    // Ten seconds, and two in which the group does not miss the one before.
    state_survives(100_000, 1_000, 9, Duration::from_secs(12));
}

/// Test 14, of it the soak: memory of each process while lines flow. Returns megabytes an hour, of each.
fn soak(time: Duration, lines_per_second: u64) -> Vec<f64> {
    let Some(servers) = servers() else { return Vec::new() };
    let _alone = ALONE.lock();
    let mut pipeline = Pipeline::fed(servers, "exactly_once", "count = true");
    let processes = NODES.map(|node| pipeline.start(node));
    let started = Instant::now();
    let mut samples = NODES.map(|_| Vec::new());
    while started.elapsed() < time {
        pipeline.feed_for((time / 200).min(Duration::from_secs(10)), lines_per_second);
        // What is built up at the start is no growth.
        if started.elapsed() > time / 4 {
            let hours = started.elapsed().as_secs_f64() / 3600.0;
            for (samples, process) in samples.iter_mut().zip(&processes) {
                samples.push((hours, process.memory("VmRSS:") as f64 / 1e6));
            }
        }
    }
    pipeline.check(&format!("{} s of {lines_per_second} lines/s", time.as_secs()));
    let slopes: Vec<f64> = samples.iter().map(|samples| slope(samples)).collect();
    for ((node, samples), slope) in NODES.iter().zip(&samples).zip(&slopes) {
        let (first, last) = (samples.first().unwrap().1, samples.last().unwrap().1);
        eprintln!("{node}: {first:.1} MB after a quarter of the time, {last:.1} MB at the end, {slope:+.2} MB/h");
    }
    slopes
}

/// The slope of the line of least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let products: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    products / samples.iter().map(|sample| (sample.0 - x).powi(2)).sum::<f64>()
}

/// Too short for a slope: it says that memory is looked at, and that no line leaves any behind that one would notice.
#[test]
fn memory_does_not_grow_while_lines_flow() {
    let time = Duration::from_secs(16);
    for slope in soak(time, 2_000) {
        let grown = slope * time.as_secs_f64() / 3600.0;
        assert!(grown <= 16.0, "{grown:.1} MB in {time:?}");
    }
}

/// `DRIFTLINE_SOAK_MINUTES` makes it shorter; the slope is then printed and asserted no more.
#[test]
#[ignore = "the long form takes four hours"]
fn memory_does_not_grow_while_lines_flow_in_the_long_form() {
    let minutes = std::env::var("DRIFTLINE_SOAK_MINUTES").map_or(240, |minutes| minutes.parse().unwrap());
    for slope in soak(Duration::from_secs(60 * minutes), 200) {
        assert!(minutes < 240 || slope <= 1.0, "memory grows by {slope:.2} MB/h");
    }
}

#[test]
fn the_slope_of_a_line_is_its_slope() {
    assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-12);
}

//! Brokers that die, whose disk is full, whose answers get lost, and networks that break (tests 3, 4, 7 and, of 14, the
//! disk).

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    ALONE,
    cluster::Cluster,
    driftline::process::LOOK,
    pipeline::{BOTH, PATIENCE, Pipeline, servers},
    proxy,
};

/// Test 3: each of three brokers is killed once while lines flow.
fn brokers_are_killed(lines: u64) {
    if servers().is_none() {
        return;
    }
    let _alone = ALONE.lock();
    let cluster = Cluster::start(3, 29_092);
    for delivery in BOTH {
        let mut pipeline = Pipeline::fed(cluster.servers.clone(), delivery, "");
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
            assert!(done <= 60.0, "all lines {done:.1} s after the return of broker {broker}");
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

/// Test 7: a slow network that breaks now and then, while lines flow.
fn network_breaks(lines_per_second: u64, cuts: &[u64], between: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let (through, faults) = proxy::start(&servers);
        faults.delay_ms.store(200, Ordering::SeqCst);
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, "");
        // A session outlives what the network does to heartbeats.
        let longer = ["session.timeout.ms=6000", "transaction.timeout.ms=5900", "--follow"];
        pipeline.properties = longer.map(str::to_owned).into();
        let _output = pipeline.start("output");
        let _relays = [pipeline.start_at("relay", &through), pipeline.start_at("relay", &through)];
        let _input = pipeline.start("input");
        pipeline.feed(1);
        pipeline.wait_for(1);
        for &seconds in cuts {
            faults.cut();
            pipeline.feed_for(Duration::from_secs(seconds), lines_per_second);
            faults.mend();
            pipeline.feed_for(Duration::from_secs(between), lines_per_second);
        }
        pipeline.check(&format!("200 ms on the way, cuts of {cuts:?} s"));
    }
}

#[test]
fn a_network_that_breaks_loses_nothing() {
    // Once for longer than a session.
    network_breaks(500, &[8], 2);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_network_that_breaks_loses_nothing_in_the_long_form() {
    network_breaks(600, &[5, 5, 5, 30, 5, 5], 20);
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

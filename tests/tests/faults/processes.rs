//! Processes that are killed, hang, come and go, and are told to stop (tests 1, 5, 6 and 13).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    ALONE,
    cluster::Cluster,
    driftline::process::Process,
    pipeline::{BOTH, LASTING, NODES, PATIENCE, Pipeline, servers},
};

/// Test 1: source, stage and sink are killed in turn, each so many times, with up to 750 lines a transaction.
fn each_is_killed(deliveries: &[&'static str], lines: u64, times: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for &delivery in deliveries {
        // So slow that a batch is committed before the next one is there to go with it.
        let stage = "pause_ms = 30\n[stages.relay.batch]\nmax_records = 750";
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, stage);
        let mut processes = NODES.map(|node| pipeline.start(node));
        let share = lines / (3 * times);
        for round in 0..3 * times {
            let before = pipeline.lines;
            pipeline.feed(share);
            // In the middle of the share.
            pipeline.wait_for(before + share / 3);
            let node = (round % 3) as usize;
            processes[node].kill();
            processes[node] = pipeline.start(NODES[node]);
        }
        pipeline.check(&format!("source, stage and sink killed {times} times each"));
    }
}

#[test]
fn a_killed_source_stage_and_sink_lose_nothing() {
    each_is_killed(&BOTH[1..], 12_000, 1);
}

#[test]
#[ignore = "the long form takes minutes"]
fn a_killed_source_stage_and_sink_lose_nothing_in_the_long_form() {
    each_is_killed(&BOTH, 100_000, 10);
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

/// Test 6: a process joins or leaves every two seconds while lines flow; none waits for long, so no partition does.
fn storm(seconds: u64, lines_per_second: u64) {
    let Some(servers) = servers() else { return };
    let _alone = ALONE.lock();
    for delivery in BOTH {
        let mut pipeline = Pipeline::fed(servers.clone(), delivery, "");
        let _output = pipeline.start("output");
        let mut relays = VecDeque::from([pipeline.start("relay")]);
        let _input = pipeline.start("input");
        let started = Instant::now();
        let mut turn = 0;
        while started.elapsed().as_secs() < seconds {
            match turn % 4 {
                0 | 1 => relays.push_back(pipeline.start("relay")),
                2 => relays.pop_front().unwrap().kill(),
                _ => {
                    let mut relay = relays.pop_front().unwrap();
                    relay.signal("-TERM");
                    relay.ends_by(Instant::now() + PATIENCE).unwrap();
                }
            }
            turn += 1;
            pipeline.feed_for(Duration::from_secs(2), lines_per_second);
        }
        pipeline.check(&format!("{turn} joins and leaves in {seconds} s"));
        assert!(pipeline.longest() <= Duration::from_secs(30), "a line took {:?}", pipeline.longest());
    }
}

#[test]
fn a_storm_of_rebalances_loses_nothing() {
    storm(8, 500);
}

#[test]
#[ignore = "the long form takes ten minutes"]
fn a_storm_of_rebalances_loses_nothing_in_the_long_form() {
    storm(300, 500);
}

/// Tells processes to stop, all at once, and waits for their end; returns how long the last of them took. An end with an
/// error says that something was left to the next process: it is for those whose broker is down.
fn stop(processes: Vec<(&'static str, Process)>, allowed: &[i32]) -> Duration {
    let asked = Instant::now();
    for (_, process) in &processes {
        process.signal("-TERM");
    }
    for (node, mut process) in processes {
        let status = process.ends_by(asked + Duration::from_secs(25));
        let status = status.unwrap_or_else(|| panic!("{node} has not ended 25 s after SIGTERM"));
        assert!(status.code().is_some_and(|code| allowed.contains(&code)), "{node} ended with {status}");
    }
    asked.elapsed()
}

/// Test 13: nodes are told to stop while lines flow, one at a time and started again, and all at once while the broker
/// is down.
fn processes_are_told_to_stop(times: u64, while_down: u64) {
    if servers().is_none() {
        return;
    }
    let _alone = ALONE.lock();
    let cluster = Cluster::start(1, 28_092);
    // Both at once: with the broker down a stop takes long.
    let mut pipelines = BOTH.map(|delivery| {
        let mut pipeline = Pipeline::fed(cluster.servers.clone(), delivery, "");
        // Nobody is killed: who stops says so.
        pipeline.properties = LASTING.map(str::to_owned).into();
        pipeline
    });
    let start = |pipelines: &[Pipeline; 2]| {
        let both = pipelines.iter().flat_map(|pipeline| NODES.map(|node| (node, pipeline.start(node))));
        both.collect::<Vec<(&'static str, Process)>>()
    };
    let feed = |pipelines: &mut [Pipeline; 2], time: u64| {
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until {
            for pipeline in pipelines.iter_mut() {
                pipeline.feed_for(Duration::from_millis(100), 3_000);
            }
        }
    };
    let mut processes = start(&pipelines);
    let mut slowest = [Duration::ZERO; 2];
    for round in 0..times.max(while_down) {
        if round < times {
            let before = pipelines.each_ref().map(|pipeline| pipeline.lines);
            feed(&mut pipelines, 400);
            pipelines.iter().zip(before).for_each(|(pipeline, before)| pipeline.wait_for(before + 1));
            // The same node of both.
            let node = (round % 3) as usize;
            let stopping = vec![processes.remove(node + 3), processes.remove(node)];
            slowest[0] = slowest[0].max(stop(stopping, &[0]));
            processes.insert(node, (NODES[node], pipelines[0].start(NODES[node])));
            processes.insert(node + 3, (NODES[node], pipelines[1].start(NODES[node])));
        }
        if round < while_down {
            let before = pipelines.each_ref().map(|pipeline| pipeline.lines);
            feed(&mut pipelines, 400);
            pipelines.iter().zip(before).for_each(|(pipeline, before)| pipeline.wait_for(before + 1));
            cluster.script(&["kill", "1"]);
            // Some have noticed, and some wait for an answer.
            feed(&mut pipelines, 1_000 * (round % 3));
            slowest[1] = slowest[1].max(stop(std::mem::take(&mut processes), &[0, 1]));
            cluster.script(&["revive", "1"]);
            processes = start(&pipelines);
        }
    }
    for pipeline in &pipelines {
        pipeline.check(&format!("told to stop {times} times, and {while_down} times while the broker was down"));
    }
    let [up, down] = slowest.map(|time| time.as_secs_f64());
    eprintln!("the slowest end {up:.1} s after SIGTERM; {down:.1} s while the broker was down");
}

#[test]
fn processes_that_are_told_to_stop_end_in_time_and_lose_nothing() {
    processes_are_told_to_stop(3, 1);
}

#[test]
#[ignore = "the long form takes half an hour"]
fn processes_that_are_told_to_stop_end_in_time_and_lose_nothing_in_the_long_form() {
    processes_are_told_to_stop(50, 10);
}

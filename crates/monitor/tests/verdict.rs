//! The proof that matters: a pipeline of three stages, a change in one of them or in the source, and the monitor names the right
//! one; without a change it is silent.

#![allow(clippy::unwrap_used, reason = "tests")]

mod plant;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use driftline_broker::{Broker, Embedded, EmbeddedConfig, records};
use driftline_monitor::{Alarm, AlarmState, Baseline, Ending, Listener, Service, Settings, Status, alarms};
use driftline_pipeline::Plan;
use driftline_runtime::{Companion, End, Monitoring, Nodes, probes};
use driftline_stage::operator::{Recording, Schedule};
use driftline_stats::{Answers, Probes, Verdict};
use driftline_types::{StageName, TopicPartition, wire};
use plant::Changes;

/// What runs beside the nodes of a plant: the monitor as the command runs it.
struct Beside {
    service: Service,
    /// Whether a run that is stopped goes on later.
    durable: bool,
    status: Mutex<Option<Status>>,
}

struct Silent;

impl Listener for Silent {
    fn alarm(&self, _alarm: &Alarm) {}
    fn judged(&self, _status: &Status) {}
}

impl Companion for Beside {
    fn run(&self, nodes: &Nodes) {
        let ending = || Ending::of(nodes.cut_off(), nodes.finished(), nodes.stopped() && self.durable);
        *self.status.lock().unwrap() = self.service.run(ending, &Silent).unwrap();
    }
}

const MONITOR: &str = "reference = \"plant.json\"\nrun_length = 10000";
/// The windows of the baseline, and of a run after it with a change in the middle.
const HEALTHY: u64 = 150;
const RUN: u64 = 60;
const CHANGE: u64 = HEALTHY + 30;

/// Runs a plant with its monitor; returns how things stood at the end and every alarm.
fn watched(plan: &Plan, baseline: &Arc<Baseline>) -> (Status, Vec<Alarm>, Arc<dyn Broker>) {
    watched_with(plan, baseline, BTreeMap::new(), Answers::new())
}

/// The same with probes, and what was answered to them before.
fn watched_with(
    plan: &Plan,
    baseline: &Arc<Baseline>,
    probes: BTreeMap<StageName, Arc<Schedule>>,
    answers: Answers,
) -> (Status, Vec<Alarm>, Arc<dyn Broker>) {
    let broker = plant::temporary();
    let settings = Settings { answers, ..Settings::of(plan) };
    let (status, alarms) = watched_on(&broker, plan, baseline, settings, probes);
    (status, alarms, broker)
}

/// The same on a broker on which a plant may have run before.
fn watched_on(
    broker: &Arc<dyn Broker>,
    plan: &Plan,
    baseline: &Arc<Baseline>,
    settings: Settings,
    probes: BTreeMap<StageName, Arc<Schedule>>,
) -> (Status, Vec<Alarm>) {
    let service = Service::new(Arc::clone(broker), settings, Arc::clone(baseline));
    let beside = Arc::new(Beside { service, durable: false, status: Mutex::new(None) });
    let mut monitoring = Monitoring { probes, ..plant::bins(plan, baseline) };
    monitoring.companion = Some(Arc::clone(&beside) as Arc<dyn Companion>);
    plant::run(plan, broker, monitoring);
    let status = beside.status.lock().unwrap().take().unwrap();
    (status, alarms(&**broker, &plan.name).unwrap())
}

fn run_with(changes: Changes, source: &str) -> (Status, Vec<Alarm>) {
    run_after(plant::baseline(changes, HEALTHY), changes, source)
}

fn run_after(baseline: Baseline, changes: Changes, source: &str) -> (Status, Vec<Alarm>) {
    let plan = plant::plan(changes, 2, HEALTHY, RUN, source, MONITOR);
    let (status, alarms, _) = watched(&plan, &Arc::new(baseline));
    eprintln!("{}", status.sentence);
    (status, alarms)
}

/// A baseline whose windows bear the times of the run.
fn baseline_of_the_same_times(changes: Changes) -> Baseline {
    let mut baseline = plant::baseline(changes, HEALTHY);
    let later = RUN as i64 * plant::WINDOW;
    baseline.windows.iter_mut().for_each(|start| *start = start.plus_millis(later));
    baseline
}

/// The one alarm that fires, which names this node with the largest share.
fn blames(found: &(Status, Vec<Alarm>), origin: &str) -> Alarm {
    let (status, alarms) = found;
    assert_eq!(status.windows, RUN);
    assert_eq!(status.notes, Vec::<String>::new());
    let firing: Vec<&Alarm> = alarms.iter().filter(|alarm| alarm.state == AlarmState::Firing).collect();
    let [alarm] = firing.as_slice() else { panic!("{} alarms are firing: {}", firing.len(), status.sentence) };
    assert_eq!(alarm.origin.as_ref().map(driftline_types::StageName::as_str), Some(origin), "{}", alarm.summary);
    assert!(alarm.summary.starts_with(&format!("began in `{origin}`")), "{}", alarm.summary);
    let onset = alarm.onset.unwrap().as_millis() / plant::WINDOW;
    assert!(onset.abs_diff(CHANGE as i64) <= 2, "onset in window {onset}, changed in {CHANGE}");
    let [trace] = alarm.traces.as_slice() else { panic!("one last stage") };
    let share = |name: &str| trace.shares.iter().find(|share| share.node == name).unwrap();
    assert!((trace.shares.iter().map(|share| share.share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(share(origin).share > 0.7, "{:?}", trace.shares);
    assert!(share(origin).interval.0 <= share(origin).share && share(origin).share <= share(origin).interval.1 + 1e-9);
    assert!(!alarm.signals.is_empty() && !alarm.examples.is_empty());
    (*alarm).clone()
}

#[test]
fn a_stage_that_changed_is_named() {
    for (name, changes) in [
        ("scale", Changes { scale: Some(CHANGE), ..Changes::default() }),
        ("pair", Changes { pair: Some(CHANGE), ..Changes::default() }),
        ("paint", Changes { paint: Some(CHANGE), ..Changes::default() }),
    ] {
        let alarm = blames(&run_with(changes, ""), name);
        let verdict = |node: &str| alarm.nodes.iter().find(|found| found.node.as_str() == node).unwrap().verdict;
        assert_eq!(verdict(name), Verdict::StageChanged);
        assert_eq!(verdict("parts"), Verdict::Unchanged);
    }
}

/// Returns what the last alarm says of a node: its verdict, its share and the sentence.
fn said_of(alarm: &Alarm, node: &str) -> (Verdict, f64, String) {
    let found = alarm.nodes.iter().find(|found| found.node.as_str() == node).unwrap();
    let share = alarm.traces[0].shares.iter().find(|share| share.node == node);
    (found.verdict, share.map_or(0.0, |share| share.share), alarm.summary.clone())
}

/// What moves behind the origin in the same moment is taken for what cells do not show, and is laid at the origin; what moves later
/// changed by itself. Of what times the baseline is does not matter.
#[test]
fn a_second_change_is_told_by_its_moment() {
    let at = |paint: u64, baseline: fn(Changes) -> Baseline| {
        let changes = Changes { scale: Some(CHANGE), paint: Some(paint), ..Changes::default() };
        let (_, alarms) = run_after(baseline(changes), changes, "");
        let alarm = last(&alarms).clone();
        assert!(alarm.summary.starts_with("began in `scale`"), "{}", alarm.summary);
        assert_eq!(said_of(&alarm, "scale").0, Verdict::StageChanged);
        said_of(&alarm, "paint")
    };
    for baseline in [|changes| plant::baseline(changes, HEALTHY), baseline_of_the_same_times] {
        let (together, share, said) = at(CHANGE, baseline);
        assert_eq!((together, share), (Verdict::HiddenInput, 0.0), "{said}");
        assert!(said.contains("`paint` moved with it"), "{said}");
        let (later, share, said) = at(CHANGE + 12, baseline);
        assert_eq!(later, Verdict::StageChanged, "{said}");
        assert!(share > 0.1, "{share}: {said}");
        assert!(said.contains("`paint` changed too"), "{said}");
    }
}

/// A change that comes slowly reaches the stages behind it when it is large enough for them, which is later: what moves while the origin goes
/// on moving is laid at the origin, too.
#[test]
fn what_moves_while_the_origin_moves_is_laid_at_it() {
    let from = HEALTHY + RUN / 4;
    let changes = Changes { paint: Some(from + 14), ..Changes::default() };
    let ramp = format!("wider_from = {from}\nwider_over = 30");
    let (_, alarms) = run_after(baseline_of_the_same_times(changes), changes, &ramp);
    let alarm = last(&alarms);
    assert!(alarm.summary.starts_with("began in `parts`"), "{}", alarm.summary);
    let (verdict, share, said) = said_of(alarm, "paint");
    assert_eq!((verdict, share), (Verdict::HiddenInput, 0.0), "{said}");
}

#[test]
fn a_source_that_changed_is_named() {
    let alarm = blames(&run_with(Changes::default(), &format!("wider_from = {CHANGE}")), "parts");
    assert!(alarm.summary.contains("what it writes changed"), "{}", alarm.summary);
}

/// The same length without a change, over several seeds.
#[test]
fn without_a_change_it_is_silent() {
    let baseline = Arc::new(plant::baseline(Changes::default(), HEALTHY));
    for seed in 2..5 {
        let plan = plant::plan(Changes::default(), seed, HEALTHY, RUN, "", MONITOR);
        let (status, alarms, _) = watched(&plan, &baseline);
        assert_eq!((alarms.len(), status.windows), (0, RUN), "{}", status.sentence);
        assert!(status.sentence.starts_with("nothing has changed"), "{}", status.sentence);
        assert_eq!(status.notes, Vec::<String>::new());
    }
}

/// On a log that is kept, stopped again and again and gone on with: the alarms of one run.
#[test]
fn a_run_that_is_stopped_raises_the_alarms_of_one_that_is_not() {
    let changes = Changes { paint: Some(CHANGE), ..Changes::default() };
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let plan = plant::plan(changes, 2, HEALTHY, RUN, "", MONITOR);
    let (_, expected, _) = watched(&plan, &baseline);
    let folder = tempfile::tempdir().unwrap();
    let mut runs = 0;
    let found = loop {
        runs += 1;
        let broker: Arc<dyn Broker> = Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap());
        let service = Service::new(Arc::clone(&broker), Settings::of(&plan), Arc::clone(&baseline));
        let beside = Arc::new(Beside { service, durable: true, status: Mutex::new(None) });
        let mut monitoring = plant::bins(&plan, &baseline);
        monitoring.companion = Some(beside as Arc<dyn Companion>);
        // The first runs are asked to stop while they work; the last is left alone.
        let stop = async {
            if runs > 4 {
                std::future::pending::<()>().await;
            }
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        };
        let report = plant::run_until(&plan, &broker, monitoring, true, stop);
        if report.end == End::Finished {
            break alarms(&*broker, &plan.name).unwrap();
        }
    };
    let said = |alarms: &[Alarm]| -> Vec<_> {
        alarms.iter().map(|alarm| (alarm.id.clone(), alarm.state, alarm.summary.clone(), alarm.since)).collect()
    };
    assert_eq!(said(&found), said(&expected), "after {runs} runs");
}

#[test]
fn another_version_is_told_of_and_is_no_alarm() {
    let baseline = Arc::new(plant::baseline(Changes::default(), 80));
    // The same work under another config: another version.
    let changes = Changes { paint: Some(1_000_000), ..Changes::default() };
    let plan = plant::plan(changes, 2, 80, 30, "", MONITOR);
    let (status, alarms, _) = watched(&plan, &baseline);
    assert_eq!(alarms, []);
    let note = status.notes.iter().find(|note| note.starts_with("paint runs version")).unwrap();
    assert!(note.contains("no verdict on it until a reference is built"), "{note}");
}

#[test]
fn another_version_that_changes_what_follows_is_named_though_it_is_not_judged() {
    for (name, changes) in [
        ("scale", Changes { scale: Some(CHANGE), ..Changes::default() }),
        ("pair", Changes { pair: Some(CHANGE), ..Changes::default() }),
    ] {
        let (_, alarms) = run_after(plant::baseline(Changes::default(), HEALTHY), changes, "");
        let alarm = last(&alarms);
        assert_eq!(alarm.origin.as_ref().map(StageName::as_str), Some(name), "{}", alarm.summary);
        assert_eq!(said_of(alarm, name).0, Verdict::VersionChanged);
    }
}

#[test]
fn what_was_counted_before_there_was_a_reference_is_told_of_and_not_judged() {
    let baseline = Arc::new(plant::baseline(Changes::default(), 80));
    let broker = plant::temporary();
    plant::run(&plant::plan(Changes::default(), 2, 80, 20, "", ""), &broker, Default::default());
    let plan = plant::plan(Changes::default(), 2, 80, 60, "", MONITOR);
    let (status, alarms) = watched_on(&broker, &plan, &baseline, Settings::of(&plan), BTreeMap::new());
    assert_eq!((alarms, status.windows), (vec![], 40), "{}", status.sentence);
    let note = "a profile of paint was counted on other bins than the reference's";
    assert!(status.notes.iter().any(|said| said.starts_with(note)), "{:?}", status.notes);
}

const PROBES: &str = "reference = \"plant.json\"\nprobes = { path = \"probes.json\" }";

/// Pairs of parts that are sent again in every window, and what the stages of a healthy plant answer.
fn recorded(changes: Changes) -> (BTreeMap<StageName, Arc<Schedule>>, Answers) {
    let plan = plant::plan(changes, 3, 0, 4, "", PROBES);
    let source = plan.sources[0].name.clone();
    let broker = plant::temporary();
    plant::run(&plan, &broker, Monitoring::default());
    let narrow = |value: &Bytes| {
        let part: serde_json::Value = serde_json::from_slice(value).unwrap();
        part["width"].as_f64().unwrap().abs() < 1.0
    };
    let place = TopicPartition::new(plan.name.output_topic(&source), 0);
    // None of them is dropped on the way, so that a pair is complete in each round.
    let values = records(&*broker, place).unwrap().filter_map(|record| record.unwrap().value).filter(narrow);
    let values: Vec<Bytes> = values.take(16).collect();
    let pairs = values.chunks(2).enumerate();
    let recordings = pairs.map(|(at, pair)| Recording { name: format!("pair-{at}"), values: pair.to_vec() }).collect();
    let schedules = BTreeMap::from([(source, Arc::new(Schedule { every_ms: Some(plant::WINDOW), recordings }))]);
    let broker = plant::temporary();
    plant::run(&plan, &broker, Monitoring { probes: schedules.clone(), ..Monitoring::default() });
    let (_, answers) = probes::read(&*broker, &plan.name).unwrap().pop_first().unwrap();
    assert_eq!(answers.len(), plan.stages.len());
    (schedules, answers)
}

/// How the last alarm stands.
fn last(alarms: &[Alarm]) -> &Alarm {
    alarms.iter().rfind(|alarm| alarm.state.is_active()).unwrap()
}

/// A stage that answers probes otherwise is proven; those that answer as before are cleared.
#[test]
fn probes_prove_and_clear() {
    let changes = Changes { pair: Some(CHANGE), ..Changes::default() };
    let (schedules, answers) = recorded(changes);
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let plan = plant::plan(changes, 2, HEALTHY, RUN, "", PROBES);
    let (status, alarms, broker) = watched_with(&plan, &baseline, schedules, answers);
    let alarm = last(&alarms);
    assert!(alarm.summary.starts_with("began in `pair` (it answers probes otherwise"), "{}", alarm.summary);
    assert!(!alarm.examples.is_empty());
    for id in alarms.iter().flat_map(|alarm| &alarm.examples) {
        let place = TopicPartition::new(id.topic.clone(), id.partition);
        let mut messages = records(&*broker, place).unwrap().map(Result::unwrap);
        let example = messages.find(|message| message.offset == id.offset).unwrap();
        assert!(!wire::is_probe(&example), "{id:?}: what users sent is an example, not a probe");
    }
    let found = |name: &str| {
        let node = alarm.nodes.iter().find(|found| found.node.as_str() == name).unwrap();
        (node.probes, node.verdict)
    };
    assert_eq!(found("pair"), (Probes::Different, Verdict::StageChanged));
    assert_ne!(found("scale").0, Probes::Different);
    // What it reads is not what it read before, so its answers say nothing.
    assert_eq!(found("paint").0, Probes::None);
    assert!(status.notes.iter().any(|note| note.starts_with("pair answers probes otherwise")), "{:?}", status.notes);
}

/// Something moves in what a stage reads that no signal shows: by the tables the stage has changed, by the probes it has not.
#[test]
fn what_is_hidden_in_the_input_is_not_laid_at_the_stage() {
    let changes = Changes::default();
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let plan = plant::plan(changes, 2, HEALTHY, RUN, &format!("hidden_from = {CHANGE}"), PROBES);
    let (_, alarms, _) = watched(&plan, &baseline);
    assert!(last(&alarms).summary.starts_with("began in `scale`"), "without probes: {}", last(&alarms).summary);

    let (schedules, answers) = recorded(changes);
    let (_, alarms, _) = watched_with(&plan, &baseline, schedules, answers);
    let alarm = last(&alarms);
    let scale = alarm.nodes.iter().find(|found| found.node.as_str() == "scale").unwrap();
    assert_eq!((scale.probes, scale.verdict), (Probes::Same, Verdict::HiddenInput), "{}", alarm.summary);
    assert!(alarm.summary.starts_with("began in `parts`"), "{}", alarm.summary);
    // Pairs hold the same numbers.
    let said = "`scale`, `pair` unchanged by the probes: all that they write otherwise comes from `parts`";
    assert!(alarm.summary.contains(said), "{}", alarm.summary);
}

/// What a stage writes otherwise though the probes clear it counts at the source, beside a change that comes later. Without probes it is
/// taken for a leak through the width of the cells, and counts nowhere.
#[test]
fn what_a_cleared_stage_writes_otherwise_has_its_share_at_the_source() {
    let changes = Changes { paint: Some(CHANGE + 12), ..Changes::default() };
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let source = format!("hidden_from = {CHANGE}\nwider_from = {CHANGE}");
    let plan = plant::plan(changes, 2, HEALTHY, RUN, &source, PROBES);
    let shares = |schedules, answers| {
        let (_, alarms, _) = watched_with(&plan, &baseline, schedules, answers);
        let alarm = last(&alarms);
        assert!(alarm.summary.starts_with("began in `parts`"), "{}", alarm.summary);
        let [trace] = alarm.traces.as_slice() else { panic!("one last stage") };
        trace.shares.iter().map(|share| (share.node.clone(), share.share)).collect::<BTreeMap<_, _>>()
    };
    let without = shares(BTreeMap::new(), Answers::new());
    let (schedules, answers) = recorded(changes);
    let with = shares(schedules, answers);
    assert_eq!((without["scale"], with["scale"]), (0.0, 0.0));
    assert!(with["parts"] > without["parts"] + 0.1 && with["paint"] > 0.1, "{without:?}, {with:?}");
}

/// What is hidden in the input of an early stage does not come from a later one, though that is proven to have changed.
#[test]
fn what_is_hidden_before_the_origin_does_not_come_from_it() {
    let changes = Changes { paint: Some(CHANGE + 12), ..Changes::default() };
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let plan = plant::plan(changes, 2, HEALTHY, RUN, &format!("hidden_from = {CHANGE}"), PROBES);
    let (schedules, answers) = recorded(changes);
    let (_, alarms, _) = watched_with(&plan, &baseline, schedules, answers);
    let said = "`scale` unchanged by the probes: something moved in the input that its cells do not show";
    assert!(last(&alarms).summary.contains(said), "{}", last(&alarms).summary);
}

#[test]
fn an_ignored_signal_calls_nobody() {
    let changes = Changes { paint: Some(CHANGE), ..Changes::default() };
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let monitor = format!("{MONITOR}\nignore = [\"part.colour\", \"part.taste\"]");
    let (status, _, _) = watched(&plant::plan(changes, 2, HEALTHY, RUN, "", &monitor), &baseline);
    assert!(status.watched.iter().all(|(_, what, _)| what.signal() != Some("part.colour")), "{:?}", status.watched);
    let note = "monitor.ignore: found \"part.taste\", which is no signal of the reference, allowed are \"part.colour\", \
                \"part.material\", \"part.weight\", \"part.width\"";
    assert_eq!(status.notes, [note]);
}

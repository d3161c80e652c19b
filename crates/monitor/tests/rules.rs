//! Rules: pending, firing, resolved; with a reference and without.

#![allow(clippy::unwrap_used, reason = "tests")]

mod plant;

use std::sync::Arc;

use driftline_broker::{Broker, records};
use driftline_monitor::{Alarm, AlarmState, Baseline, Monitor, ProfileMessage, Settings, Severity, alertmanager};
use driftline_pipeline::Plan;
use driftline_runtime::Monitoring;
use driftline_stats::{Profile, References};
use driftline_types::{Message, StageName, StageVersion, Timestamp, TopicPartition, wire};
use plant::Changes;

const RULES: &str = r#"
[[monitor.rules]]
name = "gold"
stage = "paint"
signal = "output:part.colour"
statistic = "share of gold"
above = 0.4
for = "3 windows"
min_records = 20
severity = "critical"

[[monitor.rules]]
name = "quiet"
stage = "parts"
statistic = "count"
below = 50

[[monitor.rules]]
name = "nobody"
stage = "paint"
signal = "output:part.unheard-of"
statistic = "mean"
above = 0
"#;

/// Runs a plant on declared scales, with rules alone.
fn watch(changes: Changes, source: &str, windows: u64) -> (Monitor, Vec<Alarm>) {
    watch_by(RULES, changes, source, windows)
}

fn watch_by(rules: &str, changes: Changes, source: &str, windows: u64) -> (Monitor, Vec<Alarm>) {
    let plan = plant::plan(changes, 3, 0, windows, source, rules);
    assert!(plan.monitor.is_on());
    let broker = plant::temporary();
    plant::run(&plan, &broker, Monitoring::default());
    let none = Baseline::none(plan.name.clone(), plan.monitor.window.0);
    judged(&plan, none, &profiles(&plan, &*broker))
}

fn judged(plan: &Plan, none: Baseline, profiles: &[ProfileMessage]) -> (Monitor, Vec<Alarm>) {
    let mut monitor = Monitor::new(Settings::of(plan), Arc::new(none));
    let mut alarms = Vec::new();
    for message in profiles {
        monitor.take(message);
        monitor.close_complete();
        alarms.extend(monitor.take_changes().1);
    }
    monitor.close_all();
    alarms.extend(monitor.take_changes().1);
    (monitor, alarms)
}

/// What a run wrote down of itself.
fn profiles(plan: &Plan, broker: &dyn Broker) -> Vec<ProfileMessage> {
    let messages = records(broker, TopicPartition::new(plan.name.profiles_topic(), 0)).unwrap().map(Result::unwrap);
    let profile = |message: Message| ProfileMessage {
        offset: message.offset,
        partition: message.headers.get_str(wire::PARTITION).unwrap().parse().unwrap(),
        node: None,
        start: message.timestamp,
        value: message.value.unwrap(),
    };
    messages.map(profile).collect()
}

fn life(alarms: &[Alarm], id: &str) -> Vec<(AlarmState, i64)> {
    let of_it = alarms.iter().filter(|alarm| alarm.id == id);
    of_it.map(|alarm| (alarm.state, alarm.updated.as_millis() / plant::WINDOW)).collect()
}

#[test]
fn a_threshold_fires_after_as_many_windows_as_it_says() {
    let (monitor, alarms) = watch(Changes { paint: Some(10), ..Changes::default() }, "", 30);
    assert_eq!(life(&alarms, "rule-gold-1"), [(AlarmState::Pending, 11), (AlarmState::Firing, 13)]);
    let alarm = alarms.last().unwrap();
    assert_eq!((alarm.severity, alarm.origin.as_ref().map(StageName::as_str)), (Severity::Critical, Some("paint")));
    assert!(alarm.summary.starts_with("share of gold of `paint output:part.colour` is 0."), "{}", alarm.summary);
    assert_eq!(monitor.report().rules.len(), 3);
}

#[test]
fn what_fired_and_was_over_before_anybody_looked_is_told_of_in_both_states() {
    let rule = |above: f64| {
        format!(
            "[[monitor.rules]]\nname = \"wide\"\nstage = \"paint\"\nsignal = \"output:part.width\"\n\
             statistic = \"mean\"\nabove = {above}\n"
        )
    };
    let plan_of = |above| plant::plan(Changes::default(), 3, 0, 12, "", &rule(above));
    let (plan, broker) = (plan_of(0.0), plant::temporary());
    plant::run(&plan, &broker, Monitoring::default());
    let profiles = profiles(&plan, &*broker);
    let mut over = 0;
    // Among these thresholds are some that a window is above and the next is not.
    for above in (0..300).map(|step| f64::from(step) / 100.0) {
        let plan = plan_of(above);
        let none = Arc::new(Baseline::none(plan.name.clone(), plan.monitor.window.0));
        let [mut watched, mut looked_at] = [(); 2].map(|()| Monitor::new(Settings::of(&plan), Arc::clone(&none)));
        let mut alarms = Vec::new();
        for message in &profiles {
            watched.take(message);
            watched.close_complete();
            alarms.extend(watched.take_changes().1);
            looked_at.take(message);
        }
        watched.close_all();
        alarms.extend(watched.take_changes().1);
        looked_at.close_all();
        assert_eq!(looked_at.take_changes().1, alarms, "{above}");
        let sentence = looked_at.status().sentence;
        assert_eq!(sentence, watched.status().sentence);
        if alarms.last().is_some_and(|alarm| alarm.state == AlarmState::Resolved) {
            over += 1;
            assert!(sentence.contains("; rule-wide-") && sentence.contains(" fired at "), "{sentence}");
        }
    }
    assert!(over > 0);
}

#[test]
fn a_rule_that_fits_nothing_is_told_of_once_with_what_there_is() {
    let rule = |name: &str, signal: &str, statistic: &str, more: &str| {
        format!(
            "[[monitor.rules]]\nname = \"{name}\"\nstage = \"paint\"\nsignal = \"output:{signal}\"\n\
             statistic = \"{statistic}\"\nabove = 0\n{more}\n"
        )
    };
    let rules = [
        rule("nobody", "part.unheard-of", "mean", ""),
        rule("painted", "part.colour", "p50", ""),
        rule("wide", "part.width", "share of gold", ""),
        rule("missing", "part.weight", "missing", ""),
        rule("many", "part.width", "mean", "min_records = 1000"),
    ];
    let (monitor, _) = watch_by(&rules.concat(), Changes::default(), "", 10);
    let starts = [
        "rule nobody: signal: found \"output:part.unheard-of\", allowed are \"output:part.colour\", \"output:part.m",
        "rule painted: statistic: found \"p50\", output:part.colour is a category, allowed are \"missing\" and \"share",
        "rule wide: statistic: found \"share of gold\", output:part.width is a number, allowed are \"mean\", ",
        "rule many: no window had mean of `paint output:part.width` of 1000 records or more",
    ];
    let notes = monitor.status().notes;
    assert_eq!(notes.len(), starts.len(), "{notes:?}");
    assert!(notes.iter().zip(starts).all(|(note, start)| note.starts_with(start)), "{notes:?}");
    assert!(notes.iter().all(|note| !note.ends_with("times)")), "{notes:?}");
}

#[test]
fn the_alarm_of_a_rule_that_was_deleted_is_over() {
    let changes = Changes { paint: Some(10), ..Changes::default() };
    let plan = plant::plan(changes, 3, 0, 30, "", RULES);
    let broker = plant::temporary();
    plant::run(&plan, &broker, Monitoring::default());
    let none = || Arc::new(Baseline::none(plan.name.clone(), plan.monitor.window.0));
    let mut monitor = Monitor::new(Settings::of(&plan), none());
    profiles(&plan, &*broker).iter().for_each(|message| monitor.take(message));
    monitor.close_complete();
    let (changes, alarms) = monitor.take_changes();
    assert_eq!(alarms.last().map(|alarm| alarm.state), Some(AlarmState::Firing));
    let entries: Vec<_> = changes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();

    let mut later = Monitor::new(Settings { rules: Vec::new(), ..Settings::of(&plan) }, none());
    later.restore(&entries).unwrap();
    let (_, alarms) = later.take_changes();
    assert_eq!(
        alarms.iter().map(|alarm| (alarm.id.as_str(), alarm.state)).collect::<Vec<_>>(),
        [("rule-gold-1", AlarmState::Resolved)]
    );
    assert!(later.status().alarms.is_empty());
}

#[test]
fn one_window_of_few_records_fires_and_is_over() {
    let (monitor, alarms) = watch(Changes::default(), "lone = 12", 30);
    assert_eq!(life(&alarms, "rule-quiet-1"), [(AlarmState::Firing, 13), (AlarmState::Resolved, 14)]);
    let [fired, over] = [13_000, 14_000].map(Timestamp::from_millis);
    let expected =
        format!("no rule is broken: 3 rules over 30 windows; rule-quiet-1 fired at {fired} and was over at {over}");
    assert_eq!(monitor.status().sentence, expected);
}

/// Where a node ran in two versions, what stands for the window is not all that it saw.
#[test]
fn no_rule_is_judged_on_a_node_that_is_not_whole() {
    let plan = plant::plan(Changes::default(), 3, 0, 30, "lone = 12", RULES);
    let broker = plant::temporary();
    plant::run(&plan, &broker, Monitoring::default());
    let mut messages = profiles(&plan, &*broker);
    let decoded = |message: &ProfileMessage| Profile::decode(&message.value, &References::default()).unwrap();
    let is_lone = |message: &ProfileMessage| {
        message.start == Timestamp::from_millis(12_000) && decoded(message).key.stage.as_str() == "parts"
    };
    let at = messages.iter().position(is_lone).unwrap();
    let mut profile = decoded(&messages[at]);
    profile.key.version = StageVersion::try_new("deployed").unwrap();
    messages.insert(at, ProfileMessage { value: profile.encode().into(), ..messages[at].clone() });
    messages.iter_mut().enumerate().for_each(|(at, message)| message.offset = at as u64);
    let none = Baseline::none(plan.name.clone(), plan.monitor.window.0);
    let (monitor, alarms) = judged(&plan, none, &messages);
    assert_eq!(life(&alarms, "rule-quiet-1"), []);
    let notes = monitor.status().notes;
    assert!(notes.iter().any(|note| note.starts_with("parts ran in the versions ")), "{notes:?}");
}

#[test]
fn receivers_are_told_what_fires_and_what_is_over() {
    let (_, alarms) = watch(Changes::default(), "lone = 12", 30);
    let bodies: Vec<_> = alarms.iter().map(|alarm| alertmanager(alarm).unwrap()).collect();
    let status = |at: usize| bodies[at]["alerts"][0]["status"].clone();
    assert_eq!((status(0), status(1)), ("firing".into(), "resolved".into()));
    assert_eq!(bodies[0]["version"], "4");
    assert_eq!(bodies[0]["alerts"][0]["labels"]["alertname"], "driftline-rule-quiet");
    assert_eq!(bodies[0]["alerts"][0]["startsAt"], Timestamp::from_millis(13_000).to_string());
    assert_eq!(bodies[0]["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(bodies[1]["alerts"][0]["endsAt"], Timestamp::from_millis(14_000).to_string());
    assert_eq!(bodies[0]["alerts"][0]["fingerprint"], bodies[1]["alerts"][0]["fingerprint"]);
    let (_, alarms) = watch(Changes { paint: Some(10), ..Changes::default() }, "", 12);
    assert_eq!(life(&alarms, "rule-gold-1"), [(AlarmState::Pending, 11)]);
    assert_eq!(alertmanager(&alarms[0]), None, "nobody is called for what is pending");
}

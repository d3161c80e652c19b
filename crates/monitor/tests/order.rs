//! What the monitor says does not depend on how profiles were split or ordered, nor on where it was stopped and started again; and
//! what is wrong with a profile is told of and is no alarm.

#![allow(clippy::unwrap_used, reason = "tests")]

mod plant;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use driftline_broker::records;
use driftline_monitor::{Alarm, AlarmState, Baseline, Monitor, ProfileMessage, Settings};
use driftline_pipeline::Plan;
use driftline_stats::{Profile, ProfileBody, ProfileKey, ProfileSet, Reference, Window};
use driftline_types::{StageName, StageVersion, Timestamp, TopicPartition, wire};
use plant::Changes;
use proptest::prelude::*;

const HEALTHY: u64 = 100;
const RUN: u64 = 40;
const CHANGE: u64 = HEALTHY + 15;
const CHANGES: Changes = Changes { scale: None, pair: None, paint: Some(CHANGE) };

/// A baseline, and the profiles of a run in which a stage changed.
struct Recorded {
    plan: Plan,
    baseline: Arc<Baseline>,
    messages: Vec<ProfileMessage>,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| recorded("", CHANGES));

fn recorded(source: &str, changes: Changes) -> Recorded {
    recorded_over(RUN, source, changes)
}

fn recorded_over(windows: u64, source: &str, changes: Changes) -> Recorded {
    let baseline = Arc::new(plant::baseline(changes, HEALTHY));
    let plan = plant::plan(changes, 2, HEALTHY, windows, source, "");
    let broker = plant::temporary();
    plant::run(&plan, &broker, plant::bins(&plan, &baseline));
    let place = TopicPartition::new(plan.name.profiles_topic(), 0);
    let message = |message: driftline_types::Message| ProfileMessage {
        offset: message.offset,
        partition: message.headers.get_str(wire::PARTITION).unwrap().parse().unwrap(),
        node: StageName::try_new(std::str::from_utf8(message.key.as_ref().unwrap()).unwrap()).ok(),
        start: message.timestamp,
        value: message.value.unwrap(),
    };
    let messages = records(&*broker, place).unwrap().map(|record| message(record.unwrap())).collect();
    Recorded { plan, baseline, messages }
}

impl Recorded {
    fn monitor(&self) -> Monitor {
        self.warming(0)
    }

    /// A monitor that judges no window of the first so many.
    fn warming(&self, warm_up: u64) -> Monitor {
        Monitor::new(Settings { warm_up, ..Settings::of(&self.plan) }, Arc::clone(&self.baseline))
    }

    /// Feeds messages, judging windows as they are complete, and the rest at the end.
    fn watch(&self, messages: &[ProfileMessage]) -> (Monitor, Vec<Alarm>) {
        Self::watch_by(self.monitor(), messages)
    }

    fn watch_by(mut monitor: Monitor, messages: &[ProfileMessage]) -> (Monitor, Vec<Alarm>) {
        let mut alarms = Vec::new();
        for message in messages {
            monitor.take(message);
            monitor.close_complete();
            alarms.extend(monitor.take_changes().1);
        }
        monitor.close_all();
        alarms.extend(monitor.take_changes().1);
        (monitor, alarms)
    }
}

/// What an alarm says, without what depends on when it is written.
fn said(alarms: &[Alarm]) -> Vec<(String, AlarmState, String, Timestamp)> {
    alarms.iter().map(|alarm| (alarm.id.clone(), alarm.state, alarm.summary.clone(), alarm.updated)).collect()
}

#[test]
fn the_recorded_change_is_seen() {
    let before = RECORDED.monitor().report();
    assert!(before.nodes.iter().all(|node| node.verdict.is_none()), "nothing was judged yet");
    let (monitor, alarms) = RECORDED.watch(&RECORDED.messages);
    assert!(alarms.iter().any(|alarm| alarm.state == AlarmState::Firing), "{}", monitor.status().sentence);
    assert!(monitor.status().sentence.starts_with("began in `paint`"), "{}", monitor.status().sentence);
    assert_eq!(monitor.status().notes, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Stopped after any message, with what was written until then, and started again; the first windows may be a warm-up.
    #[test]
    fn a_restart_anywhere_changes_nothing(
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..4), warm_up in 0u64..12,
    ) {
        let recorded = &*RECORDED;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(recorded.messages.len())).collect();
        cuts.sort_unstable();
        let (whole, expected) = Recorded::watch_by(recorded.warming(warm_up), &recorded.messages);
        prop_assert_eq!(whole.status().windows, RUN - warm_up);

        let mut entries: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let mut committed = 0;
        let mut alarms = Vec::new();
        let mut monitor = recorded.warming(warm_up);
        for end in cuts.into_iter().chain([recorded.messages.len()]) {
            monitor = recorded.warming(warm_up);
            monitor.restore(&entries.clone().into_iter().collect::<Vec<_>>()).unwrap();
            let from = committed;
            for message in recorded.messages[..end].iter().filter(|message| message.offset >= from) {
                monitor.take(message);
                if monitor.close_complete() > 0 {
                    let (changes, raised) = monitor.take_changes();
                    for (key, value) in changes {
                        match value {
                            Some(value) => drop(entries.insert(key, value)),
                            None => drop(entries.remove(&key)),
                        }
                    }
                    alarms.extend(raised);
                    committed = monitor.needed_from().unwrap_or(committed);
                }
            }
        }
        monitor.close_all();
        alarms.extend(monitor.take_changes().1);
        prop_assert_eq!(said(&alarms), said(&expected));
        prop_assert_eq!(monitor.status().sentence, whole.status().sentence);
        prop_assert_eq!(monitor.status().evidence, whole.status().evidence);
    }

    /// Profiles in any order and merged in any groups, as fewer replicas would have written them; judged once all are there.
    #[test]
    fn order_and_replicas_do_not_matter(seed in any::<u64>(), groups in 1usize..5) {
        let recorded = &*RECORDED;
        let judged = |messages: &[ProfileMessage]| {
            let mut monitor = recorded.monitor();
            messages.iter().for_each(|message| monitor.take(message));
            monitor.close_all();
            (said(&monitor.take_changes().1), monitor.status().sentence, monitor.status().evidence)
        };
        // Neighbours of the same node, window and side become one profile.
        let references = recorded.baseline.references();
        let mut merged: Vec<(Profile, ProfileMessage)> = Vec::new();
        for message in &recorded.messages {
            let profile = Profile::decode(&message.value, &references).unwrap();
            let same = |other: &&mut (Profile, ProfileMessage)| {
                other.0.key == profile.key && other.0.body.direction() == profile.body.direction()
            };
            match merged.iter_mut().rev().take(groups * 8).find(same) {
                Some((held, _)) => held.merge(&profile).unwrap(),
                None => merged.push((profile, message.clone())),
            }
        }
        let mut shuffled: Vec<ProfileMessage> =
            merged.into_iter().map(|(profile, message)| ProfileMessage { value: profile.encode().into(), ..message }).collect();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        prop_assert_eq!(judged(&shuffled), judged(&recorded.messages));
    }
}

/// A healthy run with one message more, in its middle.
fn healthy_with(extra: impl Fn(&Recorded, &ProfileMessage) -> ProfileMessage) -> (Monitor, Vec<Alarm>) {
    static HEALTHY_RUN: LazyLock<Recorded> = LazyLock::new(|| recorded("", Changes::default()));
    let recorded = &*HEALTHY_RUN;
    let mut messages = recorded.messages.clone();
    // As of nodes that keep step: else it hangs on how their threads took turns what was closed by the middle.
    messages.sort_by_key(|message| message.start);
    let middle = messages.len() / 2;
    messages.insert(middle, extra(recorded, &messages[middle]));
    messages.iter_mut().enumerate().for_each(|(at, message)| message.offset = at as u64);
    let (monitor, alarms) = recorded.watch(&messages);
    let windows = monitor.status().windows;
    assert!(windows >= RUN, "{windows} windows: none is lost");
    (monitor, alarms)
}

fn foreign(recorded: &Recorded, like: &ProfileMessage, change: impl Fn(&mut ProfileKey)) -> ProfileMessage {
    let mut profile = Profile::decode(&like.value, &recorded.baseline.references()).unwrap();
    change(&mut profile.key);
    ProfileMessage { value: profile.encode().into(), ..like.clone() }
}

fn told(monitor: &Monitor, what: &str) {
    let notes = monitor.status().notes;
    assert!(notes.iter().any(|note| note.contains(what)), "{what:?} is not in {notes:?}");
}

#[test]
fn a_corrupted_profile_is_told_of() {
    let (monitor, alarms) =
        healthy_with(|_, like| ProfileMessage { value: Bytes::from_static(b"\x01\x01junk"), ..like.clone() });
    assert_eq!(said(&alarms), []);
    told(&monitor, "cannot be read: profile at byte");
}

#[test]
fn a_profile_on_an_unknown_reference_is_told_of() {
    let (monitor, alarms) = healthy_with(|recorded, like| {
        let mut profile = Profile::decode(&like.value, &recorded.baseline.references()).unwrap();
        let other = plant::baseline(Changes::default(), 70);
        let reference: Arc<Reference> = Arc::clone(&other.node(&profile.key.stage).unwrap().output);
        let mut set = ProfileSet::new(reference);
        set.observe(plant::show_one);
        profile.body = ProfileBody::Output(set);
        ProfileMessage { value: profile.encode().into(), ..like.clone() }
    });
    assert_eq!(said(&alarms), []);
    told(&monitor, "reference");
}

#[test]
fn a_clock_that_is_a_day_ahead_harms_only_its_own_window() {
    const DAY: i64 = 86_400_000;
    let (monitor, alarms) = healthy_with(|recorded, like| {
        let mut message = foreign(recorded, like, |key| {
            key.window = Window { start: key.window.start.plus_millis(DAY), millis: key.window.millis };
        });
        message.start = message.start.plus_millis(DAY);
        message
    });
    assert_eq!(said(&alarms), []);
    assert_eq!(monitor.status().windows, RUN, "the strange window waits for the next run");
    told(&monitor, "1 window still open");
    assert!(monitor.status().notes.iter().all(|note| !note.contains("came after")), "{:?}", monitor.status().notes);
}

#[test]
fn a_profile_that_comes_too_late_is_told_of() {
    let (monitor, alarms) = healthy_with(|recorded, like| {
        let mut message = foreign(recorded, like, |key| {
            key.window =
                Window { start: Timestamp::from_millis(HEALTHY as i64 * plant::WINDOW), millis: key.window.millis };
        });
        message.start = Timestamp::from_millis(HEALTHY as i64 * plant::WINDOW);
        message
    });
    assert_eq!(said(&alarms), []);
    told(&monitor, "came after the window was closed");
}

#[test]
fn another_version_in_the_same_window_is_told_of() {
    let (monitor, alarms) = healthy_with(|recorded, like| {
        foreign(recorded, like, |key| key.version = StageVersion::try_new("deployed").unwrap())
    });
    assert_eq!(said(&alarms), []);
    told(&monitor, " ran in the versions ");
}

#[test]
fn a_change_that_lasts_keeps_the_time_when_it_began() {
    let recorded = recorded_over(150, "", CHANGES);
    let (_, alarms) = recorded.watch(&recorded.messages);
    let onsets: Vec<Timestamp> = alarms.iter().filter_map(|alarm| alarm.onset).collect();
    let began = Timestamp::from_millis(CHANGE as i64 * plant::WINDOW);
    assert!(onsets.len() > 5, "it fires again while it lasts: {onsets:?}");
    assert!(onsets.iter().all(|onset| *onset == began), "{onsets:?}");
    let last = alarms.last().unwrap().updated;
    assert!(last > began.plus_millis(100 * plant::WINDOW), "{last}");
}

/// While the first alarm is held, something else changes: it is an alarm of its own, with its own time.
#[test]
fn another_change_is_another_alarm() {
    let second = CHANGE + 18;
    let changes = Changes { paint: Some(second), ..Changes::default() };
    let recorded = recorded_over(60, "", changes);
    let missing = recorded_over(60, &format!("strange = \"missing\"\nstrange_from = {CHANGE}"), changes);
    let over = Timestamp::from_millis((CHANGE as i64 + 10) * plant::WINDOW);
    let mut messages: Vec<ProfileMessage> =
        missing.messages.into_iter().filter(|message| message.start < over).collect();
    messages.extend(recorded.messages.iter().filter(|message| message.start >= over).cloned());
    messages.iter_mut().enumerate().for_each(|(at, message)| message.offset = at as u64);
    let (_, alarms) = recorded.watch(&messages);
    let life = |id: &str| -> Vec<(AlarmState, Option<i64>, Option<&str>)> {
        let of_it = alarms.iter().filter(|alarm| alarm.id == id && alarm.state != AlarmState::Pending);
        let onset = |alarm: &Alarm| alarm.onset.map(|onset| onset.as_millis() / plant::WINDOW);
        let mut life: Vec<_> =
            of_it.map(|alarm| (alarm.state, onset(alarm), alarm.origin.as_ref().map(StageName::as_str))).collect();
        life.dedup();
        life
    };
    let [first, last] = [CHANGE, second].map(|window| Some(window as i64));
    let expected = [(AlarmState::Firing, first, Some("parts")), (AlarmState::Resolved, first, Some("parts"))];
    assert_eq!(life("drift-1"), expected, "{alarms:?}");
    assert_eq!(life("drift-2")[0], (AlarmState::Firing, last, Some("paint")));
}

/// What has changed long ago and calls nobody, because it is small, neither hides nor dates what is large.
#[test]
fn a_harmless_change_does_not_date_a_large_one() {
    let later = CHANGE + 25;
    let source = format!("wider_from = {CHANGE}\nstrange = \"missing\"\nstrange_from = {later}");
    let recorded = recorded_over(60, &source, Changes::default());
    let settings = Settings { tolerance: 0.4, ..Settings::of(&recorded.plan) };
    let monitor = Monitor::new(settings, Arc::clone(&recorded.baseline));
    let (_, alarms) = Recorded::watch_by(monitor, &recorded.messages);
    let pending = alarms.iter().find(|alarm| alarm.state == AlarmState::Pending).unwrap();
    assert!(pending.since < Timestamp::from_millis(later as i64 * plant::WINDOW), "{pending:?}");
    let alarm = alarms.iter().find(|alarm| alarm.state == AlarmState::Firing).unwrap();
    assert_eq!(alarm.onset, Some(Timestamp::from_millis(later as i64 * plant::WINDOW)), "{alarm:?}");
    assert_eq!(alarm.signals[0].what.signal(), Some("part.weight"), "{}", alarm.summary);
}

#[test]
fn a_window_with_one_record_is_no_alarm() {
    let recorded = recorded(&format!("lone = {}", HEALTHY + 20), Changes::default());
    let (monitor, alarms) = recorded.watch(&recorded.messages);
    assert_eq!((said(&alarms), monitor.status().notes), (vec![], vec![]));
    assert_eq!(monitor.status().windows, RUN);
}

/// One signal never varies in a plant at all; here others become strange, which is a change and is said to be one.
#[test]
fn missing_values_and_new_categories_are_named() {
    for (strange, said) in [("missing", "missing"), ("unseen", "new values 0 % → 100 %")] {
        let recorded = recorded(&format!("strange = \"{strange}\"\nstrange_from = {CHANGE}"), Changes::default());
        let (monitor, alarms) = recorded.watch(&recorded.messages);
        let alarm = alarms.iter().find(|alarm| alarm.state == AlarmState::Firing).unwrap();
        assert_eq!(alarm.origin.as_ref().map(StageName::as_str), Some("parts"), "{}", monitor.status().sentence);
        assert!(alarm.signals.iter().any(|signal| signal.change.contains(said)), "{:?}", alarm.signals);
    }
}

#[test]
fn a_single_record_of_a_new_category_is_no_alarm() {
    let recorded = recorded(&format!("strange = \"one\"\nstrange_from = {CHANGE}"), Changes::default());
    let (monitor, alarms) = recorded.watch(&recorded.messages);
    assert!(alarms.iter().all(|alarm| !alarm.state.is_active()), "{}", monitor.status().sentence);
}

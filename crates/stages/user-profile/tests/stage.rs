//! What the stage makes of a user's events does not depend on how they were batched, nor on where the
//! process was killed and its state restored; what cannot be true is refused, whoever says it how often;
//! who asks for it is forgotten; with another model a history means the same categories.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use driftline_models::{
    parameters::Parameters,
    profile::{Action, CALIBRATION, CATEGORIES_FILE, Network, WEIGHTS_FILE},
};
use driftline_payloads::{Answer, ClickEvent, ClickKind, UserProfile};
use driftline_stage::{
    OpenStage, Payload, StageDef,
    operator::{Counts, Effects, Operator, Site},
};
use driftline_types::{Headers, Message, PipelineName, StageName, StageVersion, Timestamp, Topic, wire};
use driftline_user_profile::UserProfileKind;
use proptest::prelude::*;

const NOW: i64 = 1_794_787_200_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn click(user: &str, kind: ClickKind, product: u32, category: &str, time_ms: i64) -> ClickEvent {
    let named = !matches!(kind, ClickKind::Visit | ClickKind::Erase);
    let product = (named && kind != ClickKind::Search).then(|| format!("P-{product:05}"));
    ClickEvent::try_new(user.to_owned(), kind, product, named.then(|| category.to_owned()), time_ms).unwrap()
}

fn message(offset: usize, key: &str, value: Bytes) -> Message {
    Message {
        topic: Topic::try_new("recommend.shop").unwrap(),
        partition: 0,
        offset: offset as u64,
        key: Some(key.to_owned().into()),
        value: Some(value),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(NOW),
    }
}

fn messages(events: &[ClickEvent]) -> Vec<Message> {
    let message = |(offset, event): (usize, &ClickEvent)| {
        let mut value = BytesMut::new();
        event.encode(&mut value).unwrap();
        message(offset, &event.user, value.freeze())
    };
    events.iter().enumerate().map(message).collect()
}

/// Looks of five users in turn, a minute apart.
fn steady(from_ms: i64, count: i64) -> Vec<ClickEvent> {
    let user = |n: i64| USERS[n as usize % USERS.len()];
    (0..count).map(|n| click(user(n), ClickKind::View, 1, CATEGORIES[0], from_ms + n * 60_000)).collect()
}

fn stage(config: &str) -> Box<dyn OpenStage> {
    StageDef::of::<UserProfileKind>().open(&config.parse().unwrap()).unwrap()
}

fn operator(stage: &dyn OpenStage) -> Box<dyn Operator> {
    stage.instance(Arc::new(Site::new(
        PipelineName::try_new("recommend").unwrap(),
        StageName::try_new("user-profile").unwrap(),
        StageVersion::try_new("test").unwrap(),
        DAY,
    )))
}

/// What the log holds after some batches.
#[derive(Default)]
struct Log {
    /// Id, key and value of each output.
    outputs: Vec<(String, Bytes, Bytes)>,
    state: BTreeMap<Bytes, Bytes>,
    counts: Counts,
    reasons: Vec<String>,
}

impl Log {
    fn commit(&mut self, effects: Effects) {
        for output in effects.outputs {
            let id = output.headers.get_str(wire::CE_ID).unwrap().to_owned();
            self.outputs.push((id, output.key.unwrap(), output.value.unwrap()));
        }
        for change in effects.state {
            match change.value {
                Some(value) => drop(self.state.insert(change.key, value)),
                None => drop(self.state.remove(&change.key)),
            }
        }
        for letter in effects.dead_letters {
            self.reasons.push(letter.headers.get_str(wire::ERROR_REASON).unwrap().to_owned());
        }
        let c = effects.counts;
        self.counts.read += c.read;
        self.counts.used += c.used;
        self.counts.dropped += c.dropped;
        self.counts.rejected += c.rejected;
    }

    fn profiles(&self) -> Vec<UserProfile> {
        self.outputs.iter().map(|(_, _, value)| UserProfile::decode(value).unwrap()).collect()
    }

    /// The users of whom something is kept.
    fn users(&self) -> Vec<String> {
        let names = self.state.keys().filter_map(|key| key.strip_prefix(b"u"));
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

/// Works messages off in batches that end at the cuts; where `restart` is set, the operator is thrown
/// away after the batch and another one restored.
fn work(stage: &dyn OpenStage, messages: &[Message], cuts: &[(usize, bool)]) -> Log {
    let mut log = Log::default();
    let mut now = operator(stage);
    let mut at = 0;
    for &(cut, restart) in cuts.iter().chain([&(messages.len(), false)]) {
        let batch = &messages[at..cut.max(at)];
        at = cut.max(at);
        log.commit(now.process(batch, Duration::ZERO).unwrap());
        if restart {
            now = operator(stage);
            now.restore(log.state.clone().into_iter().collect()).unwrap();
        }
    }
    log
}

/// Works events off from the state that the log holds, as a new process does.
fn go_on(stage: &dyn OpenStage, log: &mut Log, events: &[ClickEvent]) {
    let mut operator = operator(stage);
    operator.restore(log.state.clone().into_iter().collect()).unwrap();
    log.commit(operator.process(&messages(events), Duration::ZERO).unwrap());
}

/// Writes a model that knows these categories and returns the config that names it.
fn model(name: &str, categories: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let mut shapes = Network::shapes(categories.len() + 1);
    shapes.push((CALIBRATION.to_owned(), vec![10], 1.0));
    let (parameters, _) = Parameters::draw(&shapes, 1).unwrap();
    parameters.write(&folder.join(WEIGHTS_FILE)).unwrap();
    fs::write(folder.join(CATEGORIES_FILE), categories.join("\n")).unwrap();
    format!("model = {:?}", folder.to_str().unwrap())
}

const USERS: [&str; 5] = ["ann", "bob", "cat", "dan", "fay"];
const CATEGORIES: [&str; 5] = ["auto/tyres", "auto/care", "baby/prams", "home/kitchen", "not/known"];

prop_compose! {
    /// Few users, so that they meet often, but enough for a clock; times that jump, mostly a little, at times by
    /// months.
    fn event()(
        user in 0u32..6, kind in 0usize..24, product in 0u32..40, category in 0usize..CATEGORIES.len(),
        jump in prop_oneof![8 => 0i64..10 * HOUR, 1 => -3 * HOUR..0, 1 => -100 * DAY..100 * DAY],
    ) -> (u32, ClickKind, u32, usize, i64) {
        // One in 24 asks to be forgotten.
        let kind = if kind == 23 { ClickKind::Erase } else { ClickKind::ALL[kind % 5] };
        (user, kind, product, category, jump)
    }
}

fn stream(events: &[(u32, ClickKind, u32, usize, i64)]) -> Vec<ClickEvent> {
    let mut now = NOW;
    let mut events_of = |&(user, kind, product, category, jump): &_| {
        // The clock of the shop goes on by what is likely; the rest are clocks that run wrong.
        let time = now + jump;
        if (0..10 * HOUR).contains(&jump) {
            now = time;
        }
        click(&format!("user {user}"), kind, product, CATEGORIES[category], time)
    };
    events.iter().map(&mut events_of).collect()
}

#[test]
fn every_event_but_an_erasure_is_an_action_of_the_same_name() {
    for kind in ClickKind::ALL {
        let action = Action::named(kind.name()).map(Action::name);
        assert_eq!(action, (kind != ClickKind::Erase).then_some(kind.name()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn batching_and_crashes_do_not_change_the_output(
        events in prop::collection::vec(event(), 1..160),
        mut cuts in prop::collection::vec((0usize..160, any::<bool>()), 0..12),
        expiry in prop_oneof![Just("60d"), Just("1d")],
    ) {
        let stage = stage(&format!("expiry = \"{expiry}\""));
        let messages = messages(&stream(&events));
        cuts.sort_unstable();
        cuts.retain(|(cut, _)| *cut <= messages.len());
        let whole = work(&*stage, &messages, &[]);
        let parts = work(&*stage, &messages, &cuts);
        prop_assert_eq!(&parts.outputs, &whole.outputs);
        prop_assert_eq!(&parts.reasons, &whole.reasons);
        prop_assert_eq!(parts.counts, whole.counts);
        prop_assert_eq!(parts.counts.read, parts.counts.used + parts.counts.dropped + parts.counts.rejected);
    }
}

#[test]
fn who_looks_at_tyres_has_a_car_and_of_a_stranger_nothing_is_known() {
    let looks =
        (0..12).map(|n| click("ann", ClickKind::View, n, CATEGORIES[n as usize % 2], NOW + i64::from(n) * 30_000));
    let events: Vec<_> = looks.chain([click("bob", ClickKind::Visit, 0, "", NOW + HOUR)]).collect();
    let log = work(&*stage("threshold = 0.9"), &messages(&events), &[]);
    let profiles = log.profiles();
    let ann = &profiles[11];
    assert_eq!(ann.attributes.car.answer, Answer::Yes, "{ann:?}");
    assert_eq!((ann.events, ann.gap_ms, ann.recent.len()), (12, Some(30_000), 12));
    assert!(ann.interests[0].category.starts_with("auto/") && ann.interests[0].weight > 0.4, "{ann:?}");
    let bob = &profiles[12];
    assert_eq!(bob.attributes.car.answer, Answer::Unknown, "{bob:?}");
    assert_eq!((bob.events, bob.gap_ms, bob.interests.len()), (1, None, 0));
}

#[test]
fn profiles_come_after_the_events_that_ask_for_them_and_the_others_are_dropped() {
    let events: Vec<_> = ClickKind::ALL.map(|kind| click("ann", kind, 1, CATEGORIES[0], NOW)).into();
    let log = work(&*stage("emit_on = [\"visit\"]"), &messages(&events), &[]);
    let causes: Vec<_> = log.profiles().iter().map(|profile| profile.cause).collect();
    assert_eq!(causes, [ClickKind::Visit, ClickKind::Erase]);
    assert_eq!((log.counts.used, log.counts.dropped), (2, 4));
}

#[test]
fn an_erasure_leaves_nothing() {
    let mut events = vec![
        click("ann", ClickKind::Buy, 7, CATEGORIES[0], NOW),
        click("bob", ClickKind::View, 8, CATEGORIES[0], NOW),
        click("ann", ClickKind::Erase, 0, "", NOW + 1),
    ];
    let stage = stage("");
    let log = work(&*stage, &messages(&events), &[(1, true), (2, true)]);
    let holds = |log: &Log, name: &str| log.state.keys().any(|key| key.windows(3).any(|part| part == name.as_bytes()));
    assert!(!holds(&log, "ann") && holds(&log, "bob"));
    let erased = log.profiles().pop().unwrap();
    assert_eq!((erased.cause, erased.events, erased.recent.len(), erased.bought.len()), (ClickKind::Erase, 0, 0, 0));
    assert!(erased.attributes.all().iter().all(|estimate| estimate.answer == Answer::Unknown));
    // Whoever comes back is a stranger.
    events.push(click("ann", ClickKind::View, 9, CATEGORIES[3], NOW + 2));
    let back = work(&*stage, &messages(&events), &[(3, true)]).profiles().pop().unwrap();
    assert_eq!((back.events, back.gap_ms, back.recent.len(), back.bought.len()), (1, None, 1, 0));
}

#[test]
fn what_cannot_be_true_is_a_dead_letter_that_says_why() {
    let mut events = steady(NOW, 20);
    events.extend([
        // A little late: counted as of the newest event.
        click("bob", ClickKind::View, 2, CATEGORIES[0], NOW),
        click("bob", ClickKind::View, 3, CATEGORIES[0], NOW - 2 * HOUR),
        click("eve", ClickKind::View, 4, CATEGORIES[0], NOW + 60 * DAY),
        click("eve", ClickKind::View, 5, CATEGORIES[0], NOW - 90 * DAY),
    ]);
    let mut messages = messages(&events);
    messages.push(message(24, "eve", Bytes::from_static(b"{\"user\":\"eve\"}")));
    let other = messages[0].value.clone().unwrap();
    messages.push(message(25, "eve", other));
    let log = work(&*stage(""), &messages, &[(22, true)]);
    assert_eq!(log.profiles().len(), 21);
    assert_eq!(log.profiles()[20].gap_ms, Some(0));
    let expected = ["before the user's newest event", "after the partition's clock", "before the partition's clock"];
    // What cannot be decoded is found first in its batch.
    let reasons: Vec<&String> = log.reasons.iter().filter(|reason| reason.starts_with("time_ms")).collect();
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.contains(expected) && reason.contains("allowed"), "{reason}");
    }
    assert_eq!((reasons.len(), log.reasons.len()), (3, 5));
    assert!(log.reasons.iter().any(|reason| reason.contains("allowed is the user")), "{:?}", log.reasons);
    assert_eq!(log.counts.rejected, 5);
}

#[test]
fn users_of_whom_nothing_comes_are_removed() {
    let mut events = vec![click("ann", ClickKind::View, 1, CATEGORIES[0], NOW)];
    events.extend((0..200).map(|n| click("bob", ClickKind::View, 1, CATEGORIES[0], NOW + n * DAY)));
    let log = work(&*stage(""), &messages(&events), &[(50, true), (100, false)]);
    assert_eq!(log.users(), ["bob"]);
}

#[test]
fn one_clock_that_is_far_ahead_moves_nothing_however_much_it_says() {
    for count in [3, 20] {
        let mut events = steady(NOW, 20);
        events.extend((0..count).map(|n| click("eve", ClickKind::View, 1, CATEGORIES[0], NOW + 300 * DAY + n)));
        events.extend(steady(NOW + HOUR, 20));
        let restarts = [(20, true), (20 + count as usize, true)];
        let log = work(&*stage(""), &messages(&events), &restarts);
        assert_eq!((log.profiles().len(), log.counts.rejected), (40, count as u64), "{:?}", log.reasons);
        assert!(log.reasons.iter().all(|reason| reason.contains("after the partition's clock")), "{:?}", log.reasons);
        assert_eq!(log.users(), USERS);
        // Nobody's history was lost.
        let events: u32 = log.profiles()[35..].iter().map(|profile| profile.events).sum();
        assert_eq!(events, 40);
    }
}

#[test]
fn one_clock_that_is_far_ahead_at_the_start_moves_nothing() {
    let mut events: Vec<_> =
        (0..20).map(|n| click("eve", ClickKind::View, 1, CATEGORIES[0], NOW + 300 * DAY + n)).collect();
    events.extend(steady(NOW, 40));
    let log = work(&*stage(""), &messages(&events), &[(20, true), (30, true)]);
    assert_eq!(log.counts.rejected, 0, "{:?}", log.reasons);
    assert_eq!(log.users(), ["ann", "bob", "cat", "dan", "eve", "fay"]);
}

#[test]
fn users_who_all_moved_on_move_the_clock() {
    let mut events = steady(NOW, 5);
    events.extend(steady(NOW + 200 * DAY, 5));
    let log = work(&*stage(""), &messages(&events), &[(5, true)]);
    // Three are asked before it is believed.
    assert_eq!((log.profiles().len(), log.counts.rejected), (7, 3), "{:?}", log.reasons);
    assert_eq!(log.users(), ["dan", "fay"]);
}

#[test]
fn two_users_have_a_clock() {
    let look = |user: &str, hours: i64| click(user, ClickKind::View, 1, CATEGORIES[0], NOW + hours * HOUR);
    let mut events: Vec<_> = (0..200).map(|n| look(USERS[n as usize % 2], 12 * n)).collect();
    events.extend((0..20).map(|n| look("bob", 2_400 + 300 * 24 + n)));
    events.extend([look("ann", 2_400), look("cat", 0)]);
    let log = work(&*stage(""), &messages(&events), &[(60, true), (150, true), (210, true)]);
    assert_eq!((log.profiles().len(), log.counts.rejected), (201, 21), "{:?}", log.reasons);
    assert!(log.reasons[20].contains("before the partition's clock"), "{:?}", log.reasons);
    assert_eq!(log.users(), ["ann", "bob"]);
}

#[test]
fn nobody_speaks_to_the_clock_in_the_name_of_others() {
    let mut messages = messages(&[steady(NOW, 20), steady(NOW + 300 * DAY, 5), steady(NOW + HOUR, 5)].concat());
    for message in &mut messages[20..25] {
        message.key = Some(Bytes::from_static(b"eve"));
    }
    let log = work(&*stage(""), &messages, &[]);
    assert_eq!((log.profiles().len(), log.counts.rejected), (25, 5), "{:?}", log.reasons);
    assert_eq!(log.users(), USERS);
}

/// The categories of the last profile's history.
fn recent(log: &Log) -> Vec<Option<String>> {
    log.profiles().pop().unwrap().recent.into_iter().map(|past| past.category).collect()
}

fn named(categories: &[&str]) -> Vec<Option<String>> {
    let named = |name: &&str| Some((*name).to_owned()).filter(|name| !name.is_empty());
    categories.iter().map(named).collect()
}

#[test]
fn with_another_model_a_history_means_the_same_categories() {
    let (bundled, own) = (stage(""), stage(&model("three-categories", &["baby/prams", "pet/food", "auto/tyres"])));
    let view = |user: &str, category: &str, after: i64| click(user, ClickKind::View, 1, category, NOW + after);
    let visit = |user: &str, after: i64| click(user, ClickKind::Visit, 0, "", NOW + after);
    let looks = ["auto/tyres", "home/kitchen", "auto/tyres", "auto/care", "baby/prams"];
    let mut events = vec![view("bob", "home/kitchen", 0)];
    events.extend(looks.iter().zip(0..).map(|(category, after)| view("ann", category, after)));
    let mut log = work(&*bundled, &messages(&events), &[]);
    assert_eq!(recent(&log), named(&looks));
    let before = log.profiles().pop().unwrap();
    go_on(&*own, &mut log, &[visit("ann", 10)]);
    assert_eq!(recent(&log), named(&["auto/tyres", "", "auto/tyres", "", "baby/prams", ""]));
    let profile = log.profiles().pop().unwrap();
    let interests: Vec<&str> = profile.interests.iter().map(|interest| &*interest.category).collect();
    assert_eq!(interests, ["auto/tyres", "baby/prams"]);
    assert!((profile.activity - before.activity).abs() < 1e-3, "{profile:?} {before:?}");
    // Once more, now that the state has histories of both.
    go_on(&*own, &mut log, &[visit("ann", 20)]);
    assert_eq!(recent(&log), named(&["auto/tyres", "", "auto/tyres", "", "baby/prams", "", ""]));
    // And back: who did not come meanwhile has lost nothing.
    go_on(&*bundled, &mut log, &[visit("ann", 30)]);
    assert_eq!(recent(&log), named(&["auto/tyres", "", "auto/tyres", "", "baby/prams", "", "", ""]));
    go_on(&*bundled, &mut log, &[visit("bob", 40)]);
    assert_eq!(recent(&log), named(&["home/kitchen", ""]));
}

#[test]
fn histories_from_before_the_names_were_kept_are_the_models() {
    let (bundled, own) = (stage(""), stage(&model("one-category", &["pet/food"])));
    let look = click("ann", ClickKind::View, 1, "auto/tyres", NOW);
    let mut log = work(&*bundled, &messages(&[look]), &[]);
    log.state.retain(|key, _| key[0] != b'n');
    let error = operator(&*own).restore(log.state.clone().into_iter().collect()).unwrap_err();
    assert_eq!(error.to_string(), "a state entry of the user-profile stage is damaged");
    let entry = log.state.get_mut(&b"uann"[..]).unwrap();
    entry.truncate(entry.len() - 4);
    let kept = log.state.clone();
    let visit = click("ann", ClickKind::Visit, 0, "", NOW + 1);
    go_on(&*bundled, &mut log, std::slice::from_ref(&visit));
    assert_eq!(recent(&log), named(&["auto/tyres", ""]));
    // A number that the model does not have is of no category that it knows.
    log.state = kept;
    go_on(&*own, &mut log, &[visit]);
    assert_eq!(recent(&log), named(&["", ""]));
}

#[test]
fn damaged_state_is_refused() {
    let mut operator = operator(&*stage(""));
    let error = operator.restore(vec![(Bytes::from_static(b"uann"), Bytes::from_static(b"?"))]).unwrap_err();
    assert_eq!(error.to_string(), "a state entry of the user-profile stage is damaged");
}

/// Rounds of a probe, between which users go on and the process is replaced, are answered alike; of a user that it is named after nothing is touched.
#[test]
fn a_probe_is_answered_alike_in_every_round() {
    let stage = stage("");
    let probe = |offset: usize, round: i64| {
        let events = [(ClickKind::Visit, 0), (ClickKind::View, 1), (ClickKind::Buy, 2)];
        let events =
            events.map(|(kind, minute)| click("ann", kind, 7, CATEGORIES[1], NOW - 400 * DAY + minute * 60_000));
        let mut messages = messages(&events);
        for (n, message) in messages.iter_mut().enumerate() {
            message.offset = (offset + n) as u64;
            message.key = Some("probe/ann".into());
            message.headers.push(wire::PROBE, format!("ann@{round}"));
        }
        messages
    };
    let users = messages(&[steady(NOW, 60), vec![click("ann", ClickKind::View, 3, CATEGORIES[2], NOW)]].concat());
    let later: Vec<Message> = messages(&steady(NOW + 2 * DAY, 30))
        .into_iter()
        .map(|message| Message { offset: message.offset + 1_000, ..message })
        .collect();
    let all = [users.clone(), probe(500, 1_000), later, probe(2_000, 2_000), probe(3_000, 3_000)].concat();
    let alone = work(&*stage, &[users, all[64..94].to_vec()].concat(), &[]);
    let cut = all.iter().position(|message| message.offset == 2_001).unwrap();
    let log = work(&*stage, &all, &[(62, true), (cut, true)]);
    assert_eq!(log.reasons, Vec::<String>::new());
    let (probes, others): (Vec<_>, Vec<_>) = log.outputs.iter().partition(|(_, key, _)| key.starts_with(b"probe/"));
    let values: Vec<&Bytes> = probes.iter().map(|(_, _, value)| value).collect();
    assert_eq!(values.len(), 9);
    assert!(values[..3] == values[3..6] && values[..3] == values[6..]);
    let of_users = |outputs: &[&(String, Bytes, Bytes)]| -> Vec<(Bytes, Bytes)> {
        outputs.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect()
    };
    assert_eq!(of_users(&others), of_users(&alone.outputs.iter().collect::<Vec<_>>()));
    let without_probes = |log: &Log| {
        log.state
            .iter()
            .filter(|(key, _)| !key.starts_with(b"p"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(without_probes(&log), without_probes(&alone));
    assert_eq!(log.state.len() - without_probes(&log).len(), 1, "one entry a probe");
}

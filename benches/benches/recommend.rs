//! The recommender pipeline's stages, each on one thread: click events a second with a million users
//! of state, and recommendations a second over 50,000 products.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p driftline-benches --bench recommend` (about a minute)

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::{fs, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use cpu_time::ProcessTime;
use driftline_models::{
    parameters::Parameters,
    profile::{Action, Fading, History, Past},
    recommender::{Network, PRODUCTS_FILE, WEIGHTS_FILE},
};
use driftline_payloads::{ClickEvent, ClickKind, RecentEvent, UserProfile};
use driftline_recommender::RecommenderKind;
use driftline_stage::{
    OpenStage, Payload, StageDef,
    operator::{Operator, Site},
};
use driftline_types::{Headers, Message, PipelineName, StageName, StageVersion, Timestamp, Topic};
use driftline_user_profile::UserProfileKind;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const USERS: usize = 1_000_000;
const EVENTS: usize = 400_000;
const PRODUCTS: usize = 50_000;
const ANSWERS: usize = 20_000;
const BATCH: usize = 256;
const NOW: i64 = 1_794_787_200_000;

fn main() {
    profiles("emit_on = [\"visit\"]", "a profile after visits, a tenth of the events");
    profiles("", "a profile after every event");
    recommendations();
}

fn operator(stage: &dyn OpenStage) -> Box<dyn Operator> {
    stage.instance(Arc::new(Site::new(
        PipelineName::try_new("recommend").unwrap(),
        StageName::try_new("bench").unwrap(),
        StageVersion::try_new("bench").unwrap(),
        43_200_000,
    )))
}

fn message(offset: usize, key: &str, value: &impl Payload) -> Message {
    let mut bytes = BytesMut::new();
    value.encode(&mut bytes).unwrap();
    Message {
        topic: Topic::try_new("recommend.input").unwrap(),
        partition: 0,
        offset: offset as u64,
        key: Some(key.to_owned().into()),
        value: Some(bytes.freeze()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(NOW),
    }
}

fn user(number: usize) -> String {
    format!("u-{number:06}")
}

/// Resident memory now and at its highest, MB.
fn memory() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
    };
    (of("VmRSS"), of("VmHWM"))
}

fn profiles(config: &str, what: &str) {
    let mut random = StdRng::seed_from_u64(1);
    let stage = StageDef::of::<UserProfileKind>().open(&config.parse().unwrap()).unwrap();
    let mut operator = operator(&*stage);
    let (before, _) = memory();
    let mut state_bytes = 0;
    // A full history for everybody, in parts, so that what is measured is the stage and not this list.
    for part in 0..10 {
        let entries = (0..USERS / 10).map(|index| {
            let mut history = History::default();
            for at in 0..24 {
                let past = Past {
                    time_ms: NOW - (24 - at) * 3_600_000,
                    action: Action::ALL[random.random_range(0..5)],
                    category: random.random_range(1..33),
                    product: format!("P-{:05}", random.random_range(0..2_400)),
                };
                history.observe(past, Fading::default());
            }
            let mut bytes = Vec::new();
            history.encode(&mut bytes);
            state_bytes += bytes.len();
            (Bytes::from(format!("u{}", user(part * USERS / 10 + index))), Bytes::from(bytes))
        });
        operator.restore(entries.collect()).unwrap();
    }
    let (after, _) = memory();
    let kinds = [ClickKind::Visit, ClickKind::Search, ClickKind::View, ClickKind::AddToCart, ClickKind::Buy];
    let shares = [0.10, 0.06, 0.71, 0.08, 0.05];
    let categories = ["auto/tyres", "baby/prams", "home/kitchen", "gaming/games", "gifts/toys"];
    let messages: Vec<Message> = (0..EVENTS)
        .map(|offset| {
            let mut draw: f64 = random.random_range(0.0..1.0);
            let kind = kinds
                .iter()
                .zip(shares)
                .find(|(_, share)| {
                    draw -= share;
                    draw < 0.0
                })
                .map_or(ClickKind::View, |(kind, _)| *kind);
            let named = kind != ClickKind::Visit;
            let product =
                (named && kind != ClickKind::Search).then(|| format!("P-{:05}", random.random_range(0..2_400)));
            let category = named.then(|| categories[random.random_range(0..5)].to_owned());
            let user = user(random.random_range(0..USERS));
            let event = ClickEvent::try_new(user.clone(), kind, product, category, NOW + offset as i64).unwrap();
            message(offset, &user, &event)
        })
        .collect();
    let started = ProcessTime::now();
    let (mut written, mut changed) = (0, 0);
    for batch in messages.chunks(BATCH) {
        let effects = operator.process(batch, Duration::ZERO).unwrap();
        assert!(effects.dead_letters.is_empty());
        written += effects.outputs.len();
        changed += effects.state.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "user-profile, {what}: {:.0} events a core second; {EVENTS} events, {written} profiles, {changed} changes of state; \
         {USERS} users: {:.0} bytes each in the changelog, {:.0} MB of memory ({:.0} bytes each), {:.0} MB for the process",
        EVENTS as f64 / seconds,
        state_bytes as f64 / USERS as f64,
        after - before,
        (after - before) * 1e6 / USERS as f64,
        memory().0 - messages.iter().map(Message::payload_bytes).sum::<usize>() as f64 / 1e6,
    );
}

fn recommendations() {
    let mut random = StdRng::seed_from_u64(2);
    let folder = tempfile::tempdir().unwrap();
    let (parameters, _) = Parameters::draw(&Network::shapes(PRODUCTS, 100), 1).unwrap();
    parameters.write(&folder.path().join(WEIGHTS_FILE)).unwrap();
    let line = |n: usize| format!("{{\"id\":\"P-{n:05}\",\"category\":\"c-{:02}\",\"views\":{n}}}\n", n % 100);
    fs::write(folder.path().join(PRODUCTS_FILE), (0..PRODUCTS).map(line).collect::<String>()).unwrap();
    let config = format!("model = {:?}\ntop_k = 10", folder.path().to_str().unwrap());
    let stage = StageDef::of::<RecommenderKind>().open(&config.parse().unwrap()).unwrap();
    let mut operator = operator(&*stage);
    let messages: Vec<Message> = (0..ANSWERS)
        .map(|offset| {
            let recent = (0..20).map(|at| RecentEvent {
                time_ms: NOW + at * 30_000,
                kind: ClickKind::View,
                product: Some(format!("P-{:05}", random.random_range(0..PRODUCTS))),
                category: None,
            });
            let profile = UserProfile {
                user: user(offset),
                time_ms: NOW,
                cause: ClickKind::Visit,
                events: 20,
                activity: 20.0,
                gap_ms: None,
                attributes: Default::default(),
                interests: Vec::new(),
                recent: recent.collect(),
                bought: (0..4).map(|_| format!("P-{:05}", random.random_range(0..PRODUCTS))).collect(),
            };
            message(offset, &profile.user, &profile)
        })
        .collect();
    let started = ProcessTime::now();
    for batch in messages.chunks(BATCH) {
        let effects = operator.process(batch, Duration::ZERO).unwrap();
        assert_eq!(effects.outputs.len(), batch.len());
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "recommender: {:.0} recommendations a core second; {ANSWERS} of 10 among {PRODUCTS} products, histories of 20 events",
        ANSWERS as f64 / seconds
    );
}

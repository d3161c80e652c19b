//! What the stage answers, and on what its answers rest.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use driftline_payloads::{Answer, Attributes, Basis, ClickKind, Estimate, RecentEvent, Recommendations, UserProfile};
use driftline_recommender::RecommenderKind;
use driftline_stage::{
    Payload, StageDef,
    operator::{Counts, Operator, Site},
};
use driftline_types::{Headers, Message, PipelineName, StageName, StageVersion, Timestamp, Topic};
use proptest::prelude::*;

const NOW: i64 = 1_794_787_200_000;

fn operator(config: &str) -> Box<dyn Operator> {
    let stage = StageDef::of::<RecommenderKind>().open(&config.parse().unwrap()).unwrap();
    stage.instance(Arc::new(Site::new(
        PipelineName::try_new("recommend").unwrap(),
        StageName::try_new("recommender").unwrap(),
        StageVersion::try_new("test").unwrap(),
        86_400_000,
    )))
}

fn answer(operator: &mut dyn Operator, profiles: &[UserProfile]) -> (Vec<Recommendations>, Counts) {
    let message = |(offset, profile): (usize, &UserProfile)| {
        let mut value = BytesMut::new();
        profile.encode(&mut value).unwrap();
        Message {
            topic: Topic::try_new("recommend.user-profile").unwrap(),
            partition: 0,
            offset: offset as u64,
            key: Some(profile.user.clone().into()),
            value: Some(value.freeze()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(NOW),
        }
    };
    let messages: Vec<Message> = profiles.iter().enumerate().map(message).collect();
    let effects = operator.process(&messages, Duration::ZERO).unwrap();
    let values = effects.outputs.iter().map(|output| Recommendations::decode(output.value.as_ref().unwrap()).unwrap());
    (values.collect(), effects.counts)
}

fn profile(events: &[(ClickKind, Option<&str>, Option<&str>)]) -> UserProfile {
    let recent = events.iter().enumerate().map(|(n, (kind, product, category))| RecentEvent {
        time_ms: NOW + n as i64 * 30_000,
        kind: *kind,
        product: product.map(str::to_owned),
        category: category.map(str::to_owned),
    });
    UserProfile {
        user: "ann".to_owned(),
        time_ms: NOW,
        cause: ClickKind::Visit,
        events: events.len() as u32,
        activity: events.len() as f32,
        gap_ms: None,
        attributes: Attributes::default(),
        interests: Vec::new(),
        recent: recent.collect(),
        bought: Vec::new(),
    }
}

fn departments(answer: &Recommendations) -> Vec<&str> {
    answer.items.iter().map(|item| item.category.split('/').next().unwrap()).collect()
}

#[test]
fn who_looks_at_tyres_is_shown_what_goes_with_a_car() {
    let views: Vec<String> = (0..6).map(|n| format!("P-{:05}", 20 + 2 * n)).collect();
    let events: Vec<_> = views.iter().map(|id| (ClickKind::View, Some(&**id), Some("auto/tyres"))).collect();
    let mut operator = operator("top_k = 5");
    let (answers, counts) = answer(&mut *operator, &[profile(&events)]);
    assert_eq!((answers[0].basis, answers[0].items.len(), counts.used), (Basis::History, 5, 1));
    let auto = departments(&answers[0]).iter().filter(|department| **department == "auto").count();
    assert!(auto >= 4, "{:?}", answers[0]);
    // What was bought is not shown again, and the next one takes its place.
    let first = answers[0].items[0].product.clone();
    let (without, _) = answer(&mut *operator, &[UserProfile { bought: vec![first], ..profile(&events) }]);
    assert_eq!(without[0].items[..4], answers[0].items[1..]);
    assert_eq!(without[0].items.len(), 5);
}

#[test]
fn of_a_stranger_attributes_decide_and_else_popularity() {
    let stranger = profile(&[(ClickKind::Visit, None, None)]);
    let (mut parent, mut driver) = (stranger.clone(), stranger.clone());
    let yes = Estimate { answer: Answer::Yes, probability: 0.97 };
    parent.attributes.baby = yes;
    driver.attributes.car = yes;
    // A probability behind an *unknown* tells nothing.
    let mut undecided = stranger.clone();
    undecided.attributes.car = Estimate { answer: Answer::Unknown, probability: 0.7 };
    let (answers, _) = answer(&mut *operator("top_k = 100"), &[stranger, parent, driver, undecided]);
    let bases: Vec<Basis> = answers.iter().map(|answer| answer.basis).collect();
    assert_eq!(bases, [Basis::Popularity, Basis::Profile, Basis::Profile, Basis::Popularity]);
    assert_eq!(answers[0].items, answers[3].items);
    let count = |answer: &Recommendations, name: &str| departments(answer).iter().filter(|d| **d == name).count();
    assert!(count(&answers[1], "baby") > count(&answers[2], "baby"), "{answers:?}");
    assert!(count(&answers[2], "auto") > count(&answers[1], "auto"), "{answers:?}");
    let views: Vec<f32> = answers[0].items.iter().map(|item| item.score).collect();
    assert!(views.is_sorted_by(|a, b| a >= b), "most viewed first: {views:?}");
}

#[test]
fn products_that_are_not_known_count_by_their_category_and_those_of_a_new_catalogue_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue.jsonl");
    let line = |n: usize| {
        let category = ["auto/tyres", "baby/prams", "home/kitchen"][n % 3];
        format!("{{\"id\":\"new-{n}\",\"category\":\"{category}\",\"in_stock\":{}}}\n", n != 3)
    };
    std::fs::write(&path, (0..12).map(line).collect::<String>()).unwrap();
    let mut operator = operator(&format!("catalogue = {:?}\ntop_k = 3", path.to_str().unwrap()));
    let (answers, _) = answer(&mut *operator, &[profile(&[(ClickKind::View, Some("strange"), Some("auto/tyres")); 6])]);
    assert_eq!(answers[0].unknown_products, 6);
    let shown: Vec<&str> = answers[0].items.iter().map(|item| &*item.product).collect();
    assert_eq!(shown, ["new-0", "new-6", "new-9"], "new-3 is out of stock");
    // The catalogue knows a product's category where the event has none, or one that the model does not know.
    for category in [None, Some("wheels")] {
        let (found, _) = answer(&mut *operator, &[profile(&[(ClickKind::View, Some("new-0"), category); 6])]);
        assert_eq!((found[0].basis, found[0].unknown_products), (Basis::History, 6));
        assert_eq!(found[0].items, answers[0].items);
    }
}

#[test]
fn after_an_erasure_there_is_nobody_to_answer() {
    let erased = UserProfile { cause: ClickKind::Erase, ..profile(&[]) };
    let (answers, counts) = answer(&mut *operator(""), &[erased]);
    assert_eq!((answers.len(), counts.dropped), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// An answer is the same, bit for bit, whoever else asks.
    #[test]
    fn answers_do_not_depend_on_the_batch(sizes in prop::collection::vec(0usize..30, 1..80), cut in 0usize..80) {
        let ids: Vec<String> = (0..40).map(|n| format!("P-{:05}", n * 57)).collect();
        let profiles: Vec<UserProfile> = sizes
            .iter()
            .enumerate()
            .map(|(n, &size)| {
                let events: Vec<_> = (0..size).map(|at| (ClickKind::View, Some(&*ids[(n * 7 + at * 3) % 40]), None)).collect();
                profile(&events)
            })
            .collect();
        let mut operator = operator("");
        let (whole, _) = answer(&mut *operator, &profiles);
        let (left, right) = profiles.split_at(cut.min(profiles.len()));
        let mut parts = answer(&mut *operator, left).0;
        parts.extend(answer(&mut *operator, right).0);
        prop_assert_eq!(parts, whole);
    }
}

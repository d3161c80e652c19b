//! The recommender pipeline as a user runs it, and what becomes of it when something breaks.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{collections::BTreeMap, fs};

use driftline::{lines, output};
use driftline_shop::{Parameters, Shop, people::customer_number};
use serde_json::Value;

const RECOMMEND: &str = "pipelines/recommend.toml";
const DAY: i64 = 86_400_000;

fn sorted(lines: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove("timings_ms");
            line.to_string()
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_pipelines_own_tests_pass() {
    let output = output(&["test", RECOMMEND]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_visit_is_answered_the_same_however_it_is_split() {
    let small = ["--set", "sources.shop.customers=60", "--set", "sources.shop.days=4"];
    let two = lines(&[&["run", RECOMMEND][..], &small].concat());
    let five = lines(&[&["run", RECOMMEND, "--set", "pipeline.partitions=5"][..], &small].concat());
    assert_eq!(sorted(&two), sorted(&five));
    let parameters = Parameters { customers: 60, days: 4, ..Parameters::default() };
    let visits = Shop::new(parameters).simulate().filter(|event| event.kind == driftline_shop::Kind::Visit).count();
    assert_eq!(two.len(), visits);
    for line in &two {
        let items = line["items"].as_array().unwrap();
        assert_eq!(items.len(), 10, "{line}");
        let mut products: Vec<&str> = items.iter().map(|item| item["product"].as_str().unwrap()).collect();
        products.sort_unstable();
        products.dedup();
        assert_eq!(products.len(), 10, "{line}");
    }
}

#[test]
fn events_that_are_none_are_dead_letters_and_the_others_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rows = "user,kind,product,category,time_ms\n\
        ann,view,P-00020,auto/tyres,1794787200000\n\
        ann,stare,P-00020,auto/tyres,1794787200000\n\
        ann,view,P-00020,auto/tyres,soon\n\
        ann,view,no such product,no such category,1794787201000\n\
        ann,visit,,,1794787202000\n\
        ann,visit,,,1794760000000\n";
    fs::write(path("log.csv"), rows).unwrap();
    let (source, log) = (format!("sources.shop.path={}", path("log.csv")), format!("broker.path={}", path("log")));
    let set = ["--set", "sources.shop.kind=event-files", "--set", &source, "--set", &log];
    let answered = lines(&[&["run", RECOMMEND][..], &set].concat());
    assert_eq!(answered.len(), 1, "{answered:?}");
    assert_eq!((&answered[0]["basis"], &answered[0]["unknown_products"]), (&"history".into(), &1.into()));
    let letters = lines(&[&["dlq", "inspect", RECOMMEND][..], &set].concat());
    let mut reasons: Vec<&str> =
        letters.iter().map(|letter| letter["headers"]["driftline-error-reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].contains("log.csv:3: kind: found another word, allowed visit"), "{reasons:?}");
    assert!(reasons[1].contains("log.csv:4: time_ms: found no time, allowed RFC 3339"), "{reasons:?}");
    assert!(reasons[2].starts_with("time_ms: found 27202000 ms before the user's newest event"), "{reasons:?}");
}

/// What a part of a run looks like.
#[derive(Debug, Default)]
struct Figures {
    profiles: f64,
    unknown: f64,
    items: f64,
    auto: f64,
    clicks: f64,
}

impl Figures {
    fn unknown(&self) -> f64 {
        self.unknown / (5.0 * self.profiles)
    }

    fn auto(&self) -> f64 {
        self.auto / self.items
    }

    fn clicked(&self) -> f64 {
        self.clicks / self.items
    }
}

/// Runs four weeks of 150 customers and gives the figures of the third week and the last one, in which
/// an injection that begins with the fourth week is at work.
fn weeks(inject: &[&str]) -> [Figures; 2] {
    let small = ["--set", "sources.shop.customers=150", "--set", "sources.shop.days=28"];
    let parameters = Parameters { customers: 150, days: 28, ..Parameters::default() };
    let start = parameters.start_ms;
    let shop = Shop::new(parameters);
    let mut weeks: BTreeMap<i64, Figures> = BTreeMap::new();
    for profile in lines(&[&["tap", RECOMMEND, "user-profile"][..], &small, inject].concat()) {
        let profile = &profile["value"];
        let week = weeks.entry((profile["time_ms"].as_i64().unwrap() - start) / (7 * DAY)).or_default();
        let attributes = profile["attributes"].as_object().unwrap();
        week.profiles += 1.0;
        week.unknown += attributes.values().filter(|estimate| estimate["answer"] == "unknown").count() as f64;
    }
    for line in lines(&[&["run", RECOMMEND][..], &small, inject].concat()) {
        let time_ms = line["time_ms"].as_i64().unwrap();
        let week = weeks.entry((time_ms - start) / (7 * DAY)).or_default();
        let customer = shop.customer(customer_number(line["user"].as_str().unwrap()).unwrap());
        let items = line["items"].as_array().unwrap();
        let shown: Vec<&str> = items.iter().map(|item| item["product"].as_str().unwrap()).collect();
        week.items += items.len() as f64;
        week.auto += items.iter().filter(|item| item["category"].as_str().unwrap().starts_with("auto/")).count() as f64;
        week.clicks += shop.clicks(&customer, time_ms, &shown).iter().filter(|clicked| **clicked).count() as f64;
    }
    [2, 3].map(|week| weeks.remove(&week).unwrap())
}

#[test]
fn a_tracker_that_loses_views_makes_users_unknown() {
    let [before, after] = weeks(&["--inject", "shop.lose_view=1 @ 17d"]);
    let [_, healthy] = weeks(&[]);
    eprintln!("before {before:?}\nafter {after:?}\nhealthy {healthy:?}");
    assert!(after.unknown() > 1.1 * healthy.unknown(), "unknown: {} {}", after.unknown(), healthy.unknown());
    // Carts, purchases and searches still tell what somebody is after.
    assert!((0.7..1.4).contains(&(after.auto() / healthy.auto())), "{after:?} {healthy:?}");
    assert!((0.7..1.4).contains(&(after.clicked() / healthy.clicked())), "{after:?} {healthy:?}");
    assert!(healthy.clicked() > 0.02, "{healthy:?}");
}

#[test]
fn a_threshold_that_is_worse_makes_users_unknown() {
    let [_, healthy] = weeks(&[]);
    let [_, after] = weeks(&["--inject", "user-profile.threshold_shift=0.12 @ 21d"]);
    assert!(after.unknown() > 1.5 * healthy.unknown(), "unknown: {} {}", after.unknown(), healthy.unknown());
}

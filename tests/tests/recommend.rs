//! The recommender pipeline as a user runs it, and what becomes of it when something breaks.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::fs;

use driftline::{lines, output};
use driftline_shop::{Attribute, Parameters, Shop, people::customer_number};
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
    assert!(reasons[0].contains("log.csv:3: kind: found \"stare\", allowed visit"), "{reasons:?}");
    assert!(reasons[1].contains("log.csv:4: time_ms: found no time, allowed RFC 3339"), "{reasons:?}");
    assert!(reasons[2].starts_with("time_ms: found 27202000 ms before the user's newest event"), "{reasons:?}");
}

/// What a part of a run looks like.
#[derive(Debug, Default)]
struct Figures {
    profiles: f64,
    unknown: f64,
    items: f64,
    /// Shown to those who have a car, and what of it is for cars.
    owners: f64,
    auto: f64,
    clicks: f64,
}

impl Figures {
    fn unknown(&self) -> f64 {
        self.unknown / (5.0 * self.profiles)
    }

    fn auto(&self) -> f64 {
        self.auto / self.owners
    }

    fn clicked(&self) -> f64 {
        self.clicks / self.items
    }
}

/// Runs eleven weeks of 200 customers and gives the figures of the last two, in which an injection has been at work since the
/// end of the sixth.
fn last_weeks(inject: &[&str]) -> Figures {
    let small = ["--set", "sources.shop.customers=200", "--set", "sources.shop.days=77"];
    let parameters = Parameters { customers: 200, days: 77, ..Parameters::default() };
    let from = parameters.start_ms + 63 * DAY;
    let shop = Shop::new(parameters);
    let mut figures = Figures::default();
    for profile in lines(&[&["tap", RECOMMEND, "user-profile"][..], &small, inject].concat()) {
        let profile = &profile["value"];
        if profile["time_ms"].as_i64().unwrap() >= from {
            let attributes = profile["attributes"].as_object().unwrap();
            figures.profiles += 1.0;
            figures.unknown += attributes.values().filter(|estimate| estimate["answer"] == "unknown").count() as f64;
        }
    }
    for line in lines(&[&["run", RECOMMEND][..], &small, inject].concat()) {
        let time_ms = line["time_ms"].as_i64().unwrap();
        if time_ms < from {
            continue;
        }
        let customer = shop.customer(customer_number(line["user"].as_str().unwrap()).unwrap());
        let owns = customer.has[Attribute::Car as usize];
        let items = line["items"].as_array().unwrap();
        let shown: Vec<&str> = items.iter().map(|item| item["product"].as_str().unwrap()).collect();
        let auto = items.iter().filter(|item| item["category"].as_str().unwrap().starts_with("auto/")).count() as f64;
        figures.items += items.len() as f64;
        if owns {
            figures.owners += items.len() as f64;
            figures.auto += auto;
        }
        figures.clicks += shop.clicks(&customer, time_ms, &shown).iter().filter(|clicked| **clicked).count() as f64;
    }
    figures
}

#[test]
fn a_tracker_that_loses_views_makes_users_unknown_and_recommendations_worse() {
    let healthy = last_weeks(&[]);
    let after = last_weeks(&["--inject", "shop.lose_view=1 @ 42d"]);
    eprintln!("healthy {healthy:?}\nafter {after:?}");
    let of = |figure: fn(&Figures) -> f64| figure(&after) / figure(&healthy);
    eprintln!(
        "unknown × {:.2}, car parts × {:.2}, clicks × {:.2}",
        of(Figures::unknown),
        of(Figures::auto),
        of(Figures::clicked)
    );
    assert!(of(Figures::unknown) > 1.7, "{after:?} {healthy:?}");
    // The last searches and carts still say what somebody is after.
    assert!(of(Figures::auto) < 0.95, "{after:?} {healthy:?}");
    assert!(of(Figures::clicked) < 0.9, "{after:?} {healthy:?}");
    assert!(healthy.clicked() > 0.02, "{healthy:?}");
}

#[test]
fn a_threshold_that_is_worse_makes_users_unknown() {
    let healthy = last_weeks(&[]);
    let after = last_weeks(&["--inject", "user-profile.threshold_shift=0.12 @ 42d"]);
    assert!(after.unknown() > 1.5 * healthy.unknown(), "unknown: {} {}", after.unknown(), healthy.unknown());
}

#[test]
fn what_the_customers_click_comes_back_as_feedback() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let log = format!("broker.path={}", path("log"));
    let set = ["--set", "sources.shop.customers=60", "--set", "sources.shop.days=10", "--set", &log];
    let ran = output(&[&["run", RECOMMEND, "--set", "sinks.responses.record_ids=true"][..], &set].concat());
    let shown = String::from_utf8(ran.stdout).unwrap();
    let shop = Shop::new(Parameters { customers: 60, days: 10, ..Parameters::default() });
    let clicks: Vec<String> =
        shown.lines().filter_map(|line| shop.feedback(line).unwrap()).map(|feedback| feedback.to_string()).collect();
    fs::write(path("clicks.jsonl"), clicks.join("\n")).unwrap();
    let windows = lines(
        &[
            &["feedback", RECOMMEND, "--format", "json", "--window", "5d", "--maturity", "1h"][..],
            &set,
            &[&path("clicks.jsonl")],
        ]
        .concat(),
    );
    let sum = |of: &dyn Fn(&Value) -> f64| windows.iter().map(of).sum::<f64>().round() as usize;
    let predictions = |window: &Value| window["predictions"].as_f64().unwrap();
    assert_eq!(sum(&predictions), shown.lines().count());
    assert_eq!(sum(&|window| predictions(window) * window["click_through"].as_f64().unwrap()), clicks.len());
    assert!(clicks.len() > 20, "{}", clicks.len());
}

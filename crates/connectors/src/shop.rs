//! The source `shop`: a simulated shop, see [`driftline_shop`] for the model behind it.
//!
//! ```toml
//! [sources.shop]
//! kind = "shop"
//! seed = 1                          # of customers and what they do; the catalogue is always the same
//! customers = 300
//! start = "2026-11-16T00:00:00Z"
//! days = 7
//! season = 1.0                      # strength of the seasons, 0 to 4
//! weekend = 1.3                     # visits on a day of the weekend against one in the week, 0.1 to 4
//! lose_kind = ["view"]              # kinds of events the tracker does not send
//! ```
//!
//! Event time is simulated: a month passes as fast as the pipeline works. Progress is the number of
//! events so far; a resumed run goes through them again in memory and on from there.

use std::fmt;

use bytes::Bytes;
use driftline_payloads::{ClickEvent, ClickKind};
use driftline_shop::{Event, Kind, Parameters, Shop, Simulation, catalogue::CATEGORIES, people::customer_id};
use driftline_stage::{ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp};
use serde::Deserialize;

/// Events of one read.
const BATCH: usize = 256;
/// The state entry: how many events there were, those lost by the tracker included.
const PLACE: &[u8] = b"place";

/// The config table of the source `shop`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShopConfig {
    /// Seed of customers and what they do.
    pub seed: u64,
    /// Customers, 1 to 5,000,000.
    pub customers: u32,
    /// The first moment, RFC 3339.
    pub start: String,
    /// Days, 1 to 3,650.
    pub days: u32,
    /// Strength of the seasons, 0 to 4.
    pub season: f64,
    /// Visits on a day of the weekend against one in the week, 0.1 to 4.
    pub weekend: f64,
    /// Kinds of events the tracker does not send.
    pub lose_kind: Vec<ClickKind>,
}

impl Default for ShopConfig {
    fn default() -> Self {
        let Parameters { seed, customers, start_ms, days, season, weekend } = Parameters::default();
        let start = Timestamp::from_millis(start_ms).to_string();
        Self { seed, customers, start, days, season, weekend, lose_kind: Vec::new() }
    }
}

impl ShopConfig {
    fn parameters(&self) -> Option<Parameters> {
        let Self { seed, customers, days, season, weekend, .. } = *self;
        let start_ms = Timestamp::parse(&self.start)?.as_millis();
        Some(Parameters { seed, customers, start_ms, days, season, weekend })
    }
}

/// The source `shop`.
pub struct ShopSource {
    simulation: Simulation,
    lost: Vec<ClickKind>,
    /// Events so far.
    place: u64,
}

impl SourceKind for ShopSource {
    const KIND: &'static str = "shop";
    type Config = ShopConfig;

    fn check(config: &ShopConfig) -> Vec<ConfigProblem> {
        let problem = |key: &str, found: &dyn fmt::Display, allowed: &str| ConfigProblem {
            path: vec![key.to_owned()],
            found: Some(found.to_string()),
            message: format!("allowed is {allowed}"),
        };
        let mut problems = Vec::new();
        if !(1..=5_000_000).contains(&config.customers) {
            problems.push(problem("customers", &config.customers, "a whole number from 1 to 5000000"));
        }
        if !(1..=3_650).contains(&config.days) {
            problems.push(problem("days", &config.days, "a whole number from 1 to 3650"));
        }
        let years = 2000..2089;
        let year = config.start.get(..4).and_then(|year| year.parse::<u32>().ok());
        if config.parameters().is_none() || !year.is_some_and(|year| years.contains(&year)) {
            problems.push(problem("start", &format!("{:?}", config.start), "a time in RFC 3339, the year 2000 to 2088"));
        }
        if !(0.0..=4.0).contains(&config.season) {
            problems.push(problem("season", &config.season, "a number from 0 to 4"));
        }
        if !(0.1..=4.0).contains(&config.weekend) {
            problems.push(problem("weekend", &config.weekend, "a number from 0.1 to 4"));
        }
        problems
    }

    fn open(config: ShopConfig, _follow: bool) -> Result<Self, StageError> {
        let parameters =
            config.parameters().ok_or_else(|| StageError::fatal("start: found no time, allowed is RFC 3339"))?;
        Ok(Self { simulation: Shop::new(parameters).simulate(), lost: config.lose_kind, place: 0 })
    }
}

impl Source for ShopSource {
    type Output = ClickEvent;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let place = (key == PLACE).then(|| value.as_ref().try_into().ok()).flatten();
            self.place =
                place.map(u64::from_le_bytes).ok_or_else(|| StageError::fatal("the state of a shop source is damaged"))?;
        }
        for _ in 0..self.place {
            self.simulation.next();
        }
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<ClickEvent>) -> Result<SourceStatus, StageError> {
        let mut status = SourceStatus::More;
        for _ in 0..BATCH {
            let Some(event) = self.simulation.next() else {
                status = SourceStatus::End;
                break;
            };
            self.place += 1;
            if !self.lost.contains(&kind(event.kind)) {
                let value = self.click(event)?;
                out.emit(Key::new(value.user.clone()), Timestamp::from_millis(value.time_ms), value);
            }
        }
        out.put_state(PLACE, Bytes::copy_from_slice(&self.place.to_le_bytes()));
        Ok(status)
    }
}

impl ShopSource {
    fn click(&self, event: Event) -> Result<ClickEvent, StageError> {
        let Event { time_ms, customer, product, category, .. } = event;
        let product = product.map(|product| self.simulation.shop().catalogue().products()[product].id.clone());
        let category = category.map(|category| CATEGORIES[category].name.to_owned());
        ClickEvent::try_new(customer_id(customer), kind(event.kind), product, category, time_ms)
            .map_err(|error| StageError::fatal("the simulated event is none").caused_by(error))
    }
}

fn kind(kind: Kind) -> ClickKind {
    match kind {
        Kind::Visit => ClickKind::Visit,
        Kind::Search => ClickKind::Search,
        Kind::View => ClickKind::View,
        Kind::AddToCart => ClickKind::AddToCart,
        Kind::Buy => ClickKind::Buy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ShopConfig {
        ShopConfig { customers: 30, days: 3, ..ShopConfig::default() }
    }

    /// Reads to the end; with `interrupted` a new source goes on after every read.
    fn events(config: &ShopConfig, interrupted: bool) -> Vec<ClickEvent> {
        let mut source = ShopSource::open(config.clone(), false).unwrap();
        let mut events = Vec::new();
        loop {
            let mut batch = SourceBatch::new();
            let status = source.read(&mut batch).unwrap();
            events.extend(batch.records().iter().map(|(_, _, event)| event.clone()));
            if status == SourceStatus::End {
                return events;
            }
            if interrupted {
                source = ShopSource::open(config.clone(), false).unwrap();
                let entry = |change: &driftline_stage::StateChange| (change.key.clone(), change.value.clone().unwrap());
                source.restore(batch.state().iter().map(entry).collect()).unwrap();
            }
        }
    }

    #[test]
    fn an_interrupted_run_gives_the_events_of_one_that_was_not() {
        let whole = events(&config(), false);
        assert!(whole.len() > 300, "{}", whole.len());
        assert_eq!(events(&config(), true), whole);
    }

    #[test]
    fn a_kind_that_is_lost_is_all_that_is_missing() {
        let whole = events(&config(), false);
        let lossy = ShopConfig { lose_kind: vec![ClickKind::View], ..config() };
        let rest: Vec<_> = whole.into_iter().filter(|event| event.kind != ClickKind::View).collect();
        assert_eq!(events(&lossy, true), rest);
    }

    #[test]
    fn every_problem_of_a_config_is_told() {
        let wrong = ShopConfig { customers: 0, days: 0, season: -1.0, weekend: f64::NAN, start: "noon".into(), ..config() };
        let found: Vec<_> = ShopSource::check(&wrong).iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(found, ["customers", "days", "start", "season", "weekend"]);
        assert!(ShopSource::check(&config()).is_empty());
    }
}

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
//! ```
//!
//! What may be injected is the tracker's: `lose_view` and its like are the part of the events of a kind
//! that it does not send, `lose_category` the part that it sends without their category. What the
//! customers do stays the same.
//!
//! Event time is simulated: a month passes as fast as the pipeline works. Progress is the number of
//! events so far; a resumed run goes through them again in memory and on from there.

use bytes::Bytes;
use driftline_payloads::{ClickEvent, ClickKind};
use driftline_shop::{Event, Kind, Parameters, Shop, Simulation, catalogue::CATEGORIES, people::customer_id};
use driftline_stage::{
    Checks, ConfigProblem, Key, Parameter, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
};
use serde::Deserialize;

/// Events of one read.
const BATCH: usize = 256;
/// The state entry: how many events there were, those lost by the tracker included.
const PLACE: &[u8] = b"place";

const fn part(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, unit: "1", help, min: 0.0, max: 1.0, neutral: 0.0 }
}

static LOSE_VISIT: Parameter = part("lose_visit", "part of the visits that the tracker does not send");
static LOSE_SEARCH: Parameter = part("lose_search", "part of the searches that the tracker does not send");
static LOSE_VIEW: Parameter = part("lose_view", "part of the views of products that the tracker does not send");
static LOSE_CART: Parameter = part("lose_cart", "part of what is put in the cart that the tracker does not send");
static LOSE_BUY: Parameter = part("lose_buy", "part of the purchases that the tracker does not send");
static LOSE_CATEGORY: Parameter = part("lose_category", "part of the events that the tracker sends without category");

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
}

impl Default for ShopConfig {
    fn default() -> Self {
        let Parameters { seed, customers, start_ms, days, season, weekend } = Parameters::default();
        let start = Timestamp::from_millis(start_ms).to_string();
        Self { seed, customers, start, days, season, weekend }
    }
}

impl ShopConfig {
    fn parameters(&self) -> Option<Parameters> {
        let Self { seed, customers, ref start, days, season, weekend } = *self;
        let start_ms = Timestamp::parse(start)?.as_millis();
        Some(Parameters { seed, customers, start_ms, days, season, weekend })
    }
}

/// The source `shop`.
pub struct ShopSource {
    simulation: Simulation,
    /// Events so far.
    place: u64,
}

impl SourceKind for ShopSource {
    const KIND: &'static str = "shop";
    const PARAMETERS: &'static [&'static Parameter] =
        &[&LOSE_VISIT, &LOSE_SEARCH, &LOSE_VIEW, &LOSE_CART, &LOSE_BUY, &LOSE_CATEGORY];
    type Config = ShopConfig;

    fn check(config: &ShopConfig) -> Vec<ConfigProblem> {
        let &ShopConfig { customers, ref start, days, season, weekend, .. } = config;
        let mut checks = Checks::default();
        checks.expect((1..=5_000_000).contains(&customers), "customers", customers, "a whole number from 1 to 5000000");
        checks.expect((1..=3_650).contains(&days), "days", days, "a whole number from 1 to 3650");
        let year = start.get(..4).and_then(|year| year.parse::<u32>().ok());
        let holds = config.parameters().is_some() && year.is_some_and(|year| (2000..2089).contains(&year));
        checks.expect(holds, "start", format_args!("{start:?}"), "a time in RFC 3339, the year 2000 to 2088");
        checks.expect((0.0..=4.0).contains(&season), "season", season, "a number from 0 to 4");
        checks.expect((0.1..=4.0).contains(&weekend), "weekend", weekend, "a number from 0.1 to 4");
        checks.problems()
    }

    fn start(config: &ShopConfig) -> Option<Timestamp> {
        Timestamp::parse(&config.start)
    }

    fn open(config: ShopConfig, _follow: bool) -> Result<Self, StageError> {
        let parameters =
            config.parameters().ok_or_else(|| StageError::fatal("start: found no time, allowed is RFC 3339"))?;
        Ok(Self { simulation: Shop::new(parameters).simulate(), place: 0 })
    }
}

impl Source for ShopSource {
    type Output = ClickEvent;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let place = (key == PLACE).then(|| value.as_ref().try_into().ok()).flatten();
            self.place = place
                .map(u64::from_le_bytes)
                .ok_or_else(|| StageError::fatal("the state of a shop source is damaged"))?;
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
            let time = Timestamp::from_millis(event.time_ms);
            let [lost, bare] = event.chances();
            if lost < out.parameter(lose(event.kind), time) {
                continue;
            }
            let mut value = self.click(event)?;
            value.category = value.category.filter(|_| bare >= out.parameter(&LOSE_CATEGORY, time));
            out.emit(Key::new(value.user.clone()), time, value);
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

fn lose(kind: Kind) -> &'static Parameter {
    match kind {
        Kind::Visit => &LOSE_VISIT,
        Kind::Search => &LOSE_SEARCH,
        Kind::View => &LOSE_VIEW,
        Kind::AddToCart => &LOSE_CART,
        Kind::Buy => &LOSE_BUY,
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
    use driftline_stage::Injections;
    use driftline_types::{Injection, config::Millis};

    use super::*;

    fn config() -> ShopConfig {
        ShopConfig { customers: 30, days: 3, ..ShopConfig::default() }
    }

    /// Reads to the end; with `interrupted` a new source goes on after every read.
    fn events(config: &ShopConfig, injections: &Injections, interrupted: bool) -> Vec<ClickEvent> {
        let mut source = ShopSource::open(config.clone(), false).unwrap();
        let mut events = Vec::new();
        loop {
            let mut batch = SourceBatch::with_injections(injections.clone());
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

    fn inject(parameter: &'static Parameter, value: f64, days: i64) -> Injections {
        let at = ShopSource::start(&config()).unwrap().plus_millis(days * 86_400_000);
        Injections::new(vec![Injection { parameter, value, at, over: Millis(0), until: None }])
    }

    #[test]
    fn an_interrupted_run_gives_the_events_of_one_that_was_not() {
        let whole = events(&config(), &Injections::default(), false);
        assert!(whole.len() > 300, "{}", whole.len());
        assert_eq!(events(&config(), &Injections::default(), true), whole);
        let half = inject(&LOSE_VIEW, 0.5, 1);
        assert_eq!(events(&config(), &half, true), events(&config(), &half, false));
    }

    #[test]
    fn what_the_tracker_loses_is_all_that_is_missing() {
        let whole = events(&config(), &Injections::default(), false);
        let second_day = ShopSource::start(&config()).unwrap().as_millis() + 86_400_000;
        let kept = |event: &&ClickEvent| event.kind != ClickKind::View || event.time_ms < second_day;
        let rest: Vec<_> = whole.iter().filter(kept).cloned().collect();
        assert_eq!(events(&config(), &inject(&LOSE_VIEW, 1.0, 1), true), rest);
        let views = |events: &[ClickEvent]| events.iter().filter(|event| event.kind == ClickKind::View).count() as f64;
        let part = views(&events(&config(), &inject(&LOSE_VIEW, 0.4, 0), false)) / views(&whole);
        assert!((0.5..0.7).contains(&part), "{part}");
        let bare = events(&config(), &inject(&LOSE_CATEGORY, 1.0, 0), false);
        assert_eq!(bare.len(), whole.len());
        assert!(bare.iter().all(|event| event.category.is_none()) && bare.iter().any(|event| event.missing() > 0));
    }

    #[test]
    fn every_problem_of_a_config_is_told() {
        let wrong =
            ShopConfig { customers: 0, days: 0, season: -1.0, weekend: f64::NAN, start: "noon".into(), ..config() };
        let found: Vec<_> = ShopSource::check(&wrong).iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(found, ["customers", "days", "start", "season", "weekend"]);
        assert!(ShopSource::check(&config()).is_empty());
    }
}

//! All customers side by side: their events in the order of their times.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    Catalogue, Customer, DAY,
    calendar::{Moment, busiest},
    people::gap,
    random,
    visit::{Memory, Page, Visit},
};

/// What one can set. Times are UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Seed of customers and what they do; the catalogue does not depend on it.
    pub seed: u64,
    /// Customers at any time: who stays away is followed by another.
    pub customers: u32,
    /// When it begins, milliseconds since 1970.
    pub start_ms: i64,
    /// How long it goes on, days.
    pub days: u32,
    /// Strength of the seasons, from 0; 1 is as in the calendar.
    pub season: f64,
    /// Visits on a day of the weekend against one in the week.
    pub weekend: f64,
}

/// 2026-11-16T00:00:00Z.
const START_MS: i64 = 1_794_787_200_000;
/// How long a customer comes, milliseconds, on average.
const STAY: f64 = 30.0 * DAY as f64;

impl Default for Parameters {
    fn default() -> Self {
        Self { seed: 1, customers: 300, start_ms: START_MS, days: 7, season: 1.0, weekend: 1.3 }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The start page was opened, where recommendations are shown.
    Visit,
    /// A category was searched for.
    Search,
    /// A product was looked at.
    View,
    /// A product was put in the cart.
    AddToCart,
    /// A product was bought.
    Buy,
}

/// Something a customer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// The customer's number.
    pub customer: u32,
    /// The number of the visit among those of the customer.
    pub visit: u32,
    /// What happened.
    pub kind: Kind,
    /// The product, an index of [`Catalogue::products`].
    pub product: Option<usize>,
    /// The category, an index of [`crate::catalogue::CATEGORIES`].
    pub category: Option<usize>,
}

impl Event {
    /// Draws two numbers from 0 to 1 for an event, always the same ones.
    #[must_use]
    pub fn chances(&self) -> [f64; 2] {
        let name = [self.time_ms.unsigned_abs(), u64::from(self.customer), self.kind as u64];
        let mut random = random(6, name);
        [random.random_range(0.0..1.0), random.random_range(0.0..1.0)]
    }
}

/// A shop and its customers; nothing has happened yet.
#[derive(Clone, Debug)]
pub struct Shop {
    pub(crate) parameters: Parameters,
    pub(crate) catalogue: Catalogue,
}

impl Shop {
    /// Opens the shop.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters, catalogue: Catalogue::new() }
    }

    /// Returns the products.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Returns the parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the customer of a number.
    #[must_use]
    pub fn customer(&self, number: u32) -> Customer {
        Customer::new(self.parameters.seed, number)
    }

    /// Lets time begin.
    #[must_use]
    pub fn simulate(self) -> Simulation {
        let parameters = &self.parameters;
        let mut queue = BinaryHeap::with_capacity(parameters.customers as usize);
        let mut people = Vec::with_capacity(parameters.customers as usize);
        for number in 0..parameters.customers {
            let mut person = Person::new(parameters, number, parameters.start_ms);
            queue.push(Reverse((person.next_visit(parameters, parameters.start_ms), number)));
            people.push(person);
        }
        Simulation { shop: self, queue, people }
    }
}

/// A customer's place in the course of time: who is there now.
struct Person {
    customer: Customer,
    memory: Memory,
    visits: u32,
    /// No visit begins after this.
    stays_until: i64,
    /// What is left of the visit.
    pages: VecDeque<Page>,
}

impl Person {
    /// Makes the customer of a number, who comes from `since` on.
    fn new(parameters: &Parameters, number: u32, since: i64) -> Self {
        let customer = Customer::new(parameters.seed, number);
        let mut random = random(parameters.seed, [2, u64::from(number), 0]);
        let uniform: f64 = random.random_range(f64::EPSILON..1.0);
        // Without memory, so at the start as many have long been there as at any time.
        let stays_until = since + (-uniform.ln() * STAY) as i64;
        Self { customer, memory: Memory::default(), visits: 0, stays_until, pages: VecDeque::new() }
    }

    /// Draws when somebody comes next, by thinning (Lewis and Shedler 1979): the customer, or the one that
    /// follows once they stay away.
    fn next_visit(&mut self, parameters: &Parameters, after: i64) -> i64 {
        let end = parameters.start_ms + i64::from(parameters.days) * DAY;
        let mut after = after;
        loop {
            let mut random = random(parameters.seed, [3, u64::from(self.customer.number), u64::from(self.visits)]);
            let most = self.customer.visits * busiest(parameters);
            let mut time = after;
            while time <= self.stays_until.min(end) {
                time += gap(&mut random, most).max(1);
                if time <= self.stays_until && random.random_bool(Moment::of(time).visits(parameters).clamp(0.0, 1.0)) {
                    return time;
                }
            }
            if time > end && self.stays_until > end {
                return time;
            }
            after = self.stays_until.max(after);
            *self = Self::new(parameters, self.customer.number + parameters.customers, after);
        }
    }
}

/// Everything that happens in a shop, one event after another.
pub struct Simulation {
    shop: Shop,
    /// When something happens next at each customer's place.
    queue: BinaryHeap<Reverse<(i64, u32)>>,
    people: Vec<Person>,
}

impl Simulation {
    /// Returns the shop.
    #[must_use]
    pub fn shop(&self) -> &Shop {
        &self.shop
    }
}

impl Iterator for Simulation {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let parameters = &self.shop.parameters;
        let end = parameters.start_ms + i64::from(parameters.days) * DAY;
        let Reverse((time_ms, place)) = self.queue.pop()?;
        if time_ms >= end {
            return None;
        }
        let person = &mut self.people[place as usize];
        if person.pages.is_empty() {
            let random = random(parameters.seed, [4, u64::from(person.customer.number), u64::from(person.visits)]);
            let visit = Visit {
                catalogue: &self.shop.catalogue,
                customer: &person.customer,
                parameters,
                memory: &mut person.memory,
                random,
                time_ms,
                pages: Vec::new(),
            };
            person.pages = visit.walk().into();
            person.visits += 1;
            let first = person.pages.front().map_or(time_ms, |page| page.time_ms);
            self.queue.push(Reverse((first, place)));
            return self.next();
        }
        let page = person.pages.pop_front()?;
        let event = Event {
            time_ms: page.time_ms,
            customer: person.customer.number,
            visit: person.visits - 1,
            kind: page.kind,
            product: page.product.map(usize::from),
            category: page.category.map(usize::from),
        };
        let next = match person.pages.front() {
            Some(page) => page.time_ms,
            None => person.next_visit(parameters, page.time_ms),
        };
        self.queue.push(Reverse((next, place)));
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{Attribute, catalogue::CATEGORIES};

    fn events(parameters: Parameters) -> Vec<Event> {
        Shop::new(parameters).simulate().collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_events_in_the_order_of_their_times() {
        let parameters = Parameters { customers: 100, ..Parameters::default() };
        let first = events(parameters.clone());
        assert_eq!(first, events(parameters.clone()));
        assert_ne!(first, events(Parameters { seed: 2, ..parameters }));
        assert!(first.len() > 1_000, "{}", first.len());
        assert!(first.is_sorted_by_key(|event| event.time_ms));
    }

    #[test]
    fn a_longer_simulation_begins_like_a_shorter_one() {
        let parameters = Parameters { customers: 100, ..Parameters::default() };
        let short = events(parameters.clone());
        assert_eq!(short, events(Parameters { days: 9, ..parameters })[..short.len()]);
    }

    #[test]
    fn a_product_is_not_seen_before_it_appears() {
        let catalogue = Catalogue::new();
        let mut new = 0;
        for event in events(Parameters { customers: 400, days: 20, ..Parameters::default() }) {
            if let Some(product) = event.product {
                let released = catalogue.products()[product].released_ms;
                assert!(released <= event.time_ms);
                new += u32::from(released > START_MS);
            }
        }
        assert!(new > 20, "{new} views of products that appeared meanwhile");
    }

    #[test]
    fn those_who_have_a_car_look_at_car_parts() {
        let shop = Shop::new(Parameters { customers: 500, days: 14, ..Parameters::default() });
        let mut of_car: HashMap<bool, (u32, u32)> = HashMap::new();
        for event in shop.clone().simulate() {
            if let Some(category) = event.category {
                let has = shop.customer(event.customer).has[Attribute::Car as usize];
                let (car, all) = of_car.entry(has).or_default();
                *all += 1;
                *car += u32::from(CATEGORIES[category].department.name == "auto");
            }
        }
        let share = |has: bool| f64::from(of_car[&has].0) / f64::from(of_car[&has].1);
        assert!(share(true) > 0.12 && share(false) < 0.04, "{} {}", share(true), share(false));
    }

    #[test]
    fn weekends_are_busier() {
        let count = |parameters: Parameters| {
            let mut days = [0u32; 7];
            for event in events(parameters) {
                days[((event.time_ms - START_MS) / DAY) as usize] += 1;
            }
            f64::from(days[5] + days[6]) / f64::from(days[..5].iter().sum::<u32>()) * 2.5
        };
        let parameters = Parameters { customers: 2_000, ..Parameters::default() };
        let (busy, even) = (count(parameters.clone()), count(Parameters { weekend: 1.0, ..parameters }));
        assert!(busy > 1.15 && (0.9..1.1).contains(&even), "{busy} {even}");
    }
}

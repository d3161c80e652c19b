//! One visit of one customer: from the start page to what is bought.

use rand::{Rng, RngExt, rngs::StdRng};

use crate::{
    Catalogue, Customer, DAY, Kind, Parameters,
    calendar::Moment,
    catalogue::{CATEGORIES, PER_CATEGORY, Use, category_named},
    people::dwell,
};

/// How likely a visit goes on after each page.
const GO_ON: f64 = 0.86;
/// Where the next page is: a neighbour in the list, another product of the category, an accessory,
/// something popular of the department; else another intent.
const NEIGHBOUR: f64 = 0.45;
const SAME_CATEGORY: f64 = 0.15;
const ACCESSORY: f64 = 0.2;
const DEPARTMENT: f64 = 0.1;
/// How far a neighbour is in the list, at most.
const NEIGHBOURHOOD: usize = 4;
/// How likely an accessory is of the line of what it goes with.
const SAME_LINE: f64 = 0.7;
/// How likely a product that suits fully is put in the cart: three views in a hundred lead there, as in a log that is
/// public (RetailRocket 2015: 2.6 in a hundred, and 0.8 purchases).
const CART: f64 = 0.055;
/// How likely what is in the cart is bought, and how likely a cart left standing is come back to.
const BUY: f64 = 0.25;
const COME_BACK: f64 = 0.5;
/// Weights of need.
const SATISFIED: f64 = 0.1;
const SATISFIED_MS: i64 = 120 * DAY;
const RUN_OUT: f64 = 4.0;
const COMPLEMENT: f64 = 3.0;
const COMPLEMENT_MS: i64 = 7 * DAY;
/// What is remembered of a customer, at most.
const SEEN: usize = 64;
const PURCHASES: usize = 32;

/// What a customer remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Products seen last, avoided when looking on.
    seen: Vec<u16>,
    /// Categories bought in, and when.
    purchases: Vec<(u8, i64)>,
    /// What stands in the cart.
    cart: Vec<u16>,
}

/// A page of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub time_ms: i64,
    pub kind: Kind,
    pub product: Option<u16>,
    pub category: Option<u8>,
}

/// A visit under way.
pub(crate) struct Visit<'a> {
    pub catalogue: &'a Catalogue,
    pub customer: &'a Customer,
    pub parameters: &'a Parameters,
    pub memory: &'a mut Memory,
    pub random: StdRng,
    pub time_ms: i64,
    pub pages: Vec<Page>,
}

impl Visit<'_> {
    /// Goes through the shop; the pages are in the order of their times.
    pub(crate) fn walk(mut self) -> Vec<Page> {
        self.page(Kind::Visit, None, None);
        let mut at = match self.memory.cart.last().copied() {
            Some(left) if self.random.random_bool(COME_BACK) => usize::from(left),
            _ => {
                self.memory.cart.clear();
                self.begin()
            }
        };
        loop {
            self.view(at);
            if !self.random.random_bool(GO_ON) {
                break;
            }
            at = self.next(at);
        }
        if !self.memory.cart.is_empty() && self.random.random_bool(BUY) {
            for product in std::mem::take(&mut self.memory.cart) {
                let category = self.catalogue.products()[usize::from(product)].category as u8;
                self.page(Kind::Buy, Some(product), Some(category));
                self.memory.purchases.push((category, self.time_ms));
            }
            let excess = self.memory.purchases.len().saturating_sub(PURCHASES);
            self.memory.purchases.drain(..excess);
        }
        self.pages
    }

    fn page(&mut self, kind: Kind, product: Option<u16>, category: Option<u8>) {
        self.time_ms += dwell(&mut self.random);
        self.pages.push(Page { time_ms: self.time_ms, kind, product, category });
    }

    /// Comes with an intent: searches for it, or goes there.
    fn begin(&mut self) -> usize {
        let category = self.intent();
        if self.random.random_bool(self.customer.searches) {
            self.page(Kind::Search, None, Some(category as u8));
        }
        self.pick(category, None)
    }

    fn view(&mut self, product: usize) {
        let found = &self.catalogue.products()[product];
        let suits = self.customer.suits(found) / 4.0;
        let (number, category) = (product as u16, found.category as u8);
        let wanted = found.in_stock && self.random.random_bool(CART * (0.3 + 0.7 * suits));
        self.page(Kind::View, Some(number), Some(category));
        self.memory.seen.push(number);
        let excess = self.memory.seen.len().saturating_sub(SEEN);
        self.memory.seen.drain(..excess);
        if wanted && !self.memory.cart.contains(&number) {
            self.page(Kind::AddToCart, Some(number), Some(category));
            self.memory.cart.push(number);
        }
    }

    fn next(&mut self, at: usize) -> usize {
        let (category, line) = {
            let product = &self.catalogue.products()[at];
            (product.category, product.line)
        };
        let mut choice: f64 = self.random.random_range(0.0..1.0);
        let mut is = |part: f64| {
            choice -= part;
            choice < 0.0
        };
        if is(NEIGHBOUR) {
            self.neighbour(at)
        } else if is(SAME_CATEGORY) {
            self.pick(category, None)
        } else if is(ACCESSORY) {
            let complements = CATEGORIES[category].complements;
            let name = complements[self.random.random_range(0..complements.len())];
            let line = self.random.random_bool(SAME_LINE).then_some(line);
            self.pick(category_named(name).unwrap_or(category), line)
        } else if is(DEPARTMENT) {
            let department = CATEGORIES[category].department;
            let inside: Vec<usize> =
                (0..CATEGORIES.len()).filter(|&c| CATEGORIES[c].department == department).collect();
            let category = inside[self.random.random_range(0..inside.len())];
            self.pick(category, None)
        } else {
            self.begin()
        }
    }

    /// Goes up or down the list of a category, past what was seen and what is not there yet.
    fn neighbour(&mut self, at: usize) -> usize {
        let category = self.catalogue.products()[at].category;
        let (first, own) = self.catalogue.of_category(category);
        for _ in 0..8 {
            let step = self.random.random_range(1..=NEIGHBOURHOOD);
            let place = at - first;
            let to = if self.random.random_bool(0.6) { Some(place + step) } else { place.checked_sub(step) };
            let Some(to) = to else { continue };
            let known = self.memory.seen.contains(&((first + to) as u16));
            if own.get(to).is_some_and(|product| product.released_ms <= self.time_ms) && !known {
                return first + to;
            }
        }
        self.pick(category, None)
    }

    /// Picks a product of a category by popularity and how it suits, preferring what was not seen.
    fn pick(&mut self, category: usize, line: Option<u8>) -> usize {
        let (first, own) = self.catalogue.of_category(category);
        let mut weights = [0.0; PER_CATEGORY];
        for (index, (weight, product)) in weights.iter_mut().zip(own).enumerate() {
            let fits = line.is_none_or(|line| line == product.line);
            let seen = self.memory.seen.contains(&((first + index) as u16));
            let shown = match (fits, seen) {
                (true, false) => 1.0,
                (true, true) => 0.05,
                (false, _) => 0.001,
            };
            *weight = shown * product.popularity_at(self.time_ms) * self.customer.suits(product);
        }
        first + draw(&mut self.random, &weights)
    }

    /// Draws what the customer comes for.
    fn intent(&mut self) -> usize {
        let season = Moment::of(self.time_ms).season(self.parameters);
        let mut weights = [0.0; CATEGORIES.len()];
        for (category, weight) in weights.iter_mut().enumerate() {
            *weight = f64::from(self.customer.taste[category] * season[category]) * self.need(category);
        }
        draw(&mut self.random, &weights)
    }

    fn need(&self, category: usize) -> f64 {
        let mut need = 1.0;
        for &(bought, time) in &self.memory.purchases {
            let bought = usize::from(bought);
            let since = self.time_ms - time;
            if bought == category {
                need = match CATEGORIES[category].use_ {
                    Use::Durable if since < SATISFIED_MS => SATISFIED,
                    Use::UsedUp(days) if since < i64::from(days) * DAY => SATISFIED,
                    Use::UsedUp(_) => RUN_OUT,
                    _ => need,
                };
            } else if since < COMPLEMENT_MS && CATEGORIES[bought].complements.contains(&CATEGORIES[category].name) {
                need *= COMPLEMENT;
            }
        }
        need
    }
}

/// Draws an index by weight; the last one where all are zero.
fn draw(random: &mut impl Rng, weights: &[f64]) -> usize {
    let mut left = random.random_range(0.0..1.0) * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return index;
        }
    }
    weights.len() - 1
}

//! Customers: what they have, what they like, how often they come.

use rand::RngExt;
use rand_distr::{Distribution, LogNormal, StandardNormal};
use serde::Serialize;

use crate::{
    catalogue::{CATEGORIES, LINES, Product},
    random,
};

/// Visits a week, of the middle customer.
const VISITS: f64 = 2.5;
/// Spread of visits a week, and of the taste for a department, as sigmas of log-normals.
const VISITS_SIGMA: f64 = 0.7;
const TASTE_SIGMA: f64 = 0.5;
/// Weight of a department for those who have what it is for, and for those who lack it.
const OWNER: f64 = 2.5;
const NO_OWNER: f64 = 0.08;
/// Weight of a favourite line against the others.
const FAVOURITE: f64 = 4.0;

/// Something a customer has or lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// A car.
    Car,
    /// A baby.
    Baby,
    /// A garden.
    Garden,
    /// A pet.
    Pet,
    /// A console to play on.
    Console,
}

impl Attribute {
    /// Every attribute.
    pub const ALL: [Self; 5] = [Self::Car, Self::Baby, Self::Garden, Self::Pet, Self::Console];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Baby => "baby",
            Self::Garden => "garden",
            Self::Pet => "pet",
            Self::Console => "console",
        }
    }
}

/// Share of customers, and the probabilities of [`Attribute::ALL`].
const HOUSEHOLDS: [(f64, [f64; 5]); 4] = [
    (0.25, [0.25, 0.02, 0.05, 0.20, 0.60]), // students
    (0.30, [0.55, 0.04, 0.20, 0.30, 0.40]), // singles
    (0.30, [0.85, 0.40, 0.65, 0.45, 0.45]), // families
    (0.15, [0.65, 0.02, 0.75, 0.30, 0.05]), // retired people
];

/// A customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Customer {
    /// Their number.
    pub number: u32,
    /// What they have, in the order of [`Attribute::ALL`].
    pub has: [bool; 5],
    /// Visits a week.
    pub visits: f64,
    /// Part of visits that begin with a search.
    pub searches: f64,
    /// Price level: the logarithm of what they pay against the middle price.
    pub price_level: f64,
    /// Favourite lines.
    pub favourites: [u8; 3],
    /// Taste for each category's department, what they have or lack included.
    pub(crate) taste: [f32; CATEGORIES.len()],
}

impl Customer {
    /// Makes the customer of a number.
    #[must_use]
    pub fn new(seed: u64, number: u32) -> Self {
        let mut random = random(seed, [1, u64::from(number), 0]);
        let mut share = random.random_range(0.0..1.0);
        let (_, probabilities) = HOUSEHOLDS
            .iter()
            .find(|(part, _)| {
                share -= part;
                share < 0.0
            })
            .unwrap_or(&HOUSEHOLDS[0]);
        let has = probabilities.map(|probability| random.random_bool(probability));
        let mut log_normal = |median: f64, sigma: f64| {
            let normal: f64 = StandardNormal.sample(&mut random);
            median * (sigma * normal).exp()
        };
        let visits = log_normal(VISITS, VISITS_SIGMA);
        let mut taste = [0.0; CATEGORIES.len()];
        let mut department = (CATEGORIES[0].department, log_normal(1.0, TASTE_SIGMA));
        for (taste, category) in taste.iter_mut().zip(&CATEGORIES) {
            if department.0 != category.department {
                department = (category.department, log_normal(1.0, TASTE_SIGMA));
            }
            let owns = match category.department.attribute {
                Some(attribute) if has[attribute as usize] => OWNER,
                Some(_) => NO_OWNER,
                None => 1.0,
            };
            *taste = (department.1 * owns) as f32;
        }
        let price_level = random.random_range(-0.6..0.6);
        let favourites = [0; 3].map(|_| random.random_range(0..LINES));
        let searches = random.random_range(0.05..0.35);
        Self { number, has, visits, searches, price_level, favourites, taste }
    }

    /// Returns the customer's id, such as `u-000017`.
    #[must_use]
    pub fn id(&self) -> String {
        customer_id(self.number)
    }

    /// Returns how well a product suits: 0 to 4, by line and price.
    #[must_use]
    pub fn suits(&self, product: &Product) -> f64 {
        let line = if self.favourites.contains(&product.line) { FAVOURITE } else { 1.0 };
        let level = (f64::from(product.price_cents) / f64::from(product.category().middle_price())).ln();
        line * (-(level - self.price_level).powi(2) / 0.5).exp()
    }
}

/// Returns the id of the customer of a number.
#[must_use]
pub fn customer_id(number: u32) -> String {
    format!("u-{number:06}")
}

/// Reads a customer's number from the id.
#[must_use]
pub fn customer_number(id: &str) -> Option<u32> {
    id.strip_prefix("u-")?.parse().ok()
}

/// Draws how long until the next visit may be, milliseconds, at `per_week` visits a week.
pub(crate) fn gap(random: &mut impl rand::Rng, per_week: f64) -> i64 {
    let uniform: f64 = random.random_range(f64::EPSILON..1.0);
    (-uniform.ln() / per_week * 7.0 * crate::DAY as f64) as i64
}

/// Draws a time between two pages, milliseconds: log-normal, median 25 s.
pub(crate) fn dwell(random: &mut impl rand::Rng) -> i64 {
    // The parameters are finite, so the distribution exists.
    let seconds = LogNormal::new(25.0f64.ln(), 0.8).map_or(25.0, |law| law.sample(random));
    (seconds.min(900.0) * 1_000.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn households_are_all_customers_and_ids_round_trip() {
        let total: f64 = HOUSEHOLDS.iter().map(|(part, _)| part).sum();
        assert!((total - 1.0).abs() < 1e-12);
        assert_eq!(customer_number(&customer_id(17)), Some(17));
        assert_eq!(customer_number("x-1"), None);
    }

    #[test]
    fn attributes_have_the_probabilities_of_their_households() {
        let count = 20_000;
        let cars = (0..count).filter(|&number| Customer::new(3, number).has[Attribute::Car as usize]).count();
        let expected: f64 = HOUSEHOLDS.iter().map(|(part, has)| part * has[0]).sum();
        assert!((cars as f64 / f64::from(count) - expected).abs() < 0.015, "{cars} of {count}, expected {expected}");
    }
}

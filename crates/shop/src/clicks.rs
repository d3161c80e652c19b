//! Which recommendations a customer clicks.

use rand::RngExt;

use crate::{Customer, Shop, calendar::Moment, random};

/// What the best recommendation at the first place is clicked with.
const MOST: f64 = 0.35;
/// The weight at which a recommendation is half as attractive as one can be.
const HALF: f64 = 8.0;

impl Shop {
    /// Says which of the products shown to a customer are clicked, in their order. The answer depends
    /// on seed, customer, time and products alone. Products the shop does not have are not clicked.
    #[must_use]
    pub fn clicks(&self, customer: &Customer, time_ms: i64, shown: &[&str]) -> Vec<bool> {
        let season = Moment::of(time_ms).season(&self.parameters);
        let mut random = random(self.parameters.seed, [5, u64::from(customer.number), time_ms.unsigned_abs()]);
        let mut clicked = |(rank, id): (usize, &&str)| {
            let uniform: f64 = random.random_range(0.0..1.0);
            let Some(product) = self.catalogue.find(id) else { return false };
            let product = &self.catalogue.products()[product];
            let taste = f64::from(customer.taste[product.category] * season[product.category]);
            let weight = taste * customer.suits(product);
            let looked_at = 1.0 / (rank as f64 + 2.0).log2();
            uniform < MOST * looked_at * weight.powi(2) / (weight.powi(2) + HALF.powi(2))
        };
        shown.iter().enumerate().map(&mut clicked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attribute, Parameters};

    #[test]
    fn who_has_no_car_clicks_no_car_parts() {
        let shop = Shop::new(Parameters::default());
        let auto: Vec<&str> = shop.catalogue().of_category(0).1[..5].iter().map(|product| &*product.id).collect();
        let rate = |has: bool| {
            let of_kind = (0..2_000).map(|n| shop.customer(n)).filter(|c| c.has[Attribute::Car as usize] == has);
            let clicks: Vec<bool> = of_kind.flat_map(|customer| shop.clicks(&customer, 1_000, &auto)).collect();
            clicks.iter().filter(|clicked| **clicked).count() as f64 / clicks.len() as f64
        };
        assert!(rate(true) > 4.0 * rate(false), "{} {}", rate(true), rate(false));
    }

    #[test]
    fn what_the_shop_does_not_have_is_not_clicked() {
        let shop = Shop::new(Parameters::default());
        assert_eq!(shop.clicks(&shop.customer(0), 0, &["unknown"; 3]), [false; 3]);
        assert_eq!(shop.clicks(&shop.customer(0), 0, &[]), Vec::<bool>::new());
    }
}

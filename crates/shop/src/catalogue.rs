//! Departments, categories and products.

use rand::RngExt;

use crate::{Attribute, DAY, random};

/// Products of each category.
pub const PER_CATEGORY: usize = 75;
/// Lines of products.
pub(crate) const LINES: u8 = 12;
/// The seed of the catalogue: customers differ from seed to seed, the shop stays the same.
const SEED: u64 = 2026;
/// How fast popularity falls with the rank in a category.
const ZIPF: f64 = 0.8;
/// What is new is so much more popular,
const NOVELTY: f64 = 3.0;
/// for so long.
const NOVELTY_MS: i64 = 14 * DAY;
/// 2026-01-01, from when new products appear, for two years.
const FIRST_RELEASE: i64 = 1_767_225_600_000;

/// A part of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Department {
    /// Its name.
    pub name: &'static str,
    /// What makes one a customer of it, if it is not for all.
    pub attribute: Option<Attribute>,
}

/// How often something is bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Once in a long while.
    Durable,
    /// Now and then.
    Casual,
    /// Again after so many days.
    UsedUp(u8),
}

/// A kind of product.
#[derive(Clone, Copy, Debug)]
pub struct Category {
    /// Its name, with its department's: `auto/tyres`.
    pub name: &'static str,
    /// The department.
    pub department: Department,
    /// Its middle price, cents.
    price: u32,
    pub(crate) use_: Use,
    /// Categories of what goes with it.
    pub(crate) complements: &'static [&'static str],
}

const fn of(name: &'static str, attribute: Attribute) -> Department {
    Department { name, attribute: Some(attribute) }
}

const fn open(name: &'static str) -> Department {
    Department { name, attribute: None }
}

const AUTO: Department = of("auto", Attribute::Car);
const BABY: Department = of("baby", Attribute::Baby);
const GARDEN: Department = of("garden", Attribute::Garden);
const PET: Department = of("pet", Attribute::Pet);
const GAMING: Department = of("gaming", Attribute::Console);
const HOME: Department = open("home");
const FASHION: Department = open("fashion");
const ELECTRONICS: Department = open("electronics");
const GIFTS: Department = open("gifts");

const fn category(
    name: &'static str,
    department: Department,
    price: u32,
    use_: Use,
    complements: &'static [&'static str],
) -> Category {
    Category { name, department, price, use_, complements }
}

use Use::{Casual, Durable, UsedUp};

/// Every category, in a fixed order.
pub static CATEGORIES: [Category; 32] = [
    category("auto/tyres", AUTO, 8_900, Durable, &["auto/care", "auto/parts"]),
    category("auto/chargers", AUTO, 2_900, Durable, &["electronics/cables", "auto/care"]),
    category("auto/care", AUTO, 1_200, UsedUp(45), &["auto/parts"]),
    category("auto/parts", AUTO, 3_500, Casual, &["auto/care"]),
    category("baby/prams", BABY, 34_900, Durable, &["baby/clothes", "baby/care"]),
    category("baby/nappies", BABY, 1_900, UsedUp(10), &["baby/care"]),
    category("baby/care", BABY, 900, UsedUp(20), &["baby/nappies"]),
    category("baby/clothes", BABY, 1_700, Casual, &["gifts/toys"]),
    category("garden/plants", GARDEN, 1_400, Casual, &["garden/tools"]),
    category("garden/tools", GARDEN, 3_900, Durable, &["garden/plants"]),
    category("garden/furniture", GARDEN, 14_900, Durable, &["garden/grills", "home/lighting"]),
    category("garden/grills", GARDEN, 12_900, Durable, &["home/kitchen"]),
    category("pet/food", PET, 2_400, UsedUp(14), &["pet/toys"]),
    category("pet/toys", PET, 900, Casual, &["pet/food"]),
    category("pet/beds", PET, 3_900, Durable, &["pet/toys", "home/textiles"]),
    category("pet/care", PET, 1_300, UsedUp(40), &["pet/food"]),
    category("gaming/consoles", GAMING, 39_900, Durable, &["gaming/games", "gaming/controllers"]),
    category("gaming/games", GAMING, 4_900, Casual, &["gaming/controllers"]),
    category("gaming/controllers", GAMING, 5_900, Durable, &["gaming/games"]),
    category("gaming/headsets", GAMING, 7_900, Durable, &["gaming/games"]),
    category("home/kitchen", HOME, 4_500, Casual, &["home/textiles"]),
    category("home/lighting", HOME, 3_900, Casual, &["home/storage"]),
    category("home/textiles", HOME, 2_900, Casual, &["home/storage"]),
    category("home/storage", HOME, 2_500, Casual, &["home/lighting"]),
    category("fashion/jackets", FASHION, 8_900, Durable, &["fashion/shoes"]),
    category("fashion/shoes", FASHION, 6_900, Casual, &["fashion/accessories"]),
    category("fashion/accessories", FASHION, 2_400, Casual, &["fashion/jackets"]),
    category("electronics/phones", ELECTRONICS, 49_900, Durable, &["electronics/cables", "electronics/audio"]),
    category("electronics/audio", ELECTRONICS, 9_900, Durable, &["electronics/cables"]),
    category("electronics/cables", ELECTRONICS, 1_100, Casual, &["electronics/audio"]),
    category("gifts/toys", GIFTS, 2_900, Casual, &["gifts/sweets"]),
    category("gifts/sweets", GIFTS, 1_200, UsedUp(30), &["gifts/toys"]),
];

impl Category {
    /// Returns its middle price, cents.
    #[must_use]
    pub const fn middle_price(&self) -> u32 {
        self.price
    }
}

/// A product.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// Its id, such as `P-00017`.
    pub id: String,
    /// Its category, an index of [`CATEGORIES`].
    pub category: usize,
    /// Its line.
    pub line: u8,
    /// Its price, cents.
    pub price_cents: u32,
    /// Popularity within its category.
    pub popularity: f64,
    /// When it appears, milliseconds since 1970.
    pub released_ms: i64,
    /// Whether it can be had.
    pub in_stock: bool,
}

/// The products, each category's together and in the order of its list: by line, then by price.
#[derive(Clone, Debug)]
pub struct Catalogue {
    products: Vec<Product>,
}

impl Catalogue {
    /// Makes the catalogue; it is always the same.
    #[must_use]
    pub fn new() -> Self {
        let mut products = Vec::with_capacity(CATEGORIES.len() * PER_CATEGORY);
        for (index, category) in CATEGORIES.iter().enumerate() {
            let mut random = random(SEED, [0, index as u64, 0]);
            let mut own: Vec<Product> = (0..PER_CATEGORY)
                .map(|_| Product {
                    id: String::new(),
                    category: index,
                    line: random.random_range(0..LINES),
                    price_cents: (f64::from(category.price) * random.random_range(-0.8..0.8f64).exp()) as u32,
                    popularity: 0.0,
                    released_ms: if random.random_bool(0.85) {
                        0
                    } else {
                        FIRST_RELEASE + random.random_range(0..730 * DAY)
                    },
                    in_stock: random.random_bool(0.97),
                })
                .collect();
            own.sort_by_key(|product| (product.line, product.price_cents));
            // Ranks are drawn without regard to line and price.
            let mut ranks: Vec<usize> = (0..PER_CATEGORY).collect();
            for at in (1..ranks.len()).rev() {
                ranks.swap(at, random.random_range(0..=at));
            }
            for (product, rank) in own.iter_mut().zip(ranks) {
                product.popularity = (rank as f64 + 1.0).powf(-ZIPF);
            }
            products.append(&mut own);
        }
        for (number, product) in products.iter_mut().enumerate() {
            product.id = format!("P-{number:05}");
        }
        Self { products }
    }

    /// Returns every product.
    #[must_use]
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    /// Returns the products of a category, in the order of its list, and the index of the first.
    #[must_use]
    pub fn of_category(&self, category: usize) -> (usize, &[Product]) {
        let first = category * PER_CATEGORY;
        (first, &self.products[first..first + PER_CATEGORY])
    }

    /// Finds a product by its id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        let number: usize = id.strip_prefix("P-")?.parse().ok()?;
        self.products.get(number).filter(|product| product.id == id).map(|_| number)
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new()
    }
}

impl Product {
    /// Returns how popular it is at a time; zero before it appears.
    #[must_use]
    pub fn popularity_at(&self, time_ms: i64) -> f64 {
        match time_ms - self.released_ms {
            age if age < 0 => 0.0,
            age if age < NOVELTY_MS => NOVELTY * self.popularity,
            _ => self.popularity,
        }
    }

    /// Returns its category.
    #[must_use]
    pub fn category(&self) -> &'static Category {
        &CATEGORIES[self.category]
    }
}

/// Finds a category by its name.
#[must_use]
pub fn category_named(name: &str) -> Option<usize> {
    CATEGORIES.iter().position(|category| category.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complements_are_categories_and_names_begin_with_their_department() {
        for category in &CATEGORIES {
            assert!(category.name.starts_with(category.department.name), "{}", category.name);
            for complement in category.complements {
                assert!(category_named(complement).is_some(), "{complement}");
            }
        }
    }

    #[test]
    fn a_product_is_found_by_its_id() {
        let catalogue = Catalogue::new();
        for (index, product) in catalogue.products().iter().enumerate() {
            assert_eq!(catalogue.find(&product.id), Some(index));
        }
        assert_eq!(catalogue.find("P-17"), None);
        assert_eq!(catalogue.find("P-99999"), None);
    }
}

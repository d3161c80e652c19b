//! A simulated shop: products, customers, and what the customers do. Every event has causes that are
//! known, so that what a model says of a customer can be checked against the truth.
//!
//! # The model
//!
//! **Products** ([`catalogue`]). 32 categories in nine departments, [`PER_CATEGORY`] products each. A
//! product has a *line* (a brand's design, 0 to 11), a price, and a popularity that falls within its
//! category as `1 / rank^0.8`. 85 % are old; the others appear at times spread over 2026 and 2027,
//! with their popularity tripled for their first two weeks.
//!
//! **Customers** ([`people`]). A household (student, single, family, retired) decides how likely a
//! customer has a car, a baby, a garden, a pet, a console. Further: a taste for each department
//! (log-normal, sigma 0.5), three favourite lines, a price level, visits a week (log-normal, median
//! 2.5), how often they search rather than browse.
//!
//! **When** ([`calendar`]). Visits are a Poisson process whose rate follows the hour (little at night,
//! most at 20 h), the weekend (× [`Parameters::weekend`]) and the holidays.
//!
//! **What** ([`visit`]). A visit begins with an intent, a category drawn with weight
//! `taste × owns × season × need`: *owns* is 2.5 for the department of what the customer has and 0.08
//! for that of what they lack; *season* is the calendar's; *need* falls to 0.1 for 120 days after
//! something durable was bought there, is 4 when something that is used up runs out, and 3 for a week
//! in the categories that complement a purchase. Then products are viewed one after another: a
//! neighbour in the list (0.45), another one of the category (0.15), an accessory, mostly of the same
//! line (0.2), something popular of the department (0.1), or another intent (0.1). What was seen
//! before is avoided. A view may put the product in the cart, a cart may be bought, and a cart left
//! standing is often where the next visit begins.
//!
//! **Clicks** ([`Shop::clicks`]). A recommendation at rank `r` is looked at with `1 / log2(r + 1)`,
//! `r` from 1, and clicked with `0.35 · w² / (w² + 8²)` of that, `w` being the same weights: what one has a use for, in
//! one's lines, at one's prices. What is merely acceptable is passed over.
//!
//! **Who.** As many customers at any time. Each comes for 30 days on average, exponentially distributed, and then stays
//! away and is followed by another, of the next free number: so the shop is as much the same shop after a year as after a day.
//!
//! What always holds: the same seed and parameters give the same events, in the order of their times;
//! a customer depends on seed and number alone.

pub mod calendar;
pub mod catalogue;
mod clicks;
mod feedback;
pub mod people;
mod simulation;
pub mod visit;

pub use catalogue::{Catalogue, Category, Department, PER_CATEGORY, Product};
pub use feedback::FeedbackError;
pub use people::{Attribute, Customer};
pub use simulation::{Event, Kind, Parameters, Shop, Simulation};

use rand::{SeedableRng, rngs::StdRng};

/// Milliseconds of a day.
pub const DAY: i64 = 86_400_000;

/// Makes the generator of one thing: `parts` name it within the seed.
fn random(seed: u64, parts: [u64; 3]) -> StdRng {
    // SplitMix64 (Steele, Lea, Flood 2014) over the parts.
    let mut state = seed;
    for part in parts {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ part;
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    StdRng::seed_from_u64(state)
}

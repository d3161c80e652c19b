//! What to show to a customer.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::{ClickKind, click::department, json};

/// What to show to a customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recommendations {
    /// The user; also the record's key.
    pub user: String,
    /// The time of the event that asks for them, milliseconds since 1970.
    pub time_ms: i64,
    /// What that event was.
    pub cause: ClickKind,
    /// What they rest on.
    pub basis: Basis,
    /// Events remembered of the user whose product the model has not met.
    pub unknown_products: u32,
    /// The products, best first.
    pub items: Vec<Recommendation>,
}

/// What recommendations rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// What the user did.
    History,
    /// What the user has, without anything they did: a cold start.
    Profile,
    /// What is popular: nothing is known of the user.
    Popularity,
}

/// A product to show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The product's id.
    pub product: String,
    /// Its category.
    pub category: String,
    /// Its score; comparable within one model only.
    pub score: f32,
    /// How surprising it is: the bits of its share in all views.
    pub surprise: f32,
}

impl Basis {
    const fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Profile => "profile",
            Self::Popularity => "popularity",
        }
    }
}

static BASIS: Signal = Signal::category("recommendations.basis", "what they rest on; popularity is the fallback");
static TOP_SCORE: Signal = Signal::number(
    "recommendations.top_score",
    "1",
    "score of the first product, missing where it is one of popularity",
    Scale::Linear { lo: -8.0, hi: 24.0 },
);
static ITEMS: Signal =
    Signal::number("recommendations.items", "{product}", "number of products", Scale::Linear { lo: 0.0, hi: 32.0 });
static NOVELTY: Signal = Signal::number(
    "recommendations.novelty",
    "bit",
    "mean surprise of the products, missing where there are none",
    Scale::Linear { lo: 0.0, hi: 24.0 },
);
static DEPARTMENTS: Signal = Signal::number(
    "recommendations.departments",
    "{department}",
    "different departments among the products",
    Scale::Linear { lo: 0.0, hi: 16.0 },
);
static DEPARTMENT: Signal = Signal::category("recommendations.department", "department of the first product");
static FIRST: Signal = Signal::category(
    "recommendations.first",
    "the first product: how many different ones there are is the coverage of the catalogue",
);
static UNKNOWN: Signal = Signal::number(
    "recommendations.unknown_products",
    "{event}",
    "events whose product the model has not met",
    Scale::Linear { lo: 0.0, hi: 32.0 },
);

impl Payload for Recommendations {
    const SCHEMA: SchemaId = SchemaId::new("recommendations.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        json::decode(bytes)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        let first = self.items.first();
        let mut departments: Vec<&str> = self.items.iter().map(|item| department(&item.category)).collect();
        visit.category(&DEPARTMENT, departments.first().copied());
        departments.sort_unstable();
        departments.dedup();
        let novelty: f64 = self.items.iter().map(|item| f64::from(item.surprise)).sum();
        let score = first.filter(|_| self.basis != Basis::Popularity).map(|item| f64::from(item.score));
        visit.number(&TOP_SCORE, score);
        visit.category(&BASIS, Some(self.basis.name()));
        visit.number(&NOVELTY, first.map(|_| novelty / self.items.len() as f64));
        visit.number(&DEPARTMENTS, Some(departments.len() as f64));
        visit.number(&ITEMS, Some(self.items.len() as f64));
        visit.number(&UNKNOWN, Some(f64::from(self.unknown_products)));
        visit.category(&FIRST, first.map(|item| &*item.product));
    }
}

//! Who a customer is, as far as it is known.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::{ClickKind, click::department, json};

/// Who a customer is, after an event of theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserProfile {
    /// The user; also the record's key.
    pub user: String,
    /// The time of the event, milliseconds since 1970.
    pub time_ms: i64,
    /// What the event was. After [`ClickKind::Erase`] nothing is known.
    pub cause: ClickKind,
    /// Events so far, until they expired.
    pub events: u32,
    /// What the user did lately: searches and views count 1, what was put in the cart 2, purchases 3, each halved with
    /// its age as the stage's half-life says.
    pub activity: f32,
    /// Time since the event before, milliseconds; `None` for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<i64>,
    /// What they have.
    pub attributes: Attributes,
    /// Categories by weight, the highest first.
    pub interests: Vec<Interest>,
    /// The last events, oldest first.
    pub recent: Vec<RecentEvent>,
    /// Products bought, oldest first.
    pub bought: Vec<String>,
}

/// What a customer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// A car.
    pub car: Estimate,
    /// A baby.
    pub baby: Estimate,
    /// A garden.
    pub garden: Estimate,
    /// A pet.
    pub pet: Estimate,
    /// A console to play on.
    pub console: Estimate,
}

/// An answer, and the probability behind it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The answer.
    pub answer: Answer,
    /// The probability of yes, 0 to 1.
    pub probability: f32,
}

/// Whether a customer has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Likely enough.
    Yes,
    /// Unlikely enough.
    No,
    /// Neither.
    Unknown,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { answer: Answer::Unknown, probability: 0.5 }
    }
}

impl Attributes {
    /// Returns every estimate, in a fixed order.
    #[must_use]
    pub fn all(&self) -> [Estimate; 5] {
        [self.car, self.baby, self.garden, self.pet, self.console]
    }

    /// Takes estimates in the order of [`Attributes::all`].
    #[must_use]
    pub fn from_all([car, baby, garden, pet, console]: [Estimate; 5]) -> Self {
        Self { car, baby, garden, pet, console }
    }
}

impl Answer {
    const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// A category and how much it was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interest {
    /// The category.
    pub category: String,
    /// Its part of all interests, 0 to 1.
    pub weight: f32,
}

/// An event that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecentEvent {
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// What was done.
    pub kind: ClickKind,
    /// The product, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The category, where there was one that the model knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}

static CAUSE: Signal = Signal::category("profile.cause", "what the event behind it was");
/// Not the number of events so far: that grows for as long as users stay, and would drift for ever.
static ACTIVITY: Signal = Signal::number(
    "profile.activity",
    "{event}",
    "what the user did lately, faded with its age",
    Scale::Log { lo: 0.01, hi: 10_000.0 },
);
static GAP: Signal = Signal::number(
    "profile.gap",
    "s",
    "time since the user's event before, missing for the first",
    Scale::Log { lo: 1.0, hi: 5_184_000.0 },
);
static UNKNOWN: Signal = Signal::number(
    "profile.unknown",
    "1",
    "part of the attributes that are unknown",
    Scale::Linear { lo: 0.0, hi: 1.0 },
);
static CONFIDENCE: Signal = Signal::number(
    "profile.confidence",
    "1",
    "mean probability of the likelier answer",
    Scale::Linear { lo: 0.5, hi: 1.0 },
);
static ATTRIBUTES: [Signal; 5] = [
    Signal::category("profile.car", "whether they have a car"),
    Signal::category("profile.baby", "whether they have a baby"),
    Signal::category("profile.garden", "whether they have a garden"),
    Signal::category("profile.pet", "whether they have a pet"),
    Signal::category("profile.console", "whether they have a console"),
];
static INTEREST: Signal =
    Signal::category("profile.interest", "department of the highest interest, missing where there is none");

impl Payload for UserProfile {
    const SCHEMA: SchemaId = SchemaId::new("user-profile.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        json::decode(bytes)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        let estimates = self.attributes.all();
        let unknown = estimates.iter().filter(|estimate| estimate.answer == Answer::Unknown).count();
        let sure = |estimate: &Estimate| f64::from(estimate.probability.max(1.0 - estimate.probability));
        visit.number(&UNKNOWN, Some(unknown as f64 / estimates.len() as f64));
        visit.number(&CONFIDENCE, Some(estimates.iter().map(sure).sum::<f64>() / estimates.len() as f64));
        for (signal, estimate) in ATTRIBUTES.iter().zip(&estimates) {
            visit.category(signal, Some(estimate.answer.name()));
        }
        visit.number(&ACTIVITY, Some(f64::from(self.activity)));
        visit.number(&GAP, self.gap_ms.map(|gap| gap as f64 / 1_000.0));
        visit.category(&INTEREST, self.interests.first().map(|interest| department(&interest.category)));
        visit.category(&CAUSE, Some(self.cause.name()));
    }
}

//! What a customer did.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::json;

/// Longest name of a user, a product or a category, bytes.
pub const MAX_NAME: usize = 64;
/// 2000-01-01 and 2100-01-01: no clock that works says anything else.
const TIMES: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

/// Something a customer did in a shop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClickEvent {
    /// The user; also the record's key.
    pub user: String,
    /// What was done.
    pub kind: ClickKind,
    /// The product, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The category, with its department's name before a slash or a dot: `auto/tyres`, `electronics.smartphone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// When, milliseconds since 1970; also the record's event time.
    pub time_ms: i64,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClickKind {
    /// The start page was opened.
    Visit,
    /// Something was searched for.
    Search,
    /// A product was looked at.
    View,
    /// A product was put in the cart.
    AddToCart,
    /// A product was bought.
    Buy,
    /// The user asks to be forgotten: everything kept of them is removed.
    Erase,
}

impl ClickKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Visit, Self::Search, Self::View, Self::AddToCart, Self::Buy, Self::Erase];

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Visit => "visit",
            Self::Search => "search",
            Self::View => "view",
            Self::AddToCart => "add-to-cart",
            Self::Buy => "buy",
            Self::Erase => "erase",
        }
    }

    /// Finds a kind by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The event as it is written, before it is known to be one.
#[derive(Deserialize)]
struct Written {
    user: String,
    kind: String,
    #[serde(default)]
    product: Option<String>,
    #[serde(default)]
    category: Option<String>,
    time_ms: i64,
}

impl ClickEvent {
    /// Makes an event; empty products and categories are none.
    ///
    /// # Errors
    /// For a user, product or category that is empty or longer than [`MAX_NAME`] bytes, and for a time
    /// outside the years 2000 to 2099.
    pub fn try_new(
        user: String,
        kind: ClickKind,
        product: Option<String>,
        category: Option<String>,
        time_ms: i64,
    ) -> Result<Self, CodecError> {
        let product = product.filter(|name| !name.is_empty());
        let category = category.filter(|name| !name.is_empty());
        let names = [("user", Some(&user)), ("product", product.as_ref()), ("category", category.as_ref())];
        for (place, name) in names {
            let length = name.map_or(1, String::len);
            if !(1..=MAX_NAME).contains(&length) {
                return Err(CodecError::new(place, format!("{length} bytes"), format!("1 to {MAX_NAME}")));
            }
        }
        if !TIMES.contains(&time_ms) {
            let allowed = "milliseconds since 1970 in the years 2000 to 2099";
            return Err(CodecError::new("time_ms", time_ms.to_string(), allowed));
        }
        Ok(Self { user, kind, product, category, time_ms })
    }

    /// Counts what the kind of event should name and does not.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let (product, category) = match self.kind {
            ClickKind::Visit | ClickKind::Erase => (false, false),
            ClickKind::Search => (false, true),
            ClickKind::View | ClickKind::AddToCart | ClickKind::Buy => (true, true),
        };
        u32::from(product && self.product.is_none()) + u32::from(category && self.category.is_none())
    }
}

/// Returns the department of a category: what stands before the first slash or dot.
pub(crate) fn department(category: &str) -> &str {
    category.split(['/', '.']).next().unwrap_or(category)
}

static KIND: Signal = Signal::category("click.kind", "what was done");
static DEPARTMENT: Signal =
    Signal::category("click.department", "department of the shop, missing for events that have none");
static MISSING: Signal = Signal::number(
    "click.missing_fields",
    "{field}",
    "fields that the kind of event should have and has not",
    Scale::Linear { lo: 0.0, hi: 4.0 },
);
static HOUR: Signal = Signal::number("click.hour", "h", "hour of the day, UTC", Scale::Linear { lo: 0.0, hi: 24.0 });

impl Payload for ClickEvent {
    const SCHEMA: SchemaId = SchemaId::new("click-event.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let Written { user, kind, product, category, time_ms } = json::decode(bytes)?;
        let kind = ClickKind::named(&kind)
            .ok_or_else(|| CodecError::new("kind", "another word", ClickKind::ALL.map(ClickKind::name).join(", ")))?;
        Self::try_new(user, kind, product, category, time_ms)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.category(&KIND, Some(self.kind.name()));
        visit.category(&DEPARTMENT, self.category.as_deref().map(department));
        visit.number(&MISSING, Some(f64::from(self.missing())));
        visit.number(&HOUR, Some(self.time_ms.rem_euclid(86_400_000) as f64 / 3_600_000.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_department_ends_at_a_slash_or_a_dot() {
        let names = ["auto/tyres", "electronics.smartphone", "a.b/c", "fashion"];
        assert_eq!(names.map(department), ["auto", "electronics", "a", "fashion"]);
    }
}

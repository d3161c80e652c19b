//! What is remembered of a customer: the last events, decayed counts, purchases.
//!
//! A history is kept as bytes, in memory as in the log, and changed event by event; so a history that
//! was written and read again is the one that was not. Layout, little endian, `v` a variable-length
//! integer (LEB128):
//!
//! | what | bytes |
//! |---|---|
//! | time of the newest event, ms | 8 |
//! | events so far | v |
//! | number of counts, then of each the category (1) and the weight at that time (`f32`, 4) | 1 + 5 n |
//! | number of last events, then of each, oldest first: ms since the one before (v; the first one: before the newest), action (1), category (1), length and bytes of the product (1 + n) | 1 + … |
//! | number of purchases, then of each the length and bytes of the product | 1 + … |
//!
//! Some 250 bytes for a customer with twenty events.

use std::collections::HashMap;

/// Events remembered one by one.
pub const RECENT: usize = 20;
/// Purchases remembered, so that they are not recommended again.
pub const PURCHASES: usize = 16;
/// Longest name of a product, bytes.
pub const MAX_PRODUCT: usize = 64;
/// Most categories a vocabulary holds.
pub const MAX_CATEGORIES: usize = 200;
/// Weight below which a count is forgotten.
const FORGOTTEN: f32 = 0.02;

/// What a customer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Opens the start page.
    Visit,
    /// Searches.
    Search,
    /// Looks at a product.
    View,
    /// Puts a product in the cart.
    AddToCart,
    /// Buys a product.
    Buy,
}

impl Action {
    /// Every action, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Visit, Self::Search, Self::View, Self::AddToCart, Self::Buy];

    /// Returns the name, as shops' logs have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Visit => "visit",
            Self::Search => "search",
            Self::View => "view",
            Self::AddToCart => "add-to-cart",
            Self::Buy => "buy",
        }
    }

    /// Finds an action by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Returns what an action adds to the count of its category.
    const fn weight(self) -> f32 {
        match self {
            Self::Visit => 0.0,
            Self::Search | Self::View => 1.0,
            Self::AddToCart => 2.0,
            Self::Buy => 3.0,
        }
    }
}

/// The categories a model knows, by number from 1; 0 is every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    names: Vec<String>,
    codes: HashMap<String, u8>,
}

impl Vocabulary {
    /// Takes the names, at most [`MAX_CATEGORIES`]; what is beyond is not known.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).take(MAX_CATEGORIES).collect();
        let codes = names.iter().enumerate().map(|(index, name)| (name.clone(), index as u8 + 1)).collect();
        Self { names, codes }
    }

    /// Returns the number of a category.
    #[must_use]
    pub fn code(&self, name: Option<&str>) -> u8 {
        name.and_then(|name| self.codes.get(name)).copied().unwrap_or(0)
    }

    /// Returns the name of a number.
    #[must_use]
    pub fn name(&self, code: u8) -> Option<&str> {
        self.names.get(usize::from(code).checked_sub(1)?).map(String::as_str)
    }

    /// Returns the names, in the order of their numbers.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns how many numbers there are, 0 included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.names.len() + 1
    }
}

/// How fast a history fades.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fading {
    /// A count halves in so many milliseconds.
    pub half_life_ms: i64,
    /// What is older is forgotten, milliseconds.
    pub expiry_ms: i64,
}

impl Default for Fading {
    fn default() -> Self {
        const DAY: i64 = 86_400_000;
        Self { half_life_ms: 14 * DAY, expiry_ms: 60 * DAY }
    }
}

/// An event of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// What.
    pub action: Action,
    /// The number of the category.
    pub category: u8,
    /// The product; empty if there is none.
    pub product: String,
}

/// What is remembered of a customer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Time of the newest event.
    pub newest_ms: i64,
    /// Events so far.
    pub events: u32,
    /// Weight of each category that has one, at the time of the newest event.
    pub counts: Vec<(u8, f32)>,
    /// The last events, oldest first.
    pub recent: Vec<Past>,
    /// Products bought, oldest first.
    pub bought: Vec<String>,
}

impl History {
    /// Adds an event. One that comes late counts as of the newest event's time.
    pub fn observe(&mut self, mut event: Past, fading: Fading) {
        event.time_ms = event.time_ms.max(self.newest_ms);
        if self.is_expired(event.time_ms, fading) {
            *self = Self::default();
        }
        let since = event.time_ms.saturating_sub(self.newest_ms);
        if self.events > 0 && since > 0 {
            let left = (-(since as f64) / fading.half_life_ms.max(1) as f64).exp2() as f32;
            self.counts.retain_mut(|(_, weight)| {
                *weight *= left;
                *weight >= FORGOTTEN
            });
        }
        let weight = event.action.weight();
        if weight > 0.0 {
            match self.counts.iter_mut().find(|(category, _)| *category == event.category) {
                Some((_, count)) => *count += weight,
                None => self.counts.push((event.category, weight)),
            }
        }
        if event.action == Action::Buy && !event.product.is_empty() {
            self.bought.retain(|product| *product != event.product);
            self.bought.push(event.product.clone());
            self.bought.drain(..self.bought.len().saturating_sub(PURCHASES));
        }
        self.newest_ms = event.time_ms;
        self.events = self.events.saturating_add(1);
        let oldest = event.time_ms.saturating_sub(fading.expiry_ms);
        self.recent.push(event);
        let excess = self.recent.len().saturating_sub(RECENT);
        let expired = self.recent.iter().take_while(|past| past.time_ms < oldest).count();
        self.recent.drain(..excess.max(expired));
    }

    /// Gives every category another number; the weights of those that get the same one are added.
    pub fn renumber(&mut self, number: impl Fn(u8) -> u8) {
        for past in &mut self.recent {
            past.category = number(past.category);
        }
        for (category, weight) in std::mem::take(&mut self.counts) {
            let category = number(category);
            match self.counts.iter_mut().find(|(known, _)| *known == category) {
                Some((_, sum)) => *sum += weight,
                None => self.counts.push((category, weight)),
            }
        }
    }

    /// Returns the weight of all categories.
    #[must_use]
    pub fn activity(&self) -> f32 {
        // The sum of nothing is -0.
        self.counts.iter().map(|(_, weight)| weight).sum::<f32>() + 0.0
    }

    /// Says whether nothing is left of it at a time.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64, fading: Fading) -> bool {
        self.events > 0 && now_ms.saturating_sub(self.newest_ms) > fading.expiry_ms
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.newest_ms.to_le_bytes());
        write_varint(out, u64::from(self.events));
        out.push(self.counts.len() as u8);
        for (category, weight) in &self.counts {
            out.push(*category);
            out.extend_from_slice(&weight.to_le_bytes());
        }
        out.push(self.recent.len() as u8);
        let mut before = self.newest_ms;
        for (index, past) in self.recent.iter().enumerate() {
            let apart = if index == 0 { before - past.time_ms } else { past.time_ms - before };
            write_varint(out, apart.unsigned_abs());
            before = past.time_ms;
            out.push(past.action as u8);
            out.push(past.category);
            write_text(out, &past.product);
        }
        out.push(self.bought.len() as u8);
        self.bought.iter().for_each(|product| write_text(out, product));
    }

    /// Reads the bytes; `None` if they are no history.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let newest_ms = newest_of(reader.bytes(8)?)?;
        let events = u32::try_from(reader.varint()?).ok()?;
        let counts = (0..reader.byte()?)
            .map(|_| Some((reader.byte()?, f32::from_le_bytes(reader.bytes(4)?.try_into().ok()?))))
            .collect::<Option<_>>()?;
        let mut before = newest_ms;
        let count = reader.byte()?;
        let mut recent = Vec::with_capacity(usize::from(count).min(RECENT) + 1);
        for index in 0..count {
            let apart = i64::try_from(reader.varint()?).ok()?;
            before = if index == 0 { before.checked_sub(apart)? } else { before.checked_add(apart)? };
            let action = *Action::ALL.get(usize::from(reader.byte()?))?;
            recent.push(Past { time_ms: before, action, category: reader.byte()?, product: reader.text()? });
        }
        let bought = (0..reader.byte()?).map(|_| reader.text()).collect::<Option<_>>()?;
        reader.0.is_empty().then_some(Self { newest_ms, events, counts, recent, bought })
    }
}

/// Reads the time of the newest event off the bytes of a history.
#[must_use]
pub fn newest_of(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a text of at most 255 bytes; products are at most [`MAX_PRODUCT`].
fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(&text.as_bytes()[..text.len().min(255)]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = self.byte()?;
        String::from_utf8(self.bytes(usize::from(length))?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past() -> impl Strategy<Value = Past> {
        (0i64..10_000_000_000, 0usize..5, 0u8..9, "[A-Z]?-[0-9]{0,5}").prop_map(
            |(time_ms, action, category, product)| Past { time_ms, action: Action::ALL[action], category, product },
        )
    }

    proptest! {
        /// Written and read after any event, a history goes on as if it had not been.
        #[test]
        fn a_history_is_its_bytes(events in prop::collection::vec(past(), 1..60)) {
            let (mut kept, mut written) = (History::default(), History::default());
            for event in events {
                kept.observe(event.clone(), Fading::default());
                written.observe(event, Fading::default());
                let mut bytes = Vec::new();
                written.encode(&mut bytes);
                prop_assert_eq!(newest_of(&bytes), Some(written.newest_ms));
                written = History::decode(&bytes).unwrap();
                prop_assert_eq!(&written, &kept);
                prop_assert!(kept.recent.len() <= RECENT && kept.bought.len() <= PURCHASES);
            }
        }

        #[test]
        fn any_bytes_are_a_history_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = History::decode(&bytes);
        }
    }

    #[test]
    fn counts_halve_and_what_is_old_is_forgotten() {
        let fading = Fading { half_life_ms: 100, expiry_ms: 1_000 };
        let event = |time_ms| Past { time_ms, action: Action::View, category: 3, product: "a".to_owned() };
        let mut history = History::default();
        history.observe(event(0), fading);
        history.observe(event(100), fading);
        assert_eq!(history.counts, [(3, 1.5)]);
        // A clock that runs backwards does not turn time back.
        history.observe(event(50), fading);
        assert_eq!((history.newest_ms, history.counts[0].1), (100, 2.5));
        history.observe(event(1_050), fading);
        assert_eq!((history.recent.len(), history.events), (3, 4));
        history.observe(event(2_051), fading);
        assert_eq!((history.recent.len(), history.events), (1, 1), "nothing is left after the expiry");
    }

    #[test]
    fn who_did_nothing_has_an_activity_of_zero_without_a_sign() {
        assert!(History::default().activity().is_sign_positive());
    }

    #[test]
    fn numbers_change_and_weights_of_the_same_number_are_added() {
        let mut history = History::default();
        for category in [1, 2, 3, 1] {
            let event = Past { time_ms: 7, action: Action::View, category, product: String::new() };
            history.observe(event, Fading::default());
        }
        history.renumber(|category| if category == 1 { 9 } else { 0 });
        assert_eq!(history.counts, [(9, 2.0), (0, 2.0)]);
        let recent: Vec<u8> = history.recent.iter().map(|past| past.category).collect();
        assert_eq!(recent, [9, 0, 0, 9]);
    }
}

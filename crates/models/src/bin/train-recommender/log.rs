//! What happened in a shop, by customer.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail};
use driftline_models::{
    profile::{ATTRIBUTES, Action},
    recommender::{Catalogue, CatalogueProduct},
};
use serde::Deserialize;

/// A shop's log.
pub(crate) struct Log {
    /// Its products; the views are counted over the training part.
    pub products: Vec<CatalogueProduct>,
    /// Its customers.
    pub customers: Vec<Customer>,
}

/// A customer.
pub(crate) struct Customer {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// What they have, where it is known.
    pub has: Option<[bool; ATTRIBUTES.len()]>,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub time_ms: i64,
    pub action: Action,
    /// The place of the product.
    pub product: Option<u32>,
    /// The number of the category, from 1.
    pub category: u32,
}

#[derive(Deserialize)]
struct EventLine {
    user: String,
    kind: String,
    product: Option<String>,
    category: Option<String>,
    time_ms: i64,
}

#[derive(Deserialize)]
struct CustomerLine {
    user: String,
    has: BTreeMap<String, bool>,
}

impl Log {
    /// Reads the files of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let catalogue = Catalogue::load(&folder.join("products.jsonl"))?;
        let mut has = HashMap::new();
        for line in lines(&folder.join("customers.jsonl"))? {
            let CustomerLine { user, has: own } = serde_json::from_str(&line?)?;
            has.insert(user, ATTRIBUTES.map(|name| own.get(name).copied().unwrap_or(false)));
        }
        let mut customers: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for (number, line) in lines(&folder.join("events.jsonl"))?.enumerate() {
            let event: EventLine = serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))?;
            let Some(action) = Action::named(&event.kind) else {
                let allowed = Action::ALL.map(Action::name).join(", ");
                bail!("line {}: kind: found {:?}, allowed: {allowed}", number + 1, event.kind);
            };
            let product = event.product.and_then(|id| catalogue.place(&id)).map(|place| place as u32);
            let category = event.category.map_or(0, |name| catalogue.category_number(&name));
            customers.entry(event.user).or_default().push(Event { time_ms: event.time_ms, action, product, category });
        }
        let customers = customers.into_iter().map(|(user, events)| Customer { has: has.remove(&user), events });
        let mut log = Self { products: catalogue.products().to_vec(), customers: customers.collect() };
        for customer in &log.customers {
            let (history, _) = customer.split();
            for event in history.iter().filter(|event| event.action == Action::View) {
                if let Some(place) = event.product {
                    log.products[place as usize].views += 1;
                }
            }
        }
        Ok(log)
    }

    /// Returns the number of events.
    pub(crate) fn events(&self) -> usize {
        self.customers.iter().map(|customer| customer.events.len()).sum()
    }

    /// Returns the products as a catalogue.
    pub(crate) fn catalogue(&self, path: &Path) -> Result<Catalogue> {
        Ok(Catalogue::try_new(self.products.clone(), path)?)
    }
}

impl Customer {
    /// Splits off the last product that the customer had never seen: the events before its view, and
    /// the product.
    pub(crate) fn split(&self) -> (&[Event], Option<u32>) {
        let mut first_views = HashMap::new();
        for (index, event) in self.events.iter().enumerate() {
            if let Some(product) = event.product {
                first_views.entry(product).or_insert(index);
            }
        }
        let last = first_views.into_iter().filter(|(_, index)| self.events[*index].action == Action::View);
        match last.max_by_key(|(_, index)| *index) {
            Some((product, index)) if index > 0 => (&self.events[..index], Some(product)),
            _ => (&self.events, None),
        }
    }
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(BufReader::new(file).lines())
}

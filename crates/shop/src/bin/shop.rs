//! Writes what happened in the simulated shop into a folder: `events.jsonl` (as `click-event.v1`),
//! `customers.jsonl` (what they have) and `products.jsonl` (the catalogue). The training of the
//! recommender reads them, as it would read those of a real shop.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use driftline_shop::{Attribute, Parameters, Shop, catalogue::CATEGORIES, people::customer_id};
use serde_json::{Map, Value, json};

/// Writes what happened in the simulated shop into a folder.
#[derive(Parser)]
struct Arguments {
    /// The folder.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 6_000)]
    customers: u32,
    /// The first day.
    #[arg(long, default_value = "2026-09-01T00:00:00Z")]
    start: jiff::Timestamp,
    #[arg(long, default_value_t = 60)]
    days: u32,
}

fn main() -> Result<()> {
    let Arguments { out, seed, customers, start, days } = Arguments::parse();
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let parameters = Parameters { seed, customers, days, start_ms: start.as_millisecond(), ..Parameters::default() };
    let shop = Shop::new(parameters);
    lines(
        &out.join("products.jsonl"),
        shop.catalogue().products().iter().map(
            |product| json!({ "id": product.id, "category": product.category().name, "in_stock": product.in_stock }),
        ),
    )?;
    let products = shop.catalogue().products().to_vec();
    let mut seen = BTreeSet::new();
    lines(
        &out.join("events.jsonl"),
        shop.clone().simulate().map(|event| {
            seen.insert(event.customer);
            json!({
                "user": customer_id(event.customer),
                "kind": event.kind,
                "product": event.product.map(|product| &products[product].id),
                "category": event.category.map(|category| CATEGORIES[category].name),
                "time_ms": event.time_ms,
            })
        }),
    )?;
    lines(
        &out.join("customers.jsonl"),
        seen.into_iter().map(|number| {
            let has = shop.customer(number).has;
            let has: Map<String, Value> = Attribute::ALL
                .iter()
                .zip(has)
                .map(|(attribute, has)| (attribute.name().to_owned(), has.into()))
                .collect();
            json!({ "user": customer_id(number), "has": has })
        }),
    )
}

fn lines(path: &Path, values: impl Iterator<Item = Value>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    for value in values {
        writeln!(file, "{value}")?;
    }
    Ok(file.flush()?)
}

//! The split as other programs read it.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Result;

use crate::log::Log;

/// Writes `train.csv`, an interaction a line in the order of their times, and `test.csv`, the product
/// to be found for each customer.
pub(crate) fn write(log: &Log, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let mut train = BufWriter::new(File::create(out.join("train.csv"))?);
    let mut test = BufWriter::new(File::create(out.join("test.csv"))?);
    writeln!(train, "customer,product,action")?;
    writeln!(test, "customer,product")?;
    for (number, customer) in log.customers.iter().enumerate() {
        let (history, target) = customer.split();
        for event in history {
            if let Some(product) = event.product {
                writeln!(train, "{number},{product},{}", event.action as u8)?;
            }
        }
        if let Some(target) = target {
            writeln!(test, "{number},{target}")?;
        }
    }
    train.flush()?;
    Ok(test.flush()?)
}

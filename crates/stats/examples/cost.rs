//! Profiles a file of values several times and prints the bytes of the result: what
//! `benches/peers/against_whylogs.py` measures against whylogs.
//!
//! `cost column|numbers|words FILE REPEATS`: little-endian 64-bit floats, all given to the profile of a number or each shown by a
//! payload, or one word a line.

use std::{error::Error, hint::black_box, sync::Arc};

use driftline_stats::{
    Edges, NumberProfile, Profile, ProfileBody, ProfileKey, ProfileSet, Reference, Scale, Signal, SignalVisitor, Window,
};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};

const SCALE: Scale = Scale::Log { lo: 0.01, hi: 100.0 };
static NUMBER: Signal = Signal::number("number", "s", "A number.", SCALE);
static WORD: Signal = Signal::category("word", "A word.");

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, path, repeats] = &arguments[..] else {
        return Err("usage: cost column|numbers|words FILE REPEATS".into());
    };
    let bytes = std::fs::read(path)?;
    let repeats: usize = repeats.parse()?;
    let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    match kind.as_str() {
        "column" => {
            let values = numbers(&bytes);
            let mut profile = NumberProfile::new(Arc::new(Edges::declared(SCALE)?));
            for _ in 0..repeats {
                profile.clear();
                for &value in black_box(&values) {
                    profile.observe(Some(value));
                }
            }
            black_box(&profile);
            for &value in &values {
                set.observe(|visit: &mut dyn SignalVisitor| visit.number(&NUMBER, Some(value)));
            }
        }
        "numbers" => {
            let values = numbers(&bytes);
            for _ in 0..repeats {
                set.clear();
                for &value in &values {
                    set.observe(|visit: &mut dyn SignalVisitor| visit.number(&NUMBER, black_box(Some(value))));
                }
            }
        }
        "words" => {
            let words: Vec<&str> = std::str::from_utf8(&bytes)?.lines().collect();
            for _ in 0..repeats {
                set.clear();
                for &word in &words {
                    set.observe(|visit: &mut dyn SignalVisitor| visit.category(&WORD, black_box(Some(word))));
                }
            }
        }
        other => return Err(format!("kind is {other:?}, allowed are \"column\", \"numbers\" and \"words\"").into()),
    }
    let key = ProfileKey {
        pipeline: PipelineName::try_new("speech")?,
        stage: StageName::try_new("vad")?,
        version: StageVersion::try_new("v1")?,
        window: Window { start: Timestamp::from_millis(0), millis: 10_000 },
    };
    println!("{}", Profile { key, body: ProfileBody::Output(set) }.encode().len());
    Ok(())
}

fn numbers(bytes: &[u8]) -> Vec<f64> {
    let (values, _) = bytes.as_chunks::<8>();
    values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

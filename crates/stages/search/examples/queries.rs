//! Measures how many queries a second one core answers: every title of the builtin catalogue as it
//! is, inside a spoken request, and with a letter wrong.
//!
//! ```sh
//! cargo run --release -p driftline-search --example queries
//! ```

use std::{error::Error, time::Instant};

use driftline_search::{BUILTIN_NAME, Catalogue, CatalogueIndex, Rules};

fn main() -> Result<(), Box<dyn Error>> {
    let catalogue = Catalogue::load(BUILTIN_NAME)?;
    let titles: Vec<String> = catalogue.products().iter().map(|product| product.title.clone()).collect();
    let begin = Instant::now();
    let index = CatalogueIndex::build(catalogue)?;
    println!("index of {} products built in {:.1} ms", titles.len(), begin.elapsed().as_secs_f64() * 1e3);

    let misspelt =
        |title: &String| title.chars().rev().enumerate().map(|(i, c)| if i == 1 { 'x' } else { c }).collect();
    let request = |title: &String| format!("show me the {title} please");
    let fuzzy = Rules { top_k: 5, edits: 2, min_score: 0.0 };
    let cases: [(&str, Vec<String>, Rules); 4] = [
        ("titles", titles.clone(), fuzzy),
        ("titles, not fuzzy", titles.clone(), Rules { edits: 0, ..fuzzy }),
        ("requests", titles.iter().map(request).collect(), fuzzy),
        ("misspelt", titles.iter().map(misspelt).map(|title: String| title.chars().rev().collect()).collect(), fuzzy),
    ];
    for (name, queries, rules) in cases {
        let begin = Instant::now();
        let (mut answered, mut times) = (0, Vec::new());
        while begin.elapsed().as_secs_f64() < 2.0 {
            for query in &queries {
                let begin = Instant::now();
                answered += usize::from(!index.search(query, rules)?.is_empty());
                times.push(begin.elapsed());
            }
        }
        times.sort();
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e6;
        println!(
            "{name}: {rate:.0} queries/s, p99 {p99:.0} us, {:.1} % answered",
            100.0 * answered as f64 / times.len() as f64
        );
    }
    Ok(())
}

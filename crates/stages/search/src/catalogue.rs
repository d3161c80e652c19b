//! The product catalogue: JSON Lines, one product a line.
//!
//! ```json
//! {"id": "CLO-0000", "title": "red jacket", "category": "clothing", "description": "…", "price_cents": 8199}
//! ```
//!
//! `id` and `title` are required and `id` is unique; the other fields may be absent, and fields not
//! named here are left alone. `price_cents` is checked and not kept: nothing searches by it. Blank
//! lines are skipped. A catalogue is read as a whole: every problem in it is found at once.

use std::{collections::HashMap, fmt, fs, path::Path};

use serde_json::{Map, Value};

/// The catalogue that comes with the stage.
const BUILTIN: &str = include_str!("../data/catalogue.jsonl");
/// The word that stands for it in the config.
pub const BUILTIN_NAME: &str = driftline_stage::config::BUILTIN;

/// Most bytes a catalogue may have: the index holds it in memory.
const MAX_BYTES: u64 = 256 << 20;
/// Most bytes of a title or a description.
const MAX_TEXT: usize = 10_000;
/// Most bytes of an id or a category.
const MAX_WORD: usize = 200;
/// How many problems an error shows.
const MAX_SHOWN: usize = 20;

/// A product that can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its id, unique within the catalogue.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its category; empty if it has none.
    pub category: String,
    /// Its description; empty if it has none.
    pub description: String,
}

/// A catalogue: products in the order of their ids, so that the order of the lines means nothing.
#[derive(Clone, Debug)]
pub struct Catalogue {
    products: Vec<Product>,
    hash: blake3::Hash,
}

/// A catalogue that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path}: found {found} bytes, allowed at most {MAX_BYTES}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        found: u64,
    },
    /// The contents are no catalogue.
    #[error("{}", list(path, problems))]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, in the order of the lines.
        problems: Vec<Problem>,
    },
}

/// Something wrong in a line of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: found {}, allowed {}", self.line, self.found, self.allowed)
    }
}

impl Catalogue {
    /// Loads the catalogue a config names: [`BUILTIN_NAME`] or a path.
    ///
    /// # Errors
    /// If the file cannot be read or is no catalogue.
    pub fn load(name: &str) -> Result<Self, CatalogueError> {
        if name == BUILTIN_NAME {
            return Self::parse(BUILTIN, "builtin catalogue");
        }
        let read = |source| CatalogueError::Read { path: name.to_owned(), source };
        let found = fs::metadata(Path::new(name)).map_err(read)?.len();
        if found > MAX_BYTES {
            return Err(CatalogueError::TooLarge { path: name.to_owned(), found });
        }
        let bytes = fs::read(name).map_err(read)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, name),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
                let problems = vec![Problem { line, found: "bytes that are no UTF-8".into(), allowed: "UTF-8".into() }];
                Err(CatalogueError::Invalid { path: name.to_owned(), problems })
            }
        }
    }

    /// Parses a catalogue; `path` names it in errors.
    ///
    /// # Errors
    /// If a line is no product, an id repeats, or there is no product at all.
    pub fn parse(text: &str, path: &str) -> Result<Self, CatalogueError> {
        let mut products = Vec::new();
        let mut problems = Vec::new();
        let mut lines_by_id = HashMap::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let mut line = Line { number: index + 1, problems: &mut problems };
            let Some(product) = line.product(text) else { continue };
            match lines_by_id.insert(product.id.clone(), line.number) {
                Some(first) => {
                    let found = format!("id {:?} again", product.id);
                    line.problem(found, format!("an id not used in line {first}"));
                }
                None => products.push(product),
            }
        }
        if products.is_empty() && problems.is_empty() {
            problems.push(Problem { line: 1, found: "no product".into(), allowed: "at least one product".into() });
        }
        if !problems.is_empty() {
            return Err(CatalogueError::Invalid { path: path.to_owned(), problems });
        }
        products.sort_by(|a: &Product, b| a.id.cmp(&b.id));
        Ok(Self { products, hash: blake3::hash(text.as_bytes()) })
    }

    /// Returns the products, in the order of their ids.
    #[must_use]
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    /// Returns the products without copying them.
    #[must_use]
    pub fn into_products(self) -> Vec<Product> {
        self.products
    }

    /// Returns the BLAKE3 hash of the catalogue's text.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// One line under examination; it collects everything that is wrong with it.
struct Line<'a> {
    number: usize,
    problems: &'a mut Vec<Problem>,
}

impl Line<'_> {
    fn problem(&mut self, found: impl Into<String>, allowed: impl Into<String>) {
        self.problems.push(Problem { line: self.number, found: found.into(), allowed: allowed.into() });
    }

    fn product(&mut self, text: &str) -> Option<Product> {
        let fields: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => {
                self.problem(kind(&other), "a JSON object");
                return None;
            }
            Err(error) => {
                self.problem(format!("no JSON at column {}", error.column()), "a JSON object");
                return None;
            }
        };
        // Each field is looked at even if one before it is wrong.
        let id = self.text(&fields, "id", 1, MAX_WORD);
        let title = self.text(&fields, "title", 1, MAX_TEXT);
        let category = self.text(&fields, "category", 0, MAX_WORD);
        let description = self.text(&fields, "description", 0, MAX_TEXT);
        if let Some(price) = fields.get("price_cents").filter(|price| price.as_u64().is_none()) {
            self.problem(format!("price_cents {price}"), "a whole number from 0");
        }
        Some(Product { id: id?, title: title?, category: category?, description: description? })
    }

    /// Reads a text of `min` to `max` bytes; absent counts as empty.
    fn text(&mut self, fields: &Map<String, Value>, name: &str, min: usize, max: usize) -> Option<String> {
        let found = match fields.get(name) {
            None | Some(Value::Null) if min == 0 => return Some(String::new()),
            None => format!("no {name}"),
            Some(Value::String(text)) if text.trim().len() >= min && text.len() <= max => return Some(text.clone()),
            Some(Value::String(text)) if text.len() > max => format!("{name} of {} bytes", text.len()),
            Some(Value::String(_)) => format!("an empty {name}"),
            Some(other) => format!("{} as {name}", kind(other)),
        };
        self.problem(found, format!("a text of {min} to {max} bytes as {name}"));
        None
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn list(path: &str, problems: &[Problem]) -> String {
    let shown: Vec<_> = problems.iter().take(MAX_SHOWN).map(|problem| format!("{path}: {problem}")).collect();
    let rest = match problems.len() - shown.len() {
        0 => String::new(),
        rest => format!("\nand {rest} more"),
    };
    shown.join("\n") + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalogue_is_large_and_in_order() {
        let catalogue = Catalogue::load(BUILTIN_NAME).unwrap();
        assert!(catalogue.products().len() >= 500);
        assert!(catalogue.products().windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let text = concat!(
            "{\"id\": \"a\", \"title\": \"red shoe\"}\n",
            "\n",
            "{\"id\": \"a\", \"title\": \"blue shoe\"}\n",
            "[1]\n",
            "{\"id\": 7, \"title\": \" \", \"price_cents\": -3}\n",
            "{\"id\": \"b\", \"title\"",
        );
        let error = Catalogue::parse(text, "shop.jsonl").unwrap_err();
        assert_eq!(
            error.to_string(),
            "shop.jsonl: line 3: found id \"a\" again, allowed an id not used in line 1\n\
             shop.jsonl: line 4: found an array, allowed a JSON object\n\
             shop.jsonl: line 5: found a number as id, allowed a text of 1 to 200 bytes as id\n\
             shop.jsonl: line 5: found an empty title, allowed a text of 1 to 10000 bytes as title\n\
             shop.jsonl: line 5: found price_cents -3, allowed a whole number from 0\n\
             shop.jsonl: line 6: found no JSON at column 19, allowed a JSON object"
        );
    }

    #[test]
    fn no_more_than_twenty_problems_are_shown() {
        let error = Catalogue::parse(&"{}\n".repeat(15), "shop.jsonl").unwrap_err();
        let CatalogueError::Invalid { problems, .. } = &error else { panic!("{error}") };
        assert_eq!(problems.len(), 30);
        let text = error.to_string();
        assert_eq!(text.lines().count(), 21);
        assert!(text.ends_with("and 10 more"));
    }

    #[test]
    fn an_empty_catalogue_and_a_missing_file_are_errors() {
        assert_eq!(
            Catalogue::parse("\n\n", "shop.jsonl").unwrap_err().to_string(),
            "shop.jsonl: line 1: found no product, allowed at least one product"
        );
        assert!(matches!(Catalogue::load("no/such/file.jsonl"), Err(CatalogueError::Read { .. })));
    }

    #[test]
    fn optional_fields_may_be_absent_and_unknown_ones_are_left_alone() {
        let catalogue = Catalogue::parse("{\"id\":\"x\",\"title\":\"lamp\",\"stock\":4}", "shop.jsonl").unwrap();
        assert_eq!(catalogue.products()[0].category, "");
    }
}

//! Reading a TOML table as a config struct, with *every* problem reported at once.
//!
//! serde stops at the first error. [`read`] notes it, reads again as if the wrong entry were not
//! there (a required one is replaced by a stand-in), and so on until nothing is wrong any more. A
//! user who made five mistakes sees five lines, not one line five times.
//!
//! A config struct is `#[serde(deny_unknown_fields)]`, gives each optional key a default, and
//! checks ranges where a value is read, with `de::Error::invalid_value` or a newtype's `try_from`.
//! Derived `Deserialize` keeps the place of a value; `#[serde(flatten)]`, `untagged` and internally
//! tagged enums lose it, and with it the problems after the first.

mod entry;
mod units;

use std::{fmt, path::Path};

use serde::de::DeserializeOwned;
use toml::Value;

use self::entry::{Edits, Entry};
pub use self::units::{ByteSize, DurationError, Millis, SizeError};

/// One problem of a configuration table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The keys from the table's root to the entry; an element of an array by its index, from 0.
    pub path: Vec<String>,
    /// What was found, as it stands in TOML; `None` if a key is missing or not known, or if the
    /// message names it.
    pub found: Option<String>,
    /// Says what is allowed.
    pub message: String,
}

impl ConfigProblem {
    const UNKNOWN_KEY: &str = "unknown key";

    /// Reports a key that is not known, with the keys that are.
    #[must_use]
    pub fn unknown_key(path: Vec<String>, allowed: &[&str]) -> Self {
        let key = path.last().map_or("", String::as_str);
        let message = format!("{}, {}", Self::UNKNOWN_KEY, allowed_keys(key, allowed));
        Self { path, found: None, message }
    }

    /// Reports a required key that is not there.
    #[must_use]
    pub fn missing(path: Vec<String>) -> Self {
        Self { path, found: None, message: "is missing".to_owned() }
    }

    /// Returns whether the problem is the key itself and not its value.
    #[must_use]
    pub fn is_unknown_key(&self) -> bool {
        self.message.starts_with(Self::UNKNOWN_KEY)
    }

    /// Puts the problem of an inner table at the place of that table.
    #[must_use]
    pub fn within(mut self, around: &[&str]) -> Self {
        self.path.splice(..0, around.iter().map(|&key| key.to_owned()));
        self
    }
}

/// `path: found X, what is allowed`.
impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", dotted(&self.path))?;
        }
        if let Some(found) = &self.found {
            write!(f, "found {found}, ")?;
        }
        f.write_str(&self.message)
    }
}

/// What stands in the place of a path for what is part of the program.
pub const BUILTIN: &str = "builtin";

/// Checks the values of a section and collects what is wrong with them.
///
/// ```
/// # use driftline_types::config::Checks;
/// let mut checks = Checks::default();
/// let threshold = 1.5;
/// checks.expect((0.0..=1.0).contains(&threshold), "threshold", threshold, "0 to 1");
/// assert_eq!(checks.problems()[0].to_string(), "threshold: found 1.5, allowed is 0 to 1");
/// ```
#[derive(Debug, Default)]
pub struct Checks(Vec<ConfigProblem>);

impl Checks {
    /// Notes the value of a key unless it `holds`. The key of an inner table is written with dots, `columns.user`.
    pub fn expect(&mut self, holds: bool, key: &str, found: impl fmt::Display, allowed: impl fmt::Display) {
        if !holds {
            let path = key.split('.').map(str::to_owned).collect();
            let message = format!("allowed is {allowed}");
            self.0.push(ConfigProblem { path, found: Some(found.to_string()), message });
        }
    }

    /// Notes the value of a key unless it is [`BUILTIN`] or `file` is there. `or` says what the value may be else.
    pub fn expect_builtin_or(&mut self, key: &str, found: &str, file: &Path, or: impl fmt::Display) {
        let allowed = format_args!("\"{BUILTIN}\" or {or}");
        self.expect(found == BUILTIN || file.is_file(), key, format_args!("{found:?}"), allowed);
    }

    /// Returns what was noted, in order.
    #[must_use]
    pub fn problems(self) -> Vec<ConfigProblem> {
        self.0
    }
}

/// Reads a table as `T` and reports *every* problem, not only the first.
///
/// An entry with a wrong type or value, an unknown key and a missing key are each reported once, in
/// the order in which `T` reads them. Where a required entry is wrong and no stand-in fits its
/// type, the remaining problems of the table around it stay unreported until it is mended.
///
/// # Errors
/// The problems, at least one, with paths relative to the table.
pub fn read<T: DeserializeOwned>(table: &toml::Table) -> Result<T, Vec<ConfigProblem>> {
    read_value(&Value::Table(table.clone()))
}

/// Reads any value as [`read`] reads a table.
///
/// # Errors
/// The problems, at least one, with paths relative to the value: empty for the value itself.
pub fn read_value<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<ConfigProblem>> {
    let mut problems = Vec::new();
    let mut edits = Edits::new();
    loop {
        let fault = match T::deserialize(Entry { value, path: Vec::new(), edits: &edits }) {
            Ok(value) if problems.is_empty() => return Ok(value),
            Ok(_) => return Err(problems),
            Err(fault) => fault.at(&[]),
        };
        if !edits.cover(&fault.problem.path) {
            problems.push(fault.problem.clone());
        }
        if !edits.advance(&fault.problem.path) {
            return Err(problems);
        }
    }
}

/// Writes a path as a TOML key: parts joined by dots, in quotes where TOML wants them.
#[must_use]
pub fn dotted(path: &[String]) -> String {
    let bare = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let parts: Vec<_> = path.iter().map(|key| if bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    parts.join(".")
}

/// Returns the allowed word that `found` most likely is a misspelling of.
#[must_use]
pub fn did_you_mean<'a>(found: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |word: &str| strsim::damerau_levenshtein(&found.to_lowercase(), &word.to_lowercase());
    // A third of the letters may differ: "treshold" is "threshold", "path" is not "pace".
    allowed
        .into_iter()
        .map(|word| (distance(word), word))
        .filter(|(distance, word)| *distance <= word.chars().count().max(found.chars().count()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Says which words are allowed: `allowed are "a", "b" (did you mean "a"?)`.
#[must_use]
pub fn allowed_words(found: &str, allowed: &[&str]) -> String {
    let quoted: Vec<_> = allowed.iter().map(|word| format!("{word:?}")).collect();
    allowed_list(found, allowed, &quoted.join(", "))
}

fn allowed_keys(found: &str, allowed: &[&str]) -> String {
    allowed_list(found, allowed, &allowed.join(", "))
}

fn allowed_list(found: &str, allowed: &[&str], list: &str) -> String {
    let mut message = match allowed.len() {
        0 => return "none is allowed here".to_owned(),
        1 => format!("allowed is {list}"),
        _ => format!("allowed are {list}"),
    };
    if let Some(word) = did_you_mean(found, allowed.iter().copied()) {
        message.push_str(&format!(" (did you mean {word:?}?)"));
    }
    message
}

#[cfg(test)]
mod tests;

//! Overrides of single entries: `--set path.to.key=value`, `set` of a test, and `--inject`, which adds one.

use std::str::FromStr;

use toml::{Table, Value};

/// A value that replaces the one in the file, or adds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    pub(crate) path: Vec<String>,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// Where an override was written, and so what its paths are relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// On the command line: relative to the current directory.
    CommandLine,
    /// In a test, at this entry of the file: relative to the file.
    File(Vec<String>),
    /// In `--inject`, with this text: added to the array at its path.
    Injection(String),
}

/// Text that is not an override.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, allowed is {allowed}")]
pub struct OverrideError {
    found: String,
    allowed: &'static str,
}

impl OverrideError {
    pub(crate) fn new(found: &str, allowed: &'static str) -> Self {
        Self { found: found.to_owned(), allowed }
    }
}

/// Parses `path.to.key=value`. The path is a TOML key, so that a part may be quoted; the value is a
/// TOML value, and what is none (`samples/x.wav`) is taken as a string.
impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let error = || OverrideError::new(text, "path.to.key=value");
        let (key, value) = text.split_once('=').ok_or_else(error)?;
        let path = parse_key(key).ok_or_else(error)?;
        let value = value.trim();
        let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { path, value, origin: Origin::CommandLine })
    }
}

impl Override {
    /// Returns the keys from the root of the file to the entry that is replaced.
    #[must_use]
    pub fn path(&self) -> &[String] {
        &self.path
    }

    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }
}

/// Splits a TOML key such as `sources.microphone."the path"` into its parts.
pub(crate) fn parse_key(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '#', '=']) {
        return None;
    }
    let mut table: Table = format!("{key} = true").parse().ok()?;
    let mut path = Vec::new();
    loop {
        let (part, inner) = table.into_iter().next()?;
        path.push(part);
        match inner {
            Value::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<String>, Value) {
        let parsed: Override = text.parse().unwrap();
        (parsed.path, parsed.value)
    }

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        for (text, value) in [
            ("a.b=3", Value::Integer(3)),
            ("a.b = 0.5", Value::Float(0.5)),
            ("a.b=true", Value::Boolean(true)),
            ("a.b=\"3\"", "3".into()),
            ("a.b=samples/x=1.wav", "samples/x=1.wav".into()),
            ("a.b=-", "-".into()),
            ("a.b=", "".into()),
            ("a.b=[\"x\", \"y\"]", Value::Array(vec!["x".into(), "y".into()])),
        ] {
            assert_eq!(parse(text), (vec!["a".to_owned(), "b".to_owned()], value), "{text}");
        }
        assert_eq!(parse("a.\"b.c\"=1").0, ["a", "b.c"]);
        assert!(matches!(parse("a={x = 1}").1, Value::Table(_)));
    }

    #[test]
    fn what_is_no_override_says_what_is() {
        for text in ["", "a.b", "=3", "a..b=3", "a b=3", "[a]\nb=3", "#=3"] {
            let error = text.parse::<Override>().unwrap_err();
            assert_eq!(error.to_string(), format!("found {text:?}, allowed is path.to.key=value"));
        }
    }
}

//! A TOML value as serde sees it, with faults that keep their place and their kind.
//!
//! The `toml` crate's own deserialiser reports the first error as text. This one knows where it
//! stands, so a [`Fault`] says which entry is wrong; and it applies [`Edits`], so that reading can
//! be repeated as if that entry were not there, to find the next fault.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserializer,
    de::{
        self, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::MapAccessDeserializer,
    },
    forward_to_deserialize_any,
};
use toml::Value;

use super::ConfigProblem;

/// What reading stumbled over, and whether its place is known yet.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) problem: ConfigProblem,
    placed: bool,
}

impl Fault {
    /// A fault of the entry that is being read; the access that reads it adds the place.
    fn here(found: Option<String>, message: String) -> Self {
        Self { problem: ConfigProblem { path: Vec::new(), found, message }, placed: false }
    }

    /// Puts a fault that does not know its place yet at `path`.
    pub(super) fn at(mut self, path: &[String]) -> Self {
        if !self.placed {
            self.problem.path.splice(..0, path.iter().cloned());
            self.placed = true;
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::here(None, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let message = format!("allowed is {}{}", described(found, &expected.to_string()), quoted(found, expected));
        Self::here(Some(written(found)), message)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(len: usize, expected: &dyn Expected) -> Self {
        let allowed = expected.to_string();
        let allowed = described(Unexpected::Seq, &allowed);
        Self::here(Some(format!("{len} elements")), format!("allowed is {allowed}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::here(Some(format!("{variant:?}")), super::allowed_words(variant, expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let problem = ConfigProblem::unknown_key(vec![field.to_owned()], expected);
        Self { problem, placed: false }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { problem: ConfigProblem::missing(vec![field.to_owned()]), placed: false }
    }
}

/// Writes what was found as it stands in TOML.
fn written(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Char(value) => format!("{value:?}"),
        Unexpected::Str(value) => format!("{value:?}"),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Says what a Rust type means to the writer of a TOML file. The bounds of a type are not named: the entry may have narrower
/// ones, which are told once the type is right.
fn described<'a>(found: Unexpected<'_>, expected: &'a str) -> &'a str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => match found {
            Unexpected::Signed(number) if number < 0 => "a whole number that is not negative",
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => "a smaller whole number",
            _ => "a whole number",
        },
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number from 1",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "a table",
        "path string" => "a path as a string",
        "string or map" => "a string or a table",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
}

/// Says how to write a word as the string that an entry takes, where TOML takes it for something else.
fn quoted(found: Unexpected<'_>, expected: &dyn Expected) -> String {
    let is_word =
        matches!(found, Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_));
    if !is_word || !matches!(expected.to_string().as_str(), "a string" | "path string") {
        return String::new();
    }
    let word = written(found);
    format!(", in quotes: \"{word}\" (after --set: '\"{word}\"')")
}

/// What is read in place of an entry that was found wrong.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Nothing: the entry is left out.
    Skip,
    /// The stand-in of this number: the entry is required.
    StandIn(usize),
}

/// Entries to be read otherwise than they are written, by path.
#[derive(Debug)]
pub(super) struct Edits {
    edits: BTreeMap<Vec<String>, Edit>,
    /// Values that most required fields take, in the order in which they are tried.
    stand_ins: Vec<Value>,
}

impl Edits {
    pub(super) fn new() -> Self {
        let stand_ins = vec![
            "a".into(),
            1.into(),
            0.into(),
            0.5.into(),
            false.into(),
            Value::Array(Vec::new()),
            Value::Table(toml::Table::new()),
            "1s".into(),
            "".into(),
        ];
        Self { edits: BTreeMap::new(), stand_ins }
    }

    /// Returns whether the entry at `path`, or one around it, is read otherwise than written.
    pub(super) fn cover(&self, path: &[String]) -> bool {
        (1..=path.len()).any(|n| self.edits.contains_key(&path[..n]))
    }

    /// Reads the entry at `path` otherwise from now on: first without it, then with each stand-in,
    /// then without what is around it. Returns whether anything was left to try.
    ///
    /// Each call moves one path one step on, and no path lies below a stand-in, so repeated calls
    /// come to an end.
    pub(super) fn advance(&mut self, path: &[String]) -> bool {
        let stand_in = |n: &usize| matches!(self.edits.get(&path[..*n]), Some(Edit::StandIn(_)));
        let mut n = (1..=path.len()).find(stand_in).unwrap_or(path.len());
        while n > 0 {
            let next = match self.edits.get(&path[..n]) {
                None => Some(Edit::Skip),
                Some(Edit::Skip) => Some(Edit::StandIn(0)),
                Some(Edit::StandIn(i)) if i + 1 < self.stand_ins.len() => Some(Edit::StandIn(i + 1)),
                Some(Edit::StandIn(_)) => None,
            };
            if let Some(edit) = next {
                self.edits.insert(path[..n].to_vec(), edit);
                return true;
            }
            n -= 1;
        }
        false
    }

    /// Returns what is read at `path`, where `value` is written.
    fn read<'a>(&'a self, path: &[String], value: &'a Value) -> Option<&'a Value> {
        match self.edits.get(path) {
            None => Some(value),
            Some(Edit::Skip) => None,
            Some(Edit::StandIn(i)) => Some(&self.stand_ins[*i]),
        }
    }

    /// Returns the stand-ins for keys that `table`, at `path`, lacks.
    fn absent<'a>(&'a self, path: &[String], table: &toml::Table) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.edits.iter().filter_map(move |(edited, edit)| match (edited.split_last()?, edit) {
            ((key, around), Edit::StandIn(i)) if around == path && !table.contains_key(key) => {
                Some((key, &self.stand_ins[*i]))
            }
            _ => None,
        })
    }
}

/// A value at its place.
pub(super) struct Entry<'a> {
    pub(super) value: &'a Value,
    pub(super) path: Vec<String>,
    pub(super) edits: &'a Edits,
}

impl<'a> Entry<'a> {
    fn items(&self, array: &'a [Value]) -> Items<'a> {
        let items = array.iter().enumerate().filter_map(|(i, value)| {
            let path = joined(&self.path, &i.to_string());
            self.edits.read(&path, value).map(|value| Entry { value, path, edits: self.edits })
        });
        Items(items.collect::<Vec<_>>().into_iter())
    }

    fn fields(&self, table: &'a toml::Table) -> Fields<'a> {
        let written = table.iter().filter_map(|(key, value)| {
            let path = joined(&self.path, key);
            self.edits.read(&path, value).map(|value| Entry { value, path, edits: self.edits })
        });
        let absent = self.edits.absent(&self.path, table).map(|(key, value)| Entry {
            value,
            path: joined(&self.path, key),
            edits: self.edits,
        });
        let fields: Vec<_> = written.chain(absent).collect();
        Fields { rest: fields.into_iter(), next: None }
    }
}

fn joined(path: &[String], key: &str) -> Vec<String> {
    path.iter().cloned().chain([key.to_owned()]).collect()
}

impl<'de> Deserializer<'de> for Entry<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(array) => visitor.visit_seq(self.items(array)),
            Value::Table(table) => visitor.visit_map(self.fields(table)),
        };
        result.map_err(|fault| fault.at(&self.path))
    }

    /// A key that is there has a value: TOML has no null.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let path = self.path.clone();
        visitor.visit_newtype_struct(self).map_err(|fault| fault.at(&path))
    }

    /// A word is a variant without data; a table of one key is a variant with data.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match self.value {
            Value::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(self.fields(table)))
            }
            other => Err(Fault::here(Some(other.to_string()), super::allowed_words("", variants))),
        };
        result.map_err(|fault| fault.at(&self.path))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::vec::IntoIter<Entry<'a>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(entry) = self.0.next() else { return Ok(None) };
        let path = entry.path.clone();
        seed.deserialize(entry).map(Some).map_err(|fault| fault.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Fields<'a> {
    rest: std::vec::IntoIter<Entry<'a>>,
    next: Option<Entry<'a>>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.rest.next() else { return Ok(None) };
        let (key, around) = entry.path.split_last().map_or(("", &[][..]), |(key, around)| (key, around));
        let name = key.into_deserializer();
        // An unknown field names itself; any other fault of a key is at that key.
        let result = seed.deserialize(name).map_err(|fault: Fault| {
            if fault.problem.path.is_empty() { fault.at(&entry.path) } else { fault.at(around) }
        })?;
        self.next = Some(entry);
        Ok(Some(result))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.next.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = entry.path.clone();
        seed.deserialize(entry).map_err(|fault| fault.at(&path))
    }
}

//! Injections: `[[inject]]` of a file, and `--inject` of a command.
//!
//! A time is a moment (`"2000-01-01T00:01:00Z"`) or a length (`"60s"`). A length counts from the start of the
//! pipeline's event time: the earliest at which one of its sources begins, as their configs say it. It is worked out from the
//! file alone, so every process that loads the same file has the same moment.

use std::collections::BTreeMap;

use driftline_types::{
    Injection, Injections, Parameter, StageName, Timestamp,
    config::{self, ConfigProblem, Millis},
};
use serde::{Deserialize, Deserializer, de};
use toml::{Table, Value};

use crate::{Override, OverrideError, Role, document::shape, overrides::Origin};

/// The section of the file.
pub(crate) const SECTION: &str = "inject";
/// What `--inject` takes.
pub(crate) const GRAMMAR: &str = "NODE.PARAMETER=VALUE @ TIME [over TIME] [until TIME]";

/// A node as injections see it.
pub(crate) struct Target<'a> {
    pub role: Role,
    pub key: &'a str,
    pub name: Option<&'a StageName>,
    pub kind: Option<&'a str>,
    pub parameters: &'static [&'static Parameter],
    /// Of a source: when its records begin.
    pub start: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    node: String,
    parameter: String,
    value: f64,
    at: Moment,
    #[serde(default)]
    over: Millis,
    until: Option<Moment>,
}

/// A time as it was written.
#[derive(Clone, Copy)]
enum Moment {
    /// Since the start of event time.
    After(Millis),
    /// A moment.
    At(Timestamp),
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::After).or_else(|| Timestamp::parse(text).map(Self::At))
    }

    /// Returns the event time; `None` if it depends on a start that nothing says.
    fn resolve(self, start: Option<Timestamp>) -> Option<Timestamp> {
        match self {
            Self::After(Millis(after)) => Some(start?.plus_millis(i64::try_from(after).unwrap_or(i64::MAX))),
            Self::At(time) => Some(time),
        }
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = "a duration such as \"60s\" or a time such as \"2000-01-01T00:01:00Z\"";
        Self::parse(&text).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &allowed))
    }
}

/// Reads the injections of a file, by node.
///
/// # Errors
/// Every problem, with its path from the root.
pub(crate) fn injections(
    section: Option<&Value>,
    targets: &[Target<'_>],
) -> Result<BTreeMap<StageName, Injections>, Vec<ConfigProblem>> {
    let sections = match section {
        None => return Ok(BTreeMap::new()),
        Some(Value::Array(sections)) => sections,
        Some(other) => {
            let found = Some(shape(other).to_owned());
            let message = "allowed is an array of tables: [[inject]]".to_owned();
            return Err(vec![ConfigProblem { path: vec![SECTION.to_owned()], found, message }]);
        }
    };
    let start = targets.iter().filter_map(|target| target.start).min();
    let mut problems = Vec::new();
    let mut by_node: BTreeMap<StageName, Vec<Injection>> = BTreeMap::new();
    for (i, section) in sections.iter().enumerate() {
        let index = i.to_string();
        match injection(section, targets, start) {
            Ok(Some((name, injection))) => by_node.entry(name).or_default().push(injection),
            Ok(None) => {}
            Err(found) => problems.extend(found.into_iter().map(|problem| problem.within(&[SECTION, &index]))),
        }
    }
    if problems.is_empty() {
        return Ok(by_node.into_iter().map(|(name, injections)| (name, Injections::new(injections))).collect());
    }
    Err(problems)
}

/// Reads one injection; `None` if it is right but its node is not.
fn injection(
    section: &Value,
    targets: &[Target<'_>],
    start: Option<Timestamp>,
) -> Result<Option<(StageName, Injection)>, Vec<ConfigProblem>> {
    let Section { node, parameter, value, at, over, until } = config::read_value(section)?;
    let mut problems = Vec::new();
    let mut refuse = |key: &str, found: Option<String>, message: String| {
        problems.push(ConfigProblem { path: vec![key.to_owned()], found, message });
    };
    let mut resolve = |key: &str, moment: Moment| {
        let time = moment.resolve(start);
        if time.is_none() {
            let message = "no source of this pipeline says when its event time begins, allowed is a time such as \
                           \"2000-01-01T00:01:00Z\"";
            refuse(key, None, message.to_owned());
        }
        time
    };
    let at = resolve("at", at);
    let ends = until.is_some();
    let until = until.and_then(|until| resolve("until", until));
    if let (Some(at), Some(until)) = (at, until)
        && until <= at
    {
        refuse("until", Some(format!("\"{until}\"")), format!("allowed is a time after {at}"));
    }
    let Some(target) = targets.iter().find(|target| target.key == node) else {
        let keys: Vec<_> = targets.iter().filter(|t| !t.parameters.is_empty()).map(|target| target.key).collect();
        refuse("node", Some(format!("{node:?}")), config::allowed_words(&node, &keys));
        return Err(problems);
    };
    let found = target.parameters.iter().find(|candidate| candidate.name == parameter);
    if let Some(Parameter { min, max, unit, .. }) = found.filter(|p| !(p.min..=p.max).contains(&value)) {
        let unit = if *unit == "1" { String::new() } else { format!(" {unit}") };
        refuse("value", Some(value.to_string()), format!("allowed is {min} to {max}{unit}"));
    } else if found.is_none() && target.kind.is_some() {
        let names: Vec<_> = target.parameters.iter().map(|parameter| parameter.name).collect();
        let message = match (target.role, target.kind) {
            (Role::Sink, _) => format!("{node} is a sink, allowed are sources and stages"),
            (_, Some(kind)) if names.is_empty() => format!("the kind {kind} has no parameters"),
            _ => config::allowed_words(&parameter, &names),
        };
        refuse("parameter", Some(format!("{parameter:?}")), message);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let (Some(name), Some(&parameter), Some(at)) = (target.name, found, at) else { return Ok(None) };
    debug_assert_eq!(ends, until.is_some());
    Ok(Some((name.clone(), Injection { parameter, value, at, over, until })))
}

impl Override {
    /// Parses an injection as `--inject` takes it, such as `vad.clip_ms=200 @ 60s over 30s`. It is added to those of the
    /// file, and checked with them.
    ///
    /// # Errors
    /// If the text has another form.
    pub fn injection(text: &str) -> Result<Self, OverrideError> {
        let table = parse(text).ok_or_else(|| OverrideError::new(text, GRAMMAR))?;
        Ok(Self {
            path: vec![SECTION.to_owned()],
            value: Value::Table(table),
            origin: Origin::Injection(text.to_owned()),
        })
    }
}

fn parse(text: &str) -> Option<Table> {
    let (change, times) = text.split_once('@')?;
    let (target, value) = change.split_once('=')?;
    let (node, parameter) = target.trim().split_once('.')?;
    let value: Value = value.trim().parse().ok()?;
    let mut table = Table::new();
    table.insert("node".to_owned(), node.trim().into());
    table.insert("parameter".to_owned(), parameter.trim().into());
    table.insert("value".to_owned(), value);
    let mut key = "at";
    let mut time = String::new();
    let mut put = |key: &str, time: &mut String| {
        let complete = !time.is_empty() && !table.contains_key(key);
        table.insert(key.to_owned(), std::mem::take(time).into());
        complete
    };
    for word in times.split_whitespace() {
        if let "over" | "until" = word {
            put(key, &mut time).then_some(())?;
            key = word;
            continue;
        }
        // `1h 30m` is one duration.
        if !time.is_empty() {
            time.push(' ');
        }
        time.push_str(word);
    }
    put(key, &mut time).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_an_entry_of_the_file() {
        for (text, entry) in [
            ("vad.clip_ms=200 @ 60s", "node = \"vad\"\nparameter = \"clip_ms\"\nvalue = 200\nat = \"60s\"\n"),
            (
                "mic.pitch = 1.3@2000-01-01T00:01:00Z until 2h",
                "node = \"mic\"\nparameter = \"pitch\"\nvalue = 1.3\nat = \"2000-01-01T00:01:00Z\"\nuntil = \"2h\"\n",
            ),
            (
                "mic.gain_db=-6 @ 1h 30m over 10s until 2h",
                "node = \"mic\"\nparameter = \"gain_db\"\nvalue = -6\nat = \"1h 30m\"\nover = \"10s\"\nuntil = \"2h\"\n",
            ),
        ] {
            assert_eq!(
                Override::injection(text).unwrap().value.to_string(),
                toml::Value::Table(entry.parse().unwrap()).to_string()
            );
        }
    }

    #[test]
    fn what_has_another_form_is_refused_with_the_form() {
        for text in [
            "",
            "vad.clip_ms=200",
            "clip_ms=200 @ 60s",
            "vad.clip_ms @ 60s",
            "vad.clip_ms=x y @ 60s",
            "vad.clip_ms=200 @",
            "vad.clip_ms=200 @ 60s over",
            "vad.clip_ms=200 @ 60s over 1s over 2s",
        ] {
            let error = Override::injection(text).unwrap_err();
            assert_eq!(error.to_string(), format!("found {text:?}, allowed is {GRAMMAR}"));
        }
    }
}

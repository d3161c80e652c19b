//! A pipeline file as tables, with the place where each entry was written.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use driftline_types::config::{self, ConfigProblem};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use crate::{Override, Place, Problem, Severity, overrides::Origin};

/// The file after its overrides.
pub(crate) struct Document<'a> {
    pub(crate) file: &'a Path,
    pub(crate) root: Table,
    text: &'a str,
    spans: BTreeMap<Vec<String>, Span>,
    /// The override that wrote an entry, or the table around it that was not there.
    overridden: BTreeMap<Vec<String>, &'a Override>,
}

/// Where an entry stands in the text, in bytes.
struct Span {
    key: Range<usize>,
    value: Range<usize>,
}

impl<'a> Document<'a> {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// Every syntax error. What is left of a file with one is not looked at: it would be guesswork.
    pub(crate) fn parse(file: &'a Path, text: &'a str) -> Result<Self, Vec<Problem>> {
        let mut document = Self { file, root: Table::new(), text, spans: BTreeMap::new(), overridden: BTreeMap::new() };
        let (parsed, mut errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            match text.parse() {
                Ok(root) => document.root = root,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            document.note_table(&mut Vec::new(), parsed.get_ref());
            return Ok(document);
        }
        Err(errors.iter().map(|error| document.syntax_problem(error)).collect())
    }

    /// Replaces or adds an entry, and the tables around it that are not there yet.
    ///
    /// # Errors
    /// If an entry on the way is not a table.
    pub(crate) fn apply(&mut self, change: &'a Override) -> Result<(), ConfigProblem> {
        let Some((key, around)) = change.path.split_last() else { return Ok(()) };
        if let Origin::Injection(_) = change.origin {
            return self.append(key, change);
        }
        let mut table = &mut self.root;
        for (depth, part) in around.iter().enumerate() {
            if !table.contains_key(part) {
                self.overridden.insert(around[..=depth].to_vec(), change);
            }
            let entry = table.entry(part.clone()).or_insert_with(|| Value::Table(Table::new()));
            let found = shape(entry);
            match entry {
                Value::Table(inner) => table = inner,
                _ => {
                    let message = format!("{} is {found}, allowed is a table", config::dotted(&around[..=depth]));
                    self.overridden.insert(change.path.clone(), change);
                    return Err(ConfigProblem { path: change.path.clone(), found: None, message });
                }
            }
        }
        table.insert(key.clone(), change.value.clone());
        self.overridden.retain(|path, _| !path.starts_with(&change.path));
        self.overridden.insert(change.path.clone(), change);
        Ok(())
    }

    /// Adds an element to an array at the root.
    fn append(&mut self, key: &str, change: &'a Override) -> Result<(), ConfigProblem> {
        let entry = self.root.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        let found = shape(entry);
        let Value::Array(array) = entry else {
            let message = "allowed is an array of tables".to_owned();
            return Err(ConfigProblem { path: change.path.clone(), found: Some(found.to_owned()), message });
        };
        self.overridden.insert(vec![key.to_owned(), array.len().to_string()], change);
        array.push(change.value.clone());
        Ok(())
    }

    /// Puts a problem at the place where its entry, or the nearest one around it, was written.
    pub(crate) fn problem(&self, problem: ConfigProblem) -> Problem {
        let place = self.place(&problem.path, problem.is_unknown_key());
        Problem { file: self.file.to_owned(), place, severity: Severity::Error, problem }
    }

    /// Returns an entry with the place where it, or the nearest one around it, was written.
    pub(crate) fn written_at(&self, entry: &[&str]) -> (Vec<String>, Place) {
        let path: Vec<String> = entry.iter().map(|&key| key.to_owned()).collect();
        let place = self.place(&path, false);
        (path, place)
    }

    /// Returns the folder that a path written at an entry is relative to.
    ///
    /// # Errors
    /// If the current directory is not known.
    pub(crate) fn folder_of(&self, path: &[String]) -> std::io::Result<PathBuf> {
        match self.override_of(path).map(|change| &change.origin) {
            Some(Origin::CommandLine | Origin::Injection(_)) => std::env::current_dir(),
            Some(Origin::File(_)) | None => {
                let file = std::path::absolute(self.file)?;
                Ok(file.parent().unwrap_or(&file).to_owned())
            }
        }
    }

    fn place(&self, path: &[String], of_key: bool) -> Place {
        match self.override_of(path) {
            Some(Override { path, origin: Origin::CommandLine, .. }) => Place::Set(config::dotted(path)),
            Some(Override { origin: Origin::File(entry), .. }) => self.place_in_file(entry, of_key),
            Some(Override { origin: Origin::Injection(text), .. }) => Place::Inject(text.clone()),
            None => self.place_in_file(path, of_key),
        }
    }

    fn place_in_file(&self, path: &[String], of_key: bool) -> Place {
        let known = (1..=path.len()).rev().find_map(|n| Some((n, self.spans.get(&path[..n])?)));
        match known {
            Some((n, span)) if n == path.len() && !of_key => self.at(span.value.start),
            Some((_, span)) => self.at(span.key.start),
            None => Place::File,
        }
    }

    /// Returns the override that wrote an entry.
    fn override_of(&self, path: &[String]) -> Option<&Override> {
        (1..=path.len()).rev().find_map(|n| self.overridden.get(&path[..n]).copied())
    }

    fn at(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Place::Line { line, column }
    }

    fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let message = format!("not TOML: {}", error.message().replace('\n', ", "));
        Problem {
            file: self.file.to_owned(),
            place: error.span().map_or(Place::File, |span| self.at(span.start)),
            severity: Severity::Error,
            problem: ConfigProblem { path: Vec::new(), found: None, message },
        }
    }

    fn note_table(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            self.note(path, key.span(), value);
            path.pop();
        }
    }

    fn note(&mut self, path: &mut Vec<String>, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        self.spans.insert(path.clone(), Span { key, value: value.span() });
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(path, table),
            DeValue::Array(array) => {
                for (i, element) in array.iter().enumerate() {
                    path.push(i.to_string());
                    self.note(path, element.span(), element);
                    path.pop();
                }
            }
            _ => {}
        }
    }
}

/// Names the type of a value.
pub(crate) fn shape(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

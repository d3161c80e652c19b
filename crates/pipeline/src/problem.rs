//! Problems of a pipeline file, each at its place.

use std::{fmt, path::PathBuf};

use driftline_types::config::{self, ConfigProblem};

/// One problem of a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Where in the file, or in which override.
    pub place: Place,
    /// Whether the pipeline can run all the same.
    pub severity: Severity,
    /// The entry (its path from the root of the file), what was found and what is allowed.
    pub problem: ConfigProblem,
}

/// Where an entry was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: it is missing from the file as a whole, or the file cannot be read.
    File,
    /// In the file; both count from 1, columns in characters.
    Line {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In `--set`, with this path.
    Set(String),
    /// In `--inject`, with this text.
    Inject(String),
}

/// Whether a problem keeps a pipeline from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but most likely is a mistake.
    Warning,
}

/// `file:line:column: path: found X, what is allowed`, or `--set path: …`, or `--inject "…": …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File => write!(f, "{}: ", self.file.display())?,
            Place::Line { line, column } => write!(f, "{}:{line}:{column}: ", self.file.display())?,
            Place::Set(_) => write!(f, "--set ")?,
            Place::Inject(text) => write!(f, "--inject {text:?}: ")?,
        }
        if self.severity == Severity::Warning {
            write!(f, "warning: ")?;
        }
        match &self.place {
            Place::Set(path) if *path != config::dotted(&self.problem.path) => write!(f, "{path}: {}", self.problem),
            // The text says which one it is.
            Place::Inject(_) => {
                let path = self.problem.path.iter().skip(2).cloned().collect();
                ConfigProblem { path, ..self.problem.clone() }.fmt(f)
            }
            _ => self.problem.fmt(f),
        }
    }
}

/// Every error of a pipeline file, at least one, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts problems by their places.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Self(problems)
    }

    /// Visits the problems in the order of their places: the file, its lines, then `--set`.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

/// One problem a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

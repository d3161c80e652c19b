//! The baseline: what is healthy, in one JSON file.
//!
//! ```text
//! version, pipeline, window_ms, records, windows: [start, …]
//! nodes: name, version, inputs, records
//!        input, output     edges, dictionaries, cells (input only where several nodes are read)
//!        profiles          all windows merged, as on the wire, base64
//!        series            for each signal and for P(output | input): least records, and the scores
//!                          of every window as little-endian f32, base64 (NaN: too few records)
//! ```
//!
//! A detector is what it has seen: it is trained from the scores when the file is read, which gives the same state in
//! every process, and a file that can be looked into. Season and memory are part of that state.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use driftline_stats::{
    Detector, HourOfWeek, MIN_HISTORY, Profile, ProfileBody, ProfileKey, Reference, References, Window,
};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Basis, NodeWindow, What};

/// The version of the file's format.
pub const FORMAT: u32 = 2;
/// The largest file that is read.
const MAX_BYTES: u64 = 256 << 20;
/// The most windows of a baseline: what a detector can remember.
pub(crate) const MAX_WINDOWS: usize = 4_096;

/// What is healthy.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The pipeline that it describes.
    pub pipeline: PipelineName,
    /// The length of a window, milliseconds.
    pub window_ms: u64,
    /// The records of the sources that it was made from.
    pub records: u64,
    /// The starts of its windows, ascending.
    pub windows: Vec<Timestamp>,
    /// Its nodes, each after those it reads.
    pub nodes: Vec<NodeBaseline>,
}

/// What is healthy of one source or stage.
#[derive(Clone, Debug)]
pub struct NodeBaseline {
    /// The name.
    pub name: StageName,
    /// The version that it belongs to.
    pub version: StageVersion,
    /// The nodes that it reads; none for a source.
    pub inputs: Vec<StageName>,
    /// The records that it wrote.
    pub records: u64,
    /// What its input is counted on.
    pub input: Arc<Reference>,
    /// What its output is counted on.
    pub output: Arc<Reference>,
    /// All windows merged.
    pub profiles: NodeWindow,
    /// What is watched of it.
    pub series: Vec<Series>,
}

/// One thing that is watched, over the windows of the baseline.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is.
    pub what: What,
    /// The records below which a window says nothing of it.
    pub least: u64,
    /// Its score functions.
    pub basis: Basis,
    /// Window after window, [`Basis::len`] scores each; NaN where there were too few records.
    pub scores: Vec<f32>,
}

/// Why a file is no baseline, or not of this pipeline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{}: found {found} bytes, allowed are at most {MAX_BYTES}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
    },
    /// It is no JSON, or of another shape.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What was found where.
        source: serde_json::Error,
    },
    /// It is of another version of the format.
    #[error("{}: version: found {found}, allowed is {FORMAT}; build the reference again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        found: u32,
    },
    /// An entry is wrong.
    #[error("{}: {entry}: {problem}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// What was found and what is allowed.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    pipeline: PipelineName,
    window_ms: u64,
    records: u64,
    windows: Vec<Timestamp>,
    nodes: Vec<NodeFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: StageName,
    version: StageVersion,
    inputs: Vec<StageName>,
    records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<Reference>,
    output: Reference,
    profiles: Vec<String>,
    series: BTreeMap<What, SeriesFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeriesFile {
    least: u64,
    scores: String,
}

impl Baseline {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no baseline; the entry that is wrong is named.
    pub fn load(path: &Path) -> Result<Self, BaselineError> {
        let of_file = |source| BaselineError::Io { path: path.to_owned(), source };
        let found = fs::metadata(path).map_err(of_file)?.len();
        if found > MAX_BYTES {
            return Err(BaselineError::Size { path: path.to_owned(), found });
        }
        let text = fs::read_to_string(path).map_err(of_file)?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, BaselineError> {
        let of_json = |source| BaselineError::Json { path: path.to_owned(), source };
        // Another version may look otherwise, so its number is read by itself.
        let Versioned { version } = serde_json::from_str(text).map_err(of_json)?;
        if version != FORMAT {
            return Err(BaselineError::Version { path: path.to_owned(), found: version });
        }
        let file: File = serde_json::from_str(text).map_err(of_json)?;
        Self::of_file(file).map_err(|(entry, problem)| BaselineError::Entry { path: path.to_owned(), entry, problem })
    }

    fn of_file(file: File) -> Result<Self, (String, String)> {
        if file.window_ms == 0 {
            return Err(("window_ms".to_owned(), "found 0, allowed are numbers from 1".to_owned()));
        }
        if file.windows.len() > MAX_WINDOWS || !file.windows.is_sorted() {
            let problem = format!("found {} starts, allowed are at most {MAX_WINDOWS}, ascending", file.windows.len());
            return Err(("windows".to_owned(), problem));
        }
        let mut nodes: Vec<NodeBaseline> = Vec::new();
        for node in file.nodes {
            let name = node.name.clone();
            let read = node_of_file(node, &file.pipeline, &file.windows, &nodes);
            nodes.push(read.map_err(|(entry, problem)| (format!("nodes.{name}.{entry}"), problem))?);
        }
        Ok(Self {
            pipeline: file.pipeline,
            window_ms: file.window_ms,
            records: file.records,
            windows: file.windows,
            nodes,
        })
    }

    /// Writes the file: beside its place first, then moved there, so that a reader sees all of it or the one before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), BaselineError> {
        let of_file = |source| BaselineError::Io { path: path.to_owned(), source };
        let text = serde_json::to_string(&self.to_file())
            .map_err(|source| BaselineError::Json { path: path.to_owned(), source })?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(of_file)?;
        }
        let partial = path.with_extension("partial");
        fs::write(&partial, text).map_err(of_file)?;
        fs::rename(&partial, path).map_err(of_file)
    }

    fn to_file(&self) -> File {
        let nodes = self.nodes.iter().map(|node| NodeFile {
            name: node.name.clone(),
            version: node.version.clone(),
            inputs: node.inputs.clone(),
            records: node.records,
            input: (node.inputs.len() > 1).then(|| Reference::clone(&node.input)),
            output: Reference::clone(&node.output),
            profiles: node.profiles.bodies().map(|body| BASE64.encode(self.profile(node, body).encode())).collect(),
            series: node.series.iter().map(|series| (series.what.clone(), series.to_file())).collect(),
        });
        File {
            version: FORMAT,
            pipeline: self.pipeline.clone(),
            window_ms: self.window_ms,
            records: self.records,
            windows: self.windows.clone(),
            nodes: nodes.collect(),
        }
    }

    /// Makes the profile of all windows of one side of a node.
    fn profile(&self, node: &NodeBaseline, body: ProfileBody) -> Profile {
        let start = self.windows.first().copied().unwrap_or_default();
        let end = self.windows.last().copied().unwrap_or_default().as_millis();
        let window = Window { start, millis: (end - start.as_millis()).unsigned_abs() + self.window_ms };
        let key = ProfileKey {
            pipeline: self.pipeline.clone(),
            stage: node.name.clone(),
            version: node.version.clone(),
            window,
        };
        Profile { key, body }
    }

    /// Makes the baseline of a pipeline that has none: nothing is watched but rules.
    #[must_use]
    pub fn none(pipeline: PipelineName, window_ms: u64) -> Self {
        Self { pipeline, window_ms, records: 0, windows: Vec::new(), nodes: Vec::new() }
    }

    /// Finds a node.
    #[must_use]
    pub fn node(&self, name: &StageName) -> Option<&NodeBaseline> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    /// Returns the references that profiles may be counted on.
    #[must_use]
    pub fn references(&self) -> References {
        references_of(&self.nodes)
    }

    /// Lists what is not watched because too few windows had enough records of it.
    #[must_use]
    pub fn unarmed(&self) -> Vec<String> {
        let series = self.nodes.iter().flat_map(|node| node.series.iter().map(move |series| (node, series)));
        let short = series.filter(|(_, series)| series.windows_known() < MIN_HISTORY);
        short
            .map(|(node, series)| {
                format!("{} {}: {} windows of {MIN_HISTORY}", node.name, series.what, series.windows_known())
            })
            .collect()
    }
}

fn references_of(nodes: &[NodeBaseline]) -> References {
    let mut references = References::default();
    for node in nodes {
        references.insert(Arc::clone(&node.input));
        references.insert(Arc::clone(&node.output));
    }
    references
}

fn node_of_file(
    file: NodeFile,
    pipeline: &PipelineName,
    windows: &[Timestamp],
    before: &[NodeBaseline],
) -> Result<NodeBaseline, (String, String)> {
    let output = Arc::new(file.output);
    let input = match (file.inputs.as_slice(), file.input) {
        ([], None) => Arc::new(Reference::declared()),
        ([one], None) => match before.iter().find(|node| node.name == *one) {
            Some(parent) => Arc::clone(&parent.output),
            None => return Err(("inputs".to_owned(), format!("found {one}, allowed are nodes that stand before it"))),
        },
        ([_, _, ..], Some(input)) => Arc::new(input),
        _ => {
            return Err(("input".to_owned(), "allowed is one where several nodes are read, and only there".to_owned()));
        }
    };
    let mut node = NodeBaseline {
        name: file.name,
        version: file.version,
        inputs: file.inputs,
        records: file.records,
        input,
        output,
        profiles: NodeWindow::default(),
        series: Vec::new(),
    };
    let references = references_of(std::slice::from_ref(&node));
    for (at, text) in file.profiles.iter().enumerate() {
        let entry = |problem: String| (format!("profiles.{at}"), problem);
        let bytes = BASE64.decode(text).map_err(|error| entry(error.to_string()))?;
        let profile = Profile::decode(&bytes, &references).map_err(|error| entry(error.to_string()))?;
        let key = &profile.key;
        if key.pipeline != *pipeline {
            return Err(entry(format!(
                "found a profile of the pipeline {}, allowed are those of {pipeline}",
                key.pipeline
            )));
        }
        if key.stage != node.name {
            let (side, stage) = (profile.body.direction(), &key.stage);
            return Err(entry(format!("found the {side} of {stage}, allowed are profiles of {}", node.name)));
        }
        node.profiles.add(&profile).map_err(|error| entry(error.to_string()))?;
    }
    for (what, series) in file.series {
        let entry = |problem: &str| (format!("series.{what}"), problem.to_owned());
        let basis = node.profiles.basis(&what).ok_or_else(|| entry("there is no profile of it"))?;
        let bytes = BASE64.decode(&series.scores).map_err(|error| entry(&error.to_string()))?;
        let wanted = windows.len() * basis.len() * 4;
        if bytes.len() != wanted {
            return Err(entry(&format!("found {} bytes of scores, allowed are {wanted}", bytes.len())));
        }
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let scores = bytes.chunks_exact(4).map(number).collect();
        node.series.push(Series { what, least: series.least, basis, scores });
    }
    Ok(node)
}

impl Series {
    fn to_file(&self) -> SeriesFile {
        let bytes: Vec<u8> = self.scores.iter().flat_map(|score| score.to_le_bytes()).collect();
        SeriesFile { least: self.least, scores: BASE64.encode(bytes) }
    }

    /// Returns the windows that say something of it.
    #[must_use]
    pub fn windows_known(&self) -> usize {
        let width = self.basis.len().max(1);
        self.scores.chunks_exact(width).filter(|scores| scores.iter().all(|score| score.is_finite())).count()
    }

    /// Returns how many of its records tell as much as an independent one, see [`driftline_stats::inflation`].
    #[must_use]
    pub fn inflation(&self) -> f64 {
        driftline_stats::inflation(self.scores.chunks_exact(self.basis.len().max(1)))
    }

    /// Trains a detector on the windows, all of which are healthy; `each` sees it after every window that says
    /// something, see [`Detector::train`].
    #[must_use]
    pub fn train(&self, windows: &[Timestamp], mut each: impl FnMut(Timestamp, &Detector)) -> Detector {
        let by_window = windows.iter().zip(self.scores.chunks_exact(self.basis.len().max(1)));
        let known = by_window.filter(|(_, scores)| scores.iter().all(|score| score.is_finite()));
        let (starts, known): (Vec<Timestamp>, Vec<_>) = known
            .map(|(&start, scores)| {
                (start, (HourOfWeek::of(start), scores.iter().map(|&score| score.into()).collect()))
            })
            .unzip();
        let mut detector = Detector::weighted(&self.basis.weights());
        detector.train(&known, |at, detector| each(starts[at], detector));
        detector
    }
}

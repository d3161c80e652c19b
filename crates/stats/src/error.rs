//! What can be wrong with a reference, a merge, or bytes that claim to be a profile.

use crate::{MAX_BINS, ReferenceId};

/// Says why edges, a dictionary, a codebook or a reference is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// The radius of an embedding is no distance.
    #[error("signal {name:?}: radius: found {found}, allowed are numbers from 0")]
    Radius {
        /// The signal.
        name: String,
        /// The radius.
        found: f32,
    },
    /// The number of bins is out of range.
    #[error("number of bins is {found}, allowed are 1 to {MAX_BINS}")]
    BinCount {
        /// The number asked for.
        found: usize,
    },
    /// The number of bounds is out of range.
    #[error("edges have {found} different bounds, allowed are 2 to {}", MAX_BINS + 1)]
    BoundCount {
        /// The number found.
        found: usize,
    },
    /// A bound is NaN or infinite.
    #[error("bound {index} of edges is {found}, allowed are finite numbers")]
    BoundNotFinite {
        /// Its index.
        index: usize,
        /// Its value.
        found: f64,
    },
    /// Bounds do not ascend.
    #[error("bound {index} of edges is {found}, allowed are numbers above the bound before it, {before}")]
    BoundOrder {
        /// Its index.
        index: usize,
        /// Its value.
        found: f64,
        /// The bound before it.
        before: f64,
    },
    /// A logarithmic range does not start above zero.
    #[error("logarithmic range starts at {found}, allowed are numbers above 0")]
    LogRange {
        /// Where it starts.
        found: f64,
    },
    /// A dictionary is too long.
    #[error("dictionary has {found} values, allowed are at most {max}")]
    DictionarySize {
        /// The number found.
        found: usize,
        /// The most allowed.
        max: usize,
    },
    /// A dictionary holds a value twice.
    #[error("dictionary holds {value:?} twice, allowed is once (values are cut to 64 bytes)")]
    DictionaryRepeats {
        /// The value.
        value: String,
    },
    /// A codebook has too few or too many cells.
    #[error("codebook has {found} cells, allowed are 1 to {max}")]
    CodebookSize {
        /// The number found.
        found: usize,
        /// The most allowed.
        max: usize,
    },
    /// A vector has the wrong length or a component that is not finite.
    #[error("vector {index} has {found} finite components, allowed are exactly {dims}, at least 1")]
    Vector {
        /// Its index among the vectors given.
        index: usize,
        /// How many finite components it has.
        found: usize,
        /// How many are wanted.
        dims: usize,
    },
    /// A reference names two signals alike.
    #[error("reference names the signal {name:?} twice, allowed is once")]
    SignalRepeats {
        /// The name.
        name: String,
    },
    /// A record codebook does not fit the bins of a signal, or holds numbers that are not finite.
    #[error("record codebook has other slots than signal {name:?}, or numbers that are not finite")]
    RecordSignal {
        /// The signal.
        name: String,
    },
    /// The cells of a record codebook have another number of components than its signals give.
    #[error("record codebook has cells of {found} components, allowed are {wanted}, at most {max}")]
    RecordDims {
        /// The number found.
        found: usize,
        /// What the signals give.
        wanted: usize,
        /// The most allowed.
        max: usize,
    },
    /// There is no record to fit a reference to.
    #[error("a reference needs records, found none")]
    NoRecords,
    /// An embedding in a reference has the wrong number of projections.
    #[error("embedding {name:?} has edges for {found} projections, allowed are {allowed}")]
    ProjectionCount {
        /// The signal.
        name: String,
        /// The number found.
        found: usize,
        /// The number allowed.
        allowed: usize,
    },
}

/// Says why two profiles cannot be merged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// They describe different things: another pipeline, stage, version, direction or window.
    #[error("profiles differ in {what}: {left} and {right}, allowed are equal ones")]
    Key {
        /// What differs.
        what: &'static str,
        /// As the profile merged into has it.
        left: String,
        /// As the other has it.
        right: String,
    },
    /// They were counted on different references.
    #[error("profiles differ in reference: {left} and {right}, allowed are equal ones")]
    Reference {
        /// Of the profile merged into.
        left: ReferenceId,
        /// Of the other.
        right: ReferenceId,
    },
    /// One signal was counted on different edges, dictionaries or codebooks.
    #[error("profiles differ in signal {signal:?}: {left} and {right}, allowed are equal ones")]
    Signal {
        /// The signal.
        signal: String,
        /// As the profile merged into has it.
        left: String,
        /// As the other has it.
        right: String,
    },
}

impl MergeError {
    pub(crate) fn bins(signal: &str, left: &dyn std::fmt::Display, right: &dyn std::fmt::Display) -> Self {
        Self::Signal { signal: signal.to_owned(), left: left.to_string(), right: right.to_string() }
    }
}

/// Says why bytes are not a profile, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("profile at byte {at}: {problem}")]
pub struct DecodeError {
    /// The offset at which reading stopped.
    pub at: usize,
    /// What was wrong there.
    pub problem: DecodeProblem,
}

/// Says what is wrong with bytes that claim to be a profile.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeProblem {
    /// They end too early.
    #[error("ends where {expected} was expected")]
    Truncated {
        /// What was being read.
        expected: &'static str,
    },
    /// A number has more digits than it needs or than fit.
    #[error("number is not in its shortest form or does not fit")]
    Number,
    /// A value is not one of those allowed.
    #[error("{what} is {found}, allowed are {allowed}")]
    Value {
        /// What was being read.
        what: &'static str,
        /// The value found.
        found: String,
        /// The values allowed.
        allowed: String,
    },
    /// The profile was counted on a reference that is not at hand.
    #[error("counted on reference {found}, which was not given")]
    Reference {
        /// The reference that the profile names.
        found: ReferenceId,
    },
}

/// Says why a change cannot be attributed over a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AttributionError {
    /// Two tables do not fit each other.
    #[error(
        "tables of a node have {reference} and {current} cells, allowed are equal multiples of its outputs, {outputs}"
    )]
    Shape {
        /// The node's output cells.
        outputs: usize,
        /// The cells of the reference.
        reference: usize,
        /// The cells of the current counts.
        current: usize,
    },
    /// The number of nodes is out of range.
    #[error("graph has {found} nodes, allowed are 1 to 64")]
    NodeCount {
        /// The number found.
        found: usize,
    },
    /// A parent does not come before its child.
    #[error("node {node} has the parent {parent}, allowed are nodes before it")]
    Order {
        /// The child.
        node: usize,
        /// The parent.
        parent: usize,
    },
    /// A table has not one row for each combination of its parents' cells.
    #[error(
        "table of node {node} has {found} rows, allowed are {expected}, one for each combination of its parents' cells"
    )]
    Rows {
        /// The node.
        node: usize,
        /// The rows found.
        found: usize,
        /// The rows wanted.
        expected: usize,
    },
    /// Branches carry too many cells together.
    #[error("branches that reach node {node} have too many cells together, allowed are {max}")]
    Size {
        /// The node.
        node: usize,
        /// The most cells allowed.
        max: usize,
    },
}

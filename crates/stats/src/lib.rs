//! Profiles of signals: mergeable summaries, pure functions over integers and floats.
//!
//! A payload declares its [`Signal`]s and shows their values to a [`SignalVisitor`]. A
//! [`ProfileSet`] counts them on the bins of a [`Reference`]; a [`JointProfile`] counts which input
//! code became which output code. A [`Profile`] is either of them with what it describes, and goes
//! over the wire as bytes. The README beside this crate explains why profiles are made this way.
//!
//! A [`ScoreBasis`] makes scores of a window's counts, a [`Detector`] says whether they have changed,
//! [`speed`] how fast, [`ConditionalBasis`] and [`attribute`] by whose fault; `DRIFT.md` explains how.
//!
//! Nothing here does I/O or knows a clock.

mod attribution;
mod category;
mod codebook;
mod codec;
mod conditional;
mod detector;
mod distance;
mod edges;
mod effect;
mod embedding;
mod error;
mod feedback;
mod fit;
mod joint;
mod label_free;
mod new_values;
#[cfg(test)]
mod noise;
mod normal;
mod number;
mod onset;
mod probe;
mod profile;
mod quantum;
mod random;
mod rank;
mod records;
mod reference;
mod scores;
mod search;
mod season;
mod shapley;
mod signal;
mod verdict;
mod wire;

pub use attribution::{Attribution, Mechanism, attribute, output_cells, share_intervals};
pub use category::{CategoryProfile, Dictionary, FIRST_VALUE, MAX_DICTIONARY, MAX_VALUE, OTHER};
pub use codebook::{Codebook, MAX_CELLS};
pub use codec::References;
pub use conditional::{ConditionalAspect, ConditionalBasis, ConditionalScores, MIN_ROW};
pub use detector::{Detector, QUARANTINE, listed};
pub use distance::{hellinger, jensen_shannon, psi, wasserstein};
pub use edges::{BELOW, DEFAULT_BINS, Edges, FIRST_BIN, MAX_BINS, MISSING, NAN, NEG_INFINITY};
pub use effect::{Effect, inflation, jensen_shannon_effect, wasserstein_effect};
pub use embedding::{EmbeddingBins, EmbeddingProfile, FIRST_CELL, MALFORMED, PROJECTIONS, project};
pub use error::{AttributionError, DecodeError, DecodeProblem, MergeError, ReferenceError};
pub use feedback::{Feedback, FeedbackRules, FeedbackWindow, MIN_LABELLED, Prediction, Reaction, Uncounted, join};
pub use fit::{FIT_RECORDS, Sample};
pub use joint::{DROPPED, JointProfile, UNKNOWN};
pub use label_free::{AccuracyEstimate, Calibrated, LabelShiftError, MAX_CONDITION, accuracy_gap, label_shift};
pub use new_values::{NewValues, SAMPLE};
pub use number::NumberProfile;
pub use onset::{Speed, onset, speed, welch};
pub use probe::{Answer, Answers, ProbeChange, ProbeFindings, ProbePart, ValueHash, compare_answers, rounds};
pub use profile::{Direction, Profile, ProfileBody, ProfileKey, ProfileSet, Window};
pub use rank::{BETS, CAUTION, DELTAS, HISTORY, Healthy, MIN_HISTORY};
pub use records::{MAX_RECORD_CELLS, RecordCodebook};
pub use reference::{Reference, ReferenceId, SignalBins, SignalProfile};
pub use scores::{Aspect, MAX_LEVELS, ScoreBasis};
pub use season::{HourOfWeek, LAGS, Memory, Run, SLOTS, Season};
pub use shapley::{EXACT_PLAYERS, shapley};
pub use signal::{Scale, Signal, SignalKind, SignalVisitor};
pub use verdict::{Findings, Probes, TOO_NEW, Verdict, verdict};

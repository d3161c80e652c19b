//! The search stage: transcripts in, search responses out.
//!
//! Every transcript gets an answer. One that is empty, or that nothing fits, gets a response
//! without results (a *null* result, which is one of the response's signals): that the shop has
//! nothing to offer is an answer too, and a rise of such answers is the first thing that shows when
//! a recogniser goes astray.
//!
//! ```toml
//! [stages.search]
//! kind = "search"
//! inputs = ["asr"]
//! catalogue = "builtin"   # or a JSON Lines file of {id, title, category, description, price_cents}
//! top_k = 5               # most results, 1 to 100
//! fuzzy = true            # whether words near those said match too
//! min_score = 0.0         # least score of a result
//! ```
//!
//! Two parameters may be injected: `stale`, an index that lacks the newest products, and `fuzziness`, how many letters
//! may be wrong.

mod catalogue;
mod index;

use std::{path::Path, sync::Arc};

use driftline_payloads::{Hit, SearchResponse, Transcript};
use driftline_stage::{Checks, ConfigProblem, Emitter, Parameter, Record, Stage, StageError, StageKind};
use serde::Deserialize;

pub use catalogue::{BUILTIN_NAME, Catalogue, CatalogueError, Problem, Product};
pub use index::{CatalogueIndex, Found, IndexError, Rules};

static STALE: Parameter = Parameter {
    name: "stale",
    unit: "1",
    help: "share of the catalogue that the index lacks, the newest products first",
    min: 0.0,
    max: 1.0,
    neutral: 0.0,
};
static FUZZINESS: Parameter = Parameter {
    name: "fuzziness",
    unit: "{letter}",
    help: "how many letters of a word may be wrong, where fuzzy is true",
    min: 0.0,
    max: MOST_EDITS as f64,
    neutral: MOST_EDITS as f64,
};

/// Letters of a word that may be wrong.
const MOST_EDITS: u8 = 2;
/// In steps of this share a growing part of the index goes missing.
const STALE_STEP: f64 = 0.01;
/// Most results a config may ask for.
const MAX_TOP_K: usize = 100;

/// The kind `search`: a catalogue and its index, shared by all partitions.
pub struct SearchKind {
    index: Arc<CatalogueIndex>,
    rules: Rules,
    fingerprint: String,
}

/// The config table of a search stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// `builtin` or the path of a JSON Lines file.
    pub catalogue: String,
    /// Most results, 1 to 100.
    pub top_k: usize,
    /// Whether words near those of the query match too.
    pub fuzzy: bool,
    /// Least score of a result; BM25 scores of one catalogue are comparable with each other only.
    pub min_score: f32,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { catalogue: BUILTIN_NAME.to_owned(), top_k: 5, fuzzy: true, min_score: 0.0 }
    }
}

impl StageKind for SearchKind {
    const KIND: &'static str = "search";
    const PATHS: &'static [&'static str] = &["catalogue"];
    const PARAMETERS: &'static [&'static Parameter] = &[&STALE, &FUZZINESS];
    type Config = SearchConfig;
    type Stage = SearchStage;

    fn check(config: &SearchConfig) -> Vec<ConfigProblem> {
        let SearchConfig { catalogue, top_k, min_score, .. } = config;
        let mut checks = Checks::default();
        checks.expect_builtin_or("catalogue", catalogue, Path::new(catalogue), "a JSON Lines file");
        checks.expect((1..=MAX_TOP_K).contains(top_k), "top_k", top_k, "a whole number from 1 to 100");
        checks.expect(min_score.is_finite() && *min_score >= 0.0, "min_score", min_score, "a number from 0");
        checks.problems()
    }

    fn open(config: SearchConfig) -> Result<Self, StageError> {
        let catalogue = Catalogue::load(&config.catalogue)
            .map_err(|error| StageError::fatal("the catalogue cannot be used").caused_by(error))?;
        let rules = Rules {
            top_k: config.top_k,
            edits: if config.fuzzy { MOST_EDITS } else { 0 },
            min_score: config.min_score,
        };
        let fingerprint = catalogue.hash().to_hex().to_string();
        let index = Arc::new(CatalogueIndex::build(catalogue).map_err(failed)?);
        Ok(Self { index, rules, fingerprint })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn instance(&self) -> SearchStage {
        SearchStage { index: Arc::clone(&self.index), stale: None, rules: self.rules }
    }
}

/// Answers the transcripts of one partition. It keeps no state.
pub struct SearchStage {
    index: Arc<CatalogueIndex>,
    /// The index without so many steps of its newest products.
    stale: Option<(u32, CatalogueIndex)>,
    rules: Rules,
}

impl Stage for SearchStage {
    type Input = Transcript;
    type Output = SearchResponse;

    fn process(
        &mut self,
        batch: &[Record<Transcript>],
        out: &mut Emitter<'_, SearchResponse>,
    ) -> Result<(), StageError> {
        for record in batch {
            let Transcript { session, segment, start_ms, end_ms, transcript, confidence, .. } = record.value.clone();
            let steps = (out.parameter(&STALE, record) / STALE_STEP).round() as u32;
            if steps > 0 && self.stale.as_ref().is_none_or(|(built, _)| *built != steps) {
                let share = f64::from(steps) * STALE_STEP;
                self.stale = Some((steps, self.index.without_newest(share).map_err(failed)?));
            }
            let index = self.stale.as_ref().filter(|_| steps > 0).map_or(&*self.index, |(_, index)| index);
            let edits = (out.parameter(&FUZZINESS, record).round() as u8).min(self.rules.edits);
            let found = index.search(&transcript, Rules { edits, ..self.rules }).map_err(failed)?;
            let hit = |found: &Found<'_>| Hit {
                id: found.product.id.clone(),
                title: found.product.title.clone(),
                score: found.score,
            };
            let results = found.iter().map(hit).collect();
            let response = SearchResponse { session, segment, start_ms, end_ms, transcript, confidence, results };
            out.emit(record, response);
        }
        Ok(())
    }
}

fn failed(error: IndexError) -> StageError {
    StageError::fatal("the search index failed").caused_by(error)
}

#[cfg(test)]
mod tests;

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

mod catalogue;
mod index;

use std::{fmt, sync::Arc};

use driftline_payloads::{Hit, SearchResponse, Transcript};
use driftline_stage::{ConfigProblem, Emitter, Record, Stage, StageError, StageKind};
use serde::Deserialize;

pub use catalogue::{BUILTIN_NAME, Catalogue, CatalogueError, Problem, Product};
pub use index::{CatalogueIndex, Found, IndexError, Rules};

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
    type Config = SearchConfig;
    type Stage = SearchStage;

    fn check(config: &SearchConfig) -> Vec<ConfigProblem> {
        let problem = |key: &str, found: &dyn fmt::Display, allowed: &str| ConfigProblem {
            path: vec![key.to_owned()],
            found: Some(found.to_string()),
            message: format!("allowed is {allowed}"),
        };
        let mut problems = Vec::new();
        if !(1..=MAX_TOP_K).contains(&config.top_k) {
            problems.push(problem("top_k", &config.top_k, "a whole number from 1 to 100"));
        }
        if !(config.min_score.is_finite() && config.min_score >= 0.0) {
            problems.push(problem("min_score", &config.min_score, "a number from 0"));
        }
        problems
    }

    fn open(config: SearchConfig) -> Result<Self, StageError> {
        let catalogue = Catalogue::load(&config.catalogue)
            .map_err(|error| StageError::fatal("the catalogue cannot be used").caused_by(error))?;
        let rules = Rules { top_k: config.top_k, fuzzy: config.fuzzy, min_score: config.min_score };
        let fingerprint = catalogue.hash().to_hex().to_string();
        let index = Arc::new(CatalogueIndex::build(catalogue).map_err(failed)?);
        Ok(Self { index, rules, fingerprint })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn instance(&self) -> SearchStage {
        SearchStage { index: Arc::clone(&self.index), rules: self.rules }
    }
}

/// Answers the transcripts of one partition. It keeps no state.
pub struct SearchStage {
    index: Arc<CatalogueIndex>,
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
            let found = self.index.search(&transcript, self.rules).map_err(failed)?;
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

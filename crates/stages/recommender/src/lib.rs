//! The recommender stage: user profiles in, products to show out.
//!
//! A sequence model over the user's last events scores every product of the catalogue; the best are
//! kept exactly, without what the user has bought and what is out of stock. A user of whom no event
//! says anything gets what suits what they have (a cold start), and one of whom nothing at all is
//! known what is popular; what an answer rests on is one of its signals. The stage keeps no state.
//!
//! ```toml
//! [stages.recommender]
//! kind = "recommender"
//! inputs = ["user-profile"]
//! model = "builtin"        # or a folder that train-recommender wrote
//! catalogue = "builtin"    # or a JSON Lines file of {id, category, in_stock, views}
//! top_k = 10               # products of an answer, 1 to 100
//! ```
//!
//! The profile after an erasure is dropped: there is nobody to recommend to. An event whose product
//! the model has not met counts by its category (its own, or else the catalogue's of the product), and a
//! product of the catalogue that it has not met is recommended as one of its category.

use std::path::Path;

use driftline_models::{
    ModelError,
    profile::Action,
    recommender::{self, Catalogue, Event, Recommender, Request},
};
use driftline_payloads::{Answer, Basis, ClickKind, RecentEvent, Recommendation, Recommendations, UserProfile};
use driftline_stage::{Checks, ConfigProblem, Emitter, Record, Stage, StageError, StageKind, config::BUILTIN};
use serde::Deserialize;

/// Most products a config may ask for.
const MAX_TOP_K: usize = 100;

/// The config table of a recommender stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `builtin`, or a folder that `train-recommender` wrote.
    pub model: String,
    /// `builtin`, the products the model was trained with, or the path of a JSON Lines file.
    pub catalogue: String,
    /// Products of an answer, 1 to 100.
    pub top_k: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { model: BUILTIN.to_owned(), catalogue: BUILTIN.to_owned(), top_k: 10 }
    }
}

/// The kind `recommender`.
pub struct RecommenderKind {
    recommender: Recommender,
    top_k: usize,
    fingerprint: String,
}

impl StageKind for RecommenderKind {
    const KIND: &'static str = "recommender";
    const PATHS: &'static [&'static str] = &["model", "catalogue"];
    type Config = Config;
    type Stage = RecommenderStage;

    fn check(config: &Config) -> Vec<ConfigProblem> {
        let Config { model, catalogue, top_k } = config;
        let mut checks = Checks::default();
        let weights = recommender::WEIGHTS_FILE;
        let file = Path::new(model).join(weights);
        checks.expect_builtin_or("model", model, &file, format_args!("a folder with {weights}"));
        checks.expect_builtin_or("catalogue", catalogue, Path::new(catalogue), "a JSON Lines file");
        checks.expect((1..=MAX_TOP_K).contains(top_k), "top_k", top_k, "a whole number from 1 to 100");
        checks.problems()
    }

    fn open(config: Config) -> Result<Self, StageError> {
        let catalogue = (config.catalogue != BUILTIN).then(|| Catalogue::load(Path::new(&config.catalogue)));
        let catalogue = catalogue.transpose().map_err(unusable)?;
        let own = catalogue.as_ref().map_or_else(String::new, |catalogue| format!(" {}", catalogue.fingerprint()));
        let recommender = if config.model == BUILTIN {
            Recommender::builtin(catalogue)
        } else {
            Recommender::load(Path::new(&config.model), catalogue)
        };
        let recommender = recommender.map_err(unusable)?;
        let fingerprint = recommender.version().to_owned() + &own;
        Ok(Self { recommender, top_k: config.top_k, fingerprint })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn instance(&self) -> RecommenderStage {
        RecommenderStage { recommender: self.recommender.clone(), top_k: self.top_k }
    }
}

fn unusable(error: ModelError) -> StageError {
    StageError::fatal("the model or its catalogue cannot be used").caused_by(error)
}

/// The stage of one partition. It keeps nothing between batches.
pub struct RecommenderStage {
    recommender: Recommender,
    top_k: usize,
}

impl Stage for RecommenderStage {
    type Input = UserProfile;
    type Output = Recommendations;

    fn process(
        &mut self,
        batch: &[Record<UserProfile>],
        out: &mut Emitter<'_, Recommendations>,
    ) -> Result<(), StageError> {
        let asking: Vec<&Record<UserProfile>> =
            batch.iter().filter(|record| record.value.cause != ClickKind::Erase).collect();
        let requests: Vec<Request<'_>> = asking.iter().map(|record| request(&record.value)).collect();
        let answers = self
            .recommender
            .recommend(&requests, self.top_k)
            .map_err(|error| StageError::fatal("the recommender's network failed").caused_by(error))?;
        let catalogue = self.recommender.catalogue();
        for (record, answer) in asking.into_iter().zip(answers) {
            let item = |found: &recommender::Recommended| Recommendation {
                product: catalogue.products()[found.product].id.clone(),
                category: catalogue.products()[found.product].category.clone(),
                score: found.score,
                surprise: catalogue.surprise(found.product) as f32,
            };
            let recommendations = Recommendations {
                user: record.value.user.clone(),
                time_ms: record.value.time_ms,
                cause: record.value.cause,
                basis: match answer.basis {
                    recommender::Basis::History => Basis::History,
                    recommender::Basis::Profile => Basis::Profile,
                    recommender::Basis::Popularity => Basis::Popularity,
                },
                unknown_products: answer.unknown as u32,
                items: answer.products.iter().map(item).collect(),
            };
            out.emit(record, recommendations);
        }
        Ok(())
    }
}

fn request(profile: &UserProfile) -> Request<'_> {
    let events = profile.recent.iter().filter_map(|past| {
        let RecentEvent { time_ms, kind, product, category } = past;
        // An erasure is no action.
        let action = Action::named(kind.name())?;
        Some(Event { product: product.as_deref(), category: category.as_deref(), action, time_ms: *time_ms })
    });
    Request {
        events: events.collect(),
        attributes: profile.attributes.all().map(|estimate| match estimate.answer {
            Answer::Unknown => 0.5,
            Answer::Yes | Answer::No => estimate.probability,
        }),
        excluded: profile.bought.iter().map(String::as_str).collect(),
    }
}

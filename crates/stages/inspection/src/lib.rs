//! The inspection stage: pictures in, decisions out.
//!
//! The pictures of a batch, of whatever cameras, go through the network side by side on the processor's cores; a picture's result does not depend on its company.
//! Two thresholds on the probability of a defect make three decisions: accept, refer to a person, reject. A picture
//! that shows nothing, because the lamp is broken or the lens covered, is referred whatever the network makes of it. One
//! whose pixels cannot be decoded goes to the dead letters as it came.
//!
//! The stage keeps no state: what was inspected is what the log says was.

mod config;

use std::path::Path;

use driftline_models::inspection::{Finding, Inspector, Picture};
use driftline_payloads::{Decision, Image, Inspection, heat_map, image::Pixels};
use driftline_stage::{ConfigProblem, Emitter, Parameter, Record, Stage, StageError, StageKind, config::BUILTIN};

pub use config::Config;

/// How bold the network is.
static ODDS_SHIFT: Parameter = Parameter {
    name: "odds_shift",
    unit: "1",
    help: "added to the log odds of a defect: what a model that was trained anew may do, bolder or more careful",
    min: -10.0,
    max: 10.0,
    neutral: 0.0,
};

/// Pixels of the shorter side below which a picture shows too little.
const MIN_SIDE: usize = 16;

/// The `inspection` kind of stage.
pub struct InspectionKind {
    inspector: Inspector,
    rules: Rules,
}

/// How evidence becomes a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rules {
    accept_below: f32,
    reject_from: f32,
    min_contrast: f32,
    heat_map: usize,
}

impl Rules {
    /// Returns whether a picture shows enough for a decision without a person.
    fn can_decide(self, pixels: &Pixels) -> bool {
        let side = pixels.width().min(pixels.height());
        side >= MIN_SIDE && pixels.measures().contrast >= f64::from(self.min_contrast)
    }

    fn decide(self, score: f32) -> Decision {
        if score < self.accept_below {
            Decision::Accept
        } else if score >= self.reject_from {
            Decision::Reject
        } else {
            Decision::Refer
        }
    }
}

impl StageKind for InspectionKind {
    const KIND: &'static str = "inspection";
    const PATHS: &'static [&'static str] = &["model"];
    const PARAMETERS: &'static [&'static Parameter] = &[&ODDS_SHIFT];
    type Config = Config;
    type Stage = InspectionStage;

    fn check(config: &Config) -> Vec<ConfigProblem> {
        config.problems()
    }

    fn open(config: Config) -> Result<Self, StageError> {
        let inspector = match config.surface() {
            _ if config.model != BUILTIN => Inspector::load(Path::new(&config.model)),
            Some(surface) => Inspector::builtin(surface),
            None => return Err(StageError::fatal(format!("surface: found {:?}", config.surface))),
        };
        let inspector = inspector.map_err(|error| StageError::fatal("the model cannot be used").caused_by(error))?;
        let settings = inspector.settings();
        let accept_below = config.accept_below.unwrap_or(settings.accept_below as f32);
        let reject_from = config.reject_from.unwrap_or(settings.reject_from as f32);
        if accept_below > reject_from {
            // One came from the weights, so the check of the config alone could not see it.
            let (key, found, allowed, limit) = if config.reject_from.is_some() {
                ("reject_from", reject_from, "at least accept_below", accept_below)
            } else {
                ("accept_below", accept_below, "at most reject_from", reject_from)
            };
            let message = format!("{key}: found {found}, allowed is {allowed} of the weights, {limit}");
            return Err(StageError::fatal(message));
        }
        let Config { min_contrast, heat_map, .. } = config;
        Ok(Self { rules: Rules { accept_below, reject_from, min_contrast, heat_map }, inspector })
    }

    fn fingerprint(&self) -> String {
        self.inspector.version().to_owned()
    }

    fn instance(&self) -> InspectionStage {
        InspectionStage { inspector: self.inspector.clone(), rules: self.rules }
    }
}

/// The stage of one partition.
pub struct InspectionStage {
    inspector: Inspector,
    rules: Rules,
}

impl Stage for InspectionStage {
    type Input = Image;
    type Output = Inspection;

    fn process(&mut self, batch: &[Record<Image>], out: &mut Emitter<'_, Inspection>) -> Result<(), StageError> {
        let mut seen = Vec::with_capacity(batch.len());
        let mut pictures = Vec::with_capacity(batch.len());
        for record in batch {
            match record.value.pixels() {
                Ok(pixels) => {
                    seen.push((record, self.rules.can_decide(pixels)));
                    let (width, height) = (pixels.width(), pixels.height());
                    pictures.push(Picture { width, height, luma: pixels.luma() });
                }
                Err(error) => out.reject(record, error.to_string()),
            }
        }
        let findings = self.inspector.inspect(&pictures);
        let findings = findings.map_err(|error| StageError::record("the inspector failed").caused_by(error))?;
        for ((record, can_decide), finding) in seen.into_iter().zip(&findings) {
            let finding = finding.shifted(out.parameter(&ODDS_SHIFT, record));
            let decision = if can_decide { self.rules.decide(finding.score) } else { Decision::Refer };
            let inspection = self.conclude(record, &finding, decision)?;
            out.emit(record, inspection);
        }
        Ok(())
    }
}

impl InspectionStage {
    fn conclude(
        &self,
        record: &Record<Image>,
        finding: &Finding,
        decision: Decision,
    ) -> Result<Inspection, StageError> {
        let names = &self.inspector.settings().classes;
        let likeliest = (1..finding.classes.len()).max_by(|&a, &b| finding.classes[a].total_cmp(&finding.classes[b]));
        let class = match decision {
            Decision::Accept => 0,
            Decision::Refer | Decision::Reject => likeliest.unwrap_or(0),
        };
        let shot = &record.value.shot;
        let camera = if shot.camera.is_empty() {
            String::from_utf8_lossy(record.key.as_bytes()).into_owned()
        } else {
            shot.camera.clone()
        };
        let wanted = self.rules.heat_map > 0 && decision != Decision::Accept;
        Ok(Inspection {
            camera,
            frame: shot.frame,
            name: shot.name.clone(),
            decision,
            score: finding.score,
            class: names[class].clone(),
            confidence: finding.classes[class],
            area: finding.area,
            heat_map: if wanted { Some(self.heat_map(finding)?) } else { None },
        })
    }

    /// Reduces the map by the largest of each square: a small defect does not vanish in it.
    fn heat_map(&self, finding: &Finding) -> Result<String, StageError> {
        let heat = &finding.heat;
        let square = heat.width().max(heat.height()).div_ceil(self.rules.heat_map);
        let (columns, rows) = (heat.width().div_ceil(square), heat.height().div_ceil(square));
        let mut small = vec![0f32; columns * rows];
        for (i, &value) in heat.values().iter().enumerate() {
            let place = i / heat.width() / square * columns + i % heat.width() / square;
            small[place] = small[place].max(value);
        }
        heat_map(columns as u32, rows as u32, &small)
            .map_err(|error| StageError::record("the heat map has no encoding").caused_by(error))
    }
}

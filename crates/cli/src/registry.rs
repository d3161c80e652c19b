//! The kinds this command knows. A new stage is one entry here and one crate.

use driftline_asr::Asr;
use driftline_connectors::{
    AudioFiles, Camera, EventFiles, ImageFiles, JsonLinesSink, JsonLinesSource, ShopSource, StdoutSink,
};
use driftline_inspection::InspectionKind;
use driftline_pipeline::{KindSpec, Kinds, SchemaSpec};
use driftline_recommender::RecommenderKind;
use driftline_search::SearchKind;
use driftline_stage::{Registry, SinkDef, SourceDef, StageDef};
use driftline_user_profile::UserProfileKind;
use driftline_vad::Vad;

/// Every kind of source, stage and sink.
pub static REGISTRY: Registry = Registry {
    sources: &[
        SourceDef::of::<AudioFiles>(),
        SourceDef::of::<ImageFiles>(),
        SourceDef::of::<Camera>(),
        SourceDef::of::<EventFiles>(),
        SourceDef::of::<JsonLinesSource>(),
        SourceDef::of::<ShopSource>(),
    ],
    stages: &[
        StageDef::of::<Vad>(),
        StageDef::of::<Asr>(),
        StageDef::of::<SearchKind>(),
        StageDef::of::<InspectionKind>(),
        StageDef::of::<UserProfileKind>(),
        StageDef::of::<RecommenderKind>(),
    ],
    sinks: &[SinkDef::of::<JsonLinesSink>(), SinkDef::of::<StdoutSink>()],
};

/// Describes a registry to the loader of pipelines.
#[must_use]
pub fn kinds(registry: &Registry) -> Kinds {
    let sources = registry.sources.iter().map(|def| KindSpec {
        name: def.kind,
        input: None,
        output: Some(SchemaSpec::Exactly(def.output)),
        paths: def.paths,
        check: def.check,
        parameters: def.parameters,
        start: def.start,
    });
    let stages = registry.stages.iter().map(|def| KindSpec {
        name: def.kind,
        input: Some(SchemaSpec::Exactly(def.input)),
        output: Some(SchemaSpec::Exactly(def.output)),
        paths: def.paths,
        check: def.check,
        parameters: def.parameters,
        start: |_| None,
    });
    let sinks = registry.sinks.iter().map(|def| KindSpec {
        name: def.kind,
        input: Some(match def.content_type {
            Some(content_type) => SchemaSpec::OneOf(registry.schemas_of(content_type)),
            None => SchemaSpec::Any,
        }),
        output: None,
        paths: def.paths,
        check: def.check,
        parameters: &[],
        start: |_| None,
    });
    Kinds {
        sources: sources.collect(),
        stages: stages.collect(),
        sinks: sinks.collect(),
        properties: &driftline_broker::ALLOWED_PROPERTIES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_of_lines_takes_json_alone() {
        let kinds = kinds(&REGISTRY);
        for sink in kinds.sinks {
            let input = sink.input.map(|input| input.to_string());
            let json = "one of click-event.v1, inspection.v1, json.v1, recommendations.v1, search-response.v1, transcript.v1, user-profile.v1";
            assert_eq!(input.as_deref(), Some(json), "{}", sink.name);
        }
    }
}

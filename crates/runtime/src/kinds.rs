//! What a registry is to the loader of pipelines.

use driftline_pipeline::{KindSpec, Kinds, SchemaSpec};
use driftline_stage::Registry;

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

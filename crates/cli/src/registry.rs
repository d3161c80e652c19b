//! The kinds this command knows. A new stage is one entry here and one crate.

use driftline_asr::Asr;
use driftline_connectors::{
    AudioFiles, Camera, EventFiles, ImageFiles, JsonLinesSink, JsonLinesSource, ShopSource, StdoutSink,
};
use driftline_inspection::InspectionKind;
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

#[cfg(test)]
mod tests {
    use driftline_runtime::kinds;

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

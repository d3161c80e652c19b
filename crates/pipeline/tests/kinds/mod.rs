//! Kinds as the command has them, with config structs read by the same reader.

use std::path::PathBuf;

use driftline_pipeline::{KindSpec, Kinds, SchemaSpec};
use driftline_types::{
    Parameter, SchemaId, Timestamp,
    config::{self, ConfigProblem, Millis},
};
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pace {
    Fast,
    Realtime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AudioFiles {
    #[serde(rename = "path")]
    _path: PathBuf,
    #[serde(rename = "pace")]
    _pace: Option<Pace>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vad {
    #[serde(rename = "model")]
    _model: Option<PathBuf>,
    #[serde(rename = "threshold")]
    _threshold: Option<Probability>,
    #[serde(rename = "min_speech")]
    _min_speech: Option<Millis>,
}

struct Probability;

impl<'de> Deserialize<'de> for Probability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match f64::deserialize(deserializer)? {
            p if (0.0..=1.0).contains(&p) => Ok(Self),
            p => Err(de::Error::invalid_value(de::Unexpected::Float(p), &"a number from 0 to 1")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asr {
    #[serde(rename = "model")]
    _model: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    #[serde(rename = "top_k")]
    _top_k: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLines {
    #[serde(rename = "path")]
    _path: PathBuf,
}

fn check<C: DeserializeOwned>(table: &toml::Table) -> Vec<ConfigProblem> {
    config::read::<C>(table).err().unwrap_or_default()
}

const AUDIO: SchemaSpec = SchemaSpec::Exactly(SchemaId::new("audio-chunk.v1"));
const SEGMENT: SchemaSpec = SchemaSpec::Exactly(SchemaId::new("speech-segment.v1"));
const TRANSCRIPT: SchemaSpec = SchemaSpec::Exactly(SchemaId::new("transcript.v1"));
const RESPONSE: SchemaSpec = SchemaSpec::Exactly(SchemaId::new("search-response.v1"));

static PITCH: Parameter =
    Parameter { name: "pitch", unit: "1", help: "factor on pitch", min: 0.5, max: 2.0, neutral: 1.0 };
static CLIP: Parameter =
    Parameter { name: "clip_ms", unit: "ms", help: "cut off segments", min: 0.0, max: 5_000.0, neutral: 0.0 };

static AUDIO_PARAMETERS: &[&Parameter] = &[&PITCH];
static VAD_PARAMETERS: &[&Parameter] = &[&CLIP];

pub fn kinds() -> Kinds {
    let stage = |name, input, output, paths, check| KindSpec {
        name,
        input: Some(input),
        output: Some(output),
        paths,
        check,
        parameters: if name == "vad" { VAD_PARAMETERS } else { &[] },
        start: |_| None,
    };
    let sink = |name, input| KindSpec {
        name,
        input: Some(input),
        output: None,
        paths: &["path"],
        check: check::<JsonLines>,
        parameters: &[],
        start: |_| None,
    };
    Kinds {
        properties: &["linger.ms", "sasl.mechanism", "sasl.password", "sasl.username", "security.protocol"],
        sources: vec![
            KindSpec {
                name: "audio-files",
                input: None,
                output: Some(AUDIO),
                paths: &["path"],
                check: check::<AudioFiles>,
                parameters: AUDIO_PARAMETERS,
                start: |_| Timestamp::parse("2000-01-01T00:00:00Z"),
            },
            KindSpec {
                name: "jsonl",
                input: None,
                output: Some(SchemaSpec::Any),
                paths: &["path"],
                check: check::<JsonLines>,
                parameters: &[],
                start: |_| None,
            },
        ],
        stages: vec![
            stage("vad", AUDIO, SEGMENT, &["model"], check::<Vad>),
            stage("asr", SEGMENT, TRANSCRIPT, &["model"], check::<Asr>),
            stage("search", TRANSCRIPT, RESPONSE, &[], check::<Search>),
            stage("echo", TRANSCRIPT, TRANSCRIPT, &[], check::<Search>),
        ],
        sinks: vec![
            sink("jsonl", SchemaSpec::Any),
            sink(
                "transcripts",
                SchemaSpec::OneOf(vec![SchemaId::new("transcript.v1"), SchemaId::new("search-response.v1")]),
            ),
        ],
    }
}

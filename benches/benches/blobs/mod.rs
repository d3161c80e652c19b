//! A pipeline that does nothing: blobs of 200 B, a stage that passes them on, and a sink that forgets them.

use bytes::{Bytes, BytesMut};
use driftline_pipeline::Plan;
use driftline_runtime::kinds;
use driftline_stage::{
    CodecError, Emitter, Key, Payload, Record, Registry, Scale, SchemaId, Signal, SignalVisitor, Sink, SinkDef,
    SinkKind, Source, SourceBatch, SourceDef, SourceKind, SourceStatus, Stage, StageDef, StageError, StageKind,
    Timestamp,
};
use driftline_types::Message;
use serde::Deserialize;

struct Blob(Bytes);

static LENGTH: Signal = Signal::number("blob.length", "By", "Length.", Scale::Log { lo: 1.0, hi: 1e6 });

impl Payload for Blob {
    const SCHEMA: SchemaId = SchemaId::new("blob.v1");
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        Ok(Self(bytes.clone()))
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LENGTH, Some(self.0.len() as f64));
    }
}

struct Blobs {
    value: Bytes,
    left: std::ops::Range<u64>,
}

#[derive(Debug, Deserialize)]
struct BlobsConfig {
    count: u64,
}

impl Source for Blobs {
    type Output = Blob;

    fn restore(&mut self, _entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Blob>) -> Result<SourceStatus, StageError> {
        for n in self.left.by_ref().take(256) {
            let key = Key::new(Bytes::copy_from_slice(&(n % 64).to_be_bytes()));
            out.emit(key, Timestamp::from_millis(n as i64), Blob(self.value.clone()));
        }
        Ok(if self.left.is_empty() { SourceStatus::End } else { SourceStatus::More })
    }
}

impl SourceKind for Blobs {
    const KIND: &'static str = "blobs";
    type Config = BlobsConfig;

    fn open(config: BlobsConfig, _follow: bool) -> Result<Self, StageError> {
        Ok(Self { value: Bytes::from(vec![7; 200]), left: 0..config.count })
    }
}

struct Pass;

#[derive(Debug, Deserialize)]
struct Nothing {}

impl Stage for Pass {
    type Input = Blob;
    type Output = Blob;

    fn process(&mut self, batch: &[Record<Blob>], out: &mut Emitter<'_, Blob>) -> Result<(), StageError> {
        for record in batch {
            out.emit(record, Blob(record.value.0.clone()));
        }
        Ok(())
    }
}

impl StageKind for Pass {
    const KIND: &'static str = "pass";
    type Config = Nothing;
    type Stage = Self;

    fn open(_config: Nothing) -> Result<Self, StageError> {
        Ok(Self)
    }

    fn fingerprint(&self) -> String {
        String::new()
    }

    fn instance(&self) -> Self {
        Self
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn resume(&mut self, _note: Option<&str>) -> Result<(), StageError> {
        Ok(())
    }

    fn write(&mut self, _records: &[Message]) -> Result<(), StageError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<String>, StageError> {
        Ok(None)
    }
}

impl SinkKind for Nowhere {
    const KIND: &'static str = "nowhere";
    type Config = Nothing;

    fn open(_config: Nothing) -> Result<Self, StageError> {
        Ok(Self)
    }
}

/// Its kinds.
pub static REGISTRY: Registry = Registry {
    sources: &[SourceDef::of::<Blobs>()],
    stages: &[StageDef::of::<Pass>()],
    sinks: &[SinkDef::of::<Nowhere>()],
};

/// Makes the plan; `more` is added to the file.
pub fn plan(records: u64, more: &str) -> Plan {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("blobs.toml");
    let text = format!(
        "[pipeline]\nname = \"blobs\"\npartitions = 4\n[sources.blobs]\nkind = \"blobs\"\ncount = {records}\n\
         [stages.pass]\nkind = \"pass\"\ninputs = [\"blobs\"]\n\
         [sinks.out]\nkind = \"nowhere\"\ninputs = [\"pass\"]\n{more}\n"
    );
    std::fs::write(&file, text).expect("written");
    Plan::load(&file, &[], &kinds(&REGISTRY)).unwrap_or_else(|problems| panic!("{problems}"))
}

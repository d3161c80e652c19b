//! JSON: the encoding of structured payloads, and the payload that is any JSON value.

use bytes::{BufMut, Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Serialize, de::DeserializeOwned};

/// Media type of the encoding.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// Appends a value as JSON.
///
/// # Errors
/// If the value has no JSON, such as a map whose keys are no text.
pub(crate) fn encode(value: &impl Serialize, out: &mut BytesMut) -> Result<(), CodecError> {
    serde_json::to_writer(out.writer(), value).map_err(|error| CodecError::new("value", error.to_string(), "JSON"))
}

/// Reads a value from JSON.
///
/// # Errors
/// If the bytes are no JSON, or JSON of another shape; the error names line and column.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(bytes).map_err(|error| {
        CodecError::new(
            format!("line {} column {}", error.line(), error.column()),
            match error.classify() {
                serde_json::error::Category::Data => "JSON of another shape",
                serde_json::error::Category::Eof => "JSON that ends too early",
                _ => "no JSON",
            },
            "a JSON object of this schema",
        )
    })
}

/// A JSON value as it was written: text that is known to be JSON, kept byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonValue(Bytes);

impl JsonValue {
    /// Takes the text of a JSON value.
    ///
    /// # Errors
    /// If it is no JSON.
    pub fn try_new(text: impl Into<Bytes>) -> Result<Self, CodecError> {
        let text = text.into();
        let serde::de::IgnoredAny = decode(&text)?;
        if std::str::from_utf8(&text).is_err() {
            return Err(CodecError::new("value", "bytes that are no UTF-8", "a JSON value"));
        }
        Ok(Self(text))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

static SIZE: Signal = Signal::number("json.size", "By", "length of the text", Scale::Log { lo: 1.0, hi: 1_048_576.0 });
static TYPE: Signal = Signal::category("json.type", "type of the value");

impl Payload for JsonValue {
    const SCHEMA: SchemaId = SchemaId::new("json.v1");
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        Self::try_new(bytes.clone())
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&SIZE, Some(self.0.len() as f64));
        // The first letter decides: the text is known to be JSON.
        visit.category(
            &TYPE,
            match self.0.trim_ascii_start().first() {
                Some(b'{') => Some("object"),
                Some(b'[') => Some("array"),
                Some(b'"') => Some("string"),
                Some(b't' | b'f') => Some("boolean"),
                Some(b'n') => Some("null"),
                Some(_) => Some("number"),
                None => None,
            },
        );
    }
}

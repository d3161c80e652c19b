//! Any JSON value.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalKind, SignalVisitor};

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
        match serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
            Ok(_) if std::str::from_utf8(&text).is_ok() => Ok(Self(text)),
            Ok(_) => Err(CodecError::new("value", "bytes that are no UTF-8", "a JSON value")),
            Err(error) => Err(crate::json_error(&error)),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

static SIZE: Signal = Signal {
    name: "json.size",
    unit: "By",
    help: "length of the text",
    kind: SignalKind::Number { scale: Scale::Log { lo: 1.0, hi: 1_048_576.0 } },
};
static TYPE: Signal = Signal { name: "json.type", unit: "", help: "type of the value", kind: SignalKind::Category };

impl Payload for JsonValue {
    const SCHEMA: SchemaId = SchemaId::new("json.v1");
    const CONTENT_TYPE: &'static str = "application/json";

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

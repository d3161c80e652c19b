//! Values on a topic.

use bytes::{Bytes, BytesMut};
use driftline_stats::SignalVisitor;
use driftline_types::SchemaId;

use crate::CodecError;

/// A value on a topic, with the signals that describe it.
pub trait Payload: Sized + Send + 'static {
    /// The schema, such as `speech-segment.v1`; edges of the graph are checked on it.
    const SCHEMA: SchemaId;
    /// The media type of the encoding; a range such as `image/*` if values differ in it.
    const CONTENT_TYPE: &'static str;

    /// Returns the media type of this value's encoding.
    fn content_type(&self) -> &'static str {
        Self::CONTENT_TYPE
    }

    /// Appends the encoding to `out`.
    ///
    /// # Errors
    /// If the value has no encoding, such as a length beyond what a header field holds.
    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError>;

    /// Decodes a value; it may keep slices of `bytes`.
    ///
    /// # Errors
    /// If the bytes are no such value. Any bytes at all give `Ok` or `Err`, never a panic, and
    /// allocate no more than a small multiple of their own length.
    fn decode(bytes: &Bytes) -> Result<Self, CodecError>;

    /// Shows every signal of the value, in the same order each time; missing is a value.
    fn signals(&self, visit: &mut dyn SignalVisitor);
}

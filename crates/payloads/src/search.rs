//! What was found.

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

use crate::json;

/// What was found for a transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchResponse {
    /// The session; also the record's key.
    pub session: String,
    /// The segment's number within the session, from 0.
    pub segment: u32,
    /// Where the segment begins in the session, milliseconds.
    pub start_ms: u64,
    /// Where the segment ends in the session, milliseconds.
    pub end_ms: u64,
    /// What was searched for.
    pub transcript: String,
    /// How sure the recogniser was, 0 to 1.
    pub confidence: f32,
    /// The best matches, best first; empty is a *null* result.
    pub results: Vec<Hit>,
}

/// A match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The product's id.
    pub id: String,
    /// The product's title.
    pub title: String,
    /// BM25 score; comparable within one index only.
    pub score: f32,
}

static RESULTS: Signal =
    Signal::number("search.results", "{result}", "number of results", Scale::Linear { lo: 0.0, hi: 32.0 });
static TOP_SCORE: Signal = Signal::number(
    "search.top_score",
    "1",
    "score of the best result, missing where there is none",
    Scale::Linear { lo: 0.0, hi: 32.0 },
);
static NULL: Signal = Signal::category("search.null", "whether nothing was found");
static QUERY_LENGTH: Signal =
    Signal::number("search.query_length", "{word}", "words of the query", Scale::Linear { lo: 0.0, hi: 32.0 });

impl Payload for SearchResponse {
    const SCHEMA: SchemaId = SchemaId::new("search-response.v1");
    const CONTENT_TYPE: &'static str = json::CONTENT_TYPE;

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        json::encode(self, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        json::decode(bytes)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&TOP_SCORE, self.results.first().map(|hit| f64::from(hit.score)));
        visit.number(&RESULTS, Some(self.results.len() as f64));
        visit.category(&NULL, Some(if self.results.is_empty() { "yes" } else { "no" }));
        visit.number(&QUERY_LENGTH, Some(self.transcript.split_whitespace().count() as f64));
    }
}

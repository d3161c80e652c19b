//! The speech recognition stage: speech segments in, transcripts out.

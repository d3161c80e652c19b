//! The payloads that ship: audio, speech segments, transcripts and search responses.

//! The voice-activity detection stage: audio in, speech segments out.

pub mod segmenter;

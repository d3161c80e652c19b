//! stub
pub mod ctc;
pub mod frontend;
pub mod language;
mod layers;
pub mod lexicon;
pub mod network;
pub mod training;
pub mod weights;

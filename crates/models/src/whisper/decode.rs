//! Decodes a batch of windows: greedily or by sampling, with fallback to higher temperatures.
//!
//! Sequences run in lockstep and leave the batch as they end. A window whose output repeats itself or is improbable is decoded
//! again at the next temperature (Radford et al. 2022, section 4.5), unless it is silence. Sampling is seeded by the
//! audio, so that an output depends neither on the batch nor on the run.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::error::ModelError;
use crate::whisper::Options;
use crate::whisper::decoder::{Cross, Decoder, Sequence};
use crate::whisper::layers::{log_sum_exp, softmax};
use crate::whisper::prompt::Specials;
use crate::whisper::rules::Rules;

/// A window ready to be decoded.
pub(super) struct Window {
    pub cross: Arc<Cross>,
    pub prompt: Vec<u32>,
    pub rules: Arc<Rules>,
    /// The most tokens to generate.
    pub limit: usize,
    pub seed: u64,
}

/// The tokens of a window and how sure the model was.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    /// Without the prompt and the end of text.
    pub tokens: Vec<u32>,
    /// Mean over the tokens and the end of text, at temperature 1 after suppression.
    pub average_log_prob: f32,
    /// 0 where the checkpoint has no such token.
    pub no_speech: f32,
    pub temperature: f32,
    /// Whether thresholds say that nobody speaks.
    pub silent: bool,
}

/// What decoding needs of a model.
pub(super) struct Parts<'a> {
    pub decoder: &'a Decoder,
    pub specials: &'a Specials,
    pub tokenizer: &'a Tokenizer,
    pub vocab_size: usize,
}

/// A sequence in the batch.
struct Running {
    index: usize,
    sequence: Sequence,
    tokens: Vec<u32>,
    sum: f32,
    no_speech: f32,
    random: StdRng,
    ended: bool,
}

impl Parts<'_> {
    /// Decodes every window at the first temperature whose output passes the thresholds, or else at the last.
    pub fn decode(&self, windows: &[Window], options: &Options) -> Result<Vec<Decoded>, ModelError> {
        let mut results: Vec<Option<Decoded>> = vec![None; windows.len()];
        let mut open: Vec<usize> = (0..windows.len()).collect();
        for &temperature in &options.temperatures {
            for (index, mut decoded) in open.iter().copied().zip(self.attempt(windows, &open, temperature)?) {
                let improbable = decoded.average_log_prob < options.log_prob_threshold;
                decoded.silent = improbable && decoded.no_speech > options.no_speech_threshold;
                results[index] = Some(decoded);
            }
            let mut failed = Vec::new();
            for index in open {
                if let Some(decoded) = &results[index]
                    && !self.passes(decoded, options)?
                {
                    failed.push(index);
                }
            }
            open = failed;
            if open.is_empty() {
                break;
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn passes(&self, decoded: &Decoded, options: &Options) -> Result<bool, ModelError> {
        let ratio = compression_ratio(&self.text(&decoded.tokens)?);
        let probable = decoded.average_log_prob >= options.log_prob_threshold;
        Ok(decoded.silent || (probable && ratio <= options.compression_ratio_threshold))
    }

    /// Returns the text of tokens, without timestamps and special tokens; ids the tokenizer does not know are no text.
    pub fn text(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let timestamps = self.specials.timestamps_begin.unwrap_or(u32::MAX);
        let text: Vec<u32> = tokens.iter().copied().filter(|&token| token < timestamps).collect();
        self.tokenizer.decode(&text, true).map_err(|e| ModelError::Input {
            place: "tokenizer".into(),
            found: e.to_string(),
            allowed: "a decoder that joins any tokens".into(),
        })
    }

    /// Returns the most probable language of each window.
    pub fn languages(&self, crosses: &[Arc<Cross>]) -> Result<Vec<Option<u32>>, ModelError> {
        let mut sequences: Vec<Sequence> = crosses.iter().map(|cross| Sequence::new(cross.clone())).collect();
        let start = [self.specials.start];
        let tokens = vec![&start[..]; sequences.len()];
        let states = self.decoder.feed(&mut sequences.iter_mut().collect::<Vec<_>>(), &tokens)?;
        let logits = self.decoder.logits(states)?;
        let best = |row: &[f32]| {
            let logit = |id: u32| row[id as usize];
            let mut ids: Vec<u32> = self.specials.language_ids().collect();
            ids.sort_unstable();
            // The first of equals, as argmax.
            ids.into_iter().reduce(|best, id| if logit(id) > logit(best) { id } else { best })
        };
        Ok(logits.chunks_exact(self.vocab_size).map(best).collect())
    }

    /// Decodes the windows in `chosen` at one temperature.
    fn attempt(&self, windows: &[Window], chosen: &[usize], temperature: f32) -> Result<Vec<Decoded>, ModelError> {
        let start = |&index: &usize| Running {
            index,
            sequence: Sequence::new(windows[index].cross.clone()),
            tokens: Vec::new(),
            sum: 0.0,
            no_speech: 0.0,
            random: StdRng::seed_from_u64(windows[index].seed ^ u64::from(temperature.to_bits())),
            ended: windows[index].limit == 0,
        };
        let mut running: Vec<Running> = chosen.iter().map(start).collect();
        let mut logits = self.begin(windows, &mut running)?;
        let mut done = Vec::with_capacity(chosen.len());
        loop {
            running.par_iter_mut().zip(logits.par_chunks_exact_mut(self.vocab_size)).for_each(|(row, logits)| {
                if !row.ended {
                    row.advance(logits, &windows[row.index], temperature, &self.specials.ends);
                }
            });
            done.extend(running.extract_if(.., |row| row.ended));
            if running.is_empty() {
                break;
            }
            let states = {
                let (mut sequences, tokens): (Vec<&mut Sequence>, Vec<&[u32]>) =
                    running.iter_mut().map(|row| (&mut row.sequence, &row.tokens[row.tokens.len() - 1..])).unzip();
                self.decoder.feed(&mut sequences, &tokens)?
            };
            logits = self.decoder.logits(states)?;
        }
        done.sort_by_key(|row| row.index);
        Ok(done.into_iter().map(|row| row.finish(temperature, &self.specials.ends)).collect())
    }

    /// Feeds the prompts, notes the probability of no speech and returns the logits of the first token.
    fn begin(&self, windows: &[Window], running: &mut [Running]) -> Result<Vec<f32>, ModelError> {
        let prompts: Vec<&[u32]> = running.iter().map(|row| &windows[row.index].prompt[..]).collect();
        let states =
            self.decoder.feed(&mut running.iter_mut().map(|row| &mut row.sequence).collect::<Vec<_>>(), &prompts)?;
        let width = states.len() / prompts.iter().map(|p| p.len()).sum::<usize>();
        // The state after the start token says whether there is speech, the state after the prompt what comes first.
        let (mut first, mut last, mut at) = (Vec::new(), Vec::new(), 0);
        for prompt in &prompts {
            first.extend_from_slice(&states[at * width..][..width]);
            at += prompt.len();
            last.extend_from_slice(&states[(at - 1) * width..][..width]);
        }
        if let Some(no_speech) = self.specials.no_speech {
            let mut logits = self.decoder.logits(first)?;
            for (row, logits) in running.iter_mut().zip(logits.chunks_exact_mut(self.vocab_size)) {
                softmax(logits);
                row.no_speech = logits[no_speech as usize];
            }
        }
        self.decoder.logits(last)
    }
}

impl Running {
    fn advance(&mut self, logits: &mut [f32], window: &Window, temperature: f32, ends: &[u32]) {
        window.rules.apply(logits, &self.tokens);
        let best = argmax(logits);
        if logits[best] == f32::NEG_INFINITY || logits[best].is_nan() {
            // Everything is forbidden: there is nothing to say.
            self.ended = true;
            return;
        }
        let chosen = if temperature > 0.0 { sample(logits, logits[best], temperature, &mut self.random) } else { best };
        self.sum += logits[chosen] - log_sum_exp(logits);
        self.tokens.push(chosen as u32);
        self.ended = ends.contains(&(chosen as u32)) || self.tokens.len() >= window.limit;
    }

    fn finish(mut self, temperature: f32, ends: &[u32]) -> Decoded {
        let average_log_prob = self.sum / self.tokens.len().max(1) as f32;
        self.tokens.pop_if(|token| ends.contains(token));
        Decoded { tokens: self.tokens, average_log_prob, no_speech: self.no_speech, temperature, silent: false }
    }
}

/// Returns the index of the largest value, the first of equals.
fn argmax(x: &[f32]) -> usize {
    x.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}

/// Draws an index with probability proportional to `exp(logit / temperature)`.
fn sample(logits: &[f32], most: f32, temperature: f32, random: &mut StdRng) -> usize {
    let weight = |logit: f32| f64::from((logit - most) / temperature).exp();
    let mut left = random.random::<f64>() * logits.iter().map(|&l| weight(l)).sum::<f64>();
    let mut last = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > f32::NEG_INFINITY {
            last = index;
            left -= weight(logit);
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// Returns how much smaller zlib makes a text; 0 for an empty one. Above 2.4 a text repeats itself.
fn compression_ratio(text: &str) -> f32 {
    if text.is_empty() {
        return 0.0;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let compressed =
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).map_or(text.len(), |bytes| bytes.len());
    text.len() as f32 / compressed as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_compresses() {
        assert!(compression_ratio(&"again and ".repeat(30)) > 2.4);
        assert!(compression_ratio("The quick brown fox jumps over the lazy dog.") < 1.0);
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn samples_follow_their_probabilities() {
        let mut random = StdRng::seed_from_u64(7);
        let logits = [1f32.ln(), f32::NEG_INFINITY, 3f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[sample(&logits, 3f32.ln(), 1.0, &mut random)] += 1;
        }
        assert_eq!((counts[1], counts[3]), (0, 0));
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_first_of_equals_is_chosen() {
        assert_eq!(argmax(&[f32::NEG_INFINITY, 2.0, 2.0]), 1);
    }
}

//! The tokens a sequence starts with: start, language, task, no-timestamps, as `generate` chooses them.
//!
//! A language comes from the caller, else from the generation settings, else from `forced_decoder_ids`; where that names
//! none and the checkpoint knows languages, it is detected. `forced_decoder_ids` count only where neither a language nor a
//! task is set. What a checkpoint without the newer keys lacks is looked up in its tokenizer, but only when asked for.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

use crate::error::ModelError;
use crate::whisper::config::Generation;
use crate::whisper::languages::{code, code_of};

/// The ids of Whisper's special tokens in one checkpoint.
#[derive(Debug)]
pub(super) struct Specials {
    pub start: u32,
    pub ends: Vec<u32>,
    /// From the generation settings only: the prompt ends with it only where they name it.
    no_timestamps: Option<u32>,
    /// The id of `<|0.00|>`, where the checkpoint has timestamps.
    pub timestamps_begin: Option<u32>,
    /// Whether the settings name the timestamps; if not, they mean nothing in an output that did not ask for them.
    pub timestamps_named: bool,
    pub no_speech: Option<u32>,
    languages: BTreeMap<String, u32>,
    languages_named: bool,
    tasks: BTreeMap<String, u32>,
    multilingual: Option<bool>,
    forced: Option<Vec<Option<u32>>>,
    language: Option<String>,
    task: Option<String>,
}

/// A prompt whose language may still have to be detected.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    tokens: Vec<Option<u32>>,
    pub detect: bool,
    /// Whether the language was asked for by name, so that a task belongs in the prompt.
    named: bool,
}

impl Specials {
    pub fn new(generation: &Generation, tokenizer: &Tokenizer, vocab_size: usize) -> Self {
        let id = |token: &str| tokenizer.token_to_id(token).filter(|&id| (id as usize) < vocab_size);
        let no_timestamps = generation.no_timestamps_token_id;
        let any_no_timestamps = no_timestamps.or_else(|| id("<|notimestamps|>"));
        let languages = generation.lang_to_id.clone().unwrap_or_else(|| {
            let is_code = |t: &str| {
                t.strip_prefix("<|").and_then(|t| t.strip_suffix("|>")).is_some_and(|c| matches!(c.len(), 2 | 3))
            };
            tokenizer.get_vocab(true).into_iter().filter(|(t, id)| is_code(t) && (*id as usize) < vocab_size).collect()
        });
        let tasks = generation.task_to_id.clone().unwrap_or_else(|| {
            ["transcribe", "translate"]
                .into_iter()
                .filter_map(|task| Some((task.to_owned(), id(&format!("<|{task}|>"))?)))
                .collect()
        });
        Self {
            start: generation.decoder_start_token_id,
            ends: generation.ends().to_vec(),
            no_timestamps,
            timestamps_begin: any_no_timestamps.map(|id| id + 1),
            timestamps_named: no_timestamps.is_some(),
            no_speech: no_timestamps
                .map(|id| id.saturating_sub(1))
                .or_else(|| id("<|nospeech|>"))
                .or_else(|| id("<|nocaptions|>")),
            languages,
            languages_named: generation.lang_to_id.is_some(),
            tasks,
            multilingual: generation.is_multilingual,
            forced: generation.forced_decoder_ids.as_ref().map(|ids| ids.iter().map(|(_, id)| *id).collect()),
            language: generation.language.clone(),
            task: generation.task.clone(),
        }
    }

    /// Returns the ids among which a language is detected.
    pub fn language_ids(&self) -> impl Iterator<Item = u32> {
        self.languages.values().copied()
    }

    /// Returns the code, such as `en`, of the language a prompt names.
    pub fn language_of(&self, prompt: &[u32]) -> Option<String> {
        let id = prompt.get(1)?;
        let (token, _) = self.languages.iter().find(|(_, language)| *language == id)?;
        Some(code(token).to_owned())
    }

    /// Decides the prompt for a language asked for, or none.
    pub fn plan(&self, language: Option<&str>) -> Result<Plan, ModelError> {
        let mut tokens = vec![Some(self.start)];
        if self.multilingual == Some(false) {
            if let Some(other) = language.filter(|language| code_of(language) != "en") {
                return Err(self.unknown_language(other, "en: the checkpoint is English-only".into()));
            }
            tokens.extend(self.forced.iter().flatten().copied());
            return Ok(Plan { tokens, detect: false, named: false });
        }
        let language = language.or(self.language.as_deref());
        if language.is_none() && self.task.is_none() {
            tokens.extend(self.forced.iter().flatten().copied());
        }
        if let Some(language) = language {
            let token = format!("<|{}|>", code_of(language));
            let Some(&id) = self.languages.get(&token) else {
                let known: Vec<&str> = self.languages.keys().map(|t| code(t)).collect();
                return Err(self.unknown_language(language, known.join(", ")));
            };
            replace_language(&mut tokens, id);
        }
        let detect = language.is_none()
            && self.languages_named
            && !self.languages.is_empty()
            && tokens.get(1).is_none_or(Option::is_none);
        Ok(Plan { tokens, detect, named: language.is_some() })
    }

    /// Completes a plan with the detected language and ends it as the kind of output demands.
    pub fn complete(&self, plan: &Plan, detected: Option<u32>, timestamps: bool) -> Vec<u32> {
        let mut tokens = plan.tokens.clone();
        if let Some(id) = detected {
            replace_language(&mut tokens, id);
        }
        let has_task = self.tasks.values().any(|&id| tokens.contains(&Some(id)));
        match self.task.as_ref() {
            Some(task) => tokens.extend(self.tasks.get(task).map(|&id| Some(id))),
            None if plan.named && !has_task => tokens.extend(self.tasks.get("transcribe").map(|&id| Some(id))),
            None => {}
        }
        if self.no_timestamps.is_some() {
            let ends_so = tokens.last() == Some(&self.no_timestamps);
            if timestamps && ends_so {
                tokens.pop();
            } else if !timestamps && !ends_so {
                tokens.push(self.no_timestamps);
            }
        }
        tokens.into_iter().flatten().collect()
    }

    fn unknown_language(&self, found: &str, allowed: String) -> ModelError {
        ModelError::Input { place: "option language".into(), found: found.into(), allowed }
    }
}

fn replace_language(tokens: &mut Vec<Option<u32>>, id: u32) {
    match tokens.get_mut(1) {
        Some(language) => *language = Some(id),
        None => tokens.push(Some(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(forced: Option<Vec<Option<u32>>>, multilingual: bool) -> Specials {
        Specials {
            start: 10,
            ends: vec![9],
            no_timestamps: Some(20),
            timestamps_begin: Some(21),
            timestamps_named: true,
            no_speech: Some(19),
            languages: [("<|de|>".into(), 12), ("<|en|>".into(), 11)].into(),
            languages_named: multilingual,
            tasks: [("transcribe".into(), 15), ("translate".into(), 14)].into(),
            multilingual: Some(multilingual),
            forced,
            language: None,
            task: None,
        }
    }

    #[test]
    fn a_language_asked_for_brings_the_task() {
        let s = specials(Some(vec![None, Some(14)]), true);
        let plan = s.plan(Some("German")).unwrap();
        assert!(!plan.detect);
        assert_eq!(s.complete(&plan, None, false), [10, 12, 15, 20]);
        assert_eq!(s.complete(&plan, None, true), [10, 12, 15]);
        assert_eq!(s.language_of(&[10, 12]).as_deref(), Some("de"));
    }

    #[test]
    fn forced_ids_count_where_nothing_was_asked_for() {
        let s = specials(Some(vec![None, Some(14), Some(20)]), true);
        let plan = s.plan(None).unwrap();
        assert!(plan.detect);
        assert_eq!(s.complete(&plan, Some(11), true), [10, 11, 14]);
        assert_eq!(s.complete(&plan, Some(11), false), [10, 11, 14, 20]);
        let s = specials(Some(vec![Some(12)]), true);
        assert!(!s.plan(None).unwrap().detect);
    }

    #[test]
    fn english_only_takes_no_language() {
        let s = specials(None, false);
        let plan = s.plan(Some("English")).unwrap();
        assert_eq!(s.complete(&plan, None, false), [10, 20]);
        assert!(s.plan(Some("de")).unwrap_err().to_string().contains("English-only"));
    }

    #[test]
    fn a_checkpoint_may_name_its_language_in_full() {
        let s = Specials { language: Some("german".into()), ..specials(None, true) };
        assert_eq!(s.complete(&s.plan(None).unwrap(), None, false), [10, 12, 15, 20]);
    }

    #[test]
    fn an_unknown_language_lists_the_known_ones() {
        let error = specials(None, true).plan(Some("xx")).unwrap_err().to_string();
        assert_eq!(error, "option language: found xx, allowed: de, en");
    }
}

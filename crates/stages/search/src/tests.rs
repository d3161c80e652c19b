//! The stage as the runtime drives it, and laws over all products.

use std::{collections::HashSet, io::Write as _, sync::Arc, time::Duration};

use bytes::BytesMut;
use driftline_payloads::{SearchResponse, Transcript};
use driftline_stage::{Payload, StageDef, operator::Site};
use driftline_types::{Headers, Message, PipelineName, StageName, StageVersion, Timestamp, Topic};
use proptest::prelude::*;

use super::*;

const DEF: StageDef = StageDef::of::<SearchKind>();

fn transcript(text: &str) -> Transcript {
    Transcript {
        session: "call-7".into(),
        segment: 3,
        start_ms: 1_200,
        end_ms: 2_400,
        transcript: text.into(),
        confidence: 0.75,
        tokens: 9,
        language: None,
    }
}

/// Runs the stage over texts, a message each.
fn respond(config: &str, texts: &[&str]) -> Vec<SearchResponse> {
    let site = Site::new(
        PipelineName::try_new("speech").unwrap(),
        StageName::try_new("search").unwrap(),
        StageVersion::try_new("v1").unwrap(),
        10_000,
    );
    let open = DEF.open(&config.parse().unwrap()).unwrap();
    let message = |(offset, text): (usize, &&str)| {
        let mut value = BytesMut::new();
        transcript(text).encode(&mut value).unwrap();
        Message {
            topic: Topic::try_new("speech.asr").unwrap(),
            partition: 0,
            offset: offset as u64,
            key: Some("call-7".into()),
            value: Some(value.freeze()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(0),
        }
    };
    let batch: Vec<_> = texts.iter().enumerate().map(message).collect();
    let effects = open.instance(Arc::new(site)).process(&batch, Duration::ZERO).unwrap();
    assert_eq!((effects.counts.read, effects.counts.dropped), (texts.len() as u64, 0));
    effects.outputs.iter().map(|output| SearchResponse::decode(output.value.as_ref().unwrap()).unwrap()).collect()
}

#[test]
fn a_transcript_is_answered() {
    let responses = respond("top_k = 3", &["show me red jackets"]);
    let [response] = &responses[..] else { panic!("{responses:?}") };
    assert_eq!((response.session.as_str(), response.segment), ("call-7", 3));
    assert_eq!((response.start_ms, response.end_ms, response.confidence), (1_200, 2_400, 0.75));
    assert_eq!(response.transcript, "show me red jackets");
    assert_eq!(response.results.len(), 3);
    assert_eq!(response.results[0].title, "red jacket");
}

#[test]
fn an_empty_transcript_and_one_that_nothing_fits_are_null_results() {
    let responses = respond("", &["", "qqqq zzzz", "red jacket"]);
    let found: Vec<_> = responses.iter().map(|response| response.results.len()).collect();
    assert_eq!(found, [0, 0, 5]);
}

#[test]
fn a_config_with_problems_names_all_of_them() {
    let told = |config: &str| {
        let problems = (DEF.check)(&config.parse().unwrap());
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let min_score = "min_score: found -1, allowed is a number from 0";
    for top_k in ["0", "101"] {
        let expected = format!("top_k: found {top_k}, allowed is a whole number from 1 to 100");
        assert_eq!(told(&format!("top_k = {top_k}\nmin_score = -1.0")), [expected.as_str(), min_score]);
    }
    let expected = "catalogue: found \"/no/such\", allowed is \"builtin\" or a JSON Lines file";
    assert_eq!(told("catalogue = \"/no/such\""), [expected]);
    assert_eq!((DEF.check)(&"top_n = 5".parse().unwrap()).len(), 1);
    assert_eq!((DEF.check)(&"".parse().unwrap()), []);
}

#[test]
fn the_catalogue_decides_the_version() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{{\"id\": \"1\", \"title\": \"lamp\"}}").unwrap();
    let config = |path: &str| format!("catalogue = {path:?}").parse().unwrap();
    let open = |path| DEF.open(&config(path)).unwrap().version().clone();
    let path = file.path().to_str().unwrap().to_owned();
    let before = open(&path);
    assert_eq!(open(&path), before);
    writeln!(file, "{{\"id\": \"2\", \"title\": \"desk\"}}").unwrap();
    assert_ne!(open(&path), before);
}

#[test]
fn a_bad_catalogue_is_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{{\"id\": \"1\"}}").unwrap();
    let error = SearchKind::open(SearchConfig { catalogue: file.path().display().to_string(), ..Default::default() });
    let error = error.err().unwrap();
    assert_eq!(error.to_string(), "the catalogue cannot be used");
    let path = file.path().display();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("{path}: line 1: found no title, allowed a text of 1 to 10000 bytes as title"));
}

fn builtin() -> &'static SearchKind {
    static KIND: std::sync::LazyLock<SearchKind> =
        std::sync::LazyLock::new(|| SearchKind::open(SearchConfig::default()).unwrap());
    &KIND
}

proptest! {
    /// Any text at all gives a result: at most `top_k`, best first, each score above 0.
    #[test]
    fn any_text_is_answered(text in any::<String>(), top_k in 1usize..=100) {
        let SearchKind { index, rules, .. } = builtin();
        let found = index.search(&text, Rules { top_k, ..*rules }).unwrap();
        prop_assert!(found.len() <= top_k);
        prop_assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        prop_assert!(found.iter().all(|found| found.score > 0.0));
    }
}

/// One mistake in a word of five letters and more leaves the product within reach: it scores as high
/// as the fifth result. A mistake that makes another word of the catalogue is none: "black maker" is
/// a coffee maker, not a marker.
#[test]
fn a_typo_hides_no_product() {
    let SearchKind { index, rules, .. } = builtin();
    let catalogue = Catalogue::load(BUILTIN_NAME).unwrap();
    let (mut tried, mut hidden) = (0u32, Vec::new());
    let known: HashSet<&str> = catalogue.products().iter().flat_map(|product| product.title.split(' ')).collect();
    for product in catalogue.products() {
        let words: Vec<&str> = product.title.split(' ').collect();
        for (place, word) in words.iter().enumerate().filter(|(_, word)| word.len() >= 5) {
            for at in 0..word.len() - 1 {
                let (before, after) = word.split_at(at);
                let mistakes = [
                    format!("{before}{}", &after[1..]),
                    format!("{before}x{}", &after[1..]),
                    format!("{before}{}{}{}", &after[1..2], &after[..1], &after[2..]),
                ];
                for mistake in mistakes.iter().filter(|mistake| !known.contains(mistake.as_str())) {
                    let mut said = words.clone();
                    said[place] = mistake;
                    let found = index.search(&said.join(" "), Rules { top_k: 100, ..*rules }).unwrap();
                    let own = found.iter().find(|found| found.product == product).map(|found| found.score);
                    let fifth = found.get(4).or(found.last()).map(|found| found.score);
                    tried += 1;
                    if own.is_none() || own < fifth {
                        hidden.push(said.join(" "));
                    }
                }
            }
        }
    }
    assert!(hidden.is_empty(), "{} of {tried}: {hidden:?}", hidden.len());
}

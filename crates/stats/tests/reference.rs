//! References as files: what is read back is what was written, and ids tell references apart.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use driftline_stats::{
    Dictionary, Edges, EmbeddingBins, FIRST_CELL, FIRST_VALUE, Reference, ReferenceId, Signal, SignalBins,
    SignalProfile,
};

static WORD: Signal = Signal::category("word", "Word.");
static MEANING: Signal = Signal::embedding("meaning", "Meaning.", 2);

fn reference(words: &[&str]) -> Reference {
    let vectors: Vec<[f32; 2]> = (0..100u8).map(|i| [f32::from(i / 50), f32::from(i % 50) / 500.0]).collect();
    let signals = BTreeMap::from([
        ("level".to_owned(), SignalBins::Number(Edges::linear(-90.0, 0.0, 16).unwrap().into())),
        ("length".to_owned(), SignalBins::Number(Edges::quantiles(&[0.1, 0.25, 0.3, 1.0], 3).unwrap().into())),
        ("word".to_owned(), SignalBins::Category(Dictionary::try_new(words).unwrap().into())),
        ("meaning".to_owned(), SignalBins::Embedding(EmbeddingBins::fit(&vectors, 2, 1).unwrap().into())),
    ]);
    Reference::try_new(signals).unwrap()
}

#[test]
fn json_round_trips() {
    let reference = reference(&["a", "b"]);
    let json = serde_json::to_string(&reference).unwrap();
    let read: Reference = serde_json::from_str(&json).unwrap();
    assert_eq!(read, reference);
    assert_eq!(read.id(), reference.id());
    assert!(json.contains(r#""level":{"number":{"linear":{"lo":-90.0,"hi":0.0,"bins":16}}}"#), "{json}");
}

#[test]
fn ids_tell_references_apart() {
    assert_eq!(reference(&["a", "b"]).id().to_string().len(), 16);
    assert_ne!(reference(&["a", "b"]).id(), reference(&["b", "a"]).id());
    assert_eq!(Reference::try_new(BTreeMap::new()).unwrap().id(), ReferenceId::DECLARED);
    assert_eq!(ReferenceId::DECLARED.to_string(), "declared");
}

#[test]
fn a_wrong_file_is_refused_with_the_reason() {
    let error = |json: &str| serde_json::from_str::<Reference>(json).unwrap_err().to_string();
    let found = error(r#"{"signals":{"level":{"number":{"bounds":[1.0,0.5]}}}}"#);
    assert!(found.contains("bound 1 of edges is 0.5, allowed are numbers above the bound before it, 1"), "{found}");
    let found = error(r#"{"signals":{"m":{"embedding":{"dims":2,"projections":[]}}}}"#);
    assert!(found.contains("edges for 0 projections, allowed are 16"), "{found}");
    let level = r#""level":{"number":{"linear":{"lo":0.0,"hi":1.0,"bins":2}}}"#;
    let found = error(&format!(r#"{{"signals":{{{level},{level}}}}}"#));
    assert!(found.contains("reference names the signal \"level\" twice, allowed is once"), "{found}");
    assert!(error(r#"{"signals":{},"extra":1}"#).contains("unknown field `extra`"));
}

#[test]
fn a_codebook_gives_the_code_and_the_first_signal_otherwise() {
    let reference = reference(&["a", "b"]);
    let code = |meaning: [f32; 2]| {
        let code = reference.code(|visit| {
            visit.category(&WORD, Some("b"));
            visit.embedding(&MEANING, Some(&meaning));
        });
        usize::from(code)
    };
    let mut cells = [code([0.0, 0.0]), code([1.0, 0.0])];
    cells.sort_unstable();
    assert_eq!(cells, [FIRST_CELL, FIRST_CELL + 1]);
    assert_eq!(usize::from(reference.code(|visit| visit.category(&WORD, Some("b")))), FIRST_VALUE + 1);
    assert_eq!(reference.code(|_| {}), driftline_stats::UNKNOWN);
}

#[test]
fn a_visit_of_another_kind_counts_as_missing() {
    let mut set = driftline_stats::ProfileSet::new(Reference::declared().into());
    set.observe(|visit| visit.category(&WORD, Some("a")));
    set.observe(|visit| visit.number(&WORD, Some(1.0)));
    let Some(SignalProfile::Category(profile)) = set.signal("word") else { panic!("a category") };
    assert_eq!((profile.total(), profile.missing()), (2, 1));
}

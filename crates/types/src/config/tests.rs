//! What [`read`] finds, on a struct with every kind of field.

use std::{collections::BTreeMap, path::PathBuf};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::StageName;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Config {
    path: PathBuf,
    threshold: f32,
    #[serde(default)]
    pace: Pace,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    names: Vec<StageName>,
    #[serde(default)]
    weights: BTreeMap<StageName, u8>,
    wait: Option<Millis>,
    size: Option<ByteSize>,
    decoder: Option<Decoder>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Pace {
    #[default]
    Fast,
    Realtime,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    low: u32,
    high: u32,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Decoder {
    Greedy,
    Beam { width: u32 },
}

fn problems(text: &str) -> Vec<String> {
    let table = text.parse().unwrap();
    read::<Config>(&table).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_right_table_is_read() {
    let table = r#"
        path = "x"
        threshold = 1
        pace = "realtime"
        limits.high = 3
        names = ["a", "b"]
        weights = { vad = 3 }
        wait = "10s"
        size = "1 KiB"
        decoder.beam.width = 8
    "#;
    let config: Config = read(&table.parse().unwrap()).unwrap();
    let expected = Config {
        path: "x".into(),
        threshold: 1.0,
        pace: Pace::Realtime,
        limits: Limits { low: 0, high: 3 },
        names: ["a", "b"].map(|name| StageName::try_new(name).unwrap()).into(),
        weights: [(StageName::try_new("vad").unwrap(), 3)].into(),
        wait: Some(Millis(10_000)),
        size: Some(ByteSize(1024)),
        decoder: Some(Decoder::Beam { width: 8 }),
    };
    assert_eq!(config, expected);
}

#[test]
fn every_problem_is_reported_at_once() {
    let found = problems(
        r#"
        treshold = 0.5
        pace = "fats"
        limits = { low = -1, high = "x", mid = 2 }
        names = ["ok", "Not ok", "fine", 3]
        weights = { vad = 256, "A B" = 1 }
        wait = 10
        size = "huge"
        decoder.beam.width = "wide"
        "#,
    );
    assert_eq!(
        found,
        [
            "treshold: unknown key, allowed are path, threshold, pace, limits, names, weights, wait, size, decoder (did you mean \"threshold\"?)",
            "pace: found \"fats\", allowed are \"fast\", \"realtime\" (did you mean \"fast\"?)",
            "limits.low: found -1, allowed is a whole number that is not negative",
            "limits.high: found \"x\", allowed is a whole number",
            "limits.mid: unknown key, allowed are low, high",
            "names.1: invalid stage name \"Not ok\": allowed are 1 to 100 characters of a-z, 0-9, '-' and '_'",
            "names.3: found 3, allowed is a string, in quotes: \"3\" (after --set: '\"3\"')",
            "weights.vad: found 256, allowed is a smaller whole number",
            "weights.\"A B\": invalid stage name \"A B\": allowed are 1 to 100 characters of a-z, 0-9, '-' and '_'",
            "wait: found 10, allowed is a duration such as \"250ms\", \"10s\", \"1h\" or \"7d\"",
            "size: found \"huge\", allowed is a number of bytes, or a size such as \"512 KiB\", \"64 MiB\" or \"1 GB\"",
            "decoder.beam.width: found \"wide\", allowed is a whole number",
            "path: is missing",
            "threshold: is missing",
        ]
    );
}

#[test]
fn a_wrong_shape_is_one_problem() {
    assert_eq!(
        problems("path = [1]\nthreshold = 1\nlimits = 3\ndecoder = 1"),
        [
            "path: found an array, allowed is a path as a string",
            "limits: found 3, allowed is a table",
            "decoder: found 1, allowed are \"greedy\", \"beam\"",
        ]
    );
}

#[test]
fn a_value_is_read_like_a_table() {
    assert_eq!(read_value::<u32>(&Value::Integer(3)), Ok(3));
    let problems = read_value::<u32>(&Value::Integer(-3)).unwrap_err();
    assert_eq!(problems[0].to_string(), "found -3, allowed is a whole number that is not negative");
    assert!(problems[0].path.is_empty());
}

/// serde buffers such fields and forgets where they stood; the first problem is told all the same.
#[test]
fn flattened_and_untagged_fields_are_read() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        #[serde(flatten)]
        limits: Limits,
        model: Model,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(untagged)]
    enum Model {
        Size(u8),
        Folder(PathBuf),
    }
    let read = |text: &str| read::<Outer>(&text.parse().unwrap());
    let limits = Limits { low: 1, high: 2 };
    assert_eq!(read("low = 1\nhigh = 2\nmodel = 3"), Ok(Outer { limits, model: Model::Size(3) }));
    let problems = read("low = -1\nmodel = []").unwrap_err();
    assert_eq!(problems[0].path, ["model"]);
    let problems = read("low = -1\nmodel = \"x\"").unwrap_err();
    assert_eq!(problems[0].to_string(), "found -1, allowed is a whole number that is not negative");
}

/// A type that no stand-in fits ends the search, with the first problem reported.
#[test]
fn what_cannot_be_stood_in_for_ends_the_search() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Endless {
        #[serde(rename = "next")]
        _next: Box<Endless>,
    }
    let problems = read::<Endless>(&toml::Table::new()).unwrap_err();
    assert_eq!(problems, [ConfigProblem::missing(vec!["next".to_owned()])]);
}

#[test]
fn suggestions_are_near() {
    let allowed = ["threshold", "path", "min_speech"];
    assert_eq!(did_you_mean("treshold", allowed), Some("threshold"));
    assert_eq!(did_you_mean("Path", allowed), Some("path"));
    assert_eq!(did_you_mean("min-speech", allowed), Some("min_speech"));
    assert_eq!(did_you_mean("batch", allowed), None);
    assert_eq!(did_you_mean("x", allowed), None);
}

/// Independent mistakes that can be made in a table, each with the path of the problem it causes.
const MISTAKES: [(&str, &str); 12] = [
    ("path = 3", "path"),
    ("threshold = \"high\"", "threshold"),
    ("pace = \"slow\"", "pace"),
    ("limits.low = -5", "limits.low"),
    ("limits.high = 0.5", "limits.high"),
    ("limits.other = 1", "limits.other"),
    ("names = [\"a\", 1]", "names.1"),
    ("weights.vad = 1000", "weights.vad"),
    ("wait = \"soon\"", "wait"),
    ("size = true", "size"),
    ("decoder = \"magic\"", "decoder"),
    ("unknown = { a = 1 }", "unknown"),
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        "[a-z]{0,6}".prop_map(Value::String),
    ];
    let key =
        prop_oneof![Just("path"), Just("limits"), Just("low"), Just("names"), Just("decoder"), Just("beam"), Just("x")];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|entries| Value::Table(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    /// k independent mistakes are k problems, each at its place.
    #[test]
    fn each_mistake_is_found(mistakes in prop::sample::subsequence(&MISTAKES[..], 0..=MISTAKES.len())) {
        let mut text: String = mistakes.iter().map(|(line, _)| format!("{line}\n")).collect();
        for (required, line) in [("path", "path = \"x\"\n"), ("threshold", "threshold = 0\n")] {
            if !mistakes.iter().any(|(_, path)| *path == required) {
                text.push_str(line);
            }
        }
        let mut found: Vec<_> = match read::<Config>(&text.parse().unwrap()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|problem| problem.path.join(".")).collect(),
        };
        found.sort();
        let mut made: Vec<_> = mistakes.iter().map(|(_, path)| (*path).to_owned()).collect();
        made.sort();
        prop_assert_eq!(found, made);
    }

    /// Whatever is written, reading comes to an end, and no place is reported twice.
    #[test]
    fn reading_ends(value in any_value()) {
        if let Err(problems) = read_value::<Config>(&value) {
            prop_assert!(!problems.is_empty());
            let mut paths: Vec<_> = problems.iter().map(|problem| &problem.path).collect();
            paths.sort();
            paths.dedup();
            prop_assert_eq!(paths.len(), problems.len());
        }
    }
}

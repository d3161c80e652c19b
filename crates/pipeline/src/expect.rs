//! `[[tests]]`: what a pipeline is expected to print, and how its lines are compared with it.
//!
//! An expectation is part of a line: of an object the keys it names, of an array its first elements
//! (an empty array is an empty array). Numbers are equal by value, and a table with only `min`
//! and/or `max` is a number within these bounds, both included. Each expectation matches a line of
//! its own, whatever their order; the assignment is a maximum matching, so that a loose expectation
//! does not take the line that a strict one needs.

use std::fmt;

use serde_json::{Map, Value};

use crate::Override;

/// One of the `[[tests]]` of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    /// The name.
    pub name: String,
    /// What the test sets; to be given to [`crate::Plan::load`] after those of the command line.
    pub overrides: Vec<Override>,
    /// Parts of lines, each of a line of its own.
    pub expect: Vec<Map<String, Value>>,
    /// Whether lines that match no expectation are a failure.
    pub others: Others,
}

/// What becomes of lines that match no expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They fail the test.
    Fail,
    /// They are allowed (`more = true`).
    Allow,
}

/// How the lines of a pipeline differ from what a test expects.
#[derive(Clone, Debug, PartialEq)]
pub struct TestFailure {
    /// The expectations that match no line.
    pub missing: Vec<Missing>,
    /// The lines that match no expectation, with their numbers from 1; empty where they are allowed.
    pub unexpected: Vec<(usize, Value)>,
}

/// An expectation that matches no line.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// Its number in the test, from 1.
    pub expectation: usize,
    /// What was expected.
    pub expected: Map<String, Value>,
    /// The number, from 1, of the line that differs in the fewest places among those that match no
    /// other expectation, and where it differs; `None` if there is no such line.
    pub closest: Option<(usize, Vec<Difference>)>,
}

/// A place where a line is not as expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The place, such as `results[0].title`.
    pub path: String,
    /// What is expected.
    pub expected: Value,
    /// What the line has; `None` if it has nothing there.
    pub found: Option<Value>,
}

impl TestCase {
    /// Compares the lines that a pipeline printed with those expected.
    ///
    /// # Errors
    /// Every expectation without a line, and every line without an expectation unless these are
    /// allowed.
    pub fn compare(&self, lines: &[Value]) -> Result<(), TestFailure> {
        let differences: Vec<Vec<_>> =
            self.expect.iter().map(|expected| lines.iter().map(|line| differ(expected, line)).collect()).collect();
        let line_of = assign(lines.len(), &differences);
        let left: Vec<_> = (0..lines.len()).filter(|line| !line_of.contains(&Some(*line))).collect();
        let closest = |expectation: usize| {
            let of_line = &differences[expectation];
            let line = *left.iter().min_by_key(|&&line| of_line[line].len())?;
            Some((line + 1, of_line[line].clone()))
        };
        let missing: Vec<_> = (0..self.expect.len())
            .filter(|&i| line_of[i].is_none())
            .map(|i| Missing { expectation: i + 1, expected: self.expect[i].clone(), closest: closest(i) })
            .collect();
        let unexpected: Vec<_> = match self.others {
            Others::Allow => Vec::new(),
            Others::Fail => left.iter().map(|&line| (line + 1, lines[line].clone())).collect(),
        };
        if missing.is_empty() && unexpected.is_empty() { Ok(()) } else { Err(TestFailure { missing, unexpected }) }
    }
}

/// Returns the line of each expectation in a maximum matching (H. W. Kuhn, 1955), preferring the
/// first lines.
fn assign(lines: usize, differences: &[Vec<Vec<Difference>>]) -> Vec<Option<usize>> {
    let mut taken_by = vec![None; lines];
    for expectation in 0..differences.len() {
        settle(expectation, differences, &mut taken_by, &mut vec![false; lines]);
    }
    let mut line_of = vec![None; differences.len()];
    for (line, expectation) in taken_by.iter().enumerate() {
        if let Some(expectation) = expectation {
            line_of[*expectation] = Some(line);
        }
    }
    line_of
}

/// Finds a line for an expectation, where need be by moving others to other lines.
fn settle(
    expectation: usize,
    differences: &[Vec<Vec<Difference>>],
    taken_by: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for line in 0..taken_by.len() {
        if tried[line] || !differences[expectation][line].is_empty() {
            continue;
        }
        tried[line] = true;
        if taken_by[line].is_none_or(|holder| settle(holder, differences, taken_by, tried)) {
            taken_by[line] = Some(expectation);
            return true;
        }
    }
    false
}

fn differ(expected: &Map<String, Value>, line: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    match line {
        Value::Object(found) => differ_in_keys(expected, found, "", &mut differences),
        _ => differences.push(Difference {
            path: "the line".to_owned(),
            expected: Value::Object(expected.clone()),
            found: Some(line.clone()),
        }),
    }
    differences
}

fn differ_in_keys(expected: &Map<String, Value>, found: &Map<String, Value>, path: &str, out: &mut Vec<Difference>) {
    for (key, expected) in expected {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        differ_at(expected, found.get(key), path, out);
    }
}

fn differ_at(expected: &Value, found: Option<&Value>, path: String, out: &mut Vec<Difference>) {
    let equal = match (expected, found) {
        (Value::Object(expected), Some(Value::Object(found))) => {
            return differ_in_keys(expected, found, &path, out);
        }
        (Value::Array(expected), Some(Value::Array(found))) if !expected.is_empty() => {
            for (i, expected) in expected.iter().enumerate() {
                differ_at(expected, found.get(i), format!("{path}[{i}]"), out);
            }
            return;
        }
        (Value::Object(bounds), Some(Value::Number(found))) => {
            Bounds::of(bounds).is_some_and(|bounds| found.as_f64().is_some_and(|found| bounds.hold(found)))
        }
        (Value::Number(expected), Some(Value::Number(found))) => {
            expected == found || (expected.is_f64() != found.is_f64() && expected.as_f64() == found.as_f64())
        }
        (expected, found) => found == Some(expected),
    };
    if !equal {
        out.push(Difference { path, expected: expected.clone(), found: found.cloned() });
    }
}

/// Bounds of a number, both included.
struct Bounds {
    min: f64,
    max: f64,
}

impl Bounds {
    /// Reads `{ min = …, max = … }`, one of which may be absent; `None` for any other table.
    fn of(table: &Map<String, Value>) -> Option<Self> {
        let known = table.keys().all(|key| key == "min" || key == "max") && !table.is_empty();
        let bound = |key, open| table.get(key).map_or(Some(open), Value::as_f64);
        known.then_some(())?;
        Some(Self { min: bound("min", f64::NEG_INFINITY)?, max: bound("max", f64::INFINITY)? })
    }

    fn hold(&self, number: f64) -> bool {
        self.min <= number && number <= self.max
    }
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing.iter().map(ToString::to_string);
        let unexpected = self.unexpected.iter().map(|(line, value)| format!("line {line} was not expected: {value}"));
        f.write_str(&missing.chain(unexpected).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for TestFailure {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = Value::Object(self.expected.clone());
        write!(f, "expectation {} matches no line: {expected}", self.expectation)?;
        match &self.closest {
            None => write!(f, "\n  no line is left to compare it with"),
            Some((line, differences)) => {
                write!(f, "\n  line {line} is the closest:")?;
                differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found ", self.path, self.expected)?;
        match &self.found {
            Some(found) => write!(f, "{found}"),
            None => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn case(expect: Value, others: Others) -> TestCase {
        let expect = serde_json::from_value(expect).unwrap();
        TestCase { name: "a test".to_owned(), overrides: Vec::new(), expect, others }
    }

    fn line() -> Value {
        json!({
            "session": "7_jackson_0", "segment": 0, "transcript": "red jacket", "confidence": 0.82,
            "results": [{ "title": "red jacket", "score": 3.5 }, { "title": "red shoes", "score": 1.0 }],
        })
    }

    #[test]
    fn an_expectation_is_a_part_of_a_line() {
        for expected in [
            json!({}),
            json!({ "transcript": "red jacket" }),
            json!({ "segment": 0.0, "confidence": { "min": 0.5 } }),
            json!({ "confidence": { "min": 0.82, "max": 0.82 } }),
            json!({ "results": [{ "title": "red jacket" }] }),
            json!({ "results": [{}, { "score": { "max": 1 } }] }),
        ] {
            assert_eq!(case(json!([expected]), Others::Fail).compare(&[line()]), Ok(()), "{expected}");
        }
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        for (expected, difference) in [
            (json!({ "transcript": "red" }), "transcript: expected \"red\", found \"red jacket\""),
            (json!({ "segment": 1 }), "segment: expected 1, found 0"),
            (json!({ "language": "en" }), "language: expected \"en\", found nothing"),
            (json!({ "confidence": { "min": 0.9 } }), "confidence: expected {\"min\":0.9}, found 0.82"),
            (json!({ "confidence": { "minimum": 0.1 } }), "confidence: expected {\"minimum\":0.1}, found 0.82"),
            (
                json!({ "results": [{}, { "title": "blue shoes" }] }),
                "results[1].title: expected \"blue shoes\", found \"red shoes\"",
            ),
            (json!({ "results": [{}, {}, { "score": 1 }] }), "results[2]: expected {\"score\":1}, found nothing"),
            (json!({ "session": [] }), "session: expected [], found \"7_jackson_0\""),
        ] {
            let failure = case(json!([expected]), Others::Fail).compare(&[line()]).unwrap_err();
            let differences = &failure.missing[0].closest.as_ref().unwrap().1;
            assert_eq!(differences.len(), 1, "{failure}");
            assert_eq!(differences[0].to_string(), difference);
        }
    }

    #[test]
    fn an_empty_array_is_an_empty_array() {
        let none = case(json!([{ "results": [] }]), Others::Fail);
        assert_eq!(none.compare(&[json!({ "results": [] })]), Ok(()));
        assert!(none.compare(&[line()]).is_err());
    }

    #[test]
    fn other_lines_fail_unless_allowed() {
        let lines = [json!({ "a": 1 }), json!({ "a": 2 })];
        assert_eq!(case(json!([{ "a": 2 }]), Others::Allow).compare(&lines), Ok(()));
        let failure = case(json!([{ "a": 2 }]), Others::Fail).compare(&lines).unwrap_err();
        assert_eq!(failure.to_string(), "line 1 was not expected: {\"a\":1}");
    }

    #[test]
    fn a_loose_expectation_leaves_the_strict_one_its_line() {
        let lines = [json!({ "a": 1, "b": 1 }), json!({ "a": 1, "b": 2 })];
        assert_eq!(case(json!([{ "a": 1 }, { "b": 1 }]), Others::Fail).compare(&lines), Ok(()));
    }

    #[test]
    fn a_failure_reads_like_a_diff() {
        let failure = case(
            json!([{ "session": "x", "transcript": "red jacket", "confidence": { "min": 0.9 } }, { "session": "y" }]),
            Others::Fail,
        )
        .compare(&[json!({ "session": "x", "transcript": "bread jacket", "confidence": 0.95 }), line()])
        .unwrap_err();
        insta::assert_snapshot!(failure);
        let failure = case(json!([{ "a": 1 }]), Others::Fail).compare(&[]).unwrap_err();
        insta::assert_snapshot!(failure, @r#"
        expectation 1 matches no line: {"a":1}
          no line is left to compare it with
        "#);
    }

    proptest! {
        /// Lines match themselves in any order, and no longer once one of them is changed.
        #[test]
        fn lines_match_themselves_in_any_order(
            (numbers, shuffled) in prop::collection::hash_set(0..100_u32, 1..8)
                .prop_map(Vec::from_iter)
                .prop_flat_map(|numbers| (Just(numbers.clone()), Just(numbers).prop_shuffle())),
        ) {
            let lines = |numbers: &[u32]| numbers.iter().map(|n| json!({ "n": n, "all": [n] })).collect::<Vec<_>>();
            let test = case(Value::Array(lines(&numbers)), Others::Fail);
            let mut found = lines(&shuffled);
            prop_assert_eq!(test.compare(&found), Ok(()));
            found[0]["n"] = json!(1000);
            let failure = test.compare(&found).unwrap_err();
            prop_assert_eq!((failure.missing.len(), failure.unexpected.len()), (1, 1));
        }
    }
}

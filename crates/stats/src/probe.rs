//! What a stage answered to fixed records, and whether it answers as before.
//!
//! A probe is a recording whose records are sent again and again. A stage that is deterministic answers the same records
//! alike, whatever else goes on; so an answer that differs while the records are the same proves that the stage has
//! changed. What follows from a stage that changed is no proof against the stages after it: their records differ.
//!
//! Values are compared by their hashes, as sets with repetition: how they were batched and in which order partitions were
//! read does not matter.

use std::{collections::BTreeMap, fmt};

use driftline_types::{RecordId, StageName, StageVersion, Timestamp};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Probes;

/// The hash of a value: 64 bits of XXH3, in hexadecimal digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ValueHash(u64);

impl ValueHash {
    /// Hashes the bytes of a value.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }
}

impl fmt::Display for ValueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<ValueHash> for String {
    fn from(hash: ValueHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for ValueHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(&text, 16).ok())
            .flatten();
        parsed.map(Self).ok_or_else(|| format!("found {text:?}, allowed are 16 hexadecimal digits"))
    }
}

/// What a batch of a stage had to do with one probe: a part of the answer, written with the outputs it describes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbePart {
    /// The stage.
    pub stage: StageName,
    /// Its version.
    pub version: StageVersion,
    /// The probe's name.
    pub probe: String,
    /// Which sending it was of: its event time.
    pub round: Timestamp,
    /// The values read, by the names of their records. A record that is read twice has one name.
    pub inputs: BTreeMap<RecordId, ValueHash>,
    /// The values written, by the names of their records.
    pub outputs: BTreeMap<RecordId, ValueHash>,
}

/// What a stage answered to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The version that answered.
    pub version: StageVersion,
    /// What it read, sorted.
    pub inputs: Vec<ValueHash>,
    /// What it made of it, sorted.
    pub outputs: Vec<ValueHash>,
}

/// The answers of every stage to every probe, by their names.
pub type Answers = BTreeMap<StageName, BTreeMap<String, Answer>>;

/// Puts parts together, by the round they belong to. Parts may come in any order and more than once.
#[must_use]
pub fn rounds(parts: impl IntoIterator<Item = ProbePart>) -> BTreeMap<Timestamp, Answers> {
    let mut whole: BTreeMap<(Timestamp, StageName, String), ProbePart> = BTreeMap::new();
    for part in parts {
        match whole.entry((part.round, part.stage.clone(), part.probe.clone())) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(part)),
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.inputs.extend(part.inputs);
                known.outputs.extend(part.outputs);
                known.version = part.version;
            }
        }
    }
    let mut rounds: BTreeMap<Timestamp, Answers> = BTreeMap::new();
    for ((round, stage, probe), part) in whole {
        let answer = Answer::new(part.version, part.inputs.into_values(), part.outputs.into_values());
        rounds.entry(round).or_default().entry(stage).or_default().insert(probe, answer);
    }
    rounds
}

impl Answer {
    /// Makes an answer of values in any order.
    #[must_use]
    pub fn new(
        version: StageVersion,
        inputs: impl IntoIterator<Item = ValueHash>,
        outputs: impl IntoIterator<Item = ValueHash>,
    ) -> Self {
        let sorted = |mut hashes: Vec<ValueHash>| {
            hashes.sort_unstable();
            hashes
        };
        Self { version, inputs: sorted(inputs.into_iter().collect()), outputs: sorted(outputs.into_iter().collect()) }
    }
}

/// An answer that is not as it was, to the same records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeChange {
    /// The probe.
    pub probe: String,
    /// What was answered before.
    pub before: Answer,
    /// What is answered now.
    pub after: Answer,
}

/// What the probes say of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeFindings {
    /// The sum of it: different if any answer is, same if one at least was compared, none otherwise.
    pub outcome: Probes,
    /// How many probes were answered as before.
    pub same: usize,
    /// How many said nothing: what the stage read was not the same, or not all of it yet.
    pub silent: usize,
    /// The answers that differ, in the order of the probes' names.
    pub changed: Vec<ProbeChange>,
}

/// Compares answers before and after, for every stage that there are answers of before.
#[must_use]
pub fn compare_answers(before: &Answers, after: &Answers) -> BTreeMap<StageName, ProbeFindings> {
    let compare = |(stage, before): (&StageName, &BTreeMap<String, Answer>)| {
        let mut findings = ProbeFindings { outcome: Probes::None, same: 0, silent: 0, changed: Vec::new() };
        for (probe, before) in before {
            match after.get(stage).and_then(|answers| answers.get(probe)) {
                Some(after) if after.inputs != before.inputs => findings.silent += 1,
                None => findings.silent += 1,
                Some(after) if after.outputs == before.outputs => findings.same += 1,
                Some(after) => findings.changed.push(ProbeChange {
                    probe: probe.clone(),
                    before: before.clone(),
                    after: after.clone(),
                }),
            }
        }
        findings.outcome = match (findings.changed.len(), findings.same) {
            (0, 0) => Probes::None,
            (0, _) => Probes::Same,
            _ => Probes::Different,
        };
        (stage.clone(), findings)
    };
    before.iter().map(compare).collect()
}

#[cfg(test)]
mod tests {
    use driftline_types::Topic;
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> StageName {
        StageName::try_new(name).unwrap()
    }

    fn version() -> StageVersion {
        StageVersion::try_new("v1").unwrap()
    }

    fn answer(inputs: &[&str], outputs: &[&str]) -> Answer {
        let hashes = |values: &[&str]| values.iter().map(|value| ValueHash::of(value.as_bytes())).collect::<Vec<_>>();
        Answer::new(version(), hashes(inputs), hashes(outputs))
    }

    fn answers(list: &[(&str, &str, Answer)]) -> Answers {
        let mut answers = Answers::new();
        for (stage, probe, answer) in list {
            answers.entry(name(stage)).or_default().insert((*probe).to_owned(), answer.clone());
        }
        answers
    }

    #[test]
    fn only_the_stage_that_answers_the_same_otherwise_has_changed() {
        let before = answers(&[
            ("vad", "one", answer(&["a"], &["A"])),
            ("asr", "one", answer(&["A"], &["x"])),
            ("search", "one", answer(&["x"], &["X"])),
            ("search", "two", answer(&["y"], &["Y"])),
            ("late", "one", answer(&["X"], &["Z"])),
        ]);
        let after = answers(&[
            ("vad", "one", answer(&["a"], &["A"])),
            ("asr", "one", answer(&["A"], &["w"])),
            ("search", "one", answer(&["w"], &["W"])),
            ("search", "two", answer(&["y"], &["Y"])),
        ]);
        let found = compare_answers(&before, &after);
        let outcome = |stage: &str| found[&name(stage)].outcome;
        assert_eq!(
            ["vad", "asr", "search", "late"].map(outcome),
            [Probes::Same, Probes::Different, Probes::Same, Probes::None]
        );
        let [change] = &found[&name("asr")].changed[..] else { panic!() };
        assert_eq!((change.probe.as_str(), &change.after.outputs), ("one", &answer(&[], &["w"]).outputs));
        assert_eq!((found[&name("search")].same, found[&name("search")].silent), (1, 1));
    }

    #[test]
    fn an_output_that_is_gone_or_new_is_a_change() {
        let before = answers(&[("vad", "one", answer(&["a", "b"], &["A"]))]);
        for outputs in [&[][..], &["A", "A"], &["A", "B"]] {
            let after = answers(&[("vad", "one", answer(&["b", "a"], outputs))]);
            assert_eq!(compare_answers(&before, &after)[&name("vad")].outcome, Probes::Different);
        }
        // Not all of it was read yet.
        let after = answers(&[("vad", "one", answer(&["a"], &[]))]);
        assert_eq!(compare_answers(&before, &after)[&name("vad")].outcome, Probes::None);
    }

    #[test]
    fn hashes_are_text_of_16_digits() {
        let hash = ValueHash::of(b"value");
        assert_eq!(ValueHash::try_from(hash.to_string()), Ok(hash));
        for text in ["", "00", "zzzzzzzzzzzzzzzz", "+0000000000000f1"] {
            assert!(ValueHash::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    proptest! {
        /// However the records of a probe are batched, in any order and with repeats, the answer is one.
        #[test]
        fn parts_make_one_answer(
            cuts in prop::collection::vec(1usize..4, 0..6),
            order in any::<prop::sample::Index>(),
            repeat in any::<prop::sample::Index>(),
        ) {
            let id = |offset: usize| RecordId {
                topic: Topic::try_new("p.mic").unwrap(), partition: 0, offset: offset as u64, index: 0,
            };
            let part = |range: std::ops::Range<usize>| ProbePart {
                stage: name("vad"),
                version: version(),
                probe: "one".to_owned(),
                round: Timestamp::from_millis(60_000),
                inputs: range.clone().map(|n| (id(n), ValueHash::of(&[n as u8]))).collect(),
                outputs: range.filter(|n| n % 3 == 0).map(|n| (id(n), ValueHash::of(&[n as u8, 1]))).collect(),
            };
            let mut parts = Vec::new();
            let mut at = 0;
            for cut in cuts {
                parts.push(part(at..(at + cut).min(12)));
                at = (at + cut).min(12);
            }
            parts.push(part(at..12));
            let n = parts.len();
            parts.rotate_left(order.index(n));
            parts.push(parts[repeat.index(n)].clone());
            prop_assert_eq!(rounds(parts), rounds([part(0..12)]));
        }
    }
}

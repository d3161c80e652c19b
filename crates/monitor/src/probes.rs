//! What the probes say of stages: the answers that were recorded, and those since.
//!
//! A stage that answers the same records otherwise has changed, whatever else goes on: that is proof. One that answers as before
//! has not; if P(output | input) has moved there all the same, then with something in its input that its cells do not
//! show. Rounds since the onset of a change prove it; only those after it was evident clear a stage, as an onset is an estimate and
//! a round from before the change says nothing. Until a round comes, the probes say nothing.

use std::collections::BTreeMap;

use driftline_stats::{Answers, ProbePart, Probes, compare_answers, rounds};
use driftline_types::{StageName, Timestamp};

/// The recorded answers to probes, and those of the last rounds.
#[derive(Debug)]
pub(crate) struct ProbeBook {
    recorded: Answers,
    parts: Vec<ProbePart>,
}

impl ProbeBook {
    pub(crate) fn new(recorded: Answers) -> Self {
        Self { recorded, parts: Vec::new() }
    }

    pub(crate) fn take(&mut self, part: ProbePart) {
        self.parts.push(part);
    }

    /// Lets go of rounds before a moment.
    pub(crate) fn forget(&mut self, before: Timestamp) {
        self.parts.retain(|part| part.round >= before);
    }

    /// Returns what the rounds from `onset` on and before `end` say of each stage: different if one is, same if none is and
    /// one from `evident` on is.
    pub(crate) fn says(&self, onset: Timestamp, evident: Timestamp, end: Timestamp) -> BTreeMap<StageName, Probes> {
        let within = self.parts.iter().filter(|part| (onset..end).contains(&part.round)).cloned();
        let mut said = BTreeMap::new();
        for (round, answers) in rounds(within) {
            for (stage, findings) in compare_answers(&self.recorded, &answers) {
                let so_far = said.entry(stage).or_insert(Probes::None);
                if findings.outcome == Probes::Different || round >= evident {
                    *so_far = (*so_far).max(findings.outcome);
                }
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use driftline_stats::{Answer, ValueHash};
    use driftline_types::{RecordId, StageVersion, Topic};

    use super::*;

    fn stage(name: &str) -> StageName {
        StageName::try_new(name).unwrap()
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn version() -> StageVersion {
        StageVersion::try_new("v1").unwrap()
    }

    fn part(name: &str, round: i64, input: &str, output: &str) -> ProbePart {
        let values = |value: &str| {
            let id = RecordId { topic: Topic::try_new("p.mic").unwrap(), partition: 0, offset: 0, index: 0 };
            BTreeMap::from([(id, ValueHash::of(value.as_bytes()))])
        };
        ProbePart {
            stage: stage(name),
            version: version(),
            probe: "one".to_owned(),
            round: at(round),
            inputs: values(input),
            outputs: values(output),
        }
    }

    #[test]
    fn rounds_since_a_moment_are_asked() {
        let answer = |input: &str, output: &str| {
            let hashes = |value: &str| [ValueHash::of(value.as_bytes())];
            BTreeMap::from([("one".to_owned(), Answer::new(version(), hashes(input), hashes(output)))])
        };
        let mut book = ProbeBook::new(Answers::from([
            (stage("vad"), answer("a", "b")),
            (stage("asr"), answer("b", "c")),
            (stage("search"), answer("c", "d")),
        ]));
        for (name, round, input, output) in [
            ("vad", 10, "a", "b"),
            ("asr", 10, "b", "c"),
            ("vad", 20, "a", "b"),
            ("asr", 20, "b", "x"),
            ("search", 20, "x", "y"),
        ] {
            book.take(part(name, round, input, output));
        }
        let says = |book: &ProbeBook, onset, evident, end| {
            let said = book.says(at(onset), at(evident), at(end));
            ["vad", "asr", "search"].map(|name| said.get(&stage(name)).copied().unwrap_or_default())
        };
        assert_eq!(says(&book, 0, 0, 20), [Probes::Same, Probes::Same, Probes::None]);
        // What the changed stage made of a probe is no proof against the one behind it.
        assert_eq!(says(&book, 0, 0, 30), [Probes::Same, Probes::Different, Probes::None]);
        // A round from before the change was evident proves, and does not clear.
        assert_eq!(says(&book, 0, 25, 30), [Probes::None, Probes::Different, Probes::None]);
        assert_eq!(says(&book, 21, 21, 30), [Probes::None; 3]);
        book.forget(at(20));
        assert_eq!(says(&book, 0, 0, 20), [Probes::None; 3]);
    }
}

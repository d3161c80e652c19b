//! Windows that are still open: profiles of all replicas merged, and when a window is complete.
//!
//! **Complete.** What a node wrote into a window, the next one reads: a stage is done with a window when it has counted
//! as many records going in as its inputs have counted coming out. What a stage writes has the event time of a record
//! that it has just read, and of each batch the profile of what went in comes last: so a stage that is done with a window writes
//! nothing more into it. A source is done with a
//! window when it has begun two later ones. So a stage that lags, for hours if need be, is waited for, and one that is done
//! is not.
//!
//! **Lateness.** Records can be missing for good: dead letters are never counted. A stage that is past a window by the
//! allowed lateness, in every partition, is done with it. A source, or a partition of a stage whose others go on, that says
//! nothing while others begin 16 times that many windows is not waited for.
//!
//! **Wrong clocks.** Records whose time is more than those 16 times away from where their node is move it only when they
//! outnumber the others: a source that slept overnight goes on with its eighth profile, a device whose clock is years ahead
//! opens windows of its own and moves nothing else.
//!
//! **Late.** A profile whose window was closed is counted as late and told of; nothing else is done with it. So at the
//! end of a run windows beyond the reach of every source, which a wrong clock may have opened, stay open for the next.
//!
//! **What does not count.** A profile that cannot be read, or was counted on other bins than the reference's, still
//! says how far its node is, so windows close. That node is not whole in its window; a stage that reads it is waited
//! for until it is past, as counts say nothing of it. One on other bins opens no window.
//!
//! **Versions.** While a stage is replaced, a window may have profiles of several versions. Each is kept by itself;
//! once the window is closed, the reference's version stands for it, else the one with the most records, whatever came
//! first. Such a node is not whole either.
//!
//! **Once.** Profiles are written in one unit with the outputs and offsets that they describe, so each counts its records exactly
//! once wherever units are atomic: on the embedded broker, and on Kafka for stages with state or `delivery =
//! "exactly_once"`. At least once, a stage without state that is killed between its outputs and its offsets writes the
//! profile of one batch twice. Sums do not depend on the order of profiles or on how they were split.

use std::collections::{BTreeMap, BTreeSet};

use driftline_stats::{Direction, MergeError, Profile, ProfileSet};
use driftline_types::{Offset, Partition, StageName, StageVersion, Timestamp};
use serde::{Deserialize, Serialize};

use crate::NodeWindow;

/// The most windows that are open at a time; beyond, the oldest is closed as it is.
pub(crate) const MAX_OPEN: usize = 8_192;
/// How many times the allowed lateness a silent source is waited for.
const SILENCE: u64 = 16;
/// By how many a node's profiles from another time outnumber those from where it is until it is there.
const MOVED: u8 = 8;

/// The nodes that write profiles: each with the nodes that it reads.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub nodes: Vec<(StageName, Vec<StageName>)>,
    /// Of each topic.
    pub partitions: u32,
    /// The version of each node in the reference.
    pub versions: BTreeMap<StageName, StageVersion>,
}

/// A window that is closed: what each node saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Closed {
    pub start: Timestamp,
    pub nodes: BTreeMap<StageName, Seen>,
    /// Nodes that saw more than stands here: in another version, on other bins, or what could not be read. It is asked
    /// for only when the window is judged, so it is not remembered.
    pub not_whole: BTreeSet<StageName>,
}

/// What a node saw in a window, and in which version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub version: StageVersion,
    pub window: NodeWindow,
}

/// Open windows and how far each node is.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    millis: i64,
    lateness: u64,
    topology: Topology,
    open: BTreeMap<Timestamp, Open>,
    progress: Progress,
    /// After a restart, the profiles before this offset are read again: until they are, open windows lack some of what they had.
    again_to: Offset,
    /// Where the next profile stands.
    next: Offset,
}

#[derive(Clone, Debug, Default)]
struct Open {
    nodes: BTreeMap<StageName, BTreeMap<StageVersion, NodeWindow>>,
    /// Nodes of which something could not be read: their counts are not complete.
    unreadable: BTreeSet<StageName>,
    first_offset: Offset,
}

/// How far nodes are: what a restart takes up again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Windows that start before this are closed.
    pub closed_to: Option<Timestamp>,
    /// Every profile before this offset was taken.
    pub taken_to: Offset,
    /// Profiles that came after their window was closed, by node.
    pub late: BTreeMap<StageName, u64>,
    producers: BTreeMap<StageName, BTreeMap<Partition, Producer>>,
    /// The first and the last window of which a node wrote profiles on other bins than the reference's.
    #[serde(default)]
    incomparable: BTreeMap<StageName, (Timestamp, Timestamp)>,
}

/// How far one node is in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Producer {
    /// The latest window begun, and the latest before it: one record with a wrong clock moves only the first.
    latest: Timestamp,
    before: Option<Timestamp>,
    /// The windows begun.
    begun: u64,
    /// The most windows that any source had begun when this one last said something.
    heard_at: u64,
    /// By how many its profiles from another time outnumber those from here, and the earliest of them.
    #[serde(default)]
    elsewhere: Option<(u8, Timestamp)>,
}

impl Producer {
    /// Returns the window that it is in.
    fn here(&self) -> Timestamp {
        self.before.unwrap_or(self.latest)
    }

    /// Says whether a window lies within `reach` of it, milliseconds.
    fn is_near(&self, start: Timestamp, reach: u64) -> bool {
        start.as_millis().abs_diff(self.here().as_millis()) <= reach
    }

    /// Says whether it is done with the windows that end at `end` or before.
    fn is_past(&self, end: Timestamp) -> bool {
        self.before.is_some_and(|before| before >= end)
    }
}

/// What became of a profile.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken {
    Merged,
    /// It was merged; its window has this other version of the stage too.
    Mixed(StageVersion),
    /// Its window was closed.
    Late,
    /// It had been taken before a restart.
    Again,
    /// It does not fit those before it.
    Refused(MergeError),
}

impl Windows {
    pub(crate) fn new(millis: u64, lateness: u64, topology: Topology) -> Self {
        let millis = i64::try_from(millis).unwrap_or(i64::MAX).max(1);
        Self { millis, lateness, topology, open: BTreeMap::new(), progress: Progress::default(), again_to: 0, next: 0 }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn restore(&mut self, progress: Progress) {
        self.again_to = progress.taken_to;
        self.progress = progress;
    }

    /// Returns the first offset that a restart needs; `None` until what the last one needed is read again.
    pub(crate) fn needed_from(&self) -> Option<Offset> {
        let first = self.open.values().map(|open| open.first_offset).min();
        (self.next >= self.again_to).then(|| first.unwrap_or(self.progress.taken_to))
    }

    pub(crate) fn open_windows(&self) -> usize {
        self.open.len()
    }

    /// Takes a profile from a place in the log.
    pub(crate) fn take(&mut self, offset: Offset, partition: Partition, profile: &Profile) -> Taken {
        let start = profile.key.window.start;
        self.next = offset + 1;
        let again = offset < self.progress.taken_to;
        if self.is_closed(start) {
            if !again {
                *self.progress.late.entry(profile.key.stage.clone()).or_default() += 1;
                self.progressed(partition, profile);
            }
            self.progress.taken_to = self.progress.taken_to.max(offset + 1);
            return if again { Taken::Again } else { Taken::Late };
        }
        let open = self.open.entry(start).or_insert_with(|| Open { first_offset: offset, ..Open::default() });
        let (stage, version) = (&profile.key.stage, &profile.key.version);
        let versions = open.nodes.entry(stage.clone()).or_default();
        let merged = versions.entry(version.clone()).or_default().add(profile);
        let other = versions.keys().find(|other| *other != version).cloned();
        if merged.is_err() {
            open.unreadable.insert(stage.clone());
        }
        if !again {
            self.progressed(partition, profile);
        }
        self.progress.taken_to = self.progress.taken_to.max(offset + 1);
        match (merged, other) {
            // Whatever it is, it was told of before the restart.
            _ if again => Taken::Again,
            (Err(error), _) => Taken::Refused(error),
            (Ok(()), Some(other)) => Taken::Mixed(other),
            (Ok(()), None) => Taken::Merged,
        }
    }

    /// Notes a profile that was counted on other bins than the reference's. Nothing can be made of it but how far its
    /// node is: it opens no window.
    pub(crate) fn incomparable(&mut self, offset: Offset, partition: Partition, profile: &Profile) {
        self.next = offset + 1;
        if offset < self.progress.taken_to {
            return;
        }
        self.progress.taken_to = offset + 1;
        self.progressed(partition, profile);
        let (node, start) = (&profile.key.stage, profile.key.window.start);
        let producer = self.progress.producers.get(node).and_then(|producers| producers.get(&partition));
        if producer.is_none_or(|producer| producer.is_near(start, self.reach())) {
            let (first, last) = self.progress.incomparable.entry(node.clone()).or_insert((start, start));
            (*first, *last) = (start.min(*first), start.max(*last));
        }
    }

    fn is_incomparable(&self, node: &StageName, start: Timestamp) -> bool {
        self.progress.incomparable.get(node).is_some_and(|(first, last)| (*first..=*last).contains(&start))
    }

    /// Returns how far from where a node is its records may be, milliseconds.
    fn reach(&self) -> u64 {
        self.millis_of(SILENCE * self.lateness).unsigned_abs()
    }

    /// Notes a profile that cannot be read, as far as its message tells of what it is.
    pub(crate) fn unreadable(&mut self, offset: Offset, about: Option<(StageName, Partition, Timestamp)>) {
        self.next = offset + 1;
        if let Some((node, partition, start)) = about {
            if !self.is_closed(start) {
                let open = self.open.entry(start).or_insert_with(|| Open { first_offset: offset, ..Open::default() });
                open.unreadable.insert(node.clone());
            }
            if offset >= self.progress.taken_to {
                self.heard(&node, partition, start);
            }
        }
        self.progress.taken_to = self.progress.taken_to.max(offset + 1);
    }

    fn is_closed(&self, start: Timestamp) -> bool {
        self.progress.closed_to.is_some_and(|closed_to| start < closed_to)
    }

    /// Notes how far a node is by what comes last of a batch: what went into a stage, what came out of a source.
    fn progressed(&mut self, partition: Partition, profile: &Profile) {
        let node = &profile.key.stage;
        let is_source = self.topology.nodes.iter().any(|(name, inputs)| name == node && inputs.is_empty());
        let last = if is_source { Direction::Output } else { Direction::Input };
        if profile.body.direction() == last {
            self.heard(node, partition, profile.key.window.start);
        }
    }

    fn heard(&mut self, node: &StageName, partition: Partition, start: Timestamp) {
        let most = self.most_begun();
        let reach = self.reach();
        let producers = self.progress.producers.entry(node.clone()).or_default();
        let new = Producer { latest: start, before: None, begun: 1, heard_at: most, elsewhere: None };
        let producer = producers.entry(partition).or_insert(new);
        producer.heard_at = most;
        if !producer.is_near(start, reach) {
            let (count, earliest) =
                producer.elsewhere.map_or((1, start), |(count, earliest)| (count + 1, earliest.min(start)));
            producer.elsewhere = Some((count, earliest));
            if count == MOVED {
                let before = Some(earliest).filter(|earliest| *earliest < start);
                *producer = Producer { before, begun: producer.begun + 1, ..new };
            }
            return;
        }
        producer.elsewhere =
            producer.elsewhere.filter(|(count, _)| *count > 1).map(|(count, earliest)| (count - 1, earliest));
        if start > producer.latest {
            (producer.before, producer.latest) = (Some(producer.latest), start);
            producer.begun += 1;
        } else if start < producer.latest && producer.before.is_none_or(|before| start > before) {
            producer.before = Some(start);
            producer.begun += 1;
        }
    }

    fn most_begun(&self) -> u64 {
        let sources = self.topology.nodes.iter().filter(|(_, inputs)| inputs.is_empty());
        let begun = sources.filter_map(|(name, _)| self.progress.producers.get(name));
        begun.flat_map(BTreeMap::values).map(|producer| producer.begun).max().unwrap_or(0)
    }

    /// Says whether the oldest window is complete.
    pub(crate) fn is_due(&self) -> bool {
        let oldest = self.open.first_key_value().filter(|_| self.next >= self.again_to);
        oldest.is_some_and(|(&start, open)| self.open.len() > MAX_OPEN || self.is_complete(start, open))
    }

    /// Closes the oldest window as it is.
    pub(crate) fn close_oldest(&mut self) -> Option<Closed> {
        let (start, open) = self.open.pop_first()?;
        self.progress.closed_to = Some(start.plus_millis(self.millis));
        let mut not_whole = open.unreadable;
        not_whole.extend(self.progress.incomparable.keys().filter(|node| self.is_incomparable(node, start)).cloned());
        let mut nodes = BTreeMap::new();
        for (node, mut versions) in open.nodes {
            if versions.len() > 1 {
                not_whole.insert(node.clone());
            }
            let known = self.topology.versions.get(&node).and_then(|version| versions.remove_entry(version));
            let records = |window: &NodeWindow| total(&window.input).max(total(&window.output));
            // Of as many records the first by name.
            let most = || versions.into_iter().rev().max_by_key(|(_, window)| records(window));
            if let Some((version, window)) = known.or_else(most) {
                nodes.insert(node, Seen { version, window });
            }
        }
        Some(Closed { start, nodes, not_whole })
    }

    /// Says whether every window that is open lies beyond the reach of every source, in every partition: only a wrong
    /// clock, or the first records after a long sleep, can have opened them.
    pub(crate) fn are_stray(&self) -> bool {
        let Some((&start, _)) = self.open.first_key_value() else { return false };
        let sources = self.topology.nodes.iter().filter(|(_, inputs)| inputs.is_empty());
        let producers = sources.filter_map(|(name, _)| self.progress.producers.get(name)).flat_map(BTreeMap::values);
        let latest = producers.max_by_key(|producer| producer.here());
        latest.is_some_and(|latest| start > latest.here() && !latest.is_near(start, self.reach()))
    }

    fn is_complete(&self, start: Timestamp, open: &Open) -> bool {
        let end = start.plus_millis(self.millis);
        let count = |node: &StageName, side: fn(&NodeWindow) -> &Option<ProfileSet>| -> u64 {
            let versions = open.nodes.get(node).into_iter().flat_map(BTreeMap::values);
            versions.map(|window| total(side(window))).sum()
        };
        let unreadable = |node: &StageName| open.unreadable.contains(node) || self.is_incomparable(node, start);
        self.topology.nodes.iter().all(|(name, inputs)| {
            if inputs.is_empty() {
                return self.source_is_past(name, end);
            }
            let written: u64 = inputs.iter().map(|input| count(input, |window| &window.output)).sum();
            // Of what cannot be read, counts say nothing.
            let counted = !unreadable(name) && !inputs.iter().any(unreadable);
            counted && count(name, |window| &window.input) >= written || self.stage_is_past(name, end)
        })
    }

    fn source_is_past(&self, name: &StageName, end: Timestamp) -> bool {
        let Some(producers) = self.progress.producers.get(name) else {
            return self.most_begun() > SILENCE * self.lateness;
        };
        producers.values().all(|producer| producer.is_past(end) || self.is_silent(producer))
    }

    fn stage_is_past(&self, name: &StageName, end: Timestamp) -> bool {
        let Some(producers) = self.progress.producers.get(name) else { return false };
        // A partition that was never heard of may be empty, or not read yet.
        let all_heard = producers.len() >= self.topology.partitions as usize;
        let end = end.plus_millis(self.millis_of(if all_heard { self.lateness } else { SILENCE * self.lateness }));
        producers.values().any(|producer| producer.is_past(end))
            && producers.values().all(|producer| producer.is_past(end) || self.is_silent(producer))
    }

    fn is_silent(&self, producer: &Producer) -> bool {
        self.most_begun() - producer.heard_at > SILENCE * self.lateness
    }

    fn millis_of(&self, windows: u64) -> i64 {
        i64::try_from(windows).unwrap_or(i64::MAX).saturating_mul(self.millis)
    }

    /// Says how far the sources are apart in event time, if that is more than the allowed lateness.
    pub(crate) fn apart(&self) -> Option<(StageName, StageName, u64)> {
        let sources = self.topology.nodes.iter().filter(|(_, inputs)| inputs.is_empty());
        let mut times: Vec<(Timestamp, &StageName)> = sources
            .filter_map(|(name, _)| {
                Some((self.progress.producers.get(name)?.values().filter_map(|p| p.before).max()?, name))
            })
            .collect();
        times.sort();
        let ((first, slow), (last, fast)) = (times.first()?, times.last()?);
        let windows = (last.as_millis() - first.as_millis()) / self.millis;
        let windows = u64::try_from(windows).unwrap_or(0);
        (windows > SILENCE * self.lateness).then(|| ((*slow).clone(), (*fast).clone(), windows))
    }
}

/// Returns the number of records of a set: every signal is shown for every record.
pub(crate) fn total(set: &Option<ProfileSet>) -> u64 {
    set.as_ref().and_then(|set| set.signals().map(|(_, _, signal)| signal.total()).max()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use driftline_stats::{JointProfile, ProfileBody, ProfileKey, Reference, Scale, Signal, Window};
    use driftline_types::PipelineName;

    use super::*;

    const SOURCE: &str = "source";
    const STAGE: &str = "stage";
    static LEVEL: Signal = Signal::number("level", "1", "Level.", Scale::Linear { lo: 0.0, hi: 1.0 });

    fn name(name: &str) -> StageName {
        StageName::try_new(name).unwrap()
    }

    fn at(window: i64) -> Timestamp {
        Timestamp::from_millis(window * 1_000)
    }

    /// A source and a stage of two partitions, windows of a second.
    fn windows() -> Windows {
        let nodes = vec![(name(SOURCE), Vec::new()), (name(STAGE), vec![name(SOURCE)])];
        Windows::new(1_000, 6, Topology { nodes, partitions: 2, versions: BTreeMap::new() })
    }

    #[test]
    fn clocks_that_are_ahead_close_no_window() {
        let mut windows = windows();
        for window in 0..200 {
            windows.heard(&name(SOURCE), 0, at(window));
            if window % 3 == 1 {
                windows.heard(&name(SOURCE), 0, at(40_000_000 + 500 * window));
            }
            assert!(!windows.source_is_past(&name(SOURCE), at(window)), "{window}");
            assert!(window < 2 || windows.source_is_past(&name(SOURCE), at(window - 1)), "{window}");
        }
    }

    #[test]
    fn a_source_that_slept_goes_on() {
        let mut windows = windows();
        for window in 0..3 {
            windows.heard(&name(SOURCE), 0, at(window));
        }
        for profile in 0..i64::from(MOVED) {
            assert!(!windows.source_is_past(&name(SOURCE), at(3)), "{profile}");
            windows.heard(&name(SOURCE), 0, at(50_000 + profile / 2));
        }
        assert!(windows.source_is_past(&name(SOURCE), at(3)));
        assert!(!windows.source_is_past(&name(SOURCE), at(50_001)));
        windows.heard(&name(SOURCE), 0, at(50_004));
        assert!(windows.source_is_past(&name(SOURCE), at(50_001)));
    }

    /// What a node saw of so many records in a window.
    fn seen(node: &str, version: &str, window: i64, output: bool, records: u64) -> Profile {
        let mut set = ProfileSet::new(Arc::new(Reference::declared()));
        (0..records).for_each(|_| {
            set.observe(|visit| visit.number(&LEVEL, Some(0.0)));
        });
        let key = ProfileKey {
            pipeline: PipelineName::try_new("p").unwrap(),
            stage: name(node),
            version: StageVersion::try_new(version).unwrap(),
            window: Window { start: at(window), millis: 1_000 },
        };
        Profile { key, body: if output { ProfileBody::Output(set) } else { ProfileBody::Input(set) } }
    }

    /// A source whose profiles nobody can compare: windows are closed when the stage that reads it is past them.
    #[test]
    fn other_bins_hold_no_window_up() {
        let mut windows = windows();
        for window in 0..20 {
            windows.incomparable(windows.next, 0, &seen(SOURCE, "1", window, true, 5));
            assert_eq!(windows.open_windows() as i64, window.min(8), "it opens none");
            for partition in 0..2 {
                let read = seen(STAGE, "1", window, false, 2);
                assert_eq!(windows.take(windows.next, partition, &read), Taken::Merged);
            }
            // 6 windows of lateness, and one that is begun after them.
            assert_eq!(windows.is_due(), window >= 8, "{window}");
            if windows.is_due() {
                let closed = windows.close_oldest().unwrap();
                assert_eq!((closed.start, closed.not_whole), (at(window - 8), BTreeSet::from([name(SOURCE)])));
                assert_eq!(total(&closed.nodes[&name(STAGE)].window.input), 4);
            }
        }
    }

    /// Whatever comes first: the reference's version, else the one that has seen most, else the first by name.
    #[test]
    fn of_several_versions_one_stands_for_a_window() {
        let stands = |profiles: &[(&str, u64)], known: Option<&str>| {
            let mut windows = windows();
            let known = known.map(|version| (name(STAGE), StageVersion::try_new(version).unwrap()));
            windows.topology.versions.extend(known);
            for (version, records) in profiles {
                windows.take(windows.next, 0, &seen(STAGE, version, 0, false, *records));
            }
            let closed = windows.close_oldest().unwrap();
            assert_eq!(closed.not_whole, BTreeSet::from([name(STAGE)]));
            let seen = &closed.nodes[&name(STAGE)];
            (seen.version.to_string(), total(&seen.window.input))
        };
        for profiles in [[("a", 2), ("b", 5), ("a", 1)], [("b", 5), ("a", 1), ("a", 2)]] {
            assert_eq!(stands(&profiles, None), ("b".to_owned(), 5));
            assert_eq!(stands(&profiles, Some("a")), ("a".to_owned(), 3));
        }
        assert_eq!(stands(&[("b", 2), ("a", 2)], Some("c")).0, "a");
    }

    #[test]
    fn a_window_of_a_wrong_clock_makes_none_late() {
        let mut windows = windows();
        for window in [0, 1, 2, 86_400] {
            windows.take(windows.next, 0, &seen(SOURCE, "1", window, true, 1));
        }
        while !windows.are_stray() && windows.close_oldest().is_some() {}
        assert_eq!(windows.open_windows(), 1);
        assert_eq!(windows.take(windows.next, 0, &seen(SOURCE, "1", 2, true, 1)), Taken::Late);
        assert_eq!(windows.take(windows.next, 0, &seen(SOURCE, "1", 3, true, 1)), Taken::Merged);
    }

    #[test]
    fn a_source_is_heard_once_a_window() {
        let mut windows = windows();
        let declared = Arc::new(Reference::declared());
        // Four windows far ahead are half of what it takes to believe them.
        for window in [0, 1, 2, 40_000, 40_001, 40_002, 40_003] {
            let joint = JointProfile::new(declared.id(), declared.id());
            for body in [ProfileBody::Output(ProfileSet::new(Arc::clone(&declared))), ProfileBody::Joint(joint)] {
                let key = ProfileKey {
                    pipeline: PipelineName::try_new("p").unwrap(),
                    stage: name(SOURCE),
                    version: StageVersion::try_new("1").unwrap(),
                    window: Window { start: at(window), millis: 1_000 },
                };
                assert_eq!(windows.take(windows.next, 0, &Profile { key, body }), Taken::Merged);
            }
        }
        assert!(windows.source_is_past(&name(SOURCE), at(1)));
        assert!(!windows.source_is_past(&name(SOURCE), at(2)));
    }

    #[test]
    fn an_idle_partition_is_not_waited_for_but_a_stage_that_stands_still_is() {
        let mut windows = windows();
        for partition in 0..2 {
            windows.heard(&name(STAGE), partition, at(0));
        }
        for window in 0..300 {
            windows.heard(&name(SOURCE), 0, at(window));
            if window < 150 {
                windows.heard(&name(STAGE), 0, at(window));
            }
        }
        assert!(windows.stage_is_past(&name(STAGE), at(100)));
        assert!(!windows.stage_is_past(&name(STAGE), at(200)), "it stopped there");
    }
}

//! Building a baseline from a log: bins first, then every record counted again on them.
//!
//! What the operators of a running pipeline count is counted here from the records themselves: the code of an output and the
//! codes of its parents, which it names. Of an output with many parents the first and last eight are named; those between them
//! are the records of the same key in between. An input that is no output's parent and no dead letter was dropped. It counts in the
//! window of its own time: which record decided that, the log does not tell.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, records};
use driftline_pipeline::{Node, Plan};
use driftline_stats::{
    DROPPED, JointProfile, MIN_HISTORY, MergeError, ProfileSet, Reference, ReferenceError, Sample, SignalVisitor,
    UNKNOWN,
};
use driftline_types::{
    Code, Message, Offset, Partition, RecordId, StageName, StageVersion, Timestamp, Topic, TopicPartition,
    config::Millis, wire,
};

use crate::{Baseline, NodeBaseline, NodeWindow, Series, What, baseline::MAX_WINDOWS, windows::total};

/// Decodes the value of a record that a node wrote and shows its signals, or says why it cannot.
pub type ShowRecord<'a> = &'a dyn Fn(&Node, &Bytes, &mut dyn SignalVisitor) -> Result<(), String>;

/// A stretch of event time; `None` is no limit. The end is not part of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// The first moment.
    pub from: Option<Timestamp>,
    /// The first moment after it.
    pub to: Option<Timestamp>,
}

impl Range {
    fn holds(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

/// Why no baseline was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The log cannot be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A node wrote nothing in the range.
    #[error("{node}: found no records in this range, allowed are ranges in which every source and stage wrote some")]
    Silent {
        /// The node.
        node: StageName,
    },
    /// A node ran in several versions.
    #[error("{node}: found records of the versions {found}, allowed is one; choose the range by --from and --to")]
    Versions {
        /// The node.
        node: StageName,
        /// The versions.
        found: String,
    },
    /// Too few windows.
    #[error(
        "found {found} windows of {window} with records{}, a reference needs {MIN_HISTORY}: take more records, or a shorter monitor.window",
        after_warm_up(*warm_up)
    )]
    TooFewWindows {
        /// The number found.
        found: usize,
        /// The length of a window.
        window: Millis,
        /// The windows of the warm-up, which are not counted.
        warm_up: u64,
    },
    /// Bins cannot be made.
    #[error("{node}: {error}")]
    Reference {
        /// The node.
        node: StageName,
        /// Why.
        error: ReferenceError,
    },
    /// Counts cannot be added up: a defect.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

fn after_warm_up(warm_up: u64) -> String {
    if warm_up > 0 { format!(" after the {warm_up} of monitor.warm_up") } else { String::new() }
}

/// Builds the baseline of a pipeline from the records that its log holds in any of the ranges; in all of it without one. The first
/// windows of the log with records, those of the warm-up, are left out as a monitor leaves them out.
///
/// # Errors
/// If the log cannot be read, a node is silent in these ranges or ran in several versions, or there are fewer than 64 windows.
pub fn build(broker: &dyn Broker, plan: &Plan, ranges: &[Range], show: ShowRecord<'_>) -> Result<Baseline, BuildError> {
    let warm_up = plan.monitor.warm_up.map_or(0, |time| time.windows(plan.monitor.window));
    let too_few = |found| BuildError::TooFewWindows { found, window: plan.monitor.window, warm_up };
    let mut builder = Builder { broker, plan, ranges, show, from: None, nodes: Vec::new() };
    if warm_up > 0 {
        builder.from = Some(builder.window_after(warm_up)?.ok_or_else(|| too_few(0))?);
    }
    for node in plan.sources.iter().chain(&plan.stages) {
        let counted = builder.node(node)?;
        builder.nodes.push(counted);
    }
    let mut starts: Vec<Timestamp> = builder.nodes.iter().flat_map(|node| node.windows.keys().copied()).collect();
    starts.sort_unstable();
    starts.dedup();
    if starts.len() < MIN_HISTORY {
        return Err(too_few(starts.len()));
    }
    // The newest: older ones would be forgotten anyway.
    starts.drain(..starts.len().saturating_sub(MAX_WINDOWS));
    let nodes = builder.nodes.iter().map(|node| node.baseline(&starts)).collect::<Result<Vec<_>, _>>()?;
    Ok(Baseline {
        pipeline: plan.name.clone(),
        window_ms: plan.monitor.window.0,
        records: nodes[..plan.sources.len()].iter().map(|node| node.records).sum(),
        nodes,
        windows: starts,
    })
}

struct Builder<'a> {
    broker: &'a dyn Broker,
    plan: &'a Plan,
    ranges: &'a [Range],
    show: ShowRecord<'a>,
    /// The end of the warm-up; none without one.
    from: Option<Timestamp>,
    nodes: Vec<Counted>,
}

/// What is remembered of the records of one topic.
#[derive(Default)]
struct Log {
    /// By partition, in the order of their offsets.
    partitions: BTreeMap<Partition, Vec<Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    offset: Offset,
    time: Timestamp,
    key: u64,
    /// By the bins of the stage that read it.
    code: Code,
}

impl Log {
    fn find(&self, partition: Partition, offset: Offset) -> Option<&Seen> {
        let seen = self.partitions.get(&partition)?;
        seen.binary_search_by_key(&offset, |seen| seen.offset).ok().map(|at| &seen[at])
    }

    /// Returns the records of the same key between two of them.
    fn between(&self, partition: Partition, first: Offset, last: Offset) -> impl Iterator<Item = &Seen> {
        let seen = self.partitions.get(&partition).map_or(&[][..], Vec::as_slice);
        let key = self.find(partition, first).map(|seen| seen.key);
        let from = seen.partition_point(|seen| seen.offset <= first);
        let to = seen.partition_point(|seen| seen.offset < last).max(from);
        seen[from..to].iter().filter(move |seen| Some(seen.key) == key)
    }
}

/// A node counted on its own bins.
struct Counted {
    name: StageName,
    version: StageVersion,
    inputs: Vec<StageName>,
    input: Arc<Reference>,
    output: Arc<Reference>,
    windows: BTreeMap<Timestamp, NodeWindow>,
}

impl Builder<'_> {
    fn holds(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from)
            && (self.ranges.is_empty() || self.ranges.iter().any(|range| range.holds(time)))
    }

    /// Returns the start of the first window after so many in which a source wrote, if there is one.
    fn window_after(&self, windows: u64) -> Result<Option<Timestamp>, BuildError> {
        let mut starts = BTreeSet::new();
        for source in &self.plan.sources {
            self.each(&source.name, |message| {
                starts.insert(self.window_of(message.timestamp));
                Ok(())
            })?;
        }
        Ok(starts.into_iter().nth(usize::try_from(windows).unwrap_or(usize::MAX)))
    }

    fn window_of(&self, time: Timestamp) -> Timestamp {
        time.window_start(i64::try_from(self.plan.monitor.window.0).unwrap_or(i64::MAX))
    }

    /// Visits every record of a node's topic, in the order of partitions and offsets.
    fn each(
        &self,
        node: &StageName,
        mut visit: impl FnMut(&Message) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let topic = self.plan.name.output_topic(node);
        for partition in 0..self.plan.partitions {
            for message in records(self.broker, TopicPartition::new(topic.clone(), partition))? {
                let message = message?;
                if wire::is_output(&message) {
                    visit(&message)?;
                }
            }
        }
        Ok(())
    }

    /// Fits a reference to the records of some nodes.
    fn fit(&self, writers: &[&Node]) -> Result<Reference, BuildError> {
        let mut sample = Sample::default();
        for writer in writers {
            self.each(&writer.name, |message| {
                if let (true, Some(value)) = (self.holds(message.timestamp), &message.value) {
                    // What cannot be read is no output of this node.
                    sample.observe(hash(message), |visit| drop((self.show)(writer, value, visit)));
                }
                Ok(())
            })?;
        }
        let node = writers.first().map(|node| node.name.clone());
        sample.fit().map_err(|error| match (error, node) {
            (ReferenceError::NoRecords, Some(node)) => BuildError::Silent { node },
            (error, node) => {
                BuildError::Reference { node: node.unwrap_or_else(|| self.plan.sources[0].name.clone()), error }
            }
        })
    }

    fn find(&self, name: &StageName) -> Option<&Node> {
        self.plan.sources.iter().chain(&self.plan.stages).find(|node| node.name == *name)
    }

    fn node(&mut self, node: &Node) -> Result<Counted, BuildError> {
        let output = Arc::new(self.fit(&[node])?);
        let parents: Vec<&Node> = node.inputs.iter().filter_map(|input| self.find(input)).collect();
        let input = match parents.as_slice() {
            [] => Arc::new(Reference::declared()),
            [one] => match self.nodes.iter().find(|counted| counted.name == one.name) {
                Some(parent) => Arc::clone(&parent.output),
                None => Arc::new(self.fit(&[one])?),
            },
            several => Arc::new(self.fit(several)?),
        };
        let mut counting = Counting {
            ids: (input.id(), output.id()),
            input: Arc::clone(&input),
            output: Arc::clone(&output),
            windows: BTreeMap::new(),
        };
        let inputs = self.inputs(node, &parents, &mut counting)?;
        let version = self.outputs(node, &inputs, &mut counting)?;
        Ok(Counted {
            name: node.name.clone(),
            version,
            inputs: node.inputs.clone(),
            input,
            output,
            windows: counting.windows,
        })
    }

    /// Counts what a stage read, and returns it with the codes that the stage knows it by.
    fn inputs(
        &self,
        node: &Node,
        parents: &[&Node],
        counting: &mut Counting,
    ) -> Result<BTreeMap<Topic, Log>, BuildError> {
        let mut inputs = BTreeMap::new();
        for parent in parents {
            let topic = self.plan.name.output_topic(&parent.name);
            let mut log = Log::default();
            let read_to = self.read_to(node, &topic)?;
            self.each(&parent.name, |message| {
                let read = read_to.get(&message.partition).is_none_or(|next| message.offset < *next);
                let Some(value) = message.value.as_ref().filter(|_| read) else { return Ok(()) };
                let (start, counts) = (self.window_of(message.timestamp), self.holds(message.timestamp));
                let code = counting.observe_input(start, counts, |visit| drop((self.show)(parent, value, visit)));
                let seen = Seen { offset: message.offset, time: message.timestamp, key: hash_key(message), code };
                log.partitions.entry(message.partition).or_default().push(seen);
                Ok(())
            })?;
            inputs.insert(topic, log);
        }
        Ok(inputs)
    }

    /// Returns how far a stage has read, by partition; nothing where nobody has committed.
    fn read_to(&self, node: &Node, topic: &Topic) -> Result<HashMap<Partition, Offset>, BuildError> {
        let mut read = HashMap::new();
        for partition in 0..self.plan.partitions {
            let place = TopicPartition::new(topic.clone(), partition);
            if let Some(committed) = self.broker.committed(&self.plan.name.group(&node.name), &place)? {
                read.insert(partition, committed.next);
            }
        }
        Ok(read)
    }

    /// Counts what a node wrote and what its inputs became.
    fn outputs(
        &self,
        node: &Node,
        inputs: &BTreeMap<Topic, Log>,
        counting: &mut Counting,
    ) -> Result<StageVersion, BuildError> {
        let mut used: HashSet<(Topic, Partition, Offset)> = HashSet::new();
        let mut versions: BTreeMap<StageVersion, u64> = BTreeMap::new();
        let mut reader = wire::Reader::default();
        self.each(&node.name, |message| {
            let Some(value) = &message.value else { return Ok(()) };
            let (start, counts) = (self.window_of(message.timestamp), self.holds(message.timestamp));
            let code = counting.observe_output(start, counts, |visit| drop((self.show)(node, value, visit)));
            let context = reader.context(message);
            if counts && let Some((_, version)) = context.versions.iter().rev().find(|(stage, _)| *stage == node.name) {
                *versions.entry(version.clone()).or_default() += 1;
            }
            if inputs.is_empty() && counts {
                counting.pair(start, UNKNOWN, code);
            }
            for (topic, parents) in by_topic(&context.parents) {
                let Some(input) = inputs.get(&topic) else { continue };
                for seen in parents_of(&parents, input) {
                    used.insert((topic.clone(), parents[0].partition, seen.offset));
                    if counts {
                        counting.pair(start, seen.code, code);
                    }
                }
            }
            Ok(())
        })?;
        used.extend(self.dead_letters(node)?);
        for (topic, input) in inputs {
            for (partition, seen) in input.partitions.iter().flat_map(|(p, all)| all.iter().map(move |seen| (p, seen)))
            {
                if self.holds(seen.time) && !used.contains(&(topic.clone(), *partition, seen.offset)) {
                    counting.pair(self.window_of(seen.time), seen.code, DROPPED);
                }
            }
        }
        if node.inputs.is_empty() {
            // The version of a source says only how the outside world is read; the usual one stands for all.
            let usual = versions.iter().max_by_key(|(_, records)| **records).map(|(version, _)| version.clone());
            versions.retain(|version, _| Some(version) == usual.as_ref());
        }
        let mut found = versions.into_keys();
        match (found.next(), found.next()) {
            (Some(version), None) => Ok(version),
            (None, _) => Err(BuildError::Silent { node: node.name.clone() }),
            (Some(first), Some(second)) => {
                let all: Vec<String> = [first, second].into_iter().chain(found).map(String::from).collect();
                Err(BuildError::Versions { node: node.name.clone(), found: all.join(", ") })
            }
        }
    }

    /// Returns the places of the records that a stage refused.
    fn dead_letters(&self, node: &Node) -> Result<Vec<(Topic, Partition, Offset)>, BuildError> {
        let topic = self.plan.name.dead_letter_topic(&node.name);
        let mut places = Vec::new();
        for partition in 0..self.plan.partitions {
            for letter in records(self.broker, TopicPartition::new(topic.clone(), partition))? {
                let letter = letter?;
                let header = |name| letter.headers.get_str(name);
                let place = (|| {
                    let topic = Topic::try_new(header(wire::ERROR_TOPIC)?).ok()?;
                    let partition = header(wire::ERROR_PARTITION)?.parse().ok()?;
                    Some((topic, partition, header(wire::ERROR_OFFSET)?.parse().ok()?))
                })();
                places.extend(place);
            }
        }
        Ok(places)
    }
}

/// Groups parents by topic; they are of one partition each.
fn by_topic(parents: &[RecordId]) -> BTreeMap<Topic, Vec<RecordId>> {
    let mut groups: BTreeMap<Topic, Vec<RecordId>> = BTreeMap::new();
    parents.iter().for_each(|id| groups.entry(id.topic.clone()).or_default().push(id.clone()));
    groups
}

/// Returns the records that an output was made of.
fn parents_of<'a>(named: &[RecordId], input: &'a Log) -> Vec<&'a Seen> {
    let mut found: Vec<&Seen> = named.iter().filter_map(|id| input.find(id.partition, id.offset)).collect();
    let half = wire::MAX_PARENTS / 2;
    if named.len() == wire::MAX_PARENTS && named[half - 1].partition == named[half].partition {
        found.extend(input.between(named[half].partition, named[half - 1].offset, named[half].offset));
    }
    found
}

/// Returns a number that tells a record from others by what it is, not by where it stands: that depends on the broker.
fn hash(message: &Message) -> u64 {
    let Message { key, timestamp, value, .. } = message;
    let mut bytes = blake3::Hasher::new();
    bytes.update(key.as_deref().unwrap_or_default());
    bytes.update(&timestamp.as_millis().to_le_bytes());
    bytes.update(value.as_deref().unwrap_or_default());
    u64_of(&bytes.finalize())
}

fn hash_key(message: &Message) -> u64 {
    u64_of(&blake3::hash(message.key.as_deref().unwrap_or_default()))
}

fn u64_of(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Counts of one node by window, on its bins.
struct Counting {
    ids: (driftline_stats::ReferenceId, driftline_stats::ReferenceId),
    input: Arc<Reference>,
    output: Arc<Reference>,
    windows: BTreeMap<Timestamp, NodeWindow>,
}

impl Counting {
    fn observe_input(&mut self, start: Timestamp, counts: bool, visit: impl FnOnce(&mut dyn SignalVisitor)) -> Code {
        if !counts {
            return self.input.code(visit);
        }
        let window = self.windows.entry(start).or_default();
        window.input.get_or_insert_with(|| ProfileSet::new(Arc::clone(&self.input))).observe(visit)
    }

    fn observe_output(&mut self, start: Timestamp, counts: bool, visit: impl FnOnce(&mut dyn SignalVisitor)) -> Code {
        if !counts {
            return self.output.code(visit);
        }
        let window = self.windows.entry(start).or_default();
        window.output.get_or_insert_with(|| ProfileSet::new(Arc::clone(&self.output))).observe(visit)
    }

    fn pair(&mut self, start: Timestamp, input: Code, output: Code) {
        let window = self.windows.entry(start).or_default();
        window.joint.get_or_insert_with(|| JointProfile::new(self.ids.0, self.ids.1)).observe(input, output);
    }
}

impl Counted {
    /// Sums the windows up and scores each.
    fn baseline(&self, starts: &[Timestamp]) -> Result<NodeBaseline, BuildError> {
        let mut profiles = NodeWindow::default();
        for start in starts {
            if let Some(window) = self.windows.get(start) {
                profiles.merge(window)?;
            }
        }
        let watched = profiles.watchable(self.inputs.len() > 1);
        let series = watched.into_iter().filter_map(|what| self.series(what, &profiles, starts)).collect();
        Ok(NodeBaseline {
            name: self.name.clone(),
            version: self.version.clone(),
            inputs: self.inputs.clone(),
            records: total(&profiles.output),
            input: Arc::clone(&self.input),
            output: Arc::clone(&self.output),
            profiles,
            series,
        })
    }

    fn series(&self, what: What, profiles: &NodeWindow, starts: &[Timestamp]) -> Option<Series> {
        let basis = profiles.basis(&what)?;
        let window = |start: &Timestamp| self.windows.get(start);
        let mut sizes: Vec<u64> =
            starts.iter().filter_map(window).map(|window| window.records(&what)).filter(|&n| n > 0).collect();
        sizes.sort_unstable();
        // A window with a tenth of what is usual says little, and nothing that the others could be compared with.
        let least = sizes.get(sizes.len() / 2).map_or(1, |median| (median / 10).max(1));
        let empty = vec![f32::NAN; basis.len()];
        let scores = starts.iter().flat_map(|start| {
            let known = window(start).filter(|window| window.records(&what) >= least);
            known.and_then(|window| window.scores(&what, &basis)).unwrap_or_else(|| empty.clone())
        });
        let scores = scores.collect();
        Some(Series { what, least, basis, scores })
    }
}

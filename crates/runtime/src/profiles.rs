//! Profiles on their topic: written with the outputs they describe, read back merged.

use std::collections::{BTreeMap, btree_map::Entry};

use driftline_broker::{Broker, BrokerError, records, records_from};
use driftline_stage::operator::{EncodedProfile, Site};
use driftline_stats::{Direction, Profile, ProfileBody, ProfileKey, ReferenceId, References, Window};
use driftline_types::{
    Headers, Message, Offset, Outgoing, Partition, PipelineName, StageName, StageVersion, Timestamp, TopicPartition,
    wire,
};

/// The schema of a profile's bytes, in the `ce_type` header.
const SCHEMA: &str = "profile.v1";

/// Makes the message of a profile. The bytes say what they describe, the header of which partition of the node's input
/// they were made: how far a node is, is known by partition.
pub(crate) fn message(site: &Site, partition: Partition, profile: EncodedProfile) -> Outgoing {
    let mut headers = Headers::default();
    headers.push(wire::CE_TYPE, SCHEMA);
    headers.push(wire::PARTITION, partition.to_string());
    Outgoing {
        topic: site.pipeline.profiles_topic(),
        partition: Some(0),
        key: Some(site.stage.to_string().into()),
        value: Some(profile.bytes.into()),
        headers,
        timestamp: profile.window,
    }
}

/// The profiles of a pipeline, merged over replicas and partitions.
#[derive(Debug, Default)]
pub struct Profiles {
    /// One profile a stage, version, window and direction. Where some were counted on other bins than others, as those from
    /// before a reference was named are, the bins of the newest stand.
    pub merged: BTreeMap<(ProfileKey, Direction), Profile>,
    /// The profiles that are left out because newer ones were counted on other bins.
    pub on_other_bins: u64,
    /// Where the last profile of each version of a node stands: the newest version has the greatest.
    pub last: BTreeMap<(StageName, StageVersion), Offset>,
    /// Messages that could not be read as a profile, by the reason.
    pub unreadable: BTreeMap<String, Unreadable>,
}

/// Messages that could not be read, for one reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where the first stands.
    pub first: (TopicPartition, Offset),
    /// How many there are.
    pub count: u64,
}

impl Profiles {
    /// Reads all profiles of a pipeline that the log holds; `references` are those that they may be counted on.
    /// With `window` set they are merged over all windows into that one.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(
        broker: &dyn Broker,
        pipeline: &PipelineName,
        references: &References,
        window: Option<Window>,
    ) -> Result<Self, BrokerError> {
        let place = TopicPartition::new(pipeline.profiles_topic(), 0);
        let mut profiles = Self::default();
        if broker.describe_topic(&place.topic)?.is_none() {
            return Ok(profiles);
        }
        let mut on_bins = OnBins::new();
        for message in records(broker, place.clone())? {
            let message = message?;
            if let Err(reason) = profiles.add(&mut on_bins, &message, references, window) {
                let first = (place.clone(), message.offset);
                profiles.unreadable.entry(reason).or_insert(Unreadable { first, count: 0 }).count += 1;
            }
        }
        for (key, mut by_bins) in on_bins {
            let newest = by_bins.iter().max_by_key(|(_, counted)| counted.last).map(|(bins, _)| *bins);
            if let Some(counted) = newest.and_then(|bins| by_bins.remove(&bins)) {
                profiles.merged.insert(key, counted.profile);
            }
            profiles.on_other_bins += by_bins.values().map(|counted| counted.messages).sum::<u64>();
        }
        Ok(profiles)
    }

    fn add(
        &mut self,
        on_bins: &mut OnBins,
        message: &Message,
        references: &References,
        window: Option<Window>,
    ) -> Result<(), String> {
        let value = message.value.as_deref().ok_or("no value")?;
        let mut profile = Profile::decode(value, references).map_err(|error| error.to_string())?;
        if let Some(window) = window {
            profile.key.window = window;
        }
        let last = message.offset;
        self.last.insert((profile.key.stage.clone(), profile.key.version.clone()), last);
        let by_bins = on_bins.entry((profile.key.clone(), profile.body.direction())).or_default();
        match by_bins.entry(bins(&profile.body)) {
            Entry::Vacant(entry) => drop(entry.insert(Counted { profile, messages: 1, last })),
            Entry::Occupied(mut entry) => {
                let counted = entry.get_mut();
                counted.profile.merge(&profile).map_err(|error| error.to_string())?;
                counted.messages += 1;
                counted.last = last;
            }
        }
        Ok(())
    }
}

/// Profiles of the same, by the bins that they were counted on.
type OnBins = BTreeMap<(ProfileKey, Direction), BTreeMap<(ReferenceId, ReferenceId), Counted>>;

/// The profiles that were counted on the same bins.
struct Counted {
    profile: Profile,
    messages: u64,
    /// Where the last one stands.
    last: Offset,
}

/// Names the bins that a profile was counted on, of a joint those of its input and of its output.
fn bins(body: &ProfileBody) -> (ReferenceId, ReferenceId) {
    match body {
        ProfileBody::Input(set) | ProfileBody::Output(set) => (set.reference().id(), set.reference().id()),
        ProfileBody::Joint(joint) => (joint.input(), joint.output()),
    }
}

/// Returns the start of the last window of event time among the profiles that stand at `from` and after it; `None` without any.
///
/// # Errors
/// If the log cannot be read.
pub fn last_window(
    broker: &dyn Broker,
    pipeline: &PipelineName,
    from: Offset,
) -> Result<Option<Timestamp>, BrokerError> {
    let place = TopicPartition::new(pipeline.profiles_topic(), 0);
    let mut last: Option<Timestamp> = None;
    for message in records_from(broker, place, from)? {
        last = last.max(Some(message?.timestamp));
    }
    Ok(last)
}

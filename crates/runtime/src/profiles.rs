//! Profiles on their topic: written with the outputs they describe, read back merged.

use std::collections::{BTreeMap, btree_map::Entry};

use driftline_broker::{Broker, BrokerError, records};
use driftline_stage::operator::{EncodedProfile, Site};
use driftline_stats::{Direction, Profile, ProfileKey, References, Window};
use driftline_types::{Headers, Message, Offset, Outgoing, Partition, PipelineName, TopicPartition, wire};

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
    /// One profile a stage, version, window and direction.
    pub merged: BTreeMap<(ProfileKey, Direction), Profile>,
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
        for message in records(broker, place.clone())? {
            let message = message?;
            if let Err(reason) = profiles.add(&message, references, window) {
                let first = (place.clone(), message.offset);
                profiles.unreadable.entry(reason).or_insert(Unreadable { first, count: 0 }).count += 1;
            }
        }
        Ok(profiles)
    }

    fn add(&mut self, message: &Message, references: &References, window: Option<Window>) -> Result<(), String> {
        let value = message.value.as_deref().ok_or("no value")?;
        let mut profile = Profile::decode(value, references).map_err(|error| error.to_string())?;
        if let Some(window) = window {
            profile.key.window = window;
        }
        match self.merged.entry((profile.key.clone(), profile.body.direction())) {
            Entry::Vacant(entry) => drop(entry.insert(profile)),
            Entry::Occupied(mut entry) => {
                entry.get_mut().merge(&profile).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

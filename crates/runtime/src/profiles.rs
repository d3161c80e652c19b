//! Profiles on their topic: written with the outputs they describe, read back merged.

use std::collections::BTreeMap;

use driftline_broker::{Broker, BrokerError, FetchLimit};
use driftline_stage::operator::{Direction, Site, WindowProfile};
use driftline_stats::{JointProfile, ProfileSet};
use driftline_types::{
    Headers, Message, Outgoing, Partition, PipelineName, StageName, StageVersion, Timestamp, TopicPartition,
};

/// On a profile: the stage that wrote it.
pub const STAGE: &str = "driftline-profile-stage";
/// On a profile: the version of that stage.
pub const VERSION: &str = "driftline-profile-version";
/// On a profile: `input`, `output` or `joint`.
pub const DIRECTION: &str = "driftline-profile-direction";
/// On a profile: the partition of the stage's input that it describes.
pub const PARTITION: &str = "driftline-profile-partition";
/// On a profile: the width of its window, milliseconds. Its start is the message's timestamp.
pub const WINDOW: &str = "driftline-profile-window";

/// Makes the message of a profile.
pub(crate) fn message(site: &Site, partition: Partition, profile: WindowProfile) -> Outgoing {
    let mut headers = Headers::with_capacity(5);
    headers.push(STAGE, site.stage.to_string());
    headers.push(VERSION, site.version.to_string());
    headers.push(DIRECTION, profile.direction.as_str());
    headers.push(PARTITION, partition.to_string());
    headers.push(WINDOW, site.window_ms.to_string());
    Outgoing {
        topic: site.pipeline.profiles_topic(),
        partition: Some(0),
        key: Some(site.stage.to_string().into()),
        value: Some(profile.bytes.into()),
        headers,
        timestamp: profile.window,
    }
}

/// What a profile describes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProfileKey {
    /// The stage.
    pub stage: StageName,
    /// Its version.
    pub version: StageVersion,
    /// Input or output.
    pub direction: Direction,
    /// Start of the window.
    pub window: Timestamp,
}

/// The profiles of a pipeline, merged over replicas and partitions.
#[derive(Debug, Default)]
pub struct Profiles {
    /// Signals, by what they describe.
    pub signals: BTreeMap<ProfileKey, ProfileSet>,
    /// Input × output tables, by what they describe.
    pub joints: BTreeMap<ProfileKey, JointProfile>,
    /// Messages that are no profile, with the reason.
    pub unreadable: Vec<String>,
}

impl Profiles {
    /// Reads all profiles of a pipeline that the log holds.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(broker: &dyn Broker, pipeline: &PipelineName) -> Result<Self, BrokerError> {
        let place = TopicPartition::new(pipeline.profiles_topic(), 0);
        let mut profiles = Self::default();
        let Some(topic) = broker.describe_topic(&place.topic)? else {
            return Ok(profiles);
        };
        let mut from = topic.partitions.first().map_or(0, |ends| ends.low);
        loop {
            let messages = broker.read(&place, from, FetchLimit { records: 4096, bytes: 8 << 20 })?;
            let Some(last) = messages.last() else {
                return Ok(profiles);
            };
            from = last.offset + 1;
            for message in &messages {
                if let Err(reason) = profiles.add(message) {
                    profiles.unreadable.push(format!("{}/{}: {reason}", place, message.offset));
                }
            }
        }
    }

    /// Merges the windows of each stage, version and direction into one.
    #[must_use]
    pub fn over_all_windows(self) -> Self {
        let mut merged = Self { unreadable: self.unreadable, ..Self::default() };
        let whole = |key: ProfileKey| ProfileKey { window: Timestamp::default(), ..key };
        for (key, set) in self.signals {
            if let Err(reason) = merge_set(&mut merged.signals, whole(key), set) {
                merged.unreadable.push(reason);
            }
        }
        for (key, joint) in self.joints {
            merged.joints.entry(whole(key)).or_default().merge(&joint);
        }
        merged
    }

    fn add(&mut self, message: &Message) -> Result<(), String> {
        let header = |name| message.headers.get_str(name).ok_or_else(|| format!("header {name} is missing"));
        let direction = match header(DIRECTION)? {
            "input" => Direction::Input,
            "output" => Direction::Output,
            "joint" => Direction::Joint,
            other => return Err(format!("direction {other:?}, allowed are input, output and joint")),
        };
        let key = ProfileKey {
            stage: StageName::try_new(header(STAGE)?).map_err(|error| error.to_string())?,
            version: StageVersion::try_new(header(VERSION)?).map_err(|error| error.to_string())?,
            direction,
            window: message.timestamp,
        };
        let value = message.value.as_deref().ok_or("no value")?;
        if direction == Direction::Joint {
            let joint = JointProfile::decode(value).map_err(|error| error.to_string())?;
            self.joints.entry(key).or_default().merge(&joint);
            return Ok(());
        }
        let set = ProfileSet::decode(value).map_err(|error| error.to_string())?;
        merge_set(&mut self.signals, key, set)
    }
}

fn merge_set(sets: &mut BTreeMap<ProfileKey, ProfileSet>, key: ProfileKey, set: ProfileSet) -> Result<(), String> {
    match sets.entry(key) {
        std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(set)),
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            entry.get_mut().merge(&set).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

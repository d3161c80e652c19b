//! Names of pipelines, stages, topics and groups: validated once, cheap to clone.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A name that is not allowed, with the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {found:?}: allowed are 1 to {max} characters of {allowed}")]
pub struct NameError {
    what: &'static str,
    found: String,
    max: usize,
    allowed: &'static str,
}

/// Longest topic name that Kafka takes.
const MAX_TOPIC: usize = 249;
/// Longest pipeline or stage name: a topic holds two of them and a suffix.
const MAX_NAME: usize = 100;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $allowed:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            /// If the name is empty, too long or holds a character that is not allowed.
            pub fn try_new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                let valid: fn(u8) -> bool = $valid;
                if !name.is_empty() && name.len() <= $max && name.bytes().all(valid) {
                    return Ok(Self(name.into()));
                }
                Err(NameError { what: $what, found: name.chars().take(64).collect(), max: $max, allowed: $allowed })
            }

            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::try_new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

name!(
    /// The name of a pipeline; the first part of each of its topics.
    PipelineName, "pipeline name", MAX_NAME, "a-z, 0-9, '-' and '_'",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
);
name!(
    /// The name of a source, stage or sink within its pipeline.
    StageName, "stage name", MAX_NAME, "a-z, 0-9, '-' and '_'",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
);
name!(
    /// The name of a topic, valid on Kafka too.
    Topic, "topic", MAX_TOPIC, "a-z, A-Z, 0-9, '.', '-' and '_'",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
);
name!(
    /// The name of a consumer group.
    GroupId, "consumer group", MAX_TOPIC, "a-z, A-Z, 0-9, '.', '-' and '_'",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
);
name!(
    /// The hash of a stage's model files, config and build. Profiles of different versions are
    /// never merged.
    StageVersion, "stage version", MAX_NAME, "a-z, A-Z, 0-9, '.', '-' and '_'",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
);

impl PipelineName {
    /// Returns the output topic of a source or stage: `<pipeline>.<stage>`.
    #[must_use]
    pub fn output_topic(&self, stage: &StageName) -> Topic {
        self.topic_of(stage.as_str())
    }

    /// Returns the dead-letter topic of a source, stage or sink: `<pipeline>.<stage>.dlq`.
    #[must_use]
    pub fn dead_letter_topic(&self, stage: &StageName) -> Topic {
        self.topic_of(&format!("{stage}.dlq"))
    }

    /// Returns the compacted changelog of a stage's keyed state: `<pipeline>.<stage>.state`.
    #[must_use]
    pub fn state_topic(&self, stage: &StageName) -> Topic {
        self.topic_of(&format!("{stage}.state"))
    }

    /// Returns the topic that holds the profiles of every stage: `<pipeline>.profiles`.
    #[must_use]
    pub fn profiles_topic(&self) -> Topic {
        self.topic_of("profiles")
    }

    /// Returns the topic that holds what users did with predictions: `<pipeline>.feedback`.
    #[must_use]
    pub fn feedback_topic(&self) -> Topic {
        self.topic_of("feedback")
    }

    /// Returns the topic that holds what stages answered to probes: `<pipeline>.probes`.
    #[must_use]
    pub fn probes_topic(&self) -> Topic {
        self.topic_of("probes")
    }

    /// Returns the topic of alarms: `<pipeline>.alarms`.
    #[must_use]
    pub fn alarms_topic(&self) -> Topic {
        self.topic_of("alarms")
    }

    /// Returns the topic of requests to the monitor: `<pipeline>.control`.
    #[must_use]
    pub fn control_topic(&self) -> Topic {
        self.topic_of("control")
    }

    /// Returns the compacted topic of what the monitor remembers: `<pipeline>.monitor.state`.
    #[must_use]
    pub fn monitor_state_topic(&self) -> Topic {
        self.topic_of("monitor.state")
    }

    /// Returns the consumer group of the monitor: `<pipeline>.monitor`.
    #[must_use]
    pub fn monitor_group(&self) -> GroupId {
        GroupId(format!("{self}.monitor").into())
    }

    /// Returns the consumer group of a stage or sink: `<pipeline>.<stage>`.
    #[must_use]
    pub fn group(&self, stage: &StageName) -> GroupId {
        GroupId(format!("{self}.{stage}").into())
    }

    // Both parts are validated and at most `MAX_NAME` long, so the result always is a topic.
    fn topic_of(&self, rest: &str) -> Topic {
        Topic(format!("{self}.{rest}").into())
    }
}

/// The schema of a payload, such as `speech-segment.v1`; edges of the graph are checked on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SchemaId(&'static str);

impl SchemaId {
    /// Names a schema.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Returns the schema as it stands in the `ce_type` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_built_from_the_pipeline() {
        let pipeline = PipelineName::try_new("speech").unwrap();
        let vad = StageName::try_new("vad").unwrap();
        assert_eq!(pipeline.output_topic(&vad).as_str(), "speech.vad");
        assert_eq!(pipeline.dead_letter_topic(&vad).as_str(), "speech.vad.dlq");
        assert_eq!(pipeline.profiles_topic().as_str(), "speech.profiles");
    }

    #[test]
    fn a_bad_name_says_what_is_allowed() {
        let error = StageName::try_new("Vad stage").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid stage name \"Vad stage\": allowed are 1 to 100 characters of a-z, 0-9, '-' and '_'"
        );
        assert!(StageName::try_new("").is_err());
        assert!(Topic::try_new("x".repeat(250)).is_err());
    }
}

//! One record as one line.

use driftline_types::{Context, Message, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Whether a line names its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// As `record`.
    Shown,
    /// Not at all.
    Hidden,
}

/// Appends a record's line, with what its context says, newline included: the members of its value as they are, then
///
/// ```json
/// "timings_ms": {"vad": 0.41, "asr": 12.5, "search": 0.2, "total": 19.87}, "versions": {"vad": "…"}
/// ```
///
/// and before them `"record": "speech.search/0/17/0"`, the record's place in the log, if ids are shown;
/// with the time each stage took and the time since the source wrote the record, in milliseconds
/// to two decimals. A value that is no object, or has a member of one of these names, stands as member
/// `value` of a new one; no value at all is `null`.
///
/// # Errors
/// If the value is no JSON.
pub(super) fn write_line(
    message: &Message,
    context: &Context,
    now: Timestamp,
    ids: Ids,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let bytes = message.value.as_deref().unwrap_or(b"null");
    let value: &RawValue = serde_json::from_slice(bytes)?;
    out.push(b'{');
    match members(value, ids) {
        Some("") => {}
        // White space is all that line breaks can be in JSON.
        Some(members) => out.extend(members.bytes().map(space).chain([b','])),
        None => {
            out.extend_from_slice(b"\"value\":");
            out.extend(value.get().bytes().map(space));
            out.push(b',');
        }
    }
    if ids == Ids::Shown {
        // A topic's name has no character that JSON would escape.
        out.extend_from_slice(format!("\"record\":\"{}\",", context.id).as_bytes());
    }
    out.extend_from_slice(b"\"timings_ms\":");
    serde_json::to_writer(&mut *out, &Timings(context, now))?;
    out.extend_from_slice(b",\"versions\":");
    serde_json::to_writer(&mut *out, &Versions(context))?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn space(byte: u8) -> u8 {
    if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }
}

/// Returns what stands between the braces of an object that has none of the members added here.
fn members(value: &RawValue, ids: Ids) -> Option<&str> {
    /// The members added here, if an object has them.
    #[derive(serde::Deserialize)]
    struct Added {
        #[serde(default)]
        timings_ms: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        versions: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        record: Option<serde::de::IgnoredAny>,
    }
    let inner = value.get().strip_prefix('{')?.strip_suffix('}')?;
    // An object with a member twice fails, and is wrapped like one with a member of that name.
    let added: Added = serde_json::from_str(value.get()).ok()?;
    let named = ids == Ids::Shown && added.record.is_some();
    (added.timings_ms.is_none() && added.versions.is_none() && !named).then(|| inner.trim())
}

struct Timings<'a>(&'a Context, Timestamp);

impl Serialize for Timings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(context, now) = self;
        let total = now.as_millis().saturating_sub(context.ingested.as_millis()) as f64;
        let stages = context.timings.iter().map(|timing| (timing.stage.as_str(), (timing.ms * 100.0).round() / 100.0));
        serializer.collect_map(stages.chain([("total", total)]))
    }
}

struct Versions<'a>(&'a Context);

impl Serialize for Versions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.versions.iter().map(|(stage, version)| (stage.as_str(), version.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use driftline_types::{
        Headers, Topic,
        wire::{self, Reader},
    };
    use proptest::prelude::*;

    use super::*;

    fn message(value: Option<&[u8]>) -> Message {
        let mut headers = Headers::default();
        headers.push(wire::TIMINGS, "vad=0.414,asr=12.5");
        headers.push(wire::VERSIONS, "vad=abc,asr=def");
        headers.push(wire::INGESTED, "1000");
        Message {
            topic: Topic::try_new("speech.search").unwrap(),
            partition: 0,
            offset: 0,
            key: None,
            value: value.map(|value| value.to_vec().into()),
            headers,
            timestamp: Timestamp::from_millis(0),
        }
    }

    fn written(message: &Message, now: i64, ids: Ids, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let context = Reader::default().context(message);
        write_line(message, &context, Timestamp::from_millis(now), ids, out)
    }

    fn line(value: Option<&[u8]>) -> String {
        let mut out = Vec::new();
        written(&message(value), 1_020, Ids::Hidden, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const ADDED: &str = r#""timings_ms":{"vad":0.41,"asr":12.5,"total":20.0},"versions":{"vad":"abc","asr":"def"}}"#;

    #[test]
    fn members_keep_their_order_and_form() {
        let value = br#"{"session":"a","segment":0,"confidence":0.250,"results":[{"id":"x"}]}"#;
        let expected = r#"{"session":"a","segment":0,"confidence":0.250,"results":[{"id":"x"}],"#;
        assert_eq!(line(Some(value)), format!("{expected}{ADDED}\n"));
    }

    #[test]
    fn a_line_may_name_its_record() {
        let mut out = Vec::new();
        written(&message(Some(b"{}")), 1_020, Ids::Shown, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{\"record\":\"speech.search/0/0/0\",{ADDED}\n"));
    }

    #[test]
    fn what_is_no_object_is_wrapped() {
        assert_eq!(line(Some(b"[1,\n2]")), format!("{{\"value\":[1, 2],{ADDED}\n"));
        assert_eq!(line(None), format!("{{\"value\":null,{ADDED}\n"));
        assert_eq!(line(Some(b"{}")), format!("{{{ADDED}\n"));
        assert_eq!(line(Some(b"{\"versions\":1}")), format!("{{\"value\":{{\"versions\":1}},{ADDED}\n"));
    }

    #[test]
    fn what_is_no_json_is_an_error_and_leaves_nothing() {
        let mut out = b"before\n".to_vec();
        assert!(written(&message(Some(b"RIFF")), 0, Ids::Shown, &mut out).is_err());
        assert_eq!(out, b"before\n");
    }

    proptest! {
        /// Whatever JSON the value is, the line is one line, and one JSON object that holds it.
        #[test]
        fn every_line_is_one_json_object(text in "[ \\n]*(\\{\"[a-z]{1,3}\":[0-9]{1,3}[ \\r\\n]*\\}|\"[a-z\\\\n]{0,4}\"|[0-9]{1,4}|null|\\[\\])[ \\n]*") {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) else { return Ok(()) };
            let line = line(Some(text.as_bytes()));
            prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
            match value {
                serde_json::Value::Object(members) => {
                    for (name, member) in members {
                        prop_assert_eq!(object.get(&name), Some(&member));
                    }
                }
                other => prop_assert_eq!(object.get("value"), Some(&other)),
            }
        }
    }
}

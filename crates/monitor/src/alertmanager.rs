//! Alarms in Alertmanager's webhook format, version 4: what most receivers of alerts understand.

use driftline_types::{StageName, Timestamp};
use serde_json::{Value, json};

use crate::{Alarm, AlarmState, Severity};

/// Makes the body of a notification; `None` of an alarm that nobody is called for: it is pending, or was never more.
#[must_use]
pub fn alertmanager(alarm: &Alarm) -> Option<Value> {
    let fired = alarm.fired?;
    let resolved = alarm.state == AlarmState::Resolved;
    let status = if resolved { "resolved" } else { "firing" };
    let severity = match alarm.severity {
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    let name = alarm.id.rsplit_once('-').map_or(alarm.id.as_str(), |(name, _)| name);
    let labels = json!({
        "alertname": format!("driftline-{name}"),
        "pipeline": alarm.pipeline,
        "stage": alarm.origin.as_ref().map_or("", StageName::as_str),
        "severity": severity,
        "alarm": alarm.id,
    });
    let changes = alarm.signals.iter().filter(|signal| !signal.change.is_empty());
    let changes: Vec<String> =
        changes.map(|signal| format!("{} {}: {}", signal.node, signal.what, signal.change)).collect();
    let annotations = json!({ "summary": alarm.summary, "description": changes.join("\n") });
    // An alert that goes on ends at the zero time.
    let ends = if resolved { alarm.updated.to_string() } else { "0001-01-01T00:00:00Z".to_owned() };
    let started = alarm.onset.unwrap_or(fired).min(fired);
    Some(json!({
        "version": "4",
        "groupKey": format!("{{}}:{{pipeline={:?}, alarm={:?}}}", alarm.pipeline.as_str(), alarm.id),
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "driftline",
        "groupLabels": { "pipeline": alarm.pipeline, "alarm": alarm.id },
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [{
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": Timestamp::to_string(&started),
            "endsAt": ends,
            "generatorURL": "",
            "fingerprint": format!("{}/{}", alarm.pipeline, alarm.id),
        }],
    }))
}

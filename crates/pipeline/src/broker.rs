//! What `[broker]` may say, beyond the types of its values.

use driftline_types::config::ConfigProblem;
use toml::{Table, Value};

/// Keys that only an embedded log has.
const EMBEDDED: [&str; 2] = ["path", "durability"];
/// Keys that only a Kafka cluster has.
const KAFKA: [&str; 5] = ["bootstrap_servers", "delivery", "prefix", "replication", "properties"];
/// Properties whose value does not stand in a file that is shared.
const SECRETS: [&str; 3] = ["sasl.password", "ssl.key.password", "ssl.key.pem"];

/// Finds keys of the other kind of broker, properties that are not allowed, and secrets in plain sight.
pub(crate) fn check(table: &Table, properties: &[&str]) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let mut problem = |path: &[&str], message: String| {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        problems.push(ConfigProblem { path, found: None, message });
    };
    let kafka = table.get("kind").and_then(Value::as_str) == Some("kafka");
    let (others, kind) = if kafka { (&EMBEDDED[..], "embedded") } else { (&KAFKA[..], "kafka") };
    for key in others.iter().filter(|&&key| table.contains_key(key)) {
        problem(&[key], format!("is only allowed with broker.kind = {kind:?}"));
    }
    if !kafka {
        return problems;
    }
    if !table.contains_key("bootstrap_servers") {
        problem(&["bootstrap_servers"], "is missing, allowed is a list of brokers: \"HOST:PORT,HOST:PORT\"".into());
    }
    let Some(Value::Table(found)) = table.get("properties") else { return problems };
    for (name, value) in found {
        if !properties.contains(&name.as_str()) {
            problems.push(ConfigProblem::unknown_key(vec!["properties".into(), name.clone()], properties));
        } else if SECRETS.contains(&name.as_str()) && !value.is_table() {
            let message = "a secret does not stand in the file, allowed are { file = \"PATH\" } and { env = \"NAME\" }";
            let path = vec!["properties".into(), name.clone()];
            problems.push(ConfigProblem { path, found: None, message: message.into() });
        }
    }
    problems
}

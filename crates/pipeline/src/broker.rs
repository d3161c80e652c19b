//! What `[broker]` may say, beyond the types of its values.

use driftline_types::config::ConfigProblem;
use toml::{Table, Value};

/// Keys that only an embedded log has.
const EMBEDDED: [&str; 2] = ["path", "durability"];
/// Keys that only a Kafka cluster has.
const KAFKA: [&str; 6] = ["bootstrap_servers", "delivery", "prefix", "replication", "properties", "token"];
/// Properties that hold paths.
pub(crate) const CERTIFICATES: [&str; 3] = ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"];
/// Stands for the system's own authorities in the place of a path.
pub(crate) const PROBE: &str = "probe";
/// Properties whose value does not stand in a file that is shared.
const SECRETS: [&str; 3] = ["sasl.password", "ssl.key.password", "ssl.key.pem"];
/// Mechanisms by which a client sends its password or token as it is.
const SHOWS_SECRET: [&str; 2] = ["PLAIN", "OAUTHBEARER"];
/// What is said of a secret that does.
const SECRET: &str = "a secret does not stand in the file, allowed are { file = \"PATH\" } and { env = \"NAME\" }";

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
    if let Some((path, message)) = login_problem(table) {
        problem(path, message);
    }
    let Some(Value::Table(found)) = table.get("properties") else { return problems };
    for (name, value) in found {
        if !properties.contains(&name.as_str()) {
            problems.push(ConfigProblem::unknown_key(vec!["properties".into(), name.clone()], properties));
        } else if SECRETS.contains(&name.as_str()) && !value.is_table() {
            let path = vec!["properties".into(), name.clone()];
            problems.push(ConfigProblem { path, found: None, message: SECRET.into() });
        }
    }
    problems
}

/// What does not fit between the token and the properties that say to show it, and between a secret that is shown as it is and the
/// connection it is shown on.
fn login_problem(table: &Table) -> Option<(&'static [&'static str], String)> {
    let token = table.get("token");
    // What stands elsewhere is not known here; Kafka's client judges it.
    let property = |name, default| match table.get("properties").and_then(|properties| properties.get(name)) {
        None => Some(default),
        Some(value) => value.as_str(),
    };
    let (mechanism, protocol) = (property("sasl.mechanism", "none"), property("security.protocol", "plaintext"));
    match token {
        None if mechanism == Some("OAUTHBEARER") => {
            let missing = "is missing, allowed with \"OAUTHBEARER\" are { file = \"PATH\" } and { env = \"NAME\" }";
            return Some((&["token"], missing.to_owned()));
        }
        Some(token) if !token.is_table() => return Some((&["token"], SECRET.to_owned())),
        Some(_) => {
            if let Some(found) = mechanism.filter(|&found| found != "OAUTHBEARER") {
                let message = format!("found {found:?}, allowed with broker.token is \"OAUTHBEARER\"");
                return Some((&["properties", "sasl.mechanism"], message));
            }
        }
        None => {}
    }
    let mechanism = mechanism.filter(|mechanism| SHOWS_SECRET.contains(mechanism))?;
    let found = protocol.filter(|found| !found.eq_ignore_ascii_case("sasl_ssl"))?;
    let message = format!("found {found:?}, allowed with {mechanism:?} is \"sasl_ssl\": others could read the secret");
    Some((&["properties", "security.protocol"], message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_fits_together_and_shows_secrets_only_under_tls() {
        let told = |text: &str| {
            login_problem(&text.parse().unwrap()).map(|(path, message)| format!("{}: {message}", path.join(".")))
        };
        let properties = |mechanism: &str, protocol: &str| {
            format!("[properties]\n\"sasl.mechanism\" = {mechanism}\n\"security.protocol\" = {protocol}\n")
        };
        let right = properties("\"OAUTHBEARER\"", "\"SASL_SSL\"");
        let token = "token = { file = \"/run/secrets/token\" }\n";
        assert_eq!(told(""), None);
        assert_eq!(told(&properties("\"PLAIN\"", "\"sasl_ssl\"")), None);
        assert_eq!(told(&properties("\"SCRAM-SHA-512\"", "\"sasl_plaintext\"")), None);
        assert_eq!(told(&format!("{token}{right}")), None);
        assert_eq!(told(&format!("{token}{}", properties("{ env = \"M\" }", "{ env = \"P\" }"))), None);
        for (text, expected) in [
            (right.clone(), "token: is missing, allowed with \"OAUTHBEARER\" are { file"),
            (format!("token = \"hunter2\"\n{right}"), "token: a secret does not stand in the file, allowed are { file"),
            (
                token.to_owned(),
                "properties.sasl.mechanism: found \"none\", allowed with broker.token is \"OAUTHBEARER\"",
            ),
            (
                format!("{token}{}", properties("\"PLAIN\"", "\"sasl_ssl\"")),
                "properties.sasl.mechanism: found \"PLAIN\", allowed with broker.token is \"OAUTHBEARER\"",
            ),
            (
                format!("{token}{}", properties("\"OAUTHBEARER\"", "\"ssl\"")),
                "properties.security.protocol: found \"ssl\", allowed with \"OAUTHBEARER\" is \"sasl_ssl\": others",
            ),
            (
                properties("\"PLAIN\"", "\"SASL_PLAINTEXT\""),
                "properties.security.protocol: found \"SASL_PLAINTEXT\", allowed with \"PLAIN\" is \"sasl_ssl\": others",
            ),
        ] {
            let told = told(&text).unwrap();
            assert!(told.starts_with(expected) && !told.contains("hunter2"), "{told}");
        }
    }
}

//! What `docker-compose.yml` and `deploy/` say against what there is: binaries, arguments, ports, files, metrics; and what
//! `deploy/kafka-local` refuses.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    process::Command,
};

use driftline::root;
use driftline_runtime::telemetry::{METRICS, prometheus_label};
use serde_json::Value;

/// Reads a YAML file, merge keys applied.
fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    value.apply_merge().unwrap();
    serde_json::to_value(value).unwrap()
}

/// A service that runs one of our binaries.
struct Service {
    name: String,
    binary: String,
    arguments: Vec<String>,
    definition: Value,
}

impl Service {
    /// The values of an option, however often it is given.
    fn values(&self, option: &str) -> Vec<&str> {
        let pairs = self.arguments.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    fn setting(&self, key: &str) -> &str {
        let start = format!("{key}=");
        let value = self.values("--set").into_iter().find_map(|setting| setting.strip_prefix(start.as_str()));
        value.unwrap_or_else(|| panic!("{}: no --set {key}", self.name))
    }

    fn pipeline(&self) -> &str {
        let path = self.arguments.iter().find(|argument| argument.ends_with(".toml")).unwrap();
        path.strip_prefix("/etc/driftline/").unwrap()
    }
}

fn services() -> Vec<Service> {
    let compose = yaml("docker-compose.yml");
    let ours = compose["services"].as_object().unwrap().iter().filter(|(_, service)| service["image"] == "driftline");
    ours.map(|(name, service)| Service {
        name: name.clone(),
        binary: service["entrypoint"].as_str().unwrap().to_owned(),
        arguments: service["command"].as_str().unwrap().split_whitespace().map(str::to_owned).collect(),
        definition: service.clone(),
    })
    .collect()
}

#[test]
fn every_process_runs_a_binary_that_is_built_with_arguments_it_takes() {
    let services = services();
    assert!(services.len() >= 5);
    let mut run = BTreeSet::new();
    for service in &services {
        let known =
            service.binary == "driftline" || root().join(format!("crates/cli/src/bin/{}.rs", service.binary)).exists();
        assert!(known, "{}: no binary {}", service.name, service.binary);
        let nodes: Vec<&str> = if service.binary == "driftline-monitor" {
            assert_eq!(service.values("--pipeline").len(), 1, "{}", service.name);
            Vec::new()
        } else if service.binary == "driftline" {
            assert_eq!(service.arguments[0], "run", "{}", service.name);
            service.values("--only").into_iter().flat_map(|names| names.split(',')).collect()
        } else {
            assert_eq!(service.values("--pipeline").len(), 1, "{}", service.name);
            assert_eq!(service.values("--stage"), [service.binary.strip_prefix("driftline-").unwrap()]);
            service.values("--stage")
        };
        assert!(!nodes.is_empty() || service.binary == "driftline-monitor", "{} runs everything", service.name);
        run.extend(nodes.into_iter().map(str::to_owned));
        let mut validate = driftline::driftline(&["validate", service.pipeline()]);
        for setting in service.values("--set") {
            validate.args(["--set", &setting.replace("/etc/driftline/", "")]);
        }
        let output = validate.output().unwrap();
        assert!(output.status.success(), "{}: {}", service.name, String::from_utf8_lossy(&output.stderr));
        for option in service.arguments.iter().filter(|argument| argument.starts_with("--")) {
            let allowed = ["--set", "--only", "--follow", "--pipeline", "--stage"];
            assert!(allowed.contains(&option.as_str()), "{}: {option}", service.name);
        }
    }
    let table: toml::Table = fs::read_to_string(root().join(services[0].pipeline())).unwrap().parse().unwrap();
    let nodes =
        ["sources", "stages", "sinks"].into_iter().flat_map(|section| table[section].as_table().unwrap().keys());
    assert_eq!(run, nodes.cloned().collect(), "every node runs somewhere");
}

#[test]
fn ports_and_hosts_meet() {
    let compose = yaml("docker-compose.yml");
    let collector = yaml("deploy/otel-collector.yaml");
    let prometheus = yaml("deploy/prometheus.yml");
    let scraped = &prometheus["scrape_configs"][0]["dns_sd_configs"][0];
    let received = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].as_str().unwrap();
    let listeners = compose["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str().unwrap();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    for service in services() {
        let served = port(service.setting("telemetry.prometheus"));
        assert_eq!(scraped["port"].to_string(), served, "{}", service.name);
        assert!(scraped["names"].as_array().unwrap().contains(&service.name.clone().into()), "{}", service.name);
        let check = service.definition["healthcheck"]["test"].to_string();
        assert!(check.contains(&format!(":{served}/readyz")), "{}: {check}", service.name);
        // What one counts on is what the other compares with.
        let reference = service.setting("monitor.reference").strip_prefix("/etc/driftline/").unwrap();
        assert!(root().join(reference).exists(), "{}: {reference}", service.name);
        let sent = service.setting("telemetry.otlp");
        assert_eq!(port(sent), port(received), "{}", service.name);
        assert!(sent.starts_with("http://collector:"), "{}", service.name);
        assert!(listeners.ends_with(service.setting("broker.bootstrap_servers")), "{}", service.name);
        assert!(service.definition["deploy"]["resources"]["limits"]["memory"].is_string(), "{}", service.name);
    }
    for service in ["vad", "monitor"] {
        assert_eq!(compose["services"][service]["deploy"]["replicas"], 2);
    }
    let jaeger = collector["exporters"]["otlp/jaeger"]["endpoint"].as_str().unwrap();
    assert!(compose["services"].get(jaeger.split(':').next().unwrap()).is_some());
}

#[test]
fn what_is_mounted_is_there() {
    let compose = yaml("docker-compose.yml");
    let volumes: BTreeSet<&str> = compose["volumes"].as_object().unwrap().keys().map(String::as_str).collect();
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let there = source.strip_prefix("./").map_or(volumes.contains(source), |path| root().join(path).exists());
            assert!(there, "{name} mounts {source}");
        }
    }
    assert!(root().join(services()[0].definition["build"]["dockerfile"].as_str().unwrap()).exists());
}

/// Every name in a dashboard's queries that looks like a metric.
fn metrics_in(query: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in query.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            words.last_mut().unwrap().push(c);
        } else {
            words.push(String::new());
        }
    }
    let prefixes = ["driftline_", "messaging_", "process_"];
    words.into_iter().filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect()
}

#[test]
fn every_panel_asks_for_metrics_that_are_served() {
    let served: BTreeMap<String, &str> =
        METRICS.iter().flat_map(|metric| metric.prometheus_series().into_iter().map(|s| (s, metric.name))).collect();
    let dashboard: Value =
        serde_json::from_slice(&fs::read(root().join("deploy/grafana/dashboards/driftline.json")).unwrap()).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    // Those of our metrics, and those that Prometheus gives to all it fetches.
    let mut labels: BTreeSet<String> =
        METRICS.iter().flat_map(|metric| metric.attributes).map(|attribute| prometheus_label(attribute)).collect();
    labels.insert("instance".into());
    for rule in yaml("deploy/prometheus.yml")["scrape_configs"][0]["relabel_configs"].as_array().unwrap() {
        labels.insert(rule["target_label"].as_str().unwrap().into());
    }
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let repeated = panel.get("repeat");
        assert!(repeated.is_none_or(|name| variables.iter().any(|variable| variable["name"] == *name)), "{repeated:?}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            for label in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let label = label.split("}}").next().unwrap();
                assert!(labels.contains(label), "{}: {label}, there are {labels:?}", panel["title"]);
            }
            let query = target["expr"].as_str().unwrap();
            let metrics = metrics_in(query);
            assert!(!metrics.is_empty(), "{}: {query}", panel["title"]);
            for metric in metrics {
                assert!(served.contains_key(&metric), "{}: {metric}, served are {served:?}", panel["title"]);
                asked.insert(metric);
            }
        }
    }
    assert!(asked.len() >= 10);
    let of_the_monitor = served.keys().filter(|series| series.starts_with("driftline_monitor_"));
    of_the_monitor.for_each(|series| assert!(asked.contains(series), "no panel asks for {series}"));
    for variable in variables {
        for metric in metrics_in(variable["query"].as_str().unwrap()) {
            assert!(served.contains_key(&metric), "{}: {metric}", variable["name"]);
        }
    }
}

/// Runs `deploy/kafka-local` to its end, which must be a failure, and returns what it says.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(root().join("deploy/kafka-local")).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_local_kafka_names_the_option_that_is_wrong() {
    assert_eq!(refused(&["start", "--brokers"]), "kafka-local: --brokers needs a value\n");
    assert_eq!(refused(&["start", "--brokers", "2"]), "kafka-local: --brokers: found 2, allowed are 1 and 3\n");
}

#[test]
fn a_local_kafka_does_not_start_on_a_port_that_is_taken() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let kafka = folder.path().join("kafka");
    let said = refused(&["start", "--port", &port, "--dir", kafka.to_str().unwrap()]);
    assert!(said.contains(&format!("port {port} is taken")), "{said}");
    assert!(!kafka.exists(), "nothing is left to stop");
}

#[test]
fn a_local_kafka_ends_no_process_but_its_brokers() {
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = folder.path().join("broker-1");
    fs::create_dir(&broker).unwrap();
    fs::write(broker.join("pid"), other.id().to_string()).unwrap();
    let directory = folder.path().to_str().unwrap();
    let said = refused(&["start", "--dir", directory]);
    assert!(said.contains("no Kafka runs in it") && said.contains("stop it first"), "{said}");
    let mut stop = Command::new(root().join("deploy/kafka-local"));
    let output = stop.args(["stop", "--dir", directory]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.path().exists());
    assert!(other.try_wait().unwrap().is_none(), "another process with the number of a broker was ended");
    other.kill().unwrap();
    other.wait().unwrap();
}

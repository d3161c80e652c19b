//! Bearer tokens (OAUTHBEARER): let in with one, past the life of several, and kept out without; passwords
//! (SCRAM, PLAIN); and certificates of both sides. All over TLS.
//!
//! `deploy/kafka-local` asks for tokens and passwords 200 above the port it prints. It takes any token without a signature that has not
//! expired, and lets its bearer do what `kafka-local acl` has allowed; it knows one user with a password. 300 above, its
//! clients show a certificate as it does: that of `deploy/kafka`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use driftline_broker::{Broker, BrokerError, Delivery, Kafka, KafkaConfig, TokenSource};

use crate::{
    config,
    contract::{ANY, assigned, group, keep_all, messages, offset, place, read_all, to, topic, unit},
    servers,
};

/// A token as Kafka's own validator for tests takes it, or one with a signature, which it does not.
fn token(name: &str, life_s: i64, signature: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let algorithm = if signature.is_empty() { "none" } else { "RS256" };
    let claims = format!(r#"{{"sub":"{name}","iat":{now},"exp":{}}}"#, now + life_s);
    format!("{}.{}.{}", part(format!(r#"{{"alg":"{algorithm}"}}"#)), part(claims), part(signature.to_owned()))
}

/// The settings of a client that comes by another port than the one that is printed.
fn above(ports: u16) -> KafkaConfig {
    let mut config = config(Delivery::ExactlyOnce);
    let (host, port) = config.bootstrap_servers.split(',').next().unwrap().rsplit_once(':').unwrap();
    config.bootstrap_servers = format!("{host}:{}", port.parse::<u16>().unwrap() + ports);
    config
}

/// The settings of a client that comes by the listener which asks who comes.
fn with_login(mechanism: &str) -> KafkaConfig {
    let mut config = above(200);
    config.properties.insert("security.protocol".into(), "sasl_ssl".into());
    config.properties.insert("ssl.ca.pem".into(), pem("local-certificate.pem"));
    config.properties.insert("sasl.mechanism".into(), mechanism.into());
    config
}

/// The settings of a client that shows what `read` returns.
fn with_token(read: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> KafkaConfig {
    KafkaConfig { token: Some(TokenSource::new(read)), ..with_login("OAUTHBEARER") }
}

/// The settings of the user with a password.
fn with_password(mechanism: &str, password: &str) -> KafkaConfig {
    let mut config = with_login(mechanism);
    config.properties.insert("sasl.username".into(), "driftline".into());
    config.properties.insert("sasl.password".into(), password.into());
    config
}

fn allow_all(name: &str, prefix: &str) {
    allow(name, "All", &["--topic", prefix, "--group", prefix, "--transactional-id", prefix]);
}

/// Allows an operation on all that begins with names.
fn allow(name: &str, operation: &str, names: &[&str]) {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kafka-local");
    let principal = format!("User:{name}");
    let allowed = Command::new(tool)
        .args(["acl", &servers().unwrap(), "--add", "--allow-principal", &principal, "--operation", operation])
        .args(["--resource-pattern-type", "prefixed"])
        .args(names)
        .output()
        .unwrap();
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));
}

/// Every kind of client works on past the life of its token, and the cluster closes connections whose token has expired.
#[test]
fn a_token_is_renewed_before_it_expires() {
    if servers().is_none() {
        return;
    }
    /// Seconds.
    const LIFE: i64 = 12;
    let name = format!("bearer-{}", std::process::id());
    let read = Arc::new(AtomicUsize::new(0));
    let (counted, bearer) = (Arc::clone(&read), name.clone());
    let config = with_token(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{}\n", token(&bearer, LIFE, "")))
    });
    allow_all(&name, &config.prefix);
    let (input, output) = (topic("in"), topic("out"));
    // The client's admin part takes no token: topics are made by somebody else.
    let tools = Kafka::connect(KafkaConfig { prefix: config.prefix.clone(), ..self::config(Delivery::AtLeastOnce) });
    for topic in [&input, &output] {
        tools.as_ref().unwrap().create_topic(topic, &keep_all(1)).unwrap();
    }
    let broker = Kafka::connect(config).unwrap();
    let refused = broker.create_topic(&topic("more"), &keep_all(1)).unwrap_err();
    assert!(refused.to_string().contains("the cluster's own tools"), "{refused}");
    let mut producer = broker.producer("source").unwrap();
    let mut member = broker.join(&group("g"), std::slice::from_ref(&input)).unwrap();
    assigned(&mut *member, 1);
    let started = SystemTime::now();
    let mut written = 0_u64;
    // Until the life of two tokens is over.
    while started.elapsed().unwrap().as_secs() < 2 * LIFE as u64 {
        producer.send(vec![to(&input, 0, written.to_string())]).unwrap();
        let read = messages(&mut *member, ANY, 1);
        let next = read[0].offset + 1;
        member
            .commit(unit(vec![to(&output, 0, read[0].value.clone().unwrap())], vec![offset(&input, 0, next)]))
            .unwrap();
        written += 1;
    }
    let copied: BTreeSet<u64> = read_all(&broker, &output, 0, 0)
        .iter()
        .map(|m| std::str::from_utf8(m.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect();
    assert_eq!(copied, (0..written).collect());
    assert!(broker.describe_topic(&output).unwrap().is_some());
    eprintln!("{written} units, tokens read {} times", read.load(Ordering::Relaxed));
}

/// Who may write to a topic and not read it is told so at once: waiting does not help.
#[test]
fn who_may_only_write_is_not_left_waiting() {
    if servers().is_none() {
        return;
    }
    let name = format!("writer-{}", std::process::id());
    let bearer = name.clone();
    let config = with_token(move || Ok(token(&bearer, 600, "")));
    allow(&name, "Write", &["--topic", config.prefix.as_str()]);
    let input = topic("in");
    let tools = KafkaConfig { prefix: config.prefix.clone(), ..self::config(Delivery::AtLeastOnce) };
    let tools = Kafka::connect(tools).unwrap();
    tools.create_topic(&input, &keep_all(1)).unwrap();
    tools.producer("source").unwrap().send(vec![to(&input, 0, "x")]).unwrap();
    let broker = Kafka::connect(config).unwrap();
    let started = Instant::now();
    let refused = broker.read(&place(&input, 0), 0, ANY).unwrap_err();
    assert!(matches!(refused, BrokerError::Refused { action: "read", .. }), "{refused}");
    assert!(refused.to_string().contains("TopicAuthorizationFailed"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(30), "after {:?}", started.elapsed());
}

/// What is said to who is not let in.
fn refused(config: KafkaConfig) -> String {
    match Kafka::connect(config) {
        Err(error @ BrokerError::Refused { action: "connect", .. }) => error.to_string(),
        other => panic!("{:?}", other.err()),
    }
}

/// What is wrong with a token is said at once, by us or by the cluster, and never what it holds.
#[test]
fn without_a_good_token_nobody_gets_in() {
    if servers().is_none() {
        return;
    }
    let expired = refused(with_token(|| Ok(token("late", -60, ""))));
    assert!(
        expired.contains("the token expired 6") && expired.contains("allowed is one that is still valid"),
        "{expired}"
    );
    let missing = refused(with_token(|| Err("the file /run/token cannot be read".to_owned())));
    assert!(missing.contains("the file /run/token cannot be read"), "{missing}");
    let no_token = refused(with_token(|| Ok("hunter2".to_owned())));
    assert!(no_token.contains("no JSON Web Token") && !no_token.contains("hunter2"), "{no_token}");
    let forged = refused(with_token(|| Ok(token("mallory", 600, "forged"))));
    assert!(forged.contains("did not let us in") && forged.contains("invalid_token"), "{forged}");
    let mut none = with_token(|| Ok(String::new()));
    none.token = None;
    assert!(refused(none).contains("no token is set"));
}

#[test]
fn a_password_lets_in_and_a_wrong_one_does_not() {
    if servers().is_none() {
        return;
    }
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let right = with_password(mechanism, "local");
        allow_all("driftline", &right.prefix);
        let broker = Kafka::connect(right).unwrap();
        let input = topic("in");
        broker.create_topic(&input, &keep_all(1)).unwrap();
        broker.producer("source").unwrap().send(vec![to(&input, 0, "x")]).unwrap();
        assert_eq!(read_all(&broker, &input, 0, 0).len(), 1);
        let wrong = refused(with_password(mechanism, "hunter2"));
        assert!(wrong.contains("did not let us in") && wrong.contains("Authentication failed"), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
    // A password is shown to nobody whose certificate is not trusted.
    let mut unknown = with_password("PLAIN", "local");
    unknown.properties.remove("ssl.ca.pem");
    let unknown = refused(unknown);
    assert!(unknown.contains("did not let us in") && unknown.contains("certificate verify failed"), "{unknown}");
}

/// A file of `deploy/kafka`.
fn pem(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kafka").join(name)).unwrap()
}

#[test]
fn certificates_of_both_sides_let_in_and_others_do_not() {
    if servers().is_none() {
        return;
    }
    let certificate = pem("local-certificate.pem");
    let with = |properties: &[(&str, &str)]| {
        let mut config = above(300);
        config.properties.insert("security.protocol".into(), "ssl".into());
        config.properties.extend(properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        config
    };
    let key = pem("local-key-known-to-all.pem");
    let shown = [("ssl.certificate.pem", certificate.as_str()), ("ssl.key.pem", key.as_str())];
    let right = with(&[&shown[..], &[("ssl.ca.pem", &certificate)]].concat());
    allow_all("CN=driftline-local", &right.prefix);
    let broker = Kafka::connect(right).unwrap();
    let input = topic("in");
    broker.create_topic(&input, &keep_all(1)).unwrap();
    broker.producer("source").unwrap().send(vec![to(&input, 0, "x")]).unwrap();
    assert_eq!(read_all(&broker, &input, 0, 0).len(), 1);
    // The machine's own authorities did not sign the server's.
    let unknown = refused(with(&shown));
    assert!(unknown.contains("did not let us in") && unknown.contains("certificate verify failed"), "{unknown}");
    let nothing_shown = refused(with(&[("ssl.ca.pem", &certificate)]));
    assert!(nothing_shown.contains("did not let us in") && nothing_shown.contains("certificate"), "{nothing_shown}");
}

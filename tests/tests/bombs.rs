//! Inputs that are small and would become large, or that name files elsewhere: each is refused with a clear word, the process
//! goes on, and its memory stays within what `docker-compose.yml` gives a stage (test 11).
//!
//! How long each took is printed, and not asserted.

#![allow(clippy::unwrap_used, reason = "tests")]

mod driftline;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use driftline::driftline;
use flate2::{Compression, write::ZlibEncoder};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

/// The limit of a stage in `docker-compose.yml`.
const MEMORY: u64 = 512 << 20;

/// What a command came to.
struct Ran {
    said: String,
    code: Option<i32>,
}

/// Runs a command to its end, looks at its memory meanwhile, and prints what it took.
fn run(what: &str, mut command: Command) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let started = Instant::now();
    let mut child = command.stdout(file.try_clone().unwrap()).stderr(Stdio::from(file)).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        // The mark never falls, so the last look before the end tells the most.
        let seen = fs::read_to_string(&status).unwrap_or_default();
        let line = seen.lines().find(|line| line.starts_with("VmHWM:"));
        let bytes = line.and_then(|line| line.split_whitespace().nth(1)).map(|kb| kb.parse::<u64>().unwrap() * 1024);
        peak = peak.max(bytes.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        std::thread::yield_now();
    };
    eprintln!("{what}: {} ms, {} MB at most", started.elapsed().as_millis(), peak >> 20);
    // A process that ends at once may not have been looked at.
    assert!(peak <= MEMORY, "{what}: {peak} bytes of memory");
    Ran { said: fs::read_to_string(log).unwrap(), code }
}

/// A PNG of 30,000 by 30,000 black or white pixels; all of them are there.
fn png() -> Vec<u8> {
    const SIDE: u32 = 30_000;
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::best());
    let row = vec![0_u8; 1 + (SIDE as usize).div_ceil(8)];
    (0..SIDE).for_each(|_| pixels.write_all(&row).unwrap());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(body);
        file.extend(crc32fast::hash(&[kind, body].concat()).to_be_bytes());
    };
    let [width, height] = [SIDE.to_be_bytes(); 2];
    chunk(b"IHDR", &[&width[..], &height, &[1, 0, 0, 0, 0]].concat());
    chunk(b"IDAT", &pixels.finish().unwrap());
    chunk(b"IEND", &[]);
    file
}

/// A WAV whose header tells of ten hours, and which has a tenth of a second.
fn ten_hours() -> Vec<u8> {
    const RATE: u32 = 16_000;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + 36_000 * 2 * RATE).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(RATE.to_le_bytes());
    file.extend((2 * RATE).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((36_000 * 2 * RATE).to_le_bytes());
    file.extend([0; 3_200]);
    file
}

/// A safetensors file with 100,000 tensors of no bytes.
fn tensors() -> Vec<u8> {
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let header = format!("{{{}}}", (0..100_000).map(entry).collect::<Vec<_>>().join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// A command with the settings of a pipeline.
fn command(words: &[&str], settings: &[String]) -> Command {
    let mut command = driftline(words);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command
}

/// Runs a pipeline over one bad file beside good ones; the bad one becomes a dead letter that says why.
fn becomes_a_dead_letter(pipeline: &str, source: &str, file: &str, bytes: &[u8], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::create_dir(&input).unwrap();
    fs::write(input.join(file), bytes).unwrap();
    let mut settings: Vec<String> = source.split('|').map(str::to_owned).collect();
    let node = settings[0].split(['.', '=']).nth(1).unwrap().to_owned();
    settings.push(format!("sources.{node}.path={}", input.display()));
    settings.push(format!("broker.path={}", folder.path().join("log").display()));
    let ran = run(file, command(&["run", pipeline], &settings));
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let letters = command(&["dlq", "inspect", pipeline], &settings).output().unwrap();
    let letters = driftline::parse(&letters.stdout);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let said = letters[0]["headers"]["driftline-error-reason"].as_str().unwrap();
    assert!(said.contains(reason) && said.contains("allowed"), "{said}");
    assert_eq!(letters[0]["value"]["bytes"].as_u64().unwrap(), bytes.len() as u64);
}

#[test]
fn a_picture_that_would_unfold_to_900_million_pixels() {
    let source = r#"sources.camera={ kind = "image-files", camera = "line" }"#;
    becomes_a_dead_letter("pipelines/inspect.toml", source, "bomb.png", &png(), "found 30000 by 30000");
}

#[test]
fn a_recording_whose_header_tells_of_ten_hours() {
    let source = "sources.microphone.kind=audio-files";
    becomes_a_dead_letter("pipelines/speech.toml", source, "long.wav", &ten_hours(), "found 36000 s of audio");
}

/// Both by the command that looks at models and by the stage that would run them.
fn model_is_refused(what: &str, path: &Path, reason: &str) {
    let commands = [
        (format!("{what}, inspected"), driftline(&["models", "inspect", path.to_str().unwrap()])),
        (
            format!("{what}, as a stage's model"),
            command(&["run", "pipelines/speech.toml"], &[format!("stages.vad.model={}", path.display())]),
        ),
    ];
    for (what, command) in commands {
        let ran = run(&what, command);
        assert!(ran.code.is_some_and(|code| code == 1 || code == 2), "{what}: {:?}, {}", ran.code, ran.said);
        assert!(ran.said.contains(reason) && !ran.said.contains("panicked"), "{what}: {}", ran.said);
    }
}

#[test]
fn a_model_of_100_000_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, tensors()).unwrap();
    model_is_refused("100,000 tensors", &file, "more than 16384 tensors");
}

#[test]
fn a_model_that_names_files_of_other_folders() {
    for name in ["../other.safetensors", "../../../../etc/passwd", "/etc/passwd"] {
        let folder = tempfile::tempdir().unwrap();
        // It is there, so that only the name can be what is refused.
        fs::write(folder.path().join("other.safetensors"), tensors()).unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        let index = serde_json::json!({ "weight_map": { "w": name } }).to_string();
        fs::write(model.join("model.safetensors.index.json"), index).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        let inspected = run(name, driftline(&["models", "inspect", model.to_str().unwrap()]));
        assert!(inspected.code.is_some_and(|code| code == 1 || code == 2), "{}", inspected.said);
        assert!(inspected.said.contains("weight_map") && inspected.said.contains(name), "{}", inspected.said);
    }
}

/// Records of 50 MB that are 50 KB on the wire, among those of a pipeline on Kafka, which has room for 20 MB a message.
#[test]
fn records_that_unfold_to_50_mb() {
    let Ok(servers) = std::env::var("DRIFTLINE_KAFKA") else {
        eprintln!("skipped: DRIFTLINE_KAFKA names no cluster");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let prefix = format!("bombs-{}.", std::process::id());
    let settings = [
        "broker.kind=kafka".to_owned(),
        format!("broker.bootstrap_servers={servers}"),
        format!("broker.prefix={prefix}"),
        "sinks.responses.kind=jsonl".to_owned(),
        format!("sinks.responses.path={}", folder.path().join("out.jsonl").display()),
    ];
    let topics = command(&["topics", "create", "pipelines/speech.toml"], &settings).output().unwrap();
    assert!(topics.status.success(), "{}", String::from_utf8_lossy(&topics.stderr));
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .set("compression.type", "gzip")
        .set("message.max.bytes", "100000000")
        .create()
        .unwrap();
    let topic = format!("{prefix}speech.microphone");
    let value = vec![0_u8; 50 << 20];
    for partition in [0, 1, 0] {
        producer
            .send(BaseRecord::to(&topic).partition(partition).key("bomb").payload(&value))
            .map_err(|e| e.0)
            .unwrap();
        producer.flush(Duration::from_secs(60)).unwrap();
    }
    let ran = run("three records of 50 MB", command(&["run", "pipelines/speech.toml"], &settings));
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let lines = driftline::parse(&fs::read(folder.path().join("out.jsonl")).unwrap());
    assert_eq!(lines.len(), 13, "the other records went on");
    let letters = command(&["dlq", "inspect", "pipelines/speech.toml"], &settings).output().unwrap();
    let letters = driftline::parse(&letters.stdout);
    assert_eq!(letters.len(), 3, "{letters:?}");
    for letter in &letters {
        assert_eq!(letter["value"]["bytes"], 64 << 10, "the head is kept");
        let said = letter["headers"]["driftline-error-reason"].as_str().unwrap();
        assert!(said.ends_with("of its value the first 65536 bytes are kept") && said.contains("allowed"), "{said}");
        eprintln!("{said}");
    }
}

//! How the command ends when it is asked to stop, and when nobody reads what it prints; what it prints where programs read.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStderr, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Long enough that only a command that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline whose source ends when nobody writes to standard input any more.
const ENDLESS: &str = r#"
[pipeline]
name = "endless"

[sources.input]
kind = "jsonl"
path = "-"
event_time = "t"

[sinks.output]
kind = "stdout"
inputs = ["input"]

[monitor]
window = "1s"

[[monitor.rules]]
name = "many"
stage = "input"
statistic = "count"
above = 1000000.0
"#;

/// Lines of the source, a second of event time apart: enough windows for a reference.
const LINES: usize = 100;

/// The folder of temporary files of a run, in that of its test.
const TEMPORARY: &str = "tmp";

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn driftline(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftline"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command.args(words).stdin(Stdio::null());
    command
}

/// Starts a command on [`ENDLESS`] and interrupts it once all lines have been read; returns the exit code and what it
/// printed on standard output and standard error. `words` stand before the file, `more` after it.
fn interrupted(folder: &Path, words: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
    let file = folder.join("endless.toml");
    fs::write(&file, ENDLESS).unwrap();
    let mut command = driftline(&[words, &[file.to_str().unwrap()][..], more].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for n in 0..LINES {
        writeln!(input, "{{\"t\":{}}}", 1000 * n).unwrap();
    }
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    let deadline = Instant::now() + PATIENCE;
    // A line of progress, such as `2 s: input 100`.
    while !told.ends_with(&format!("input {LINES}\n")) {
        assert!(Instant::now() < deadline && errors.read_line(&mut told).unwrap() > 0, "{told}");
    }
    signal(&child, "-INT");
    errors.read_to_string(&mut told).unwrap();
    let output = child.wait_with_output().unwrap();
    // Until now the source could have gone on.
    drop(input);
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), told)
}

#[test]
fn a_reference_is_not_made_of_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().join("reference.json");
    fs::write(&reference, "as it was").unwrap();
    let more = ["--output", reference.to_str().unwrap()];
    let (code, _, told) = interrupted(folder.path(), &["reference", "build"], &more);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("was stopped before its sources ended"), "{told}");
    assert_eq!(fs::read_to_string(&reference).unwrap(), "as it was");
}

#[test]
fn probes_are_not_recorded_of_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let probes = folder.path().join("probes.json");
    let more = ["--output", probes.to_str().unwrap()];
    let (code, _, told) = interrupted(folder.path(), &["probes", "record"], &more);
    assert_eq!(code, Some(130), "{told}");
    assert!(!probes.exists());
}

#[test]
fn probes_are_not_checked_by_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let probes = folder.path().join("probes.json");
    fs::write(&probes, r#"{ "pipeline": "endless", "recordings": {}, "answers": {} }"#).unwrap();
    let path = format!("monitor.probes.path={}", probes.display());
    let (code, printed, told) = interrupted(folder.path(), &["probes", "check"], &["--set", &path]);
    assert_eq!((code, printed.as_str()), (Some(130), ""), "{told}");
}

#[test]
fn what_there_is_of_a_run_that_was_stopped_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (code, printed, told) = interrupted(folder.path(), &["tap"], &["input"]);
    assert_eq!((code, printed.lines().count()), (Some(130), LINES), "{told}");
    let (code, printed, told) = interrupted(folder.path(), &["profiles"], &["--format", "json"]);
    assert!(code == Some(130) && printed.contains("json.size"), "{code:?} {printed} {told}");
    let (code, printed, told) = interrupted(folder.path(), &["report"], &[]);
    assert!(code == Some(130) && printed.contains("endless"), "{code:?} {printed} {told}");
}

/// Starts a run of [`ENDLESS`] with a temporary log in the folder, and nobody who reads its lines; returns it, its standard input and its
/// standard error.
fn endless(folder: &Path) -> (Child, ChildStdin, BufReader<ChildStderr>) {
    let (file, temporary) = (folder.join("endless.toml"), folder.join(TEMPORARY));
    fs::create_dir(&temporary).unwrap();
    fs::write(&file, ENDLESS).unwrap();
    let mut command = driftline(&["run", file.to_str().unwrap()]);
    command.env("TMPDIR", &temporary).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (input, errors) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    (child, input, BufReader::new(errors))
}

fn logs_left(folder: &Path) -> usize {
    fs::read_dir(folder.join(TEMPORARY)).unwrap().count()
}

/// Reads what a run says until it has said this.
fn told(errors: &mut impl BufRead, what: &str) -> String {
    let mut told = String::new();
    while !told.contains(what) {
        assert!(errors.read_line(&mut told).unwrap() > 0, "{told}");
    }
    told
}

/// Asked twice, by whatever signal, a run that cannot work off what it has read ends, and takes its log with it.
#[test]
fn a_run_that_is_asked_twice_ends_at_once_and_leaves_no_log() {
    const MANY: usize = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut input, mut errors) = endless(folder.path());
    // Nobody reads the lines, more than a pipe holds: the sink waits.
    for n in 0..MANY {
        writeln!(input, "{{\"t\":{n},\"more\":\"{}\"}}", "x".repeat(200)).unwrap();
    }
    told(&mut errors, &format!("input {MANY} "));
    assert_eq!(logs_left(folder.path()), 1);
    signal(&child, "-TERM");
    told(&mut errors, "stopping");
    signal(&child, "-TERM");
    // By itself it would wait twice as long for the sink.
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((child.wait().unwrap().code(), logs_left(folder.path())), (Some(130), 0));
    drop(input);
}

#[test]
fn a_run_whose_terminal_goes_away_leaves_no_log() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_ignored =
        |line: &str| line.starts_with("SigIgn:") && line.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']);
    if status.lines().any(is_ignored) {
        eprintln!("skipped: the tests run under nohup");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut input, mut errors) = endless(folder.path());
    writeln!(input, "{{\"t\":0}}").unwrap();
    let mut told = told(&mut errors, "input 1 ");
    signal(&child, "-HUP");
    errors.read_to_string(&mut told).unwrap();
    assert_eq!((child.wait().unwrap().code(), logs_left(folder.path())), (Some(130), 0), "{told}");
    drop(input);
}

#[test]
fn an_injection_that_event_time_did_not_reach_is_told() {
    let recording = "sources.microphone.path=pipelines/samples/voice-search/red-jacket.wav";
    let told = |time: &str| {
        let injection = format!("vad.clip_ms=20 @ {time}");
        let words = ["run", "pipelines/speech.toml", "--set", recording, "--inject", injection.as_str()];
        let ran = driftline(&words).output().unwrap();
        String::from_utf8(ran.stderr).unwrap()
    };
    let late = "`vad.clip_ms` @ 2000-01-01T00:10:00Z never took effect: event time ended before 2000-01-01T00:00:10Z\n";
    assert!(told("10m").contains(late), "{}", told("10m"));
    assert!(!told("0s").contains("never took effect"), "{}", told("0s"));
}

#[test]
fn a_run_that_goes_on_for_ever_fills_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endless.toml");
    fs::write(&file, ENDLESS).unwrap();
    let mut command = driftline(&["run", file.to_str().unwrap(), "--follow"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{{\"t\":0}}").unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    assert!(lines.read_line(&mut String::new()).unwrap() > 0);
    // Longer than the time between two lines of progress.
    std::thread::sleep(Duration::from_millis(2_500));
    signal(&child, "-TERM");
    let told = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(told.contains("stopping: ") && !told.contains(" s: input"), "{told}");
    drop(input);
}

/// A pipeline of two lines and a broken one, on a log that stays.
fn copy(folder: &Path) -> String {
    let path = |name: &str| folder.join(name);
    fs::write(path("in.jsonl"), "{\"n\":1}\n{\"n\":2}\nbroken\n").unwrap();
    let pipeline = "[pipeline]\nname = \"copy\"\n[broker]\npath = \"log\"\n\
         [sources.input]\nkind = \"jsonl\"\npath = \"in.jsonl\"\n\
         [sinks.output]\nkind = \"jsonl\"\ninputs = [\"input\"]\npath = \"out.jsonl\"\n";
    fs::write(path("copy.toml"), pipeline).unwrap();
    path("copy.toml").to_str().unwrap().to_owned()
}

#[test]
fn where_log_lines_are_for_programs_nothing_else_stands_among_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let told = |more: &[&str], code: i32| -> Vec<Value> {
        let words = [&["run", file.as_str(), "--set", "telemetry.logs=json"][..], more].concat();
        let ran = driftline(&words).output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(code), "{told}");
        told.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    };
    let lines = told(&[], 0);
    let find = |what: &str| lines.iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains(what)));
    assert_eq!(find("the run has ended").unwrap()["end"], "finished", "{lines:?}");
    assert_eq!(find("records were refused").unwrap()["dead_letters"], 1, "{lines:?}");
    let lines = told(&["--set", "sources.input.path=missing.jsonl"], 2);
    let last = lines.last().unwrap();
    assert!(last["level"] == "ERROR" && last["message"].as_str().unwrap().contains("missing.jsonl"), "{lines:?}");
}

#[test]
fn a_run_that_finds_nothing_new_says_so() {
    const NOTHING: &str = "nothing new was read; the signals are of the whole log\n";
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let told = || String::from_utf8(driftline(&["run", &file]).output().unwrap().stderr).unwrap();
    let first = told();
    assert!(first.contains("1 dead letter:") && !first.contains(NOTHING), "{first}");
    let second = told();
    assert!(second.contains(NOTHING), "{second}");
}

#[test]
fn a_source_without_dead_letters_is_not_blamed_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let told = |words: &[&str]| {
        let ran = driftline(&[words, &[file.as_str()]].concat()).output().unwrap();
        String::from_utf8(ran.stderr).unwrap()
    };
    told(&["run"]);
    let replayed = told(&["dlq", "replay"]);
    assert!(replayed.contains("input: the dead letters of a source are its input"), "{replayed}");
    assert!(told(&["dlq", "discard"]).contains("1 dead letter set aside"));
    assert_eq!(told(&["dlq", "replay"]), "0 dead letters sent again, for the next run of the pipeline\n");
}

#[test]
fn log_lines_in_a_file_have_no_colours() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let ran = driftline(&["run", &file]).env("DRIFTLINE_LOG", "info").output().unwrap();
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(told.contains(" INFO ") && !told.contains('\u{1b}'), "{told:?}");
}

#[test]
fn the_decoder_of_audio_says_nothing_of_a_file_that_it_does_not_name() {
    let folder = tempfile::tempdir().unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/samples/voice-search");
    let mut recording = fs::read(samples.join("garden-hose.ogg")).unwrap();
    let middle = recording.len() / 2;
    recording[middle] ^= 255;
    fs::write(folder.path().join("damaged.ogg"), recording).unwrap();
    let path = format!("sources.microphone.path={}", folder.path().display());
    let mut command = driftline(&["run", "pipelines/speech.toml", "--set", &path]);
    let ran = command.env_remove("DRIFTLINE_LOG").output().unwrap();
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success() && !told.contains("WARN"), "{told}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let copy = file.as_str();
    let ran = driftline(&["run", copy]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let commands: [&[&str]; 15] = [
        &["completions", "bash"],
        &["graph", copy],
        &["parameters", "pipelines/speech.toml"],
        &["parameters", "pipelines/speech.toml", "--format", "json"],
        &["models", "inspect", "crates/models/weights/vad.safetensors"],
        &["tap", copy, "input"],
        &["profiles", copy],
        &["profiles", copy, "--format", "json"],
        &["alarms", copy],
        &["feedback", copy],
        &["test", copy],
        &["topics", "describe", copy],
        &["lag", copy],
        &["lag", copy, "--format", "json"],
        &["doctor", copy],
    ];
    for words in commands {
        let read = driftline(words).output().unwrap();
        assert!(!read.stdout.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&read.stderr));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unread = driftline(words).stdout(writer).output().unwrap();
        let told = String::from_utf8_lossy(&unread.stderr);
        assert_eq!(unread.status.code(), read.status.code(), "{words:?}: {told}");
        assert!(!told.contains("panicked"), "{words:?}: {told}");
    }

    let commands: [&[&str]; 7] = [
        &["run", copy],
        &["run", "pipelines/inspect.toml", "--set", "sources.camera.frames=1"],
        &["validate", copy],
        &["topics", "create", copy],
        &["dlq", "inspect", copy],
        &["feedback", copy],
        &["tap", copy, "nobody"],
    ];
    for words in commands {
        let read = driftline(words).output().unwrap();
        assert!(!read.stderr.is_empty(), "{words:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unread = driftline(words).stdout(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(unread.code(), read.status.code(), "{words:?}");
    }
}

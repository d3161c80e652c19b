//! Starting the command as a user does.

#![allow(dead_code, reason = "not every test file needs all of it")]

pub mod process;

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The command, started in the root of the repository.
pub fn driftline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftline-under-test"));
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// The monitor of a pipeline as a process of its own, which writes what it says to a file.
pub fn monitor(pipeline: &Path, settings: &[String], log: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monitor-under-test"));
    command.current_dir(root()).arg("--pipeline").arg(pipeline);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(log).unwrap());
    command
}

/// Asks an HTTP endpoint; returns the status and the whole answer.
pub fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: driftline\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((answer.split(' ').nth(1).unwrap().parse().unwrap(), answer))
}

/// Runs the command to its end.
pub fn output(args: &[&str]) -> Output {
    driftline(args).output().unwrap()
}

/// Runs the command to its end, which must be a success, and returns its lines.
pub fn lines(args: &[&str]) -> Vec<Value> {
    let output = output(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout)
}

/// Reads JSON lines.
pub fn parse(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

//! Other people's detectors, run in Python over the same numbers.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::simulate::Null;

/// Runs a script of `benches/peers` in the environment of that name, with JSON in and out; `None` if
/// the environment is not installed.
pub fn ask<T: DeserializeOwned>(
    environment: &str,
    script: &str,
    question: &impl Serialize,
) -> anyhow::Result<Option<T>> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let folder = std::env::var_os("DRIFTLINE_PEERS").map_or_else(|| peers.join("environments"), PathBuf::from);
    let python = folder.join(environment).join("bin/python");
    if !python.exists() {
        eprintln!("skipped: {script}: no {}; benches/peers/install.sh makes it", python.display());
        return Ok(None);
    }
    let mut child = Command::new(&python)
        .arg(peers.join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", python.display()))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(&serde_json::to_vec(question)?)?;
    drop(stdin);
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{script} ended with {}", done.status);
    Ok(Some(serde_json::from_slice(&done.stdout).with_context(|| format!("reading what {script} wrote"))?))
}

/// Alarms of River's detectors on one number a window.
#[derive(Deserialize)]
pub struct WindowMeans {
    pub adwin: u64,
    pub adwin_windows: u64,
    pub kswin: u64,
    pub kswin_windows: u64,
}

pub fn window_means(null: Null, means: &[f64]) -> anyhow::Result<Option<WindowMeans>> {
    #[derive(Serialize)]
    struct Question<'a> {
        task: &'static str,
        null: &'static str,
        means: &'a [f64],
    }
    ask("river", "drift_river.py", &Question { task: "window_means", null: null.name(), means })
}

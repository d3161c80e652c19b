//! Processes that are started, signalled and waited for.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

/// How often a test looks how far things are. Looking without a pause takes a core from the processes looked at.
pub const LOOK: Duration = Duration::from_millis(20);

/// A process that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    /// Asks it to stop, waits, and checks that it did so in order. One that has hardly begun, because others had done all the
    /// work before it came to it, does not listen yet and ends of the signal itself.
    pub fn stop(&mut self, in_order: i32) {
        self.signal("-TERM");
        let status = self.0.wait().unwrap();
        assert!(status.code() == Some(in_order) || status.signal() == Some(15), "{status}");
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }

    /// Waits for its end for so long at most.
    pub fn ends_by(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(LOOK);
        }
    }

    /// A line of what the system tells of it, in bytes, such as `VmHWM`, the most memory it has had.
    pub fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

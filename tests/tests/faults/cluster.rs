//! A cluster of a test's own, whose brokers it may kill.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

pub struct Cluster {
    folder: TempDir,
    pub servers: String,
}

impl Cluster {
    pub fn start(brokers: u32, port: u16) -> Self {
        Self::start_with("true", brokers, port)
    }

    /// `limit` is a command of the shell that starts the brokers.
    pub fn start_with(limit: &str, brokers: u32, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, servers: String::new() };
        let args = ["start", "--brokers", &brokers.to_string(), "--port", &port.to_string()];
        cluster.servers = cluster.script_with(limit, &args).trim().to_owned();
        cluster
    }

    pub fn is_alive(&self, broker: &str) -> bool {
        let pid = fs::read_to_string(self.folder.path().join(format!("kafka/broker-{broker}/pid"))).unwrap();
        // One that has ended and that nobody has asked about yet is a zombie.
        fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    pub fn script(&self, args: &[&str]) -> String {
        self.script_with("true", args)
    }

    pub fn script_with(&self, limit: &str, args: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        // Files, not pipes: the brokers that the script leaves behind would keep a pipe open.
        let said = self.folder.path().join("said");
        let status = Command::new("bash")
            .args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")])
            .arg(root.join("deploy/kafka-local"))
            .args(args)
            .arg("--dir")
            .arg(self.folder.path().join("kafka"))
            .env("DRIFTLINE_KAFKA_HEAP", "256m")
            .stdout(fs::File::create(&said).unwrap())
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "kafka-local {args:?}");
        fs::read_to_string(said).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // One that did not start, as for a port that is taken, has left nothing.
        if self.folder.path().join("kafka").exists() {
            self.script(&["stop"]);
        }
    }
}

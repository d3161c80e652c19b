//! A stage of kind `vad` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("vad")
}

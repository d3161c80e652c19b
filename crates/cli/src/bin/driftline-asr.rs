//! A stage of kind `asr` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("asr")
}

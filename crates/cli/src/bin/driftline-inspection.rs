//! A stage of kind `inspection` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("inspection")
}

//! A stage of kind `search` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("search")
}

//! The monitor of a pipeline as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::monitor()
}

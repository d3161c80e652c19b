//! A stage of kind `user-profile` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("user-profile")
}

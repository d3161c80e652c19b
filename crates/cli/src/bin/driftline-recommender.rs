//! A stage of kind `recommender` as a process of its own.

fn main() -> std::process::ExitCode {
    driftline_cli::stage("recommender")
}

//! The `driftline-monitor` command, built for the tests of this crate.

fn main() -> std::process::ExitCode {
    driftline_cli::monitor()
}

//! The `driftline` command.

fn main() -> std::process::ExitCode {
    driftline_cli::main()
}

//! The binary `tributary`.

fn main() -> std::process::ExitCode {
    tributary_peer::cli::main()
}

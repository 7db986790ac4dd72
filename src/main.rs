//! The `pxfs` command.

fn main() -> std::process::ExitCode {
    pxfs::cli::main()
}

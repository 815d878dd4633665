//! The binary: hands the command line to the library, and its outcome to the shell. I/O.
use std::process::ExitCode;

fn main() -> ExitCode {
    redisctl::cli::main()
}

//! `redisctl`. I/O.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(name) if name == "__task" => redisctl::local::task_main(args),
        _ => ExitCode::SUCCESS,
    }
}

//! The local cluster: speaks Mesos' scheduler API, runs real redis-server processes. I/O.

use std::ffi::OsString;
use std::process::ExitCode;

/// The hidden subcommand that becomes a task: `PARENT PROGRAM ARGV0 [ARG...]`. It returns only when
/// it fails.
pub fn task_main(_: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}

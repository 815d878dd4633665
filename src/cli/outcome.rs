//! How a command ends: exit codes for scripts, and errors that carry one. Pure.

use std::fmt;

/// The exit codes, as `--help` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed; or, for `diff`, there are differences.
    Failed = 1,
    /// The command line is wrong, or a document is not valid.
    Usage = 2,
    /// There is no such instance.
    NotFound = 3,
    /// What was waited for did not come in time.
    TimedOut = 4,
    /// No operator answers.
    Unreachable = 5,
}

/// What `--help` says of them.
pub const EXIT_HELP: &str = "Exit codes:
  0  done (diff: no differences)
  1  failed (diff: there are differences)
  2  the command line is wrong, or a document is not valid
  3  there is no such instance
  4  what was waited for did not come in time
  5  no operator answers at the address of --server";

/// An error that ends the command with a certain exit code. Any other error ends it with 1.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with an exit code.
pub fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// The exit code of an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit)
}

/// Whether the reader of our output went away (`redisctl get | head -1`): nothing to complain of.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is_pipe))
}

//! Why a node's process died by itself, as far as Mesos' words and its own last lines tell. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Address, Timestamp};
use crate::plain::is_harmful;

/// Lines of a process that are kept.
const LINES_MAX: usize = 5;
/// Letters of them that are kept.
const LETTERS_MAX: usize = 600;
/// Hexadecimal digits of a password's hash.
const HASH_DIGITS: usize = 64;

/// Why a process died, in a word that is an event's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeathCause {
    /// Another process listens at its port.
    PortTaken,
    /// redis-server refuses a setting.
    SettingRefused,
    /// The program is not on the agent.
    ProgramMissing,
    /// The program, or a folder of it, may not be used.
    NotPermitted,
    /// An image, or another file, could not be fetched.
    FetchFailed,
    /// It took more memory than it has.
    OutOfMemory,
    /// Something killed it with SIGKILL.
    KilledFromOutside,
    /// Its disk is full.
    DiskFull,
    /// It cannot read its own data files.
    DataUnreadable,
    /// A fault of the program itself.
    Crashed,
    /// It ended without a fault: somebody told it to.
    Ended,
    /// Nothing that we know of.
    Died,
}

impl DeathCause {
    /// As an event's reason.
    pub fn word(self) -> &'static str {
        match self {
            DeathCause::PortTaken => "PortTaken",
            DeathCause::SettingRefused => "SettingRefused",
            DeathCause::ProgramMissing => "ProgramMissing",
            DeathCause::NotPermitted => "NotPermitted",
            DeathCause::FetchFailed => "FetchFailed",
            DeathCause::OutOfMemory => "OutOfMemory",
            DeathCause::KilledFromOutside => "KilledFromOutside",
            DeathCause::DiskFull => "DiskFull",
            DeathCause::DataUnreadable => "DataUnreadable",
            DeathCause::Crashed => "Crashed",
            DeathCause::Ended => "Ended",
            DeathCause::Died => "Died",
        }
    }

    /// What it is, and what a person can do.
    pub fn advice(self) -> &'static str {
        match self {
            DeathCause::PortTaken => {
                "another process has its port, though Mesos offers that: it listens there, or has a connection from it: find it on the agent (ss -tanp), or take the port out of the agent's --resources"
            }
            DeathCause::SettingRefused => "redis-server refuses a setting: mend spec.redis.config",
            DeathCause::ProgramMissing => {
                "the program is not on the agent: install redis-server in its PATH, set --redis-server, or use spec.redis.image"
            }
            DeathCause::NotPermitted => {
                "its user may not use a file or folder on the agent: see --user, and the rights of the program and of the work folder"
            }
            DeathCause::FetchFailed => {
                "its image or a file of it could not be fetched: see spec.redis.image, the registry, and the agent's --image_providers and --containerizers"
            }
            DeathCause::OutOfMemory => {
                "it took more memory than its task has, or than the agent had left: more spec.memory, or fewer tasks there"
            }
            DeathCause::KilledFromOutside => {
                "something killed it with SIGKILL: the kernel, when memory was short (dmesg on the agent), or a person"
            }
            DeathCause::DiskFull => "the agent's disk is full: make room there",
            DeathCause::DataUnreadable => "it cannot read its own data files",
            DeathCause::Crashed => "redis-server has crashed: its log is in the task's sandbox",
            DeathCause::Ended => "it ended by itself, as after SHUTDOWN",
            DeathCause::Died => "its last lines are all that is known",
        }
    }
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What Mesos said of a task that died by itself, and what was read of its last words.
#[derive(Clone, Debug, PartialEq)]
pub struct LastWords {
    /// The task.
    pub task_id: String,
    /// Its agent.
    pub agent_id: String,
    /// `REASON_...`, where one is given.
    pub reason: Option<String>,
    /// Mesos' text.
    pub message: String,
    /// The ends of its standard error and output, or why they could not be read.
    pub read: Result<Output, String>,
}

/// The ends of what a process wrote. Not to be trusted: the process may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Of its standard error.
    pub stderr: Vec<u8>,
    /// Of its standard output.
    pub stdout: Vec<u8>,
}

/// The last death that counts, as the instance's record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDeath {
    /// The task.
    pub task_id: String,
    /// The node.
    pub node: String,
    /// Where it was to listen, if that was still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Its agent.
    pub agent_id: String,
    /// Why.
    pub cause: DeathCause,
    /// In words.
    pub why: String,
    /// When that was learned.
    pub at: Timestamp,
}

impl LastWords {
    /// The lines that may tell why.
    pub fn lines(&self) -> String {
        match &self.read {
            Ok(output) => telling(&output.stderr, &output.stdout),
            Err(_) => String::new(),
        }
    }

    /// Why it died.
    pub fn cause(&self) -> DeathCause {
        cause(self.reason.as_deref().unwrap_or_default(), &self.message, &self.lines())
    }

    /// A sentence for people.
    pub fn told(&self) -> String {
        let said = printable(&self.message, LETTERS_MAX);
        let advice = self.cause().advice();
        let told = if said.is_empty() { advice.to_string() } else { format!("{said}: {advice}") };
        match (&self.read, self.lines()) {
            (Err(why), _) => format!("{told} (its last lines could not be read: {})", printable(why, LETTERS_MAX)),
            (Ok(_), lines) if lines.is_empty() => told,
            (Ok(_), lines) => format!("{told}. Its last lines: {lines}"),
        }
    }
}

/// The first that fits: what the process says of itself goes before what Mesos makes of it.
fn cause(reason: &str, message: &str, lines: &str) -> DeathCause {
    // By name or by number, as the agent's C library has it.
    let signal = message.split_once("terminated with signal ").map_or("", |(_, signal)| signal.trim());
    // Whoever was killed cannot have said why, and clients can have Redis say anything before that.
    let lines = if matches!(signal, "9" | "15" | "Killed" | "Terminated") { "" } else { lines };
    let all = format!("{lines}\n{message}").to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let exited = signal.is_empty();
    if reason.starts_with("REASON_CONTAINER_LIMITATION_MEMORY")
        || has(&["out of memory", "memory limit exceeded", "cannot allocate memory", "oom-kill"])
    {
        DeathCause::OutOfMemory
    } else if reason.starts_with("REASON_CONTAINER_LIMITATION_DISK")
        || has(&["no space left on device", "disk quota exceeded"])
    {
        DeathCause::DiskFull
    } else if exited && has(&["address already in use"]) {
        DeathCause::PortTaken
    } else if exited
        && has(&[
            "fatal config file error",
            "bad directive",
            "*** config",
            "aborting due to acl",
            "error in user declaration",
        ])
    {
        DeathCause::SettingRefused
    } else if has(&[
        "failed to fetch",
        "failed to pull",
        "manifest unknown",
        "unsupported container image",
        "unknown image",
        "no such image",
        "pull access denied",
    ]) {
        DeathCause::FetchFailed
    } else if has(&["permission denied", "operation not permitted"]) {
        DeathCause::NotPermitted
    } else if matches!(signal, "4" | "6" | "7" | "8" | "11")
        || has(&["redis bug report", "segmentation fault", "illegal instruction", "aborted", "bus error"])
    {
        DeathCause::Crashed
    } else if has(&[
        "bad file format",
        "wrong signature",
        "can't handle rdb format",
        "short read or oom",
        "unexpected end of file reading",
    ]) {
        DeathCause::DataUnreadable
    } else if has(&["failed to exec", "execvp", "not found", "no such file or directory"]) {
        DeathCause::ProgramMissing
    } else if matches!(signal, "Killed" | "9") {
        DeathCause::KilledFromOutside
    } else if lines.is_empty() && message.contains("exited with status 0") {
        DeathCause::Ended
    } else {
        DeathCause::Died
    }
}

/// The last lines that a person can use: all of what it complained of, but for what Mesos' executor writes
/// beside it; and, of its output, what redis-server has logged as a warning, or at all.
fn telling(stderr: &[u8], stdout: &[u8]) -> String {
    let complaints = lines(stderr);
    let complaints = complaints.iter().filter(|line| !is_of_mesos(line)).collect::<Vec<_>>();
    let logged = lines(stdout);
    let logged: Vec<&String> = logged.iter().filter(|line| is_of_redis(line)).collect();
    let warnings: Vec<&String> = logged.iter().copied().filter(|line| line.contains(" # ")).collect();
    let logged = if warnings.is_empty() { logged } else { warnings };
    let last = |lines: &[&String]| {
        lines[lines.len().saturating_sub(LINES_MAX)..]
            .iter()
            .map(|line| without_hashes(line))
            .collect::<Vec<_>>()
            .join(" | ")
    };
    let told: Vec<String> = [last(&logged), last(&complaints)].into_iter().filter(|told| !told.is_empty()).collect();
    printable(&told.join(" | "), LETTERS_MAX)
}

fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect()
}

/// As glog writes: `I1127 10:00:00.000000 12345 exec.cpp:164] ...`.
fn is_of_mesos(line: &str) -> bool {
    let mut letters = line.chars();
    let level = letters.next().is_some_and(|letter| matches!(letter, 'I' | 'W' | 'E' | 'F'));
    (level && letters.take(4).filter(char::is_ascii_digit).count() == 4) || line.starts_with("Marked '")
}

/// As redis-server writes: `12345:M 27 Nov 2026 10:00:00.000 # ...`.
fn is_of_redis(line: &str) -> bool {
    let Some((pid, rest)) = line.split_once(':') else { return false };
    let role = rest.chars().next().is_some_and(|role| matches!(role, 'M' | 'S' | 'C' | 'X'));
    role && rest.chars().nth(1) == Some(' ') && !pid.is_empty() && pid.chars().all(|letter| letter.is_ascii_digit())
}

/// A refused ACL line would show a password's hash, which Redis takes in the password's place.
fn without_hashes(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut digits = String::new();
    for letter in line.chars().chain(['\n']) {
        if letter.is_ascii_hexdigit() {
            digits.push(letter);
            continue;
        }
        kept += if digits.len() >= HASH_DIGITS { "(a hash)" } else { &digits };
        digits.clear();
        kept.push(letter);
    }
    kept.pop();
    kept
}

/// Without what a terminal or a log would obey, or an eye not see; the end, if it is long.
fn printable(text: &str, letters_max: usize) -> String {
    let clean: Vec<char> = text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect();
    let from = clean.len().saturating_sub(letters_max);
    let cut = if from > 0 { "... " } else { "" };
    format!("{cut}{}", clean[from..].iter().collect::<String>().trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(reason: &str, message: &str, stderr: &str, stdout: &str) -> LastWords {
        LastWords {
            task_id: "orders-0.1".into(),
            agent_id: "S1".into(),
            reason: Some(reason.into()),
            message: message.into(),
            read: Ok(Output { stderr: stderr.into(), stdout: stdout.into() }),
        }
    }

    #[test]
    #[allow(clippy::too_many_lines)] // A table.
    fn each_kind_of_death_has_a_reason_that_a_person_can_act_on() {
        let exited = "Command exited with status 1";
        let failed = "REASON_COMMAND_EXECUTOR_FAILED";
        let log = |text: &str| format!("Starting task orders-0\n123:C 27 Nov 2026 10:00:00.000 # {text}\n");
        for (said, wanted) in [
            (
                words(
                    failed,
                    exited,
                    "",
                    &log(
                        "Warning: Could not create server TCP listening socket 127.0.0.1:31000: bind: Address already in use",
                    ),
                ),
                DeathCause::PortTaken,
            ),
            (
                words(
                    failed,
                    exited,
                    "*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nat line 3\n>>> 'save \"foo\"'\nInvalid save parameters",
                    "",
                ),
                DeathCause::SettingRefused,
            ),
            (
                words(failed, exited, "Failed to execute command: No such file or directory", ""),
                DeathCause::ProgramMissing,
            ),
            (
                words(failed, "Command exited with status 127", "sh: 1: redis-server: not found", ""),
                DeathCause::ProgramMissing,
            ),
            (
                words(failed, "Command exited with status 126", "sh: 1: /x: Permission denied", ""),
                DeathCause::NotPermitted,
            ),
            (
                words(
                    "REASON_CONTAINER_LAUNCH_FAILED",
                    "Failed to launch container: Unsupported container image type: DOCKER",
                    "",
                    "",
                ),
                DeathCause::FetchFailed,
            ),
            (
                words("REASON_CONTAINER_LAUNCH_FAILED", "Failed to fetch all URIs for container", "", ""),
                DeathCause::FetchFailed,
            ),
            (
                words("REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded: Requested: 64MB", "", ""),
                DeathCause::OutOfMemory,
            ),
            (words(failed, exited, "", &log("Out Of Memory allocating 1000 bytes!")), DeathCause::OutOfMemory),
            (words(failed, "Command terminated with signal Killed", "", ""), DeathCause::KilledFromOutside),
            (words(failed, "Command terminated with signal 9", "", ""), DeathCause::KilledFromOutside),
            // A client had it log that.
            (
                words(failed, "Command terminated with signal 9", "", "bind: Address already in use"),
                DeathCause::KilledFromOutside,
            ),
            (words(failed, "Command terminated with signal 11", "", "FATAL CONFIG FILE ERROR"), DeathCause::Crashed),
            (words(failed, "Command terminated with signal 11", "", ""), DeathCause::Crashed),
            (words(failed, "Command terminated with signal 15", "", ""), DeathCause::Died),
            (words(failed, "Command terminated with signal Segmentation fault", "", ""), DeathCause::Crashed),
            (words("REASON_CONTAINER_LIMITATION_DISK", "", "", ""), DeathCause::DiskFull),
            (
                words(
                    failed,
                    exited,
                    "",
                    &log("Fatal error loading the DB, check server logs: Wrong signature trying to load DB from file"),
                ),
                DeathCause::DataUnreadable,
            ),
            (words("", "Command exited with status 0", "", ""), DeathCause::Ended),
            (words(failed, exited, "", ""), DeathCause::Died),
        ] {
            assert_eq!(said.cause(), wanted, "{said:?}");
            assert!(said.told().contains(wanted.advice()), "{}", said.told());
        }
    }

    #[test]
    fn what_is_not_the_process_own_and_what_could_open_a_door_is_left_out() {
        let hash = "a".repeat(64);
        let stdout = format!(
            "Forked command at 12\n/usr/libexec/mesos-containerizer launch --x=#{hash}\n9:M 1 Jan 2026 # bad #{hash}\n9:M 1 Jan 2026 * fine"
        );
        let said = words(
            "",
            "",
            &format!("I1127 10:00:00.000000 1 exec.cpp:1] Version\n>>> 'user default on #{hash}'\n"),
            &stdout,
        );
        let lines = said.lines();
        assert!(!lines.contains(&hash) && !lines.contains("containerizer") && !lines.contains("Version"), "{lines}");
        assert!(lines.contains("bad #(a hash)") && lines.contains("user default on #(a hash)"), "{lines}");
        let unread = LastWords { read: Err("no answer\u{1b}[2J within 2 s".into()), ..said };
        assert!(unread.told().contains("could not be read: no answer [2J within 2 s"), "{}", unread.told());
    }

    proptest! {
        #[test]
        fn whatever_a_process_writes_what_is_told_is_short_and_has_no_control_character(
            stderr in proptest::collection::vec(any::<u8>(), 0..20_000),
            line in "\\PC{0,2000}|[\\x00-\\x1f\\x7f\u{9b}\u{202e}]{0,300}",
            message in "(?s).{0,2000}",
        ) {
            let mut stderr = stderr;
            stderr.extend(line.as_bytes());
            let said = LastWords { read: Ok(Output { stderr: stderr.clone(), stdout: stderr }), ..words("", &message, "", "") };
            let told = said.told();
            prop_assert!(!told.chars().any(char::is_control), "{:?}", told);
            prop_assert!(told.chars().count() <= 2 * LETTERS_MAX + 300, "{}", told.len());
        }
    }
}

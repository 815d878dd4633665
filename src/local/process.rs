//! The process of a task: started by a helper so that it dies with this process, watched by a thread. I/O.
//!
//! The helper is this program's own binary: `redisctl __task PARENT PROGRAM ARGV0 [ARG...]` asks the
//! kernel for SIGKILL at its parent's death and becomes the task's program. The kernel means the
//! parent *thread*; that is why each process is started by a thread that stays until it has ended.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use serde_json::Value;

use super::agent::Process;
use super::json::{id_of, items};
use super::state::{Shared, TaskKey};

/// The stack of a thread that only waits.
const STACK_BYTES: usize = 256 << 10;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// As Mesos words it.
    pub fn message(self) -> String {
        match self {
            Exit::Code(code) => format!("Command exited with status {code}"),
            Exit::Signal(signal) => format!("Command terminated with signal {}", signal_name(signal)),
        }
    }
}

fn signal_name(signal: i32) -> String {
    let names = [
        (1, "Hangup"),
        (2, "Interrupt"),
        (3, "Quit"),
        (4, "Illegal instruction"),
        (6, "Aborted"),
        (7, "Bus error"),
        (8, "Floating point exception"),
        (9, "Killed"),
        (11, "Segmentation fault"),
        (13, "Broken pipe"),
        (15, "Terminated"),
    ];
    let name = names.iter().find(|(number, _)| *number == signal);
    name.map_or_else(|| format!("Unknown signal {signal}"), |(_, name)| (*name).to_string())
}

/// What to run, and where.
pub(super) struct Command {
    command: std::process::Command,
    sandbox: PathBuf,
}

impl Command {
    /// The command of a `TaskInfo`.
    pub fn new(helper: &Path, key: &TaskKey, agent_id: &str, info: &Value, sandbox: PathBuf) -> Command {
        let wanted = &info["command"];
        let value = wanted["value"].as_str().unwrap_or_default();
        let mut command = std::process::Command::new(helper);
        command.args(["__task", &std::process::id().to_string()]);
        if wanted["shell"].as_bool().unwrap_or(true) {
            command.args(["/bin/sh", "sh", "-c", value]);
        } else {
            // The first argument is argv[0], as the Mesos containerizer has it.
            let arguments: Vec<&str> = items(&wanted["arguments"]).filter_map(Value::as_str).collect();
            command.arg(value).args(if arguments.is_empty() { vec![value] } else { arguments });
        }
        for variable in items(&wanted["environment"]["variables"]) {
            if let (Some(name), Some(value)) = (variable["name"].as_str(), variable["value"].as_str()) {
                command.env(name, value);
            }
        }
        command
            .env("MESOS_SANDBOX", &sandbox)
            .env("MESOS_FRAMEWORK_ID", &key.0)
            .env("MESOS_EXECUTOR_ID", id_of(info, "task_id").unwrap_or_default())
            .env("MESOS_SLAVE_ID", agent_id)
            .current_dir(&sandbox)
            .stdin(Stdio::null())
            .process_group(0);
        Command { command, sandbox }
    }

    fn spawn(mut self) -> Result<Child> {
        crate::files::private_folder(&self.sandbox).with_context(|| format!("make {}", self.sandbox.display()))?;
        let file = |name: &str| std::fs::File::create(self.sandbox.join(name)).context("make an output file");
        self.command.stdout(file("stdout")?).stderr(file("stderr")?);
        self.command.spawn().with_context(|| format!("start {}", self.command.get_program().display()))
    }
}

/// Starts the process; what becomes of it is told to `shared`. False when there is no thread for it.
pub(super) fn start(shared: &Weak<Shared>, agent: usize, key: TaskKey, run: u64, command: Command) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let thread = std::thread::Builder::new().name(format!("task {}", key.1)).stack_size(STACK_BYTES);
    thread.spawn(move || watch(&shared, agent, &key, run, command)).is_ok()
}

fn watch(shared: &Arc<Shared>, agent: usize, key: &TaskKey, run: u64, command: Command) {
    let started = command.spawn().and_then(|child| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok((child, pid.ok_or_else(|| anyhow!("a process without an id"))?))
    });
    match started {
        Ok((mut child, pid)) => {
            shared.with(|state| state.task_started(agent, key, run, Ok(Process::Group(pid))));
            let exit = wait(pid);
            shared.with(|state| state.task_ended(agent, key, run, exit));
            let _ = child.wait(); // Reaped only now: until its end was recorded, its id was not free.
        }
        Err(error) => shared.with(|state| state.task_started(agent, key, run, Err(format!("{error:#}")))),
    }
    shared.with(|state| state.agents[agent].processes -= 1);
}

/// Waits for the end of the process, and leaves it to be reaped.
fn wait(pid: Pid) -> Exit {
    loop {
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => return exit_of(&status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Exit::Code(-1), // Not ours any more: it is gone.
        }
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match status.terminating_signal() {
        Some(signal) => Exit::Signal(signal),
        None => Exit::Code(status.exit_status().unwrap_or(-1)),
    }
}

/// The hidden subcommand that becomes a task: `PARENT PROGRAM ARGV0 [ARG...]`. It returns only when
/// it fails.
pub fn task_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match become_task(args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("Failed to execute command: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn become_task(args: impl IntoIterator<Item = OsString>) -> Result<std::convert::Infallible> {
    let mut args = args.into_iter();
    let parent = args.next().context("the parent's process id is missing")?;
    let program = args.next().context("the program is missing")?;
    let name = args.next().context("the program's name is missing")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the parent")?;
    // It may have died before it was asked.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if now.is_none_or(|now| parent != *now) {
        return Err(anyhow!("the parent is gone"));
    }
    Err(std::process::Command::new(program).arg0(name).args(args).exec().into())
}

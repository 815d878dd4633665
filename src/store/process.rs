//! Which process leads, and whether it is proved to be gone: nobody need wait for its lease then. I/O.
//!
//! Only what the kernel says of its own processes counts: the same boot and the same space of
//! process ids, and no process there with that id and start. Anything else proves nothing.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process on some machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's random id of its boot.
    pub boot: String,
    /// The space that the process id is of.
    pub pid_namespace: String,
    /// Its id.
    pub pid: i32,
    /// When it started, in ticks since boot: ids are used again.
    pub started: u64,
}

impl Process {
    /// This process; `None` where the kernel does not tell.
    pub fn this() -> Option<Process> {
        Process::of(rustix::process::getpid().as_raw_pid())
    }

    /// A process of this machine; `None` where the kernel does not tell.
    pub fn of(pid: i32) -> Option<Process> {
        let (boot, pid_namespace) = place()?;
        Some(Process { boot, pid_namespace, pid, started: started(pid)? })
    }

    /// Whether this process is proved to be gone: it ran on this machine, and does not any more.
    pub fn is_gone(&self) -> bool {
        let here = place().is_some_and(|(boot, space)| boot == self.boot && space == self.pid_namespace);
        let Some(pid) = Pid::from_raw(self.pid.max(0)).filter(|_| here) else { return false };
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // It may not be ours to look at, and then nothing is known.
            _ => started(self.pid).is_some_and(|started| started != self.started),
        }
    }
}

fn place() -> Option<(String, String)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_string();
    let space = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_string();
    Some((boot, space))
}

/// Field 22 of `/proc/PID/stat`. The second, the name in parentheses, may hold anything.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_gone_only_when_the_kernel_that_ran_it_says_so() {
        let this = Process::this().unwrap();
        assert!(!this.is_gone());
        assert!(!Process { boot: "another".to_string(), started: 1, ..this.clone() }.is_gone());
        assert!(!Process { pid_namespace: "pid:[1]".to_string(), started: 1, ..this.clone() }.is_gone());
        assert!(Process { started: this.started + 1, ..this.clone() }.is_gone(), "its id is another's now");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn absurd_process_ids_prove_nothing() {
        let this = Process::this().unwrap();
        for pid in [0, -1, i32::MIN] {
            assert!(!Process { pid, ..this.clone() }.is_gone(), "{pid}");
        }
    }
}

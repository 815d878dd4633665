//! Real processes for tests: a home folder that kills everything in it, free ports, signals. I/O.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends everything that lives in the folder `$1` once its standard input closes, which is when the
/// test's process ends, whatever ended it.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r _
while pids=$(find /proc -maxdepth 2 -name cwd '(' -lname "$1" -o -lname "$1/*" -o -lname "$1 *" ')' 2>/dev/null |
             sed 's|/proc/\([0-9]*\)/cwd|\1|' | grep '^[0-9]*$'); do
  kill -9 $pids 2>/dev/null
  sleep 0.02
done
"#;

/// How long killed processes may take to vanish: the kernel frees their memory first.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// How many of the last lines of each log are shown when a test fails.
const LOG_LINES_SHOWN: usize = 12;

/// A temporary folder in which processes work.
///
/// Every process whose current folder is in it is killed with SIGKILL when it is dropped, and also
/// when the test's own process dies in any way: so are the grandchildren that made process groups or
/// sessions of their own, as the tasks of a Mesos agent do. The folder is removed, except when the
/// test fails: then its path and the ends of its logs are printed.
pub struct Home {
    path: PathBuf,
    watchdog: Child,
}

impl Home {
    /// A new home; `what` is part of its name.
    pub fn new(what: &str) -> Home {
        let path = tempfile::Builder::new()
            .prefix(&format!("redisctl-test-{what}-"))
            .tempdir()
            .expect("a temporary folder")
            .keep()
            .canonicalize()
            .expect("it exists");
        // In a session of its own: a signal for the test's process group does not reach it.
        let watchdog = Command::new("setsid")
            .args(["sh", "-c", WATCHDOG, "watchdog"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setsid and sh are there");
        Home { path, watchdog }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a process in the sub-folder `folder` of this home (made if need be), its output
    /// appended to `folder.log`.
    pub fn spawn(&self, folder: &str, command: &mut Command) -> Process {
        let work = self.path.join(folder);
        fs::create_dir_all(&work).expect("a folder in the home");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path.join(format!("{folder}.log")))
            .expect("a log in the home");
        let child = command
            .current_dir(&work)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", command.get_program().display()));
        Process { child: Some(child) }
    }

    /// The log of what was spawned in `folder`.
    pub fn log(&self, folder: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path.join(format!("{folder}.log"))).unwrap_or_default()).into_owned()
    }

    fn show_logs(&self) {
        eprintln!("\nlogs are kept in {}", self.path.display());
        let mut entries: Vec<_> = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries.iter().filter(|p| p.extension().is_some_and(|e| e == "log")) {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of {}", path.display());
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        kill_all_in(&self.path);
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        if std::thread::panicking() {
            self.show_logs();
        } else {
            let _ = fs::remove_dir_all(&self.path); // What cannot be removed is in the temp folder anyway.
        }
    }
}

/// The processes whose current folder is `folder` or in it.
pub fn processes_in(folder: &Path) -> Vec<Pid> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let is_in = |cwd: &Path| {
        let cwd = cwd.as_os_str().as_encoded_bytes();
        // A removed folder reads "PATH (deleted)".
        cwd.strip_prefix(folder).is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b' ')))
    };
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| is_in(&cwd)))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Kills (SIGKILL) every process in `folder`, and waits until none is left.
pub fn kill_all_in(folder: &Path) {
    let deadline = Instant::now() + DEATH_TIMEOUT;
    loop {
        let pids = processes_in(folder);
        if pids.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "processes {pids:?} in {} survive SIGKILL", folder.display());
        for pid in pids {
            let _ = kill_process(pid, Signal::KILL); // It may have ended meanwhile.
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to every process in `folder`.
pub fn signal_all_in(folder: &Path, signal: Signal) {
    for pid in processes_in(folder) {
        let _ = kill_process(pid, signal); // It may have ended meanwhile.
    }
}

/// A process that is killed (SIGKILL) when dropped.
pub struct Process {
    child: Option<Child>,
}

impl Process {
    /// No process: a place for one that is started later.
    pub fn none() -> Process {
        Process { child: None }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        let stat = self.pid().map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
        // After the name in parentheses comes the state; Z: it has ended, and nobody has asked how.
        stat.and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z'))).unwrap_or(false)
    }

    /// `kill -9`, and waits for its end. Not for its children.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // It may have ended by itself.
            let _ = child.wait();
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it keeps its connections and answers nobody. Returns when every thread of it has
    /// stopped, for one that still runs may answer.
    pub fn freeze(&self) {
        freeze(self.pid().expect("the process was started"));
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("the process was started"), signal).expect("the process runs");
    }
}

/// SIGSTOP to a process. Returns when every thread of it has stopped.
pub fn freeze(pid: Pid) {
    kill_process(pid, Signal::STOP).expect("the process runs");
    while !all_threads_stopped(pid) {
        std::thread::yield_now();
    }
}

fn all_threads_stopped(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    // After the name in parentheses comes the state: `T` is stopped.
    let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok()).all(|stat| state(stat) == Some('T'))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports are leased in blocks of this many. The first one is held by a listener, which says that the
/// block is taken: the local cluster (`src/local/config.rs`) does it the same way.
const BLOCK: u16 = 100;
/// Above the ports that well-known services use, ...
const PORT_MIN: u16 = 10_000;
/// ... and below those of simulated agents, and those that the kernel hands out to outgoing
/// connections (from 32768 on): a server now and then finds one of these taken.
const PORT_MAX: u16 = 31_700;

/// Ports that nobody uses and no other test gets, until dropped, or until this process ends.
pub struct Ports {
    first: u16,
    count: u16,
    taken: AtomicU16,
    _claim: TcpListener,
}

impl Ports {
    /// `count` ports in a row, at most 99.
    pub fn lease(count: u16) -> Ports {
        assert!(count < BLOCK, "at most {} ports at once", BLOCK - 1);
        let blocks = (PORT_MAX - PORT_MIN) / BLOCK;
        // Tests that start at the same moment begin to look at different places.
        let start = rand::random_range(0..blocks);
        for i in 0..blocks {
            let block = PORT_MIN + (start + i) % blocks * BLOCK;
            let Ok(claim) = TcpListener::bind(("0.0.0.0", block)) else { continue };
            if (block + 1..block + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Ports { first: block + 1, count, taken: AtomicU16::new(0), _claim: claim };
            }
        }
        panic!("no {BLOCK} free ports in a row between {PORT_MIN} and {PORT_MAX}");
    }

    /// The next single port of the lease.
    pub fn next(&self) -> u16 {
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        assert!(index < self.count, "this lease has {} ports only", self.count);
        self.first + index
    }

    /// All of them.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.first + self.count - 1
    }
}

/// Runs a short command to its end, however the test ends; its standard output when it succeeds,
/// both outputs when not.
pub async fn run(program: &str, args: &[&str], input: &[u8], timeout: Duration) -> Result<String, String> {
    use tokio::io::AsyncWriteExt as _;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("start {program}: {e}"))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let _ = stdin.write_all(input).await; // A command that does not read its input says why below.
    drop(stdin);
    let output = tokio::time::timeout(timeout, child.wait_with_output())
        .await
        .map_err(|_| format!("{program} {args:?}: no end within {timeout:?}"))?
        .map_err(|e| format!("{program}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {args:?}: {}: {text}{errors}", output.status))
}

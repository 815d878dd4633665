//! The command executor: runs one task, over the v1 executor API of the agent
//! that started it.  It reconnects when the agent restarts, sends again what was
//! not acknowledged, and ends its task when the agent stays away.
use crate::{command, env, set_variables};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, process, thread};

const RECONNECT_EVERY: Duration = Duration::from_millis(200);
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(900);
const DEFAULT_GRACE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct State {
    task: Value,
    pid: Option<Pid>,
    killed: bool,
    updates: Map<String, Value>, // not acknowledged, by uuid
    tasks: Map<String, Value>,   // not acknowledged, by id
}

struct Executor {
    agent: String,
    path: String,
    state: Mutex<State>,
}

pub fn run() {
    let process_name = env("MESOS_SLAVE_PID");
    let id = process_name.split('@').next().unwrap_or("slave(1)");
    let executor = Arc::new(Executor {
        agent: env("MESOS_AGENT_ENDPOINT"),
        path: format!("/{id}/api/v1/executor"),
        state: Mutex::default(),
    });
    let checkpoint = env("MESOS_CHECKPOINT") == "1";
    let mut last_seen = Instant::now();
    loop {
        if let Err(e) = executor.follow_events(&mut last_seen) {
            eprintln!("mesos-executor: disconnected: {e}");
        }
        if !checkpoint || last_seen.elapsed() > RECOVERY_TIMEOUT {
            executor.kill(DEFAULT_GRACE);
            thread::sleep(DEFAULT_GRACE + Duration::from_secs(1));
            process::exit(1);
        }
        thread::sleep(RECONNECT_EVERY);
    }
}

impl Executor {
    /// POSTs a call; the answer's body is left to read.
    fn call(&self, mut call: Value) -> io::Result<BufReader<TcpStream>> {
        call["executor_id"] = json!({"value": env("MESOS_EXECUTOR_ID")});
        call["framework_id"] = json!({"value": env("MESOS_FRAMEWORK_ID")});
        let body = call.to_string();
        let mut stream = TcpStream::connect(&self.agent)?;
        stream.set_nodelay(true)?;
        write!(
            stream,
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.path, self.agent, body.len()
        )?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if status.contains(" 20") {
            return Ok(reader);
        }
        let mut why = vec![0; length];
        reader.read_exact(&mut why)?;
        Err(io::Error::other(format!("{} {}", status.trim(), String::from_utf8_lossy(&why))))
    }

    fn follow_events(self: &Arc<Self>, last_seen: &mut Instant) -> io::Result<()> {
        let subscribe = {
            let state = self.state.lock().unwrap();
            json!({"type": "SUBSCRIBE", "subscribe": {
                "unacknowledged_tasks": state.tasks.values().collect::<Vec<_>>(),
                "unacknowledged_updates": state.updates.values().collect::<Vec<_>>(),
            }})
        };
        let mut events = BufReader::new(Chunks { inner: self.call(subscribe)?, left: 0 });
        loop {
            let mut length = String::new();
            if events.read_line(&mut length)? == 0 {
                return Ok(());
            }
            let length = length.trim().parse().map_err(io::Error::other)?;
            let mut record = vec![0; length];
            events.read_exact(&mut record)?;
            *last_seen = Instant::now();
            self.handle(&serde_json::from_slice(&record)?);
        }
    }

    fn handle(self: &Arc<Self>, event: &Value) {
        match event["type"].as_str() {
            Some("LAUNCH") => self.launch(&event["launch"]["task"]),
            Some("KILL") => {
                let grace = event["kill"]["kill_policy"]["grace_period"]["nanoseconds"].as_u64();
                self.kill(grace.map_or(DEFAULT_GRACE, Duration::from_nanos));
            }
            Some("SHUTDOWN") => self.kill(DEFAULT_GRACE),
            Some("ACKNOWLEDGED") => {
                let acknowledged = &event["acknowledged"];
                let mut state = self.state.lock().unwrap();
                state.updates.remove(acknowledged["uuid"].as_str().unwrap_or_default());
                state.tasks.remove(acknowledged["task_id"]["value"].as_str().unwrap_or_default());
            }
            _ => {}
        }
    }

    fn launch(self: &Arc<Self>, task: &Value) {
        {
            let mut state = self.state.lock().unwrap();
            state.task = task.clone();
            state.tasks.insert(task["task_id"]["value"].as_str().unwrap_or_default().into(), task.clone());
        }
        self.update("TASK_STARTING", json!({}));
        let open = |name| fs::File::options().create(true).append(true).open(name);
        let mut command = command(&task["command"]);
        set_variables(&mut command, &task["command"]["environment"]);
        if let (Ok(out), Ok(err)) = (open("stdout"), open("stderr")) {
            command.stdout(out).stderr(err);
        }
        match command.process_group(0).spawn() {
            Ok(child) => {
                self.state.lock().unwrap().pid = Some(Pid::from_child(&child));
                self.update("TASK_RUNNING", json!({}));
                let executor = Arc::clone(self);
                thread::spawn(move || executor.wait(child));
            }
            Err(e) => {
                let why = json!({"message": e.to_string(), "reason": "REASON_COMMAND_EXECUTOR_FAILED"});
                self.update("TASK_FAILED", why);
                let executor = Arc::clone(self);
                thread::spawn(move || executor.end());
            }
        }
    }

    fn wait(&self, mut child: process::Child) {
        let status = child.wait().expect("the task is our child");
        if self.state.lock().unwrap().killed {
            self.update("TASK_KILLED", json!({"message": format!("Command {status}")}));
        } else if status.success() {
            self.update("TASK_FINISHED", json!({}));
        } else {
            let message = match status.signal() {
                Some(signal) => format!("Command terminated with signal {signal}"),
                None => format!("Command exited with status {}", status.code().unwrap_or(-1)),
            };
            self.update("TASK_FAILED", json!({"message": message, "reason": "REASON_COMMAND_EXECUTOR_FAILED"}));
        }
        self.end();
    }

    /// Ends this executor when its last update was acknowledged, or after 10 s.
    fn end(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && !self.state.lock().unwrap().updates.is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
        process::exit(0);
    }

    /// SIGTERM to the task's process group, SIGKILL after `grace`.
    fn kill(&self, grace: Duration) {
        let pid = {
            let mut state = self.state.lock().unwrap();
            state.killed = true;
            state.pid
        };
        let Some(pid) = pid else { process::exit(0) };
        signal(pid, Signal::TERM);
        thread::spawn(move || {
            thread::sleep(grace);
            signal(pid, Signal::KILL);
        });
    }

    /// Sends a status update, and again with the next SUBSCRIBE if it is lost.
    fn update(&self, task_state: &str, more: Value) {
        let mut random = [0; 16];
        fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).expect("randomness");
        random[6] = random[6] & 0x0f | 0x40; // Version 4: the agent looks.
        random[8] = random[8] & 0x3f | 0x80;
        let uuid = base64(&random);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let update = {
            let mut state = self.state.lock().unwrap();
            let mut status = json!({
                "task_id": state.task["task_id"], "state": task_state, "source": "SOURCE_EXECUTOR",
                "uuid": uuid, "timestamp": now,
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                status[key] = value.clone();
            }
            let update = json!({"status": status});
            state.updates.insert(uuid, update.clone());
            update
        };
        if let Err(e) = self.call(json!({"type": "UPDATE", "update": update})) {
            eprintln!("mesos-executor: update kept: {e}");
        }
    }
}

/// A signal to the task's process group; one that has ended already is as wanted.
fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process_group(pid, signal);
}

/// The body of a chunked answer.
struct Chunks<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut size = String::new();
            if self.inner.read_line(&mut size)? == 0 {
                return Ok(0);
            }
            let size = size.trim();
            if size.is_empty() {
                continue; // The end of the chunk before.
            }
            self.left = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let n = buffer.len().min(self.left);
        let n = self.inner.read(&mut buffer[..n])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        Ok(n)
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            text.push(if i <= group.len() { DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char } else { '=' });
        }
    }
    text
}

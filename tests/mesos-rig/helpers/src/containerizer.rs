//! `mesos-containerizer launch`: the agent forks it for each container.  It
//! waits until the agent lets it go on, runs the container's command, and leaves
//! its wait status where an agent that was restarted meanwhile looks for it.
use crate::{command, env, set_variables};
use std::{fs, io::Read, os::fd::FromRawFd, os::unix::process::ExitStatusExt, process};

pub fn launch() {
    let verb = std::env::args().nth(1);
    assert_eq!(verb.as_deref(), Some("launch"), "mesos-containerizer: only `launch` is here");

    // SAFETY: the agent opened both ends for us, and nothing else here uses them.
    let pipe = |name: &str| unsafe { fs::File::from_raw_fd(env(name).parse().expect("a file descriptor")) };
    drop(pipe("MESOS_CONTAINERIZER_PIPE_WRITE"));
    let mut go = [0];
    if pipe("MESOS_CONTAINERIZER_PIPE_READ").read(&mut go).unwrap_or(0) == 0 {
        process::exit(1); // The agent died, or gave up on this container.
    }

    let info: serde_json::Value =
        serde_json::from_str(&env("MESOS_CONTAINERIZER_LAUNCH_INFO")).expect("launch info as JSON");
    let mut command = command(&info["command"]);
    for (name, _) in std::env::vars() {
        if ["MESOS_", "LIBPROCESS_", "LD_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    set_variables(&mut command, &info["environment"]);
    set_variables(&mut command, &info["task_environment"]);
    if let Some(directory) = info["working_directory"].as_str() {
        command.current_dir(directory);
    }
    let status = command.status().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));

    if let Ok(directory) = std::env::var("MESOS_CONTAINERIZER_RUNTIME_DIRECTORY") {
        let checkpoint = || -> std::io::Result<()> {
            fs::create_dir_all(&directory)?;
            fs::write(format!("{directory}/.status"), status.into_raw().to_string())?;
            fs::rename(format!("{directory}/.status"), format!("{directory}/status"))
        };
        checkpoint().unwrap_or_else(|e| eprintln!("mesos-containerizer: status: {e}"));
    }
    process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
}

//! What signals mean to the operator. I/O.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::files;

/// Listens for signals from now on. The token is cancelled when the operator is told to stop (SIGTERM, SIGINT).
///
/// SIGHUP has files read again; of the local mode it is the end, as its terminal was closed. Signals that mean
/// nothing would end the process if nobody listened: they are told of instead.
pub fn listen(of_terminal: bool) -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let on = |kind: SignalKind| signal(kind).with_context(|| format!("listen for signal {}", kind.as_raw_value()));
    let deaf = ignores_hangup();
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let mut hangup = on(SignalKind::hangup())?;
    let (mut user1, mut user2) = (on(SignalKind::user_defined1())?, on(SignalKind::user_defined2())?);
    let (mut alarm, mut io, mut pipe) = (on(SignalKind::alarm())?, on(SignalKind::io())?, on(SignalKind::pipe())?);
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => "SIGHUP",
                _ = user1.recv() => "SIGUSR1",
                _ = user2.recv() => "SIGUSR2",
                _ = alarm.recv() => "SIGALRM",
                _ = io.recv() => "SIGIO",
                _ = pipe.recv() => continue, // A reader has gone: whoever wrote has an error for that.
            };
            match name {
                "SIGHUP" if of_terminal && !deaf => break,
                "SIGHUP" => {
                    files::look_now();
                    info!("SIGHUP: files are read again");
                }
                name => warn!("{name} means nothing to the operator, which goes on"),
            }
        }
        info!("told to stop; nodes {}", if of_terminal { "end too" } else { "run on" });
        told.cancel();
    });
    Ok(stop)
}

/// Whether whoever started us wants us to go on when the terminal is closed (nohup).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signals are counted from one: this one is the lowest bit.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

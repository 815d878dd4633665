//! Scenarios of nodes that die by themselves, and of what they said last. I/O.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, wait_until};
use crate::world::{TIMEOUT, World};

/// A redis-server that dies as its folder, and so its instance, is called.
const SERVER: &str = r#"#!/bin/sh
case "$PWD" in
*/setting-*) exec redis-server "$@" --save foo ;;
*/missing-*) exec /no/such/redis-server "$@" ;;
*/forbidden-*) exec /etc ;;
*/killed-*) kill -9 $$ ;;
*/full-*) printf 'Write error: No space left on device \033[2J\007\n' >&2; exit 1 ;;
*/silent-*) exit 3 ;;
*/long-*) head -c 300000 /dev/zero | tr '\0' x; head -c 300000 /dev/zero | tr '\0' y >&2; exit 1 ;;
esac
exec redis-server "$@"
"#;

pub async fn a_port_that_another_process_has_is_named_as_the_reason(kind: Kind) {
    let mut world = World::without_operator(kind, &[AgentSpec::rack("r1").ports(1)]).await;
    let ports = world.cluster.ports(0).await;
    let taken: Vec<TcpListener> = ports.map(|port| TcpListener::bind(("0.0.0.0", port)).expect("it is free")).collect();
    world.spawn_operator();
    world.put("orders", &Document::new("orders", 0).yaml()).await;
    let told = world.event("orders", "PortTaken").await;
    assert!(told.contains("Address already in use"), "{told}");
    assert!(told.contains("find it on the agent"), "{told}");
    drop(taken);
    world.ready("orders", 1).await;
    world.finish().await;
}

pub async fn what_a_dead_node_said_last_is_told_with_what_can_be_done(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(1)).await;
    let server = world.cluster.home().join("dying-redis-server");
    std::fs::write(&server, SERVER).expect("a file in the home");
    std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    world.spawn_operator_with(&["--redis-server", server.to_str().expect("a plain path")]);
    let deaths = [
        ("setting", "SettingRefused", "FATAL CONFIG FILE ERROR"),
        ("missing", "ProgramMissing", "not found"),
        ("forbidden", "NotPermitted", "Permission denied"),
        ("killed", "KilledFromOutside", "dmesg"),
        ("full", "DiskFull", "No space left on device"),
        ("silent", "Died", "Command exited with status 3"),
        ("long", "Died", "yyyyyyyy"),
    ];
    for (name, _, _) in deaths {
        world.put(name, &Document::new(name, 0).yaml()).await;
    }
    for (name, reason, words) in deaths {
        let told = world.event(name, reason).await;
        assert!(told.contains(words), "{name}: {told}");
        assert!(!told.chars().any(char::is_control) && told.len() < 4000, "{name}: {told:?}");
        // From the second death in a row on, the status says why it waits, and the reason.
        wait_until("the status says why", TIMEOUT, async || {
            let status = world.status(name).await?;
            anyhow::ensure!(status.waiting.iter().any(|why| why.contains(reason)), "{:?}", status.waiting);
            anyhow::Ok(())
        })
        .await;
    }
    for (name, _, _) in deaths {
        world.cli(&["delete", name], "").await;
    }
    world.finish_deleted().await;
}

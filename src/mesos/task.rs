//! From a launch to Mesos' `TaskInfo`. Pure.

use serde_json::{Value, json};

use super::Containerizer;
use crate::model::{Amount, Launch, Piece};

/// The `TaskInfo` of a launch.
///
/// There is no health check: a failing one makes the executor kill the task without asking, and a
/// Redis that loads, forks or runs a long script is no reason to kill it. Nor are there limits beyond
/// the resources: agents without cgroups refuse such tasks.
pub fn task_info(launch: &Launch, containerizer: Containerizer) -> Value {
    let mut info = json!({
        "name": launch.name,
        "task_id": {"value": launch.task_id},
        "agent_id": {"value": launch.agent_id},
        "command": command(launch, containerizer),
        "resources": launch.pieces.iter().map(resource).collect::<Vec<_>>(),
        "kill_policy": {"grace_period": {"nanoseconds": launch.grace_ms.saturating_mul(1_000_000)}},
        "labels": labels(launch.labels.iter()),
        "discovery": discovery(launch),
    });
    if let Some(image) = &launch.image {
        info["container"] = container(image, containerizer);
    }
    info
}

/// Labels as Mesos has them.
pub fn labels<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Value {
    json!({"labels": labels.map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>()})
}

/// The command; what `arguments` means differs. The Mesos containerizer executes `value` with
/// `arguments` as the whole argv, `argv[0]` included, and leaves an image's entrypoint out. The
/// Docker containerizer appends them to `docker run IMAGE`, so that the image's entrypoint gets them.
fn command(launch: &Launch, containerizer: Containerizer) -> Value {
    match (&launch.image, containerizer) {
        (Some(_), Containerizer::Docker) => json!({"shell": false, "arguments": launch.argv}),
        _ => json!({"shell": false, "value": launch.argv.first(), "arguments": launch.argv}),
    }
}

/// The container of an image. The task listens on the agent's own addresses.
fn container(image: &str, containerizer: Containerizer) -> Value {
    match containerizer {
        Containerizer::Mesos => {
            json!({"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": image}, "cached": true}}})
        }
        Containerizer::Docker => {
            json!({"type": "DOCKER", "docker": {"image": image, "network": "HOST", "force_pull_image": false}})
        }
    }
}

/// A piece of an offer as a resource: with its own reservations, or the master does not find it in
/// the offer. The allocation's role is filled in by the master.
fn resource(piece: &Piece) -> Value {
    let mut resource = match &piece.amount {
        Amount::Milli(milli) => json!({"name": piece.name, "type": "SCALAR", "scalar": {"value": units(*milli)}}),
        Amount::Ranges(ranges) => {
            let ranges: Vec<Value> = ranges.iter().map(|(begin, end)| json!({"begin": begin, "end": end})).collect();
            json!({"name": piece.name, "type": "RANGES", "ranges": {"range": ranges}})
        }
    };
    if !piece.reservations.is_null() {
        resource["reservations"] = piece.reservations.clone();
    }
    resource
}

/// Thousandths as Mesos' floating point number, which keeps three decimals.
#[allow(clippy::cast_precision_loss)] // Exact up to 2^53 thousandths: 8 million TiB in MiB.
fn units(milli: u64) -> f64 {
    milli as f64 / 1000.0
}

/// For Mesos-DNS and the like: the node's name and its ports.
fn discovery(launch: &Launch) -> Value {
    let ranges = launch.pieces.iter().filter(|piece| piece.name == "ports").filter_map(|piece| match &piece.amount {
        Amount::Ranges(ranges) => Some(ranges),
        Amount::Milli(_) => None,
    });
    let ports: Vec<Value> = ranges
        .flatten()
        .flat_map(|(begin, end)| *begin..=*end)
        .map(|port| json!({"number": port, "name": "redis", "protocol": "tcp"}))
        .collect();
    json!({"visibility": "CLUSTER", "name": launch.name, "ports": {"ports": ports}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(image: Option<&str>) -> Launch {
        let reservations = json!([{"type": "STATIC", "role": "redis"}]);
        Launch {
            task_id: "orders-0.18f3".into(),
            name: "orders-0".into(),
            agent_id: "S1".into(),
            pieces: vec![
                Piece { name: "cpus".into(), amount: Amount::Milli(100), reservations: Value::Null },
                Piece { name: "mem".into(), amount: Amount::Milli(288_000), reservations: reservations.clone() },
                Piece { name: "ports".into(), amount: Amount::Ranges(vec![(31000, 31000)]), reservations: Value::Null },
            ],
            argv: vec!["redis-server".into(), "--port".into(), "31000".into()],
            image: image.map(str::to_string),
            grace_ms: 30_000,
            labels: [("instance".to_string(), "orders".to_string())].into(),
        }
    }

    #[test]
    fn a_task_without_an_image_is_a_plain_command_with_its_own_argv_0() {
        let info = task_info(&launch(None), Containerizer::Mesos);
        assert_eq!(
            info,
            json!({
                "name": "orders-0",
                "task_id": {"value": "orders-0.18f3"},
                "agent_id": {"value": "S1"},
                "command": {"shell": false, "value": "redis-server", "arguments": ["redis-server", "--port", "31000"]},
                "resources": [
                    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                    {"name": "mem", "type": "SCALAR", "scalar": {"value": 288.0},
                     "reservations": [{"type": "STATIC", "role": "redis"}]},
                    {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31000}]}},
                ],
                "kill_policy": {"grace_period": {"nanoseconds": 30_000_000_000_u64}},
                "labels": {"labels": [{"key": "instance", "value": "orders"}]},
                "discovery": {"visibility": "CLUSTER", "name": "orders-0",
                    "ports": {"ports": [{"number": 31000, "name": "redis", "protocol": "tcp"}]}},
            })
        );
        assert_eq!(task_info(&launch(None), Containerizer::Docker), info, "the setting concerns images only");
    }

    #[test]
    fn an_image_in_the_mesos_containerizer_runs_the_command_without_its_entrypoint() {
        let info = task_info(&launch(Some("redis:7.2")), Containerizer::Mesos);
        assert_eq!(info["command"], task_info(&launch(None), Containerizer::Mesos)["command"]);
        assert_eq!(info["container"]["type"], "MESOS");
        assert_eq!(info["container"]["mesos"]["image"]["docker"]["name"], "redis:7.2");
    }

    #[test]
    fn an_image_in_docker_gets_the_whole_command_as_arguments_of_its_entrypoint() {
        let info = task_info(&launch(Some("redis:7.2")), Containerizer::Docker);
        assert_eq!(info["command"], json!({"shell": false, "arguments": ["redis-server", "--port", "31000"]}));
        assert_eq!(
            info["container"],
            json!({"type": "DOCKER", "docker": {"image": "redis:7.2", "network": "HOST", "force_pull_image": false}})
        );
    }
}

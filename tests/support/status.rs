//! What a status says, in short. Pure.

use redisctl::status::{ConditionStatus, InstanceStatus, NodeState, NodeStatus, Phase};

/// All as declared, and nothing to wait for.
pub fn is_ready(status: &InstanceStatus) -> bool {
    status.phase == Phase::Ready
        && status.waiting.is_empty()
        && status.nodes.iter().all(|node| node.state == NodeState::Ready)
}

/// A status in one line, for messages.
pub fn brief(status: &InstanceStatus) -> String {
    let node = |n: &NodeStatus| format!("{} {} {} on {} {:?}", n.name, n.role, n.state, n.hostname, n.message);
    let nodes: Vec<String> = status.nodes.iter().map(node).collect();
    let not_true = status.conditions.iter().filter(|c| c.status != ConditionStatus::True);
    let conditions: Vec<String> = not_true.map(|c| format!("{}: {} {}", c.kind, c.reason, c.message)).collect();
    format!(
        "phase {}, observed {}, nodes {nodes:?}, not true {conditions:?}, waiting {:?}",
        status.phase, status.observed_revision, status.waiting
    )
}

//! What an administrator does to agents, on either kind of cluster. I/O.

use std::time::Duration;

use crate::cluster::{Cluster, Kind};
use crate::support::AgentSpec;

pub async fn agents_are_taken_out_of_service_and_back_on_either_cluster(kind: Kind) {
    let cluster = Cluster::start(kind, &AgentSpec::racks(2)).await;
    cluster.deactivate(0).await;
    cluster.reactivate(0).await;
    cluster.drain(1).await;
    cluster.drained(1).await;
    cluster.reactivate(1).await;
    cluster.maintenance(0, Duration::from_mins(10)).await;
    assert!(cluster.maintenance_answers().await.is_empty(), "nobody was there to answer");
    cluster.no_maintenance().await;
}

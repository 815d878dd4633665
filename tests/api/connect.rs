//! Where clients connect: asked once, and watched. I/O.

use redisctl::model::Role;
use redisctl::status::{NodeState, NodeStatus, Phase};
use serde_json::json;

use crate::{Api, node, view};

#[tokio::test]
async fn connect_names_the_master_and_the_replicas_that_follow_it() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/instances/orders/connect").await.0, 404);
    let mut orders = view("orders", Phase::Ready);
    orders.status.epoch = 3;
    orders.status.master = Some("10.0.0.1:1".into());
    orders.status.nodes = vec![
        node("orders-0", Role::Master, "10.0.0.1:1"),
        node("orders-1", Role::Replica, "10.0.0.2:1"),
        NodeStatus { state: NodeState::Syncing, ..node("orders-2", Role::Replica, "10.0.0.3:1") },
    ];
    api.board.set(orders.clone());
    let expected = json!({"name": "orders", "epoch": 3, "master": "10.0.0.1:1", "replicas": ["10.0.0.2:1"]});
    assert_eq!(api.get("/v1/instances/orders/connect").await.1, expected);

    let mut watch = api.watch("/v1/instances/orders/connect?watch").await;
    assert_eq!(watch.next().await, Some(("set".into(), expected)));
    assert_eq!(watch.next().await, Some(("synced".into(), json!({}))));
    orders.status.observed_revision = 9; // Nothing that clients would see.
    api.board.set(orders.clone());
    (orders.status.epoch, orders.status.master) = (4, None);
    api.board.set(orders);
    let expected = json!({"name": "orders", "epoch": 4, "master": null, "replicas": ["10.0.0.2:1"]});
    assert_eq!(watch.next().await, Some(("set".into(), expected)));
    api.board.remove("orders");
    assert_eq!(watch.next().await, Some(("removed".into(), json!({"name": "orders"}))));
}

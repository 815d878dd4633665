//! mr-redis' API: its paths, codes, texts and JSON, byte for byte. I/O.

use redisctl::board::Measured;
use redisctl::model::{Gauges, Role, Timestamp};
use redisctl::status::Phase;
use reqwest::Method;

use crate::{Api, node, view};

impl Api {
    /// The code and the text, which is never anything else.
    async fn told(&self, method: Method, path: &str, body: &'static str) -> (u16, String) {
        let answer = self.http.request(method, format!("{}{path}", self.base)).body(body).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8", "{path}");
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

fn told(code: u16, text: &str) -> (u16, String) {
    (code, text.to_string())
}

const ACCEPTED: &str = "Request Accepted, Instance will be created.";

#[tokio::test]
async fn create_declares_an_instance_like_all_others() {
    let api = Api::start().await;
    let create = "/v1/CREATE/TestInstance/100/1/2";
    assert_eq!(api.told(Method::POST, create, "").await, told(201, ACCEPTED));
    let stored: serde_yaml::Value = serde_yaml::from_str(&api.stored("TestInstance").await.unwrap()).unwrap();
    assert_eq!(stored["spec"]["memory"], "100Mi");
    assert_eq!((stored["spec"]["replicas"].as_u64(), stored["spec"]["distribution"].as_u64()), (Some(2), Some(1)));
    let exists = told(200, "Instance TestInstance already exist, cannot be created");
    assert_eq!(api.told(Method::POST, create, "").await, exists);
    assert_eq!(api.told(Method::POST, "/v1/CREATE/TestInstance/200/1/0", "").await, exists);
    let unchanged: serde_yaml::Value = serde_yaml::from_str(&api.stored("TestInstance").await.unwrap()).unwrap();
    assert_eq!(unchanged, stored);

    let body = "{\n        \"Distribution\": 2\n}\n";
    assert_eq!(api.told(Method::POST, "/v1/CREATE/spread/100/1/2", body).await, told(201, ACCEPTED));
    let stored: serde_yaml::Value = serde_yaml::from_str(&api.stored("spread").await.unwrap()).unwrap();
    assert_eq!(stored["spec"]["distribution"].as_u64(), Some(2));
}

#[tokio::test]
async fn what_mr_redis_took_for_zero_or_passed_over_is_refused_with_the_reason() {
    let api = Api::start().await;
    for (path, body, why) in [
        ("/v1/CREATE/a/many/1/2", "", "capacity \"many\": allowed is a number"),
        ("/v1/CREATE/a/100/one/2", "", "masters \"one\": allowed is a number"),
        ("/v1/CREATE/a/100/1/-2", "", "slaves \"-2\": allowed is a number"),
        ("/v1/CREATE/a/100/2/2", "", "spec.masters: "),
        ("/v1/CREATE/a/0/1/2", "", "spec.memory: "),
        ("/v1/CREATE/-a/100/1/2", "", "metadata.name: \"-a\" is not a name"),
        ("/v1/CREATE/a/100/1/2", "{\"Distribution\": 0}", "spec.distribution: "),
        ("/v1/CREATE/a/100/1/2", "{\"Distribution\": \"2\"}", "the body is not {\"Distribution\": 1}"),
        ("/v1/CREATE/a/100/1/2", "nonsense", "the body is not {\"Distribution\": 1}"),
    ] {
        let (code, text) = api.told(Method::POST, path, body).await;
        assert_eq!(code, 400, "{path} {body}: {text}");
        assert!(text.contains(why), "{path} {body}: {text}");
    }
    assert_eq!(api.stored("a").await, None);
}

#[tokio::test]
async fn delete_asks_for_the_deletion() {
    let api = Api::start().await;
    let none = told(401, "Instance TestInstance does not exist, cannot be deleted");
    assert_eq!(api.told(Method::DELETE, "/v1/DELETE/TestInstance", "").await, none);
    api.told(Method::POST, "/v1/CREATE/TestInstance/100/1/0", "").await;
    let placed = told(200, "Request Placed for destroying");
    assert_eq!(api.told(Method::DELETE, "/v1/DELETE/TestInstance", "").await, placed);
    let mut going = view("TestInstance", Phase::Deleting);
    going.deleting = true;
    api.board.set(going);
    let gone = told(401, "Instance TestInstance is already deleted");
    assert_eq!(api.told(Method::DELETE, "/v1/DELETE/TestInstance", "").await, gone);
}

#[tokio::test]
async fn update_changes_what_mr_redis_only_promised_to() {
    let api = Api::start().await;
    let none = told(501, "Instance TestInstance does not exist, error");
    assert_eq!(api.told(Method::PUT, "/v1/UPDATE/TestInstance/Memory/200", "").await, none);
    assert_eq!(api.told(Method::PUT, "/v1/UPDATE/TestInstance/SLAVES/3", "").await, none);
    api.told(Method::POST, "/v1/CREATE/TestInstance/100/1/2", "{\"Distribution\": 4}").await;
    let memory = api.told(Method::PUT, "/v1/UPDATE/TestInstance/Memory/200", "").await;
    assert_eq!(memory, told(200, "Upgrading the instance"));
    let slaves = api.told(Method::PUT, "/v1/UPDATE/TestInstance/SLAVES/3", "").await;
    assert_eq!(slaves, told(200, "Upgrading the instance slaves"));
    let stored: serde_yaml::Value = serde_yaml::from_str(&api.stored("TestInstance").await.unwrap()).unwrap();
    let spec = &stored["spec"];
    assert_eq!((spec["memory"].as_str(), spec["replicas"].as_u64()), (Some("200Mi"), Some(3)), "{stored:?}");
    assert_eq!(spec["distribution"].as_u64(), Some(4));
    let (code, text) = api.told(Method::PUT, "/v1/UPDATE/TestInstance/SLAVES/1000", "").await;
    assert!(code == 400 && text.contains("spec.replicas"), "{code} {text}");
}

fn measured(role: Role, used_memory: u64, uptime_s: u64, clients: u64, last_io_s: u64) -> Measured {
    let gauges = Gauges { uptime_s, clients, last_io_s, ..Gauges::default() };
    Measured { at: Timestamp(1), role, link_up: true, offset: 0, used_memory, max_memory: 0, keys: 0, gauges }
}

#[tokio::test]
async fn status_is_the_json_of_mr_redis_in_its_order() {
    let api = Api::start().await;
    let none = told(501, "Instance TestInstance does not exist, error");
    assert_eq!(api.told(Method::GET, "/v1/STATUS/TestInstance", "").await, none);
    for path in ["/v1/STATUS", "/v1/STATUS/"] {
        assert_eq!(api.told(Method::GET, path, "").await, told(200, "[]"));
    }
    let document = "{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {name: TestInstance}, spec: {memory: \
                    200Mi, replicas: 2}}";
    let mut instance = view("TestInstance", Phase::Creating);
    instance.instance = Some(redisctl::spec::parse_document(document.as_bytes()).unwrap());
    api.board.set(instance.clone());
    let creating =
        r#"{"Name":"TestInstance","Type":"MS","Status":"CREATING","Capacity":200,"Master":null,"Slaves":null}"#;
    assert_eq!(api.told(Method::GET, "/v1/STATUS/TestInstance", "").await, told(200, creating));
    assert_eq!(api.told(Method::GET, "/v1/STATUS", "").await, told(200, "[]"));

    // The example of mr-redis' README.
    instance.status.phase = Phase::Ready;
    instance.status.master = Some("10.11.12.123:6382".into());
    instance.status.nodes = vec![
        node("TestInstance-0", Role::Master, "10.11.12.123:6382"),
        node("TestInstance-1", Role::Replica, "10.11.12.121:6381"),
        node("TestInstance-2", Role::Replica, "10.11.12.121:6382"),
    ];
    api.board.set(instance.clone());
    api.board.measure("TestInstance-0.1", measured(Role::Master, 1_904_432, 1623, 1, 0));
    api.board.measure("TestInstance-1.1", measured(Role::Replica, 834_904, 1619, 2, 9));
    api.board.measure("TestInstance-2.1", measured(Role::Replica, 834_904, 1619, 2, 9));
    let running = r#"{"Name":"TestInstance","Type":"MS","Status":"RUNNING","Capacity":200,"Master":{"IP":"10.11.12.123","Port":"6382","MemoryCapacity":200,"MemoryUsed":1904432,"Uptime":1623,"ClientsConnected":1,"LastSyncedToMaster":0},"Slaves":[{"IP":"10.11.12.121","Port":"6381","MemoryCapacity":200,"MemoryUsed":834904,"Uptime":1619,"ClientsConnected":2,"LastSyncedToMaster":9},{"IP":"10.11.12.121","Port":"6382","MemoryCapacity":200,"MemoryUsed":834904,"Uptime":1619,"ClientsConnected":2,"LastSyncedToMaster":9}]}"#;
    assert_eq!(api.told(Method::GET, "/v1/STATUS/TestInstance", "").await, told(200, running));
    assert_eq!(api.told(Method::GET, "/v1/STATUS", "").await, told(200, &format!("[{running}]")));

    instance.status.master = None;
    api.board.set(instance);
    let (_, lost) = api.told(Method::GET, "/v1/STATUS/TestInstance", "").await;
    assert!(lost.contains(r#""Status":"DISABLED","Capacity":200,"Master":null"#), "{lost}");
}

//! Documents that scenarios write. Pure.

use serde_json::{Value, json};

/// A `RedisInstance` with small nodes, and short waits.
#[derive(Clone)]
pub struct Document(Value);

impl Document {
    /// One master and this many replicas, each on an agent of its own.
    pub fn new(name: &str, replicas: u32) -> Document {
        Document(json!({
            "apiVersion": "redisctl/v1",
            "kind": "RedisInstance",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "memory": "16Mi",
                "cpus": 0.1,
                "placement": {"spreadBy": "rack"},
                "replaceUnreachableAfter": "2s",
                // Stories look at nodes by redis-cli; those of `passwords.rs` are about this.
                "auth": "none",
            },
        }))
    }

    /// The same with another value of a field of the spec.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0["spec"][field] = value.into();
        self
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("it is JSON")
    }

    /// As YAML.
    pub fn yaml(&self) -> String {
        serde_yaml::to_string(&self.0).expect("it is YAML")
    }
}

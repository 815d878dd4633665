//! The JSON Schema of a RedisInstance, made from the types. Pure.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{RedisInstance, directives};

/// The JSON Schema (draft 2020-12) of a RedisInstance.
pub fn schema() -> Value {
    schema_with(SchemaSettings::draft2020_12())
}

/// The schema with other settings: where its definitions go, for a part of a larger document.
pub fn schema_with(settings: SchemaSettings) -> Value {
    let mut schema = Value::from(settings.into_generator().into_root_schema_for::<RedisInstance>());
    accept_slaves(&mut schema);
    schema
}

/// schemars does not see serde's alias: `slaves` is accepted in the place of `replicas`.
fn accept_slaves(schema: &mut Value) {
    let Some(spec) = find_mut(schema, "InstanceSpec") else { return };
    let Some(fields) = spec["properties"].as_object_mut() else { return };
    let mut slaves = fields["replicas"].clone();
    slaves["description"] = "The same as replicas: give one of them.".into();
    if let Some(slaves) = slaves.as_object_mut() {
        slaves.remove("default");
    }
    fields.insert("slaves".to_string(), slaves);
    spec["not"] = json!({"required": ["replicas", "slaves"]});
}

/// The definition with that name, wherever the definitions are.
fn find_mut<'a>(schema: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    schema.as_object_mut()?.values_mut().find_map(|value| {
        if value.get(name).is_some_and(|definition| definition.get("properties").is_some()) {
            return value.get_mut(name);
        }
        None
    })
}

/// `redis.config`: the directives that a spec may set, so that an editor can offer them.
pub(super) fn config(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = directives::names().collect();
    json_schema!({
        "type": "object",
        "propertyNames": {"enum": names},
        "additionalProperties": {"type": ["string", "number", "boolean"]}
    })
}

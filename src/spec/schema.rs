//! The JSON Schema of a `RedisInstance`, made from the types. Pure.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::{RedisInstance, directives};
use crate::status::InstanceStatus;

/// The JSON Schema (draft 2020-12) of a `RedisInstance`.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = Value::from(generator.into_root_schema_for::<RedisInstance>());
    if let Some(definitions) = schema["$defs"].as_object_mut() {
        accept_slaves(definitions);
    }
    schema
}

/// The same and that of the status, as the components of an `OpenAPI` document.
pub fn components() -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    generator.subschema_for::<RedisInstance>();
    generator.subschema_for::<InstanceStatus>();
    let mut definitions = generator.take_definitions(true);
    accept_slaves(&mut definitions);
    definitions
}

/// schemars does not see serde's alias: `slaves` is accepted in the place of `replicas`.
fn accept_slaves(definitions: &mut Map<String, Value>) {
    let Some(spec) = definitions.get_mut("InstanceSpec") else { return };
    let mut slaves = spec["properties"]["replicas"].clone();
    if let Some(slaves) = slaves.as_object_mut() {
        slaves.remove("default");
        slaves.insert("description".to_string(), "The same as replicas: give one of them.".into());
    }
    spec["properties"]["slaves"] = slaves;
    spec["not"] = json!({"required": ["replicas", "slaves"]});
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

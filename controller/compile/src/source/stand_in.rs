//! What stands where a value is missing or is none of its type, so that the rest of a spec is read all the same.

use serde_json::{Map, Value as Json};

use super::places::field;

/// A value of the schema's type. A text is the path of its field: like nothing that people write, and like no other
/// stand-in, so that two of them are no duplicates.
pub(super) fn stand_in(path: &str, schema: &Json) -> Json {
    match schema.get("type").and_then(Json::as_str).unwrap_or("object") {
        "string" => possible(schema).unwrap_or(path).into(),
        "array" => Json::Array(Vec::new()),
        "boolean" => false.into(),
        "integer" | "number" => least(schema).into(),
        _ => required(path, schema, Map::new()).into(),
    }
}

/// The mapping, with stand-ins for the fields that must be there and are not.
pub(super) fn required(path: &str, schema: &Json, mut json: Map<String, Json>) -> Map<String, Json> {
    for name in required_fields(schema) {
        let of_field = schema.get("properties").and_then(|known| known.get(name)).unwrap_or(&Json::Null);
        json.entry(name).or_insert_with(|| stand_in(&field(path, name), of_field));
    }
    json
}

/// The names of the fields that must be there.
pub(super) fn required_fields(schema: &Json) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn possible(schema: &Json) -> Option<&str> {
    schema.get("enum").and_then(Json::as_array)?.iter().find_map(Json::as_str)
}

/// Bounds are written as floating-point numbers, and the fields are whole ones.
fn least(schema: &Json) -> i64 {
    schema.get("minimum").and_then(Json::as_f64).map_or(0, |least| least as i64)
}

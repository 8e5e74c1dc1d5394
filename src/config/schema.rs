//! The JSON Schema of the config language, for editors: `lockgate schema` prints it, and with `--site` that of sites.
//!
//! It follows from `keys`. Values may hold variables (`${N:-2}`), so wherever a text would be wrong, one with a
//! variable is right.

use serde_json::{Map, Value, json};

use super::decode::{Form, Kind, Need, Section, Shape};
use super::keys::{Root, Site};

/// The schema, as JSON text.
pub fn schema() -> String {
    let about = "The config file of Lockgate, an HTTPS reverse proxy and load balancer.";
    of_file(&Root::shape(), about)
}

/// The schema of the files that `include` names, as JSON text.
pub fn site_schema() -> String {
    let about = "The file of a site of Lockgate, an HTTPS reverse proxy and load balancer.";
    of_file(&Site::shape(), about)
}

fn of_file(shape: &Shape, about: &str) -> String {
    let mut parts = Map::new();
    let root = of_shape(shape, &mut parts);
    parts.insert(
        "variable".into(),
        json!({ "type": "string", "pattern": "\\$\\{" }),
    );
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Lockgate",
        "description": about,
        "$ref": root.get("$ref"),
        "$defs": parts,
    });
    format!("{schema:#}\n")
}

fn of_shape(shape: &Shape, parts: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Flag => or_variable(&json!({ "type": "boolean" })),
        Shape::True => or_variable(&json!({ "const": true })),
        Shape::Integer { least, most } => {
            or_variable(&json!({ "type": "integer", "minimum": least, "maximum": most }))
        }
        Shape::Number { least, most } => {
            or_variable(&json!({ "type": "number", "minimum": least, "maximum": most }))
        }
        Shape::Numbers(numbers) => or_variable(&json!({ "enum": numbers })),
        Shape::Text { pattern, .. } => match pattern {
            Some(pattern) => or_variable(&json!({ "type": "string", "pattern": pattern })),
            None => json!({ "type": "string" }),
        },
        Shape::Word(word) => or_variable(&json!({ "const": word })),
        Shape::Choice(choices) => {
            let choices = choices.iter();
            let one = choices.map(|one| json!({ "const": one.word, "description": one.doc }));
            or_variable(&json!({ "oneOf": one.collect::<Vec<_>>() }))
        }
        Shape::List { item, least } => {
            json!({ "type": "array", "items": of_shape(item, parts), "minItems": least })
        }
        Shape::Map { names: _, value } => {
            json!({ "type": "object", "additionalProperties": of_shape(value, parts) })
        }
        Shape::Section(section) => {
            let name = section.name.replace("'s", "").replace(' ', "_");
            if !parts.contains_key(&name) {
                // Held before it is made, for a section that holds itself.
                parts.insert(name.clone(), Value::Null);
                let made = of_section(section, parts);
                parts.insert(name.clone(), made);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
        Shape::OneOf(shapes) => {
            let shapes: Vec<_> = shapes.iter().map(|shape| of_shape(shape, parts)).collect();
            json!({ "anyOf": shapes })
        }
    }
}

fn or_variable(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/variable" }] })
}

fn of_section(section: &Section, parts: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for rule in section.keys {
        let mut schema = of_shape(&(rule.shape)(), parts);
        let absent = match rule.need {
            Need::Required => {
                required.push(rule.name);
                String::new()
            }
            Need::Optional(absent) => format!(" If absent: {absent}."),
            Need::Default(default) => format!(" If absent: `{default}`."),
        };
        let description = format!("{}{absent}", rule.doc.trim());
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".into(), description.into());
        }
        properties.insert(rule.name.into(), schema);
    }
    let mut schema = json!({
        "description": section.doc.trim(),
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if let Some(schema) = schema.as_object_mut() {
        if !required.is_empty() {
            schema.insert("required".into(), json!(required));
        }
        if section.form == Form::OneKey {
            schema.insert("minProperties".into(), json!(1));
            schema.insert("maxProperties".into(), json!(1));
        }
    }
    schema
}

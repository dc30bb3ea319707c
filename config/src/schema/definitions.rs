//! The CustomResourceDefinitions, as JSON values.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::{Column, Field, Type, Version};

/// What `apiextensions.k8s.io/v1` takes, one definition for each kind.
pub fn definitions() -> Vec<Value> {
    Kind::ALL.into_iter().map(definition).collect()
}

fn definition(kind: Kind) -> Value {
    let (name, plural) = (kind.name(), kind.plural());
    let versions: Vec<Value> = kind.versions().iter().map(|of| version(kind, of)).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.metallb.io") },
        "spec": {
            "group": "metallb.io",
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": name.to_ascii_lowercase(),
            },
            "scope": "Namespaced",
            // The versions of a kind differ by fields that one of them lacks, never by form.
            "conversion": { "strategy": "None" },
            "versions": versions,
        },
    })
}

fn version(kind: Kind, of: &Version) -> Value {
    let columns: Vec<Value> = kind.columns().iter().map(column).collect();
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
        "spec": object(of.spec),
        "status": object(of.status),
    });
    let mut schema = json!({ "type": "object", "description": kind.about() });
    if of.spec.is_empty() {
        // Status-only kinds: a spec is allowed and has no fields.
        properties["spec"] = json!({ "type": "object" });
    } else {
        schema["required"] = json!(["spec"]);
    }
    schema["properties"] = properties;
    let mut version = json!({
        "name": of.name,
        "served": true,
        "storage": of.storage,
        "additionalPrinterColumns": columns,
        "subresources": { "status": {} },
        "schema": { "openAPIV3Schema": schema },
    });
    if !of.storage {
        version["deprecated"] = json!(true);
        version["deprecationWarning"] =
            json!(format!("metallb.io/{} {} is deprecated: use {}", of.name, kind.name(), kind.version()));
    }
    version
}

fn column(column: &Column) -> Value {
    let mut value = json!({ "name": column.name, "jsonPath": column.path, "type": column.of });
    if column.priority > 0 {
        value["priority"] = json!(column.priority);
    }
    value
}

fn object(fields: &[Field]) -> Value {
    let mut schema = json!({ "type": "object" });
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(field: &Field) -> Value {
    let mut schema = of(&field.of);
    schema["description"] = match field.otherwise {
        Some(otherwise) => json!(format!("{} Default: {otherwise}.", field.about)),
        None => json!(field.about),
    };
    if let Some(default) = field.default {
        schema["default"] = serde_json::from_str(default).unwrap_or_default();
    }
    if !field.rules.is_empty() {
        let rules: Vec<Value> =
            field.rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect();
        schema["x-kubernetes-validations"] = json!(rules);
    }
    schema
}

fn of(of_type: &Type) -> Value {
    match of_type {
        Type::Text => json!({ "type": "string" }),
        Type::Word(words) => json!({ "type": "string", "enum": words }),
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Time => json!({ "type": "string", "format": "date-time" }),
        Type::Labels => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Type::Object(fields) => object(fields),
        Type::Integer { min, max } => {
            let mut schema = json!({ "type": "integer", "format": "int64" });
            if let Some(min) = min {
                schema["minimum"] = json!(min);
            }
            if let Some(max) = max {
                schema["maximum"] = json!(max);
            }
            schema
        }
        Type::List { of: items, min } => {
            let mut schema = json!({ "type": "array", "items": of(items) });
            if *min > 0 {
                schema["minItems"] = json!(min);
            }
            schema
        }
    }
}

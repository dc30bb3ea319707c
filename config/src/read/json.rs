//! A node as the API server is sent it by `kubectl apply`.

use serde_json::{Map, Number, Value};

use super::reader::Scalar;
use super::tree::{Kind, Node};

impl Node {
    /// As JSON. Of a repeated key the first is taken.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Scalar(text) => scalar(Scalar::of(self), text),
            Kind::List(items) => items.iter().map(|item| item.to_json()).collect(),
            Kind::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    map.entry(entry.key.as_ref()).or_insert_with(|| entry.value.to_json());
                }
                Value::Object(map)
            }
        }
    }
}

fn scalar(of: Scalar, text: &str) -> Value {
    let value = match of {
        Scalar::Boolean => {
            Some(Value::Bool(matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "y")))
        }
        Scalar::Number => number(text).map(Value::Number),
        Scalar::Text | Scalar::Other => None,
    };
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn number(text: &str) -> Option<Number> {
    // YAML 1.1, which kubectl reads, has octal numbers.
    let octal = text.strip_prefix('0').filter(|digits| !digits.is_empty());
    match octal.and_then(|digits| i64::from_str_radix(digits, 8).ok()).or_else(|| text.parse().ok()) {
        Some(whole) => Some(whole.into()),
        None => text.parse().ok().and_then(Number::from_f64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_the_json_that_kubectl_sends() {
        let text = "\
a: {port: 80, mode: 0644, weight: 1.5, is: yes, isNot: false, none: ~, word: tcp}
b: ['80', \"yes\", !!str 80, 2001:db8::1, 1.2.3.4]
c: |
  80
base: &base {x: 1, y: 2}
d: {<<: *base, x: 3}
";
        let expected = json!({
            "a": { "port": 80, "mode": 420, "weight": 1.5, "is": true, "isNot": false, "none": null, "word": "tcp" },
            "b": ["80", "yes", "80", "2001:db8::1", "1.2.3.4"],
            "c": "80\n",
            "base": { "x": 1, "y": 2 },
            "d": { "x": 3, "y": 2 },
        });
        assert_eq!(Node::parse(text).unwrap().to_json(), expected);
    }
}

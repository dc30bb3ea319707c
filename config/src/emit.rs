//! Values as YAML for people: block style, text in quotes only where YAML 1.1 or 1.2 would read it as something else.

use std::fmt::Write;

use serde_json::Value;

/// One document, without `---`, with a line feed at its end.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0, false);
    text
}

/// `inline`: the cursor stands behind a dash, where the first key may follow at once.
fn block(text: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 || !inline {
                    pad(text, indent);
                }
                scalar(text, key);
                text.push(':');
                child(text, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || !inline {
                    pad(text, indent);
                }
                text.push_str("- ");
                block(text, item, indent + 2, true);
            }
        }
        Value::String(word) => {
            scalar(text, word);
            text.push('\n');
        }
        other => {
            // Numbers, words, and empty collections are the same in JSON.
            let _ = writeln!(text, "{other}");
        }
    }
}

fn child(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(text, value, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(text, value, indent, false);
        }
        _ => {
            text.push(' ');
            block(text, value, indent, true);
        }
    }
}

fn pad(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(text: &mut String, word: &str) {
    if is_plain(word) {
        text.push_str(word);
    } else {
        // JSON's quotes are YAML's double ones, but for what YAML does not let stand as it is.
        for c in Value::String(word.to_owned()).to_string().chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                    let _ = write!(text, "\\u{:04x}", u32::from(c));
                }
                c => text.push(c),
            }
        }
    }
}

/// Whether every YAML reader takes the word for text without quotes.
fn is_plain(word: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || " ._-/,()=+<>;".contains(c);
    let begins = word.starts_with(|c: char| c.is_ascii_alphabetic());
    let means_more = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];
    begins
        && word.chars().all(letters)
        && !word.ends_with(' ')
        && !means_more.iter().any(|other| word.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::read::tree::{Kind, Node};

    #[test]
    fn a_document_is_in_block_style_with_few_quotes() {
        let value = json!({
            "kind": "BGPPeer",
            "spec": { "peerAddress": "10.0.0.1", "myASN": 64600, "name": "no", "none": [], "empty": {},
                "nodeSelectors": [{ "matchLabels": { "rack": "7" } }, { "matchLabels": {} }], "list": ["a b", "c: d"] },
        });
        let expected = "\
kind: BGPPeer
spec:
  empty: {}
  list:
  - a b
  - \"c: d\"
  myASN: 64600
  name: \"no\"
  nodeSelectors:
  - matchLabels:
      rack: \"7\"
  - matchLabels: {}
  none: []
  peerAddress: \"10.0.0.1\"
";
        assert_eq!(to_yaml(&value), expected);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            proptest::sample::select(vec![
                "yes", "12", "~", "", " a", "a ", "#", "- a", "a: b", "1e3", "a #b", "---"
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-zA-Z0-9 :#~-]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
            ]
        })
    }

    fn same(value: &Value, node: &Node) -> bool {
        match (value, &node.kind) {
            (Value::Array(items), Kind::List(nodes)) => {
                items.len() == nodes.len() && items.iter().zip(nodes).all(|(item, node)| same(item, node))
            }
            (Value::Object(map), Kind::Map(entries)) => {
                map.len() == entries.len()
                    && map
                        .iter()
                        .zip(entries)
                        .all(|((key, value), entry)| *key == *entry.key && same(value, &entry.value))
            }
            (Value::String(text), Kind::Scalar(read)) => text == read,
            (Value::Bool(_) | Value::Number(_), Kind::Scalar(read)) => {
                value.to_string().as_str() == read.as_str()
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in value()) {
            let text = to_yaml(&value);
            let node = Node::parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert!(same(&value, &node), "{text}\n{node:?}");
        }
    }
}

use super::*;
use crate::emit::to_yaml;

#[test]
fn every_field_is_told_about_and_named_once() {
    fn walk(path: &str, fields: &[Field]) {
        for (index, field) in fields.iter().enumerate() {
            let path = format!("{path}.{}", field.name);
            assert!(field.about.ends_with('.'), "{path}: {}", field.about);
            assert!(!fields[..index].iter().any(|other| other.name == field.name), "{path} stands twice");
            let default: Option<Result<serde_json::Value, _>> = field.default.map(serde_json::from_str);
            assert!(default.is_none_or(|value| value.is_ok()), "{path}");
            match field.of {
                Type::Object(fields) => walk(&path, fields),
                Type::List { of: Type::Object(fields), .. } => walk(&path, fields),
                _ => {}
            }
        }
    }
    for kind in Kind::ALL {
        for version in kind.versions() {
            walk(kind.name(), version.spec);
            walk(kind.name(), version.status);
        }
        let stored: Vec<&str> = kind.versions().iter().filter(|of| of.storage).map(|of| of.name).collect();
        assert_eq!(stored, [kind.version()], "one version is stored");
    }
}

/// What makes `conversion: None` right.
#[test]
fn an_older_version_has_no_field_that_the_newer_one_lacks() {
    for kind in Kind::ALL {
        for older in kind.versions().iter().filter(|version| !version.storage) {
            for newer in kind.versions().iter().filter(|version| version.storage) {
                for field in older.spec {
                    let same = newer.spec.iter().find(|other| other.name == field.name);
                    let schema = |field: &Field| std::mem::discriminant(&field.of);
                    assert_eq!(same.map(schema), Some(schema(field)), "{} {}", kind.name(), field.name);
                }
            }
        }
    }
}

#[test]
fn a_definition_says_bounds_defaults_columns_and_rules() {
    let text: String = definitions().iter().map(to_yaml).collect();
    for piece in [
        "    kind: IPAddressPool\n    listKind: IPAddressPoolList\n    plural: ipaddresspools\n    singular: ipaddresspool\n",
        "              aggregationLength:\n                default: 32\n",
        "maximum: 4294967295\n",
        "    deprecated: true\n    deprecationWarning: \"metallb.io/v1beta1 BGPPeer is deprecated: use v1beta2\"\n",
        "  conversion:\n    strategy: None\n",
        "      name: Avoid Buggy IPs\n",
        "rule: self == oldSelf\n",
        "minItems: 1\n",
    ] {
        assert!(text.contains(piece), "{piece}\n{text}");
    }
}

/// The tables of `docs/objects.md`.
fn reference() -> String {
    use std::fmt::Write;
    fn rows(prefix: &str, fields: &[Field], text: &mut String) {
        for field in fields {
            let path = format!("{prefix}{}", field.name);
            let default = match (field.required, field.default, field.otherwise) {
                (true, ..) => "required".to_owned(),
                (_, Some(default), _) => format!("`{default}`"),
                (_, _, Some(otherwise)) => otherwise.to_owned(),
                _ => String::new(),
            };
            let of = match field.of {
                Type::Text | Type::Time => "text".to_owned(),
                Type::Word(words) => words.join(", "),
                Type::Integer { min: Some(min), max: Some(max) } => format!("{min} to {max}"),
                Type::Integer { .. } => "number".to_owned(),
                Type::Boolean => "boolean".to_owned(),
                Type::List { of: Type::Text, .. } => "list of text".to_owned(),
                Type::List { of: Type::Object(fields), .. } if is_selector(fields) => {
                    "list of selectors".to_owned()
                }
                Type::List { .. } => "list".to_owned(),
                Type::Labels => "labels".to_owned(),
                Type::Object(fields) if is_selector(fields) => "selector".to_owned(),
                Type::Object(_) => "object".to_owned(),
            };
            let _ = writeln!(text, "| `{path}` | {of} | {default} | {} |", field.about);
            match field.of {
                Type::Object(fields) if !is_selector(fields) => rows(&format!("{path}."), fields, text),
                Type::List { of: Type::Object(fields), .. } if !is_selector(fields) => {
                    rows(&format!("{path}[]."), fields, text);
                }
                _ => {}
            }
        }
    }
    fn is_selector(fields: &[Field]) -> bool {
        fields.first().is_some_and(|field| field.name == "matchLabels")
    }
    let mut text = String::new();
    for kind in Kind::CONFIGURATION {
        for version in kind.versions().iter().rev() {
            let _ = write!(text, "\n### {} ({})\n\n{}", kind.name(), version.name, kind.about());
            if version.storage {
                text.push_str(
                    "\n\n| Field of `spec` | Holds | Default | Meaning |\n| --- | --- | --- | --- |\n",
                );
                rows("", version.spec, &mut text);
            } else {
                let names: Vec<String> =
                    version.spec.iter().map(|field| format!("`{}`", field.name)).collect();
                let _ = writeln!(text, " Deprecated; of the fields above it has {}.", names.join(", "));
            }
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_documentation_has_every_field_as_the_schema_has_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/objects.md");
    let text = std::fs::read_to_string(path).expect("docs/objects.md");
    let (head, rest) = text.split_once("<!-- begin: fields").expect("where the fields begin");
    let (first, rest) = rest.split_once("-->\n").expect("the end of the mark");
    let (_, tail) = rest.split_once("<!-- end: fields -->").expect("where the fields end");
    let wanted = format!("{head}<!-- begin: fields{first}-->\n{}<!-- end: fields -->{tail}", reference());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &wanted).expect("writable");
    }
    let now = std::fs::read_to_string(path).expect("docs/objects.md");
    assert_eq!(now, wanted, "UPDATE_GOLDEN=1 cargo test -p herald-config writes it");
}

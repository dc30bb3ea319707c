//! `herald check`: the same judgement as in a cluster, over files.

use std::fmt;

use crate::HeraldOptions;
use crate::assemble::{Assembler, Secrets, Severity};
use crate::document::parse;
use crate::manifests::{self, Contents, Document, File};
use crate::objects::Object;
use crate::problem::{ConfigError, Warning};

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Index into the files.
    file: usize,
    line: usize,
    column: usize,
    /// The file's.
    pub name: String,
    /// Whether something is refused by it.
    pub error: bool,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, line, column, error, text, .. } = self;
        let word = if *error { "error" } else { "warning" };
        write!(f, "{name}:{line}:{column}: {word}: {text}")
    }
}

/// What stands in the files, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// By file and line.
    pub findings: Vec<Finding>,
    /// Objects of `metallb.io`.
    pub objects: usize,
    /// Documents of the ConfigMap.
    pub documents: usize,
    /// Other objects, which were not looked at.
    pub others: usize,
}

impl Checked {
    /// Whether anything would be refused.
    pub fn refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.error)
    }
}

/// What stands in the files; or, where one cannot be read as YAML or has something of an unknown kind, what is wrong.
pub(crate) fn contents(files: &[File]) -> Result<Vec<Contents>, Vec<Finding>> {
    let mut checker = Checker { files, findings: Vec::new() };
    let mut all = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let mut contents = manifests::read(&file.text);
        checker.errors(index, std::mem::take(&mut contents.errors));
        all.push(contents);
    }
    if checker.findings.is_empty() { Ok(all) } else { Err(checker.findings) }
}

/// What files hold for `kubectl apply`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// Objects of `metallb.io`, and documents of the ConfigMap.
    pub configuring: usize,
    /// Services, as `kubectl` would send them.
    pub services: Vec<serde_json::Value>,
}

impl Manifests {
    /// Reads them.
    ///
    /// # Errors
    /// What cannot be read, by file and line.
    pub fn read(files: &[File]) -> Result<Self, Vec<Finding>> {
        let mut all = Self::default();
        for content in contents(files)? {
            all.configuring += content.objects.len() + content.documents.len();
            all.services.extend(content.services);
        }
        Ok(all)
    }
}

/// Judges all files together.
pub fn check(files: &[File]) -> Checked {
    let mut checker = Checker { files, findings: Vec::new() };
    let (mut objects, mut origins): (Vec<Object>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut documents, mut others) = (Vec::new(), 0);
    for (index, file) in files.iter().enumerate() {
        let contents = manifests::read(&file.text);
        checker.errors(index, contents.errors);
        others += contents.others;
        for object in contents.objects {
            let twin = objects
                .iter()
                .position(|known| known.key == object.key && known.namespace == object.namespace);
            if let Some(twin) = twin {
                let (line, file) = (objects[twin].line, &files[origins[twin]].name);
                let text = format!("{} stands at {file}:{line} already: remove one of the two", object.key);
                checker.add(index, object.line, 1, true, text);
                continue;
            }
            objects.push(object);
            origins.push(index);
        }
        documents.extend(contents.documents.into_iter().map(|document| (index, document)));
    }
    for (file, document) in &documents {
        checker.document(*file, document);
    }
    if let Some((file, document)) = documents.iter().find(|_| objects.iter().any(counts)) {
        let text =
            "objects of metallb.io count alone: of this document only the key herald is read".to_owned();
        checker.add(*file, document.line, 1, false, text);
    }
    checker.objects(&objects, &origins);
    checker.findings.sort();
    Checked { findings: checker.findings, objects: objects.len(), documents: documents.len(), others }
}

fn counts(object: &Object) -> bool {
    use crate::schema::kinds::Kind;
    matches!(object.key.kind, Kind::IpAddressPool | Kind::BgpPeer)
}

struct Checker<'a> {
    files: &'a [File],
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn add(&mut self, file: usize, line: usize, column: usize, error: bool, text: String) {
        let name = self.files[file].name.clone();
        self.findings.push(Finding { file, line, column, name, error, text });
    }

    fn errors(&mut self, file: usize, errors: Vec<ConfigError>) {
        for error in errors {
            let text = pathed(&error.path, &error.message);
            self.add(file, error.line, error.column, true, text);
        }
    }

    fn document(&mut self, file: usize, document: &Document) {
        let (errors, warnings, unlisted) = match parse(&document.text) {
            Ok(parsed) => (Vec::new(), parsed.warnings, 0),
            Err(errors) => (errors.errors().to_vec(), errors.warnings().to_vec(), errors.unlisted()),
        };
        for ConfigError { line, column, path, message } in errors {
            self.within(file, document, (line, column), true, pathed(&path, &message));
        }
        for Warning { line, column, path, message } in warnings {
            self.within(file, document, (line, column), false, pathed(&path, &message));
        }
        if unlisted > 0 {
            self.add(file, document.line, 1, true, format!("{unlisted} more errors are not listed"));
        }
    }

    /// Something at a place of a document within the file.
    fn within(&mut self, file: usize, document: &Document, at: (usize, usize), error: bool, text: String) {
        let (line, column) = at;
        match document.offset {
            Some((lines, columns)) => self.add(file, line + lines, column + columns, error, text),
            None => self.add(file, document.line, 1, error, format!("line {line} of the document: {text}")),
        }
    }

    fn objects(&mut self, objects: &[Object], origins: &[usize]) {
        let assembly = Assembler::default().assemble(objects, Secrets::Unread, &HeraldOptions::default());
        let origin = |key| objects.iter().position(|object| object.key == key);
        for problem in assembly.problems {
            let Some(index) = origin(problem.object.clone()) else { continue };
            let error = &problem.error;
            let text = format!("{}{}{}", problem.object, comma(&error.path), error.message);
            self.add(
                origins[index],
                error.line,
                error.column.max(1),
                problem.severity != Severity::Warning,
                text,
            );
        }
        for (object, &file) in objects.iter().zip(origins) {
            if object.unlisted_errors > 0 {
                let text = format!("{}: {} more errors are not listed", object.key, object.unlisted_errors);
                self.add(file, object.line, 1, true, text);
            }
        }
        for pool in assembly
            .config
            .pools
            .iter()
            .filter(|pool| pool.advertisements.is_empty() && pool.layer2.is_empty())
        {
            let is_it = |object: &&Object| {
                object.key.kind == crate::schema::kinds::Kind::IpAddressPool && object.key.name == pool.name
            };
            if let Some((object, &file)) = objects.iter().zip(origins).find(|(object, _)| is_it(object)) {
                let text = format!(
                    "{}: no advertisement is for this pool: its addresses are given to Services but never announced",
                    object.key
                );
                self.add(file, object.line, 1, false, text);
            }
        }
    }
}

fn comma(path: &str) -> String {
    if path.is_empty() { ": ".to_owned() } else { format!(", {path}: ") }
}

fn pathed(path: &str, message: &str) -> String {
    if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(files: &[(&str, &str)]) -> Checked {
        let file = |(name, text): &(&str, &str)| File { name: (*name).to_owned(), text: (*text).to_owned() };
        check(&files.iter().map(file).collect::<Vec<_>>())
    }

    fn told(checked: &Checked) -> Vec<String> {
        checked.findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_of_documents_and_lists_are_found_and_nothing_else_is_taken_for_one() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: c}}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: d}
";
        let read =
            |text: &str| Manifests::read(&[File { name: "new.yaml".to_owned(), text: text.to_owned() }]);
        let Manifests { configuring, services } = read(text).unwrap();
        let names: Vec<_> = services.iter().map(|service| service["metadata"]["name"].as_str()).collect();
        assert_eq!((configuring, names), (0, vec![Some("a"), Some("b")]));
        let none = read(CONFIG_MAP).unwrap();
        assert_eq!((none.configuring, none.services.len()), (1, 0));
        let many = "---\n{apiVersion: v1, kind: Service, metadata: {name: a}}\n".repeat(5000);
        assert_eq!(read(&many).unwrap().services.len(), 5000);
        assert_eq!(read("a: [").unwrap_err()[0].name, "new.yaml");
    }

    const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  namespace: metallb-system
  name: config
data:
  config: |
    peers:
    - {my-asn: 64600, peer-asn: 64601, peer-address: 10.0.0.1}
    address-pools:
    - name: edge
      protocol: bgp
      addresses: [192.0.2.1]
";

    #[test]
    fn a_line_of_a_configmap_is_counted_in_its_file() {
        let checked = checked(&[("map.yaml", CONFIG_MAP)]);
        assert_eq!(
            told(&checked),
            [
                "map.yaml:13:19: error: address-pools[0].addresses[0]: 192.0.2.1 has no prefix length: write 192.0.2.1/32 for this one address"
            ]
        );
        assert!(checked.refused());
        assert_eq!((checked.documents, checked.objects, checked.others), (1, 0, 0));
        assert!(CONFIG_MAP.lines().nth(12).is_some_and(|line| line.contains("192.0.2.1]")));
    }

    #[test]
    fn a_document_in_quotes_is_named_by_its_own_lines() {
        let text = "{apiVersion: v1, kind: ConfigMap, data: {config: \"address-pools:\\n- name: a\"}}";
        let told = told(&checked(&[("-", text)]));
        assert!(told[0].starts_with("-:1:1: error: line 2 of the document: address-pools[0]: "), "{told:?}");
    }

    #[test]
    fn the_bare_document_is_read_too() {
        let told = told(&checked(&[("config", "peers:\n- {my-asn: 1, peer-asn: 2}\n")]));
        assert_eq!(
            told,
            [
                "config:2:3: error: peers[0]: peer-address is missing: add it, for example peer-address: 10.0.0.1"
            ]
        );
    }

    const POOL: &str = "\
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: edge, namespace: metallb-system}
spec:
  addresses:
  - 192.0.2.0/24
---
";

    #[test]
    fn objects_of_all_files_are_judged_together() {
        let other = POOL.replace("edge", "core").replace("192.0.2.0/24", "192.0.2.128/25");
        let routes = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: metallb.io/v1beta1\n  kind: BGPAdvertisement\n  metadata: {name: r}\n  spec: {ipAddressPools: [edge], peers: [tor]}\n";
        let checked = checked(&[("a.yaml", POOL), ("b.yaml", &other), ("c.yaml", routes)]);
        assert_eq!(
            told(&checked),
            [
                "a.yaml:7:5: error: IPAddressPool edge, spec.addresses[0]: 192.0.2.0/24 overlaps 192.0.2.128/25 of pool core: remove or shorten one of them",
                "b.yaml:2:1: warning: IPAddressPool core: no advertisement is for this pool: its addresses are given to Services but never announced",
                "c.yaml:7:27: error: BGPAdvertisement r, spec.ipAddressPools[0]: pool edge is refused: correct it",
                "c.yaml:7:42: error: BGPAdvertisement r, spec.peers[0]: no BGPPeer is called tor: create it, or remove this",
            ]
        );
        assert_eq!(checked.objects, 3);
    }

    #[test]
    fn what_is_good_is_told_nothing_about_and_what_is_not_ours_is_counted() {
        let routes = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: r}\nspec: {}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let checked = checked(&[("a.yaml", POOL), ("b.yaml", routes)]);
        assert_eq!(told(&checked), Vec::<String>::new());
        assert_eq!((checked.refused(), checked.objects, checked.others), (false, 2, 1));
    }

    #[test]
    fn twins_unknown_kinds_and_broken_yaml_are_errors() {
        let all = told(&checked(&[("a.yaml", &format!("{POOL}{POOL}"))]));
        assert!(
            all[1].ends_with("error: IPAddressPool edge stands at a.yaml:2 already: remove one of the two"),
            "{all:?}"
        );
        let kinds = "apiVersion: metallb.io/v1beta1\nkind: AddressPool\n---\napiVersion: metallb.io/v1beta1\nkind: Pool\n---\napiVersion: metallb.io/v7\nkind: BGPPeer\nmetadata: {name: x}\n";
        let kinds = told(&checked(&[("k", kinds)]));
        assert!(kinds[0].starts_with("k:1:1: error: AddressPool is gone since MetalLB 0.14"), "{kinds:?}");
        assert_eq!(kinds[1], "k:4:1: error: there is no kind Pool in metallb.io: correct it");
        assert_eq!(kinds[2], "k:7:1: error: BGPPeer x: BGPPeer has no version v7: use v1beta1 or v1beta2");
        let broken = told(&checked(&[("y", "a: [1\nb: {")]));
        assert!(broken[0].contains("correct the YAML here"), "{broken:?}");
    }

    #[test]
    fn a_configmap_beside_objects_is_told_to_be_ignored() {
        let map = CONFIG_MAP.replace("192.0.2.1]", "192.0.2.0/24]");
        let told = told(&checked(&[("map.yaml", &map), ("pool.yaml", POOL)]));
        assert_eq!(
            told[0],
            "map.yaml:8:1: warning: objects of metallb.io count alone: of this document only the key herald is read"
        );
    }
}

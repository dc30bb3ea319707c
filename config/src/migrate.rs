//! `herald migrate`: the ConfigMap's document as objects that mean the same.
//!
//! Nothing is lost: read back, the objects are the same configuration. What Kubernetes does not allow in names is
//! changed, which is told. The order of the pools is kept by priorities where that of their names is another one. Herald's own
//! keys have no object; they stay in a ConfigMap.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::community::Community;
use crate::emit::to_yaml;
use crate::manifests::{self, File};
use crate::peer::{BGP_PORT, Peer};
use crate::pool::{Advertisement, Pool};
use crate::problem::shown;
use crate::read::tree::{Kind as NodeKind, Node, Style};
use crate::schema::kinds::Kind;
use crate::selector::{LabelSelector, Operator};
use crate::{BfdProfile, ConfigErrors, Parsed, parse};

/// What a document becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Migrated {
    /// The objects, in the order in which they are to be applied.
    pub objects: Vec<Value>,
    /// What its author should know.
    pub notes: Vec<String>,
}

impl Migrated {
    /// YAML for `kubectl apply`, the notes as comments.
    pub fn to_yaml(&self) -> String {
        let notes = self.notes.iter().map(|note| format!("# {note}\n"));
        let documents = self.objects.iter().map(|object| format!("---\n{}", to_yaml(object)));
        notes.chain(documents).collect()
    }
}

/// Turns the value of the ConfigMap's key `config` into objects of a namespace.
pub(crate) fn migrate(document: &str, namespace: &str, config_map: &str) -> Result<Migrated, ConfigErrors> {
    let Parsed { config, communities, warnings } = parse(document)?;
    let mut migration = Migration { namespace, objects: Vec::new(), notes: Vec::new() };
    migration.notes.extend(warnings.iter().map(|warning| shown_line(&warning.to_string())));
    let aliases = migration.communities(&communities);
    let names: Vec<&str> = config.bfd_profiles.iter().map(|profile| profile.name.as_str()).collect();
    let renamed: BTreeMap<&str, String> =
        names.iter().copied().zip(Names::default().all(&names, "profile")).collect();
    for profile in &config.bfd_profiles {
        let name = &renamed[profile.name.as_str()];
        migration.renamed("BFD profile", &profile.name, name);
        migration.object(Kind::BfdProfile, name, bfd(profile));
    }
    for peer in &config.peers {
        migration.object(Kind::BgpPeer, &peer.name, spec_of(peer, &renamed));
    }
    migration.pools(&config.pools, &aliases);
    migration.herald(document, config_map);
    Ok(Migrated { objects: migration.objects, notes: migration.notes })
}

/// Turns every document of the files into objects; files are as [`crate::check()`] takes them. An error is one for each
/// document that is refused, or says that there is none.
pub fn migrate_files(files: &[File]) -> Result<Migrated, String> {
    let mut all = Migrated { objects: Vec::new(), notes: Vec::new() };
    let documents = files.iter().flat_map(|file| manifests::read(&file.text).documents);
    let mut found = 0;
    for document in documents {
        found += 1;
        let (namespace, name) = document.of.unwrap_or_default();
        let namespace = namespace.as_deref().unwrap_or("metallb-system");
        let name = if name.is_empty() { "config" } else { &name };
        let Migrated { objects, notes } =
            migrate(&document.text, namespace, name).map_err(|errors| errors.to_string())?;
        all.objects.extend(objects);
        all.notes.extend(notes);
    }
    match found {
        0 => Err("there is no ConfigMap with the key config, and no document of that format".to_owned()),
        1 => Ok(all),
        _ => Err(format!("there are {found} documents: Herald reads one, so migrate them one by one")),
    }
}

struct Migration<'a> {
    namespace: &'a str,
    objects: Vec<Value>,
    notes: Vec<String>,
}

impl Migration<'_> {
    fn object(&mut self, kind: Kind, name: &str, spec: Value) {
        self.objects.push(json!({
            "apiVersion": format!("metallb.io/{}", kind.version()),
            "kind": kind.name(),
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": spec,
        }));
    }

    fn renamed(&mut self, what: &str, old: &str, new: &str) {
        if old != new {
            let (old, new) = (shown(old), shown(new));
            self.notes
                .push(format!("{what} {old} is called {new} now: Kubernetes does not allow the old name"));
        }
    }

    /// One object with all names; answers with the name of each community that has one.
    fn communities(&mut self, communities: &BTreeMap<String, Community>) -> BTreeMap<Community, String> {
        let list: Vec<Value> = communities
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value.to_string() }))
            .collect();
        if !list.is_empty() {
            self.object(Kind::Community, "communities", json!({ "communities": list }));
        }
        communities.iter().map(|(name, value)| (*value, name.clone())).collect()
    }

    fn pools(&mut self, pools: &[Pool], aliases: &BTreeMap<Community, String>) {
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let renamed = Names::default().all(&names, "pool");
        let tried: Vec<&String> =
            pools.iter().zip(&renamed).filter(|(pool, _)| pool.auto_assign).map(|(_, name)| name).collect();
        let ordered = tried.is_sorted();
        if !ordered {
            self.notes.push(
                "pools have priorities, so that they are tried in the order of the document".to_owned(),
            );
        }
        let mut layer2 = Vec::new();
        let mut routes = Names::default();
        for (pool, name) in pools.iter().zip(&renamed) {
            self.renamed("pool", &pool.name, name);
            if pool.ranges.is_empty() {
                let name = shown(&pool.name);
                self.notes.push(format!(
                    "pool {name} has no addresses, which no IPAddressPool can be: it is left out"
                ));
                continue;
            }
            let addresses: Vec<String> = pool.ranges.iter().map(ToString::to_string).collect();
            let mut spec = json!({ "addresses": addresses });
            if !pool.auto_assign {
                spec["autoAssign"] = json!(false);
            }
            if pool.avoid_buggy_ips {
                spec["avoidBuggyIPs"] = json!(true);
            }
            if let (false, Some(place)) = (ordered, tried.iter().position(|tried| *tried == name)) {
                spec["serviceAllocation"] = json!({ "priority": place + 1 });
            }
            self.object(Kind::IpAddressPool, name, spec);
            if !pool.layer2.is_empty() {
                layer2.push(name);
            }
            let width = pool.advertisements.len().to_string().len();
            for (index, advertisement) in pool.advertisements.iter().enumerate() {
                let wanted = match pool.advertisements.len() {
                    1 => name.clone(),
                    _ => format!("{name}-{:0width$}", index + 1),
                };
                let spec = routes_of(advertisement, name, aliases);
                self.object(Kind::BgpAdvertisement, &routes.unique(&wanted, "routes"), spec);
            }
        }
        if !layer2.is_empty() {
            self.object(Kind::L2Advertisement, "l2advertisement1", json!({ "ipAddressPools": layer2 }));
        }
    }

    /// What stands under `herald:` stays where it is.
    fn herald(&mut self, document: &str, config_map: &str) {
        let Ok(root) = Node::parse(document) else { return };
        let NodeKind::Map(entries) = &root.kind else { return };
        let Some(herald) = entries.iter().find(|entry| &*entry.key == "herald") else { return };
        if matches!(herald.value.kind, NodeKind::Null) {
            return;
        }
        let text = to_yaml(&json!({ "herald": json_of(&herald.value) }));
        self.notes.push("Herald's own keys have no object: the ConfigMap with them stays".to_owned());
        self.objects.push(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": config_map, "namespace": self.namespace },
            "data": { "config": text },
        }));
    }
}

/// Text stays text; a list of maps, a map of lists, and so on.
fn json_of(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Null => Value::Null,
        NodeKind::List(items) => items.iter().map(|item| json_of(item)).collect(),
        NodeKind::Map(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.to_string(), json_of(&entry.value)));
            Value::Object(pairs.collect())
        }
        NodeKind::Scalar(text) => match text.parse::<i64>() {
            Ok(number) if node.style == Style::Plain && number.to_string() == *text => json!(number),
            _ if node.style == Style::Plain && matches!(text.as_str(), "true" | "false") => {
                json!(text == "true")
            }
            _ => json!(text),
        },
    }
}

fn shown_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn bfd(profile: &BfdProfile) -> Value {
    let mut spec = json!({
        "receiveInterval": profile.receive_interval.as_millis() as u64,
        "transmitInterval": profile.transmit_interval.as_millis() as u64,
        "detectMultiplier": profile.detect_multiplier,
        "echoInterval": profile.echo_interval.as_millis() as u64,
        "minimumTtl": profile.minimum_ttl,
    });
    for (key, value) in [("echoMode", profile.echo_mode), ("passiveMode", profile.passive_mode)] {
        if value {
            spec[key] = json!(true);
        }
    }
    spec
}

fn spec_of(peer: &Peer, profiles: &BTreeMap<&str, String>) -> Value {
    let seconds = |time: std::time::Duration| format!("{}s", time.as_secs());
    let mut spec = json!({
        "myASN": peer.my_asn,
        "peerASN": peer.asn,
        "peerAddress": peer.address.to_string(),
        // Written out: the default of the ConfigMap is another one.
        "holdTime": seconds(peer.hold_time),
    });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[key] = value;
        }
    };
    put("peerPort", (peer.port != BGP_PORT).then(|| json!(peer.port)));
    put("keepaliveTime", peer.keepalive_time.map(|time| json!(seconds(time))));
    put("routerID", peer.router_id.map(|id| json!(id.to_string())));
    put("sourceAddress", peer.source_address.map(|address| json!(address.to_string())));
    put("password", peer.password.as_ref().and_then(|password| Some(json!(password.expose()?))));
    put("bfdProfile", peer.bfd_profile.as_ref().and_then(|name| Some(json!(profiles.get(name.as_str())?))));
    put("ebgpMultiHop", peer.ebgp_multihop.then_some(Value::Bool(true)));
    let mut selectors: Vec<&LabelSelector> = Vec::new();
    for selector in &peer.node_selectors {
        // A list of objects has each but once, and twice would mean the same.
        if !selectors.contains(&selector) {
            selectors.push(selector);
        }
    }
    put("nodeSelectors", (!selectors.is_empty()).then(|| selectors.into_iter().map(selector).collect()));
    spec
}

fn selector(selector: &LabelSelector) -> Value {
    let mut value = Map::new();
    if !selector.match_labels.is_empty() {
        value.insert("matchLabels".to_owned(), json!(selector.match_labels));
    }
    if !selector.match_expressions.is_empty() {
        let expressions: Vec<Value> = selector
            .match_expressions
            .iter()
            .map(|requirement| {
                let operator = match requirement.operator {
                    Operator::In => "In",
                    Operator::NotIn => "NotIn",
                    Operator::Exists => "Exists",
                    Operator::DoesNotExist => "DoesNotExist",
                };
                let mut value = json!({ "key": requirement.key, "operator": operator });
                if !requirement.values.is_empty() {
                    value["values"] = json!(requirement.values);
                }
                value
            })
            .collect();
        value.insert("matchExpressions".to_owned(), json!(expressions));
    }
    Value::Object(value)
}

fn routes_of(of: &Advertisement, pool: &str, aliases: &BTreeMap<Community, String>) -> Value {
    let mut spec = json!({ "ipAddressPools": [pool] });
    let default = Advertisement::default();
    if of.aggregation_length != default.aggregation_length {
        spec["aggregationLength"] = json!(of.aggregation_length);
    }
    if of.aggregation_length_v6 != default.aggregation_length_v6 {
        spec["aggregationLengthV6"] = json!(of.aggregation_length_v6);
    }
    if of.local_pref != default.local_pref {
        spec["localPref"] = json!(of.local_pref);
    }
    let communities: Vec<String> = of
        .communities
        .iter()
        .map(|community| aliases.get(community).cloned().unwrap_or_else(|| community.to_string()))
        .collect();
    if !communities.is_empty() {
        spec["communities"] = json!(communities);
    }
    spec
}

/// Names that are taken.
#[derive(Default)]
struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// Names for all of these, in their order: those that are allowed stay, whatever becomes of the others.
    fn all(mut self, names: &[&str], instead: &str) -> Vec<String> {
        let allowed: Vec<bool> =
            names.iter().map(|name| is_subdomain(name) && self.taken.insert((*name).to_owned())).collect();
        let pairs = names.iter().zip(allowed);
        pairs
            .map(|(name, allowed)| if allowed { (*name).to_owned() } else { self.unique(name, instead) })
            .collect()
    }

    /// The name as Kubernetes allows it, and as nobody else has it; the same where it is both already.
    fn unique(&mut self, name: &str, instead: &str) -> String {
        if is_subdomain(name) && self.taken.insert(name.to_owned()) {
            return name.to_owned();
        }
        let letter = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        };
        let cut: String = name.chars().map(letter).take(63).collect();
        let cut = cut.trim_matches('-');
        let base = if cut.is_empty() { instead } else { cut };
        let mut unique = base.to_owned();
        let mut number = 1;
        while !self.taken.insert(unique.clone()) {
            number += 1;
            let short: String = base.chars().take(56).collect();
            unique = format!("{}-{number}", short.trim_end_matches('-'));
        }
        unique
    }
}

/// What Kubernetes takes as the name of an object (RFC 1123), if it is short.
fn is_subdomain(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|&c| edge(c) || c == b'-')
            && bytes.first().is_some_and(|&c| edge(c))
            && bytes.last().is_some_and(|&c| edge(c))
    };
    name.len() <= 63 && name.split('.').all(label)
}

#[cfg(test)]
mod tests;

//! From the text of a document to a [`Config`].
//!
//! The generations of the format are not separate grammars: every place knows the keys of all of them, because a
//! key that was renamed means the same under both names. Only what a *missing* key means differs, and for that a
//! document is of the 0.2 generation when it uses that generation's own keys (`communities`, a pool's `cidr` or
//! `advertisements`) and no pool has a `protocol`.
//!
//! All semantic errors of a document are reported together; a syntax error stands alone.

mod generation;
mod nearest;
mod options;
mod peers;
mod pools;
mod reader;
mod routes;
mod scalars;
mod tree;

use std::collections::BTreeMap;

use generation::Generation;
use reader::{Report, Value};

use crate::community::Community;
use crate::problem::ConfigErrors;
use crate::{Config, HeraldOptions, Parsed};

pub use tree::MAX_DOCUMENT_BYTES;

const KEYS: &[&str] = &["peers", "address-pools", "communities", "bgp-communities", "bfd-profiles", "herald"];

/// Reads the value of the ConfigMap's key `config`.
///
/// Accepted whole, perhaps with warnings, or refused whole with every error that could be found.
pub fn parse(document: &str) -> Result<Parsed, ConfigErrors> {
    let tree = tree::Node::parse(document)?;
    let report = Report::default();
    let config = read(&Value::root(&tree, &report)).unwrap_or_default();
    let (errors, unlisted, warnings) = report.finish();
    if errors.is_empty() {
        Ok(Parsed { config, warnings })
    } else {
        Err(ConfigErrors::new(errors, unlisted, warnings))
    }
}

/// None, and an incomplete configuration, only together with an error in the report.
fn read(root: &Value<'_>) -> Option<Config> {
    let fields = root.fields(KEYS)?;
    if fields.is_empty() {
        root.warn("the document is empty: there are no pools and no peers");
    }
    if let Some(profiles) = fields.get("bfd-profiles") {
        profiles.warn("not supported yet: sessions run without BFD");
    }
    let mut communities = BTreeMap::new();
    for key in ["communities", "bgp-communities"] {
        if let Some(value) = fields.get(key) {
            read_communities(&value, &mut communities);
        }
    }
    let generation = Generation::of(root);
    Some(Config {
        peers: fields.get("peers").map(|value| peers::read(&value)).unwrap_or_default(),
        pools: fields
            .get("address-pools")
            .map(|value| pools::read(&value, generation, &communities))
            .unwrap_or_default(),
        herald: fields
            .get("herald")
            .map_or_else(|| Some(HeraldOptions::default()), |value| options::read(&value))
            .unwrap_or_default(),
    })
}

/// The aliases of `communities` and `bgp-communities` are one set of names.
fn read_communities(value: &Value<'_>, communities: &mut BTreeMap<String, Community>) {
    for (name, value) in value.entries().unwrap_or_default() {
        let Some(community) = scalars::from_text::<Community>(&value) else { continue };
        let known = *communities.entry(name.to_owned()).or_insert(community);
        if known != community {
            value.fail::<()>(format!(
                "{community} here is {known} in the other map of communities: keep one of the two"
            ));
        }
    }
}

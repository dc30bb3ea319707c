//! From the text of a document to a [`Config`].
//!
//! The generations of the format are not separate grammars: every place knows the keys of all of them, because a
//! key that was renamed means the same under both names. Only what a *missing* key means differs, and for that a
//! document is of the 0.2 generation when it uses that generation's own keys (`communities`, a pool's `cidr` or
//! `advertisements`) and no pool has a `protocol`.
//!
//! All semantic errors of a document are reported together; a syntax error stands alone.

mod generation;
mod options;
mod peers;
mod pools;
mod profiles;
mod routes;
mod sessions;

use std::collections::BTreeMap;

use generation::Generation;
use reader::{Report, Value};

use crate::community::Community;
use crate::problem::ConfigErrors;
use crate::read::{reader, scalars, tree};
use crate::{Config, HeraldOptions, Parsed};

pub use crate::read::tree::MAX_DOCUMENT_BYTES;

pub(crate) const KEYS: &[&str] =
    &["peers", "address-pools", "communities", "bgp-communities", "bfd-profiles", "herald"];

/// Reads the value of the ConfigMap's key `config`.
///
/// Accepted whole, perhaps with warnings, or refused whole with every error that could be found.
pub fn parse(document: &str) -> Result<Parsed, ConfigErrors> {
    let tree = tree::Node::parse(document)?;
    let report = Report::default();
    let (config, communities) = read(&Value::root(&tree, &report)).unwrap_or_default();
    let (errors, unlisted, warnings) = report.finish();
    if errors.is_empty() {
        Ok(Parsed { config, communities, warnings })
    } else {
        Err(ConfigErrors::new(errors, unlisted, warnings))
    }
}

/// None, and an incomplete configuration, only together with an error in the report.
fn read(root: &Value<'_>) -> Option<(Config, BTreeMap<String, Community>)> {
    let fields = root.fields(KEYS)?;
    if fields.is_empty() {
        root.warn("the document is empty: there are no pools and no peers");
    }
    let bfd_profiles = fields.get("bfd-profiles").map(|value| profiles::read(&value)).unwrap_or_default();
    let mut communities = BTreeMap::new();
    for key in ["communities", "bgp-communities"] {
        if let Some(value) = fields.get(key) {
            read_communities(&value, &mut communities);
        }
    }
    let generation = Generation::of(root);
    let config = Config {
        peers: fields.get("peers").map(|value| peers::read(&value, &bfd_profiles)).unwrap_or_default(),
        bfd_profiles,
        pools: fields
            .get("address-pools")
            .map(|value| pools::read(&value, generation, &communities))
            .unwrap_or_default(),
        herald: fields
            .get("herald")
            .map_or_else(|| Some(HeraldOptions::default()), |value| options::read(&value))
            .unwrap_or_default(),
        ..Config::default()
    };
    Some((config, communities))
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

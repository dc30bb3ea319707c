//! Documents as users write them: what they mean, and what is said about them.

mod documents;
mod fields;
mod laws;
mod messages;
mod places;
mod warnings;

use crate::{Config, ConfigErrors, Parsed, parse};

/// What a good document means.
fn config(document: &str) -> Config {
    parsed(document).config
}

fn parsed(document: &str) -> Parsed {
    parse(document).unwrap_or_else(|errors| panic!("refused:\n{errors}\n---\n{document}"))
}

fn refused(document: &str) -> ConfigErrors {
    match parse(document) {
        Ok(parsed) => panic!("accepted: {parsed:?}\n---\n{document}"),
        Err(errors) => errors,
    }
}

/// The warnings of a good document, one per line.
fn warnings(document: &str) -> String {
    parsed(document).warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

/// A peer on line 1 to which further keys are added on line 2.
fn with_peer(more: &str) -> String {
    format!("peers: [{{my-asn: 64600, peer-asn: 64601, peer-address: 10.0.0.1,\n{more}}}]")
}

/// A BGP pool of the later generations on line 1, further keys on line 2.
fn with_pool(more: &str) -> String {
    format!("address-pools: [{{name: edge, protocol: bgp, addresses: [192.0.2.0/26],\n{more}}}]")
}

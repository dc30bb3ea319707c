//! The map `herald.bgp-peers`: what sessions have beyond MetalLB's fields.

use std::collections::BTreeSet;

use super::options::prefixes;
use super::reader::Value;
use super::scalars::{boolean, from_text, number, one_of};
use crate::options::BgpPeers;
use crate::sessions::{BgpRole, Connect, SessionOptions, TcpAo, TcpAoAlgorithm};

/// A map from the name of a peer; `*` is every other peer.
pub(super) fn bgp_peers(value: &Value<'_>) -> Option<BgpPeers> {
    let entries =
        value.entries()?.into_iter().map(|(name, value)| Some((name.to_owned(), session(name, &value)?)));
    let entries: Vec<Option<_>> = entries.collect();
    let mut peers = BgpPeers::default();
    for (name, options) in entries.into_iter().collect::<Option<Vec<_>>>()? {
        if name == "*" {
            peers.others = options;
        } else {
            peers.named.insert(name, options);
        }
    }
    Some(peers)
}

fn session(name: &str, value: &Value<'_>) -> Option<SessionOptions> {
    let fields = value.fields(&[
        "ttl-security",
        "connect",
        "accept-from",
        "tcp-ao",
        "role",
        "strict-role",
        "med",
        "prepend",
        "extended-communities",
    ])?;
    let ttl_security =
        fields.get("ttl-security").map_or(Some(None), |value| number::<u8>(&value, 1..=254).map(Some));
    let connect = fields.get("connect").map_or(Some(Connect::Dial), |value| {
        one_of(&value, &[("dial", Connect::Dial), ("accept", Connect::Accept), ("both", Connect::Both)])
    });
    let accept_from = fields.get("accept-from").map_or(Some(Vec::new()), |value| match name {
        "*" => value.fail("does not say which peer they are like: write it in the entry of a peer"),
        _ => prefixes(&value),
    });
    let tcp_ao = fields.get("tcp-ao").map_or(Some(None), |value| tcp_ao(&value).map(Some));
    let role = fields.get("role").map_or(Some(None), |value| {
        let words = [
            ("provider", BgpRole::Provider),
            ("customer", BgpRole::Customer),
            ("peer", BgpRole::Peer),
            ("route-server", BgpRole::RouteServer),
            ("route-server-client", BgpRole::RouteServerClient),
        ];
        one_of(&value, &words).map(Some)
    });
    let strict_role = fields.get("strict-role").map_or(Some(false), |value| boolean(&value));
    let med = fields
        .get("med")
        .map_or(Some(None), |value| number::<u32>(&value, 0..=u64::from(u32::MAX)).map(Some));
    let prepend = fields.get("prepend").map_or(Some(0), |value| number::<u8>(&value, 0..=16));
    let extended_communities = fields.get("extended-communities").map_or(Some(BTreeSet::new()), |value| {
        let items: Vec<Option<_>> = value.items()?.iter().map(from_text).collect();
        items.into_iter().collect()
    });
    if let (Some(true), Some(None), Some(place)) = (strict_role, role, fields.get("strict-role")) {
        return place.fail("a role is asked of the neighbour without one of ours: add role");
    }
    Some(SessionOptions {
        ttl_security: ttl_security?,
        connect: connect?,
        accept_from: accept_from?,
        tcp_ao: tcp_ao?,
        role: role?,
        strict_role: strict_role?,
        med: med?,
        prepend: prepend?,
        extended_communities: extended_communities?,
    })
}

fn tcp_ao(value: &Value<'_>) -> Option<TcpAo> {
    let fields = value.fields(&["send-id", "receive-id", "algorithm"])?;
    let id = |name: &str| fields.get(name).map(|value| number::<u8>(&value, 0..=255));
    let Some(send_id) = id("send-id") else {
        return value.fail(
            "has no send-id: write the number that the neighbour has as the key's receive id, 0 to 255",
        );
    };
    let algorithm = fields.get("algorithm").map_or(Some(TcpAoAlgorithm::HmacSha1), |value| {
        one_of(&value, &[("hmac-sha1", TcpAoAlgorithm::HmacSha1), ("aes-128-cmac", TcpAoAlgorithm::AesCmac)])
    });
    let receive_id = id("receive-id").unwrap_or(send_id);
    Some(TcpAo { send_id: send_id?, receive_id: receive_id?, algorithm: algorithm? })
}

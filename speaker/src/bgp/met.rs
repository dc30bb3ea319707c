//! Neighbours that no configuration names one by one: whoever dials from a network that a peer accepts from.
//!
//! The listener meets them ([`Met`]), and each becomes a peer of its own with the settings of the one whose network it is.
//! One that has no session for a while is forgotten, until it dials again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_bgp::State;
use herald_config::{BgpPeers, Peer};
use ipnet::IpNet;

use super::sockopt::Key;
use super::status::Seen;

/// The neighbours that dialled, not more than [`MOST`].
pub(crate) type Met = BTreeSet<IpAddr>;

/// So many at once, for each may cost a session.
pub(super) const MOST: usize = 64;
/// So long one without a session is remembered: more than a router takes to restart.
const REMEMBERED: Duration = Duration::from_secs(300);

/// A network that neighbours dial from, and what they need to be heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// Theirs.
    pub(crate) network: IpNet,
    /// What signs their segments.
    pub(crate) key: Option<Key>,
    /// Our address, of their family; none: any.
    pub(crate) source: Option<IpAddr>,
    /// The interface or VRF that they come by.
    pub(crate) device: Option<String>,
}

/// The networks that these peers accept from.
pub(crate) fn ranges(peers: &[Peer], options: &BgpPeers) -> Vec<Range> {
    let of_peer = |peer: &Peer| {
        let networks = options.of(&peer.name).accept_from.clone().into_iter();
        let key = Key::of(peer.password.as_ref(), options.of(&peer.name).tcp_ao);
        let (device, source) = (peer.device.clone(), peer.source_address);
        networks.map(move |network| {
            let source = source.filter(|source| source.is_ipv4() == network.addr().is_ipv4());
            Range { network, key: key.clone(), source, device: device.clone() }
        })
    };
    peers.iter().flat_map(of_peer).collect()
}

/// The neighbours to have sessions with, and whether it is they who dial: these peers, but for those whose own networks they are
/// in, and whoever was met, as the peer with the narrowest network around it, the first of several.
pub(crate) fn neighbours(peers: &[Peer], options: &BgpPeers, met: &Met) -> Vec<(Peer, bool)> {
    let length = |peer: &Peer, address: &IpAddr| {
        let around = options.of(&peer.name).accept_from.iter().filter(|network| network.contains(address));
        around.map(IpNet::prefix_len).max()
    };
    let named: Vec<_> = peers.iter().filter(|peer| length(peer, &peer.address).is_none()).collect();
    let like = |address: &IpAddr| {
        let accepting = peers.iter().rev().filter_map(|peer| Some((length(peer, address)?, peer)));
        // The last of equals, that is the first in the configuration.
        let (_, peer) = accepting.max_by_key(|(length, _)| *length)?;
        let unnamed = named.iter().all(|named| named.address != *address);
        unnamed.then(|| (Peer { address: *address, ..peer.clone() }, true))
    };
    let met = met.iter().filter_map(like);
    named.iter().map(|peer| ((*peer).clone(), false)).chain(met).collect()
}

/// Whether a neighbour that was met is to be forgotten.
pub(super) fn is_gone(seen: &Seen, now: Instant) -> bool {
    seen.state != State::Established && now.saturating_duration_since(seen.since) >= REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(more: &str) -> (Vec<Peer>, BgpPeers) {
        let document = format!(
            "peers:\n- {{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, source-address: 10.0.0.11, password: s}}\n\
             - {{peer-address: 10.9.0.1, peer-asn: 200, my-asn: 42}}\n{more}"
        );
        let config = herald_config::parse(&document).unwrap().config;
        (config.peers, config.herald.bgp_peers)
    }

    fn seen(more: &str, met: &[&str]) -> Vec<String> {
        let (peers, options) = configured(more);
        let met = met.iter().map(|ip| ip.parse().unwrap()).collect();
        let neighbours = neighbours(&peers, &options, &met).into_iter();
        neighbours.map(|(peer, dials)| format!("{} {} {dials}", peer.name, peer.address)).collect()
    }

    #[test]
    fn whoever_dials_is_like_the_peer_with_the_narrowest_network_around_it() {
        let fixed = ["peer1 10.0.0.1 false", "peer2 10.9.0.1 false"];
        assert_eq!(seen("", &["10.0.0.9"]), fixed, "no network, no neighbour");
        let one = "herald: {bgp-peers: {peer1: {accept-from: [10.0.0.0/8]}}}";
        assert_eq!(seen(one, &[]), ["peer2 10.9.0.1 false"], "the first one is among those who dial");
        assert_eq!(
            seen(one, &["10.0.0.1", "10.9.0.1", "10.9.0.2", "192.0.2.1"]),
            ["peer2 10.9.0.1 false", "peer1 10.0.0.1 true", "peer1 10.9.0.2 true"],
            "one with an entry of its own stays what it is"
        );
        let two = "herald: {bgp-peers: {peer1: {accept-from: [10.0.0.0/8]}, peer2: {accept-from: [10.9.8.0/24, 10.0.0.0/8]}}}";
        assert_eq!(seen(two, &["10.9.8.7", "10.9.7.7"]), ["peer1 10.9.7.7 true", "peer2 10.9.8.7 true"]);
    }

    #[test]
    fn each_network_has_the_key_and_the_place_of_its_peer() {
        let (peers, options) =
            configured("herald: {bgp-peers: {peer1: {accept-from: [10.0.0.0/24, 'fd00::/64']}}}");
        let ranges = ranges(&peers, &options);
        let sources: Vec<_> = ranges.iter().map(|range| range.source).collect();
        assert_eq!(sources, [peers[0].source_address, None], "an address of the other family");
        let key = Key::of(peers[0].password.as_ref(), None);
        assert!(ranges.iter().all(|range| range.key == key && key.is_some()));
    }

    #[test]
    fn a_neighbour_without_a_session_is_forgotten_after_a_while() {
        let now = Instant::now();
        let seen = |state, ago| Seen { state, since: now - ago, ..Seen::default() };
        assert!(!is_gone(&seen(State::Established, REMEMBERED * 2), now));
        assert!(!is_gone(&seen(State::Active, REMEMBERED - Duration::from_secs(1)), now));
        assert!(is_gone(&seen(State::Active, REMEMBERED), now));
    }
}

//! What routes say to one peer besides what their advertisements say to all: `herald.bgp-peers`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_bgp::{Attributes, ExtendedCommunity, Role, RoleConfig};
use herald_config::{BgpRole, ExtendedKind, SessionOptions};

/// By the address of the peer; those for whom nothing is said besides are not in it.
pub(crate) type Exports = BTreeMap<IpAddr, Export>;

/// To one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Export {
    med: Option<u32>,
    prepend: u8,
    extended_communities: BTreeSet<ExtendedCommunity>,
}

impl Export {
    /// As configured; `None`: nothing.
    pub(crate) fn of(options: &SessionOptions) -> Option<Self> {
        let communities = options.extended_communities.iter().filter_map(|community| match community.kind {
            ExtendedKind::RouteTarget => ExtendedCommunity::route_target(community.asn, community.value),
            ExtendedKind::RouteOrigin => ExtendedCommunity::route_origin(community.asn, community.value),
        });
        let export =
            Self { med: options.med, prepend: options.prepend, extended_communities: communities.collect() };
        (export != Self::default()).then_some(export)
    }

    /// What a route says to the peer.
    pub(crate) fn add_to(&self, said: &Attributes) -> Attributes {
        let mut said = Attributes { med: self.med.or(said.med), prepend: self.prepend, ..said.clone() };
        said.extended_communities.extend(&self.extended_communities);
        said
    }
}

/// What this node is to a peer.
pub(crate) fn role(options: &SessionOptions) -> Option<RoleConfig> {
    let role = match options.role? {
        BgpRole::Provider => Role::Provider,
        BgpRole::Customer => Role::Customer,
        BgpRole::Peer => Role::Peer,
        BgpRole::RouteServer => Role::RouteServer,
        BgpRole::RouteServerClient => Role::RouteServerClient,
    };
    Some(RoleConfig { role, strict: options.strict_role })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(entry: &str) -> SessionOptions {
        let document = format!("peers: []\naddress-pools: []\nherald: {{bgp-peers: {{tor: {entry}}}}}\n");
        herald_config::parse(&document).unwrap().config.herald.bgp_peers.of("tor").clone()
    }

    #[test]
    fn nothing_is_said_besides_unless_configured() {
        assert_eq!(Export::of(&options("{}")), None);
        assert_eq!(Export::of(&options("{ttl-security: 1, connect: both, role: peer}")), None);
    }

    #[test]
    fn what_is_configured_is_said_besides_what_the_route_says() {
        let own = ExtendedCommunity::route_target(64500, 1).unwrap();
        let said =
            Attributes { local_pref: Some(7), extended_communities: [own].into(), ..Attributes::default() };
        let export =
            Export::of(&options("{med: 5, prepend: 2, extended-communities: ['soo:64500:9']}")).unwrap();
        let to_peer = export.add_to(&said);
        assert_eq!((to_peer.med, to_peer.prepend, to_peer.local_pref), (Some(5), 2, Some(7)));
        let origin = ExtendedCommunity::route_origin(64500, 9).unwrap();
        assert_eq!(to_peer.extended_communities, [own, origin].into());
    }

    #[test]
    fn a_role_is_told_as_configured() {
        assert_eq!(role(&options("{}")), None);
        let strict = role(&options("{role: route-server-client, strict-role: true}"));
        assert_eq!(strict, Some(RoleConfig { role: Role::RouteServerClient, strict: true }));
    }
}

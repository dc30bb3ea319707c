//! What the probes of a Service say about each of its endpoints, as the endpoint choice uses it.
//!
//! The last known good set is kept by family and port: as long as some endpoint of a port passes, those that pass are
//! remembered; when the last one fails they keep that rank, so that one that died an hour ago is not tried again only
//! because the others fail now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::attempt::Failure;
use super::targets::Targets;
use crate::element::Protocol;

/// How an endpoint stands with its probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ProbeState {
    /// It passes, or has not failed often enough, or is not probed.
    #[default]
    Passing,
    /// It fails and has never passed: perhaps the probe is wrong and not the endpoint.
    Unproven,
    /// It fails, as all do, and was one of the last that passed.
    LastGood,
    /// It fails.
    Failed,
}

impl ProbeState {
    /// Endpoints of the lowest rank that there is are used.
    pub fn rank(self) -> u8 {
        match self {
            Self::Passing => 0,
            Self::Unproven | Self::LastGood => 1,
            Self::Failed => 2,
        }
    }

    /// True when new clients may be attracted on behalf of such an endpoint.
    pub fn attracts(self) -> bool {
        matches!(self, Self::Passing | Self::Unproven)
    }
}

/// What the probes of one Service say on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceProbes {
    /// What is probed.
    pub targets: Arc<Targets>,
    /// Those that fail; never [`ProbeState::Passing`].
    pub failing: BTreeMap<SocketAddr, (ProbeState, Failure)>,
}

impl ServiceProbes {
    /// How an endpoint of this node stands.
    pub fn state(&self, endpoint: SocketAddr, protocol: Protocol) -> ProbeState {
        let port = match self.targets.spec.port {
            Some(port) => port,
            None if protocol == Protocol::Tcp => endpoint.port(),
            None => return ProbeState::Passing,
        };
        let found = self.failing.get(&SocketAddr::new(endpoint.ip(), port));
        found.map_or(ProbeState::Passing, |(state, _)| *state)
    }
}

/// One endpoint as [`LastGood::stand`] sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probed {
    pub(super) failing: Option<Failure>,
    pub(super) proven: bool,
}

/// The last known good endpoints of a Service.
#[derive(Debug, Default)]
pub(super) struct LastGood(BTreeSet<SocketAddr>);

impl LastGood {
    /// The states of all that fail.
    pub(super) fn stand(
        &mut self,
        sockets: &BTreeMap<SocketAddr, Probed>,
    ) -> BTreeMap<SocketAddr, (ProbeState, Failure)> {
        let group = |socket: &SocketAddr| (socket.is_ipv6(), socket.port());
        let passing =
            || sockets.iter().filter(|(_, probed)| probed.failing.is_none()).map(|(socket, _)| socket);
        let alive: BTreeSet<_> = passing().map(group).collect();
        self.0.retain(|socket| !alive.contains(&group(socket)) && sockets.contains_key(socket));
        self.0.extend(passing().copied());
        let stand = |(socket, probed): (&SocketAddr, &Probed)| {
            let failure = probed.failing?;
            let state = match () {
                () if !probed.proven => ProbeState::Unproven,
                () if self.0.contains(socket) => ProbeState::LastGood,
                () => ProbeState::Failed,
            };
            Some((*socket, (state, failure)))
        };
        sockets.iter().filter_map(stand).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeSpec;
    use crate::testing::socket;

    /// The n-th socket passes (`p`), fails (`f`), or fails and never passed (`u`); ` ` is not there.
    fn stand(last_good: &mut LastGood, states: &str) -> String {
        let address = |n: usize| socket(&format!("10.244.1.{}:8080", n + 1));
        let probed =
            |state| Probed { failing: (state != 'p').then_some(Failure::Refused), proven: state != 'u' };
        let present = states.chars().enumerate().filter(|(_, state)| *state != ' ');
        let sockets = present.map(|(n, state)| (address(n), probed(state))).collect();
        let found = last_good.stand(&sockets);
        let letter = |n| match found.get(&address(n)).map(|(state, _)| *state) {
            None if sockets.contains_key(&address(n)) => 'P',
            None | Some(ProbeState::Passing) => ' ',
            Some(ProbeState::Unproven) => 'U',
            Some(ProbeState::LastGood) => 'L',
            Some(ProbeState::Failed) => 'F',
        };
        (0..states.len()).map(letter).collect()
    }

    #[test]
    fn when_the_last_one_fails_those_that_passed_last_are_the_last_good_ones() {
        for steps in [
            &[("pp", "PP"), ("fp", "FP"), ("ff", "FL"), ("pf", "PF"), ("ff", "LF")][..],
            &[("pp", "PP"), ("ff", "LL"), ("fp", "FP")],
            &[("pf", "PF"), ("ff", "LF"), (" f", " F")],
            &[("ppu", "PPU"), ("ffu", "LLU"), ("ffp", "FFP")],
            &[("uu", "UU"), ("pu", "PU"), ("fu", "LU")],
        ] {
            let mut last_good = LastGood::default();
            for (n, (states, expected)) in steps.iter().enumerate() {
                assert_eq!(stand(&mut last_good, states), *expected, "step {n} of {steps:?}");
            }
        }
    }

    #[test]
    fn each_port_and_family_has_a_last_good_set_of_its_own() {
        let sockets = |states: [(&str, bool); 3]| {
            let probed =
                |failing: bool| Probed { failing: failing.then_some(Failure::Refused), proven: true };
            states.map(|(at, failing)| (socket(at), probed(failing))).into()
        };
        let mut last_good = LastGood::default();
        let at = ["10.244.1.1:80", "10.244.1.1:443", "[2001:db8:2::1]:80"];
        last_good.stand(&sockets([(at[0], false), (at[1], false), (at[2], false)]));
        let found = last_good.stand(&sockets([(at[0], true), (at[1], false), (at[2], true)]));
        let states: Vec<_> = found.values().map(|(state, _)| *state).collect();
        assert_eq!(states, [ProbeState::LastGood, ProbeState::LastGood]);
    }

    #[test]
    fn a_named_port_stands_for_all_ports_and_else_tcp_ports_stand_for_themselves() {
        let failing = [(socket("10.244.1.1:8080"), (ProbeState::Failed, Failure::Refused))];
        let of = |spec: &str| {
            let sockets = failing.iter().map(|(socket, _)| *socket).collect();
            let targets = Targets { spec: Arc::new(ProbeSpec::parse(spec).unwrap()), sockets };
            ServiceProbes { targets: Arc::new(targets), failing: failing.into() }
        };
        let (own, named) = (of("tcp"), of("tcp port=8080"));
        for (probes, at, protocol, expected) in [
            (&own, "10.244.1.1:8080", Protocol::Tcp, ProbeState::Failed),
            (&own, "10.244.1.1:8080", Protocol::Udp, ProbeState::Passing),
            (&own, "10.244.1.1:8443", Protocol::Tcp, ProbeState::Passing),
            (&named, "10.244.1.1:53", Protocol::Udp, ProbeState::Failed),
            (&named, "10.244.1.2:8080", Protocol::Tcp, ProbeState::Passing),
        ] {
            assert_eq!(probes.state(socket(at), protocol), expected, "{at} {protocol:?}");
        }
    }
}

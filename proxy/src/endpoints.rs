//! All EndpointSlices of one Service, and the endpoints that they make together.
//!
//! A Service may have any number of slices, and an endpoint may stand in several while it is moved between them.
//! Slices are kept by name, so that an update replaces one slice and no other. Endpoints are merged when asked for:
//! one per address and port. Where duplicates disagree, any *ready* wins, any *serving while terminating* wins, any
//! *local* wins, and hints are joined; the result does not depend on the order of slices. (kube-proxy keeps whichever
//! it saw last.)
//!
//! Beside the slices stands what the node's own probes say of its endpoints, and which addresses are held: count as ready
//! for a while, although their slices say that they are not; and which nodes count as dead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::element::Protocol;
use crate::family::IpFamily;
use crate::probe::{ProbeState, ServiceProbes};
use crate::slice::{SliceEndpoint, SlicePort, SliceView};

/// One endpoint of one Service port, merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// It may get new connections.
    pub ready: bool,
    /// It is going away but still answers: the fallback when nothing is ready.
    pub serving_terminating: bool,
    /// It runs on the node that was asked for.
    pub local: bool,
    /// What this node's probes say of it.
    pub probes: ProbeState,
    /// It runs on a node that counts as dead.
    pub suspect: bool,
    /// The node it runs on; of several that of the local duplicate.
    pub node: Option<&'a str>,
    /// Zones that it is meant for.
    pub zones: Vec<&'a str>,
    /// Nodes that it is meant for.
    pub nodes: Vec<&'a str>,
}

impl<'a> Endpoint<'a> {
    fn of(endpoint: &'a SliceEndpoint, port: u16, node_name: &str) -> Self {
        let node = endpoint.node.as_deref();
        let (mut zones, mut nodes) = (Vec::new(), Vec::new());
        if let Some(hints) = &endpoint.hints {
            zones.extend(hints.zones.iter().map(Arc::as_ref));
            nodes.extend(hints.nodes.iter().map(Arc::as_ref));
        }
        Self {
            address: SocketAddr::new(endpoint.address, port),
            ready: endpoint.ready,
            serving_terminating: endpoint.serving && endpoint.terminating,
            local: node == Some(node_name),
            probes: ProbeState::default(),
            suspect: false,
            node,
            zones,
            nodes,
        }
    }

    fn merge(&mut self, other: Self) {
        if (other.local, other.node) > (self.local, self.node) {
            self.node = other.node;
        }
        self.ready |= other.ready;
        self.serving_terminating |= other.serving_terminating;
        self.local |= other.local;
        self.suspect &= other.suspect;
        join(&mut self.zones, other.zones);
        join(&mut self.nodes, other.nodes);
    }
}

fn join<'a>(into: &mut Vec<&'a str>, other: Vec<&'a str>) {
    if !other.is_empty() {
        into.extend(other);
        into.sort_unstable();
        into.dedup();
    }
}

/// The slices of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointsView {
    // Sorted by name. Most Services have one or two slices: a vector is the smallest map.
    slices: Vec<(Box<str>, SliceView)>,
    probes: Option<Arc<ServiceProbes>>,
    held: Option<Arc<BTreeSet<IpAddr>>>,
    suspects: Option<Arc<BTreeSet<Box<str>>>>,
}

impl EndpointsView {
    /// Puts a slice in, in place of an earlier one of that name; true when anything changed.
    pub fn apply(&mut self, slice_name: &str, slice: SliceView) -> bool {
        match self.position(slice_name) {
            Ok(at) if self.slices[at].1 == slice => false,
            Ok(at) => {
                self.slices[at].1 = slice;
                true
            }
            Err(at) => {
                self.slices.reserve_exact(1);
                self.slices.insert(at, (slice_name.into(), slice));
                true
            }
        }
    }

    /// Takes a slice out; true when it was there.
    pub fn remove(&mut self, slice_name: &str) -> bool {
        match self.position(slice_name) {
            Ok(at) => {
                self.slices.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Puts in what the node's probes say; true when that makes a difference.
    pub fn set_probes(&mut self, probes: Option<Arc<ServiceProbes>>) -> bool {
        let failing = |probes: &Option<Arc<ServiceProbes>>| {
            let failing = probes.as_ref().filter(|probes| !probes.failing.is_empty());
            failing.map(|probes| (probes.targets.spec.port, probes.failing.clone()))
        };
        let changed = failing(&self.probes) != failing(&probes);
        self.probes = probes;
        changed
    }

    /// Puts in the addresses that count as ready although their slices say that they are not; true when anything changed.
    pub fn set_held(&mut self, held: Option<Arc<BTreeSet<IpAddr>>>) -> bool {
        let changed = self.held != held;
        self.held = held;
        changed
    }

    /// Puts in the nodes that count as dead; true when that makes a difference.
    pub fn set_suspects(&mut self, suspects: Option<Arc<BTreeSet<Box<str>>>>) -> bool {
        let suspect = |node: &str, nodes: &Option<Arc<BTreeSet<Box<str>>>>| {
            nodes.as_ref().is_some_and(|nodes| nodes.contains(node))
        };
        let on =
            self.slices.iter().flat_map(|(_, slice)| &slice.endpoints).filter_map(|of| of.node.as_deref());
        let changed = on.into_iter().any(|node| suspect(node, &self.suspects) != suspect(node, &suspects));
        self.suspects = suspects;
        changed
    }

    /// The addresses that [`Self::set_held`] has put in.
    pub fn held(&self) -> Option<&BTreeSet<IpAddr>> {
        self.held.as_deref()
    }

    /// True when the slices by themselves have an endpoint that can be used.
    pub fn is_usable(&self) -> bool {
        let endpoints = self.with_ports().flat_map(|slice| &slice.endpoints);
        endpoints.into_iter().any(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating))
    }

    /// Addresses that are listed, not ready and not terminating, with the nodes that they are on.
    pub fn waiting(&self) -> BTreeMap<IpAddr, Option<&str>> {
        let endpoints = self.with_ports().flat_map(|slice| &slice.endpoints);
        let waiting = endpoints.filter(|endpoint| !endpoint.ready && !endpoint.terminating);
        waiting.map(|endpoint| (endpoint.address, endpoint.node.as_deref())).collect()
    }

    /// Addresses that are ready in a slice and would not be any more with this one in its place, or none.
    pub fn losing(&self, slice_name: &str, next: Option<&SliceView>) -> BTreeSet<IpAddr> {
        let Ok(at) = self.position(slice_name) else { return BTreeSet::new() };
        let ready = |slice: &SliceView| -> BTreeSet<IpAddr> {
            slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.ready)
                .map(|endpoint| endpoint.address)
                .collect()
        };
        let before = ready(&self.slices[at].1);
        match next {
            Some(next) => before.difference(&ready(next)).copied().collect(),
            None => before,
        }
    }

    fn with_ports(&self) -> impl Iterator<Item = &SliceView> {
        self.slices.iter().map(|(_, slice)| slice).filter(|slice| !slice.ports.is_empty())
    }

    fn is_ready(&self, endpoint: &SliceEndpoint) -> bool {
        let held = || self.held.as_ref().is_some_and(|held| held.contains(&endpoint.address));
        endpoint.ready || (!endpoint.terminating && held())
    }

    fn is_suspect(&self, endpoint: &SliceEndpoint) -> bool {
        let on = |nodes: &Arc<BTreeSet<Box<str>>>| {
            endpoint.node.as_deref().is_some_and(|node| nodes.contains(node))
        };
        self.suspects.as_ref().is_some_and(on)
    }

    /// True when there is no slice.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Addresses of all endpoints, in whatever state.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.slices.iter().flat_map(|(_, slice)| slice.endpoints.iter().map(|endpoint| endpoint.address))
    }

    /// The family of a slice's addresses.
    pub fn family(&self, slice_name: &str) -> Option<IpFamily> {
        let at = self.position(slice_name).ok()?;
        Some(self.slices.get(at)?.1.family)
    }

    /// Names of the slices, sorted.
    pub fn slice_names(&self) -> impl Iterator<Item = &str> {
        self.slices.iter().map(|(name, _)| &**name)
    }

    /// The slices as read, sorted by name.
    pub fn slices(&self) -> impl Iterator<Item = (&str, &SliceView)> {
        self.slices.iter().map(|(name, slice)| (&**name, slice))
    }

    /// The endpoints of one Service port in one family as seen from a node: merged, sorted by address and port.
    pub fn of_port(
        &self,
        family: IpFamily,
        port_name: &str,
        protocol: Protocol,
        node_name: &str,
    ) -> Vec<Endpoint<'_>> {
        let mut all = Vec::new();
        for slice in self.slices.iter().map(|(_, slice)| slice).filter(|slice| slice.family == family) {
            for port in slice.ports.iter().filter(|p| *p.name == *port_name && p.protocol == protocol) {
                all.extend(slice.endpoints.iter().map(|e| {
                    let ready = self.is_ready(e);
                    let suspect = self.is_suspect(e);
                    Endpoint { ready, suspect, ..Endpoint::of(e, port.number, node_name) }
                }));
            }
        }
        all.sort_by_key(|endpoint| endpoint.address);
        let mut merged: Vec<Endpoint<'_>> = Vec::with_capacity(all.len());
        for endpoint in all {
            match merged.last_mut() {
                Some(last) if last.address == endpoint.address => last.merge(endpoint),
                _ => merged.push(endpoint),
            }
        }
        if self.probes.is_some() {
            for endpoint in merged.iter_mut().filter(|endpoint| endpoint.local) {
                endpoint.probes = self.state(endpoint.address, protocol);
            }
        }
        merged
    }

    /// The number of the node's own ready endpoints that the health check node port tells: distinct addresses over all
    /// ports, of the family that has more (a dual-stack pod is one endpoint). Terminating ones never count. Of those that
    /// are probed the ones count that pass at some port; where none does, those whose probes never passed.
    pub fn local_ready(&self, node_name: &str) -> usize {
        let mut by_address: BTreeMap<IpAddr, (bool, bool, Option<ProbeState>)> = BTreeMap::new();
        for slice in self.with_ports() {
            for endpoint in &slice.endpoints {
                let (ready, local, best) = by_address.entry(endpoint.address).or_default();
                *ready |= self.is_ready(endpoint);
                *local |= endpoint.node.as_deref() == Some(node_name);
                let at = |port: &SlicePort| self.state((endpoint.address, port.number).into(), port.protocol);
                *best = slice.ports.iter().map(at).chain(*best).min_by_key(|state| state.rank());
            }
        }
        let count = |family, as_good: fn(ProbeState) -> bool| {
            let of_family =
                by_address.iter().filter(|(ip, _)| IpFamily::of(**ip) == family).map(|(_, state)| state);
            of_family.filter(|(ready, local, best)| *ready && *local && best.is_some_and(as_good)).count()
        };
        let most = |as_good| count(IpFamily::V4, as_good).max(count(IpFamily::V6, as_good));
        match most(|state| state == ProbeState::Passing) {
            0 => most(ProbeState::attracts),
            passing => passing,
        }
    }

    fn state(&self, endpoint: SocketAddr, protocol: Protocol) -> ProbeState {
        self.probes.as_ref().map_or(ProbeState::Passing, |probes| probes.state(endpoint, protocol))
    }

    fn position(&self, slice_name: &str) -> Result<usize, usize> {
        self.slices.binary_search_by(|(name, _)| (**name).cmp(slice_name))
    }
}

#[cfg(test)]
mod tests;

//! Who occupies which address, and who may share one.
//!
//! MetalLB's rule, pair by pair: the same non-empty sharing key, no common (protocol, port), and the same backend
//! key, which is empty for policy Cluster and the selector for policy Local.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use herald_runtime::ObjectName;

/// What decides whether two Services may share an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Annotation `metallb.io/allow-shared-ip`; without it nothing is shared and the rest is left empty.
    pub key: Option<String>,
    /// Protocol and port of each port.
    pub ports: BTreeSet<(String, i32)>,
    /// Empty for externalTrafficPolicy Cluster, the selector for Local.
    pub backend: String,
}

impl Terms {
    /// Whether the two may hold one address.
    pub fn may_share(&self, other: &Self) -> bool {
        self.key.is_some()
            && self.key == other.key
            && self.backend == other.backend
            && self.ports.is_disjoint(&other.ports)
    }
}

#[derive(Debug, Clone)]
struct Tenant {
    service: ObjectName,
    terms: Terms,
    leaving: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tenants {
    by_address: HashMap<IpAddr, Vec<Tenant>>,
    /// Addresses whose holders have this key.
    by_key: HashMap<String, BTreeSet<IpAddr>>,
    /// Addresses that a Service is to lose but whose status may still show.
    leaving: HashMap<ObjectName, Vec<IpAddr>>,
}

/// What entering a Service, or changing its terms, meant for others.
pub(super) struct Occupied {
    /// The address was unoccupied.
    pub(super) first: bool,
    /// Somebody may be able to share the address who was not before.
    pub(super) opened: bool,
}

impl Tenants {
    pub(super) fn is_occupied(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Enters the Service, or changes its terms.
    pub(super) fn occupy(&mut self, address: IpAddr, service: &ObjectName, terms: &Terms) -> Occupied {
        self.stays(address, service);
        let tenants = self.by_address.entry(address).or_default();
        let first = tenants.is_empty();
        let old = match tenants.iter_mut().find(|tenant| tenant.service == *service) {
            Some(tenant) => {
                tenant.leaving = false;
                (tenant.terms != *terms).then(|| std::mem::replace(&mut tenant.terms, terms.clone()))
            }
            None => {
                tenants.push(Tenant { service: service.clone(), terms: terms.clone(), leaving: false });
                None
            }
        };
        let mut opened = old.is_some();
        if let Some(old) = old {
            self.unlist(address, &old);
        }
        if let Some(key) = &terms.key {
            opened |= self.by_key.entry(key.clone()).or_default().insert(address);
        }
        Occupied { first, opened }
    }

    /// Keeps the address for the Service although it is not to hold it; true if it was unoccupied.
    pub(super) fn reserve(&mut self, address: IpAddr, service: &ObjectName) -> bool {
        let tenants = self.by_address.entry(address).or_default();
        if tenants.iter().any(|tenant| tenant.service == *service) {
            return false;
        }
        let first = tenants.is_empty();
        tenants.push(Tenant { service: service.clone(), terms: Terms::default(), leaving: true });
        self.leaving.entry(service.clone()).or_default().push(address);
        first
    }

    pub(super) fn leave(&mut self, address: IpAddr, service: &ObjectName) {
        let tenant =
            self.by_address.get_mut(&address).and_then(|t| t.iter_mut().find(|t| t.service == *service));
        if let Some(tenant) = tenant.filter(|tenant| !tenant.leaving) {
            tenant.leaving = true;
            self.leaving.entry(service.clone()).or_default().push(address);
        }
    }

    /// The addresses that the Service is to lose.
    pub(super) fn leaving(&self, service: &ObjectName) -> Vec<IpAddr> {
        self.leaving.get(service).cloned().unwrap_or_default()
    }

    /// Removes the Service from the address; true if nobody is left there.
    pub(super) fn remove(&mut self, address: IpAddr, service: &ObjectName) -> bool {
        self.stays(address, service);
        let Some(tenants) = self.by_address.get_mut(&address) else { return false };
        let Some(at) = tenants.iter().position(|tenant| tenant.service == *service) else { return false };
        let gone = tenants.swap_remove(at);
        let empty = tenants.is_empty();
        if empty {
            self.by_address.remove(&address);
        }
        self.unlist(address, &gone.terms);
        empty
    }

    /// Somebody who keeps the Service off the address. Who is leaving is in the way only of who comes `anew`.
    pub(super) fn conflict(
        &self,
        address: IpAddr,
        service: &ObjectName,
        terms: &Terms,
        anew: bool,
    ) -> Option<&ObjectName> {
        self.by_address
            .get(&address)?
            .iter()
            .filter(|tenant| tenant.service != *service && (anew || !tenant.leaving))
            .find(|tenant| !tenant.terms.may_share(terms))
            .map(|tenant| &tenant.service)
    }

    /// Occupied addresses that the Service may join.
    pub(super) fn shareable<'a>(
        &'a self,
        service: &'a ObjectName,
        terms: &'a Terms,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let listed = terms.key.as_ref().and_then(|key| self.by_key.get(key));
        let listed = listed.into_iter().flatten().copied();
        listed.filter(move |address| self.conflict(*address, service, terms, true).is_none())
    }

    fn stays(&mut self, address: IpAddr, service: &ObjectName) {
        if let Some(addresses) = self.leaving.get_mut(service) {
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                self.leaving.remove(service);
            }
        }
    }

    fn unlist(&mut self, address: IpAddr, terms: &Terms) {
        let Some(key) = &terms.key else { return };
        let others = self.by_address.get(&address).into_iter().flatten();
        if others.into_iter().any(|tenant| tenant.terms.key.as_ref() == Some(key)) {
            return;
        }
        if let Some(addresses) = self.by_key.get_mut(key) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_key.remove(key);
            }
        }
    }
}

//! Who has which address, and who may share one.
//!
//! MetalLB's rule, pair by pair: the same non-empty sharing key, no common (protocol, port), and the same backend
//! key, which is empty for policy Cluster and the selector for policy Local. Who is to *join* an address must also be of the
//! same namespace, unless the configuration allows all; what is shared already stays shared.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use herald_config::Sharing;
use herald_runtime::ObjectName;

use crate::reason::Clash;

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
    /// Why the two must not hold one address, by MetalLB's rule.
    pub fn clash(&self, other: &Self) -> Option<Clash> {
        if self.key.is_none() || self.key != other.key {
            return Some(Clash::Key);
        }
        if let Some((protocol, port)) = self.ports.intersection(&other.ports).next() {
            return Some(Clash::Port(format!("{protocol}/{port}")));
        }
        (self.backend != other.backend).then_some(Clash::TrafficPolicy)
    }
}

/// What somebody has to do with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It holds it.
    Holds,
    /// It is to lose it, but its status may still show it; or it never was to have it but its status shows it.
    Leaving,
    /// It has it as an externalIP.
    External,
}

#[derive(Debug)]
struct Tenant {
    service: ObjectName,
    /// Most Services share nothing: no terms then.
    terms: Option<Box<Terms>>,
    hold: Hold,
}

impl Tenant {
    fn clash(&self, terms: &Terms) -> Option<Clash> {
        self.terms.as_ref().map_or(Some(Clash::Key), |own| own.clash(terms))
    }
}

/// Who is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) holder: ObjectName,
    pub(super) why: Clash,
}

#[derive(Debug, Default)]
pub(super) struct Tenants {
    sharing: Sharing,
    by_address: HashMap<IpAddr, Vec<Tenant>>,
    /// Addresses whose holders have this key.
    by_key: HashMap<String, BTreeSet<IpAddr>>,
    /// Addresses that a Service is to lose but whose status may still show.
    leaving: HashMap<ObjectName, Vec<IpAddr>>,
    /// The externalIPs of a Service.
    external: HashMap<ObjectName, Vec<IpAddr>>,
}

/// What entering a Service, or changing its terms, meant for others.
pub(super) struct Occupied {
    /// Nobody had the address.
    pub(super) first: bool,
    /// Somebody may be able to share the address who was not before.
    pub(super) opened: bool,
}

impl Tenants {
    pub(super) fn new(sharing: Sharing) -> Self {
        Self { sharing, ..Self::default() }
    }

    pub(super) fn is_occupied(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Enters the Service, or changes its terms.
    pub(super) fn occupy(&mut self, address: IpAddr, service: &ObjectName, terms: &Terms) -> Occupied {
        self.stays(address, service);
        let new = terms.key.is_some().then(|| Box::new(terms.clone()));
        let tenants = self.by_address.entry(address).or_insert_with(|| Vec::with_capacity(1));
        let first = tenants.is_empty();
        let own = |tenant: &&mut Tenant| tenant.service == *service && tenant.hold != Hold::External;
        let old = match tenants.iter_mut().find(own) {
            Some(tenant) => {
                tenant.hold = Hold::Holds;
                (tenant.terms != new).then(|| std::mem::replace(&mut tenant.terms, new))
            }
            None => {
                tenants.push(Tenant { service: service.clone(), terms: new, hold: Hold::Holds });
                None
            }
        };
        let mut opened = old.is_some();
        if let Some(old) = old.flatten() {
            self.unlist(address, &old);
        }
        if let Some(key) = &terms.key {
            opened |= self.by_key.entry(key.clone()).or_default().insert(address);
        }
        Occupied { first, opened }
    }

    /// Keeps the address for the Service although it is not to hold it; true if nobody had it.
    pub(super) fn reserve(&mut self, address: IpAddr, service: &ObjectName) -> bool {
        let tenants = self.by_address.entry(address).or_insert_with(|| Vec::with_capacity(1));
        if tenants.iter().any(|tenant| tenant.service == *service && tenant.hold != Hold::External) {
            return false;
        }
        let first = tenants.is_empty();
        tenants.push(Tenant { service: service.clone(), terms: None, hold: Hold::Leaving });
        self.leaving.entry(service.clone()).or_default().push(address);
        first
    }

    pub(super) fn leave(&mut self, address: IpAddr, service: &ObjectName) {
        let tenant = self
            .by_address
            .get_mut(&address)
            .and_then(|t| t.iter_mut().find(|t| t.service == *service && t.hold == Hold::Holds));
        if let Some(tenant) = tenant {
            tenant.hold = Hold::Leaving;
            self.leaving.entry(service.clone()).or_default().push(address);
        }
    }

    /// The addresses that the Service is to lose.
    pub(super) fn leaving(&self, service: &ObjectName) -> &[IpAddr] {
        self.leaving.get(service).map_or(&[], Vec::as_slice)
    }

    /// Removes the Service from the address; true if nobody is left there.
    pub(super) fn remove(&mut self, address: IpAddr, service: &ObjectName) -> bool {
        self.stays(address, service);
        self.drop_tenant(address, service, false)
    }

    /// The Service's externalIPs are these; returns those that nobody had and those that nobody has any more.
    pub(super) fn claim(
        &mut self,
        service: &ObjectName,
        addresses: Vec<IpAddr>,
        terms: &Terms,
    ) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let old = self.external.remove(service).unwrap_or_default();
        let (mut taken, mut freed) = (Vec::new(), Vec::new());
        for &address in &old {
            // Also those that stay: their terms may have changed.
            if self.drop_tenant(address, service, true) && !addresses.contains(&address) {
                freed.push(address);
            }
        }
        for &address in &addresses {
            let terms = terms.key.is_some().then(|| Box::new(terms.clone()));
            let tenants = self.by_address.entry(address).or_insert_with(|| Vec::with_capacity(1));
            if tenants.is_empty() && !old.contains(&address) {
                taken.push(address);
            }
            tenants.push(Tenant { service: service.clone(), terms, hold: Hold::External });
        }
        if !addresses.is_empty() {
            self.external.insert(service.clone(), addresses);
        }
        (taken, freed)
    }

    /// The externalIPs of the Service.
    pub(super) fn claimed(&self, service: &ObjectName) -> &[IpAddr] {
        self.external.get(service).map_or(&[], Vec::as_slice)
    }

    /// The Service that holds the address beside the one that has it as an externalIP and may not share it.
    pub(super) fn holder_beside(
        &self,
        address: IpAddr,
        service: &ObjectName,
        terms: &Terms,
    ) -> Option<&ObjectName> {
        let tenants = self.by_address.get(&address)?;
        let other = |tenant: &&Tenant| tenant.hold == Hold::Holds && tenant.service != *service;
        let clash = |tenant: &&Tenant| tenant.clash(terms).is_some();
        tenants.iter().filter(other).find(clash).map(|tenant| &tenant.service)
    }

    fn drop_tenant(&mut self, address: IpAddr, service: &ObjectName, external: bool) -> bool {
        let Some(tenants) = self.by_address.get_mut(&address) else { return false };
        let own = |tenant: &Tenant| tenant.service == *service && (tenant.hold == Hold::External) == external;
        let Some(at) = tenants.iter().position(own) else { return false };
        let gone = tenants.swap_remove(at);
        let empty = tenants.is_empty();
        if empty {
            self.by_address.remove(&address);
        }
        if let Some(terms) = gone.terms {
            self.unlist(address, &terms);
        }
        empty
    }

    /// Somebody who keeps the Service off the address. Who is to *join* it meets also who is leaving, externalIPs, and the
    /// confinement to a namespace; who holds it already meets only who holds it too.
    pub(super) fn conflict(
        &self,
        address: IpAddr,
        service: &ObjectName,
        terms: &Terms,
        anew: bool,
    ) -> Option<Conflict> {
        let others = self.by_address.get(&address)?.iter().filter(|tenant| tenant.service != *service);
        others.filter(|tenant| anew || tenant.hold == Hold::Holds).find_map(|tenant| {
            let confined =
                anew && self.sharing == Sharing::Namespace && tenant.service.namespace != service.namespace;
            let why = match (tenant.clash(terms), tenant.hold) {
                // Without a key in common nothing was to be shared.
                (Some(Clash::Key), Hold::External) => Some(Clash::External),
                (None, _) if confined => Some(Clash::Namespace),
                (clash, _) => clash,
            };
            why.map(|why| Conflict { holder: tenant.service.clone(), why })
        })
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
        let mut others = self.by_address.get(&address).into_iter().flatten();
        let same = |tenant: &Tenant| {
            tenant.hold != Hold::External
                && tenant.terms.as_ref().is_some_and(|terms| terms.key.as_ref() == Some(key))
        };
        if others.any(same) {
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

/// How many addresses the Services of each namespace hold: only where there are quotas.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    by_namespace: HashMap<String, HashMap<IpAddr, u32>>,
}

impl Holdings {
    pub(super) fn add(&mut self, namespace: &str, address: IpAddr) {
        let held = self.by_namespace.entry(namespace.to_owned()).or_default();
        *held.entry(address).or_default() += 1;
    }

    pub(super) fn remove(&mut self, namespace: &str, address: IpAddr) {
        let Some(held) = self.by_namespace.get_mut(namespace) else { return };
        if let Some(count) = held.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&address);
            }
        }
        if held.is_empty() {
            self.by_namespace.remove(namespace);
        }
    }

    pub(super) fn count(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).map_or(0, HashMap::len)
    }

    pub(super) fn has(&self, namespace: &str, address: IpAddr) -> bool {
        self.by_namespace.get(namespace).is_some_and(|held| held.contains_key(&address))
    }
}

/// Addresses, each once: what users write repeats itself.
pub(super) fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    addresses.filter(|address| seen.insert(*address)).collect()
}

//! What steps do to the world: nf_tables, addresses on `lo`, BGP peers, layer 2.
//!
//! The production side of [`Effects`]; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_proxy::{ByPrefix, ServiceRules};
use herald_runtime::ObjectName;
use ipnet::IpNet;

use crate::addresses::LocalAddresses;
use crate::apply::Effects;
use crate::bgp::Peers;
use crate::layer2::{Layer2, Offered};
use crate::ledger::Attributes;
use crate::proxy_kernel::ProxyKernel;

/// All of the node.
#[derive(Debug)]
pub(crate) struct NodeEffects {
    /// `None`: nothing is programmed on this node.
    pub(crate) proxy: Option<ProxyKernel>,
    /// On `lo`.
    pub(crate) addresses: LocalAddresses,
    /// BGP.
    pub(crate) peers: Peers,
    /// ARP and neighbour discovery.
    pub(crate) layer2: Layer2,
}

impl Effects for NodeEffects {
    type Rules = Arc<ServiceRules>;

    async fn withdraw(&mut self, prefixes: &BTreeSet<IpNet>) {
        self.peers.withdraw(prefixes).await;
    }

    async fn announce(&mut self, routes: &ByPrefix<Arc<Attributes>>) {
        if let Some(proxy) = &mut self.proxy {
            proxy.announcing(routes).await;
        }
        self.peers.announce(routes);
    }

    fn retract(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.layer2.want(|wanted| wanted.offers.retain(|address, _| !addresses.contains(address)));
    }

    fn offer(&mut self, offers: &BTreeMap<IpAddr, Offered>) {
        self.layer2.want(|wanted| wanted.offers.extend(offers.clone()));
    }

    async fn replace(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Arc<ServiceRules>>>,
    ) -> anyhow::Result<()> {
        match &mut self.proxy {
            Some(proxy) => Ok(proxy.fill(rules).await?),
            None => Ok(()),
        }
    }

    async fn install(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Arc<ServiceRules>>>,
        former: &BTreeMap<ObjectName, Arc<ServiceRules>>,
    ) -> anyhow::Result<()> {
        match &mut self.proxy {
            Some(proxy) => proxy.install(rules, former).await,
            None => Ok(()),
        }
    }

    async fn intact(&mut self) -> bool {
        match &mut self.proxy {
            Some(proxy) => proxy.intact().await,
            None => true,
        }
    }

    async fn repair(&mut self) -> anyhow::Result<bool> {
        match &mut self.proxy {
            Some(proxy) => Ok(proxy.repair().await?),
            None => Ok(false),
        }
    }

    async fn remove(&mut self, services: &BTreeSet<ObjectName>) -> anyhow::Result<()> {
        match &mut self.proxy {
            Some(proxy) => proxy.remove(services).await,
            None => Ok(()),
        }
    }

    async fn settled(&mut self, routes: &ByPrefix<Arc<Attributes>>) {
        if let Some(proxy) = &mut self.proxy {
            proxy.settled(routes).await;
        }
    }

    async fn add_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        Ok(self.addresses.add(address).await?)
    }

    async fn remove_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        Ok(self.addresses.remove(address).await?)
    }
}

//! The proxy's [`Program`] and the tables in the kernel, kept the same.
//!
//! All changes of a batch become one transaction; if the kernel refuses it, the program goes back to what it was; if it
//! is unknown what is in force, or our tables are gone (`nft flush ruleset`), they are compared with the program, and
//! what differs is written ([`herald_proxy::netlink::Kernel::adopt`]).
//!
//! Prefixes that are shorter than an address are guarded: while one is announced, and until the linger ends, what
//! comes for an address inside it and has no rule is dropped and not routed on ([`Element::Announced`]).

mod guards;
mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_proxy::conntrack::Standing;
use herald_proxy::netlink::{Adopted, KernelError};
use herald_proxy::ruleset::{NODES, Ruleset, RulesetConfig};
use herald_proxy::{
    ByPrefix, Changes, Conflict, Element, FamilyLabel, Frontend, IpFamily, Program, ServiceRules,
};
use herald_runtime::ObjectName;
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::conntrack::Housekeeper;
use crate::kernel::{CallError, KernelThread};
use crate::neighbours::TakeOver;
use crate::traffic::Names;
use guards::aggregates;
use net::Net;

/// The proxy's part of the world.
#[derive(Debug)]
pub(crate) struct ProxyKernel {
    kernel: KernelThread,
    conntrack: Housekeeper,
    program: Program,
    ruleset: RulesetConfig,
    guards: BTreeSet<IpNet>,
    /// Networks of ClusterIPs: what no Service has of them is dropped. Disjoint.
    service_cidrs: BTreeSet<IpNet>,
    /// The other nodes, which may know connections that this one does not.
    nodes: BTreeSet<Element>,
    /// The kernel has what it takes to pass connections on to them.
    hand_over: bool,
    /// What is in force is unknown, or not what the program says.
    stale: bool,
    take_over: TakeOver,
    /// Transactions that the kernel did not take.
    failures: Family<FamilyLabel, Counter>,
    /// For those who show what was counted.
    names: Names,
}

impl ProxyKernel {
    /// Nothing is programmed yet; tables of an earlier run stay until the first replacement.
    pub(crate) fn new(
        kernel: KernelThread,
        conntrack: Housekeeper,
        ruleset: RulesetConfig,
        take_over: TakeOver,
    ) -> Self {
        let (program, guards, service_cidrs) = (Program::new(), BTreeSet::new(), BTreeSet::new());
        Self {
            kernel,
            conntrack,
            program,
            ruleset,
            guards,
            service_cidrs,
            nodes: BTreeSet::new(),
            hand_over: true,
            stale: false,
            take_over,
            failures: Family::default(),
            names: Names::default(),
        }
    }

    /// Counts there what the kernel does not take, and tells whose frontends are.
    pub(crate) fn counting(self, failures: Family<FamilyLabel, Counter>, names: Names) -> Self {
        Self { failures, names, ..self }
    }

    fn count_failure<T>(&self, answer: &Result<T, CallError>) {
        let families = match answer {
            Ok(_) => Vec::new(),
            Err(CallError::Kernel(error)) => error.families(),
            Err(_) => IpFamily::ALL.to_vec(),
        };
        for ip_family in families {
            self.failures.get_or_create(&FamilyLabel { ip_family }).inc();
        }
    }

    /// Frontends that a Service wants and another one holds.
    pub(crate) fn conflicts(&self, service: &ObjectName) -> Vec<Conflict> {
        self.program.conflicts(service)
    }

    /// What stands in the kernel.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// What the kernel's sets hold that is no Service's: announced prefixes, networks of ClusterIPs, other nodes.
    pub(crate) fn guards(&self) -> Vec<Element> {
        let announced = self.guards.iter().map(|prefix| Element::Announced { prefix: *prefix });
        let cluster_ips = self.service_cidrs.iter().map(|prefix| Element::ServiceCidr { prefix: *prefix });
        announced.chain(cluster_ips).chain(self.nodes.iter().copied()).collect()
    }

    /// Where pods have their addresses. A change replaces the tables, if they are this run's already.
    pub(crate) async fn set_ruleset(&mut self, ruleset: RulesetConfig, programmed: bool) {
        if self.ruleset == ruleset {
            return;
        }
        self.ruleset = ruleset;
        if programmed && let Err(error) = self.replace_all().await {
            tracing::error!(error = %chain(&error), "the ruleset could not be replaced; trying again with the next change");
        }
    }

    async fn replace_all(&mut self) -> Result<(), CallError> {
        let mut standing = Standing::default();
        match self.adopt().await? {
            Adopted::Unchanged => {
                tracing::info!("the tables in the kernel are as wanted; nothing was written")
            }
            Adopted::Changed { removed, added, gone } => {
                standing = Standing::of(&self.program, gone);
                tracing::info!(
                    removed,
                    added,
                    "the tables in the kernel are adopted; elements that differed were written"
                );
            }
            Adopted::Refilled(reason) => tracing::info!(reason, "the tables were filled anew"),
            Adopted::Replaced(reason) => tracing::info!(reason, "the tables were written anew"),
        }
        // Whatever was in force until now, perhaps nothing: every flow is judged by what is in force from here on.
        self.conntrack.submit(standing.replaced(&self.program));
        self.take_over.in_force(&self.kernel).await;
        Ok(())
    }

    /// Makes the tables what the program says.
    async fn adopt(&mut self) -> Result<Adopted, CallError> {
        let mut elements = self.program.all();
        elements.extend(self.guards());
        let mut adopted = self.adopt_these(elements.clone()).await;
        if self.hand_over && matches!(&adopted, Err(CallError::Kernel(error)) if error.lacks_something()) {
            self.hand_over = false;
            adopted = self.adopt_these(elements).await;
            if adopted.is_ok() {
                tracing::warn!(
                    "the kernel lacks nft_dup_ipv4, nft_dup_ipv6 or nft_limit: connections whose packets come to another node than \
                     before are reset; install the kernel's netfilter modules, and restart this speaker"
                );
            }
        }
        self.count_failure(&adopted);
        self.stale = adopted.is_err();
        adopted
    }

    async fn adopt_these(&self, elements: Vec<Element>) -> Result<Adopted, CallError> {
        let ruleset = self.whole_ruleset();
        self.kernel.call(move |kernel| kernel.adopt(&ruleset, &elements)).await
    }

    fn whole_ruleset(&self) -> Ruleset {
        Ruleset::new(&RulesetConfig { hand_over: self.hand_over, ..self.ruleset.clone() })
    }

    /// Brings changes that the program has already made into the kernel.
    async fn commit(&mut self, changes: Changes) -> Result<(), CallError> {
        if self.stale {
            return self.replace_all().await;
        }
        if changes.is_empty() {
            return Ok(());
        }
        let applied = self.kernel.call(move |kernel| kernel.apply(&changes)).await;
        self.count_failure(&applied);
        match applied {
            Err(CallError::Kernel(error)) if needs_replacing(&error) => {
                tracing::warn!(error = %chain(&error), "Herald's tables are not as they were left: replacing them");
                self.replace_all().await
            }
            answer => answer,
        }
    }

    /// Makes the tables hold exactly these rules, whatever stood there.
    pub(crate) async fn fill(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Arc<ServiceRules>>>,
    ) -> Result<(), CallError> {
        let former = std::mem::take(&mut self.program);
        for (service, rules) in rules {
            self.program.install(service, rules.as_deref().cloned());
        }
        if let Err(error) = self.replace_all().await {
            // Whatever an earlier run left is still in force, and the next try is again a replacement.
            self.program = Program::new();
            return Err(error);
        }
        let standing = Standing::of(&former, former.all_backends().map(|(frontend, _)| frontend));
        self.conntrack.submit(standing.changed(&self.program));
        self.names.all(&self.program);
        Ok(())
    }

    /// Changes the rules of some Services; see [`crate::apply::Effects::install`].
    pub(crate) async fn install(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Arc<ServiceRules>>>,
        former: &BTreeMap<ObjectName, Arc<ServiceRules>>,
    ) -> anyhow::Result<()> {
        let claimed = rules.keys().flat_map(|service| self.program.frontends(service));
        let wanted = rules.values().flatten().flat_map(|rules| rules.frontends.iter().map(|r| r.frontend));
        let touched: BTreeSet<Frontend> = claimed.chain(wanted).collect();
        let standing = Standing::of(&self.program, touched.iter().copied());
        let installed = self.try_install(rules, former).await;
        self.conntrack.submit(standing.changed(&self.program));
        self.names.changed(touched, &self.program);
        installed
    }

    async fn try_install(
        &mut self,
        rules: &BTreeMap<ObjectName, Option<Arc<ServiceRules>>>,
        former: &BTreeMap<ObjectName, Arc<ServiceRules>>,
    ) -> anyhow::Result<()> {
        let mut net = Net::default();
        for (service, rules) in rules {
            net.add(self.program.install(service, rules.as_deref().cloned()));
        }
        let Err(error) = self.commit(net.changes()).await else { return Ok(()) };
        // The kernel is as before; so shall the program be. Only frontends that lingered are not brought back.
        for service in rules.keys() {
            net.add(self.program.set(service, former.get(service).map(|rules| (**rules).clone())));
        }
        let rest = net.changes();
        if !rest.is_empty()
            && let Err(error) = self.commit(rest).await
        {
            tracing::warn!(error = %chain(&error), "the kernel's rules are replaced with the next change");
            self.stale = true;
        }
        Err(error.into())
    }

    /// Takes out what lingers of some Services.
    pub(crate) async fn remove(&mut self, services: &BTreeSet<ObjectName>) -> anyhow::Result<()> {
        let claimed = services.iter().flat_map(|service| self.program.frontends(service));
        let touched: BTreeSet<Frontend> = claimed.collect();
        let standing = Standing::of(&self.program, touched.iter().copied());
        let mut net = Net::default();
        for service in services {
            net.add(self.program.expire(service));
        }
        if let Err(error) = self.commit(net.changes()).await {
            // The program has forgotten what the kernel still has: only a replacement makes them equal.
            self.stale = true;
            self.replace_all().await.map_err(|_| error)?;
        }
        self.conntrack.submit(standing.changed(&self.program));
        self.names.changed(touched, &self.program);
        Ok(())
    }

    /// Undoes what others did to the tables; true: they had done something.
    pub(crate) async fn repair(&mut self) -> Result<bool, CallError> {
        let adopted = self.adopt().await?;
        if adopted == Adopted::Unchanged {
            return Ok(false);
        }
        tracing::warn!(done = ?adopted, "others edited Herald's tables (ip herald, ip6 herald), which are mended; `nft monitor` shows who");
        Ok(true)
    }

    /// Whether the tables are there; an answer that does not come says nothing about them.
    pub(crate) async fn intact(&mut self) -> bool {
        self.take_over.look_out(&self.kernel).await;
        let ruleset = self.whole_ruleset();
        self.kernel.call(move |kernel| kernel.has_layout(&ruleset)).await.unwrap_or_else(|error| {
            tracing::debug!(error = %chain(&error), "the kernel does not say whether Herald's tables are there");
            true
        })
    }

    /// Drops what is sent to ClusterIPs that no Service has. Before the first programming it is only noted.
    pub(crate) async fn set_service_cidrs(&mut self, cidrs: &[IpNet], programmed: bool) {
        let desired = aggregates(cidrs.iter().copied());
        let element = |prefix: &IpNet| Element::ServiceCidr { prefix: *prefix };
        let changes = Changes {
            remove: self.service_cidrs.difference(&desired).map(element).collect(),
            add: desired.difference(&self.service_cidrs).map(element).collect(),
        };
        let former = std::mem::replace(&mut self.service_cidrs, desired);
        if programmed && let Err(error) = self.commit(changes).await {
            tracing::error!(error = %chain(&error), "ClusterIPs that no Service has are routed on until the next change");
            self.service_cidrs = former;
        }
    }

    /// Connections that connection tracking does not know are looked for at these nodes, in this order.
    pub(crate) async fn hand_over(&mut self, others: &[IpAddr], programmed: bool) {
        let desired = handed_over(others);
        let but = |these: &BTreeSet<Element>, those| these.difference(those).copied().collect();
        let changes = Changes { remove: but(&self.nodes, &desired), add: but(&desired, &self.nodes) };
        if changes.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.nodes, desired);
        if programmed && let Err(error) = self.commit(changes).await {
            tracing::warn!(
                error = %chain(&error),
                "connections whose packets come to another node than before may be reset until the next change of nodes"
            );
            self.nodes = before;
        }
    }

    /// These routes are about to be announced.
    pub(crate) async fn announcing<A>(&mut self, routes: &ByPrefix<A>) {
        self.guard(aggregates(self.guards.iter().copied().chain(routes.keys()))).await;
    }

    /// The linger after a withdrawal is over: these routes are all that are out.
    pub(crate) async fn settled<A>(&mut self, routes: &ByPrefix<A>) {
        self.guard(aggregates(routes.keys())).await;
    }

    /// Guards exactly these prefixes.
    async fn guard(&mut self, desired: BTreeSet<IpNet>) {
        let announced = |prefix: &IpNet| Element::Announced { prefix: *prefix };
        let changes = Changes {
            remove: self.guards.difference(&desired).map(announced).collect(),
            add: desired.difference(&self.guards).map(announced).collect(),
        };
        if changes.is_empty() {
            return;
        }
        let former = std::mem::replace(&mut self.guards, desired);
        if let Err(error) = self.commit(changes).await {
            tracing::error!(
                error = %chain(&error),
                "announced aggregates are not guarded: packets for addresses without rules inside them are routed on"
            );
            self.guards = former;
        }
    }
}

/// The first nodes of each family, each in a slot.
fn handed_over(others: &[IpAddr]) -> BTreeSet<Element> {
    let of_family = |family| {
        let addresses = others.iter().copied().filter(move |address| IpFamily::of(*address) == family);
        (0..NODES).zip(addresses).map(|(slot, address)| Element::Node { slot, address })
    };
    IpFamily::ALL.into_iter().flat_map(of_family).collect()
}

/// Errors after which only a replacement makes sure what is in force.
fn needs_replacing(error: &KernelError) -> bool {
    error.is_table_missing() || matches!(error, KernelError::Timeout(_) | KernelError::Lost)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

//! Are the pools' addresses nobody else's, and whose are those that were given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_config::AddressRange;
use ipnet::IpNet;
use serde_json::Value;

use super::nodes::{name, words};
use super::seen::ClusterSeen;
use crate::doctor::report::{Check, Trouble};

pub(super) const CHECKS: &[Check<ClusterSeen>] = &[
    Check { id: "pool-nodes", holds: "no pool has a node's own address", judge: nodes },
    Check { id: "pool-pods", holds: "no pool lies in the pods' network", judge: pods },
    Check { id: "pool-services", holds: "no pool lies in the Services' own network", judge: services },
    Check { id: "pool-room", holds: "every pool has a free address", judge: room },
    Check {
        id: "address-twice",
        holds: "no address is given to two Services that do not share it",
        judge: twice,
    },
    Check { id: "address-pool", holds: "every address that Herald gave is in a pool", judge: outside },
];

/// All ranges of the pools that can be read; what cannot is told by the check of the configuration.
fn pools(seen: &ClusterSeen) -> Result<Vec<(&str, AddressRange)>, String> {
    let mut ranges = Vec::new();
    for pool in seen.list("ipaddresspools")? {
        let of = words(&pool["spec"]["addresses"]).filter_map(|text| text.parse().ok());
        ranges.extend(of.map(|range| (name(pool), range)));
    }
    Ok(ranges)
}

fn overlaps(range: &AddressRange, net: &IpNet) -> bool {
    AddressRange::new(net.network(), net.broadcast()).is_ok_and(|net| net.overlaps(range))
}

/// Pools that overlap networks of somebody, each told once.
fn taken(
    pools: &[(&str, AddressRange)],
    networks: &[(String, IpNet)],
    trouble: impl Fn(&str, &str) -> Trouble,
) -> Vec<Trouble> {
    let mut found = BTreeMap::new();
    for (pool, range) in pools {
        for (whose, network) in networks.iter().filter(|(_, network)| overlaps(range, network)) {
            found.entry(*pool).or_insert_with(|| format!("{network} ({whose})"));
        }
    }
    found.into_iter().map(|(pool, network)| trouble(pool, &network)).collect()
}

fn of_nodes(
    seen: &ClusterSeen,
    networks: impl Fn(&Value) -> Vec<IpNet>,
) -> Result<Vec<(String, IpNet)>, String> {
    let nodes = seen.list("nodes")?.iter();
    Ok(nodes.flat_map(|node| networks(node).into_iter().map(|net| (name(node).to_owned(), net))).collect())
}

fn nodes(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let addresses = of_nodes(seen, |node| {
        let all = node["status"]["addresses"].as_array();
        let parsed = all
            .into_iter()
            .flatten()
            .filter_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok());
        parsed.map(IpNet::from).collect()
    })?;
    Ok(taken(&pools(seen)?, &addresses, |pool, node| {
        Trouble::error(
            format!(
                "pool {pool} has a node's own address, {node}: whoever is given it takes the node off the network"
            ),
            format!("kubectl -n {} edit ipaddresspool {pool}", seen.namespace),
        )
    }))
}

fn pods(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let networks =
        of_nodes(seen, |node| words(&node["spec"]["podCIDRs"]).filter_map(|net| net.parse().ok()).collect())?;
    Ok(taken(&pools(seen)?, &networks, |pool, network| {
        Trouble::error(
            format!(
                "pool {pool} overlaps {network}, where pods have their addresses: packets go to a pod, or to nobody"
            ),
            format!("kubectl -n {} edit ipaddresspool {pool}", seen.namespace),
        )
    }))
}

fn services(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let cidrs = seen.list("servicecidrs")?;
    if cidrs.is_empty() {
        return Err("the API server tells no ServiceCIDR (Kubernetes 1.33 and newer do)".to_owned());
    }
    let of = |cidr: &Value| {
        words(&cidr["spec"]["cidrs"]).filter_map(|net| net.parse().ok()).collect::<Vec<IpNet>>()
    };
    let networks: Vec<_> = cidrs
        .iter()
        .flat_map(|cidr| of(cidr).into_iter().map(|net| (format!("ServiceCIDR {}", name(cidr)), net)))
        .collect();
    Ok(taken(&pools(seen)?, &networks, |pool, network| {
        Trouble::error(
            format!("pool {pool} overlaps {network}: two Services may get the same address"),
            format!("kubectl -n {} edit ipaddresspool {pool}", seen.namespace),
        )
    }))
}

fn room(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let full = |pool: &&Value| {
        let status = &pool["status"];
        let free = |key: &str| status[key].as_u64();
        let counts = [free("availableIPv4"), free("availableIPv6")];
        counts.iter().any(Option::is_some) && counts.into_iter().flatten().sum::<u64>() == 0
    };
    let trouble = |pool: &Value| {
        Trouble::warning(
            format!("pool {} is full: the next Service waits", name(pool)),
            format!("kubectl -n {} edit ipaddresspool {}, and add a range", seen.namespace, name(pool)),
        )
    };
    Ok(seen.list("ipaddresspools")?.iter().filter(full).map(trouble).collect())
}

/// Addresses of Services of type LoadBalancer, and who has them.
fn given(seen: &ClusterSeen) -> Result<BTreeMap<IpAddr, Vec<&Value>>, String> {
    let mut given: BTreeMap<IpAddr, Vec<&Value>> = BTreeMap::new();
    for service in seen.list("services")? {
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        for address in
            ingress.into_iter().flatten().filter_map(|ingress| ingress["ip"].as_str()?.parse().ok())
        {
            given.entry(address).or_default().push(service);
        }
    }
    Ok(given)
}

fn full_name(service: &Value) -> String {
    format!("{}/{}", service["metadata"]["namespace"].as_str().unwrap_or_default(), name(service))
}

fn twice(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let key = |service: &Value| {
        let annotations = &service["metadata"]["annotations"];
        let key = annotations
            .get("metallb.io/allow-shared-ip")
            .or_else(|| annotations.get("metallb.universe.tf/allow-shared-ip"));
        key.and_then(Value::as_str).map(str::to_owned)
    };
    let mut troubles = Vec::new();
    for (address, services) in given(seen)? {
        let shared = services.windows(2).all(|pair| key(pair[0]).is_some() && key(pair[0]) == key(pair[1]));
        if !shared {
            let names: Vec<String> = services.iter().map(|service| full_name(service)).collect();
            troubles.push(Trouble::error(
                format!("{address} is the address of {} at once", names.join(" and ")),
                "find the second controller that gives addresses; the annotation metallb.io/allow-shared-ip, the same on both, allows it",
            ));
        }
    }
    Ok(troubles)
}

fn outside(seen: &ClusterSeen) -> Result<Vec<Trouble>, String> {
    let ranges = pools(seen)?;
    let mut troubles = Vec::new();
    for (address, services) in given(seen)? {
        // Only those that carry the pool's name are Herald's or MetalLB's.
        let marked = services.iter().filter(|service| {
            service["metadata"]["annotations"].get("metallb.io/ip-allocated-from-pool").is_some()
        });
        let inside = ranges.iter().any(|(_, range)| range.contains(address));
        for service in marked.filter(|_| !inside && !ranges.is_empty()) {
            troubles.push(Trouble::warning(
                format!("{} has {address}, which is in no pool any more", full_name(service)),
                "put the range back, or let the Service get another address: kubectl describe service tells what holds it",
            ));
        }
    }
    Ok(troubles)
}

//! What another configuration, or other Services, would do to the Services' addresses: the planner asked before and after, and nothing written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use herald_config::{File, Finding};
use herald_runtime::ObjectName;
use herald_runtime::untyped::UntypedEvent;
use herald_runtime::watch::WatchEvent;
use serde::Serialize;
use serde_json::Value;

use super::{Event, Planner};
use crate::allocator::Usage;
use crate::config_map::ConfigView;
use crate::namespaces::NamespaceView;
use crate::plan::Allotment;
use crate::service::ServiceView;

/// What the API server has.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// All Services.
    pub services: Vec<Box<ServiceView>>,
    /// All namespaces.
    pub namespaces: Vec<NamespaceView>,
    /// The ConfigMap, where there is one.
    pub config_map: Option<ConfigView>,
    /// The objects of each kind that is watched ([`crate::config_map::watched`]).
    pub objects: BTreeMap<&'static str, Vec<Value>>,
}

/// What a Service has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// None, one, or two of different families.
    pub addresses: Vec<IpAddr>,
    /// The pool that they are from.
    pub pool: Option<String>,
    /// Why it has none, or not the ones that it had.
    pub why: Option<String>,
}

/// A Service that would have other addresses, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// Namespace and name.
    pub service: String,
    /// As the configuration in force has it.
    pub now: Held,
    /// As the other one would have it.
    pub then: Held,
}

/// How many addresses of a pool are in use, and how many there are, of both families; `None`: there is no such pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUse {
    /// Its name.
    pub pool: String,
    /// Now.
    pub now: Option<(u64, u128)>,
    /// Then.
    pub then: Option<(u64, u128)>,
}

/// What would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Services that Herald cares for.
    pub services: usize,
    /// Those with other addresses, by name.
    pub moved: Vec<Moved>,
    /// All pools, before and after.
    pub pools: Vec<PoolUse>,
    /// What of the other configuration would be refused, one sentence each: the last good state of that stays in force.
    pub refused: Vec<String>,
}

/// What would change if files were applied, and Services as they would be then. `class`: as the controller's.
///
/// # Errors
/// What of the files cannot be read, by file and line.
pub fn forecast(
    (class, namespace): (Option<String>, &str),
    cluster: Cluster,
    (files, services): (&[File], Vec<ServiceView>),
    now: Instant,
) -> Result<Forecast, Vec<Finding>> {
    let mut planner = Planner::new(class).with_objects(namespace);
    planner.handle(Event::ConfigMap(WatchEvent::Reset(cluster.config_map.into_iter().collect())), now);
    for (kind, objects) in cluster.objects {
        planner.handle(Event::Object(UntypedEvent { kind, event: WatchEvent::Reset(objects) }), now);
    }
    planner.handle(Event::Namespace(WatchEvent::Reset(cluster.namespaces)), now);
    planner.handle(Event::Service(WatchEvent::Reset(cluster.services)), now);
    let before = planner.decide_all(now);
    let pools_before = planner.pools();
    let changed = planner.config.apply_files(files, planner.notes.tells())?;
    planner.configured(changed, now);
    for service in services {
        planner.handle(Event::Service(WatchEvent::Applied(Box::new(service))), now);
    }
    let after = planner.decide_all(now);
    let mut pools = planner.pools();
    let pools = {
        let mut all: Vec<PoolUse> = pools_before
            .into_iter()
            .map(|(pool, used)| PoolUse { then: pools.remove(&pool), now: Some(used), pool })
            .collect();
        all.extend(pools.into_iter().map(|(pool, used)| PoolUse { pool, now: None, then: Some(used) }));
        all
    };
    // One that is new, or that Herald cares for no more, is on one side only.
    let all: BTreeSet<&ObjectName> = before.keys().chain(after.keys()).collect();
    let services = all.len();
    let moved = all.into_iter().filter_map(|name| {
        let [now, then] = [&before, &after].map(|held| held.get(name).cloned().unwrap_or_default());
        let differs = now.addresses != then.addresses || !before.contains_key(name);
        differs.then(|| Moved { service: name.to_string(), now, then })
    });
    Ok(Forecast { moved: moved.collect(), services, pools, refused: planner.config().refusals().to_vec() })
}

impl Planner {
    /// What each Service is to have, all decided anew, oldest first, until nobody waits for what another one gave up.
    fn decide_all(&mut self, now: Instant) -> BTreeMap<ObjectName, Held> {
        let mut decided = BTreeMap::new();
        self.index.mark_all();
        while let Some(name) = self.index.next_dirty() {
            let Some(view) = self.index.get(&name).cloned() else { continue };
            let allotment = self.allot(&view, now);
            self.wake_waiting();
            self.notes.decided(&view, &allotment);
            let held = match allotment {
                Allotment::Holds { grant, .. } => Held {
                    addresses: grant.assignment.addresses,
                    pool: Some(grant.assignment.pool),
                    why: grant.lost.map(|reason| reason.to_string()),
                },
                Allotment::Waits(reason) => Held { why: Some(reason.to_string()), ..Held::default() },
                Allotment::Untouched => {
                    Held { addresses: view.status_addresses().collect(), ..Held::default() }
                }
                Allotment::Withdraws { .. } | Allotment::Nothing | Allotment::Foreign => continue,
            };
            decided.insert(name, held);
        }
        decided
    }

    fn pools(&self) -> BTreeMap<String, (u64, u128)> {
        let both = |usage: [Usage; 2]| {
            usage
                .iter()
                .fold((0, 0u128), |(used, total), one| (used + one.in_use, total.saturating_add(one.total)))
        };
        self.allocator()
            .into_iter()
            .flat_map(|allocator| allocator.usage())
            .map(|(name, usage)| (name.to_owned(), both(usage)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;
    use crate::config_map::watched;
    use crate::service::ServiceType;

    fn pool(name: &str, addresses: &str) -> Value {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": name, "namespace": "metallb-system" }, "spec": { "addresses": [addresses] },
        })
    }

    /// A Service of a pool with an address, by age.
    fn service(age: u32, name: &str, given: Option<(&str, &str)>) -> Box<ServiceView> {
        let ingress: Vec<Value> = given.iter().map(|(_, address)| json!({ "ip": address })).collect();
        let service: Service = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": name, "uid": name, "resourceVersion": "1",
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
                "annotations": given.map(|(pool, _)| json!({ "metallb.io/ip-allocated-from-pool": pool })),
            },
            "spec": { "type": "LoadBalancer", "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7"], "ports": [{ "port": 80 }] },
            "status": { "loadBalancer": { "ingress": ingress } },
        }))
        .unwrap();
        Box::new(ServiceView::new(service))
    }

    fn cluster() -> Cluster {
        let mut objects: BTreeMap<&'static str, Vec<Value>> =
            watched().into_iter().map(|kind| (kind.kind, Vec::new())).collect();
        objects.insert("IPAddressPool", vec![pool("edge", "192.0.2.0/31")]);
        let services = vec![
            service(1, "a", Some(("edge", "192.0.2.0"))),
            service(2, "b", Some(("edge", "192.0.2.1"))),
            service(3, "waits", None),
        ];
        let namespaces = vec![NamespaceView { name: "shop".to_owned(), labels: BTreeMap::new() }];
        Cluster { services, namespaces, config_map: None, objects }
    }

    fn ask(text: &str) -> Result<Forecast, Vec<Finding>> {
        let file = File { name: "new.yaml".to_owned(), text: text.to_owned() };
        ask_with(&[file], Vec::new())
    }

    fn ask_with(files: &[File], services: Vec<ServiceView>) -> Result<Forecast, Vec<Finding>> {
        let now = Instant::now() + Duration::from_secs(1);
        forecast((None, "metallb-system"), cluster(), (files, services), now)
    }

    fn moves(forecast: &Forecast) -> Vec<(String, Vec<IpAddr>, Vec<IpAddr>)> {
        let of = |moved: &Moved| {
            (moved.service.clone(), moved.now.addresses.clone(), moved.then.addresses.clone())
        };
        forecast.moved.iter().map(of).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_applied_unchanged_changes_nothing() {
        let forecast = ask(&pool("edge", "192.0.2.0/31").to_string()).unwrap();
        assert_eq!((forecast.services, moves(&forecast), forecast.refused.len()), (3, vec![], 0));
        assert_eq!(
            forecast.pools,
            [PoolUse { pool: "edge".to_owned(), now: Some((2, 2)), then: Some((2, 2)) }]
        );
    }

    #[test]
    fn a_pool_that_grows_serves_who_waits_and_one_that_shrinks_takes_away_with_the_reason() {
        let grows = ask(&pool("edge", "192.0.2.0/30").to_string()).unwrap();
        assert_eq!(moves(&grows), [("shop/waits".to_owned(), vec![], ips(&["192.0.2.2"]))]);
        let shrinks = ask(&pool("edge", "192.0.2.0/32").to_string()).unwrap();
        assert_eq!(moves(&shrinks), [("shop/b".to_owned(), ips(&["192.0.2.1"]), vec![])]);
        assert!(shrinks.moved[0].then.why.as_ref().is_some_and(|why| why.contains("edge")), "{shrinks:?}");
        let added = ask(&pool("more", "198.51.100.0/24").to_string()).unwrap();
        assert_eq!(moves(&added), [("shop/waits".to_owned(), vec![], ips(&["198.51.100.0"]))]);
        assert_eq!(added.pools[1], PoolUse { pool: "more".to_owned(), now: None, then: Some((1, 256)) });
    }

    #[test]
    fn what_would_be_refused_is_told_and_changes_nothing() {
        let forecast = ask(&pool("edge", "192.0.2.0/33").to_string()).unwrap();
        assert!(forecast.refused.iter().any(|text| text.contains("192.0.2.0/33")), "{:?}", forecast.refused);
        assert_eq!(moves(&forecast), []);
    }

    #[test]
    fn services_are_given_what_they_would_be() {
        let new = ask_with(&[], vec![*service(9, "new", None)]).unwrap();
        assert_eq!((new.services, moves(&new)), (4, vec![("shop/new".to_owned(), vec![], vec![])]));
        assert!(new.moved[0].then.why.as_ref().is_some_and(|why| why.contains("edge")), "{new:?}");
        // Its status is emptied by the API server. Who waits longer is served first.
        let mut leaves = *service(1, "a", None);
        leaves.kind = ServiceType::Other;
        let left = ask_with(&[], vec![leaves, *service(9, "new", None)]).unwrap();
        let waited = [
            ("shop/a".to_owned(), ips(&["192.0.2.0"]), vec![]),
            ("shop/new".to_owned(), vec![], vec![]),
            ("shop/waits".to_owned(), vec![], ips(&["192.0.2.0"])),
        ];
        assert_eq!(moves(&left), waited);
        let same = ask_with(&[], vec![*service(1, "a", Some(("edge", "192.0.2.0")))]).unwrap();
        assert_eq!(moves(&same), []);
    }

    #[test]
    fn files_that_cannot_be_read_are_told() {
        assert_eq!(ask("a: [").unwrap_err()[0].name, "new.yaml");
    }
}

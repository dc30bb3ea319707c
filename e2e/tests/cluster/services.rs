//! What the suites of the controller, of faults and of sharing share: Services as values, what became of them, what was
//! told about them, and a history of who had which address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use herald_e2e::{Lab, Process, Router, await_ok};
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// For whatever takes milliseconds where all is well.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A LoadBalancer Service of the pods `app=web`, port 80 to their 8080, in the namespace `default`; `change` is merged into
/// the object.
pub(crate) fn service(name: &str, change: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "type": "LoadBalancer", "selector": { "app": "web" },
            "ports": [{ "port": 80, "targetPort": 8080 }],
        },
    });
    merge(&mut object, change);
    object
}

fn merge(object: &mut Value, change: Value) {
    match (object, change) {
        (Value::Object(object), Value::Object(change)) => {
            for (key, value) in change {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, change) => *object = change,
    }
}

/// An address as text, for tests that write them by hand.
pub(crate) fn ip(text: &str) -> IpAddr {
    let address = text.parse();
    assert!(address.is_ok(), "not an address: {text}");
    address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

/// Makes Services, all of a sudden.
pub(crate) fn create(lab: &Lab, services: impl IntoIterator<Item = Value>) -> Result<()> {
    let services: Vec<Service> =
        services.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?;
    lab.block_on(async |client| {
        let api: Api<Service> = Api::namespaced(client, "default");
        let parameters = PostParams::default();
        let creations = services.iter().map(|service| async {
            let name = service.name_any();
            api.create(&parameters, service).await.with_context(|| format!("create {name}")).map(drop)
        });
        let mut creations = futures::stream::iter(creations).buffer_unordered(16);
        while let Some(created) = creations.next().await {
            created?;
        }
        Ok(())
    })
}

/// The addresses in a Service's status.
pub(crate) fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    ingress.iter().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

/// All Services of the namespace `default`, except Kubernetes' own.
pub(crate) fn all(lab: &Lab) -> Result<BTreeMap<String, Service>> {
    lab.block_on(async |client| {
        let list = Api::<Service>::namespaced(client, "default").list(&ListParams::default()).await?;
        let services = list.items.into_iter().map(|service| (service.name_any(), service));
        Ok(services.filter(|(name, _)| name != "kubernetes").collect())
    })
}

/// Waits, by a watch, until a Service is as `condition` wants it.
pub(crate) fn await_service(
    lab: &Lab,
    name: &str,
    deadline: Duration,
    what: &str,
    condition: impl Fn(&Service) -> bool + Send,
) -> Result<Service> {
    lab.block_on(async move |client| {
        let api: Api<Service> = Api::namespaced(client, "default");
        let holds = |service: Option<&Service>| service.is_some_and(&condition);
        let wait = async {
            loop {
                // A watch that is quiet for ten seconds ends by the client's deadline.
                if let Ok(Some(found)) = kube::runtime::wait::await_condition(api.clone(), name, holds).await
                {
                    return found;
                }
            }
        };
        match tokio::time::timeout(deadline, wait).await {
            Ok(found) => Ok(found),
            Err(_) => bail!(
                "waited {:.1} s in vain for: {what} of {name}: {}",
                deadline.as_secs_f64(),
                serde_json::to_string(&api.get_opt(name).await?)?
            ),
        }
    })
}

/// Waits until a Service has an address, and which.
pub(crate) fn await_address(lab: &Lab, name: &str) -> Result<IpAddr> {
    await_address_within(lab, name, SOON)
}

/// [`await_address`] with a deadline.
pub(crate) fn await_address_within(lab: &Lab, name: &str, deadline: Duration) -> Result<IpAddr> {
    let service =
        await_service(lab, name, deadline, "an address", |service| !addresses_of(service).is_empty())?;
    addresses_of(&service).first().copied().context("an address")
}

/// Waits until a Service has no address any more.
pub(crate) fn await_no_address(lab: &Lab, name: &str) -> Result<()> {
    await_service(lab, name, SOON, "no address", |service| addresses_of(service).is_empty()).map(drop)
}

/// What was told about an object: reasons and notes.
pub(crate) fn events(lab: &Lab, namespace: &str, name: &str) -> Result<Vec<(String, String)>> {
    lab.block_on(async |client| {
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let list = Api::<Event>::namespaced(client, namespace).list(&about).await?;
        let told = list
            .items
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default()));
        Ok(told.collect())
    })
}

/// Waits for an Event with this reason whose note contains `part`; the note.
pub(crate) fn await_event(
    lab: &Lab,
    namespace: &str,
    name: &str,
    reason: &str,
    part: &str,
) -> Result<String> {
    await_ok(SOON, &format!("an Event {reason} with “{part}” on {namespace}/{name}"), || {
        let told = events(lab, namespace, name)?;
        let found = told.iter().find(|(word, note)| word == reason && note.contains(part));
        found.map(|(_, note)| note.clone()).with_context(|| format!("told is {told:?}"))
    })
}

/// BIRD's counters of updates and of withdrawals that it received in its sessions with these neighbours since they are up.
pub(crate) fn received(router: &Router, peer: &str) -> Result<(u64, u64)> {
    let text = router.birdc(&format!("show protocols all {peer}"))?;
    let count = |key: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(key));
        let first = |rest: &str| rest.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let found: Vec<u64> = lines.filter_map(first).collect();
        if found.is_empty() { bail!("no {key} in {text}") } else { Ok(found.iter().sum()) }
    };
    Ok((count("Import updates:")?, count("Import withdraws:")?))
}

/// How often BIRD's session with a neighbour has come up: another number is another session. (The time that BIRD shows for
/// it is computed anew each time, and differs by a millisecond.)
pub(crate) fn sessions_begun(router: &Router, peer: &str) -> Result<usize> {
    router.await_session(peer, Duration::ZERO)?;
    Ok(router.log().matches(&format!("{peer}: BGP session established")).count())
}

/// The lines of a log after this many bytes of it.
pub(crate) fn log_after(process: &Process, bytes: usize) -> String {
    process.log().get(bytes..).unwrap_or_default().to_owned()
}

/// Every state of every Service's addresses, in the order in which the API server made them.
#[derive(Debug)]
pub(crate) struct History {
    /// `None`: the Service is gone.
    pub(crate) changes: Vec<(String, Option<Vec<IpAddr>>)>,
}

impl History {
    /// Records while `work` runs.
    pub(crate) fn during<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let (stop, stopped) = oneshot::channel();
        let (listed, begun) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let recorder = scope.spawn(move || record(lab, &listed, stopped));
            // Its end before the first list shows when it is joined.
            let _ = begun.recv();
            let done = work();
            drop(stop);
            let history = recorder.join().map_err(|_| anyhow::anyhow!("the recorder panicked"))?;
            Ok((history?, done?))
        })
    }

    /// At no time two Services had one address, and none had first one and then another or none.
    pub(crate) fn assert_steady(&self) {
        let mut current: BTreeMap<&str, &[IpAddr]> = BTreeMap::new();
        let mut holders: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for (name, addresses) in &self.changes {
            let before = current.get(name.as_str()).copied().unwrap_or_default();
            if let Some(addresses) = addresses {
                assert!(
                    before.is_empty() || before == addresses.as_slice(),
                    "{name} had {before:?} and then {addresses:?}: {:#?}",
                    self.changes
                );
                for address in addresses {
                    let holder = holders.insert(*address, name);
                    assert!(
                        holder.is_none_or(|holder| holder == name),
                        "{address} was given to {name} while {holder:?} had it: {:#?}",
                        self.changes
                    );
                }
                current.insert(name, addresses);
            } else {
                holders.retain(|_, holder| holder != name);
                current.remove(name.as_str());
            }
        }
    }
}

/// Watches until `stopped`, and then until it has seen what the API server has by then.
fn record(
    lab: &Lab,
    listed: &std::sync::mpsc::SyncSender<()>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<History> {
    lab.block_on(async move |client| {
        let api: Api<Service> = Api::namespaced(client, "default");
        let mut stream = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
        let mut changes: Vec<(String, Option<Vec<IpAddr>>)> = Vec::new();
        let mut lists = 0;
        let mut rest: Option<(Instant, BTreeMap<String, Vec<IpAddr>>)> = None;
        loop {
            if let Some((since, wanted)) = &rest {
                let mut seen: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
                for (name, addresses) in &changes {
                    match addresses {
                        Some(addresses) => seen.insert(name.clone(), addresses.clone()),
                        None => seen.remove(name),
                    };
                }
                if seen == *wanted {
                    return Ok(History { changes });
                }
                if since.elapsed() > SOON {
                    bail!("the history does not reach its end: {seen:?} is not {wanted:?}");
                }
            }
            let event = tokio::select! {
                // After a failure (ten seconds of silence are one) it goes on where it stopped.
                event = stream.next() => match event.context("the watch ended")? {
                    Ok(event) => event,
                    Err(_) => continue,
                },
                _ = &mut stopped, if rest.is_none() => {
                    let all = api.list(&ListParams::default()).await?;
                    let wanted = all.iter().map(|service| (service.name_any(), addresses_of(service)));
                    rest = Some((Instant::now(), wanted.collect()));
                    continue;
                }
                // Only so that the loop looks at its deadline.
                () = tokio::time::sleep(SOON), if rest.is_some() => continue,
            };
            match event {
                watcher::Event::Init => lists += 1,
                watcher::Event::InitDone => {
                    let _ = listed.send(());
                }
                watcher::Event::Apply(service) | watcher::Event::InitApply(service) => {
                    changes.push((service.name_any(), Some(addresses_of(&service))));
                }
                watcher::Event::Delete(service) => changes.push((service.name_any(), None)),
            }
            if lists > 1 {
                bail!("the watch was interrupted: what happened meanwhile is not known");
            }
        }
    })
}

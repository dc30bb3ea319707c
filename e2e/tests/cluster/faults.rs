//! What goes wrong at three in the morning: the API server is away, a configuration is broken, a Service is nonsense.
//! What worked goes on working, and what is to be done is said.

mod api;
mod clock;
mod forwarding;
mod many;
mod memory;
mod node;
mod nonsense;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use herald_e2e::{FaultyApi, Lab, Pod, PodOptions, PollOptions, Poller, Process, at, await_ok, await_until};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::services::{
    SOON, addresses_of, all, await_address, await_event, await_service, create, events, ip, log_after,
    received, service, sessions_begun,
};

pub(crate) use node::fill_connection_table;

const CONFIG: &str = "\
peers:
- {my-asn: 42, peer-asn: 100, peer-address: 10.0.0.1}
address-pools:
- {name: p, protocol: bgp, addresses: [192.0.2.0/28]}
";

/// A lab with Herald and one Service `web` with a pod on each of two nodes, answering at 192.0.2.0.
struct Served {
    /// Between Herald and the API server, if any.
    api: Option<FaultyApi>,
    speakers: Vec<Process>,
    controller: Process,
    lab: Lab,
}

const WEB: &str = "192.0.2.0/32";

impl Served {
    fn start() -> Result<Self> {
        Self::by(|_| Ok(None))
    }

    fn behind_a_faulty_api() -> Result<Self> {
        Self::by(|lab| Ok(Some(lab.faulty_api()?)))
    }

    fn by(api: impl FnOnce(&Lab) -> Result<Option<FaultyApi>>) -> Result<Self> {
        let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
        lab.configure_herald(CONFIG)?;
        let api = api(&lab)?;
        let url = api.as_ref().map(|api| format!("--api-server={}", api.url()));
        let speakers = lab.speakers(url.as_deref().as_slice())?;
        let flags = ["--identity=herald-0"].into_iter().chain(url.as_deref()).collect::<Vec<_>>();
        let controller = lab.controller("controller", &flags)?;
        for node in lab.nodes() {
            lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web"))?;
        }
        let served = Self { api, speakers, controller, lab };
        served.works("web", "192.0.2.0", json!({}), SOON)?;
        served.lab.router().await_kernel_route(WEB, 2, SOON)?;
        Ok(served)
    }

    /// A new Service gets this address, its routes, and answers to the client, all before the deadline; returns the time
    /// it took.
    fn works(&self, name: &str, address: &str, change: Value, deadline: Duration) -> Result<Duration> {
        let begin = Instant::now();
        create(&self.lab, [service(name, change)])?;
        let left = || deadline.saturating_sub(begin.elapsed());
        let has = |service: &Service| !addresses_of(service).is_empty();
        let given = await_service(&self.lab, name, left(), "an address", has)?;
        assert_eq!(addresses_of(&given), [ip(address)], "{name}: {}", self.controller.log_tail());
        self.lab.router().await_route(&format!("{address}/32"), &self.hops(), left())?;
        await_ok(left(), &format!("an answer of {name}"), || {
            self.lab.client().get(at(address, 80)).map(drop)
        })?;
        Ok(begin.elapsed())
    }

    /// Speakers in the nodes' order, then the controller.
    fn everybody(&self) -> impl Iterator<Item = &Process> {
        self.speakers.iter().chain([&self.controller])
    }

    fn hops(&self) -> Vec<IpAddr> {
        self.lab.nodes().iter().map(|node| node.ip.into()).collect()
    }

    /// Updates and withdrawals that BIRD has received, and how many sessions it has had, by node.
    fn sessions(&self) -> Result<Vec<((u64, u64), usize)>> {
        let router = self.lab.router();
        self.lab
            .nodes()
            .iter()
            .map(|node| Ok((received(router, &node.name)?, sessions_begun(router, &node.name)?)))
            .collect()
    }

    fn poll(&self) -> Result<Poller> {
        let poller = Poller::start(self.lab.client(), at("192.0.2.0", 80), PollOptions::default())?;
        poller.await_answers(10, SOON)?;
        Ok(poller)
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn an_api_server_that_is_down_for_a_minute_costs_no_route_and_no_connection() -> Result<()> {
    const OUTAGE: Duration = Duration::from_secs(60);
    let served = Served::start()?;
    let lab = &served.lab;
    let before = served.sessions()?;
    let poller = served.poll()?;
    lab.stop_api()?;
    let begin = Instant::now();
    await_until(OUTAGE + SOON, "a minute without API server", || (begin.elapsed() >= OUTAGE).then_some(()))?;
    assert_eq!(served.sessions()?, before, "no update, no withdrawal, no new session");
    assert_eq!(lab.router().next_hops(WEB)?, served.hops());
    let report = poller.stop()?;
    report.assert_no_loss();
    assert!(report.attempts > 3000, "{} connections in a minute are no poll", report.attempts);
    // A router that restarts meanwhile is told everything again.
    lab.router().restart_bird()?;
    lab.router().await_kernel_route(WEB, 2, SOON)?;
    let poller = served.poll()?;
    // A second controller that starts meanwhile waits.
    let standby = lab.controller("standby", &["--identity=herald-1", "--admin-address=127.0.0.1:7473"])?;
    standby.await_log("cannot be read or written", SOON)?;

    lab.start_api()?;
    let back = Instant::now();
    // With slices made by hand: Kubernetes' own controllers look for the server twice a minute only.
    let slice = |endpoint: &Pod<'_>| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "after-1", "labels": { "kubernetes.io/service-name": "after" } },
            "ports": [{ "port": 8080 }],
            "endpoints": [{ "addresses": [endpoint.ip], "nodeName": endpoint.node.name }],
        })
        .to_string()
    };
    let pod = |name: &str| lab.existing_pod("default", name).with_context(|| name.to_owned());
    lab.apply(&slice(&pod("web-1")?))?;
    served.works("after", "192.0.2.1", json!({ "spec": { "selector": null } }), SOON)?;
    let took = back.elapsed();
    eprintln!("a Service made at the server's return was served after {took:?}");
    assert!(took < Duration::from_secs(6), "a Service made at the server's return was served after {took:?}");
    lab.apply(&slice(&pod("web-2")?))?;
    await_ok(SOON, "the endpoint to change", || match lab.client().get(at("192.0.2.1", 80)) {
        Ok(answer) if answer.pod == "web-2" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    lab.delete("v1/Service", "default", "after")?;
    lab.router().await_route("192.0.2.1/32", &[], SOON)?;
    poller.stop()?.assert_no_loss();
    for process in served.speakers.iter().chain([&served.controller, &standby]) {
        assert!(process.is_running());
        let lines = process.log().lines().count();
        assert!(lines < 50, "{} is noisy, {lines} lines: {}", process.name(), process.log_tail());
    }
    for speaker in &served.speakers {
        assert!(speaker.log().contains("watch is back"), "{}", speaker.log_tail());
    }
    Ok(())
}

/// Connections are not refused but hang: nobody says that the server is gone.
#[test]
#[ignore = "needs a network namespace"]
fn changes_made_while_nodes_are_cut_off_from_the_api_server_arrive_after_that() -> Result<()> {
    let served = Served::start()?;
    let lab = &served.lab;
    let before = served.sessions()?;
    let poller = served.poll()?;
    lab.cut_api()?;
    create(lab, [service("during", json!({}))])?;
    assert_eq!(await_address(lab, "during")?, ip("192.0.2.1"));
    for speaker in &served.speakers {
        speaker.await_log("watch failed", Duration::from_secs(60))?;
    }
    assert_eq!(served.sessions()?, before, "no update, no withdrawal, no new session");
    lab.heal_api()?;
    let back = Instant::now();
    lab.router().await_route("192.0.2.1/32", &served.hops(), SOON)?;
    await_ok(SOON, "an answer", || lab.client().get(at("192.0.2.1", 80)).map(drop))?;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(6), "a change of the outage arrived {took:?} after its end");
    poller.stop()?.assert_no_loss();
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn a_bad_or_deleted_configmap_is_told_with_its_line_and_changes_nothing() -> Result<()> {
    let served = Served::start()?;
    let lab = &served.lab;
    let before = served.sessions()?;
    let poller = served.poll()?;
    let bad = CONFIG.replace("192.0.2.0/28", "192.0.2.0/33");
    lab.configure_herald(&bad)?;
    await_event(lab, "metallb-system", "config", "ConfigRejected", "line 4, address-pools[0].addresses[0]")?;
    let described = lab.kubectl(&["-n", "metallb-system", "describe", "configmap", "config"])?;
    assert!(described.contains("ConfigRejected") && described.contains("Warning"), "{described}");
    for process in served.everybody() {
        process.await_log("line 4, address-pools[0].addresses[0]", SOON)?;
        let refused = process.log();
        let line = refused.lines().find(|line| line.contains("line 4")).unwrap_or_default();
        assert!(line.contains("ERROR") && line.contains("the last good one stays in force"), "{line}");
    }
    let stale = |value: u8| {
        let line = format!("metallb_k8s_client_config_stale_bool {value}");
        let who = lab.nodes().iter().map(|node| &node.ns).chain([lab.control_plane_ns()]);
        who.into_iter().try_for_each(|ns| {
            await_ok(SOON, &line, || {
                let metrics = ns.curl("http://127.0.0.1:7472/metrics")?;
                if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(anyhow!(metrics)) }
            })
        })
    };
    stale(1)?;
    // The last good one is in force, for Services that come now too.
    served.works("meanwhile", "192.0.2.1", json!({}), SOON)?;
    assert_eq!(addresses_of(&all(lab)?["web"]), [ip("192.0.2.0")]);

    // The same good one again, and then an empty ConfigMap.
    lab.configure_herald(CONFIG)?;
    stale(0)?;
    lab.apply(r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "metallb-system", "name": "config"}}"#)?;
    await_event(lab, "metallb-system", "config", "ConfigRejected", "put the document under data.config")?;
    stale(1)?;
    lab.configure_herald(CONFIG)?;
    stale(0)?;

    lab.delete("v1/ConfigMap", "metallb-system", "config")?;
    await_event(lab, "metallb-system", "config", "ConfigDeleted", "the last configuration stays in force")?;
    for speaker in &served.speakers {
        speaker.await_log("there is no configuration; the last good one, if any, stays in force", SOON)?;
    }
    served.works("without", "192.0.2.2", json!({}), SOON)?;

    // A good one is taken at once: another pool beside the old one.
    let good = CONFIG.replace("192.0.2.0/28", "192.0.2.0-192.0.2.2, 192.0.2.100/32");
    let seen: Vec<usize> = served.everybody().map(|process| process.log().len()).collect();
    lab.configure_herald(&good)?;
    served.works("corrected", "192.0.2.100", json!({}), SOON)?;
    for (process, seen) in served.everybody().zip(seen) {
        assert!(log_after(process, seen).contains("configuration taken"), "{}", process.log_tail());
    }
    // No session was touched by any of it, and nothing withdrawn.
    for (node, ((updates, withdrawals), since)) in served.sessions()?.into_iter().enumerate() {
        let ((first, _), begun) = &before[node];
        assert_eq!((updates, withdrawals, &since), (first + 3, 0, begun));
    }
    poller.stop()?.assert_no_loss();

    // A controller that starts beside a bad one, and so knows no good one, leaves every address where it is.
    served.controller.kill();
    lab.configure_herald(&bad)?;
    let controller = lab.controller("controller-2", &["--identity=herald-0"])?;
    controller.await_log("configuration refused", SOON)?;
    create(lab, [service("late", json!({}))])?;
    await_event(lab, "default", "late", "AllocationFailed", "there is no address pool")?;
    let given = |lab: &Lab| -> Result<Vec<(String, Vec<IpAddr>)>> {
        Ok(all(lab)?.iter().map(|(name, service)| (name.clone(), addresses_of(service))).collect())
    };
    let expected = [
        ("corrected", vec![ip("192.0.2.100")]),
        ("late", vec![]),
        ("meanwhile", vec![ip("192.0.2.1")]),
        ("web", vec![ip("192.0.2.0")]),
        ("without", vec![ip("192.0.2.2")]),
    ]
    .map(|(name, addresses)| (name.to_owned(), addresses));
    assert_eq!(given(lab)?, expected);
    lab.configure_herald(CONFIG)?;
    // Only what is in no pool any more is given anew.
    let moved = |name: &str| {
        let new =
            |service: &Service| matches!(addresses_of(service)[..], [address] if address < ip("192.0.2.16"));
        await_service(lab, name, SOON, "an address of the pool", new).map(|service| addresses_of(&service))
    };
    let mut addresses = [moved("late")?, moved("corrected")?].concat();
    addresses.sort();
    assert_eq!(addresses, [ip("192.0.2.3"), ip("192.0.2.4")], "{}", controller.log_tail());
    let kept = |(name, addresses): &(String, Vec<IpAddr>)| {
        (name != "late" && name != "corrected").then(|| addresses.clone())
    };
    assert_eq!(
        given(lab)?.iter().filter_map(kept).collect::<Vec<_>>(),
        expected.iter().filter_map(kept).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn warnings_about_a_configmap_are_told_and_it_is_taken() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    let _controller = lab.controller("controller", &[])?;
    lab.configure_herald(
        "adress-pools: []\naddress-pools:\n- {name: p, protocol: bgp, addresses: [192.0.2.1/28]}\n",
    )?;
    await_event(&lab, "metallb-system", "config", "ConfigWarning", "did you mean")?;
    create(&lab, [service("web", json!({}))])?;
    assert_eq!(await_address(&lab, "web")?, ip("192.0.2.0"));
    assert!(events(&lab, "metallb-system", "config")?.iter().all(|(reason, _)| reason == "ConfigWarning"));
    Ok(())
}

/// A port of the address of [`Served`]'s Service, or of another.
fn answers(lab: &Lab, to: SocketAddr) -> Result<()> {
    await_ok(SOON, &format!("an answer of {to}"), || lab.client().get(to).map(drop))
}

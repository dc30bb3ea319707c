//! The manifests as users apply them, by what the README says and nothing else, in a cluster of three real kubelets with containerd and no kube-proxy at all: the image
//! imported, probes, ServiceAccount tokens, a rolling update, a speaker that hangs, a node that loses its power.
//!
//! `make test-install` builds what it needs and runs it. The API server stays outside the nodes, as a load balancer's would.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herald_e2e::{
    ControlPlaneOptions, Lab, Machine, NAMESPACE, Namespace, Node, PollOptions, Poller, at, await_ok,
    commands_after, herald_image, node_programs, phase,
};
use serde_json::Value;

const README: &str = include_str!("../../README.md");
const SOON: Duration = Duration::from_secs(60);
/// Three probes ten seconds apart, then fifteen seconds for an orderly end, then a start.
const RESTARTED: Duration = Duration::from_secs(180);
/// How long no new connection may come through when a node loses its power. The bars of `make bench-l2` are ten times
/// stricter; here the machine also boots three nodes.
const GAP: Duration = Duration::from_secs(5);

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: agnhost:lab
        args: [netexec, --http-port=8080]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
# Asks the API server at the Service `kubernetes`, as every controller in a cluster does.
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  containers:
  - name: asks
    image: agnhost:lab
    args: [inclusterclient, --poll-interval=1]
";

/// Types what the README shows after these words. The API server's address there is the lab's, and so are the sample's addresses.
fn type_of_readme(lab: &Lab, words: &str) -> Result<()> {
    lab.type_lines(&commands_after(README, words)?).map(drop)
}

/// Herald's pod of this component on a node.
fn herald_pod(lab: &Lab, component: &str, node: &str) -> Result<Value> {
    let (label, field) =
        (format!("app.kubernetes.io/component={component}"), format!("spec.nodeName={node}"));
    let pods = lab.get(&["pods", "-n", NAMESPACE, "-l", &label, "--field-selector", &field])?;
    let pod = pods["items"].as_array().and_then(|pods| pods.first()).context("no such pod")?;
    Ok(pod.clone())
}

/// How often the pod's container was started again, and whether it is ready.
fn restarts(pod: &Value) -> (u64, bool) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["restartCount"].as_u64().unwrap_or_default(), status["ready"] == true)
}

/// A Service and its pods; its address and its ClusterIP.
fn service(lab: &Lab) -> Result<(String, String)> {
    lab.apply(WEB)?;
    lab.rolled_out("default", "deployment/web")?;
    let address = await_ok(SOON, "an address", || -> Result<String> {
        let web = lab.get(&["service", "web"])?;
        Ok(web["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().context("none yet")?.to_owned())
    })?;
    let cluster =
        lab.get(&["service", "web"])?["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
    Ok((address, cluster))
}

fn answers(from: &Namespace, address: &str) -> Result<()> {
    await_ok(SOON, &format!("{address} to answer {}", from.name()), || {
        let answer = from.get(at(address, 80)).map_err(anyhow::Error::from)?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
}

/// A pod reaches the API server by the Service that Herald serves, with its ServiceAccount's token.
fn pod_asks_the_api_server(lab: &Lab, machines: &[Machine]) -> Result<()> {
    await_ok(SOON, "the pod to be told", || {
        let pod = lab.get(&["pod", "asks"])?;
        let machine = machines.iter().find(|machine| pod["spec"]["nodeName"] == machine.node().name.as_str());
        let log = machine.context("not scheduled yet")?.pod_log("asks")?;
        // What lies between the beginnings of two requests is the first one's whole story.
        let told: Vec<&str> = log.split("calling /healthz").skip(1).collect();
        let last = told.len().checked_sub(2).and_then(|index| told.get(index)).context("not asked yet")?;
        ensure!(last.contains("authz_header=") && !last.contains("<empty>"), "without a token: {last}");
        ensure!(!last.contains("status=failed"), "{last}");
        Ok(())
    })
}

/// Every speaker is replaced, one after the other: no new connection fails, from outside or from inside.
fn rolling_update(lab: &Lab, address: &str, cluster: &str) -> Result<()> {
    let uids = || -> Result<Vec<String>> {
        let pod = |node: &Node| Ok(herald_pod(lab, "speaker", &node.name)?["metadata"]["uid"].to_string());
        lab.nodes().iter().map(pod).collect()
    };
    let before = uids()?;
    let outside = Poller::start(lab.client(), at(address, 80), PollOptions::default())?;
    let inside = Poller::start(&lab.node(2).ns, at(cluster, 80), PollOptions::default())?;
    lab.kubectl(&["rollout", "restart", "-n", NAMESPACE, "daemonset/herald-speaker"])?;
    lab.herald_rolled_out()?;
    ensure!(uids()?.iter().all(|uid| !before.contains(uid)), "not every speaker was replaced");
    let (outside, inside) = (outside.stop()?, inside.stop()?);
    eprintln!("          {} connections from outside, {} from a node", outside.attempts, inside.attempts);
    outside.assert_no_loss();
    inside.assert_no_loss();
    Ok(())
}

/// The kubelet finds a speaker that hangs by its probe, and starts it again.
fn hung_speaker(lab: &Lab, machine: &Machine) -> Result<()> {
    let node = &machine.node().name;
    let (before, _) = restarts(&herald_pod(lab, "speaker", node)?);
    // The controller may be on this node as well.
    let find = "for id in /proc/[0-9]*; do tr '\\0' ' ' <$id/cmdline 2>/dev/null | grep -q '^/herald speaker' && \
                echo ${id#/proc/}; done; true";
    let pid = machine.exec(&["sh", "-c", find])?;
    machine.exec(&["kill", "-STOP", pid.trim()])?;
    await_ok(RESTARTED, "the speaker to be started again", || {
        let (now, ready) = restarts(&herald_pod(lab, "speaker", node)?);
        ensure!(now == before + 1 && ready, "{now} starts, ready: {ready}");
        Ok(())
    })
}

/// The node that answers for an address, as the router has learnt it.
fn owner<'a>(lab: &'a Lab, address: &str) -> Result<&'a Node> {
    let known = lab.router().ns.exec(&["ip", "neigh", "show", address])?;
    let words: Vec<&str> = known.split_whitespace().collect();
    let mac = words.iter().skip_while(|word| **word != "lladdr").nth(1).with_context(|| known.clone())?;
    let owns =
        |node: &&Node| node.ns.exec(&["ip", "link", "show", "eth0"]).is_ok_and(|link| link.contains(mac));
    lab.nodes().iter().find(owns).with_context(|| format!("nobody has {mac}"))
}

/// The address's owner loses its power, and starts again with nothing but its disk.
fn reboot(lab: &Lab, machines: &mut Vec<Machine>, address: &str, cluster: &str) -> Result<()> {
    let node = owner(lab, address)?;
    let index =
        machines.iter().position(|machine| machine.node().name == node.name).context("its machine")?;
    let (before, _) = restarts(&herald_pod(lab, "speaker", &node.name)?);
    let outside = Poller::start(lab.client(), at(address, 80), PollOptions::default())?;
    outside.await_answers(100, SOON)?;
    let machine = lab.reboot(machines.remove(index))?;
    machines.push(machine);
    await_ok(RESTARTED, "the node's speaker to be ready again", || {
        let (now, ready) = restarts(&herald_pod(lab, "speaker", &node.name)?);
        ensure!(now > before && ready, "{now} starts, ready: {ready}");
        Ok(())
    })?;
    lab.rolled_out("default", "deployment/web")?;
    answers(&node.ns, cluster)?;
    answers(&node.ns, address)?;
    outside.await_answers(100, SOON)?;
    let report = outside.stop()?;
    eprintln!("          {}: {}, in {:?}", node.name, report.explain(), report.gap());
    ensure!(report.gap() < GAP, "{}", report.explain());
    Ok(())
}

/// What a node has of Herald's, and the settings that it raises.
fn traces(machine: &Machine) -> Result<[String; 4]> {
    let settings =
        "cd /proc/sys/net/netfilter && cat nf_conntrack_tcp_be_liberal nf_conntrack_tcp_timeout_close_wait";
    Ok([
        machine.exec(&["nft", "list", "tables"])?,
        machine.exec(&["ip", "-brief", "address", "show", "lo"])?,
        machine.exec(&["sh", "-c", settings])?,
        machine.exec(&["sh", "-c", "ls -A /var/lib/herald 2>/dev/null; true"])?,
    ])
}

/// The nodes are what they were before, and the API server has nothing of Herald's: Services can be deleted without it.
fn uninstall(lab: &Lab, machines: &[Machine], before: &[String; 4]) -> Result<()> {
    type_of_readme(lab, "To remove it")?;
    for machine in machines {
        let after = traces(machine)?;
        ensure!(after == *before, "{}: {before:?} became {after:?}", machine.node().name);
    }
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings";
    let left = lab.kubectl(&["get", kinds, "-o", "name"])?;
    let ours = |line: &str| ["metallb", "herald"].iter().any(|word| line.contains(word));
    ensure!(!left.lines().any(ours), "{left}");
    lab.kubectl(&["delete", "service", "web", "--timeout=20s"]).map(drop)
}

#[test]
#[ignore = "needs network namespaces and real kubelets: make test-install"]
fn the_manifests_work_on_real_kubelets() -> Result<()> {
    let herald = herald_image()?;
    let agnhost = node_programs()?.join("agnhost.tar");
    let options = ControlPlaneOptions { kubelets: true, ..ControlPlaneOptions::default() };
    let lab = phase("the control plane", || Lab::builder().nodes(3).control_plane_with(options).start())?;
    let mut machines = phase("three nodes are Ready", || {
        lab.nodes().iter().map(|node| lab.boot(node, &[&herald, &agnhost])).collect::<Result<Vec<_>>>()
    })?;
    let before = traces(&machines[0])?;
    phase("it is installed and rolled out", || type_of_readme(&lab, "## Install it"))?;
    let (address, cluster) = phase("a Service has an address and three pods", || service(&lab))?;
    phase("it answers a client outside and every node", || {
        answers(lab.client(), &address)?;
        lab.nodes().iter().try_for_each(|node| answers(&node.ns, &cluster))
    })?;
    phase("a pod asks the API server", || pod_asks_the_api_server(&lab, &machines))?;
    phase("a rolling update of the speakers", || rolling_update(&lab, &address, &cluster))?;
    phase("a speaker hangs and is started again", || hung_speaker(&lab, &machines[0]))?;
    phase("the owner's node is rebooted", || reboot(&lab, &mut machines, &address, &cluster))?;
    phase("it is removed, and leaves nothing behind", || uninstall(&lab, &machines, &before))?;
    ensure!(machines.iter().all(Machine::is_running) && lab.control_plane_runs(), "something has ended");
    Ok(())
}

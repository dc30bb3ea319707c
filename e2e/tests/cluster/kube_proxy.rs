//! What users of kube-proxy notice besides packets: metrics and health ports, node ports on localhost, addresses that are
//! refused or dropped.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use herald_e2e::{Answer, CONTROL_PLANE, ClientError, HttpOptions, Lab, Node, PodOptions, at, await_ok};

use crate::order::{SOON, address, config, herald, ready, service};
use crate::services::await_event;

fn field(lab: &Lab, service: &str, jsonpath: &str) -> Result<String> {
    lab.kubectl(&["get", "service", service, "-o", &format!("jsonpath={jsonpath}")])
}

fn ask(node: &Node, to: SocketAddr, path: &str) -> Result<Answer, ClientError> {
    node.ns.http(to, &HttpOptions::default().path(path))
}

/// The value of a series in Prometheus' text; series are named as they stand there.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until every one of these series has a value above zero at both places where metrics are.
fn await_counted(node: &Node, series: &[String]) -> Result<()> {
    for to in [at("127.0.0.1", 10_249), at("127.0.0.1", 7472)] {
        await_ok(SOON, &format!("metrics at {to}"), || {
            let answer = ask(node, to, "/metrics")?;
            ensure!(answer.header("content-type") == Some("text/plain; version=0.0.4; charset=utf-8"));
            for series in series {
                let value = value(&answer.body, series).with_context(|| format!("no {series}"))?;
                ensure!(value > 0.0, "{series} is {value}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn metrics_health_ports_and_localhost_node_ports_are_as_kube_proxys() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let node = lab.node(1);
    lab.pod(node, "web-1", &PodOptions::app("web"))?;
    lab.pod(lab.node(2), "far-1", &PodOptions::app("far"))?;
    let flags = ["--nodeport-addresses=primary,127.0.0.0/8,::1/128"];
    let _herald = herald(&lab, &config("192.0.2.0/24"), &flags)?;
    let local = "externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack";
    let dual = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, \
             selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}], {more}}}}}"
        )
    };
    lab.apply(&[dual("web", local), dual("far", local)].join("\n---\n"))?;
    let web_port: u16 = field(&lab, "web", "{.spec.ports[0].nodePort}")?.parse()?;
    let health_port: u16 = field(&lab, "web", "{.spec.healthCheckNodePort}")?.parse()?;
    let far_port: u16 = field(&lab, "far", "{.spec.ports[0].nodePort}")?.parse()?;
    let far_health: u16 = field(&lab, "far", "{.spec.healthCheckNodePort}")?.parse()?;

    // Localhost is the node itself: served cluster-wide under either policy.
    for (pod, port) in [("web-1", web_port), ("far-1", far_port)] {
        for localhost in ["127.0.0.1", "::1"] {
            await_ok(SOON, &format!("{pod} at {localhost}"), || {
                let answer = node.ns.get(at(localhost, port))?;
                ensure!(answer.pod == pod, "{answer:?}");
                Ok(())
            })?;
        }
    }

    // Health check node ports answer at the addresses of node ports only, with kube-proxy's words.
    for (port, status, weight, name) in [(health_port, 200, "1", "web"), (far_health, 503, "0", "far")] {
        for own in [IpAddr::from(node.ip), node.ip6.into()] {
            await_ok(SOON, &format!("the health of {name} at {own}"), || {
                let answer = ask(node, SocketAddr::new(own, port), "/healthz")?;
                ensure!(answer.status == status, "{answer:?}");
                ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
                ensure!(answer.header("x-content-type-options") == Some("nosniff"), "{answer:?}");
                ensure!(answer.header("x-load-balancing-endpoint-weight") == Some(weight), "{answer:?}");
                let body: serde_json::Value = serde_json::from_str(&answer.body)?;
                let wanted = serde_json::json!({
                    "service": {"namespace": "default", "name": name},
                    "localEndpoints": weight.parse::<u32>()?,
                    "serviceProxyHealthy": true,
                });
                ensure!(body == wanted, "{body}");
                Ok(())
            })?;
        }
        ensure!(ask(node, at("127.0.0.1", port), "/healthz") == Err(ClientError::Refused));
    }

    // Changes are counted, and each slice's own is measured once.
    let family = |name: &str| format!("kubeproxy_{name}{{ip_family=\"IPv4\"}}");
    let mut counted: Vec<String> = [
        "sync_proxy_rules_duration_seconds_count",
        "sync_full_proxy_rules_duration_seconds_count",
        "sync_partial_proxy_rules_duration_seconds_count",
        "network_programming_duration_seconds_count",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "localhost_nodeport_listeners",
    ]
    .map(family)
    .into();
    counted.extend(
        ["sync_proxy_rules_endpoint_changes_total", "sync_proxy_rules_service_changes_total"]
            .map(|name| format!("kubeproxy_{name}")),
    );
    counted.push(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"}"
            .to_owned(),
    );
    await_counted(node, &counted)?;
    let text = node.ns.curl("http://127.0.0.1:10249/metrics")?;
    for waiting in ["endpoint", "service"] {
        let series = format!("kubeproxy_sync_proxy_rules_{waiting}_changes_pending");
        ensure!(value(&text, &series) == Some(0.0), "{series} in {text}");
    }
    ensure!(node.ns.curl("http://127.0.0.1:10249/proxyMode")? == "nftables");
    ensure!(node.ns.curl("http://127.0.0.1:10249/healthz")? == "ok");

    // A node that is being taken away says so to load balancers, and lives.
    let health = |path: &str| ask(node, at(&node.ip.to_string(), 10_256), path);
    ensure!(health("/healthz")?.status == 200);
    lab.kubectl(&["delete", "node", &node.name, "--wait=false"])?;
    await_ok(SOON, "a node that is gone", || {
        let answer = health("/healthz")?;
        ensure!(answer.status == 503 && answer.body.contains("\"nodeEligible\":false"), "{answer:?}");
        Ok(())
    })?;
    ensure!(health("/livez")?.status == 200);
    let asked = ["healthz_total{code=\"200\"}", "healthz_total{code=\"503\"}", "livez_total{code=\"200\"}"];
    await_counted(node, &asked.map(|name| format!("kubeproxy_proxy_{name}")))
}

#[test]
#[ignore = "needs a network namespace"]
fn addresses_of_nobody_are_dropped_and_those_of_others_refused() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
    let node = lab.node(1);
    let pod = lab.pod(node, "web-1", &PodOptions::app("web"))?;
    // The ServiceCIDR object tells the Service network, not the flag.
    let lists = "herald: {external-ips: {allow: {default: [198.51.100.0/24, 10.0.0.0/24], lab: []}}}\n";
    let text = config("192.0.2.0/24") + lists;
    let _herald = herald(&lab, &text, &["--service-cidr=172.30.0.0/16"])?;
    let external =
        format!("externalIPs: [10.0.0.1, {CONTROL_PLANE}, 198.51.100.7, 203.0.113.99, 10.111.0.1]");
    lab.apply(&service("web", "web", &external))?;
    for (reason, ip) in [
        ("ExternalIPIsPeerAddress", "10.0.0.1"),
        ("ExternalIPIsAPIServerAddress", &*CONTROL_PLANE.to_string()),
        ("ExternalIPNotAllowed", "203.0.113.99"),
        ("ExternalIPInServiceNetwork", "10.111.0.1"),
    ] {
        await_event(&lab, "default", "web", reason, ip)?;
    }
    let vip = SocketAddr::from((address(&lab, "web")?, 80));
    await_ok(SOON, "the address", || node.ns.get(vip).map(drop))?;
    ensure!(node.ns.get(at("198.51.100.7", 80))?.pod == "web-1", "what is allowed is served");
    lab.router().await_session("node1", SOON)?;

    // A ClusterIP that no Service has is silent, from pods and from the node; so is one of a network that came later.
    let silent = |ip: &str| {
        await_ok(SOON, &format!("silence from {ip}"), || {
            for ns in [&node.ns, &pod.ns] {
                let answer = ns.http(at(ip, 80), &HttpOptions::default().timeout(SILENCE));
                ensure!(answer == Err(ClientError::TimedOut), "{answer:?}");
            }
            Ok(())
        })
    };
    silent("10.111.255.254")?;
    lab.apply(
        "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [10.112.0.0/24]}}",
    )?;
    await_ok(SOON, "the new network in the set", || {
        let set = node.ns.exec(&["nft", "list set ip herald service-cidrs"])?;
        ensure!(set.contains("10.96.0.0/12") && set.contains("10.112.0.0/24"), "{set}");
        Ok(())
    })?;
    silent("10.112.0.77")?;
    let cluster_ip = field(&lab, "web", "{.spec.clusterIP}")?;
    ensure!(node.ns.get(at(&cluster_ip, 81)) == Err(ClientError::Refused), "an undefined port");
    ensure!(node.ns.get(at(&cluster_ip, 80))?.pod == "web-1");
    ready(node)
}

const SILENCE: std::time::Duration = std::time::Duration::from_millis(400);

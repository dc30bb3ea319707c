//! `herald status` of 1,000 Services and 100 nodes: what it asks the API server for, and how long it takes. The API server is a stub in this process
//! that has every answer ready, so that the time is Herald's own and the loopback's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SERVICES: usize = 1_000;
const NODES: usize = 100;
/// What is printed once has to be there in this time. Unoptimised, with all its libraries, a tenth of the speed does.
const BAR: Duration = Duration::from_secs(1);
const BAR_UNOPTIMISED: Duration = Duration::from_secs(10);
/// Each subject is asked so often; the best counts, for others work on the machine.
const TIMES: usize = 3;

/// Which binary: another than the one that was built for the tests by `HERALD_STATUS_BIN`.
fn program() -> (String, Duration) {
    match std::env::var("HERALD_STATUS_BIN") {
        Ok(path) => (path, BAR),
        Err(_) => (env!("CARGO_BIN_EXE_herald").to_owned(), BAR_UNOPTIMISED),
    }
}

fn address(number: usize) -> String {
    format!("192.0.{}.{}", 2 + number / 250, 1 + number % 250)
}

fn node(number: usize) -> String {
    format!("node-{number:03}")
}

fn service(number: usize) -> Value {
    let labels: BTreeMap<String, &str> =
        (0..4).map(|label| (format!("example.com/label-{label}"), "some-value")).collect();
    json!({
        "metadata": {
            "namespace": "shop", "name": format!("web-{number:04}"), "uid": format!("uid-{number}"),
            "resourceVersion": number.to_string(), "creationTimestamp": "2026-08-01T00:00:00Z", "labels": labels,
            "annotations": {"metallb.io/ip-allocated-from-pool": "edge"},
            // As the API server tells of who wrote what.
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2026-08-01T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": labels}, "f:spec": {"f:ports": labels}}}],
        },
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "externalTrafficPolicy": "Cluster",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30000 + number}],
            "selector": {"app": format!("web-{number}")},
        },
        "status": {
            "loadBalancer": {"ingress": [{"ip": address(number)}]},
            "conditions": [{"type": "herald.io/AddressAssigned", "status": "True", "reason": "Assigned",
                "message": "from pool edge", "lastTransitionTime": "2026-08-01T00:00:00Z"}],
        },
    })
}

/// What the API server has, by path.
fn answers() -> BTreeMap<String, Vec<u8>> {
    let list = |version: &str, kind: &str, items: Vec<Value>| {
        let list = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
        serde_json::to_vec(&list).unwrap()
    };
    let nodes = (0..NODES).map(|number| {
        json!({
            "metadata": {"name": node(number)},
            "status": {
                "addresses": [{"type": "InternalIP", "address": format!("10.0.0.{}", number + 1)}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        })
    });
    let pods = (0..NODES).map(|number| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("speaker-{number}")}, "spec": {"nodeName": node(number)}})
    });
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "edge"},
        "spec": {"addresses": ["192.0.2.0-192.0.9.255"]}, "status": {"assignedIPv4": SERVICES, "availableIPv4": 1048},
    });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "herald-controller"},
        "spec": {"holderIdentity": "one", "renewTime": k8s_openapi::jiff::Timestamp::now().to_string(), "leaseDurationSeconds": 3600},
    });
    let ours = "/api/v1/namespaces/metallb-system";
    let kinds = "/apis/metallb.io/v1beta1/namespaces/metallb-system";
    let mut answers = BTreeMap::from([
        ("/api/v1/services".to_owned(), list("v1", "ServiceList", (0..SERVICES).map(service).collect())),
        ("/api/v1/nodes".to_owned(), list("v1", "NodeList", nodes.collect())),
        (format!("{ours}/pods"), list("v1", "PodList", pods.collect())),
        (format!("{kinds}/ipaddresspools"), list("metallb.io/v1beta1", "IPAddressPoolList", vec![pool])),
        (
            format!("{kinds}/configurationstates"),
            list("metallb.io/v1beta1", "ConfigurationStateList", Vec::new()),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases/herald-controller".to_owned(),
            serde_json::to_vec(&lease).unwrap(),
        ),
    ]);
    let all: Vec<String> = (0..SERVICES).map(address).collect();
    let said: BTreeMap<&String, &str> = all.iter().map(|address| (address, "bgp")).collect();
    let counts: BTreeMap<String, Value> = (0..SERVICES)
        .map(|number| (format!("shop/web-{number:04}"), json!({"ready": 3, "total": 3})))
        .collect();
    for number in 0..NODES {
        let name = node(number);
        // Every address is announced by every node, and each is owned by one as well.
        let owned: Vec<&String> = all.iter().skip(number).step_by(NODES).collect();
        let owned: Vec<Value> = owned
            .iter()
            .map(|address| json!({"address": address, "claim": 1, "next": "node-000", "seconds": 60}))
            .collect();
        let mut others: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for (at, address) in all.iter().enumerate().filter(|(at, _)| at % NODES != number) {
            others.entry(node(at % NODES)).or_default().push(address);
        }
        let hears: Vec<String> = (0..NODES).filter(|other| *other != number).map(node).collect();
        let routes = all.iter().enumerate().map(|(at, address)| {
            let makers = json!([{"service": format!("shop/web-{at:04}"), "addresses": [address], "pools": ["edge"]}]);
            json!({"prefix": format!("{address}/32"), "services": makers, "communities": [], "localPref": 0, "peers": null})
        });
        let peer = json!({
            "peer": "10.0.0.254:179", "name": "tor", "localAs": 42, "peerAs": 100, "routerId": "10.0.0.1",
            "state": "Established", "seconds": 60, "negotiated": "AS 100", "bfd": null, "ipv4Routes": SERVICES,
            "ipv6Routes": 0, "unusableRoutes": 0, "failures": [],
        });
        let on = json!({
            "interface": "eth0", "mac": "02:00:00:00:00:01", "hears": hears, "owned": owned, "others": others, "nobodys": [],
        });
        let told = [
            (
                "node",
                json!({"node": name, "version": "0.1.0", "proxy": "full", "sessionsUp": 1, "sessions": 1, "findings": [],
                "addresses": said, "programmed": true, "behindSeconds": 0, "upSeconds": 60}),
            ),
            (
                "announced",
                json!({"node": name, "bgp": [{"peers": ["10.0.0.254:179"], "addresses": all}], "interfaces": [on]}),
            ),
            ("endpoints", json!({"node": name, "services": counts, "servicesLeftOut": 0})),
            ("bgp", json!({"node": name, "drained": false, "peers": [peer]})),
            (
                "routes",
                json!({"node": name, "drained": false, "total": SERVICES, "routes": routes.collect::<Vec<_>>()}),
            ),
        ];
        for (question, answer) in told {
            let path = format!("{ours}/pods/speaker-{number}:7472/proxy/explain/{question}");
            answers.insert(path, serde_json::to_vec(&answer).unwrap());
        }
    }
    answers
}

/// How often each kind of question was asked: a list by its path, a speaker's by `/explain/…`.
type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

/// Answers on loopback as long as the test runs.
fn serve() -> (String, Asked) {
    let (answers, asked) = (Arc::new(answers()), Asked::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&counted));
            // It ends with the connection.
            std::thread::spawn(move || connection(&stream, &answers, &asked));
        }
    });
    (url, asked)
}

fn connection(stream: &TcpStream, answers: &BTreeMap<String, Vec<u8>>, asked: &Asked) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut first = String::new();
        reader.read_line(&mut first).ok().filter(|length| *length > 0)?;
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let path = first.split_whitespace().nth(1)?.split('?').next()?;
        let kind = path.split_once("/proxy").map_or(path, |(_, question)| question);
        *asked.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
        let none = br#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "none", "code": 404}"#;
        let (status, body) = match answers.get(path) {
            Some(body) => ("200 OK", body.as_slice()),
            None => ("404 Not Found", none.as_slice()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(&[head.as_bytes(), body].concat()).ok()?;
    }
}

fn kubeconfig(directory: &Path, url: &str) -> String {
    let path = directory.join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "stub",
        "clusters": [{"name": "stub", "cluster": {"server": url}}],
        "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
        "users": [{"name": "stub", "user": {}}],
    });
    fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn status_of_a_thousand_services_and_a_hundred_nodes_is_there_at_once_and_asks_no_more_than_it_needs() {
    let (url, asked) = serve();
    let directory = std::env::temp_dir().join(format!("herald-status-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let kubeconfig = kubeconfig(&directory, &url);
    let (program, bar) = program();
    let lists = |lists: &[&str]| -> BTreeMap<String, usize> {
        lists.iter().map(|path| ((*path).to_owned(), 1)).collect()
    };
    let (services, nodes) = ("/api/v1/services", "/api/v1/nodes");
    let pods = "/api/v1/namespaces/metallb-system/pods";
    let lease = "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases/herald-controller";
    let pools = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools";
    let states = "/apis/metallb.io/v1beta1/namespaces/metallb-system/configurationstates";
    let each = |question: &str| (format!("/explain/{question}"), NODES);
    let one = |question: &str| (format!("/explain/{question}"), 1);
    let cases = [
        (
            "",
            "1000 addresses of Services, 100 of 100 speakers",
            lists(&[services, nodes, pods, lease, pools, states]),
            vec![each("node")],
        ),
        (
            "services",
            "all is well with 1000 Services",
            lists(&[services, nodes, pods]),
            vec![each("node"), one("endpoints")],
        ),
        (
            "services -o wide",
            "02:00:00:00:00:01 on eth0",
            lists(&[services, nodes, pods]),
            vec![each("node"), each("announced"), one("endpoints")],
        ),
        ("nodes", "all is well on 100 nodes", lists(&[nodes, pods]), vec![each("node")]),
        ("pools", "1000 of 2048", lists(&[pools, states]), vec![]),
        ("bgp", "100 of 100 BGP sessions up", lists(&[nodes, pods]), vec![each("bgp")]),
        (
            "layer2",
            "all is well with 1000 addresses",
            lists(&[services, nodes, pods]),
            vec![each("announced")],
        ),
        ("routes", "1000 routes", lists(&[nodes, pods]), vec![each("routes")]),
    ];
    let mut slow = Vec::new();
    for (subject, wanted, lists, speakers) in cases {
        let mut best = Duration::MAX;
        for _ in 0..TIMES {
            asked.lock().unwrap().clear();
            let begin = Instant::now();
            let output = Command::new(&program)
                .arg("status")
                .args(subject.split_whitespace())
                .args(["--kubeconfig", &kubeconfig])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            best = best.min(begin.elapsed());
            let text = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains(wanted), "{subject}: {text:.2000} {error}");
            let all: BTreeMap<String, usize> = lists.clone().into_iter().chain(speakers.clone()).collect();
            assert_eq!(*asked.lock().unwrap(), all, "{subject}");
        }
        println!("herald status {subject:<16} {:4} ms", best.as_millis());
        if best > bar {
            slow.push(format!("{subject}: {best:?}"));
        }
    }
    fs::remove_dir_all(&directory).unwrap();
    assert!(slow.is_empty(), "over {bar:?}: {slow:?}");
}

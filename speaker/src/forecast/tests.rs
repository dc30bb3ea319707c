use herald_config::File;
use kube::Client;
use serde_json::json;

use super::*;

/// A node whose label `host` is its name.
fn node(number: u8, excluded: bool) -> Node {
    let mut labels = json!({ "host": format!("node-{number}") });
    if excluded {
        labels["node.kubernetes.io/exclude-from-external-load-balancers"] = json!("");
    }
    serde_json::from_value(json!({
        "metadata": { "name": format!("node-{number}"), "labels": labels },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("10.0.0.1{number}") }] },
    }))
    .unwrap()
}

fn service(name: &str, address: &str, policy: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": name, "uid": name },
        "spec": { "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "externalTrafficPolicy": policy, "ports": [{ "port": 80, "protocol": "TCP" }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
    }))
    .unwrap()
}

fn slice(service: &str, nodes: &[u8]) -> EndpointSlice {
    let endpoint =
        |node: &u8| json!({ "addresses": [format!("10.244.{node}.5")], "nodeName": format!("node-{node}") });
    serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": service, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": nodes.iter().map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}

fn object(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    let meta = json!({ "name": name, "namespace": "metallb-system" });
    json!({ "apiVersion": format!("metallb.io/{version}"), "kind": kind, "metadata": meta, "spec": spec })
}

fn peer(name: &str, more: Value) -> Value {
    let address = if name == "tor" { "10.0.0.1" } else { "10.0.0.2" };
    let mut spec = json!({ "myASN": 42, "peerASN": 100, "peerAddress": address });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("v1beta2", "BGPPeer", name, spec)
}

fn advertisement(more: Value) -> Value {
    let mut spec = json!({ "ipAddressPools": ["edge"] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("v1beta1", "BGPAdvertisement", "edge", spec)
}

fn lan(spec: Value) -> Value {
    let mut all = json!({ "ipAddressPools": ["lan"] });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object("v1beta1", "L2Advertisement", "lan", all)
}

fn pool(name: &str, range: &str) -> Value {
    object("v1beta1", "IPAddressPool", name, json!({ "addresses": [range] }))
}

fn host(number: u8) -> Value {
    json!({ "nodeSelectors": [{ "matchLabels": { "host": format!("node-{number}") } }] })
}

/// What the API server has.
struct Case {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    objects: BTreeMap<&'static str, Vec<Value>>,
}

/// Two nodes, two neighbours of which `spine` does graceful restart; one Service on both nodes, one of policy Local on the first alone,
/// one by layer 2.
fn case() -> Case {
    let mut objects: BTreeMap<&'static str, Vec<Value>> = herald_config::Sources::new(false)
        .watched()
        .into_iter()
        .map(|kind| (kind.kind, Vec::new()))
        .collect();
    objects.insert("IPAddressPool", vec![pool("edge", "192.0.2.0/24"), pool("lan", "198.51.100.0/24")]);
    let spine = peer("spine", json!({ "enableGracefulRestart": true }));
    objects.insert("BGPPeer", vec![peer("tor", json!({})), spine]);
    objects.insert("BGPAdvertisement", vec![advertisement(json!({}))]);
    objects.insert("L2Advertisement", vec![lan(json!({}))]);
    Case {
        services: vec![
            service("web", "192.0.2.1", "Cluster"),
            service("local", "192.0.2.2", "Local"),
            service("lan", "198.51.100.1", "Cluster"),
        ],
        slices: vec![slice("web", &[1, 2]), slice("local", &[1]), slice("lan", &[1, 2])],
        nodes: vec![node(1, false), node(2, false)],
        objects,
    }
}

impl Case {
    fn world(&self) -> World {
        World::new(&Objects {
            services: &self.services,
            slices: &self.slices,
            nodes: &self.nodes,
            document: None,
            objects: Some(&self.objects),
        })
    }
}

fn options() -> SpeakerOptions {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    SpeakerOptions::new(Client::try_from(config).unwrap(), "")
}

/// With `node-1` as the owner of the address of layer 2.
fn compare(now: World, then: World) -> Forecast {
    let owners = BTreeMap::from([("198.51.100.1".parse().unwrap(), BTreeSet::from(["node-1".to_owned()]))]);
    forecast((now, then), &options(), Some(&owners))
}

/// When this is applied.
fn applied(object: &Value) -> Forecast {
    let (now, mut then) = (case().world(), case().world());
    then.apply_files(&[File { name: "new.yaml".to_owned(), text: object.to_string() }]).unwrap();
    compare(now, then)
}

/// In short: what becomes of sessions, of routes, of ways, and of owners.
fn lines(forecast: &Forecast) -> Vec<String> {
    let sessions = forecast.sessions.iter().map(|row| {
        let became = match &row.became {
            Became::Anew { because, keeps_routes } => {
                format!("anew, {}, keeps {keeps_routes}", because.join(", "))
            }
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{} on {}: {became}, {} routes", row.peer, row.nodes.join("+"), row.routes)
    });
    let routes = forecast.routes.iter().map(|row| {
        let prefixes: Vec<String> = row.prefixes.iter().map(ToString::to_string).collect();
        let turn = match &row.turn {
            Turn::Says(differences) => differences.join(", "),
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{} {turn} from {} to {}", prefixes.join(" "), row.nodes.join("+"), row.peers.join("+"))
    });
    let ways = forecast.ways.iter().map(|way| {
        format!(
            "{} by {}: {} stay, restarts {:?}, lost {:?}, gained {:?}",
            way.address, way.peer, way.stays, way.restarts, way.lost, way.gained
        )
    });
    let owners = forecast.owners.iter().map(|row| format!("{} {:?} -> {:?}", row.address, row.now, row.then));
    sessions.chain(routes).chain(ways).chain(owners).collect()
}

#[tokio::test]
async fn what_is_applied_unchanged_changes_nothing() {
    for object in
        [advertisement(json!({})), peer("tor", json!({})), lan(json!({})), pool("edge", "192.0.2.0/24")]
    {
        assert_eq!(lines(&applied(&object)), [""; 0], "{object}");
    }
    assert_eq!(applied(&lan(json!({}))).nodes, 2);
}

#[tokio::test]
async fn what_other_objects_do_to_sessions_routes_and_ways() {
    let cases: [(&str, Value, &[&str]); 9] = [
        (
            "a community more is an UPDATE on every session",
            advertisement(json!({ "communities": ["64600:7"] })),
            &[
                "192.0.2.2/32 communities none -> 64600:7 from node-1 to 10.0.0.1:179+10.0.0.2:179",
                "192.0.2.1/32 communities none -> 64600:7 from node-1+node-2 to 10.0.0.1:179+10.0.0.2:179",
            ],
        ),
        ("external neighbours are told no preference", advertisement(json!({ "localPref": 7 })), &[]),
        (
            "an aggregate in place of host routes leads to the same nodes",
            advertisement(json!({ "aggregationLength": 24 })),
            &[
                "192.0.2.2/32 goes from node-1 to 10.0.0.1:179+10.0.0.2:179",
                "192.0.2.1/32 goes from node-1+node-2 to 10.0.0.1:179+10.0.0.2:179",
                "192.0.2.0/24 comes from node-1+node-2 to 10.0.0.1:179+10.0.0.2:179",
            ],
        ),
        (
            "one neighbour alone is told",
            advertisement(json!({ "peers": ["tor"] })),
            &[
                "192.0.2.2/32 goes from node-1 to 10.0.0.2:179",
                "192.0.2.1/32 goes from node-1+node-2 to 10.0.0.2:179",
                r#"192.0.2.1 by 10.0.0.2:179: 0 stay, restarts [], lost ["node-1", "node-2"], gained []"#,
                r#"192.0.2.2 by 10.0.0.2:179: 0 stay, restarts [], lost ["node-1"], gained []"#,
            ],
        ),
        (
            "one node alone announces",
            advertisement(host(2)),
            &[
                "192.0.2.1/32 192.0.2.2/32 goes from node-1 to 10.0.0.1:179+10.0.0.2:179",
                r#"192.0.2.1 by 10.0.0.1:179: 1 stay, restarts [], lost ["node-1"], gained []"#,
                r#"192.0.2.1 by 10.0.0.2:179: 1 stay, restarts [], lost ["node-1"], gained []"#,
                r#"192.0.2.2 by 10.0.0.1:179: 0 stay, restarts [], lost ["node-1"], gained []"#,
                r#"192.0.2.2 by 10.0.0.2:179: 0 stay, restarts [], lost ["node-1"], gained []"#,
            ],
        ),
        (
            "other timers begin the session anew on all nodes",
            peer("tor", json!({ "holdTime": "9s" })),
            &[
                "10.0.0.1:179 on node-1+node-2: anew, hold time 180 s -> 9 s, keeps false, 2 routes",
                r#"192.0.2.1 by 10.0.0.1:179: 0 stay, restarts ["node-1", "node-2"], lost [], gained []"#,
                r#"192.0.2.2 by 10.0.0.1:179: 0 stay, restarts ["node-1"], lost [], gained []"#,
            ],
        ),
        (
            "with graceful restart nothing of that is seen",
            peer("spine", json!({ "enableGracefulRestart": true, "holdTime": "9s" })),
            &["10.0.0.2:179 on node-1+node-2: anew, hold time 180 s -> 9 s, keeps true, 2 routes"],
        ),
        (
            "but not where the neighbour sees another AS",
            peer("spine", json!({ "enableGracefulRestart": true, "myASN": 43, "password": "s3cr3t" })),
            &[
                "10.0.0.2:179 on node-1+node-2: anew, myASN 42 -> 43, the password, keeps false, 2 routes",
                r#"192.0.2.1 by 10.0.0.2:179: 0 stay, restarts ["node-1", "node-2"], lost [], gained []"#,
                r#"192.0.2.2 by 10.0.0.2:179: 0 stay, restarts ["node-1"], lost [], gained []"#,
            ],
        ),
        (
            "a selector ends the sessions of the others, and leaves alone those that it selects",
            peer("tor", host(1)),
            &[
                "10.0.0.1:179 on node-2: ends, 1 routes",
                r#"192.0.2.1 by 10.0.0.1:179: 1 stay, restarts [], lost ["node-2"], gained []"#,
            ],
        ),
    ];
    for (what, object, expected) in cases {
        assert_eq!(lines(&applied(&object)), expected, "{what}");
    }
}

#[tokio::test]
async fn the_first_pool_of_another_family_begins_all_sessions_anew() {
    let forecast = applied(&pool("edge", "2001:db8:1::/64"));
    let anew: Vec<&Became> = forecast.sessions.iter().map(|row| &row.became).collect();
    let because = vec!["families IPv4 -> IPv6".to_owned()];
    let of = |keeps_routes| Became::Anew { because: because.clone(), keeps_routes };
    assert_eq!(anew, [&of(false), &of(true)]);
}

#[tokio::test]
async fn an_owner_stays_owner_while_it_may_and_then_the_order_of_the_election_decides() {
    assert_eq!(lines(&applied(&lan(host(1)))), [""; 0], "the owner may still");
    let moved = applied(&lan(host(2)));
    assert_eq!(lines(&moved), [r#"198.51.100.1 Some(["node-1"]) -> Node("node-2")"#]);
    let nobodys = applied(&lan(json!({ "nodeSelectors": [{ "matchLabels": { "host": "none" } }] })));
    assert_eq!(lines(&nobodys), [r#"198.51.100.1 Some(["node-1"]) -> Nobody"#]);
    let elsewhere = applied(&lan(json!({ "interfaces": ["eth9"] })));
    assert_eq!(elsewhere.owners.len(), 1, "{elsewhere:?}");

    // An address that nobody has yet is its that ranks first; of two with a preference that one's.
    let world = |preferred: u8| {
        let mut case = case();
        case.services.push(service("new", "198.51.100.2", "Cluster"));
        case.slices.push(slice("new", &[1]));
        let preferences = json!([{ "weight": 9, "preference": { "matchLabels": { "host": format!("node-{preferred}") } } }]);
        case.objects.insert("L2Advertisement", vec![lan(json!({ "preferredNodeSelectors": preferences }))]);
        case.world()
    };
    for preferred in [1, 2] {
        let forecast = compare(case().world(), world(preferred));
        let expected = format!(r#"198.51.100.2 Some([]) -> Node("node-{preferred}")"#);
        assert_eq!(lines(&forecast), [expected]);
    }
    let unknown = forecast((case().world(), world(1)), &options(), None);
    assert_eq!(lines(&unknown), [r#"198.51.100.2 None -> Node("node-1")"#]);
}

#[tokio::test]
async fn a_node_that_is_drained_takes_its_routes_and_its_endpoints_with_it() {
    let mut then = case();
    then.nodes = vec![node(1, true), node(2, false)];
    then.slices = vec![slice("web", &[2]), slice("local", &[]), slice("lan", &[2])];
    assert_eq!(
        lines(&compare(case().world(), then.world())),
        [
            "192.0.2.1/32 192.0.2.2/32 goes from node-1 to 10.0.0.1:179+10.0.0.2:179",
            r#"192.0.2.1 by 10.0.0.1:179: 1 stay, restarts [], lost ["node-1"], gained []"#,
            r#"192.0.2.1 by 10.0.0.2:179: 1 stay, restarts [], lost ["node-1"], gained []"#,
            r#"192.0.2.2 by 10.0.0.1:179: 0 stay, restarts [], lost ["node-1"], gained []"#,
            r#"192.0.2.2 by 10.0.0.2:179: 0 stay, restarts [], lost ["node-1"], gained []"#,
            r#"198.51.100.1 Some(["node-1"]) -> Node("node-2")"#,
        ]
    );
}

#[tokio::test]
async fn files_that_cannot_be_read_are_told() {
    let file = File { name: "new.yaml".to_owned(), text: "a: [".to_owned() };
    assert_eq!(case().world().apply_files(&[file]).unwrap_err()[0].name, "new.yaml");
}

//! `herald plan`: what it says is what then happens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use herald_e2e::{Connection, Lab, PodOptions, at, await_ok, herald_program};
use serde_json::{Value, json};

use crate::objects::{install, pool};
use crate::services::{SOON, addresses_of, all, await_address, create, service};

/// Connections that are held: of so many each of two nodes has some.
const HELD: usize = 40;

/// Connections that have been answered once; which node has each is the router's choice.
fn hold(lab: &Lab, address: IpAddr) -> Result<Vec<Connection>> {
    let open = |_| -> Result<Connection> {
        let mut connection = lab.client().connect(at(&address.to_string(), 80), SOON)?;
        connection.ask()?;
        Ok(connection)
    };
    (0..HELD).map(open).collect()
}

/// How many are cut when they are used now.
fn cut(held: &mut [Connection]) -> usize {
    held.iter_mut().filter_map(|connection| connection.ask().err()).count()
}

/// What is planned for the connections to an address, in words.
fn under_way(planned: &Value, address: IpAddr) -> Vec<String> {
    let rows = planned["connections"].as_array().into_iter().flatten();
    let of = |row: &&Value| row["addresses"].as_array().is_some_and(|all| all.contains(&json!(address)));
    rows.filter(of).map(|row| row["text"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What is said of those whose packets come to another node.
fn goes_on() -> String {
    "come to other nodes: TCP that node1 has goes on through it for as long as its kernel runs, UDP may come to another endpoint".to_owned()
}

/// What it prints of files, to the administrator.
fn plan(lab: &Lab, text: &str, output: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let (program, kubeconfig) = (herald_program()?.display().to_string(), lab.kubeconfig());
    let (kubeconfig, file) = (kubeconfig.display().to_string(), file.path().display().to_string());
    lab.control_plane_ns().exec(&[&program, "plan", "--kubeconfig", &kubeconfig, "-o", output, "-f", &file])
}

/// What Services have.
fn held(lab: &Lab) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    Ok(all(lab)?
        .into_iter()
        .map(|(name, service)| (format!("default/{name}"), addresses_of(&service)))
        .collect())
}

#[test]
#[ignore = "needs a network namespace"]
fn what_is_planned_is_what_happens_when_it_is_applied() -> Result<()> {
    let lab = Lab::builder().nodes(1).control_plane().start()?;
    install(&lab)?;
    lab.apply(&pool("edge", &["192.0.2.0/30"]))?;
    let controller = lab.controller("controller", &[])?;
    for name in ["a", "b", "c", "d", "waits"] {
        create(&lab, [service(name, json!({}))])?;
        if name != "waits" {
            await_address(&lab, name)?;
        }
    }
    let before = held(&lab)?;

    // Two addresses go, and one comes for those that lose theirs and the one that waits. In one object: between two the
    // controller may act.
    let new = pool("edge", &["192.0.2.0/31", "198.51.100.7/32"]);
    let text = plan(&lab, &new, "text")?;
    println!("$ herald plan -f new.yaml\n{text}");
    let planned: Value = serde_json::from_str(&plan(&lab, &new, "json")?)?;
    ensure!(held(&lab)? == before, "a plan changes nothing");
    let mut expected = before.clone();
    for moved in planned["moved"].as_array().context("what moves")? {
        let then: Vec<IpAddr> = serde_json::from_value(moved["then"]["addresses"].clone())?;
        expected.insert(moved["service"].as_str().context("a name")?.to_owned(), then);
    }
    ensure!(expected != before && text.contains("edge") && text.contains("198.51.100.7 (edge)"), "{text}");

    lab.apply(&new)?;
    await_ok(SOON, "what was planned", || {
        let now = held(&lab)?;
        ensure!(now == expected, "planned {expected:?}, is {now:?}");
        Ok(())
    })
    .with_context(|| controller.log_tail())?;
    let again: Value = serde_json::from_str(&plan(&lab, &new, "json")?)?;
    ensure!(again["moved"] == json!([]), "{again:#}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn sessions_routes_and_connections_become_what_is_planned() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let before = crate::order::config("192.0.2.0/28");
    let (_controller, _speakers) = crate::order::herald(&lab, &before, &[])?;
    lab.kubectl(&["label", "node", "node2", "rack=b"])?;
    let _here = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let _there = lab.pod(lab.node(2), "web-2", &PodOptions::app("web"))?;
    create(&lab, [service("web", json!({}))])?;
    let web = await_address(&lab, "web")?;
    let prefix = format!("{web}/32");
    let (first, second) = (IpAddr::from(lab.node(1).ip), IpAddr::from(lab.node(2).ip));
    let peer = "peer-address: 10.0.0.1";
    let planned = |document: &str| -> Result<Value> {
        println!("$ herald plan -f new.yaml\n{}", plan(&lab, document, "text")?);
        Ok(serde_json::from_str(&plan(&lab, document, "json")?)?)
    };
    let sessions = |planned: &Value| planned["announced"]["sessions"].clone();

    // A community more is an UPDATE.
    let tagged = before.replace(
        "addresses: [192.0.2.0/28]",
        "addresses: [192.0.2.0/28], bgp-advertisements: [{communities: ['64600:7']}]",
    );
    ensure!(tagged != before);
    lab.router().await_kernel_route(&prefix, 2, SOON)?;
    let mut held = hold(&lab, web)?;
    let told = planned(&tagged)?;
    let route = json!({ "what": "says", "differences": ["communities none -> 64600:7"],
        "prefixes": [prefix], "nodes": ["node1", "node2"], "peers": ["10.0.0.1:179"] });
    ensure!(told["announced"]["routes"] == json!([route]) && sessions(&told) == json!([]), "{told:#}");
    ensure!(told["connections"] == json!([]), "{told:#}");
    lab.configure_herald(&tagged)?;
    await_ok(SOON, "the community", || {
        let routes = lab.router().birdc(&format!("show route {prefix} all"))?;
        ensure!(routes.matches("(64600,7)").count() == 2, "{routes}");
        Ok(())
    })?;
    ensure!(cut(&mut held) == 0, "no connection ends by it");

    // The neighbour is for one node alone.
    let one = before.replace(peer, &format!("{peer}, node-selectors: [{{match-labels: {{rack: b}}}}]"));
    let told = planned(&one)?;
    let ends = json!([{ "peer": "10.0.0.1:179", "what": "ends", "nodes": ["node1"], "routes": 1 }]);
    ensure!(sessions(&told) == ends, "{told:#}");
    let text = under_way(&told, web);
    ensure!(text == [goes_on()], "{text:?}");
    lab.router().await_route(&prefix, &[first, second], SOON)?;
    lab.configure_herald(&one)?;
    lab.router().await_route(&prefix, &[second], SOON)?;
    lab.router().await_kernel_route(&prefix, 1, SOON)?;
    ensure!(cut(&mut held) == 0, "all go on, also those that node1 has");

    // Other timers of it, and no graceful restart.
    let timers = one.replace(peer, &format!("{peer}, hold-time: 9s"));
    let told = planned(&timers)?;
    let became = &sessions(&told)[0];
    ensure!(became["what"] == "anew" && became["keepsRoutes"] == false, "{told:#}");
    ensure!(
        became["because"].to_string().contains("hold time") && became["nodes"] == json!(["node2"]),
        "{told:#}"
    );
    let text = under_way(&told, web);
    ensure!(
        matches!(text.as_slice(), [text] if text.starts_with("wait until a session of node2 is up again")),
        "{text:?}"
    );
    let mut held = hold(&lab, web)?;
    lab.configure_herald(&timers)?;
    await_ok(SOON, "the other hold time", || {
        let session = lab.router().birdc("show protocols all")?;
        ensure!(session.lines().any(|line| line.contains("Hold timer") && line.ends_with("/9")), "{session}");
        Ok(())
    })?;
    lab.router().await_kernel_route(&prefix, 1, SOON)?;
    ensure!(cut(&mut held) == 0, "they wait, and go on");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn services_of_a_file_become_what_is_planned() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (_controller, _speakers) = crate::order::herald(&lab, &crate::order::config("192.0.2.0/31"), &[])?;
    let _here = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    create(&lab, [service("old", json!({}))])?;
    await_address(&lab, "old")?;
    let (first, second) = (IpAddr::from(lab.node(1).ip), IpAddr::from(lab.node(2).ip));
    lab.router().await_route("192.0.2.0/32", &[first, second], SOON)?;
    let applied = |services: &[Value]| -> Result<Value> {
        let file = services.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        let before = held(&lab)?;
        println!("$ herald plan -f services.yaml\n{}", plan(&lab, &file, "text")?);
        let planned: Value = serde_json::from_str(&plan(&lab, &file, "json")?)?;
        ensure!(held(&lab)? == before, "a plan changes nothing");
        let mut expected = before;
        for moved in planned["moved"].as_array().context("what moves")? {
            let then: Vec<IpAddr> = serde_json::from_value(moved["then"]["addresses"].clone())?;
            expected.insert(moved["service"].as_str().context("a name")?.to_owned(), then);
        }
        lab.kubectl_with_input(&["apply", "-f", "-"], &file)?;
        await_ok(SOON, "what was planned", || {
            let now = held(&lab)?;
            ensure!(now == expected, "planned {expected:?}, is {now:?}");
            Ok(())
        })?;
        Ok(planned)
    };
    let then = |planned: &Value| -> Vec<Value> {
        let moved = planned["moved"].as_array().into_iter().flatten();
        moved.map(|moved| json!([moved["service"], moved["then"]["addresses"]])).collect()
    };

    // One address is left for two that are new, of which the first is for the node with the pod alone.
    let new = service("new", json!({ "spec": { "externalTrafficPolicy": "Local" } }));
    let late = service("late", json!({}));
    let planned = applied(std::slice::from_ref(&new))?;
    ensure!(then(&planned) == [json!(["default/new", ["192.0.2.1"]])], "{planned:#}");
    let comes = |nodes: &[&str]| json!([{ "what": "comes", "prefixes": ["192.0.2.1/32"], "nodes": nodes, "peers": ["10.0.0.1:179"] }]);
    ensure!(planned["announced"]["routes"] == comes(&["node1"]), "{planned:#}");
    lab.router().await_route("192.0.2.1/32", &[first], SOON)?;
    let planned = applied(&[new, late])?;
    ensure!(then(&planned) == [json!(["default/late", []])], "{planned:#}");
    let why = planned["moved"][0]["then"]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("no IPv4 address is free in default"), "{planned:#}");

    // What the file says no more is taken away: without its type it is none of a load balancer, and who waits has the address.
    let mut none = service("new", json!({}));
    none["spec"].as_object_mut().context("a spec")?.remove("type");
    let planned = applied(&[none])?;
    let moves = [json!(["default/late", ["192.0.2.1"]]), json!(["default/new", []])];
    ensure!(then(&planned) == moves, "{planned:#}");
    ensure!(planned["announced"]["routes"] == comes(&["node2"]), "{planned:#}");
    lab.router().await_route("192.0.2.1/32", &[first, second], SOON)?;

    // What the API server would refuse is told in its words.
    let wrong = service("wrong", json!({ "spec": { "ports": [{ "port": 0 }] } })).to_string();
    let refused = plan(&lab, &wrong, "text").err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("exit status: 1") && refused.contains("spec.ports[0].port"), "{refused}");
    Ok(())
}

#[test]
#[ignore = "needs a network namespace"]
fn what_a_drain_is_said_to_take_away_is_what_it_takes_away() -> Result<()> {
    let lab = Lab::builder().nodes(2).control_plane().bird().start()?;
    let (_controller, _speakers) = crate::order::herald(&lab, &crate::order::config("192.0.2.0/28"), &[])?;
    let _here = lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
    let _there = lab.pod(lab.node(2), "web-2", &PodOptions::app("web"))?;
    let _alone = lab.pod(lab.node(1), "alone-1", &PodOptions::app("alone"))?;
    let local = json!({ "spec": { "externalTrafficPolicy": "Local", "selector": { "app": "alone" } } });
    create(&lab, [service("web", json!({})), service("alone", local)])?;
    let addresses = [await_address(&lab, "web")?, await_address(&lab, "alone")?];
    let [web, alone] = addresses.map(|ip| format!("{ip}/32"));
    let (first, second) = (IpAddr::from(lab.node(1).ip), IpAddr::from(lab.node(2).ip));
    lab.router().await_route(&web, &[first, second], SOON)?;
    lab.router().await_route(&alone, &[first], SOON)?;

    let (program, kubeconfig) = (herald_program()?, lab.kubeconfig());
    let drain = |output: &str| {
        lab.control_plane_ns().run(|| {
            Command::new(&program)
                .args(["plan", "drain", "node1", "-o", output, "--kubeconfig"])
                .arg(&kubeconfig)
                .output()
        })
    };
    let text = drain("text")??;
    println!("$ herald plan drain node1\n{}", String::from_utf8_lossy(&text.stdout));
    ensure!(text.status.code() == Some(1), "something would not be reached: {text:?}");
    let planned: Value = serde_json::from_slice(&drain("json")??.stdout)?;
    let then = |service: &str| -> Vec<String> {
        let rows = planned["addresses"].as_array().into_iter().flatten();
        let row = rows.filter(|row| row["service"] == service);
        row.flat_map(|row| serde_json::from_value::<Vec<String>>(row["then"].clone()).unwrap_or_default())
            .collect()
    };
    ensure!(then("default/web") == ["node2"] && then("default/alone").is_empty(), "{planned:#}");
    let mut both = [&web, &alone];
    both.sort();
    let route = json!({ "what": "goes", "prefixes": both, "nodes": ["node1"], "peers": ["10.0.0.1:179"] });
    ensure!(planned["announced"]["routes"] == json!([route]), "{planned:#}");
    let [of_web, of_alone] = addresses.map(|address| under_way(&planned, address));
    ensure!(of_web == [goes_on()], "{of_web:?}");
    ensure!(of_alone == ["all end: no node tells it the address any more"], "{of_alone:?}");
    lab.router().await_kernel_route(&web, 2, SOON)?;
    let (mut held, mut to_alone) = (hold(&lab, addresses[0])?, vec![hold(&lab, addresses[1])?.remove(0)]);

    lab.kubectl(&["label", "node", "node1", "node.kubernetes.io/exclude-from-external-load-balancers="])?;
    lab.router().await_route(&web, &[second], SOON)?;
    lab.router().await_route(&alone, &[], SOON)?;
    lab.router().await_kernel_route(&web, 1, SOON)?;
    ensure!(cut(&mut held) == 0, "all go on, also those that node1 has");
    ensure!(cut(&mut to_alone) == to_alone.len(), "nobody is reached any more");
    Ok(())
}

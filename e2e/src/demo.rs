//! `make demo`: the walk of MetalLB 0.2.1's tutorial on a lab that stays, step by step, with what a user would see.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::await_until::await_ok;
use crate::lab::{Lab, lab_program};
use crate::process::Process;
use crate::registry;

/// The demo's lab. There is one at most.
pub const LAB: &str = "demo";

/// The ConfigMap of the tutorial, as its users have it.
const CONFIG: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {namespace: metallb-system, name: config}
data:
  config: |
    peers:
    - {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
    address-pools:
    - name: default
      cidr: [192.168.10.0/24]
      advertisements:
      - {aggregation-length: 32}
";
const ADDRESS: &str = "192.168.10.0";
const PREFIX: &str = "192.168.10.0/32";
/// For whatever Herald has to do; it takes milliseconds where all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// Progress: each step is announced when it begins and closed with the seconds it took.
struct Steps {
    begin: Instant,
}

impl Steps {
    fn run<T>(&self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        use std::io::Write;
        print!("{:6.1} s  {what} … ", self.begin.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush();
        let begin = Instant::now();
        let outcome = step();
        match &outcome {
            Ok(_) => println!("done in {:.1} s", begin.elapsed().as_secs_f64()),
            Err(_) => println!("FAILED after {:.1} s", begin.elapsed().as_secs_f64()),
        }
        outcome
    }
}

/// Lays out the lab: topology, control plane, BIRD, the loop that plays the kubelets.
pub fn up() -> Result<Lab> {
    lay_out(&Steps { begin: Instant::now() })
}

/// Takes the lab down.
pub fn down() -> Result<()> {
    registry::sweep();
    if registry::remove(LAB)? {
        println!("The lab is gone: no namespace, process or file of it is left.");
    } else {
        println!("There is no lab to take down.");
    }
    Ok(())
}

/// The whole demo. When a step fails, the lab stays for a look, and the end of Herald's logs is shown.
pub fn run() -> Result<()> {
    let steps = Steps { begin: Instant::now() };
    let lab = lay_out(&steps)?;
    walk(&steps, &lab).inspect_err(|_| {
        for log in ["controller", "speaker-node1"] {
            let path = lab.directory().join("log").join(format!("{log}.log"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!(
                "\nThe end of {}:\n{}",
                path.display(),
                lines[lines.len().saturating_sub(15)..].join("\n")
            );
        }
        eprintln!("\nThe lab is still up; make demo-down ends it.");
    })?;
    farewell(&steps)
}

fn lay_out(steps: &Steps) -> Result<Lab> {
    registry::sweep();
    if registry::labs().iter().any(|name| name == LAB) {
        steps.run("taking down the lab of the last time", || registry::remove(LAB))?;
    }
    let builder = Lab::builder().nodes(3).control_plane().bird();
    let lab =
        steps.run("a lab: three nodes, BIRD, a client, Kubernetes 1.36", || builder.start_detached(LAB))?;
    steps.run("the loop that starts and ends pods", || {
        let mut command = Command::new(lab_program()?);
        command.args(["kubelet", "--lab", LAB]);
        // Outside the lab's namespaces, like a kubelet's host; detached, like everything of this lab.
        lab.start_process_outside("kubelet", command)
    })?;
    Ok(lab)
}

fn walk(steps: &Steps, lab: &Lab) -> Result<()> {
    let processes: Vec<Process> = steps.run("herald controller, and herald speaker on every node", || {
        let mut processes = vec![lab.controller("controller", &[])?];
        processes.extend(lab.speakers(&[])?);
        Ok(processes)
    })?;
    println!("\n$ kubectl apply -f -\n{}", indent(CONFIG));
    steps.run("the ConfigMap of the tutorial, unchanged", || {
        lab.kubectl_with_input(&["apply", "-f", "-"], CONFIG)
    })?;
    steps.run("kubectl create deployment nginx --image nginx --replicas 3", || {
        lab.kubectl(&["create", "deployment", "nginx", "--image", "nginx", "--replicas", "3"])?;
        let wait = ["wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/nginx", "--timeout=20s"];
        lab.kubectl(&wait)
    })?;
    steps.run("kubectl expose deployment nginx --type LoadBalancer --port 80", || {
        lab.kubectl(&["expose", "deployment", "nginx", "--type", "LoadBalancer", "--port", "80"])
    })?;
    steps.run("an address for the Service", || {
        await_ok(PATIENCE, &format!("EXTERNAL-IP {ADDRESS}"), || {
            let jsonpath = "jsonpath={.status.loadBalancer.ingress[0].ip}";
            let found = lab.kubectl(&["get", "service", "nginx", "-o", jsonpath])?;
            if found != ADDRESS {
                let ended = processes.iter().find(|process| !process.is_running()).map(Process::name);
                bail!(
                    "it has “{found}”{}",
                    ended.map(|name| format!("; {name} has ended")).unwrap_or_default()
                );
            }
            Ok(())
        })
    })?;
    steps.run("its route in BIRD, by every node", || {
        let nodes: Vec<_> = lab.nodes().iter().map(|node| node.ip.into()).collect();
        lab.router().await_route(PREFIX, &nodes, PATIENCE)?;
        lab.router().await_kernel_route(PREFIX, nodes.len(), PATIENCE)
    })?;
    let url = format!("http://{ADDRESS}");
    let answers = |ns: &crate::Namespace| await_ok(PATIENCE, &format!("curl {url}"), || ns.curl(&url));
    let client = steps.run("the client behind BIRD asks", || answers(lab.client()))?;
    let node = steps.run("a node asks", || answers(&lab.node(2).ns))?;

    let services = lab.kubectl(&["get", "service", "nginx"])?;
    println!("\n$ kubectl get service nginx\n{}", indent(&services));
    println!("router$ birdc show route\n{}", indent(&lab.router().birdc("show route")?));
    println!("client$ curl {url}\n{}", indent(&client));
    println!("node2$ curl {url}\n{}", indent(&node));
    Ok(())
}

fn farewell(steps: &Steps) -> Result<()> {
    let lab = lab_program()?;
    let lab = relative(&lab);
    println!(
        "Everything is up after {:.1} s, and stays. Six commands to try:",
        steps.begin.elapsed().as_secs_f64()
    );
    let commands = [
        ("exec client curl -s http://192.168.10.0", "again and again: another pod answers"),
        ("exec cp kubectl scale deployment nginx --replicas 5", "more pods, the same address"),
        ("exec router birdc show route", "who serves the address"),
        ("exec node1 nft list map ip herald services", "what the kernel of a node does with the address"),
        (
            "exec cp herald status",
            "whether all is well, and what is wrong first; break something, and ask again",
        ),
        ("exec cp kubectl delete service nginx", "and the route is gone"),
    ];
    for (command, what) in commands {
        println!("  {lab} {command}\n      # {what}");
    }
    println!("To end it: make demo-down");
    Ok(())
}

/// As one would type it here.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let shorter = here.and_then(|here| path.strip_prefix(here).ok().map(|path| path.display().to_string()));
    shorter.unwrap_or_else(|| path.display().to_string())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

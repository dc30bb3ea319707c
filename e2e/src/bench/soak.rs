//! `make soak`: hours in minutes. Services, endpoints, sessions and owners come and go while connections are made by every way
//! that leads to a Service, and what the processes take is looked at all the time.
//!
//! None of what is done may fail a connection: all of it is planned work, or concerns others. The speakers of nodes 1 and 2 and the controller live
//! from the beginning to the end; only node 3's speaker is replaced.

mod page;
mod trend;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::trend::{Kind, Sample, Series};
use crate::await_until::await_ok;
use crate::bench::proxy::system::Usage;
use crate::bench::proxy::table::Table;
use crate::client::HttpOptions;
use crate::herald::program;
use crate::lab::{Lab, at};
use crate::pod::{Pod, PodOptions};
use crate::poller::{PollOptions, PollReport, Poller};
use crate::process::Process;
use crate::topology::Node;

/// For each of three clients.
const LOAD: PollOptions =
    PollOptions { interval: Duration::from_millis(20), timeout: Duration::from_secs(2) };
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_secs(2);
/// Services that come and go together.
const FLOCK: usize = 25;

type Step<'a> = fn(&mut Soak<'a>) -> Result<()>;

struct Soak<'a> {
    lab: &'a Lab,
    controller: Process,
    speakers: Vec<Process>,
    lan: String,
    round: usize,
    samples: Vec<Sample>,
    begin: Instant,
    done: Vec<(f64, &'static str)>,
}

/// Runs for so long, and writes the page.
pub fn run(lab: &Lab, length: Duration, table: &mut Table, page: &Path) -> Result<()> {
    configure(lab)?;
    let controller = lab.controller("controller", &[])?;
    let speakers = lab.speakers(&[])?;
    let pods =
        lab.nodes().iter().map(|node| lab.pod(node, &format!("web-{}", node.index), &PodOptions::app("web")));
    let _pods = pods.collect::<Result<Vec<Pod<'_>>>>()?;
    lab.apply(&service("routed", "routed", "web"))?;
    lab.apply(&service("lan", "lan", "web"))?;
    let (routed, lan) = (address(lab, "routed")?, address(lab, "lan")?);
    let cluster_ip = lab.kubectl(&["get", "service", "routed", "-o", "jsonpath={.spec.clusterIP}"])?;
    lab.router().await_kernel_route(&format!("{routed}/32"), 3, SOON)?;
    let ways = [
        ("BGP", lab.client(), at(&routed, 80)),
        ("layer 2", &lab.router().ns, at(&lan, 80)),
        ("ClusterIP", &lab.node(2).ns, at(&cluster_ip, 80)),
    ];
    let mut pollers = Vec::new();
    for (way, from, to) in ways {
        let poller = Poller::start(from, to, LOAD)?;
        poller.await_answers(20, SOON).with_context(|| way.to_owned())?;
        pollers.push((way, poller));
    }
    let begin = Instant::now();
    let mut soak =
        Soak { lab, controller, speakers, lan, round: 0, samples: Vec::new(), begin, done: Vec::new() };
    let steps: [(&'static str, Step<'_>); 6] = [
        ("services", Soak::services),
        ("endpoints", Soak::endpoints),
        ("owner", Soak::owner),
        ("session", Soak::session),
        ("speaker", Soak::speaker),
        ("quiet", Soak::quiet),
    ];
    while begin.elapsed() < length {
        for (name, step) in steps {
            soak.done.push((begin.elapsed().as_secs_f64(), name));
            step(&mut soak).with_context(|| format!("round {}, {name}", soak.round))?;
        }
        soak.round += 1;
        eprintln!("    round {} after {:.0} s", soak.round, begin.elapsed().as_secs_f64());
    }
    let reports =
        pollers.into_iter().map(|(way, poller)| Ok((way, poller.stop()?))).collect::<Result<Vec<_>>>()?;
    soak.judge(&reports, table);
    std::fs::write(page, page::page(&soak.samples, &soak.done, &reports, begin))
        .with_context(|| page.display().to_string())
}

fn configure(lab: &Lab) -> Result<()> {
    let definitions = std::process::Command::new(program()?).arg("crds").output()?;
    let definitions = String::from_utf8(definitions.stdout)?;
    lab.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &definitions)?;
    lab.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"])?;
    for text in [
        object("IPAddressPool", "v1beta1", "routed", &json!({ "addresses": ["192.0.2.0/25"] })),
        object("IPAddressPool", "v1beta1", "lan", &json!({ "addresses": ["10.0.0.200-10.0.0.239"] })),
        object("BGPAdvertisement", "v1beta1", "routed", &json!({ "ipAddressPools": ["routed"] })),
        advertisement(&json!({ "ipAddressPools": ["lan"] })),
        object("BGPPeer", "v1beta2", "router", &peer("10.0.0.1")),
    ] {
        lab.apply(&text)?;
    }
    Ok(())
}

fn object(kind: &str, version: &str, name: &str, spec: &Value) -> String {
    json!({ "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": name, "namespace": crate::NAMESPACE }, "spec": spec })
    .to_string()
}

fn peer(address: &str) -> Value {
    json!({ "myASN": 42, "peerASN": 100, "peerAddress": address, "enableGracefulRestart": true })
}

fn advertisement(spec: &Value) -> String {
    object("L2Advertisement", "v1beta1", "lan", spec)
}

fn service(name: &str, pool: &str, app: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "labels": { "flock": app }, "annotations": { "metallb.io/address-pool": pool } },
        "spec": { "type": "LoadBalancer", "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": 8080 }] } })
    .to_string()
}

fn address(lab: &Lab, name: &str) -> Result<String> {
    await_ok(SOON, &format!("an address for {name}"), || {
        let text =
            lab.kubectl(&["get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"])?;
        ensure!(!text.is_empty(), "none yet");
        Ok(text)
    })
}

/// Who owns the address of the Service `lan`, by what a node's speaker says.
fn layer2(node: &Node) -> Result<String> {
    let path = HttpOptions::default().path("/explain/service/default/lan");
    let answer: Value = serde_json::from_str(&node.ns.http(at("127.0.0.1", 7472), &path)?.body)?;
    let owner = answer["announcements"][0]["layer2"][0]["owner"].as_str();
    Ok(owner.with_context(|| format!("{} knows of no owner", node.name))?.to_owned())
}

impl Soak<'_> {
    /// A flock of Services comes, is given addresses and routes, and goes.
    fn services(&mut self) -> Result<()> {
        let mut all = String::new();
        for n in 0..FLOCK {
            let _ = writeln!(all, "---\n{}", service(&format!("flock-{n}"), "routed", "flock"));
        }
        self.lab.apply(&all)?;
        address(self.lab, &format!("flock-{}", FLOCK - 1))?;
        self.look()?;
        self.lab.kubectl(&["delete", "service", "-l", "flock=flock", "--wait=true"])?;
        self.look()
    }

    /// A pod more serves, then it goes as pods go: not ready, terminating, gone.
    fn endpoints(&mut self) -> Result<()> {
        let node = self.lab.node(1 + (self.round % 3) as u8);
        let pod = self.lab.pod(node, &format!("guest-{}", self.round), &PodOptions::app("web"))?;
        self.look()?;
        pod.start_terminating()?;
        // As long as a kubelet gives it.
        self.hold(LOOK)?;
        pod.delete()
    }

    /// The advertisement leaves the owner out, so another node takes the address, and takes it in again.
    fn owner(&mut self) -> Result<()> {
        let owner = layer2(self.lab.node(1))?;
        let but = json!([{ "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "NotIn", "values": [owner] },
        ] }]);
        self.lab.apply(&advertisement(&json!({ "ipAddressPools": ["lan"], "nodeSelectors": but })))?;
        let other = self.lab.nodes().iter().find(|node| node.name != owner).context("another node")?;
        await_ok(SOON, "another owner", || {
            let now = layer2(other)?;
            ensure!(now != owner, "{owner} still");
            Ok(())
        })?;
        self.hold(LOOK)?;
        self.lab.apply(&advertisement(&json!({ "ipAddressPools": ["lan"] })))?;
        self.look()
    }

    /// A peer is configured that nobody is, and goes again.
    fn session(&mut self) -> Result<()> {
        self.lab.apply(&object("BGPPeer", "v1beta2", "nobody", &peer("10.0.0.99")))?;
        self.hold(LOOK)?;
        self.lab.kubectl(&["-n", crate::NAMESPACE, "delete", "bgppeer", "nobody"])?;
        self.look()
    }

    /// Node 3's speaker is replaced.
    fn speaker(&mut self) -> Result<()> {
        let node = self.lab.node(3);
        let speaker = self.speakers.last_mut().context("a speaker")?;
        ensure!(speaker.terminate(SOON)?.success(), "{}", speaker.log_tail());
        *speaker = self.lab.speaker(node, &[])?;
        await_ok(SOON, "the speaker to be ready", || {
            let answer = node.ns.http(at("127.0.0.1", 7472), &HttpOptions::default().path("/readyz"))?;
            ensure!(answer.status == 200, "it says {}", answer.body);
            layer2(node).map(drop)
        })?;
        self.lab.router().await_session(&node.name, SOON)?;
        self.look()
    }

    /// Nothing.
    fn quiet(&mut self) -> Result<()> {
        self.hold(2 * LOOK)
    }

    /// Goes on for a while, and looks.
    fn hold(&mut self, long: Duration) -> Result<()> {
        crate::await_until::pause(long);
        self.look()
    }

    fn look(&mut self) -> Result<()> {
        let at = self.begin.elapsed().as_secs_f64();
        let processes = [
            ("controller", &self.controller),
            ("speaker-1", &self.speakers[0]),
            ("speaker-2", &self.speakers[1]),
        ];
        for (of, process) in processes {
            let resident = Usage::of(process)?.resident;
            let pid = process.pid();
            let count =
                |directory: &str| std::fs::read_dir(format!("/proc/{pid}/{directory}")).map(Iterator::count);
            for (kind, value) in [
                (Kind::Resident, resident as f64 / 1_048_576.0),
                (Kind::Descriptors, count("fd")? as f64),
                (Kind::Threads, count("task")? as f64),
            ] {
                self.samples.push(Sample { at, of, kind, value });
            }
        }
        Ok(())
    }

    fn judge(&self, reports: &[(&'static str, PollReport)], table: &mut Table) {
        let mut row = table.row("soak", None);
        row.put("herald", "rounds", self.round as f64, "");
        for (way, report) in reports {
            row.put("herald", &format!("connections by {way}"), report.attempts as f64, "");
            row.bar(&format!("of them failed, by {way}"), report.failures.len() as f64, "", 0.0);
            if !report.failures.is_empty() {
                eprintln!("    by {way} to {}: {}", self.lan, report.explain());
            }
        }
        for series in Series::all(&self.samples) {
            let trend = series.trend();
            let what = format!("{} of {}", series.kind.word(), series.of);
            row.put("herald", &format!("{what}, at the end"), trend.last, series.kind.unit());
            row.bar(
                &format!("{what}: growth beyond noise, second half"),
                trend.growth,
                series.kind.unit(),
                0.0,
            );
        }
    }
}

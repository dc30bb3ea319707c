//! A speaker that starts while the API server is away goes on with what it was told last.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use herald_e2e::{ClientError, HttpOptions, Lab, PodOptions, Process, RouterOptions, at, await_ok};
use serde_json::json;

use crate::objects::{bird_password, install, object, peer_with_password, pool};
use crate::services::{SOON, await_address, create, log_after, service};

const RESUMED: &str = "going on with the snapshot";
const REPLACED: &str = "own lists have taken the place of the snapshot";
const AWAY: &str = "the API server cannot be reached";

/// A node that alone announces `web` by BGP, with a password out of a Secret, and `lan` by layer 2.
struct Node {
    speaker: Process,
    _controller: Process,
    web: IpAddr,
    lan: IpAddr,
    cluster_ip: IpAddr,
    lab: Lab,
}

impl Node {
    fn start() -> Result<Self> {
        let lab = Lab::builder().nodes(1).control_plane().bird().start()?;
        install(&lab)?;
        lab.router().configure(&RouterOptions::t4(lab.nodes()).every_peer(&bird_password()))?;
        let [secret, peer] = peer_with_password();
        for object in
            [secret, peer, pool("default", &["192.0.2.0/28"]), pool("lan", &["10.0.0.200-10.0.0.209"])]
        {
            lab.apply(&object)?;
        }
        for (kind, pool) in [("BGPAdvertisement", "default"), ("L2Advertisement", "lan")] {
            lab.apply(&object(kind, "v1beta1", pool, &json!({ "ipAddressPools": [pool] })))?;
        }
        let controller = lab.controller("controller", &[])?;
        let speaker = lab.speaker(lab.node(1), &[])?;
        lab.pod(lab.node(1), "web-1", &PodOptions::app("web"))?;
        let from = |pool: &str| json!({ "metadata": { "annotations": { "metallb.io/address-pool": pool } } });
        create(&lab, [service("web", from("default")), service("lan", from("lan"))])?;
        let (web, lan) = (await_address(&lab, "web")?, await_address(&lab, "lan")?);
        let cluster_ip =
            lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?.parse()?;
        let node = Self { speaker, _controller: controller, web, lan, cluster_ip, lab };
        node.serves()?;
        Ok(node)
    }

    fn route(&self) -> String {
        format!("{}/32", self.web)
    }

    fn lan_answers(&self) -> Result<(), ClientError> {
        self.lab.router().ns.get(at(&self.lan.to_string(), 80)).map(drop)
    }

    /// Both addresses and the ClusterIP answer, and BIRD has the route.
    fn serves(&self) -> Result<()> {
        let (lab, node) = (&self.lab, self.lab.node(1));
        let served = || {
            lab.router().await_route(&self.route(), &[node.ip.into()], SOON)?;
            await_ok(SOON, "an answer by BGP", || lab.client().get(at(&self.web.to_string(), 80)))?;
            await_ok(SOON, "an answer by layer 2", || self.lan_answers())?;
            await_ok(SOON, "an answer of the ClusterIP", || node.ns.get(at(&self.cluster_ip.to_string(), 80)))
        };
        served().map(drop).with_context(|| self.speaker.log_tail())
    }

    /// SIGKILL, and nothing of it is left: no route, no owner, no rule.
    fn dies(&self) -> Result<()> {
        self.speaker.kill();
        let ns = &self.lab.node(1).ns;
        for family in ["ip", "ip6"] {
            ns.exec(&["nft", "delete", "table", family, "herald"])?;
        }
        self.lab.router().await_route(&self.route(), &[], SOON)?;
        self.lab.router().ns.ip(&["neigh flush dev lan"])?;
        ensure!(self.lan_answers().is_err(), "somebody else has {}", self.lan);
        Ok(())
    }

    /// A speaker again. Returns how much of the log is its predecessors'.
    fn starts(&mut self) -> Result<usize> {
        let seen = self.speaker.log().len();
        self.speaker = self.lab.speaker(self.lab.node(1), &[])?;
        Ok(seen)
    }

    /// Waits for a line of the speaker that runs now.
    fn says(&self, text: &str, seen: usize) -> Result<()> {
        await_ok(SOON, text, || {
            let log = log_after(&self.speaker, seen);
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
    }

    fn file(&self) -> PathBuf {
        self.lab.state_directory(self.lab.node(1)).join("speaker.snapshot")
    }

    /// Waits until the snapshot has these addresses, or has them no more.
    fn kept(&self, addresses: &[IpAddr], there: bool) -> Result<()> {
        await_ok(SOON, &format!("a snapshot with {addresses:?}: {there}"), || {
            let octets = fs::read(self.file())?;
            for address in addresses {
                let IpAddr::V4(v4) = address else { bail!("{address} is not of IPv4") };
                let found = octets.windows(4).any(|window| window == v4.octets());
                ensure!(found == there, "{address}: {found}");
            }
            Ok(())
        })
    }

    fn in_force(&self, value: u8) -> Result<()> {
        let line = format!("herald_snapshot_in_force {value}");
        await_ok(SOON, &line, || {
            let metrics = HttpOptions::default().path("/metrics");
            let answer = self.lab.node(1).ns.http(at("127.0.0.1", 7472), &metrics)?;
            ensure!(answer.body.lines().any(|found| found == line), "{}", answer.body);
            Ok(())
        })
    }
}

#[test]
#[ignore = "needs a network namespace"]
fn a_speaker_that_starts_without_the_api_server_serves_and_announces_what_it_did_until_the_api_says_otherwise()
-> Result<()> {
    let mut node = Node::start()?;
    node.kept(&[node.web, node.lan], true)?;
    node.lab.stop_api()?;
    node.dies()?;
    let begin = Instant::now();
    let seen = node.starts()?;
    node.serves()?;
    eprintln!("without the API server all was served {:?} after the start", begin.elapsed());
    node.says(RESUMED, seen)?;
    node.in_force(1)?;

    // Deleted while no speaker runs: the snapshot still has it, and the first list takes it back.
    node.dies()?;
    node.lab.start_api()?;
    node.lab.delete("v1/Service", "default", "web")?;
    await_ok(SOON, "the Service to be gone", || {
        let names = node.lab.kubectl(&["get", "services", "-o", "name"])?;
        ensure!(!names.contains("service/web"), "{names}");
        Ok(())
    })?;
    node.lab.stop_api()?;
    let seen = node.starts()?;
    node.serves()?;
    node.lab.start_api()?;
    node.lab.router().await_route(&node.route(), &[], SOON)?;
    node.says(REPLACED, seen)?;
    node.in_force(0)?;
    await_ok(SOON, "an answer by layer 2", || node.lan_answers())?;
    node.kept(&[node.web], false)?;

    // With an API server nothing of it is used.
    node.dies()?;
    let seen = node.starts()?;
    await_ok(SOON, "an answer by layer 2", || node.lan_answers())?;
    crate::order::ready(node.lab.node(1))?;
    let log = log_after(&node.speaker, seen);
    ensure!(!log.contains(AWAY) && !log.contains(REPLACED), "{log}");

    // A damaged one is told, and nothing is announced of it.
    node.lab.stop_api()?;
    node.dies()?;
    let mut octets = fs::read(node.file())?;
    let middle = octets.len() / 2;
    *octets.get_mut(middle).context("an empty snapshot")? ^= 1;
    fs::write(node.file(), octets)?;
    let seen = node.starts()?;
    node.says("it is damaged", seen)?;
    ensure!(node.lan_answers().is_err(), "{}", node.speaker.log_tail());
    node.lab.start_api()?;
    await_ok(SOON, "an answer by layer 2", || node.lan_answers())?;
    Ok(())
}
